"""What looks like a result is one."""
import ast
from pathlib import Path

import neural_introspection

ROOT = Path(neural_introspection.__file__).parent


def look_alikes(text):
    "Names of the dataclasses with `to_frame`, `summary` or HTML of their own that do not inherit from `Result`."
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ClassDef): continue
        if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list): continue
        methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        alike = methods & {"to_frame", "summary", "_repr_html_"}
        if alike and "Result" not in map(ast.unparse, node.bases): yield node.name


def test_a_dataclass_with_a_table_or_a_sentence_is_a_result():
    assert {name for path in ROOT.rglob("*.py") for name in look_alikes(path.read_text(encoding="utf-8"))} == set()


def test_no_result_writes_its_own_table():
    "HTML tables come from `html_table` alone."
    found = [path.name for path in ROOT.rglob("*.py") if ".to_html(" in path.read_text(encoding="utf-8")]
    assert found == ["results.py"]


def test_a_planted_look_alike_is_seen():
    one = "class {}:\n    def {}(self): 1\n"
    parts = ["@dataclass(frozen=True)", one.format("A", "summary"), "@dataclass", one.format("B(Result)", "summary")]
    source = "\n".join([*parts, one.format("C", "to_frame")])
    assert list(look_alikes(source)) == ["A"]

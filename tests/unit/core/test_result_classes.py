"""What looks like a result is one."""
import ast
from pathlib import Path

import neural_introspection

ROOT = Path(neural_introspection.__file__).parent


def look_alikes(text):
    "Names of the dataclasses with `to_frame`, `summary` or HTML of their own that do not inherit from `Result`."
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ClassDef) or not any("dataclass" in ast.unparse(d) for d in node.decorator_list): continue
        methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        alike = methods & {"to_frame", "summary", "_repr_html_"}
        if alike and "Result" not in map(ast.unparse, node.bases): yield node.name


def test_a_dataclass_with_a_table_or_a_sentence_is_a_result():
    found = {f"{path.parent.name}.{path.stem}.{name}" for path in ROOT.rglob("*.py") for name in look_alikes(path.read_text(encoding="utf-8"))}
    assert found == set()


def test_no_result_writes_its_own_table():
    "HTML tables come from `html_table` alone."
    assert [path.name for path in ROOT.rglob("*.py") if ".to_html(" in path.read_text(encoding="utf-8")] == ["results.py"]


def test_a_planted_look_alike_is_seen():
    source = "@dataclass(frozen=True)\nclass A:\n    def summary(self): 1\n@dataclass\nclass B(Result):\n    def summary(self): 1\nclass C:\n    def to_frame(self): 1\n"
    assert list(look_alikes(source)) == ["A"]

"""No fault comes beside those that .ci/ratchet.json lists, and none is listed that is gone. Each check sees a planted one."""
import ast
import json
import re

import pytest
import ratchet
from modules import exported_module, imports, module_files, notebook_files, parse
from quick import touched

PACKAGE = "neural_introspection"
NAMES = ("public_twice", "undocumented", "private_imports")


@pytest.fixture
def plant(tmp_path):
    "Write files of a small repository: paths and texts; a notebook's text is one cell."
    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path = path.with_suffix(".ipynb" if name.startswith("nbs") else ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            cells = [dict(cell_type="code", source=text.splitlines(keepends=True))]
            path.write_text(json.dumps(dict(cells=cells)) if name.startswith("nbs") else text)
        return tmp_path
    return lambda **files: write(**{name.replace("package", PACKAGE): text for name, text in files.items()})


@pytest.mark.parametrize("name", ["long_lines", *NAMES])
def test_no_new_fault_and_no_stale_exception(name):
    assert ratchet.check(name) == []


def test_a_name_that_two_modules_define_is_seen(plant):
    root = plant(package__a__x="__all__ = ['one', 'two', 'three']\ndef one(): 1\ntwo = 2\ndef three(): 3\n",
                 package__b__y="__all__ = ['one', 'two']\nclass one: 1\ntwo: int = 3\n",
                 package__c__z="__all__ = ['three']\nfrom ..a.x import three\n")
    assert ratchet.public_twice(root) == {"one": 2, "two": 2}   # z passes three on


def test_a_public_name_that_is_not_described_is_seen(plant):
    root = plant(package__x="__all__ = ['a', 'b', 'c', 'd']\ndef a(): 'Text.'\ndef b() -> int: 1\nclass c: 1\n"
                            "def d() -> int: 'Text.'\ndef _e(): 1\n")
    assert ratchet.undocumented(root) == {"a": 1, "b": 1, "c": 1}


def test_an_underscore_name_across_folders_is_seen(plant):
    root = plant(package__a__x="_one = 1\n", package__a__w="from .x import _one\n",
                 package__b__y="from ..a.x import _one\nfrom ..a import x\nx._two, x.__doc__\n",
                 nbs__b__00_y=f"%time 1\nfrom {PACKAGE}.a.x import _one as here\nimport {PACKAGE}.a.x as z\nz._two\n",
                 nbs__a__00_x=f"from {PACKAGE}.a.x import _one\n")
    expected = {f"{path}: {name}": 1 for path in (f"{PACKAGE}/b/y.py", "nbs/b/00_y.ipynb") for name in ("_one", "_two")}
    assert ratchet.private_imports(root) == expected


def test_numbers_may_only_become_smaller():
    one = dict(a=1)
    assert ratchet.complaints("n", dict(a=2), one)
    assert ratchet.complaints("n", {}, one)
    assert not ratchet.complaints("n", one, one)
    assert ratchet.lowered("undocumented", one, dict(a=2, b=1)) == one
    assert ratchet.lowered("long_lines", dict(c=3), dict(a=2, b=1)) == dict(c=3)   # moved
    for name, found in (("undocumented", dict(c=1)), ("long_lines", dict(c=4))):
        with pytest.raises(SystemExit, match="would grow"): ratchet.lowered(name, found, dict(a=2, b=1))


def test_the_notebooks_that_a_change_touches(plant):
    root = plant(package__a__x="", package__b__y="from ..a.x import one\n", package__b__z="from . import y\n",
                 nbs__a__00_x="#| default_exp a.x\n", nbs__b__01_y="#| default_exp b.y\n",
                 nbs__b__02_z="#| default_exp b.z\n", nbs__index="1\n")
    x, y, z, index = paths = [root / f"nbs/{name}.ipynb" for name in ("a/00_x", "b/01_y", "b/02_z", "index")]
    module = root / PACKAGE / "b/y.py"
    assert exported_module(y, root) == module
    assert list(imports(module.with_name("z.py"), root)) == [(module, None, "y")]
    for changed, found in (([x], [x, y]), ([module], [y, z]), ([index, z], [z, index]), ([root / "README.md"], [])):
        assert touched(set(changed), paths, root) == found


RETIRED = r"\b(anew|goes on|has by now|is told|put aside|luckiest|twins?)\b"   # words of a language of our own


def test_retired_words_do_not_come_back():
    "Names, docstrings, comments and messages of the package use the field's words."
    modules = [p for p in module_files() if p.name != "_modidx.py"]
    lines = [(p.name, line) for p in modules for line in p.read_text(encoding="utf-8").splitlines()]
    found = [f"{name}: {line}" for name, line in lines if re.search(RETIRED, line, re.I)]
    assert len(modules) > 100
    assert found == []


def test_no_class_describes_itself_in_another_way():
    "What a result found is `summary()`; `core.Result` makes the rest from it (see `core/test_result_classes.py`)."
    classes = [n for p in module_files() for n in parse(p).body if isinstance(n, ast.ClassDef)]
    names = {n.name: {b.name for b in n.body if isinstance(b, ast.FunctionDef)} for n in classes}
    assert [c for c, has in names.items() if has & {"sentence", "words"}] == []


def test_imports_stand_in_cells_of_their_own():
    "nbdev runs every cell with an import when it builds the docs, without those before it."
    mixed = []
    for path in notebook_files():
        for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] != "code" or re.match(r"#\| *(export|hide)", source) or "%%" in source: continue
            nodes = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body]
            if any(nodes) and not all(nodes): mixed.append(f"{path.name} cell {i}")
    assert mixed == ["10_gguf.ipynb cell 13"]   # what it imports, it made

"""The public API: every name of the front door and of each folder is there, has a docstring, and its module lists it."""
import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import neural_introspection as ni

ROOT = Path(ni.__file__).parent
STUBS = sorted(ROOT.rglob("__init__.pyi"))
FOLDERS = [p.parent.name for p in STUBS if p.parent != ROOT]
LIMIT = 259   # public names in all: may only shrink


def names(stub):
    "(module, name) of a stub's imports."
    nodes = [n for n in ast.parse(stub.read_text(encoding="utf-8")).body if isinstance(n, ast.ImportFrom)]
    return [(n.module, a.name) for n in nodes for a in n.names]


@pytest.mark.parametrize("stub", STUBS, ids=lambda p: p.parent.name)
def test_every_name_is_there(stub):
    package = import_module(".".join(("neural_introspection", *stub.parent.relative_to(ROOT).parts)))
    assert {name for module, name in names(stub) if not hasattr(package, name)} == set()
    assert set(package.__all__) == {name for _, name in names(stub)}


def test_the_front_door_passes_on_what_folders_make_public():
    public = {folder: {name for _, name in names(ROOT / folder / "__init__.pyi")} for folder in FOLDERS}
    assert {(m, n) for m, n in names(ROOT / "__init__.pyi") if m and n not in public[m]} == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_modules_make_public_what_their_folder_does(folder):
    for module, name in names(ROOT / folder / "__init__.pyi"):
        assert name in import_module(f"neural_introspection.{folder}.{module}").__all__, f"{module}.{name}"


def test_no_public_name_means_two_things():
    seen = {}
    for folder in FOLDERS:
        for _, name in names(ROOT / folder / "__init__.pyi"): seen.setdefault(name, []).append(folder)
    assert {name: where for name, where in seen.items() if len(where) > 1} == {}


def test_the_public_api_is_small():
    counts = {folder: len(names(ROOT / folder / "__init__.pyi")) for folder in FOLDERS}
    assert sum(counts.values()) <= LIMIT, counts


def test_no_name_is_a_module_too():
    "Importing the module would hide the name."
    for folder in FOLDERS:
        modules = {p.stem for p in (ROOT / folder).glob("*.py")}
        assert modules & {name for _, name in names(ROOT / folder / "__init__.pyi")} == set()


def test_the_version_is_that_of_the_settings():
    settings = (ROOT.parent / "settings.ini").read_text(encoding="utf-8")
    assert ni.__version__ == re.search(r"^version = (.+)$", settings, re.M)[1]

"""What the modules and notebooks of this repository import and export, read from their source; nothing is run."""
import ast
import functools
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "neural_introspection"


def module_files(root=ROOT):
    "Every module of the package but the index that nbdev writes."
    return sorted(p for p in (root / PACKAGE).rglob("*.py") if p.name != "_modidx.py")


def notebook_files(root=ROOT):
    "Every notebook, but for hidden folders and files."
    top = root / "nbs"
    return sorted(p for p in top.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(top).parts))


@functools.cache
def notebook_code(path):
    "The code of a notebook's cells; lines for IPython become comments."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return re.sub(r"^(\s*)([%!].*)$", r"\1pass  # \2", code, flags=re.M)


@functools.cache
def parse(path):
    "The syntax tree of a module or a notebook."
    return ast.parse(notebook_code(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8"), str(path))


def exported_module(path, root=ROOT):
    "The module that a notebook exports, None if it exports none."
    name = re.search(r"^#\|\s*default_exp[ \t]+([\w.]+)", notebook_code(path), re.M)
    return name and root / PACKAGE / (name[1].replace(".", "/") + ".py")


def folder(path, root=ROOT):
    "The folder of a file in the package or in nbs: `core` for `neural_introspection/core/errors.py`; empty at the top."
    return path.relative_to(root).parent.as_posix().partition("/")[2]


def find_module(name, root=ROOT):
    "The file of a module of the package by its dotted name, None for what is no such module."
    path = root / name.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def imports(path, root=ROOT):
    "What a file imports of the package: triples of module file, name in it (None for the module itself), name here."
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found = [(alias.name, None, alias.asname) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = [".".join(path.relative_to(root).parts[:-node.level])] if node.level else []
            base = ".".join([*here, *filter(None, [node.module])])
            found = [(whole, None, alias.asname or alias.name) if find_module((whole := f"{base}.{alias.name}"), root)
                     else (base, alias.name, alias.asname or alias.name) for alias in node.names]
        else: continue
        yield from ((file, name, here) for module, name, here in found
                    if module.split(".")[0] == PACKAGE and (file := find_module(module, root)))

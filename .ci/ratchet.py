"""Old faults that may only become fewer: `python .ci/ratchet.py [NAME ...]` compares what there is with ratchet.json.

`make ratchet`, which is `python .ci/ratchet.py --update`, writes the smaller numbers after something was repaired.
It writes no larger ones: a new fault is repaired, not noted. Where a file was renamed or split its lines may go
along, as long as there are no more in all.

| name | what it counts |
|---|---|
| `long_lines` | lines over 120 characters, by file |
| `types` | basedpyright's errors in the folders that pyproject.toml names, by file; takes a minute |
| `public_twice` | names in the `__all__` of two modules that define them |
| `undocumented` | classes in an `__all__` without a docstring, functions without a docstring or a return annotation |
| `private_imports` | names with a leading underscore that are imported, or taken from a module, across folders |
"""
import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from modules import PACKAGE, ROOT, folder, imports, module_files, notebook_files, parse

TABLE = Path(__file__).with_name("ratchet.json")
LINTED = (PACKAGE, "nbs", "tests", ".ci", "setup.py")


def tool(name, *args):
    "What a tool of this environment prints as JSON."
    done = subprocess.run([sys.executable, "-m", name, *args], cwd=ROOT, capture_output=True, text=True)
    if not done.stdout: raise SystemExit(f"{name} failed: {done.stderr}")
    return json.loads(done.stdout)


def by_file(paths): return dict(Counter(Path(p).relative_to(ROOT).as_posix() for p in paths))


def long_lines():
    "Lines over 120 characters, by file; without the first line of `__all__`, which nbdev breaks as it likes."
    found = tool("ruff", "check", "--select=E501", "--output-format=json", *LINTED)
    lists = {p for p in module_files() if any(len(line) > 120 and line.startswith("__all__") for line in p.read_text(encoding="utf-8").splitlines())}
    counts = by_file(f["filename"] for f in found)
    for path in lists: counts[path.relative_to(ROOT).as_posix()] -= 1
    return {name: count for name, count in counts.items() if count}


def types():
    "Errors of basedpyright, by file."
    found = tool("basedpyright", "--outputjson")["generalDiagnostics"]
    return by_file(f["file"] for f in found if f["severity"] == "error")


def definitions(path):
    "The names of a module's `__all__` that it defines itself, with the node that does; it may also pass names on."
    nodes = parse(path).body
    named = {n.name: n for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    for n in nodes:
        if isinstance(n, (ast.Assign, ast.AnnAssign)):
            for target in n.targets if isinstance(n, ast.Assign) else [n.target]:
                named |= {x.id: n for x in ast.walk(target) if isinstance(x, ast.Name)}
    listed = named["__all__"].value if "__all__" in named else None   # a folder's __init__ passes on what its stub names
    public = ast.literal_eval(listed) if isinstance(listed, (ast.List, ast.Tuple)) else []
    return {name: named[name] for name in public if name in named}


def public_twice(root=ROOT):
    "Names that two modules define and make public, with the number of modules."
    where = Counter(name for path in module_files(root) for name in definitions(path))
    return {name: n for name, n in where.items() if n > 1}


def says_what_it_returns(node):
    "Whether a definition has a docstring and, if it is a function, a return annotation."
    return bool(ast.get_docstring(node)) and (isinstance(node, ast.ClassDef) or node.returns is not None)


def undocumented(root=ROOT):
    "Public functions and classes of which a reader is not told what comes back, by name."
    return dict(Counter(name for path in module_files(root) for name, node in definitions(path).items()
                        if hasattr(node, "body") and not says_what_it_returns(node)))


def private(name): return name.startswith("_") and not name.startswith("__")


def private_imports(root=ROOT):
    "Underscore names of a module that a module or notebook in another folder uses, as `importing file: name`."
    found = Counter()
    for path in [*module_files(root), *notebook_files(root)]:
        modules = set()
        for file, name, here in imports(path, root):
            if folder(file, root) == folder(path, root): continue
            if name is None: modules.add(here)
            elif private(name): found[f"{path.relative_to(root).as_posix()}: {name}"] += 1
        for node in ast.walk(parse(path)) if modules else ():
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in modules and private(node.attr):
                found[f"{path.relative_to(root).as_posix()}: {node.attr}"] += 1
    return dict(found)


CHECKS = {check.__name__: check for check in (long_lines, public_twice, undocumented, private_imports, types)}
MOVABLE = (long_lines.__name__, types.__name__)   # counted by file


def complaints(name, found, known):
    "One line for each number that is not the table's."
    pairs = {key: (found.get(key, 0), known.get(key, 0)) for key in sorted(found.keys() | known.keys())}
    todo = {True: "repair what is new", False: "run `make ratchet`"}
    return [f"{name}: {key}: {now}, in ratchet.json {then}: {todo[now > then]}"
            for key, (now, then) in pairs.items() if now != then]


def lowered(name, found, known):
    "The table's numbers after a repair; SystemExit if there are new faults."
    grown = any(n > known.get(key, 0) for key, n in found.items())
    if name in MOVABLE: grown = sum(found.values()) > sum(known.values())
    if grown: raise SystemExit("\n".join(["this would grow:", *complaints(name, found, known)]))
    return found


def read_table(): return json.loads(TABLE.read_text(encoding="utf-8"))


def check(name):
    "What is wrong with one of the `CHECKS`; [] if all is as the table says."
    return complaints(name, CHECKS[name](), read_table()[name])


def main(args):
    names, table = [a for a in args if a != "--update"] or list(CHECKS), read_table()
    found = {name: CHECKS[name]() for name in names}
    if "--update" in args:
        table |= {name: dict(sorted(lowered(name, numbers, table[name]).items())) for name, numbers in found.items()}
        TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    wrong = [line for name, numbers in found.items() for line in complaints(name, numbers, table[name])]
    for line in wrong: print(line)
    for name, numbers in found.items(): print(f"{name}: {sum(numbers.values())}")
    return bool(wrong)


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))

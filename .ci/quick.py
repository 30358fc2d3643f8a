"""The two-minute check: ruff, the export, import rules, tests/unit, and the notebooks that the change touches.

The change is what differs from the merge base with origin/main, or else from the last commit but one, committed or not.
Its notebooks come first, then those that import what they export; three in all. The last line has the counts.
"""
import os
import subprocess
import sys
import time

from checks import run_check, say
from modules import ROOT, exported_module, imports
from notebooks import notebooks, results
from test import run_pytest

MOST = 3
FAST = ("ruff", "export", "imports")   # types take a minute


def git(*args):
    "What git prints, as lines; [] if it fails."
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed_files():
    "The files that the change touches."
    base, = git("merge-base", "origin/main", "HEAD") or git("rev-parse", "HEAD~1") or ["HEAD"]
    new = git("ls-files", "--others", "--exclude-standard")
    return {ROOT / name for name in git("diff", "--name-only", base) + new}


def touched(changed, paths, root=ROOT):
    "The notebooks that are changed, or whose module is, then those that import such a module."
    modules = {path: exported_module(path, root) for path in paths}
    first = [path for path, module in modules.items() if {path, module} & changed]
    wanted = {modules[path] for path in first} - {None}
    then = [path for path, module in modules.items() if path not in first and module and module.exists()
            and wanted & {file for file, *_ in imports(module, root)}]
    return first + sorted(then, key=lambda path: path.stat().st_size)   # the large ones are left to `make test`


def main():
    "Run the steps one after the other, whatever fails."
    os.chdir(ROOT)
    start, done = time.time(), [run_check(name) for name in FAST]
    passed, failed, skips = run_pytest("tests/unit")
    say(f"{'FAILED' if failed else 'ok    '}          tests/unit")
    found = touched(changed_files(), notebooks())
    for path in found[MOST:]: say(f"left out, for `make test`: {path.relative_to(ROOT)}")
    done += results(found[:MOST])
    for line in skips: say(line)
    passed, failed = passed + sum(ok for _, ok, _ in done), failed + sum(not ok for _, ok, _ in done)
    say(f"\n{time.time() - start:.0f} s on {os.cpu_count()} cores")
    say(f"{passed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__": sys.exit(main())

"""All tests: every notebook through nbdev's own test runner, the checks of checks.py, then pytest.

`python .ci/test.py tracing` runs the notebooks and tests of one system alone: nbs/tracing and tests/*/tracing.
The last line is `N passed, N failed`; the exit code is 1 if anything failed.
"""
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"

import shlex
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from checks import CHECKS, say
from modules import ROOT
from notebooks import notebooks, results

sys.path.append(str(ROOT / "tests"))
import shell

RUN = "PYTEST_XDIST_TESTRUNUID"


def pytest_counts(junit, code):
    "Passed, failed and skipped tests of a pytest run, and the lines that say why some were skipped."
    if not junit.exists(): return 0, int(code != 0), []
    cases = list(ElementTree.parse(junit).iter("testcase"))
    failed = sum(c.find("failure") is not None or c.find("error") is not None for c in cases)
    skips = [f"skipped {c.get('classname')}.{c.get('name')}: {c.find('skipped').get('message')}"
             for c in cases if c.find("skipped") is not None]
    if code not in (0, 1): failed = max(failed, 1)  # pytest itself broke, or found no tests
    say_slowest(cases)
    return len(cases) - failed - len(skips), failed, skips


def say_slowest(cases, n=15):
    "The test files that took longest, with their fixtures."
    seconds = Counter()
    for case in cases: seconds[case.get("classname")] += float(case.get("time"))
    say(f"\nThe slowest of {len(seconds)} test files ({sum(seconds.values()):.0f} s of all workers together):")
    for name, spent in seconds.most_common(n): say(f"  {spent:5.1f} s  {name}")


def run_pytest(*paths):
    """Run these tests with pytest; returns what `pytest_counts` says.

    A fifth of the time is spent waiting for browsers and other processes: three workers keep two cores busy. They are
    forks of tests/warm.py, which the tests need too: each would take six seconds of CPU for its imports.
    Files go out in their order: those with few tests take longest, and must not come last.
    """
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        colour = "--color=yes" if sys.stdout.isatty() else "--color=no"
        options = ["-q", "--no-header", "--durations=10", colour, f"--junitxml={junit}",
                   "-Wignore::pytest.PytestAssertRewriteWarning"]   # of what the workers have imported already
        os.environ[RUN] = run = uuid.uuid4().hex   # by which the tests find the same server
        worker = f"3*popen//python={shlex.quote(shell.warm_script(Path(folder)))}"
        spread = ["--tx", worker, "--testrunuid", run, "--dist", "loadfile", "--no-loadscope-reorder"]
        done = subprocess.run([sys.executable, "-m", "pytest", *options, *spread, *map(str, paths)], cwd=ROOT)
        return pytest_counts(junit, done.returncode)


def parts(system):
    "The notebooks, checks and tests of a system, or of all; SystemExit if there is no such system."
    if not system: return notebooks(), list(CHECKS), ["tests"]
    tests = sorted((ROOT / "tests").glob(f"*/{system}"))
    mine = [path for path in notebooks() if path.is_relative_to(ROOT / "nbs" / system)]
    if tests or mine: return mine, [], tests
    names = {p.name for p in (ROOT / "tests").glob("[!_.]*/[!_.]*/")}
    raise SystemExit(f"There is no system {system!r}: choose {', '.join(sorted(names))}.")


def main(system=None):
    "Run everything, print what failed and what was slow, then the counts."
    os.chdir(ROOT)
    paths, checks, tests = parts(system)
    start, found = time.time(), results(paths, checks)
    passed, failed, skips = run_pytest(*tests) if tests else (0, 0, [])
    if found: say("\nThe slowest notebooks and checks:")
    for name, _, seconds in sorted(found, key=lambda r: -r[2])[:10]: say(f"  {seconds:5.1f} s  {name}")
    bad = [name for name, ok, _ in found if not ok]
    if bad: say("\n  ".join(["\nFailed notebooks and checks:", *bad]))
    for line in skips: say(line)
    passed += len(found) - len(bad)
    failed += len(bad)
    say(f"\n{time.time() - start:.0f} s on {os.cpu_count()} cores")
    say(f"{passed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__": sys.exit(main(*sys.argv[1:2]))

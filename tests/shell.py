"""The package as a user meets it: started in a shell of its own, watched from outside."""
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ANSWER = {"r2", "r2_low", "r2_high", "spearman", "baselines", "leakage", "run_folder", "verdict", "selectivity", "std_ratio",
          "r2_original"}  # what `run --json` has at least


def command(*options, first=""):
    "The command line of one start; options are words, or strings of several; `first`: Python that runs before it."
    start = ["-c", f"{first}\nfrom neural_introspection.cli import main\nraise SystemExit(main())"] if first else ["-m", "neural_introspection"]
    return [sys.executable, *start, *(word for o in options for word in str(o).split(" "))]


def shell(*options, cwd, env=None, timeout=300, **more):
    "Run a command to its end, in a process of its own."
    env = os.environ | (env or {})
    return subprocess.run(command(*options), cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, **more)


@contextlib.contextmanager
def started(*options, cwd, first=""):
    "A running command that gives way to its watcher; gone when the block ends."
    with open(Path(cwd) / "stdout", "w+") as out, open(Path(cwd) / "stderr", "w+") as err:
        process = subprocess.Popen(command(*options, first=first), cwd=cwd, stdout=out, stderr=err, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))   # a background job would ignore Ctrl-C
        os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        try: yield process
        finally:
            process.kill()
            process.wait()


def wait_until(condition, process, seconds=180):
    "Return as soon as the condition holds; fail if the process ends first, or after the deadline."
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the process ended with {process.returncode} before it was where it should be stopped"
        assert time.monotonic() < deadline, f"not there after {seconds} s"
        time.sleep(.002)


def manifest(run):
    "The manifest of a run folder, {} before there is one."
    path = Path(run) / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def snapshot(folder):
    "Everything that a write would change in a folder: names, bytes, times, inodes; by relative path."
    def state(path):
        about = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        return content, about.st_mtime_ns, about.st_ino, about.st_mode
    folder = Path(folder)
    return {str(p.relative_to(folder)): state(p) for p in (folder, *folder.rglob("*"))}


def is_one_sentence(message):
    "Whether this is one line that ends as a sentence does, with no other sentence in it."
    return "\n" not in message and re.search(r"[^.][.?]$", message) is not None and not re.search(r"[.!?] [A-Z]", message)


def answer(stdout):
    "The one JSON object that is all of stdout."
    found = json.loads(stdout)
    assert isinstance(found, dict) and stdout.count("\n") == 1
    return found


def numbers(stdout):
    "The answer without the name of the folder it lies in."
    return {k: v for k, v in answer(stdout).items() if k != "run_folder"}

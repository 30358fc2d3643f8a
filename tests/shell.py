"""The package as a user meets it: started in a shell of its own, watched from outside."""
import contextlib
import functools
import hashlib
import json
import multiprocessing.forkserver
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ANSWER = {"r2", "r2_low", "r2_high", "spearman", "baselines", "leakage", "run_folder", "verdict", "selectivity", "std_ratio",
          "r2_original"}  # what `run --json` has at least


def command(*options):
    "The command line of one start; options are words, or strings of several."
    return [sys.executable, "-m", "neural_introspection", *(word for o in options for word in str(o).split(" "))]


def shell(*options, cwd, timeout=300, **more):
    "Run a command to its end, in a process of its own: a new Python if anything about that is asked, such as its `env`, else a `Forked` one."
    if more:
        more["env"] = os.environ | more.get("env", {})
        return subprocess.run(command(*options), cwd=cwd, capture_output=True, text=True, timeout=timeout, **more)
    with tempfile.TemporaryDirectory() as folder:
        process = Forked(options, cwd, Path(folder))
        try: code = process.wait(timeout)
        finally: process.kill()
        return subprocess.CompletedProcess(options, code, *((Path(folder) / name).read_text() for name in ("stdout", "stderr")))


@contextlib.contextmanager
def started(*options, cwd, first=""):
    "A running command that gives way to its watcher; gone when the block ends. What it says goes into the files `stdout` and `stderr` of `cwd`."
    process = Forked(options, cwd, cwd, first, nice=5)
    try: yield process
    finally:
        process.kill()
        process.wait()


@functools.cache
def server():
    "The process that has imported everything, and becomes a command in no time: a new Python needs ten seconds for that."
    context, before = multiprocessing.get_context("forkserver"), os.environ.get("PYTHONPATH")
    context.set_forkserver_preload(["warm"])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))   # Python 3.11 does not tell the server where to look
    try: multiprocessing.forkserver.ensure_running()
    finally:
        if before is None: del os.environ["PYTHONPATH"]
        else: os.environ["PYTHONPATH"] = before
    return context


class Forked:
    "A command in a fork of the `server`, watched as `subprocess.Popen` is."
    def __init__(self, options, cwd, said, first="", nice=0):
        self.process = server().Process(target=_become, args=(command(*options)[3:], str(cwd), str(Path(said).absolute()), first, nice, dict(os.environ)))
        self.process.start()
        self.pid, self.kill = self.process.pid, self.process.kill

    def poll(self): return self.process.exitcode
    def send_signal(self, number): os.kill(self.pid, number)
    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.poll() is None: raise subprocess.TimeoutExpired(self.pid, timeout)
        return self.poll()


def _become(words, cwd, said, first, nice, env):
    "Be this command, from now to the end of the process."
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    os.nice(nice)
    for name, number in (("stdout", 1), ("stderr", 2)):
        with open(Path(said) / name, "w") as file: os.dup2(file.fileno(), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)   # a background job would ignore Ctrl-C
    sys.argv = ["neural-introspection", *words]
    exec(first, {})
    from neural_introspection.cli import main
    sys.exit(main())


def wait_until(condition, process, seconds=180):
    "Return as soon as the condition holds; fail if the process ends first, or after the deadline."
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the process ended with {process.poll()} before it was where it should be stopped"
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
    assert isinstance(found, dict)
    assert stdout.count("\n") == 1
    return found


def numbers(stdout):
    "The answer without the name of the folder it lies in."
    return {k: v for k, v in answer(stdout).items() if k != "run_folder"}

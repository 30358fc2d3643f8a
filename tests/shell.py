"""The package as a user meets it: started in a shell of its own, watched from outside."""
import contextlib
import functools
import hashlib
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import filelock

ANSWER = {"r2", "r2_low", "r2_high", "spearman", "baselines", "leakage", "run_folder", "verdict", "selectivity", "std_ratio",
          "r2_original"}  # what `run --json` has at least


def command(*options):
    "The command line of one start; options are words, or strings of several."
    return [sys.executable, "-m", "neural_introspection", *(word for o in options for word in str(o).split(" "))]


def shell(*options, cwd, timeout=300, **more):
    "Run a command to its end, in a process of its own: a `Forked` one, or a new Python `fresh`."
    return python(*command(*options)[1:], cwd=cwd, timeout=timeout, **more)


def python(*words, cwd, timeout=300, fresh=False, env=None, first=""):
    "What `python` says and ends with: a `Forked` one, or a new one."
    if fresh:
        return subprocess.run([sys.executable, *words], cwd=cwd, env=os.environ | (env or {}), timeout=timeout,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        process = Forked(words, cwd, folder, first, env=env)
        try: code = process.wait(timeout)
        finally: process.kill()
        said = [(Path(folder) / name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(words, code, *said)


@contextlib.contextmanager
def started(*options, cwd, first=""):
    "A running command that gives way to its watcher; gone when the block ends. What it says goes into the files `stdout` and `stderr` of `cwd`."
    process = Forked(command(*options)[1:], cwd, cwd, first, nice=5)
    try: yield process
    finally:
        process.kill()
        process.wait()


# Sends this process a signal as soon as the nth file of that name is in place.
AT_FILE = """
import fnmatch, os
from neural_introspection.core import files
replace, there = files.replace_path, []
def replace_path(source, path):
    replace(source, path)
    if not fnmatch.fnmatch(str(path), {pattern!r}): return
    there.append(path)
    if len(there) == {nth}: os.kill(os.getpid(), {number:d})
files.replace_path = replace_path
"""


def at_file(pattern, nth=1, number=signal.SIGKILL):
    "What a command begins with that gets a signal, else is killed, as soon as the nth file of that name is in place."
    return AT_FILE.format(pattern=f"*/{pattern}", nth=nth, number=number)


@functools.cache
def server():
    """The socket of the process of warm.py, which becomes a command in no time, where a new Python needs ten seconds.

    All workers of a test run have the same one. It is started when the first asks for it, and ends with the last.
    """
    path = f"{tempfile.gettempdir()}/warm-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
    with filelock.FileLock(f"{tempfile.gettempdir()}/warm-{os.getuid()}.lock"):
        try: HELD.append(ask(path))
        except (OSError, EOFError):
            Path(path).unlink(missing_ok=True)
            begin = subprocess.Popen([sys.executable, Path(__file__).with_name("warm.py"), path], start_new_session=True,
                                     stdout=subprocess.PIPE, env=without("PLOTLY_RENDERER"))
            assert begin.stdout.readline() == b"ready\n", "warm.py does not start"
            HELD.append(ask(path))
    return path


def without(name): return {k: v for k, v in os.environ.items() if k != name}


HELD = []   # a connection for as long as this process lives


def ask(path, files=(), numbers=(0, 1, 2), **asked):
    "A connection to the server, open as long as what it started, whose process id is the first line to read there."
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    content = json.dumps(asked and dict(asked, files=numbers)).encode()
    socket.send_fds(connection, [b"%8d" % len(content)], files)
    connection.sendall(content)
    replies = connection.makefile("rb")
    if not (first := replies.readline()): raise EOFError(path)
    return int(first), connection, replies


class Forked:
    "A Python in a fork of the `server`, asked to run these words and watched as `subprocess.Popen` is."
    def __init__(self, words, cwd, said, first="", nice=0, env=None):
        self.code = None
        asked = dict(words=list(map(str, words)), cwd=str(cwd), env=os.environ | (env or {}), first=first, nice=nice)
        with open(os.devnull) as none, open(Path(said) / "stdout", "w") as out, open(Path(said) / "stderr", "w") as err:
            files = [file.fileno() for file in (none, out, err)]
            self.pid, self.connection, self.replies = ask(server(), files, **asked)

    def wait(self, timeout=None):
        if self.code is None:
            ready, *_ = select.select([self.connection], [], [], timeout)
            if not ready: raise subprocess.TimeoutExpired(self.pid, timeout)
            self.code = int(self.replies.readline())
        return self.code

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired): self.wait(0)
        return self.code

    def send_signal(self, number):
        if self.poll() is None: os.kill(self.pid, number)

    def kill(self): self.send_signal(signal.SIGKILL)


def is_inherited(number):
    "Whether a process that is started now gets this open file."
    try: return os.get_inheritable(number)
    except OSError: return False


def stand_for(path, *words):
    "Be the Python that a server's fork is: the same files, signals and end."
    files = [number for number in range(250) if number < 3 or is_inherited(number)]
    asked = dict(words=words, cwd=os.getcwd(), env=without("JPY_PARENT_PID"), first="", nice=0)
    pid, _connection, replies = ask(path, files, numbers=files, **asked)
    for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, lambda number, _: os.kill(pid, number))
    code = int(replies.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


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


def standing_in():
    "The first words of a command line in which a fork of the server is the Python."
    return [sys.executable, __file__, server()]


def warm_script(folder):
    "The path of a script in `folder` that is a Python: a fork of the server."
    (script := folder / "python").write_text(f'#!/bin/sh\nexec {shlex.join(standing_in())} "$@"\n')
    script.chmod(0o755)
    return str(script)


@contextlib.contextmanager
def warm_python(folder):
    "Processes that this one starts with `sys.executable`, as joblib does, are forks of the server; yields its `warm_script`."
    with mock.patch.object(sys, "executable", warm_script(folder)): yield sys.executable


def warm_kernels(folder, name="python3"):
    "Make `folder` one of kernels, where the one of this name is a fork of the server; returns it."
    (folder / name).mkdir(parents=True)
    argv = [*standing_in(), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = dict(argv=argv, display_name=name, language="python")
    (folder / name / "kernel.json").write_text(json.dumps(about))
    return folder


if __name__ == "__main__": sys.exit(stand_for(*sys.argv[1:]))

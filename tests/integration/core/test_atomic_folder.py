"""`atomic_folder` where a rename fails and where the process dies: the old folder or the new one is whole, and living processes keep their work."""
import os
import subprocess
import sys

import pytest

from neural_introspection.core import atomic_folder

RENAMES = 2   # the old folder out of the way, the new one into its place


def write(path, text):
    with atomic_folder(path) as new: (new / "a.txt").write_text(text)


def names(folder): return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def failing_rename(monkeypatch):
    "Let the renames of these numbers (from 1) raise, as on a disk that fails."
    def fail(*numbers):
        calls, rename = [], os.replace
        def replace(source, target):
            calls.append(source)
            if len(calls) in numbers: raise OSError(5, "input or output error", str(source))
            rename(source, target)
        monkeypatch.setattr(os, "replace", replace)
    return fail


@pytest.mark.parametrize("number", range(1, RENAMES + 1))
def test_a_failing_rename_changes_nothing(number, failing_rename, tmp_path):
    write(tmp_path / "store", "old")
    failing_rename(number)
    with pytest.raises(OSError, match="input or output"): write(tmp_path / "store", "new")
    assert (tmp_path / "store" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["store"]


def test_what_could_not_be_put_back_is_put_back_by_the_next_call(failing_rename, monkeypatch, tmp_path):
    write(tmp_path / "store", "old")
    failing_rename(2, 3)   # the way back fails, too
    with pytest.raises(OSError, match="input or output"): write(tmp_path / "store", "new")
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "store"): raise KeyboardInterrupt
    assert (tmp_path / "store" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["store"]


KILLED = """
import os, sys
from neural_introspection.core import atomic_folder
rename, calls = os.replace, []
def replace(source, target):
    calls.append(source)
    if len(calls) == int(sys.argv[2]): os._exit(9)
    rename(source, target)
os.replace = replace
with atomic_folder(sys.argv[1]) as new: (new / "a.txt").write_text("new")
"""


@pytest.mark.parametrize("number", range(1, RENAMES + 1))
def test_a_kill_before_a_rename_loses_nothing(number, tmp_path):
    write(tmp_path / "store", "old")
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "store"), str(number)]).returncode == 9
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "store"): raise KeyboardInterrupt
    assert (tmp_path / "store" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["store"]


LIVING = """
import sys
from neural_introspection.core import atomic_folder
with atomic_folder(sys.argv[1]) as new:
    (new / "a.txt").write_text("theirs")
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_another_process_keeps_its_work(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", LIVING, str(tmp_path / "store")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "ready\n"
        write(tmp_path / "store", "ours")
        assert (tmp_path / "store" / "a.txt").read_text() == "ours"
        other.communicate("go on\n", timeout=60)
    finally: other.kill()
    assert other.returncode == 0
    assert (tmp_path / "store" / "a.txt").read_text() == "theirs"
    assert names(tmp_path) == ["store"]

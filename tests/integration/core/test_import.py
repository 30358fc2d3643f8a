"""The import is light, and nothing asks the network for anything."""
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from neural_introspection import core
from conftest import RUN
from shell import is_one_sentence, shell

HEAVY = ("torch", "plotly", "ipywidgets", "circuitsvis", "tensorflow", "pandas", "numpy", "transformers", "transformer_lens")
NOTE_SOCKETS = "import json, sys; seen = []; sys.addaudithook(lambda event, _: seen.append(event) if event.startswith('socket.') else None)\n"


def python(code, **more):
    "What a fresh interpreter prints as JSON in its last line."
    done = subprocess.run([sys.executable, "-c", NOTE_SOCKETS + code], capture_output=True, text=True, timeout=120, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


MODULES = [f"neural_introspection.core.{path.stem}" for path in Path(core.__file__).parent.glob("[a-z]*.py")]


@pytest.mark.parametrize("module", ["neural_introspection", "neural_introspection.core", *MODULES])
def test_import_is_light(module, capsys):
    start = "import time; start = time.perf_counter()\n"
    seconds, loaded, sockets = python(f"{start}import {module}\nprint(json.dumps([time.perf_counter() - start, list(sys.modules), seen]))")
    with capsys.disabled(): print(f"\nimport {module}: {seconds:.3f} s")
    assert module in loaded
    assert not set(HEAVY) & set(loaded)
    assert sockets == []


def test_the_socket_watch_sees_sockets():
    assert "socket.__new__" in python("import socket; socket.socket().close(); print(json.dumps(seen))")


@pytest.mark.slow
def test_a_whole_run_opens_no_socket(tmp_path):
    code = f"from neural_introspection import cli\ncode = cli.main({RUN.split()!r})\nprint(json.dumps([code, seen]))"
    assert python(code, cwd=tmp_path) == [0, []]


@pytest.fixture
def silent_hub():
    "The address of a server that takes connections and never says a word."
    with socket.create_server(("127.0.0.1", 0)) as server: yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed_hub():
    "An address where nobody listens."
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize("hub", ["silent_hub", "closed_hub", "offline"])
def test_a_hub_name_without_a_hub_fails_within_seconds(hub, tmp_path, request, capsys):
    env = dict(HF_HUB_OFFLINE="1") if hub == "offline" else dict(HF_HUB_OFFLINE="0", HF_ENDPOINT=request.getfixturevalue(hub))
    start = time.monotonic()
    env |= dict(HF_HOME=str(tmp_path / "hf"), NO_PROXY="*")
    done = shell("run --model gpt2-small --output-dir out --json", cwd=tmp_path, timeout=60, fresh=True, env=env)
    with capsys.disabled(): print(f"\ngpt2-small, {hub}: {time.monotonic() - start:.1f} s")
    assert (done.returncode, done.stdout) == (2, "")
    assert not (tmp_path / "out").exists()
    assert done.stderr.startswith("error: model 'gpt2-small' cannot be loaded")
    assert is_one_sentence(done.stderr.rstrip("\n"))
    assert all(words in done.stderr for words in ("'pocket'", "a folder", ".gguf"))

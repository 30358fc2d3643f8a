"""What all tests share."""
import contextlib
import os
import shutil
import sys
from pathlib import Path

import filelock
import pytest
from hypothesis import settings
from neural_introspection.core import triton_first

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
sys.path.insert(0, str(ROOT / ".ci"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
triton_first()   # some tests import keras at once

# Property tests: the same examples each time, none judged by its time. HYPOTHESIS=search looks for new ones, at length.
settings.register_profile("ci", derandomize=True, database=None, deadline=None, max_examples=60)
settings.register_profile("search", database=None, deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS", "ci"))

RUN = "run --model pocket --num-samples 60 --output-dir out --device cpu"  # a whole run that takes seconds


@pytest.fixture(scope="session")
def root():
    "The top folder of the repository."
    return ROOT


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    "A folder with what `RUN --json`, in a process of its own, left in `out` and said in `stdout` and `stderr`. Copy it to change it."
    from shell import shell
    with once(tmp_path_factory, "finished-run") as (folder, new):
        if new:
            done = shell(RUN, "--json", cwd=folder, fresh=True)   # a new Python, as a user's
            assert done.returncode == 0, done.stderr
            for name in ("stdout", "stderr"): (folder / name).write_text(getattr(done, name))
    return folder


@pytest.fixture(scope="session")
def pocket():
    "The pocket model that all commands under `loaded` take."
    from neural_introspection.models import load_model
    return load_model("pocket", device="cpu")


@pytest.fixture
def loaded(pocket, monkeypatch):
    "Commands in this process take one pocket model, where loading it is not what is tested."
    from neural_introspection.models import load_model
    def load(name, device=None, *dtype):
        return pocket if name == "pocket" and device in (None, "cpu") else load_model(name, device, *dtype)
    for module in ("introspection.preparation", "introspection.scan_run", "introspection.atlas_run", "analysis.agent"):
        monkeypatch.setattr(f"neural_introspection.{module}.load_model", load)


@contextlib.contextmanager
def once(tmp_path_factory, name):
    "(folder, whether it is still empty): one that the workers of a test run share."
    place = tmp_path_factory.getbasetemp()
    folder = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / name
    with filelock.FileLock(f"{folder}.lock"):
        new = not (folder / "stdout").exists()
        if new: shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        yield folder, new


def pytest_collection_modifyitems(items):
    "Everything in tests/browser is marked `browser`."
    for item in items:
        if item.path.is_relative_to(TESTS / "browser"): item.add_marker("browser")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "The tests of a file go to one worker together, and all of tests/browser to one, where they share a JupyterLab."
    from xdist.scheduler import LoadFileScheduling
    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "tests/browser" if file.startswith("tests/browser/") else file
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None

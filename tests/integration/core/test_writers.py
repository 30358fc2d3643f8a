"""Every writer, with every one of its file operations made to fail, or to be the last of its process: what was there is
whole, or what was to come. A writer that ends well has written; and the next one succeeds whatever was left."""
import functools
import gc
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pandas as pd
import pytest
import torch
from neural_introspection import ActivationDatasetGenerator, ActivationPredictor, load_model
from neural_introspection.activations import NeuronStats
from neural_introspection.analysis.neuron_index import LayerIndex, layer_index
from neural_introspection.core import (NeuralIntrospectionError, atomic_folder, open_run, read_frame, read_json,
                                       read_tensors, write_frame, write_json, write_tensors, write_text)
from neural_introspection.core.files import restore_folder
from neural_introspection.core.runs import finished_run
from neural_introspection.data import load_texts
from neural_introspection.introspection import ActivationDataset, AtlasResult, ScanResult
from neural_introspection.introspection.atlas import NeuronAtlas
from neural_introspection.introspection.scanner import NeuronScanner
from neural_introspection.introspection.predictor import load_predictor
from neural_introspection.models import as_bridge, preflight
from neural_introspection.models.check import Preflight
from neural_introspection.tracing import NetworkTrace
from neural_introspection.tracing.store import TraceWarning
from traces import network, train
from transformers import GPT2Config, GPT2LMHeadModel

# What Python tells its audit hooks of: reading and writing of files, renaming, removing, new folders.
OPERATIONS = {"open", *(f"os.{name}" for name in "rename mkdir remove rmdir chmod utime link truncate".split())}
ARMED: dict[str, Any] = dict(folder=None)


def _audit(event, args):
    if ARMED["folder"] is None or event not in OPERATIONS or not isinstance(args[0], (str, os.PathLike)): return
    if not os.fspath(args[0]).startswith(ARMED["folder"]): return
    ARMED["count"] += 1
    ARMED["seen"].append(f"{event} {Path(args[0]).suffix}")
    if ARMED["count"] != ARMED["number"]: return
    if ARMED["how"] == "dies": os._exit(9)
    raise OSError(5, "injected")


sys.addaudithook(_audit)


def in_child(function):
    "What a function returns, 0 to 99, in a fork of this process."
    pid = os.fork()
    if pid: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try: os._exit(function())
    except BaseException:
        traceback.print_exc()
        os._exit(100)


def attempt(write, look, folder, number, how, threads):
    """Write while operation `number` in the folder fails or ends the process: (how it ended, what `look` finds).
    It ended with 0 if there was no such operation, 2 if it ended well all the same, 1 if it raised, 9 if it died."""
    def ended():
        ARMED.update(folder=str(folder), number=number, how=how, count=0, seen=[])
        try: write()
        except Exception: return 1
        finally: ARMED["folder"] = None
        return 2 if ARMED["count"] >= number else 0
    if how == "dies": return in_child(ended), look()
    return divmod(in_child(lambda: 10*ended() + look()), 10) if threads else (ended(), look())


def numbers_of(write, folder):
    """The operations of a writer: the number of each. Of hundreds, on chunks of arrays, the first and the last of each
    kind: what is done to a name with the same ending."""
    ARMED.update(folder=str(folder), number=-1, how=None, count=0, seen=[])
    write()
    ARMED["folder"] = None
    seen = ARMED["seen"]
    if len(seen) <= 60: return range(1, len(seen) + 1)
    return sorted({end for kind in set(seen) for end in (seen.index(kind) + 1, len(seen) - seen[::-1].index(kind))})


@dataclass
class Writer:
    "Writes one of two versions to a path in a folder, and tells which one is there."
    write: Callable[[Path, int], Any]
    read: Callable[[Path], Any]     # comparable, by repr
    name: str = "it"
    threads: bool = False           # in a try that raised, others may go on: each such try is a fork's


def same(value):
    "A text that is the same for equal contents."
    if isinstance(value, pd.DataFrame): return value.to_csv()
    if isinstance(value, dict): return {k: same(v) for k, v in sorted(value.items())}
    if isinstance(value, torch.Tensor): value = value.numpy()
    return value.tolist() if isinstance(value, np.ndarray) else value


class Material:
    "Two versions of everything, made when asked for."
    groups = [0, 0, 1, 1, 2, 2]

    @functools.cached_property
    def model(self):
        "Not the pocket model: a small one, of which there is less to write and to read."
        tokenizer = load_model("pocket", device="cpu").tokenizer
        torch.manual_seed(0)
        sizes = dict(n_embd=32, n_layer=4, n_head=2, n_positions=64, vocab_size=len(tokenizer))
        made = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
        return as_bridge(made, tokenizer, "small")
    @functools.cached_property
    def halves(self):
        texts = load_texts("synthetic", 12, seed=0).texts
        return texts[:6], texts[6:]
    @functools.cached_property
    def datasets(self):
        split = ["train", "train", "val", "val", "test", "test"]
        generator = ActivationDatasetGenerator(self.model, "blocks.1.mlp.hook_post[3]")
        made = generator.generate(self.halves[0], self.groups, split)
        return made, made.with_values(made.values() + 1)
    @functools.cached_property
    def predictors(self):
        target = self.datasets[0].target
        return [ActivationPredictor(self.model, target, feature_layer=layer).untrained(0) for layer in (1, 2)]
    @functools.cached_property
    def scans(self): return [NeuronScanner(self.model, "mlp_out", "all").scan(half) for half in self.halves]
    @functools.cached_property
    def atlases(self):
        atlas = NeuronAtlas(self.model, layers=[1], feature_layer=0, n_permutations=2, folds=3)
        return [atlas.probe(half, self.groups) for half in self.halves]
    @functools.cached_property
    def indexes(self): return [layer_index(self.model, half, 1) for half in self.halves]
    @functools.cached_property
    def checks(self): return [preflight(self.model, half, reference=False) for half in self.halves]
    @functools.cached_property
    def statistics(self): return [NeuronStats(2).update(torch.full((3, 2), float(i))) for i in (0, 1)]


@pytest.fixture(scope="module")
def material():
    gc.collect()
    gc.freeze()   # else each fork's first collection copies all of it
    yield Material()
    gc.unfreeze()


@pytest.fixture
def place(tmp_path):
    "A new folder, in memory where that is possible: thousands of files are written and waited for."
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as name: yield Path(name)


def _epochs(path, version):
    "A trace of one epoch, or of two: the second is added to the first by another network."
    if version and not path.exists(): _epochs(path, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TraceWarning)   # an epoch that was lost is told
        train(network(path), [version])


def _trace(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TraceWarning)
        return NetworkTrace.open(path).to_frame()


def writers(m):
    "name -> writer, of the material."
    frames = [pd.DataFrame(dict(x=[i, i + 1])) for i in (0, 5)]
    numbers = [{"a": torch.full((3,), float(i))} for i in (0, 1)]
    def folder(path, i):
        with atomic_folder(path) as new:
            for name in "ab": write_text(new/name, f"{name}{i}")
    def parts_of(path):
        restore_folder(path)   # as every reader of a folder does
        return [(path/name).read_text() for name in "ab"]
    def index(path, i): m.indexes[i].save(path)
    return {
        "text": Writer(lambda p, i: write_text(p, f"version {i}"), lambda p: p.read_text()),
        "json": Writer(lambda p, i: write_json(p, [i]), lambda p: read_json(p, list)),
        "csv": Writer(lambda p, i: write_frame(p, frames[i]), read_frame, "it.csv"),
        "parquet": Writer(lambda p, i: write_frame(p, frames[i]), read_frame, "it.parquet"),
        "tensors": Writer(lambda p, i: write_tensors(p, numbers[i], dict(i=i)), lambda p: read_tensors(p)[0]),
        "folder": Writer(folder, parts_of),
        "statistics": Writer(lambda p, i: m.statistics[i].save(p), lambda p: NeuronStats.load(p).tensors()),
        "result": Writer(lambda p, i: m.checks[i].save(p), lambda p: Preflight.load(p).to_frame()),
        "data set": Writer(lambda p, i: m.datasets[i].save(p), lambda p: ActivationDataset.load(p).values(),
                           "it.parquet"),
        "predictor": Writer(lambda p, i: m.predictors[i].save(p),
                            lambda p: load_predictor(p, m.model).feature_site),
        "scan": Writer(lambda p, i: m.scans[i].save(p), lambda p: ScanResult.load(p).to_frame()),
        "atlas": Writer(lambda p, i: m.atlases[i].save(p), lambda p: AtlasResult.load(p).to_frame(), "it.zarr",
                        threads=True),
        "neuron index": Writer(index, lambda p: LayerIndex.load(p, m.model).frame),
        "trace": Writer(_epochs, _trace, "it.zarr", threads=True),
    }


NAMES = ("text", "json", "csv", "parquet", "tensors", "folder", "statistics", "result", "data set", "predictor", "scan",
         "atlas", "neuron index", "trace")


@pytest.mark.parametrize("how", ["raises", "dies"])
@pytest.mark.parametrize("name", NAMES)
def test_the_old_or_the_new_is_whole(name, how, material, place):
    writer = writers(material)[name]
    known = []

    def contents(folder): return repr(same(writer.read(folder/writer.name)))

    def look(folder):
        "0 or 1: which of the two is there, 2: neither."
        there = contents(folder)
        return known.index(there) if there in known else 2

    def old(folder):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(place/"0", folder)

    for i in (0, 1):
        (place/str(i)).mkdir()
        writer.write(place/str(i)/writer.name, i)
        known.append(contents(place/str(i)))
    assert known[0] != known[1]
    folder = place/"now"
    write, seen = lambda: writer.write(folder/writer.name, 1), lambda: look(folder)
    old(folder)
    numbers = numbers_of(write, folder)
    assert len(numbers) > 3
    for number in numbers:
        old(folder)
        ended, found = attempt(write, seen, folder, number, how, writer.threads)
        assert ended in ((9, 0) if how == "dies" else (0, 1, 2))   # 0: there were fewer this time
        assert found in ((1,) if ended in (0, 2) else (0, 1)), number
        if found == 0:   # the next one succeeds
            write()
            assert look(folder) == 1, number


def _write_run(path, version, overwrite=False):
    "A run of another config for each version; of a Zarr store if the path is one."
    store = path.suffix == ".zarr"
    with open_run(path, dict(version=version), overwrite, store=store) as run:
        if run.finished: return
        if store:
            group = dict(zarr_format=3, node_type="group", attributes=dict(version=version))
            write_json(atomic_store(path)/"zarr.json", group)
        write_text(run.file("reports", "a.txt"), f"a{version}")
        if not store: write_text(run.file("datasets", "b.txt"), f"b{version}")


def atomic_store(path):
    path.mkdir(exist_ok=True)
    return path


def _finished(path, version):
    "Whether a path holds the whole finished run of a version."
    store = path.suffix == ".zarr"
    if not path.exists(): return False
    try: found = finished_run(path, dict(version=version), store=store)
    except NeuralIntrospectionError: return False
    if found is None: return False
    if store: return read_json(path/"zarr.json")["attributes"]["version"] == version
    return [(path/name).read_text() for name in ("reports/a.txt", "datasets/b.txt")] == [f"a{version}", f"b{version}"]


@pytest.mark.parametrize("how", ["raises", "dies"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["archived", "removed"])
@pytest.mark.parametrize("name", ["run", "run.zarr"])
def test_a_run_folder_is_archived_or_removed_whole(name, overwrite, how, place):
    "A finished run of other options stays whole, where it was or in its archive; removed, it leaves no half of a run."
    _write_run(place/"0"/name, 0)
    folder = place/"now"
    write = lambda: _write_run(folder/name, 1, overwrite)
    def old():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(place/"0", folder)
    def whole(version): return [p.name for p in folder.glob("run*") if _finished(p, version)]
    old()
    numbers = numbers_of(write, folder)
    assert len(numbers) > 10
    assert whole(1) == [name]
    for number in numbers:
        old()
        ended, _ = attempt(write, lambda: 0, folder, number, how, False)
        assert ended in ((9, 0) if how == "dies" else (0, 1, 2))
        if not overwrite: assert len(whole(0)) == 1, (number, sorted(folder.rglob("*")))
        if ended in (0, 2): assert whole(1) == [name], number
        write()   # resumes, or begins again
        assert whole(1) == [name], number
        assert len(whole(0)) == (not overwrite), (number, sorted(folder.rglob("*")))

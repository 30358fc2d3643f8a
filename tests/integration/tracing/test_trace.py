"""The trace where a notebook can't show it: killed, torn, damaged, larger than memory; odd models, odd numbers, and training that must not notice."""
import contextlib
import json
import logging
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TESTS
from neural_introspection.core import BadAddress, BadData, BadInput
from neural_introspection.tracing import NetworkTrace, TraceableNN, trace_inference
from neural_introspection.tracing.store import TraceWarning
from shell import Forked, is_one_sentence, python, snapshot, wait_until
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from traces import KEEP, PICTURES, X, Y, Recurrent, listeners, network, train


def files(folder):
    "Names and bytes."
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A trace of four epochs with everything in it. Copy it to change it."
    path = tmp_path_factory.mktemp("finished") / "digits.zarr"
    trace_inference(train(network(path, **KEEP), range(4)), X[96:160], Y[96:160], name="test")
    return path


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "digits.zarr")
    return tmp_path / "digits.zarr"


# --- killed ---

ENDLESS = """
import sys
sys.path.insert(0, {tests!r})
from traces import *
net = network("digits.zarr", **KEEP)
optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
for epoch in range(10_000): train(net, [epoch], optimizer=optimizer)
"""


@pytest.fixture(scope="module")
def four_epochs(): return train(network(**KEEP), range(4)).network_trace


def test_killed_at_any_moment_all_whole_epochs_are_there(tmp_path, four_epochs):
    path = tmp_path / "digits.zarr"
    process = Forked(["-c", ENDLESS.format(tests=str(TESTS))], tmp_path, tmp_path, nice=19)
    try:
        wait_until((path / "metrics" / "c" / "4").exists, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TraceWarning)
        trace = NetworkTrace.open(path)
    assert trace.epochs == list(range(len(trace)))
    assert len(trace) >= 4
    assert trace.to_frame(epochs=range(4)).equals(four_epochs.to_frame())
    assert trace.to_frame(epochs=range(4), by_class=True).equals(four_epochs.to_frame(by_class=True))
    assert np.array_equal(trace.weights("hidden_1")[:4], four_epochs.weights("hidden_1"))
    assert trace.epoch_frame().loc[:3].equals(four_epochs.epoch_frame())


def killed_while_writing(path, number, torn):
    "A process that traces epochs 0 and 1, and is killed at this file of epoch 2: before it is there, or when the disk has ten bytes of it."
    child = os.fork()
    if child: return os.waitpid(child, 0)[1]
    try:
        train(net := network(path, **KEEP), [0, 1])
        count_writes(number, torn)
        train(net, [2])
    finally: os._exit(1)   # it was to be killed before


def count_writes(number=-1, torn=False, count=[]):   # noqa: B006
    "Count the files that zarr writes from now on; kill this process at one of them."
    import zarr.storage._local as local
    whole = local._put
    count.clear()
    def put(path, value, *more, **named):
        count.append(path)
        if len(count) == number:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".0123abcd.partial")   # zarr writes there first, and moves it
            if torn: (beside if path.name == "zarr.json" else path).write_bytes(bytes(value.as_buffer_like())[:10])
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(path, value, *more, **named)
    local._put = put
    return count


@pytest.fixture(scope="module")
def writes(tmp_path_factory):
    "How many files are written for an epoch."
    import zarr.storage._local as local
    net = train(network(tmp_path_factory.mktemp("count") / "x.zarr", **KEEP), [0, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_put", local._put)   # so that it is put back
        count = count_writes()
        train(net, [2])
    return len(count)


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("place", [0, .3, .7, 1])
def test_killed_in_the_middle_of_writing_an_epoch(place, torn, tmp_path, writes, four_epochs):
    number = 1 + round(place * (writes - 1))   # the last write of all says that the epoch is whole
    path = tmp_path / "digits.zarr"
    assert killed_while_writing(path, number, torn) == signal.SIGKILL
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trace = NetworkTrace.open(path)
    lost = [str(w.message) for w in seen if w.category is TraceWarning]
    assert trace.epochs == [0, 1]
    assert trace.to_frame().equals(four_epochs.to_frame(epochs=[0, 1]))
    assert np.array_equal(trace.weights("output"), four_epochs.weights("output")[:2])
    if place:
        assert len(lost) == 1
        assert "epoch 2 was not complete" in lost[0]
        assert "2 epochs are whole" in lost[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TraceWarning)
        again = train(network(path, **KEEP).rewind(0), range(4)).network_trace   # training starts again, and takes the torn epoch's place
    assert again.epochs == [0, 1, 2, 3]
    assert again.to_frame().equals(four_epochs.to_frame())
    assert again.to_xarray().equals(four_epochs.to_xarray())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert NetworkTrace.open(path).epochs == [0, 1, 2, 3]
    assert [p.name for p in path.rglob("*.partial")] == []


# --- torn and damaged ---

def chunks(path, epoch): return sorted(p for p in path.glob(f"metrics/c/{epoch}/**/*") if p.is_file())
def cut(path): path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
def remove(path): path.unlink()


@pytest.mark.parametrize("damage", [cut, remove])
@pytest.mark.parametrize("epoch", [3, 1, 0])
def test_a_torn_epoch_is_named_and_the_others_are_read(damage, epoch, copy, finished):
    damage(chunks(copy, epoch)[0])
    with pytest.warns(TraceWarning, match=f"epoch {epoch} is damaged") as seen: trace = NetworkTrace.open(copy)
    assert len(seen) == 1
    assert "3 epochs are whole" in str(seen[0].message)
    whole, rest = NetworkTrace.open(finished), [e for e in range(4) if e != epoch]
    assert trace.epochs == rest
    assert trace.to_frame().equals(whole.to_frame(epochs=rest))
    assert trace.to_frame(by_class=True).equals(whole.to_frame(epochs=rest, by_class=True))
    assert np.array_equal(trace.weights("output"), whole.weights("output")[rest])
    assert list(trace.epoch_frame().index) == rest
    assert trace.history("hidden_1", 3).equals(whole.history("hidden_1", 3).loc[rest])
    assert trace["E_2"]["L_output"]["n_9"].metrics == whole["E_2"]["L_output"]["n_9"].metrics
    with pytest.raises(KeyError, match=f"epoch 'E_{epoch}' is not in the trace"): trace[f"E_{epoch}"]
    assert trace.problems().empty
    assert trace.inference("test").accuracy == whole.inference("test").accuracy


@pytest.mark.parametrize("name", ["classes", "weights/hidden_1", "batches"])
def test_every_array_of_an_epoch_counts(name, copy):
    cut(next(p for p in sorted((copy / name / "c" / "2").rglob("*")) if p.is_file()))
    with pytest.warns(TraceWarning, match="epoch 2 is damaged"): assert NetworkTrace.open(copy).epochs == [0, 1, 3]


def test_damage_that_keeps_the_size_is_not_read_as_numbers(copy):
    path = chunks(copy, 1)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    trace = NetworkTrace.open(copy)
    assert trace["E_2"]["L_output"]["n_0"].metrics
    assert trace.to_frame(epochs=[0, 2, 3]).shape == (3 * 86, 19)
    for read in (lambda: trace["E_1"]["L_output"]["n_0"].metrics, trace.to_frame, lambda: trace.history("output", 1)):
        with pytest.raises(BadData, match="damaged") as caught: read()
        assert is_one_sentence(str(caught.value))


def set_attributes(path, **more):
    about = json.loads((path / "zarr.json").read_text())
    about["attributes"] |= more
    (path / "zarr.json").write_text(json.dumps(about))


def half(path): (path / "zarr.json").write_text((path / "zarr.json").read_text()[:300])
def half_of_an_array(path): (path / "metrics" / "zarr.json").write_text((path / "metrics" / "zarr.json").read_text()[:80])


BROKEN = {"half": half, "empty": lambda p: (p / "zarr.json").write_text(""), "list": lambda p: (p / "zarr.json").write_text("[]"), "null": lambda p: (p / "zarr.json").write_text('{"attributes": null}'),
          "array": half_of_an_array, "no array": lambda p: (p / "metrics" / "zarr.json").unlink(), "format 2": lambda p: set_attributes(p, format=2), "no layers": lambda p: set_attributes(p, trace={}),
          "no files": lambda p: set_attributes(p, files={}), "more epochs": lambda p: set_attributes(p, epochs=[0, 1, 2, 3, 4]), "gone": lambda p: (p / "zarr.json").unlink()}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_a_broken_store_is_refused_in_one_sentence(name, copy):
    BROKEN[name](copy)
    before = snapshot(copy)
    for open_it in (NetworkTrace.open, lambda path: network(path, **KEEP)):
        with pytest.raises(BadInput) as caught: open_it(copy)
        assert is_one_sentence(str(caught.value))
        assert "digits.zarr" in str(caught.value)
        assert isinstance(caught.value, BadData) or name in ("gone", "null")   # then it is no trace at all
    assert snapshot(copy) == before


def test_a_newer_format_is_said_to_be_newer(copy):
    set_attributes(copy, format=2)
    with pytest.raises(BadData, match=r"digits.zarr is a trace of format 2, newer than this version's \(1\): update neural_introspection.$"): NetworkTrace.open(copy)


@pytest.mark.parametrize("other", [dict(model=nn.Sequential(nn.Linear(64, 13), nn.ReLU(), nn.Linear(13, 10))), dict(classes=None), dict(quantiles=True), dict(drop_weights=True)])
def test_the_trace_of_another_network_is_refused_and_stays(other, copy):
    before = snapshot(copy)
    with pytest.raises(BadData, match="overwrite=True"): network(copy, **KEEP | other)
    assert snapshot(copy) == before


# --- larger than memory ---

BIG = """
import resource, sys
from neural_introspection.tracing import NetworkTrace
import xarray, zarr
NetworkTrace.open(sys.argv[1]).history("wide", 0)   # what a first look loads and starts
with open("/proc/self/status") as f: used = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in f if line.startswith(("VmData", "VmRSS"))}
room = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (used["VmData"] + room, resource.RLIM_INFINITY))
try: bytearray(2 * room)
except MemoryError: pass
else: raise SystemExit("the limit does not hold")
trace = NetworkTrace.open(sys.argv[1])
assert trace.to_xarray().metrics.nbytes > 4 * room, trace.to_xarray().metrics.nbytes
neuron = trace[f"E_{trace.epochs[-1]}"]["L_wide"]["n_5000"]
print(neuron.metrics["activation_mean"], trace.history("wide", 17).shape, trace.to_frame(epochs=[3]).shape, len(trace.problems()))
"""


@pytest.mark.slow
def test_a_trace_several_times_the_memory_is_looked_up(tmp_path):
    "Metrics of 60 epochs of 25,010 neurons: 114 MB of random numbers; the reader may have 20 MB more than it started with."
    model = nn.Sequential()
    model.add_module("wide", nn.Linear(8, 25_000))
    model.add_module("out", nn.Linear(25_000, 10))
    net = TraceableNN(model, path=tmp_path / "big.zarr", layers=["wide", "out"])
    numbers = np.random.default_rng(0).standard_normal((25_010, 19), dtype="f4")
    for name in ("activation", "weight", "gradient"): numbers[:, net.network_trace.metrics.index(f"{name}_nonfinite")] = 0
    for epoch in range(60): net._writer.append(epoch, dict(metrics=np.roll(numbers, epoch, 0)), {})
    done = subprocess.run([sys.executable, "-c", BIG, str(tmp_path / "big.zarr"), str(20 * 2**20)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    mean = np.roll(numbers, 59, 0)[5000, net.network_trace.metrics.index("activation_mean")]
    assert done.stdout.split(maxsplit=1) == [str(float(mean)), "(60, 19) (25010, 19) 0\n"]


def test_without_problems_there_is_nothing_to_report(finished, caplog):
    assert NetworkTrace.open(finished).problems().empty
    train(network(), [0])
    assert caplog.text == ""


# --- training does not notice ---

class Noise(nn.Module):
    "Draws random numbers of every kind in its forward pass, and counts its calls in evaluation too."
    def __init__(self): super().__init__(); self.register_buffer("calls", torch.zeros(()))
    def forward(self, x):
        self.calls += 1
        return x + torch.randn_like(x) * .1 + np.random.rand() + random.random() + self.calls * 1e-3


def deep(): return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout2d(.3), nn.Flatten(), nn.Dropout(.5), nn.Linear(216, 20), Noise(), nn.BatchNorm1d(20), nn.GELU(), nn.Linear(20, 10))
def parametrized(): return nn.Sequential(parametrizations.spectral_norm(nn.Linear(64, 20)), nn.ReLU(), parametrizations.weight_norm(nn.Linear(20, 20)), nn.Tanh(), nn.Linear(20, 10))
def encoder(): return nn.Sequential(nn.Unflatten(1, (8, 8)), nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=.2, batch_first=True), 1), nn.Flatten(), nn.Linear(64, 10))
def recurrent(): return nn.Sequential(nn.Unflatten(1, (8, 8)), Recurrent(nn.LSTM, num_layers=2, dropout=.5, batch_first=True))


@pytest.mark.parametrize("make, x", [(deep, PICTURES), (parametrized, X), (encoder, X), (recurrent, X)])
def test_traced_and_untraced_training_are_bit_identical(make, x):
    def run(trace):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        model = make()
        net = TraceableNN(model, example=x[:2], classes=10, quantiles=True, metrics=dict(random=lambda state: torch.rand(state.layer.width)), **KEEP) if trace else model
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for epoch in range(2):
            with net.trace_epoch(epoch) if trace else contextlib.nullcontext():
                for rows in torch.randperm(96).split(32):
                    if trace: net.labels(Y[rows])
                    optimizer.zero_grad()
                    F.cross_entropy(net(x[rows]), Y[rows]).backward()
                    optimizer.step()
        if trace: assert net.network_trace.epochs == [0, 1]
        return model.state_dict(), torch.rand(3), np.random.rand(3), random.random()
    (traced, *drawn), (plain, *expected) = run(True), run(False)
    assert traced.keys() == plain.keys()
    assert {k: torch.equal(traced[k], plain[k]) for k in plain} == dict.fromkeys(plain, True)
    assert torch.equal(drawn[0], expected[0])
    assert np.array_equal(drawn[1], expected[1])
    assert drawn[2] == expected[2]


# --- what is kept, and when ---

def test_nothing_is_pickled(tmp_path, monkeypatch, finished):
    def refuse(*args, **named): raise AssertionError("pickle was used")
    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"): monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(np, "load", refuse)
    trace_inference(train(network(tmp_path / "x.zarr", **KEEP), range(2)), X[:20], Y[:20], name="test")
    trace = NetworkTrace.open(tmp_path / "x.zarr")
    assert len(trace.to_frame()) == 2 * 86
    assert trace.weights("output").values.shape == (2, 10, 12)
    assert len(trace.inference("test").to_frame("output")) == 20
    for path in (p for p in (*finished.rglob("*"), *trace.path.rglob("*")) if p.is_file()):
        assert path.name == "zarr.json" or path.name.isdecimal(), path
        assert not path.read_bytes().startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"))


def test_an_epoch_is_traced_once_unless_rewound(copy, caplog):
    old, net, before = NetworkTrace.open(copy).to_frame(), network(copy, seed=1, **KEEP), snapshot(copy)
    with pytest.raises(BadInput, match=r"has epoch 1..3 already: continue with epoch 4, call rewind\(1\)") as caught: train(net, [1], size=48)
    assert is_one_sentence(str(caught.value))
    assert snapshot(copy) == before
    assert not any(listeners(net))
    with caplog.at_level(logging.WARNING, "neural_introspection"): train(net.rewind(1), [1], size=48)
    trace = NetworkTrace.open(copy)
    assert trace.epochs == [0, 1]
    assert "epoch 1..3 dropped" in caplog.text
    assert trace.to_frame(epochs=[0]).equals(old.loc[[0]])
    assert not trace.to_frame(epochs=[1]).equals(old.loc[[1]])
    expected = train(network(seed=1, **KEEP), [1], size=48).network_trace
    assert trace.to_frame(epochs=[1]).equals(expected.to_frame())
    assert np.array_equal(trace.weights("output")[1], expected.weights("output")[0])
    batches = trace.to_xarray().batches.sel(epoch=1)
    assert batches.dropna("batch", how="all").sizes["batch"] == 2   # the third one of the earlier run is gone


def test_kept_batches_add_up_to_the_epoch(finished):
    trace = NetworkTrace.open(finished)
    batches = trace.to_xarray().batches.sel(epoch=2, layer="hidden_1")
    count, mean = batches.sel(batch_metric="count"), batches.sel(batch_metric="mean")
    assert count.sum("batch").values.tolist() == [96] * 12
    assert np.allclose((count * mean).sum("batch") / 96, trace.to_frame([2], ["hidden_1"]).activation_mean, rtol=1e-5)


def test_a_temporary_trace_goes_away_with_its_process(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(TESTS)!r})\nfrom traces import *\nprint(train(network(), [0]).network_trace.path)"
    done = python("-c", code, cwd=tmp_path.parent, env=dict(TMPDIR=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_addresses_outside_the_trace(finished):
    trace = NetworkTrace.open(finished)
    for key in ("E_4", "E_-1", "E_0/L_hidden_2", "E_0/L_output/n_10", "E_0/L_output/n_-1", "[E_0][L_output][n_x]", "", "L_output"):
        with pytest.raises(KeyError) as caught: trace[key]
        assert isinstance(caught.value, BadAddress)
        assert is_one_sentence(str(caught.value))
    for layer, neuron in (("hidden_1", 12), ("hidden_1", -1), ("hidden_9", 0)):
        with pytest.raises(BadAddress): trace.history(layer, neuron)


def test_a_run_that_goes_on_in_the_middle_of_an_epoch_keeps_its_number():
    from types import SimpleNamespace
    from neural_introspection.tracing.callbacks import trainer_callback
    net = network()
    with trainer_callback(net) as callback:
        for epoch, expected in ((1.625, 1), (2.0, 2), (2.9999999, 3)):
            callback.on_epoch_begin(None, SimpleNamespace(epoch=epoch, global_step=3), None)
            callback.on_epoch_end(None, SimpleNamespace(epoch=epoch, global_step=3), None)
            assert net.network_trace.epochs[-1] == expected

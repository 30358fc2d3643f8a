"""The trace of small networks in this process: odd models, odd numbers, odd options, and what must not happen."""
import contextlib
import gc
import logging
import math
from dataclasses import dataclass
import numpy as np
import pytest
import torch
from neural_introspection.core import BadData, BadInput, Cancelled
from neural_introspection.activations import NeuronStats
from neural_introspection.tracing import NetworkTrace, TraceableNN, trace_inference
from shell import is_one_sentence, snapshot
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import rnn
from traces import KEEP, PICTURES, X, Y, Recurrent, listeners, mlp, network, train


@pytest.mark.parametrize("what", ["notes", "atlas", "file"])
def test_what_is_no_trace_is_refused_and_stays(what, tmp_path):
    path = tmp_path / "mine.zarr"
    if what == "file": path.write_text("mine")
    else: path.mkdir()
    if what == "notes": (path / "notes.txt").write_text("mine")
    if what == "atlas":
        import zarr
        zarr.open_group(path, mode="w").attrs["atlas"] = dict(format=1)
    before = snapshot(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(BadInput) as caught: network(path, overwrite=overwrite)
        assert is_one_sentence(str(caught.value))
        assert "mine.zarr" in str(caught.value)
    with pytest.raises(BadData): NetworkTrace.open(path)
    assert snapshot(tmp_path) == before


def test_nan_and_infinity_are_recorded_reported_and_not_fatal(caplog, tmp_path):
    x = X[:32].clone()
    x[0, 5], x[3, 9] = math.nan, math.inf
    net = network(tmp_path / "nan.zarr", quantiles=True)
    with caplog.at_level(logging.WARNING, "neural_introspection"):
        train(net, [0], x, Y[:32])
        train(net, [1], x, Y[:32])
    trace = NetworkTrace.open(tmp_path / "nan.zarr")
    assert trace.epochs == [0, 1]
    assert not torch.isfinite(net.model[0].weight).all()
    problems = trace.problems()
    assert problems.loc[(0, "input"), "activation_nonfinite"] == 2
    assert problems.loc[(0, "output"), "gradient_nonfinite"] == 10
    assert problems.loc[(1, "hidden_1"), "weight_nonfinite"] == 12
    pixel = trace["E_0"]["L_input"]["n_9"].activation_metrics
    assert pixel["nonfinite"] == 1
    assert pixel["mean"] == pytest.approx(float(X[:32, 9][torch.arange(32) != 3].mean()), rel=1e-5)   # of the finite ones
    assert "epoch 0: 2 of 64 neurons of L_input had NaN or infinite activations" in caplog.text
    assert "L_hidden_1 had NaN or infinite weights" in caplog.text
    assert trace.epoch_frame().loss.isna().all()


class Odd(nn.Module):
    "One parameter for two layers, one frozen, one module called twice, one never."
    def __init__(self):
        super().__init__()
        self.twice, self.twin, self.frozen, self.never, self.out = (nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3), nn.Linear(64, 10))
        self.twin.weight = self.twice.weight
        self.frozen.requires_grad_(False)
    def forward(self, x): return self.out(self.frozen(torch.relu(self.twin(torch.relu(self.twice(torch.relu(self.twice(x))))))))


def test_shared_frozen_called_twice_never_called():
    net = train(network(model=Odd(), **KEEP), [0], size=96)
    trace, notes = net.network_trace, net.network_trace.layer_frame().notes
    assert "called 2 times" in notes["L_twice"]
    assert "shares parameters with twin" in notes["L_twice"]
    assert "shares parameters with twice" in notes["L_twin"]
    assert notes["L_frozen"] == "frozen: no gradient"
    assert notes["L_never"] == "never called"
    assert notes["L_out"] == ""
    frame = trace.to_frame(epochs=[0]).droplevel("epoch")
    assert frame.loc["never"].activation_mean.isna().all()
    assert frame.loc["never"].weight_mean.notna().all()
    assert frame.loc["frozen"].gradient_mean.isna().all()
    assert frame.loc["twice"].gradient_mean.equals(frame.loc["twin"].gradient_mean)
    values = trace.to_frame(by_class=True).groupby("layer", sort=False)["count"].sum()
    assert values.to_dict() == dict(twice=2 * 96 * 64, twin=96 * 64, frozen=96 * 64, never=0, out=960)


@dataclass
class Out:
    logits: torch.Tensor
    more: object = None


class Wrapped(nn.Linear):
    "A layer whose output comes in something."
    def __init__(self, kind): super().__init__(64, 12); self.kind = kind
    def forward(self, x): return dict(tuple=(None, y := super().forward(x)), dict={"h": y}, dataclass=Out(y))[self.kind]


class Wrapping(nn.Module):
    def __init__(self, kind): super().__init__(); self.kind, self.inner, self.out = kind, Wrapped(kind), nn.Linear(12, 10)
    def forward(self, x):
        y = self.inner(x)
        return dict(tuple=lambda y: y[1], dict=lambda y: y["h"], dataclass=lambda y: y.logits)[self.kind](y)


@pytest.mark.parametrize("kind", ["tuple", "dict", "dataclass"])
def test_outputs_in_tuples_dicts_and_dataclasses(kind):
    torch.manual_seed(0)
    model = Wrapping(kind)
    net = TraceableNN(model, layers=["inner"], drop_weights=False)
    with net.trace_epoch(0): out = net(X[:50])
    assert np.allclose(net.network_trace.to_frame(layers=["inner"]).activation_mean, out.mean(0).detach(), atol=1e-6)
    assert np.array_equal(net.network_trace.weights("inner")[0], model.inner.weight.detach())


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 1e-2), (torch.float64, 1e-6)])
def test_other_precisions(dtype, tolerance):
    net = network(model=(torch.manual_seed(0), mlp())[1].to(dtype), **KEEP)
    with net.trace_epoch(0):
        net.labels(Y[:64])
        F.cross_entropy(net(X[:64].to(dtype)).float(), Y[:64]).backward()
    found, expected = net.network_trace.to_frame(), train(network(), [0], X[:64], Y[:64], torch.optim.SGD([torch.zeros(1, requires_grad=True)]), size=64).network_trace.to_frame()
    for column in ("activation_mean", "activation_std", "weight_norm", "gradient_mean"):
        assert np.allclose(found[column], expected[column], atol=tolerance, rtol=10 * tolerance, equal_nan=True), column
    assert found.isna().equals(expected.isna())
    assert net.network_trace.problems().empty


def test_autocast():
    net = network()
    with net.trace_epoch(0), torch.autocast("cpu", torch.bfloat16): out = net(X[:64])
    assert out.dtype == torch.bfloat16
    traced = net.network_trace.to_frame(layers=["output"]).activation_mean
    assert np.allclose(traced, out.float().mean(0).detach(), atol=1e-6)


def test_labels_of_minus_one_do_not_count_in_classes():
    labels = Y[:60].clone()
    labels[::2] = -1
    net = network()
    with net.trace_epoch(0):
        net.labels(labels)
        out = net(X[:60])
    neuron = net.network_trace["E_0"]["L_output"]["n_4"]
    assert neuron.classes["count"].tolist() == [int((labels == c).sum()) for c in range(10)]
    assert sum(neuron.classes["count"]) == 30
    assert neuron.classes.loc[3, "mean"] == pytest.approx(float(out[labels == 3, 4].mean().detach()), rel=1e-5)
    assert neuron.activation_metrics["mean"] == pytest.approx(float(out[:, 4].mean().detach()), rel=1e-5)   # all sixty


@pytest.mark.parametrize("labels, words", [(torch.full((12,), 10), "outside 0..9"), (torch.zeros(5).long(), "labels do not fit"), (torch.zeros(24).long(), "labels do not fit")])
def test_labels_that_do_not_fit_are_refused(labels, words):
    net = network()
    with pytest.raises(BadInput, match=words), net.trace_epoch(0):
        net.labels(labels)
        net(X[:12])
    assert len(net.network_trace) == 0
    assert sum(listeners(net)) == 0


CONVOLUTIONS = {"conv1d": (nn.Sequential(nn.Conv1d(8, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(30, 10)), X.reshape(-1, 8, 8), (5, 24)),
                "conv2d": (nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 10)), PICTURES, (5, 9)),
                "conv3d": (nn.Sequential(nn.Conv3d(1, 5, (1, 3, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(180, 10)), PICTURES[:, None], (5, 9)),
                "grouped": (nn.Sequential(nn.Conv1d(8, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 10)), X.reshape(-1, 8, 8), (4, 12)),
                "transposed": (nn.Sequential(nn.ConvTranspose1d(8, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(60, 10)), X.reshape(-1, 8, 8), (6, 12))}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_channels_of_convolutions(name):
    model, x, shape = CONVOLUTIONS[name]
    net = network(model=model, example=x[:2], **KEEP)
    with net.trace_epoch(0):
        net.labels(Y[:40])
        F.cross_entropy(net(x[:40]), Y[:40]).backward()
    trace, out, first = net.network_trace, model[0](x[:40]).detach(), model[0]
    assert trace.layers["0"].kind == "channel"
    assert trace.weights("0").shape == (1, *shape)
    rows = out.movedim(1, -1).flatten(0, -2)
    assert np.allclose(trace.to_frame(layers=["0"]).activation_mean, rows.mean(0), atol=1e-6)
    assert np.allclose(trace.to_frame(layers=["0"]).activation_max, rows.amax(0))
    places = out[0, 0].numel()
    assert trace["E_0"]["L_0"]["n_2"].classes["count"].tolist() == [int((Y[:40] == c).sum()) * places for c in range(10)]
    mean_of_sevens = float(out[Y[:40] == 7][:, 2].mean())
    assert trace["E_0"]["L_0"]["n_2"].classes.loc[7, "mean"] == pytest.approx(mean_of_sevens, abs=1e-6)
    norms = channel_norms(first, first.weight.grad)
    assert np.allclose(trace.to_frame(layers=["0"]).gradient_mean, norms, rtol=1e-5)
    assert np.allclose(trace.to_frame(layers=["0"]).weight_norm, channel_norms(first, first.weight.detach()), rtol=1e-5)


def channel_norms(module, w):
    "The length of each output channel's kernel, written without the library's reshaping: by what each channel depends on."
    if not isinstance(module, nn.ConvTranspose1d): return w.flatten(1).norm(dim=1)
    inputs, per_group = module.in_channels // module.groups, module.out_channels // module.groups
    return torch.stack([w[g * inputs:(g + 1) * inputs, o].norm() for g in range(module.groups) for o in range(per_group)])


@pytest.mark.parametrize("kind, more, width, connections", [
    (nn.LSTM, dict(batch_first=True), 6, 4 * 14), (nn.GRU, {}, 6, 3 * 14), (nn.RNN, dict(batch_first=True), 6, 14),
    (nn.LSTM, dict(batch_first=True, bidirectional=True), 12, 4 * 14), (nn.GRU, dict(bidirectional=True, num_layers=2), 12, 3 * 18)])
def test_hidden_units_of_recurrent_layers(kind, more, width, connections):
    torch.manual_seed(0)
    model, x = Recurrent(kind, **more), X.reshape(-1, 8, 8)
    net = network(model=model, example=x[:2], **KEEP)
    with net.trace_epoch(0):
        net.labels(Y[:40])
        F.cross_entropy(net(x[:40]), Y[:40]).backward()
    trace = net.network_trace
    assert trace.layers["body"].kind == "hidden unit"
    assert trace.layers["body"].width == width
    assert trace.weights("body").shape == (1, width, connections)
    steps = model.body(x[:40] if model.body.batch_first else x[:40].transpose(0, 1))[0].detach()
    steps = steps if model.body.batch_first else steps.transpose(0, 1)
    assert np.allclose(trace.to_frame(layers=["body"]).activation_mean, steps.flatten(0, 1).mean(0), atol=1e-6)
    mean_of_twos = float(steps[Y[:40] == 2][..., 3].mean())
    assert trace["E_0"]["L_body"]["n_3"].classes.loc[2, "mean"] == pytest.approx(mean_of_twos, abs=1e-6)
    last = f"_l{model.body.num_layers - 1}"
    for place, end in enumerate([last, last + "_reverse"][:1 + model.body.bidirectional]):
        gates = [getattr(model.body, f"weight_{way}{end}").grad.reshape(-1, 6, n) for way, n in (("ih", connections // {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind] - 6), ("hh", 6))]
        squares = sum((g**2).sum((0, 2)) for g in gates)
        assert np.allclose(trace.to_frame(layers=["body"]).gradient_mean[6 * place:6 * place + 6], squares.sqrt(), rtol=1e-4)


class Packed(nn.Module):
    def __init__(self): super().__init__(); self.body, self.out = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 10)
    def forward(self, x): return self.out(self.body(x)[1][0][-1])


def test_packed_sequences():
    "Rows lie by step and not by sample there: they count, by class only if that is right."
    torch.manual_seed(0)
    model, lengths = Packed(), [8, 5, 5, 2]
    x = rnn.pack_sequence([X[i].reshape(8, 8)[:n] for i, n in enumerate(lengths)])
    net = network(model=model, example=(x,))
    with net.trace_epoch(0):
        net.labels(Y[:4])
        net(x)
    trace, steps = net.network_trace, model.body(x)[0].data.detach()
    assert len(steps) == 20
    assert np.allclose(trace.to_frame(layers=["body"]).activation_mean, steps.mean(0), atol=1e-6)
    by_class = trace["E_0"]["L_body"]["n_0"].classes["count"]
    assert by_class.sum() == 0 or by_class.tolist() == [sum(n for n, y in zip(lengths, Y[:4]) if y == c) for c in range(10)]
    assert trace["E_0"]["L_out"]["n_0"].classes["count"].tolist() == torch.bincount(Y[:4], minlength=10).tolist()


class Gated(nn.Module):
    "Two layers side by side, of one width: no chain."
    def __init__(self): super().__init__(); self.gate, self.up, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
    def forward(self, x): return self.out(torch.sigmoid(self.gate(x)) * self.up(x))


class LastAxis(nn.Module):
    "A linear layer on pictures, channels last."
    def __init__(self): super().__init__(); self.inner, self.out = nn.Linear(1, 7), nn.Linear(7, 10)
    def forward(self, x): return self.out(torch.relu(self.inner(x.movedim(1, -1))).mean((1, 2)))


@pytest.mark.parametrize("model, x, layer, layers", [(Gated(), X, "gate", None), (LastAxis(), PICTURES, "inner", ["inner", "out"])])
def test_activations_are_those_of_the_layer_whose_weights_stand_beside_them(model, x, layer, layers):
    net = network(model=model, example=x[:2], layers=layers, **KEEP)
    with net.trace_epoch(0): net(x[:30])
    module, seen = getattr(model, layer), []
    with module.register_forward_hook(lambda m, i, o: seen.append(o.detach().flatten(0, -2))): model(x[:30])
    assert np.allclose(net.network_trace.to_frame(layers=[layer]).activation_mean, seen[0].mean(0), atol=1e-6)
    assert np.array_equal(net.network_trace.weights(layer)[0], module.weight.detach())


@pytest.mark.parametrize("name", ["a/b", "a][b", "a b", "[x]", "", ".", "..", "zarr.json", "a\\b", "n" * 300, "L_x"])
def test_names_that_cannot_be_part_of_an_address_are_refused(name, tmp_path):
    with pytest.raises(BadInput, match="cannot be part of an address|a name") as caught: TraceableNN(mlp(), path=tmp_path / "x.zarr", layers={name: "0"})
    assert is_one_sentence(str(caught.value))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["n_1", "c", "E_0", "weights", "metrics", "hidden_1", "été", "0"])
def test_names_that_look_odd_work(name, tmp_path):
    net = network(tmp_path / "x.zarr", layers={name: "0", "last": "2"}, **KEEP)
    with net.trace_epoch(0): net(X[:9])
    trace = NetworkTrace.open(tmp_path / "x.zarr")
    neuron = trace["E_0"][f"L_{name}"]["n_1"]
    assert neuron == trace[neuron.signature] == trace.sel(epoch=0, layer=name, neuron=1)
    assert neuron.layer == name
    assert trace["E_0"]["L_last"].width == 10
    assert np.array_equal(neuron.weights, net.model[0].weight[1].detach())
    assert len(trace.to_frame(layers=[name])) == 12


def test_a_module_path_with_a_slash_gets_a_name_that_can_be_written(tmp_path):
    class Dict(nn.Module):
        def __init__(self): super().__init__(); self.parts = nn.ModuleDict({"a/b": nn.Linear(64, 12), "c d": nn.Linear(64, 10)})
        def forward(self, x): return self.parts["a/b"](x).sum() + self.parts["c d"](x)
    net = network(tmp_path / "x.zarr", model=Dict(), layers=None, **KEEP)
    with net.trace_epoch(0): net(X[:9])
    for name, path in zip(net.network_trace.layers, ("a/b", "c d")):
        neuron = NetworkTrace.open(tmp_path / "x.zarr")["E_0"][f"L_{name}"]["n_1"]
        assert np.array_equal(neuron.weights, net.model.parts[path].weight[1].detach())
        assert net.network_trace[f"E_0/L_{name}/n_1"] == neuron


def test_lazy_modules_are_refused_or_unchanged():
    torch.manual_seed(0)
    with pytest.raises(BadInput, match="run one batch") as caught: TraceableNN(nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(3)), example=X[:2])
    assert is_one_sentence(str(caught.value))


def test_two_traces_of_one_model_at_once():
    def run(*layers):
        torch.manual_seed(0)
        model = mlp()
        nets, optimizer = [TraceableNN(model, classes=10, layers=some, **KEEP) for some in layers], torch.optim.AdamW(model.parameters(), 1e-2)
        for epoch in range(2):
            with contextlib.ExitStack() as stack:
                for net in nets: stack.enter_context(net.trace_epoch(epoch))
                for rows in torch.arange(96).split(32):
                    for net in nets: net.labels(Y[rows])
                    optimizer.zero_grad()
                    F.cross_entropy(nets[0](X[rows]), Y[rows]).backward()
                    optimizer.step()
        return [net.network_trace for net in nets]
    both, mine = run(None, {"mine": "0"}), {"mine": "0"}
    for found, alone in zip(both, (run(None)[0], run(mine)[0])):
        assert found.to_frame().equals(alone.to_frame())
        assert found.to_frame(by_class=True).equals(alone.to_frame(by_class=True))


def test_two_traces_in_one_folder_lose_nothing(tmp_path):
    a, b = (network(tmp_path / "x.zarr") for _ in range(2))
    for net, epoch in ((a, 0), (b, 1), (a, 2)): train(net, [epoch])
    assert NetworkTrace.open(tmp_path / "x.zarr").epochs == a.network_trace.epochs == b.network_trace.epochs == [0, 1, 2]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Cancelled, GeneratorExit, SystemExit])
def test_after_an_exception_hooks_are_gone_and_nothing_is_written(error, tmp_path):
    net = train(network(tmp_path / "x.zarr", **KEEP), [0])
    quiet, before = listeners(net), snapshot(tmp_path)
    with pytest.raises(error), net.trace_epoch(1):
        net.labels(Y[:9])
        F.cross_entropy(net(X[:9]), Y[:9]).backward()
        net.note(loss=1)
        assert sum(listeners(net)) > sum(quiet)
        raise error("in the middle")
    assert listeners(net) == quiet
    assert snapshot(tmp_path) == before
    assert train(net, [1]).network_trace.epochs == [0, 1]   # and it can go on


def test_an_error_in_the_model_leaves_nothing_either(tmp_path):
    net = train(network(tmp_path / "x.zarr", **KEEP), [0])
    quiet, before = listeners(net), snapshot(tmp_path)
    with pytest.raises(RuntimeError, match="shapes"), net.trace_epoch(1): net(X[:9, :5])
    assert listeners(net) == quiet == [0] * len(quiet)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("intervals, epochs, expected", [(None, 5, [0, 1, 2, 3, 4]), (2, 5, [0, 2, 4]), (-1, 5, [4]), ([0, 3], 5, [0, 3]), (range(1, 3), 5, [1, 2]), (7, 5, [0])])
def test_epoch_intervals(intervals, epochs, expected):
    net = train(network(epoch_intervals=intervals, num_epochs=epochs), range(epochs))
    trace, whole = net.network_trace, train(network(), range(epochs)).network_trace
    assert trace.epochs == expected == list(trace.epoch_frame().index)
    assert trace.to_frame().equals(whole.to_frame(epochs=expected))
    assert sum(listeners(net)) == 0


@pytest.mark.parametrize("intervals", [0, -2, True, "2", 2.0, [], [5], [-1], ["1"]])
def test_intervals_that_mean_nothing_are_refused(intervals, tmp_path):
    with pytest.raises(BadInput) as caught: network(tmp_path / "x.zarr", epoch_intervals=intervals, num_epochs=5)
    assert "epoch_intervals" in str(caught.value)
    assert is_one_sentence(str(caught.value))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", KEEP)
def test_dropped_is_not_stored_and_says_how_to_keep_it(flag, tmp_path):
    trace, what = train(network(tmp_path / "x.zarr", **KEEP | {flag: True}), [0]).network_trace, flag.removeprefix("drop_")
    assert not [p for p in (trace.path / what).rglob("*") if p.name != "zarr.json"]
    if what != "batches":
        with pytest.raises(BadInput, match=f"{flag}=False"): getattr(trace, what)("output")
    others = [w for w in ("weights", "biases") if w != what]
    for other in others: assert getattr(trace, other)("output").shape[:2] == (1, 10)
    assert ("batches" in trace.to_xarray()) == (what != "batches")


def test_the_set_of_metrics_is_open(tmp_path):
    mine = dict(weight_median=lambda state: None if state.weight is None else state.weight.median(1).values, activation_range=lambda state: state.activation.max - state.activation.min, number=lambda state: np.arange(state.layer.width))
    net = train(network(tmp_path / "x.zarr", metrics=mine), [0])
    frame = NetworkTrace.open(tmp_path / "x.zarr").to_frame()
    assert np.allclose(frame.activation_range, frame.activation_max - frame.activation_min, rtol=1e-5)
    assert frame.loc[(0, "output")].number.tolist() == [*range(10)]
    medians = frame.loc[(0, "output")].weight_median.to_numpy("f4")
    assert np.array_equal(medians, net.model[2].weight.detach().median(1).values)
    assert frame.loc[(0, "input")].weight_median.isna().all()


@pytest.mark.parametrize("metric, error", [(lambda s: torch.zeros(3), "metric mine gave"), (lambda s: torch.zeros(s.layer.width, 1), "metric mine gave"), (lambda s: 1., "metric mine gave"), (lambda s: "x", "mine"), (lambda s: 1 / 0, "division")])
def test_a_metric_of_another_shape_is_refused_and_nothing_is_written(metric, error, tmp_path):
    model = mlp()
    with pytest.raises(BadInput, match=error) as caught: network(tmp_path / "x.zarr", model, metrics=dict(mine=metric), **KEEP)
    assert is_one_sentence(str(caught.value))
    assert list(tmp_path.iterdir()) == []
    assert sum(listeners(model)) == 0   # before any training


def test_an_evaluation_does_not_count():
    plain, net = train(network(), [0]), network()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    with net.trace_epoch(0):
        for rows in torch.as_tensor(np.random.default_rng(0).permutation(96)).split(32):
            net.labels(Y[rows])
            optimizer.zero_grad()
            F.cross_entropy(net(X[rows]), Y[rows]).backward()
            optimizer.step()
            with net.paused(): F.cross_entropy(net(X[200:]), Y[200:])
        trace_inference(net, X[300:340], Y[300:340], name="middle")
    assert net.network_trace.to_frame().equals(plain.network_trace.to_frame())
    assert net.network_trace.to_frame(by_class=True).equals(plain.network_trace.to_frame(by_class=True))


def test_the_statistics_are_those_of_the_activations():
    "Against NeuronStats on all activations at once."
    net, seen = network(quantiles=True), []
    with net.trace_epoch(0), net.model[0].register_forward_hook(lambda m, i, o: seen.append(o.detach().relu())):
        for part in X[:150].split(40): net(part)
    expected, frame = NeuronStats(12).update(torch.cat(seen)), net.network_trace.to_frame(layers=["hidden_1"])
    for name in ("mean", "std", "skewness", "kurtosis", "min", "max", "firing_rate", "iqr", "entropy"):
        assert np.allclose(frame[f"activation_{name}"], getattr(expected, name), rtol=1e-4, atol=1e-6, equal_nan=True), name


def test_arrays_of_a_temporary_trace_outlive_its_network():
    def make(): return train(network(**KEEP), [0]).network_trace
    trace, cube, weights = make(), make().to_xarray(), make().weights("output")
    gc.collect()
    assert trace.to_frame().activation_mean.notna().all()
    assert cube.metrics.sel(metric="activation_mean").notnull().all()
    assert weights.notnull().all()


class StepsFirst(nn.Module):
    "Samples come first, but its transformer has them second."
    def __init__(self):
        super().__init__()
        self.encoder, self.out = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.), nn.Linear(8, 2)
    def forward(self, x): return self.out(self.encoder(x.transpose(0, 1)).mean(0))


class StepsFirstLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(8, 12), nn.Linear(12, 2)
    def forward(self, x): return self.out(self.lstm(x.transpose(0, 1))[0])[-1]


@pytest.mark.parametrize("make, layer", [(StepsFirst, "encoder.linear1"), (StepsFirstLSTM, "out"), (StepsFirstLSTM, "lstm")])
def test_samples_along_the_second_axis_are_told_apart(make, layer):
    torch.manual_seed(0)
    model, x, y, seen = make(), torch.randn(6, 4, 8), torch.tensor([0, 1, 0, 1, 0, 1]), []
    x[y == 1] += 3
    net = TraceableNN(model, example=x, classes=2)
    with net.trace_epoch(0), torch.no_grad(), model.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.append((o[0] if isinstance(o, tuple) else o).detach())):
        net.labels(y)
        net(x)
    acts = seen[0].transpose(0, 1)   # sample, step, neuron
    found = net.network_trace.to_frame(layers=[layer], by_class=True)["mean"].unstack("class").to_numpy()
    for c in (0, 1): assert np.allclose(found[:, c], acts[y == c].mean((0, 1)), atol=1e-5)
    assert np.allclose(trace_inference(net, x, y).data.activation.sel(layer=layer), acts.mean(1), atol=1e-5)


def test_as_many_steps_as_samples_are_not_guessed(caplog):
    net = TraceableNN(StepsFirst(), example=torch.randn(4, 4, 8), classes=2)
    with caplog.at_level(logging.WARNING, "neural_introspection"), net.trace_epoch(0), torch.no_grad():
        net.labels(torch.tensor([0, 1, 0, 1]))
        net(torch.randn(4, 4, 8))
    trace = net.network_trace
    assert "L_encoder.linear1" in caplog.text
    assert not trace.to_frame(layers=["encoder.linear1"], by_class=True)["count"].any()
    assert trace.to_frame(layers=["encoder.linear1"]).activation_mean.notna().all()
    assert trace["E_0/L_out/n_0"].classes["count"].tolist() == [2, 2]
    assert trace_inference(net, torch.randn(4, 4, 8)).data.activation.sel(layer="encoder.linear1").isnull().all()


def test_a_packed_sequence_has_no_samples_at_inference():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 3)
        def forward(self, x, lengths): return self.out(self.lstm(rnn.pack_padded_sequence(x, lengths, batch_first=True))[1][0][-1])
    x, lengths = torch.randn(4, 5, 8), torch.tensor([5, 3, 2, 2])   # 12 rows, as if 3 of each of the 4
    found = trace_inference(TraceableNN(Packed(), example=(x, lengths)), [((x, lengths), torch.tensor([0, 1, 2, 0]))])
    assert found.data.activation.sel(layer="lstm").isnull().all()
    assert found.data.activation.sel(layer="out").notnull().all()


def test_two_views_in_a_batch_have_no_labels(caplog):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()
        def forward(self, x): return self.net(torch.cat([x, x.flip(1)])).unflatten(0, (2, -1)).mean(0)
    net = TraceableNN(Views(), example=X[:4], classes=10, layers={"output": "net.2"})
    with caplog.at_level(logging.WARNING, "neural_introspection"), net.trace_epoch(0): net.labels(Y[:8]), net(X[:8])
    assert "L_output" in caplog.text
    assert not net.network_trace["E_0/L_output/n_0"].classes["count"].any()


@pytest.mark.parametrize("labels", [Y[:64], torch.rand(32), F.one_hot(Y[:32], 10)])
def test_labels_that_do_not_belong_to_the_samples(labels, caplog):
    net = network()
    with caplog.at_level(logging.WARNING, "neural_introspection"), contextlib.suppress(BadInput), net.trace_epoch(0):
        net.labels(labels)
        net(X[:32])
    assert not net.network_trace.epochs or not net.network_trace["E_0/L_output/n_0"].classes["count"].any()


def test_normalisation_and_pooling_after_a_convolution_have_its_channels():
    model = nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(45, 2))
    net = TraceableNN(model, example=torch.randn(2, 3, 20), layers=["0", "1", "2"])
    assert [(layer.width, layer.kind) for layer in net.layers] == [(5, "channel")] * 3


class Sigmoid(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 1))
    def forward(self, x): return torch.sigmoid(self.net(x))


def test_a_sigmoid_within_forward_is_a_probability():
    torch.manual_seed(0)
    model = Sigmoid()
    found = trace_inference(TraceableNN(model, example=X[:2]), X[:300], ((up := model(X[:300])[:, 0]) > .5).long())
    assert found.accuracy == 1
    assert np.allclose(found.data.confidence, torch.maximum(up, 1 - up).detach())


def test_no_number_is_no_right_answer():
    net = network(classes=None)
    with torch.no_grad(): net.model[2].weight[0, 0] = math.nan
    found = trace_inference(net, X[:20], torch.zeros(20).long())
    assert found.accuracy == 0
    assert found.data.prediction.isnull().all()


@pytest.mark.parametrize("data, rows, labelled", [
    (X[:64].split(32), 64, False), ([X[:32], X[32:64]], 64, False), (torch.utils.data.TensorDataset(X[:64]), 64, False),
    (torch.utils.data.TensorDataset(X[:64], Y[:64]), 64, True), ((X[:64], Y[:64]), 64, True), ((X[:64].numpy(), Y[:64].numpy()), 64, True),
    (torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X[:64], Y[:64]), 20), 64, True), ([(X[:64], Y[:64])], 64, True)])
def test_data_in_any_shape(data, rows, labelled):
    net = network()
    frame = trace_inference(net, data).to_frame()
    assert len(frame) == rows
    assert frame.label.notna().all() == labelled == frame.label.notna().any()
    assert frame.prediction.tolist() == net(X[:64]).argmax(1).tolist()
    assert not labelled or frame.label.tolist() == Y[:64].tolist()


def test_a_batch_of_several_inputs_and_labels():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()
        def forward(self, x, mask): return self.net(x * mask)
    net, mask = TraceableNN(Masked(), example=(X[:2], X[:2] > 0)), X[:40] > .3
    for batch, labelled in (([X[:40], mask], False), ([X[:40], mask, Y[:40]], True)):
        frame = trace_inference(net, [batch]).to_frame()
        assert frame.prediction.tolist() == net(X[:40], mask).argmax(1).tolist()
        assert frame.label.notna().all() == labelled


def test_a_neuron_that_knows_a_hard_class_makes_nocontrast_groups():
    "Class 0 is hard: a neuron that tells it from the others differs between right and wrong samples, but not within a class."
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], 200)
    right = np.where(labels == 0, rng.random(400) < .5, rng.random(400) < .98)
    acts = np.stack([labels + .1 * rng.standard_normal(400), right + rng.standard_normal(400)], 1).astype("f4")
    from neural_introspection.tracing.samples import contrast_groups
    found = contrast_groups(acts, right, labels.astype("f4"), 199, 0)
    assert found.p[0] > .05 > found.p[1]
    assert abs(found.right[0] - found.wrong[0]) > .3
    assert abs(found.difference[0]) < .1


def test_a_model_whose_forward_is_not_called_says_so(caplog):
    net = network(batch_interval=4, **KEEP)
    with caplog.at_level(logging.WARNING, "neural_introspection"), net.trace_epoch(0): net.model[2](net.model[1](net.model[0](X[:9])))
    assert "batch_interval and drop_batches had no effect" in caplog.text


@pytest.mark.parametrize("options, words", [(dict(classes=0), "classes 0"), (dict(classes="3"), "classes '3'"), (dict(example=torch.zeros(2, 5)), "give example="), (dict(metrics=[len]), "functions by name")])
def test_options_that_mean_nothing(options, words, tmp_path):
    with pytest.raises(BadInput, match=words) as caught: network(tmp_path / "x.zarr", **options)
    assert is_one_sentence(str(caught.value))
    assert list(tmp_path.iterdir()) == []

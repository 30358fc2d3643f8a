"""What was right when faults of other projects were tried here: padding, hooks, constant neurons, wide sites.

Held elsewhere: hidden states (`explanations/03_families`), odd Unicode (`analysis/test_token_level`), traces
(`tracing/test_trace`, `unit/tracing/test_traced_models`), paths (`cli/test_bad_input`), Keras
(`activations/test_keras`), full disks and kills (`core/test_writers`), collapse (`explanations/01_collapse`).
"""
import gc
import io

import numpy as np
import pytest
import torch
from neural_introspection import PolysemanticDetector, capture, load_model
from neural_introspection.activations import TokenSelection, activation_batches
from neural_introspection.activations.statistics import NeuronStats
from neural_introspection.introspection import NeuronScanner
from neural_introspection.introspection.atlas import NeuronAtlas
from neural_introspection.models import encode, token_batch
from neural_introspection.models.tokens import added_tokens
from torch import nn
from traces import mlp, network, X, Y

TEXTS = ["def read(path):", "The value of the list is None, and so it raises an error.", "x"]
ODD = {"invisible": "\u200b\u2060", "nul": "a\0b", "line separator": "one\u2028two", "blank": " \t\n"}
POST = "blocks.2.mlp.hook_post"


@pytest.fixture(scope="module")
def model(): return load_model("pocket", device="cpu")


@pytest.fixture
def own():
    "A model that the test may change."
    return load_model("pocket", device="cpu")


def values(model, texts):
    "The activations of each text's own tokens, in order."
    batch, = activation_batches(model, texts, [POST], TokenSelection("all", None))
    rows = [(batch.text == i).nonzero()[:, 0] for i in range(len(texts))]
    return [batch.values[POST][found[batch.position[found].argsort()]] for found in rows]


@pytest.mark.parametrize("pad", ["<|pad|>", "<|endoftext|>", None])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_text_is_what_it_is_alone(own, pad, side):
    own.tokenizer.padding_side, own.tokenizer.pad_token = side, pad
    alone = [values(own, [text])[0] for text in TEXTS]
    for together, expected in zip(values(own, TEXTS), alone): assert torch.allclose(together, expected, atol=2e-6)


@pytest.mark.parametrize("adds", [True, False])
def test_a_text_begins_with_one_bos(own, adds):
    own.tokenizer.add_bos_token = adds
    bos, = added_tokens(own)[0]
    assert (token_batch(own, encode(own, TEXTS)).ids == bos).sum(1).tolist() == [1]*len(TEXTS)


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_are_texts(model, text):
    stats = NeuronScanner(model, "mlp_out", "all", sink_ratio=None).scan([text, *TEXTS]).stats[2]
    assert int(stats.count.max()) == sum(map(len, encode(model, [text, *TEXTS])))


def test_what_was_captured_is_not_changed_in_place():
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)), torch.randn(5, 4)
    with capture(net, ["0"]) as acts: net(x)
    assert torch.equal(acts["0"], net[0](x))


def test_hooks_of_others_stay_and_captures_nest():
    net, x, seen = mlp(), X[:4], []
    net[0].register_forward_hook(lambda module, args, out: seen.append(out))
    with capture(net, ["0"]) as outer, capture(net, ["0", "2"]) as inner: net(x)
    net(x)
    assert len(seen) == 2
    assert torch.equal(outer["0"], inner["0"])
    assert torch.equal(inner["2"], net(x))


def test_captures_leave_no_objects():
    net, x = mlp(), X[:4]
    def objects():
        for _ in range(50):
            with capture(net, ["0", "2"]): net(x)
        gc.collect()
        return sum(issubclass(type(o), (torch.Tensor, nn.Module)) for o in gc.get_objects())
    assert objects() == objects()


def test_saved_models_need_nothing_of_ours():
    net, file = mlp(), io.BytesIO()
    with capture(net, ["0"]): torch.save(net, file)
    assert b"neural_introspection" not in file.getvalue()


def test_neurons_that_never_change_have_no_score(own):
    with torch.no_grad():
        layer = own.original_model.transformer.h[2].mlp.c_fc
        layer.weight[:, :6] = 0
        layer.bias[:6] = torch.tensor([0, 1., -50, 50, 3, -1])
    atlas = NeuronAtlas(own, feature_layer=1, n_permutations=4, folds=3)
    result = atlas.probe([f"{a} {b}" for a in TEXTS for b in "abcd"])
    constant = result.data.sel(layer=2, neuron=slice(0, 5))
    assert np.isnan(constant.r2.values).all()


def test_constant_neurons_have_no_senses():
    torch.manual_seed(0)
    acts = torch.cat([torch.randn(90, 4), torch.zeros(90, 1), torch.full((90, 1), 7.)], 1)
    frame = PolysemanticDetector({"a": acts}).detect().to_frame().set_index("neuron")
    assert frame.loc[[4, 5], "p"].isna().all()
    assert (frame.loc[[4, 5], "senses"] == 0).all()


def test_wide_sites():
    x = torch.randn(3, 131_072)
    stats = NeuronStats(x.shape[1], quantiles=False).update(x[:2]).update(x[2:])
    assert torch.allclose(stats.mean.float(), x.mean(0), atol=1e-5)


def test_accumulated_gradients_are_one_steps():
    def traced(size):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), .1)
        with net.trace_epoch(0):
            for rows in torch.arange(64).split(size):
                net.labels(Y[rows])
                loss = torch.nn.functional.cross_entropy(net(X[rows]), Y[rows], reduction="sum")
                loss.backward()
            optimizer.step()
        return net
    whole, parts = (traced(size) for size in (64, 16))
    for a, b in zip(whole.model.parameters(), parts.model.parameters()): assert torch.allclose(a, b, atol=1e-5)
    a, b = (net.network_trace.to_frame()[["activation_mean", "activation_std"]] for net in (whole, parts))
    assert np.allclose(a, b, atol=1e-5)

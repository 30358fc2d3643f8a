"""Faults that users of other projects reported, tried here: one test for each kind, named after it.

The numbers are the rows of the list of faults in the issue on any model. Families of models, as a whole, are tried on
the page `explanations/03_families`.
"""
import _thread
import ast
import copy
import io
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import neural_introspection
import numpy as np
import pytest
import torch
from neural_introspection import capture, edit, load_model, load_texts
from neural_introspection.activations import Contexts, ModelInterface, hooks
from neural_introspection.activations.contexts import contexts_by_quantile
from neural_introspection.activations.positions import sink_tokens
from neural_introspection.activations.statistics import layer_statistics
from neural_introspection.activations.units import find_units, make_reference
from neural_introspection.analysis.logits import output_directions
from neural_introspection.analysis.measures import _standard
from neural_introspection.core import BadAddress, BadData, BadInput, BadRunFolder, BadTexts, ModelNotFound, NeuronAddress
from neural_introspection.introspection import NeuronScanner
from neural_introspection.introspection.atlas import NeuronAtlas
from neural_introspection.introspection.dataset import ActivationDatasetGenerator
from neural_introspection.introspection.leakage import leakage_label
from neural_introspection.models import Examples, as_bridge, check_sites, encode, layer_width
from neural_introspection.models.loading import pocket_folder
from neural_introspection.models.sites import mlp_input
from neural_introspection.stats import score_predictions
from neural_introspection.tracing import TraceableNN
from torch import nn
from torch.amp import GradScaler
from torch.nn.utils import prune, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GraniteConfig, MixtralConfig, Olmo2Config

SIZES = dict(vocab_size=2048, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
             max_position_embeddings=64)


@pytest.fixture(scope="module")
def model(): return load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def tiny(model):
    "Makes a tiny model with random weights of a configuration."
    def make(config, **options):
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(config(**SIZES, **options)).eval()
        return as_bridge(made, model.tokenizer, config.__name__.removesuffix("Config"))
    return make


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


X = torch.arange(20.).view(5, 4)


def test_2_an_output_direction_is_what_reaches_the_stream(tiny):
    granite, address = tiny(GraniteConfig, residual_multiplier=0.25), NeuronAddress("blocks.1.mlp.hook_post", 5)
    assert torch.allclose(output_directions(granite, [address])[0], granite.blocks[1].mlp.W_out[5]/4, atol=1e-6)
    with pytest.raises(BadInput, match="no output direction"): output_directions(tiny(Olmo2Config), [address])


def test_4_experts_are_no_neurons(tiny):
    mixtral = tiny(MixtralConfig, num_key_value_heads=2, num_local_experts=4)
    with pytest.raises(BadInput, match="mlp_out of Mixtral cannot be used"): layer_width(mixtral, "mlp_out")
    assert layer_width(mixtral, "resid_post") == 32


@pytest.mark.parametrize("parallel, label", [(True, "trivial"), (False, "upstream")])
def test_5_and_24_blocks_side_by_side(parallel, label, tiny):
    neox = tiny(GPTNeoXConfig, use_parallel_residual=parallel)
    assert check_sites(neox).parallel == parallel
    assert leakage_label("blocks.0.hook_resid_post", "blocks.1.mlp.hook_post", check_sites(neox).layout) == label
    assert mlp_input(neox, 1) == f"blocks.1.hook_resid_{'pre' if parallel else 'mid'}"


def test_6_an_edit_that_reaches_nothing_is_an_error(net):
    with pytest.raises(BadInput, match="nothing flowed at 1"), edit(net, {"1": torch.zeros_like}): net[0](X)
    with edit(net, {"1": torch.zeros_like}, required=False): net[0](X)


class Thrice(nn.Module):
    "One activation after three layers."
    def __init__(self):
        super().__init__()
        self.layers, self.relu = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), nn.ReLU()

    def forward(self, x):
        for layer in self.layers: x = self.relu(layer(x))
        return x


def test_7_calls_of_one_module_have_their_own_sites():
    net = Thrice()
    interface, sites = ModelInterface(net), [f"relu:{i}" for i in range(3)]
    with capture(net, sites) as acts: out = net(X)
    assert torch.equal(acts["relu:2"], out)
    assert torch.equal(acts["relu:0"], net.relu(net.layers[0](X)))
    for site in sites: assert torch.equal(interface.activations([site], X)[site], acts[site])
    with pytest.raises(BadInput, match="relu:0 or relu:1"), capture(net, ["relu"]): net(X)
    with pytest.raises(BadInput, match="relu:0 or relu:1"): interface.activations(["relu"], X)


class ConvNeXt(nn.Module):
    "A convolution, and linear layers with the channels last around an activation."
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU()
        self.up, self.act, self.drop, self.down = nn.Linear(8, 32), nn.GELU(), nn.Dropout(), nn.Linear(32, 8)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(x))).movedim(1, -1)
        return self.down(self.drop(self.act(self.up(x)))).movedim(-1, 1)


def test_8_neurons_are_along_the_axis_of_the_layer_before():
    torch.manual_seed(0)
    net, x = ConvNeXt(), torch.randn(2, 3, 16, 12)
    widths = dict(conv=8, bn=8, relu=8, up=32, act=32, drop=32, down=8)
    assert {site: find_units(net, site, Examples(x, torch.zeros(2))).count for site in widths} == widths
    stats = layer_statistics(ModelInterface(net), list(widths), [x])
    assert {site: found.n_neurons for site, found in stats.items()} == widths
    assert {layer.name: layer.width for layer in TraceableNN(net, example=x, layers=list(widths)).layers} == widths


def test_8_an_axis_that_is_not_known_is_an_error():
    net = nn.Sequential(nn.Conv1d(3, 8, 1), nn.Flatten(), nn.Unflatten(1, (2, 20)), nn.ReLU())
    with pytest.raises(BadInput, match=r"which axis of 3 has the neurons is not known"):
        find_units(net, "3", Examples(torch.randn(2, 3, 5), torch.zeros(2)))


def test_9_copies_and_saved_models_carry_nothing(net):
    with capture(net, ["0"]) as acts:
        copied, saved = copy.deepcopy(net), io.BytesIO()
        copied(X + 100)
        torch.save(net, saved)
        assert not acts
        net(X)
    assert torch.equal(acts["0"], net[0](X))
    saved.seek(0)
    assert torch.equal(torch.load(saved, weights_only=False)(X), net(X))


@pytest.fixture
def train():
    "Three steps of a model within an epoch of its trace; its gradients as the optimiser saw them."
    def steps(net, scale=None):
        scaler = GradScaler("cpu", init_scale=scale or 1., enabled=scale is not None)
        optimizer, seen = torch.optim.SGD(net.model.parameters(), .1), []
        with net.trace_epoch(len(net.network_trace)):
            for i in range(3):
                loss = net(X + i).square().mean()
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                seen.append([p.grad.clone() for p in net.model.parameters()])
                scaler.step(optimizer)
                scaler.update()
        return seen
    return steps


WRITER = """
import sys
from neural_introspection.tracing import TraceableNN
net = TraceableNN(input_size=4, hidden_size=8, output_size=2, path=sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


def test_10_two_processes_do_not_write_one_trace(tmp_path, net):
    path = tmp_path / "run.zarr"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"ready\n"
        mine = TraceableNN(net, path=path)   # it may be read
        with pytest.raises(BadRunFolder, match="another process writes to"), mine.trace_epoch(0): pass
        with pytest.raises(BadRunFolder, match="another process writes to"): TraceableNN(net, path=path, overwrite=True)
    with mine.trace_epoch(0): net(X)
    with TraceableNN(net, path=path).trace_epoch(1): net(X)   # another object of the same process
    assert mine.network_trace.refresh().epochs == [0, 1]


def test_11_names_that_clean_to_equal_ones_are_distinct():
    net = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("a b", "a_b", "a/b", "Conv", "conv")})
    net.forward = lambda x: [layer(x) for layer in net.values()]
    layers = TraceableNN(net, example=X).layers
    assert [layer.name for layer in layers] == ["a_b", "a_b_2", "a_b_3", "Conv", "conv_2"]
    assert [layer.site for layer in layers] == list(net)
    with pytest.raises(BadInput, match="'Conv' and 'conv' would share a folder"):
        TraceableNN(net, example=X, layers=["Conv", "conv"])


@pytest.fixture
def overflow():
    "Makes one token of each text infinite, as half precision does with large values."
    def change(x):
        x = x.clone()
        x[:, 2] = torch.inf
        return x
    return change


def test_12_values_that_are_not_finite_are_left_out_and_counted(model, overflow):
    texts = load_texts("synthetic", 40, seed=0).texts
    tokens = sum(map(len, encode(model, texts)))
    with edit(model, {"blocks.3.mlp.hook_post": overflow}):
        atlas = NeuronAtlas(model, feature_layer=1, layers=[0, 3], n_permutations=1, control_tasks=1).probe(texts)
        scan = NeuronScanner(model, token_pos="all", layers=[3]).scan(texts)
        rows = ActivationDatasetGenerator(model, "blocks.3.mlp.hook_post[7]", "all").generate(texts)
    assert (atlas.about["tokens"], atlas.about["nonfinite"]) == (tokens - 40, 40)
    assert np.isfinite(atlas.data.r2.values).all()   # none is called constant
    assert scan.about["nonfinite_values"] == 40 * 512
    assert (len(rows), rows.counts.nonfinite) == (tokens - 40, 40)
    for result in (atlas, scan, rows): assert "not finite" in result.summary()


def test_12_nothing_finite_is_an_error(model):
    with edit(model, {"blocks.3.mlp.hook_post": lambda x: x * torch.nan}):
        with pytest.raises(BadTexts, match="of all 2 tokens at position last are not finite"):
            ActivationDatasetGenerator(model, "blocks.3.mlp.hook_post[7]").generate(["one two", "three"])
    with pytest.raises(BadData, match="1 of 2 rows have a value or prediction that is not finite"):
        score_predictions([1., np.nan], [1., 2.], [0, 1])


def test_12_an_overflow_is_no_attention_sink():
    stream, mask = torch.ones(1, 4, 8), torch.ones(1, 4, dtype=torch.bool)
    stream[0, 1], stream[0, 2] = torch.inf, 500
    assert sink_tokens(stream, mask).tolist() == [[False, False, True, False]]


def test_12_a_patch_is_never_from_an_example_that_overflows(net):
    broken = X.clone()
    broken[2] = math.inf
    reference = make_reference(net, "0", Examples(broken, torch.zeros(5)), sequences=5)
    assert len(reference.sequences) == len(reference.keys) == 4
    assert torch.stack(reference.sequences).isfinite().all()


def test_12_contexts_and_measures_leave_out_what_is_not_finite():
    values = torch.tensor([[1.], [torch.inf], [2.], [torch.nan]])
    table = contexts_by_quantile(values, Contexts(np.arange(4), np.zeros(4, int)), [0])
    assert table.activation.tolist() == [2, 1]
    assert float(_standard(torch.tensor([[1.], [torch.inf], [3.]]))[1]) == 0   # filled with the mean of the others


def test_13_the_name_of_a_special_token_is_text(model):
    ids, = encode(model, ["one <|endoftext|> two"])
    assert not set(ids) & set(model.tokenizer.all_special_ids)


def test_15_passes_of_other_threads_are_not_seen(net):
    with capture(net, ["0"]) as acts:
        other = threading.Thread(target=net, args=(X + 100,))
        other.start()
        other.join()
        assert not acts
        net(X)
    assert torch.equal(acts["0"], net[0](X))


@pytest.mark.parametrize("thread", ["its own", "autograd's"])
def test_15_a_checkpointed_block_is_changed_when_it_is_computed_again(thread, net):
    "Autograd computes it in a thread of its own for each GPU: one that Python did not make, as here."
    seen, errors, done = [], [], threading.Event()
    def doubled(x):
        seen.append(len(x))
        return x * 2
    x = X.clone().requires_grad_()
    def backward(loss):
        try: loss.backward()
        except Exception as error: errors.append(error)
        finally: done.set()
    with hooks(net, {"0": doubled}):
        loss = net(x).square().sum()
        loss.backward()
        wanted, x.grad = x.grad, None
        del seen[:]
        loss = checkpoint(net, x, use_reentrant=False).square().sum()
        if thread == "its own": backward(loss)
        else: _thread.start_new_thread(backward, (loss,))
        assert done.wait(60)
    assert not errors
    assert len(seen) == 2
    torch.testing.assert_close(x.grad, wanted)


@pytest.mark.parametrize("change", [partial(prune.random_unstructured, name="weight", amount=.5), weight_norm,
                                    spectral_norm], ids=["prune", "weight_norm", "spectral_norm"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_16_the_weight_traced_is_that_of_the_next_pass(change, net, train):
    change(net[0])
    traced = TraceableNN(net, layers=["0"], drop_weights=False)
    train(traced)
    net.eval()(X)   # the pass sets the weight
    assert np.allclose(traced.network_trace.weights("0").values[0], net[0].weight.detach().numpy(), atol=1e-6)


def test_16_gradients_are_of_the_parameter_that_exists(net, train):
    prune.random_unstructured(net[0], "weight", .5)
    traced = TraceableNN(net, layers=["0"])
    names = [name for name, _ in net.named_parameters()]
    lengths = torch.stack([grads[names.index("0.weight_orig")].norm(dim=1) for grads in train(traced)])
    found = traced.network_trace.to_frame(metrics=["gradient_mean"]).gradient_mean
    assert np.allclose(found, lengths.mean(0), rtol=1e-5)
    assert "before pruning" in traced.layers[0].notes[0]


def test_17_gradients_of_a_scaled_loss_are_divided_by_the_scale(net, train):
    scale = GradScaler.scale
    traced, scaled = TraceableNN(copy.deepcopy(net)), TraceableNN(net)
    train(traced)
    train(scaled, 2.**16)
    a, b = (t.network_trace.to_frame(metrics=["gradient_mean", "gradient_max"]).to_numpy() for t in (traced, scaled))
    assert np.allclose(a, b, rtol=1e-5, equal_nan=True)
    assert GradScaler.scale is scale


class Output(nn.Module):
    "A module whose output is what a function makes of its input."
    def __init__(self, make):
        super().__init__()
        self.layer, self.make = nn.Linear(4, 4), make

    def forward(self, x): return self.make(self.layer(x))


def test_18_logits_are_read_and_not_the_loss():
    net = Output(lambda x: dict(loss=x.sum(), logits=x))
    whole = nn.Sequential(net)
    with capture(whole, ["0", "0@loss"]) as acts: out = whole(X)
    assert torch.equal(acts["0"], out["logits"])
    assert torch.equal(acts["0@loss"], out["loss"])
    assert layer_statistics(ModelInterface(whole), ["0"], [X])["0"].n_neurons == 4
    with edit(whole, {"0": torch.zeros_like}): assert not whole(X)["logits"].any()
    with pytest.raises(BadInput, match=r"have shape \(\): give a layer with"):
        layer_statistics(ModelInterface(whole), ["0@loss"], [X])


def test_18_a_part_of_a_nested_output_is_named():
    net = nn.Sequential(nn.LSTM(4, 3, batch_first=True))
    with capture(net, ["0", "0@1.0"]) as acts: out, (hidden, _) = net(X[None])
    assert torch.equal(acts["0"], out)
    assert torch.equal(acts["0@1.0"], hidden)
    with pytest.raises(BadAddress, match="no tensor flows at site '0@2'"), capture(net, ["0@2"]): net(X[None])


HALF = "half \ud83d"


def test_19_half_a_character_is_named(tmp_path, model):
    table = tmp_path / "texts.jsonl"
    table.write_text(json.dumps(dict(text="whole 😀")) + "\n" + json.dumps(dict(text=HALF)) + "\n")
    for read in (lambda: load_texts(table), lambda: load_texts(["whole", HALF]), lambda: encode(model, ["whole", HALF])):
        with pytest.raises(BadTexts, match="1 of 2 texts.* have half a character .* such as text 1"): read()


DOUBLES = """activations/interventions activations/moments activations/statistics analysis/context_groups
    analysis/correlation analysis/measures analysis/token_level antitraining/certificate antitraining/compression
    antitraining/information introspection/crossfit introspection/drift introspection/monitors introspection/sums
    tracing/metrics tracing/recorder""".split()   # modules whose float64 is of values on the CPU, as a reader saw


def test_23_float64_is_made_on_the_cpu():
    found = set()
    for file in Path(neural_introspection.__file__).parent.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            if not isinstance(call.func, ast.Attribute) or call.func.attr != "double": continue
            of = call.func.value
            if not (isinstance(of, ast.Call) and getattr(of.func, "attr", "") == "cpu"):
                found.add("/".join(file.with_suffix("").parts[-2:]))
    assert found == set(DOUBLES)


@pytest.fixture
def folder(tmp_path): return shutil.copytree(pocket_folder(), tmp_path / "model")


def test_25_quantised_weights_are_refused_before_loading(folder):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = dict(quant_method="bitsandbytes")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelNotFound, match=r"quantised \(bitsandbytes\)"): load_model(folder)


def test_26_a_tokenizer_with_one_token_more_than_the_embedding(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelNotFound, match="knows 2,049 tokens and its embedding 2,048"): load_model(folder)


needs_keras = pytest.mark.skipif(find_spec("keras") is None, reason="needs Keras: install the extra tensorflow")

KERAS_ON_PYTORCH = """
import keras, torch
from neural_introspection import ModelInterface, capture, edit
x, i = torch.randn(5, 4), keras.Input((4,))
graph = keras.Model(i, keras.layers.Dense(2, name="out")(keras.layers.Dense(8, name="d")(i)))
row = keras.Sequential([i, keras.layers.Dense(8, name="d"), keras.layers.Dense(2, name="out")])
for model in (graph, row):
    assert ModelInterface(model).layer_names() == ["d", "out"]
    with capture(model, ["d"]) as acts: out = model(x)
    assert torch.equal(model.get_layer("out")(acts["d"]), out)
    with edit(model, {"d": torch.zeros_like}): assert not model(x).any()
"""


@needs_keras
def test_28_keras_on_pytorch():
    subprocess.run([sys.executable, "-c", KERAS_ON_PYTORCH], env=os.environ | dict(KERAS_BACKEND="torch"), check=True)


KERAS_THREADS = """
import keras, numpy, threading
from neural_introspection import capture
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="d")])
with capture(model, ["d"]) as acts:
    other = threading.Thread(target=model, args=(numpy.ones((1, 4)),))
    other.start()
    other.join()
    assert not acts
    model(numpy.zeros((3, 4)))
assert acts["d"].shape == (3, 2)
"""


@needs_keras
def test_28_keras_sees_passes_of_its_own_thread():
    subprocess.run([sys.executable, "-c", KERAS_THREADS], env=os.environ | dict(KERAS_BACKEND="torch"), check=True)


@dataclass(frozen=True)
class Frozen:
    "An output that cannot be made anew with another tensor."
    name: str
    values: torch.Tensor = field(init=False)


def frozen(x):
    made = Frozen("made")
    object.__setattr__(made, "values", x)
    return made


def test_29_an_edit_of_a_frozen_output():
    net = nn.Sequential(Output(frozen))
    with edit(net, {"0": torch.zeros_like}): out = net(X)
    assert (out.name, bool(out.values.any())) == ("made", False)
    assert net(X).values.any()


@pytest.mark.parametrize("kind, make", [("nested", lambda x: torch.nested.as_nested_tensor([x[:2], x])),
                                        ("sparse", torch.Tensor.to_sparse)])
def test_29_a_tensor_without_axes_is_an_error(kind, make):
    net = nn.Sequential(Output(make))
    with pytest.raises(BadInput, match=f"the tensor at 0 is {kind}"), capture(net, ["0"]): net(X)


def test_30_a_traced_network_says_what_to_save(net):
    traced = TraceableNN(net)
    with pytest.raises(BadInput, match="save its model"): torch.save(traced, io.BytesIO())
    assert torch.equal(copy.deepcopy(traced)(X), net(X))


def test_a_model_made_from_a_configuration_says_its_architecture(tiny):
    granite = tiny(GraniteConfig)   # such a configuration names none
    assert np.isfinite(granite(torch.tensor([[5, 6]])).detach().numpy()).all()


def test_small_a_compiled_model_does_not_blame_keras(net):
    with pytest.raises(BadInput, match=r"as of torch\.compile, runs no hooks"), edit(net, {"1": torch.zeros_like}): net[0](X)


def test_small_passes_of_a_closure_are_named(net, caplog):
    traced, optimizer = TraceableNN(net), torch.optim.LBFGS(net.parameters(), max_iter=4)
    def closure():
        optimizer.zero_grad()
        loss = traced(X).square().mean()
        loss.backward()
        return loss
    with traced.trace_epoch(0): optimizer.step(closure)
    assert "passes within 1 optimiser steps were counted" in caplog.text


def test_small_an_array_of_a_trace_is_netcdf(net, tmp_path):
    traced = TraceableNN(net)
    with traced.trace_epoch(0): traced(X)
    traced.network_trace.to_xarray("hidden_1").to_netcdf(tmp_path / "hidden.nc")
    assert (tmp_path / "hidden.nc").stat().st_size

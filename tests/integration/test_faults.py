"""Faults that users of other projects reported, tried here: one test for each kind, named after it.

The numbers are the rows of the list of faults in the issue on any model. Families of models, as a whole, are tried on
the page `explanations/03_families`.
"""
import copy
import io
import json
import shutil
import threading

import numpy as np
import pytest
import torch
from neural_introspection import capture, edit, load_model, load_texts
from neural_introspection.activations import Contexts, ModelInterface
from neural_introspection.activations.contexts import contexts_by_quantile
from neural_introspection.activations.positions import sink_tokens
from neural_introspection.activations.statistics import layer_statistics
from neural_introspection.activations.units import find_units
from neural_introspection.analysis.logits import output_directions
from neural_introspection.analysis.measures import _standard
from neural_introspection.core import BadData, BadInput, BadTexts, ModelNotFound, NeuronAddress
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
    assert leakage_label("blocks.0.hook_resid_post", "blocks.1.mlp.hook_post", parallel) == label
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
        atlas = NeuronAtlas(model, feature_layer=1, layers=[0, 3], permutations=1, control_tasks=1).probe(texts)
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


def test_a_model_made_from_a_configuration_says_its_architecture(tiny):
    granite = tiny(GraniteConfig)   # such a configuration names none
    assert np.isfinite(granite(torch.tensor([[5, 6]])).detach().numpy()).all()

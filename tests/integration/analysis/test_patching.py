"""Grids of patches are what one pass with a hook gives, in every family and precision, and stop and fail cleanly."""
import numpy as np
import pytest
import torch
import transformers
from neural_introspection.activations import capture, edit
from neural_introspection.analysis.attribution_patching import attribute_patches
from neural_introspection.analysis.patching import patch_activations
from neural_introspection.analysis.path_patching import patch_paths
from neural_introspection.analysis.planted_circuit import GATE, HEAD, circuit_model, circuit_pairs
from neural_introspection.core import BadInput
from neural_introspection.models import as_bridge, token_batch

SMALL = dict(vocab_size=2048, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
             max_position_embeddings=64, bos_token_id=0, eos_token_id=0)
FAMILIES = dict(
    grouped=(transformers.LlamaConfig, transformers.LlamaForCausalLM, dict(num_key_value_heads=2)),
    parallel=(transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM, dict(use_parallel_residual=True)),
    tied=(transformers.LlamaConfig, transformers.LlamaForCausalLM, dict(tie_word_embeddings=True)),
    normed=(transformers.Gemma2Config, transformers.Gemma2ForCausalLM,
            dict(num_key_value_heads=2, head_dim=8, sliding_window=16, query_pre_attn_scalar=8)),
)
PAIRS = circuit_pairs("random", 6, seed=3)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, pocket):
    config, kind, more = FAMILIES[request.param]
    torch.manual_seed(0)
    return as_bridge(kind(config(**SMALL | more, initializer_range=.2)), pocket.tokenizer, request.param)


def by_hand(model, pair, site, unit, column):
    "The change of the logit difference by one patch of one pair, in an ordinary pass."
    clean, corrupted, right, wrong = pair
    ids = [token_batch(model, [row]).ids for row in (clean, corrupted)]
    place = ids[0].shape[1] - len(clean) + column
    with torch.no_grad():
        with capture(model, [site]) as acts: model(ids[0])
        def put(x):
            x = x.clone()
            if unit is None: x[0, place] = acts[site][0, place]
            else: x[0, place, unit] = acts[site][0, place, unit]
            return x
        base = model(ids[1])[0, -1].float()
        with edit(model, {site: put}): patched = model(ids[1])[0, -1].float()
    return float(patched[right] - patched[wrong] - base[right] + base[wrong])


def n_hooks(model): return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


SITES = ["hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post", "attn.hook_z", "attn.hook_k",
         "blocks.1.mlp.hook_post[9]"]


def test_families(model):
    before = n_hooks(model)
    found = patch_activations(model, PAIRS, SITES, positions=[2, 4, 5], n_permutations=64)
    assert n_hooks(model) == before
    assert set(found.frame[found.frame.site.str.endswith("hook_k")].unit) == set(range(model.cfg.n_key_value_heads
                                                                                       or 4))
    scale = np.abs(found.source - found.base).max()
    for i, cell in found.frame.iterrows():
        unit = None if np.isnan(cell.unit) else int(cell.unit)
        assert by_hand(model, PAIRS[1], cell.site, unit,
                       int(cell.position)) == pytest.approx(found.effects[i, 1], abs=1e-4 * scale), tuple(cell)
    assert np.abs(found.effects).max() > .01 * scale


def test_families_estimates(model):
    found = attribute_patches(model, PAIRS, "hook_resid_post", [1], positions="each", n_exact=8, n_permutations=64)
    assert len(found.frame) == 32 * 6
    elsewhere = found.frame[found.frame.position != "5"]   # what leaves the last block is read at the end alone
    assert np.abs(elsewhere.effect).max() < 1e-6
    assert found.about["error"]["largest"]["r"] > .9
    paths = patch_paths(model, PAIRS, "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post", n_permutations=64)
    assert np.allclose(paths.frame.share, paths.frame.sender_share, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(pocket, dtype):
    whole, half = (circuit_model(pocket.tokenizer, dtype=d) for d in (torch.float32, dtype))
    pairs = circuit_pairs("copy", 8)
    found = [patch_activations(m, pairs, ["residual", "heads"], n_permutations=256).frame for m in (whole, half)]
    assert np.abs(found[0].share - found[1].share).max() < .1
    top = found[1][found[1].site == HEAD[0]].nlargest(1, "share").iloc[0]
    assert top.unit == HEAD[1]
    gated = attribute_patches(half, circuit_pairs("gate", 8), n_exact=4, n_permutations=256).top(1).iloc[0]
    assert (gated.site, gated.unit) == GATE


def test_a_grid_that_is_stopped_before_its_first_site_stops(pocket):
    calls = []
    def metric(logits, answers):
        calls.append(1)
        if len(calls) > 2: raise KeyboardInterrupt   # after the prompts as they are
        return logits.gather(1, answers) @ torch.tensor([1., -1.])
    before = n_hooks(pocket)
    with pytest.raises(KeyboardInterrupt): patch_activations(pocket, PAIRS, "residual", metric=metric)
    assert n_hooks(pocket) == before


def test_an_error_leaves_no_hook(pocket):
    calls, before = [], n_hooks(pocket)
    def metric(logits, answers):
        calls.append(1)
        if len(calls) > 3: raise RuntimeError("in the middle")
        return logits.gather(1, answers) @ torch.tensor([1., -1.])
    for ask in (lambda: patch_activations(pocket, PAIRS, "MLP", metric=metric),
                lambda: patch_paths(pocket, PAIRS, "blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out", metric=metric),
                lambda: attribute_patches(pocket, PAIRS, metric=metric)):
        calls.clear()
        with pytest.raises(RuntimeError, match="in the middle"): ask()
        assert n_hooks(pocket) == before


def test_noise_is_denoising_of_the_exchanged_pair(pocket):
    exchanged = [(b, a, wrong, right) for a, b, right, wrong in PAIRS]
    one = patch_activations(pocket, PAIRS, "residual", direction="noise", n_permutations=64)
    other = patch_activations(pocket, exchanged, "residual", n_permutations=64)
    assert np.allclose(one.effects, -other.effects, atol=1e-4)


def test_batches_change_nothing(pocket):
    whole, parts = (patch_activations(pocket, PAIRS, "MLP", batch_size=size, n_permutations=64) for size in (16, 4))
    assert np.allclose(whole.effects, parts.effects, atol=1e-4)
    assert np.allclose(whole.frame.other_share, parts.frame.other_share, atol=1e-4)


def test_encoders_are_refused(pocket):
    made = as_bridge(transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)), pocket.tokenizer, "bert")
    with pytest.raises(BadInput, match="predicts no next token"): patch_activations(made, PAIRS)

"""Labelled activations and the tree of sites on other families, in half precision, and of killed calls."""
import numpy as np
import pytest
import torch
import zarr
from transformers import AutoConfig, AutoModelForCausalLM

import neural_introspection as ni
from neural_introspection.activations import hooks
from neural_introspection.core import BadInput
from neural_introspection.models import as_bridge, token_batch

TEXTS = ["a short text", "and a longer one of words"]
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=2048, bos_token_id=0,
             eos_token_id=0, pad_token_id=1)
FAMILIES = {"llama": dict(intermediate_size=48, num_key_value_heads=2), "gpt_neox": dict(intermediate_size=64),
            "qwen2": dict(intermediate_size=48, num_key_value_heads=2, tie_word_embeddings=True)}


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request): return request.param


@pytest.fixture(params=FAMILIES)
def model(request, dtype):
    "Grouped queries, parallel blocks, tied weights."
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **SIZES, **FAMILIES[request.param]))
    return as_bridge(made.to(dtype).eval(), ni.load_model("pocket", device="cpu").tokenizer, request.param)


def test_every_site_of_a_family(model):
    acts, tree = ni.read_activations(model, TEXTS, "*"), ni.sites(model)
    assert len(acts) > 50
    assert len(acts) + acts.about["left_out"] == len(tree.frame)
    for text, ids in enumerate(ni.encode(model, TEXTS)):
        batch = token_batch(model, [ids])
        with torch.no_grad(): theirs = model.original_model(batch.ids, output_hidden_states=True).hidden_states[1]
        ours = acts["blocks.0.hook_resid_post"].sel(text=text).values
        np.testing.assert_allclose(ours, theirs[0, -len(ids):].float().numpy(), rtol=.02, atol=.02)
    assert not any("hook_pattern" in site for site in acts)


def test_what_a_killed_call_wrote_of_a_piece_is_dropped(tmp_path):
    model, site = ni.load_model("pocket", device="cpu"), "blocks.0.hook_resid_post"
    whole = ni.read_activations(model, TEXTS, site, folder=tmp_path/"acts")
    group = zarr.open_group(tmp_path/"acts", mode="r+")
    group[site].resize((99, 128))   # as if the second array had been begun
    group.attrs.update(dict(pieces=0, rows=0, tally=[0]*4))
    again = ni.read_activations(model, TEXTS, site, folder=tmp_path/"acts")
    assert np.array_equal(whole[site].values, again[site].values)
    assert again.counts == whole.counts


def test_no_hook_is_left_after_a_pass_that_fails():
    model = ni.load_model("pocket", device="cpu")
    def fail(x): raise RuntimeError("within the pass")
    with hooks(model, {"blocks.1.hook_resid_pre": fail}):
        with pytest.raises(RuntimeError): ni.read_activations(model, TEXTS)
        with pytest.raises(RuntimeError): ni.sites(model)
    assert not any(module._forward_hooks for name, module in model.named_modules() if name.endswith("hook_resid_post"))


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path/"note.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not empty"):
        ni.read_activations(ni.load_model("pocket", device="cpu"), TEXTS, folder=tmp_path)
    assert (tmp_path/"note.txt").read_text() == "mine"

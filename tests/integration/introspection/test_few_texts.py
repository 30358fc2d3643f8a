"""Readers of weights where the page can't show it: gated MLPs, adaptation on planted truth, repeated runs."""
import numpy as np
import pandas as pd
import pytest
import torch
from neural_introspection.core import BadInput
from neural_introspection.data import group_texts, load_texts
from neural_introspection.activations import collect_activations
from neural_introspection.introspection.few_texts import (Few, LayerRows, adapted, closed_form, measure_few_texts,
    neuron_weights, train_reader)
from neural_introspection.models import as_bridge, load_model


def tiny(name, **options):
    "A random model of an architecture, with the pocket model's tokenizer."
    from transformers import AutoConfig, AutoModelForCausalLM
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=2048, **options)
    return as_bridge(AutoModelForCausalLM.from_config(config), load_model("pocket", device="cpu").tokenizer, name)


LLAMA = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
             max_position_embeddings=64)


def test_the_closed_form_of_a_gated_mlp_is_its_definition():
    model, texts = tiny("llama", **LLAMA), load_texts("python-docs", 4, seed=0).texts
    for parameter in model.blocks[1].ln2.parameters(): parameter.data.uniform_(.5, 2)
    sites = {"blocks.1.hook_resid_mid": None, "blocks.1.mlp.hook_post": None}
    found = collect_activations(model, texts, sites, "all").values
    post = found["blocks.1.mlp.hook_post"]
    assert torch.allclose(closed_form(found["blocks.1.hook_resid_mid"], neuron_weights(model, 1)), post, atol=1e-5)
    assert post.abs().max() > 1e-3


def test_an_mlp_beside_attention_is_refused():
    options = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    with pytest.raises(BadInput, match="one MLP after attention"): neuron_weights(tiny("gpt_neox", **options), 0)


def planted(scale, rows=400, d=8, neurons=6):
    "Rows of texts of ten tokens; the prior is the truth times a scale."
    g = torch.Generator().manual_seed(0)
    z = torch.randn(rows, d, generator=g)
    values = z @ torch.randn(d, neurons, generator=g)
    return Few(z, scale * values, values), np.arange(rows) // 10


def test_a_right_prior_is_kept_and_a_wrong_one_turned_off():
    for scale, few in ((1., 3), (-3., 30)):
        found, text = planted(scale)
        some = torch.as_tensor(text < few)
        guess = adapted(Few(*(x[some] for x in found)), found, text[:few * 10])
        assert (guess - found.values).square().mean() < .01 * found.values.var()


def test_a_prior_of_noise_costs_next_to_nothing():
    found, text = planted(1.)
    noise = found._replace(prior=10 * torch.randn(found.prior.shape, generator=torch.Generator().manual_seed(1)))
    some = torch.as_tensor(text < 20)
    guess = adapted(Few(*(x[some] for x in noise)), noise, text[:200])
    assert (guess - found.values).square().mean() < .01 * found.values.var()


def test_a_reader_learns_a_planted_translation():
    "The stream is turned; the closed form fails, the reader finds the turn, also for neurons that it never saw."
    model, g = load_model("pocket", device="cpu"), torch.Generator().manual_seed(0)
    weights, x = neuron_weights(model, 1), torch.randn(1500, 128, generator=g)
    turn = torch.linalg.qr(torch.randn(128, 128, generator=g))[0]
    turned = x + .5 * (x @ turn) * (torch.arange(128) < 20)
    rows = LayerRows(x, weights, closed_form(turned, weights))
    known, new, every = torch.arange(256), torch.arange(256, 512), torch.arange(1500)
    reader, unseen = train_reader([rows.part(every[:1000], known)]), rows.part(every[1000:], new)
    error = lambda guess: float((guess - unseen.values).square().mean())
    assert error(reader(unseen.x, unseen.weights)) < .5 * error(closed_form(unseen.x, unseen.weights))


def test_the_same_call_gives_the_same_result():
    model, corpus = load_model("pocket", device="cpu"), load_texts("synthetic", 80, seed=1)
    groups = group_texts(corpus.texts, corpus.groups)
    run = lambda: measure_few_texts(model, corpus.texts, groups, unseen=3, gap=2, counts=(0, 4), neurons=24, n_draws=1)
    one, other = run(), run()
    pd.testing.assert_frame_equal(one.frame, other.frame)
    assert one.about["layers"] == [2, 3]

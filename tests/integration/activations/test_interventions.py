"One engine replaces activations for all systems: every replacement, place and measure by hand, and the same number wherever it is asked for."
import numpy as np
import pytest
import torch
import transformers
from neural_introspection.activations import edit, intervene, replaced_scores
from neural_introspection.activations.replacement import Add, SetTo, replaced
from neural_introspection.activations.units import Units, make_reference
from neural_introspection.antitraining import information_content
from neural_introspection.core import BadInput, NeuronAddress
from neural_introspection.data import load_classification, load_texts
from neural_introspection.models import Examples, as_bridge, encode, load_model, token_batch, token_losses
from neural_introspection.tracing.ablation import ablate
from neural_introspection.tracing.digits import digit_rows, digit_tensors, digits_from_start
from torch import nn

SITES = ["blocks.1.mlp.hook_post", "blocks.1.hook_resid_post", "blocks.2.hook_mlp_out", "blocks.0.hook_resid_mid"]


@pytest.fixture(scope="module")
def model(): return load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def docs(): return [text[:160] for text in load_texts("python-docs", 60, seed=1).texts[:6]]


def by_hand(model, docs, functions):
    "Nats per token with the functions at their sites, in one whole pass, less those without."
    batch = token_batch(model, encode(model, docs))
    with torch.no_grad():
        before = token_losses(model(batch.ids), batch).nanmean()
        with edit(model, {site: f(batch.mask) for site, f in functions.items()}):
            return float(token_losses(model(batch.ids), batch).nanmean() - before)


def changed(units, new):
    "A hook for `by_hand`: at the texts' own tokens the units have the values that `new` makes of theirs."
    def hook(mask):
        def see(x):
            x = x.clone()
            for u in units: x[..., u] = torch.where(mask, new(x[..., u]), x[..., u])
            return x
        return see
    return hook


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("batch_size", [2, 8])
def test_zero_by_hand(model, docs, site, batch_size):
    found = intervene(model, docs, NeuronAddress(site, 5), "zero", n_random=0, batch_size=batch_size)
    assert found.frame.effect.iloc[0] == pytest.approx(by_hand(model, docs, {site: changed([5], torch.zeros_like)}), abs=2e-5)
    assert found.no_op < 1e-6


def test_units_of_two_sites_together(model, docs):
    both = {"blocks.1.mlp.hook_post": changed([5, 7], torch.zeros_like), "blocks.2.mlp.hook_post": changed([3], torch.zeros_like)}
    chosen = [NeuronAddress("blocks.1.mlp.hook_post", 5), NeuronAddress("blocks.2.mlp.hook_post", 3), NeuronAddress("blocks.1.mlp.hook_post", 7)]
    found = intervene(model, docs, [chosen], "zero", n_random=3)
    assert found.frame.effect.iloc[0] == pytest.approx(by_hand(model, docs, both), abs=2e-5)
    assert found.about["n_random"] == 3


def test_added_and_given_values_by_hand(model, docs):
    vector = torch.randn(128, generator=torch.Generator().manual_seed(0))
    site = "blocks.1.hook_resid_post"
    def added(mask): return lambda x: x + torch.where(mask[..., None], vector, 0.)
    every = [NeuronAddress(site, n) for n in range(128)]
    found = intervene(model, docs, [every], [Add(vector), SetTo(vector)], n_random=0).frame
    assert found.effect.iloc[0] == pytest.approx(by_hand(model, docs, {site: added}), abs=2e-5)
    def given(mask): return lambda x: torch.where(mask[..., None], vector, x)
    assert found.effect.iloc[1] == pytest.approx(by_hand(model, docs, {site: given}), abs=2e-5)
    assert list(found.replacement) == ["added vector", "given values"]


def test_a_position_by_hand(model, docs):
    site, at = "blocks.1.mlp.hook_post", 3
    def hook(mask):
        def see(x):
            x = x.clone()
            x[:, 1 + at, 5] = 0   # after BOS
            return x
        return see
    found = intervene(model, docs, NeuronAddress(site, 5), "zero", positions=at, n_random=0)
    assert found.frame.effect.iloc[0] == pytest.approx(by_hand(model, docs, {site: hook}), abs=2e-5)


def test_a_patch_is_another_texts_values(model):
    "Two texts of one length: each gets the other's values."
    docs = ["The value is a list.", "A name is the range."]
    assert len({len(row) for row in encode(model, docs)}) == 1
    site = "blocks.1.mlp.hook_post"
    def exchanged(mask):
        def see(x):
            x = x.clone()
            x[:, 1:, 5] = x.flip(0)[:, 1:, 5]
            return x
        return see
    found = intervene(model, docs, NeuronAddress(site, 5), "patch", n_random=0)
    assert found.frame.effect.iloc[0] == pytest.approx(by_hand(model, docs, {site: exchanged}), abs=2e-5)


def test_a_result_depends_on_the_seed_alone(model, docs):
    ask = lambda seed, units: intervene(model, docs, units, ["resample", "normal", "patch"], n_random=2, seed=seed).frame
    one, two = "blocks.1.mlp.hook_post[3]", "blocks.1.mlp.hook_post[9]"
    first, again, other, beside = ask(0, [one]), ask(0, [one]), ask(1, [one]), ask(0, [two, one])
    assert first.equals(again)
    assert not np.allclose(first.effect, other.effect)
    assert np.allclose(beside.loc[one].effect, first.effect, atol=1e-6)   # not on what is measured beside it


@pytest.mark.parametrize("family", ["llama", "neox"])
def test_other_families(model, docs, family):
    "A linear layer that reads the neurons, and a block whose attention and MLP run in parallel."
    small = dict(vocab_size=2048, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=128)
    torch.manual_seed(0)
    config, kind = dict(llama=(transformers.LlamaConfig, transformers.LlamaForCausalLM), neox=(transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM))[family]
    made = as_bridge(kind(config(**small, bos_token_id=0, eos_token_id=0)), model.tokenizer, family)
    site, texts = "blocks.0.mlp.hook_post", [text[:80] for text in docs]
    found = intervene(made, texts, NeuronAddress(site, 5), "zero", n_random=2)
    first = int(made.cfg.default_prepend_bos)
    def hook(mask):
        def see(x):
            x = x.clone()
            x[:, first:, 5] = 0
            return x
        return see
    assert found.frame.effect.iloc[0] == pytest.approx(by_hand(made, texts, {site: hook}), abs=2e-5)


def test_random_units_are_others_of_the_same_sites(model, docs):
    chosen = [NeuronAddress("blocks.1.mlp.hook_post", n) for n in range(510)]
    found = intervene(model, docs[:2], [chosen], "zero", n_random=9)
    assert np.isnan(found.frame.p.iloc[0])   # there are no 510 others
    assert found.about["n_random"] == 0


def test_groups_are_resampled_together(model, docs):
    "Every text three times is no more than every text once."
    once = intervene(model, docs, "blocks.1.mlp.hook_post[108]", "zero", n_random=0).frame.iloc[0]
    thrice = intervene(model, docs * 3, "blocks.1.mlp.hook_post[108]", "zero", n_random=0, groups=np.tile(np.arange(6), 3)).frame.iloc[0]
    alone = intervene(model, docs * 3, "blocks.1.mlp.hook_post[108]", "zero", n_random=0).frame.iloc[0]
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=.02)
    assert alone.high - alone.low < .8 * (once.high - once.low)


def test_a_unit_that_does_nothing_has_no_effect(model, docs):
    with edit(model, {"blocks.1.mlp.hook_post": lambda x: torch.cat([torch.zeros_like(x[..., :1]), x[..., 1:]], -1)}):
        found = intervene(model, docs, "blocks.1.mlp.hook_post[0]", ["zero", "mean"], n_random=0)
    assert not found.frame.has_effect.any()


def test_every_measure_is_one_number_for_each_example(model, docs):
    margin = lambda logits, targets: logits.max(-1).values.mean(-1)
    found = intervene(model, docs, "blocks.1.mlp.hook_post[108]", "zero", measure=margin, n_random=2)
    assert found.about["measure"] == "measure"
    assert "measure changes by" in found.summary() or "no replacement" in found.summary()
    with pytest.raises(BadInput, match="one number for each example"):
        intervene(model, docs, "blocks.1.mlp.hook_post[108]", "zero", measure=lambda logits, targets: logits.mean())


def test_the_same_number_in_every_system():
    "A neuron of a digits network at zero: the engine, tracing's ablation, antitraining's scores, and the network itself."
    (pictures, labels), (_, held_out) = digit_tensors(), digit_rows()
    net, x, y = digits_from_start(0), pictures[held_out], labels[held_out]
    site = net.network_trace.layers["hidden_1"].site
    with torch.no_grad():
        before = nn.functional.cross_entropy(net(x), y)
        with edit(net.model, {site: lambda h: h * (torch.arange(32) != 7)}): by_hand = float(nn.functional.cross_entropy(net(x), y) - before)
    engine = intervene(net.model, Examples(x, y), NeuronAddress(site, 7), "zero", n_random=0).frame.effect.iloc[0]
    traced = ablate(net, x, y, [[("hidden_1", 7)]], n_random=0).frame.effect.iloc[0]
    found = replaced_scores(net.model, Examples(x, y), Units(site, 32), torch.arange(32)[None] == 7, "zero")
    assert (engine, traced, float((found.loss[0, 0] - found.base["loss"]).mean())) == pytest.approx((by_hand,) * 3, abs=1e-5)


def test_information_is_the_effect_of_normal_values():
    data = load_classification("digits", seed=0)
    torch.manual_seed(0)
    net, examples = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval(), Examples(data.x_test, data.y_test)
    reference = make_reference(net, "1", examples)
    found = information_content(net, reference, examples, draws=2, seed=3)
    same = intervene(net, examples, [NeuronAddress("1", n) for n in range(16)], "normal", {"1": reference}, n_random=0, n_draws=2, seed=3)
    assert np.allclose(found.loss, same.frame.effect, atol=1e-6)


def test_the_shortest_way_is_used_where_it_holds(monkeypatch):
    "The reader's short cut gives the long way's number for linear layers and convolutions, and is refused where it does not hold."
    from neural_introspection.activations import set_scores
    used = []
    run = set_scores._run_sets
    monkeypatch.setattr(set_scores, "_run_sets", lambda batch, way, *rest: used.append(way) or run(batch, way, *rest))
    torch.manual_seed(0)
    class Twice(nn.Module):
        "Reads its neurons by a linear layer, and once more beside it."
        def __init__(self):
            super().__init__()
            self.into, self.act, self.out = nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
        def forward(self, x):
            h = self.act(self.into(x))
            return self.out(h) + h.sum(-1, keepdim=True)
    examples = Examples(torch.randn(20, 8), torch.arange(20) % 3)
    for net, way in ((nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), "reader"), (Twice(), "site")):
        site = "1" if way == "reader" else "act"
        used.clear()
        one, masks = Units(site, 6), torch.eye(6, dtype=torch.bool)
        short = replaced_scores(net, examples, one, masks, "zero")
        assert used[-1] == way, used
        long = replaced_scores(net, examples, one, masks, "zero", naive=True)
        assert torch.allclose(short.loss, long.loss, atol=1e-5)


def test_hooks_are_gone_after_an_error(model, docs):
    count = lambda: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    before = count()
    def broken(rows): raise RuntimeError("in the middle")
    with pytest.raises(RuntimeError, match="in the middle"): intervene(model, docs, "blocks.1.mlp.hook_post[3]", broken)
    with pytest.raises(RuntimeError), replaced(model, [(Units("blocks.1.mlp.hook_post", 512), torch.ones(512).bool())], "zero"):
        raise RuntimeError
    assert count() == before

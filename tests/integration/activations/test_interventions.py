"One engine replaces activations for all systems: each replacement, place and measure by hand, one number everywhere."
import numpy as np
import pytest
import torch
import transformers
from neural_introspection.activations import capture, edit, intervene, replaced_scores
from neural_introspection.activations.replacement import Add, SetTo, generator_of, replaced, replacement_values
from neural_introspection.activations.units import Units, example_keys, find_units, make_reference
from neural_introspection.antitraining import information_content
from neural_introspection.core import BadInput, NeuronAddress
from neural_introspection.data import load_classification, load_texts
from neural_introspection.models import Examples, as_bridge, encode, load_model, token_batch, token_losses
from neural_introspection.models.examples import text_examples
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
    expected = by_hand(model, docs, {site: changed([5], torch.zeros_like)})
    assert found.frame.effect.iloc[0] == pytest.approx(expected, abs=2e-5)
    assert found.no_op < 1e-6


def test_units_of_two_sites_together(model, docs):
    one, two = "blocks.1.mlp.hook_post", "blocks.2.mlp.hook_post"
    both = {one: changed([5, 7], torch.zeros_like), two: changed([3], torch.zeros_like)}
    chosen = [NeuronAddress(one, 5), NeuronAddress(two, 3), NeuronAddress(one, 7)]
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
    def ask(seed, units):
        return intervene(model, docs, units, ["resample", "normal", "patch"], n_random=2, seed=seed).frame
    one, two = "blocks.1.mlp.hook_post[3]", "blocks.1.mlp.hook_post[9]"
    first, again, other, beside = ask(0, [one]), ask(0, [one]), ask(1, [one]), ask(0, [two, one])
    assert first.equals(again)
    assert not np.allclose(first.effect, other.effect)
    assert np.allclose(beside.loc[one].effect, first.effect, atol=1e-6)   # not on what is measured beside it


@pytest.mark.parametrize("family", ["llama", "neox"])
def test_other_families(model, docs, family):
    "A linear layer that reads the neurons, and a block whose attention and MLP run in parallel."
    small = dict(vocab_size=2048, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                 max_position_embeddings=128)
    torch.manual_seed(0)
    families = dict(llama=(transformers.LlamaConfig, transformers.LlamaForCausalLM),
                    neox=(transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM))
    config, kind = families[family]
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


def test_random_sets_are_of_all_units_of_the_sites(model, docs):
    "A set of nearly all units overlaps the random ones, as a random set would."
    chosen = [NeuronAddress("blocks.1.mlp.hook_post", n) for n in range(510)]
    found = intervene(model, docs[:2], [chosen], "zero", n_random=9)
    assert found.about["n_random"] == 9
    assert found.frame.p.iloc[0] >= .1


def test_permuted_values_are_of_tokens_alone(model, docs):
    "Not of BOS or padding: what all texts' tokens hold is what they held."
    examples = text_examples(model, docs[:2])
    site = "blocks.0.hook_resid_mid"
    with torch.no_grad(), capture(model, [site]) as acts: model(examples.inputs)
    new = replacement_values(acts[site], Units(site, 128), "permute", generator_of("cpu", 0), None, examples.mask)
    assert torch.equal(new[examples.mask].sort(0).values, acts[site][examples.mask].sort(0).values)
    assert torch.equal(new[~examples.mask], acts[site][~examples.mask])


def test_a_site_with_two_places(model, docs):
    "Attention patterns: at each query that is a token of the text."
    site = "blocks.1.attn.hook_pattern"
    def hook(mask):
        def see(x):
            x = x.clone()
            x[:, 0] = torch.where(mask[..., None], 0., x[:, 0])
            return x
        return see
    found = intervene(model, docs, NeuronAddress(site, 0), "zero", n_random=0)
    assert found.frame.effect.iloc[0] == pytest.approx(by_hand(model, docs, {site: hook}), abs=2e-5)


def test_a_patch_is_of_one_text_at_all_sites(model):
    docs = ["The value is a list.", "A name is the range.", "A name is the list."]
    sites = ["blocks.1.mlp.hook_post", "blocks.2.mlp.hook_post"]
    assert len({len(row) for row in encode(model, docs)}) == 1
    examples = text_examples(model, docs)
    references = [make_reference(model, site, examples, sequences=3) for site in sites]
    sources = []
    for reference in references:
        rows, keys, draw = torch.zeros(3, examples.inputs.shape[1], 512), example_keys(examples), generator_of("cpu", 0)
        new = replacement_values(rows, reference, "patch", draw, keys, examples.mask)
        own = [x[m] for x, m in zip(new, examples.mask)]
        sources.append([next(j for j, s in enumerate(reference.sequences) if torch.equal(s, x)) for x in own])
    assert sources[0] == sources[1]
    chosen = [NeuronAddress(site, 5) for site in sites]
    there, back = (intervene(model, docs, [units], "normal", n_random=0).frame.effect.iloc[0] for units in (chosen, chosen[::-1]))
    assert there == back   # whatever the order in which the units are named


def test_groups_are_resampled_together(model, docs):
    "Every text three times is no more than every text once."
    once = intervene(model, docs, "blocks.1.mlp.hook_post[108]", "zero", n_random=0).frame.iloc[0]
    groups = np.tile(np.arange(6), 3)
    thrice = intervene(model, docs * 3, "blocks.1.mlp.hook_post[108]", "zero", n_random=0, groups=groups).frame.iloc[0]
    alone = intervene(model, docs * 3, "blocks.1.mlp.hook_post[108]", "zero", n_random=0).frame.iloc[0]
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=.02)
    assert alone.high - alone.low < .8 * (once.high - once.low)


def test_a_unit_that_does_nothing_has_no_effect(model, docs):
    with edit(model, {"blocks.1.mlp.hook_post": lambda x: torch.cat([torch.zeros_like(x[..., :1]), x[..., 1:]], -1)}):
        found = intervene(model, docs, "blocks.1.mlp.hook_post[0]", ["zero", "mean"], n_random=0)
    assert not found.frame.has_effect.any()


def test_every_measure_is_one_number_for_each_example(model, docs):
    def first(logits, targets): return logits[:, 1, 7]
    found = intervene(model, docs, "blocks.1.mlp.hook_post[108]", "zero", measure=first, n_random=2)
    def at_zero(mask): return changed([108], torch.zeros_like)(mask)
    batch = token_batch(model, encode(model, docs))
    with torch.no_grad():
        before = model(batch.ids)[:, 1, 7]
        with edit(model, {"blocks.1.mlp.hook_post": at_zero(batch.mask)}): after = model(batch.ids)[:, 1, 7]
    weights = text_examples(model, docs).weights
    assert found.frame.effect.iloc[0] == pytest.approx(float(((after - before) * weights).sum() / weights.sum()), abs=1e-5)
    with pytest.raises(BadInput, match="one number for each example"):
        intervene(model, docs, "blocks.1.mlp.hook_post[108]", "zero", measure=lambda logits, targets: logits.mean())


def test_the_same_number_in_every_system():
    "A neuron of a digits network at zero: the engine, tracing's ablation, antitraining's scores, and the network itself."
    (pictures, labels), (_, held_out) = digit_tensors(), digit_rows()
    net, x, y = digits_from_start(0), pictures[held_out], labels[held_out]
    site = net.network_trace.layers["hidden_1"].site
    with torch.no_grad():
        before = nn.functional.cross_entropy(net(x), y)
        with edit(net.model, {site: lambda h: h * (torch.arange(32) != 7)}):
            by_hand = float(nn.functional.cross_entropy(net(x), y) - before)
    engine = intervene(net.model, Examples(x, y), NeuronAddress(site, 7), "zero", n_random=0).frame.effect.iloc[0]
    traced = ablate(net, x, y, [[("hidden_1", 7)]], n_random=0).frame.effect.iloc[0]
    found = replaced_scores(net.model, Examples(x, y), Units(site, 32), torch.arange(32)[None] == 7, "zero")
    scored = float((found.loss[0, 0] - found.base["loss"]).mean())
    assert (engine, traced, scored) == pytest.approx((by_hand,) * 3, abs=1e-5)


def test_a_last_batch_that_is_smaller():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
    examples = Examples(torch.randn(21, 8), torch.arange(21) % 3)
    units = [NeuronAddress("1", n) for n in range(64)]
    whole, parts = (intervene(net, examples, units, "zero", batch_size=size, n_random=0) for size in (21, 8))
    assert np.allclose(whole.frame.effect, parts.frame.effect, atol=1e-6)
    assert parts.no_op < 1e-6


def test_information_is_the_effect_of_normal_values():
    data = load_classification("digits", seed=0)
    torch.manual_seed(0)
    net, examples = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval(), Examples(data.x_test, data.y_test)
    reference = make_reference(net, "1", examples)
    found = information_content(net, reference, examples, n_draws=2, seed=3)
    units = [NeuronAddress("1", n) for n in range(16)]
    same = intervene(net, examples, units, "normal", {"1": reference}, n_random=0, n_draws=2, seed=3)
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
    conv = nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 2, 1), nn.Unflatten(1, (2, 1)), nn.Conv2d(2, 6, 1), nn.ReLU(),
                         nn.Conv2d(6, 3, (1, 3)), nn.Flatten(), nn.Linear(18, 3))
    dead = Twice()
    dead.into.bias.data[:2] = -99   # nothing changes with these two at zero
    plain = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    cases = [(plain, "1", "reader"), (conv, "4", "reader"), (Twice(), "act", "site"), (dead, "act", "site")]
    for net, site, way in cases:
        for batch_size in (1, 20):
            used.clear()
            one, masks = find_units(net, site, examples), torch.eye(6, dtype=torch.bool)
            short = replaced_scores(net, examples, one, masks, "zero", batch_size=batch_size)
            assert used[-1] == way, (used, site, batch_size)
            long = replaced_scores(net, examples, one, masks, "zero", naive=True)
            assert torch.allclose(short.loss, long.loss, atol=1e-5)


@pytest.mark.gpu
def test_on_a_gpu(docs):
    if not torch.cuda.is_available(): pytest.skip("there is no GPU")
    models = [load_model("pocket", device=device) for device in ("cpu", "cuda")]
    found = [intervene(model, docs, "blocks.1.mlp.hook_post[108]", "zero", n_random=2).frame for model in models]
    assert np.allclose(found[0].effect, found[1].effect, atol=1e-4)


def test_hooks_are_gone_after_an_error(model, docs):
    def count(): return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    before = count()
    def broken(rows): raise RuntimeError("in the middle")
    with pytest.raises(RuntimeError, match="in the middle"): intervene(model, docs, "blocks.1.mlp.hook_post[3]", broken)
    with pytest.raises(RuntimeError), replaced(model, [(Units("blocks.1.mlp.hook_post", 512), torch.ones(512).bool())], "zero"):
        raise RuntimeError
    assert count() == before

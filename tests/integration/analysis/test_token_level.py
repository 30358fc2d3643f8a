"What a lesson cannot show of the token level: hostile text, half precision, hooks after exceptions, replay from every layer, bounded memory."
import numpy as np
import pytest
import torch
from neural_introspection.analysis import logit_view, token_activations, token_level, token_profiles
from neural_introspection.analysis.logits import logit_attribution, output_directions
from neural_introspection.analysis.token_level import TOKEN_CLASSES, neuron_addresses, token_class, token_contrast
from neural_introspection.activations import edit, intervene
from neural_introspection.activations.set_scores import loss_and_accuracy
from neural_introspection.core import BadAddress, BadInput, BadTexts, NeuronAddress
from neural_introspection.models import (as_bridge, encode, load_model, token_batch, token_bytes, token_losses,
    token_strings, token_text)
from neural_introspection.data import load_texts

HOSTILE = "<img src=x onerror=alert(1)> </script><script>alert(2)</script> & 'quoted'"


@pytest.fixture(scope="module")
def model(): return load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def docs(): return load_texts("python-docs", 60, seed=1).texts


def hook_count(model): return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_hostile_text_is_shown_and_not_run(model, docs):
    lit = token_activations(model, HOSTILE, "blocks.0.mlp.hook_post[0]")
    for page in (lit._repr_html_(), lit.html().data):
        assert "<img" not in page
        assert "<script" not in page
        assert "&lt;" in page
    assert "<img" not in lit.view().data.replace("&lt;img", "")
    profile, = token_profiles(model, [HOSTILE, *docs[:20]], "blocks.0.mlp.hook_post[0]")
    assert "<img" not in profile._repr_html_()
    assert "<img" not in profile.plot().to_json()
    told = logit_attribution(model, HOSTILE, 3)
    assert "<script" not in told._repr_html_()
    assert "<img" not in told._repr_html_()
    for made in (told.plot(5), lit.plot()):
        assert "<img" not in made.to_json()
        assert "<script" not in made.to_json()


@pytest.mark.parametrize("text", ["naïve 日本 🙂🙂", "\x00\x01\u200b\ufeff", "a" * 2000, "𝔘𝔫𝔦 𝕔𝕠𝕕𝕖\r\n\t", "<|endoftext|> not the token"])
def test_bytes_of_the_tokens_are_the_text(model, text):
    ids = encode(model, [text])[0]
    joined = b"".join(token_bytes(model, ids))
    assert text.encode().startswith(joined)
    assert len(ids) == 255 or joined == text.encode()
    assert len(token_strings(model, ids)) == len(ids)
    assert len(ids) == 255 or token_text(model, ids) == text


def test_every_token_of_the_vocabulary_has_a_class(model):
    names = token_strings(model, range(model.cfg.d_vocab + 5))   # beyond the vocabulary too: models are padded to round sizes
    assert names[-5:] == [""] * 5
    assert {token_class(name) for name in names} <= set(TOKEN_CLASSES)


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("site", ["mlp.hook_post", "hook_resid_post"])
def test_replay_is_the_whole_pass(model, docs, layer, site):
    "The effect by replay from the layer equals that of an edit in a whole pass."
    address = NeuronAddress(f"blocks.{layer}.{site}", 5)
    found = intervene(model, docs[:6], address, ["mean"], n_random=0)
    values = torch.cat([torch.from_numpy(token_activations(model, text, address).values[:, 0]) for text in docs[:6]])
    batch = token_batch(model, encode(model, docs[:6]))
    def put(x):
        x = x.clone()
        x[..., 5] = torch.where(batch.mask, values.mean(), x[..., 5])
        return x
    with torch.no_grad():
        before = token_losses(model(batch.ids), batch)
        with edit(model, {address.site: put}): after = token_losses(model(batch.ids), batch)
    assert abs(float((after - before).nanmean()) - found.frame.effect.iloc[0]) < 2e-5
    assert found.no_op < 1e-6
    assert np.isnan(found.frame.p.iloc[0])
    assert abs(found.base - float(before.nanmean())) < 1e-5


def test_an_effect_depends_on_the_seed_alone(model, docs):
    first, again, other = (intervene(model, docs[:8], "blocks.2.mlp.hook_post[3]", ["resample", "patch"], n_random=3, seed=seed, batch_size=4).frame for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)


def test_several_layers_at_once(model, docs):
    together = intervene(model, docs[:6], ["blocks.0.mlp.hook_post[1]", "blocks.3.mlp.hook_post[1]"], ["zero"], n_random=2).frame
    alone = intervene(model, docs[:6], "blocks.3.mlp.hook_post[1]", ["zero"], n_random=2).frame
    assert np.allclose(together.loc[["blocks.3.mlp.hook_post[1]"]].effect, alone.effect)


def test_hooks_are_gone_after_an_exception(model, docs):
    model(torch.zeros(1, 3, dtype=torch.long))
    before, forwards = hook_count(model), ["forward" in vars(b) for b in model.blocks]
    def broken(*args): raise RuntimeError("in the middle")
    calls = []
    def measure(logits, targets): return broken() if calls else calls.append(1) or loss_and_accuracy(logits, targets)
    with pytest.raises(RuntimeError, match="in the middle"): intervene(model, docs[:4], "blocks.2.mlp.hook_post[3]", measure=measure)
    assert hook_count(model) == before
    assert ["forward" in vars(b) for b in model.blocks] == forwards


def test_half_precision(docs):
    half = load_model("pocket", device="cpu", dtype="bfloat16")
    address = "blocks.1.mlp.hook_post[108]"
    assert token_activations(half, docs[0], address).values.dtype == np.float32
    profile, = token_profiles(half, docs, address, n_permutations=19)
    assert profile.explained.r2.notna().all()
    assert logit_view(half, address).frame.z.notna().all()
    effect = intervene(half, docs[:4], address, n_random=2)
    assert effect.no_op < 1e-6
    assert effect.frame.effect.notna().all()
    full = logit_attribution(load_model("pocket", device="cpu"), docs[0], 3).values
    assert np.corrcoef(full.ravel(), logit_attribution(half, docs[0], 3).values.ravel())[0, 1] > .99


def test_a_profile_does_not_depend_on_the_batch_size(model, docs):
    one, other = (token_profiles(model, docs, "blocks.1.mlp.hook_post[108]", batch_size=size, n_permutations=19)[0]
                  for size in (3, 32))
    # of nearly equal contexts either may come first
    assert np.allclose(one.explained.r2, other.explained.r2, atol=1e-6)
    assert np.allclose(one.contexts.activation, other.contexts.activation, atol=1e-5)


def test_dead_neuron(model, docs):
    "A neuron that never changes has a profile without R², and no effect."
    with edit(model, {"blocks.1.mlp.hook_post": lambda x: torch.cat([torch.zeros_like(x[..., :1]), x[..., 1:]], -1)}):
        profile, = token_profiles(model, docs[:20], "blocks.1.mlp.hook_post[0]", n_permutations=19)
        effect = intervene(model, docs[:6], "blocks.1.mlp.hook_post[0]", n_random=2)
    assert profile.explained.r2.isna().all()
    assert "does not vary" in profile.summary()
    assert not effect.frame.has_effect.any()
    assert "no replacement changes" in effect.summary()
    assert effect.plot()


@pytest.mark.parametrize("call, kind, words", [
    (lambda m, d: neuron_addresses(m, []), BadInput, "no neurons"),
    (lambda m, d: neuron_addresses(m, "nonsense"), BadAddress, "not a neuron's address"),
    (lambda m, d: token_activations(m, "", "blocks.1.mlp.hook_post[1]"), BadTexts, "no tokens"),
    (lambda m, d: token_profiles(m, d, "blocks.1.mlp.hook_post[1]", n_permutations=0), BadInput, "n_permutations is 0"),
    (lambda m, d: intervene(m, d[:4], "blocks.1.mlp.hook_post[1]", []), BadInput, "no replacement"),
    (lambda m, d: logit_attribution(m, "a text", 4), BadAddress, "outside 0..3"),
    (lambda m, d: logit_attribution(m, "a text", 1, [512]), BadAddress, "outside 0..511"),
])
def test_what_cannot_be_is_a_sentence(model, docs, call, kind, words):
    with pytest.raises(kind, match=words): call(model, docs)


def test_directions_of_the_stream_are_units(model):
    found = output_directions(model, neuron_addresses(model, ["blocks.1.hook_resid_post[3]", "blocks.1.hook_resid_post[5]"]))
    assert torch.equal(found, torch.eye(128)[[3, 5]])


@pytest.mark.parametrize("texts", ["of two tokens", "each twice", "of one to six tokens"])
def test_chance_is_chance(model, docs, texts):
    "Noise neurons, the same on the same text: few have a small p, however short the texts are, and if they come twice."
    ids = encode(model, docs)
    of = {"of two tokens": [row[:2] for row in ids[:40]], "each twice": [row[:12] for row in ids[:20]] * 2, "of one to six tokens": [row[:1 + i % 6] for i, row in enumerate(ids[:40])]}[texts]
    words = [text for text in (token_text(model, row) for row in of) if text.strip()]
    def noise(x):
        x = x.clone()
        for row in range(len(x)):
            g = torch.Generator().manual_seed(int((seen["ids"][row] * torch.arange(1, x.shape[1] + 1)).sum()) % 2**31)
            x[row, :, :60] = torch.randn(x.shape[1], 60, generator=g)
        return x
    seen = {}
    def read(tokens): seen["ids"] = torch.where(tokens == model.tokenizer.pad_token_id, 0, tokens)
    with edit(model, {"embed.hook_in": read, "blocks.1.mlp.hook_post": noise}):
        neurons = [f"blocks.1.mlp.hook_post[{n}]" for n in range(60)]
        found = token_profiles(model, words, neurons, n_permutations=39, batch_size=64)
        contrasts = [token_contrast(model, words, f"blocks.1.mlp.hook_post[{n}]", encode(model, words)[0][:1] + encode(model, words)[1][:1], n_permutations=39, batch_size=64).p for n in range(20)]
    small = {by: np.mean([p.explained.set_index("by").p[by] <= .05 for p in found]) for by in ("token", "class", "position")}
    assert max(small.values()) <= .2, (small, contrasts)
    assert np.nanmean(np.array(contrasts) <= .05) <= .25, (small, contrasts)


def test_values_that_are_not_finite_are_left_out_and_counted(model, docs):
    def broken(x):
        x = x.clone()
        x[:, 3, 0] = float("nan")
        return x
    with edit(model, {"blocks.1.mlp.hook_post": broken}):
        profile, = token_profiles(model, docs[:20], "blocks.1.mlp.hook_post[0]", n_permutations=19)
        with pytest.raises(BadInput, match="not a finite number on example"): intervene(model, docs[:4], "blocks.1.mlp.hook_post[5]", ["zero"], n_random=2)
        with pytest.raises(BadInput, match="a patch needs an example whose values at blocks.1.mlp.hook_post are all finite"):
            intervene(model, docs[:4], "blocks.1.mlp.hook_post[5]", ["patch"], n_random=2)
    assert profile.about["left_out"] == 20
    assert profile.explained.r2.notna().all()


def test_one_text_has_no_interval(model):
    effect = intervene(model, ["The return value is a list."], "blocks.1.mlp.hook_post[7]", ["zero", "mean"], reference=["Another text.", "And a third."], n_random=3)
    assert effect.frame.low.isna().all()
    assert not effect.frame.has_effect.any()
    assert "more than one group" in effect.summary()
    with pytest.raises(BadInput, match="a patch needs another example"): intervene(model, ["One.", "Two."], "blocks.1.mlp.hook_post[7]", ["patch"], reference=["One."])


def test_a_model_in_training_mode_is_measured_as_it_is_used(docs):
    import transformers
    torch.manual_seed(0)
    pocket = load_model("pocket", device="cpu")
    small = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=2048, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, resid_pdrop=.5, embd_pdrop=.5, attn_pdrop=.5))
    made = as_bridge(small, pocket.tokenizer, "small")
    texts, address = [text[:60] for text in docs[:8]], "blocks.1.mlp.hook_post[3]"
    def measured(): return token_activations(made, texts[0], address).values, intervene(made, texts, address, ["zero"], n_random=2).frame.effect.to_numpy(), token_profiles(made, texts, address, n_permutations=19)[0].explained.r2.to_numpy()
    before = measured()
    made.train()
    assert all(np.allclose(a, b, atol=1e-6, equal_nan=True) for a, b in zip(before, measured()))
    assert made.blocks[0].training


def test_many_neurons_keep_their_shifted_copies(model, docs, monkeypatch):
    monkeypatch.setattr(token_level, "VOCABULARY", 2048 * 20 * 2)
    some = [f"blocks.1.mlp.hook_post[{n}]" for n in range(5)]
    many = token_profiles(model, docs[:20], some, n_permutations=19)
    assert [str(p.address) for p in many] == some
    assert all((p.explained.n_permutations == 19).all() for p in many)
    alone, = token_profiles(model, docs[:20], some[3], n_permutations=19)
    assert np.allclose(alone.explained.r2, many[3].explained.r2)
    assert np.allclose(alone.explained.p, many[3].explained.p)

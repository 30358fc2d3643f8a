"""Statistics: however the rows are cut into batches, merged or broken by NaN, they are those of all finite values."""
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from neural_introspection.activations import NeuronStats, TokenSelection
from neural_introspection.activations.positions import Contexts, sink_tokens
from neural_introspection.activations.quantiles import quantile_error
from neural_introspection.models import TokenBatch

values = st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([0., -0., np.nan, np.inf, -np.inf]))
rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=values)


def fed(x, cuts, **options):
    "Statistics of rows that came in pieces."
    stats = NeuronStats(x.shape[1], **options)
    for part in np.split(x, sorted(cuts)): stats.update(torch.from_numpy(part.copy()))
    return stats


def same(a, b, **tolerance): return np.allclose(a.numpy(), b, equal_nan=True, **tolerance)


@given(rows, st.lists(st.integers(0, 30), max_size=3))
@example(np.full((3, 1), np.nan, np.float32), [1])
@example(np.float32([[1e6], [1e6], [np.inf]]), [2])
def test_moments_are_numpys_of_the_finite_values(x, cuts):
    stats = fed(x, [c for c in cuts if c <= len(x)])
    finite = [x[np.isfinite(x[:, i]), i].astype(float) for i in range(x.shape[1])]
    assert stats.count.tolist() == [len(v) for v in finite]
    assert stats.nonfinite.tolist() == [len(x) - len(v) for v in finite]
    of = lambda f: np.array([f(v) if len(v) else np.nan for v in finite])
    scale = max(1., *(np.abs(v).max() for v in finite if len(v))) if any(map(len, finite)) else 1.
    assert same(stats.mean, of(np.mean), atol=1e-6*scale)
    assert same(stats.variance, of(np.var), rtol=1e-5, atol=1e-8*scale**2)
    assert same(stats.min, of(np.min))
    assert same(stats.max, of(np.max))
    assert same(stats.firing_rate, of(lambda v: (v > 0).mean()))


@given(rows, st.floats(0, 1))
@example(np.float32([[1.], [1.]]), 1.)
def test_quantiles_are_numpys_order_statistics_within_the_error(x, q):
    found = NeuronStats(x.shape[1]).update(torch.from_numpy(x)).quantile(q).numpy()
    for i in range(x.shape[1]):
        finite = np.sort(x[np.isfinite(x[:, i]), i])
        if not len(finite):
            assert np.isnan(found[i])
            continue
        exact = finite[int(np.floor(q*(len(finite) - 1)))]
        if abs(exact) > 65504: continue   # the sketch ends there
        assert abs(found[i] - exact) <= quantile_error(torch.tensor(exact)) + 1e-30


@given(rows, st.integers(0, 30), st.integers(0, 30))
def test_merging_is_seeing_the_rows_of_both(x, a, b):
    a, b = sorted((min(a, len(x)), min(b, len(x))))
    parts = [NeuronStats(x.shape[1]).update(torch.from_numpy(part.copy())) for part in (x[:a], x[a:b], x[b:])]
    left, right, whole = (parts[0] + parts[1]) + parts[2], parts[0] + (parts[1] + parts[2]), fed(x, [])
    scale = np.abs(np.where(np.isfinite(x), x, 0)).max() + 1
    for one in (left, right):
        for name in ("count", "nonfinite", "min", "max", "firing_rate"):
            assert same(getattr(one, name), getattr(whole, name).numpy()), name
        assert same(one.mean, whole.mean.numpy(), atol=1e-6*scale)
        assert same(one.variance, whole.variance.numpy(), rtol=1e-5, atol=1e-8*scale**2)
        assert same(one.quantile(.5), whole.quantile(.5).numpy())


@given(rows, st.integers(1, 6), st.lists(st.integers(0, 30), max_size=3))
@example(np.float32([[1.], [1.], [1.]]), 2, [1])
def test_the_highest_are_the_highest_with_their_contexts(x, k, cuts):
    stats, start = NeuronStats(x.shape[1], False, k), 0
    for part in np.split(x, sorted(c for c in cuts if c <= len(x))):
        places = torch.stack([torch.arange(start, start + len(part)), torch.zeros(len(part), dtype=int)], 1)
        stats.update(torch.from_numpy(part.copy()), contexts=places)
        start += len(part)
    found, where = stats.top
    for i in range(x.shape[1]):
        finite = np.sort(x[np.isfinite(x[:, i]), i])[::-1][:k]
        kept = found[i].numpy()[:len(finite)]
        assert np.array_equal(kept, finite)
        assert np.array_equal(x[where.text[i].numpy()[:len(finite)], i], kept)


@given(st.lists(st.tuples(st.integers(0, 2**30), st.integers(0, 2**31 - 1)), min_size=1))
def test_a_context_is_one_number_and_back(places):
    text, position = (torch.tensor(part, dtype=torch.int64) for part in zip(*places))
    codes = Contexts(text, position).codes
    back = Contexts.of_codes(codes)
    assert torch.equal(back.text, text)
    assert torch.equal(back.position, position)
    assert codes.argsort(stable=True).tolist() == sorted(range(len(places)), key=lambda i: places[i])


lengths = st.lists(st.integers(1, 7), min_size=1, max_size=5)


def batch_of(lengths, before):
    "A padded batch of texts of these lengths, after so many tokens that are not theirs."
    width = before + max(lengths)
    place, length = torch.arange(width), torch.tensor(lengths)[:, None]
    mask = (place >= before) & (place < before + length)
    return TokenBatch(torch.zeros(mask.shape, dtype=int), mask, torch.arange(len(lengths)))


@given(lengths, st.integers(0, 1), st.sampled_from(["all", "last", 0]))
def test_positions_are_each_texts_own(lengths, before, token_pos):
    rule, batch = TokenSelection(token_pos), batch_of(lengths, before)
    chosen = rule.positions(batch)
    assert not (chosen & ~batch.mask).any()
    for row, length in zip(chosen, lengths):
        assert (row.nonzero()[:, 0] - before).tolist() == rule.places(length).tolist()


@given(lengths, st.floats(1.5, 1e4), st.randoms(use_true_random=False))
def test_a_sink_is_over_the_median_of_its_own_text(lengths, ratio, random):
    batch = batch_of(lengths, 1)
    norm = torch.tensor([[10**random.uniform(-3, 6) for _ in range(batch.mask.shape[1])] for _ in lengths])
    sinks = sink_tokens(norm[..., None], batch.mask, ratio)
    for i in range(len(lengths)):
        own = norm[i, batch.mask[i]]
        assert sinks[i, batch.mask[i]].tolist() == (own > ratio*own.median()).tolist()
    assert not (sinks & ~batch.mask).any()
    alone = sink_tokens(norm[:1, batch.mask[0]][..., None], torch.ones(1, lengths[0], dtype=bool), ratio)
    assert torch.equal(alone[0], sinks[0, batch.mask[0]])   # other texts do not count


@pytest.mark.parametrize("wrong", ["first", -1, 1.5, "1.5", True, None])
def test_other_positions_are_refused(wrong):
    from neural_introspection.core import BadInput
    with pytest.raises(BadInput): TokenSelection(wrong)

"""Patterns where a notebook can't show it: odd input, odd values, other precisions, hostile tokens, memory."""
import math

import numpy as np
import pandas as pd
import pytest
import torch
from neural_introspection.core import BadAddress, BadInput
from neural_introspection.analysis import ActivationVisualizer, correlate, correlation_clusters, PolysemanticDetector
from neural_introspection.analysis.correlation import partner_rows
from neural_introspection.analysis.firing import neuron_rates
from neural_introspection.analysis.rows import layer_rows
from neural_introspection.analysis.activation_figures import token_answers
from neural_introspection.analysis.correlation import LIMIT
from neural_introspection.analysis.firing import firing_threshold, rate_bounds
from neural_introspection.analysis.explorer import KINDS
from neural_introspection.activations import Contexts, NeuronStats
from neural_introspection.display import save_figure
from scipy.stats import binomtest
from shell import is_one_sentence

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def acts(): return {"layer1": torch.randn(12, 10, 6, generator=torch.Generator().manual_seed(0)).relu(), "<b>two</b>": torch.randn(12, 10, 5, generator=torch.Generator().manual_seed(1))}


@pytest.mark.parametrize("made, words", [
    (lambda a: layer_rows({}), "no activations"),
    (lambda a: layer_rows(a["layer1"]), "give a dict"),
    (lambda a: layer_rows({"a": a["layer1"][:0]}), "are empty"),
    (lambda a: layer_rows({"a": a["layer1"].int()}), "give floats"),
    (lambda a: layer_rows({"a": torch.rand(5)}), "give floats"),
    (lambda a: layer_rows(a, torch.ones(12, 9).bool()), "a mask of (12, 9) does not fit"),
    (lambda a: layer_rows(a, torch.ones(12, 10)), "tells no rows"),
    (lambda a: layer_rows(a, torch.zeros(12, 10).bool()), "leaves no row"),
    (lambda a: layer_rows(a, tokens=["a"] * 119), "119 rows of tokens"),
    (lambda a: layer_rows(a, texts=[0] * 119), "119 rows of texts"),
    (lambda a: neuron_rates(a, confidence=1), "confidence is 1"),
    (lambda a: neuron_rates(a, threshold=math.inf), "threshold is inf"),
    (lambda a: correlate(a, "layer1", neurons=[]), "at least one"),
    (lambda a: correlate(a, "layer1", neurons=0), "0 neurons"),
    (lambda a: correlate(a, "layer1", neurons=[6]), "outside 0..5"),
    (lambda a: correlate(a, "layer1", neurons=[-1]), "outside 0..5"),
    (lambda a: correlate(a, "layer1", test="beauty"), "test 'beauty' is unknown"),
    (lambda a: correlate(a, "layer1", null="none"), "null 'none' is unknown"),
    (lambda a: correlate(a, "layer1", n_permutations=9), "9 permutations"),
    (lambda a: correlate(a, "layer1", level=0), "level is 0"),
    (lambda a: correlate({"a": torch.rand(2, 3)}, "a"), "2 rows"),
    (lambda a: correlate({"a": torch.rand(3, LIMIT + 1)}, "a"), "grow with the square"),
    (lambda a: correlation_clusters(a, "layer1", neurons=3), "3 neurons"),
    (lambda a: correlation_clusters(a, "layer1", clusters=6), "6 clusters"),
    (lambda a: correlation_clusters(a, "layer1", n_permutations=0), "0 permutations"),
    (lambda a: correlation_clusters({"a": torch.rand(3, 9, 5)}, "a"), "3 texts"),
    (lambda a: ActivationVisualizer(a).plot_heatmap(rows=[]), "no rows to show"),
    (lambda a: ActivationVisualizer(a).plot_heatmap(rows=[120]), "outside 0..119"),
    (lambda a: ActivationVisualizer(a).plot_heatmap(text=-1), "outside 0..11"),
    (lambda a: ActivationVisualizer(a).plot_layers(columns=1), "1 columns"),
    (lambda a: ActivationVisualizer(a, ["a"] * 120).plot_tokens("layer1", 6), "outside 0..5"),
    (lambda a: ActivationVisualizer(a, [str(i) for i in range(120)]).plot_tokens("layer1", 0), "no token is in 3 texts"),
    (lambda a: ActivationVisualizer({"a": torch.ones(4, 3)}).plot_heatmap(neurons=2), "no neuron of a varies"),
])
def test_bad_input(acts, made, words):
    with pytest.raises(BadInput) as error: made(acts)
    assert words in str(error.value)
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize("method", [name for name in KINDS.values() if name not in ("plot_layers", "plot_rates", "highlight_polysemantic")])
def test_an_unknown_layer_names_the_nearest(acts, method):
    with pytest.raises(BadAddress, match="did you mean layer1"): getattr(ActivationVisualizer(acts, ["a"] * 120), method)("layer_1")


def test_rates_of_odd_neurons():
    x = torch.ones(200, 7)
    x[:, 1] = 0
    x[:, 2] = math.nan
    x[::2, 3] = math.nan
    x[:100, 4] = math.inf
    x[:, 5] = 0
    x[3, 5] = 2
    x[:, 6] = 0
    x[:5, 6] = -math.inf
    f = neuron_rates({"odd": x}).frame
    assert f["count"].tolist() == [200, 200, 0, 100, 100, 200, 195]
    assert f.nonfinite.tolist() == [0, 0, 200, 100, 100, 0, 5]
    assert f.dead.tolist() == [False, True, False, False, False, False, True]
    assert f.always_on.tolist() == [True, False, False, True, True, False, False]
    assert math.isnan(f.rate[2])
    assert math.isnan(f.high[2])
    assert f.fired[5] == 1
    assert not f.constant[5]
    for i in (1, 5):
        exact = binomtest(int(f.fired[i]), 200).proportion_ci(.9)   # two sides of 95 % each
        assert np.isclose(f.high[i], exact.high)
        assert np.isclose(f.low[i], exact.low)
    assert np.isclose(f.high[6], rate_bounds(0, 195)[1])


def test_texts_are_counted_not_rows():
    x = torch.zeros(10, 8, 2)
    x[4, :, 0] = 1   # eight rows of one text
    f = neuron_rates({"a": x}).frame
    assert f.fired[0] == 8
    assert f.texts[0] == .1
    assert f.texts_high[1] > f.high[1]
    assert np.isclose(f.texts_high[1], rate_bounds(0, 10)[1])
    rows = neuron_rates({"a": x.flatten(0, 1)}, texts=np.repeat(list("abcdefghij"), 8)).frame
    pd.testing.assert_frame_equal(f, rows)


def test_what_counts_as_firing():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 4, generator=g)
    def rule(values, threshold=None): return firing_threshold(NeuronStats(4).update(values), threshold)[1]
    assert [rule(v) for v in (x.relu(), torch.nn.functional.gelu(x), torch.nn.functional.silu(x), x * 0)] == ["above 0"] * 4
    assert rule(x).startswith("over a standard")
    assert rule(x * .05).startswith("over a standard")
    assert rule(x, .5) == "above 0.5"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions(dtype):
    x = torch.randn(40, 30, 12, generator=torch.Generator().manual_seed(0)).relu().to(dtype)
    before = x.clone()
    viz, same = ActivationVisualizer({"a": x}, ["t"] * 1200), {"a": x.float()}
    pair = correlate({"a": x}, "a", n_permutations=10)
    assert np.array_equal(pair.pearson, correlate(same, "a", n_permutations=10).pearson)
    assert np.isfinite(pair.pearson).all()
    assert neuron_rates({"a": x}).frame.equals(neuron_rates(same).frame)
    of_halves, of_floats = (correlation_clusters(acts, "a", splits=1, n_permutations=2) for acts in ({"a": x}, same))
    assert of_halves.stability == of_floats.stability
    for figure in (viz.plot_heatmap(), viz.plot_heatmap(by="position", standard=True), viz.plot_layers(), viz.plot_tokens()): assert figure.to_json()
    assert torch.equal(x, before)


def test_numpy_and_gradients_are_taken():
    x = torch.randn(9, 5, 4, requires_grad=True)
    pair = correlate({"a": x.detach().numpy()}, "a", n_permutations=10)
    assert np.array_equal(pair.pearson, correlate({"a": x}, "a", n_permutations=10).pearson)


def test_pairs_use_the_rows_where_both_are_finite():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 6, generator=g) * torch.tensor([1., 1e-4, 1e4, 1, 1, 1]) + torch.tensor([0., 0, 1e5, 0, 0, 0])
    x[:, 3] = x[:, 0] * .5 + x[:, 3]
    x[torch.rand(5000, 6, generator=g) < .2] = math.nan
    x[7, 4] = math.inf
    finite = x.masked_fill(~x.isfinite(), math.nan)
    pair = correlate({"a": x}, "a", n_permutations=10)
    assert np.allclose(pair.pearson, pd.DataFrame(finite.double().numpy()).corr(), atol=2e-4)
    a, b = finite[:, 0], finite[:, 3]
    both = ~a.isnan() & ~b.isnan()
    fires = [(v[both] > finite[:, i].nanmean() + finite[:, i][~finite[:, i].isnan()].std(unbiased=False)).numpy() for i, v in ((0, a), (3, b))]
    assert np.isclose(pair.phi[0, 3], np.corrcoef(*fires)[0, 1], atol=1e-4)


def test_constant_and_empty_neurons_have_no_pairs():
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    x[:, 1], x[:, 3] = 2.5, math.nan
    for test in ("pearson", "phi"):
        pair = correlate({"a": x}, "a", test=test, n_permutations=10)
        assert pair.about["pairs"] == 3
        assert np.isnan(pair.pearson[1]).all()
        assert np.isnan(pair.p[3]).all()
        assert not pair.to_frame().isna().any().any()
        assert pair.plot().to_json()
    everything = correlate({"a": torch.ones(30, 3)}, "a", n_permutations=10)
    assert everything.significant == 0
    assert everything.top().empty
    with pytest.raises(BadInput, match="no neuron has two different"): everything.plot()


def test_the_same_again_and_symmetric():
    x = {"a": torch.randn(20, 15, 7, generator=torch.Generator().manual_seed(0))}
    one, two = correlate(x, "a", n_permutations=12), correlate(x, "a", n_permutations=12)
    assert np.array_equal(one.p, two.p, equal_nan=True)
    assert np.array_equal(one.q, one.q.T, equal_nan=True)
    assert len(one.to_frame()) == 21
    assert one.top(3).equals(one.to_frame().head(3))
    one, two = (correlation_clusters(x, "a", splits=2, n_permutations=3).frame for _ in range(2))
    assert one.equals(two)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_of_slow_neurons_are_not_found(seed):
    "The text null keeps its level on rows that depend on each other, the row null does not."
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.standard_normal((60, 30)), 25, 0)   # a level for each text, and nothing to do with another neuron
    x, texts = {"a": torch.tensor(level + rng.standard_normal(level.shape)).float()}, np.repeat(np.arange(60), 25)
    upper = np.triu_indices(30, 1)
    share = {null: (correlate(x, "a", texts=texts, null=null, seed=seed).p[upper] <= .05).mean() for null in ("texts", "rows")}
    assert share["texts"] < .09
    assert share["rows"] > .3


def test_partners():
    text, position = np.array([2, 2, 2, 0, 0, 1]), np.array([0, 1, 2, 0, 1, 0])
    for seed in range(20):
        mine, met = (v.numpy() for v in partner_rows(Contexts(text, position), np.random.default_rng(seed)))
        assert sorted(mine) == list(range(6))
        assert text[mine].tolist() == [0, 0, 1, 2, 2, 2]
        partner = [set(text[met[text[mine] == t]]) for t in range(3)]
        assert all(len(p) == 1 for p in partner)
        assert set.union(*partner) == {0, 1, 2}
        steps = np.diff(position[met[text[mine] == 2]])
        length = {2: 3, 0: 2, 1: 1}[partner[2].pop()]
        assert all(step % length == 1 % length for step in steps)   # in order, wrapped around


def test_one_text_meets_itself_elsewhere():
    x = {"a": torch.randn(1, 400, 6, generator=torch.Generator().manual_seed(0))}
    assert correlate(x, "a").about["texts"] == 1
    assert correlate(x, "a").significant <= 1


def test_hostile_names_stay_text(acts, tmp_path):
    tokens = [HOSTILE if i % 2 else "</script><script>alert(2)</script>" for i in range(120)]
    bad = {f"{HOSTILE}": acts["layer1"], "b": acts["<b>two</b>"]}
    viz = ActivationVisualizer(bad, tokens)
    result = PolysemanticDetector(bad, tokens=tokens, n_permutations=19).detect()
    first = viz.layers[0]
    shown = [viz.plot_heatmap(first), viz.plot_heatmap(first, highlight=result), viz.plot_layers(), viz.plot_rates(), viz.plot_coactivation(first, n_permutations=10), viz.plot_clusters(first, splits=1, n_permutations=2),
             viz.plot_tokens(first), viz.highlight_polysemantic(result),
             correlate(bad, first, "b", n_permutations=10).plot()]
    for i, figure in enumerate(shown):
        text = "".join(str(part) for part in _strings(figure.to_plotly_json()))
        assert "<img" not in text, f"figure {i}"
        assert "<script" not in text, f"figure {i}"
        assert "</script" not in text, f"figure {i}"
        page = save_figure(figure, tmp_path / f"{i}.html").read_text()
        assert "<img" not in page
        assert "alert(2)</script>" not in page
    pages = [viz.rates()._repr_html_(), correlate(bad, first, n_permutations=10)._repr_html_(), correlation_clusters(bad, first, splits=1, n_permutations=2)._repr_html_(), token_answers(viz.rows[first], 0)._repr_html_(),
             viz.explore()._repr_mimebundle_()["text/html"]]
    assert not any("<img" in page or "<script>alert" in page for page in pages)


def _strings(part):
    "Every text within a figure."
    if isinstance(part, dict): part = part.values()
    if isinstance(part, str): yield part
    elif isinstance(part, np.ndarray): yield from (_strings(part.tolist()) if part.dtype == object else ())
    elif hasattr(part, "__iter__"):
        for inner in part: yield from _strings(inner)


def test_the_panel_closes_what_it_draws(acts):
    from ipywidgets import widgets
    panel = ActivationVisualizer(acts, ["t"] * 120).explore()
    for kind in ("heatmap", "layers", "rates", "tokens"): panel.set(kind=kind)
    panel.set(kind="heatmap")
    before = len(widgets.widget._instances)
    for kind in ("layers", "heatmap") * 3: panel.set(kind=kind)
    assert len(widgets.widget._instances) == before
    assert len(panel.content.places["figure"].children) == 1
    panel.set(text=99)
    assert panel.figure is None
    assert "text 99 is outside 0..11" in panel.parts.error.value
    assert not panel.content.places["figure"].children


def test_a_live_figure_has_no_nan_in_its_matrices():
    "They travel as JSON, which has none."
    x = torch.randn(20, 10, 6, generator=torch.Generator().manual_seed(0))
    x[:, :, 1], x[:5, 2, 3] = 1., math.nan
    panel = ActivationVisualizer({"a": x}, ["t"] * 200).explore()
    for kind in KINDS.keys() - {"polysemantic"}:
        panel.set(kind=kind)
        assert panel.figure is not None, panel.parts.error.value
        for trace in panel.content.figures["figure"].data:
            arrays = [np.asarray(v, dtype=object) for v in trace.to_plotly_json().values() if isinstance(v, np.ndarray) and v.ndim > 1]
            assert not any(v != v for array in arrays for v in array.ravel())


def test_texts_that_come_twice_are_one():
    "Independent neurons on few texts, each several times: no pair is significant, no cluster stable."
    g = torch.Generator().manual_seed(0)
    once = torch.randn(20, 10, 12, generator=g).cumsum(1)
    found = correlate({"a": once.repeat(4, 1, 1)}, "a")
    assert found.about["texts"] == 20
    assert found.significant == 0
    assert (found.p[np.triu_indices(12, 1)] <= .05).mean() < .15
    assert not correlation_clusters({"a": once.repeat(4, 1, 1)}, "a", splits=2).stable

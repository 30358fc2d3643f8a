"""Polysemantic neurons on arrays: odd input, odd neurons, other precisions, models that return tuples, damaged files."""
import numpy as np
import pandas as pd
import pytest
import torch
from neural_introspection.core import BadData, BadInput
from neural_introspection.analysis import PolysemanticDetector
from neural_introspection.analysis.polysemantic import PolysematicDetector
from neural_introspection.analysis.measures import MEASURES, Finding
from neural_introspection.analysis.planted import PlantedNetwork
from neural_introspection.analysis.polysemantic import PolysemanticResult
from neural_introspection.analysis.polysemantic_scan import compare_corpora
from scipy.stats import kstest
from shell import is_one_sentence



@pytest.fixture(scope="module")
def planted():
    "(network, features, activations, representations), 5 neurons of each kind."
    network = PlantedNetwork(seed=5, each=5)
    features = network.inputs(4000)
    return network, features, network(features), network.embed(features)


def detect(acts, space=None, **options):
    return PolysemanticDetector({"neurons": acts}, None if space is None else {"neurons": space}, **dict(n_permutations=99) | options).detect()


def test_the_seeds_spelling(): assert PolysematicDetector is PolysemanticDetector


@pytest.mark.parametrize("made, words", [
    (lambda x: PolysemanticDetector({}), "no activations"),
    (lambda x: PolysemanticDetector(x), "give a dict"),
    (lambda x: PolysemanticDetector({"a": x[:, 0]}), "give floats"),
    (lambda x: PolysemanticDetector({"a": x.int()}), "give floats"),
    (lambda x: PolysemanticDetector({"a": x[:0]}), "at least one row"),
    (lambda x: PolysemanticDetector({"a": x}, {"b": x}), "lack layer a"),
    (lambda x: PolysemanticDetector({"a": x}, {"a": x[1:]}), "99 rows of representations do not fit"),
    (lambda x: PolysemanticDetector({"a": x}, features=x[1:]), "99 rows of features do not fit"),
    (lambda x: PolysemanticDetector({"a": x}, tokens=["a"]), "1 rows of tokens do not fit"),
    (lambda x: PolysemanticDetector({"a": x}, mask=torch.ones(3).bool()), "a mask of (3,) does not fit"),
    (lambda x: PolysemanticDetector({"a": x}, measure="beauty"), "measure 'beauty' is unknown"),
    (lambda x: PolysemanticDetector({"a": x}, null="none"), "null 'none' is unknown"),
    (lambda x: PolysemanticDetector({"a": x}, k=3), "k is 3"),
    (lambda x: PolysemanticDetector({"a": x}, level=0), "level is 0"),
    (lambda x: PolysemanticDetector({"a": x}, n_permutations=3), "3 permutations"),
    (lambda x: PolysemanticDetector({"a": x}, drawz=99), "option 'drawz' is unknown"),
    (lambda x: PolysemanticDetector({"a": x}, measure="selectivity_entropy").detect(), "needs known features"),
    (lambda x: PolysemanticDetector({"a": x}, features=torch.ones(100, 3), measure="max_over_sum").detect(), "exactly one feature"),
])
def test_bad_input(made, words):
    with pytest.raises(BadInput) as error: made(torch.rand(100, 5))
    assert words in str(error.value)
    assert is_one_sentence(str(error.value))


def test_odd_neurons_do_not_matter(planted):
    "Dead, constant, NaN and once-firing neurons have no test, and the others are as without them."
    network, features, acts, space = planted
    odd = torch.zeros(len(acts), 4)
    odd[:, 1], odd[:, 2], odd[7, 3] = 3., torch.nan, 1.
    alone, beside = detect(acts, space).frame, detect(torch.cat([acts, odd], 1), space).frame
    pd.testing.assert_frame_equal(alone.drop(columns="q"), beside[:len(alone)].drop(columns="q"))
    rest = beside[len(alone):]
    assert rest[["score", "p", "q", "stability"]].isna().all(axis=None)
    assert (rest.senses == 0).all()
    assert (rest.contexts == 0).all()


def test_some_nan_rows(planted):
    "NaN and infinite activations are left out; their rows are no top contexts."
    network, features, acts, space = planted
    broken, broken_space = acts.clone(), space.clone()
    broken[::50], broken_space[::50] = torch.nan, torch.inf
    broken[25::50] = torch.inf
    found = detect(broken, broken_space)
    top = found.table[found.table.kind == "top"]
    assert found.frame.p.notna().all()
    assert not (top.text % 25 == 0).any()
    assert np.isfinite(top.activation).all()


def test_fewer_rows_than_k():
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    found = detect(x, k=64)
    assert (found.frame.contexts <= 13).all()
    assert found.frame.p.notna().any()
    few = detect(x[:10])
    assert few.frame.p.isna().all()
    assert "capture more text" in repr(few)
    assert "capture more text" in few._repr_html_()
    assert len(few.top()) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(planted, dtype):
    network, features, acts, space = planted
    whole, half = detect(acts, space).frame, detect(acts.to(dtype), space.to(dtype)).frame
    multi = np.isin(network.kinds, ["OR", "XOR"])
    assert half.p.notna().all()
    assert half.score[multi].mean() > half.score[~multi].mean() + 2   # in standard deviations of the null
    assert abs(half.score[multi].mean() - whole.score[multi].mean()) < 1


def test_same_seed_same_numbers(planted):
    network, features, acts, space = planted
    one, two, other = (detect(acts, space, seed=seed) for seed in (1, 1, 2))
    assert one.frame.equals(two.frame)
    assert one.table.equals(two.table)
    assert not one.frame.equals(other.frame)


def test_a_neuron_is_no_evidence_for_itself():
    "Without a representation a layer's own neurons are used, but a neuron with two levels is not two-sensed for it."
    g = torch.Generator().manual_seed(0)
    acts = torch.randn(2000, 12, generator=g)
    acts[:, 0] = torch.where(torch.rand(2000, generator=g) < .02, 50. + 50. * (torch.rand(2000, generator=g) < .5), 0.)
    assert detect(acts).frame.p[0] > .05


def test_both_nulls_are_right_on_normal_representations():
    g = torch.Generator().manual_seed(3)
    space = torch.randn(4000, 24, generator=g)
    acts = (space @ torch.randn(24, 150, generator=g)).relu()
    for null in ("rows", "normal"):
        p = detect(acts, space, null=null, n_permutations=299).frame.p
        assert kstest(p, "uniform").pvalue > .001, null
        assert (p <= .05).mean() < .12, null


def test_three_senses():
    "Three groups of contexts are found as three."
    g = torch.Generator().manual_seed(0)
    space = torch.randn(3000, 16, generator=g)
    group = torch.arange(3000) % 100
    acts = torch.rand(3000, 1, generator=g) * .1
    for i in range(3):
        space[group == i, i] += 12
        acts[group == i] += 1
    found = detect(acts, space, k=48, n_permutations=199)
    top = found.contexts("neurons", 0, random=False)
    assert found.frame.senses[0] == 3
    assert pd.crosstab(top.text % 100, top.sense).gt(0).sum().sum() == 3


def test_a_measure_of_ones_own(planted, monkeypatch):
    network, features, acts, space = planted
    monkeypatch.setitem(MEASURES, "kinds", lambda evidence, settings: Finding(np.arange(20.), np.full(20, np.nan), np.ones(20, int)))
    found = detect(acts, space, measure="kinds")
    assert found.top(1).neuron[0] == 19
    assert found.frame.q.isna().all()
    assert len(found.contexts("neurons", 3)) == 32 + 8


def test_shapes_say_where(planted):
    "[batch, pos, neuron] with a mask: text and position count the text's own tokens."
    g = torch.Generator().manual_seed(0)
    acts, mask = torch.rand(30, 6, 4, generator=g), torch.ones(30, 6).bool()
    mask[:, 0], mask[3, 4:] = False, False
    tokens = [f"{text}.{column - 1}" for text, column in mask.nonzero().tolist()]
    found = PolysemanticDetector({"a": acts}, mask=mask, tokens=tokens, n_permutations=99).detect()
    assert (found.table.token == found.table.text.astype(str) + "." + found.table.position.astype(str)).all()
    row = found.table.iloc[0]
    assert float(acts[row.text, row.position + 1, row.neuron]) == pytest.approx(row.activation)


def test_save_load_without_pickle(planted, tmp_path, monkeypatch):
    import pickle
    def no(*args, **kwargs): raise AssertionError("pickled")
    for name in ("dump", "dumps", "load", "loads"): monkeypatch.setattr(pickle, name, no)
    network, features, acts, space = planted
    found = detect(acts, space)
    back = PolysemanticResult.load(found.save(tmp_path / "r"))
    pd.testing.assert_frame_equal(back.frame, found.frame)
    pd.testing.assert_frame_equal(back.table, found.table)
    found.save(tmp_path / "r")
    (tmp_path / "r" / "table.parquet").write_bytes(b"damaged")
    with pytest.raises(BadData): PolysemanticResult.load(tmp_path / "r")
    with pytest.raises(BadData): PolysemanticResult.load(tmp_path / "none")
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".pkl", ".pt", ".pickle")]


def test_independent_results_do_not_agree():
    "Two scans of unrelated neurons: no rank correlation beyond what exchanging gives, and a result with itself has 1."
    g = torch.Generator().manual_seed(0)
    space = torch.randn(2000, 16, generator=g)
    a, b = (detect(torch.rand(2000, 60, generator=g), space) for _ in range(2))
    unrelated, same = compare_corpora(a, b), compare_corpora(a, a)
    assert unrelated.p > .01
    assert same.correlation == pytest.approx(1)
    assert same.p == 1 / 200
    with pytest.raises(BadInput, match="use one measure"): compare_corpora(a, PolysemanticResult(b.frame, b.table, b.about | dict(measure="other")))

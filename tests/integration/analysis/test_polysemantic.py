"""Polysemantic neurons where a notebook can't show it: odd input, odd neurons, other precisions, models that return tuples, memory."""

import numpy as np
import pytest
import torch
from neural_introspection.analysis import PolysemanticDetector, polysemantic_scan, scan_polysemantic
from neural_introspection.activations import ActivationMonitor, ModelInterface
from neural_introspection.core import BadAddress, BadInput, BadTexts, watch_progress
from neural_introspection.models import load_model
from neural_introspection.data import load_texts
from shell import is_one_sentence


@pytest.fixture(scope="module")
def model(): return load_model("pocket", device="cpu")


def detect(acts, space=None, **options):
    return PolysemanticDetector({"neurons": acts}, None if space is None else {"neurons": space}, **dict(n_permutations=99) | options).detect()


@pytest.mark.parametrize("options, kind, words", [
    (dict(layers=[4]), BadAddress, "outside 0..3"), (dict(layers=[0, -4]), BadAddress, "each once"), (dict(layers=[]), BadAddress, "at least one layer"),
    (dict(neurons={0: [512]}), BadAddress, "outside 0..511"), (dict(per_layer=0), BadInput, "per_layer is 0"), (dict(k=1000), BadInput, "k is 1000"),
    (dict(texts=[]), BadTexts, "no texts"), (dict(texts=["a b"]), BadInput, "too few for a test"), (dict(beauty=1), BadInput, "'beauty' is unknown"),
])
def test_bad_scan(model, options, kind, words):
    "Refused before the model runs."
    def nothing(*args): raise AssertionError("the model was run")
    handle = model.embed.register_forward_hook(nothing)
    try:
        with pytest.raises(kind) as error: scan_polysemantic(model, **dict(texts=load_texts("synthetic", 20).texts) | options)
    finally: handle.remove()
    assert words in str(error.value)
    assert is_one_sentence(str(error.value))


def test_models_that_return_tuples():
    class Tuple(torch.nn.Linear):
        def forward(self, x): return super().forward(x).relu(), None
    torch.manual_seed(0)
    model = torch.nn.Sequential(Tuple(8, 16))
    acts = ActivationMonitor(ModelInterface(model)).register_layers(["0"]).capture(torch.randn(200, 8))
    assert len(PolysemanticDetector(acts, n_permutations=99).detect().frame) == 16


def test_snippets_are_escaped(model):
    texts = ["<script>alert(1)</script> of the class is <b>bold</b>"] * 40
    found = scan_polysemantic(model, texts, layers=[0], per_layer=4, n_permutations=99)
    assert "<script>" not in found._repr_html_()
    assert "<script>" not in found.contexts("blocks.0.mlp.hook_post", found.frame.neuron[0]).to_html()


def test_a_scan_is_the_detector(model):
    "The two passes see the same top contexts and values as all activations at once."
    texts = load_texts("synthetic", 60, seed=3).texts
    scan = scan_polysemantic(model, texts, neurons={2: [3, 77]}, n_permutations=99)
    monitor = ActivationMonitor(ModelInterface(model)).register_layers(["blocks.2.hook_resid_mid", "blocks.2.mlp.hook_post"])
    acts = monitor.capture(list(texts))
    site = "blocks.2.mlp.hook_post"
    stream = {site: acts["blocks.2.hook_resid_mid"]}
    both = PolysemanticDetector({site: acts[site]}, stream, mask=monitor.mask, n_permutations=99).detect()
    for neuron in (3, 77):
        mine, theirs = (r.table[(r.table.neuron == neuron) & (r.table.kind == "top")] for r in (scan, both))
        np.testing.assert_allclose(mine.activation, theirs.activation, rtol=1e-3, atol=1e-4)
        assert len(set(zip(mine.text, mine.position)) & set(zip(theirs.text, theirs.position))) >= len(mine) - 2


def test_memory_does_not_grow_with_the_corpus(model, monkeypatch):
    "What is kept of five times the texts is as large: statistics, wanted rows, tables."
    monkeypatch.setattr(polysemantic_scan, "BACKGROUND", 300)
    sizes, rows, second = {}, {}, polysemantic_scan._second_pass
    def watched(model, tokens, wanted, *rest):
        found = second(model, tokens, wanted, *rest)
        rows[len(tokens.texts)] = sum(map(len, wanted.values())), sum(x.nbytes for x in found.spaces.values())
        return found
    monkeypatch.setattr(polysemantic_scan, "_second_pass", watched)
    for n in (100, 500):
        texts = load_texts("synthetic", n, seed=0).texts
        found = scan_polysemantic(model, texts, layers=[1], per_layer=16, n_permutations=19)
        sizes[n] = len(found.table)
    assert rows[500][0] <= 16 * 32 + 300
    assert rows[500][1] <= (16 * 32 + 300) * model.cfg.d_model * 4
    assert sizes[500] <= 16 * (32 + 8)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_without_a_finite_representation_are_left_out_and_counted(value):
    "They stand at no point of the space: the result is that of the other rows."
    draw = torch.Generator().manual_seed(0)
    space = torch.randn(600, 8, generator=draw)
    acts = torch.stack([space[:, 0], space[:, 0].abs() + space[:, 1].abs()], 1).relu()
    acts += .01 * torch.randn(600, 2, generator=draw)
    broken = torch.arange(600) >= 500
    spoilt = space.clone()
    spoilt[broken, 3] = value
    acts[broken] += 10   # else the top contexts
    assert detect(acts, space).frame.score.tolist() != detect(acts[~broken], space[~broken]).frame.score.tolist()
    found, others = detect(acts, spoilt), detect(acts[~broken], space[~broken])
    top = lambda result: result.table[result.table.kind == "top"].sort_values(["neuron", "text"])
    assert top(found).activation.tolist() == pytest.approx(top(others).activation.tolist())
    assert found.frame.score.tolist() == pytest.approx(others.frame.score.tolist(), abs=.1)   # other random rows
    assert (found.about["left_out"], found.about["rows"]) == (100, 500)
    few = detect(acts[-118:], spoilt[-118:])   # 18 rows are left
    assert few.frame.p.isna().all()
    assert "too few for a test" in few.summary()
    with pytest.raises(BadInput, match="no row of neurons has a finite"): detect(acts[broken], spoilt[broken])
    assert "100 representations that are not finite were left out" in found.summary()


def test_a_value_that_is_not_finite_takes_no_row_from_other_neurons():
    acts = torch.randn(300, 6, generator=torch.Generator().manual_seed(1)).relu()
    acts[:, 5] = float("nan")
    found = detect(acts)
    assert found.frame.score[:5].notna().all()
    assert found.about["left_out"] == 0


def test_progress_is_told(model):
    seen = set()
    with watch_progress(lambda desc, done, total: seen.add(desc)):
        scan_polysemantic(model, load_texts("synthetic", 20).texts, layers=[0], per_layer=4, n_permutations=99)
    assert {"top contexts", "representations", "senses"} <= seen

"""One neuron has one count and one mean, whichever part of the library reads it, also with sinks and cut texts."""
import dataclasses

import numpy as np
import pytest
import torch

from neural_introspection import (ActivationDatasetGenerator, ActivationPredictor, PredictorTrainer,
    edit, hooks, load_model, load_texts, token_profiles)
from neural_introspection.activations import (ModelInterface, TokenSelection, activation_batches, select_tokens,
    text_statistics)
from neural_introspection.activations.positions import stream_sites
from neural_introspection.activations.statistics import layer_statistics
from neural_introspection.activations.interventions import unit_references
from neural_introspection.analysis.neuron_index import layer_index
from neural_introspection.analysis.polysemantic_scan import senses_and_statistics
from neural_introspection.core import BadData, BadTexts
from neural_introspection.introspection import NeuronScanner
from neural_introspection.introspection.atlas import NeuronAtlas
from neural_introspection.introspection.monitors import ActivationDrift
from neural_introspection.models import encode, token_batch

LAYER, NEURON = 1, 300
SITE = f"blocks.{LAYER}.mlp.hook_post"
LONG = "a text that is longer than the context of this model " * 40


@pytest.fixture(scope="module")
def model(): return load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def texts(): return [*load_texts("synthetic", 80, seed=0).texts, LONG]


def sink(x):
    "Every text's third token becomes a thousand times as long (BOS is the first column)."
    x = x.clone()
    x[:, 3] *= 1000
    return x


def senses(model, texts):
    return senses_and_statistics(model, texts, neurons={LAYER: [NEURON]}, n_permutations=19)[1][LAYER]


READERS = dict(
    scan=lambda model, texts: NeuronScanner(model, token_pos="all").scan(texts).stats[LAYER],
    one_layer=lambda model, texts: NeuronScanner(model, token_pos="all", layers=[LAYER]).scan(texts).stats[LAYER],
    statistics=lambda model, texts: text_statistics(model, texts, [SITE]).stats[SITE],
    interface=lambda model, texts: layer_statistics(ModelInterface(model), [SITE], [texts])[SITE],
    polysemantic=senses,
    browser=lambda model, texts: layer_index(model, texts, LAYER, n_permutations=19).statistics,
)


def dataset(model, texts):
    found = ActivationDatasetGenerator(model, f"{SITE}[{NEURON}]", "all").generate(texts)
    return len(found), found.values()[:, 0].mean(), found.values()[:, 0].std()


def profile(model, texts):
    about = token_profiles(model, texts, f"{SITE}[{NEURON}]", n_permutations=9)[0].about
    return about["tokens"], about["mean"], about["std"]


def atlas(model, texts):
    result = NeuronAtlas(model, folds=3, n_permutations=1, control_tasks=1).probe(texts)
    data = result.data.sel(layer=LAYER, neuron=NEURON)
    return int(data["count"]), float(data["mean"]), float(data["std"])


OTHERS = dict(dataset=dataset, profile=profile, atlas=atlas)


@pytest.mark.parametrize("planted", [None, 0, 3], ids=["no sinks", "sinks before the layer", "sinks after the layer"])
def test_all_count_the_same_tokens(model, texts, planted):
    "A sink counts nowhere, also at layers before the one where it becomes long."
    plant = {} if planted is None else {f"blocks.{planted}.hook_resid_pre": sink}
    lengths = [len(row) for row in encode(model, texts)]
    expected = sum(lengths) - (planted is not None) * len(lengths)
    with edit(model, plant):
        stats = {name: read(model, texts) for name, read in READERS.items()}
        found = {name: (int(s.count[NEURON]), float(s.mean[NEURON]), float(s.std[NEURON])) for name, s in stats.items()}
        found |= {name: read(model, texts) for name, read in OTHERS.items()}
    assert {name: count for name, (count, *_) in found.items()} == dict.fromkeys(found, expected)
    means, stds = ({name: f[i] for name, f in found.items()} for i in (1, 2))
    assert means == pytest.approx(dict.fromkeys(found, means["scan"]), abs=1e-5)
    assert stds == pytest.approx(dict.fromkeys(found, stds["scan"]), rel=1e-3)


def test_the_counts_stand_on_the_results(model, texts):
    with edit(model, {"blocks.1.hook_resid_pre": sink}):
        scan = NeuronScanner(model, token_pos="all").scan(texts)
        data = ActivationDatasetGenerator(model, f"{SITE}[{NEURON}]", "all").generate(texts)
        probed = NeuronAtlas(model, folds=3, n_permutations=1, control_tasks=1).probe(texts)
    wanted = dict(sinks=len(texts), cut=1, skipped=0, sink_ratio=100., token_pos="all", texts=len(texts))
    for about in (scan.about, data.about, probed.about): assert about | wanted == about
    for shown in (repr(scan), data._repr_html_(), probed.summary()):
        assert "without 81 attention sinks" in shown
        assert "1 texts cut to the context" in shown


def test_rows_that_were_chosen_stay_chosen(model, texts):
    "A changed model is read at the tokens that were selected before, and the pass stops at the last site."
    chosen = select_tokens(model, texts[:5])
    seen = []
    def note(x): seen.append(1)
    with edit(model, {"blocks.0.hook_resid_pre": sink}):
        with hooks(model, {"blocks.2.hook_resid_pre": note}): batches = list(activation_batches(model, chosen, [SITE]))
    assert sum(map(len, batches)) == chosen.counts.tokens
    assert not seen


def test_the_same_alone_and_in_a_batch(model, texts):
    "A text's tokens count or not whatever the other texts are."
    with edit(model, {"blocks.2.hook_resid_pre": lambda x: sink(x)}):
        together = select_tokens(model, texts[:20]).positions
        alone = [select_tokens(model, [text]).positions[0] for text in texts[:20]]
    assert all(np.array_equal(together[i], some) for i, some in enumerate(alone))


def test_a_text_with_nothing_but_sinks_is_left_out(model, texts):
    "Position 2 of every text is a sink: no text is left, and that is said."
    def first(x): return torch.cat([sink(x[:1]), x[1:]])
    with edit(model, {"blocks.1.hook_resid_pre": sink}), pytest.raises(BadTexts, match="attention sinks"):
        select_tokens(model, texts, 2)
    with edit(model, {"blocks.1.hook_resid_pre": first}): found = select_tokens(model, texts[:4], 2)
    assert (found.counts.texts, found.counts.skipped, found.counts.sinks) == (3, 1, 1)


def test_replacement_values_leave_sinks_out(model, texts):
    with edit(model, {"blocks.0.hook_resid_pre": sink}):
        reference = unit_references(model, texts, [SITE])[SITE]
        stats = text_statistics(model, texts, [SITE]).stats[SITE]
    assert float(reference.mean[NEURON]) == pytest.approx(float(stats.mean[NEURON]), abs=1e-5)


def test_every_place_of_the_stream_is_compared(model, texts):
    for site in stream_sites(model):
        with edit(model, {site: sink}): assert select_tokens(model, texts[:4]).counts.sinks >= 4, site


def test_none_keeps_sinks(model, texts):
    with edit(model, {"blocks.0.hook_resid_pre": sink}):
        kept = text_statistics(model, texts[:9], [SITE], TokenSelection(sink_ratio=None))
    assert kept.counts.tokens == sum(map(len, encode(model, texts[:9])))
    assert kept.counts.sinks == 0


def test_pieces_of_other_texts_are_not_used(model, texts, tmp_path):
    "The same tokens under other numbers: the rows are those of the texts that were given."
    generator = ActivationDatasetGenerator(model, f"{SITE}[{NEURON}]", 3)
    generator.generate(["a", *texts[:6]], folder=tmp_path)   # the first is too short
    found = generator.generate([*texts[:6], "a"], folder=tmp_path)
    assert found.texts == texts[:6]


def test_a_predictor_of_another_position_is_refused(model, texts):
    data = ActivationDatasetGenerator(model, f"{SITE}[{NEURON}]", "all").generate(texts[:20])
    with pytest.raises(BadData, match="made at position all"):
        PredictorTrainer(ActivationPredictor(model, data.target)).fit(data)


def test_a_record_of_drift_keeps_its_tokens(model, texts):
    "Resumed with a model whose sinks are other tokens, it reads those of the model at the start."
    drift = ActivationDrift(model, f"{SITE}[{NEURON}]", texts[:9], "all")
    drift.record(0)
    with edit(model, {"blocks.0.hook_resid_pre": sink}):
        again = ActivationDrift(model, f"{SITE}[{NEURON}]", texts[:9], "all")
        assert len(again.tokens) < len(drift.tokens)
        again.load_state(drift.state())
    assert len(again.tokens) == len(drift.tokens)


def test_no_selected_token_is_said(model, texts):
    with pytest.raises(BadTexts, match="no token was selected"):
        text_statistics(model, select_tokens(model, texts[:3]).part([]), [SITE])


def test_a_part_of_a_data_set_counts_its_own_rows(model, texts):
    data = ActivationDatasetGenerator(model, f"{SITE}[{NEURON}]", "all").generate(texts[:9])
    part = dataclasses.replace(data, frame=data.frame[data.frame["index"] < 3])
    assert (part.counts.texts, part.counts.tokens) == (3, len(part))


def test_the_sum_of_parts_is_what_torch_gives(model, texts):
    batch = token_batch(model, encode(model, texts[:30]))
    seen = {}
    with torch.no_grad(), hooks(model, {SITE: lambda x: seen.update(x=x[batch.mask])}): model(batch.ids)
    stats = text_statistics(model, texts[:30], [SITE], batch_size=4).stats[SITE]
    assert torch.allclose(stats.mean, seen["x"].double().mean(0), atol=1e-5)

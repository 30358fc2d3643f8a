"""Untrained networks are read once for all cards of the same rows in a process, and few are kept."""
import pytest
import torch
from neural_introspection import ActivationDatasetGenerator, ActivationPredictor, load_model, load_texts, make_card
from neural_introspection.activations.batches import plan_reading
from neural_introspection.activations.collecting import reading_identity
from neural_introspection.core import watch_progress
from neural_introspection.data import group_texts, split_groups
from neural_introspection.introspection import untrained
from neural_introspection.introspection.evaluation import CardOptions
from neural_introspection.introspection.trainer import PredictorTrainer

PASSES = {"neurons to match", "initialised network", "shuffled network"}   # progress bars of reading them


@pytest.fixture(scope="module")
def question():
    "The arguments of `make_card`, about a model of this file's own."
    model = load_model("pocket", device="cpu")
    corpus = load_texts("synthetic", 80, seed=0)
    groups = group_texts(corpus.texts, corpus.groups)
    data = ActivationDatasetGenerator(model, "blocks.2.mlp.hook_post[7]").generate(
        corpus.texts, groups, split_groups(groups, .2, .3, seed=0))
    trainer = PredictorTrainer(ActivationPredictor(model, data.target, feature_layer=1), epochs=1)
    features = trainer.predictor.features(data.texts)
    return trainer, trainer.fit(data, features), data, features


@pytest.fixture
def nothing_kept(monkeypatch):
    monkeypatch.setattr(untrained, "_READ", {})


def card_and_passes(question):
    "The card's numbers, and which passes over untrained networks were made for it."
    seen = set()
    with watch_progress(lambda name, done, total: seen.add(name)):
        card = make_card(*question, options=CardOptions(n_resamples=50))
    return card.to_dict(), seen & PASSES


def test_a_second_card_has_the_same_numbers_and_reads_no_network(question, nothing_kept):
    first, read = card_and_passes(question)
    second, again = card_and_passes(question)
    assert read == PASSES
    assert again == set()
    assert second == first


def test_a_changed_weight_is_another_question(question, nothing_kept):
    card_and_passes(question)
    weight = question[0].predictor.model.W_E
    before = weight.clone()
    with torch.no_grad(): weight[3, 0] += 1
    _, read = card_and_passes(question)
    with torch.no_grad(): weight.copy_(before)
    _, again = card_and_passes(question)
    assert read == PASSES
    assert again == set(), "the first card's weights are back"


def test_what_is_kept_is_bounded(question, nothing_kept, monkeypatch):
    card_and_passes(question)
    rows = len(question[2])
    assert 0 < untrained.kept_bytes() <= 2*rows*(4*128 + 8*untrained.NEURONS)   # both networks: stream, twelve neurons
    monkeypatch.setattr(untrained, "KEPT_BYTES", 1000)
    untrained.untrained_networks(question[0].predictor, question[2], seed=1)
    assert untrained.kept_bytes() <= 1000, "the oldest go first, and one too large is not kept"
    _, read = card_and_passes(question)
    assert read == PASSES


def test_bos_first_or_not_is_another_question(question, monkeypatch):
    "Token ids of a data set are without BOS, and every activation depends on it."
    predictor, data = question[0].predictor, question[2]
    def asked():
        plan = plan_reading(predictor.model, data.tokens, "last", 16)
        return untrained._asked(predictor, data, 0), reading_identity(predictor.model, plan, [0], {}, 16)
    with_bos = asked()
    monkeypatch.setattr(predictor.model.cfg, "default_prepend_bos", not predictor.model.cfg.default_prepend_bos)
    without = asked()
    assert with_bos[0] != without[0]
    assert with_bos[1] != without[1]

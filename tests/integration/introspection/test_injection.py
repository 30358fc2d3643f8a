"""Injection and detection: what the page does not show."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from neural_introspection import load_texts
from neural_introspection.core import BadInput
from neural_introspection.introspection import Unfreezing
from neural_introspection.introspection.concepts import (Concepts, injected_answers, make_trials, matched_vectors,
    random_concepts, text_concepts)
from neural_introspection.introspection.injection import (INJECTED, NO_OP, UNASKED, Draws, Scores, cell_verdict,
    d_prime, detect_injection, with_ends)
from neural_introspection.introspection.reporting import Learning
from neural_introspection.introspection.taught_detection import teach_detection


@pytest.fixture(scope="module")
def texts(): return [" ".join(text.split()[:5]) for text in load_texts("python-docs", 8, seed=0).texts]


def rows(**leads):
    "The pooled rows of a cell: all leads are clear but those given."
    clear = {"random": .1, "matched output": .1, "shuffled text": .1, "concept in the text": .1, UNASKED: .1}
    low = dict(injected=leads.pop("injected", .1))
    return pd.DataFrame([dict(control="injected", low=low["injected"], lead_low=np.nan),
                         dict(control=NO_OP, low=0., lead_low=np.nan),
                         *(dict(control=name, low=0., lead_low=lead) for name, lead in (clear | leads).items())])


@pytest.mark.parametrize("leads, verdict", [
    ({}, "detects"), (dict(injected=-.1), "no evidence"), (dict(injected=np.nan), "no evidence"),
    ({UNASKED: -.1}, "leans to yes"), ({"shuffled text": -.1}, "notices a disturbance"),
    ({"matched output": np.nan}, "notices a disturbance"), ({"random": 0.}, "notices a disturbance"),
    ({UNASKED: -.1, "random": -.1}, "leans to yes")])
def test_every_control_can_take_the_green_away(leads, verdict): assert cell_verdict(rows(**leads), 6, 9) == verdict


@pytest.mark.parametrize("concepts, groups", [(4, 9), (9, 4)])
def test_too_few_concepts_or_groups_to_tell(concepts, groups):
    assert cell_verdict(rows(), concepts, groups) == "underpowered"


def test_a_shift_that_differs_by_concept_is_no_evidence():
    "Each concept moves the score for certain, half of them down: over texts alone each is far from 0."
    draws, base = Draws.of(np.arange(40), 6), np.random.default_rng(0).normal(0, .1, 40)
    moved = base + np.array([1, -1, 1, -1, 1, -1])[:, None]
    found = d_prime(draws, Scores(moved, np.arange(40)), Scores(base[None], np.arange(40)))
    assert with_ends(draws, found, 0)[1] > 5
    value, low, high = with_ends(draws, found)
    assert low < 0 < high


def test_trials_of_one_concept_do_not_count_for_another():
    values = np.array([[1., 3., np.nan, np.nan], [np.nan, np.nan, -1., -3.]])
    draws = Draws.of(np.arange(4), 2, 10)
    found = d_prime(draws, Scores(values, np.arange(4)), Scores(np.array([[1., -1., 1., -1.]]), np.arange(4)))
    assert found[0] == pytest.approx([2., -2.])   # means 2 and -2 from 0; all spreads are 1


def test_a_row_for_each_layer_strength_control_and_concept(pocket, texts):
    one, two = (random_concepts(pocket, layer, 2, texts).vectors for layer in (0, 2))
    concepts = Concepts(one | two, tuple(texts), np.arange(8), {}, {}, "random")
    found = detect_injection(pocket, concepts, (.1, .2), n_resamples=20)
    controls = {"injected", "random", "matched output", "shuffled text", UNASKED, NO_OP}
    assert len(found.frame) == 2*2*len(controls)*(2 + 1)
    assert set(found.frame.control) == controls
    injected = found.frame[found.frame.control == "injected"]
    assert set(zip(injected.layer, injected.strength)) == {(0, .1), (0, .2), (2, .1), (2, .2)}
    kl = injected[injected.concept == "all"].pivot(index="layer", columns="strength", values="kl")
    assert (kl[.2] > kl[.1]).all()
    again = detect_injection(pocket, concepts, (.1, .2), n_resamples=20)
    pd.testing.assert_frame_equal(found.frame, again.frame)


def test_batches_do_not_change_the_answers(pocket, texts):
    trials = make_trials(pocket, texts, INJECTED, 1)
    vectors = trials.unit*random_concepts(pocket, 1, 2, texts).stacked(1)
    one, all_of = (injected_answers(trials, vectors, size) for size in (1, 64))
    assert np.allclose(one.log_p, all_of.log_p, atol=1e-4)
    assert np.allclose(one.kl, all_of.kl, atol=1e-4)
    further = injected_answers(dataclasses.replace(trials, span="on"), vectors)
    assert further.kl.mean() > all_of.kl.mean()   # it also acts on the answer's place


def test_where_no_strength_moves_the_output_so_far(pocket, texts):
    trials = make_trials(pocket, texts[:2], INJECTED, 2)
    vectors = random_concepts(pocket, 2, 2, texts).stacked(2)
    found = matched_vectors(trials, vectors, np.array([500., 500.]), np.array([1., 1.]))
    assert not found.found.any()
    assert np.isfinite(found.kl).all()


def test_what_lies_before_the_vectors_may_not_learn(pocket, texts):
    concepts = random_concepts(pocket, 1, 2, texts)
    with pytest.raises(BadInput, match="unfreeze from 2 on"):
        teach_detection(pocket, concepts, 1, negatives=(), learning=Learning(Unfreezing("lora", from_layer=1)))


def test_the_model_is_as_it_was_after_it_was_taught(pocket, texts):
    before = pocket(torch.tensor([[5, 6, 7]]))
    learned = teach_detection(pocket, random_concepts(pocket, 1, 2, texts), 1, negatives=("random",),
                              learning=Learning(Unfreezing("lora", from_layer=2), epochs=1))
    assert torch.equal(pocket(torch.tensor([[5, 6, 7]])), before)
    assert {int(name.split(".")[1]) for name in learned.weights} == {2, 3}


def test_vectors_of_another_width(pocket, texts):
    concepts = random_concepts(pocket, 1, 2, texts)
    narrow = dataclasses.replace(concepts, vectors={1: {name: v[:64] for name, v in concepts.vectors[1].items()}})
    with pytest.raises(BadInput, match="have 64 numbers"): detect_injection(pocket, narrow)


def test_too_few_groups_are_left_to_test(pocket, texts):
    names = ["a", "b"]*4
    with pytest.raises(BadInput, match="groups of texts without a concept"):
        text_concepts(pocket, texts, names, (1,), held_out=np.zeros(8, bool))

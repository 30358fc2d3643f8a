"""Ensembles where the page can't show it: the guarantee by simulation, repeated runs, groups of unequal sizes."""
import math

import numpy as np
import pandas as pd
import pytest
from neural_introspection.data import group_texts, load_texts
from neural_introspection.introspection.ensembles import (_Held, group_quantile, list_members, measure_coverage,
    measure_ensemble)
from neural_introspection.models import load_model


def grouped_errors(rng, groups):
    "Errors whose size is a matter of the group; large groups have larger ones."
    size = rng.integers(1, 30, groups)
    group = np.repeat(np.arange(groups), size)
    return np.abs(rng.normal(size=len(group))) * size[group], group


@pytest.mark.parametrize("level", [.8, .9])
def test_a_random_row_of_a_new_group_is_covered(level):
    rng, hits = np.random.default_rng(0), []
    for _ in range(2000):
        errors, group = grouped_errors(rng, 21)
        new = group == 20
        hits.append((errors[new] <= group_quantile(errors[~new], group[~new], level)).mean())
    error = np.std(hits) / math.sqrt(len(hits))
    assert level - 3 * error < np.mean(hits) < level + 1 / 21 + 3 * error


def test_rows_taken_for_exchangeable_cover_too_much_of_new_groups():
    "Large groups, with large errors here, weigh more by row: the quantile by group is another number."
    errors, group = grouped_errors(np.random.default_rng(0), 200)
    assert group_quantile(errors, group, .9) < np.quantile(errors, .9)


def test_too_few_groups_give_an_infinite_interval():
    assert group_quantile(np.arange(8.), np.arange(8), .9) == math.inf


def test_coverage_of_independent_errors_is_the_level():
    rng = np.random.default_rng(1)
    error, spread, group = np.abs(rng.normal(size=1500)), rng.uniform(.5, 2, 1500), np.repeat(np.arange(150), 10)
    found = measure_coverage(_Held(error * spread, spread, group), None, (.8,), 40, 0, 1.).set_index("method")
    assert abs(found.coverage["conformal"] - .8) < .03
    assert abs(found.coverage["normalised"] - .8) < .03
    assert abs(found.coverage["naive"] - .8) < .03   # here the spread is the standard error
    assert found.width["normalised"] < found.width["conformal"]


def test_ridge_is_one_member_a_layer():
    assert len(list_members([0, 1], seeds=(0, 1, 2))) == 2 * (1 + 3 + 3)


def test_the_same_call_gives_the_same_result():
    model, corpus = load_model("pocket", device="cpu"), load_texts("synthetic", 80, seed=1)
    groups = group_texts(corpus.texts, corpus.groups)
    run = lambda: measure_ensemble(model, "blocks.1.mlp.hook_post[5]", corpus.texts, groups, n_splits=3, seeds=(3,),
                                   levels=(.8, .9))
    one, other = run(), run()
    pd.testing.assert_frame_equal(one.members, other.members)
    pd.testing.assert_frame_equal(one.coverage, other.coverage)
    assert set(one.members.leakage) == {"upstream"}

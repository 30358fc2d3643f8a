"""Students where the page can't show it: planted neurons, tables, repeated runs."""
import numpy as np
import pandas as pd
import torch
from neural_introspection.data import group_texts, load_texts
from neural_introspection.introspection.students import (StudentPlan, fit_student, measure_students, neuron_fidelity,
    table_of_means)
from neural_introspection.models import load_model
from sklearn.metrics import r2_score


def planted(rows=900, vocabulary=40, dims=6):
    "Token ids in pairs, an embedding, and neurons: linear in the own token, in the one before, a product, and noise."
    g = torch.Generator().manual_seed(0)
    seen = torch.randint(vocabulary, (rows, 2), generator=g)
    table = torch.cat([torch.randn(vocabulary, dims, generator=g), torch.zeros(1, dims)])
    own, before = table[seen[:, 0]], table[seen[:, 1]]
    values = torch.stack([own[:, 0] + own[:, 1], before[:, 0], own[:, 0] * before[:, 0],
                          torch.randn(rows, generator=g)], 1)
    return seen, table, values, np.arange(rows) // 10


def scores(plan):
    seen, table, values, groups = planted()
    student = fit_student(plan, table, seen[:600, :plan.window], values[:600], groups[:600])
    return r2_score(values[600:], student.predict(seen[600:, :plan.window]), multioutput="raw_values")


def test_a_student_finds_what_its_window_shows():
    one, two = scores(StudentPlan(1, 6)), scores(StudentPlan(2, 6))
    assert one[0] > .99 and two[0] > .99
    assert one[1] < .05 and two[1] > .99
    assert two[2] < .3 and two[3] < .05   # of few tokens, a product is in part a sum


def test_random_features_let_tokens_act_together():
    assert scores(StudentPlan(2, 6, 128))[2] > scores(StudentPlan(2, 6))[2] + .3


def test_shuffled_values_teach_nothing(): assert scores(StudentPlan(2, 6, shuffled=True)).max() < .02


def test_the_student_of_one_neuron_is_a_part():
    seen, table, values, groups = planted()
    student = fit_student(StudentPlan(2, 6), table, seen, values, groups)
    assert torch.allclose(student.only(2).predict(seen)[:, 0], student.predict(seen)[:, 2], atol=1e-5)
    assert student.only(2).parameters == student.parameters - 3 * (12 + 1)


def test_a_table_gives_an_unseen_code_the_mean():
    codes, values = np.array([3, 3, 7, 7]), np.array([[1.], [1.], [5.], [5.]])
    found = table_of_means(codes, values)(np.array([3, 7, 5, 99, -1]))[:, 0].numpy()
    assert np.allclose(found, [(2 + 3) / 3, (10 + 3) / 3, 3, 3, 3])


def test_fidelity_is_scikit_learns_and_leaves_out_constants():
    rng = np.random.default_rng(0)
    actual = np.c_[rng.normal(size=(120, 3)) * [1, 10, .1] + 50, np.full(120, 2.)]
    predicted = actual + rng.normal(size=actual.shape)
    r2, words = neuron_fidelity(actual, predicted, np.arange(120) // 4)
    assert np.allclose(r2[:3], r2_score(actual[:, :3], predicted[:, :3], multioutput="raw_values"))
    assert np.isnan(r2[3]) and words["low"] <= words["r2"] <= words["high"]
    assert words["above_half"] == np.mean(r2[:3] > .5)


def test_the_same_call_gives_the_same_fidelity():
    model, corpus = load_model("pocket", device="cpu"), load_texts("synthetic", 60, seed=1)
    groups = group_texts(corpus.texts, corpus.groups)
    run = lambda: measure_students(model, corpus.texts, groups, "blocks.1.mlp.hook_post[5]", [1], [StudentPlan(2, 16)])
    one, other = run(), run()
    timed = ["ms", "one_ms"]
    pd.testing.assert_frame_equal(one.frame.drop(columns=timed), other.frame.drop(columns=timed))
    assert one.about["neurons"] == 512 and (one.frame[timed] >= 0).all(axis=None)

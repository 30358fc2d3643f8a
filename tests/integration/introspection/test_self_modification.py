"""A price on the neuron's drift, and the sweep over unfreezing, price and target values. The signals are real."""
import dataclasses
import signal
import tempfile

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from neural_introspection import (ActivationDatasetGenerator, ActivationPredictor, IntrospectionConfig,
    PredictorTrainer, Unfreezing, load_model, load_texts)
from neural_introspection.core import BadInput, read_json, to_yaml, write_json, yaml_values
from neural_introspection.data import group_texts, split_groups
from neural_introspection.introspection import trainer as trainers
from neural_introspection.activations import collect_activations
from neural_introspection.introspection.predictor import Head, make_bins
from neural_introspection.introspection.self_modification import SelfModification, pareto, run_self_modification
from neural_introspection.models import with_weights
from shell import Forked, at_file, shell

CHANGING = (Unfreezing("all"), Unfreezing("from_layer", from_layer=1),
            Unfreezing("selective", components=("attention",)), Unfreezing("lora"))
NAMES = [u.strategy for u in CHANGING]
SMALL = dict(layer=2, neuron=430, num_samples=40, strategies="none,all", penalties=(0., 1.), seeds=1, epochs=1,
             device="cpu")


@pytest.fixture(scope="module")
def model(): return load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def data(model):
    "Without validation texts the last epoch is kept."
    corpus = load_texts("synthetic", 40, seed=0)
    groups = group_texts(corpus.texts, corpus.groups)
    generator = ActivationDatasetGenerator(model, "blocks.2.mlp.hook_post[430]")
    split = np.where(split_groups(groups) == "test", "test", "train")
    return generator.with_features(corpus.texts, "blocks.3.hook_resid_post", groups, split)


def fitted(model, data, head=None, **options):
    "A trained predictor, and how its training went."
    predictor = ActivationPredictor(model, data[0].target, head=head, batch_size=64)
    settings = dict(epochs=2, learning_rate=1e-3, batch_size=8, early_stopping=False, start="zero") | options
    return predictor, PredictorTrainer(predictor, **settings).fit(*data)


def same(a, b):
    "Whether two predictors have the same weights, to the last bit."
    one, other = ({**p.weights, **p.head.state_dict()} for p in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def drift(model, data, predictor):
    "The mean squared change of the neuron, in units of its variance in training."
    with with_weights(model, predictor.weights):
        site = data[0].target.site
        now = collect_activations(model, data[0].tokens, {site: data[0].target}, batch_size=64).values[site].numpy()
    train = (data[0].frame.split == "train").to_numpy()
    return float((((now - data[0].values())[train] / data[0].values("train").std())**2).mean())


@pytest.mark.parametrize("moving", (True, False))
def test_without_a_penalty_the_loss_is_the_heads_alone(model, data, moving, monkeypatch):
    options = dict(unfreeze=Unfreezing("all"), moving_target=moving, epochs=1)
    off = fitted(model, data, drift_penalty=0., **options)[0]
    monkeypatch.setattr(trainers.Source, "loss", lambda self, b: self.head.loss(self.head.score(b.z), b.y))
    assert same(off, fitted(model, data, **options)[0])
    assert same(off, fitted(model, data, drift_penalty=5., **options)[0]), "only the loss has a price in it"


@pytest.mark.parametrize("unfreeze", CHANGING, ids=NAMES)
def test_a_penalty_is_at_work_wherever_the_neuron_can_change(model, data, unfreeze):
    free, held = (fitted(model, data, unfreeze=unfreeze, drift_penalty=p, epochs=1) for p in (0., 10.))
    assert drift(model, data, held[0]) > 0
    assert not same(free[0], held[0])
    assert abs(held[1].loss_gap) < 1e-3


@pytest.mark.parametrize("unfreeze", (Unfreezing(), Unfreezing("after_target")), ids=("none", "after_target"))
def test_where_the_neuron_cannot_change_a_penalty_is_without_effect(model, data, unfreeze, caplog):
    with caplog.at_level("INFO", "neural_introspection"):
        free, held = (fitted(model, data, unfreeze=unfreeze, drift_penalty=p)[0] for p in (0., 10.))
    assert same(free, held)
    said = [r.message for r in caplog.records if "drift_penalty" in r.message]
    assert said == ["drift_penalty has no effect: nothing that is trained changes the target"]


@pytest.mark.parametrize("moving", (True, False))
def test_the_recorded_loss_is_the_heads_with_the_price(model, data, moving):
    "At the end of training: computed once more from the texts on."
    predictor, training = fitted(model, data, unfreeze=Unfreezing("all"), drift_penalty=2., moving_target=moving)
    assert training.best_epoch > 0
    assert abs(training.loss_gap) < 1e-4
    train = (data[0].frame.split == "train").to_numpy()
    with with_weights(model, predictor.weights):
        sites = {data[0].target.site: data[0].target, predictor.feature_site: None}
        acts = collect_activations(model, data[0].tokens, sites, batch_size=64).values
    values = acts[data[0].target.site] if moving else torch.tensor(data[0].values()).float()
    score = predictor.head.score(predictor.head.standardise(acts[predictor.feature_site]))
    own = float(((score - predictor.head.encode(values))**2)[train].mean())
    recorded = training.to_frame().train[training.best_epoch]
    assert recorded == pytest.approx(own + 2 * drift(model, data, predictor), abs=1e-4)


def test_bins_and_the_price_of_their_neuron(model, data):
    head = Head(128, bins=make_bins(data[0].values("train")[:, 0], 4))
    predictor, training = fitted(model, data, head=head, unfreeze=Unfreezing("all"), drift_penalty=1.)
    assert training.best_epoch > 0
    assert abs(training.loss_gap) < 1e-4
    assert drift(model, data, predictor) > 0


def test_a_checkpoint_belongs_to_its_penalty(model, data, tmp_path):
    options = dict(unfreeze=Unfreezing("all"), folder=tmp_path, epochs=1)
    first = fitted(model, data, drift_penalty=1., **options)[0]
    again, resumed = fitted(model, data, drift_penalty=1., **options)
    assert resumed.resumed_from == 1
    assert same(first, again)
    assert fitted(model, data, drift_penalty=2., **options)[1].resumed_from is None


@pytest.mark.parametrize("penalty", (-1., float("nan"), float("inf")))
def test_a_penalty_that_is_none(model, penalty):
    with pytest.raises(BadInput, match="drift_penalty is .*, but must be a number from 0"):
        PredictorTrainer(ActivationPredictor(model, "blocks.2.mlp.hook_post[430]"), drift_penalty=penalty)


def test_the_option_of_a_run(tmp_path):
    (tmp_path / "c.yaml").write_text(to_yaml(IntrospectionConfig(drift_penalty=.5)))
    assert yaml_values(tmp_path / "c.yaml")["drift_penalty"] == .5
    done = shell("run --model pocket --num-samples 40 --layer 2 --neuron 430 --epochs 1 --drift-penalty 0.5 "
                 "--output-dir out --device cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--drift-penalty has no effect here" in done.stderr
    assert read_json(tmp_path / "out" / "manifest.json")["config"]["drift_penalty"] == .5


SCRIPT = """
from neural_introspection.introspection.self_modification import run_self_modification
run_self_modification("pocket", output="out", **{small!r})
"""


def script(folder):
    (folder / "sweep.py").write_text(SCRIPT.format(small=SMALL))
    return folder / "sweep.py"


@pytest.fixture(scope="module")
def unbroken(model): return run_self_modification(model, **SMALL)


def test_killed_in_the_middle_and_resumed(model, unbroken, tmp_path):
    with tempfile.TemporaryDirectory() as said:
        process = Forked([script(tmp_path)], tmp_path, said, at_file("points/*.json", 3))
        try: assert process.wait(300) == -signal.SIGKILL
        finally: process.kill()
    out = tmp_path / "out"
    stored = {p: p.stat().st_mtime_ns for p in (out / "datasets" / "points").glob("[a-z]*.json")}
    assert len(stored) == 3 < len(unbroken.frame)
    assert read_json(out / "manifest.json")["status"] == "running"
    resumed = run_self_modification(model, output=str(out), **SMALL)
    assert {p: p.stat().st_mtime_ns for p in stored} == stored, "stored points were read, not made again"
    pd.testing.assert_frame_equal(resumed.to_frame(), unbroken.to_frame())
    assert [p.name for p in tmp_path.glob("out*")] == ["out"]

    loaded = run_self_modification(model, output=str(out), **SMALL)
    pd.testing.assert_frame_equal(loaded.to_frame(), unbroken.to_frame())
    assert loaded.summary() == unbroken.summary()


def test_a_damaged_point_is_made_again_and_other_options_archive(model, unbroken, tmp_path):
    out, few = tmp_path / "out", SMALL | dict(strategies="none")
    first = run_self_modification(model, output=str(out), **few)
    point = out / "datasets" / "points" / "none-fixed-0-0.json"
    point.write_text('{"r2": ')
    write_json(out / "manifest.json", read_json(out / "manifest.json") | dict(status="running"))
    pd.testing.assert_frame_equal(run_self_modification(model, output=str(out), **few).to_frame(), first.to_frame())
    assert read_json(point)["verdict"] == first.frame.verdict[0]
    other = run_self_modification(model, output=str(out), **few | dict(learning_rate=1e-4))
    assert len(other.frame) == len(first.frame)
    assert len([*tmp_path.glob("out-*")]) == 1


@pytest.mark.slow
def test_workers_make_the_same_points(model, unbroken):
    with joblib.parallel_config("loky", n_jobs=2): spread = run_self_modification(model, **SMALL)
    numbers = spread.frame.select_dtypes("number").columns
    np.testing.assert_allclose(spread.frame[numbers], unbroken.frame[numbers], rtol=1e-3, atol=1e-4)
    assert spread.frame.verdict.tolist() == unbroken.frame.verdict.tolist()


def test_the_base_line_and_the_shuffled_control(unbroken):
    frame = unbroken.frame.set_index(["unfreeze", "target_values", "penalty"])
    frozen, shuffled = frame.loc[("none", "fixed", 0.)], frame.loc[("all", "shuffled", 0.)]
    assert (frozen.std_ratio, frozen.kl, frozen.perplexity_ratio) == (1, 0, 1)
    assert frozen.r2 == frozen.r2_now == frozen.frozen_r2
    assert shuffled.r2 < .2
    assert set(frame.groups) == {frame.groups.iloc[0]}, "every point is judged on the same texts"


def test_points_that_nothing_dominates():
    known = np.array([[3., 1.], [2., 2.], [1., 3.], [1., 1.], [2., 2.], [2., 1.9], [np.nan, 3.], [np.nan, 4.]])
    assert pareto(known).tolist() == [True, True, True, False, True, False, False, True]
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.integers(0, 4, (12, 3)).astype(float)
        slow = [not any((o >= p).all() and (o > p).any() for o in x) for p in x]
        assert pareto(x).tolist() == slow


def planted(**columns):
    "A result with known numbers, a row for each point."
    n = len(next(iter(columns.values())))
    base = dict(unfreeze="all", target_values="fixed", penalty=0., seed=0, verdict="unrefuted", why="", collapse=False,
                rows=9, groups=9, epoch=1)
    names = ("r2", "r2_now", "std_ratio", "kl", "perplexity_ratio")
    values = {name + end: 1. for name in names for end in ("", "_low", "_high")}
    frame = pd.DataFrame(base | values | dict(dead_share=0., frozen_r2=.5, shuffled_r2=0.) | columns, index=range(n))
    return SelfModification(frame, dict(target="blocks.1.mlp.hook_post[7]", seeds=1, changes=dict(all=True, lora=True)))


def test_the_frontier_of_known_points():
    result = planted(penalty=[0., .1, 1., 10.], r2=[.9, .8, .85, .4], std_ratio=[.1, .5, 2., 1.],
                     perplexity_ratio=[1., 1., 1.5, .8])
    assert result.frontier(["std_ratio"]).penalty.tolist() == [0., 1., 10.]   # twice is as far as half, and 0.85 > 0.8
    assert result.frontier(["perplexity_ratio"]).penalty.tolist() == [0.]     # below 1 costs nothing, and gains nothing
    assert result.frontier().penalty.tolist() == [0., .1, 1., 10.]
    assert dataclasses.replace(result, frame=result.frame.assign(target_values="shuffled")).frontier().empty
    with pytest.raises(BadInput, match="is no cost"): result.frontier(["r2_now"])


def test_the_best_is_one_that_did_not_collapse_and_the_sentence_counts():
    result = planted(penalty=[0., 1.], r2=[.9, .6], collapse=[True, False], verdict=["collapse", "learned"])
    assert result.top(1).penalty.tolist() == [1.]
    assert "1 of 1 without a penalty, 0 of 1 with 1" in result.summary()
    assert "the best of 1 without collapse by test score" in result.summary()
    assert "penalty 1; learned) predicts the original values with R² 0.60" in result.summary()
    everywhere = planted(r2=[.9], collapse=[True], verdict=["collapse"])
    assert everywhere.summary().endswith("no point without collapse predicts anything.")
    nothing = planted(r2=[-.1], collapse=[False], verdict=["no evidence"])
    assert nothing.top().empty, "nothing was found there"


WRONG = dict(
    neuron=(dict(neuron=None), "is about one neuron"), place=(dict(neuron=9999), "9999"), layer=(dict(layer=9), "9"),
    strategy=(dict(strategies="all,some"), "one or several of none, all"),
    twice=(dict(strategies="all,all"), "each once"), price=(dict(penalties=(-1.,)), "at least 0"),
    values=(dict(target_values="moving"), "one or several of fixed, recomputed"),
    no_price=(dict(penalties=()), "each once"), split=(dict(test_split=0.), "give a test_split above 0"),
    last=(dict(layer=3, strategies="after_target"), "leaves nothing to train"), texts=(dict(num_samples=1), "group"),
    parts=(dict(strategies="selective", unfreeze_components="heads"), "cannot be unfrozen"))


@pytest.mark.parametrize("name", WRONG)
def test_errors_before_anything_is_written(model, tmp_path, name):
    options, said = WRONG[name]
    with pytest.raises(BadInput, match=said) as error:
        run_self_modification(model, output=str(tmp_path / "out"), **SMALL | options)
    assert str(error.value).endswith(".")
    assert not (tmp_path / "out").exists()

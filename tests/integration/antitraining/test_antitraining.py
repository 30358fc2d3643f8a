"""Antitraining where a notebook can't show it: killed, in several processes, from the shell; odd models, and what must stay as it was."""
import copy
import signal

import numpy as np
import pytest
import torch
from neural_introspection.models import Examples
from neural_introspection.activations import replaced_scores
from neural_introspection.activations.units import make_reference
from neural_introspection.models.examples import next_tokens
from neural_introspection.activations.replacement import replaced
from neural_introspection.antitraining import (Antitraining, AntitrainResult, AntitrainSettings, certify, core_set,
    information_content)
from neural_introspection.antitraining.objective import weights_after
from neural_introspection.antitraining.objective import batch_norms
from neural_introspection.data import load_classification
from neural_introspection.core import BadInput, Cancelled, watch_progress
from shell import answer, shell, started, wait_until, warm_script
from torch import nn

torch.set_num_threads(1)
SMALL = "antitrain --data iris --width 24 --train-steps 120 --cycles 3 --cycle-steps 25 --final-steps 10 --measure-examples 200 --n-draws 1 --json"
DATA = load_classification("digits", seed=0)
TRAIN, TEST = Examples(DATA.x_train, DATA.y_train), Examples(DATA.x_test, DATA.y_test)
QUICK = AntitrainSettings(train_steps=60, cycles=1, cycle_steps=10, final_steps=5, measure_examples=200, n_draws=1, batch_size=64)


def numbers(stdout): return {k: v for k, v in answer(stdout).items() if k != "output_dir"}


def mlp(width=24, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def has_hooks(model): return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# --- the command ---

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "What two seeds give when nobody interrupts them."
    folder = tmp_path_factory.mktemp("whole")
    done = shell(SMALL, "--seeds 2", cwd=folder)
    assert done.returncode == 0, done.stderr
    return numbers(done.stdout)


@pytest.mark.slow
def test_the_answer_has_what_was_asked(whole):
    assert [run["seed"] for run in whole["seeds"]] == [0, 1]
    for run in whole["seeds"]:
        assert {"core_share", "test_accuracy_before", "test_accuracy", "core_randomised_accuracy", "certificate"} <= run.keys()
        assert 0 < run["core_share"] == run["core_size"] / 24 <= 1
        assert run["test_accuracy"] > .6 > run["core_randomised_accuracy"]
    assert whole["seeds"][0] | dict(seed=1) != whole["seeds"][1]


@pytest.mark.slow
def test_killed_after_a_phase_it_goes_on_to_the_same_numbers(tmp_path, whole):
    state = tmp_path / "output-antitrain" / "models" / "seed_0.safetensors"
    with started(SMALL, "--seeds 2", cwd=tmp_path) as process:
        wait_until(state.exists, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "output-antitrain" / "reports" / "seed_0.json").exists(), "it was to be killed before the end"
    done = shell(SMALL, "--seeds 2", cwd=tmp_path)
    assert done.returncode == 0
    assert "resuming the run" in done.stderr
    assert "seed 0 resumes after phase" in done.stderr
    assert numbers(done.stdout) == whole


@pytest.mark.slow
def test_two_processes_give_the_same_numbers(tmp_path, whole):
    warm = f"import sys; sys.executable = {warm_script(tmp_path)!r}"   # of joblib's processes
    done = shell(SMALL, "--seeds 2 --n-jobs 2", cwd=tmp_path, first=warm)
    assert done.returncode == 0
    assert numbers(done.stdout) == whole


def test_a_finished_run_loads(tmp_path):
    assert shell(SMALL, "--certificate False", cwd=tmp_path).returncode == 0
    result = AntitrainResult.load(tmp_path / "output-antitrain")
    network = result.network()
    assert len(result.to_frame()) == 1
    assert network.cores["1"].size == result.runs[0]["core_size"]
    assert not network.model.training


# --- models ---

class Residual(nn.Module):
    "Something passes by the layer."
    def __init__(self):
        super().__init__()
        self.first, self.act, self.second, self.out = nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 10)
    def forward(self, x): return self.out(x + self.second(self.act(self.first(x))))


def convolutional():
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(.1), nn.Linear(128, 10))


def tiny_gpt():
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2))


def counting():
    "Windows of counting numbers: the next token is known."
    start = torch.arange(200) % 32
    return next_tokens((start[:, None] + torch.arange(8)) % 32)


@pytest.mark.parametrize("make, site, settings", [(mlp, "1", {}), (mlp, "1", dict(scope="spectators", renormalise=True)), (convolutional, "3", {}), (convolutional, "3", dict(scope="spectators")), (Residual, "act", dict(target="bypass"))])
def test_antitraining_leaves_what_comes_before_the_layer_alone(make, site, settings):
    torch.manual_seed(0)
    a = Antitraining(make(), site, TRAIN, AntitrainSettings(**vars(QUICK) | dict(cycles=0, train_steps=150, threshold=.6) | settings)).run()
    assert not a.cores
    assert 0 < a.measure()[site].size < a.layers[0].reference.units.count
    after, before = weights_after(a.model, site, TRAIN)[0], copy.deepcopy(a.model.state_dict())
    a.antitrain(8)
    changed = {name for name, tensor in a.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert changed <= set(after)
    assert not has_hooks(a.model)
    if "scope" in settings:
        reader = a.layers[0].reader
        core = a.layers[0].mask
        assert changed == {f"{reader}.weight"}
        assert torch.equal(a.model.get_submodule(reader).weight[:, core], before[f"{reader}.weight"][:, core])


def test_a_language_model_of_hugging_face():
    model, words = tiny_gpt(), counting()
    a = Antitraining(model, "transformer.h.1.mlp.act", words, AntitrainSettings(**vars(QUICK) | dict(train_steps=150, learning_rate=1e-2, target="bypass", metric="loss", threshold=.9))).run()
    assert a.history[-1]["train_accuracy"] > .5
    assert 0 <= a.cores["transformer.h.1.mlp.act"].size <= 64
    assert not has_hooks(model)


def test_tied_embeddings_are_left_alone(caplog):
    with caplog.at_level("INFO", logger="neural_introspection"): a = Antitraining(tiny_gpt(), "transformer.h.1.mlp.act", counting(), QUICK)
    assert "antitraining leaves them alone" in caplog.text
    assert "transformer.wte.weight" not in a.layers[0].after
    assert "transformer.h.1.mlp.c_proj.weight" in a.layers[0].after


def test_heads_as_units_of_a_model_that_hides_them():
    model, words = tiny_gpt(), counting()
    reference = make_reference(model, "transformer.h.0.attn.c_proj.hook_in", words, heads=2)
    one = torch.eye(2, dtype=torch.bool)
    found = replaced_scores(model, words, reference, one)
    assert found.loss.shape == (1, 2, 200)
    assert torch.allclose(found.loss, replaced_scores(model, words, reference, one, naive=True).loss, atol=1e-4)


# --- what must not happen ---

class Failing(nn.Module):
    "Fails at a call."
    def __init__(self, at): super().__init__(); self.net, self.calls, self.at = mlp(), 0, at
    def forward(self, x):
        self.calls += 1
        if self.calls == self.at: raise ZeroDivisionError("in the middle")
        return self.net(x)


@pytest.mark.parametrize("at", [1, 2, 5, 40, 64, 70, 75])
def test_hooks_are_gone_whenever_it_fails(at):
    model = Failing(at)
    with pytest.raises(ZeroDivisionError): Antitraining(model, "net.1", TRAIN, QUICK).run()
    assert not has_hooks(model)


def test_cancel_keeps_what_is_done():
    a = Antitraining(mlp(), "1", TRAIN, QUICK)
    def stop(desc, done, total):
        if desc == "cycle" and done == 4: raise Cancelled("enough.")
    with pytest.raises(Cancelled), watch_progress(stop): a.run()
    assert a.done == 1
    assert a.steps["train"] == 64
    assert not has_hooks(a.model)
    a.train(1); a.antitrain(1)


def test_running_statistics_do_not_see_random_values():
    torch.manual_seed(0)
    a = Antitraining(convolutional(), "3", TRAIN, AntitrainSettings(**vars(QUICK) | dict(cycles=0, train_steps=100))).run()
    a.measure()
    first, second = batch_norms(a.model)
    before = {i: m.running_mean.clone() for i, m in enumerate((first, second))}
    a.antitrain(5)
    assert torch.equal(first.running_mean, before[0])
    assert torch.equal(second.running_mean, before[1])
    a.train(5)   # blocked: what comes before the layer sees no random value, and goes on
    assert not torch.equal(first.running_mean, before[0])
    assert torch.equal(second.running_mean, before[1])
    assert first.training
    assert second.training


def test_measuring_changes_nothing():
    net = mlp().train()
    state, torch_state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    reference = make_reference(net, "1", TRAIN)
    information_content(net, reference, TEST)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert net.training
    assert torch.equal(torch_state, torch.get_rng_state())


def test_certificates_change_nothing_and_repeat():
    a = Antitraining(mlp(), "1", TRAIN, QUICK).run()
    before = copy.deepcopy(a.model.state_dict())
    one, two = (certify(a.model, a.layers[0], TRAIN[:300], TEST[:100], relearn_steps=10) for _ in range(2))
    assert one.decoders.equals(two.decoders)
    assert one.relearning.equals(two.relearning)
    assert all(torch.equal(v, before[k]) for k, v in a.model.state_dict().items())


def test_a_layer_of_dead_units_alone_is_refused():
    net = mlp()
    with torch.no_grad(): net[0].bias.fill_(-100.)
    with pytest.raises(BadInput, match="no better than"): core_set(net, make_reference(net, "1", TRAIN), TRAIN)


def test_a_core_of_all_and_of_none_can_be_randomised():
    net = mlp()
    reference = make_reference(net, "1", TRAIN)
    masks = torch.tensor([[False] * 24, [True] * 24])
    found = replaced_scores(net, TEST, reference, masks)
    with torch.no_grad(): plain = nn.functional.cross_entropy(net(TEST.inputs), TEST.targets, reduction="none")
    assert torch.allclose(found.loss[0, 0], plain, atol=1e-5)
    assert not torch.allclose(found.loss[0, 1], plain)


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_information_does_not_depend_on_how_sets_are_run(batch_size):
    net, few = mlp(), TEST[:20]
    reference = make_reference(net, "1", TRAIN)
    masks = torch.eye(24, dtype=torch.bool)
    fast, slow = (replaced_scores(net, few, reference, masks, seed=3, batch_size=batch_size, naive=naive).loss for naive in (False, True))
    assert torch.allclose(fast, slow, atol=1e-4)
    part = replaced_scores(net, few, reference, masks[5:9], seed=3, batch_size=batch_size).loss
    assert torch.allclose(part, fast[:, 5:9], atol=1e-5)


def test_the_step_has_no_gradient_before_the_layer():
    net = mlp()
    reference = make_reference(net, "1", TRAIN)
    with replaced(net, [(reference, torch.arange(24) < 12)], detach=True): net(TRAIN.inputs[:8]).sum().backward()
    assert net[0].weight.grad is None
    assert net[2].weight.grad is not None


def test_dropout_repeats_with_the_seed():
    def run():
        torch.manual_seed(0)
        a = Antitraining(nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Dropout(.3), nn.Linear(24, 10)), "1", TRAIN, QUICK)
        torch.rand(7 + len(seen))   # the state of torch's own generator does not matter
        seen.append(a)
        return a.run().model.state_dict()
    seen = []
    one, two = run(), run()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_two_classes_and_a_sorted_table(tmp_path):
    rows = np.random.default_rng(0).normal(size=(600, 4))
    kind = np.where(np.arange(600) < 300, "a", "b")
    rows[:300, 0] += 3
    lines = ["w,x,y,z,kind", *(",".join([*(f"{v:.4f}" for v in row), k]) for row, k in zip(rows, kind))]
    (tmp_path / "sorted.csv").write_text("\n".join(lines) + "\n")
    done = shell(SMALL.replace("--data iris", "--data sorted.csv --label kind"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = answer(done.stdout)["seeds"][0]
    assert run["test_accuracy"] > .85
    assert "chance" in run["certificate"]


def test_a_state_of_another_width_is_refused(tmp_path):
    from neural_introspection.core import BadData
    path = Antitraining(mlp(), "1", TRAIN, QUICK).save(tmp_path / "state.safetensors")
    with pytest.raises(BadData, match="another model"): Antitraining(mlp(32), "1", TRAIN, QUICK).resume(path)


def test_targets_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="a logit for each"): Antitraining(nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)), "1", TRAIN, QUICK)

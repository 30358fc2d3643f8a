"""Toy models from a shell: the published command line as it stands, presets, bad sweeps, and a sweep that is killed."""
import json
import os
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from neural_introspection import cli
from neural_introspection.core import BadData, BadInput, read_tensors, map_parallel
from neural_introspection.toy import PRESETS, ToyConfig, ToyResult, preset_config, run_toy
from shell import manifest, shell, started, wait_until, warm_python

SEED = ("toy --N 256 --m 32 --k 612 --eps 0.015625 --log2_batch_size 6 --learning_rate 0.03 --log2_training_steps {steps} --sample_kind equal --task autoencoder --decay 0 --initial_bias 0 "
        "--nonlinearity ReLU --reg 0 --sweep_var learning_rate --sweep_values 0.001 0.003 --file_name LR1_reduced --device cpu")
SMALL = "toy --N 32 --m 8 --k 48 --log2_training_steps 8 --device cpu"


def test_the_published_command_line(tmp_path):
    "The seed's own words, but for 2**13 steps, which take minutes."
    done = shell(SEED.format(steps=6), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["sweep_var"] == "learning_rate"
    assert [r["value"] for r in found["runs"]] == [.001, .003]
    assert {"loss", "monosemantic_fraction", "per_feature", "mean_bias"} <= found["runs"][0].keys()
    result = ToyResult.load(tmp_path / "LR1_reduced")
    net = result.network(.003)
    assert (len(net.embedder), *net.w_in.shape) == (256, 32, 612)
    assert net.settings.batch_size == 64
    assert result.losses().step.max() == 48


def test_a_preset_in_words_and_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main("toy --preset B3 --scale smoke --seeds 2 --sweep_values -1 0 --device cpu --json".split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["preset"], found["scale"]) == ("B3", "smoke")
    assert [(r["value"], r["seed"]) for r in found["runs"]] == [(-1, 0), (-1, 1), (0, 0), (0, 1)]
    where = dict(device="cpu", output_dir=str(tmp_path), file_name="toy-B3")
    assert ToyResult.load("toy-B3").config == preset_config("B3", "smoke", seeds=2, sweep_values=(-1, 0), **where)
    assert cli.main("toy --preset K1 --scale paper --print-config".split()) == 0
    text = capsys.readouterr().out
    assert "\nlog2_batch_size: 13\n" in text
    assert "\nsweep_var: k\n" in text
    assert "2048.0]" in text
    (tmp_path / "mine.yaml").write_text(text.replace("log2_training_steps: 17", "log2_training_steps: 4").replace("log2_batch_size: 13", "log2_batch_size: 3").replace("[16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0]", "[4, 8]"))
    assert cli.main("toy --config mine.yaml --device cpu".split()) == 0
    words = capsys.readouterr().out
    assert words.startswith("K1 (neurons")
    assert "ToyResult.load('toy-K1')" in words
    assert manifest(tmp_path / "toy-K1")["config"]["log2_training_steps"] == 4


def test_fractions_and_single_values_are_swept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(f"{SMALL} --sweep_var eps --sweep_values 1/64 1/32 --json".split()) == 0
    assert [r["value"] for r in json.loads(capsys.readouterr().out)["runs"]] == [1 / 64, 1 / 32]
    (tmp_path / "one.yaml").write_text("sweep_var: learning_rate\nsweep_values: 0.003\n")
    assert cli.main(f"{SMALL} --config one.yaml --print-config".split()) == 0
    assert "sweep_values: [0.003]" in capsys.readouterr().out


@pytest.mark.parametrize("folder, name", [("~/runs", "mine"), (".", "lr:0.01"), (".", "a b%20ü~")])
def test_home_colons_and_spaces_in_names(folder, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cli.main([*SMALL.split(), "--output_dir", folder, "--file_name", name]) == 0
    run = (tmp_path / "home" / "runs" if folder[0] == "~" else tmp_path) / name
    assert len(ToyResult.load(run).losses())
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("wrong", [dict(config=None), dict(config=["sweep_var"]), dict(format="1"), dict(config=dict(sweep_var=1))])
def test_a_foreign_manifest_is_refused_and_hides_no_other_sweep(wrong, tmp_path):
    from neural_introspection.toy.explorer import ToyExplorer
    good = run_toy(ToyConfig(N=32, m=8, k=48, log2_training_steps=4, device="cpu", output_dir=str(tmp_path), file_name="good"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.json").write_text(json.dumps(manifest(good.run_folder) | wrong))
    with pytest.raises(BadData): ToyResult.load(tmp_path / "bad")
    assert list(ToyExplorer(tmp_path).sweeps) == ["good"]


def test_values_of_another_type_are_taken_or_refused(tmp_path):
    config = ToyConfig(N=32.0, m=8, k="48", log2_training_steps=4.0, seeds=2.0, eps="1/32", sweep_var="learning_rate", sweep_values=np.array([.01, .03]), device="cpu", output_dir=str(tmp_path))
    result = run_toy(config)
    as_numbers = dict(N=32, m=8, k=48, log2_training_steps=4, seeds=2, eps=1 / 32)
    sweep = dict(sweep_var="learning_rate", sweep_values=(.01, .03))
    assert result.config == ToyConfig(**as_numbers, **sweep, device="cpu", output_dir=str(tmp_path))
    assert len(result.runs) == 4
    for wrong in (dict(keep_snapshots="perhaps"), dict(N=32.5), dict(sweep_values="a b"), dict(sweep_values=[True]), dict(sweep_values={.1: 2})):
        with pytest.raises(BadInput): run_toy(replace(config, output_dir=str(tmp_path / "new"), **wrong))
    assert not (tmp_path / "new").exists()


def test_a_failed_run_is_marked_and_the_others_are_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweep = "--sweep_var learning_rate --sweep_values 0.01 60"
    assert cli.main(f"{SMALL} --nonlinearity SoLU {sweep} --file_name wild --json".split()) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [r["failed"] for r in runs] == [False, True]
    assert runs[0]["loss"] > 0
    assert runs[1]["loss"] is None
    assert "1 failed" in ToyResult.load("wild").summary()


TWO_STACKS = ("toy --N 64 --m 8 --k 128 --log2_training_steps 11 --sweep_var learning_rate --sweep_values 0.003 0.01 --stack 1 "
              "--file_name out --device cpu --json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "(folder, answer) of a sweep that nothing disturbed."
    folder = tmp_path_factory.mktemp("whole")
    return folder, json.loads(shell(TWO_STACKS, cwd=folder).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on_to_the_same_numbers(how, whole, tmp_path):
    run = tmp_path / "out"
    state, first = run / "models" / "stack_1.state.safetensors", run / "models" / "value_0_seed_0.safetensors"
    with started(TWO_STACKS, cwd=tmp_path, first="import neural_introspection.toy.sweeps as sweeps; sweeps.SAVE_EVERY = .05") as process:
        wait_until(state.exists, process)   # the second stack is under way, and its state is kept
        process.send_signal(how)
        assert process.wait() == (1 if how == signal.SIGINT else -signal.SIGKILL)
    kept, before = int(read_tensors(state, ["steps_done"])[0]["steps_done"]), first.stat().st_mtime_ns
    assert 0 < kept < 2048
    reported = "stopped by the user; what is complete is in out" in (tmp_path / "stderr").read_text()
    assert reported == (how == signal.SIGINT)
    done = shell(TWO_STACKS, cwd=tmp_path)
    assert done.returncode == 0
    assert "resuming the run in out" in done.stderr
    assert f"resumes with values 0.01 after {kept} steps" in done.stderr
    assert first.stat().st_mtime_ns == before
    assert json.loads(done.stdout)["runs"] == whole[1]["runs"]
    assert manifest(run)["status"] == "complete"
    a, b = (read_tensors(folder / "out" / "models" / "value_1_seed_0.safetensors")[0] for folder in (tmp_path, whole[0]))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_longest_name_is_archived_and_opened(tmp_path):
    config = ToyConfig(N=32, m=8, k=48, log2_training_steps=4, device="cpu", output_dir=str(tmp_path), file_name="x" * 200)
    first, _ = run_toy(config), run_toy(replace(config, k=16))
    archived, = tmp_path.glob("x*-*")
    assert first.network().settings.k == ToyResult.load(archived).network().settings.k == 48


def test_two_processes_give_the_same_numbers(tmp_path, monkeypatch, capsys):
    sweep = f"{SMALL} --sweep_var k --sweep_values 16 48 --seeds 2"
    with warm_python(tmp_path):
        map_parallel(os.getcwd, [()] * 2, n_jobs=2)   # workers that were started in another folder, and live on
        monkeypatch.chdir(tmp_path)
        for jobs in (1, 2): assert cli.main(f"{sweep} --file_name jobs{jobs} --n_jobs {jobs}".split()) == 0
    one, two = (pd.read_parquet(f"jobs{jobs}/datasets/runs.parquet") for jobs in (1, 2))
    assert one.equals(two)
    assert len(one) == 4


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_row_runs(name, tmp_path):
    from neural_introspection.toy import run_toy
    config = preset_config(name, "smoke", log2_training_steps=4, output_dir=str(tmp_path), device="cpu", stack=20)
    result = run_toy(config)
    assert len(result.runs) == len(config.sweep_values)
    assert not result.runs.failed.any()
    assert result.plot_training().data
    assert result.plot().data

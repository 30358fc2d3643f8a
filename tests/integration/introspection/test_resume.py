"""A run that is killed or interrupted goes on where it was, and ends with the numbers of an unbroken run. The signals are real."""
import json
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
from conftest import RUN
from neural_introspection import cli
from neural_introspection.core import read_tensors
from shell import at_file, is_one_sentence, manifest, numbers, shell, snapshot, started, wait_until

EPOCHS = 12
LONG = (f"run --model pocket --num-samples 60 --batch-size 16 --epochs {EPOCHS} --early-stopping False --learning-rate 0.001 "
        "--output-dir out --device cpu")
# What a process begins with in which few texts have as many pieces as many texts have.
PIECES = "from neural_introspection.activations import collecting\ncollecting.PIECE = 32\n"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    "The folder of a run that nothing disturbed, and what it printed."
    folder = tmp_path_factory.mktemp("unbroken")
    done = shell(LONG, "--json", cwd=folder, first=PIECES)
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout


PIECE, CONTROL = "datasets/pieces/[0-9]*.safetensors", "datasets/controls/[a-z]*.safetensors"
CHECKPOINT = "models/checkpoint.safetensors"


def pieces(run): return sorted((run / "datasets" / "pieces").glob("[0-9]*.safetensors"))


def epoch(run):
    "The last epoch whose end is on the disk, 0 if there is none."
    path = run / "models" / "checkpoint.safetensors"
    return read_tensors(path)[1]["epoch"] if path.exists() else 0


def controls(run): return sorted((run / "datasets" / "controls").glob("[a-z]*.safetensors"))


def kill_at(pattern, nth, folder, command=LONG):
    "Run the command; it is killed, with no chance to clean up, when the nth file of that name is in place."
    with started(command, "--json", cwd=folder, first=PIECES + at_file(pattern, nth)) as process:
        assert process.wait(180) == -signal.SIGKILL, (folder / "stderr").read_text()
    assert (folder / "stdout").read_text() == ""


def assert_same_result(folder, stdout, unbroken):
    "The same answer, predictions, data set and losses as those of the unbroken run, and no second run beside it."
    run, expected = folder / "out", unbroken[0]
    assert numbers(stdout) == numbers(unbroken[1])
    for name in ("reports/predictions.parquet", "reports/history.parquet", "datasets/dataset.parquet"):
        assert pd.read_parquet(run / name).equals(pd.read_parquet(expected / name)), name
    assert manifest(run)["status"] == "complete"
    assert [p.name for p in folder.glob("out*")] == ["out"]


@pytest.mark.slow
def test_killed_in_the_data_set_and_again_in_training(unbroken, tmp_path):
    run = tmp_path / "out"
    kill_at(PIECE, 1, tmp_path)
    first, scan = {p: p.lstat() for p in pieces(run)}, (run / "datasets" / "scan.safetensors").lstat()
    assert len(first) == 1
    assert not (run / "datasets" / "dataset.parquet").exists()
    assert (manifest(run)["status"], manifest(run)["stage"]) == ("running", "dataset")

    kill_at(CHECKPOINT, 2, tmp_path)
    reached = epoch(run)
    assert reached == 2 < EPOCHS
    assert (manifest(run)["status"], manifest(run)["stage"]) == ("running", "train")
    assert "resuming the run in out (it stopped in stage dataset)" in (tmp_path / "stderr").read_text()
    assert len(pieces(run)) == 2
    for path, old in first.items():   # what was whole was read, not made again
        new = path.lstat()
        assert (new.st_ino, new.st_mtime_ns) == (old.st_ino, old.st_mtime_ns), path
    assert (run / "datasets" / "scan.safetensors").lstat().st_mtime_ns == scan.st_mtime_ns

    done = shell(LONG, "--json", cwd=tmp_path, first=PIECES)
    assert done.returncode == 0
    assert "resuming the run in out (it stopped in stage train)" in done.stderr
    assert json.loads((run / "reports" / "result.json").read_text())["training"]["resumed_from"] == reached
    assert_same_result(tmp_path, done.stdout, unbroken)


@pytest.mark.slow
def test_killed_in_the_scan_and_again_in_the_card(unbroken, tmp_path):
    run = tmp_path / "out"
    kill_at("manifest.json", 3, tmp_path)
    assert manifest(run)["stage"] == "scan"
    assert not (run / "datasets" / "scan.safetensors").exists()

    kill_at(CONTROL, 3, tmp_path)
    first = {p: p.lstat().st_mtime_ns for p in controls(run)}
    assert manifest(run)["stage"] == "card"
    assert not (run / "reports" / "result.json").exists()
    assert len(first) == 3
    kill_at(CONTROL, 1, tmp_path)
    assert len(controls(run)) == 4
    assert {p: p.lstat().st_mtime_ns for p in first} == first, "finished controls were read, not made again"

    done = shell(LONG, "--json", cwd=tmp_path, first=PIECES)
    assert done.returncode == 0
    assert "resuming the run in out (it stopped in stage card)" in done.stderr
    assert_same_result(tmp_path, done.stdout, unbroken)


@pytest.mark.slow
def test_an_unfrozen_run_killed_in_training(tmp_path):
    command = ("run --model pocket --num-samples 24 --layer 1 --neuron 7 --batch-size 16 --epochs 3 --early-stopping False "
               "--learning-rate 0.001 --unfreeze from_layer --unfreeze-from 1 --track-gradients --gradient-interval 2 "
               "--track-activations --activation-interval 2 --output-dir out --device cpu")
    (tmp_path / "whole").mkdir()
    whole = shell(command, "--json", cwd=tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    run = tmp_path / "out"
    kill_at(CHECKPOINT, 2, tmp_path, command)
    assert epoch(run) == 2
    assert manifest(run)["stage"] == "train"
    done = shell(command, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "it stopped in stage train" in done.stderr, done.stderr
    assert numbers(done.stdout) == numbers(whole.stdout)
    assert numbers(done.stdout)["std_ratio"] != 1
    for name in ("predictions.parquet", "history.parquet", "gradients.parquet", "activations.parquet"):
        resumed, at_once = (pd.read_parquet(of / "reports" / name) for of in (run, tmp_path / "whole" / "out"))
        assert resumed.equals(at_once), name


def test_killed_before_its_manifest_was_whole(tmp_path, monkeypatch, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".manifest.json.a1b2c3d4.part.json").write_text('{"format": 1,')  # as core.atomic_write names what it is writing
    monkeypatch.chdir(tmp_path)
    assert cli.main("run --model pocket --num-samples 60 --layer 1 --neuron 3 --output-dir out --device cpu".split()) == 0
    assert list((tmp_path / "out").rglob(".*")) == []


def test_a_second_process_is_refused_and_the_first_can_be_interrupted(unbroken, tmp_path, monkeypatch, capsys):
    run = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("neural_introspection.activations.collecting.PIECE", 32)
    with started(LONG, "--json", cwd=tmp_path, first=PIECES + at_file(CHECKPOINT, 1, signal.SIGSTOP)) as process:
        wait_until(lambda: epoch(run) >= 1, process)   # it stops, and holds the folder for as long as this test needs
        before = snapshot(tmp_path)
        for option in ([], ["--force-overwrite"]):
            assert cli.main([*LONG.split(), "--json", *option]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert err == "error: another process is working in out: wait for it or give another folder.\n"
        assert snapshot(tmp_path) == before
        process.send_signal(signal.SIGINT)  # Ctrl-C, which comes as soon as it goes on
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 1
    assert (tmp_path / "stdout").read_text() == ""
    message = (tmp_path / "stderr").read_text().splitlines()[-1]
    assert message.startswith("error: stopped by the user")
    assert " out," in message
    assert is_one_sentence(message)
    assert manifest(run)["status"] == "interrupted"
    assert epoch(run) < EPOCHS
    assert cli.main([*LONG.split(), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "resuming the run in out (it stopped in stage train)" in err
    assert_same_result(tmp_path, out, unbroken)


@pytest.mark.parametrize("option", ["--learning-rate 0.002", "--num-samples 110"])
def test_another_question_does_not_resume_an_unfinished_run(option, finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished / "out", tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest(tmp_path / "out") | dict(status="running", stage="train")))
    before = snapshot(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert cli.main([*RUN.split(), "--json", *option.split()]) == 0
    assert "resuming" not in capsys.readouterr().err
    archived, = tmp_path.glob("out-*")
    assert {k: v for k, v in snapshot(archived).items() if k != "."} == {k: v for k, v in before.items() if k != "."}


TOKEN = ("run --model pocket --num-samples 60 --head token --layer 0 --neuron 73 --num-bins 3 --template {text}= "
         "--unfreeze after_target --epochs 3 --early-stopping False --learning-rate 0.001 --observers 2 "
         "--output-dir out --device cpu")


@pytest.mark.slow
def test_a_model_killed_while_it_learns_to_report(tmp_path):
    "Killed while the model, its observer and an untrained network are taught: the numbers of an unbroken run."
    (tmp_path / "unbroken").mkdir()
    unbroken = shell(TOKEN, "--json", cwd=tmp_path / "unbroken")
    assert unbroken.returncode == 0, unbroken.stderr
    for name, nth in (("taught", 2), ("held-1", 1), ("untrained-1", 1)):
        path = f"models/{name}/checkpoint.safetensors"
        kill_at(path, nth, tmp_path, TOKEN)
        assert len(read_tensors(tmp_path / "out" / path)[1]["losses"]) == 1 + nth
    done = shell(TOKEN, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert numbers(done.stdout) == numbers(unbroken.stdout)
    for name in ("taught", "held-0", "held-1", "untrained-0", "untrained-1"):
        assert not (tmp_path / "out" / "models" / name).exists()
    runs = tmp_path / "out", tmp_path / "unbroken" / "out"
    weights = [read_tensors(run / "models" / "reporter.safetensors") for run in runs]
    assert weights[0][1] == weights[1][1]
    assert all(weights[0][0][name].equal(w) for name, w in weights[1][0].items())


SUITE = Path(__file__).parents[1] / "core" / "suite.yaml"


@pytest.mark.slow
def test_a_benchmark_killed_between_two_neurons(tmp_path):
    "Killed with the first neuron of the model done, and with that of its twin: the numbers of an unbroken run."
    command = f"benchmark --models pocket --device cpu --suite {SUITE} --output-dir out"
    (tmp_path / "unbroken").mkdir()
    unbroken = shell(command, "--json", cwd=tmp_path / "unbroken")
    assert unbroken.returncode == 0, unbroken.stderr
    for place in ("0", "0-untrained"):
        kill_at(f"{place}/blocks.*.json", 1, tmp_path, command)
        assert list((tmp_path / "out" / "datasets" / "rows" / place).glob("blocks*.json"))
    done = shell(command, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert numbers(done.stdout) == numbers(unbroken.stdout)
    assert not (tmp_path / "out" / "datasets" / "rows").exists()

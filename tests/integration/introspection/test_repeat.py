"""The same command gives the same numbers when it is run again, in the form that it promises."""
import json
import shutil

import pandas as pd
import pytest
from conftest import RUN
from neural_introspection import cli
from neural_introspection.introspection.checks import VERDICTS
from shell import ANSWER, answer, manifest, numbers, shell


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    "A copy of the finished run's folder, to work in."
    shutil.copytree(finished / "out", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_same(run, stdout, finished):
    assert numbers(stdout) == numbers((finished / "stdout").read_text())
    for name in ("reports/predictions.parquet", "reports/history.parquet", "datasets/dataset.parquet"):
        assert pd.read_parquet(run / name).equals(pd.read_parquet(finished / "out" / name)), name


@pytest.mark.slow
def test_json_is_all_of_stdout(finished):
    found = answer((finished / "stdout").read_text())
    assert ANSWER <= found.keys()
    assert found["run_folder"] == "out"
    assert found["r2_low"] <= found["r2"] <= found["r2_high"] <= 1
    assert -1 <= found["spearman"] <= 1
    assert {"mean", "last token", "input only", "shuffled targets", "random weights"} <= found["baselines"].keys()
    assert all({"r2", "r2_low", "r2_high", "spearman"} <= b.keys() for b in found["baselines"].values())
    assert found["leakage"] == "downstream"
    assert found["verdict"] in VERDICTS
    assert found["std_ratio"] == 1   # the model was frozen
    assert found["r2_original"] == found["r2_current"] == found["r2"]
    assert found["selectivity"] == pytest.approx(found["selectivity"])
    assert all(found["checks"].values())
    assert "target " in (finished / "stderr").read_text()
    assert "Traceback" not in (finished / "stderr").read_text()


def test_the_answer_is_what_lies_in_the_folder(finished):
    run, found = finished / "out", answer((finished / "stdout").read_text())
    stored = json.loads((run / "reports" / "result.json").read_text())
    assert stored["summary"] == found
    assert stored["target"] == found["target"]
    test = pd.read_parquet(run / "reports" / "predictions.parquet").query("split == 'test'")
    unexplained = ((test.activation - test.predicted)**2).sum()/((test.activation - test.activation.mean())**2).sum()
    assert found["r2"] == pytest.approx(1 - unexplained, abs=1e-9)
    assert len(test) == found["test_rows"]
    assert manifest(run)["status"] == "complete"
    assert found["target"] in (run / "reports" / "report.md").read_text()


@pytest.mark.slow
def test_again_in_another_process(place, finished):
    done = shell(RUN, "--json", "--force-overwrite", cwd=place, fresh=True, env=dict(PYTHONHASHSEED="1234"))
    assert done.returncode == 0, done.stderr
    assert_same(place / "out", done.stdout, finished)


def test_three_runs_in_a_second_keep_three_archives(place, capsys):
    for n in "123": assert cli.main([*RUN.split(), "--layer", "1", "--neuron", n]) == 0
    assert len(list(place.glob("out-*"))) == 3


def test_printed_config_gives_the_same_numbers(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*RUN.split(), "--print-config"]) == 0
    (tmp_path / "run.yaml").write_text(capsys.readouterr().out)
    assert not (tmp_path / "out").exists()
    assert cli.main(["--config", "run.yaml", "--json"]) == 0
    assert_same(tmp_path / "out", capsys.readouterr().out, finished)


def test_another_seed_gives_other_numbers(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*RUN.split(), "--json", "--seed", "1"]) == 0
    assert numbers(capsys.readouterr().out)["r2"] != numbers((finished / "stdout").read_text())["r2"]


def test_scan_answers_in_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main("scan --model pocket --num-samples 50 --top 3 --device cpu --json".split()) == 0
    found = answer(capsys.readouterr().out)
    assert len(found["top"]) == 3
    assert found["texts"] == 50
    assert list(tmp_path.iterdir()) == []

"""Run functions are called with a config, with keywords, or with a loaded model and texts at hand: the numbers are the same."""
import os
import subprocess

import pandas as pd
import pytest

import neural_introspection as ni

OPTIONS = dict(num_samples=40, device="cpu")


@pytest.fixture(scope="module")
def model(): return ni.load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def texts(): return ni.load_texts("synthetic", 40, 0).texts


def test_a_scan_by_config_by_keywords_and_by_objects(model, texts, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    by_config = ni.run_scan(ni.ScanConfig(model="pocket", **OPTIONS))
    others = [ni.run_scan("pocket", **OPTIONS), ni.run_scan(model="pocket", **OPTIONS), ni.run_scan(model, texts=list(texts)),
              ni.run_scan(model, texts=pd.Series(texts)), ni.run_scan(model, texts=tmp_path / "texts.txt", num_samples=40)]
    for other in others: pd.testing.assert_frame_equal(by_config.to_frame(), other.to_frame())


def test_an_introspection_by_keywords_and_by_a_model(model, texts, tmp_path):
    asked = dict(layer=3, neuron="327", epochs=2)
    by_name = ni.run_introspection(model="pocket", output_dir=str(tmp_path / "a"), **asked, **OPTIONS)
    by_object = ni.run_introspection(model, texts=texts, output_dir=str(tmp_path / "b"), **asked)
    assert str(by_name.target) == "blocks.3.mlp.hook_post[327]" == str(by_object.target)
    assert by_object.about["config"]["model"] == "pocket"
    assert len(by_object.predictions) == len(by_name.predictions)


def test_whole_numbers_may_be_numbers(tmp_path):
    result = ni.run_introspection("pocket", layer=3, neuron=327, epochs=2, output_dir=str(tmp_path / "run"), **OPTIONS)
    assert str(result.target) == "blocks.3.mlp.hook_post[327]"


def test_an_atlas_by_keywords(model, texts):
    given = ni.run_atlas(model, texts=texts, layers="3", folds=3)
    named = ni.run_atlas("pocket", layers="3", folds=3, **OPTIONS)
    assert given.to_frame().equals(named.to_frame())


def test_an_analysis_keeps_given_texts(model, texts, tmp_path):
    analysis = ni.run_agent(model, texts=texts, layers="1", candidates=1, budget=1, output_dir=str(tmp_path / "analysis"))
    assert len(list(tmp_path.glob("analysis-texts-*.parquet"))) == 1
    assert len(analysis.claims) <= 1


def test_training_runs_take_keywords(tmp_path):
    assert ni.run_trace(data="iris", epochs=1, output=str(tmp_path / "iris.zarr"), device="cpu").trace.epochs == [0]
    assert len(ni.run_toy(preset="LR1", scale="smoke", output_dir=str(tmp_path), device="cpu").runs)
    steps = dict(train_steps=200, cycles=1, cycle_steps=10, final_steps=10, measure_examples=100, certificate=False)
    core = ni.run_antitrain(data="iris", width=32, **steps, output_dir=str(tmp_path / "core"), device="cpu")
    assert len(core.to_frame()) == 1


@pytest.mark.parametrize("call, words", [
    (lambda: ni.run_scan("pocket", layers=3), "did you mean layer"),
    (lambda: ni.run_scan("pocket", "pocket"), "two models"),
    (lambda: ni.run_scan("pocket", texts=["a", ""]), "text 1 is ''"),
    (lambda: ni.run_trace({}), "a dict was given where a TraceConfig was expected"),
    (lambda: ni.run_toy(sweep=1), "option 'sweep' is unknown"),
])
def test_what_is_wrong_is_said_before_anything_is_run(call, words):
    with pytest.raises(ni.BadInput, match=words): call()


def test_a_terminal_hears_at_once_what_takes_long(tmp_path):
    "The first line comes before torch is imported; whoever reads from a pipe does not get it."
    from shell import command
    terminal, its_end = os.openpty()
    process = subprocess.Popen(command("run --model no/such/folder"), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=its_end)
    os.close(its_end)
    try: first = os.read(terminal, 100).decode()
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert first.startswith("loading PyTorch")
    piped = subprocess.run(command("run --neuron many"), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert piped.stderr.startswith("error: neuron is 'many'")

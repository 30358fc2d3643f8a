"""`neural-introspection trace` from outside: its answer, killed and resumed, the same numbers again, what happens to a trace that is there."""
import re
import shutil
import signal

import numpy as np
import pytest
from neural_introspection import cli
from neural_introspection.models import accuracy
from neural_introspection.core import BadData, Cancelled, read_tensors, watch_progress
from neural_introspection.tracing import NetworkTrace, run_trace, TraceConfig, TraceResult
from shell import answer, is_one_sentence, shell, snapshot, started, wait_until

TRACE = "trace --data digits --classes 3,8 --hidden-size 16 --epochs 5 --quantiles --output out.zarr --device cpu"
CHECKPOINT = "out.zarr.unfinished/models/checkpoint.safetensors"
ANSWER = {"data", "epochs", "layers", "neurons", "test_accuracy", "output", "seconds", "bytes", "bytes_per_neuron_per_epoch", "problems", "majority", "classes"}


def numbers(stdout):
    "The answer without what depends on place and time."
    return {k: v for k, v in answer(stdout).items() if k not in ("seconds", "bytes", "bytes_per_neuron_per_epoch")}


def stored(path):
    "Everything in a trace but the times of its run."
    trace = NetworkTrace.open(path)
    return dict(metrics=trace.to_frame(), classes=trace.to_frame(by_class=True), notes=trace.epoch_frame(), layers=trace.layer_frame(), test=trace.inference("test").to_frame("output"),
                **{f"{what} {layer}": trace_part(layer).to_series() for what, trace_part in (("weights", trace.weights), ("biases", trace.biases)) for layer in list(trace.layers)[1:]})


def assert_same_trace(one, two):
    one, two = stored(one), stored(two)
    assert one.keys() == two.keys()
    assert {k: one[k].equals(two[k]) for k in one} == dict.fromkeys(one, True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A folder with what `TRACE --json`, in a process of its own, left and said."
    folder = tmp_path_factory.mktemp("traced")
    done = shell(TRACE, "--json", cwd=folder, fresh=True, env=dict(PYTHONHASHSEED="1234"))
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    "A copy of the finished run, to work in."
    shutil.copytree(finished / "out.zarr", tmp_path / "out.zarr")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_answer(finished):
    found = answer((finished / "stdout").read_text())
    assert ANSWER <= found.keys()
    assert "Traceback" not in (finished / "stderr").read_text()
    expected = dict(data="digits", epochs=5, layers=3, neurons=82, output="out.zarr", problems=[])
    assert {key: found[key] for key in expected} == expected
    assert found["classes"] == ["3", "8"]
    assert found["test_accuracy"] > .9 > .6 > found["majority"]
    assert found["bytes"] == sum(p.stat().st_size for p in (finished / "out.zarr").rglob("*") if p.is_file())
    result = TraceResult.load(finished / "out.zarr")
    accuracies = [result.accuracy, result.inference.accuracy, result.trace.epoch_frame().test_accuracy.iloc[-1]]
    assert accuracies == [found["test_accuracy"]] * 3
    net, data = result.network(), result.data()
    assert accuracy(net, data.x_test, data.y_test) == found["test_accuracy"]
    assert np.array_equal(net.model[2].weight.detach(), result.trace.weights("output")[-1])
    assert sorted(p.name for p in finished.iterdir() if not p.name.startswith(".")) == ["out.zarr", "stderr", "stdout"]   # no checkpoint stays


def test_for_people(place, capsys):
    assert cli.main(TRACE.split()) == 0
    out, err = capsys.readouterr()
    assert "test accuracy" in out
    assert "L_hidden_1" in out
    assert "trace['E_4']['L_hidden_1']['n_0']" in out
    assert "--shuffle-labels" in out
    code = re.search(r"NetworkTrace.open\('out.zarr'\)", out)
    assert code
    assert eval(code[0], dict(NetworkTrace=NetworkTrace))["E_4"]["L_hidden_1"]["n_0"].metrics   # what is printed can be run


def test_a_damaged_epoch_is_trained_again(place, finished, capsys, recwarn):
    next(p for p in (place / "out.zarr" / "metrics" / "c" / "2").rglob("*") if p.is_file()).unlink()
    assert cli.main([*TRACE.split(), "--json"]) == 0
    assert numbers(capsys.readouterr().out) == numbers((finished / "stdout").read_text())
    assert_same_trace(place / "out.zarr", finished / "out.zarr")
    assert len(list(place.glob("out-*.zarr"))) == 1


# --- killed ---

def epochs_kept(folder):
    path = folder / CHECKPOINT
    return len(read_tensors(path)[1]["history"]) if path.exists() else 0


def test_killed_in_training_and_resumed(finished, tmp_path, monkeypatch, capsys):
    with started(TRACE, "--json", cwd=tmp_path) as process:
        wait_until(lambda: epochs_kept(tmp_path) >= 2, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert (tmp_path / "stdout").read_text() == ""
    assert 2 <= (kept := epochs_kept(tmp_path)) < 5
    with pytest.raises(BadData, match="no finished run") as caught: TraceResult.load(tmp_path / "out.zarr")
    without_points = str(caught.value).replace("NetworkTrace.open", "NetworkTrace_open").replace("out.zarr", "out_zarr")
    assert is_one_sentence(without_points)
    monkeypatch.chdir(tmp_path)
    code = cli.main([*TRACE.split(), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert "resuming the run in out.zarr" in err, err
    assert f"epoch {kept - 1} was the last whole one" in err, err
    assert numbers(out) == numbers((finished / "stdout").read_text())
    assert_same_trace(tmp_path / "out.zarr", finished / "out.zarr")
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["out.zarr", "stderr", "stdout"]


@pytest.mark.parametrize("damage", ["checkpoint", "trace", "no trace"])
def test_what_is_left_of_a_kill_is_damaged(damage, finished, tmp_path, monkeypatch, capsys, recwarn):
    "Then training starts again, and says so; the numbers are the same."
    monkeypatch.chdir(tmp_path)
    stop_after(3, tmp_path)
    if damage == "checkpoint":
        path = tmp_path / CHECKPOINT
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "trace": next(p for p in (tmp_path / "out.zarr" / "metrics" / "c" / "1").rglob("*") if p.is_file()).unlink()
    else: shutil.rmtree(tmp_path / "out.zarr")
    assert cli.main([*TRACE.split(), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "raining starts again" in err
    assert "was the last whole one" not in err
    assert numbers(out) == numbers((finished / "stdout").read_text())
    assert_same_trace(tmp_path / "out.zarr", finished / "out.zarr")


def stop_after(epochs, folder):
    "Leave what a run leaves that is stopped after so many epochs."
    def stop(desc, done, total):
        if desc == "train" and done == epochs: raise Cancelled("enough")
    config = cli.parse("trace", TRACE.split()[1:])[0]
    with pytest.raises(Cancelled), watch_progress(stop): run_trace(config)
    assert epochs_kept(folder) == epochs


def test_another_question_does_not_resume_an_unfinished_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stop_after(2, tmp_path)
    assert cli.main([*TRACE.split(), "--json", "--seed", "1"]) == 0
    out, err = capsys.readouterr()
    archived, = set(tmp_path.glob("out-*.zarr")) - set(tmp_path.glob("*.unfinished"))
    assert "resuming" not in err
    assert NetworkTrace.open(archived).epochs == [0, 1]
    assert [p.name for p in tmp_path.glob("*.unfinished")] == [f"{archived.name}.unfinished"]   # its checkpoint


@pytest.mark.slow
def test_a_second_process_is_refused_and_the_first_can_be_interrupted(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with started(TRACE, "--json", cwd=tmp_path) as process:
        wait_until(lambda: epochs_kept(tmp_path) >= 1, process)
        process.send_signal(signal.SIGSTOP)
        before = snapshot(tmp_path)
        for option in ([], ["--force-overwrite"]):
            assert cli.main([*TRACE.split(), "--json", *option]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert err.startswith("error: another process is working in out.zarr")
        assert snapshot(tmp_path) == before
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
    message = (tmp_path / "stderr").read_text().splitlines()[-1]
    stopped = "stopped by the user; what is complete is in out.zarr, and the same command resumes from there."
    assert message == f"error: {stopped}"
    assert cli.main([*TRACE.split(), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "resuming the run in out.zarr" in err
    assert numbers(out) == numbers((finished / "stdout").read_text())
    assert_same_trace(tmp_path / "out.zarr", finished / "out.zarr")


@pytest.mark.slow
def test_a_full_disk_fails_and_the_run_goes_on_later(finished, tmp_path, monkeypatch, capsys):
    "No file may be larger than 9 kB: the checkpoint is, the trace is not."
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, resource.RLIM_INFINITY))"
    done = shell(TRACE, "--json", cwd=tmp_path, first=full)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: the run failed"), done.stderr
    monkeypatch.chdir(tmp_path)
    assert cli.main([*TRACE.split(), "--json"]) == 0
    assert numbers(capsys.readouterr().out) == numbers((finished / "stdout").read_text())
    assert_same_trace(tmp_path / "out.zarr", finished / "out.zarr")


# --- options ---

def run(tmp_path, options, capsys):
    code = cli.main(f"trace --output {tmp_path}/x.zarr --device cpu --epochs 2 --json {options}".split())
    out, err = capsys.readouterr()
    assert code == 0, err
    return answer(out), NetworkTrace.open(tmp_path / "x.zarr")


def test_printed_config_gives_the_same_numbers(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*TRACE.split(), "--print-config"]) == 0
    (tmp_path / "trace.yaml").write_text(capsys.readouterr().out)
    assert not (tmp_path / "out.zarr").exists()
    assert cli.main(["trace", "--config", "trace.yaml", "--json"]) == 0
    assert numbers(capsys.readouterr().out) == numbers((finished / "stdout").read_text())


@pytest.mark.parametrize("text, expected", [("--epoch-intervals -1", [1]), ("--epoch-intervals 0,1", [0, 1]), ("--epoch-intervals 2", [0]), ("--epoch-intervals [1]", [1]),
                                            ("--initial", [0, 1, 2]), ("--initial --epoch-intervals -1", [2])])
def test_epochs_and_intervals(text, expected, tmp_path, capsys):
    found, trace = run(tmp_path, f"--data iris {text}", capsys)
    assert trace.epochs == expected
    assert found["traced"] == len(expected)
    assert found["epochs"] == 2
    assert TraceResult.load(trace.path).history.traced.tolist() == [e in expected for e in range(2 + ("initial" in text))]


@pytest.mark.parametrize("options", ["--optimizer sgd --learning-rate 0.01 --drop-batches False", "--shuffle-labels --initial", "--epoch-intervals 2 --inference False"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_stopped_and_resumed_with_other_options(epochs, options, tmp_path, capsys):
    def stop(desc, done, total):
        if desc == "train" and done == epochs: raise Cancelled("enough")
    results = []
    for name in ("unbroken", "stopped"):
        config = cli.parse("trace", f"--data iris --epochs 4 --hidden-size 8 --output {tmp_path}/{name}.zarr --device cpu {options}".split())[0]
        if name == "stopped":
            with pytest.raises(Cancelled), watch_progress(stop): run_trace(config)
        results.append(run_trace(config))
    one, two = results
    assert one.history.equals(two.history)
    assert one.trace.to_xarray().equals(two.trace.to_xarray())
    assert one.to_frame().equals(two.to_frame())
    assert np.array_equal(one.trace.weights("output"), two.trace.weights("output"))
    assert one.trace.epoch_frame().equals(two.trace.epoch_frame())


def test_binary_synthetic_data(tmp_path, capsys):
    found, trace = run(tmp_path, "--data synthetic --num-samples 300 --hidden-size 64", capsys)
    assert found["rows"] == dict(train=240, test=60)
    assert found["features"] == 20
    assert trace.layers["output"].width == 2
    assert found["neurons"] == 20 + 64 + 2
    assert trace["E_1"]["L_hidden_1"]["n_20"].classes["count"].sum() == 240


def test_a_file_of_ones_own(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{'yes' if a > b else 'no'}" for a, b in rng.standard_normal((200, 2))]
    (tmp_path / "own.csv").write_text("a,b,answer\n" + "\n".join(rows))
    found, trace = run(tmp_path, f"--data {tmp_path}/own.csv --label answer --drop-weights --drop-biases --inference False", capsys)
    assert found["classes"] == ["no", "yes"]
    assert found["neurons"] == 2 + 64 + 32 + 2
    assert "weights" in trace.about["dropped"]
    assert trace.history_names() == []
    (tmp_path / "own.csv").write_text("a,b,answer\n" + "\n".join(rows[1:]))
    with pytest.raises(BadData, match="has changed since"): TraceResult.load(tmp_path / "x.zarr").data()


def test_a_rate_that_blows_up_is_reported_and_not_fatal(tmp_path, capsys):
    found, trace = run(tmp_path, "--data iris --optimizer sgd --learning-rate 1e30", capsys)
    assert found["loss"] is None
    assert {p["layer"] for p in found["problems"]} >= {"hidden_1", "output"}
    assert trace.epochs == [0, 1]
    assert TraceResult.load(trace.path).history.loss.isna().any()


def test_help_names_every_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end: cli.main(["trace", "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert all(f"--{name.replace('_', '-')}" in out for name in vars(TraceConfig()))
    assert all(f"{group} options" in out for group in ("data", "network", "training", "trace", "output", "hardware"))

"""The same command resumes an interrupted run and shows a finished one; what else is there is archived, or removed."""
import json
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import filelock
import pytest
import torch
from neural_introspection import AgentConfig, AtlasConfig, IntrospectionConfig, ScanConfig, cli
from neural_introspection.analysis import run_agent
from neural_introspection.antitraining import pipeline
from neural_introspection.analysis.agent import keep_texts
from neural_introspection.core import (check_run_folder, checkpointed, make_config, open_run, read_json, runs,
    watch_progress, write_json)
from neural_introspection.core.errors import BadData, BadRunFolder
from neural_introspection.core.files import write_text
from neural_introspection.data import load_texts
from neural_introspection.introspection import untrained
from neural_introspection.introspection import AtlasResult, run_atlas, run_introspection, run_scan
from neural_introspection.models import load_model
from neural_introspection.tracing import TraceResult
from shell import answer, is_one_sentence, snapshot

pytestmark = pytest.mark.usefixtures("loaded")   # also by those that are interrupted: they leave it as it was
POCKET = "--model pocket --device cpu --num-samples"
COMMANDS = {name: f"{name} {words}" for name, words in {
    "run": f"{POCKET} 40 --layer 1 --neuron 3 --epochs 3 --output-dir out",
    "scan": f"{POCKET} 40 --output out",
    "atlas": f"{POCKET} 40 --layers 2 --feature-layer 1 --batch-size 2 --n-permutations 2 --output out.zarr",
    "benchmark": f"--models pocket --device cpu --suite {Path(__file__).with_name('suite.yaml')} --output-dir out",
    "trace": "--data iris --epochs 4 --hidden-size 8 --device cpu --output out.zarr",
    "agent": f"{POCKET} 60 --layers 1 --candidates 1 --budget 2 --n-permutations 19 --hypotheses token,class "
             "--output-dir out",
    "antitrain": "--data iris --width 32 --train-steps 60 --cycles 1 --cycle-steps 10 --final-steps 5 --device cpu "
                 "--measure-examples 80 --n-draws 1 --seeds 2 --certificate False --output-dir out",
    "toy": "--N 32 --m 8 --k 48 --log2_training_steps 6 --sweep_var eps --sweep_values 1/64 1/32 --stack 1 "
           "--device cpu --file_name out"}.items()}
STORES = ["atlas", "trace"]


def numbers(stdout):
    "The answer without what depends on the time."
    return {k: v for k, v in answer(stdout).items() if k not in ("seconds", "bytes", "bytes_per_neuron_per_epoch")}


def output(name): return Path("out.zarr" if name in STORES else "out")
def content(folder): return {k: v for k, v in snapshot(folder).items() if k != "."}


def manifest(path):
    if path.suffix == ".zarr": return read_json(path / "zarr.json")["attributes"]["run"]
    return read_json(path / "manifest.json")


def named(): return sorted(p.name for p in Path().glob("out*"))


def start(name, capsys, *more, code=0):
    "Run the command, as a new process does; what it printed."
    untrained._READ.clear()   # else a second run has fewer steps
    found = cli.main([*COMMANDS[name].split(), "--json", *more])
    out, err = capsys.readouterr()
    assert found == code, err
    return out, err


def interrupt_at(last):
    "Ctrl-C at that step of all progress."
    steps = []
    def watcher(*step):
        steps.append(step)
        if len(steps) == last: raise KeyboardInterrupt
    return watch_progress(watcher), steps


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "By command, made on request: a folder with its finished run, what it printed, how many steps of progress it has."
    made = {}
    def make(name, capsys, monkeypatch):
        if name not in made:
            folder, (watch, steps) = tmp_path_factory.mktemp(name), interrupt_at(0)
            with monkeypatch.context() as patch, watch:
                patch.chdir(folder)
                out, err = start(name, capsys)
            assert "resuming" not in err
            assert "archived" not in err
            assert "finished run" not in err
            made[name] = folder, out, len(steps)
        return made[name]
    return make


@pytest.fixture(params=COMMANDS)
def case(request, finished, tmp_path, capsys, monkeypatch):
    "(command, what it printed, its steps); the working folder is a new one."
    folder, *rest = finished(request.param, capsys, monkeypatch)
    monkeypatch.chdir(tmp_path)
    return request.param, folder, *rest


def test_the_same_command_shows_a_finished_run_and_computes_nothing(case, tmp_path, capsys):
    name, folder, out, _ = case
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before, made = snapshot(tmp_path), manifest(output(name))
    watch, steps = interrupt_at(0)
    with watch: again, err = start(name, capsys)
    assert {desc for desc, *_ in steps} <= {"tokens", "compare texts"}, "more than the question was made"
    assert again == out
    assert f"{output(name)} holds the finished run of these options, so nothing is computed: give --force-overwrite" in err
    assert snapshot(tmp_path) == before
    assert manifest(output(name)) == made
    assert made["timings"]
    assert cli.main(COMMANDS[name].split()) == 0
    assert capsys.readouterr().out.strip()   # for people, too


def test_other_options_archive_it_and_force_overwrite_removes_it(case, tmp_path, capsys):
    name, folder, out, _ = case
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before = content(output(name))
    _, err = start(name, capsys, "--seed", "1")
    archived, mine = sorted(named(), key=len, reverse=True)
    assert mine == output(name).name
    assert re.fullmatch(r"out-\d{8}-\d{6}" + Path(mine).suffix, archived)
    assert f"the previous run was archived as {archived}" in err
    assert content(archived) == before
    assert manifest(output(name))["config"] != manifest(folder / output(name))["config"]
    again, err = start(name, capsys, "--force-overwrite")
    assert numbers(again) == numbers(out)
    assert "archived" not in err
    assert set(named()) == {mine, archived}


@pytest.mark.parametrize("share", [.5, .9])
def test_interrupted_it_resumes_to_the_same_numbers(share, case, capsys):
    name, _, out, steps = case
    watch, _ = interrupt_at(int(share * steps))
    with watch: printed, err = start(name, capsys, code=1)
    message = err.splitlines()[-1]
    assert printed == ""
    assert is_one_sentence(message.replace("out.zarr", "out"))
    assert message.startswith("error: stopped by the user; what is complete is in out")
    again, err = start(name, capsys)
    assert f"resuming the run in {output(name)} (it stopped in stage " in err
    assert "archived" not in err
    assert numbers(again) == numbers(out)
    assert named() == [output(name).name]
    assert manifest(output(name))["status"] == "complete"


def test_killed_before_it_is_marked_as_complete(case, capsys, monkeypatch):
    name, _, out, _ = case
    def killed(self, *_):
        self.lock.release()
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(runs.RunFolder, "__exit__", killed)
        start(name, capsys, code=1)
    again, err = start(name, capsys)
    assert "resuming the run in" in err
    assert numbers(again) == numbers(out)
    assert named() == [output(name).name]


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("step, words", [("write_json", "resuming the run"), ("_remove", "holds the finished run")])
def test_killed_between_the_last_steps_of_a_store(step, words, name, finished, tmp_path, capsys, monkeypatch):
    _, out, _ = finished(name, capsys, monkeypatch)
    monkeypatch.chdir(tmp_path)
    real = getattr(runs, step)
    def killed(path, *rest):
        if Path(path).name in ("zarr.json", "out.zarr.unfinished"): raise KeyboardInterrupt
        return real(path, *rest)
    with monkeypatch.context() as patch:
        patch.setattr(runs, step, killed)
        start(name, capsys, code=1)
    assert named() == ["out.zarr", "out.zarr.unfinished"]
    again, err = start(name, capsys)
    assert words in err
    assert numbers(again) == numbers(out)
    assert named() == ["out.zarr"]


def test_other_options_archive_an_unfinished_store_with_its_checkpoint(finished, tmp_path, capsys, monkeypatch):
    _, _, steps = finished("trace", capsys, monkeypatch)
    monkeypatch.chdir(tmp_path)
    watch, _ = interrupt_at(steps // 2)
    with watch: start("trace", capsys, code=1)
    start("trace", capsys, "--seed", "1")
    mine, archived, beside = sorted(named(), key=len)
    assert beside == f"{archived}.unfinished"
    shutil.rmtree(mine)
    for path in (archived, beside): Path(path).rename(path.replace(archived, mine))   # put back, it resumes
    assert "resuming the run in out.zarr" in start("trace", capsys)[1]


CALLS = {"run": (run_introspection, IntrospectionConfig), "scan": (run_scan, ScanConfig),
         "atlas": (run_atlas, AtlasConfig), "agent": (run_agent, AgentConfig)}


@pytest.mark.parametrize("name", CALLS)
def test_another_model_or_other_texts_are_another_run(name, tmp_path, monkeypatch):
    "In Python: the same weights and texts are shown, changed ones are not, nor is a model with hooks."
    monkeypatch.chdir(tmp_path)
    run, cls = CALLS[name]
    lines = [f"The value {i} is in row {i % 7} of table {i % 11}, and the next one is {i * i % 13}." for i in range(40)]
    Path("texts.txt").write_text("\n".join(lines))
    config = make_config(cls, vars(cli.parse(name, COMMANDS[name].split()[1:])[0]) | dict(texts="texts.txt"))
    model, created = load_model("pocket", device="cpu"), []
    def call():
        run(config, model)
        created.append(manifest(output(name))["created"])
        return created[-1]
    first = call()
    assert call() == first
    with model.blocks[1].register_forward_hook(lambda *_: None): assert call() != first
    Path("texts.txt").write_text("\n".join(reversed(lines)))
    call()
    next(model.original_model.parameters()).data.mul_(1.01)   # torch does not count this
    call()
    assert len(set(created)) == 4
    assert len(named()) == 4
    assert call() == created[-2]   # changed weights have a hash too


@pytest.mark.parametrize("name, file", [("toy", "out/datasets/looks.parquet"), ("toy", "out/models/value_0_seed_0.safetensors"),
    ("antitrain", "out/models/seed_0.safetensors"), ("run", "out/models/predictor.safetensors")])
def test_a_result_with_half_a_file_is_no_finished_run(name, file, finished, tmp_path, capsys, monkeypatch):
    shutil.copytree(finished(name, capsys, monkeypatch)[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    Path(file).write_bytes(Path(file).read_bytes()[:20])
    monkeypatch.setattr(runs, "_begin", Mock(side_effect=InterruptedError))
    assert "It is computed again." in start(name, capsys, code=1)[1]


def test_a_damaged_result_is_computed_again(finished, tmp_path, capsys, monkeypatch):
    folder, out, _ = finished("toy", capsys, monkeypatch)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    next(Path("out/models").glob("*.safetensors")).unlink()
    again, err = start("toy", capsys)
    assert "is gone. It is computed again." in err
    assert "archived as" in err
    assert json.loads(again) == json.loads(out)


def test_force_overwrite_leaves_what_is_not_the_runs(tmp_path):
    with open_run(tmp_path / "run", {}) as run: write_text(run.file("reports", "report.md"), "old")
    write_text(tmp_path / "run" / "thesis.tex", "years of work")
    with open_run(tmp_path / "run", {}, overwrite=True) as run: assert not any((run.path / "reports").iterdir())
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".run.lock", "run"]


def test_the_given_texts_of_an_archived_analysis_stay(tmp_path):
    first, second = (keep_texts(load_texts([f"{word} one", f"{word} two"]), tmp_path / "out") for word in ("old", "new"))
    assert list(load_texts(first).texts) == ["old one", "old two"]
    assert first != second


def test_results_in_memory_stay_those_of_their_archived_store(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in STORES: shutil.copytree(finished(name, capsys, monkeypatch)[0] / "out.zarr", f"{name}.zarr")
    atlas, trace = AtlasResult.load("atlas.zarr"), TraceResult.load("trace.zarr")
    before = trace.network().state_dict()
    with open_run("trace.zarr", {"another": 1}, store=True) as run: shutil.copytree(run.archived, "trace.zarr")
    shutil.rmtree("trace.zarr/model")
    assert all(tensor.equal(before[name]) for name, tensor in trace.network().state_dict().items())
    assert trace.inference.accuracy == trace.accuracy
    shutil.rmtree(run.archived)
    with pytest.raises(BadData, match="no longer in trace.zarr"): trace.network()
    shutil.rmtree("atlas.zarr")
    assert atlas.data.r2.notnull().any()


def test_the_working_folder_and_those_above_it_are_refused(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", "..", "deep/..", tmp_path):
        with pytest.raises(BadRunFolder, match="is the working folder, or above it"): open_run(path, {})
        with pytest.raises(BadRunFolder, match="is the working folder, or above it"): check_run_folder(path)
    with open_run("deep/../run", {}) as run: assert run.path == tmp_path / "here" / "run"


def test_a_run_that_another_process_finished_before_the_lock_is_found(tmp_path, monkeypatch):
    real = runs._lock_run
    def late(*paths):
        monkeypatch.setattr(runs, "_lock_run", real)
        with open_run(tmp_path / "run", {}): pass
        return real(*paths)
    monkeypatch.setattr(runs, "_lock_run", late)
    assert open_run(tmp_path / "run", {}).finished


def test_the_checkpoint_of_another_run_beside_a_finished_store_stays(tmp_path):
    store, kept = tmp_path / "out.zarr", tmp_path / "kept"
    with pytest.raises(KeyError), open_run(store, {"layer": 1}, store=True): raise KeyError
    runs.work_folder(store).rename(kept)
    with open_run(store, {"layer": 2}, store=True): write_json(store / "zarr.json", dict(attributes={}))
    kept.rename(runs.work_folder(store))
    assert open_run(store, {"layer": 2}, store=True).finished
    assert runs.work_folder(store).is_dir()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("text", ["{half", '{"format": 1, "status": "complete", "config": {}}'])
def test_a_damaged_or_older_manifest_is_that_of_an_unknown_run(text, force, tmp_path):
    with open_run(tmp_path / "run", {"layer": 1}) as run: write_text(run.file("reports", "report.md"), "found")
    write_text(tmp_path / "run" / "manifest.json", text)
    with open_run(tmp_path / "run", {}, overwrite=force) as run: assert bool(run.archived) == (not force)
    if not force: assert (run.archived / "reports" / "report.md").exists()


def test_the_lock_is_free_after_an_error(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(BadRunFolder, match="cannot be written") as _kept:
        patch.setattr(Path, "mkdir", Mock(side_effect=[None, None, OSError(28, "disk full")]))
        open_run(tmp_path / "run", {})
    lock = filelock.FileLock(tmp_path / ".run.lock", timeout=0)
    with lock: assert lock.is_locked


def test_what_a_kill_left_of_a_removal_goes_with_the_next(tmp_path):
    write_text(tmp_path / ".run.removed" / "reports" / "report.md", "old")
    for force in (False, True):
        with open_run(tmp_path / "run", {}, overwrite=force): pass
    assert sorted(p.name for p in tmp_path.iterdir()) == [".run.lock", "run"]


def test_pieces_of_another_identity_go_in_one_step(tmp_path, monkeypatch):
    def pieces(of): return checkpointed(1, lambda i: {"x": torch.tensor([float(of)])}, tmp_path / "pieces", dict(of=of))
    pieces(1)
    with monkeypatch.context() as patch:   # what cannot be removed is not used
        patch.setattr(runs.shutil, "rmtree", lambda *_, **__: None)
        assert float(pieces(2)[0]["x"]) == 2
    write_text(tmp_path / "pieces" / "pieces.json", "{half")
    assert float(pieces(3)[0]["x"]) == 3


def test_a_folder_that_is_moved_while_its_run_goes_on_is_named(tmp_path, caplog):
    with open_run(tmp_path / "run", {}): (tmp_path / "run").rename(tmp_path / "moved")
    assert "run was moved or removed while its run went on" in caplog.text


def test_a_saved_part_of_an_atlas_is_no_finished_run(finished, tmp_path, capsys, monkeypatch):
    folder = finished("atlas", capsys, monkeypatch)[0]
    AtlasResult.load(folder / "out.zarr").save(tmp_path / "out.zarr")
    assert "run" not in read_json(tmp_path / "out.zarr" / "zarr.json")["attributes"]


def test_a_worker_that_outlived_its_run_writes_nothing_into_another(tmp_path):
    config = cli.parse("antitrain", COMMANDS["antitrain"].split()[1:])[0]
    with open_run(tmp_path / "out", {}) as run: pass
    with pytest.raises(BadRunFolder, match="another run's by now"): pipeline._one_seed(config, 0, run.path, "before")
    assert not [p for p in run.path.rglob("seed*")]


def test_a_trace_of_an_older_version_is_refused(finished, tmp_path, capsys, monkeypatch):
    store = shutil.copytree(finished("trace", capsys, monkeypatch)[0] / "out.zarr", tmp_path / "out.zarr")
    about = read_json(store / "zarr.json")
    del about["attributes"]["run"]["settings"]
    write_json(store / "zarr.json", about)
    with pytest.raises(BadData, match="no finished run of run_trace"): TraceResult.load(store)


@pytest.mark.parametrize("error", [KeyError, TypeError])
def test_a_result_that_cannot_be_read_is_computed_again(error, tmp_path, caplog):
    with open_run(tmp_path / "run", {}): pass
    with open_run(tmp_path / "run", {}, load=Mock(side_effect=error("score"))) as run: assert run.archived
    assert "It is computed again." in caplog.text


def test_a_kill_between_the_renames_of_an_archived_store_parts_nothing(tmp_path, monkeypatch):
    store, real = tmp_path / "out.zarr", Path.rename
    with pytest.raises(KeyError), open_run(store, {"layer": 1}, store=True):
        write_json(store / "zarr.json", dict(attributes={}))
        raise KeyError
    def killed(path, goal):
        if path.name == "out.zarr.unfinished": raise KeyboardInterrupt
        return real(path, goal)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        open_run(store, {"layer": 2}, store=True)
    with open_run(store, {"layer": 2}, store=True): write_json(store / "zarr.json", dict(attributes={}))
    archived, = tmp_path.glob("out-*.zarr")
    assert read_json(runs.work_folder(archived) / "manifest.json")["config"] == {"layer": 1}


def test_a_resumed_run_archives_a_store_that_another_one_finished(tmp_path):
    store = tmp_path / "out.zarr"
    with pytest.raises(KeyError), open_run(store, {"layer": 1}, store=True): raise KeyError
    write_json(store / "zarr.json", dict(attributes=dict(run=dict(created="before", status="complete"))))
    with open_run(store, {"layer": 1}, store=True) as run:
        assert run.resumed
        assert not store.exists()
        write_json(store / "zarr.json", dict(attributes={}))
    assert len(list(tmp_path.glob("out-*.zarr"))) == 1


def test_an_atlas_that_has_lost_a_chunk_is_refused(finished, tmp_path, capsys, monkeypatch):
    store = shutil.copytree(finished("atlas", capsys, monkeypatch)[0] / "out.zarr", tmp_path / "out.zarr")
    AtlasResult.load(store)
    next(p for p in (store / "r2" / "c").rglob("*") if p.is_file()).unlink()
    with pytest.raises(BadData, match="has lost a part of r2"): AtlasResult.load(store)

"""Bad input: exit code 2, one sentence, and nothing is written, archived or removed. Failures: exit code 1, and the folder is named."""
import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import RUN
from neural_introspection import cli
from neural_introspection.core import BadData, BadInput
from neural_introspection.introspection import ActivationDataset
from neural_introspection.models import load_model
from neural_introspection.models.loading import pocket_folder
from shell import is_one_sentence, manifest, python, shell, snapshot, standing_in

# options -> words that the sentence must contain
REFUSED = {
    "--model no/such/folder": "'no/such/folder'",
    "--model missing.gguf": "no file missing.gguf",
    "--model damaged.gguf": "damaged.gguf",
    "--model plain": "no config.json",
    "--model cut-config": "cut-config",
    "--layer 4": "layer 4 is outside 0..3 of pocket",
    "--layer -5": "0..3",
    "--layer 2 --neuron 512": "neuron 512 is outside 0..511 of blocks.2.mlp.hook_post in pocket",
    "--neuron 512": "0..511",
    "--neuron -1": "must be a whole number from 0",
    "--layer-type resid_post --layer 1 --neuron 128": "neuron 128 is outside 0..127 of blocks.1.hook_resid_post",
    "--feature-layer 4": "0..3",
    "--texts missing.txt": "missing.txt does not exist",
    "--texts empty.txt": "empty.txt holds no text",
    "--texts blank.txt": "blank.txt holds no text",
    "--texts latin.txt": "line 3 of latin.txt is not UTF-8",
    "--texts same.txt": "50 texts form only 1 group",
    "--texts plain": "plain",
    "--texts missing.parquet": "missing.parquet does not exist",
    "--num-samples 0": "at least 1",
    "--num-samples 5": "5 groups",
    "--num-samples 1000000000": "ask for fewer",
    "--val-split 0.5 --test-split 0.5": "their sum must be below 1",
    "--val-split 0.9 --test-split 0.3": "their sum must be below 1",
    "--val-split -0.1": "between 0 and 1",
    "--test-split 0": "nothing to evaluate on",
    "--token-pos 999": "token position 999 is beyond every text",
    "--token-pos first": "'first'",
    "--epochs -1": "epochs is -1, but must be at least 1",
    "--epochs 0": "at least 1",
    "--batch-size 0": "at least 1",
    "--learning-rate -1": "at least 0",
    "--learning-rate nan": "--learning-rate is nan",
    "--unfreeze lora --unfreeze-components embeddings": "not for embeddings",
    "--unfreeze from_layer --unfreeze-from 2 --layer 3 --neuron 5 --feature-layer 1": "leaves nothing to train",
    "--seed -1": "at least 0",
    "--device abacus": "choose cpu",
    "--config missing.yaml": "missing.yaml cannot be read",
    "--config damaged.yaml": "damaged.yaml cannot be read",
    "--config latin.yaml": "latin.yaml cannot be read",
    "--config list.yaml": "`option: value` lines",
    "--config misspelt.yaml": "'modell' is unknown: did you mean model",
    "--config word.yaml": "epochs is 'many', but must be a whole number",
    "--config rate.yaml": "learning_rate is 'fast'",
    "--output-dir empty.txt": "empty.txt is a file",
    "--output-dir empty.txt/out": "empty.txt is a file",
    "--output-dir plain": "not a run's",
    "--neuron many": "must be whole numbers with commas between them, such as 7 or 1,2,3",
    "--neuron 1,1 --layer 2": "several different ones",
    "--neuron 1,2": "need a layer",
    "--neuron 1,512 --layer 2": "neuron 512 is outside 0..511",
    "--neuron 1,2 --layer 2 --regression False": "cannot be put into bins together",
    "--regression False --num-bins 1": "--num-bins is 1, but must be at least 2",
    "--head mlp --hidden 0": "hidden is 0, but must be at least 1",
    "--other-model no/such/folder": "'no/such/folder'",
    "--unfreeze from_layer": "needs the first layer to train",
    "--unfreeze from_layer --unfreeze-from 4": "layer 4 is outside 0..3 of pocket",
    "--unfreeze from_layer --unfreeze-from 3 --feature-layer 1 --layer 0": "leaves nothing to train",
    "--unfreeze after_target --layer 3 --neuron 1": "leaves nothing to train",
    "--unfreeze selective": "needs the components to train",
    "--unfreeze selective --unfreeze-components heads": "choose from attention, mlp, embeddings",
    "--unfreeze-from 2": "only used with --unfreeze from_layer or lora",
    "--unfreeze-components mlp": "only used with --unfreeze selective or lora",
    "--unfreeze all --unfreeze-from 2": "only used with",
    "--unfreeze lora --lora-rank 0": "--lora-rank is 0, but must be at least 1",
    "--track-activations --activation-interval 0": "--activation-interval is 0, but must be at least 1",
    "--track-gradients --gradient-interval 0": "--gradient-interval is 0, but must be at least 1",
    "--layer abc": "layer is 'abc', but must be a whole number", "--layer-type attention": "--layer-type is 'attention', but must be one of", "--unfreeze everything": "unfreeze is 'everything', but must be one of",
    "--head deep": "head is 'deep', but must be one of", "--bins round": "bins is 'round', but must be one of", "--learning-rate inf": "--learning-rate is inf, but must be finite",
}
UNKNOWN = ("--nonsense 1", "--json maybe", "--config")  # told by the parser


@pytest.fixture(scope="module")
def workplace(finished, tmp_path_factory):
    "A folder with a finished run in `out`, and all that a user might give by mistake."
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(finished / "out", folder / "out")
    for name, content in {"empty.txt": b"", "blank.txt": b"\n  \n\n", "latin.txt": b"one line\nanother line\ncaf\xe9 au lait\n",
                          "same.txt": b"the same text again\n" * 50, "damaged.gguf": b"GGUF and then nothing", "damaged.yaml": b"model: [pocket",
                          "latin.yaml": b"model: caf\xe9\n", "list.yaml": b"- model\n- pocket\n", "misspelt.yaml": b"modell: pocket\n",
                          "word.yaml": b"epochs: many\n", "rate.yaml": b"learning_rate: fast\n"}.items(): (folder / name).write_bytes(content)
    for name, content in {"flowers.csv": "length,width,kind\n" + "1,2.5,rose\n2,3.5,lily\n" * 20, "gaps.csv": "length,width,kind\n1,,rose\n2,3.5,lily\n", "few.csv": "length,kind\n1,rose\n2,lily\n3,lily\n",
                          "unlabelled.csv": "length,kind\n1,rose\n2,\n", "cut.parquet": "PAR1 and then nothing", "file.zarr": "mine"}.items(): (folder / name).write_text(content)
    (folder / "latin.csv").write_bytes(b"length,kind\n1,caf\xe9\n")
    for name, content in {"atlas.zarr": '{"attributes": {"atlas": {}}}', "notes.zarr": '{"attributes": {}}', "half.zarr": '{"attributes": {"tra'}.items():
        (folder / name).mkdir()
        (folder / name / "zarr.json").write_text(content)
    for name in ("plain", "cut-config", "cut-weights", "no-tokenizer"): (folder / name).mkdir()
    (folder / "plain" / "notes.md").write_text("Not a model, and not a run.")
    (folder / "cut-config" / "config.json").write_text('{"model_type": ')
    for name in os.listdir(pocket_folder()):
        shutil.copy(pocket_folder() / name, folder / "cut-weights")
        if "token" not in name: shutil.copy(pocket_folder() / name, folder / "no-tokenizer")
    weights = folder / "cut-weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


def in_process(argv, capsys):
    "(exit code, stdout, stderr) of the command line, without a new process."
    capsys.readouterr()
    try: code = cli.main(argv)
    except SystemExit as end: code = end.code
    return code, *capsys.readouterr()


def assert_refused(code, out, err, words):
    assert (code, out) == (2, "")
    assert err.startswith("error: "), err
    assert is_one_sentence(err.rstrip("\n")), err
    assert words in err


@pytest.mark.slow
@pytest.mark.parametrize("options", REFUSED)
@pytest.mark.usefixtures("loaded")
def test_is_refused_and_nothing_is_touched(options, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    before = snapshot(workplace)
    assert_refused(*in_process([*RUN.split(), "--json", *options.split()], capsys), REFUSED[options])
    assert snapshot(workplace) == before


@pytest.mark.parametrize("options, words", {"--model cut-weights": "cut-weights", "--model no-tokenizer": "tokenizer"}.items())
def test_a_damaged_model_folder_is_refused(options, words, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    before = snapshot(workplace)
    assert_refused(*in_process([*RUN.split(), "--json", *options.split()], capsys), words)
    assert snapshot(workplace) == before


@pytest.mark.parametrize("options", UNKNOWN)
def test_what_the_parser_does_not_know_is_refused(options, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    before = snapshot(workplace)
    code, out, err = in_process([*RUN.split(), "--json", *options.split()], capsys)
    assert (code, out) == (2, "")
    assert options.split()[0] in err
    assert snapshot(workplace) == before


@pytest.mark.parametrize("argv, words", {
    "dance": "choose run, scan, atlas, benchmark, self-modification, trace", "scan --model pocket --layer 9": "0..3",
    "scan --model pocket --texts latin.txt": "line 3", "atlas --model pocket --output atlas.csv": ".zarr",
    "atlas --model pocket --feature-layer 9": "0..3", "atlas --model pocket --layers 1,9": "0..3",
    "atlas --model pocket --layers one": "0,3,5", "atlas --model pocket --folds 2": "at least 3",
    "trace --data cifar": "choose digits, iris", "trace --data missing.csv": "'missing.csv' is no data set", "trace --data flowers.csv": "one of length, width, kind",
    "trace --data flowers.csv --label colour": "'colour' is none of its columns", "trace --data flowers.csv --label width": "finite numbers in kind",
    "trace --data gaps.csv --label kind": "finite numbers in width", "trace --data flowers.csv --label length": "finite numbers in kind", "trace --data few.csv --label kind": "both sides",
    "trace --data cut.parquet --label kind": "cut.parquet is not a readable table", "trace --data unlabelled.csv --label kind": "have no kind", "trace --data latin.csv --label kind": "latin.csv",
    "trace --classes 3": "at least two different", "trace --classes 3,3": "at least two different", "trace --classes 3,eleven": "'eleven' is not in the data",
    "trace --hidden-size many": "such as 64 or 64,32", "trace --hidden-size 64,0": "at least one neuron", "trace --epochs 0": "at least 1", "trace --batch-size 0": "at least 1",
    "trace --epoch-intervals 0": "every nth", "trace --epoch-intervals 0,20": "0 to 19", "trace --epoch-intervals often": "5 or 0,5,10", "trace --learning-rate nan": "--learning-rate is nan",
    "trace --test-split 0": "both sides", "trace --test-split 1": "both sides", "trace --test-split 1.5": "between 0 and 1", "trace --num-samples 3": "both sides", "trace --num-samples 0": "at least 1",
    "trace --output trace.pkl": ".zarr", "trace --output atlas.zarr": "no trace", "trace --output notes.zarr": "no trace", "trace --output half.zarr": "not readable JSON",
    "trace --hidden-size 0": "--hidden-size is 0", "scan --batch-size 0": "--batch-size is 0", "atlas --batch-size 0": "--batch-size is 0",
    "antitrain --threshold 0": "above 0 and at most 1", "antitrain --threshold 1.01": "at most 1", "antitrain --threshold-end -1": "above 0 and at most 1", "antitrain --data cifar": "choose digits, iris", "antitrain --width 1": "at least 2",
    "antitrain --seeds 0": "at least 1", "antitrain --train-steps 0": "no core", "antitrain --ratio -1": "at least 0", "antitrain --blocked 2": "between 0 and 1", "antitrain --data flowers.csv": "one of length, width, kind", "antitrain --output-dir empty.txt": "empty.txt is a file", "antitrain --device abacus": "choose cpu",
    "trace --output file.zarr": "file.zarr is a file", "trace --output empty.txt/x.zarr": "empty.txt is a file", "trace --device abacus": "choose cpu", "trace --seed -1": "at least 0"}.items())
@pytest.mark.usefixtures("loaded")
def test_other_commands_refuse_too(argv, words, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    before = snapshot(workplace)
    assert_refused(*in_process(argv.split(), capsys), words)
    assert snapshot(workplace) == before


@pytest.mark.parametrize("options", [
    "--model no/such/folder", "--layer 2 --neuron 512", "--texts latin.txt", "--config damaged.yaml", "--output-dir empty.txt/out"])
def test_is_refused_in_a_real_shell(options, workplace):
    before = snapshot(workplace)
    done = shell(RUN, "--json", options, cwd=workplace)
    assert_refused(done.returncode, done.stdout, done.stderr, REFUSED[options])
    assert snapshot(workplace) == before


def test_an_unknown_option_is_refused_in_a_real_shell(workplace):
    before = snapshot(workplace)
    done = shell(RUN, "--json", "--nonsense 1", cwd=workplace)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--nonsense" in done.stderr
    assert "Traceback" not in done.stderr
    assert snapshot(workplace) == before


def test_no_command_lists_the_commands_and_starts_nothing(workplace):
    before = snapshot(workplace)
    done = subprocess.run([sys.executable, "-m", "neural_introspection"], cwd=workplace, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == cli.overview() + "\n"
    assert all(f"\n  {name} " in done.stdout for name in cli.COMMANDS)
    assert snapshot(workplace) == before


@pytest.mark.slow
@pytest.mark.parametrize("argv", ["--help", "run --print-config", "scan --model pocket --num-samples 20 --top 2000 --device cpu --json"])
def test_a_reader_who_leaves_ends_the_command_quietly(argv, tmp_path):
    read, write = os.pipe()
    os.close(read)
    start = standing_in() if "pocket" in argv else [sys.executable]
    done = subprocess.run([*start, "-m", "neural_introspection", *argv.split()], cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141, done.stderr
    assert "Broken" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
def test_a_command_into_head_shows_what_head_wants(tmp_path):
    command = f"{shlex.join(standing_in())} -m neural_introspection scan --model pocket --num-samples 20 --top 2048 --device cpu --json"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} | head -c 1"], cwd=tmp_path, capture_output=True, text=True)   # more than a pipe holds
    assert (done.returncode, done.stdout) == (141, "{"), done.stderr
    assert "Broken" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["out", "new/out"])
def test_an_unwritable_folder_is_refused(name, workplace, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    place = "/proc" if os.geteuid() == 0 else closed  # root may write in any folder of its own
    before = snapshot(workplace)
    assert_refused(*in_process([*RUN.split(), "--json", "--output-dir", f"{place}/{name}"], capsys), "cannot be written")
    assert snapshot(workplace) == before
    assert list(closed.iterdir()) == []


# --- data sets ---

@pytest.fixture
def dataset(finished, tmp_path):
    "A copy of a run's data set: the table's path."
    for name in ("dataset.parquet", "dataset.parquet.json"): shutil.copy2(finished / "out" / "datasets" / name, tmp_path)
    return tmp_path / "dataset.parquet"


def flip(path):
    "Change one byte in the middle."
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path): path.write_bytes(path.read_bytes()[:-100])


def assert_load_fails(path, words, model=None):
    before = snapshot(path.parent)
    with pytest.raises(BadData) as caught: ActivationDataset.load(path, model)
    assert is_one_sentence(str(caught.value))
    assert words in str(caught.value)
    assert isinstance(caught.value, BadInput)
    assert snapshot(path.parent) == before


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_table_is_refused(damage, dataset):
    damage(dataset)
    assert_load_fails(dataset, "is damaged")


@pytest.mark.parametrize("content, words", [("{", "not readable JSON"), ('{"format": 7}', "format is 7"), (None, "not readable JSON")])
def test_a_damaged_sidecar_is_refused(content, words, dataset):
    sidecar = dataset.with_name(dataset.name + ".json")
    sidecar.unlink()
    if content: sidecar.write_text(content)
    assert_load_fails(dataset, words)


def test_a_data_set_of_another_model_is_refused(dataset):
    model = load_model("pocket", device="cpu")
    assert len(ActivationDataset.load(dataset, model))
    with torch.no_grad(): next(model.original_model.parameters()).mul_(1.5)
    assert_load_fails(dataset, "belongs to model pocket", model)


def another_model(path):
    "Make the data set that of a model with other weights."
    sidecar = path.with_name(path.name + ".json")
    about = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(about | dict(model=about["model"] | dict(name="other", weights="0" * 16))))


@pytest.mark.parametrize("damage, words", [(flip, "is damaged"), (another_model, "belongs to model other")])
def test_a_foreign_data_set_in_an_unfinished_run_is_refused(damage, words, finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished / "out", tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest(tmp_path / "out") | dict(status="running", stage="train")))
    damage(tmp_path / "out" / "datasets" / "dataset.parquet")
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    assert_refused(*in_process([*RUN.split(), "--json"], capsys), words)
    assert snapshot(tmp_path) == before


# --- failures: nobody's fault, exit code 1 ---

# Stands for a full disk: no file may grow beyond so many bytes. The run cannot store its scan, or not even its manifest.
@pytest.mark.slow
@pytest.mark.parametrize("limit, status", [(100_000, "failed"), (1_000, None)])
def test_a_run_that_cannot_store_its_files_fails_and_goes_on_later(limit, status, finished, tmp_path, monkeypatch, capsys):
    full = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))"
    done = shell(RUN, "--json", cwd=tmp_path, first=full)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the run failed")
    assert is_one_sentence(done.stderr.rstrip("\n"))
    assert " out," in done.stderr
    assert manifest(tmp_path / "out").get("status") == status
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["manifest.json"]*bool(status)
    monkeypatch.chdir(tmp_path)
    code, out, err = in_process([*RUN.split(), "--json"], capsys)
    assert code == 0
    assert json.loads(out) == json.loads((finished / "stdout").read_text())
    assert ("resuming" in err) == bool(status)
    assert manifest(tmp_path / "out")["status"] == "complete"


def test_a_failure_shows_its_traceback_only_to_who_asks(tmp_path):
    code = "from neural_introspection import cli; from neural_introspection.introspection import preparation; preparation.load_texts = lambda *_: 1/0; raise SystemExit(cli.main())"
    plain, debug = (python("-c", code, *RUN.split(), cwd=tmp_path, env=env) for env in ({}, dict(NEURAL_INTROSPECTION_DEBUG="1")))
    assert plain.returncode == debug.returncode == 1
    assert plain.stderr == "error: the run failed: division by zero.\n"
    assert "ZeroDivisionError" in debug.stderr
    assert list(tmp_path.iterdir()) == []

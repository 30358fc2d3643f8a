"""The same scan, data set and atlas by several processes, and on a Ray cluster: equal to one process' to the last bit."""
import os
import shutil
import sys
from functools import partial
from unittest import mock

import joblib
import pytest
import torch
from neural_introspection.activations import collect_activations
from neural_introspection.introspection import ActivationDatasetGenerator, NeuronScanner
from neural_introspection.introspection.atlas import NeuronAtlas
from neural_introspection.activations import hooks
from neural_introspection.core import BadAddress, BadData, Cancelled, Target, expect_error, watch_progress
from neural_introspection.models import load_model, spread, with_weights
from neural_introspection.models.loading import pocket_folder
from neural_introspection.data import load_texts
from neural_introspection.toy import preset_config, run_toy
from safetensors.torch import load_file, save_file
from shell import warm_python

PYTHON = sys.executable
TARGET = Target("blocks.2.mlp.hook_post", (7, 12, 300))


@pytest.fixture(scope="module")
def model(): return load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def texts(): return load_texts("synthetic", 540, seed=0).texts


def work(model, texts):
    "A scan of five parts, a data set of three pieces, an atlas of several parts."
    return (NeuronScanner(model, token_pos="all", batch_size=8).scan(texts),
            ActivationDatasetGenerator(model, TARGET, "all").generate(texts),
            NeuronAtlas(model, token_pos="last", layers=[1, 3], n_permutations=2).probe(texts))


@pytest.fixture(scope="module", autouse=True)
def python(tmp_path_factory):
    "joblib's own workers are processes that have imported what is slow."
    with warm_python(tmp_path_factory.mktemp("python")) as script: yield script


@pytest.fixture(scope="module")
def alone(model, texts): return work(model, texts)


@pytest.fixture(scope="module")
def cluster(python):
    "A local Ray cluster of two workers, known to joblib as `ray`, without its own log, autoscaler and dashboard."
    ray = pytest.importorskip("ray", reason="ray is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"   # beside other tests its workers would hardly get a turn
    os.environ["RAY_prestart_worker_first_driver"] = "0"   # those would be of another Python
    from ray._private.node import Node
    from ray.util.joblib import register_ray
    register_ray()
    unused = dict.fromkeys(("start_monitor", "start_log_monitor", "start_api_server"), mock.DEFAULT)
    nodes = mock.patch.multiple(Node, _webui_url=None, create=True, **unused)
    with mock.patch.object(sys, "executable", PYTHON), nodes:
        ray.init(num_cpus=2, runtime_env=dict(py_executable=python), include_dashboard=False, log_to_driver=False,
                 logging_level="ERROR", _node_ip_address="127.0.0.1", object_store_memory=200 * 2**20)
    yield ray
    ray.shutdown()


loky, threads = (partial(joblib.parallel_config, backend, n_jobs=2) for backend in ("loky", "threading"))


@pytest.fixture(params=["loky", "ray"])
def two_workers(request):
    "`joblib.parallel_config` for two workers of a backend."
    if request.param == "ray": request.getfixturevalue("cluster")
    return partial(joblib.parallel_config, request.param, n_jobs=2)


@pytest.mark.slow
def test_the_same_numbers(model, texts, alone, two_workers):
    with two_workers(): scan, dataset, atlas = work(model, texts)
    assert scan.about == alone[0].about
    assert scan.to_frame().equals(alone[0].to_frame())
    for layer in scan.stats:
        one, two = alone[0].stats[layer].tensors(), scan.stats[layer].tensors()
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert dataset.about == alone[1].about
    assert dataset.frame.equals(alone[1].frame)
    assert atlas.about == alone[2].about
    assert atlas.data.identical(alone[2].data)


def who(model, part): return {"pid": os.getpid(), "threads": torch.get_num_threads()}


def test_who_does_it(model):
    "Processes with one thread each, unless only this one has the model; the caller's threads stay as they are."
    before = torch.get_num_threads()
    with loky():
        found = list(spread(who, model, range(4), "who"))
        with with_weights(model, {"embed.weight": torch.zeros(model.cfg.d_vocab, model.cfg.d_model)}):
            changed = list(spread(who, model, range(4), "who"))
        with hooks(model, {"blocks.0.hook_resid_pre": lambda x: None}):
            hooked = list(spread(who, model, range(4), "who"))
        again = list(spread(who, model, range(4), "who"))
    assert os.getpid() not in {f["pid"] for f in found + again}
    assert {f["threads"] for f in found} == {1}
    assert {f["pid"] for f in changed + hooked} == {os.getpid()}
    assert torch.get_num_threads() == before


def test_resumed(model, texts, alone, tmp_path):
    "Pieces that are there are not made again, also by workers."
    generator = ActivationDatasetGenerator(model, TARGET, "all")
    generator.generate(texts, folder=tmp_path)
    there = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.safetensors")}
    assert len(there) == 3
    (tmp_path / "00001.safetensors").unlink()
    (tmp_path / "00002.safetensors").unlink()
    with loky(): dataset = generator.generate(texts, folder=tmp_path)
    now = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.safetensors")}
    assert dataset.frame.equals(alone[1].frame)
    assert [now[name] == there[name] for name in sorted(there)] == [True, False, False]


def test_errors_come_back(model, texts, tmp_path):
    "What a worker refuses is refused here, in the same words."
    site = "blocks.1.hook_mlp_out"  # no layer type, so its width is known in the forward pass only
    with loky(), expect_error(BadAddress, "neuron 128 is outside 0..127"):
        collect_activations(model, texts, {site: Target(site, (128,))})
    folder = tmp_path / "copy"
    shutil.copytree(pocket_folder(), folder)
    copy = load_model(folder, device="cpu")
    weights = load_file(folder / "model.safetensors")
    save_file({name: w * 1.01 for name, w in weights.items()}, tmp_path / "changed", {"format": "pt"})
    (tmp_path / "changed").replace(folder / "model.safetensors")
    with threads(), expect_error(BadData, "give every worker the same files"):
        collect_activations(copy, texts, {TARGET.site: TARGET})


@pytest.mark.filterwarnings("error")
def test_cancelled(model, texts, tmp_path):
    "The pieces that were there when the user stopped it are kept, and the rest is made later."
    def stop(desc, done, total):
        if done: raise Cancelled("stopped after the first piece")
    generator = ActivationDatasetGenerator(model, TARGET)
    with threads(), expect_error(Cancelled), watch_progress(stop): generator.generate(texts, folder=tmp_path)
    (first,) = tmp_path.glob("*.safetensors")
    before = first.stat().st_mtime_ns
    assert generator.generate(texts, folder=tmp_path).frame.equals(generator.generate(texts).frame)
    assert first.name == "00000.safetensors"
    assert first.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_toy_sweep(two_workers, tmp_path):
    "Three values on two workers are cut into two stacks; the runs are those of one process with the same stacks."
    config = partial(preset_config, "LR1", "smoke", output_dir=str(tmp_path), sweep_values=(.003, .01, .03), seeds=2, log2_training_steps=6, device="cpu")
    alone = run_toy(config(file_name="alone", stack=2))
    with two_workers(): spread = run_toy(config(file_name="spread"))
    assert len(alone.runs) == 6
    assert spread.runs.equals(alone.runs)

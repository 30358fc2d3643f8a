"""The atlas where a notebook can't show it: killed and resumed, in several processes, damaged on the disk, in other precisions."""
import json
import signal
import time

import joblib
import numpy as np
import pytest
import torch
from neural_introspection.introspection import AtlasConfig, AtlasResult, run_atlas
from neural_introspection.introspection.atlas import NeuronAtlas
from neural_introspection.introspection.atlas_run import atlas_answer
from neural_introspection.activations import edit
from neural_introspection.core import BadInput, BadTexts, read_tensors, watch_progress
from neural_introspection.models import encode, load_model, model_hash, token_batch
from neural_introspection.data import group_texts, load_texts
from shell import started, wait_until, warm_python

SUMS = "out.zarr.unfinished/datasets/sums"
CONFIG = AtlasConfig(model="pocket", num_samples=800, batch_size=4, n_permutations=2, feature_layer=1, device="cpu")


@pytest.fixture(scope="module")
def model():
    return load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def corpus():
    texts = load_texts("synthetic", 150, seed=0)
    return texts.texts, group_texts(texts.texts, texts.groups)


@pytest.fixture(scope="module")
def serial(model, corpus):
    return NeuronAtlas(model, batch_size=4).probe(*corpus)


def parts(folder):
    "How many parts of each fold are on the disk."
    return {p.name: read_tensors(p)[1]["parts"] for p in sorted((folder / SUMS).glob("fold-*.safetensors"))}


@pytest.mark.slow
def test_killed_and_resumed(model, tmp_path):
    unbroken = run_atlas(CONFIG, model)
    config = AtlasConfig(**vars(CONFIG) | dict(output="out.zarr"))
    with started("atlas --model pocket --num-samples 800 --batch-size 4 --n-permutations 2 --feature-layer 1 --device cpu --output out.zarr", cwd=tmp_path) as process:
        wait_until((tmp_path / SUMS / "fold-2.safetensors").exists, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out.zarr").exists()
    kept = parts(tmp_path)
    assert kept["fold-0.safetensors"] >= 2
    assert 3 <= len(kept) < 5
    again, seen = tmp_path / "again", []
    (again / ".out.zarr.x1y2z3.part").mkdir(parents=True)   # as a process leaves it that is killed while it saves
    (tmp_path / "out.zarr.unfinished").rename(again / "out.zarr.unfinished")
    with watch_progress(lambda *step: seen.append(step)):
        resumed = run_atlas(AtlasConfig(**vars(config) | dict(output=str(again / "out.zarr"))), model)
    assert resumed.data.identical(unbroken.data)
    assert resumed.about == unbroken.about
    total = next(t for desc, done, t in seen if desc == "atlas")
    assert total < 800/4 + 10 - 8 * sum(kept.values()) + 8, "what was whole was not read again"
    assert AtlasResult.load(again / "out.zarr").to_frame().equals(unbroken.to_frame())
    assert sorted(p.name for p in again.iterdir()) == [".out.zarr.lock", "out.zarr"]


@pytest.mark.slow
def test_the_same_with_two_processes(model, corpus, serial, tmp_path):
    with warm_python(tmp_path), joblib.parallel_config("loky", n_jobs=2):
        parallel = NeuronAtlas(model, batch_size=4).probe(*corpus)
    assert parallel.data.identical(serial.data)
    assert parallel.about == serial.about


def test_sums_that_are_damaged_or_of_another_question_are_made_again(model, corpus, serial, tmp_path):
    atlas = NeuronAtlas(model, batch_size=4)
    atlas.probe(*corpus, tmp_path)
    path = tmp_path / "fold-3.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert atlas.probe(*corpus, tmp_path).data.identical(serial.data)
    other = NeuronAtlas(model, batch_size=4, seed=1).probe(*corpus, tmp_path)
    assert not other.data.identical(serial.data)
    assert other.about["seed"] == 1


def test_the_model_is_left_as_it_was(corpus):
    model = load_model("pocket", device="cpu")
    model(token_batch(model, encode(model, ["one"])).ids)
    def state():
        return (model_hash(model), [p.requires_grad for p in model.parameters()], sum(len(m._forward_hooks) for m in model.modules()))
    before = state()
    NeuronAtlas(model).probe(*corpus)
    with pytest.raises(BadInput): NeuronAtlas(model, layers=[4]).probe(*corpus)
    assert state() == before


def test_attention_sinks_are_left_out(model, corpus, serial):
    "A token that is blown up in one text is masked, with no effect on the others."
    texts, groups = corpus
    def blow_up(x):
        x = x.clone()
        x[0, 3] *= 1e4
        return x
    with edit(model, {"blocks.2.hook_resid_pre": blow_up}): found = NeuronAtlas(model, batch_size=4).probe(texts, groups)
    assert found.about["sinks"] > 10
    assert found.about["tokens"] == serial.about["tokens"] - found.about["sinks"]
    assert np.abs(found.data.r2 - serial.data.r2).median() < .1


def test_one_token_texts_and_one_text_batches(model):
    words = [f"word{i} " * (1 + i % 3) for i in range(60)]
    found = NeuronAtlas(model, token_pos=0, batch_size=1, folds=3).probe(words, range(60))
    assert found.about["alike"] == 60 * 8   # a batch of one has no other text
    assert found.about["tokens"] == 60
    with pytest.raises(BadTexts, match="cannot fill 5 folds"): NeuronAtlas(model).probe(words, [0] * 60)


def test_bfloat16(corpus):
    "Half-precision activations are probed in full precision."
    found = NeuronAtlas(load_model("pocket", device="cpu", dtype="bfloat16")).probe(*corpus)
    assert np.isfinite(found.data.r2).all()
    assert found.significant > 1000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda(corpus, serial):
    found = NeuronAtlas(load_model("pocket", device="cuda"), batch_size=4).probe(*corpus)
    assert np.allclose(found.data.r2, serial.data.r2, atol=1e-3)


@pytest.mark.parametrize("bad, words", [
    (dict(layers="one"), "such as 0,3,5"), (dict(output="out.parquet"), "must end in .zarr"), (dict(folds=2), "at least 3"),
    (dict(token_pos="middle"), "token position"), (dict(n_permutations=0), "at least 1"), (dict(model="no/such/model"), "no/such/model"),
    (dict(texts="no-such-file.txt"), "no-such-file"), (dict(score="beauty"), "one of r2, selectivity"), (dict(num_samples=0), "at least 1")])
def test_bad_values_are_refused_before_the_model_loads(bad, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    def never(*args, **kwargs): raise AssertionError("a model was loaded")
    monkeypatch.setattr("neural_introspection.introspection.atlas_run.load_model", never)
    start = time.monotonic()
    with pytest.raises(BadInput, match=words): run_atlas(AtlasConfig(**dict(model="pocket", device="cpu") | bad))
    assert time.monotonic() - start < 30
    assert list(tmp_path.iterdir()) == []


def test_the_answer_is_json(model):
    config = AtlasConfig(model="pocket", num_samples=60, top=4, score="selectivity", device="cpu")
    answer = json.loads(json.dumps(atlas_answer(run_atlas(config, model), config)))
    assert {"neurons", "significant", "top", "model", "feature_site", "output"} <= answer.keys()
    assert len(answer["top"]) == 4
    assert {"address", "r2", "selectivity", "q", "leakage"} <= answer["top"][0].keys()
    ranks = [row["selectivity"] for row in answer["top"]]
    assert ranks == sorted(ranks, reverse=True)

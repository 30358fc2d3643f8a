"""Training in two CPU processes (gloo) ends where one process ends.

`accelerate launch` starts several processes on GPUs through torch.distributed.run, and only one on a CPU; so that module is called here itself.
"""
import json

import pytest
import torch

from neural_introspection.core import read_tensors
from shell import python, standing_in

SCRIPT = '''
import json, sys
from pathlib import Path
from neural_introspection.introspection import (ActivationDatasetGenerator, ActivationPredictor, PredictorTrainer,
    Unfreezing)
from neural_introspection.introspection.trainer import fit_heads
from neural_introspection.core import write_tensors
from neural_introspection.models import load_model
from neural_introspection.data import group_texts, load_texts, split_groups

def train(strategy, folder):
    from accelerate import PartialState
    folder.mkdir(exist_ok=True)
    model, corpus = load_model("pocket", device="cpu"), load_texts("synthetic", 160, seed=0)
    groups = group_texts(corpus.texts, corpus.groups)
    dataset = ActivationDatasetGenerator(model, "blocks.1.mlp.hook_post[7]").generate(corpus.texts, groups, split_groups(groups))
    predictor = ActivationPredictor(model, dataset.target)
    unfreeze = Unfreezing(strategy, from_layer=3 if strategy == "from_layer" else None)
    trainer = PredictorTrainer(predictor, epochs=2, learning_rate=1e-3, batch_size=16, early_stopping=False,
                               folder=folder, unfreeze=unfreeze)
    result = trainer.fit(dataset)
    control, = fit_heads(trainer, [dataset.with_values(dataset.values()[::-1])], predictor.features(dataset.tokens))
    state = PartialState()
    predictor.save(folder/f"rank{state.process_index}.safetensors")
    write_tensors(folder/f"control{state.process_index}.safetensors", control.state_dict(), {})
    about = dict(processes=state.num_processes, history=result.history.loss.tolist())
    (folder/f"rank{state.process_index}.json").write_text(json.dumps(about))

for strategy in ("none", "from_layer"): train(strategy, Path(sys.argv[1], strategy))
'''


def train(folder, processes):
    "Train by both strategies, one after the other, in that many processes."
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes,
              "--no-python", *standing_in()]
    done = python(*launch * (processes > 1), script, folder, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def rank(folder, i):
    "(tensors, about) of a process."
    return read_tensors(folder / f"rank{i}.safetensors")[0], json.loads((folder / f"rank{i}.json").read_text())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "What one process leaves, and what two leave."
    return [train(tmp_path_factory.mktemp("processes"), processes) for processes in (1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["none", "from_layer"])
def test_two_processes_end_where_one_ends(folders, strategy):
    single, double = (folder / strategy for folder in folders)
    alone, one = rank(single, 0)
    (first, two), (second, other) = (rank(double, i) for i in range(2))
    assert one["processes"] == 1
    assert two["processes"] == other["processes"] == 2
    assert first.keys() == second.keys() == alone.keys()
    assert all(torch.equal(first[k], second[k]) for k in first), "both processes hold the same weights"
    for name in alone:
        assert torch.allclose(first[name], alone[name], atol=2e-4), name
    assert all(abs(a - b) < 1e-3 for a, b in zip(one["history"], two["history"]))
    places = (single, 0), (double, 0), (double, 1)
    controls = [read_tensors(folder / f"control{i}.safetensors")[0] for folder, i in places]
    for name in controls[0]:   # a control head is the same in every process
        assert all(torch.allclose(controls[0][name], other[name], atol=2e-4) for other in controls[1:]), name
    assert (double / "checkpoint.safetensors").exists()

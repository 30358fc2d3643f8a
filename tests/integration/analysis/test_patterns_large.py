"""Patterns of many rows and neurons: memory, and clusters that are none."""
import tracemalloc
import numpy as np
import torch
from neural_introspection.analysis import correlate, correlation, correlation_clusters
from neural_introspection.analysis.rows import BLOCK_ROWS



def test_no_stable_clusters_among_slow_neurons():
    "Texts with a level of their own do not make groups of neurons."
    rng = np.random.default_rng(0)
    stable = [correlation_clusters({"a": torch.tensor(np.repeat(rng.standard_normal((40, 16)), 10, 0) + rng.standard_normal((400, 16))).float()}, "a", texts=np.repeat(np.arange(40), 10), splits=3, seed=i).stable for i in range(4)]
    assert sum(stable) <= 1


def test_memory_grows_with_pairs_not_with_rows(monkeypatch):
    "NumPy's memory and torch's, as the tensors that were alive at once: with nothing kept, a block and the pairs."
    monkeypatch.setattr(correlation, "_KEPT", 0)
    sizes = {}
    for rows in (4000, 40_000):
        x = {"a": torch.zeros(rows, 64).uniform_(generator=torch.Generator().manual_seed(0))}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t), torch.profiler.profile(profile_memory=True) as profile:
            tracemalloc.start()
            correlate(x, "a", n_permutations=10)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        largest = max(event.self_cpu_memory_usage for event in profile.events())
        sizes[rows] = peak, largest
    assert sizes[40_000][1] <= max(2 * sizes[4000][1], 8 * BLOCK_ROWS * 64)   # no single tensor as large as the rows: 10 MB
    assert sizes[40_000][0] < 40_000 * 64 * 4 / 2                                   # row numbers, a few times

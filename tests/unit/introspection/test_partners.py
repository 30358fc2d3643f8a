"""How texts are exchanged for the atlas' permutation tests."""
import numpy as np
from neural_introspection.introspection.null import paired_rows, partners



def test_partners_are_permutations_into_other_groups():
    rng = np.random.default_rng(0)
    for n in range(1, 20):
        groups = rng.integers(0, 1 + n // 2, n)
        p = partners(groups, rng)
        assert sorted(p) == list(range(n))
        if np.bincount(groups).max() <= n / 2: assert (groups[p] != groups).all()
    rows, _ = paired_rows(np.repeat([0, 2], [3, 5]), np.arange(3), 1, rng)   # text 1 was masked as a whole
    assert rows[0].tolist() == [3, 4, 5, 0, 1, 2, 0, 1]

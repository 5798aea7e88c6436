"""Comparators of whole tables against loops over pairs."""

import numpy as np
import pytest

from iom.codes.comparators import CollisionComparator


@pytest.mark.parametrize("void", [3, 8, 50, 255])
def test_collisions_of_all_pairs_are_those_of_a_loop(void: int) -> None:
    comparator = CollisionComparator(void)
    generator = np.random.default_rng(void)
    a = generator.integers(0, void + 1, (9, 70)).astype(np.uint8)
    b = np.where(generator.random((9, 70)) < 0.4, a, void).astype(np.uint8)
    a[0] = void
    table = comparator.all_pairs(a, b[:7])
    for i, left in enumerate(a):
        for j, right in enumerate(b[:7]):
            told = [(x, y) for x, y in zip(left, right, strict=True) if void not in (x, y)]
            expected = 1 - sum(x == y for x, y in told) / max(len(told), 1)
            assert table[i, j] == expected
    np.testing.assert_array_equal(np.diag(comparator.all_pairs(a, b)), comparator.paired(a, b))

"""Binary words of codes: equally far apart, and their Hamming distance is the code distance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.codes.packing import pack
from iom.codes.words import bits_apart, dimension, word_table, words_of


@pytest.mark.parametrize("alphabet_size", [*range(2, 34), 64, 65, 128, 255, 256])
def test_any_two_words_are_equally_far_apart(alphabet_size):
    table = word_table(alphabet_size)
    apart = (table[:, None] != table[None]).sum(-1)
    assert table.shape[0] == alphabet_size
    assert set(apart[~np.eye(alphabet_size, dtype=bool)]) == {bits_apart(alphabet_size)}
    assert table.shape[1] <= alphabet_size


@given(st.integers(1, 150), st.integers(2, 40), st.integers(0, 99))
def test_hamming_distance_is_code_distance(code_length, alphabet_size, seed):
    codes = np.random.default_rng(seed).integers(0, alphabet_size, (4, code_length), np.uint8)
    words = words_of(pack(codes, alphabet_size))
    assert words.shape == (4, dimension(code_length, alphabet_size) // 8)
    bits = np.unpackbits(words[:, None] ^ words[None], axis=-1).sum(-1)
    expected = (codes[:, None] != codes[None]).sum(-1) * bits_apart(alphabet_size)
    np.testing.assert_array_equal(bits, expected)


def test_the_length_that_was_measured():
    assert dimension(512, 8) == 448 * 8

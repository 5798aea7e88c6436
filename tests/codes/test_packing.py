import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iom.codes.packing import PackedCodes, pack, unpack
from iom.errors import CodeError


def random_codes(count, code_length, alphabet_size, seed=0):
    return np.random.default_rng(seed).integers(0, alphabet_size, (count, code_length))


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(0, 9),
    code_length=st.integers(1, 400),
    alphabet_size=st.integers(2, 256),
    dtype=st.sampled_from([np.uint8, np.int16, np.int64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_unpack_inverts_pack(count, code_length, alphabet_size, dtype, seed):
    codes = random_codes(count, code_length, alphabet_size, seed).astype(dtype)
    packed = pack(codes, alphabet_size)
    assert (packed.code_length, packed.alphabet_size) == (code_length, alphabet_size)
    restored = unpack(packed)
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, codes)


@pytest.mark.parametrize(("code_length", "alphabet_size"), [(1, 2), (63, 3), (64, 4), (65, 5), (65536, 256)])
def test_every_bit_stands_where_the_docstring_says(code_length, alphabet_size):
    codes = random_codes(3, code_length, alphabet_size)
    planes = pack(codes, alphabet_size).planes
    assert planes.shape == (3, int(np.ceil(np.log2(alphabet_size))), -(-code_length // 64))
    for row, position in [(0, 0), (1, code_length // 2), (2, code_length - 1)]:
        word, bit = divmod(position, 64)
        bits = [(int(plane[word]) >> bit) & 1 for plane in planes[row]]
        assert sum(value << p for p, value in enumerate(bits)) == codes[row, position]


def test_bits_after_the_last_position_are_zero():
    planes = pack(np.full((4, 70), 6), 7).planes
    assert not np.any(planes[:, :, 1] >> np.uint64(6))


def test_packing_more_rows_than_one_block_holds():
    codes = random_codes(9001, 20, 6)
    np.testing.assert_array_equal(unpack(pack(codes, 6)), codes)


def test_a_512x8_template_takes_192_bytes():
    assert pack(random_codes(1, 512, 8), 8).planes.nbytes == 192


@pytest.mark.parametrize(
    ("codes", "alphabet_size", "reason"),
    [
        (np.zeros((2, 4), np.float32), 8, "expected integer symbols, received float32"),
        (np.zeros((2, 4), bool), 8, "expected integer symbols, received bool"),
        (np.zeros(4, np.int64), 8, "expected a matrix"),
        (np.full((2, 4), 8), 8, "expected symbols 0 to 7, received 8 to 8"),
        (np.full((2, 4), -1), 8, "expected symbols 0 to 7, received -1 to -1"),
        (np.full((2, 4), 256 + 3), 8, "received 259"),
        (np.zeros((2, 4), int), 1, "alphabet_size: expected 2 to 256"),
        (np.zeros((2, 4), int), 257, "alphabet_size: expected 2 to 256"),
        (np.zeros((2, 0), int), 8, "code_length: expected 1 to 65536"),
        (np.zeros((1, 65537), int), 2, "code_length: expected 1 to 65536"),
    ],
)
def test_wrong_codes_are_refused(codes, alphabet_size, reason):
    with pytest.raises(CodeError, match=reason):
        pack(codes, alphabet_size)


@pytest.mark.parametrize(
    "planes",
    [
        np.zeros((2, 3, 2), np.uint64),
        np.zeros((2, 2, 1), np.uint64),
        np.zeros((2, 3, 1), np.int64),
        np.zeros((3, 1), np.uint64),
        np.full((2, 3, 1), 1 << 60, np.uint64),
    ],
)
def test_planes_that_do_not_fit_the_stated_shape_are_refused(planes):
    with pytest.raises(CodeError, match="bit planes"):
        PackedCodes(planes, 60, 8)


def test_damaged_planes_are_not_unpacked():
    packed = pack(np.full((1, 8), 4), 5)
    damaged = PackedCodes(packed.planes | np.uint64(1), 8, 5)
    with pytest.raises(CodeError, match="damaged"):
        unpack(damaged)


def test_rows_are_taken_by_slice_index_and_mask():
    codes = random_codes(6, 30, 5)
    packed = pack(codes, 5)
    np.testing.assert_array_equal(unpack(packed[::-2]), codes[::-2])
    np.testing.assert_array_equal(unpack(packed[np.array([4, 4, 0])]), codes[[4, 4, 0]])
    np.testing.assert_array_equal(unpack(packed[codes[:, 0] > 1]), codes[codes[:, 0] > 1])
    assert len(packed[2:5]) == 3
    with pytest.raises(CodeError, match="slice or an array"):
        packed[2]


def test_codes_do_not_show_in_the_representation():
    assert repr(pack(np.zeros((1, 4), int), 8)) == "PackedCodes(code_length=4, alphabet_size=8)"

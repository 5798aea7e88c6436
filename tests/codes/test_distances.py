import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iom.codes._kernels import compiled as kernels
from iom.codes.distances import all_pairs, nearest, paired, within
from iom.codes.packing import PackedCodes, pack
from iom.errors import CodeError


def mismatches(a, b):
    """The oracle: compare every symbol with every symbol."""
    return (a[:, None, :] != b[None, :, :]).sum(axis=2)


def similar_codes(generator, count, code_length, alphabet_size):
    """Codes with many ties and a wide spread of distances: copies with some symbols redrawn."""
    origin = generator.integers(0, alphabet_size, code_length)
    other = generator.integers(0, alphabet_size, (count, code_length))
    changed = generator.random((count, code_length)) < generator.random((count, 1))
    return np.where(changed, other, origin)


# Each number of planes and usual number of words is compiled apart, which takes its time: here are
# the most telling ones; `test_every_number_of_planes_and_words` visits the others once.
shapes = {
    "code_length": st.one_of(st.integers(1, 200), st.sampled_from([512, 700])),
    "alphabet_size": st.sampled_from([2, 7, 8, 256]),
    "seed": st.integers(0, 2**32 - 1),
    "threads": st.integers(1, 3),
}


@settings(deadline=None, max_examples=80)
@given(first=st.integers(0, 12), second=st.integers(0, 40), **shapes)
def test_all_pairs_equals_the_oracle(first, second, code_length, alphabet_size, seed, threads):
    generator = np.random.default_rng(seed)
    a = similar_codes(generator, first, code_length, alphabet_size)
    b = similar_codes(generator, second, code_length, alphabet_size)
    got = all_pairs(pack(a, alphabet_size), pack(b, alphabet_size), threads=threads)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, mismatches(a, b))


@settings(deadline=None, max_examples=60)
@given(count=st.integers(0, 40), **shapes)
def test_paired_distances_equal_the_oracle(count, code_length, alphabet_size, seed, threads):
    generator = np.random.default_rng(seed)
    a = similar_codes(generator, count, code_length, alphabet_size)
    b = similar_codes(generator, count, code_length, alphabet_size)
    packed_a, packed_b = pack(a, alphabet_size), pack(b, alphabet_size)
    np.testing.assert_array_equal(paired(packed_a, packed_b, threads=threads), (a != b).sum(axis=1))


@settings(deadline=None, max_examples=60)
@given(queries=st.integers(1, 5), count=st.integers(1, 50), share=st.floats(0, 1), **shapes)
def test_nearest_breaks_ties_by_the_lowest_row(queries, count, share, code_length, alphabet_size, seed, threads):
    generator = np.random.default_rng(seed)
    gallery = similar_codes(generator, count, code_length, alphabet_size)
    gallery = gallery[generator.integers(0, count, count)]  # copies: certain ties
    probes = similar_codes(generator, queries, code_length, alphabet_size)
    k = 1 + int(share * (count - 1))
    found = nearest(pack(probes, alphabet_size), pack(gallery, alphabet_size), k, threads=threads)
    oracle = mismatches(probes, gallery)
    order = [sorted(range(count), key=lambda j: (row[j], j))[:k] for row in oracle]
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_array_equal(found.distances, np.take_along_axis(oracle, np.array(order), 1))


@settings(deadline=None, max_examples=40)
@given(count=st.integers(0, 50), share=st.floats(-0.1, 1.1), **shapes)
def test_within_gives_every_match_nearest_first(count, share, code_length, alphabet_size, seed, threads):
    generator = np.random.default_rng(seed)
    gallery = similar_codes(generator, count, code_length, alphabet_size)
    probe = similar_codes(generator, 1, code_length, alphabet_size)
    threshold = share * code_length
    found = within(pack(probe, alphabet_size), pack(gallery, alphabet_size), threshold, threads=threads)
    oracle = mismatches(probe, gallery)[0]
    expected = sorted((int(d), j) for j, d in enumerate(oracle) if d <= threshold)
    assert list(zip(found.distances.tolist(), found.rows.tolist(), strict=True)) == expected


@pytest.mark.parametrize("planes", range(1, 9))
def test_every_number_of_planes_and_words(planes):
    generator = np.random.default_rng(planes)
    alphabet_size = int(generator.integers(2 ** (planes - 1) + 1, 2**planes + 1))
    unrolled = kernels.UNROLLED_WORDS[planes % len(kernels.UNROLLED_WORDS)]
    for code_length in (64 * unrolled - 5, 64 * 37 + 1):
        a = similar_codes(generator, 5, code_length, alphabet_size)
        b = similar_codes(generator, 7, code_length, alphabet_size)
        found = all_pairs(pack(a, alphabet_size), pack(b, alphabet_size))
        np.testing.assert_array_equal(found, mismatches(a, b))


def test_the_largest_code_and_alphabet():
    generator = np.random.default_rng(0)
    a = generator.integers(0, 256, (3, 65536))
    b = np.vstack([a[:2], (a[2:] + 1) % 256])
    distances = all_pairs(pack(a, 256), pack(b, 256))
    np.testing.assert_array_equal(distances, mismatches(a, b))
    assert distances[2, 2] == 65536


def test_work_over_several_tiles_and_threads():
    generator = np.random.default_rng(1)
    gallery = similar_codes(generator, 30000, 512, 8)
    probes = gallery[[29999, 0, 15000]]
    packed = pack(gallery, 8)
    oracle = np.stack([(probe != gallery).sum(axis=1) for probe in probes])
    for threads in (0, 1, 2, 3):
        np.testing.assert_array_equal(all_pairs(pack(probes, 8), packed, threads=threads), oracle)
        found = nearest(pack(probes, 8), packed, 7, threads=threads)
        np.testing.assert_array_equal(found.rows, np.argsort(oracle, 1, kind="stable")[:, :7])
    np.testing.assert_array_equal(all_pairs(packed, pack(probes, 8)), oracle.T)


def test_read_only_and_sliced_planes_are_taken():
    codes = similar_codes(np.random.default_rng(2), 20, 130, 9)
    packed = pack(codes, 9)
    packed.planes.flags.writeable = False
    frozen = PackedCodes(packed.planes[::2], 130, 9)
    np.testing.assert_array_equal(all_pairs(frozen, packed), mismatches(codes[::2], codes))


def test_codes_of_different_shapes_are_refused():
    eight = pack(np.zeros((2, 500), int), 8)
    # The same number of planes and words, so that only the stated shape tells them apart.
    for other in (pack(np.zeros((2, 500), int), 7), pack(np.zeros((2, 512), int), 8)):
        assert other.planes.shape == eight.planes.shape
        for compare in (paired, all_pairs, lambda a, b: nearest(a, b, 1)):
            with pytest.raises(CodeError, match="different shapes"):
                compare(eight, other)


def test_wrong_calls_are_refused():
    packed = pack(np.zeros((3, 10), int), 4)
    with pytest.raises(CodeError, match="as many on both sides"):
        paired(packed, packed[:2])
    with pytest.raises(CodeError, match="expected one query, received 3"):
        within(packed, packed, 1)
    for k in (0, 4):
        with pytest.raises(CodeError, match="expected 1 <= k <= 3"):
            nearest(packed, packed, k)
    with pytest.raises(CodeError, match=r"from iom\.codes\.packing import pack"):
        paired(packed.planes, packed.planes)
    with pytest.raises(CodeError, match="threads"):
        paired(packed, packed, threads=-1)


def test_a_second_process_reads_the_compiled_kernels(tmp_path):
    program = (
        "import warnings; warnings.simplefilter('error')\n"
        "import numpy as np\n"
        "from iom.codes._kernels import compiled as kernels\n"
        "from iom.codes.distances import all_pairs\n"
        "from iom.codes.packing import pack\n"
        "codes = np.arange(60).reshape(3, 20) % 4\n"
        "assert all_pairs(pack(codes, 4), pack(codes, 4)).tolist() == [[0] * 3] * 3\n"
        "print(sum(kernels.table_kernel(2, 1).stats.cache_hits.values()))\n"
    )
    results = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        for _ in range(2)
    ]
    assert [result.stdout.strip() for result in results] == ["0", "1"]


def test_without_a_place_for_the_cache_kernels_are_compiled_anew(monkeypatch):
    compile_for_this_process = numba.njit

    def njit(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'table': no locator available for file 'x'")
        return compile_for_this_process(*arguments, **options)

    kernels._table.cache_clear()
    monkeypatch.setattr(numba, "njit", njit)
    codes = np.arange(60).reshape(3, 20) % 7
    assert all_pairs(pack(codes, 7), pack(codes, 7)).tolist() == mismatches(codes, codes).tolist()
    kernels._table.cache_clear()


def test_kernels_are_shared_by_unusual_lengths():
    assert kernels.table_kernel(3, 5) is kernels.table_kernel(3, 13)
    assert kernels.table_kernel(3, 8) is not kernels.table_kernel(3, 16)

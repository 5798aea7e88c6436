"""Exact search by asymmetric distance against a loop, on every byte shuffle that the CPU has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iom.codes import scan
from iom.codes._kernels import compiled, portable
from iom.codes.asymmetric import UNIT, CodeVectors, asymmetric_distances, keyed_rows, row_lengths
from iom.codes.packing import pack
from iom.codes.scan import Cut, InterleavedCodes
from iom.errors import CodeError


def vectors_of(generator, code_length, alphabet_size, row_size=12):
    return CodeVectors.of_kernel(generator.normal(size=(row_size, code_length * alphabet_size)), alphabet_size)


def interleaved(vectors, codes):
    stored = InterleavedCodes(vectors)
    stored.append(pack(codes, vectors.alphabet_size))
    return stored


def loop(vectors, codes, rows):
    """The oracle: distance of every row to every code, position by position, `(B, N)`."""
    kernel = vectors.kernel.astype(object)
    out = np.empty((len(rows), len(codes)), int)
    for n, code in enumerate(codes):
        chosen = [int(symbol) + vectors.alphabet_size * position for position, symbol in enumerate(code)]
        held = kernel[:, chosen].sum(axis=1)
        length = float(sum(each * each for each in held)) ** 0.5
        for b, row in enumerate(rows.astype(object)):
            both = length * float((row * row).sum()) ** 0.5
            cosine = float((held * row).sum()) / both if both else 0.0
            out[b, n] = max(round(UNIT * (1 - cosine)), 0)
    return out


def by_product(vectors, codes, rows):
    """Distance of every row to every code, by a product of matrices."""
    held = vectors.read_back(codes)
    return asymmetric_distances(rows.astype(float) @ held.T, row_lengths(held), row_lengths(rows)[:, None])


def ordered(distances, k):
    order = np.array([sorted(range(len(row)), key=lambda n, row=row: (row[n], n))[:k] for row in distances])
    return order, np.take_along_axis(distances, order, 1)


ROW_SIZE = 12
MODULES = {"portable": portable, "compiled": compiled}
SHUFFLES = [name for name, kind in compiled.SHUFFLES.items() if kind.features <= compiled.features()]
PATHS = [
    pytest.param(each, marks=[] if each in ("", "vpermb", "vpshufb") else pytest.mark.proof) for each in ["", *SHUFFLES]
]
shapes = {
    "code_length": st.one_of(st.integers(1, 70), st.sampled_from([128, 257])),
    "alphabet_size": st.sampled_from([2, 3, 4, 5, 8, 9, 16, 17, 256]),
    "count": st.integers(1, 150),
    "queries": st.integers(1, 6),
    "seed": st.integers(0, 2**32 - 1),
}


def drawn(generator, code_length, alphabet_size, count, queries):
    """Vectors, codes with certain ties, and rows of which the first is very near to the last code."""
    vectors = vectors_of(generator, code_length, alphabet_size)
    codes = generator.integers(0, alphabet_size, (count, code_length))[generator.integers(0, count, count)]
    rows = keyed_rows(generator.normal(size=(queries, ROW_SIZE)))
    rows[0] = keyed_rows(vectors.read_back(codes[-1:]))[0]
    return vectors, codes, rows


@settings(deadline=None, max_examples=40)
@given(share=st.floats(0, 1), threads=st.integers(1, 3), **shapes)
def test_nearest_and_within_equal_a_loop(share, threads, code_length, alphabet_size, count, queries, seed):
    vectors, codes, rows = drawn(np.random.default_rng(seed), code_length, alphabet_size, count, queries)
    stored, expected = interleaved(vectors, codes), loop(vectors, codes, rows)
    k = 1 + int(share * (count - 1))
    order, distances = ordered(expected, k)
    threshold = int(np.quantile(expected[0], share))
    near = sorted((distance, n) for n, distance in enumerate(expected[0].tolist()) if distance <= threshold)
    for module in MODULES.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scan, "kernels", lambda words, module=module: module)
            found = stored.nearest(rows, k, threads=threads)
            np.testing.assert_array_equal(found.rows, order)
            np.testing.assert_array_equal(found.distances, distances)
            assert found.distances.dtype == np.int32
            np.testing.assert_array_equal(stored.distances(rows, threads=threads), expected)
            inside = stored.within(rows[:1], threshold + 0.5, threads=threads)
            assert list(zip(inside.distances.tolist(), inside.rows.tolist(), strict=True)) == near


@pytest.mark.parametrize("shuffle", PATHS)
@pytest.mark.parametrize(("code_length", "alphabet_size"), [(70, 2), (512, 2), (50, 4), (33, 8), (128, 16), (3000, 16)])
def test_every_byte_shuffle_of_the_cpu_finds_the_same(shuffle, code_length, alphabet_size, monkeypatch):
    """3,000 half bytes: sums of 16 bits are taken over in time."""
    vectors, codes, rows = drawn(np.random.default_rng(1), code_length, alphabet_size, 700, 6)
    stored = interleaved(vectors, codes)
    expected = by_product(vectors, codes, rows)
    order, distances = ordered(expected, 9)
    monkeypatch.setattr(compiled, "shuffles", lambda: shuffle)
    monkeypatch.setattr(scan, "kernels", lambda words: compiled)
    for count in (1, 3, 6):
        found = stored.nearest(rows[:count], 9)
        np.testing.assert_array_equal(found.rows, order[:count])
        np.testing.assert_array_equal(found.distances, distances[:count])
    for threshold in (distances[0, 4], 20_000):
        inside = stored.within(rows[:1], int(threshold))
        near = sorted((int(each), n) for n, each in enumerate(expected[0]) if each <= threshold)
        assert list(zip(inside.distances.tolist(), inside.rows.tolist(), strict=True)) == near


def test_sums_of_table_entries_bound_the_exact_ones_closely():
    """Else a scan would miss codes, or be right and slow, since too many are compared exactly."""
    generator = np.random.default_rng(4)
    vectors, codes = vectors_of(generator, 512, 2, 128), generator.integers(0, 2, (5_000, 512))
    rows = keyed_rows(generator.normal(size=(3, 128)))
    tables, _, scales = scan._Layout.of(512, 2).probes(vectors, rows)
    octets = scan._Layout.of(512, 2).words_of(codes.astype(np.uint8)).view(np.uint8)
    entries = tables.reshape(3, 16, 2, 4, 16).astype(int)
    for query in range(3):
        total = sum(
            entries[query, byte // 4, half, byte % 4][octets[:, byte] >> 4 * half & 15]
            for byte in range(64) for half in range(2)
        )  # fmt: skip
        step, base, _ = scales[query]
        exact = vectors.read_back(codes) @ rows[query]
        above = total * step + base - exact
        assert (above >= 0).all()
        assert above.max() < 0.5 * exact.std()


def test_more_neighbours_than_are_kept_in_order(monkeypatch):
    vectors, codes, rows = drawn(np.random.default_rng(2), 40, 4, 300, 3)
    monkeypatch.setattr(scan, "_SORTED", 20)
    monkeypatch.setattr(scan, "_ROOM", 7)
    stored, expected = interleaved(vectors, codes), loop(vectors, codes, rows)
    for k in (20, 21, 300):
        order, distances = ordered(expected, k)
        found = stored.nearest(rows, k)
        np.testing.assert_array_equal(found.rows, order)
        np.testing.assert_array_equal(found.distances, distances)
    inside = stored.within(rows[:1], 20_000)
    np.testing.assert_array_equal(inside.rows, ordered(expected, 300)[0][0])


def test_many_tiles_and_threads():
    vectors, codes, rows = drawn(np.random.default_rng(3), 512, 2, 30_000, 9)
    stored = interleaved(vectors, codes)
    expected = stored.distances(rows)
    held = vectors.read_back(codes[-500:])
    np.testing.assert_array_equal(
        expected[:, -500:],
        asymmetric_distances(rows.astype(float) @ held.T, row_lengths(held), row_lengths(rows)[:, None]),
    )
    for threads in (0, 1, 2, 3):
        found = stored.nearest(rows, 6, threads=threads)
        np.testing.assert_array_equal(found.rows, np.argsort(expected, axis=1, kind="stable")[:, :6])
        inside = stored.within(rows[:1], 9_000, threads=threads)
        assert len(inside.rows) == np.count_nonzero(expected[0] <= 9_000)


@pytest.mark.parametrize(("code_length", "alphabet_size"), [(65_536, 2), (65_536, 16), (5_000, 256)])
def test_the_longest_codes(code_length, alphabet_size):
    generator = np.random.default_rng(0)
    vectors = vectors_of(generator, code_length, alphabet_size, 2)
    codes = generator.integers(0, alphabet_size, (70, code_length))
    rows = keyed_rows(np.concatenate([vectors.read_back(codes[[66]]), generator.normal(size=(1, 2))]))
    expected = by_product(vectors, codes, rows)
    found = interleaved(vectors, codes).nearest(rows, 4)
    np.testing.assert_array_equal(found.rows, ordered(expected, 4)[0])
    np.testing.assert_array_equal(found.distances, ordered(expected, 4)[1])


def test_a_row_and_codes_without_direction():
    """Vectors that cancel each other, and a row of zeros: the distance is that of a right angle."""
    vectors = CodeVectors(np.array([[5, -5, 5, -5], [1, -1, 1, -1]], np.int32), 2)
    stored = interleaved(vectors, np.array([[0, 1], [0, 0], [1, 1], [1, 0]]))
    rows = np.array([[5, 1], [0, 0]], np.int32)
    found = stored.nearest(rows, 4)
    assert found.rows.tolist() == [[1, 0, 3, 2], [0, 1, 2, 3]]
    assert found.distances.tolist() == [[0, 10_000, 10_000, 20_000], [10_000] * 4]


def test_cleared_rows_stand_at_a_right_angle():
    vectors, codes, rows = drawn(np.random.default_rng(5), 40, 4, 130, 1)
    stored, expected = interleaved(vectors, codes), loop(vectors, codes, rows)
    for row in (0, 64, 129):
        stored.clear(row)
        expected[:, row] = 10_000
    np.testing.assert_array_equal(stored.distances(rows), expected)
    np.testing.assert_array_equal(stored.nearest(rows, 130).rows, ordered(expected, 130)[0])


@settings(deadline=None, max_examples=30)
@given(
    steps=st.lists(st.one_of(st.integers(0, 90), st.lists(st.integers(0, 300), max_size=80, unique=True)), max_size=6)
)
def test_any_order_of_appending_and_keeping(steps):
    """A number appends so many codes, a list keeps those rows in its order."""
    generator = np.random.default_rng(6)
    vectors, codes, rows = drawn(generator, 20, 4, 400, 2)
    stored, held = InterleavedCodes(vectors), []
    for step in steps:
        if isinstance(step, int):
            new = generator.integers(0, 400, step).tolist()
            stored.append(pack(codes[new], 4))
            held += new
        else:
            kept = [row for row in step if row < len(held)]
            stored.keep(np.array(kept, int))
            held = [held[row] for row in kept]
    assert len(stored) == len(held)
    if held:
        expected = loop(vectors, codes[held], rows)
        found = stored.nearest(rows, len(held))
        np.testing.assert_array_equal(found.rows, ordered(expected, len(held))[0])


def test_wrong_calls_are_refused():
    vectors, codes, rows = drawn(np.random.default_rng(7), 40, 4, 30, 2)
    stored = interleaved(vectors, codes)
    for k in (0, 31):
        with pytest.raises(CodeError, match="expected 1 <= k <= 30"):
            stored.nearest(rows, k)
    with pytest.raises(CodeError, match="expected one row, received 2"):
        stored.within(rows, 1)
    with pytest.raises(CodeError, match=r"expected codes 40x4, received 40x2"):
        stored.append(pack(codes // 2, 2))
    with pytest.raises(CodeError, match="int32"):
        stored.nearest(rows.astype(float), 1)
    with pytest.raises(CodeError, match="threads"):
        stored.nearest(rows, 1, threads=-1)


@pytest.fixture(scope="module")
def crowd():
    """Codes of 5,000 rows, and probes near to some of them."""
    generator = np.random.default_rng(8)
    vectors = vectors_of(generator, 512, 2, 64)
    people = generator.normal(size=(5000, 64))
    codes = np.argmax((people @ vectors.kernel).reshape(5000, 512, 2), axis=2)
    probes = people[generator.integers(0, 5000, 40)]
    rows = keyed_rows(probes + 0.5 * generator.normal(size=probes.shape))
    stored = interleaved(vectors, codes)
    return stored, rows, stored.nearest(rows, 1)


@pytest.mark.parametrize("module", MODULES.values(), ids=list(MODULES))
def test_a_cut_finds_near_codes_and_their_exact_distances(module, crowd, monkeypatch):
    stored, rows, exact = crowd
    monkeypatch.setattr(scan, "kernels", lambda words: module)
    for count in (1, 40):
        found = stored.nearest(rows[:count], 1, cut=Cut(16, 0.05))
        np.testing.assert_array_equal(found.rows, exact.rows[:count])
        np.testing.assert_array_equal(found.distances, exact.distances[:count])
    inside = stored.within(rows[:1], int(exact.distances[0, 0]), cut=Cut(16, 0.05))
    assert inside.rows.tolist() == exact.rows[0].tolist()


@pytest.mark.skipif(not compiled.shuffles(), reason="no byte shuffle to compile for")
def test_a_cut_leaves_about_a_share_of_the_codes(crowd, monkeypatch):
    stored, rows, _ = crowd
    monkeypatch.setattr(scan, "kernels", lambda words: compiled)
    for share in (0.02, 0.2):
        left = [len(stored.within(rows[n : n + 1], 20_000, cut=Cut(16, share)).rows) / 5000 for n in range(20)]
        assert 0.4 * share < np.mean(left) < 2.5 * share


def test_where_a_cut_leaves_too_few_the_search_is_exact(crowd):
    stored, rows, _ = crowd
    exact, found = stored.nearest(rows, 300), stored.nearest(rows, 300, cut=Cut(16, 0.001))
    np.testing.assert_array_equal(found.rows, exact.rows)


def test_cuts_that_cannot_be_made_are_refused(crowd):
    stored, rows, _ = crowd
    for cut in (Cut(0, 0.1), Cut(6, 0.1), Cut(68, 0.1), Cut(16, 0.0), Cut(16, 1.0)):
        with pytest.raises(CodeError, match="expected 4 to 64 bytes"):
            stored.nearest(rows, 1, cut=cut)


def test_a_cut_among_cleared_codes():
    vectors, codes, rows = drawn(np.random.default_rng(9), 128, 2, 130, 1)
    stored = interleaved(vectors, codes)
    for row in range(130):
        stored.clear(row)
    assert stored.nearest(rows, 3, cut=Cut(4, 0.5)).distances.tolist() == [[10_000] * 3]
    assert stored.within(rows, 9_999, cut=Cut(4, 0.5)).rows.tolist() == []


@pytest.mark.parametrize(("code_length", "alphabet_size"), [(1, 2), (70, 2), (33, 8), (40, 16), (9, 200)])
def test_lengths_are_those_of_the_vectors(code_length, alphabet_size):
    generator = np.random.default_rng(10)
    vectors = vectors_of(generator, code_length, alphabet_size, 130)
    codes = generator.integers(0, alphabet_size, (3000, code_length))
    for module in MODULES.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scan, "kernels", lambda words, module=module: module)
            stored = interleaved(vectors, codes)
        np.testing.assert_array_equal(stored._lengths[:3000], vectors.lengths(codes))


@pytest.mark.parametrize(
    ("code_length", "alphabet_size", "size"), [(40, 2, 40), (16, 16, 32), (30, 5, 120), (24, 3, 24)]
)
def test_a_product_frame_is_searched_as_every_other(code_length, alphabet_size, size):
    """Each position sees a block of its own: responses are computed block by block."""
    generator = np.random.default_rng(11)
    kernel = np.zeros((size, code_length, alphabet_size))
    blocks = size // code_length
    for position in range(code_length):
        own = slice(blocks * position, blocks * (position + 1))
        kernel[own, position] = generator.normal(size=(blocks, alphabet_size))
    vectors = CodeVectors.of_kernel(kernel.reshape(size, -1), alphabet_size, centred=False)
    rows = keyed_rows(generator.normal(size=(3, size)))
    expected = rows.astype(np.int64) @ vectors.kernel.astype(np.int64)
    np.testing.assert_array_equal(vectors.responses(rows), expected.reshape(3, code_length, alphabet_size))
    codes = generator.integers(0, alphabet_size, (90, code_length))
    order, distances = ordered(loop(vectors, codes, rows), 90)
    found = interleaved(vectors, codes).nearest(rows, 90)
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_array_equal(found.distances, distances)


@settings(deadline=None, max_examples=30)
@given(scale=st.sampled_from([0, 1, 3, 200, 10**6, 2**28]), words=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_tables_of_probes_are_the_same_and_fit_their_bytes(scale, words, seed):
    sums = np.random.default_rng(seed).integers(-scale, scale + 1, (3, 8 * words, 16), np.int32)
    made = []
    for module in MODULES.values():
        arrays = np.empty_like(sums), np.empty((3, words, 128), np.uint8), np.ones((3, 3))
        module.probe_kernel()(sums, *arrays)
        made.append(arrays)
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)
    held, tables, scales = made[0]
    entries = tables.reshape(3, words, 2, 64).astype(int)
    assert entries.sum(axis=2).max() <= 255
    lowest = held.min(axis=2, keepdims=True).astype(float)
    bound = tables.reshape(held.shape) * scales[:, 0, None, None] + lowest
    assert (bound >= held).all()
    assert (bound < held + scales[:, 0, None, None]).all()
    np.testing.assert_array_equal(lowest.sum(axis=(1, 2)), scales[:, 1])

"""Asymmetric distances against loops in whole numbers, and the comparator against the look-ups of a kernel."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.codes.asymmetric import LENGTH, UNIT, CodeVectors, asymmetric_distances, keyed_rows, row_lengths
from iom.codes.comparators import AsymmetricComparator, AsymmetricTemplates
from iom.errors import CodeError


def drawn(seed, size=6, length=5, alphabet=3, count=4):
    """Vectors, codes and keyed rows."""
    generator = np.random.default_rng(seed)
    vectors = CodeVectors.of_kernel(generator.normal(size=(size, length * alphabet)), alphabet)
    codes = generator.integers(0, alphabet, (count, length)).astype(np.uint8)
    return vectors, codes, keyed_rows(generator.normal(size=(count, size)))


def loop(vectors, code, row):
    """The distance in Python integers; only the two roots and the last division are rounded."""
    kernel, alphabet = vectors.kernel.tolist(), vectors.alphabet_size
    held = [sum(line[i * alphabet + symbol] for i, symbol in enumerate(code)) for line in kernel]
    product = sum(a * b for a, b in zip(held, row, strict=True))
    lengths = [math.sqrt(sum(value * value for value in side)) for side in (held, row)]
    if not all(lengths):
        return UNIT
    return max(0, round(UNIT * (1 - product / (lengths[0] * lengths[1]))))


shapes = st.tuples(*(st.integers(low, high) for low, high in ((0, 2**32 - 1), (1, 40), (1, 30), (2, 17), (1, 6))))


@given(shapes)
def test_products_look_ups_and_a_loop_agree_to_the_last_unit(shape):
    vectors, codes, rows = drawn(*shape)
    comparator = AsymmetricComparator(vectors)
    ready = comparator.prepare(AsymmetricTemplates(codes, rows))
    table = comparator.all_pairs(ready, ready)
    looked_up = np.take_along_axis(vectors.responses(rows)[None], codes[:, None, :, None].astype(np.intp), axis=3)
    products = looked_up.sum(axis=(2, 3), dtype=np.int64)
    others = asymmetric_distances(products, vectors.lengths(codes)[:, None], row_lengths(rows))
    expected = [[loop(vectors, code, row) for row in rows.tolist()] for code in codes.tolist()]
    assert table.tolist() == others.tolist() == expected
    assert comparator.paired(ready, ready).tolist() == np.diag(table).tolist()
    assert table.dtype == np.int32


@pytest.mark.parametrize(("length", "alphabet"), [(1536, 2), (512, 8), (16, 256)])
def test_products_of_large_codes_are_exact(length, alphabet):
    vectors, codes, rows = drawn(3, 512, length, alphabet, 5)
    wide = vectors.kernel.astype(object).reshape(512, length, alphabet)
    for code, row, held in zip(codes, rows.astype(object), vectors.read_back(codes), strict=True):
        exact = wide[:, np.arange(length), code].sum(axis=1)
        assert exact.tolist() == held.tolist()
        assert int(held @ row.astype(float)) == sum(exact * row)


def test_the_distance_is_that_of_the_real_vectors_to_a_few_units():
    generator = np.random.default_rng(1)
    kernel, alphabet = generator.normal(size=(128, 64 * 4)), 4
    codes = generator.integers(0, alphabet, (30, 64))
    rows = generator.normal(size=(30, 128))
    centred = kernel.reshape(128, 64, 4) - kernel.reshape(128, 64, 4).mean(axis=2, keepdims=True)
    held = np.stack([centred[:, np.arange(64), code].sum(axis=1) for code in codes])
    cosines = (held / np.linalg.norm(held, axis=1, keepdims=True)) @ (rows / np.linalg.norm(rows, axis=1)[:, None]).T
    comparator = AsymmetricComparator(CodeVectors.of_kernel(kernel, alphabet))
    ready = comparator.prepare(AsymmetricTemplates(codes, keyed_rows(rows)))
    assert np.abs(comparator.all_pairs(ready, ready) - UNIT * (1 - cosines)).max() < 6


def test_what_no_argmax_sees_changes_no_vector():
    generator = np.random.default_rng(2)
    kernel = generator.integers(-99, 99, (8, 5 * 4)).astype(float)
    moved = (kernel.reshape(8, 5, 4) + generator.integers(-9, 9, (8, 5, 1))).reshape(8, 20)
    first, second = CodeVectors.of_kernel(kernel, 4), CodeVectors.of_kernel(4 * moved, 4)
    np.testing.assert_array_equal(first.kernel, second.kernel)
    longest = np.sqrt(np.square(first.kernel.astype(float)).sum(axis=0).max())
    assert abs(longest - LENGTH) < 3


def test_the_sides_are_not_exchanged():
    """Row i of the table is of a stored code, column j of a probe."""
    vectors, codes, rows = drawn(7, count=3)
    comparator = AsymmetricComparator(vectors)
    ready = comparator.prepare(AsymmetricTemplates(codes, rows))
    assert comparator.all_pairs(ready[:1], ready[1:]).tolist() == [
        [loop(vectors, codes[0].tolist(), rows[1].tolist()), loop(vectors, codes[0].tolist(), rows[2].tolist())]
    ]


def test_a_row_or_code_without_a_direction_is_at_a_right_angle():
    vectors = CodeVectors(np.array([[1, -1, 1, -1]], np.int32), 2)
    ready = AsymmetricComparator(vectors).prepare(
        AsymmetricTemplates(np.array([[0, 1], [0, 0]]), keyed_rows([[0.0], [2.0]]))
    )
    assert AsymmetricComparator(vectors).all_pairs(ready, ready).tolist() == [[UNIT, UNIT], [UNIT, 0]]


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**4), st.integers(1, 10**4))
def test_the_last_step_rounds_to_the_nearest(product, left, right):
    product = max(-left * right, min(left * right, product))
    found = int(asymmetric_distances(product, left, right))
    assert abs(found - UNIT * (1 - Fraction(product, left * right))) <= Fraction(1, 2) + Fraction(1, 10**6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda its: CodeVectors.of_kernel(np.ones((3, 6)), 3), "same vector"),
        (lambda its: CodeVectors.of_kernel(np.full((3, 6), np.nan), 3), "finite values"),
        (lambda its: CodeVectors.of_kernel(np.ones((3, 7)), 3), r"\(K, M \* 3\)"),
        (lambda its: its.read_back(np.full((1, 5), 3)), "symbols 0 to 2"),
        (lambda its: its.read_back(np.zeros((1, 5))), "integers"),
        (lambda its: its.read_back(np.zeros((1, 4), int)), r"\(N, 5\)"),
        (lambda its: its.responses(np.zeros((1, 6))), "int32"),
        (lambda its: its.responses(np.zeros((1, 5), np.int32)), r"\(B, 6\)"),
        (lambda its: keyed_rows([[np.inf]]), "finite rows"),
        (lambda its: AsymmetricComparator(its).prepare((np.zeros((2, 5), int), np.zeros((1, 6), np.int32))), "as many"),
    ],
)
def test_wrong_shapes_and_values_are_told(call, message):
    vectors, _, _ = drawn(0)
    with pytest.raises(CodeError, match=message):
        call(vectors)


def test_nothing_of_vectors_codes_or_rows_is_shown():
    vectors, codes, rows = drawn(0)
    comparator = AsymmetricComparator(vectors)
    assert "array" not in repr(vectors) + repr(comparator) + repr(comparator.prepare(AsymmetricTemplates(codes, rows)))

"""Pair lists and carray folders, cut and with flipped bits: refused, or right as far as they go."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iom.data.benchmarks.pair_lists import parse_pair_list
from iom.data.formats.pair_files import read_carray
from iom.errors import DataError
from tests.data.test_carray import SIZE, made

__all__ = ["made"]

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CUTS = st.integers(0, 9)
FLIPS = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
LFW = (
    "2\t2\n"
    + "".join(f"ann{fold}\t1\t{i + 2}\n" for fold in (0,) for i in range(2))
    + "ann0\t1\tbob\t1\ncid\t3\tbob\t2\n"
    + "dan\t1\t2\ndan\t3\t4\neve\t1\tann0\t1\nann0\t2\tdan\t9\n"
)
PLAIN = "".join(f"a/{i}.jpg b/{i}.jpg {i % 2}\n" for i in range(12))


def flipped(data, flip):
    place, bit = int(flip[0] * len(data)), flip[1]
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def read(path, data):
    path.write_bytes(data)
    try:
        return parse_pair_list(path)
    except DataError:
        return None


@pytest.mark.parametrize("tenth", range(10))
def test_a_cut_lfw_list_is_refused(tmp_path, tenth):
    assert read(tmp_path / "l", LFW.encode()[: len(LFW) * tenth // 10]) is None


@pytest.mark.parametrize("cut", range(len(PLAIN)))
def test_a_cut_plain_list_is_refused_or_a_beginning(tmp_path, cut):
    whole, _ = read(tmp_path / "l", PLAIN.encode())
    found = read(tmp_path / "l", PLAIN.encode()[:cut])
    assert found is None or found[0] == whole[: len(found[0])]


@MANY
@given(FLIPS, st.sampled_from([LFW, PLAIN]))
def test_a_flipped_bit_changes_one_pair_at_most(tmp_path, flip, text):
    whole, _ = read(tmp_path / "l", text.encode())
    found = read(tmp_path / "l", flipped(text.encode(), flip))
    if found is None:
        return
    lost = [pair for pair in whole if pair not in found[0]]
    assert len(lost) <= 1
    if text == LFW:  # mated and non-mated lines have another form: a truth value is never flipped
        assert [pair[2] for pair in found[0]] == [pair[2] for pair in whole]


FILES = ["meta/storage", "meta/sizes", "data/__0.blp", "data/__3.blp"]


@pytest.mark.parametrize("name", [*FILES, "list"])
@pytest.mark.parametrize("tenth", range(10))
def test_a_cut_carray_is_refused(made, name, tenth):
    folder, _ = made
    path = folder.with_name("agedb_30_list.npy") if name == "list" else folder / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * tenth // 10])
    with pytest.raises(DataError, match=path.name):
        read_carray(folder, size=SIZE)


@MANY
@given(FLIPS, st.sampled_from([*FILES, "list"]))
def test_a_flipped_bit_in_a_carray_is_refused_or_moves_no_label(made, flip, name):
    folder, _ = made
    path = folder.with_name("agedb_30_list.npy") if name == "list" else folder / name
    data = path.read_bytes()
    whole = dataclasses.replace(read_carray(folder, size=SIZE))
    path.write_bytes(flipped(data, flip))
    try:
        found = read_carray(folder, size=SIZE)
    except DataError:
        return
    finally:
        path.write_bytes(data)
    assert len(found.same) == len(whole.same)
    if name == "list":  # a list of truth values has no check of its own: one may have turned
        assert np.count_nonzero(found.same != whole.same) <= 1
        return
    np.testing.assert_array_equal(found.same, whole.same)
    np.testing.assert_array_equal(found.images[found.left], whole.images[whole.left])
    np.testing.assert_array_equal(found.images[found.right], whole.images[whole.right])

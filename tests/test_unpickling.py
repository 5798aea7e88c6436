"""Restricted unpickling: arrays come back equal, everything else is refused and does not run."""

import contextlib
import io
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from iom._unpickling import restricted_loads
from iom.errors import DataError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
DTYPES = ["u1", ">u2", "<i8", "f2", "<f4", ">f8", "c8", "?", "S3", "<U4"]


def loads(data, **options):
    return restricted_loads(data, source="file.bin", **options)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_back_equal(protocol, dtype):
    array = (np.arange(24) % 7).reshape(2, 3, 4).astype(dtype)
    transposed = array.transpose(1, 2, 0)
    for variant in (array, np.asfortranarray(array), array[:, ::2], array[:0], transposed):
        result = loads(pickle.dumps({"a": [variant], "b": (variant, 1)}, protocol))
        for read in (result["a"][0], result["b"][0]):
            assert type(read) is np.ndarray
            assert read.dtype == variant.dtype
            assert read.flags.writeable
            np.testing.assert_array_equal(read, variant)


@given(hnp.arrays(st.sampled_from([np.float32, np.int64, np.uint8]), hnp.array_shapes(min_side=0)))
def test_any_array_round_trips(array):
    result = loads(pickle.dumps(array))
    assert result.shape == array.shape
    assert result.tobytes() == array.tobytes()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_and_plain_data(protocol):
    data = {"n": None, "b": b"\x00\xff", "t": (1, 2.5, True), "u": "é"}
    data["l"] = [np.float32(1.5), 2**70, b""]
    result = loads(pickle.dumps(data, protocol))
    assert result == data
    assert isinstance(result["l"][0], np.float32)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_array_around_a_dictionary(protocol):
    holder = np.array({"w": np.ones(3)}, dtype=object)
    result = loads(pickle.dumps(holder, protocol))
    np.testing.assert_array_equal(result.item()["w"], np.ones(3))


def test_stream_is_read_from_where_it_stands():
    stream = io.BytesIO(b"header" + pickle.dumps([1, 2]))
    stream.seek(6)
    assert loads(stream) == [1, 2]


def test_cycles_and_shared_parts_survive():
    shared = np.arange(3)
    data = [shared, shared]
    data.append(data)
    result = loads(pickle.dumps(data))
    assert result[0] is result[1]
    assert result[2] is result


def python_2_pickle() -> bytes:
    """A Python 2 pickle, protocol 2: ({'k': array([1, 2], uint8)}, ['\\xff\\xd8']), by hand."""
    return (
        b"\x80\x02}U\x01kcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x01\x02tbs"
        b"](U\x02\xff\xd8e\x86."
    )


def test_python_2_strings_as_bytes_and_as_latin1():
    mapping, texts = loads(python_2_pickle())
    np.testing.assert_array_equal(mapping[b"k"], np.array([1, 2], dtype=np.uint8))
    assert texts == [b"\xff\xd8"]
    mapping, texts = loads(python_2_pickle(), encoding="latin1")
    np.testing.assert_array_equal(mapping["k"], np.array([1, 2], dtype=np.uint8))
    assert texts == ["\xff\xd8"]


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_hostile_pickle_does_not_run(tmp_path, protocol):
    mark = tmp_path / "ran"
    data = pickle.dumps({"weights": Hostile(f"touch {mark}")}, protocol)
    with pytest.raises(DataError, match=r"file\.bin: refused: .*'(posix|nt)\.system'"):
        loads(data)
    assert not mark.exists()


def test_hostile_pickle_inside_an_object_array_does_not_run(tmp_path):
    mark = tmp_path / "ran"
    holder = np.array([Hostile(f"touch {mark}")], dtype=object)
    with pytest.raises(DataError, match="refused"):
        loads(pickle.dumps(holder))
    assert not mark.exists()


@pytest.mark.parametrize(
    "target", ["builtins.eval", "builtins.getattr", "numpy.load", "os.path.join", "numpy.core.eval"]
)
def test_refusal_names_the_global(target):
    module, name = target.rsplit(".", 1)
    with pytest.raises(DataError, match=f"'{target}'"):
        loads(f"c{module}\n{name}\n.".encode())


def test_dotted_name_through_an_admitted_module_is_refused():
    data = b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93."
    with pytest.raises(DataError, match="refused"):
        loads(data)


def test_nothing_but_the_table_is_admitted():
    data = pickle.dumps(OrderedDict(a=1))
    with pytest.raises(DataError, match=r"collections\.OrderedDict"):
        loads(data)


@pytest.mark.parametrize(
    "data",
    [
        # BUILD on an admitted callable: would set attributes in this process.
        b"cnumpy\ndtype\n}S'set_state'\nNsb.",
        b"cnumpy\nndarray\n(N}S'set_state'\nNstb.",
        # NEWOBJ, OBJ, INST, persistent id, extension code.
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"(cnumpy\nndarray\no.",
        b"(inumpy\nndarray\n.",
        b"Pid\n.",
        b"\x82\x01.",
        # dtype tricks: structured, object flags, unknown codec.
        b"cnumpy\ndtype\n(S'V8'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        # An array that was never given content.
        b"cnumpy.core.multiarray\n_reconstruct\n(tR.",
        b"",
        b".",
    ],
)
def test_tricks_are_errors(data):
    with pytest.raises(DataError, match=r"^file\.bin: "):
        loads(data)


def test_object_array_takes_no_raw_bytes_as_pointers():
    data = (
        b"cnumpy.core.multiarray\n_reconstruct\n(tR"
        b"(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\ntR(I3\nS'|'\nNNNI8\nI8\nI0\ntbI00\n"
        b"S'AAAAAAAA'\ntb."
    )
    with pytest.raises(DataError, match="objects"):
        loads(data)


def test_huge_claims_cost_nothing():
    with pytest.raises(DataError):
        loads(b"\x80\x02Nr\xff\xff\xff\x7f")
    wrong = pickle.dumps(np.arange(6, dtype="u1"), 2).replace(b"K\x06\x85", b"K\x7f\x85")
    with pytest.raises(DataError, match="needs 127 bytes, received 6"):
        loads(wrong)


def test_truncated_anywhere_is_one_line():
    data = pickle.dumps({"w": np.arange(5.0), "v": [b"x", "y"]}, 2)
    for end in range(len(data)):
        with pytest.raises(DataError) as caught:
            loads(data[:end])
        assert "\n" not in str(caught.value)


@given(st.data())
def test_flipped_bytes_never_escape(data):
    original = bytearray(pickle.dumps({"w": np.arange(4.0), "v": [1, (b"x",)]}, 2))
    place = data.draw(st.integers(0, len(original) - 1))
    original[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(DataError):
        loads(bytes(original))

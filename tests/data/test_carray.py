import contextlib
import io
import json
import zlib

import numpy as np
import pytest

from iom.config import BenchmarkConfig
from iom.data.benchmarks import load_benchmark
from iom.data.formats import pair_files
from iom.data.formats.pair_files import read_carray
from iom.errors import DataError, MissingExtraError, WorkerError

SIZE = 8


def pack_chunk(raw, stated=None):
    """The frame of a chunk around zlib's bytes, with Blosc's header where the reader looks."""
    size = (len(raw) if stated is None else stated).to_bytes(4, "little")
    return b"blpk" + bytes(12) + bytes(4) + size + bytes(8) + zlib.compress(raw)


def npy(values):
    stream = io.BytesIO()
    np.save(stream, np.array(values))
    return stream.getvalue()


class Unzip:
    """Stands in for the pool."""

    def ask(self, data, parse, *, seconds):
        return parse(unpack_chunk(data))

    def close(self):
        pass


def unpack_chunk(data):
    try:
        return zlib.decompress(data[16:])
    except zlib.error:
        return b""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Seven pairs in chunks of four images, the first image of all of them the same."""
    monkeypatch.setattr(pair_files, "blosc_workers", lambda max_bytes: Unzip())
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(14, SIZE, SIZE, 3)).astype(np.uint8)
    pixels[2::2] = pixels[0]
    values = (pixels[..., ::-1].transpose(0, 3, 1, 2) / 127.5 - 1).astype("<f4")
    folder = tmp_path / "agedb_30"
    (folder / "meta").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "meta" / "storage").write_text(json.dumps({"dtype": "float32", "chunklen": 4}))
    (folder / "meta" / "sizes").write_text(json.dumps({"shape": [14, 3, SIZE, SIZE]}))
    for number, start in enumerate(range(0, 14, 4)):
        part = np.zeros((4, *values.shape[1:]), "<f4")
        part[: len(values[start : start + 4])] = values[start : start + 4]
        (folder / "data" / f"__{number}.blp").write_bytes(pack_chunk(part.tobytes()))
    np.save(tmp_path / "agedb_30_list.npy", np.arange(7) % 2 == 0)
    return folder, pixels


def test_pixels_and_pairs(made):
    folder, pixels = made
    benchmark = read_carray(folder, size=SIZE)
    assert benchmark.same.tolist() == [True, False, True, False, True, False, True]
    assert len(benchmark.images) == 8
    np.testing.assert_array_equal(benchmark.images[benchmark.left], pixels[0::2])
    np.testing.assert_array_equal(benchmark.images[benchmark.right], pixels[1::2])


def test_it_is_a_source(made):
    with pytest.raises(DataError, match=r"\(14, 3, 112, 112\) for 7 pairs"):
        load_benchmark(BenchmarkConfig(source="carray", path=str(made[0])), seed=1)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("meta/storage", b"{", "damaged"),
        ("meta/storage", b"[]", "damaged"),
        ("meta/storage", b'{"dtype": "float64", "chunklen": 4}', "received float64"),
        ("meta/storage", b'{"dtype": "float32", "chunklen": 0}', "one image or more"),
        ("meta/storage", b'{"dtype": "float32", "chunklen": 6}', "__0.blp: expected 6 images"),
        ("meta/sizes", b'{"shape": [12, 3, 8, 8]}', "for 7 pairs, received float32"),
        ("data/__1.blp", b"blpk", "something else"),
        ("data/__1.blp", pack_chunk(bytes(4), stated=1 << 30), "something else"),
        ("data/__1.blp", pack_chunk(bytes(12)), "whole images"),
        ("data/__1.blp", pack_chunk(bytes(4))[:33] + b"xxxxxx", "chunk is damaged"),
        ("data/__1.blp", pack_chunk(np.full(12 * SIZE**2, 0.3, "<f4").tobytes()), "127.5"),
        ("data/__1.blp", pack_chunk(np.full(12 * SIZE**2, 3.0, "<f4").tobytes()), "127.5"),
        ("data/__1.blp", pack_chunk(np.full(12 * SIZE**2, np.nan, "<f4").tobytes()), "127.5"),
        ("data/__1.blp", None, "cannot read"),
        ("../agedb_30_list.npy", b"junk", "truth values"),
        ("../agedb_30_list.npy", npy([True] * 7).replace(b"'descr'", b"'descr(", 1), "truth values"),
        ("../agedb_30_list.npy", npy([True] * 7)[:-1] + b"\x03", "True and False"),
        ("../agedb_30_list.npy", npy([b"a"] * 7), "something else"),
        ("../agedb_30_list.npy", None, "cannot read"),
    ],
)
def test_damaged(made, file, content, reason):
    path = made[0] / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_carray(made[0], size=SIZE)


def test_a_list_that_is_a_pickle_is_refused(made):
    np.save(made[0].with_name("agedb_30_list.npy"), np.array([print], object), allow_pickle=True)
    with pytest.raises(DataError, match="truth values"):
        read_carray(made[0], size=SIZE)


def test_without_the_extra(made, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "numcodecs", None)
    with pytest.raises(MissingExtraError, match=r"extra 'carray'"):
        read_carray(made[0], size=SIZE)


def test_blosc_itself(made, monkeypatch):
    blosc = pytest.importorskip("numcodecs.blosc", reason="needs the extra iom[carray]")
    monkeypatch.undo()
    folder, pixels = made
    for path in (folder / "data").iterdir():
        raw = unpack_chunk(path.read_bytes()[16:])
        path.write_bytes(b"blpk" + bytes(12) + blosc.compress(raw, b"lz4", 5, 1, 0))
    benchmark = read_carray(folder, size=SIZE)
    np.testing.assert_array_equal(benchmark.images[benchmark.left], pixels[0::2])


def test_a_chunk_that_takes_the_library_down_is_an_error(made, monkeypatch):
    blosc = pytest.importorskip("numcodecs.blosc", reason="needs the extra iom[carray]")
    monkeypatch.undo()
    raw = np.sort(np.arange(3 * 112 * 112) % 256).astype("<f4").tobytes()
    chunk = blosc.compress(raw, b"blosclz", 5, 1, 0)
    rng = np.random.default_rng(0)
    refused = 0
    with contextlib.closing(pair_files.blosc_workers(len(raw))) as pool:
        assert pool.ask(chunk, bytes, seconds=60) == raw
        for _ in range(8):
            damaged = bytearray(chunk)
            damaged[rng.integers(16, 40)] ^= 1 << int(rng.integers(8))  # where the blocks start
            try:
                refused += not pool.ask(bytes(damaged), bytes, seconds=60)
            except WorkerError:
                refused += 1
        assert pool.ask(chunk, bytes, seconds=60) == raw
    assert refused

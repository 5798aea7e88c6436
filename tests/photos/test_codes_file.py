"""Files of codes: what is written is read; anything else is one clear error."""

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from iom.codes.packing import pack, unpack
from iom.errors import DataError, MissingExtraError
from iom.photos import codes_file as code_file
from iom.photos.codes_file import MEASURES, read_codes, schema_of, write_codes

HEADER = {
    "format": 1,
    "encoding": "iom-planes/1:70x6",
    "model": "m" * 64,
    "key": "k" * 32,
    "settings": {"landmarks": False},
}


def rows_of(codes, *, landmarks=False):
    planes = pack(codes, 6).planes
    for i, each in enumerate(planes):
        row = {"photo": f"ä/{i // 2}\n.jpg", "photo_bytes": None, "face": i % 2}
        row |= {name: None if i % 3 == 0 else i + 0.5 for name in MEASURES}
        row |= {"sharpness": 1.0, "brightness": 2.0, "code": each.astype("<u8").tobytes()}
        if landmarks:
            row["landmarks"] = list(range(i, i + 10))
        yield row


def write(path, count=7, *, landmarks=False, header=HEADER, parts=1):
    codes = np.random.default_rng(1).integers(0, 6, (count, 70))
    header = {**header, "settings": {"landmarks": landmarks}}
    schema = schema_of(header)
    rows = list(rows_of(codes, landmarks=landmarks))
    size = max(1, -(-count // parts))
    tables = (pa.Table.from_pylist(rows[i : i + size], schema=schema) for i in range(0, count, size))
    assert write_codes(path, header, tables) == count
    return codes


@pytest.mark.parametrize("landmarks", [False, True])
@pytest.mark.parametrize(("count", "parts"), [(0, 1), (1, 1), (7, 3)])
def test_what_is_written_is_read(tmp_path, count, parts, landmarks):
    codes = write(tmp_path / "a.parquet", count, landmarks=landmarks, parts=parts)
    found = read_codes(str(tmp_path / "a.parquet"))
    assert len(found) == len(found.codes) == count
    np.testing.assert_array_equal(unpack(found.codes), codes)
    assert found.photos == tuple(f"ä/{i // 2}\n.jpg" for i in range(count))
    np.testing.assert_array_equal(found.faces, np.arange(count) % 2)
    expected = [np.nan if i % 3 == 0 else i + 0.5 for i in range(count)]
    np.testing.assert_array_equal(found.measures["yaw"], np.array(expected, np.float32))
    assert (found.landmarks is not None) == landmarks
    if landmarks:
        numbers = np.arange(10).reshape(1, 5, 2) + np.arange(count)[:, None, None]
        np.testing.assert_array_equal(found.landmarks, numbers)
    assert (found.encoding, found.model, found.key) == tuple(HEADER[name] for name in ("encoding", "model", "key"))


def test_any_parquet_reader_reads_it(tmp_path):
    codes = write(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.num_rows == 7
    stored = np.frombuffer(table["code"][2].as_py(), "<u8").reshape(1, 3, 2)
    np.testing.assert_array_equal(stored, pack(codes[2:3], 6).planes)


def test_every_cut_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write(path)
    data = path.read_bytes()
    cuts = [*(len(data) * i // 10 for i in range(10)), 4, 12, len(data) - 1, len(data) - 8]
    for cut in cuts:
        path.write_bytes(data[:cut])
        with pytest.raises(DataError, match=r"a\.parquet"):
            read_codes(path)


@given(st.integers(0), st.integers(1, 255))
def test_any_flipped_byte_is_found(tmp_path_factory, place, change):
    path = tmp_path_factory.getbasetemp() / "flipped.parquet"
    if not path.with_suffix(".whole").exists():
        write(path.with_suffix(".whole"))
    data = bytearray(path.with_suffix(".whole").read_bytes())
    data[place % len(data)] ^= change
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"flipped\.parquet"):
        read_codes(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.parquet"
    for each in (data, b"PAR1" + data + len(data).to_bytes(4, "little") + b"PAR1"):
        path.write_bytes(each)
        with pytest.raises(DataError, match=r"bytes\.parquet"):
            read_codes(path)


def sealed(path, table, metadata):
    """A Parquet file of another content that states to be one of ours, digest and all."""
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="none")
    code_file._seal(path)


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write(path)
    table = pq.read_table(path)
    header = table.schema.metadata[code_file.HEADER]
    pq.write_table(table, path)
    with pytest.raises(DataError, match="another Parquet"):
        read_codes(path)
    cases = {
        "another Parquet": (table, {}),
        "format 1": (table, {code_file.HEADER: b'{"format": 2}'}),
        "hold no encoding": (table, {code_file.HEADER: b'{"format": 1}'}),
        "iom-planes/1": (table, {code_file.HEADER: header.replace(b"planes/1", b"planes/2")}),
        "its columns": (table.drop_columns(["face"]), {code_file.HEADER: header}),
        "Parquet, written by iom hash": (table, {code_file.HEADER: b"{"}),
    }
    for message, (other, metadata) in cases.items():
        sealed(path, other, metadata)
        with pytest.raises(DataError, match=message):
            read_codes(path)


def test_codes_outside_of_the_alphabet_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write(path)
    table = pq.read_table(path)
    place = table.column_names.index("code")
    for byte in (b"\xff", b"\x00"):
        codes = [byte * 48] * len(table)
        other = table.set_column(place, table.schema.field("code"), pa.array(codes, pa.binary(48)))
        sealed(path, other, table.schema.metadata)
        if byte == b"\x00":
            assert len(read_codes(path)) == 7
            continue
        with pytest.raises(DataError, match="damaged: bit planes"):
            read_codes(path)


def test_missing_file_and_package(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="cannot read"):
        read_codes(tmp_path / "none.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"extra 'parquet'"):
        read_codes(tmp_path / "none.parquet")


def test_an_argument_of_the_wrong_type_is_not_told_as_damage():
    with pytest.raises(TypeError, match="PathLike"):
        read_codes(3)

"""Files of codes: Apache Parquet, one row a face, read back only when whole.

Columns: `photo` (path within the folder), `photo_bytes` (the path's bytes, where they are not UTF-8), `face`, `left`,
`top`, `right`, `bottom`, `score`, `size`, `yaw`, `pitch`, `roll`, `sharpness`, `brightness` (see
`iom.photos.photograph.AlignedFace`), on request `landmarks` (x, y of five points), and `code`: packed planes, little
endian, as `encoding` in the file's metadata says. No keys and no embeddings.

Between the data and Parquet's footer stand `SEAL` and the SHA-256 of all other bytes, checked before anything is
parsed, since a damaged footer can end the process that parses it; it detects damage, not forgery. Nothing is
compressed, so that the size of a file bounds the memory that reading it takes.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iom._files import atomic_path, name_of
from iom._untrusted import parse_json, reading
from iom.codes.packing import PackedCodes, code_bytes, encoding_shape, plane_count, unpack, word_count
from iom.errors import CodeError, DataError, needs_extra

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
HEADER = b"iom.codes"
SEAL = b"iom-sha256:"
MEASURES = ("left", "top", "right", "bottom", "score", "size", "yaw", "pitch", "roll", "sharpness", "brightness")
"""Columns of float32; all but the last two are missing where files were aligned faces."""
_ALWAYS = ("sharpness", "brightness")
_HEADER_FIELDS = {"format": int, "encoding": str, "model": str, "key": str, "settings": dict}
ROW_GROUP = 16384
"""Rows of a table that is worth the overhead of a row group."""
_MAGIC = b"PAR1"
_TAIL = 8  # length of the footer, and the magic again


@dataclasses.dataclass(frozen=True, eq=False)
class CodeFile:
    """Packed codes `(N, M)` of a file, and the photograph, number, measures and landmarks of each face.

    `measures` are `(N,)` float32 by the names of `MEASURES`, NaN where there is none; `landmarks` `(N, 5, 2)` or
    `None`. `model` is the fingerprint of hasher and embedder, `key` the public name of the key: codes of two models or
    keys never compare.
    """

    codes: PackedCodes
    photos: tuple[str, ...]
    faces: NDArray[np.int32]
    measures: Mapping[str, NDArray[np.float32]]
    landmarks: NDArray[np.float32] | None
    encoding: str
    model: str
    key: str
    settings: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.photos)


def pyarrow() -> Any:
    """The package that reads and writes Parquet; imported here, since it is optional."""
    with needs_extra("a file of codes", "parquet"):
        import pyarrow as pa
        import pyarrow.parquet
    return pa


def schema_of(header: Mapping[str, Any]) -> "pa.Schema":
    """Columns of a file of codes with this header."""
    pa = pyarrow()
    fields = [
        pa.field("photo", pa.string(), nullable=False),
        pa.field("photo_bytes", pa.binary()),
        pa.field("face", pa.int32(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=name not in _ALWAYS) for name in MEASURES),
        pa.field("code", pa.binary(code_bytes(header["encoding"])), nullable=False),
    ]
    if header["settings"].get("landmarks"):
        fields.insert(-1, pa.field("landmarks", pa.list_(pa.float32(), 10), nullable=False))
    return pa.schema(fields)


def write_codes(path: Path, header: Mapping[str, Any], tables: Iterable["pa.Table"]) -> int:
    """Write tables of `schema_of` as one file, atomically, with bounded memory; returns the number of rows.

    `header` holds `format`, `encoding`, `model`, `key` and `settings`; each table becomes a row group.
    """
    pa = pyarrow()
    text = json.dumps(header, sort_keys=True).encode()
    schema = schema_of(header).with_metadata({HEADER: text})
    rows = 0
    with atomic_path(path) as temporary:
        with pa.parquet.ParquetWriter(
            temporary, schema, compression="none", use_dictionary=False, write_statistics=False
        ) as writer:
            for table in tables:
                writer.write_table(table.cast(schema), row_group_size=len(table))
                rows += len(table)
        _seal(temporary)
    return rows


def read_codes(path: Path | str) -> CodeFile:
    """Read what `write_codes` wrote; a damaged, cut off or changed file is a `DataError`."""
    path = Path(path)
    header, table = read_table(path)
    encoding = str(header["encoding"])
    code_length, alphabet_size = encoding_shape(encoding)
    shape = (len(table), plane_count(alphabet_size), word_count(code_length))
    joined = b"".join(table["code"].to_pylist())
    planes = np.frombuffer(joined, "<u8").astype(np.uint64).reshape(shape)
    landmarks = None
    if "landmarks" in table.column_names:
        numbers = table["landmarks"].combine_chunks().flatten()
        landmarks = numbers.to_numpy(zero_copy_only=False).reshape(-1, 5, 2)
    try:
        codes = PackedCodes(planes, code_length, alphabet_size)
        unpack(codes)  # finds symbols outside of the alphabet
    except CodeError as error:
        raise DataError(f"{path}: damaged: {error}") from error
    raw = table["photo_bytes"].to_pylist()
    names = zip(table["photo"].to_pylist(), raw, strict=True)
    return CodeFile(
        codes,
        tuple(name_of(text, each) for text, each in names),
        table["face"].to_numpy(),
        {name: table[name].to_numpy().astype(np.float32) for name in MEASURES},
        landmarks,
        encoding,
        header["model"],
        header["key"],
        header["settings"],
    )


def read_table(path: Path) -> tuple[dict[str, Any], "pa.Table"]:
    """Header and rows of a file of codes, checked; see `read_codes` for the errors."""
    pa = pyarrow()
    with reading(path, "a file of codes (Parquet, written by iom hash)"):
        _check_seal(path)
        with pa.parquet.ParquetFile(path) as file:
            header = _header(path, file)
            table = file.read()
        table.validate(full=True)
        columns = zip(table.schema, table.columns, strict=True)
        if any(column.null_count and not field.nullable for field, column in columns):
            raise DataError(f"{path}: damaged: a column lacks values")
    return header, table


def _header(path: Path, file: Any) -> dict[str, Any]:
    """The header; columns other than it says, and content that could grow while it is read, are refused."""
    metadata = file.metadata.metadata or {}
    if HEADER not in metadata:
        raise DataError(f"{path}: expected a file written by iom hash, received another Parquet")
    header = parse_json(metadata[HEADER])
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DataError(f"{path}: expected format {FORMAT} of files of codes; read it with the program that wrote it")
    for name, kind in _HEADER_FIELDS.items():
        if not isinstance(header.get(name), kind):
            raise DataError(f"{path}: damaged: its metadata hold no {name}")
    try:
        encoding_shape(header["encoding"])
    except CodeError as error:
        raise DataError(f"{path}: {error}") from error
    if not file.schema_arrow.equals(schema_of(header)):
        raise DataError(f"{path}: damaged or changed: its columns are not those of a code file")
    size = path.stat().st_size
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    stated = sum(group.total_byte_size for group in groups)
    if file.metadata.num_rows * code_bytes(header["encoding"]) > size or stated > size:
        raise DataError(f"{path}: damaged: it states more than it can hold")
    return header


def _seal(path: Path) -> None:
    """Put the digest of a finished file in front of its footer."""
    with path.open("r+b") as stream:
        footer = _footer_start(path, stream)
        digest = _digest(stream, footer, footer)
        stream.seek(footer)
        rest = stream.read()
        stream.seek(footer)
        stream.write(SEAL + digest + rest)


def _check_seal(path: Path) -> None:
    with path.open("rb") as stream:
        footer = _footer_start(path, stream)
        seal = footer - len(SEAL) - hashlib.sha256().digest_size
        stream.seek(max(seal, 0))
        found = stream.read(footer - max(seal, 0))
        if seal < 0 or not found.startswith(SEAL):
            raise DataError(f"{path}: expected a file written by iom hash, received another Parquet")
        if found[len(SEAL) :] != _digest(stream, seal, footer):
            raise DataError(f"{path}: damaged: its SHA-256 is another than when it was written")


def _footer_start(path: Path, stream: IO[bytes]) -> int:
    """Where the footer of a Parquet file begins, by its last bytes."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - _TAIL))
    tail = stream.read()
    footer = size - _TAIL - int.from_bytes(tail[:4], "little")
    if size < 2 * _TAIL or tail[4:] != _MAGIC or footer < len(_MAGIC):
        raise DataError(
            f"{path}: expected a file of codes (Parquet, written by iom hash), received a part of "
            "one, or something else"
        )
    return footer


def _digest(stream: IO[bytes], first_end: int, second_start: int) -> bytes:
    """SHA-256 of a file up to `first_end` and from `second_start` on."""
    digest = hashlib.sha256()
    stream.seek(0)
    left = first_end
    while left and (block := stream.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    stream.seek(second_start)
    digest.update(stream.read())
    return digest.digest()

"""Codes as bit planes: the form in which they are stored and compared.

A symbol below q is written with b = ceil(log2 q) bits; plane p of a code holds bit p of all its symbols, 64 to a word.
Two symbols differ where any of their bits differ, so the code distance is `popcount(OR over planes of XOR)`, exact for
every alphabet. A 512x8 code takes 192 bytes.
"""

import dataclasses
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._registry import lookup
from iom.codes.asymmetric import ASYMMETRIC, SYMBOLS
from iom.errors import CodeError

WORD_BITS = 64
LAYOUT = "iom-planes/1"
MAX_CODE_LENGTH = 65536
MAX_ALPHABET_SIZE = 256
_ENCODING = re.compile(rf"{LAYOUT}:([1-9]\d{{0,4}})x([1-9]\d{{0,2}})(?:;({ASYMMETRIC}))?")
_ROWS_AT_A_TIME = 4096  # bounds the temporary arrays of pack and unpack to a few megabytes


def plane_count(alphabet_size: int) -> int:
    """Bits of one symbol, `ceil(log2 alphabet_size)`."""
    if not 2 <= alphabet_size <= MAX_ALPHABET_SIZE:
        raise CodeError(f"alphabet_size: expected 2 to {MAX_ALPHABET_SIZE}, received {alphabet_size}")
    return (alphabet_size - 1).bit_length()


def word_count(code_length: int) -> int:
    """Words of one plane, `ceil(code_length / 64)`."""
    if not 1 <= code_length <= MAX_CODE_LENGTH:
        raise CodeError(f"code_length: expected 1 to {MAX_CODE_LENGTH}, received {code_length}")
    return -(-code_length // WORD_BITS)


def encoding_id(code_length: int, alphabet_size: int, comparison: str = SYMBOLS) -> str:
    """Name of the stored form of codes: layout, M and Q, and how they are compared where not by symbols.

    Examples:
        >>> encoding_id(512, 8)
        'iom-planes/1:512x8'
        >>> encoding_id(512, 2, "asymmetric")
        'iom-planes/1:512x2;asymmetric'
    """
    suffixes = {SYMBOLS: "", ASYMMETRIC: f";{ASYMMETRIC}"}
    return f"{LAYOUT}:{code_length}x{alphabet_size}{lookup(suffixes, comparison, 'comparison')}"


def encoding_shape(encoding: str) -> tuple[int, int]:
    """`(M, Q)` of an encoding id; a `CodeError` for an unknown layout."""
    match = _parsed(encoding)
    return int(match[1]), int(match[2])


def encoding_comparison(encoding: str) -> str:
    """How codes of an encoding id are compared, "symbols" or "asymmetric"; a `CodeError` for an unknown layout."""
    return _parsed(encoding)[3] or SYMBOLS


def _parsed(encoding: str) -> re.Match[str]:
    match = _ENCODING.fullmatch(encoding)
    if match is None:
        raise CodeError(
            f"encoding: expected '{LAYOUT}:<code length>x<alphabet size>', received {encoding!r}; "
            "read it with the program that wrote it"
        )
    return match


def code_bytes(encoding: str) -> int:
    """Bytes of one stored code: whole 64-bit words, little endian, plane after plane."""
    code_length, alphabet_size = encoding_shape(encoding)
    return 8 * plane_count(alphabet_size) * word_count(code_length)


@dataclasses.dataclass(frozen=True, eq=False)
class PackedCodes:
    """Codes in bit planes of 64-bit words, `(N, ceil(log2 Q), ceil(M / 64))`.

    Bit j of word w of a plane belongs to position 64 w + j; bits past the last position are zero.
    """

    planes: NDArray[np.uint64] = dataclasses.field(repr=False)
    code_length: int
    alphabet_size: int

    def __post_init__(self) -> None:
        expected = (plane_count(self.alphabet_size), word_count(self.code_length))
        if self.planes.dtype != np.uint64 or self.planes.shape[1:] != expected:
            raise CodeError(
                f"bit planes of {self.code_length}x{self.alphabet_size} codes: expected uint64 "
                f"(N, {expected[0]}, {expected[1]}), received {self.planes.dtype} "
                f"{self.planes.shape}"
            )
        used = self.code_length % WORD_BITS
        if used and np.any(self.planes[:, :, -1] >> np.uint64(used)):
            raise CodeError("bit planes: expected zeros after the last position, received ones")
        if not self.planes.flags.c_contiguous:
            object.__setattr__(self, "planes", np.ascontiguousarray(self.planes))

    def __len__(self) -> int:
        return int(self.planes.shape[0])

    def __getitem__(self, rows: slice | NDArray[Any]) -> "PackedCodes":
        """Some rows: a slice, an index array or a mask; a single number is refused."""
        if not isinstance(rows, slice | np.ndarray):
            raise CodeError(f"rows: expected a slice or an array, received {type(rows).__name__}")
        return PackedCodes(self.planes[rows], self.code_length, self.alphabet_size)


def pack(codes: NDArray[Any], alphabet_size: int) -> PackedCodes:
    """Write codes `(N, M)`, integers of `0 <= symbol < alphabet_size <= 256`, as bit planes; a `CodeError` for others.

    Examples:
        >>> packed = pack(np.array([[0, 3, 1], [2, 2, 0]]), 4)
        >>> packed.planes.tolist()
        [[[6], [2]], [[0], [3]]]
        >>> unpack(packed).tolist()
        [[0, 3, 1], [2, 2, 0]]
    """
    codes = np.asarray(codes)
    if codes.ndim != 2:
        raise CodeError(f"codes: expected a matrix (N, M), received shape {codes.shape}")
    if not np.issubdtype(codes.dtype, np.integer):
        raise CodeError(
            f"codes: expected integer symbols, received {codes.dtype}; take the argmax of responses before packing"
        )
    count, code_length = codes.shape
    bits = plane_count(alphabet_size)
    words = word_count(code_length)
    lowest, highest = (int(codes.min()), int(codes.max())) if count else (0, 0)
    if lowest < 0 or highest >= alphabet_size:
        raise CodeError(f"codes: expected symbols 0 to {alphabet_size - 1}, received {lowest} to {highest}")
    octets = np.zeros((count, bits, 8 * words), np.uint8)
    used = -(-code_length // 8)
    for start in range(0, count, _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        symbols = codes[rows].astype(np.uint8)
        for plane in range(bits):
            octets[rows, plane, :used] = np.packbits(symbols & np.uint8(1 << plane), axis=1, bitorder="little")
    return PackedCodes(octets.view("<u8").astype(np.uint64, copy=False), code_length, alphabet_size)


def unpack(packed: PackedCodes) -> NDArray[np.uint8]:
    """Codes `(N, M)` of bit planes, the inverse of `pack`; a `CodeError` for a symbol outside the alphabet (damage)."""
    octets = packed.planes.astype("<u8", copy=False).view(np.uint8)
    codes = np.zeros((len(packed), packed.code_length), np.uint8)
    for start in range(0, len(packed), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        for plane in range(octets.shape[1]):
            codes[rows] |= np.unpackbits(
                octets[rows, plane], axis=1, count=packed.code_length, bitorder="little"
            ) << np.uint8(plane)
    if len(packed) and int(codes.max()) >= packed.alphabet_size:
        raise CodeError(
            f"bit planes: expected symbols 0 to {packed.alphabet_size - 1}, received "
            f"{int(codes.max())}; the packed codes are damaged"
        )
    return codes

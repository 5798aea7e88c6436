"""Asymmetric distance: a stored code against the keyed row of a probe (Jegou, Douze and Schmid, IEEE TPAMI 2011).

A code c stands for V(c), the sum of the vectors that it chose. Its distance to a probe's keyed row u is one minus
their cosine, in ten-thousandths, an integer: `rint(UNIT * (1 - S / (|V(c)| |u|)))` with S = <V(c), u>, the sum of one
response a position. Vectors and rows are rounded to integers first, so that S is exact: matrix products, look-ups of
responses and kernels agree to the last unit, ties included.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom._registry import COMPARISONS
from iom.errors import CodeError

SYMBOLS, ASYMMETRIC = COMPARISONS
UNIT = 10_000
"""Parts of `1 - cosine` in a distance."""
LENGTH = 4096
"""Length of a keyed row and of the longest vector before they are rounded."""
MAX_DISTANCE = 2 * UNIT
_BLOCK_BYTES = 1 << 25
_FEW_DIMENSIONS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class CodeVectors:
    """Integer vectors that the symbols of a code stand for.

    Attributes:
        kernel: `(K, M * Q)` int32, those of a position side by side.
        alphabet_size: Q.
    """

    kernel: NDArray[np.int32] = dataclasses.field(repr=False)
    alphabet_size: int

    @classmethod
    def of_kernel(cls, kernel: ArrayLike, alphabet_size: int, *, centred: bool = True) -> "CodeVectors":
        """The vectors of a projection `(K, M * Q)`, those of a position side by side.

        The longest vector is scaled to `LENGTH`. With `centred` the mean of each position is taken off, which no argmax
        sees; one with a half-norm bias does see it.

        Raises:
            CodeError: Not a finite matrix of M * Q columns, or no vectors of different symbols.
        """
        wide = np.asarray(kernel, np.float64)
        if wide.ndim != 2 or alphabet_size < 2 or wide.shape[1] % alphabet_size or not np.isfinite(wide).all():
            raise CodeError(
                f"code vectors: expected finite values (K, M * {alphabet_size}), received shape {wide.shape}"
            )
        positions = wide.reshape(len(wide), -1, alphabet_size)
        vectors = (positions - positions.mean(axis=2, keepdims=True)).reshape(wide.shape) if centred else wide
        longest = np.sqrt(np.square(vectors).sum(axis=0).max(initial=0.0))
        if not longest > 0:
            raise CodeError("code vectors: all symbols of a position have the same vector")
        return cls(np.rint(vectors * (LENGTH / longest)).astype(np.int32), alphabet_size)

    @property
    def code_length(self) -> int:
        """M."""
        return int(self.kernel.shape[1]) // self.alphabet_size

    @property
    def row_size(self) -> int:
        """K, entries of a keyed row."""
        return len(self.kernel)

    @functools.cached_property
    def _wide(self) -> NDArray[np.float64]:
        return self.kernel.astype(np.float64)

    @functools.cached_property
    def _blocks(self) -> NDArray[np.float64] | None:
        """Vectors `(M, d, Q)` of a product frame with few dimensions a position, which sees its own block alone."""
        size, rest = divmod(self.row_size, self.code_length)
        if rest or not 1 <= size <= _FEW_DIMENSIONS:
            return None
        positions = np.arange(self.code_length)
        own = self._wide.reshape(self.code_length, size, self.code_length, -1)[positions, :, positions]
        return own if np.count_nonzero(own) == np.count_nonzero(self.kernel) else None

    def read_back(self, codes: ArrayLike) -> NDArray[np.float64]:
        """V(c), the sum of the vectors that codes `(N, M)` chose, `(N, K)`, exact integers.

        Raises:
            CodeError: Codes of another shape or alphabet.
        """
        symbols = self._checked(codes)
        sums = np.empty((len(symbols), self.row_size))
        step = max(1, _BLOCK_BYTES // (8 * self.kernel.shape[1]))
        for start in range(0, len(symbols), step):
            block = symbols[start : start + step, :, None] == np.arange(self.alphabet_size)
            sums[start : start + step] = block.reshape(len(block), -1).astype(np.float64) @ self._wide.T
        return sums

    def lengths(self, codes: ArrayLike) -> NDArray[np.float64]:
        """|V(c)| of codes `(N, M)`, `(N,)`."""
        return row_lengths(self.read_back(codes))

    def responses(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """<w_ij, u> of keyed rows `(B, K)`, `(B, M, Q)`: the look-up table of each probe.

        Raises:
            CodeError: Rows of another size.
        """
        wide = self.checked_rows(rows).astype(np.float64)
        if self._blocks is None:
            return (wide @ self._wide).astype(np.int32).reshape(len(wide), -1, self.alphabet_size)
        parts = wide.reshape(len(wide), self.code_length, -1, 1)
        return np.asarray(sum(parts[:, :, n] * self._blocks[:, n] for n in range(parts.shape[2])), np.int32)

    def checked_rows(self, rows: ArrayLike) -> NDArray[np.int32]:
        """Keyed rows `(B, K)` as they are; a `CodeError` for another size or type."""
        found: NDArray[Any] = np.asarray(rows)
        if found.ndim != 2 or found.shape[1] != self.row_size or found.dtype != np.int32:
            raise CodeError(
                f"asymmetric distance: expected keyed rows (B, {self.row_size}) of int32, received "
                f"{found.dtype} {found.shape}"
            )
        return found

    def _checked(self, codes: ArrayLike) -> NDArray[Any]:
        symbols: NDArray[Any] = np.asarray(codes)
        if symbols.ndim != 2 or symbols.shape[1] != self.code_length or not np.issubdtype(symbols.dtype, np.integer):
            raise CodeError(
                f"asymmetric distance: expected codes (N, {self.code_length}) of integers, received {symbols.dtype} "
                f"{symbols.shape}"
            )
        if symbols.size and not 0 <= symbols.min() <= symbols.max() < self.alphabet_size:
            raise CodeError(f"asymmetric distance: expected symbols 0 to {self.alphabet_size - 1}, received others")
        return symbols


def keyed_rows(rows: ArrayLike) -> NDArray[np.int32]:
    """Keyed rows `(B, K)` of floats at length `LENGTH`, rounded; a zero row stays zero.

    Raises:
        CodeError: Not finite rows `(B, K)`.
    """
    wide = np.asarray(rows, np.float64)
    if wide.ndim != 2 or not np.isfinite(wide).all():
        raise CodeError(f"asymmetric distance: expected finite rows (B, K), received shape {wide.shape} or others")
    lengths = row_lengths(wide)[:, None]
    scale = np.divide(LENGTH, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return np.rint(wide * scale).astype(np.int32)


def row_lengths(rows: ArrayLike) -> NDArray[np.float64]:
    """Euclidean lengths `(N,)` of rows `(N, K)`; the sum of squares of integers is exact."""
    return np.asarray(np.sqrt(np.square(np.asarray(rows, np.float64)).sum(axis=-1)))


def asymmetric_distances(products: ArrayLike, code_lengths: ArrayLike, probe_lengths: ArrayLike) -> NDArray[np.int32]:
    """Distances of the products S = <V(c), u>, exact integers, with the lengths |V(c)| and |u|, all broadcast together.

    Where a length is zero there is no direction, and the distance is `UNIT`, that of a right angle.

    Examples:
        >>> asymmetric_distances([12, 0, -12], 3.0, 4.0).tolist()
        [0, 10000, 20000]
    """
    both = np.multiply(code_lengths, probe_lengths, dtype=np.float64)
    wide = np.asarray(products, np.float64)
    cosines = np.divide(wide, both, out=np.zeros(np.broadcast_shapes(wide.shape, both.shape)), where=both > 0)
    return np.maximum(np.rint(UNIT * (1.0 - cosines)), 0.0).astype(np.int32)

"""Common base of the data-agnostic protections, and random numbers that follow from a key."""

import abc
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from iom._blas import one_thread
from iom.codes.asymmetric import CodeVectors, keyed_rows
from iom.codes.comparators import Coder
from iom.codes.packing import plane_count
from iom.config import CodeConfig
from iom.errors import ConfigError, DataError, KeyMaterialError
from iom.keys import TransformKey
from iom.nn.frames import orthonormal_columns

Keys = TransformKey | Sequence[TransformKey]


class Protection(Coder):
    """Base of the protections: embeddings and keys in, templates of M positions and Q values (0: real numbers) out.

    It checks the arguments, and hashes the rows of one key together. Of `code` only `code_length`, `alphabet_size` and
    `keep` count. `seed` has no effect where everything follows from the key.
    """

    title: ClassVar[str]
    """Name of the method, in errors."""
    takes_keep: ClassVar[bool] = False
    """Whether the key's permutation may keep fewer than D dimensions."""
    dtype: ClassVar[type[np.generic]] = np.uint8
    """Type of an entry of a template."""

    def __init__(self, embedding_size: int, code: CodeConfig, seed: int = 0) -> None:
        if code.keep and not self.takes_keep:
            raise ConfigError(f"code.keep: {self.title} has no such step; set it to 0")
        if code.keep > embedding_size:
            raise ConfigError(f"code.keep: expected at most {embedding_size}, received {code.keep}")
        self.embedding_size = embedding_size
        self.keep = code.keep or embedding_size
        self.code_length = code.code_length
        self.alphabet_size = code.alphabet_size

    @property
    def public_projection(self) -> NDArray[np.float32] | None:
        """`(K, M, Q)` of Index-of-Max by one projection, the same for all keys, behind a permutation that keeps K."""
        return None

    @functools.cached_property
    def vectors(self) -> CodeVectors:
        """What the symbols of a code stand for.

        Raises:
            ConfigError: Not an Index-of-Max by one public projection, whose codes are compared by symbols alone.
        """
        public = self.public_projection
        if public is None:
            raise ConfigError(
                f"{type(self).__name__}: no public projection stands behind its key; compare its templates by symbols"
            )
        return CodeVectors.of_kernel(public.reshape(len(public), -1), self.alphabet_size)

    def rows(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[np.int32]:
        """Keyed rows `(N, K)` of embeddings `(N, D)`, behind the permutation of a key that keeps K dimensions."""
        rows, size = self._checked(embeddings, keys), self.vectors.row_size
        each = [keys] * len(rows) if isinstance(keys, TransformKey) else keys
        distinct = {key.secret: key for key in each}
        order_of = {secret: key.permutation(self.embedding_size)[:size] for secret, key in distinct.items()}
        orders = np.array([order_of[key.secret] for key in each], np.intp).reshape(len(rows), size)
        return keyed_rows(np.take_along_axis(rows, orders, axis=1))

    def hash(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[Any]:
        """Templates `(N, M)` of embeddings `(N, D)` under one key for all, or one for each."""
        rows = self._checked(embeddings, keys)
        if isinstance(keys, TransformKey):
            return self._hash_rows(rows, keys).astype(self.dtype)
        return self._hash_each(rows, keys)

    def _checked(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[np.float32]:
        """Finite embeddings `(N, D)`, of which each has a key."""
        rows = np.asarray(embeddings, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.embedding_size or not np.isfinite(rows).all():
            raise DataError(f"expected finite embeddings (N, {self.embedding_size}), received {rows.shape} or NaN")
        if not isinstance(keys, TransformKey) and len(keys) != len(rows):
            raise KeyMaterialError(f"expected one key, or {len(rows)}, received {len(keys)}")
        return rows

    def _hash_each(self, rows: NDArray[np.float32], keys: Sequence[TransformKey]) -> NDArray[Any]:
        """Templates of rows `(N, D)`, each under its own key."""
        codes = np.empty((len(rows), self.code_length), self.dtype)
        rows_of: dict[bytes, list[int]] = {}
        for row, key in enumerate(keys):
            rows_of.setdefault(key.secret, []).append(row)
        for secret, group in rows_of.items():
            codes[group] = self._hash_rows(rows[group], TransformKey(secret))
        return codes

    @abc.abstractmethod
    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[Any]:
        """Templates `(n, M)` of rows `(n, D)` that share a key."""


def stored_bits(code: CodeConfig) -> int:
    """Bits that a code of this shape takes: what systems are compared at."""
    return code.code_length * plane_count(code.alphabet_size)


def keyed_words(key: TransformKey, purpose: str, *shape: int) -> NDArray[np.uint64]:
    """64-bit words of a stream of the key."""
    count = int(np.prod(shape))
    return np.frombuffer(key.stream(purpose, 8 * count), dtype="<u8").reshape(shape)


def keyed_normals(key: TransformKey, purpose: str, *shape: int) -> NDArray[np.float64]:
    """Standard normal numbers by Box and Muller from the key's stream: NumPy's generators may change with versions."""
    words = keyed_words(key, purpose, 2, *shape)
    # 53 bits each; half a step off zero, whose logarithm is not finite.
    first, second = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second))


def keyed_orthonormal(key: TransformKey, purpose: str, rows: int, size: int) -> NDArray[np.float64]:
    """Random orthonormal rows, `(rows, size)`, uniform over all frames, for `rows <= size`."""
    with one_thread():
        return orthonormal_columns(keyed_normals(key, purpose, size, rows)).T


def keyed_blocks(key: TransformKey, purpose: str, rows: int, size: int) -> NDArray[np.float64]:
    """Any number of random rows, `(rows, size)`: blocks that are orthonormal within themselves."""
    return np.concatenate(
        [keyed_orthonormal(key, f"{purpose}/{start}", min(size, rows - start), size) for start in range(0, rows, size)]
    )


def keyed_orders(key: TransformKey, purpose: str, count: int, size: int) -> NDArray[np.intp]:
    """`count` orders of `size` entries, `(count, size)`."""
    return np.argsort(keyed_words(key, purpose, count, size), axis=1, kind="stable")

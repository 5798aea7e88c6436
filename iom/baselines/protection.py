"""The interface that every data-agnostic protection has, and what they share."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from iom.codes.comparators import Comparator, SymbolComparator
from iom.codes.packing import plane_count
from iom.config.hashing import HasherConfig
from iom.errors import ConfigError, DataError, KeyMaterialError
from iom.keys import TransformKey

Keys = TransformKey | Sequence[TransformKey]


class Protection(Protocol):
    """Embeddings and keys in, codes out, which are compared by their differing positions.

    Attributes:
        code_length: M, positions of a code.
        alphabet_size: Q, values of a symbol; 0 where templates are real numbers.
    """

    code_length: int
    alphabet_size: int

    def hash(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[Any]:
        """Codes `(N, M)` of embeddings `(N, D)` under one key for all, or one for each."""
        ...


@runtime_checkable
class ComparedItsOwnWay(Protocol):
    """A protection whose templates are not compared by differing positions.

    Attributes:
        comparator: How they are.
    """

    @property
    def comparator(self) -> Comparator:
        """How its templates are compared."""
        ...


@runtime_checkable
class BehindThePermutation(Protocol):
    """A protection that is Index-of-Max of one public projection behind the keyed permutation.

    Attributes:
        public_projection: Its vectors, `(K, M, Q)`; the key's permutation keeps the first K.
    """

    @property
    def public_projection(self) -> NDArray[np.float32]:
        """The same for all keys."""
        ...


class HashedByKey(abc.ABC):
    """What most protections share: arguments are checked, and rows of one key hashed together.

    Attributes:
        embedding_size: D.
        code_length: M.
        dtype: Type of an entry of a template.
    """

    embedding_size: int
    code_length: int
    dtype: ClassVar[type[np.generic]] = np.uint8

    def hash(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[Any]:
        """Templates `(N, M)` of embeddings `(N, D)` under one key for all, or one for each.

        Raises:
            DataError: Embeddings of another size, or not finite.
            KeyMaterialError: Another number of keys than rows.
        """
        rows = checked_rows(embeddings, self.embedding_size)
        if isinstance(keys, TransformKey):
            return self._hash_rows(rows, keys).astype(self.dtype)
        codes = np.empty((len(rows), self.code_length), self.dtype)
        rows_of: dict[bytes, list[int]] = {}
        for row, secret in enumerate(secrets_of(keys, len(rows))):
            rows_of.setdefault(secret, []).append(row)
        for secret, group in rows_of.items():
            codes[group] = self._hash_rows(rows[group], TransformKey(secret))
        return codes

    @abc.abstractmethod
    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[Any]:
        """Templates `(n, M)` of rows `(n, D)` that share a key."""


def comparator_of(protection: Protection) -> Comparator:
    """How templates of a protection are compared: its own way, or by differing positions."""
    if isinstance(protection, ComparedItsOwnWay):
        return protection.comparator
    return SymbolComparator(protection.alphabet_size)


def stored_bits(code: HasherConfig) -> int:
    """Bits that a code of this shape takes: what systems are compared at."""
    return code.code_length * plane_count(code.alphabet_size)


def refuse_keep(code: HasherConfig, name: str) -> None:
    """Refuse a reduction after the permutation, in methods that have no such step.

    Raises:
        ConfigError: `keep` is set.
    """
    if code.keep:
        raise ConfigError(f"code.keep: {name} has no such step; set it to 0")


def checked_rows(embeddings: NDArray[np.float32], embedding_size: int) -> NDArray[np.float32]:
    """The embeddings `(N, D)` as float32.

    Raises:
        DataError: Embeddings of another size, or not finite.
    """
    rows = np.asarray(embeddings, np.float32)
    if rows.ndim != 2 or rows.shape[1] != embedding_size or not np.isfinite(rows).all():
        raise DataError(f"expected finite embeddings (N, {embedding_size}), received {rows.shape} or NaN")
    return rows


def secrets_of(keys: Keys, rows: int) -> list[bytes]:
    """The secret of each row's key.

    Raises:
        KeyMaterialError: Another number of keys than rows.
    """
    if isinstance(keys, TransformKey):
        return [keys.secret] * rows
    if len(keys) != rows:
        raise KeyMaterialError(f"expected one key, or {rows}, received {len(keys)}")
    return [key.secret for key in keys]

"""The interface that every data-agnostic protection has, and what they share."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from iom.errors import DataError, KeyMaterialError
from iom.keys import TransformKey

Keys = TransformKey | Sequence[TransformKey]


class Protection(Protocol):
    """Embeddings and keys in, codes out.

    Attributes:
        code_length: M, positions of a code.
        alphabet_size: Q, values of a symbol.
    """

    code_length: int
    alphabet_size: int

    def hash(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[np.uint8]:
        """Codes `(N, M)` of embeddings `(N, D)` under one key for all, or one for each."""
        ...


def hash_by_key(
    embeddings: NDArray[np.float32],
    keys: Keys,
    *,
    embedding_size: int,
    code_length: int,
    hash_rows: Callable[[NDArray[np.float32], TransformKey], NDArray[np.intp]],
) -> NDArray[np.uint8]:
    """Check the arguments and hash the rows of each key together.

    Args:
        embeddings: `(N, D)`.
        keys: One key, or N.
        embedding_size: D.
        code_length: M.
        hash_rows: Codes `(n, M)` of rows `(n, D)` that share a key.

    Raises:
        DataError: Embeddings of another size, or not finite.
        KeyMaterialError: Another number of keys than rows.
    """
    rows = np.asarray(embeddings, np.float32)
    if rows.ndim != 2 or rows.shape[1] != embedding_size or not np.isfinite(rows).all():
        raise DataError(
            f"expected finite embeddings (N, {embedding_size}), received {rows.shape} or NaN"
        )
    if isinstance(keys, TransformKey):
        return hash_rows(rows, keys).astype(np.uint8)
    if len(keys) != len(rows):
        raise KeyMaterialError(f"expected one key, or {len(rows)}, received {len(keys)}")
    codes = np.empty((len(rows), code_length), np.uint8)
    rows_of: dict[bytes, list[int]] = {}
    for row, key in enumerate(keys):
        rows_of.setdefault(key.secret, []).append(row)
    for secret, group in rows_of.items():
        codes[group] = hash_rows(rows[group], TransformKey(secret))
    return codes

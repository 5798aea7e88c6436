"""Sorted values: compare templates with photographs, and with each other, without any key.

A code, read back with the public projection, gives the keyed row nearly exactly. A key that only moves dimensions
leaves the sorted values of that row as they were, and those tell a photograph from thousands of others.
"""

import numpy as np
from numpy.typing import NDArray

from iom.attacks.base import Embeddings, Leak, unit
from iom.attacks.closed_form import read_back

Pairs = NDArray[np.intp]


def photographs_by_sorted_values(leak: Leak) -> NDArray[np.float64]:
    """How well each public photograph fits each stolen code.

    Where keys of a kind may choose between windows of dimensions, the best window counts.

    Args:
        leak: Codes of N victims, `(N, M)`, and T photographs.

    Returns:
        Cosines of sorted rows, `(N, T)`, higher = more likely that photograph.
    """
    rows = keyed_rows(leak)
    values = sorted_values(rows)
    windows = leak.system.public("before_key")(leak.known("photographs"))
    fits = [values @ sorted_values(window, rows.shape[1]).T for window in windows]
    return np.asarray(np.max(fits, axis=0))


def link_by_sorted_values(first: Leak, second: Leak, left: Pairs, right: Pairs) -> NDArray[np.float64]:
    """Cosine of the sorted rows that two codes point at.

    Args:
        first: Codes under one key, `(N, M)`.
        second: Codes under another key.
        left: Row of `first` in each pair, `(P,)`.
        right: Row of `second`, `(P,)`.

    Returns:
        `(P,)`, higher = more likely the same subject.
    """
    one, other = (sorted_values(keyed_rows(leak)) for leak in (first, second))
    return np.asarray(np.einsum("pk,pk->p", one[left], other[right]))


def keyed_rows(leak: Leak) -> Embeddings:
    """The rows behind the key, as near as the first record's codes tell, `(N, K)`, unit length."""
    vectors = leak.system.public("public_vectors")
    return unit(read_back(vectors - vectors.mean(axis=2, keepdims=True), leak.known("codes")[0]))


def sorted_values(rows: Embeddings, size: int = 0) -> NDArray[np.float64]:
    """Values of each row in ascending order, at unit length.

    Args:
        rows: `(N, K)`.
        size: Wanted number of values; with fewer than K, evenly spaced quantiles stand for the values of an unknown
            choice among them. 0 is K.
    """
    values = np.sort(rows.astype(np.float64), axis=1)
    if size and size != values.shape[1]:
        places = (np.arange(size) + 0.5) * values.shape[1] / size - 0.5
        below = np.floor(places).astype(int)
        above = np.minimum(below + 1, values.shape[1] - 1)
        values = values[:, below] + (places - below) * (values[:, above] - values[:, below])
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(lengths, 1e-12), np.float64)

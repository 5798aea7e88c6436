"""Closed form: the sum of the vectors that a code chose points back at the embedding."""

import numpy as np

from iom.attacks.base import Embeddings, Leak, Templates, Vectors, unit


def read_back(vectors: Vectors, codes: Templates) -> Embeddings:
    """Sum of the chosen vectors, `sum_i w_{i, t_i}`, `(N, D)`.

    Args:
        vectors: Centred projection vectors, `(D, M, Q)`.
        codes: `(N, M)`.
    """
    size, length, alphabet_size = vectors.shape
    chosen = one_hot(codes, alphabet_size).reshape(len(codes), length * alphabet_size)
    return np.asarray(chosen @ vectors.reshape(size, -1).T)


def one_hot(codes: Templates, alphabet_size: int) -> Embeddings:
    """Codes `(N, M)` as `(N, M, Q)`, zeros and ones."""
    symbols = np.arange(alphabet_size, dtype=codes.dtype)
    return np.asarray(codes[:, :, None] == symbols, np.float32)


def closed_form(leak: Leak) -> Embeddings:
    """`x = sum_i (w_{i, t_i} - mean_j w_ij)` over all positions of all records.

    For independent vectors it is parallel to the embedding on average, and its error falls with the number of
    positions. Refined codes are made so that it has nearly none.
    """
    return unit(read_back(*leak.stacked()))

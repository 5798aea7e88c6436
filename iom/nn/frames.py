"""Initial projections of Index-of-Max: M positions of Q vectors each, drawn with NumPy.

A frame that spreads its vectors evenly makes less noise than independent vectors: behind a tight frame (orthonormal
bases side by side) the part of the noise that is of second degree cancels.

In a product frame (product quantisation: Jegou, Douze and Schmid, TPAMI 2011) position i sees block i of the dimensions
alone, and one codebook of Q vectors serves all blocks. Behind a random rotation all blocks are alike, and so it serves
every key, too. With a window of two blocks, position i adds its vector to block i + 1 as well: neighbours share a block
and choose together, which a quantiser with as many bits and separate blocks cannot match.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom._registry import lookup
from iom.errors import ConfigError

Frame = NDArray[np.float32]
"""Vectors as columns, `(size, M * Q)`, those of a position side by side."""
PRODUCT = "product"
"""The product frame, which is not drawn from `FRAMES`: it is a codebook `(window size / M, Q)`, vectors as columns."""
CODEBOOK_ROWS = 1 << 15
"""Blocks that the vectors of a codebook are found on."""


def gaussian_frame(size: int, code_length: int, alphabet_size: int, stream: np.random.Generator) -> Frame:
    """Independent standard normal columns, scaled to length one on average: GRP."""
    values = stream.standard_normal((size, code_length * alphabet_size))
    return (values / np.sqrt(size)).astype(np.float32)


def orthonormal_frame(size: int, code_length: int, alphabet_size: int, stream: np.random.Generator) -> Frame:
    """Columns of random orthonormal bases, one basis after the other: neighbouring vectors are orthogonal."""
    vectors = code_length * alphabet_size
    bases = [orthonormal_columns(stream.standard_normal((size, size))) for _ in range(-(-vectors // size))]
    return np.concatenate(bases, axis=1)[:, :vectors].astype(np.float32)


def simplex_frame(size: int, code_length: int, alphabet_size: int, stream: np.random.Generator) -> Frame:
    """At each position the corners of a regular simplex, in Q - 1 dimensions of a random basis.

    Nothing is spent on the sum of a position's vectors, which no argmax sees. For Q = 2 a position is one direction and
    its opposite, and a code is sign random projection in orthonormal bases.
    """
    _require(alphabet_size - 1 <= size, "simplex", f"Q - 1 <= {size}", alphabet_size)
    centred = np.eye(alphabet_size) - 1.0 / alphabet_size
    corners = np.linalg.svd(centred)[0][:, : alphabet_size - 1]
    return _place(corners / np.linalg.norm(corners, axis=1, keepdims=True), size, code_length, stream)


def cross_polytope_frame(size: int, code_length: int, alphabet_size: int, stream: np.random.Generator) -> Frame:
    """At each position Q / 2 orthonormal directions and their opposites (Andoni et al., 2015); Q is even."""
    _require(alphabet_size % 2 == 0, "cross_polytope", "an even Q", alphabet_size)
    half = alphabet_size // 2
    _require(half <= size, "cross_polytope", f"Q / 2 <= {size}", alphabet_size)
    return _place(np.concatenate([np.eye(half), -np.eye(half)]), size, code_length, stream)


def _place(shape: NDArray[np.float64], size: int, code_length: int, stream: np.random.Generator) -> Frame:
    """Lay the rows of `shape` `(Q, K)` into K directions of random bases, position by position."""
    width = shape.shape[1]
    positions: list[NDArray[np.float64]] = []
    while len(positions) < code_length:
        basis = orthonormal_columns(stream.standard_normal((size, size)))
        starts = range(0, size - width + 1, width)
        positions += [basis[:, start : start + width] @ shape.T for start in starts]
    return np.concatenate(positions[:code_length], axis=1).astype(np.float32)


def orthonormal_columns(normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Random orthonormal columns of standard normal numbers `(D, K)`, K <= D, uniform over all (Mezzadri, 2007)."""
    columns, triangle = np.linalg.qr(normals)
    return np.asarray(columns * np.sign(np.diag(triangle)))


def _require(holds: bool, frame: str, expected: str, alphabet_size: int) -> None:
    if not holds:
        raise ConfigError(
            f"the frame '{frame}' needs {expected}, received alphabet_size {alphabet_size}; take 'orthonormal'"
        )


def block_size(size: int, code_length: int) -> int:
    """Dimensions of a block of the product frame: `size` are cut into M = `code_length` equal ones."""
    if size % code_length:
        divisors = ", ".join(str(number) for number in range(1, size + 1) if size % number == 0)
        raise ConfigError(
            f"hasher.code_length: the product frame cuts the {size} dimensions behind the key into equal blocks: "
            f"expected one of {divisors}, received {code_length}"
        )
    return size // code_length


def drawn_codebook(size: int, code_length: int, alphabet_size: int, *, seed: int, window: int = 1) -> Frame:
    """Codebook `(window size / M, Q)` for unit rows in uniformly random directions, as a random rotation leaves them.

    That of the first block; the other one of a window is zero until it is trained. Needs scikit-learn.
    """
    stream = numpy_stream(seed, "product/rows")
    rows = stream.standard_normal((-(-CODEBOOK_ROWS // code_length), size))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    blocks = rows.reshape(-1, block_size(size, code_length))
    return widened(fitted_codebook(blocks, alphabet_size, seed=seed), window)


def fitted_codebook(blocks: NDArray[np.floating[Any]], alphabet_size: int, *, seed: int) -> Frame:
    """Codebook `(d, Q)` of blocks `(N, d)` by k-means, rounded to half precision."""
    from sklearn.cluster import KMeans

    if len(np.unique(blocks, axis=0)) < alphabet_size:
        raise ConfigError(f"hasher.alphabet_size: {alphabet_size} vectors need as many different rows, received fewer")
    found = KMeans(alphabet_size, n_init=2, random_state=seed).fit(np.asarray(blocks, np.float64))
    return np.asarray(found.cluster_centers_.T, np.float16).astype(np.float32)


def widened(codebook: Frame, window: int) -> Frame:
    """A codebook `(d, Q)` for a window of so many blocks, `(window d, Q)`: zero in the others."""
    return np.concatenate([codebook] + (window - 1) * [np.zeros_like(codebook)])


def product_kernel(codebook: Frame, code_length: int, window: int = 1) -> Frame:
    """The product frame of a codebook `(window d, Q)` as projection vectors `(M d, M Q)`, zero outside their blocks."""
    places = np.eye(code_length, dtype=np.float32)
    parts = np.split(codebook, window)
    return np.sum([np.kron(np.roll(places, shift, axis=0), part) for shift, part in enumerate(parts)], axis=0)


FRAMES: dict[str, Callable[[int, int, int, np.random.Generator], Frame]] = {
    "gaussian": gaussian_frame,
    "orthonormal": orthonormal_frame,
    "simplex": simplex_frame,
    "cross_polytope": cross_polytope_frame,
}
"""Name to `(size, code_length, alphabet_size, stream) -> vectors`."""


def draw_frame(initial: str, size: int, code_length: int, alphabet_size: int, *, seed: int) -> Frame:
    """The vectors `(size, M * Q)` of the frame `initial`, a key of `FRAMES`."""
    stream = numpy_stream(seed, "index-of-max/projection")
    return lookup(FRAMES, initial, "initial projection")(size, code_length, alphabet_size, stream)

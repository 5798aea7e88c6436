"""Random numbers that follow from a key, for transforms whose matrices are the secret."""

import functools

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from iom.keys import TransformKey


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
    """Random orthonormal rows, `(rows, size)`, uniform over all frames, for `rows <= size` (QR: Mezzadri, 2007)."""
    with _threads().limit(limits=1):  # such small matrices only wait for each other's threads
        columns, triangle = np.linalg.qr(keyed_normals(key, purpose, size, rows))
    return np.asarray((columns * np.sign(np.diag(triangle))).T)


def keyed_blocks(key: TransformKey, purpose: str, rows: int, size: int) -> NDArray[np.float64]:
    """Any number of random rows, `(rows, size)`: blocks that are orthonormal within themselves."""
    return np.concatenate(
        [keyed_orthonormal(key, f"{purpose}/{start}", min(size, rows - start), size) for start in range(0, rows, size)]
    )


def keyed_orders(key: TransformKey, purpose: str, count: int, size: int) -> NDArray[np.intp]:
    """`count` orders of `size` entries, `(count, size)`."""
    return np.argsort(keyed_words(key, purpose, count, size), axis=1, kind="stable")


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()

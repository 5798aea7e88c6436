"""Gradient descent with momentum on unit vectors, for systems that are not linear."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from iom.attacks.base import Embeddings, Templates, unit

Rows = NDArray[np.float64]
RATE = 0.1
MOMENTUM = 0.8
SHARPNESSES = (2.0, 8.0)
"""Root mean square of the responses, in turn: soft has few traps, sharp meets the template."""


def descend_on_sphere(gradient: Callable[[Rows], Rows], start: Embeddings | Rows, *, steps: int) -> Rows:
    """Unit vectors `(N, D)` that lower a loss, from `start`.

    A step is relative to the gradient's length, and falls to zero.

    Args:
        gradient: Of the loss of each row, `(N, D)` -> `(N, D)`.
        start: `(N, D)`, unit length.
        steps: How many.
    """
    rows = start.astype(np.float64)
    velocity = np.zeros_like(rows)
    for step in range(steps):
        slope = gradient(rows)
        slope = slope - np.sum(slope * rows, axis=1, keepdims=True) * rows
        velocity = MOMENTUM * velocity - (1 - step / steps) * RATE * unit(slope)
        rows = unit(rows + velocity).astype(np.float64)
    return rows


def descend_sharpening(gradient: Callable[[Rows, float], Rows], start: Embeddings, *, steps: int) -> Rows:
    """Descend in turn for each of `SHARPNESSES`, on from where the last one led.

    Args:
        gradient: Of the loss of each row under a sharpness, `(N, D)` -> `(N, D)`.
        start: `(N, D)`, unit length.
        steps: How many in all.
    """
    rows = start.astype(np.float64)
    for sharpness in SHARPNESSES:

        def slope(at: Rows, sharpness: float = sharpness) -> Rows:
            return gradient(at, sharpness)

        rows = descend_on_sphere(slope, rows, steps=steps // len(SHARPNESSES))
    return rows


def best_of_starts(
    descend: Callable[[Embeddings], Rows],
    mismatch: Callable[[Rows], NDArray[np.float64]],
    start: Embeddings,
    *,
    starts: int,
) -> Embeddings:
    """Of several descents, for each row the one whose template comes nearest, `(N, D)`.

    Args:
        descend: `(N, D)` -> `(N, D)`.
        mismatch: Of the templates of rows with the wanted ones, `(N, D)` -> `(N,)`.
        start: Random, `(N, D)`; further starts are its columns, shifted.
        starts: How many.
    """
    best, lowest = start.astype(np.float64), np.full(len(start), np.inf)
    for turn in range(starts):
        rows = descend(np.roll(start, turn, axis=1))
        wrong = mismatch(rows)
        best = np.where((wrong < lowest)[:, None], rows, best)
        lowest = np.minimum(wrong, lowest)
    return best.astype(np.float32)


def sharpened(responses: Rows, sharpness: float) -> Rows:
    """One factor for each row, so that its responses have this root mean square, `(N, 1, ...)`."""
    axes = tuple(range(1, responses.ndim))
    scale = np.sqrt(np.mean(np.square(responses), axis=axes, keepdims=True))
    return np.asarray(sharpness / np.maximum(scale, 1e-12))


def differing(found: Templates, wanted: Templates) -> NDArray[np.float64]:
    """Share of entries in which two templates differ, `(N,)`."""
    return np.asarray(np.mean(found != wanted, axis=1), np.float64)

"""Known-face attacks: a stolen record store whose templates share one key, and faces of some of the enrolled.

The thief has every template, the public model, embeddings of other people, and k enrolled subjects from photographs:
the enrolled ones, or others. He never has the key. What a template tells of its embedding without a key (`store_rows`)
is the row behind the key, or, where no public projection stands behind it, principal coordinates of the templates:
their mutual distances give every row up to one rotation for all. A few known rows then undo the key for everybody:

- keys that move dimensions: linear assignment of the columns of known rows (Kuhn, 1955), and of moments and covariances
  of the whole store to those of the population, a quadratic assignment by repeated linear ones (Vogelstein et al., PLoS
  ONE 2015);
- keys that mix them: ridge regression, or an orthogonal Procrustes problem (Schonemann, 1966) with the covariance of
  the population as a further term;
- few parameters (PolyProtect): solved for.

Without any known face the same assignments and rotations are looked for by moments and covariances alone.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.utils.extmath import randomized_svd

from iom._blas import one_thread
from iom._random import numpy_stream
from iom.attacks.base import AttackedSystem, Embeddings, KnownFaces, Leak, Templates, one_hot, read_back, unit
from iom.attacks.reconstruction import STEPS, ridge
from iom.keys import KEY_KINDS

Rows = NDArray[np.float64]
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of the ridge regression, for rows of unit length; the one with the least error of the known faces left out counts."""
MOMENTS = {1: 1.0, 2: 1.0, 3: 0.3, 4: 0.1}
"""Weight of the difference of each moment of a dimension."""
MOMENT_WEIGHT = 0.1
"""Of all of them, in units of one known face."""
COVARIANCE_WEIGHTS = (0.0, 3.0, 10.0, 30.0, 100.0)
"""Of agreeing covariances between dimensions, in the same units; the best one on known faces left out counts."""
EXACT = 0.9
"""Cosine of known rows that are left out from which known rows alone are enough."""
SOFT_ASSIGNMENTS = 40
"""Steps of Frank and Wolfe from the mean of all assignments, before the hard ones."""
TRUSTED = 1000
"""Rows of store and people, as half their harmonic mean, from which moments and covariances have their full weight."""
MAX_ASSIGNMENTS = 30
"""Assignments at each of these weights, at most."""
ROTATION_WEIGHT, ROTATION_DAMPING, ROTATION_STEPS = 1.0, 0.5, 100
"""Of agreeing covariances under a rotation, in units of one known face, and the search for it."""


def store_rows(system: AttackedSystem, templates: Templates, *, seed: int = 0) -> Embeddings:
    """What templates `(N, M)` tell without a key, unit rows `(N, K)`: read back, else their principal coordinates."""
    vectors = system.public_vectors
    if vectors is not None:
        return unit(read_back(system.centred(vectors), templates))
    size = system.alphabet_size
    values = one_hot(templates, size).reshape(len(templates), -1) if size else templates.astype(np.float32)
    values = values - values.mean(axis=0)
    count = min(system.embedding_size, *values.shape)
    stream = np.random.RandomState(int(numpy_stream(seed, "attacks/coordinates").integers(1 << 31)))
    with one_thread():
        left, sizes, _ = randomized_svd(values, count, n_iter=4, random_state=stream)
    return unit(left * sizes)


def known_faces_assignment(leak: Leak) -> Embeddings:
    """Order of a key that moves dimensions, by the rows of known faces and of the whole store."""
    return _by_assignment(leak, leak.known("known_faces"))


def known_faces_rotation(leak: Leak) -> Embeddings:
    """Rotation between the rows that templates tell and embeddings, by known faces and the population's covariance."""
    return _by_rotation(leak, leak.known("known_faces"))


def store_moments(leak: Leak) -> Embeddings:
    """The same without any known face: the store against a population of other people."""
    kind = leak.system.key_kind
    moved = kind and not KEY_KINDS[kind].mixes
    return (_by_assignment if moved else _by_rotation)(leak, None)


def known_faces_regression(leak: Leak) -> Embeddings:
    """Ridge regression from the rows that templates tell to known embeddings, around the population's mean.

    With fewer known faces than dimensions it is a regression in the space that these span.
    """
    known, store = leak.known("known_faces"), leak.known("store")
    mean = leak.known("population").mean(axis=0).astype(np.float64)
    rows = store.rows.astype(np.float64)
    examples, targets = rows[known.rows], known.embeddings - mean
    values, axes = np.linalg.eigh(examples @ examples.T)
    turned = axes.T @ targets

    def left_out(penalty: float) -> float:
        weights = axes / (np.maximum(values, 0) + penalty)
        residuals = (weights @ turned) / np.sum(weights * axes, axis=1)[:, None]
        return float(np.sum(residuals**2))

    penalty = min(PENALTIES, key=left_out)
    weights = (axes / (np.maximum(values, 0) + penalty)) @ turned
    return unit(mean + (rows[store.wanted] @ examples.T) @ weights)


def known_faces_solved(leak: Leak) -> Embeddings:
    """The few parameters of a key, solved for on known faces; then the inversion under a disclosed key."""
    known, store = leak.known("known_faces"), leak.known("store")
    recover = leak.system.public("recover")
    solved = recover(store.templates[known.rows], known.embeddings)
    start = unit(numpy_stream(leak.seed, "attacks/solved").normal(size=(len(store.wanted), leak.system.embedding_size)))
    return unit(solved.descend(store.templates[store.wanted], start, steps=STEPS))


def _by_assignment(leak: Leak, known: KnownFaces | None) -> Embeddings:
    """Read every wanted row in the order that fits best, over all windows of dimensions that a key may choose."""
    store, people = leak.known("store"), leak.known("population")
    windows = leak.system.public("before_key")
    of_people = [unit(rows) for rows in windows(people)]
    single = _one_of_each(leak)
    of_known = [unit(rows) for rows in windows(known.embeddings)] if known else [rows[:0] for rows in of_people]
    taken = store.rows[known.rows] if known else store.rows[:0]
    assign = ordered_assignment if leak.system.key_kind == "subset" else free_assignment
    found = [
        matched_columns(taken, of_window, store.rows, rows[single], assign=assign)
        for of_window, rows in zip(of_known, of_people, strict=True)
    ]
    best = max(range(len(found)), key=lambda number: found[number][1])
    return unit(ridge(unit(of_people[best][:, found[best][0]]), people, store.rows[store.wanted]))


def _one_of_each(leak: Leak) -> NDArray[np.intp]:
    """One row of each subject of the population, as a store has: moments are those of subjects, not of images."""
    return np.asarray(np.unique(leak.known("population_labels"), return_index=True)[1], np.intp)


def free_assignment(scores: Rows) -> NDArray[np.intp]:
    """A different column `(K,)` for each row of `scores` `(K, W)`, of the highest sum."""
    return np.asarray(linear_sum_assignment(scores, maximize=True)[1], np.intp)


def ordered_assignment(scores: Rows) -> NDArray[np.intp]:
    """The same with ascending columns, by dynamic programming: keys of kind `subset` keep the order."""
    count, width = scores.shape
    sums = np.full((count, width), -np.inf)  # highest sum of the rows so far where this one takes column i
    before = np.zeros(width)
    for row in range(count):
        sums[row] = before + scores[row]
        before = np.concatenate([[-np.inf], np.maximum.accumulate(sums[row])[:-1]])
    columns, limit = np.empty(count, np.intp), width
    for row in reversed(range(count)):
        columns[row] = limit = int(np.argmax(sums[row, :limit]))
    return columns


def matched_columns(
    known: Embeddings,
    faces: Embeddings,
    store: Embeddings,
    people: Embeddings,
    *,
    assign: Callable[[Rows], NDArray[np.intp]] = free_assignment,
) -> tuple[NDArray[np.intp], float]:
    """Column of `faces` `(k, W)` for each column of `known` `(k, K)`, and how well they fit.

    Known rows agree value by value; the moments of columns and the covariances between them, of the whole `store`
    `(N, K)` and of `people` `(T, W)`, agree where both are drawn from one distribution. How much they count is decided
    by known rows that are left out, or, without any, by the fit.
    """
    told, wanted, of_store, of_people = (_scaled(rows) for rows in (known, faces, store, people))
    trust = min(1.0, 1 / (1 / len(store) + 1 / len(people)) / TRUSTED)
    moments = np.zeros((store.shape[1], people.shape[1]))
    for one, other, weight in zip(_moments(of_store), _moments(of_people), MOMENTS.values(), strict=True):
        moments -= trust * MOMENT_WEIGHT * weight * (one[:, None] - other[None]) ** 2 / max(float(other.var()), 1e-12)
    between = _covariances(of_store), _covariances(of_people)

    def solve(rows: slice, weight: float) -> tuple[NDArray[np.intp], float]:
        scores = told[rows].T @ wanted[rows] - 0.5 * np.sum(wanted[rows] ** 2, axis=0)
        return _quadratic_assignment(scores + (moments if weight else 0.0), trust * weight, *between, assign)

    def left_out(weight: float) -> float:
        halves = ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2)))
        return sum(float(np.sum(told[test] * wanted[test][:, solve(rows, weight)[0]])) for rows, test in halves)

    everyone = slice(None)
    if len(known) > 1:
        alone = left_out(0.0) / len(known) / known.shape[1]
        return solve(everyone, 0.0 if alone > EXACT else max(COVARIANCE_WEIGHTS, key=left_out))
    found = [solve(everyone, weight) for weight in COVARIANCE_WEIGHTS if weight]
    return max(found, key=lambda solution: float(np.sum(between[0] * between[1][np.ix_(solution[0], solution[0])])))


def _quadratic_assignment(
    scores: Rows, weight: float, of_store: Rows, of_people: Rows, assign: Callable[[Rows], NDArray[np.intp]]
) -> tuple[NDArray[np.intp], float]:
    """Columns of a high sum of `scores` `(K, W)` and of `weight` times agreeing covariances, and that sum."""
    eye, places = np.eye(scores.shape[1]), np.arange(len(scores))
    columns = assign(scores)
    if weight:
        share = np.full(scores.shape, 1 / scores.shape[1])
        for step in range(SOFT_ASSIGNMENTS):
            target = eye[assign(scores + 2 * weight * of_store @ share @ of_people)]
            share = share + 2 / (step + 3) * (target - share)
        columns = assign(share)
    for _ in range(MAX_ASSIGNMENTS if weight else 0):
        moved = assign(scores + 2 * weight * of_store @ of_people[columns])
        if np.array_equal(moved, columns):
            break
        columns = moved
    agreeing = np.sum(of_store * of_people[np.ix_(columns, columns)])
    return columns, float(np.sum(scores[places, columns]) + weight * agreeing)


def _scaled(rows: Embeddings) -> Rows:
    """Unit rows at length sqrt(K), so that values are about one."""
    return np.asarray(rows.astype(np.float64) * np.sqrt(rows.shape[1]))


def _moments(rows: Rows) -> list[NDArray[np.float64]]:
    """Mean, deviation, skewness and excess of each column."""
    mean, spread = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-12)
    standard = (rows - mean) / spread
    return [mean, spread, np.mean(standard**3, axis=0), np.mean(standard**4, axis=0) - 3]


def _covariances(rows: Rows) -> Rows:
    """Covariances between different columns; zeros on the diagonal, which says nothing of their order."""
    found = np.cov(rows, rowvar=False)
    return np.asarray(found - np.diag(np.diag(found)))


def _by_rotation(leak: Leak, known: KnownFaces | None) -> Embeddings:
    """Turn every wanted row into the space before the key, and from there to embeddings."""
    store, people = leak.known("store"), leak.known("population")
    before = leak.system.before_key or (lambda embeddings: [unit(embeddings)])
    of_people = before(people)[0]
    taken = store.rows[known.rows] if known else store.rows[:0]
    faces = before(known.embeddings)[0] if known else of_people[:0]
    with one_thread():
        rotation = fitted_rotation(taken, faces, store.rows, of_people[_one_of_each(leak)])
    return unit(ridge(of_people, people, unit(store.rows[store.wanted] @ rotation.T)))


def fitted_rotation(known: Embeddings, faces: Embeddings, store: Embeddings, people: Embeddings) -> Rows:
    """Orthogonal map `(W, K)` of known rows `(k, K)` to faces `(k, W)`, and of the store's covariance to the people's.

    Each step is the polar factor of the gradient. It starts at the Procrustes solution on known faces; without any, at
    the principal axes of both, with signs by the means.
    """
    known, faces = known.astype(np.float64), faces.astype(np.float64)
    (mean_store, of_store), (mean_people, of_people) = _spread(store), _spread(people)
    wanted = faces.T @ known + np.outer(mean_people, mean_store)
    if len(known):
        rotation = polar(wanted)
    else:
        first, other = (np.linalg.eigh(covariance)[1][:, ::-1] for covariance in (of_people, of_store))
        count = min(first.shape[1], other.shape[1])
        first, other = first[:, :count], other[:, :count]
        signs = np.where((mean_people @ first) * (mean_store @ other) < 0, -1.0, 1.0)
        rotation = (first * signs) @ other.T
    for _ in range(ROTATION_STEPS):
        rotation = polar(wanted + ROTATION_WEIGHT * of_people @ rotation @ of_store + ROTATION_DAMPING * rotation)
    return rotation


def _spread(rows: Embeddings) -> tuple[NDArray[np.float64], Rows]:
    """Mean and covariance of unit rows `(N, K)` at length sqrt(K), the covariance less its mean eigenvalue."""
    wide = _scaled(rows)
    covariance = np.cov(wide, rowvar=False)
    return wide.mean(axis=0), covariance - np.trace(covariance) / len(covariance) * np.eye(len(covariance))


def polar(matrix: Rows) -> Rows:
    """The nearest matrix with orthonormal rows or columns."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(left @ right)

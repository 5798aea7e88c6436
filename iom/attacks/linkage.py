"""Linkage of templates under two keys, and of templates with photographs.

Learned linkers need no key (`keyless_linker`) or both (`keyed_linker`). Sorted values need none and learn nothing: a
code, read back with the public projection, gives the keyed row nearly exactly, and a key that only moves dimensions
keeps the sorted values of that row, which identify a photograph among thousands.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from iom._random import numpy_stream
from iom.attacks.base import Embeddings, Leak, Templates, read_back, unit
from iom.attacks.reconstruction import prior_regressor
from iom.errors import DataError
from iom.keys import SECRET_BYTES, TransformKey

TRAINING_KEYS = 12
MAX_IMAGES = 3000
"""Images of other people that are hashed under each of these keys, about."""
TRAINING_PAIRS = 2000
"""Mated pairs, and as many non-mated ones, under each pair of the attacker's own keys."""

Pairs = NDArray[np.intp]


def keyless_linker(first: Leak, second: Leak, left: Pairs, right: Pairs) -> NDArray[np.float64]:
    """Learn, under keys of the attacker's own, which statistics of a code survive a change of the key.

    Symbol statistics of each code and, where the projection behind the key is public, invariants of permutations in the
    vector that the code points at: its sum, its moments, its sorted entries. A logistic regression on their differences
    and products separates mated from non-mated pairs of rows, `(P,)`.
    """
    people, labels = first.known("population"), first.known("population_labels")
    stream = numpy_stream(first.seed, "attacks/linker")
    if len(labels) > MAX_IMAGES:
        subjects = stream.permutation(np.unique(labels))
        taught = np.isin(labels, subjects[: MAX_IMAGES * len(subjects) // len(labels)])
        people, labels = people[taught], labels[taught]
    own = [TransformKey(stream.bytes(SECRET_BYTES)) for _ in range(TRAINING_KEYS)]
    examples, same = [], []
    for one, other in zip(own[0::2], own[1::2], strict=True):
        a, b, mated = training_pairs(labels, stream)
        examples.append(
            _pair_features(
                key_free_features(first, first.system.hash(people, one))[a],
                key_free_features(first, first.system.hash(people, other))[b],
            )
        )
        same.append(mated)
    scaler = StandardScaler().fit(np.concatenate(examples))
    model = LogisticRegression(C=0.01, max_iter=300)
    model.fit(scaler.transform(np.concatenate(examples)), np.concatenate(same))
    asked = _pair_features(
        key_free_features(first, first.known("codes")[0])[left],
        key_free_features(second, second.known("codes")[0])[right],
    )
    return np.asarray(model.decision_function(scaler.transform(asked)), np.float64)


def keyed_linker(first: Leak, second: Leak, left: Pairs, right: Pairs) -> NDArray[np.float64]:
    """With both keys disclosed: reconstruct both embeddings and take their cosine."""
    rows, others = prior_regressor(first), prior_regressor(second)
    return np.asarray(np.einsum("pd,pd->p", rows[left], others[right]), np.float64)


def key_free_features(leak: Leak, templates: Templates) -> NDArray[np.float64]:
    """Features of a template without its key, `(N, F)`."""
    parts = [np.sort(templates.astype(np.float64), axis=1).mean(axis=1, keepdims=True)]
    if leak.system.alphabet_size:
        symbols = range(leak.system.alphabet_size)
        parts.append(np.stack([(templates == s).mean(axis=1) for s in symbols], axis=1))
    vectors = leak.system.public_vectors
    if vectors is not None:
        pointed = read_back(leak.system.centred(vectors), templates).astype(np.float64)
        pointed /= np.maximum(np.linalg.norm(pointed, axis=1, keepdims=True), 1e-12)
        powers = [np.sum(pointed**power, axis=1, keepdims=True) for power in (1, 3, 4)]
        parts += [*powers, np.sort(pointed, axis=1)]
    return np.concatenate(parts, axis=1)


def training_pairs(labels: NDArray[np.int64], stream: np.random.Generator) -> tuple[Pairs, Pairs, NDArray[np.bool_]]:
    """Pairs of different images, as many mated as not."""
    order = stream.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    mated = np.flatnonzero(labels[order][1:] == labels[order][:-1])
    if not len(mated) or len(np.unique(labels)) < 2:
        raise DataError("a linker learns from subjects with two images or more; found none")
    mated = stream.choice(mated, min(TRAINING_PAIRS, len(mated)), replace=False)
    a, b = stream.integers(len(labels), size=(2, 3 * len(mated)))
    apart = np.flatnonzero(labels[a] != labels[b])[: len(mated)]
    return (
        np.concatenate([order[mated], a[apart]]),
        np.concatenate([order[mated + 1], b[apart]]),
        np.repeat([True, False], [len(mated), len(apart)]),
    )


def _pair_features(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([np.abs(first - second), first * second], axis=1)


def photographs_by_sorted_values(leak: Leak) -> NDArray[np.float64]:
    """How well each public photograph fits each stolen code: cosines of sorted rows, `(N, T)`.

    Where keys of a kind may choose between windows of dimensions, the best window counts.
    """
    rows = keyed_rows(leak)
    values = sorted_values(rows)
    windows = leak.system.public("before_key")(leak.known("photographs"))
    fits = [values @ sorted_values(window, rows.shape[1]).T for window in windows]
    return np.asarray(np.max(fits, axis=0))


def link_by_sorted_values(first: Leak, second: Leak, left: Pairs, right: Pairs) -> NDArray[np.float64]:
    """Cosine of the sorted rows that two codes point at, for pairs of rows, `(P,)`."""
    one, other = (sorted_values(keyed_rows(leak)) for leak in (first, second))
    return np.asarray(np.einsum("pk,pk->p", one[left], other[right]))


def keyed_rows(leak: Leak) -> Embeddings:
    """The rows behind the key, as near as the first record's codes tell, `(N, K)`, unit length."""
    vectors = leak.system.public("public_vectors")
    return unit(read_back(leak.system.centred(vectors), leak.known("codes")[0]))


def sorted_values(rows: Embeddings, size: int = 0) -> NDArray[np.float64]:
    """Values of each row `(N, K)` in ascending order, at unit length.

    With a `size` below K, evenly spaced quantiles stand for the values of an unknown choice among them; 0 is K.
    """
    values = np.sort(rows.astype(np.float64), axis=1)
    if size and size != values.shape[1]:
        values = np.quantile(values, (np.arange(size) + 0.5) / size, axis=1, method="hazen").T
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(lengths, 1e-12), np.float64)

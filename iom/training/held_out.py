"""Verification on held-out subjects, with the keys stolen."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.codes.distances import all_pairs
from iom.codes.packing import pack
from iom.data.folders import FaceFolder
from iom.errors import DataError
from iom.keys import SECRET_BYTES, TransformKey
from iom.metrics.error_curve import ErrorCurve, error_curve

LARGEST = 4000
"""Images compared with each other; of a larger held-out part whole subjects are drawn."""

HashFunction = Callable[[NDArray[np.float32], TransformKey], NDArray[np.uint8]]


def held_out_keys(seed: int, purpose: str, count: int) -> list[TransformKey]:
    """Keys for measuring: they follow from the seed, and must never protect anyone."""
    stream = numpy_stream(seed, f"stage2/{purpose}")
    return [TransformKey(stream.bytes(SECRET_BYTES)) for _ in range(count)]


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOutPairs:
    """All pairs of held-out images but those of two subjects of one group.

    Kin look alike, and one person may stand under two names of a family: such pairs are neither
    surely non-mated nor like the impostors that a threshold is made for.

    Attributes:
        images: Rows compared with each other, `(N,)`.
        labels: Subject of each of them, `(N,)`.
        left: First row of each pair, an index into `images`, `(P,)`.
        right: Second row of each pair, `(P,)`.
        same: Whether a pair is mated, `(P,)`.
        subjects: Number of subjects.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    subjects: int

    @classmethod
    def of(cls, folder: FaceFolder, *, group_separator: str, seed: int) -> "HeldOutPairs":
        """The pairs of a folder.

        Raises:
            DataError: No mated or no non-mated pair is left.
        """
        images = _thinned(folder, seed)
        labels = folder.labels[images]
        left, right = np.triu_indices(len(images), k=1)
        same = labels[left] == labels[right]
        if group_separator:
            groups = _groups(folder, group_separator)[labels]
            usable = same | (groups[left] != groups[right])
            left, right, same = left[usable], right[usable], same[usable]
        if same.all() or not same.any():
            raise DataError(
                f"{folder.root}: the {len(images)} held-out images of {len(folder.subjects)} "
                f"subjects give {int(same.sum())} mated and {int((~same).sum())} non-mated pairs; "
                "both are needed: raise data.holdout, or add subjects or images"
            )
        return cls(images, labels, left, right, same, len(np.unique(labels)))

    def check_resolution(self, fmr: float) -> None:
        """Refuse a false match rate that these pairs are too few to show.

        Raises:
            DataError: Fewer non-mated pairs than 1 / fmr.
        """
        others = int((~self.same).sum())
        if others * fmr < 1:
            raise DataError(
                f"an FMR of {fmr:g} cannot be seen in {others:,} non-mated comparisons, which "
                f"show {1 / others:.2g} at the lowest; ask for a higher one (calibration.fmr, "
                "--fmr), or take more subjects (data.holdout, --faces)"
            )

    def curve_of_embeddings(self, embeddings: NDArray[np.float32]) -> ErrorCurve:
        """Error rates of the cosine distance of embeddings `(N, D)` of unit length."""
        distances = 1.0 - (embeddings @ embeddings.T)[self.left, self.right]
        return error_curve(distances[self.same], distances[~self.same])

    def code_distances(
        self,
        embeddings: NDArray[np.float32],
        hash_codes: HashFunction,
        alphabet_size: int,
        *,
        keys: Sequence[TransformKey],
    ) -> list[NDArray[np.int32]]:
        """Distances of all pairs, `(P,)`, under each key in turn."""
        distances = []
        for key in keys:
            packed = pack(hash_codes(embeddings, key), alphabet_size)
            distances.append(all_pairs(packed, packed)[self.left, self.right])
        return distances

    def equal_error_rate(
        self,
        embeddings: NDArray[np.float32],
        hash_codes: HashFunction,
        alphabet_size: int,
        *,
        keys: Sequence[TransformKey],
    ) -> float:
        """Mean over the keys of the equal error rate of codes."""
        rates = [
            error_curve(values[self.same], values[~self.same]).equal_error_rate()
            for values in self.code_distances(embeddings, hash_codes, alphabet_size, keys=keys)
        ]
        return float(np.mean(rates))


def _thinned(folder: FaceFolder, seed: int) -> NDArray[np.int64]:
    rows = np.arange(len(folder))
    if len(rows) <= LARGEST:
        return rows
    counts = np.bincount(folder.labels)
    order = numpy_stream(seed, "stage2/held-out").permutation(len(counts))
    kept = order[np.cumsum(counts[order]) <= LARGEST]
    return rows[np.isin(folder.labels, kept)]


def _groups(folder: FaceFolder, separator: str) -> NDArray[np.int64]:
    names = [subject.split(separator, 1)[0] for subject in folder.subjects]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)

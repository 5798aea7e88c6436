"""Verification on held-out subjects, with the keys stolen."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.codes.comparators import CosineComparator, SymbolComparator
from iom.data.folders import FaceFolder
from iom.errors import DataError
from iom.keys import SECRET_BYTES, TransformKey
from iom.metrics.all_pairs import AllPairs
from iom.metrics.verification import ErrorCurve

LARGEST = 4000
"""Images compared with each other; of a larger held-out part whole subjects are drawn."""

HashFunction = Callable[[NDArray[np.float32], TransformKey], NDArray[np.uint8]]


def held_out_keys(seed: int, purpose: str, count: int) -> list[TransformKey]:
    """Keys for measuring: they follow from the seed, and must never protect anyone."""
    stream = numpy_stream(seed, f"stage2/{purpose}")
    return [TransformKey(stream.bytes(SECRET_BYTES)) for _ in range(count)]


class HeldOutPairs:
    """All pairs of held-out images but those of two subjects of one group.

    Kin look alike, and one person may stand under two names of a family: such pairs are neither surely non-mated nor
    like the impostors that a threshold is made for.

    Args:
        folder: Held-out images; of more than `LARGEST` whole subjects are drawn.
        group_separator: Subjects whose names agree up to it are of one group; empty for no groups.
        seed: Of the draw.

    Attributes:
        images: Rows of the folder that are compared with each other, `(N,)`.
        labels: Subject of each of them, `(N,)`.
        all: The pairs.

    Raises:
        DataError: No mated or no non-mated pair is left.
    """

    def __init__(self, folder: FaceFolder, *, group_separator: str, seed: int) -> None:
        self.images = _thinned(folder, seed)
        self.labels = folder.labels[self.images]
        try:
            self.all = AllPairs(self.labels, _groups(folder, group_separator)[self.labels] if group_separator else None)
        except DataError as error:
            raise DataError(
                f"{folder.root}: {error}; both are needed: raise data.holdout, or add subjects or images"
            ) from error

    def check_resolution(self, fmr: float) -> None:
        """Refuse a false match rate that these pairs are too few to show.

        Raises:
            DataError: Fewer non-mated pairs than 1 / fmr.
        """
        self.all.check_resolution(fmr, " (calibration.fmr, --fmr; data.holdout, --faces)")

    def curve_of_embeddings(self, embeddings: NDArray[np.float32]) -> ErrorCurve:
        """Error rates of the cosine distance of embeddings `(N, D)`."""
        comparator = CosineComparator()
        return self.all.curve(comparator, comparator.prepare(embeddings), fmr=1.0)

    def equal_error_rate(
        self,
        embeddings: NDArray[np.float32],
        hash_codes: HashFunction,
        alphabet_size: int,
        *,
        keys: Sequence[TransformKey],
    ) -> float:
        """Mean over the keys of the equal error rate of codes."""
        comparator = SymbolComparator(alphabet_size)
        curves = (self.all.curve(comparator, comparator.prepare(hash_codes(embeddings, key))) for key in keys)
        return float(np.mean([curve.equal_error_rate() for curve in curves]))


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

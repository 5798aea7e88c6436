"""Every pair of a set of images: distances under one key, and across two keys.

Codes are compared block by block by the compiled kernels and only counted, so that memory does not
grow with the number of pairs; non-mated pairs are listed one by one only where decisions fall.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.codes.distances import all_pairs, paired
from iom.codes.packing import PackedCodes
from iom.data.folders import FaceFolder
from iom.errors import DataError
from iom.metrics.error_curve import ErrorCurve
from iom.metrics.histogram_curve import StreamedDistances, histogram_curve
from iom.metrics.subject_bootstrap import SubjectBootstrap, SubjectPairs

ROWS = 256
"""Rows of a block: with 12,000 images its distances take 12 MB."""
FLOAT_FMR = 0.03
"""Share of the non-mated cosine distances that is kept one by one, about."""
SAMPLE = 2000

Histogram = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class CodeDistances:
    """Counts of the code distances of all pairs, `(M + 1,)` each.

    Attributes:
        mated: Of pairs of one subject.
        non_mated: Of pairs of two.
    """

    mated: Histogram
    non_mated: Histogram

    def curve(self) -> ErrorCurve:
        """The exact curve."""
        return histogram_curve(self.mated, self.non_mated)

    def limit(self, fmr: float) -> int:
        """The lowest distance at which the FMR is at least `fmr`."""
        accepted = np.cumsum(self.non_mated)
        return int(np.searchsorted(accepted, fmr * accepted[-1]))


class AllPairs:
    """All pairs of images of which the subjects are known.

    Args:
        subjects: Subject of each image, numbers from 0 without gaps, `(N,)`, images of a subject
            side by side.

    Raises:
        DataError: Subjects in another order, or no subject with two images, or only one subject.
    """

    def __init__(self, subjects: NDArray[np.int64]) -> None:
        subjects = np.asarray(subjects)
        if subjects.ndim != 1 or not len(subjects) or subjects[0] != 0:
            raise DataError(f"all pairs: expected subjects from 0, received {subjects[:5]}")
        if not np.isin(np.diff(subjects), (0, 1)).all():
            raise DataError(
                "all pairs: expected the images of a subject side by side, and subjects numbered without gaps"
            )
        self.subjects = subjects.astype(np.int32)
        self.images = np.bincount(subjects).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(self.images)])
        self._ends = starts[subjects + 1]
        counts = self._ends - np.arange(len(subjects)) - 1
        self._left = np.repeat(np.arange(len(subjects)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        self._right = self._left + 1 + within
        if not len(self._left) or len(self.images) < 2:
            raise DataError("all pairs: expected two subjects, one of them with two images")

    @property
    def mated_count(self) -> int:
        """Pairs of one subject."""
        return len(self._left)

    @property
    def non_mated_count(self) -> int:
        """Pairs of two subjects."""
        return len(self.subjects) * (len(self.subjects) - 1) // 2 - self.mated_count

    def count_codes(self, codes: PackedCodes) -> CodeDistances:
        """Count the distances of all pairs; `codes` are those of the images, under one key."""
        self._check(len(codes))
        counts = np.zeros(codes.code_length + 1, np.int64)
        for _, block in self._code_blocks(codes):
            rows = len(block)
            upper = np.triu_indices(rows, k=1)
            counts += np.bincount(block[:, :rows][upper], minlength=len(counts))
            counts += np.bincount(block[:, rows:].ravel(), minlength=len(counts))
        mated = np.bincount(self._mated_distances(codes, codes), minlength=len(counts))
        return CodeDistances(mated, counts - mated)

    def count_across_keys(self, codes: PackedCodes, others: PackedCodes) -> CodeDistances:
        """Count distances between templates of two keys, for unlinkability.

        Mated: two different images of one subject, each once under either key. Non-mated: images
        of two subjects, likewise. An image never meets itself.

        Args:
            codes: Codes of the images under one key.
            others: Codes of the same images under another key.
        """
        self._check(len(codes))
        self._check(len(others))
        counts = np.zeros(codes.code_length + 1, np.int64)
        for start in range(0, len(codes), ROWS):
            block = all_pairs(codes[start : start + ROWS], others)
            counts += np.bincount(block.ravel(), minlength=len(counts))
        same_image = np.bincount(paired(codes, others), minlength=len(counts))
        mated = np.bincount(self._mated_distances(codes, others), minlength=len(counts))
        mated += np.bincount(self._mated_distances(others, codes), minlength=len(counts))
        return CodeDistances(mated, counts - mated - same_image)

    def bootstrap_codes(self, codes: PackedCodes, limit: int) -> SubjectBootstrap:
        """Curves under drawn subjects, exact up to the distance `limit`."""
        self._check(len(codes))
        mated = self._mated_distances(codes, codes)
        near = [self._near(start, block, block <= limit) for start, block in self._code_blocks(codes)]
        return SubjectBootstrap(self._of_mated(mated), _joined(near), self.images)

    def float_distances(
        self, embeddings: NDArray[np.float32], *, fmr: float = FLOAT_FMR
    ) -> tuple[ErrorCurve, SubjectBootstrap]:
        """Curve of `1 - cosine` over all pairs, and curves under drawn subjects.

        Computed in double precision. Exact up to an FMR of about `fmr`; see `StreamedDistances`.

        Args:
            embeddings: Unit length, `(N, D)`.
            fmr: FMR up to which non-mated pairs are kept one by one.
        """
        self._check(len(embeddings))
        wide = embeddings.astype(np.float64)
        limit = self._float_limit(wide, fmr)
        streamed = StreamedDistances(limit)
        mated = 1.0 - np.einsum("pd,pd->p", wide[self._left], wide[self._right])
        streamed.add(mated, np.empty(0))
        near = []
        columns = np.arange(len(wide))
        for start in range(0, len(wide), ROWS):
            block = 1.0 - wide[start : start + ROWS] @ wide[start:].T
            # The diagonal and what stands left of it belong to earlier rows.
            others = columns[None, start:] >= self._ends[start : start + ROWS, None]
            streamed.add(np.empty(0), block[others])
            near.append(self._near(start, block, block <= limit))
        bootstrap = SubjectBootstrap(self._of_mated(mated), _joined(near), self.images)
        return streamed.curve(), bootstrap

    def _code_blocks(self, codes: PackedCodes) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """First row of each block, and its distances to itself and all rows after it."""
        for start in range(0, len(codes), ROWS):
            yield start, all_pairs(codes[start : start + ROWS], codes[start:])

    def _mated_distances(self, left: PackedCodes, right: PackedCodes) -> NDArray[np.int32]:
        return paired(left[self._left], right[self._right])

    def _of_mated(self, distances: NDArray[Any]) -> SubjectPairs:
        subjects = self.subjects[self._left]
        return SubjectPairs(distances, subjects, subjects)

    def _near(self, start: int, block: NDArray[Any], near: NDArray[np.bool_]) -> SubjectPairs:
        """The non-mated pairs of a block that are `near`, each once."""
        rows, columns = np.nonzero(near)
        once = columns + start >= self._ends[rows + start]
        rows, columns = rows[once], columns[once]
        left, right = self.subjects[rows + start], self.subjects[columns + start]
        return SubjectPairs(block[rows, columns], left, right)

    def _float_limit(self, wide: NDArray[np.float64], fmr: float) -> float:
        stream = numpy_stream(0, "evaluation/float-limit")
        drawn = stream.permutation(len(wide))[:SAMPLE]
        distances = 1.0 - wide[drawn] @ wide[drawn].T
        differ = self.subjects[drawn][:, None] != self.subjects[drawn][None]
        return float(np.quantile(distances[differ], fmr))

    def _check(self, rows: int) -> None:
        if rows != len(self.subjects):
            raise DataError(f"all pairs: expected a row for each of {len(self.subjects)} images, received {rows}")


def first_images(folder: FaceFolder, at_most: int) -> NDArray[np.int64]:
    """Rows of a folder's images, at most so many of each subject, in the folder's order."""
    if at_most < 1:
        raise DataError(f"images of a subject: expected at least 1, received {at_most}")
    order = np.argsort(folder.labels, kind="stable")
    labels = folder.labels[order]
    starts = np.searchsorted(labels, labels)
    kept = np.sort(order[np.arange(len(labels)) - starts < at_most])
    return np.asarray(kept, np.int64)


def _joined(parts: list[SubjectPairs]) -> SubjectPairs:
    return SubjectPairs(*(np.concatenate(values) for values in zip(*parts, strict=True)))

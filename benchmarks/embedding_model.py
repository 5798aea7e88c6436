"""Synthetic embeddings with the covariances of real ones: for galleries larger than any set of faces at hand."""

import dataclasses
from pathlib import Path

import numpy as np

STORED = "embeddings/fiw_112x112.mobilefacenet_y1.npz"
"""Embeddings of `mobilefacenet_y1` in the prepared data; the folder of an image names its subject."""
SIZE = 128


@dataclasses.dataclass(frozen=True)
class EmbeddingModel:
    """Normal subjects and normal images of them, then brought to unit length.

    Attributes:
        mean: Of all embeddings, `(D,)`.
        between: Factor of the covariance of subjects, `(D, D)`.
        within: Factor of the covariance of the images of a subject.
    """

    mean: np.ndarray
    between: np.ndarray
    within: np.ndarray

    @classmethod
    def fitted(cls, data: Path | None, stored: str = STORED) -> "EmbeddingModel":
        """To stored embeddings of `mobilefacenet_y1` in the prepared data; without data, to a spectrum like theirs."""
        if data is None:
            spectrum = np.exp(-np.arange(SIZE) / 60)
            factors = (np.diag(np.sqrt(share * spectrum / spectrum.sum())) for share in (0.55, 0.45))
            return cls(np.full(SIZE, 0.1 / np.sqrt(SIZE)), *factors)
        with np.load(data / STORED) as stored:
            rows, paths = stored["embedding"].astype(np.float64), stored["path"]
        _, subjects, counts = np.unique(
            [path.rsplit("/", 1)[0] for path in paths], return_inverse=True, return_counts=True
        )
        sums = np.zeros((len(counts), rows.shape[1]))
        np.add.at(sums, subjects, rows)
        several = counts[subjects] > 1
        rest = rows[several] - (sums / counts[:, None])[subjects[several]]
        within = rest.T @ rest / (several.sum() - (counts > 1).sum())
        return cls(rows.mean(axis=0), _factor(np.cov(rows.T) - within), _factor(within))

    def drawn(self, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Subjects before their length is one, `(N, D)` float32, and an image of each, `(N, D)`."""
        size = len(self.mean)
        subjects = random.standard_normal((count, size), np.float32) @ self.between.T.astype(np.float32)
        subjects += self.mean.astype(np.float32)
        return subjects, self.images(subjects, random)

    def images(self, subjects: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Another image of each subject, of unit length."""
        rows = subjects + random.standard_normal(subjects.shape, np.float32) @ self.within.T.astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def folders_of(paths: np.ndarray) -> np.ndarray:
    """Folder of each path, the subject."""
    return np.array([path.rsplit("/", 1)[0] for path in paths])


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F with F F' = covariance, less the directions in which it is not positive."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))

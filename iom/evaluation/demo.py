"""What the demo shows: three faces, codes under one key, and what a new key does to them."""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom.errors import DataError, WeightsError
from iom.keys import TransformKey
from iom.models.artifact import manifest_path
from iom.models.embedder import load_embedder
from iom.models.face_hasher import FaceHasher, KerasFaceHasher, load
from iom.pretrained import HASHER_FILE, hashers


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """One template compared with two probes.

    Attributes:
        title: What is compared.
        template: Code of face A, `(M,)`.
        probes: Codes of B (the same person) and C (another), `(2, M)`.
    """

    title: str
    template: NDArray[np.uint8]
    probes: NDArray[np.uint8]

    @property
    def dist_positive(self) -> int:
        """Positions at which A and B differ."""
        return int(np.count_nonzero(self.template != self.probes[0]))

    @property
    def dist_negative(self) -> int:
        """Positions at which A and C differ."""
        return int(np.count_nonzero(self.template != self.probes[1]))


@dataclasses.dataclass(frozen=True, eq=False)
class Demonstration:
    """The scenes in order, the threshold, and the cosine distances of the bare embeddings."""

    scenes: tuple[Scene, ...]
    threshold: int
    fmr: float
    code_length: int
    alphabet_size: int
    cosine_positive: float
    cosine_negative: float


def demonstrate(
    embeddings: NDArray[np.float32], hasher: FaceHasher, *, before: TransformKey, after: TransformKey
) -> Demonstration:
    """Compare A with B and C under one key, across a change of the key, and under the new key.

    Args:
        embeddings: Faces A, B (the same person) and C (another), `(3, D)` unit length.
        hasher: A calibrated hasher.
        before: The first key.
        after: The key it is changed to.

    Raises:
        DataError: Not three embeddings.
        WeightsError: The hasher has no calibrated threshold.
    """
    if len(embeddings) != 3:
        raise DataError(f"the demo compares three images, received {len(embeddings)}")
    if hasher.calibration is None:
        raise WeightsError(
            "this hasher has no calibrated threshold, so nothing can be decided; train one with "
            "iom train-stage2, which calibrates it on held-out subjects"
        )
    old, new = (hasher.hash(embeddings, key) for key in (before, after))
    positive, negative = 1 - embeddings[1:] @ embeddings[0]
    return Demonstration(
        scenes=(
            Scene("template and probes under one key", old[0], old[1:]),
            Scene("key changed: old template, probes under the new key", old[0], new[1:]),
            Scene("renewed: template and probes under the new key", new[0], new[1:]),
        ),
        threshold=hasher.calibration.threshold,
        fmr=hasher.calibration.fmr,
        code_length=hasher.code_length,
        alphabet_size=hasher.alphabet_size,
        cosine_positive=float(positive),
        cosine_negative=float(negative),
    )


def find_hasher(weights: str, *, batch_size: int = 8) -> FaceHasher:
    """The hasher, of those found by name, that was trained with an embedder.

    Args:
        weights: Manifest name or file of the embedder, or an artefact, which is its own hasher.
        batch_size: Faces of one call of the embedder.

    Raises:
        WeightsError: There is none, or the embedder or the hasher cannot be read.
    """
    if manifest_path(Path(weights)).is_file():
        return load(weights, batch_size=batch_size)
    embedder = load_embedder(weights, batch_size=batch_size)
    found = hashers()
    for folder in found.values():
        metadata = folder / HASHER_FILE
        if embedder.fingerprint in metadata.read_text(encoding="utf-8", errors="replace"):
            hasher = KerasFaceHasher.load(folder, weights=weights)
            hasher.embedder = embedder
            return hasher
    raise WeightsError(
        f"none of the hashers {', '.join(found)} belongs to the embedder {embedder.name}; name one "
        "with --hasher, or train it: iom train-stage2 --config stage2/base --output DIR "
        f"--set embedder.weights={embedder.name}"
    )

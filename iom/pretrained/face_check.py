"""Check of the stated input of weights on synthetic faces.

A network that is fed in another way than it was trained still gives embeddings, only worse ones. Where another way
separates synthetic subjects clearly better than the stated one, the statement is wrong.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import WeightsError
from iom.pretrained.manifest import RANGES, Statement
from iom.synthetic import load_face_model

Predict = Callable[[NDArray[np.float32]], Any]
SUBJECTS, IMAGES = 60, 3
RANGE_SUBJECTS = 20
"""The wrong range shows sooner than the wrong colours."""
CLEAR = 3.0
"""Paired t statistic over subjects, above which one way is clearly better than another."""
SEED = 20240229
BATCH = 12
SAME_RANGE = 0.02
"""Ranges that differ by less give the same embeddings: /127.5 and /128."""
TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class FaceCheck:
    """Outcome: d' between mated and non-mated cosines for each way of feeding, and the evidence against the others.

    `evidence` is the paired t statistic for the stated way over each other one: below `-CLEAR` the statement is
    refuted, above `CLEAR` confirmed, and in between this network cannot tell.
    """

    separation: dict[str, float]
    evidence: dict[str, float]

    @property
    def is_confirmed(self) -> bool:
        """Whether every other way is clearly worse."""
        return all(value > CLEAR for value in self.evidence.values())


def check_on_faces(predict: Predict, spec: Statement, *, source: str) -> FaceCheck:
    """Compare the stated input with the alternatives; `WeightsError` where another one is clearly better.

    `predict` takes raw RGB pixels `(B, S, S, 3)` to embeddings `(B, D)`, as the statement has it.
    """
    faces, labels = load_face_model().sample(SUBJECTS, IMAGES, seed=SEED)
    pixels = _resize(faces, spec.size)
    few = RANGE_SUBJECTS * IMAGES
    stated = f"{spec.colour_order} {spec.range}"
    swapped_way = f"{'BGR' if spec.colour_order == 'RGB' else 'RGB'} {spec.range}"
    embeddings = _embed(predict, pixels)
    swapped = _embed(predict, pixels[..., ::-1])
    all_scores, few_scores = _scores(embeddings, labels), _scores(embeddings[:few], labels[:few])
    pairs = {swapped_way: (all_scores, _scores(swapped, labels))}
    tried = [spec.scaling]
    for name, (scale, offset) in RANGES.items():
        if not any(np.allclose((scale, offset), other, rtol=SAME_RANGE) for other in tried):
            tried.append((scale, offset))
            as_if = (pixels[:few] * scale + offset - spec.scaling[1]) / spec.scaling[0]
            scores = _scores(_embed(predict, as_if.astype(np.float32)), labels[:few])
            pairs[f"{spec.colour_order} {name}"] = (few_scores, scores)
    evidence = {way: _paired_t(ours, theirs) for way, (ours, theirs) in pairs.items()}
    separation = {way: float(theirs.mean()) for way, (_, theirs) in pairs.items()}
    check = FaceCheck({stated: float(all_scores.mean()), **separation}, evidence)
    better = [way for way in pairs if evidence[way] < -CLEAR]
    if better:
        best = max(better, key=separation.__getitem__)
        raise WeightsError(
            f"{source}: the input '{stated}' is stated, but on synthetic faces '{best}' separates subjects better (d' "
            f"{separation[best]:.2f} against {pairs[best][0].mean():.2f}): correct the statement"
        )
    return check


def _resize(faces: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Synthetic faces at the network's size (Facenet's is 160)."""
    from PIL import Image

    resized = [np.asarray(Image.fromarray(face).resize((size, size))) for face in faces]
    return np.stack(resized).astype(np.float32)


def _embed(predict: Predict, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Unit-length embeddings, in batches of one size."""
    starts = range(0, len(images), BATCH)
    rows = [np.asarray(predict(images[start : start + BATCH]), np.float64) for start in starts]
    embeddings = np.concatenate(rows)
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), TINY)


def _scores(embeddings: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Per subject: mean mated minus mean non-mated cosine, in units of their common spread."""
    cosines = embeddings @ embeddings.T
    same = labels[:, None] == labels[None]
    mated = same & ~np.eye(len(labels), dtype=bool)
    spread = np.sqrt((cosines[mated].var() + cosines[~same].var()) / 2)
    separation = []
    for subject in np.unique(labels):
        rows = labels == subject
        mated_mean = cosines[rows][mated[rows]].mean()
        separation.append(mated_mean - cosines[rows][~same[rows]].mean())
    return np.asarray(separation) / max(float(spread), TINY)


def _paired_t(stated: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Student's t of the subjects' differences."""
    difference = stated - other
    deviation = float(difference.std(ddof=1)) / np.sqrt(len(difference))
    return float(difference.mean() / max(deviation, TINY))

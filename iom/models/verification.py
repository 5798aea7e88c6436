"""Verification of two photographs, or of a photograph and a code: the decision, and what it is worth."""

import dataclasses
import functools
import html
from typing import TYPE_CHECKING

from iom.errors import ConfigError
from iom.keys import TransformKey
from iom.models.face_hasher import FaceHasher, load
from iom.pretrained import BUNDLED

if TYPE_CHECKING:
    from iom.photos.images import Picture


@dataclasses.dataclass(frozen=True)
class Verification:
    """A decision about two faces.

    Attributes:
        match: Whether the distance is at most the threshold.
        distance: Positions in which the two codes differ.
        threshold: Largest distance that is a match.
        probability: Of one person, at prior odds of one; `None` where the hasher's calibration does not tell it.
        slot: The nearest reference of the subject, where the code is one of a gallery.
    """

    match: bool
    distance: int
    threshold: int
    probability: float | None = None
    slot: int | None = None

    def __str__(self) -> str:
        chance = "" if self.probability is None else f", probability {self.probability:.3g}"
        verdict = "match" if self.match else "no match"
        return f"{verdict}: distance {self.distance}, threshold {self.threshold}{chance}"

    def _repr_html_(self) -> str:
        colour = "#2e7d32" if self.match else "#c62828"
        return f'<p style="color:{colour};font-weight:bold">{html.escape(str(self))}</p>'


def decide(hasher: FaceHasher, distance: int, threshold: int, slot: int | None = None) -> Verification:
    """The decision about a distance of two codes of a hasher."""
    calibration = hasher.calibration
    probability = None if calibration is None else calibration.probability(distance)
    return Verification(distance <= threshold, distance, threshold, probability, slot)


def verify(
    a: "Picture",
    b: "Picture",
    *,
    hasher: FaceHasher | str = BUNDLED,
    fmr: float | None = None,
    threshold: int | None = None,
) -> Verification:
    """Decide whether two pictures show one person; nothing is stored, the key of the two codes is thrown away.

    Args:
        a: A path, bytes, base64 text, an open file, an RGB array or a Pillow image (see `iom.photos.read_picture`).
        b: The other one.
        hasher: From `iom.load`, or what that takes.
        fmr: Operating point: a false match rate that the hasher was calibrated at; by default its first.
        threshold: Largest distance that is a match, instead of that of an operating point.

    Raises:
        FaceError: A picture cannot be read, or has no face to compare; `status` says which.
        ConfigError: The hasher has no such operating point.

    Examples:
        >>> from iom.synthetic import load_face_model
        >>> faces, _ = load_face_model().sample(2, 2, seed=5)  # two persons, two images each
        >>> verify(faces[0], faces[1]).match, verify(faces[0], faces[2]).match
        (True, False)
    """
    network = _loaded(hasher) if isinstance(hasher, str) else hasher
    limit = threshold_at(network, fmr) if threshold is None else threshold
    key = TransformKey.generate()
    return decide(network, network.hash(a, key).distance(network.hash(b, key)), limit)


def threshold_at(hasher: FaceHasher, fmr: float | None = None) -> int:
    """The threshold of a hasher at a false match rate, by default its own."""
    if hasher.calibration is None:
        raise ConfigError(f"{hasher.name}: not calibrated: give a threshold, or calibrate it with iom calibrate")
    points = {point.fmr: point.threshold for point in hasher.calibration.points}
    if fmr is None:
        return hasher.calibration.threshold
    if fmr not in points:
        raise ConfigError(
            f"{hasher.name}: expected one of its false match rates {', '.join(map(str, points))}, received {fmr}"
        )
    return points[fmr]


@functools.lru_cache(maxsize=2)
def _loaded(name: str) -> FaceHasher:
    return load(name)

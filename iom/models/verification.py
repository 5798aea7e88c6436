"""Decisions about two faces, and what they are worth."""

import dataclasses
import html

from iom.errors import ConfigError
from iom.metrics.likelihood import probability_text
from iom.models.artifact import Calibration


@dataclasses.dataclass(frozen=True)
class Verification:
    """A decision about two faces.

    Attributes:
        match: Whether the distance is at most the threshold.
        distance: Positions in which the two codes differ; where the hasher's comparison is asymmetric, of the stored
            code to the probe's keyed row, in ten-thousandths of 1 - cosine.
        threshold: Largest distance that is a match.
        probability: Of one person, at prior odds of one; `None` where the hasher's calibration does not tell it.
        slot: The nearest reference of the subject, where the code is one of a gallery.
    """

    match: bool
    distance: int
    threshold: int
    probability: float | None = None
    slot: int | None = dataclasses.field(default=None, repr=False)

    def __str__(self) -> str:
        chance = "" if self.probability is None else f", probability {probability_text(self.probability)}"
        verdict = "match" if self.match else "no match"
        return f"{verdict}: distance {self.distance}, threshold {self.threshold}{chance}"

    def _repr_html_(self) -> str:
        colour = "#2e7d32" if self.match else "#c62828"
        return f'<p style="color:{colour};font-weight:bold">{html.escape(str(self))}</p>'


def decide(calibration: Calibration | None, distance: int, threshold: int, slot: int | None = None) -> Verification:
    """The decision about a distance, by the comparison that the calibration is of."""
    probability = None if calibration is None else calibration.probability(distance)
    return Verification(distance <= threshold, distance, threshold, probability, slot)


def threshold_at(
    calibration: Calibration | None, fmr: float | None = None, *, name: str = "hasher", preferred: float | None = None
) -> int:
    """The threshold of a calibration at a false match rate; `name` is for errors.

    By default that at `preferred`, if there is one, or the calibration's own.

    Raises:
        ConfigError: No calibration, or none at that rate.
    """
    if calibration is None:
        raise ConfigError(f"{name}: not calibrated: give a threshold, or calibrate it with iom calibrate")
    points = {point.fmr: point.threshold for point in calibration.points}
    if fmr is None:
        return points.get(preferred, calibration.threshold) if preferred else calibration.threshold
    if fmr not in points:
        known = ", ".join(map(str, points))
        raise ConfigError(f"{name}: expected one of its false match rates {known}, received {fmr}")
    return points[fmr]

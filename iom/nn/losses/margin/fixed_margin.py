"""Softmax losses with a fixed margin or none: ArcFace, CosFace, SphereFace and their combination."""

from iom.nn.losses.margin.base import (
    NonNegative,
    Positive,
    SoftmaxCrossEntropy,
    add_angle,
    angles,
    class_loss,
    falling_cosine,
    gather,
    replace,
)


@class_loss
class SoftmaxLoss(SoftmaxCrossEntropy):
    """Plain softmax on the logits of an ordinary linear layer, no cosines and no margin."""

    name: str = "softmax"
    needs_cosines = False

    def logits(self, labels, outputs):
        return outputs


@class_loss
class NormalisedSoftmaxLoss(SoftmaxCrossEntropy):
    """Softmax on scaled cosines without a margin (Wang et al., ACM MM 2017, eq. 10).

    Args:
        scale: s, the inverse temperature of the softmax.
    """

    name: str = "normalised_softmax"
    scale: Positive = 64.0

    def logits(self, labels, outputs):
        """`s cos_j`, with the target's cosine moved by the margin, if there is one."""
        return self.scale * replace(outputs, labels, self.moved(gather(outputs, labels)))

    def moved(self, target):
        """The target's cosine `(B, 1)` with the margin."""
        return target


@class_loss
class ArcFaceLoss(NormalisedSoftmaxLoss):
    """Additive angular margin (Deng et al., CVPR 2019, eq. 3).

    The target logit is s cos(theta + m) while theta + m <= pi, and s (cos(theta) - m sin(m)) beyond, so that it falls
    with theta everywhere (the reference code's continuation). With `CosineLogits(n, sub_centers=K)` it is sub-center
    ArcFace (Deng et al., ECCV 2020).

    Args:
        margin: Angle m in radians.
    """

    name: str = "arcface"
    margin: NonNegative = 0.5

    def moved(self, target):
        return add_angle(target, self.margin)


@class_loss
class CosFaceLoss(NormalisedSoftmaxLoss):
    """Additive cosine margin (Wang et al., CVPR 2018, eq. 4): target logit s (cos(theta) - m).

    Args:
        margin: m.
    """

    name: str = "cosface"
    margin: NonNegative = 0.35

    def moved(self, target):
        return target - self.margin


@class_loss
class CombinedMarginLoss(NormalisedSoftmaxLoss):
    """All three margins: cos(m1 theta + m2) - m3 (Deng et al., CVPR 2019, eq. 4).

    Past pi the cosine goes on falling as (-1)^k cos(a) - 2k, k = floor(a / pi), the continuation of Liu et al. (CVPR
    2017, eq. 7).

    Args:
        multiplier: m1, on the angle.
        margin: m2, added to the angle, in radians.
        cosine_margin: m3, taken off the cosine.
    """

    name: str = "combined"
    multiplier: Positive = 1.0
    margin: NonNegative = 0.3
    cosine_margin: NonNegative = 0.2

    def moved(self, target):
        return falling_cosine(self.multiplier * angles(target) + self.margin) - self.cosine_margin


@class_loss
class SphereFaceLoss(NormalisedSoftmaxLoss):
    """Multiplicative angular margin (Liu et al., CVPR 2017, eq. 7), on scaled cosines.

    The target logit is s (lambda cos(theta) + psi(theta)) / (1 + lambda), psi(theta) = (-1)^k cos(m theta) - 2k. The
    paper multiplies by the embedding's norm where s stands here, and lets lambda fall to 5 in training: a full margin
    of 4 does not converge from the start.

    Args:
        margin: m, by which the angle is multiplied.
        easing: lambda; 0 is the full margin.
    """

    name: str = "sphereface"
    margin: Positive = 4.0
    easing: NonNegative = 5.0

    def moved(self, target):
        psi = falling_cosine(self.margin * angles(target))
        return (self.easing * target + psi) / (1.0 + self.easing)

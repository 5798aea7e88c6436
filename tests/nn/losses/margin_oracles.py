"""The margin losses in plain NumPy, one row at a time, from the equations of their papers."""

import math

import numpy as np


def cross_entropy(logits, label, smoothing=0.0):
    top = logits.max()
    likelihoods = logits - top - math.log(np.exp(logits - top).sum())
    return -(1 - smoothing) * likelihoods[label] - smoothing * likelihoods.mean()


def past_pi(angle):
    """(-1)^k cos(a) - 2k of Liu et al., eq. 7."""
    k = math.floor(angle / math.pi)
    return (-1) ** k * math.cos(angle) - 2 * k


def arc(cosine, margin):
    theta = math.acos(cosine)
    if theta + margin <= math.pi:
        return math.cos(theta + margin)
    return cosine - margin * math.sin(margin)


def softmax(row, label):
    return row


def normalised_softmax(row, label, scale=64.0):
    return scale * row


def arcface(row, label, margin=0.5, scale=64.0):
    return scale * with_target(row, label, arc(row[label], margin))


def cosface(row, label, margin=0.35, scale=64.0):
    return scale * with_target(row, label, row[label] - margin)


def sphereface(row, label, margin=4.0, easing=5.0, scale=64.0):
    psi = past_pi(margin * math.acos(row[label]))
    return scale * with_target(row, label, (easing * row[label] + psi) / (1 + easing))


def combined(row, label, multiplier=1.0, margin=0.3, cosine_margin=0.2, scale=64.0):
    angle = multiplier * math.acos(row[label]) + margin
    return scale * with_target(row, label, past_pi(angle) - cosine_margin)


def curricularface(row, label, level, margin=0.5, scale=64.0):
    """Huang et al., eqs. 5 and 6, with t given."""
    moved = arc(row[label], margin)
    logits = [c * (level + c) if c > moved else c for c in row]
    logits[label] = moved
    return scale * np.array(logits)


def magface(row, label, norm, bounds=(10.0, 110.0), margins=(0.45, 0.8), weight=35.0, scale=64.0):
    """Meng et al., eqs. 3 and 4: logits and the term of the norm."""
    norm = min(max(norm, bounds[0]), bounds[1])
    share = (norm - bounds[0]) / (bounds[1] - bounds[0])
    margin = margins[0] + (margins[1] - margins[0]) * share
    pull = weight * (1 / norm + norm / bounds[1] ** 2)
    return scale * with_target(row, label, arc(row[label], margin)), pull


def adaface(row, label, quality, margin=0.4, scale=64.0):
    """Kim et al., eqs. 15 to 17, with the quality z given."""
    angle = math.acos(row[label]) - margin * quality
    angle = min(max(angle, 1e-3), math.pi - 1e-3)
    return scale * with_target(row, label, math.cos(angle) - margin * quality - margin)


def with_target(row, label, value):
    return np.array([value if j == label else c for j, c in enumerate(row)])


STATELESS = {
    "softmax": softmax,
    "normalised_softmax": normalised_softmax,
    "arcface": arcface,
    "cosface": cosface,
    "sphereface": sphereface,
    "combined": combined,
}

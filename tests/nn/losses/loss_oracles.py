"""Every loss again, in plain loops over rows and positions. One entry of `ORACLES` for each.

An oracle takes the settings, the hasher's, and a `Batch`, and gives a float.
"""

import dataclasses
import itertools
import math
import typing

import numpy as np
import pytest

from iom.config import CODE_LOSSES
from iom.nn.losses.code.similarity import BINS, collision_curve

ORACLES = {}


def variants():
    """Every loss with every combination of its choices."""
    for name, model in CODE_LOSSES.items():
        choices = {
            field: typing.get_args(info.annotation)
            for field, info in model.model_fields.items()
            if field != "name" and typing.get_origin(info.annotation) is typing.Literal
        }
        for values in itertools.product(*choices.values()):
            settings = dict(zip(choices, values, strict=True))
            yield pytest.param(name, settings, id="-".join([name, *values]))


VARIANTS = list(variants())
COMPARED = ("triplet", "weighted_margin", "multi_similarity", "distillation", "logistic", "operating_point")
"""Losses that follow the comparison of the hasher."""


@dataclasses.dataclass
class Batch:
    """One batch as the training graph gives it, in float64."""

    labels: list[int]
    embeddings: np.ndarray
    soft: np.ndarray
    second: np.ndarray
    """Codes of the same rows under another key."""
    cosines: np.ndarray
    codes: np.ndarray
    """Read back, `(B, K)`."""
    keyed: np.ndarray
    """Rows that the codes are of, `(B, K)`."""

    def asymmetric(self, i, j):
        """Cosine of a stored code and the row of a probe."""
        return self.codes[i] @ self.keyed[j] / np.linalg.norm(self.codes[i]) / np.linalg.norm(self.keyed[j])

    def collision(self, i, j, other=None):
        other = self.soft if other is None else other
        return np.mean([self.soft[i, m] @ other[j, m] for m in range(self.soft.shape[1])])

    @property
    def rows(self):
        return range(len(self.labels))

    def mates(self, i):
        return [j for j in self.rows if j != i and self.labels[j] == self.labels[i]]

    def others(self, i):
        return [j for j in self.rows if self.labels[j] != self.labels[i]]

    def flat(self, i):
        return self.soft[i].reshape(-1)

    def cosine(self, i, j):
        a, b = self.flat(i), self.flat(j)
        return a @ b / math.sqrt(a @ a) / math.sqrt(b @ b)

    def likeness(self, i, j, hasher):
        if hasher.comparison == "asymmetric":
            return self.asymmetric(i, j)
        chance = 1 / self.soft.shape[2]
        return (self.collision(i, j) - chance) / (1 - chance)


def oracle(function):
    ORACLES[function.__name__] = function
    return function


def mean(values):
    return float(np.mean(values)) if len(values) else 0.0


@oracle
def triplet(loss, hasher, batch):
    length = batch.soft.shape[1]
    own = "asymmetric" if hasher.comparison == "asymmetric" else "collision"
    distance = {
        "asymmetric": lambda i, j: 1 - batch.asymmetric(i, j),
        "collision": lambda i, j: 1 - batch.collision(i, j),
        "euclidean": lambda i, j: math.dist(batch.flat(i), batch.flat(j)) / math.sqrt(2 * length),
        "cosine": lambda i, j: 1 - batch.cosine(i, j),
    }[own if loss.distance == "comparison" else loss.distance]
    d = [[distance(i, j) for j in batch.rows] for i in batch.rows]
    values = []
    for i in batch.rows:
        mates, others = batch.mates(i), batch.others(i)
        if not mates or not others:
            continue
        if loss.mining == "batch_hard":
            values.append(max(d[i][p] for p in mates) - min(d[i][n] for n in others))
        for p in mates:
            if loss.mining == "batch_all":
                values += [d[i][p] - d[i][n] for n in others]
            if loss.mining == "semi_hard":
                farther = [d[i][n] for n in others if d[i][n] > d[i][p]]
                values.append(d[i][p] - (min(farther) if farther else max(d[i][n] for n in others)))
    values = [max(0.0, value + loss.margin) for value in values]
    if loss.mining == "batch_all":
        values = [value for value in values if value > 0]
    return mean(values)


@oracle
def arc_triplet(loss, hasher, batch):
    def angle(i, j):
        return math.acos(max(-1 + 1e-6, min(1 - 1e-6, batch.cosine(i, j))))

    def value(mated, non_mated):
        wider = min(mated + loss.margin, math.pi / 2)
        narrower = max(non_mated - loss.margin, 0)
        near, far = math.exp(math.cos(narrower)), math.exp(math.sin(non_mated))
        apart, close = math.exp(math.sin(wider)), math.exp(math.cos(mated))
        return near / (near + far) + apart / (apart + close)

    values = []
    for i in batch.rows:
        mated, others = [[angle(i, j) for j in js] for js in (batch.mates(i), batch.others(i))]
        if loss.mining == "batch_all":
            values += [value(p, n) for p in mated for n in others]
        elif mated and others:
            values.append(value(max(mated), min(others)))
    return mean(values)


@oracle
def weighted_margin(loss, hasher, batch):
    beta, alpha = loss.boundary, loss.width
    n = loss.dimension

    def distance(i, j):
        return math.sqrt(min(max(2 - 2 * batch.likeness(i, j, hasher), 1e-6), 4 - 1e-3))

    def density(d):
        d = min(max(d, loss.cutoff), math.sqrt(4 - 1e-3))
        return d ** (n - 2) * (1 - d * d / 4) ** ((n - 3) / 2)

    values = []
    for i in batch.rows:
        reached = [d for d in (distance(i, j) for j in batch.others(i)) if d < beta + alpha]
        weights = [1 / density(d) for d in reached]
        expected = sum(w / sum(weights) * max(0, alpha + beta - d) for w, d in zip(weights, reached, strict=True))
        values += [max(0, alpha + distance(i, p) - beta) + expected for p in batch.mates(i)]
    return mean(values)


@oracle
def multi_similarity(loss, hasher, batch):
    alpha, beta = loss.mated_slope, loss.non_mated_slope
    limit, epsilon = loss.boundary, loss.mining_margin
    total = 0.0
    for i in batch.rows:
        mated, others = [[batch.likeness(i, j, hasher) for j in js] for js in (batch.mates(i), batch.others(i))]
        if not mated or not others:
            continue
        hard = [s for s in mated if s < max(others) + epsilon]
        close = [s for s in others if s > min(mated) - epsilon]
        total += math.log(1 + sum(math.exp(-alpha * (s - limit)) for s in hard)) / alpha
        total += math.log(1 + sum(math.exp(beta * (s - limit)) for s in close)) / beta
    return total / len(batch.labels)


@oracle
def quantization(loss, hasher, batch):
    if loss.form in ("reconstruction", "anisotropic"):
        values = []
        for code, row in zip(batch.codes, batch.keyed, strict=True):
            along = sum((row - code) * row) / math.sqrt(sum(row * row))
            whole = sum((row - code) ** 2)
            values.append(whole - along**2 + (4 if loss.form == "anisotropic" else 1) * along**2)
        return mean(values)

    def one(p):
        if loss.form == "one_max":
            return 1 - max(p)
        if loss.form == "entropy":
            return entropy(p)
        index = sum(symbol * share for symbol, share in enumerate(p))
        return (round(index) - index) ** 2

    return mean([one(position) for row in batch.soft for position in row])


@oracle
def balance(loss, hasher, batch):
    return 1 - mean([entropy(batch.soft[:, m].mean(0)) for m in range(batch.soft.shape[1])])


@oracle
def decorrelation(loss, hasher, batch):
    positions = [batch.soft[:, m] - batch.soft[:, m].mean(0) for m in range(batch.soft.shape[1])]
    count = len(batch.labels)
    scaled = [x / math.sqrt(max(np.square(x).sum() / count, 1e-4)) for x in positions]
    return mean(
        [np.square(a.T @ b / count).sum() for m, a in enumerate(scaled) for n, b in enumerate(scaled) if m != n]
    )


@oracle
def binarization(loss, hasher, batch):
    size, slope = batch.soft.shape[2], loss.slope
    length = math.ceil(math.log2(size))
    words = {
        "binary": [[int(bit) for bit in format(s, f"0{length}b")] for s in range(size)],
        "one_hot": [[int(s == t) for t in range(size)] for s in range(size)],
        "simplex": [[bin(s & column).count("1") % 2 for column in range(1, 2**length)] for s in range(size)],
    }[loss.words]
    values = []
    for position in batch.soft.reshape(-1, size):
        for bit in range(len(words[0])):
            x = slope * (2 * sum(position[s] * words[s][bit] for s in range(size)) - 1)
            if loss.form == "tanh":
                values.append(min((math.tanh(x) - 1) ** 2, (math.tanh(x) + 1) ** 2))
            else:
                y = 1 / (1 + math.exp(-x))
                values.append(-math.log2(max(y, 1 - y)))
    return mean(values)


@oracle
def distillation(loss, hasher, batch):
    asymmetric = hasher.comparison == "asymmetric"
    held = mean([batch.asymmetric(i, i) for i in batch.rows])
    curve = collision_curve(hasher.alphabet_size)
    total = weight = 0.0
    for i in batch.rows:
        for j in batch.rows:
            if i == j:
                continue
            cosine = batch.embeddings[i] @ batch.embeddings[j]
            target = held * cosine if asymmetric else curve[round((cosine + 1) * BINS / 2)]
            found = batch.asymmetric(i, j) if asymmetric else batch.collision(i, j)
            offset = (cosine - loss.centre) / loss.width
            factor = loss.floor + math.exp(-(offset**2) / 2)
            total += factor * (found - target) ** 2
            weight += factor
    if asymmetric:
        return total / weight / (max(1 - held**2, 1e-4) / batch.embeddings.shape[1])
    chance = curve[round((loss.centre + 1) * BINS / 2)]
    return total / weight / (chance * (1 - chance) / hasher.code_length)


@oracle
def logistic(loss, hasher, batch):
    curve = collision_curve(hasher.alphabet_size)
    asymmetric = hasher.comparison == "asymmetric"
    threshold = loss.centre if asymmetric else curve[round((loss.centre + 1) * BINS / 2)]

    def miss(sign, i, j):
        found = batch.asymmetric(i, j) if asymmetric else batch.collision(i, j)
        x = sign * loss.slope * (found - threshold)
        return math.log1p(math.exp(-x))

    accept = mean([miss(1, i, j) for i in batch.rows for j in batch.mates(i)])
    reject = mean([miss(-1, i, j) for i in batch.rows for j in batch.others(i)])
    return (accept + reject) / 2


@oracle
def operating_point(loss, hasher, batch):
    others = [batch.likeness(i, j, hasher) for i in batch.rows for j in batch.others(i)]
    if not others:
        return 0.0
    threshold = loss.softness * math.log(mean([math.exp(s / loss.softness) for s in others]))
    mated = [batch.likeness(i, j, hasher) for i in batch.rows for j in batch.mates(i)]
    return mean([math.log1p(math.exp(loss.slope * (threshold - s))) for s in mated])


@oracle
def linkability(loss, hasher, batch):
    pairs = {
        kind: [1 - batch.collision(i, j, batch.second) for i in batch.rows for j in js(i)]
        for kind, js in (("mated", batch.mates), ("other", batch.others))
    }
    if not all(pairs.values()):
        return 0.0
    step = 1 / hasher.code_length
    m, n = np.mean(pairs["mated"]), np.mean(pairs["other"])
    s, t = (math.sqrt(np.var(pairs[kind]) + step**2) for kind in ("mated", "other"))
    if loss.form == "statistics":
        return float((abs(m - n) + abs(s - t)) / t)
    return float(math.log(t / s) + (s * s + (m - n) ** 2) / (2 * t * t) - 0.5)


@oracle
def classification(loss, hasher, batch):
    margin = loss.margin if loss.form == "arcface" else 0.0
    values = []
    for row, label in zip(batch.cosines, batch.labels, strict=True):
        theta = math.acos(row[label])
        logits = loss.scale * row
        moved = math.cos(theta + margin)
        if theta + margin > math.pi:
            moved = row[label] - margin * math.sin(margin)
        logits[label] = loss.scale * moved
        values.append(np.logaddexp.reduce(logits) - logits[label])
    return mean(values)


def entropy(p):
    return -sum(share * math.log(share) for share in p) / math.log(len(p))

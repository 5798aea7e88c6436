"""Keyed transforms that are not linear: accuracy, and what known faces undo.

    python -m benchmarks.keyed_transforms
    python -m benchmarks.keyed_transforms --quick
    python -m benchmarks.keyed_transforms --synthetic

One secret key serves all subjects, the family of transforms is public. Accuracy: all pairs of held-out FIW (whole
families), cosine of transformed embeddings, without rounding to codes. Attack: a thief has all transformed embeddings,
knows k subjects by their enrolled photograph (`exact`) or another one, and reconstructs the others; accepted is what
comes nearer to another photograph of the subject than the threshold at FMR 1e-3 of the embeddings. Attackers: ridge
regression; kernel ridge regression; the nearest known face; a small network trained on the known faces; and kernel
ridge regression whose kernel, a mixture, was chosen on keys that the attacker made himself (`learned`). The best one of
them counts. A transform holds if it costs no accuracy and the thief gets no more than a stranger's face does.

Prints a table, then one line of JSON; rates are fractions.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.command_line import add_data_option, new_parser, run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float64]
    Transform = Callable[[Rows], Rows]

FMR = 1e-3
KNOWN = (10, 20, 50, 100, 200)
VICTIMS = 200
PENALTIES = (0.001, 0.01, 0.1, 1.0)
WIDTHS = (0.5, 1.0, 2.0)
OWN_KEYS, MIXTURES = 3, 24
FAMILIES = {
    "rotation": (0,),
    "fold": (8, 32, 128),
    "coupling": (1.0, 4.0, 16.0),
    "turning": (0.1, 0.3, 1.0),
    "pieces": (1, 2, 4),
}
"""Family to its strengths: folds; gain of the coupling; angle by a coupled value; hyperplanes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.keyed_transforms`."""
    parser = new_parser("python -m benchmarks.keyed_transforms", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--known", nargs="+", type=int, default=list(KNOWN), help="default: %(default)s")
    parser.add_argument("--keys", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--synthetic", action="store_true", help="random vectors in place of faces; no data")
    parser.add_argument("--quick", action="store_true", help="the first and the last strength of each family, one key")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    rows, labels, people = _synthetic(arguments.seed) if arguments.synthetic else _held_out(arguments)
    scene = _Scene(rows, labels, people, arguments.seed)
    print(f"{len(rows)} images, {len(scene.enrolled)} subjects enrolled; stranger accepted: {scene.chance:.4f}")
    found: list[dict[str, Any]] = []
    for family in arguments.families:
        strengths = FAMILIES[family]
        for strength in (strengths[0], strengths[-1])[: len(strengths)] if arguments.quick else strengths:
            row = scene.measure(family, strength, arguments.known, 1 if arguments.quick else arguments.keys)
            found.append(row)
            print(json.dumps(row), flush=True)
    cost = salted_cost(rows[: min(len(rows), 2000)])
    print(table(found, arguments.known))
    print(json.dumps({"rows": found, "fmr": scene.chance, "float": scene.plain, "salted_us_per_record": cost}))
    return 0


def table(found: Sequence[dict[str, Any]], known: Sequence[int]) -> str:
    """The rows as Markdown, rates in percent."""
    head = ["transform", "strength", "EER", "FNMR@1e-3", *(f"{k} exact" for k in known), *(f"{k} other" for k in known)]
    lines = [head, ["---"] * len(head)]
    for row in found:
        cells = [row["family"], f"{row['strength']:g}", f"{100 * row['eer']:.2f}", f"{100 * row['fnmr_1e3']:.2f}"]
        for photograph in ("exact", "other"):
            cells += [f"{100 * row['accepted'][f'{k}_{photograph}']['best']:.1f}" for k in known]
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def draw_transform(family: str, strength: float, size: int, stream: "np.random.Generator") -> "Transform":
    """A transform of unit rows `(N, D)` under a fresh key, which a stream of random numbers stands for.

    `fold`: mirror at secret hyperplanes what lies behind them. `coupling`: one half is shifted by a function of the
    other, four rounds between secret rotations, a bijection (Feistel). `turning`: pairs of values are turned by an
    angle that depends on the other half, a bijection that keeps lengths. `pieces`: a rotation for each cell of an
    arrangement of secret hyperplanes.
    """
    return _FAMILIES[family](strength, size, stream)


def _rotation(size: int, stream: "np.random.Generator") -> "Rows":
    import numpy as np

    return np.asarray(np.linalg.qr(stream.normal(size=(size, size)))[0])


def _linear(strength: float, size: int, stream: "np.random.Generator") -> "Transform":
    rotation = _rotation(size, stream)
    return lambda rows: rows @ rotation


def _fold(strength: float, size: int, stream: "np.random.Generator") -> "Transform":
    import numpy as np

    normals = stream.normal(size=(int(strength), size))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    offsets = 0.5 * np.abs(stream.normal(size=len(normals))) / np.sqrt(size)

    def transform(rows: "Rows") -> "Rows":
        rows = rows.copy()
        for normal, offset in zip(normals, offsets, strict=True):
            rows -= 2 * np.minimum(rows @ normal + offset, 0)[:, None] * normal
        return rows

    rotation = _rotation(size, stream)
    return lambda rows: transform(rows) @ rotation


ROUNDS = 4


def _coupling(strength: float, size: int, stream: "np.random.Generator") -> "Transform":
    import numpy as np

    half = size // 2
    rounds = [
        (_rotation(size, stream), stream.normal(size=(half, half)), stream.normal(size=(half, size - half)))
        for _ in range(ROUNDS)
    ]
    last = _rotation(size, stream)

    def transform(rows: "Rows") -> "Rows":
        for rotation, inner, outer in rounds:
            rows = rows @ rotation
            hidden = np.tanh(strength * rows[:, :half] @ inner * np.sqrt(size / half))
            shift = hidden @ outer / np.sqrt(half * size) / np.sqrt(ROUNDS)
            rows = np.concatenate([rows[:, :half], rows[:, half:] + shift], axis=1)
        return rows @ last

    return transform


def _turning(strength: float, size: int, stream: "np.random.Generator") -> "Transform":
    import numpy as np

    half = size // 4 * 2
    rounds = [(_rotation(size, stream), stream.normal(size=(size - half, half // 2))) for _ in range(ROUNDS)]
    last = _rotation(size, stream)

    def transform(rows: "Rows") -> "Rows":
        for rotation, inner in rounds:
            rows = rows @ rotation
            angles = strength * rows[:, half:] @ inner
            first, second = rows[:, : half // 2], rows[:, half // 2 : half]
            turned = first * np.cos(angles) - second * np.sin(angles), first * np.sin(angles) + second * np.cos(angles)
            rows = np.concatenate([*turned, rows[:, half:]], axis=1)
        return rows @ last

    return transform


def _pieces(strength: float, size: int, stream: "np.random.Generator") -> "Transform":
    import numpy as np

    count = int(strength)
    normals = stream.normal(size=(size, count))
    rotations = [_rotation(size, stream) for _ in range(1 << count)]

    def transform(rows: "Rows") -> "Rows":
        cells = (rows @ normals > 0) @ (1 << np.arange(count))
        turned = np.empty_like(rows)
        for cell in np.unique(cells):
            turned[cells == cell] = rows[cells == cell] @ rotations[cell]
        return turned

    return transform


_FAMILIES: dict[str, Callable[[float, int, Any], Any]] = {
    "rotation": _linear, "fold": _fold, "coupling": _coupling, "turning": _turning, "pieces": _pieces
}  # fmt: skip


class _Scene:
    """Enrolled subjects with another photograph, victims among them, and the attacker's people."""

    def __init__(self, rows: "Rows", labels: "NDArray[np.int64]", people: "Rows", seed: int) -> None:
        import numpy as np

        from iom.codes.comparators import CosineComparator
        from iom.metrics.all_pairs import AllPairs

        self._pairs, self._comparator = AllPairs(labels), CosineComparator()
        self._rows, self._people, self._seed = rows, people, seed
        stream = np.random.default_rng(seed)
        able = stream.permutation(np.flatnonzero(np.bincount(labels) >= 2))
        chosen = np.array([stream.permutation(np.flatnonzero(labels == subject))[:2] for subject in able])
        self.enrolled, self.others = rows[chosen[:, 0]], rows[chosen[:, 1]]
        curve = self._curve(rows)
        self.plain = {"eer": curve.equal_error_rate(), "fnmr_1e3": curve.fnmr_at_fmr(FMR)}
        self._threshold = 1 - curve.threshold_at_fmr(FMR)
        victims = min(VICTIMS, len(able) // 2)
        self._wanted, self._known = np.arange(victims), np.arange(victims, len(able))
        self.chance = float(np.mean(people @ self.others[self._wanted].T >= self._threshold))

    def _curve(self, rows: "Rows") -> Any:
        return self._pairs.curve(self._comparator, self._comparator.prepare(rows))

    def measure(self, family: str, strength: float, known: Sequence[int], keys: int) -> dict[str, Any]:
        """Accuracy of a family and acceptance of the reconstructions, means over keys."""
        import numpy as np

        size = self._rows.shape[1]
        streams = [np.random.default_rng((self._seed, number)) for number in range(keys + OWN_KEYS)]
        transforms = [draw_transform(family, strength, size, stream) for stream in streams]
        curves = [self._curve(transform(self._rows)) for transform in transforms[:keys]]
        own = [transform(self._people) for transform in transforms[keys:]]
        accepted: dict[str, dict[str, float]] = {}
        for count in known:
            if count > len(self._known):
                continue
            mixture = self._mixture(own, count)
            for photograph, faces in (("exact", self.enrolled), ("other", self.others)):
                tried = [self._attack(transform, faces, count, mixture) for transform in transforms[:keys]]
                by_name = {name: float(np.mean([each[name] for each in tried])) for name in tried[0]}
                accepted[f"{count}_{photograph}"] = by_name | {"best": max(by_name.values())}
        return {
            "family": family,
            "strength": strength,
            "eer": float(np.mean([curve.equal_error_rate() for curve in curves])),
            "fnmr_1e3": float(np.mean([curve.fnmr_at_fmr(FMR) for curve in curves])),
            "accepted": accepted,
        }

    def _attack(
        self, transform: "Transform", faces: "Rows", count: int, mixture: "tuple[float, ...]"
    ) -> dict[str, float]:
        """Acceptance of the victims' reconstructions by each attacker."""
        import numpy as np

        stored = transform(self.enrolled)
        known = self._known[:count]
        seen, targets, told = stored[known], faces[known], stored[self._wanted]
        mean = self._people.mean(axis=0)
        guesses = {
            "ridge": _best_kernel([(1.0, 0.0, 0.0, 0.0, penalty) for penalty in PENALTIES], seen, targets, told, mean),
            "kernel": _best_kernel(
                [(0.2, *(float(width == each) for each in WIDTHS), p) for width in WIDTHS for p in PENALTIES],
                seen, targets, told, mean,
            ),
            "nearest": targets[np.argmax(_unit(told) @ _unit(seen).T, axis=1)],
            "network": _network(seen, targets, told, mean, self._seed),
            "learned": _best_kernel([mixture], seen, targets, told, mean),
        }  # fmt: skip
        others = self.others[self._wanted]
        return {
            name: float(np.mean(np.sum(_unit(rows) * others, axis=1) >= self._threshold))
            for name, rows in guesses.items()
        }

    def _mixture(self, own: "Sequence[Rows]", count: int) -> tuple[float, ...]:
        """Weights of the kernels and the penalty that reconstruct best on keys of the attacker's own."""
        import numpy as np

        stream = np.random.default_rng((self._seed, count))
        candidates = [
            (*stream.dirichlet(np.ones(1 + len(WIDTHS))), 10 ** stream.uniform(-3, 0.5)) for _ in range(MIXTURES)
        ]
        candidates += [(1.0, 0.0, 0.0, 0.0, penalty) for penalty in PENALTIES]
        mean = self._people.mean(axis=0)
        drawn = [stream.permutation(len(self._people)) for _ in own]

        def success(mixture: tuple[float, ...]) -> float:
            found = []
            for rows, order in zip(own, drawn, strict=True):
                known, asked = order[:count], order[-200:]
                guess = _kernel(mixture, rows[known], self._people[known], rows[asked], mean)
                found.append(np.mean(np.sum(_unit(guess) * self._people[asked], axis=1)))
            return float(np.mean(found))

        return max(candidates, key=success)


def _unit(rows: "Rows") -> "Rows":
    import numpy as np

    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def _kernel_values(mixture: tuple[float, ...], a: "Rows", b: "Rows") -> "Rows":
    """A linear kernel and three Gaussian ones of different widths, weighted."""
    import numpy as np

    products = _unit(a) @ _unit(b).T
    values = mixture[0] * products
    for weight, width in zip(mixture[1:], WIDTHS, strict=False):
        if weight:
            values = values + weight * np.exp((products - 1) / width**2)
    return np.asarray(values)


def _kernel(mixture: tuple[float, ...], seen: "Rows", targets: "Rows", told: "Rows", mean: "Rows") -> "Rows":
    """Kernel ridge regression around the mean of the population."""
    import numpy as np

    gram = _kernel_values(mixture, seen, seen) + mixture[-1] * np.eye(len(seen))
    return np.asarray(mean + _kernel_values(mixture, told, seen) @ np.linalg.solve(gram, targets - mean))


def _best_kernel(
    mixtures: Sequence[tuple[float, ...]], seen: "Rows", targets: "Rows", told: "Rows", mean: "Rows"
) -> "Rows":
    """The regression with the least error on known faces that are left out, one at a time."""
    import numpy as np

    def left_out(mixture: tuple[float, ...]) -> float:
        inverse = np.linalg.inv(_kernel_values(mixture, seen, seen) + mixture[-1] * np.eye(len(seen)))
        return float(np.sum((inverse @ (targets - mean) / np.diag(inverse)[:, None]) ** 2))

    return _kernel(min(mixtures, key=left_out), seen, targets, told, mean)


def _network(seen: "Rows", targets: "Rows", told: "Rows", mean: "Rows", seed: int) -> "Rows":
    """A network with a hidden layer, trained on the known faces."""
    import warnings

    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    scale = np.sqrt(seen.shape[1])
    model = MLPRegressor(hidden_layer_sizes=(256,), activation="tanh", alpha=0.1, max_iter=150, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scale * _unit(seen), scale * (targets - mean))
    return np.asarray(mean + model.predict(scale * _unit(told)) / scale)


def salted_cost(rows: "Rows") -> dict[str, float]:
    """Microseconds a record of a search in which every record has its own rotation, from a public salt and the key.

    That is a key per record: a probe is turned and compared once for each record. `common`: the same with one key.
    """
    import numpy as np

    from iom.keys import KEY_KINDS, TransformKey
    from iom.nn.hash_numpy import rotate

    master, size = TransformKey(bytes(32)), rows.shape[1]
    started = time.perf_counter()
    keys = [master.derive(application="salted", subject="", record=number) for number in range(len(rows))]
    orders = np.stack([KEY_KINDS["orthogonal"].order(key, size, 0) for key in keys])
    derived = time.perf_counter()
    probes = np.repeat(rows[:1].astype(np.float32), len(rows), axis=0)
    turned = rotate(np, probes, orders, keep=0)
    np.einsum("nd,nd->n", turned, rows)
    compared = time.perf_counter()
    np.asarray(rows @ rows[0])
    common = time.perf_counter()
    each = 1e6 / len(rows)
    return {
        "derive": each * (derived - started),
        "turn_and_compare": each * (compared - derived),
        "common": each * (common - compared),
    }


def _held_out(arguments: argparse.Namespace) -> "tuple[Rows, NDArray[np.int64], Rows]":
    """FIW by families: embeddings and subjects of one half, and one face of each subject of the other half."""
    import numpy as np

    from benchmarks.stored_embeddings import embeddings_of

    root = arguments.data / "fiw_112x112"
    listed = (arguments.data / "lists" / "fiw_clean.txt").read_text(encoding="utf-8").split()
    images = [root / place for place in sorted(listed)]
    rows = embeddings_of(images, root, arguments.data).astype(np.float64)
    subjects = np.array([image.parent.name for image in images])
    families = np.array([name.partition("_")[0] for name in subjects])
    names = np.random.default_rng(arguments.seed).permutation(np.unique(families))
    test = np.isin(families, names[: len(names) // 2])
    labels = np.unique(subjects[test], return_inverse=True)[1].astype(np.int64)
    first = np.unique(subjects[~test], return_index=True)[1]
    return rows[test], labels, rows[~test][first]


def _synthetic(seed: int) -> "tuple[Rows, NDArray[np.int64], Rows]":
    """Random subjects in 32 dimensions: shows that it runs, says nothing about faces."""
    import numpy as np

    stream = np.random.default_rng(seed)
    labels = np.repeat(np.arange(300), 2)
    rows = _unit(stream.normal(size=(300, 32))[labels] + 0.4 * stream.normal(size=(600, 32)))
    return rows, labels, _unit(stream.normal(size=(400, 32)))


if __name__ == "__main__":
    raise SystemExit(main())

"""Every metric against an independent implementation on the same scores.

    python -m benchmarks.metrics_parity
    python -m benchmarks.metrics_parity --bob PYTHON

Beside scikit-learn and SciPy, `--bob` compares with bob.measure, run by an interpreter that has it
(`pip install bob.measure` into an environment of its own: it needs an older NumPy). D_sys is held
against distributions of which it is known in closed form. Ends with one line of JSON:
`max_abs_diff` over all comparisons that must be equal, and D_sys of a system whose templates are
fully linkable and of one whose are not. Needs no data.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.command_line import new_parser, run

Distances = NDArray[np.float64]
Difference = tuple[str, float]
BINS = 1 << 15
CODE_LENGTH = 512
BOB = """
import sys, json, numpy as np, bob.measure as bm
with np.load(sys.argv[1]) as f:
    mated, non_mated, table, probes = f["mated"], f["non_mated"], f["table"], f["probes"]
    thresholds, searched = f["thresholds"], f["searched"]
positives, negatives = -mated, -non_mated
rates = [bm.farfrr(negatives, positives, -t) for t in thresholds]
scores = []
for row, subject in zip(-table, probes):
    own = row[[subject]] if subject < row.size else None
    others = np.delete(row, subject) if subject < row.size else row
    scores.append((others, own))
enrolled = [s for s in scores if s[1] is not None]
print(json.dumps({
    "rates": np.array(rates).tolist(),
    "cmc": np.asarray(bm.cmc(enrolled)).tolist(),
    "dir": [bm.detection_identification_rate(scores, -t, rank=1) for t in searched],
    "fpir": [bm.false_alarm_rate(scores, -t) for t in searched],
}))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.metrics_parity`."""
    parser = new_parser("python -m benchmarks.metrics_parity", str(__doc__))
    parser.add_argument("--bob", default="", metavar="PYTHON", help="interpreter with bob.measure")
    parser.add_argument("--seed", type=int, default=1, help="of the scores; default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    rng = np.random.default_rng(arguments.seed)
    cases = {
        "real": (rng.normal(0.4, 0.15, 2000), rng.normal(1.0, 0.15, 50_000)),
        "tied": (rng.binomial(32, 0.5, 2000).astype(float), rng.binomial(32, 0.75, 50_000).astype(float)),
    }
    found: list[Difference] = []
    for name, (mated, non_mated) in cases.items():
        for what, difference in (
            *_against_scikit_learn(mated, non_mated),
            *(_counted(mated, non_mated) if name == "tied" else ()),
            *(_against_bob(mated, non_mated, rng, arguments.bob) if arguments.bob else ()),
        ):
            found.append((f"{name}: {what}", difference))
    found += [*_folds(rng), *_code_statistics(rng), *_known_linkability(), *_all_pairs(arguments.seed)]
    for name, difference in found:
        print(f"{name:58} {difference:.1e}")
    linkable, unlinkable = _linkability(rng)
    figures = {
        "max_abs_diff": max(difference for _, difference in found),
        "d_sys_linkable": linkable,
        "d_sys_unlinkable": unlinkable,
        "comparisons": len(found),
        "bob_measure": bool(arguments.bob),
    }
    print(json.dumps(figures))
    return 0


def _against_scikit_learn(mated: Distances, non_mated: Distances) -> Iterator[Difference]:
    from scipy.optimize import brentq
    from sklearn.metrics import roc_auc_score, roc_curve

    from iom.metrics.verification import error_curve

    curve = error_curve(mated, non_mated)
    truth = np.repeat([1, 0], [len(mated), len(non_mated)])
    scores = -np.concatenate([mated, non_mated])
    fpr, tpr, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    yield "ROC, FMR, scikit-learn", _gap(curve.fmr, fpr)
    yield "ROC, FNMR, scikit-learn", _gap(curve.fnmr, 1 - tpr)
    yield "ROC, thresholds, scikit-learn", _gap(curve.thresholds[1:], -thresholds[1:])
    yield "AUC, scikit-learn", abs(curve.area_under_curve() - roc_auc_score(truth, scores))
    # The ROC is a polygon: EER is where it meets the anti-diagonal.
    eer = brentq(lambda x: 1 - x - np.interp(x, fpr, tpr), 0, 1, xtol=1e-14)
    yield "EER, root on scikit-learn's ROC", abs(curve.equal_error_rate() - eer)
    for fmr in (0.1, 1e-2, 1e-3):
        expected = 1 - tpr[fpr <= fmr].max()
        yield f"FNMR at FMR {fmr:g}, scikit-learn", abs(curve.fnmr_at_fmr(fmr) - expected)


def _counted(mated: Distances, non_mated: Distances) -> Iterator[Difference]:
    from iom.metrics.verification import error_curve, histogram_curve

    curve = error_curve(mated, non_mated)
    counted = histogram_curve(*(np.bincount(d.astype(int), minlength=33) for d in (mated, non_mated)))
    yield "curve of counts, FMR, sorted scores", _gap(counted.fmr, curve.fmr)
    yield "curve of counts, FNMR, sorted scores", _gap(counted.fnmr, curve.fnmr)


def _all_pairs(seed: int) -> Iterator[Difference]:
    from iom.codes.comparators import CosineComparator
    from iom.metrics.all_pairs import AllPairs
    from iom.metrics.verification import error_curve

    rng, comparator = np.random.default_rng(seed), CosineComparator(precision=np.float64)
    subjects = np.repeat(np.arange(60), 5)
    rows = comparator.prepare(rng.normal(size=(60, 32))[subjects] + 0.8 * rng.normal(size=(300, 32)))
    left, right = np.triu_indices(len(rows), k=1)
    same = subjects[left] == subjects[right]
    mated = comparator.paired(rows[left[same]], rows[right[same]])
    curve = error_curve(mated, comparator.all_pairs(rows, rows)[left, right][~same])
    found = AllPairs(subjects).curve(comparator, rows, fmr=0.05)
    for fmr in (1e-2, 1e-3):
        yield f"all pairs, FNMR at FMR {fmr:g}, sorted scores", abs(found.fnmr_at_fmr(fmr) - curve.fnmr_at_fmr(fmr))


def _against_bob(mated: Distances, non_mated: Distances, rng: np.random.Generator, python: str) -> Iterator[Difference]:
    from iom.errors import DataError
    from iom.metrics.identification import search_gallery
    from iom.metrics.verification import error_curve

    gallery, probes = 40, rng.integers(0, 60, size=300)
    table = rng.choice(non_mated, size=(300, gallery))
    enrolled = probes < gallery
    table[np.flatnonzero(enrolled), probes[enrolled]] = rng.choice(mated, size=int(enrolled.sum()))
    curve = error_curve(mated, non_mated)
    thresholds = curve.thresholds[1 :: max(1, len(curve.thresholds) // 50)]
    searched = np.quantile(table, [0.001, 0.01, 0.1, 0.5])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.npz"
        np.savez(
            path, mated=mated, non_mated=non_mated, table=table, probes=probes,
            thresholds=thresholds, searched=searched,
        )  # fmt: skip
        done = subprocess.run([python, "-c", BOB, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"{python} could not run bob.measure: {done.stderr.strip()[-300:]}")
    theirs = json.loads(done.stdout.splitlines()[-1])
    place = np.searchsorted(curve.thresholds, thresholds)
    rates = np.array(theirs["rates"])
    yield "FMR by threshold, bob.measure.farfrr", _gap(curve.fmr[place], rates[:, 0])
    yield "FNMR by threshold, bob.measure.farfrr", _gap(curve.fnmr[place], rates[:, 1])
    found = search_gallery(table, probes, np.arange(gallery))
    ours = found.cmc(len(theirs["cmc"]))
    yield "CMC, bob.measure.cmc", _gap(ours, theirs["cmc"])
    rates = [found.identification_rate(t) for t in searched]
    yield "DIR by threshold, bob.measure", _gap(rates, theirs["dir"])
    rates = [found.false_positive_rate(t) for t in searched]
    yield "FPIR by threshold, bob.measure", _gap(rates, theirs["fpir"])


def _folds(rng: np.random.Generator) -> Iterator[Difference]:
    """Against a search of every threshold between two neighbouring distances of nine folds."""
    from iom.metrics.verification import FoldedScores

    same = np.tile([True, False], 300)
    distances, fold = np.where(same, 0.4, 1.0) + rng.normal(0, 0.3, 600), np.arange(600) // 60
    accuracies = []
    for number in range(10):
        other = fold != number
        ordered = np.sort(distances[other])
        middles = np.concatenate([[-np.inf], (ordered[1:] + ordered[:-1]) / 2, [np.inf]])
        correct = [np.sum((distances[other] <= t) == same[other]) for t in middles]
        threshold = middles[int(np.argmax(correct))]
        accuracies.append(np.mean((distances[~other] <= threshold) == same[~other]))
    found = FoldedScores(distances, same, fold).accuracy()
    yield "ten-fold accuracy, plain search", abs(found.mean - np.mean(accuracies))
    yield "its spread, plain search", abs(found.std - np.std(accuracies))


def _code_statistics(rng: np.random.Generator) -> Iterator[Difference]:
    from iom.metrics.protection import degrees_of_freedom, min_entropy, symbol_entropy

    codes = rng.choice(8, size=(3000, 12), p=np.arange(1, 9) / 36)
    counts = [np.bincount(column, minlength=8) for column in codes.T]
    expected = [-np.sum(count / 3000 * np.log2(count / 3000)) for count in counts]
    yield "symbol entropy, definition", _gap(symbol_entropy(codes, 8), expected)
    expected = [-np.log2(count.max() / 3000) for count in counts]
    yield "min-entropy, definition", _gap(min_entropy(codes, 8), expected)
    shares = rng.binomial(249, 0.5, 10_000) / 249  # as of 249 independent positions
    expected = shares.mean() * (1 - shares.mean()) / shares.var()
    counts = np.bincount((shares * 249).round().astype(int), minlength=250)
    difference = abs(degrees_of_freedom(counts) - expected) / expected
    yield "degrees of freedom, Daugman's formula (relative)", difference


def _known_linkability() -> Iterator[Difference]:
    """D_sys in closed form: p_m = 2 (1 - s), p_nm = 2 s gives 5/12; two half-covered boxes 1/2."""
    from iom.metrics.protection import maximal_linkability, system_linkability

    edges = np.linspace(0, 1, BINS + 1)
    mated, non_mated = np.diff(2 * edges - edges**2), np.diff(edges**2)
    yield "D_sys of two triangles, 5/12", abs(system_linkability(mated, non_mated) - 5 / 12)
    boxes = np.repeat([1.0, 1.0, 0.0], 50), np.repeat([0.0, 1.0, 1.0], 50)
    yield "D_sys of two boxes, 1/2", abs(system_linkability(*boxes) - 0.5)
    expected = np.log2(1.5)
    difference = abs(maximal_linkability(mated, non_mated) - expected)
    yield "maximal linkability of two triangles, log2 3/2", difference


def _linkability(rng: np.random.Generator) -> tuple[float, float]:
    """A system that ignores its key, and one whose codes under two keys meet by chance."""
    from iom.metrics.protection import system_linkability

    def counts(mismatch: float, size: int) -> NDArray[np.int64]:
        return np.bincount(rng.binomial(CODE_LENGTH, mismatch, size), minlength=CODE_LENGTH + 1)

    chance = counts(0.875, 5_000_000)
    linkable = system_linkability(counts(0.5, 200_000), chance)
    return linkable, system_linkability(counts(0.875, 1_000_000), chance)


def _gap(ours: object, theirs: object) -> float:
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape:
        return float("inf")
    same = a == b  # infinite thresholds
    return float(np.abs(np.where(same, 0, a) - np.where(same, 0, b)).max())


if __name__ == "__main__":
    raise SystemExit(main())

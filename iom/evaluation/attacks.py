"""Evaluation of attacks on every system: knowledge, reconstruction, acceptance under old and fresh keys, linkage."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom._registry import lookup
from iom.attacks import ATTACKS
from iom.attacks.base import Attack, AttackedSystem, BlackBox, Embeddings, Leak, Templates
from iom.errors import DataError
from iom.keys import SECRET_BYTES, TransformKey
from iom.metrics.all_pairs import AllPairs
from iom.metrics.bootstrap import Counts, Interval, bootstrap_samples, percentile_intervals, rate_interval
from iom.metrics.verification import area_under_curve, equal_error_rate

MIN_FRESH_KEYS = 40
"""Fresh keys that a post-revocation acceptance rate is to be measured over."""
REPLICATES = 200
RATES = ("sar", "prar", "prar_other")
"""Figures that are shares of the reconstructions."""
LINKING = ("linking_auc", "linking_eer", "linking_auc_same")


@dataclasses.dataclass(frozen=True, eq=False)
class Victims:
    """Attacked subjects, and the attacker's embeddings of other people `(T, D)`, all of unit length.

    Of `samples` `(N, S, D)` of each subject, S >= 2, the template of the first leaks; the last is presented at the
    renewal. `others` are public photographs beside the enrolled ones, `(P, D)`; `None` takes the population.
    """

    samples: Embeddings
    population: Embeddings
    population_labels: NDArray[np.int64]
    others: Embeddings | None = None

    def __post_init__(self) -> None:
        if self.samples.ndim != 3 or self.samples.shape[1] < 2 or len(self.samples) < 2:
            raise DataError(
                "victims: expected samples (N, S, D) of two subjects or more with two samples or "
                f"more, received {self.samples.shape}"
            )

    @classmethod
    def of(
        cls,
        embeddings: Embeddings,
        labels: NDArray[np.int64],
        *,
        population: Embeddings,
        population_labels: NDArray[np.int64],
        subjects: int,
        samples: int,
        seed: int,
    ) -> "Victims":
        """Draw subjects with enough samples from test embeddings `(N, D)`; all but the enrolled are the `others`."""
        counts = np.bincount(labels)
        able = np.flatnonzero(counts >= samples)
        if len(able) < 2:
            raise DataError(f"victims: {len(able)} subjects have {samples} samples, expected two")
        stream = numpy_stream(seed, "attacks/victims")
        drawn = stream.permutation(able)[:subjects]
        rows = [stream.permutation(np.flatnonzero(labels == subject)) for subject in drawn]
        chosen = np.stack([embeddings[row[:samples]] for row in rows])
        others = np.delete(embeddings, [row[0] for row in rows], axis=0)
        return cls(chosen, population, population_labels, others)

    @property
    def photographs(self) -> Embeddings:
        """Every photograph that an attacker can find: the enrolled ones, `(N, D)`, then others."""
        others = self.population if self.others is None else self.others
        return np.concatenate([self.samples[:, 0], others])


@dataclasses.dataclass(frozen=True, eq=False)
class AttackKeys:
    """Test keys of an evaluation, derived from a seed, never to protect anyone.

    Each `old` key leaks with its templates, for a repetition of all attacks; victims are renewed under the `fresh`
    ones; `records` are further old keys, for attacks on several records.
    """

    old: tuple[TransformKey, ...] = dataclasses.field(repr=False)
    fresh: tuple[TransformKey, ...] = dataclasses.field(repr=False)
    records: tuple[TransformKey, ...] = dataclasses.field(default=(), repr=False)


def measuring_keys(seed: int, purpose: str, count: int) -> tuple[TransformKey, ...]:
    """Test keys for a purpose, from a seed."""
    stream = numpy_stream(seed, f"attacks/keys/{purpose}")
    return tuple(TransformKey(stream.bytes(SECRET_BYTES)) for _ in range(count))


def decision_threshold(
    system: AttackedSystem,
    embeddings: Embeddings,
    labels: NDArray[np.int64],
    *,
    fmr: float,
    keys: Sequence[TransformKey],
) -> float:
    """The largest distance whose FMR is at most `fmr`, over all pairs and keys (`stolen_key`)."""
    pairs = AllPairs(labels)
    pairs.check_resolution(fmr)
    templates = [system.comparator.prepare(system.hash(embeddings, key)) for key in keys]
    curve = pairs.curve(system.comparator, *templates, fmr=fmr)
    threshold = curve.threshold_at_fmr(fmr)
    if not np.isfinite(threshold):
        raise DataError(f"threshold: no distance of {system.name} keeps to an FMR of {fmr:g}")
    return threshold


def make_leak(system: AttackedSystem, victims: Victims, keys: Sequence[TransformKey], *, seed: int) -> Leak:
    """Everything that could leak of records under `keys`; record r is of sample r.

    The last sample, of the renewal, never leaks. With more records than other samples, samples are used again.
    """
    usable = victims.samples.shape[1] - 1
    codes = tuple(system.hash(victims.samples[:, record % usable], key) for record, key in enumerate(keys))
    boxes = tuple(_black_box(system, key) for key in keys)
    vectors, responses = system.vectors, system.responses

    def oracle(candidates: Embeddings, owners: NDArray[np.intp]) -> NDArray[np.float64]:
        return system.distances(boxes[0](candidates), codes[0][owners])

    return Leak(
        system=system,
        victims=len(victims.samples),
        seed=seed,
        codes=codes,
        hashers=boxes,
        vectors=tuple(vectors(key) for key in keys) if vectors else None,
        responses=tuple(responses(key) for key in keys) if responses else None,
        population=victims.population,
        population_labels=victims.population_labels,
        oracle=oracle,
        photographs=victims.photographs,
    )


def _black_box(system: AttackedSystem, key: TransformKey) -> BlackBox:
    return lambda rows: system.hash(rows, key)


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
    """Results of one attack by old key and victim: cosines to the leaked embedding, and acceptance.

    `renewed` `(old keys, fresh keys, N)` is acceptance under fresh keys against the same sample, `renewed_other`
    against another sample.
    """

    cosine: NDArray[np.float64]
    same_key: NDArray[np.bool_]
    renewed: NDArray[np.bool_]
    renewed_other: NDArray[np.bool_]


def renewed_templates(system: AttackedSystem, victims: Victims, keys: AttackKeys) -> list[tuple[Templates, Templates]]:
    """Templates of the first and of the last sample under each fresh key."""
    first, last = victims.samples[:, 0], victims.samples[:, -1]
    return [(system.hash(first, key), system.hash(last, key)) for key in keys.fresh]


def run_reconstruction(
    system: AttackedSystem,
    attack: Attack,
    victims: Victims,
    keys: AttackKeys,
    *,
    references: Sequence[tuple[Templates, Templates]],
    threshold: float,
    records: int,
    seed: int,
) -> Reconstruction:
    """Reconstruct under every old key and try the result under it and under the fresh ones.

    `references` are the `renewed_templates` of these victims and keys.
    """
    if attack.reconstruct is None:
        raise DataError("this attack links templates and reconstructs nothing")
    cosine, same_key = [], []
    renewed: list[list[NDArray[np.bool_]]] = []
    renewed_other: list[list[NDArray[np.bool_]]] = []
    for number, old in enumerate(keys.old):
        leak = make_leak(system, victims, (old, *keys.records[: records - 1]), seed=seed + number)
        found = attack.reconstruct(leak.only(attack.knowledge))
        cosine.append(np.einsum("nd,nd->n", found, victims.samples[:, 0], dtype=np.float64))
        same_key.append(_accepted(system, system.hash(found, old), leak.known("codes")[0], threshold))
        tried = [system.hash(found, key) for key in keys.fresh]
        for results, side in ((renewed, 0), (renewed_other, 1)):
            results.append(
                [
                    _accepted(system, probe, reference[side], threshold)
                    for probe, reference in zip(tried, references, strict=True)
                ]
            )
    return Reconstruction(np.array(cosine), np.array(same_key), np.array(renewed), np.array(renewed_other))


def _accepted(system: AttackedSystem, probes: Templates, references: Templates, threshold: float) -> NDArray[np.bool_]:
    return np.asarray(system.distances(probes, references) <= threshold)


@dataclasses.dataclass(frozen=True)
class AttackRow:
    """One attack on one system; `obstacle` says why it does not apply, and figures are NaN then.

    `knowledge` is `KNOWLEDGE` keys joined by ` + `. `sar`: accepted under the key that leaked. `prar`: accepted under
    fresh keys, the renewal being of the very sample of the leaked template, the worst case; `prar_other`: of another
    sample. Linkers have an AUC and an EER, 0.5 is chance, with two samples of a subject behind the templates (`_same`:
    one). `rank_one`, `rank_ten`: share of victims whose photograph is found at that rank among `photographs`.
    `intervals` are of 95 % over subjects and keys.
    """

    system: str
    attack: str
    knowledge: str
    records: int = 1
    subjects: int = 0
    old_keys: int = 0
    fresh_keys: int = 0
    threshold: float = math.nan
    cosine: float = math.nan
    sar: float = math.nan
    prar: float = math.nan
    prar_other: float = math.nan
    linking_auc: float = math.nan
    linking_auc_same: float = math.nan
    linking_eer: float = math.nan
    rank_one: float = math.nan
    rank_ten: float = math.nan
    photographs: int = 0
    intervals: dict[str, Interval] = dataclasses.field(default_factory=dict)
    obstacle: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file: NaN becomes None, intervals become lists."""
        values = dataclasses.asdict(self)
        values["intervals"] = {name: list(edges) for name, edges in self.intervals.items()}
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()
        }


def attack_rows(
    systems: Sequence[tuple[AttackedSystem, float]],
    names: Sequence[str],
    victims: Victims,
    keys: AttackKeys,
    *,
    records: Sequence[int] = (2, 5, 10),
    seed: int = 1,
    replicates: int = REPLICATES,
) -> Iterator[AttackRow]:
    """Run attacks, keys of `ATTACKS`, over systems with thresholds; an inapplicable one gives a row with the reason.

    `records` are the numbers of records for the attacks that take several; `keys.records` are as many as the largest,
    less one. No `replicates`, no intervals. A `DataError` for fewer than 40 fresh keys, or too few keys for the
    records.
    """
    chosen = {name: lookup(ATTACKS, name, "attack") for name in names}
    if len(keys.fresh) < MIN_FRESH_KEYS or not keys.old:
        raise DataError(
            f"attacks: expected {MIN_FRESH_KEYS} fresh keys or more and an old one, received "
            f"{len(keys.fresh)} and {len(keys.old)}"
        )
    if any(attack.records > 1 for attack in chosen.values()) and (not records or max(records) - 1 > len(keys.records)):
        raise DataError(
            f"attacks: {max(records, default=0)} records need as many keys, received {len(keys.records) + 1}"
        )
    for system, threshold in systems:
        rebuilt = any(attack.reconstruct for attack in chosen.values())
        references = renewed_templates(system, victims, keys) if rebuilt else []
        for name, attack in chosen.items():
            row = AttackRow(system.name, name, " + ".join(attack.knowledge), threshold=threshold)
            obstacle = attack.obstacle(system)
            if obstacle:
                yield dataclasses.replace(row, obstacle=obstacle)
            elif attack.link or attack.identify:
                if attack.link:
                    row = _linked(row, system, attack, victims, keys, seed)
                yield _identified(row, system, attack, victims, keys, seed)
            else:
                for count in records if attack.records > 1 else (1,):
                    outcome = run_reconstruction(
                        system,
                        attack,
                        victims,
                        keys,
                        references=references,
                        threshold=threshold,
                        records=count,
                        seed=seed,
                    )
                    yield _reconstructed(dataclasses.replace(row, records=count), outcome, seed, replicates)


def _reconstructed(row: AttackRow, outcome: Reconstruction, seed: int, replicates: int) -> AttackRow:
    old, fresh, subjects = outcome.renewed.shape
    groups = {"subjects": subjects, "keys": old, "fresh keys": fresh}
    names = ("cosine", *RATES)

    def figures(**drawn: Counts) -> list[float]:
        leaks = np.outer(drawn["keys"], drawn["subjects"])
        renewals = drawn["fresh keys"][None, :, None] * leaks[:, None]
        return [
            float(np.average(outcome.cosine, weights=leaks)),
            float(np.average(outcome.same_key, weights=leaks)),
            float(np.average(outcome.renewed, weights=renewals)),
            float(np.average(outcome.renewed_other, weights=renewals)),
        ]

    values: dict[str, Any] = dict(zip(names, figures(**{k: np.ones(n) for k, n in groups.items()}), strict=True))
    intervals = {}
    if replicates:
        samples = bootstrap_samples(figures, groups, replicates=replicates, seed=seed)
        intervals = dict(zip(names, percentile_intervals(samples), strict=True))
        for name in RATES:
            intervals[name] = rate_interval(intervals[name], values[name], units=subjects, confidence=0.95)
    return dataclasses.replace(row, subjects=subjects, old_keys=old, fresh_keys=fresh, intervals=intervals, **values)


def _linked(
    row: AttackRow, system: AttackedSystem, attack: Attack, victims: Victims, keys: AttackKeys, seed: int
) -> AttackRow:
    """Link first samples under one key with the last and the first ones under another."""
    link = attack.link
    if link is None:
        raise DataError("this attack reconstructs and links nothing")
    count = len(victims.samples)
    renewed = dataclasses.replace(
        victims, samples=np.concatenate([victims.samples[:, [-1, 0]], victims.samples[:, [0, -1]]])
    )
    left, right = (side.ravel() for side in np.indices((count, 2 * count)))
    same, other = left == right - count, left == right
    figures: dict[str, list[float]] = {name: [] for name in LINKING}
    for number, old in enumerate(keys.old):
        fresh = keys.fresh[number % len(keys.fresh)]
        first, second = (
            make_leak(system, side, (key,), seed=seed + number).only(attack.knowledge)
            for side, key in ((victims, old), (renewed, fresh))
        )
        distances = -link(first, second, left, right)
        of_last = right < count
        mated, non_mated = distances[other], distances[of_last & ~other]
        figures["linking_auc"].append(area_under_curve(mated, non_mated))
        figures["linking_eer"].append(equal_error_rate(mated, non_mated))
        figures["linking_auc_same"].append(area_under_curve(distances[same], distances[~of_last & ~same]))
    return _over_keys(row, figures, subjects=count)


def _identified(
    row: AttackRow, system: AttackedSystem, attack: Attack, victims: Victims, keys: AttackKeys, seed: int
) -> AttackRow:
    """Look for each victim's enrolled photograph; of equally good ones it comes last."""
    identify = attack.identify
    if identify is None:
        return row
    count = len(victims.samples)
    figures: dict[str, list[float]] = {"rank_one": [], "rank_ten": []}
    for number, old in enumerate(keys.old):
        leak = make_leak(system, victims, (old,), seed=seed + number).only(attack.knowledge)
        scores = identify(leak)
        enrolled = scores[np.arange(count), np.arange(count)]
        better = np.count_nonzero(scores >= enrolled[:, None], axis=1) - 1
        figures["rank_one"].append(float(np.mean(better < 1)))
        figures["rank_ten"].append(float(np.mean(better < 10)))
    row = dataclasses.replace(row, photographs=scores.shape[1])
    return _over_keys(row, figures, subjects=count)


def _over_keys(row: AttackRow, figures: dict[str, list[float]], *, subjects: int) -> AttackRow:
    keys = len(next(iter(figures.values())))
    means: dict[str, Any] = {name: float(np.mean(values)) for name, values in figures.items()}
    spread = {name: _spread_over_keys(each, subjects=subjects) for name, each in figures.items() if len(each) > 1}
    return dataclasses.replace(row, subjects=subjects, old_keys=keys, intervals=row.intervals | spread, **means)


def _spread_over_keys(values: Sequence[float], *, subjects: int) -> Interval:
    """Normal 95 % interval of the mean AUC over keys; exact where every pair is told apart."""
    half = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return rate_interval(Interval(mean - half, mean + half), mean, units=subjects, confidence=0.95)

"""Evaluation of attacks on every system: knowledge, reconstruction, acceptance under old and fresh keys, linkage."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom._registry import lookup
from iom.attacks import ATTACKS
from iom.attacks.base import Attack, AttackedSystem, BlackBox, Embeddings, Leak, Templates
from iom.attacks.targets import attacked_hasher, attacked_protection
from iom.codes.asymmetric import SYMBOLS
from iom.config import EvaluateConfig
from iom.errors import DataError
from iom.evaluation.pairs import observed_threshold
from iom.evaluation.records import AttackRow, Figure, named_figures
from iom.evaluation.scores import FLOAT, OWN_KEY, CodeSystem, EvaluationInputs
from iom.keys import SECRET_BYTES, TransformKey
from iom.metrics.bootstrap import Counts, Interval, bootstrap_samples, percentile_intervals, rate_interval
from iom.metrics.verification import error_curve
from iom.models.face_hasher import FaceHasher

MIN_FRESH_KEYS = 40
"""Fresh keys that a post-revocation acceptance rate is to be measured over."""
MAX_SAMPLES = 3
NO_ATTACK = "the embedding itself"
METRICS = (
    "cosine", "sar", "prar", "prar_other", "linking_auc", "linking_auc_same", "linking_eer", "rank_one", "rank_ten"
)  # fmt: skip


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


def draw_victims(embeddings: Embeddings, subjects: NDArray[np.int64], *, wanted: int, seed: int) -> Victims:
    """Victims with two or three samples each, at most half of the subjects; the attacker learns from all others."""
    counts = np.bincount(subjects)
    able = np.flatnonzero(counts >= 2)
    if len(able) < 4:
        raise DataError(
            f"attacks: expected four subjects or more with two images, received {len(able)}; leave "
            "them out with --set report.attacks=false"
        )
    count = min(wanted, len(able) // 2)
    many = np.flatnonzero(counts >= MAX_SAMPLES)
    samples = MAX_SAMPLES if len(many) >= count else 2
    stream = numpy_stream(seed, "report/victims")
    drawn = stream.permutation(many if samples == MAX_SAMPLES else able)[:count]
    rows = [stream.permutation(np.flatnonzero(subjects == one))[:samples] for one in drawn]
    others = ~np.isin(subjects, drawn)
    labels = np.unique(subjects[others], return_inverse=True)[1].astype(np.int64)
    return Victims(embeddings[np.stack(rows)], embeddings[others], labels)


@dataclasses.dataclass(frozen=True, eq=False)
class AttackKeys:
    """Test keys of an evaluation, derived from a seed, never to protect anyone.

    Each `old` key leaks with its templates, for a repetition of all attacks; victims are renewed under the `fresh`
    ones; `records` are further old keys, for attacks on several records.
    """

    old: tuple[TransformKey, ...] = dataclasses.field(repr=False)
    fresh: tuple[TransformKey, ...] = dataclasses.field(repr=False)
    records: tuple[TransformKey, ...] = dataclasses.field(default=(), repr=False)

    @classmethod
    def of(cls, config: EvaluateConfig) -> "AttackKeys":
        """As many as a report asks for."""
        report, seed = config.report, config.seed
        return cls(
            measuring_keys(seed, "old", report.old_keys),
            measuring_keys(seed, "fresh", report.fresh_keys),
            measuring_keys(seed, "records", max(report.records, default=2) - 1),
        )


def measuring_keys(seed: int, purpose: str, count: int) -> tuple[TransformKey, ...]:
    """Test keys for a purpose, from a seed."""
    stream = numpy_stream(seed, f"attacks/keys/{purpose}")
    return tuple(TransformKey(stream.bytes(SECRET_BYTES)) for _ in range(count))


class AttackEvaluator:
    """Attacks on a system at its operating threshold, with model, key and template disclosed."""

    def __init__(self, inputs: EvaluationInputs) -> None:
        self._inputs, config = inputs, inputs.config
        self._victims = draw_victims(inputs.embeddings, inputs.people, wanted=config.report.victims, seed=config.seed)
        self._keys = AttackKeys.of(config)

    def run(self, system: CodeSystem) -> Iterator[AttackRow | Figure]:
        (entry,) = (entry for entry in self._inputs.scores(system) if entry.scenario != OWN_KEY)
        threshold, _ = observed_threshold(entry)
        for row in attacks_on(system, self._inputs.config, self._victims, self._keys, threshold):
            yield row
            yield from named_figures(
                {metric: row.estimate(metric) for metric in METRICS},
                system=row.system,
                scenario="full_disclosure",
                protocol=f"{self._inputs.benchmark.name}, {row.attack}, {row.records} records",
            )


def attacks_on(
    system: CodeSystem, config: EvaluateConfig, victims: Victims, keys: AttackKeys, threshold: float
) -> Iterator[AttackRow]:
    """The attacks of `config.report.attack_names`; of the unprotected embedding the worth of its leak.

    Another sample of a plain embedding's subject is accepted as often as the subject is.
    """
    if system.name != FLOAT:
        yield from attack_rows(
            attacked_system(system, victims.samples.shape[-1]),
            threshold,
            config.report.attack_names,
            victims,
            keys,
            records=config.report.records,
            seed=config.seed,
            replicates=config.scenario.bootstrap,
        )
        return
    distances = 1.0 - np.einsum("nd,nd->n", victims.samples[:, 0], victims.samples[:, -1], dtype=np.float64)
    yield AttackRow(
        system=FLOAT,
        attack=NO_ATTACK,
        knowledge="codes",
        subjects=len(distances),
        threshold=threshold,
        cosine=1.0,
        sar=1.0,
        prar=1.0,
        prar_other=float(np.mean(distances <= threshold)),
    )


def attacked_system(system: CodeSystem, embedding_size: int) -> AttackedSystem:
    """A code system with what it gives away; a `WeightsError` for an artefact that only Keras could descend through."""
    made = system.made_of
    if made is None:
        raise DataError(f"attacks: nothing is known of {system.name} but its templates")
    if isinstance(made, FaceHasher):
        attacked = attacked_hasher(system.name, made)
    else:
        attacked = attacked_protection(system.name, made, embedding_size)
    if system.comparison == SYMBOLS:
        return attacked
    return dataclasses.replace(attacked, rows=made.rows, code_vectors=made.vectors)


def make_leak(system: AttackedSystem, victims: Victims, keys: Sequence[TransformKey], *, seed: int) -> Leak:
    """Everything that could leak of records under `keys`; record r is of sample r.

    The last sample, of the renewal, never leaks. With more records than other samples, samples are used again.
    """
    usable = victims.samples.shape[1] - 1
    codes = tuple(system.hash(victims.samples[:, record % usable], key) for record, key in enumerate(keys))
    boxes = tuple(_black_box(system, key) for key in keys)
    vectors, responses = system.vectors, system.responses
    others = victims.population if victims.others is None else victims.others

    def oracle(candidates: Embeddings, owners: NDArray[np.intp]) -> NDArray[np.float64]:
        return system.matched(codes[0][owners], system.probes(candidates, keys[0]))

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
        photographs=np.concatenate([victims.samples[:, 0], others]),
    )


def _black_box(system: AttackedSystem, key: TransformKey) -> BlackBox:
    return lambda rows: system.hash(rows, key)


@dataclasses.dataclass(frozen=True, eq=False)
class _Setting:
    """Inputs of the attacks on one system."""

    system: AttackedSystem
    threshold: float
    victims: Victims
    keys: AttackKeys
    seed: int
    replicates: int

    def leaks(self, records: int = 1) -> Iterator[tuple[TransformKey, Leak]]:
        """Each old key, and everything that leaks of records under it and further ones."""
        for number, old in enumerate(self.keys.old):
            keys = (old, *self.keys.records[: records - 1])
            yield old, make_leak(self.system, self.victims, keys, seed=self.seed + number)

    @functools.cached_property
    def renewed(self) -> list[list[Templates]]:
        """Templates under each fresh key: of the sample that leaked, and of the last one."""
        samples = self.victims.samples
        return [[self.system.hash(samples[:, place], key) for key in self.keys.fresh] for place in (0, -1)]


def attack_rows(
    system: AttackedSystem,
    threshold: float,
    names: Sequence[str],
    victims: Victims,
    keys: AttackKeys,
    *,
    records: Sequence[int] = (2, 5, 10),
    seed: int = 1,
    replicates: int = 200,
) -> Iterator[AttackRow]:
    """Run attacks, keys of `ATTACKS`, on a system at a threshold; an inapplicable one gives a row with the reason.

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
    setting = _Setting(system, threshold, victims, keys, seed, replicates)
    for name, attack in chosen.items():
        row = AttackRow(system=system.name, attack=name, knowledge=" + ".join(attack.knowledge), threshold=threshold)
        obstacle = "of a stolen store: report.stolen_store" if attack.of_store else attack.obstacle(system)
        if obstacle:
            yield row.replace(obstacle=obstacle)
            continue
        for count in records if attack.records > 1 else (1,):
            found = row.replace(records=count)
            for step in (_reconstructed, _linked, _identified):
                found = step(found, attack, setting)
            yield found


def _reconstructed(row: AttackRow, attack: Attack, setting: _Setting) -> AttackRow:
    """Reconstruct under every old key, and try the result under it and under the fresh ones."""
    if attack.reconstruct is None:
        return row
    system, keys, threshold = setting.system, setting.keys, setting.threshold
    cosines, same_key, fresh_keys = [], [], []
    for old, leak in setting.leaks(row.records):
        found = attack.reconstruct(leak.only(attack.knowledge))
        cosines.append(np.einsum("nd,nd->n", found, setting.victims.samples[:, 0], dtype=np.float64))
        same_key.append(system.matched(leak.known("codes")[0], system.probes(found, old)) <= threshold)
        tried = [system.probes(found, key) for key in keys.fresh]
        fresh_keys.append(
            [
                [system.matched(*sides) <= threshold for sides in zip(of_sample, tried, strict=True)]
                for of_sample in setting.renewed
            ]
        )
    accepted = np.array(fresh_keys)
    figures = attack_figures(
        {"cosine": np.array(cosines), "sar": np.array(same_key)},
        {"prar": accepted[:, 0], "prar_other": accepted[:, 1]},
        replicates=setting.replicates,
        seed=setting.seed,
    )
    return row.replace(**figures)


def attack_figures(
    by_leak: Mapping[str, NDArray[Any]], by_renewal: Mapping[str, NDArray[Any]], *, replicates: int, seed: int
) -> dict[str, Any]:
    """Fields of an `AttackFigures`: the means of figures, and intervals unless `replicates` is 0.

    `by_leak` has figures by old key and victim, `by_renewal` shares by old key, fresh key and victim; all but cosines
    are rates.
    """
    old, fresh, victims = next(iter(by_renewal.values())).shape
    names = (*by_leak, *by_renewal)

    def figures(**drawn: Counts) -> list[float]:
        leaks = np.outer(drawn["keys"], drawn["subjects"])
        renewals = drawn["fresh keys"][None, :, None] * leaks[:, None]
        return [
            *(float(np.average(values, weights=leaks)) for values in by_leak.values()),
            *(float(np.average(values, weights=renewals)) for values in by_renewal.values()),
        ]

    groups = {"subjects": victims, "keys": old, "fresh keys": fresh}
    values = dict(zip(names, figures(**{kind: np.ones(count) for kind, count in groups.items()}), strict=True))
    intervals: dict[str, Interval] = {}
    if replicates:
        samples = bootstrap_samples(figures, groups, replicates=replicates, seed=seed)
        intervals = dict(zip(names, percentile_intervals(samples), strict=True))
        for name in set(names) - {"cosine"}:
            intervals[name] = rate_interval(intervals[name], values[name], units=victims, confidence=0.95)
    return {"subjects": victims, "old_keys": old, "fresh_keys": fresh, "intervals": intervals, **values}


def _linked(row: AttackRow, attack: Attack, setting: _Setting) -> AttackRow:
    """Link first samples under one key with the last and the first ones under another."""
    if attack.link is None:
        return row
    samples, count = setting.victims.samples, len(setting.victims.samples)
    both_orders = np.concatenate([samples[:, [-1, 0]], samples[:, [0, -1]]])
    renewed = dataclasses.replace(setting.victims, samples=both_orders)
    left, right = (side.ravel() for side in np.indices((count, 2 * count)))
    same, other, of_last = left == right - count, left == right, right < count
    by_key = []
    for (_, first), fresh in zip(setting.leaks(), itertools.cycle(setting.keys.fresh), strict=False):
        second = make_leak(setting.system, renewed, (fresh,), seed=first.seed)
        distances = -attack.link(first.only(attack.knowledge), second.only(attack.knowledge), left, right)
        mated, non_mated = distances[other], distances[of_last & ~other]
        curve, of_same = error_curve(mated, non_mated), error_curve(distances[same], distances[~of_last & ~same])
        by_key.append(
            {
                "linking_auc": curve.area_under_curve(),
                "linking_eer": curve.equal_error_rate(),
                "linking_auc_same": of_same.area_under_curve(),
            }
        )
    return _over_keys(row, by_key, subjects=count)


def _identified(row: AttackRow, attack: Attack, setting: _Setting) -> AttackRow:
    """Look for each victim's enrolled photograph; of equally good ones it comes last."""
    if attack.identify is None:
        return row
    count = len(setting.victims.samples)
    by_key = []
    for _, leak in setting.leaks():
        scores = attack.identify(leak.only(attack.knowledge))
        enrolled = scores[np.arange(count), np.arange(count)]
        better = np.count_nonzero(scores >= enrolled[:, None], axis=1) - 1
        by_key.append({"rank_one": float(np.mean(better < 1)), "rank_ten": float(np.mean(better < 10))})
    return _over_keys(row.replace(photographs=scores.shape[1]), by_key, subjects=count)


def _over_keys(row: AttackRow, by_key: Sequence[dict[str, float]], *, subjects: int) -> AttackRow:
    """Means over keys, with a normal 95 % interval where there are several; exact where nothing but errors, or none."""
    values: dict[str, Any] = {}
    intervals = dict(row.intervals)
    for name in by_key[0]:
        figures = [each[name] for each in by_key]
        values[name] = mean = float(np.mean(figures))
        if len(figures) > 1:
            half = 1.96 * float(np.std(figures, ddof=1)) / math.sqrt(len(figures))
            intervals[name] = rate_interval(Interval(mean - half, mean + half), mean, units=subjects, confidence=0.95)
    return row.replace(subjects=subjects, old_keys=len(by_key), intervals=intervals, **values)

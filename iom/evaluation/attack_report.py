"""Every attack on every system: one row each, with what it knows and what it reaches."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from iom._registry import lookup
from iom.attacks import ATTACKS
from iom.attacks.base import Attack, AttackedSystem
from iom.errors import DataError
from iom.evaluation.attack_scores import Keys, Reconstruction, Victims, make_leak, renewed_templates, run_reconstruction
from iom.metrics.bootstrap import Counts, Interval, bootstrap_samples, percentile_intervals, rate_interval
from iom.metrics.verification import area_under_curve, equal_error_rate

LEAST_FRESH_KEYS = 40
"""Fresh keys that a post-revocation acceptance rate is to be measured over."""
REPLICATES = 200
RATES = ("sar", "prar", "prar_other")
"""Figures that are shares of the reconstructions."""
LINKING = ("linking_auc", "linking_eer", "linking_auc_same")


@dataclasses.dataclass(frozen=True)
class AttackRow:
    """One attack on one system.

    Attributes:
        system: Its name.
        attack: Its name in `ATTACKS`.
        knowledge: What the attacker knows, `KNOWLEDGE` keys joined by ` + `.
        records: Records of each victim that leaked.
        subjects: Victims.
        old_keys: Repetitions, each under another leaked key.
        fresh_keys: Keys that the victims were renewed under.
        threshold: Operating threshold of the system.
        cosine: Mean cosine to the true embedding.
        sar: Same-key success: accepted under the key that leaked.
        prar: Post-revocation acceptance under fresh keys, the renewal being of the very sample that the leaked template
            was of: the worst case.
        prar_other: The same where the renewal is of another sample of the subject.
        linking_auc: Of a linker: area under its curve, 0.5 is chance. Another sample of a subject is behind its second
            template.
        linking_auc_same: The same where one photograph is behind both templates.
        linking_eer: Of a linker: its equal error rate, 0.5 is chance.
        rank_one: Share of victims whose enrolled photograph fits their template best.
        rank_ten: The same among the ten best.
        photographs: Public photographs that it was looked for in, the enrolled ones among them.
        intervals: Figure name to its 95 % interval over subjects and keys.
        obstacle: Why the attack does not apply; figures are NaN then.
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
    keys: Keys,
    *,
    records: Sequence[int] = (2, 5, 10),
    seed: int = 1,
    replicates: int = REPLICATES,
) -> Iterator[AttackRow]:
    """Run attacks over systems; one that does not apply gives a row that says why.

    Args:
        systems: Each with its operating threshold (`operating_threshold`).
        names: Keys of `ATTACKS`.
        victims: Whom the attacks are run on.
        keys: Test keys; `records` are as many as the largest number of records, less one.
        records: Numbers of records for the attacks that take several.
        seed: Of the attacks' own randomness and of the bootstrap.
        replicates: Of the bootstrap; 0 for no intervals.

    Raises:
        ConfigError: An unknown attack.
        DataError: Fewer than 40 fresh keys, or too few keys for the records.
    """
    chosen = {name: lookup(ATTACKS, name, "attack") for name in names}
    if len(keys.fresh) < LEAST_FRESH_KEYS or not keys.old:
        raise DataError(
            f"attacks: expected {LEAST_FRESH_KEYS} fresh keys or more and an old one, received "
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
    row: AttackRow, system: AttackedSystem, attack: Attack, victims: Victims, keys: Keys, seed: int
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
    row: AttackRow, system: AttackedSystem, attack: Attack, victims: Victims, keys: Keys, seed: int
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
    """A row with the means of figures over the old keys, and their spread."""
    keys = len(next(iter(figures.values())))
    means: dict[str, Any] = {name: float(np.mean(values)) for name, values in figures.items()}
    spread = {name: _spread_over_keys(each, subjects=subjects) for name, each in figures.items() if len(each) > 1}
    return dataclasses.replace(row, subjects=subjects, old_keys=keys, intervals=row.intervals | spread, **means)


def _spread_over_keys(values: Sequence[float], *, subjects: int) -> Interval:
    """Normal 95 % interval of the mean AUC over keys; exact where every pair is told apart."""
    half = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return rate_interval(Interval(mean - half, mean + half), mean, units=subjects, confidence=0.95)

"""Every attack on every system: one row each, with what it knows and what it reaches."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.attacks import ATTACKS
from iom.attacks.interface import Attack, AttackedSystem
from iom.errors import DataError
from iom.evaluation.attack_scores import (
    Keys,
    Reconstruction,
    Victims,
    make_leak,
    renewed_templates,
    run_reconstruction,
)
from iom.lookup import lookup
from iom.metrics.uncertainty import Interval, rate_interval
from iom.metrics.verification import area_under_curve, equal_error_rate
from iom.seeding import numpy_stream

LEAST_FRESH_KEYS = 40
"""Fresh keys that a post-revocation acceptance rate is to be measured over."""
REPLICATES = 200


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
        prar: Post-revocation acceptance under fresh keys, the renewal being of the very sample that
            the leaked template was of: the worst case.
        prar_other: The same where the renewal is of another sample of the subject.
        linking_auc: Of a linker: area under its curve, 0.5 is chance.
        linking_eer: Of a linker: its equal error rate, 0.5 is chance.
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
    linking_eer: float = math.nan
    intervals: dict[str, Interval] = dataclasses.field(default_factory=dict)
    obstacle: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file: NaN becomes None, intervals become lists."""
        values = dataclasses.asdict(self)
        values["intervals"] = {name: list(edges) for name, edges in self.intervals.items()}
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in values.items()
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
    if any(attack.records > 1 for attack in chosen.values()) and (
        not records or max(records) - 1 > len(keys.records)
    ):
        raise DataError(
            f"attacks: {max(records, default=0)} records need as many keys, received "
            f"{len(keys.records) + 1}"
        )
    for system, threshold in systems:
        references = renewed_templates(system, victims, keys)
        for name, attack in chosen.items():
            row = AttackRow(system.name, name, " + ".join(attack.knowledge), threshold=threshold)
            obstacle = attack.obstacle(system)
            if obstacle:
                yield dataclasses.replace(row, obstacle=obstacle)
            elif attack.link:
                yield _linked(row, system, attack, victims, keys, seed)
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
                    yield _reconstructed(
                        dataclasses.replace(row, records=count), outcome, seed, replicates
                    )


def _reconstructed(
    row: AttackRow, outcome: Reconstruction, seed: int, replicates: int
) -> AttackRow:
    old, fresh, subjects = outcome.renewed.shape
    figures: dict[str, Any] = _figures(
        outcome, np.arange(old), np.arange(fresh), np.arange(subjects)
    )
    return dataclasses.replace(
        row,
        subjects=subjects,
        old_keys=old,
        fresh_keys=fresh,
        intervals=_intervals(outcome, seed, replicates) if replicates else {},
        **figures,
    )


def _figures(
    outcome: Reconstruction, old: NDArray[Any], fresh: NDArray[Any], subjects: NDArray[Any]
) -> dict[str, float]:
    renewals = np.ix_(old, fresh, subjects)
    return {
        "cosine": float(outcome.cosine[np.ix_(old, subjects)].mean()),
        "sar": float(outcome.same_key[np.ix_(old, subjects)].mean()),
        "prar": float(outcome.renewed[renewals].mean()),
        "prar_other": float(outcome.renewed_other[renewals].mean()),
    }


RATES = ("sar", "prar", "prar_other")
"""Figures that are shares of the subjects' reconstructions."""


def _intervals(outcome: Reconstruction, seed: int, replicates: int) -> dict[str, Interval]:
    """Percentiles when subjects, old keys and fresh keys are drawn anew."""
    stream = numpy_stream(seed, "attacks/bootstrap")
    old, fresh, subjects = outcome.renewed.shape
    draws = [
        _figures(
            outcome,
            np.asarray(stream.integers(old, size=old)),
            np.asarray(stream.integers(fresh, size=fresh)),
            np.asarray(stream.integers(subjects, size=subjects)),
        )
        for _ in range(replicates)
    ]
    found = {
        name: Interval(*(float(e) for e in np.quantile([d[name] for d in draws], (0.025, 0.975))))
        for name in draws[0]
    }
    whole = _figures(outcome, np.arange(old), np.arange(fresh), np.arange(subjects))
    for name in RATES:
        found[name] = rate_interval(found[name], whole[name], units=subjects, confidence=0.95)
    return found


def _linked(
    row: AttackRow,
    system: AttackedSystem,
    attack: Attack,
    victims: Victims,
    keys: Keys,
    seed: int,
) -> AttackRow:
    """Link the first samples under one key with the last ones under another."""
    link = attack.link
    if link is None:
        raise DataError("this attack reconstructs and links nothing")
    count = len(victims.samples)
    left, right = (side.ravel() for side in np.indices((count, count)))
    aucs, eers = [], []
    for number, old in enumerate(keys.old):
        pair = [(old, 0), (keys.fresh[number % len(keys.fresh)], -1)]
        first, second = (
            make_leak(system, _sample(victims, sample), (key,), seed=seed + number)
            for key, sample in pair
        )
        scores = link(first.only(attack.knowledge), second.only(attack.knowledge), left, right)
        mated, non_mated = -scores[left == right], -scores[left != right]
        aucs.append(area_under_curve(mated, non_mated))
        eers.append(equal_error_rate(mated, non_mated))
    return dataclasses.replace(
        row,
        subjects=count,
        old_keys=len(keys.old),
        linking_auc=float(np.mean(aucs)),
        linking_eer=float(np.mean(eers)),
        intervals={"linking_auc": _spread_over_keys(aucs, subjects=count)} if len(aucs) > 1 else {},
    )


def _sample(victims: Victims, sample: int) -> Victims:
    """The same victims, with the template to leak made of another sample."""
    return dataclasses.replace(victims, samples=victims.samples[:, [sample, 0]])


def _spread_over_keys(values: Sequence[float], *, subjects: int) -> Interval:
    """Normal 95 % interval of the mean AUC over keys; exact where every pair is told apart."""
    half = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return rate_interval(Interval(mean - half, mean + half), mean, units=subjects, confidence=0.95)


COLUMNS: dict[str, Callable[[AttackRow], float]] = {
    "cosine": lambda row: row.cosine,
    "SAR": lambda row: row.sar,
    "PRAR": lambda row: row.prar,
    "PRAR other": lambda row: row.prar_other,
    "link AUC": lambda row: row.linking_auc,
}


def format_attacks(rows: Sequence[AttackRow]) -> str:
    """The rows as a table in Markdown, attacks that do not apply with their reason."""
    lines = [
        "| system | attack | knows | records | " + " | ".join(COLUMNS) + " |",
        "|---" * (4 + len(COLUMNS)) + "|",
    ]
    for row in rows:
        head = f"| {row.system} | {row.attack} | {row.knowledge} | {row.records} | "
        if row.obstacle:
            lines.append(f"{head}does not apply: {row.obstacle}" + " |" * len(COLUMNS))
            continue
        cells = (column(row) for column in COLUMNS.values())
        lines.append(head + " | ".join("" if math.isnan(c) else f"{c:.3f}" for c in cells) + " |")
    return "\n".join(lines)

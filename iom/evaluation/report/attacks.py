"""Attacks on the systems of an evaluation, with model, key and template disclosed, for a report.

Victims are subjects of the benchmark; what an attacker knows of other people are the benchmark's
other subjects. So nothing beside the benchmark is needed, and the prior is a strong one: people of
the very same set.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom._registry import lookup
from iom.attacks import ATTACKS
from iom.attacks.base import AttackedSystem
from iom.attacks.targets import attacked_hasher, attacked_protection
from iom.baselines import BASELINES
from iom.config.schema import EvaluateConfig
from iom.errors import DataError
from iom.evaluation.attack_report import AttackRow, attack_rows
from iom.evaluation.attack_scores import Keys, Victims, measuring_keys
from iom.evaluation.scores import FLOAT, Embeddings
from iom.evaluation.systems import hasher_folders
from iom.models.face_hasher import load
from iom.models.sessions import is_artifact
from iom.pretrained import hasher_path

MOST_SAMPLES = 3
NO_ATTACK = "the embedding itself"


def check_attacks(config: EvaluateConfig) -> None:
    """Refuse what cannot be attacked before anything is computed.

    Raises:
        ConfigError: An unknown attack.
        WeightsError: An artefact that lacks the Keras network which its attacks need.
    """
    for name in config.report.attack_names:
        lookup(ATTACKS, name, "attack")
    folders = hasher_folders(config)
    for name in config.scenario.systems if config.report.attacks else ():
        if name in folders and is_artifact(hasher_path(folders[name])):
            attacked_hasher(name, load(folders[name]))


def attack_sections(
    config: EvaluateConfig,
    embeddings: Embeddings,
    subjects: NDArray[np.int64],
    thresholds: Mapping[str, float],
    *,
    advance: Callable[[], object],
) -> Iterator[AttackRow]:
    """Rows of `attack_rows` for every system that the configuration names.

    Args:
        config: Systems, attacks, victims, keys.
        embeddings: Unit length, `(N, D)`.
        subjects: The people, `(N,)`.
        thresholds: Operating threshold of each system.
        advance: Called after each system.

    Raises:
        DataError: Too few subjects for victims and for other people.
    """
    report = config.report
    victims = drawn_victims(embeddings, subjects, wanted=report.victims, seed=config.seed)
    keys = Keys(
        measuring_keys(config.seed, "old", report.old_keys),
        measuring_keys(config.seed, "fresh", report.fresh_keys),
        measuring_keys(config.seed, "records", max(report.records, default=2) - 1),
    )
    for name in config.scenario.systems:
        threshold = thresholds[name]
        if name == FLOAT:
            yield unprotected(victims, threshold)
        else:
            yield from attack_rows(
                [(attacked_system(config, name, embeddings.shape[1]), threshold)],
                report.attack_names,
                victims,
                keys,
                records=report.records,
                seed=config.seed,
                replicates=config.scenario.bootstrap,
            )
        advance()


def attacked_system(config: EvaluateConfig, name: str, embedding_size: int) -> AttackedSystem:
    """A system that an evaluation names, with what it gives away."""
    folders = hasher_folders(config)
    if name in folders:
        return attacked_hasher(name, load(folders[name], opens_embedder=False))
    protection = lookup(BASELINES, name, "baseline")(embedding_size, config.code, config.seed)
    return attacked_protection(name, protection, embedding_size)


def unprotected(victims: Victims, threshold: float) -> AttackRow:
    """What a leak of plain embeddings is worth: there is nothing to attack, and no key to change.

    The other sample is accepted as often as the subject is.
    """
    first, last = victims.samples[:, 0], victims.samples[:, -1]
    distances = 1.0 - np.einsum("nd,nd->n", first, last, dtype=np.float64)
    return AttackRow(
        FLOAT,
        NO_ATTACK,
        "codes",
        subjects=len(first),
        threshold=threshold,
        cosine=1.0,
        sar=1.0,
        prar=1.0,
        prar_other=float(np.mean(distances <= threshold)),
    )


def drawn_victims(embeddings: Embeddings, subjects: NDArray[np.int64], *, wanted: int, seed: int) -> Victims:
    """Victims with two or three samples each, and everybody else.

    At most half of the subjects with several images are victims.

    Raises:
        DataError: Fewer than four subjects with two images.
    """
    counts = np.bincount(subjects)
    able = np.flatnonzero(counts >= 2)
    if len(able) < 4:
        raise DataError(
            f"attacks: expected four subjects or more with two images, received {len(able)}; leave "
            "them out with --set report.attacks=false"
        )
    count = min(wanted, len(able) // 2)
    many = np.flatnonzero(counts >= MOST_SAMPLES)
    samples = MOST_SAMPLES if len(many) >= count else 2
    stream = numpy_stream(seed, "report/victims")
    drawn = stream.permutation(many if samples == MOST_SAMPLES else able)[:count]
    rows = [stream.permutation(np.flatnonzero(subjects == one))[:samples] for one in drawn]
    others = ~np.isin(subjects, drawn)
    labels = np.unique(subjects[others], return_inverse=True)[1].astype(np.int64)
    return Victims(embeddings[np.stack(rows)], embeddings[others], labels)


def strongest(rows: Sequence[AttackRow], system: str) -> AttackRow | None:
    """The attack whose results most fresh keys accept, of one victim's record; `None` if none."""
    found = [row for row in rows if row.system == system and np.isfinite(row.prar)]
    return max(found, key=lambda row: row.prar, default=None)

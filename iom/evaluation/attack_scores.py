"""What an attack achieves against one system: measured on victims, under old and fresh keys."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.attacks.base import Attack, AttackedSystem, BlackBox, Embeddings, Leak, Templates
from iom.errors import DataError
from iom.keys import SECRET_BYTES, TransformKey
from iom.metrics.all_pairs import AllPairs

THRESHOLD_KEYS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Victims:
    """Whom the attacks are run on, and what the attacker has of others.

    Attributes:
        samples: Embeddings of each subject, `(N, S, D)`, S >= 2, unit length. The first is the one whose template
            leaks; the last is a new sample, presented at the renewal.
        population: Embeddings of other people, `(T, D)`.
        population_labels: Who they are, `(T,)`.
        others: Public photographs beside the enrolled ones, `(P, D)`; `None` takes the population.
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
        """Draw subjects with enough samples from test embeddings `(N, D)`.

        All test embeddings but the enrolled ones are the `others`.

        Raises:
            DataError: Fewer than two subjects have as many samples.
        """
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
class Keys:
    """Test keys of an evaluation: derived from a seed, never to protect anyone.

    Attributes:
        old: Those that leak with the templates; each is a repetition of all attacks.
        fresh: Those that the victims are renewed under.
        records: Further old keys of the same victims, for attacks on several records.
    """

    old: tuple[TransformKey, ...] = dataclasses.field(repr=False)
    fresh: tuple[TransformKey, ...] = dataclasses.field(repr=False)
    records: tuple[TransformKey, ...] = dataclasses.field(default=(), repr=False)


def measuring_keys(seed: int, purpose: str, count: int) -> tuple[TransformKey, ...]:
    """Keys for measuring."""
    stream = numpy_stream(seed, f"attacks/keys/{purpose}")
    return tuple(TransformKey(stream.bytes(SECRET_BYTES)) for _ in range(count))


def operating_threshold(
    system: AttackedSystem,
    embeddings: Embeddings,
    labels: NDArray[np.int64],
    *,
    fmr: float,
    keys: Sequence[TransformKey],
) -> float:
    """The largest distance whose FMR is at most `fmr`, over all pairs and keys (`stolen_key`).

    Raises:
        DataError: Too few non-mated pairs to see this FMR, or no threshold keeps to it.
    """
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

    The last sample never leaks: it is kept for the renewal. With more records than other samples, samples are used
    again.
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
    """What came of one attack, victim by victim.

    Attributes:
        cosine: To the embedding behind the leaked template, `(old keys, N)`.
        same_key: Accepted under the old key, `(old keys, N)`.
        renewed: Accepted under fresh keys against the same sample, `(old keys, fresh keys, N)`.
        renewed_other: The same against another sample of the subject.
    """

    cosine: NDArray[np.float64]
    same_key: NDArray[np.bool_]
    renewed: NDArray[np.bool_]
    renewed_other: NDArray[np.bool_]


def renewed_templates(system: AttackedSystem, victims: Victims, keys: Keys) -> list[tuple[Templates, Templates]]:
    """Templates of the first and of the last sample under each fresh key."""
    first, last = victims.samples[:, 0], victims.samples[:, -1]
    return [(system.hash(first, key), system.hash(last, key)) for key in keys.fresh]


def run_reconstruction(
    system: AttackedSystem,
    attack: Attack,
    victims: Victims,
    keys: Keys,
    *,
    references: Sequence[tuple[Templates, Templates]],
    threshold: float,
    records: int,
    seed: int,
) -> Reconstruction:
    """Reconstruct under every old key and try the result under it and under the fresh ones.

    Args:
        system: The system.
        attack: One that reconstructs.
        victims: Whose templates leak.
        keys: Test keys.
        references: What `renewed_templates` gave for these victims and keys.
        threshold: Operating threshold.
        records: Of each victim.
        seed: Of the attack.
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

"""Evaluation of a stolen record store under one common key, by attackers who know some of the enrolled subjects."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.attacks import ATTACKS
from iom.attacks.base import KNOWN_FACES, Attack, AttackedSystem, Embeddings, KnownFaces, Leak, StolenStore, Templates
from iom.attacks.known_faces import store_rows
from iom.errors import DataError
from iom.evaluation.attacks import NO_ATTACK, AttackKeys, attack_figures, attacked_system
from iom.evaluation.pairs import observed_threshold
from iom.evaluation.records import NO_STORE, Figure, StolenStoreRow, named_figures
from iom.evaluation.scores import FLOAT, OWN_KEY, CodeSystem, EvaluationInputs, Keys

SCENARIO = "stolen_store"
Photograph = Literal["", "enrolled", "other"]
PHOTOGRAPHS: tuple[Photograph, ...] = ("enrolled", "other")
FRESH_KEYS = 10
"""Fresh keys of a report, of those that other attacks are tested under."""
METRICS = ("cosine", "accepted_old", "accepted_fresh")


@dataclasses.dataclass(frozen=True, eq=False)
class Enrolled:
    """Enrolled embeddings `(N, D)` of N subjects, and the strangers `(T, D)` that the attacker learns from.

    `others` `(N, D)` are other samples of the subjects, NaN where there is none. `wanted` are the rows of the victims;
    `known` those of subjects that may be known, in the order in which they become so. Both have other samples.
    """

    samples: Embeddings
    others: Embeddings
    wanted: NDArray[np.intp]
    known: NDArray[np.intp]
    population: Embeddings
    population_labels: NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """Templates `(N, M)` as a record store holds them, and the key of each victim, or of all, against which to test."""

    templates: Templates = dataclasses.field(repr=False)
    keys: Keys = dataclasses.field(repr=False)


def draw_enrolled(
    embeddings: Embeddings,
    subjects: NDArray[np.int64],
    *,
    victims: int,
    limit: int,
    seed: int,
    population: Embeddings | None = None,
    population_labels: NDArray[np.int64] | None = None,
) -> Enrolled:
    """Half of the subjects of embeddings `(N, D)` are enrolled with one image each, at most `limit`.

    At most half of those with several images are victims, the others may be known. The other subjects are strangers,
    unless a `population` is given; then all are enrolled.
    """
    counts = np.bincount(subjects)
    stream = numpy_stream(seed, "report/stolen-store")
    several, single = (stream.permutation(np.flatnonzero(chosen)) for chosen in (counts >= 2, counts == 1))
    if len(several) < 4:
        raise DataError(
            f"stolen store: expected four subjects or more with two images, received {len(several)}; leave it out "
            "with --set report.stolen_store=false"
        )
    share = 2 if population is None else 1
    enrolled = np.concatenate([several[: len(several) // share], single[: len(single) // share]])[:limit]
    rows = [stream.permutation(np.flatnonzero(subjects == one))[:2] for one in enrolled]
    able = np.flatnonzero([len(row) == 2 for row in rows])
    count = min(victims, len(able) // 2)
    others = np.full((len(rows), embeddings.shape[1]), np.nan, np.float32)
    others[able] = embeddings[[rows[row][1] for row in able]]
    if population is None or population_labels is None:
        strangers = ~np.isin(subjects, enrolled)
        population, labels = embeddings[strangers], subjects[strangers]
        population_labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return Enrolled(
        embeddings[[row[0] for row in rows]], others, able[:count], able[count:], population, population_labels
    )


class StolenStoreEvaluator:
    """Record stores under one key, stolen without the key, at the operating threshold of a system."""

    def __init__(self, inputs: EvaluationInputs) -> None:
        self._inputs, config = inputs, inputs.config
        self._enrolled = draw_enrolled(
            inputs.embeddings,
            inputs.people,
            victims=config.report.victims,
            limit=config.report.enrolled,
            seed=config.seed,
        )
        keys = AttackKeys.of(config)
        self._keys = dataclasses.replace(keys, fresh=keys.fresh[:FRESH_KEYS])

    def run(self, system: CodeSystem) -> Iterator[StolenStoreRow | Figure]:
        inputs = self._inputs
        (entry,) = (entry for entry in inputs.scores(system) if entry.scenario != OWN_KEY)
        threshold, _ = observed_threshold(entry)
        for row in self._rows(system, threshold):
            yield row
            yield from named_figures(
                {metric: row.estimate(metric) for metric in METRICS},
                system=row.system,
                scenario=SCENARIO,
                protocol=f"{inputs.benchmark.name}, {row.attack}, {row.enrolled} enrolled, known: {row.acquaintance}",
            )

    def _rows(self, system: CodeSystem, threshold: float) -> Iterator[StolenStoreRow]:
        enrolled, config = self._enrolled, self._inputs.config
        if system.name == FLOAT:
            samples, others = enrolled.samples[enrolled.wanted], enrolled.others[enrolled.wanted]
            accepted = float(np.mean(1.0 - np.einsum("nd,nd->n", samples, others, dtype=np.float64) <= threshold))
            yield StolenStoreRow(
                system=FLOAT,
                attack=NO_ATTACK,
                knowledge="store",
                enrolled=len(enrolled.samples),
                subjects=len(samples),
                threshold=threshold,
                cosine=1.0,
                accepted_old=accepted,
                accepted_fresh=accepted,
            )
            return
        attacked = attacked_system(system, enrolled.samples.shape[1])
        yield from stolen_store_rows(
            attacked,
            threshold,
            enrolled,
            [Store(attacked.hash(enrolled.samples, key), key) for key in self._keys.old],
            self._keys,
            known=config.report.known_faces,
            seed=config.seed,
            replicates=config.scenario.bootstrap,
        )


def store_attacks() -> dict[str, Attack]:
    """Those of `ATTACKS` that are directed at a stolen store, after that of someone who has none."""
    return {name: attack for name, attack in ATTACKS.items() if attack.of_store or name == NO_STORE}


def stolen_store_rows(
    system: AttackedSystem,
    threshold: float,
    enrolled: Enrolled,
    stores: Sequence[Store],
    keys: AttackKeys,
    *,
    known: Sequence[int],
    seed: int = 1,
    replicates: int = 200,
) -> Iterator[StolenStoreRow]:
    """Run the attacks of `store_attacks` on each store, with so many known subjects.

    Each is known by the enrolled photograph, then by another one. Without known subjects (0) the attacks that need none
    are run. Reconstructions are tried under the key of the store and `keys.fresh`. No `replicates`, no intervals.
    """
    trial = _Trial(system, threshold, enrolled, stores, keys, seed, replicates)
    for name, attack in store_attacks().items():
        row = StolenStoreRow(
            system=system.name,
            attack=name,
            knowledge=" + ".join(attack.knowledge),
            threshold=threshold,
            enrolled=len(enrolled.samples),
        )
        if obstacle := attack.obstacle(system):
            yield row.replace(obstacle=obstacle)
            continue
        numbers = [0] if name == NO_STORE else known
        for count, photograph in _acquaintances(numbers, KNOWN_FACES in attack.knowledge):
            of_known = row.replace(known=count, photograph=photograph)
            if count > len(enrolled.known):
                left = f"{len(enrolled.known)} enrolled subjects with another image are left to be known"
                yield of_known.replace(obstacle=left)
            else:
                yield of_known.replace(**trial.figures(attack, count, photograph))


def _acquaintances(known: Sequence[int], needs_faces: bool) -> list[tuple[int, Photograph]]:
    """Numbers of known subjects, and the photograph from which they are known."""
    if not needs_faces:
        return [(0, "")] if 0 in known else []
    return [(count, photograph) for photograph in PHOTOGRAPHS for count in known if count]


@dataclasses.dataclass(frozen=True, eq=False)
class _Trial:
    """Stores of one system, and the tests of what is reconstructed from them."""

    system: AttackedSystem
    threshold: float
    enrolled: Enrolled
    stores: Sequence[Store]
    keys: AttackKeys
    seed: int
    replicates: int

    def figures(self, attack: Attack, count: int, photograph: Photograph) -> dict[str, Any]:
        """Fields of a row: the attack on every store with so many known subjects."""
        samples = self.enrolled.samples[self.enrolled.wanted]
        known = self._known(count, photograph)
        cosines, old, fresh = [], [], []
        for leak, test in zip(self._leaks, self._tests, strict=True):
            told = dataclasses.replace(leak, known_faces=known).only(attack.knowledge)
            found = attack.reconstruct(told) if attack.reconstruct else np.zeros_like(samples)
            cosines.append(np.einsum("nd,nd->n", found, samples, dtype=np.float64))
            old.append(self._accepted(found, *test))
            fresh.append([self._accepted(found, *each) for each in self._renewed])
        return attack_figures(
            {"cosine": np.array(cosines), "accepted_old": np.array(old)},
            {"accepted_fresh": np.array(fresh)},
            replicates=self.replicates,
            seed=self.seed,
        )

    def _known(self, count: int, photograph: Photograph) -> KnownFaces:
        rows = self.enrolled.known[:count]
        faces = self.enrolled.others if photograph == "other" else self.enrolled.samples
        return KnownFaces(rows, faces[rows])

    def _accepted(self, found: Embeddings, keys: Keys, templates: Templates) -> NDArray[np.bool_]:
        return np.asarray(self.system.matched(templates, self.system.probes(found, keys)) <= self.threshold)

    @functools.cached_property
    def _leaks(self) -> list[Leak]:
        """A leak for each store: its templates, and what they tell without a key."""
        enrolled = self.enrolled
        leaks = []
        for number, store in enumerate(self.stores):
            rows = store_rows(self.system, store.templates, seed=self.seed + number)
            leaks.append(
                Leak(
                    self.system,
                    len(enrolled.wanted),
                    seed=self.seed + number,
                    population=enrolled.population,
                    population_labels=enrolled.population_labels,
                    store=StolenStore(store.templates, enrolled.wanted, rows),
                )
            )
        return leaks

    @functools.cached_property
    def _tests(self) -> list[tuple[Keys, Templates]]:
        """For each store the key, and templates of other samples of the victims under it."""
        return [(store.keys, self._hash_others(store.keys)) for store in self.stores]

    @functools.cached_property
    def _renewed(self) -> list[tuple[Keys, Templates]]:
        return [(key, self._hash_others(key)) for key in self.keys.fresh]

    def _hash_others(self, keys: Keys) -> Templates:
        return self.system.hash(self.enrolled.others[self.enrolled.wanted], keys)

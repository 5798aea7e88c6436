import numpy as np
import pytest

from iom.attacks.base import Leak, unit
from iom.attacks.targets import attacked_protection
from iom.baselines import BASELINES
from iom.config import CodeConfig
from iom.keys import TransformKey


@pytest.fixture
def make_system():
    def make(name="grp", size=32, **shape):
        code = CodeConfig(**({"code_length": 64, "alphabet_size": 4} | shape))
        return attacked_protection(name, BASELINES[name](size, code, 1), size)

    return make


@pytest.fixture
def key():
    return lambda number: TransformKey(number.to_bytes(32, "big"))


@pytest.fixture
def rows():
    def make(count, size=32, seed=0):
        return unit(np.random.default_rng(seed).normal(size=(count, size)))

    return make


@pytest.fixture
def make_leak(rows, key):
    """Everything that can leak of given embeddings, one record under each of the keys."""

    def make(system, victims, numbers=(1,), population=None):
        keys = [key(number) for number in numbers]
        people = rows(1500, victims.shape[1], seed=9) if population is None else population
        boxes = tuple(lambda batch, one=one: system.hash(batch, one) for one in keys)
        codes = tuple(system.hash(victims, one) for one in keys)
        return Leak(
            system,
            len(victims),
            seed=3,
            codes=codes,
            hashers=boxes,
            vectors=tuple(map(system.vectors, keys)) if system.vectors else None,
            responses=tuple(map(system.responses, keys)) if system.responses else None,
            population=people,
            population_labels=np.arange(len(people)) // 2,
            oracle=lambda tries, owners: system.distances(boxes[0](tries), codes[0][owners]),
        )

    return make

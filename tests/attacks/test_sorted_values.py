import keras
import numpy as np
import pytest

from iom.attacks import ATTACKS
from iom.attacks.base import unit
from iom.attacks.targets import attacked_hasher
from iom.config import HasherConfig
from iom.errors import DataError
from iom.evaluation.attacks import AttackKeys, Victims, attack_rows, measuring_keys
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_network import build_hasher

SIZE, SUBJECTS, OTHERS = 64, 30, 400
ATTACK = ATTACKS["sorted_values"]


@pytest.fixture(scope="module")
def victims():
    """Two samples of each subject, and photographs of others; random directions."""
    generator = np.random.default_rng(4)
    centres = generator.normal(size=(SUBJECTS, 1, SIZE))
    samples = unit((centres + 0.5 * generator.normal(size=(SUBJECTS, 2, SIZE))).reshape(-1, SIZE))
    others = unit(generator.normal(size=(OTHERS, SIZE)))
    return Victims(samples.reshape(SUBJECTS, 2, SIZE), others, np.arange(OTHERS) // 2)


def attacked(**settings):
    """A refined hasher with a learned layer that is not the identity."""
    shape = {"code_length": 1024, "alphabet_size": 2, "projection": "simplex"}
    code = HasherConfig(**shape, refinement_steps=10, **settings)
    model = build_hasher(SIZE, code, seed=1)
    noise = np.random.default_rng(7).normal(size=(SIZE, SIZE)) / np.sqrt(SIZE)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(np.eye(SIZE) + 0.3 * noise)
    return attacked_hasher("ours", KerasFaceHasher(model, embedder_name="-", embedder_fingerprint="0" * 64))


def row_of(system, victims):
    keys = AttackKeys(measuring_keys(1, "old", 2), measuring_keys(1, "fresh", 40))
    return next(iter(attack_rows(system, 100.0, ["sorted_values"], victims, keys)))


def test_a_permutation_key_hides_neither_photograph_nor_subject(victims):
    row = row_of(attacked(key_kind="permutation"), victims)
    assert row.rank_one > 0.9
    assert row.rank_ten == 1
    assert row.photographs == SUBJECTS + OTHERS
    assert row.linking_auc_same > 0.999
    assert row.linking_auc > 0.6
    assert row.knowledge == "codes + public + photographs"


def test_an_orthogonal_key_leaves_chance(victims):
    row = row_of(attacked(key_kind="orthogonal"), victims)
    assert row.rank_one <= 0.05
    assert row.rank_ten <= 0.15
    assert 0.4 < row.linking_auc_same < 0.6
    assert 0.4 < row.linking_auc < 0.6


def test_a_part_is_tried_window_by_window(victims):
    """Windows are public, and a permutation within one hides no more than a whole one."""
    assert row_of(attacked(key_kind="part", keep=32), victims).rank_one > 0.9


def test_quantiles_stand_for_an_unknown_choice(victims):
    row = row_of(attacked(key_kind="permutation", keep=48), victims)
    assert row.rank_one > 3 / row.photographs
    assert row.linking_auc_same > 0.6


def test_it_sees_no_key(victims, make_leak):
    """The oracle of its inputs: codes and photographs alone; nothing else is left of the leak."""
    system = attacked(key_kind="permutation")
    leak = make_leak(system, victims.samples[:, 0]).only(ATTACK.knowledge)
    assert (leak.hashers, leak.vectors, leak.responses, leak.oracle) == (None,) * 4
    with pytest.raises(DataError, match="needs 'photographs', which did not leak"):
        ATTACK.identify(leak)


def test_a_secret_projection_cannot_be_read_back(make_system):
    assert "no public projection" in ATTACK.obstacle(make_system("biohash"))
    assert not ATTACK.obstacle(make_system("grp"))
    with pytest.raises(DataError, match="biohash: this attack needs 'before_key'"):
        make_system("biohash").public("before_key")

"""A key's secret is in nothing that copies, shows or stores objects."""

import copy
import dataclasses
import pickle

import pytest

from iom.errors import KeyMaterialError
from iom.keys import SubjectToken, TransformKey

SECRET = bytes(range(100, 132))


@dataclasses.dataclass
class Holder:
    key: TransformKey | SubjectToken


@pytest.fixture(params=[TransformKey, SubjectToken])
def key(request):
    return request.param(SECRET)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_is_not_pickled(key, protocol):
    for value in (key, [key], Holder(key)):
        with pytest.raises(KeyMaterialError, match="to_text"):
            pickle.dumps(value, protocol)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_key_is_not_copied(key, duplicate):
    with pytest.raises(KeyMaterialError):
        duplicate(key)
    with pytest.raises(KeyMaterialError):
        dataclasses.asdict(Holder(key))


def test_a_key_has_nothing_to_list(key):
    with pytest.raises(TypeError):
        vars(key)
    with pytest.raises(TypeError):
        dataclasses.asdict(key)
    assert not hasattr(key, "__dict__")
    assert str(SECRET) not in f"{key!r} {key} {Holder(key)}"


def test_a_key_cannot_be_changed(key):
    changes = [
        lambda: setattr(key, "secret", bytes(32)),
        lambda: setattr(key, "_secret", bytes(32)),
        lambda: setattr(key, "x", 1),
        lambda: delattr(key, "_secret"),
    ]
    for change in changes:
        with pytest.raises(AttributeError):
            change()
    assert key.secret == SECRET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.errors import KeyMaterialError
from iom.keys import TransformKey

secrets_32 = st.binary(min_size=32, max_size=32)


@given(secrets_32, st.integers(1, 600))
def test_a_permutation_is_one(secret, size):
    order = TransformKey(secret).permutation(size)
    assert sorted(order.tolist()) == list(range(size))
    np.testing.assert_array_equal(order, TransformKey(secret).permutation(size))


def test_the_permutation_never_changes():
    """Fixed by design for ever: enrolled templates depend on it."""
    assert TransformKey(bytes(32)).permutation(8).tolist() == [4, 2, 0, 7, 1, 5, 6, 3]
    assert TransformKey(bytes(range(32))).permutation(8).tolist() == PINNED


PINNED = [0, 5, 7, 4, 1, 3, 2, 6]


@given(secrets_32, secrets_32)
def test_different_secrets_differ(first, second):
    a, b = TransformKey(first), TransformKey(second)
    assert (a == b) == (first == second)
    if first != second:
        assert a.permutation(256).tolist() != b.permutation(256).tolist()


@given(secrets_32)
def test_the_secret_is_not_shown(secret):
    key = TransformKey(secret)
    for text in (repr(key), str(key), f"{key}", f"{key!r}"):
        assert text == "TransformKey()"


def test_a_key_is_not_hashable():
    with pytest.raises(TypeError):
        hash(TransformKey.generate())


def test_derived_keys_part_their_labels():
    master = TransformKey.generate()
    derived = [
        master.derive(application="ab", subject="c"),
        master.derive(application="a", subject="bc"),
        master.derive(application="ab", subject="c", record=1),
        master.derive(application="", subject="abc"),
    ]
    assert len({key.secret for key in derived}) == 4
    assert derived[0] == master.derive(application="ab", subject="c", record=0)
    assert master.secret not in {key.secret for key in derived}


def test_streams_part_their_purposes():
    key = TransformKey(bytes(32))
    assert key.stream("a", 16) != key.stream("b", 16)
    assert key.stream("a", 32)[:16] == key.stream("a", 16)


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33), "x" * 32, None])
def test_wrong_secrets(secret):
    with pytest.raises(KeyMaterialError, match="32 bytes"):
        TransformKey(secret)


def test_an_error_never_shows_the_secret():
    with pytest.raises(KeyMaterialError) as caught:
        TransformKey(b"secret-material")
    assert "secret-material" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -1])
def test_wrong_sizes(size):
    with pytest.raises(KeyMaterialError):
        TransformKey.generate().permutation(size)


def test_wrong_record():
    with pytest.raises(KeyMaterialError):
        TransformKey.generate().derive(application="a", subject="b", record=-1)


def test_generated_keys_differ():
    assert TransformKey.generate() != TransformKey.generate()


def test_permutations_are_uniform():
    """Each dimension lands in each place about equally often (chi-square, 6 sigma)."""
    counts = np.zeros((8, 8))
    for number in range(4000):
        order = TransformKey(number.to_bytes(32, "big")).permutation(8)
        counts[np.arange(8), order] += 1
    chi_square = ((counts - 500) ** 2 / 500).sum()
    assert abs(chi_square - 56) < 6 * np.sqrt(2 * 56)

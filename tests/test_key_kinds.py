import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.errors import KeyKindWarning, KeyMaterialError
from iom.keys import KEY_KINDS, ROTATION_ROUNDS, TransformKey, check_key_kind, key_in_new_part, part_count, part_of
from iom.nn.hash_network import keyed_layer

secrets_32 = st.binary(min_size=32, max_size=32)
FIRST, SECOND = TransformKey(bytes(32)), TransformKey(bytes(range(32)))


def digest(order):
    return hashlib.sha256(np.asarray(order, "<i4").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("permutation", [4, 2, 0, 7, 1, 5, 6, 3], [0, 5, 7, 4, 1, 3, 2, 6]),
        ("subset", [0, 2, 4, 1, 3, 5, 6, 7], [0, 5, 7, 1, 2, 3, 4, 6]),
        ("part", [7, 5, 6, 4, 2, 0, 1, 3], [5, 7, 6, 0, 4, 1, 3, 2]),
        (
            "orthogonal",
            [-7, 0, -2, 4, -4, 2, 5, 7, 6, -3, -1, -5, -6, -2, -8, 3, 7, 3, 4, -3, 5, -2, 6, -1],
            [7, -7, 0, 2, -6, -5, 3, 1, 3, -2, -8, 0, -3, 6, 5, -5, -2, -4, -5, 6, 7, -1, -3, -6],
        ),
    ],
)
def test_derivations_never_change(kind, first, second):
    """Fixed by design for ever: enrolled templates depend on them."""
    order = KEY_KINDS[kind].order
    assert order(FIRST, 8, 3).tolist() == first
    assert order(SECOND, 8, 3).tolist() == second
    assert order(FIRST, 8, 3).dtype == np.int32


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        ("permutation", 128, "d53354843852646a"),
        ("permutation", 512, "d5cec57f83157870"),
        ("subset", 128, "fa6304c20eccdcec"),
        ("part", 128, "6fe602bc940e3f49"),
        ("orthogonal", 128, "2e5cd95081fe0d31"),
        ("orthogonal", 640, "9fc23f961a1bc3ad"),
    ],
)
def test_long_derivations_never_change(kind, size, expected):
    assert digest(KEY_KINDS[kind].order(SECOND, size, 50)) == expected


@pytest.mark.parametrize("kind", KEY_KINDS)
@given(secret=secrets_32, size=st.integers(1, 200))
def test_each_round_is_a_permutation(kind, secret, size):
    key, entry = TransformKey(secret), KEY_KINDS[kind]
    order = entry.order(key, size, size // 2)
    np.testing.assert_array_equal(order, entry.order(key, size, size // 2))
    rounds = order.reshape(entry.rounds, size)
    places = np.where(rounds < 0, -rounds - 1, rounds)
    for row in places:
        assert sorted(row.tolist()) == list(range(size))
    if kind != "orthogonal":
        assert (rounds >= 0).all()


@given(secret=secrets_32, size=st.integers(2, 200), data=st.data())
def test_a_subset_is_what_the_permutation_keeps(secret, size, data):
    keep = data.draw(st.integers(1, size))
    key = TransformKey(secret)
    kept = KEY_KINDS["subset"].order(key, size, keep)[:keep]
    assert set(kept.tolist()) == set(key.permutation(size)[:keep].tolist())
    assert (np.diff(kept) > 0).all()


@given(secret=secrets_32, size=st.integers(2, 200), data=st.data())
def test_a_part_is_a_window_in_the_order_of_the_permutation(secret, size, data):
    keep = data.draw(st.integers(1, size - 1))
    key = TransformKey(secret)
    order = KEY_KINDS["part"].order(key, size, keep)
    parts = part_count(size, keep)
    start = part_of(key, parts) * (size - keep) // (parts - 1)
    assert sorted(order[:keep].tolist()) == list(range(start, start + keep))
    places = np.argsort(key.permutation(size))
    assert (np.diff(places[order[:keep]]) > 0).all()


@pytest.mark.parametrize(("size", "keep", "parts"), [(128, 64, 2), (128, 68, 2), (128, 32, 4), (128, 50, 2), (9, 9, 1)])
def test_parts_fit_and_cover_both_ends(size, keep, parts):
    assert part_count(size, keep) == parts
    orders = {}
    for number in range(200):
        key = TransformKey(number.to_bytes(32, "big"))
        chosen = KEY_KINDS["part"].order(key, size, keep)[:keep]
        orders.setdefault(part_of(key, parts), set()).add(frozenset(chosen.tolist()))
    assert sorted(orders) == list(range(parts))
    assert all(len(windows) == 1 for windows in orders.values())
    ends = {(min(window), max(window)) for (window,) in orders.values()}
    assert min(low for low, _ in ends) == 0
    assert max(high for _, high in ends) == size - 1


def test_renewals_are_refused_once_all_parts_are_used():
    used = []
    for _ in range(3):
        used.append(key_in_new_part(used, parts=3))
    assert sorted(part_of(key, 3) for key in used) == [0, 1, 2]
    with pytest.raises(KeyMaterialError, match="all 3 parts of the embedding are used up"):
        key_in_new_part(used, parts=3)


def test_signs_and_orders_are_uniform_and_independent():
    """Over 2,000 keys: each sign and each place about equally often, at 6 sigma."""
    values = np.array([TransformKey(n.to_bytes(32, "big")).signed_orders(8) for n in range(2000)])
    assert np.abs((values < 0).mean(axis=0) - 0.5).max() < 6 * 0.5 / np.sqrt(2000)
    places = np.where(values < 0, -values - 1, values)
    shares = (places[:, :, None] == np.arange(8)).mean(axis=0)
    assert np.abs(shares - 1 / 8).max() < 6 * np.sqrt(7 / 64 / 2000)
    negative = (places[:, :, None] == np.arange(8)) & (values < 0)[:, :, None]
    assert np.abs(negative.mean(axis=0) - 1 / 16).max() < 6 * np.sqrt(15 / 256 / 2000)


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_identity_orders(kind):
    entry = KEY_KINDS[kind]
    np.testing.assert_array_equal(entry.identity(5), np.tile(np.arange(5), entry.rounds))
    assert KEY_KINDS["orthogonal"].rounds == ROTATION_ROUNDS


@pytest.mark.parametrize("size", [0, -3])
def test_wrong_sizes(size):
    with pytest.raises(KeyMaterialError, match="at least one dimension"):
        FIRST.signed_orders(size)


def test_derivations_have_versions_of_their_own():
    names = [entry.derivation for entry in KEY_KINDS.values()]
    assert len(set(names)) == len(names)
    assert all(name.endswith("/v1") for name in names)


@pytest.mark.parametrize("kind", ["permutation", "subset", "part"])
@pytest.mark.parametrize(
    ("masked", "told"), [(False, "without any key, finds the enrolled photographs"),
                         (True, "the masks in the key store")],
)  # fmt: skip
def test_keys_that_only_move_values_are_warned_of(kind, masked, told):
    with pytest.warns(KeyKindWarning, match=told) as caught:
        check_key_kind(kind, application="door", masked=masked)
    text = str(caught[0].message)
    assert text.startswith(f"application door: keys of kind '{kind}'")
    assert "'orthogonal', enrol everyone anew in it, then revoke and erase here" in text
    assert "\n" not in text
    assert caught[0].filename == __file__


def test_keys_that_mix_values_are_not(recwarn):
    check_key_kind("orthogonal", application="door", masked=False)
    assert not recwarn.list


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_a_kind_says_whether_it_mixes(kind):
    """By its very order: the sorted absolute values of a row survive every key that only moves."""
    row = np.random.default_rng(3).normal(size=(1, 16)).astype("float32")
    layer = keyed_layer(kind, keep=0)
    order = KEY_KINDS[kind].order(TransformKey(bytes(32)), 16, 8)[None]
    keyed = np.asarray(layer([row, order]))
    same = np.allclose(np.sort(np.abs(keyed)), np.sort(np.abs(row)), atol=1e-6)
    assert same != KEY_KINDS[kind].mixes

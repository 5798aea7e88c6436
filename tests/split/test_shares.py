"""Shares of codes and secrets, their refresh, half-keys, and secrets that a match releases."""

import hashlib
import hmac

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.codes.packing import code_bytes, encoding_id, pack, unpack
from iom.errors import CodeError, KeyMaterialError
from iom.split.shares import (
    RefreshExchange,
    code_from_bytes,
    code_to_bytes,
    commitment,
    join_code,
    join_half_keys,
    open_release,
    record_label,
    refresh_mask,
    seal_release,
    share_code,
    share_secret,
    xor,
)

SHAPES = [(1536, 2), (512, 8), (192, 4), (65, 3), (127, 5)]
LABEL = record_label("door", "alice", 0)


def random_code(shape, seed=0):
    codes = np.random.default_rng(seed).integers(0, shape[1], (1, shape[0]))
    return code_to_bytes(pack(codes, shape[1])), codes


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_two_shares_are_the_code(shape):
    encoding = encoding_id(*shape)
    code, symbols = random_code(shape)
    a, b = share_code(code, encoding)
    assert len(a) == len(b) == code_bytes(encoding)
    assert np.array_equal(unpack(join_code(a, b, encoding)), symbols)
    assert code_to_bytes(code_from_bytes(code, encoding)) == code
    assert code not in (a, b)
    assert share_code(code, encoding)[0] != a


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shares_have_zeros_after_the_last_position(shape):
    encoding = encoding_id(*shape)
    for seed in range(8):
        for share in share_code(random_code(shape, seed)[0], encoding):
            code_from_bytes(share, encoding)  # refuses anything else there


@given(st.tuples(st.integers(1, 300), st.integers(2, 256)), st.binary(min_size=32, max_size=32), st.integers(0, 2**40))
def test_a_refresh_keeps_the_code_and_changes_both_shares(shape, joint, epoch):
    encoding = encoding_id(*shape)
    code, symbols = random_code(shape)
    shares = share_code(code, encoding)
    mask, secret_mask = refresh_mask(joint, encoding, LABEL, epoch)
    a, b = (xor(share, mask) for share in shares)
    assert np.array_equal(unpack(join_code(a, b, encoding)), symbols)
    assert len(secret_mask) == 16


def test_shares_of_different_epochs_give_noise():
    encoding = encoding_id(1536, 2)
    code, _ = random_code((1536, 2))
    a, b = share_code(code, encoding)
    mask, _ = refresh_mask(bytes(range(32)), encoding, LABEL, 1)
    mixed = np.unpackbits(np.frombuffer(xor(xor(a, mask), b), np.uint8) ^ np.frombuffer(code, np.uint8))
    assert abs(int(mixed.sum()) - 768) < 6 * np.sqrt(1536 / 4)


def test_refresh_masks_differ_by_record_epoch_and_secret():
    encoding = encoding_id(512, 8)
    masks = {
        refresh_mask(joint, encoding, label, epoch)
        for joint in (bytes(32), bytes(range(32)))
        for label in (LABEL, record_label("door", "alice", 1))
        for epoch in (1, 2)
    }
    assert len(masks) == 8


def test_both_sides_agree_on_a_refresh():
    a, b, other = RefreshExchange("A"), RefreshExchange("B"), RefreshExchange("B")
    assert a.joint_secret(b.public) == b.joint_secret(a.public)
    assert a.joint_secret(other.public) != a.joint_secret(b.public)


@pytest.mark.parametrize("peer", [bytes(32), bytes(31), b"", bytes(33), b"\x01" + bytes(31)])
def test_an_unusable_public_part_is_refused(peer):
    with pytest.raises(KeyMaterialError, match="refresh: expected a public part"):
        RefreshExchange("A").joint_secret(peer)


def test_half_keys_are_labelled_and_both_are_needed():
    halves = [bytes(range(32)), bytes(32)]
    key = join_half_keys(*halves, LABEL)
    assert key == join_half_keys(*reversed(halves), LABEL)
    assert key != join_half_keys(halves[0], bytes(31) + b"1", LABEL)
    labels = [LABEL, record_label("doo", "ralice", 0), record_label("door", "alice", 1), record_label("do", "or", 0)]
    keys = [join_half_keys(*halves, label).secret for label in labels]
    assert len(set(keys)) == 4
    assert join_half_keys(*halves, labels[2]) != key


def test_the_key_of_two_halves_is_a_format():
    """A change of it makes every record useless."""
    assert LABEL == b"\0\0\0\4door\0\0\0\5alice\0\0\0\x010"
    key = join_half_keys(bytes(32), bytes(range(32)), LABEL)
    extracted = hmac.digest(bytes(32), bytes(range(32)), "sha256")
    assert key.secret == hmac.digest(extracted, b"iom/split/record-key/v1\0" + LABEL + b"\1", "sha256")


def test_a_negative_record_and_a_short_half_are_refused():
    with pytest.raises(KeyMaterialError, match="record must not be negative"):
        record_label("door", "alice", -1)
    with pytest.raises(KeyMaterialError, match="expected 32 bytes, received 31"):
        join_half_keys(bytes(31), bytes(32), LABEL)


def test_a_secret_is_shared_and_committed_to():
    secret, a, b = share_secret()
    assert xor(a, b) == secret
    assert share_secret()[0] != secret
    assert commitment(secret) == hashlib.sha256(b"iom/split/commitment/v1\0" + secret).digest()


def test_a_released_secret_opens_with_its_record_only():
    secret, *_ = share_secret()
    sealed = seal_release(secret, b"disk key", LABEL)
    assert open_release(secret, sealed, LABEL) == b"disk key"
    assert b"disk key" not in sealed
    assert open_release(secret, seal_release(secret, b"", LABEL), LABEL) == b""
    for wrong in (
        (bytes(16), sealed, LABEL),
        (secret, sealed, record_label("door", "bob", 0)),
        (secret, sealed[:-1], LABEL),
        (secret, b"", LABEL),
        (secret, sealed[:12], LABEL),
        (secret, bytes([sealed[0] ^ 1]) + sealed[1:], LABEL),
    ):
        with pytest.raises(KeyMaterialError, match="damaged or belongs to another record"):
            open_release(*wrong)


def test_what_is_too_large_to_release_is_refused():
    with pytest.raises(KeyMaterialError, match="expected 1048576 bytes at most"):
        seal_release(bytes(16), bytes((1 << 20) + 1), LABEL)


def test_codes_of_another_size_are_refused():
    encoding = encoding_id(65, 3)
    for size in (0, 16, 31, 33):
        with pytest.raises(CodeError, match="expected 32 bytes"):
            code_from_bytes(bytes(size), encoding)
        with pytest.raises(CodeError, match="expected 32 bytes"):
            share_code(bytes(size), encoding)
    with pytest.raises(CodeError, match="zeros after the last position"):
        code_from_bytes(b"\xff" * 32, encoding)
    with pytest.raises(CodeError, match="one length"):
        xor(b"ab", b"a")
    with pytest.raises(CodeError, match="expected one code, received 2"):
        code_to_bytes(pack(np.zeros((2, 4), int), 2))

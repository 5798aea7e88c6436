"""The form of signed messages: written down byte by byte, and nothing but the right key opens it."""

import dataclasses

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from hypothesis import given, settings
from hypothesis import strategies as st

from iom.errors import KeyMaterialError
from iom.gallery.device_messages import ACTIONS, DeviceMessage, read_device
from iom.service.on_device_client import SigningDevice

DEVICE, OTHER = SigningDevice(), SigningDevice()
FIELDS = ("action", "application", "subject", "hasher", "key", "code", "device", "nonce")
TEXT, BYTES = st.text(st.characters(codec="utf-8"), max_size=12), st.binary(max_size=12)
MESSAGES = st.builds(
    DeviceMessage,
    **dict.fromkeys(("action", "application", "subject", "hasher", "key"), TEXT),
    **dict.fromkeys(("code", "device", "nonce"), BYTES),
)


def test_the_bytes_are_those_of_the_document():
    message = DeviceMessage(
        action="verify", application="door", subject="Zoë", hasher="aa", key="b", code=b"\x01\x02", nonce=b"\xff"
    )
    assert message.to_bytes() == (
        b"iom/on-device/v1"
        b"\x00\x00\x00\x06verify\x00\x00\x00\x04door\x00\x00\x00\x04Zo\xc3\xab"
        b"\x00\x00\x00\x02aa\x00\x00\x00\x01b\x00\x00\x00\x02\x01\x02\x00\x00\x00\x00\x00\x00\x00\x01\xff"
    )


def parsed(data):
    """Another reader of the form."""
    assert data[:16] == b"iom/on-device/v1"
    data, fields = data[16:], []
    while data:
        size = int.from_bytes(data[:4], "big")
        fields.append(data[4 : 4 + size])
        data = data[4 + size :]
    return fields


@given(MESSAGES)
def test_a_message_can_be_read_back(message):
    found = parsed(message.to_bytes())
    assert len(found) == len(FIELDS)
    for name, field in zip(FIELDS, found, strict=True):
        value = getattr(message, name)
        assert field == (value if isinstance(value, bytes) else value.encode())


@given(MESSAGES, MESSAGES)
def test_no_two_messages_have_the_same_bytes(a, b):
    assert (a.to_bytes() == b.to_bytes()) == (a == b)


@settings(max_examples=40)
@given(MESSAGES, st.sampled_from(FIELDS))
def test_a_signature_holds_for_its_message_and_device_alone(message, name):
    signature = DEVICE.sign(message)
    assert message.is_signed_by(DEVICE.public, signature)
    assert not message.is_signed_by(OTHER.public, signature)
    value = getattr(message, name)
    changed = dataclasses.replace(message, **{name: value + (b"x" if isinstance(value, bytes) else "x")})
    assert not changed.is_signed_by(DEVICE.public, signature)


def test_a_field_that_moves_into_its_neighbour_is_another_message():
    a = DeviceMessage(action="verify", application="do", subject="oralice")
    b = DeviceMessage(action="verify", application="door", subject="alice")
    assert not b.is_signed_by(DEVICE.public, DEVICE.sign(a))


@given(st.integers(0, 64 * 8 - 1))
def test_every_bit_of_a_signature_counts(bit):
    message = DeviceMessage(action=ACTIONS[0], application="door", subject="alice")
    signature = bytearray(DEVICE.sign(message))
    signature[bit // 8] ^= 1 << bit % 8
    assert not message.is_signed_by(DEVICE.public, bytes(signature))


@given(st.binary(max_size=140))
def test_no_bytes_are_a_signature(data):
    assert not DeviceMessage(action="verify", application="door", subject="alice").is_signed_by(DEVICE.public, data)


def test_other_forms_of_a_signature_are_none():
    message = DeviceMessage(action="verify", application="door", subject="alice")
    raw = DEVICE.sign(message)
    der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    for data in (der, raw + b"\0", raw[:-1], b"", bytes(64), b"\xff" * 64):
        assert not message.is_signed_by(DEVICE.public, data)


def test_a_message_does_not_show_its_code():
    message = DeviceMessage(action="verify", application="door", subject="alice", code=b"secret code")
    assert "secret" not in repr(message)
    assert "secret" not in repr(DEVICE)


def spki(key):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.DER, form)


def compressed(device):
    point = read_device(device).public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    # The same structure with a shorter bit string.
    return bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point


def hybrid(device):
    """The point with both coordinates and the parity of y: as long as an uncompressed one."""
    return device[:-65] + bytes([6 + (device[-1] & 1)]) + device[-64:]


def off_the_curve(device):
    return device[:-1] + bytes([device[-1] ^ 1])


OTHER_KEYS = {
    "nothing": b"",
    "sequences": b"\x30" * 91,
    "zeros": bytes(91),
    "off the curve": off_the_curve(DEVICE.public),
    "the origin": DEVICE.public[:-64] + bytes(64),
    "beyond the field": DEVICE.public[:-64] + b"\xff" * 64,
    "a byte more": DEVICE.public + b"\0",
    "a byte less": DEVICE.public[:-1],
    "compressed": compressed(DEVICE.public),
    "hybrid": hybrid(DEVICE.public),
    "P-384": spki(ec.generate_private_key(ec.SECP384R1()).public_key()),
    "secp256k1": spki(ec.generate_private_key(ec.SECP256K1()).public_key()),
    "brainpool": spki(ec.generate_private_key(ec.BrainpoolP256R1()).public_key()),
    "Ed25519": spki(ed25519.Ed25519PrivateKey.generate().public_key()),
    "another curve named": DEVICE.public.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030106")),
}


@pytest.mark.parametrize("device", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_other_public_keys_are_refused(device):
    with pytest.raises(KeyMaterialError, match="expected a P-256 public key as SubjectPublicKeyInfo of 91 bytes"):
        read_device(device)


@given(st.integers(0, 91 * 8 - 1))
def test_a_public_key_with_a_flipped_bit_is_none(bit):
    changed = bytearray(DEVICE.public)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(KeyMaterialError):
        read_device(bytes(changed))


def test_webcrypto_and_this_module_mean_the_same_signature():
    """ECDSA with SHA-256 over the bytes, not over their digest."""
    message = DeviceMessage(action="verify", application="door", subject="alice")
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = utils.decode_dss_signature(key.sign(message.to_bytes(), ec.ECDSA(hashes.SHA256())))
    raw = b"".join(number.to_bytes(32, "big") for number in numbers)
    assert message.is_signed_by(spki(key.public_key()), raw)

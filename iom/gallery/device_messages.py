"""Signed messages of a device: what it signs, and how its public key and signature are written.

A device that makes codes by itself signs each request, so that what was copied from the service is not enough to make
one. The form, for other clients:

- **Key**: ECDSA on P-256. The public key travels as SubjectPublicKeyInfo in DER with an uncompressed point: 91 bytes,
  what WebCrypto exports as `spki`.
- **Signature**: ECDSA with SHA-256, r and s in 32 bytes each, big endian, one after the other (IEEE P1363), what
  WebCrypto's `sign` gives.
- **Message**: the 16 bytes of `iom/on-device/v1`, then each of eight fields as its length in bytes (4 bytes, big
  endian) and its content: action, application, subject, hasher, key, code, device, nonce. Texts are in UTF-8; the
  subject is in Unicode's form NFC. `hasher` is the hasher's fingerprint (64 hexadecimal digits), `key` the public
  identifier of the transform key (32 hexadecimal digits). `code` is the packed code, `device` the public key that the
  request brings, `nonce` the 32 bytes that the service gave. A field that a request does not have is empty.

=========  ======================================================================
action     fields that are not empty, beside application, subject and nonce
=========  ======================================================================
`enroll`   hasher, key, code, device
`verify`   hasher, key, code
`renew`    hasher, key, code, and device where the request names one
`revoke`   none
=========  ======================================================================

Where a code goes in shares to two services, the action of a message to either has its side behind a slash, such as
`verify/b`. So neither service can pass a request to itself on to the other one, with a nonce of that one, and read the
other share out of the answer.

No message of one action, side, application or nonce is that of another: lengths come before contents.
"""

import dataclasses

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from iom.errors import KeyMaterialError

PREFIX = b"iom/on-device/v1"
NONCE_BYTES = 32
SIGNATURE_BYTES = 64
DEVICE_BYTES = 91
"""Bytes of a public key as it travels."""
HASHER_DIGITS, KEY_DIGITS = 64, 32
"""Hexadecimal digits of a hasher's fingerprint and of a transform key's public identifier."""
ACTIONS = ("enroll", "verify", "renew", "revoke")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceMessage:
    """What a device signs, see the table above."""

    action: str
    application: str
    subject: str
    hasher: str = ""
    key: str = ""
    code: bytes = dataclasses.field(default=b"", repr=False)
    device: bytes = b""
    nonce: bytes = b""

    def to_bytes(self) -> bytes:
        """The bytes that are signed."""
        texts = (self.action, self.application, self.subject, self.hasher, self.key)
        fields = (*(each.encode() for each in texts), self.code, self.device, self.nonce)
        return PREFIX + b"".join(len(each).to_bytes(4, "big") + each for each in fields)

    def on_side(self, side: str) -> "DeviceMessage":
        """The message to the service on a side, "a" or "b"; "" where there is but one."""
        return dataclasses.replace(self, action=f"{self.action}/{side}") if side else self

    def is_signed_by(self, device: bytes, signature: bytes) -> bool:
        """Whether a signature of 64 bytes over this message is by the device with this public key."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        half = SIGNATURE_BYTES // 2
        numbers = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        try:
            read_device(device).verify(utils.encode_dss_signature(*numbers), self.to_bytes(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def read_device(device: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a device.

    Raises:
        KeyMaterialError: Not 91 bytes, not DER, another curve, a point that is not on the curve, or another form.
    """
    expected = f"device: expected a P-256 public key as SubjectPublicKeyInfo of {DEVICE_BYTES} bytes"
    if len(device) != DEVICE_BYTES:
        raise KeyMaterialError(f"{expected}, received {len(device)}")
    try:
        key = serialization.load_der_public_key(device)
    except Exception:  # its errors have no common root, and their texts are of no use
        raise KeyMaterialError(f"{expected}, received one that is damaged or whose point is not on the curve") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyMaterialError(f"{expected}, received a key of another kind")
    if write_device(key) != device:
        raise KeyMaterialError(f"{expected} with an uncompressed point, received another form of it")
    return key


def write_device(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as it travels."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

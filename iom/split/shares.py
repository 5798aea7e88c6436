"""XOR shares of codes and secrets, their refresh, and keys of records in two halves.

A code `t`, in the bit planes of `iom.codes.packing`, is `t_A xor t_B`, where `t_A` is uniform. A record has beside it a
secret `S = S_A xor S_B` of 16 bytes, which a match opens. Neither share alone says anything of `t` or `S`; both
together are `t` and `S`.
"""

import hashlib
import secrets
from collections.abc import Callable

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from iom.codes.packing import WORD_BITS, PackedCodes, code_bytes, encoding_shape, plane_count, word_count
from iom.errors import CodeError, KeyMaterialError
from iom.keys import SECRET_BYTES as KEY_BYTES
from iom.keys import TransformKey

SECRET_BYTES = 16
"""Bytes of a record's secret."""
COMMITMENT_BYTES = 32
MAX_RELEASED = 1 << 20
"""Bytes of what a secret releases."""
_NONCE_BYTES, _TAG_BYTES = 12, 16
_PUBLIC_BYTES = 32
Random = Callable[[int], bytes]


def code_to_bytes(packed: PackedCodes) -> bytes:
    """One code as a record store holds it: 64-bit words, little endian, plane after plane."""
    if len(packed) != 1:
        raise CodeError(f"expected one code, received {len(packed)}")
    return packed.planes.astype("<u8", copy=False).tobytes()


def code_from_bytes(code: bytes, encoding: str) -> PackedCodes:
    """One code, or the share of one, from its stored form; a `CodeError` for another length, or bits in the padding."""
    code_length, alphabet_size = encoding_shape(encoding)
    if len(code) != code_bytes(encoding):
        raise CodeError(f"a code {encoding}: expected {code_bytes(encoding)} bytes, received {len(code)}")
    shape = (1, plane_count(alphabet_size), word_count(code_length))
    return PackedCodes(np.frombuffer(code, "<u8").astype(np.uint64).reshape(shape), code_length, alphabet_size)


def share_code(code: bytes, encoding: str, *, random: Random = secrets.token_bytes) -> tuple[bytes, bytes]:
    """Two shares of a stored code. The first is uniform; in both, the bits after the last position are zero."""
    code_from_bytes(code, encoding)
    first = _without_padding(random(len(code)), encoding)
    return first, xor(first, code)


def join_code(a: bytes, b: bytes, encoding: str) -> PackedCodes:
    """The code of two shares; shares that do not belong together give another code."""
    return code_from_bytes(xor(a, b), encoding)


def xor(a: bytes, b: bytes) -> bytes:
    """Bitwise XOR of two byte strings of one length."""
    if len(a) != len(b):
        raise CodeError(f"XOR: expected two strings of one length, received {len(a)} and {len(b)} bytes")
    return _xor(a, b).tobytes()


def share_secret(*, random: Random = secrets.token_bytes) -> tuple[bytes, bytes, bytes]:
    """A fresh secret of a record and its two shares."""
    secret, first = random(SECRET_BYTES), random(SECRET_BYTES)
    return secret, first, xor(first, secret)


def commitment(secret: bytes) -> bytes:
    """SHA-256 commitment to a record's secret; both sides hold it, and it says nothing of 16 uniform bytes."""
    return hashlib.sha256(b"iom/split/commitment/v1\0" + secret).digest()


def seal_release(secret: bytes, content: bytes, label: bytes) -> bytes:
    """Encrypt what a match releases under a record's secret (AES-256-GCM), bound to the record's `label`."""
    if len(content) > MAX_RELEASED:
        raise KeyMaterialError(f"a secret to release: expected {MAX_RELEASED} bytes at most, received {len(content)}")
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(_release_key(secret)).encrypt(nonce, content, label)


def open_release(secret: bytes, sealed: bytes, label: bytes) -> bytes:
    """What `seal_release` encrypted; a `KeyMaterialError` for another secret or label, or damage."""
    if len(sealed) >= _NONCE_BYTES + _TAG_BYTES:
        try:
            return AESGCM(_release_key(secret)).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], label)
        except InvalidTag:
            pass
    raise KeyMaterialError("the released secret is damaged or belongs to another record; enrol the subject anew")


def record_label(application: str, subject: str, record: int) -> bytes:
    """Label of a record, each part with its length before it, so that ("ab", "c") and ("a", "bc") differ."""
    if record < 0:
        raise KeyMaterialError(f"record must not be negative, received {record}")
    encoded = [part.encode("utf-8") for part in (application, subject, str(record))]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def join_half_keys(a: bytes, b: bytes, label: bytes) -> TransformKey:
    """The record key of two halves: HKDF-SHA-256 of their XOR. It is uniform to whoever lacks one of them."""
    for half in (a, b):
        if len(half) != KEY_BYTES:
            raise KeyMaterialError(f"half of a record key: expected {KEY_BYTES} bytes, received {len(half)}")
    return TransformKey(_derived(xor(a, b), b"iom/split/record-key/v1\0" + label))


class RefreshExchange:
    """One side of the agreement on a secret for a refresh: ephemeral X25519 (RFC 7748) over an authenticated channel.

    Each side sends `public` to the other and calls `joint_secret`. The exchange is not stored, so that neither disk
    ever holds what links the shares before a refresh to those after it.

    Examples:
        >>> a, b = RefreshExchange("A"), RefreshExchange("B")
        >>> a.joint_secret(b.public) == b.joint_secret(a.public)
        True
    """

    def __init__(self, side: str) -> None:
        self._private = X25519PrivateKey.generate()
        self._is_first = side == "A"
        self.public = self._private.public_key().public_bytes_raw()

    def joint_secret(self, peer: bytes) -> bytes:
        """32 secret bytes that both sides have; a `KeyMaterialError` for a public part that is not usable."""
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:  # another length, or a point of small order
            raise KeyMaterialError(
                f"refresh: expected a public part of {_PUBLIC_BYTES} bytes (X25519), received none that is usable"
            ) from None
        transcript = self.public + peer if self._is_first else peer + self.public
        return _derived(shared, b"iom/split/refresh/v1\0" + transcript)


def refresh_mask(joint_secret: bytes, encoding: str, label: bytes, epoch: int) -> tuple[bytes, bytes]:
    """XOR for both shares of a code, and XOR for both shares of its secret, that lead to `epoch`.

    Both sides compute the same from their joint secret, and XOR their own shares with it (`xor`): code and secret stay,
    the shares are as good as new. The old share of one side and the new one of the other give noise.
    """
    key = _derived(joint_secret, b"iom/split/refresh-mask/v1\0" + epoch.to_bytes(8, "big") + label)
    size = code_bytes(encoding)
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(SECRET_BYTES + size))
    return _without_padding(stream[SECRET_BYTES:], encoding), stream[:SECRET_BYTES]


def _xor(a: bytes, b: bytes) -> NDArray[np.uint8]:
    return np.bitwise_xor(np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8))


def _without_padding(planes: bytes, encoding: str) -> bytes:
    """Bit planes of one code with zeros after the last position."""
    code_length, alphabet_size = encoding_shape(encoding)
    words = np.frombuffer(planes, "<u8").reshape(plane_count(alphabet_size), -1).copy()
    if used := code_length % WORD_BITS:
        words[:, -1] &= np.uint64((1 << used) - 1)
    return words.tobytes()


def _release_key(secret: bytes) -> bytes:
    return _derived(secret, b"iom/split/release/v1")


def _derived(material: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, None, info).derive(material)

"""Transform keys: the secret that makes a template renewable (ISO/IEC 24745, auxiliary data)."""

import dataclasses
import hashlib
import hmac
import secrets

import numpy as np
from numpy.typing import NDArray

from iom.errors import KeyMaterialError

SECRET_BYTES = 32


@dataclasses.dataclass(frozen=True, eq=False)
class TransformKey:
    """Auxiliary data of one template: 32 secret bytes, from which everything keyed is derived.

    The secret is left out of `repr`, two keys are compared in constant time, and a key is not
    hashable, so that it cannot end up as a dictionary key or in a cache by accident.

    Example:
        >>> key = TransformKey(bytes(32))
        >>> key
        TransformKey()
        >>> key.permutation(8).tolist()
        [4, 2, 0, 7, 1, 5, 6, 3]
    """

    secret: bytes = dataclasses.field(repr=False)

    __hash__ = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes) or len(self.secret) != SECRET_BYTES:
            received = len(self.secret) if isinstance(self.secret, bytes) else type(self.secret)
            raise KeyMaterialError(
                f"a transform key needs {SECRET_BYTES} bytes, received {received}; "
                "make one with TransformKey.generate()"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TransformKey):
            return NotImplemented
        return hmac.compare_digest(self.secret, other.secret)

    @classmethod
    def generate(cls) -> "TransformKey":
        """Fresh key from the operating system's generator."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    def derive(self, *, application: str, subject: str, record: int = 0) -> "TransformKey":
        """Key of one record, from this key as the master.

        The labels are length-prefixed, so that ("ab", "c") and ("a", "bc") give unrelated keys.
        One expansion block of HKDF with SHA-256 (RFC 5869, section 2.3): the master is already
        uniform, so the extraction step is not needed.
        """
        if record < 0:
            raise KeyMaterialError(f"record must not be negative, received {record}")
        info = b"iom/derive/v1"
        for label in (application, subject, str(record)):
            encoded = label.encode("utf-8")
            info += len(encoded).to_bytes(4, "big") + encoded
        return TransformKey(hmac.digest(self.secret, info + b"\x01", "sha256"))

    def permutation(self, size: int) -> NDArray[np.intp]:
        """Order of `size` embedding dimensions, the same on every machine and NumPy version.

        A stable argsort of `size` 64-bit little-endian words of a SHAKE-256 stream.
        `numpy.random.Generator.permutation` would not do: it promises no stability.
        """
        if size < 1:
            raise KeyMaterialError(f"a permutation needs at least one dimension, received {size}")
        stream = hashlib.shake_256(b"iom/permutation/v1" + self.secret).digest(8 * size)
        return np.argsort(np.frombuffer(stream, dtype="<u8"), kind="stable")

    def stream(self, purpose: str, size: int) -> bytes:
        """`size` pseudo-random bytes for `purpose`, for transforms other than a permutation."""
        label = f"iom/stream/{purpose}/v1\x00".encode()
        return hashlib.shake_256(label + self.secret).digest(size)

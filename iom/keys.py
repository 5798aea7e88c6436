"""Transform keys: the secret that makes a template renewable (ISO/IEC 24745, auxiliary data)."""

import base64
import binascii
import dataclasses
import hashlib
import hmac
import re
import secrets
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, NoReturn, Self

from iom.errors import KeyKindWarning, KeyMaterialError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SECRET_BYTES = 32
TEXT_VERSION = 1
ROTATION_ROUNDS = 3
"""Signed orders of an `orthogonal` key; a Hadamard transform stands between each two."""


class _Secret:
    """32 secret bytes that leave no traces.

    They are left out of `repr`, two secrets are compared in constant time, and a secret is not hashable, so that it
    cannot end up as a dictionary key or in a cache by accident. It cannot be pickled, and `vars` and
    `dataclasses.asdict` do not see it: what is to leave the process goes through `to_text`.
    """

    __slots__ = ("_secret",)
    _secret: bytes
    _noun: ClassVar[str]
    """Such as "transform key"; its last word is in the text form."""
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, secret: bytes) -> None:
        if not isinstance(secret, bytes) or len(secret) != SECRET_BYTES:
            received = len(secret) if isinstance(secret, bytes) else type(secret)
            raise KeyMaterialError(
                f"a {self._noun} needs {SECRET_BYTES} bytes, received {received}; "
                f"make one with {type(self).__name__}.generate()"
            )
        object.__setattr__(self, "_secret", secret)

    @property
    def secret(self) -> bytes:
        """The 32 bytes."""
        return self._secret

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {self._noun} cannot be changed: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {self._noun} cannot be changed: {name}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise KeyMaterialError(
            f"a {self._noun} is not pickled or copied, so that its secret leaves no traces: pass "
            "the object itself, or its to_text() where it must leave the process"
        )

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or not isinstance(other, _Secret):
            return NotImplemented
        return hmac.compare_digest(self.secret, other.secret)

    @classmethod
    def generate(cls) -> Self:
        """A fresh one from the operating system's generator."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    def to_text(self) -> str:
        """The secret as ASCII text to be stored: `iom-key-1:<secret>:<check>`, or `iom-token-1:...` of 64 characters.

        The secret in URL-safe Base64 without padding; the check, the first 8 hexadecimal digits of a SHA-256 over
        `iom/key-text/v1` (or `iom/token-text/v1`) and the secret, finds damage. This text *is* the secret: it belongs
        apart from templates, never into a log.
        """
        body = base64.urlsafe_b64encode(self.secret).decode().rstrip("=")
        return f"iom-{self._kind()}-{TEXT_VERSION}:{body}:{self._check()}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what `to_text` wrote; white space around it is ignored.

        Raises:
            KeyMaterialError: Another version, truncated or damaged. The message holds no part of the text.
        """
        kind = cls._kind()
        known = isinstance(text, str)
        match = re.fullmatch(rf"iom-{kind}-(\d{{1,9}}):(.*)", text.strip(), re.ASCII | re.DOTALL) if known else None
        if match is None:
            raise KeyMaterialError(f"not a stored {kind}: expected a text 'iom-{kind}-{TEXT_VERSION}:...'")
        if int(match[1]) != TEXT_VERSION:
            raise KeyMaterialError(
                f"a stored {kind} of version {int(match[1])}: this program reads version "
                f"{TEXT_VERSION}; read it with the program that wrote it"
            )
        body, _, check = match[2].partition(":")
        try:
            secret = base64.b64decode(body + "=", altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        canonical = len(secret) == SECRET_BYTES and cls(secret).to_text().split(":")[1] == body
        if not canonical or not hmac.compare_digest(check.encode(), cls(secret)._check().encode()):
            raise KeyMaterialError(
                f"a stored {kind} is truncated or damaged: its check does not hold; take it from a backup"
            )
        return cls(secret)

    @classmethod
    def _kind(cls) -> str:
        return cls._noun.rpartition(" ")[2]

    def _check(self) -> str:
        return hashlib.sha256(f"iom/{self._kind()}-text/v1".encode() + self.secret).hexdigest()[:8]


class SubjectToken(_Secret):
    """A part of the key of a subject's records that the subject alone has, such as in a file or as a QR code.

    Examples:
        >>> SubjectToken(bytes(32)).identifier
        '4c3e376ee883f9dd26520cf2f543bc4e'
    """

    __slots__ = ()
    _noun = "subject token"

    @property
    def identifier(self) -> str:
        """Public name of the token, 32 hexadecimal digits, which is stored with the records that need it."""
        return hmac.digest(self.secret, b"iom/token/identifier/v1", "sha256").hex()[:32]


class TransformKey(_Secret):
    """Auxiliary data of one template: 32 secret bytes, from which everything keyed is derived.

    Examples:
        >>> key = TransformKey(bytes(32))
        >>> key
        TransformKey()
        >>> key.permutation(8).tolist()
        [4, 2, 0, 7, 1, 5, 6, 3]
        >>> key.identifier
        '62e1c3bba8e3a562916202422c8e870e'
    """

    __slots__ = ()
    _noun = "transform key"

    @property
    def identifier(self) -> str:
        """Public name of the key, 32 hexadecimal digits, by which a service knows it; it tells nothing of the secret.

        Another derivation than that of any key or order, so that it may be stored and sent in the open.
        """
        return hmac.digest(self.secret, b"iom/key/identifier/v1", "sha256").hex()[:32]

    def derive(self, *, application: str, subject: str, record: int = 0) -> "TransformKey":
        """Key of one record, from this key as the master.

        The labels are length-prefixed, so that ("ab", "c") and ("a", "bc") give unrelated keys. One expansion block of
        HKDF with SHA-256 (RFC 5869, section 2.3): the master is already uniform, so the extraction step is not needed.
        """
        return TransformKey(hmac.digest(self.secret, derivation_label(application, subject, record), "sha256"))

    def with_token(self, token: SubjectToken) -> "TransformKey":
        """Key of a record that needs the token of its subject, too.

        HKDF with SHA-256 (RFC 5869): the token is the salt of the extraction, this key its input. Without either of
        them the result is as good as random.
        """
        extracted = hmac.digest(token.secret, self.secret, "sha256")
        return TransformKey(hmac.digest(extracted, b"iom/record-token/v1\x01", "sha256"))

    def permutation(self, size: int) -> "NDArray[np.intp]":
        """Order of `size` embedding dimensions, the same on every machine and NumPy version.

        A stable argsort of `size` 64-bit little-endian words of a SHAKE-256 stream;
        `numpy.random.Generator.permutation` promises no stability.
        """
        import numpy as np

        if size < 1:
            raise KeyMaterialError(f"a permutation needs at least one dimension, received {size}")
        stream = hashlib.shake_256(b"iom/permutation/v1" + self.secret).digest(8 * size)
        return np.argsort(np.frombuffer(stream, dtype="<u8"), kind="stable")

    def stream(self, purpose: str, size: int) -> bytes:
        """`size` pseudo-random bytes for `purpose`, for transforms other than a permutation."""
        label = f"iom/stream/{purpose}/v1\x00".encode()
        return hashlib.shake_256(label + self.secret).digest(size)

    def signed_orders(self, size: int) -> "NDArray[np.int32]":
        """Orders with signs, `(ROTATION_ROUNDS * size,)`, one round after the other.

        Entry i >= 0 takes dimension i as it is, entry i < 0 takes dimension -i - 1 negated. One 64-bit little-endian
        word of the stream `orthogonal` for each entry: the upper 63 bits are sorted for the order (stable), the lowest
        bit is the sign.
        """
        import numpy as np

        if size < 1:
            raise KeyMaterialError(f"a rotation needs at least one dimension, received {size}")
        stream = self.stream("orthogonal", 8 * ROTATION_ROUNDS * size)
        words = np.frombuffer(stream, dtype="<u8").reshape(ROTATION_ROUNDS, size)
        order = np.argsort(words >> np.uint64(1), axis=1, kind="stable")
        negated = np.take_along_axis(words, order, axis=1) & np.uint64(1) == 1
        return np.where(negated, -order - 1, order).astype(np.int32).ravel()


def derivation_label(application: str, subject: str, record: int) -> bytes:
    """The message whose HMAC-SHA-256 under a master is the key of a record, see `TransformKey.derive`."""
    if record < 0:
        raise KeyMaterialError(f"record must not be negative, received {record}")
    info = b"iom/derive/v1"
    for label in (application, subject, str(record)):
        encoded = label.encode("utf-8")
        info += len(encoded).to_bytes(4, "big") + encoded
    return info + b"\x01"


@dataclasses.dataclass(frozen=True)
class KeyKind:
    """Effect of a key on the dimensions it is applied to.

    Attributes:
        derivation: Versioned name of the way from secret to order; stored with each hasher.
        order: `(key, size, keep) -> (rounds * size,)` int32; the input of the network.
        layer: The Keras layer that applies an order, a class of `iom.nn.layers.keyed`.
        step: The NumPy function that does the same, a name in `iom.nn.hash_numpy.STEPS`.
        rounds: Entries of an order per dimension.
        mixes: Whether each output depends on every input. A key that only moves values leaves them, sorted, open to an
            attacker who has the code (`iom.attacks.linkage`).
        chooses: Whether the kind is about which dimensions are kept, so that `keep` must be set.
        renews: Whether a renewal moves to other dimensions, so that some must be left.
    """

    derivation: str
    order: "Callable[[TransformKey, int, int], NDArray[np.int32]]"
    layer: str = "KeyedPermutation"
    step: str = "permutation"
    rounds: int = 1
    mixes: bool = False
    chooses: bool = False
    renews: bool = False

    def identity(self, size: int) -> "NDArray[np.int32]":
        """Order that changes nothing, `(rounds * size,)`, never to enrol (`orthogonal`: its two transforms cancel)."""
        import numpy as np

        return np.tile(np.arange(size, dtype=np.int32), self.rounds)


def _permutation(key: TransformKey, size: int, keep: int) -> "NDArray[np.int32]":
    return key.permutation(size).astype("int32")


def _subset(key: TransformKey, size: int, keep: int) -> "NDArray[np.int32]":
    """The dimensions that the key's permutation keeps, in their own order, then the others."""
    order = _permutation(key, size, keep)
    order[:keep].sort()
    order[keep:].sort()
    return order


def _orthogonal(key: TransformKey, size: int, keep: int) -> "NDArray[np.int32]":
    return key.signed_orders(size)


def _part(key: TransformKey, size: int, keep: int) -> "NDArray[np.int32]":
    """The `keep` dimensions of the key's part, in the key's order, then the others."""
    order = _permutation(key, size, keep)
    window = part_window(part_of(key, part_count(size, keep)), size, keep)
    inside = (order >= window.start) & (order < window.stop)
    parts: NDArray[np.int32] = order[(~inside).argsort(kind="stable")]
    return parts


KEY_KINDS: dict[str, KeyKind] = {
    "permutation": KeyKind("iom/permutation/v1", _permutation),
    "subset": KeyKind("iom/subset/v1", _subset, chooses=True),
    "orthogonal": KeyKind(
        "iom/orthogonal/v1", _orthogonal, layer="KeyedRotation", step="rotation", rounds=ROTATION_ROUNDS, mixes=True
    ),
    "part": KeyKind("iom/part/v1", _part, chooses=True, renews=True),
}
"""Name to kind. A change of a kind's derivation is a new version, not an edit."""


def part_count(size: int, keep: int) -> int:
    """How many parts of `keep` dimensions there are: as many as fit apart, and at least two.

    Parts of more than half of the dimensions overlap, so that a leak of one tells of the other. With all dimensions
    kept there is one part, and nothing to renew into.
    """
    if keep <= 0 or keep >= size:
        return 1
    return max(2, size // keep)


def part_window(part: int, size: int, keep: int) -> slice:
    """The `keep` dimensions of one of the parts, 0 to `part_count` - 1."""
    start = part * (size - keep) // max(part_count(size, keep) - 1, 1)
    return slice(start, start + keep)


def part_of(key: TransformKey, parts: int) -> int:
    """The part of the embedding that a key uses, 0 to parts - 1: its first stream word modulo `parts`."""
    return int.from_bytes(key.stream("part", 8), "little") % parts


def key_in_new_part(used: Iterable[TransformKey], *, parts: int) -> TransformKey:
    """A fresh key for a subject's next template, of a part that none of the subject's keys in any application used.

    Of k parts (`part_count`), the first template takes one, and k - 1 renewals outlive a full disclosure. `used` are
    the subject's keys in all applications, as it is the embedding that leaks. `KeyMaterialError` where no part is left.
    """
    taken = {part_of(key, parts) for key in used}
    if len(taken) >= parts:
        raise KeyMaterialError(
            f"all {parts} parts of the embedding are used up: a code under any further key falls "
            "with the ones that leaked; enrol with another embedder, or with keys of another kind "
            "that are kept apart from the templates"
        )
    while part_of(key := TransformKey.generate(), parts) in taken:
        pass
    return key


def check_key_kind(kind: str, *, application: str, masked: bool) -> None:
    """Warn, where an application is made or opened, that its keys do not hide the values of an embedding.

    `masked`: whether the application stores its codes under one-time masks. The text is the same each time, so that
    Python's filter shows it once.
    """
    if KEY_KINDS[kind].mixes:
        return
    if masked:
        told = (
            "hide nothing of a code whose mask is known: what protects its templates are the masks "
            "in the key store. To have both"
        )
    else:
        told = (
            "only move the values of an embedding: whoever has the record store, without any key, "
            "finds the enrolled photographs among public ones and links subjects of two "
            "applications. To renew"
        )
    warnings.warn(
        f"application {application}: keys of kind '{kind}' {told}, make another application with a "
        "hasher whose keys are 'orthogonal', enrol everyone anew in it, then revoke and erase here",
        KeyKindWarning,
        stacklevel=2,
    )


Key = TransformKey
"""The name under which the package offers it."""

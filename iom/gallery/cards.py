"""Cards: sealed templates that fit a QR code, for which nothing is stored.

The payload of a card, in bytes:

- 1: the version, 1;
- 8: the start of the fingerprint of its hasher;
- 16: a salt, random; in hexadecimal the serial number of the card;
- 16: the seal, the synthetic initialization vector of AES-256-SIV (RFC 5297);
- the rest, encrypted: 4 for the last second at which the card counts (big endian, since 1970; 0: no end), the symbols
  of the code one after the other, each of ceil(log2 Q) bits with the highest first, filled up with zeros to whole
  bytes, and the subject id in UTF-8, which may be empty.

The associated data of the seal are the first 25 bytes and the whole fingerprint. Both keys of a card, the transform key
of its code and the 64 bytes for AES-SIV, are one HKDF expansion (RFC 5869) of a key that is derived for the salt. The
QR code holds the text `IOM:` and the payload in Base45 (RFC 9285).
"""

import dataclasses
import datetime
import re
import secrets
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

from iom._files import write_secret
from iom._untrusted import read_bytes
from iom.codes.packing import plane_count
from iom.errors import CardError, ConfigError, DataError, RevokedError, needs_extra
from iom.gallery.key_source import MasterSource
from iom.gallery.key_store import KeyStore
from iom.keys import TransformKey
from iom.models.code import Code
from iom.models.face_hasher import FaceHasher
from iom.models.verification import Verification
from iom.photos.images import Picture
from iom.photos.qr_codes import check_qr_codes, qr_picture, read_qr_codes

START = "IOM:"
VERSION = 1
PICTURES = (".png", ".svg", ".pdf")
MAX_SUBJECT_BYTES = 64
_FINGERPRINT, _SALT = slice(1, 9), slice(9, 25)
_HEADER_BYTES, _SEAL_BYTES, _TIME_BYTES = 25, 16, 4
_SPACE, _LABEL, _INFO = "cards", b"iom/card/v1\0", b"iom/card/keys/v1"
_MAX_TEXT = 4296  # of the largest QR code
_MAX_LIST_BYTES = 64 << 20
_SERIAL = re.compile(r"[0-9a-f]{32}")

CardKey = TransformKey | KeyStore
"""What the keys of cards come from. Whoever has it, or may ask it, opens cards and makes them."""


class CardContent(NamedTuple):
    """What a card holds under its seal: a code and its key, the subject, and until when the card counts."""

    code: Code
    key: TransformKey
    subject_id: str
    valid_until: datetime.datetime | None


@dataclasses.dataclass(frozen=True, repr=False)
class Card:
    """A template of one face, encrypted and sealed, to be carried by its subject.

    Attributes:
        payload: The bytes of the card.

    Examples:
        >>> import iom
        >>> from iom.synthetic import load_face_model
        >>> faces, _ = load_face_model().sample(1, 2, seed=5)
        >>> hasher, key = iom.load("bundled"), iom.Key.generate()
        >>> card = Card.issue(faces[0], hasher=hasher, key=key)
        >>> card.verify(faces[1], hasher=hasher, key=key).match
        True
    """

    payload: bytes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.serial!r}, hasher {self.payload[_FINGERPRINT].hex()})"

    def __post_init__(self) -> None:
        if len(self.payload) <= _HEADER_BYTES + _SEAL_BYTES + _TIME_BYTES or self.payload[0] != VERSION:
            raise CardError(
                f"card: expected version {VERSION}, and more than {_HEADER_BYTES + _SEAL_BYTES + _TIME_BYTES} bytes, "
                f"received version {self.payload[0] if self.payload else 'none'} and {len(self.payload)} bytes"
            )

    @classmethod
    def issue(
        cls,
        picture: Picture,
        *,
        hasher: FaceHasher,
        key: CardKey,
        subject_id: str = "",
        valid_until: datetime.datetime | None = None,
        checked: bool = True,
    ) -> Self:
        """A new card for the one face of a picture.

        Args:
            picture: As of `FaceHasher.embed_picture`.
            hasher: Makes the code; whoever verifies needs the same.
            key: A key, or an open key store.
            subject_id: At most 64 bytes in UTF-8.
            valid_until: The last moment at which the card is accepted; one without a time zone is in UTC.
            checked: As of `FaceHasher.embed_picture`.

        Raises:
            ConfigError: The subject id is too long, or the time has passed or is later than the year 2105.
            FaceError: As of `FaceHasher.embed_picture`.
            StoreError: The key store is closed or does not answer.
        """
        name = subject_id.encode()
        if len(name) > MAX_SUBJECT_BYTES:
            raise ConfigError(f"subject id: expected at most {MAX_SUBJECT_BYTES} bytes, received {len(name)}")
        end = _seconds(valid_until)
        row = hasher.embed_picture(picture, checked=checked)
        header = bytes([VERSION]) + bytes.fromhex(hasher.fingerprint)[:8] + secrets.token_bytes(16)
        transform_key, cipher = _keys_of(key, header[_SALT])
        symbols = hasher.hash(row[None], transform_key)[0]
        content = end.to_bytes(_TIME_BYTES, "big") + _packed(symbols, hasher.alphabet_size) + name
        return cls(header + cipher.encrypt(content, _bound(header, hasher)))

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """The card in a picture or photograph of it; QR codes of something else beside it are left alone.

        Raises:
            CardError: No picture, none of a card, or of several.
            MissingExtraError: QR codes need the extra `qr`.
        """
        try:
            texts = read_qr_codes(Path(path))
        except DataError as error:
            raise CardError(f"{path}: expected a picture of a card: {error}") from error
        found = {text for text in texts if text.startswith(START)}
        if len(found) != 1:
            raise CardError(f"{path}: expected the QR code of one card, found {len(found) or 'none'}")
        try:
            return cls.from_text(found.pop())
        except CardError as error:
            raise CardError(f"{path}: {error}", status=error.status) from error

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what `to_text` wrote.

        Raises:
            CardError: Another text, damaged, or of another version.
        """
        with needs_extra("a card", "qr"):
            import base45
        if not text.startswith(START) or len(text) > _MAX_TEXT:
            raise CardError(f"not a card: expected a text {START}... of at most {_MAX_TEXT} characters")
        try:
            return cls(base45.b45decode(text.removeprefix(START)))
        except ValueError:
            raise CardError("card: its text is damaged") from None

    def to_text(self) -> str:
        """The text of the QR code, of its alphanumeric characters alone; spaces count."""
        with needs_extra("a card", "qr"):
            import base45
        return f"{START}{base45.b45encode(self.payload).decode()}"

    def save(self, path: Path | str) -> None:
        """Write the QR code to a new file that ends in `.png`, `.svg` or `.pdf`, with mode 0600.

        Raises:
            ConfigError: Another suffix.
            DataError: There is a file already, or it cannot be written.
            MissingExtraError: QR codes need the extra `qr`.
        """
        check_new_card_file(Path(path))
        content = qr_picture(self.to_text(), Path(path).suffix.lower().removeprefix("."))
        try:
            write_secret(Path(path), content)
        except FileExistsError:
            raise DataError(f"{path}: there is a file already; name a new one") from None
        except OSError as error:
            raise DataError(f"{path}: the card cannot be written: {error.strerror or error}") from error

    @property
    def serial(self) -> str:
        """Public number of the card, 32 hexadecimal digits, by which it is revoked; random."""
        return self.payload[_SALT].hex()

    def open(
        self, *, hasher: FaceHasher, key: CardKey, revoked: Collection[str] = (), now: float | None = None
    ) -> CardContent:
        """What the card holds, where it is accepted.

        Args:
            hasher: The one that it was made with.
            key: The key, or key store, that it was made under.
            revoked: Serial numbers that are refused.
            now: Seconds since 1970; by default the clock of this machine.

        Raises:
            CardError: Of another hasher, forged or altered, of another key, or expired; `status` says which.
            RevokedError: The card is among the revoked ones.
            StoreError: The key store is closed or does not answer.
        """
        header, sealed = self.payload[:_HEADER_BYTES], self.payload[_HEADER_BYTES:]
        if header[_FINGERPRINT] != bytes.fromhex(hasher.fingerprint)[:8]:
            raise CardError(
                f"card {self.serial}: made with another hasher (fingerprint {header[_FINGERPRINT].hex()}..., "
                f"this one has {hasher.fingerprint[:16]}...); name the one that made it",
                status="other_hasher",
            )
        transform_key, cipher = _keys_of(key, header[_SALT])
        try:
            content = cipher.decrypt(sealed, _bound(header, hasher))
        except InvalidTag:
            raise CardError(
                f"card {self.serial}: its seal does not hold: forged, altered, or made under another key",
                status="not_sealed",
            ) from None
        if self.serial in revoked:
            raise RevokedError(f"card {self.serial}: revoked")
        end = int.from_bytes(content[:_TIME_BYTES], "big")
        valid_until = datetime.datetime.fromtimestamp(end, datetime.UTC) if end else None
        if valid_until and (time.time() if now is None else now) >= end + 1:
            raise CardError(f"card {self.serial}: expired at {valid_until.isoformat()}", status="expired")
        try:
            symbols, name = _unpacked(content[_TIME_BYTES:], hasher.code_length, hasher.alphabet_size)
            subject_id = name.decode()
        except ValueError:
            raise CardError(f"card {self.serial}: sealed, but holds no code of this hasher") from None
        return CardContent(
            Code(symbols, hasher.alphabet_size, hasher.fingerprint), transform_key, subject_id, valid_until
        )

    def verify(
        self,
        picture: Picture,
        *,
        hasher: FaceHasher,
        key: CardKey,
        revoked: Collection[str] = (),
        fmr: float | None = None,
        checked: bool = True,
    ) -> Verification:
        """Whether the face of a picture is that of the card.

        Args:
            picture: As of `FaceHasher.embed_picture`.
            hasher: As of `open`.
            key: As of `open`.
            revoked: As of `open`.
            fmr: As of `FaceHasher.compare`.
            checked: As of `FaceHasher.embed_picture`.

        Raises:
            CardError, RevokedError, StoreError: As of `open`, before the face is looked for.
            ConfigError, FaceError: As of `FaceHasher.compare`.
        """
        content = self.open(hasher=hasher, key=key, revoked=revoked)
        return hasher.compare(content.code, picture, content.key, fmr=fmr, checked=checked)


def check_new_card_file(path: Path) -> None:
    """Raise, before any work, where a new card cannot be written to `path`, as `Card.save` does."""
    if path.suffix.lower() not in PICTURES:
        raise ConfigError(f"{path}: expected a name that ends in {', '.join(PICTURES)}")
    if path.exists() or path.is_symlink():
        raise DataError(f"{path}: there is a file already; name a new one")
    check_qr_codes()


def read_revoked(path: Path | str) -> frozenset[str]:
    """The serial numbers in a list of revoked cards: the first word of each line, but for empty ones and `#` comments.

    Raises:
        DataError: The list cannot be read, or a line begins with something else.
    """
    try:
        lines = read_bytes(Path(path), _MAX_LIST_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise DataError(f"{path}: cannot read the list of revoked cards: {reason}") from error
    found = set()
    for number, line in enumerate(lines, 1):
        word = line.partition("#")[0].strip().partition(" ")[0].lower()
        if word and not _SERIAL.fullmatch(word):
            raise DataError(f"{path}: line {number}: expected the serial number of a card, 32 hexadecimal digits")
        found |= {word} - {""}
    return frozenset(found)


def _keys_of(key: CardKey, salt: bytes) -> tuple[TransformKey, AESSIV]:
    """The transform key of a card, and its cipher."""
    label = _LABEL + salt
    (derived,) = key.derive(_SPACE, [label]) if isinstance(key, KeyStore) else MasterSource(key).derive([label])
    expanded = HKDFExpand(SHA256(), 96, _INFO).derive(derived)
    return TransformKey(expanded[:32]), AESSIV(expanded[32:])


def _bound(header: bytes, hasher: FaceHasher) -> list[bytes]:
    return [header, bytes.fromhex(hasher.fingerprint)]


def _seconds(moment: datetime.datetime | None) -> int:
    if moment is None:
        return 0
    seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp())
    if not time.time() <= seconds < 1 << 8 * _TIME_BYTES:
        raise ConfigError(f"a card's end: expected a moment from now to the year 2105, received {moment.isoformat()}")
    return seconds


def _packed(symbols: NDArray[np.uint8], alphabet_size: int) -> bytes:
    bits = np.unpackbits(symbols[:, None], axis=1)[:, -plane_count(alphabet_size) :]
    return np.packbits(bits).tobytes()


def _unpacked(content: bytes, code_length: int, alphabet_size: int) -> tuple[NDArray[np.uint8], bytes]:
    """The symbols at the start of a content, and what follows them; `ValueError` where there are none."""
    width = plane_count(alphabet_size)
    size = -(-code_length * width // 8)
    bits = np.unpackbits(np.frombuffer(content[:size], np.uint8))
    if len(bits) < code_length * width or bits[code_length * width :].any():
        raise ValueError
    symbols = np.packbits(np.pad(bits[: code_length * width].reshape(-1, width), ((0, 0), (8 - width, 0))), axis=1)
    if symbols.max() >= alphabet_size:
        raise ValueError
    return symbols[:, 0], content[size:]

"""What a gallery keeps of applications and enrolled subjects, and what their names may be."""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from iom._names import KEY_MODES
from iom.codes.packing import plane_count, word_count
from iom.errors import EnrolmentError

LAYOUT = "iom-planes/1"
LONGEST_SUBJECT_ID = 256
LARGEST_METADATA = 4096
UNSLOTTED = -1
"""Slot of a new reference: the store takes the lowest number that is free for the subject."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ENCODING = re.compile(rf"{LAYOUT}:([1-9]\d{{0,4}})x([1-9]\d{{0,2}})")


def encoding_id(code_length: int, alphabet_size: int) -> str:
    """Name of the stored form of codes: layout, M and Q.

    Example:
        >>> encoding_id(512, 8)
        'iom-planes/1:512x8'
    """
    return f"{LAYOUT}:{code_length}x{alphabet_size}"


def encoding_shape(encoding: str) -> tuple[int, int]:
    """`(M, Q)` of an encoding id.

    Raises:
        EnrolmentError: A layout that this program does not know.
    """
    match = _ENCODING.fullmatch(encoding)
    if match is None:
        raise EnrolmentError(
            f"encoding: expected '{LAYOUT}:<code length>x<alphabet size>', received {encoding!r}; "
            "read it with the program that wrote it"
        )
    return int(match[1]), int(match[2])


def code_bytes(encoding: str) -> int:
    """Bytes of one stored code: whole 64-bit words, little endian, plane after plane."""
    code_length, alphabet_size = encoding_shape(encoding)
    return 8 * plane_count(alphabet_size) * word_count(code_length)


@dataclasses.dataclass(frozen=True)
class Application:
    """A tenant: its references never meet those of another application.

    Attributes:
        name: 1 to 64 letters, digits and `_.-`.
        encoding: Stored form of its codes, see `encoding_id`.
        model: Fingerprint of hasher and embedder; codes of two models never compare.
        threshold: Largest number of differing positions that is still a match.
        key_mode: `subject` (each record has its own key) or `application` (one key an epoch).
        masked: Codes are stored under a one-time XOR mask that lies in the key store.
        epoch: Number of the key that new references get, where the key is the application's.
        created: Seconds since 1970, UTC.
        revision: Rises with each change of threshold or epoch.
        seal: Authentication tag of everything else; made by the gallery, opaque here.
    """

    name: str
    encoding: str
    model: str
    threshold: int
    key_mode: str = "subject"
    masked: bool = False
    epoch: int = 0
    created: int = 0
    revision: int = 0
    seal: bytes = dataclasses.field(default=b"", repr=False)

    def __post_init__(self) -> None:
        check_application_name(self.name)
        code_length, _ = encoding_shape(self.encoding)
        if self.key_mode not in KEY_MODES:
            raise EnrolmentError(f"key mode: expected one of {', '.join(KEY_MODES)}, received {self.key_mode!r}")
        if not -1 <= self.threshold <= code_length:
            raise EnrolmentError(
                f"threshold of application {self.name}: expected -1 (reject everything) to "
                f"{code_length} differing positions, received {self.threshold}"
            )


@dataclasses.dataclass(frozen=True)
class Reference:
    """One enrolled template.

    Attributes:
        application: Name of its application.
        subject_id: Whose it is.
        slot: 0, 1, ... among the references of the subject; `UNSLOTTED` until it is stored.
        record: Number of the record, never used twice within an application. Keys are derived
            from it, and the lowest wins a tie.
        epoch: Key epoch, of applications with a common key; else 0.
        code: Packed planes, little endian, `code_bytes` long, under the mask if there is one.
        seal: Authentication tag of everything else but the slot; made by the gallery, opaque here.
        metadata: Canonical JSON text of an object, see `metadata_text`.
        created: Seconds since 1970, UTC.
    """

    application: str
    subject_id: str
    slot: int
    record: int
    epoch: int
    code: bytes = dataclasses.field(repr=False)
    seal: bytes = dataclasses.field(repr=False)
    metadata: str = "{}"
    created: int = 0

    def in_slot(self, slot: int) -> "Reference":
        """The same in a slot; several times as fast as `dataclasses.replace`."""
        placed: Reference = object.__new__(Reference)
        placed.__dict__.update(self.__dict__, slot=slot)
        return placed


@dataclasses.dataclass(frozen=True)
class Tombstone:
    """What is left of a revoked reference: which record of whom, no code.

    Attributes:
        subject_id: Whose it was.
        record: Its record number.
        epoch: Its key epoch.
        seal: Authentication tag of all that; made by the gallery, opaque here.
        version: Version of the application at which it was revoked; given by the store.
    """

    subject_id: str
    record: int
    epoch: int = 0
    seal: bytes = dataclasses.field(default=b"", repr=False)
    version: int = 0


def check_application_name(name: object) -> str:
    """`name`, if it may be an application's.

    Raises:
        EnrolmentError: Not 1 to 64 letters, digits and `_.-`, starting with a letter or digit.
    """
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise EnrolmentError(
            f"application: expected a name of 1 to 64 letters, digits and '_.-', received {_shown(name)}"
        )
    return name


def check_subject_id(subject_id: object) -> str:
    """`subject_id` in NFC, if it is printable, of 1 to 256 characters, without space at its ends.

    Any script and any punctuation is allowed: an id is data, never part of a command. Canonically
    equivalent texts (Unicode, UAX 15) name the same subject.

    Raises:
        EnrolmentError: It is not.
    """
    fits = isinstance(subject_id, str) and 1 <= len(subject_id) <= LONGEST_SUBJECT_ID
    if not isinstance(subject_id, str) or not fits or not subject_id.isprintable():
        raise EnrolmentError(
            f"subject id: expected 1 to {LONGEST_SUBJECT_ID} printable characters, received {_shown(subject_id)}"
        )
    if subject_id != subject_id.strip():
        raise EnrolmentError(f"subject id: expected no space at its ends, received {_shown(subject_id)}")
    return unicodedata.normalize("NFC", subject_id)


def metadata_text(metadata: Mapping[str, Any] | None) -> str:
    """Metadata as canonical JSON.

    Raises:
        EnrolmentError: Not a JSON object, or more than 4096 bytes of it.
    """
    if not metadata:
        return "{}"
    try:
        text = json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise EnrolmentError(f"metadata: expected a JSON object: {error}") from error
    if len(text) > LARGEST_METADATA:
        raise EnrolmentError(
            f"metadata: expected at most {LARGEST_METADATA} bytes of JSON, received {len(text)}; "
            "keep large things elsewhere and name them here"
        )
    return text


def _shown(value: object) -> str:
    """A value for an error, never more than a line of it."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

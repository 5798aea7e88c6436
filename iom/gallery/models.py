"""Records of a gallery: applications, references and tombstones, and the rules for their names."""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from iom._registry import KEY_MODES
from iom.codes.packing import encoding_shape
from iom.errors import CodeError, EnrolmentError, StoreError

MAX_SUBJECT_ID_LENGTH = 256
MAX_METADATA_BYTES = 4096
UNSLOTTED = -1
"""Slot of a reference that is not stored yet; the store assigns the lowest free slot of the subject."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclasses.dataclass(frozen=True)
class Application:
    """A tenant; references of two applications are never compared.

    Attributes:
        encoding: Stored form of its codes, see `encoding_id`.
        model: Fingerprint of hasher and embedder; codes of two models are not comparable.
        threshold: Largest number of differing positions that is a match.
        key_mode: `subject` (one key for each record) or `application` (one key for each epoch).
        masked: Whether codes are stored under a one-time XOR mask, which the key store keeps.
        epoch: Key epoch of new references in key mode `application`.
        created: Seconds since 1970.
        revision: Rises with each change of threshold or epoch.
        seal: Authentication tag of all other fields, made by the gallery.
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
        try:
            code_length, _ = encoding_shape(self.encoding)
        except CodeError as error:
            raise EnrolmentError(str(error)) from error
        if self.key_mode not in KEY_MODES:
            raise EnrolmentError(f"key mode: expected one of {', '.join(KEY_MODES)}, received {self.key_mode!r}")
        if not -1 <= self.threshold <= code_length:
            raise EnrolmentError(
                f"threshold of application {self.name}: expected -1 (reject everything) to "
                f"{code_length} differing positions, received {self.threshold}"
            )

    def fields(self) -> dict[str, Any]:
        """All fields but the seal, as JSON."""
        return {name: value for name, value in vars(self).items() if name != "seal"}


@dataclasses.dataclass(frozen=True)
class Reference:
    """One enrolled template.

    Attributes:
        slot: 0, 1, ... among the references of the subject; `UNSLOTTED` until it is stored.
        record: Record number, used once within an application. Keys are derived from it, and the lowest wins a tie.
        epoch: Key epoch in key mode `application`, else 0.
        code: Packed planes, little endian, `code_bytes` long, XOR the mask if there is one.
        seal: Authentication tag of all other fields but the slot, made by the gallery.
        metadata: Canonical JSON of an object, see `metadata_text`.
        created: Seconds since 1970.
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

    def changed(self, **fields: Any) -> "Reference":
        """A copy with other fields; several times as fast as `dataclasses.replace`."""
        changed: Reference = object.__new__(Reference)
        changed.__dict__.update(self.__dict__, **fields)
        return changed


@dataclasses.dataclass(frozen=True)
class Tombstone:
    """A revoked reference without its code."""

    subject_id: str
    record: int
    epoch: int = 0
    seal: bytes = dataclasses.field(default=b"", repr=False)


def check_application_name(name: object) -> str:
    """Check that `name` is 1 to 64 letters, digits and `_.-`, starting with a letter or digit, and return it."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise EnrolmentError(
            f"application: expected a name of 1 to 64 letters, digits and '_.-', received {_shown(name)}"
        )
    return name


def check_subject_id(subject_id: object) -> str:
    """`subject_id` in NFC (UAX 15), if it is 1 to 256 printable characters without space at either end."""
    if not (isinstance(subject_id, str) and 1 <= len(subject_id) <= MAX_SUBJECT_ID_LENGTH and subject_id.isprintable()):
        raise EnrolmentError(
            f"subject id: expected 1 to {MAX_SUBJECT_ID_LENGTH} printable characters, received {_shown(subject_id)}"
        )
    if subject_id != subject_id.strip():
        raise EnrolmentError(f"subject id: expected no space at either end, received {_shown(subject_id)}")
    return unicodedata.normalize("NFC", subject_id)


def metadata_text(metadata: Mapping[str, Any] | None) -> str:
    """Metadata as canonical JSON of an object, of at most 4096 bytes."""
    if not metadata:
        return "{}"
    try:
        text = json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise EnrolmentError(f"metadata: expected a JSON object: {error}") from error
    if len(text) > MAX_METADATA_BYTES:
        raise EnrolmentError(
            f"metadata: expected at most {MAX_METADATA_BYTES} bytes of JSON, received {len(text)}; "
            "keep large data elsewhere and refer to it here"
        )
    return text


def tampered(problem: str) -> StoreError:
    """The error for content of a store that no gallery wrote."""
    return StoreError(f"{problem}: it was changed outside of the gallery, or is damaged. Take it from a backup")


def _shown(value: object) -> str:
    """At most 80 characters of a value for an error."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

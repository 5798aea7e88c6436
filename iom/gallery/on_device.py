"""Gallery of codes that devices make: a face and the key of its code never leave the device.

The device detects, embeds and hashes; the gallery gets a code, as every gallery stores it (under a mask, sealed, with
tombstones and the audit log), and compares it with later ones. What it cannot know, it cannot lose: there is no key of
a code here, and no network is opened, since the manifest of the artefact tells all that is needed.

An application of key mode `device-share` has one XOR share of each code, and another gallery, under another
administrator, the other one. The device sends each its share of a probe's code. The gallery on side b gives the device
what its two shares differ by, sealed for the gallery on side a, which joins it with its own difference: it learns which
positions of template and probe differ, and decides. The gallery on side b learns neither, and each store is noise.

Each request is signed by the device (`iom.gallery.device_messages`), over a nonce of this gallery that serves once. So
a copy of both stores, and the enrolled code with them, are not enough to make a request.
"""

import dataclasses
import hmac
import secrets
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from iom._registry import DEVICE_MODES
from iom.codes.distances import paired
from iom.codes.packing import PackedCodes
from iom.errors import (
    AlreadyEnrolledError,
    CodeError,
    ConfigError,
    DataError,
    DeviceError,
    EnrolmentError,
    KeyMaterialError,
    RevokedError,
    StoreError,
    UnknownApplicationError,
    WeightsError,
)
from iom.gallery.device_messages import HASHER_DIGITS, KEY_DIGITS, NONCE_BYTES, DeviceMessage, read_device
from iom.gallery.device_records import (
    DeviceRecord,
    add_device,
    check_device,
    devices_of_records,
    has_used_key,
    sealed_device,
    use_nonce,
)
from iom.gallery.gallery import Gallery
from iom.gallery.models import Application, Reference, check_subject_id
from iom.gallery.templates import check_seal, packed_code, references_of, tombstone_of, unmasked
from iom.keys import TransformKey
from iom.models.artifact import read_manifest
from iom.models.face_hasher import ArtifactFaceHasher
from iom.models.verification import Verification, decide
from iom.nn.hash_numpy import Head

SHARE_MODE = "device-share"
"""Key mode of applications with shares of codes."""
RUNTIME = "web"
"""Runtime of the artefacts that devices use."""
NONCE_SECONDS = 60
"""Time in which a nonce can be used."""
_SKEW_SECONDS = 5
"""Seconds by which the clocks of two machines of one service may differ."""
_PAIR = "on-device/pair"
"""Purpose of the key that differences are sealed with, derived from the pair key."""
_BOX_NONCE_BYTES = 12
"""Nonce of AES-GCM before a sealed difference."""
_SPACE = "on-device/nonce/v1"
"""Name space of the key store's keys that authenticate nonces, one for each application."""
_TIME_BYTES, _MAC_BYTES = 4, 16
"""Expiry at the start of a nonce (Unix time, big endian), and its authentication tag at the end."""
_HEXADECIMAL = frozenset("0123456789abcdef")


class WebHasher(ArtifactFaceHasher):
    """An artefact for browsers, as a gallery sees it: its sizes, threshold and fingerprint, and no network.

    Args:
        path: `NAME.web`, with its manifest beside it.

    Raises:
        WeightsError: Missing, damaged, or an artefact for another runtime.
    """

    def __init__(self, path: Path) -> None:
        manifest = read_manifest(path)
        if manifest.runtime != RUNTIME:
            raise WeightsError(
                f"{path}: expected an artefact for browsers, received one for {manifest.runtime}; make one with: "
                "iom deploy --to web"
            )
        head: Any = None
        super().__init__(_refuse_to_run, manifest, head, path=path)

    @property
    def head(self) -> Head:
        _refuse_to_run()


@dataclasses.dataclass(frozen=True)
class Side:
    """One of two galleries that have shares of the same codes.

    Attributes:
        name: "a", which decides, or "b".
        key: The key that both have and no device: differences are sealed with it.
    """

    name: str
    key: TransformKey = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if self.name not in ("a", "b"):
            raise ConfigError(f"side: expected a or b, received {self.name!r}")

    def seal(self, difference: bytes, message: DeviceMessage, nonce: bytes) -> bytes:
        """A difference for the gallery on side a, for a request with this `nonce` of that gallery alone."""
        own = secrets.token_bytes(_BOX_NONCE_BYTES)
        return own + self._cipher().encrypt(own, difference, _bound(message, nonce))

    def open(self, sealed: bytes, message: DeviceMessage) -> bytes:
        """The difference that the gallery on side b sealed for a request; a `DataError` for anything else."""
        own, rest = sealed[:_BOX_NONCE_BYTES], sealed[_BOX_NONCE_BYTES:]
        try:
            return self._cipher().decrypt(own, rest, _bound(message, message.nonce))
        except (InvalidTag, ValueError):
            raise DataError(
                "other: expected the difference that the other service sealed for this request and its nonce, received "
                "something else; ask both for new nonces, and that the two have one pair key"
            ) from None

    def _cipher(self) -> AESGCM:
        return AESGCM(self.key.stream(_PAIR, 32))


class EnrolledDevice(NamedTuple):
    """A subject's template and its device, both authentic."""

    application: Application
    reference: Reference
    device: DeviceRecord


class OnDeviceGallery(Gallery):
    """A gallery whose applications have key mode `device`, with a `WebHasher`.

    Errors of a request, whatever it asks for: `DataError` (malformed), `EnrolmentError` (another hasher; a nonce that
    is not of this application, expired or used), `DeviceError` (not signed by the device), `NotEnrolledError`,
    `RevokedError`, `StoreError`. A request that is refused before its signature holds leaves its nonce unused.
    """

    side: Side | None = None
    """Which of two galleries with shares this is; without it, applications with shares can only be managed."""

    def __init__(self, *stores: Any, **options: Any) -> None:
        super().__init__(*stores, **options)
        self._nonce_keys: dict[str, bytes] = {}
        self._nonce_lock = threading.Lock()

    def application(self, name: str) -> Application:
        """As of `Gallery`; `UnknownApplicationError` for one of another key mode."""
        found = super().application(name)
        if found.key_mode not in DEVICE_MODES:
            raise UnknownApplicationError(
                f"application {name} holds templates of this server, not of devices; make one with: iom init "
                "--key-mode device",
                application=name,
            )
        return found

    def check_hashers(self) -> None:
        """Raise `EnrolmentError` unless an application here has codes of the hasher: nothing else would work."""
        mode = "device" if self.side is None else SHARE_MODE
        found = [each for each in self.store.applications() if each.key_mode == mode]
        if not found:
            raise EnrolmentError(
                f"the gallery has no application of key mode {mode}; make one: iom init --key-mode {mode}"
            )
        if all(each.model != self.hasher.fingerprint for each in found):
            raise EnrolmentError(
                f"application {found[0].name} belongs to the hasher {found[0].model[:12]}..., the artefact is of "
                f"{self.hasher.fingerprint[:12]}...: serve the one that it was made with, or make a new application"
            )

    def new_nonce(self, application: str) -> bytes:
        """A nonce of 32 bytes for one request within `NONCE_SECONDS`; nothing is written until it is used."""
        expires = int(time.time()) + NONCE_SECONDS
        body = expires.to_bytes(_TIME_BYTES, "big") + secrets.token_bytes(NONCE_BYTES - _TIME_BYTES - _MAC_BYTES)
        return body + self._nonce_tag(self.application(application).name, body)

    def enroll_code(self, message: DeviceMessage, signature: bytes, *, returning: bool = False) -> Reference:
        """Enrol the code of a new subject with its device, whose signature it is; `returning` admits a revoked one.

        Raises:
            AlreadyEnrolledError: The subject has a template.
            RevokedError: The subject was revoked, and is not `returning`.
            EnrolmentError: The transform key served a template of this application before.
        """
        found = self._checked(message)
        self._check_signature(found, message, message.device, signature)
        name, subject_id = message.application, message.subject
        if self._valid(name, subject_id):
            raise AlreadyEnrolledError(
                f"subject {subject_id!r} is enrolled already; renew it on its device", subject_id=subject_id
            )
        if not returning and self._was_revoked(name, subject_id):
            raise _revoked(subject_id)
        self._use_nonce(message)
        return self._store(found, message, message.device, returning=returning)

    def admit(self, message: DeviceMessage, signature: bytes) -> EnrolledDevice:
        """The template that a signed request of its device is about; its nonce is used by this."""
        found = self._enrolled(self._checked(message), message)
        self._check_signature(found.application, message, found.device.device, signature)
        self._use_nonce(message)
        return found

    def compare(self, enrolled: EnrolledDevice, message: DeviceMessage, other: bytes = b"") -> Verification:
        """Compare the code of an admitted request with the template; `other` is what side b sealed, of shares.

        Raises:
            RevokedError: The code is under a key of an earlier template of the subject.
            EnrolmentError: It is under another key.
        """
        application, found = enrolled.application, self._difference(enrolled, message)
        if application.key_mode == SHARE_MODE:
            side = self._on_side("a")
            theirs = _code(application, side.open(other, message), share=True)
            found = PackedCodes(found.planes ^ theirs.planes, found.code_length, found.alphabet_size)
        elif other:
            raise DataError(f"other: expected none, as application {application.name} has whole codes")
        none = PackedCodes(np.zeros_like(found.planes), found.code_length, found.alphabet_size)
        distance = int(paired(found, none)[0])
        return decide(self.hasher.calibration, distance, application.threshold, enrolled.reference.slot)

    def difference(self, enrolled: EnrolledDevice, message: DeviceMessage, other_nonce: bytes) -> bytes:
        """What the shares of template and probe differ by, sealed for the gallery on side a and its nonce."""
        side = self._on_side("b")
        if enrolled.application.key_mode != SHARE_MODE:
            raise EnrolmentError(f"application {enrolled.application.name} has whole codes: verify them here")
        planes = self._difference(enrolled, message).planes
        return side.seal(planes.astype("<u8").tobytes(), message, other_nonce)

    def _on_side(self, name: str) -> Side:
        if self.side is None or self.side.name != name:
            raise EnrolmentError(f"shares are compared by two services; this one is not on side {name}")
        return self.side

    def _difference(self, enrolled: EnrolledDevice, message: DeviceMessage) -> PackedCodes:
        application, reference, device = enrolled
        if message.key != device.key:
            self._refuse_key(message)
        probe = _code(application, message.code)
        try:
            stored = unmasked(self.keys, application, [reference])
        except StoreError:
            if reference.record in self.keys.revoked(application.name):  # since it was read
                raise _revoked(message.subject) from None
            raise
        return PackedCodes(stored.planes ^ probe.planes, *application.shape)

    def verify_code(self, message: DeviceMessage, signature: bytes) -> Verification:
        """`admit` a request, and `compare` its code."""
        return self.compare(self.admit(message, signature), message)

    def renew_code(self, message: DeviceMessage, signature: bytes, device_signature: bytes = b"") -> Reference:
        """Revoke the template of a subject and enrol a code under another key, in one transaction.

        The signature is by the enrolled device. Where the message names another device, that one signs the same
        message, and is the subject's device from then on.

        Raises:
            EnrolmentError: The transform key served a template of this application before.
        """
        found = self._enrolled(self._checked(message), message)
        self._check_signature(found.application, message, found.device.device, signature)
        device = message.device or found.device.device
        if device != found.device.device:
            self._check_signature(found.application, message, device, device_signature)
        self._use_nonce(message)
        return self._store(found.application, message, device, replaces=found.reference)

    def revoke_code(self, message: DeviceMessage, signature: bytes) -> int:
        """Revoke the template of a subject for ever, by its device; the number of templates."""
        self.admit(message, signature)
        return self.revoke(message.subject, application=message.application)

    def _not_found(self, application: str, subject_id: str, slot: int | None = None) -> Exception:
        found = super()._not_found(application, subject_id, slot)
        return _revoked(subject_id) if isinstance(found, RevokedError) else found

    def _checked(self, message: DeviceMessage) -> Application:
        """The application, if the fields of a message have the form that it asks for, and its nonce is a fresh one."""
        found = self.application(message.application)
        if found.key_mode == SHARE_MODE and self.side is None:
            raise EnrolmentError("shares are compared by two services; this one is on no side: serve it with --side")
        if check_subject_id(message.subject) != message.subject:
            raise DataError("subject: expected Unicode's form NFC, received another form")
        if message.action != "revoke":
            self._check_code(found, message)
        self._check_nonce(message)
        return found

    @staticmethod
    def _check_code(found: Application, message: DeviceMessage) -> None:
        for name, text, digits in (("hasher", message.hasher, HASHER_DIGITS), ("key", message.key, KEY_DIGITS)):
            if len(text) != digits or not _HEXADECIMAL.issuperset(text):
                raise DataError(f"{name}: expected {digits} hexadecimal digits in small letters, received another text")
        if message.hasher != found.model:
            raise EnrolmentError(
                f"application {found.name} belongs to the hasher {found.model[:12]}..., this code is of "
                f"{message.hasher[:12]}...: load the page, or the artefact, again"
            )
        _code(found, message.code)
        try:
            if message.device or message.action == "enroll":
                read_device(message.device)
        except KeyMaterialError as error:
            raise DataError(str(error)) from error

    def _enrolled(self, application: Application, message: DeviceMessage) -> EnrolledDevice:
        name = application.name
        reference = self.references(message.subject, application=name)[0]
        check_seal(self.keys, reference)
        device = devices_of_records(self.store, name, [reference.record]).get(reference.record)
        if device is None:
            raise StoreError(f"application {name}: record {reference.record} has no device; see iom check")
        return EnrolledDevice(application, reference, check_device(self.keys, name, device))

    def _check_nonce(self, message: DeviceMessage) -> None:
        body, tag = message.nonce[:-_MAC_BYTES], message.nonce[-_MAC_BYTES:]
        if len(message.nonce) != NONCE_BYTES:
            raise DataError(f"nonce: expected {NONCE_BYTES} bytes, received {len(message.nonce)}")
        if not hmac.compare_digest(self._nonce_tag(message.application, body), tag):
            raise EnrolmentError("the nonce is not one of this application; ask it for a new one, and sign again")
        left = self._expiry_of(message) - time.time()
        if not 0 <= left <= NONCE_SECONDS + _SKEW_SECONDS:
            raise EnrolmentError(
                f"the nonce has expired: it serves for {NONCE_SECONDS} s; ask for a new one, and sign again"
            )

    def _check_signature(
        self, application: Application, message: DeviceMessage, device: bytes, signature: bytes
    ) -> None:
        side = self.side.name if self.side and application.key_mode == SHARE_MODE else ""
        if not message.on_side(side).is_signed_by(device, signature):
            raise DeviceError(
                f"the request for subject {message.subject!r} is not signed by its device; where the device is lost, "
                "an admin revokes the subject",
                subject_id=message.subject,
            )

    @staticmethod
    def _expiry_of(message: DeviceMessage) -> int:
        return int.from_bytes(message.nonce[:_TIME_BYTES], "big")

    def _use_nonce(self, message: DeviceMessage) -> None:
        use_nonce(self.store, message.nonce, self._expiry_of(message), int(time.time()))

    def _nonce_tag(self, application: str, body: bytes) -> bytes:
        with self._nonce_lock:  # the key may come from another machine
            if application not in self._nonce_keys:
                (self._nonce_keys[application],) = self.keys.derive(_SPACE, [application.encode()])
        return hmac.digest(self._nonce_keys[application], body, "sha256")[:_MAC_BYTES]

    def _refuse_key(self, message: DeviceMessage) -> NoReturn:
        if has_used_key(self.store, message.application, message.subject, message.key):
            raise RevokedError(
                f"the template of subject {message.subject!r} under this key was renewed or revoked; hash the face "
                "under the key of the newest one",
                subject_id=message.subject,
            )
        raise EnrolmentError(
            f"subject {message.subject!r} is enrolled under another key; hash the face under the key of its enrolment"
        )

    def _store(
        self,
        application: Application,
        message: DeviceMessage,
        device: bytes,
        *,
        replaces: Reference | None = None,
        returning: bool = False,
    ) -> Reference:
        """Write the template of a message, with its device, in place of an older one if there is one."""
        self._finish_settling()
        name, subject_id = application.name, message.subject
        record = self.keys.reserve(name, 1)[0]
        codes, created = _code(application, message.code), int(time.time())
        (new,) = references_of(self.keys, application, [(subject_id, record, "{}")], codes, created=created)
        row = sealed_device(self.keys, name, DeviceRecord(record, subject_id, message.key, device))
        old = [] if replaces is None else [tombstone_of(self.keys, replaces)]
        event = self.event("enroll" if replaces is None else "renew", name, [subject_id])

        def beside(connection: Any) -> None:
            add_device(connection, name, row)

        with self._forgetting_masks_on_error(application, [new]):
            if replaces is None:
                (added,) = self.store.add([new], event, returning=returning, masked=True, beside=beside)
            else:
                new = new.changed(slot=replaces.slot)
                (added,) = self.store.replace(old, [new], event, masked=True, beside=beside)
        self._settle(name, revoked=old)
        return added


def _code(application: Application, code: bytes, *, share: bool = False) -> PackedCodes:
    """The code, or share, of a request; a `DataError` where it is none."""
    try:
        return packed_code(application, code, share=share or application.key_mode == SHARE_MODE)
    except CodeError as error:
        raise DataError(str(error)) from error


def _bound(message: DeviceMessage, nonce: bytes) -> bytes:
    """What a sealed difference is bound to: whose template it is about, and the request to side a that it serves."""
    return dataclasses.replace(message, action="share", code=b"", device=b"", nonce=nonce).to_bytes()


def _refuse_to_run(*_: Any) -> NoReturn:
    raise WeightsError("this artefact runs in browsers, not here")


def _revoked(subject_id: str) -> RevokedError:
    return RevokedError(
        f"subject {subject_id!r} was revoked; an admin can let it be enrolled again, from whatever device",
        subject_id=subject_id,
    )

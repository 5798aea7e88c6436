"""Gallery: enrol, verify, identify, revoke and renew, over a record store, a key store and a hasher."""

import contextlib
import dataclasses
import functools
import gc
import hmac
import html
import importlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iom._registry import DEVICE_MODES
from iom.codes.packing import encoding_id
from iom.errors import (
    EnrolmentError,
    IomError,
    KeyMaterialError,
    NotEnrolledError,
    RevokedError,
    StoreError,
    StoreNotFoundError,
    TokenError,
    UnknownApplicationError,
)
from iom.gallery.key_source import PassphraseSource
from iom.gallery.key_store import Anchor, KeyState, KeyStore, open_key_store
from iom.gallery.models import (
    DEFAULT_APPLICATION,
    UNSLOTTED,
    Application,
    AuditEvent,
    Reference,
    Tombstone,
    check_subject_id,
    metadata_text,
    pseudonyms,
    revoked_epoch,
    revoked_subject,
)
from iom.gallery.search import Candidate, Searcher, distances_to
from iom.gallery.templates import (
    check_hasher,
    check_seal,
    check_token,
    holds_seal,
    make_references,
    masks_for,
    reserve_records,
    rows_of,
    sealed,
    tombstone_of,
    under_masks,
    warn_unmasked,
)
from iom.keys import SubjectToken, check_key_kind
from iom.models.face_hasher import FaceHasher, load
from iom.models.verification import Verification, decide
from iom.photos.images import Picture, is_picture
from iom.pretrained import BUNDLED

if TYPE_CHECKING:
    from iom.gallery.stores.base import RecordStore, StoreStats

HasherSource: TypeAlias = FaceHasher | str | Path | Callable[[], FaceHasher]
FaceSource: TypeAlias = Picture | Sequence[Picture] | NDArray[Any]
"""A picture or several, or embeddings."""
STORES = "iom.gallery.stores.base"
ORPHAN_SECONDS = 3600
"""Age at which a mask without a record is left over from a killed enrolment."""
_LAST_ENTRIES = 64
_MAX_ROTATION_TRIES = 5
_MIN_BATCH_WITHOUT_GC = 256
_MAX_LOOKS, _SECONDS_A_LOOK = 20, 0.1
_MAX_SEARCHES = 8
"""Searches for one probe while its nearest references are being revoked."""


class Gallery(contextlib.AbstractContextManager["Gallery"]):
    """A record store, its key store, and a hasher; threads may share it.

    Opening it reconciles the two stores after a crash, or after an older copy of the record store was put back: a
    record that is revoked in one becomes revoked in the other, and an application gets the newest settings that the key
    store knows.

    A record store belongs for ever to the first key store it is opened with.

    Args:
        store: Of `open_store`.
        keys: Of `open_key_store`.
        hasher: Makes codes: a face hasher, what `iom.load` takes, or a function that opens one when it is needed.
        create_default: Make the application `default` at the first enrolment in it, where it is missing.
        searcher: Answers `identify`; by default with codes in the memory of this process. Closed with the gallery.

    Raises:
        StoreError: The two do not belong together, or the key store lacks its last entries.
    """

    def __init__(
        self,
        store: "RecordStore",
        keys: KeyStore,
        hasher: HasherSource = BUNDLED,
        *,
        create_default: bool = False,
        searcher: Searcher | None = None,
    ) -> None:
        self.store = store
        self.keys = keys
        if searcher is not None:
            self._searcher = searcher
        self._hasher = hasher
        self._creates_default = create_default
        self._is_settled = True
        store.claim(keys.identity())
        if store.is_new:
            keys.begin_log()
            store.is_new = False
        store.chain = keys.chain()
        self._refuse_older_keys()
        self._reconcile()

    @classmethod
    def open(
        cls,
        url: str | os.PathLike[str],
        *,
        keys: str | os.PathLike[str],
        hasher: HasherSource = BUNDLED,
        create: bool = False,
        passphrase: PassphraseSource | None = None,
        search: str = "",
    ) -> Self:
        """Open the gallery of two paths or URLs, such as `door.db` and `file:door.keys?key-file=door.wrap`.

        Args:
            url: Record store, see `open_store`.
            keys: Key store, see `open_key_store`.
            hasher: As of the class; opened when it is first needed.
            create: Make the stores that are missing, and the application `default` at the first enrolment in it.
            passphrase: Of the key store, or a function that returns it; by default IOM_PASSPHRASE.
            search: Where `identify` searches: `ray`, `ray://local` or `ray://HOST:PORT[?shards=N&...]` in shards (see
                `iom.gallery.sharded_search.SearchUrl`); by default in the memory of this process.

        Raises:
            StoreNotFoundError: A store is missing.
            StoreError: A store cannot be opened, or the two do not belong together.
            ConfigError: `search` has another form, or its cluster cannot be reached.
            MissingExtraError: A store or a search needs an optional dependency.
        """
        # SQLAlchemy is imported while the passphrase is stretched, which leaves the interpreter free for a while.
        with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as opened:

            def found_or_made(opener: Callable[[bool], Any]) -> Any:
                try:
                    return opened.enter_context(opener(False))
                except StoreNotFoundError:
                    if not create:
                        raise
                    return opened.enter_context(opener(True))

            pool.submit(importlib.import_module, STORES)
            key_store = found_or_made(lambda new: open_key_store(keys, create=new, passphrase=passphrase))
            from iom.gallery.stores.base import open_store

            store, searcher = found_or_made(lambda new: open_store(url, create=new)), None
            if search:
                from iom.gallery.ray_search import open_searcher

                searcher = open_searcher(search, store, key_store, (url, keys))
                opened.callback(searcher.close)
            gallery = cls(store, key_store, hasher, create_default=create, searcher=searcher)
            opened.pop_all()
        return gallery

    @property
    def hasher(self) -> FaceHasher:
        """The hasher, opened when it is first asked for."""
        if isinstance(self._hasher, str | Path):
            self._hasher = load(self._hasher)
        elif callable(self._hasher):
            self._hasher = self._hasher()
        return self._hasher

    @hasher.setter
    def hasher(self, hasher: FaceHasher) -> None:
        self._hasher = hasher

    def __repr__(self) -> str:
        return f"Gallery({'; '.join(f'{name}: {text}' for name, text in self._described()) or 'no applications'})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{text}</td></tr>" for name, text in self._described())
        return f"<table><tr><th>application</th><th>content</th></tr>{rows}</table>"

    def _described(self) -> Iterator[tuple[str, str]]:
        """Each application and its counts; none of a gallery that is closed or damaged."""
        with contextlib.suppress(IomError):
            for name, (found, counts) in self.stats().items():
                yield (
                    name,
                    f"{counts.subjects} subjects, {counts.references} references, {counts.revoked} revoked, "
                    f"threshold {found.threshold}",
                )

    def create_application(
        self,
        name: str,
        *,
        threshold: int | None = None,
        key_mode: str = "subject",
        masked: bool | None = None,
        comparison: str = "",
    ) -> Application:
        """Make an application for codes of the hasher; warns of keys that hide little, and of missing masks.

        Args:
            name: 1 to 64 letters, digits and `_.-`.
            threshold: Largest distance that matches; `None` takes the hasher's calibration.
            key_mode: A name of `iom._registry.KEY_MODES`.
            masked: Store codes under one-time masks; by default where one key serves all records, in key mode
                `application`, and always in key modes of devices.
            comparison: How codes are compared, "symbols" or "asymmetric"; by default as the hasher's calibration says.

        Raises:
            EnrolmentError: The name is taken, or there is neither threshold nor calibration of this comparison.
        """
        comparison = comparison or self.hasher.comparison
        if threshold is None:
            if self.hasher.calibration is None:
                raise EnrolmentError(
                    "this hasher is not calibrated: give a threshold, or calibrate it with iom calibrate"
                )
            if comparison != self.hasher.comparison:
                raise EnrolmentError(
                    f"this hasher is calibrated for the comparison {self.hasher.comparison!r}: give a threshold for "
                    f"{comparison!r}, or calibrate it with iom calibrate --comparison {comparison}"
                )
            threshold = int(self.hasher.calibration.threshold)
        if self.hasher.parts > 1 and key_mode != "subject":
            raise EnrolmentError(
                "keys of kind 'part' are renewed subject by subject: key mode 'subject' is "
                f"expected with this hasher, received {key_mode!r}"
            )
        application = Application(
            name=name,
            encoding=encoding_id(self.hasher.code_length, self.hasher.alphabet_size, comparison),
            model=self.hasher.fingerprint,
            threshold=threshold,
            key_mode=key_mode,
            masked=key_mode in {"application", *DEVICE_MODES} if masked is None else masked,
            created=int(time.time()),
        )
        check_key_kind(self.hasher.key_kind, application=name, masked=application.masked)
        return self.add_application(application)

    def add_application(self, application: Application) -> Application:
        """Add an application with given settings.

        Where the key store has served an application of this name before, epoch and revision go on from there, so that
        no retired key is used again.
        """
        self._finish_settling()
        if application.masked:
            _refuse_shares(application)
        if application.key_mode in DEVICE_MODES:
            from iom.gallery.device_records import make_tables  # only here: it needs SQLAlchemy

            make_tables(self.store)
        warn_unmasked(application)
        known = self.keys.state().known(application.name).settings
        if known is not None and known != dataclasses.replace(application, seal=b""):
            application = dataclasses.replace(
                application,
                epoch=max(application.epoch, known.epoch),
                revision=max(application.revision, known.revision) + 1,
            )
        application = sealed(self.keys, application.name, application)
        self.store.create_application(application, self.event("create", application.name))
        self._settle(application.name, application)
        return application

    def application(self, name: str) -> Application:
        """An application with authentic, newest settings.

        Raises:
            UnknownApplicationError: Unknown name.
            StoreError: It was changed outside of the gallery, or set back to older settings.
        """
        known = self.keys.state().known(name).settings
        found = self.store.application(name)
        self.check_settings(found, known)
        return found

    def check_settings(self, application: Application, known: Application | None) -> None:
        """Raise `StoreError` for settings that no gallery with these keys wrote, or that are not the newest.

        `known` was read from the key store before the record store was; another process may have changed both since.
        """
        for problem in self._settings_problems(application, known):
            raise StoreError(f"{problem}; see iom check, and take the record store from a backup")

    def set_threshold(
        self, threshold: int, *, application: str = DEFAULT_APPLICATION, comparison: str = ""
    ) -> Application:
        """Change the threshold of later comparisons, and the comparison, "symbols" or "asymmetric", where one is given.

        The stored codes are the same.
        """
        self._finish_settling()
        known = self.application(application)
        encoding = encoding_id(*known.shape, comparison or known.comparison)
        return self._change(known, "threshold", threshold=threshold, encoding=encoding)

    def enroll(
        self,
        subject_id: str,
        faces: FaceSource,
        *,
        application: str = DEFAULT_APPLICATION,
        metadata: Mapping[str, Any] | None = None,
        another: bool = False,
        allow_revoked: bool = False,
        checked: bool = True,
        token: SubjectToken | None = None,
    ) -> list[Reference]:
        """Enrol one subject; each picture, or each row of embeddings, becomes a reference.

        Args:
            subject_id: Subject.
            faces: A picture with one face, or a list of them (see `iom.photos.read_picture`); or embeddings of unit
                length, `(D,)` or `(R, D)`.
            application: Name of the application.
            metadata: Small JSON object, kept beside the code.
            another: Add references to a subject that is enrolled already.
            allow_revoked: Enrol a revoked subject again, under a fresh key, as `renew` does.
            checked: Refuse pictures of faces that are small or blurred, and aligned ones in which no face is found.
            token: A part of the key that the subject keeps: without it the references are never compared. They are
                left out of searches.

        Raises:
            FaceError: A picture cannot be read, or has no face to compare; `status` says which.
            AlreadyEnrolledError: The subject has a valid reference.
            TokenError: The other references of the subject need another token, or none.
            RevokedError: The subject was revoked; or its key was, and the application's common key has not been rotated
                since.
            EnrolmentError: Unknown application, or an application of another model.
        """
        self._refuse_token(self._application_or_default(application), token)
        subject_id = check_subject_id(subject_id)
        if another:
            check_token(subject_id, self._valid(application, subject_id), token)
        rows = self.embed(faces, checked=checked)
        places = [(subject_id, metadata)] * len(rows)
        return self._enroll(application, places, rows, another=another, allow_revoked=allow_revoked, token=token)

    def embed(self, faces: FaceSource, *, checked: bool = True) -> NDArray[np.float32]:
        """Embeddings `(N, D)` of one or several pictures by the hasher, or the given ones; `checked` as of `enroll`."""
        return embed_faces(self.hasher, faces, checked=checked)

    def enroll_many(
        self,
        subject_ids: Sequence[str],
        embeddings: NDArray[Any],
        *,
        application: str = DEFAULT_APPLICATION,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        another: bool = False,
        allow_revoked: bool = False,
    ) -> list[Reference]:
        """Enrol a batch of embeddings `(N, D)` as `enroll` does, all or none; durable when it returns."""
        rows = rows_of(embeddings)
        metadata = [None] * len(rows) if metadata is None else metadata
        if not len(rows) == len(subject_ids) == len(metadata):
            raise EnrolmentError(
                f"expected one subject id and one metadata for each of {len(rows)} embeddings, "
                f"received {len(subject_ids)} and {len(metadata)}"
            )
        places = list(zip(subject_ids, metadata, strict=True))
        return self._enroll(application, places, rows, another=another, allow_revoked=allow_revoked)

    def _enroll(
        self,
        application: str,
        places: Sequence[tuple[str, Mapping[str, Any] | None]],
        rows: NDArray[np.float32],
        *,
        another: bool,
        allow_revoked: bool,
        token: SubjectToken | None = None,
    ) -> list[Reference]:
        self._finish_settling()
        found = self._application_or_default(application)
        ids = [check_subject_id(each) for each, _ in places]
        for subject_id in set(ids) if another else ():
            check_token(subject_id, self._valid(application, subject_id), token)
        if not allow_revoked:  # whatever the record store says
            for subject_id in self.keys.revoked_epochs(application).keys() & set(ids):
                if not self._valid(application, subject_id):
                    raise revoked_subject(subject_id)
        self._refuse_epoch(found, ids)
        with _gc_paused(len(ids)):
            new = self._new_references(found, ids, rows, [each for _, each in places], token=token)
            event = self.event("enroll", application, ids)
            with self._forgetting_masks_on_error(found, new):
                added = self.store.add(new, event, another=another, returning=allow_revoked, masked=found.masked)
            self._settle(application)
        return added

    def add_references(self, application: str, references: Sequence[Reference], *, masked: bool) -> None:
        """Add references made by a gallery of this key store, for imports; the caller leaves out revoked ones.

        Their record numbers are never given out again. Codes that are not `masked` get masks where those of the
        application have them.
        """
        self._finish_settling()
        self.keys.claim_records(application, max(each.record for each in references) + 1)
        found = self.application(application)
        if found.masked and not masked:
            references = under_masks(self.keys, found, references)
        subject_ids = [each.subject_id for each in references]
        event = self.event("import", application, subject_ids)
        self.store.add(references, event, imported=True, masked=found.masked)
        self._settle(application)

    def verify(
        self,
        subject_id: str,
        face: FaceSource,
        *,
        application: str = DEFAULT_APPLICATION,
        checked: bool = True,
        token: SubjectToken | None = None,
    ) -> Verification:
        """Compare one picture, or one embedding `(D,)`, with the references of a subject.

        `checked` and `token` are those of `enroll`.

        Raises:
            FaceError: The picture cannot be read, or has no face to compare; `status` says which.
            TokenError: The subject was enrolled with a token, and this is none or another one; or without one. Nothing
                was compared.
            NotEnrolledError: The subject was never enrolled.
            RevokedError: The subject was revoked.
        """
        while True:
            found = self.application(application)
            references = self.references(subject_id, application=application)
            if found.masked or not self.application(application).masked:
                break  # both were read before `mask`, or both after it
        for reference in references:
            check_seal(self.keys, reference)
        check_token(subject_id, references, token)
        hasher = check_hasher(found, self.hasher)
        probe = _one(self.embed(face, checked=checked))
        distances = distances_to(self.keys, found, hasher, references, probe, token=token)
        best = int(np.argmin(distances))
        calibration = hasher.calibration if hasher.comparison == found.comparison else None
        return decide(calibration, int(distances[best]), found.threshold, references[best].slot)

    def identify(
        self,
        face: FaceSource,
        *,
        application: str = DEFAULT_APPLICATION,
        top: int = 0,
        threshold: int | None = None,
        closed: bool = False,
        checked: bool = True,
    ) -> list[Candidate]:
        """Search for one picture, or one embedding `(D,)`: each subject at most once, the nearest first.

        Subjects with a token are left out.

        Args:
            face: A picture with one face, or an embedding of unit length.
            application: Name of the application.
            top: Maximum number of subjects; 0 is every match, or one subject when `closed`.
            threshold: Replaces that of the application.
            closed: Closed-set identification: the `top` nearest subjects, matching or not. Else only subjects within
                the threshold.
            checked: As of `enroll`.

        Raises:
            FaceError: The picture cannot be read, or has no face to compare; `status` says which.
        """
        found = self.application(application)
        hasher = check_hasher(found, self.hasher)
        probe = _one(self.embed(face, checked=checked))
        if top < 0:
            raise EnrolmentError(f"top: expected 0 (all) or more subjects, received {top}")
        limit = found.threshold if threshold is None else threshold
        wanted = top or int(closed)
        asked = wanted if closed else 0
        for tries in itertools.count():
            hits = self._searcher.search(found, hasher, probe, top=asked, threshold=None if closed else limit)
            people, gone = self._searcher.candidates(found, hits, limit)
            if gone and tries < _MAX_SEARCHES:
                continue  # perhaps renewed: the new reference is found by another search
            # Several references of one subject may take the places of other subjects.
            if not closed or len(people) >= wanted or len(hits) < asked:
                break
            asked *= 2
        return people[:wanted] if wanted else people

    def revoke(self, subject_id: str, *, slot: int | None = None, application: str = DEFAULT_APPLICATION) -> int:
        """Revoke a subject, or one of its references, for ever; return the number of revoked references.

        Raises:
            NotEnrolledError: The subject was never enrolled.
            EnrolmentError: The slot has no reference.
            RevokedError: The subject was revoked already.
        """
        self._finish_settling()
        subject_id = check_subject_id(subject_id)
        self.application(application)
        chosen = self._chosen(application, subject_id, slot)
        while True:
            if not chosen:
                raise self._not_found(application, subject_id, slot)
            tombstones = [tombstone_of(self.keys, each) for each in chosen]
            event = self.event("revoke", application, [subject_id] * len(chosen))
            try:
                self.store.revoke(application, tombstones, event)
                break
            except RevokedError:  # since they were read; what a renewal put in their place is to be revoked, too
                before, chosen = chosen, self._chosen(application, subject_id, slot)
                if [each.record for each in chosen] == [each.record for each in before]:
                    raise
        self._settle(application, revoked=tombstones)
        return len(chosen)

    def _chosen(self, application: str, subject_id: str, slot: int | None) -> list[Reference]:
        found = self.store.references(application, subject_id)
        return [each for each in found if slot is None or each.slot == slot]

    def renew(
        self,
        subject_id: str,
        faces: FaceSource,
        *,
        slot: int | None = None,
        application: str = DEFAULT_APPLICATION,
        metadata: Mapping[str, Any] | None = None,
        checked: bool = True,
        token: SubjectToken | None = None,
    ) -> list[Reference]:
        """Revoke the references of a subject, or one, and enrol it under fresh keys, in one transaction.

        A revoked subject can be renewed, too. `faces`, `checked` and `token` are those of `enroll`; a subject with a
        token needs a new one, and the old one serves for nothing afterwards.

        Raises:
            FaceError: A picture cannot be read, or has no face to compare; `status` says which.
            NotEnrolledError: The subject was never enrolled.
            EnrolmentError: The application's common key has not been rotated since the enrolment.
            TokenError: A subject with a token was given none, or its old one.
            RevokedError: The same for a revoked subject; or the subject has used up every part, with keys of kind
                `part`.
        """
        self._finish_settling()
        found = self.application(application)
        subject_id = check_subject_id(subject_id)
        old = self.store.references(application, subject_id)
        if slot is not None:
            old = [each for each in old if each.slot == slot]
        if not old and not (slot is None and self._was_revoked(application, subject_id)):
            raise self._not_found(application, subject_id, slot)
        self._refuse_epoch(found, [subject_id])
        self._refuse_token(found, token)
        _check_new_token(subject_id, self._valid(application, subject_id), old, token)
        if found.key_mode == "application" and any(each.epoch == found.epoch for each in old):
            raise EnrolmentError(
                f"application {application} has one key for all subjects: rotate it before renewing, or the new "
                "template equals the old one"
            )
        rows = self.embed(faces, checked=checked)
        ids = [subject_id] * len(rows)
        new = self._new_references(found, ids, rows, [metadata] * len(rows), renewed=True, token=token)
        slots = iter([each.slot for each in old])
        new = [each.changed(slot=next(slots, UNSLOTTED)) for each in new]  # surplus ones stay without a slot
        tombstones = [tombstone_of(self.keys, each) for each in old]
        with self._forgetting_masks_on_error(found, new):
            added = self.store.replace(tombstones, new, self.event("renew", application, ids), masked=found.masked)
        self._settle(application, revoked=tombstones)
        return added

    def unmasked_applications(self) -> list[str]:
        """Names of the applications whose records share one key and whose codes have no masks."""
        applications = self.store.applications()
        return [each.name for each in applications if each.key_mode == "application" and not each.masked]

    def mask(self, *, application: str = DEFAULT_APPLICATION) -> int:
        """Put the codes of an application under one-time masks, in place, and overwrite what stood there before.

        One transaction of the record store: an interrupted call has done all of it or nothing, and can be repeated.
        Other processes may use the gallery meanwhile; what they are about to write is refused. Copies and backups of
        the record store are not reached.

        Returns:
            How many references got a mask; 0 where they have them already.

        Raises:
            EnrolmentError: The application has shares of a split gallery, which need no masks.
            StoreError: A reference was changed outside of the gallery; nothing was written. Or another process keeps
                the old codes from being overwritten; a second call does that.
        """
        self._finish_settling()
        _refuse_shares(self.application(application))
        count = self._mask(self.application(application))
        self.erase()
        return count

    def rotate(self, *, application: str = DEFAULT_APPLICATION, retire: bool = False) -> Application:
        """Give an application in key mode `application` a new key for later enrolments.

        References under older keys stay valid until they are renewed; where the key has leaked, `retire` revokes them
        all in the same transaction.
        """
        self._finish_settling()
        tries = 0
        while True:
            tries += 1
            found = self.application(application)
            if found.key_mode != "application":
                raise EnrolmentError(f"application {application} has no common key; renew its subjects")
            if not retire:
                return self._change(found, "rotate", epoch=found.epoch + 1)
            tombstones = [tombstone_of(self.keys, each) for page in self.store.pages(application) for each in page]
            try:
                return self._change(found, "retire", retired=tombstones, epoch=found.epoch + 1)
            except RevokedError:  # references were added or revoked since they were read
                if tries == _MAX_ROTATION_TRIES:
                    raise

    def stats(self) -> dict[str, tuple[Application, "StoreStats"]]:
        """Each application with its counts."""
        return {each.name: (each, self.store.stats(each.name)) for each in self.store.applications()}

    def references(self, subject_id: str, *, application: str = DEFAULT_APPLICATION) -> list[Reference]:
        """The valid references of a subject, by slot.

        Raises:
            NotEnrolledError: The subject was never enrolled.
            RevokedError: The subject was revoked.
        """
        subject_id = check_subject_id(subject_id)
        found = self._valid(application, subject_id)
        if not found:
            raise self._not_found(application, subject_id)
        return found

    def subjects(self, *, application: str = DEFAULT_APPLICATION) -> dict[str, list[Reference]]:
        """Valid references of every subject, by its id; of one that was revoked, none."""
        self.application(application)
        revoked = self.keys.revoked(application)
        found: dict[str, list[Reference]] = {
            each.subject_id: [] for each in [*revoked.values(), *self.store.tombstones(application)]
        }
        for page in self.store.pages(application):
            for each in page:
                if each.record not in revoked:
                    found.setdefault(each.subject_id, []).append(each)
        return dict(sorted(found.items()))

    def is_enrolled(
        self, subject_id: str, *, application: str = DEFAULT_APPLICATION, allow_revoked: bool = False
    ) -> bool:
        """Whether a subject has a valid reference.

        Raises:
            RevokedError: It had, and `allow_revoked` does not admit that.
        """
        subject_id = check_subject_id(subject_id)
        if self._valid(application, subject_id):
            return True
        if not allow_revoked and self._was_revoked(application, subject_id):
            raise revoked_subject(subject_id)
        return False

    def check(self) -> list[str]:
        """All problems of both stores, one line each; empty when there are none."""
        found = [*self.store.check(), *self.keys.problems()]
        if found:
            return found  # the content of a damaged medium proves nothing
        # What was settled before the snapshot must be in it; what is in it may be settled only later.
        before = self.keys.state()
        found += [
            f"the record store was an older copy, or its audit log was cut: {last} entries where the key store "
            f"remembered {known}. Enrolments and changes in between are lost; where the copy was put back on purpose: "
            "iom check --accept"
            for known, last in before.rollbacks
        ]
        with self.store.snapshot() as still:
            found += still.chain.problems(still.whole_audit())
            if before.anchor is not None and not _holds_anchor(still, before.anchor):
                found.append(
                    f"audit log: entry {before.anchor.sequence}, which the key store remembers, is missing or "
                    "another one: the record store is an older copy, or its log was cut or rewritten"
                )
            applications = {each.name: each for each in still.applications()}
            for application in applications.values():
                found += self._application_problems(still, application, before)
        missing = {name for name, known in before.applications.items() if known.is_stored} - applications.keys()
        found += [f"application {name}: the key store knows it, the record store does not" for name in sorted(missing)]
        return found

    def accept_rollback(self) -> None:
        """Acknowledge that an older copy of the record store was put back; `check` reports it until then."""
        self.keys.accept_rollbacks()
        self.log("accept-rollback", "")

    def erase(self) -> None:
        """Overwrite remains of revoked templates and killed enrolments in both stores."""
        self._finish_settling()
        before = int(time.time()) - ORPHAN_SECONDS
        for application in self.store.applications():
            if application.masked:
                orphans = self.keys.masked_records(application.name, before=before)
                for page in self.store.pages(application.name):
                    orphans.difference_update(each.record for each in page)
                self.keys.forget_masks(application.name, sorted(orphans))
        self.keys.erase()
        self.store.erase()
        self.log("erase", "")

    def event(self, action: str, application: str, subject_ids: Sequence[str] = ()) -> AuditEvent:
        """An event for the audit log, as of now."""
        key = self.keys.audit_key()
        return AuditEvent(
            action=action,
            application=application,
            count=len(subject_ids),
            subjects=pseudonyms(key, application, subject_ids),
            key_entries=self.keys.state().position,
            time=int(time.time()),
        )

    def log(self, action: str, application: str, subject_ids: Sequence[str] = ()) -> None:
        """Write an event of its own to the audit log."""
        self._finish_settling()
        self.store.log(self.event(action, application, subject_ids))
        self._settle(application)

    def close(self) -> None:
        """Close both stores and end what searches; a second call does nothing."""
        if searcher := self.__dict__.get("_searcher"):
            searcher.close()
        self.store.close()
        self.keys.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    @functools.cached_property
    def _searcher(self) -> Searcher:
        return Searcher(self.store, self.keys)

    def _application_or_default(self, name: str) -> Application:
        try:
            return self.application(name)
        except UnknownApplicationError:
            if name != DEFAULT_APPLICATION or not self._creates_default:
                raise
            return self.create_application(name)

    def _reconcile(self) -> None:
        """Make the two stores agree after a crash, or after an older record store was put back.

        A revocation is written to the record store first: a crash leaves a tombstone that the key store does not know.
        A revoked record without a tombstone is one of an older record store. Forged tombstones are left to `check`.
        """
        store, keys, head = self.store, self.keys, self.store.audit_head()
        is_older = not _holds_anchor(store, keys.state().anchor)
        if is_older:
            keys.note_rollback(head)
        for application in store.applications():
            name = application.name
            warn_unmasked(application)
            last = store.audit_head(name)
            if last is None or not store.chain.holds(last):
                continue  # its log was emptied or forged, which `check` reports
            known = keys.state().known(name).settings
            revoked = keys.revoked(name)
            tombstones = [each for each in store.tombstones(name) if each.record not in revoked]
            if unknown := [each for each in tombstones if holds_seal(keys, name, each)]:
                keys.revoke(name, unknown)
            if revived := store.by_record(name, list(revoked)):
                subjects = [reference.subject_id for reference in revived]
                store.revoke(name, [tombstone_of(keys, each) for each in revived], self.event("revoke", name, subjects))
            if is_older and known is not None and application.revision < known.revision:
                if known.masked and not application.masked:
                    self._mask(application)
                self._change(known, "restore")
            self._settle_rest(name)

    def _settle_rest(self, name: str) -> None:
        """Write settings of an application to the key store that a killed process has not written."""
        head = self.store.audit_head(name)
        if head is None or not self.store.chain.holds(head):
            return
        before, stored = self.keys.state(), self.store.application(name)
        known = before.known(name).settings
        is_new = (known is None or known.revision < stored.revision) and holds_seal(self.keys, name, stored)
        if is_new or before.anchor is None or head.sequence > before.anchor.sequence:
            self.keys.settle(head, stored if is_new else None)

    def _refuse_older_keys(self) -> None:
        """Refuse a key store that lacks writes which the audit log knows of."""
        head = self.store.audit_head()
        if head is None:
            return
        # Processes may write their events in another order than their entries; entries of format 1 counted those of
        # another key store.
        known = self.keys.state()
        after = max(head.sequence - _LAST_ENTRIES, known.keyed_from - 1)
        last = self.store.audit(after=after, limit=_LAST_ENTRIES)
        authentic = [entry.event for entry in last if self.store.chain.holds(entry)]
        expected = max((event.key_entries for event in authentic), default=0)
        if known.position < expected:
            raise StoreError(
                f"the key store has {known.position} entries, the audit log knows of "
                f"{expected}: its end is missing. Take it from a backup"
            )

    def _change(
        self, application: Application, action: str, *, retired: Sequence[Tombstone] | None = None, **settings: Any
    ) -> Application:
        revision = application.revision + 1
        changed = dataclasses.replace(application, **settings, revision=revision)
        changed = sealed(self.keys, changed.name, changed)
        event = self.event(action, changed.name, [each.subject_id for each in retired or ()])
        self.store.update_application(changed, event, retired=retired)
        self._settle(changed.name, changed, revoked=retired or ())
        return changed

    def _mask(self, application: Application) -> int:
        name, count = application.name, 0

        def masked(known: Application, page: list[Reference]) -> list[Reference]:
            nonlocal count
            count += len(page)
            return under_masks(self.keys, known, page)

        def changed(known: Application) -> tuple[Application, AuditEvent]:
            for problem in self._settings_problems(known, None):
                raise StoreError(f"{problem}; nothing was written. See iom check")
            new = sealed(self.keys, name, dataclasses.replace(known, masked=True, revision=known.revision + 1))
            return new, self.event("mask", name)

        for page in () if application.masked else self.store.pages(name):  # not while other processes wait to write
            with contextlib.suppress(KeyMaterialError):  # one of them was revoked meanwhile
                masks_for(self.keys, application, [each.record for each in page])
        new = self.store.mask(name, masked, changed)
        self._settle(name, new)
        return count

    def _settings_problems(self, application: Application, known: Application | None) -> Iterator[str]:
        if not holds_seal(self.keys, application.name, application):
            yield (
                f"application {application.name}: its settings (threshold, key epoch, masking, ...) "
                "were changed outside of the gallery"
            )
        elif known is not None and application.revision < known.revision:
            yield (
                f"application {application.name}: its settings were set back to those of revision "
                f"{application.revision}; the key store knows revision {known.revision}"
            )

    def _application_problems(self, store: "RecordStore", application: Application, before: KeyState) -> Iterator[str]:
        """Problems of an application in a snapshot; `before` is an older state of the key store."""
        name, references = application.name, 0
        yield from self._settings_problems(application, before.known(name).settings)
        tombstones = store.tombstones(name)
        gone = {tombstone.record for tombstone in tombstones}.union(before.revoked.get(name, ()))
        for page in store.pages(name):
            references += len(page)
            for reference in page:
                place = f"application {name}: record {reference.record}"
                if not holds_seal(self.keys, name, reference):
                    yield f"{place} was changed outside of the gallery, or is damaged"
                if reference.record in gone:
                    yield f"{place} is valid and revoked"
            if application.masked:
                yield from self._mask_problems(name, [reference.record for reference in page])
            yield from self._device_problems(store, application, [reference.record for reference in page])
        yield from self._tombstone_problems(name, tombstones)
        yield from self._device_problems(store, application, [tombstone.record for tombstone in tombstones])
        head = store.audit_head(name)
        if head is None:
            yield f"application {name}: the audit log has no entry about it: it was cut or emptied"
            return
        for noun, expected, number in (
            ("valid references", head.counts.references, references),
            ("tombstones", head.counts.tombstones, len(tombstones)),
        ):
            if expected != number:
                yield (
                    f"application {name}: expected {expected} {noun} by the audit log, found {number}: "
                    "some were deleted or inserted outside of the gallery"
                )

    def _device_problems(self, store: "RecordStore", application: Application, records: Sequence[int]) -> Iterator[str]:
        if application.key_mode in DEVICE_MODES and records:
            from iom.gallery.device_records import device_problems  # only here: it needs SQLAlchemy

            yield from device_problems(self.keys, store, application.name, records)

    def _mask_problems(self, application: str, records: Sequence[int]) -> Iterator[str]:
        """Masks that are missing or cannot be opened, without those of records that are being revoked."""
        try:
            self.keys.masks(application, records)
        except StoreError as error:
            if len(records) > 1:
                for record in records:
                    yield from self._mask_problems(application, [record])
            elif records[0] not in self.keys.revoked(application):
                yield f"application {application}: record {records[0]}: {error}"

    def _tombstone_problems(self, name: str, tombstones: Sequence[Tombstone]) -> Iterator[str]:
        forged = [tombstone.record for tombstone in tombstones if not holds_seal(self.keys, name, tombstone)]
        for record in forged[:20]:
            yield f"application {name}: the tombstone of record {record} was forged or changed"
        authentic = {tombstone.record for tombstone in tombstones}.difference(forged)
        for _ in range(_MAX_LOOKS):  # their writer has time to add them to the key store
            unknown = len(authentic.difference(self.keys.revoked(name)))
            if not unknown:
                return
            time.sleep(_SECONDS_A_LOOK)
        yield f"application {name}: {unknown} revoked records are missing in the key store"

    def _refuse_token(self, application: Application, token: SubjectToken | None) -> None:
        """Refuse a token where keys are not those of one record, or where a key decides about the next one."""
        if token is not None and (application.key_mode != "subject" or self.hasher.parts > 1):
            raise EnrolmentError(
                f"application {application.name}: a token needs a key for each record (key mode 'subject', no keys of "
                f"kind 'part'), expected no token; give none, or use another application"
            )

    def _refuse_epoch(self, application: Application, subject_ids: Sequence[str]) -> None:
        if application.key_mode != "application":
            return
        revoked = self.keys.revoked_epochs(application.name)
        for subject_id in subject_ids:
            if revoked.get(subject_id, -1) >= application.epoch:
                raise revoked_epoch(subject_id, application.name)

    def _new_references(
        self,
        application: Application,
        subject_ids: Sequence[str],
        rows: NDArray[np.float32],
        metadata: Sequence[Mapping[str, Any] | None],
        *,
        renewed: bool = False,
        token: SubjectToken | None = None,
    ) -> list[Reference]:
        hasher = check_hasher(application, self.hasher)
        texts = [metadata_text(each, token=token.identifier if token is not None else "") for each in metadata]
        records = reserve_records(self.store, self.keys, application, subject_ids, parts=hasher.parts, renewed=renewed)
        places = list(zip(subject_ids, records, texts, strict=True))
        created = int(time.time())
        return make_references(self.keys, hasher, application, places, rows, created=created, token=token)

    @contextlib.contextmanager
    def _forgetting_masks_on_error(self, application: Application, references: Sequence[Reference]) -> Iterator[None]:
        """Forget the masks of references that the record store refuses; other errors may come after a commit."""
        try:
            yield
        except EnrolmentError:
            if application.masked:
                self.keys.forget_masks(application.name, [each.record for each in references])
            raise

    def _valid(self, application: str, subject_id: str) -> list[Reference]:
        revoked = self.keys.revoked(application)
        found = self.store.references(application, subject_id)
        return [each for each in found if each.record not in revoked]

    def _not_found(self, application: str, subject_id: str, slot: int | None = None) -> Exception:
        if slot is not None and self.store.references(application, subject_id):
            return EnrolmentError(f"subject {subject_id!r} has no reference in slot {slot}")
        if self._was_revoked(application, subject_id):
            return revoked_subject(subject_id)
        return NotEnrolledError(f"subject {subject_id!r} is not enrolled in {application}", subject_id=subject_id)

    def _was_revoked(self, application: str, subject_id: str) -> bool:
        is_known = subject_id in self.keys.revoked_epochs(application)
        return is_known or bool(self.store.tombstones(application, subject_id=subject_id))

    def _settle(
        self, application: str, changed: Application | None = None, *, revoked: Sequence[Tombstone] = ()
    ) -> None:
        """Write the state of the record store to the key store; after an error the next write or opening repeats it."""
        try:
            anchor = self.keys.state().anchor  # before the head is read: other processes may write meanwhile
            head = self.store.audit_head(application or None)
            if not _holds_anchor(self.store, anchor):  # the log was cut while it was open
                self.keys.note_rollback(self.store.audit_head())
            if head is not None and not self.store.chain.holds(head):
                head = None  # `check` reports it
            if revoked:
                self.keys.revoke(application, revoked, head)
            if changed is not None or not revoked:
                self.keys.settle(head, changed)
        except IomError:
            self._is_settled = False
            raise

    def _finish_settling(self) -> None:
        if not self._is_settled:
            self._reconcile()
            self._is_settled = True


def embed_faces(hasher: FaceHasher, faces: FaceSource, *, checked: bool = True) -> NDArray[np.float32]:
    """Embeddings `(N, D)` of pictures by a hasher, or the given ones; `checked` as of `Gallery.enroll`."""
    given: Any = faces
    is_one = is_picture(given) and getattr(given, "ndim", 0) < 4  # 4: aligned faces in one array
    pictures = [given] if is_one else given if isinstance(given, Sequence | np.ndarray) else []
    if len(pictures) and all(map(is_picture, pictures)):
        return np.stack([hasher.embed_picture(each, checked=checked) for each in pictures])
    return rows_of(given)


def _holds_anchor(store: "RecordStore", anchor: Anchor | None) -> bool:
    """Whether the log has the entry that the key store remembers, read before this call; else it is older or cut."""
    if anchor is None:
        return True
    entries = store.audit(after=anchor.sequence - 1, limit=1)
    return bool(entries) and hmac.compare_digest(entries[0].digest, anchor.digest)


@contextlib.contextmanager
def _gc_paused(count: int) -> Iterator[None]:
    """Pause the cyclic garbage collector, up to a third of a batch's time, while `count` objects without cycles appear.

    Of overlapping threads, the first one to pause it resumes it.
    """
    if count < _MIN_BATCH_WITHOUT_GC or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _check_new_token(
    subject_id: str, valid: Sequence[Reference], old: Sequence[Reference], token: SubjectToken | None
) -> None:
    """Raise `TokenError` where the token does not fit a renewal of `old`, of all `valid` references of a subject."""
    known = {each.token for each in valid} - {""}
    problem = ""
    if known and token is None:
        problem = "has a token: a renewal needs a new one"
    elif token is not None and token.identifier in known:
        problem = "has this token already: a renewal needs a new one"
    elif token is not None and len(old) < len(valid):
        problem = "has further references, and one token for all: renew it without a slot"
    if problem:
        raise TokenError(f"subject {subject_id!r} {problem}", subject_id=subject_id)


def _refuse_shares(application: Application) -> None:
    """Refuse masks for shares, which are random as they are, and which only both servers can change."""
    if application.key_mode == "share":
        raise EnrolmentError(
            f"application {application.name} holds shares of a split gallery, expected no masks; nothing was changed"
        )


def _one(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(rows) != 1:
        raise EnrolmentError(f"expected one face, received {len(rows)}")
    return np.asarray(rows[0])

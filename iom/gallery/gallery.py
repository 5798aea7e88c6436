"""Gallery: enrol, verify, identify, revoke, renew over a record store, a key store, a hasher."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import EnrolmentError, IomError, NotEnrolledError, RevokedError, StoreError
from iom.gallery.audit import AuditChain, AuditEvent, pseudonyms
from iom.gallery.closing import Closing
from iom.gallery.collection import no_collection
from iom.gallery.integrity import check_application, holds_anchor, problems, reconcile
from iom.gallery.keys.key_store import ORPHAN_SECONDS, KeyStore, RevokedRecord
from iom.gallery.keys.key_windows import records_in_parts
from iom.gallery.models import (
    UNSLOTTED,
    Application,
    Reference,
    Tombstone,
    check_subject_id,
    encoding_id,
    metadata_text,
)
from iom.gallery.search import Candidate, Searcher, distances_to
from iom.gallery.stores.rows import revoked_epoch, revoked_subject
from iom.gallery.stores.store import PAGE, RecordStore, StoreStats
from iom.gallery.templates import check_hasher, check_seal, make_references, rows_of, sealed_application, tombstone_of
from iom.keys import check_key_kind
from iom.models.face_hasher import FaceHasher

_LAST_ENTRIES = 64
_ROTATIONS = 5
"""Tries of a rotation that retires, while others go on enrolling."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """Outcome of a verification.

    Attributes:
        match: Whether the distance is at most the threshold.
        distance: To the nearest reference of the subject.
        threshold: Of the application.
        slot: Which reference.
    """

    match: bool
    distance: int
    threshold: int
    slot: int


class Gallery(Closing):
    """One record store, its key store, and a hasher; threads may share it.

    Opening it reconciles the two stores after a crash, or after an older copy of the record store
    was put back: a record that is revoked in one is revoked in the other, and an application has
    the newest settings that the key store knows.

    Args:
        store: The record store.
        keys: Its key store; the first one a store meets is its own for ever.
        hasher: Makes codes; may be missing where no embeddings come in.
        clock: Seconds since 1970.

    Raises:
        StoreError: The two do not belong together, or the key store lacks its last entries.
    """

    def __init__(
        self,
        store: RecordStore,
        keys: KeyStore,
        hasher: FaceHasher | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.keys = keys
        self.hasher = hasher
        self._clock = clock
        self._searcher = Searcher(store, keys)
        self._is_settled = True
        owner = store.owner()
        if not owner:
            store.claim(keys.identity())
        elif owner != keys.identity():
            raise StoreError("this key store does not belong to this record store: another master")
        if store.is_new:
            keys.begin_log()
            store.is_new = False
        store.chain = AuditChain(keys.chain_key(), keys.keyed_from())
        self._refuse_older_keys()
        reconcile(store, keys, self.event, now=int(clock()))

    def create_application(
        self, name: str, *, threshold: int | None = None, key_mode: str = "subject", masked: bool = False
    ) -> Application:
        """Make an application for codes of the hasher; warns of keys that hide little.

        Args:
            name: Its name.
            threshold: Largest number of differing positions that matches; `None` takes the
                hasher's calibration.
            key_mode: `subject` or `application`.
            masked: Store codes under one-time masks.

        Raises:
            EnrolmentError: The name is taken, or there is neither threshold nor calibration.
        """
        if self.hasher is None:
            raise EnrolmentError("a new application needs a hasher; this gallery has none")
        if threshold is None:
            if self.hasher.calibration is None:
                raise EnrolmentError(
                    "this hasher is not calibrated: give a threshold, or calibrate it with iom calibrate"
                )
            threshold = int(self.hasher.calibration.threshold)
        if self.hasher.parts > 1 and key_mode != "subject":
            raise EnrolmentError(
                "keys of kind 'part' are renewed subject by subject: key mode 'subject' is "
                f"expected with this hasher, received {key_mode!r}"
            )
        application = Application(
            name=name,
            encoding=encoding_id(self.hasher.code_length, self.hasher.alphabet_size),
            model=self.hasher.fingerprint,
            threshold=threshold,
            key_mode=key_mode,
            masked=masked,
            created=int(self._clock()),
        )
        check_key_kind(self.hasher.key_kind, application=name, masked=masked)
        return self.add_application(application)

    def add_application(self, application: Application) -> Application:
        """Add an application with given settings; what the key store knows of the name counts.

        Where the key store has served an application of this name before, its epoch goes on from
        there, so that no retired key is used again.
        """
        self._mend()
        known = self.keys.known(application.name).settings
        if known is not None and known != dataclasses.replace(application, seal=b""):
            application = dataclasses.replace(
                application,
                epoch=max(application.epoch, known.epoch),
                revision=max(application.revision, known.revision) + 1,
            )
        sealed = sealed_application(self.keys, application)
        self.store.create_application(sealed, self.event("create", application.name))
        self._settle(application.name, sealed)
        return sealed

    def application(self, name: str) -> Application:
        """An application, whose settings are authentic and the newest.

        Raises:
            UnknownApplicationError: No such application.
            StoreError: It was changed outside of the gallery, or set back to older settings.
        """
        known = self.keys.known(name).settings
        found = self.store.application(name)
        check_application(self.keys, found, known)
        return found

    def set_threshold(self, application: str, threshold: int) -> Application:
        """Change what counts as a match from now on."""
        self._mend()
        changed = self._changed(self.application(application), threshold=threshold)
        self.store.update_application(changed, self.event("threshold", application))
        self._settle(application, changed)
        return changed

    def enroll(
        self,
        application: str,
        subject_id: str,
        embeddings: NDArray[Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        another: bool = False,
        allow_revoked: bool = False,
    ) -> list[Reference]:
        """Enrol one subject; each row of `embeddings` `(D,)` or `(R, D)` becomes a reference.

        Args:
            application: Name.
            subject_id: Who.
            embeddings: Unit length.
            metadata: Small JSON object, kept beside the code.
            another: Allow a subject that is enrolled already.
            allow_revoked: Bring a subject back that was revoked, under a fresh key; for callers
                who may decide that. `renew` does it, too.

        Raises:
            AlreadyEnrolledError: The subject has a valid reference.
            RevokedError: The subject was revoked; or its key was, and the application's common key
                has not been rotated since.
            EnrolmentError: No such application, or it belongs to another model.
        """
        rows = rows_of(embeddings)
        return self.enroll_many(
            application,
            [subject_id] * len(rows),
            rows,
            metadata=[metadata] * len(rows),
            another=another,
            allow_revoked=allow_revoked,
        )

    def enroll_many(
        self,
        application: str,
        subject_ids: Sequence[str],
        embeddings: NDArray[Any],
        *,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        another: bool = False,
        allow_revoked: bool = False,
    ) -> list[Reference]:
        """Enrol a batch `(N, D)`, all or none; durable when it returns. See `enroll`."""
        self._mend()
        found = self.application(application)
        ids = [check_subject_id(each) for each in subject_ids]
        self._refuse_revoked(found, ids, another=another, allow_revoked=allow_revoked)
        with no_collection(len(ids)):
            new = self._new_references(found, ids, embeddings, metadata)
            event = self.event("enroll", application, ids)
            with self._masks_of(found, new):
                added = self.store.add(new, event, another=another, returning=allow_revoked)
            self._settle(application)
        return added

    def add_references(self, application: str, references: Sequence[Reference]) -> None:
        """Add references that a gallery of this key store made; for imports.

        Their numbers are never given out again. Those that are revoked must have been left out.
        """
        self._mend()
        self.keys.claim_records(application, max(each.record for each in references) + 1)
        subject_ids = [each.subject_id for each in references]
        event = self.event("import", application, subject_ids)
        self.store.add(references, event, imported=True)
        self._settle(application)

    def verify(self, application: str, subject_id: str, embedding: NDArray[Any]) -> Decision:
        """Compare one probe `(D,)` with the references of a subject.

        Raises:
            NotEnrolledError: Not enrolled.
            RevokedError: Enrolled once, and revoked.
        """
        found = self.application(application)
        hasher = check_hasher(found, self.hasher)
        probe = _one(embedding)
        references = self.references(application, subject_id)
        for reference in references:
            check_seal(self.keys, reference)
        distances = distances_to(self.keys, found, hasher, references, probe)
        best = int(np.argmin(distances))
        distance = int(distances[best])
        return Decision(distance <= found.threshold, distance, found.threshold, references[best].slot)

    def identify(
        self,
        application: str,
        embedding: NDArray[Any],
        *,
        top: int = 0,
        threshold: int | None = None,
        closed: bool = False,
    ) -> list[Candidate]:
        """Search for one probe `(D,)`; see `identify_many`."""
        return self.identify_many(application, _one(embedding)[None], top=top, threshold=threshold, closed=closed)[0]

    def identify_many(
        self,
        application: str,
        embeddings: NDArray[Any],
        *,
        top: int = 0,
        threshold: int | None = None,
        closed: bool = False,
    ) -> list[list[Candidate]]:
        """Search for probes `(N, D)`, each subject at most once, the nearest first.

        Args:
            application: Name.
            embeddings: Unit length.
            top: Most subjects; 0 is every match, or one subject when `closed`.
            threshold: Instead of the application's.
            closed: The `top` nearest subjects whether they match or not (every probe is known to
                be enrolled); else every match within the threshold and no other subject.
        """
        found = self.application(application)
        hasher = check_hasher(found, self.hasher)
        rows = rows_of(embeddings)
        if top < 0:
            raise EnrolmentError(f"top: expected 0 (all) or more subjects, received {top}")
        limit = found.threshold if threshold is None else threshold
        wanted = top or int(closed)
        asked = wanted if closed else 0
        while True:
            hits = self._searcher.search(found, hasher, rows, top=asked, threshold=None if closed else limit)
            results = [self._searcher.candidates(found, each, limit) for each in hits]
            # Several references of one subject may fill the places of other subjects.
            short = closed and any(
                len(people) < wanted and len(each) == asked for people, each in zip(results, hits, strict=True)
            )
            if not short:
                return [people[:wanted] if wanted else people for people in results]
            asked *= 2

    def revoke(self, application: str, subject_id: str, *, slot: int | None = None) -> int:
        """Revoke a subject, or one of its references, for ever.

        Returns:
            Number of references revoked.

        Raises:
            NotEnrolledError: Not enrolled.
            EnrolmentError: No such slot.
            RevokedError: Revoked already.
        """
        self._mend()
        subject_id = check_subject_id(subject_id)
        self.application(application)
        references = self.store.references(application, subject_id)
        chosen = [each for each in references if slot is None or each.slot == slot]
        if not chosen:
            raise self._absent(application, subject_id, slot)
        tombstones = [tombstone_of(self.keys, each) for each in chosen]
        event = self.event("revoke", application, [subject_id] * len(chosen))
        self.store.revoke(application, tombstones, event)
        self._settle(application, revoked=tombstones)
        return len(chosen)

    def renew(
        self,
        application: str,
        subject_id: str,
        embeddings: NDArray[Any],
        *,
        slot: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[Reference]:
        """Revoke the references of a subject (or one) and enrol it anew under fresh keys, at once.

        A subject that was revoked comes back this way, too.

        Raises:
            NotEnrolledError: Never enrolled.
            EnrolmentError: The key is the application's and has not been rotated since: a template
                under the same key would be the old one.
            RevokedError: As before, of a subject that was revoked; or keys of kind `part`, and the
                subject has used up every part.
        """
        self._mend()
        found = self.application(application)
        subject_id = check_subject_id(subject_id)
        old = self.store.references(application, subject_id)
        if slot is not None:
            old = [each for each in old if each.slot == slot]
        if not old and not (slot is None and self._was_revoked(application, subject_id)):
            raise self._absent(application, subject_id, slot)
        rows = rows_of(embeddings)
        ids = [subject_id] * len(rows)
        self._refuse_epoch(found, [subject_id])
        if found.key_mode == "application" and any(each.epoch == found.epoch for each in old):
            raise EnrolmentError(
                f"application {application} has one key for all: rotate it before you renew, or "
                "the new template is the old one"
            )
        new = self._new_references(found, ids, rows, [metadata] * len(rows), renewed=True)
        new = _in_slots_of(old, new)
        tombstones = [tombstone_of(self.keys, each) for each in old]
        with self._masks_of(found, new):
            added = self.store.replace(tombstones, new, self.event("renew", application, ids))
        self._settle(application, revoked=tombstones)
        return added

    def rotate(self, application: str, *, retire: bool = False) -> Application:
        """Give an application with a common key a new one, for what is enrolled from now on.

        References under older keys stay valid until they are renewed, so that subjects can come
        one after the other. Where a key has leaked, `retire` revokes them all in the same
        transaction.
        """
        self._mend()
        tries = 0
        while True:
            found = self.application(application)
            if found.key_mode != "application":
                raise EnrolmentError(f"application {application} has no common key; renew its subjects")
            following = self._changed(found, epoch=found.epoch + 1)
            if not retire:
                self.store.update_application(following, self.event("rotate", application))
                self._settle(application, following)
                return following
            tombstones = [tombstone_of(self.keys, each) for each in self._all(application)]
            ids = [each.subject_id for each in tombstones]
            try:
                self.store.rotate(following, tombstones, self.event("retire", application, ids))
            except RevokedError:  # references came or went since they were read
                tries += 1
                if tries == _ROTATIONS:
                    raise
                continue
            self._settle(application, following, revoked=tombstones)
            return following

    def stats(self) -> dict[str, tuple[Application, StoreStats]]:
        """Each application with its counts."""
        return {each.name: (each, self.store.stats(each.name)) for each in self.store.applications()}

    def references(self, application: str, subject_id: str) -> list[Reference]:
        """The valid references of a subject, by slot.

        Raises:
            NotEnrolledError: Not enrolled.
            RevokedError: Enrolled once, and revoked.
        """
        subject_id = check_subject_id(subject_id)
        found = self._valid(application, subject_id)
        if not found:
            raise self._absent(application, subject_id)
        return found

    def check(self) -> list[str]:
        """All problems of both stores, one line each; empty when there are none."""
        return problems(self.store, self.keys)

    def accept_rollback(self) -> None:
        """Take note that an older copy of the record store was put back on purpose.

        `check` tells of it until then.
        """
        self.keys.accept_rollbacks()
        self.store.log(self.event("accept-rollback", ""))
        self._settle("")

    def erase(self) -> None:
        """Overwrite what revoked templates and killed enrolments left behind in both stores."""
        self._mend()
        before = int(time.time()) - ORPHAN_SECONDS
        for application in self.store.applications():
            if application.masked:
                orphans = self.keys.masked_records(application.name, before=before)
                orphans.difference_update(each.record for each in self._all(application.name))
                self.keys.forget_masks(application.name, sorted(orphans))
        self.keys.erase()
        self.store.erase()
        self.store.log(self.event("erase", ""))
        self._settle("")

    def event(self, action: str, application: str, subject_ids: Sequence[str] = ()) -> AuditEvent:
        """An entry for the audit log, as of now."""
        key = self.keys.audit_key()
        return AuditEvent(
            action=action,
            application=application,
            count=len(subject_ids),
            subjects=pseudonyms(key, application, subject_ids),
            key_entries=self.keys.entries(),
            time=int(self._clock()),
        )

    def log(self, action: str, application: str, subject_ids: Sequence[str] = ()) -> None:
        """Write an event to the audit log that goes with no other write."""
        self._mend()
        self.store.log(self.event(action, application, subject_ids))
        self._settle(application)

    def was_revoked(self, application: str, subject_id: str) -> bool:
        """Whether a subject was revoked and has no valid reference."""
        subject_id = check_subject_id(subject_id)
        return not self._valid(application, subject_id) and self._was_revoked(application, subject_id)

    def close(self) -> None:
        """Close both stores; a second call does nothing."""
        self.store.close()
        self.keys.close()

    def _refuse_older_keys(self) -> None:
        """Refuse a key store that lacks writes which the audit log knows of."""
        head = self.store.audit_head()
        if head is None:
            return
        # Writers of several processes may have written their events in another order.
        # Those of format 1 counted the entries of another key store.
        after = max(head.sequence - _LAST_ENTRIES, self.keys.keyed_from() - 1)
        last = self.store.audit(after=after, limit=_LAST_ENTRIES)
        authentic = [entry.event for entry in last if self.store.chain.holds(entry)]
        expected = max((event.key_entries for event in authentic), default=0)
        if self.keys.entries() < expected:
            raise StoreError(
                f"the key store has {self.keys.entries()} entries, the audit log knows of "
                f"{expected}: its end is missing. Take it from a backup"
            )

    def _changed(self, application: Application, **settings: int) -> Application:
        revision = application.revision + 1
        changed = dataclasses.replace(application, **settings, revision=revision)  # type: ignore[arg-type]
        return sealed_application(self.keys, changed)

    def _refuse_revoked(
        self, application: Application, subject_ids: Sequence[str], *, another: bool, allow_revoked: bool
    ) -> None:
        """What the key store knows to be revoked, whatever record store was put back."""
        if not allow_revoked:
            revoked = self.keys.revoked_epochs(application.name)
            for subject_id in set(subject_ids) if revoked else ():
                if subject_id in revoked and not self._valid(application.name, subject_id):
                    raise revoked_subject(subject_id)
        self._refuse_epoch(application, subject_ids)

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
        embeddings: NDArray[Any],
        metadata: Sequence[Mapping[str, Any] | None] | None,
        *,
        renewed: bool = False,
    ) -> list[Reference]:
        hasher = check_hasher(application, self.hasher)
        rows = rows_of(embeddings)
        texts = [metadata_text(each) for each in metadata or [None] * len(rows)]
        if not len(rows) == len(subject_ids) == len(texts):
            raise EnrolmentError(
                f"expected one subject id and one metadata for each of {len(rows)} embeddings, "
                f"received {len(subject_ids)} and {len(texts)}"
            )
        records: Sequence[int]
        if hasher.parts > 1:
            records = records_in_parts(
                self.store, self.keys, application, subject_ids, parts=hasher.parts, fresh=renewed
            )
        else:
            records = self.keys.reserve(application.name, len(rows))
        places = list(zip(subject_ids, records, texts, strict=True))
        created = int(self._clock())
        return make_references(self.keys, hasher, application, places, rows, created=created)

    def _masks_of(self, application: Application, references: Sequence[Reference]) -> "_Masks":
        return _Masks(self.keys, application, [each.record for each in references])

    def _valid(self, application: str, subject_id: str) -> list[Reference]:
        revoked = self.keys.revoked(application)
        found = self.store.references(application, subject_id)
        return [each for each in found if each.record not in revoked]

    def _all(self, application: str) -> list[Reference]:
        """All valid references without their codes."""
        found: list[Reference] = []
        after = -1
        while page := self.store.scan(application, after=after, limit=PAGE):
            after = page[-1].record
            found += [dataclasses.replace(each, code=b"", seal=b"") for each in page]
        return found

    def _absent(self, application: str, subject_id: str, slot: int | None = None) -> Exception:
        if slot is not None and self.store.references(application, subject_id):
            return EnrolmentError(f"subject {subject_id!r} has no reference in slot {slot}")
        if self._was_revoked(application, subject_id):
            return revoked_subject(subject_id)
        return NotEnrolledError(f"subject {subject_id!r} is not enrolled in {application}", subject_id=subject_id)

    def _was_revoked(self, application: str, subject_id: str) -> bool:
        if subject_id in self.keys.revoked_epochs(application):
            return True
        return bool(self.store.tombstones(application, subject_id=subject_id))

    def _settle(
        self, application: str, changed: Application | None = None, *, revoked: Sequence[Tombstone] = ()
    ) -> None:
        """Tell the key store what the record store holds now.

        Raises:
            StoreError: The key store cannot be written. The record store was; the next write, or
                the next opening, does this first.
        """
        try:
            anchor = self.keys.anchor()  # what it says was written to the log before
            head = self.store.audit_head(application or None)
            if not holds_anchor(self.store, anchor):  # the log was cut while it was open
                self.keys.note_rollback(self.store.audit_head(), now=int(self._clock()))
            if head is not None and not self.store.chain.holds(head):
                head = None  # nothing to remember: `check` tells
            if revoked:
                records = [RevokedRecord(t.subject_id, t.record, t.epoch) for t in revoked]
                self.keys.revoke(application, records, head)
            if changed is not None or not revoked:
                self.keys.settle(head, changed)
        except IomError:
            self._is_settled = False
            raise

    def _mend(self) -> None:
        """Before a write: what an earlier one could not tell the key store."""
        if not self._is_settled:
            reconcile(self.store, self.keys, self.event, now=int(self._clock()))
            self._is_settled = True


class _Masks:
    """Masks of references that are about to be stored; forgotten where they are refused."""

    def __init__(self, keys: KeyStore, application: Application, records: Sequence[int]) -> None:
        self._keys, self._application, self._records = keys, application, records

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # After any other error the transaction may have been done: `Gallery.erase` looks.
        if self._application.masked and kind is not None and issubclass(kind, EnrolmentError):
            self._keys.forget_masks(self._application.name, self._records)


def _in_slots_of(old: Sequence[Reference], new: Sequence[Reference]) -> list[Reference]:
    """New references in the slots of old ones, in turn; what is left over has no slot yet."""
    slots = iter([reference.slot for reference in old])
    return [reference.in_slot(next(slots, UNSLOTTED)) for reference in new]


def _one(embedding: NDArray[Any]) -> NDArray[np.float32]:
    rows = rows_of(embedding)
    if len(rows) != 1:
        raise EnrolmentError(f"expected one embedding, received {len(rows)}")
    return np.asarray(rows[0])

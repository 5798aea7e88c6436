"""An open gallery: its two stores held together, its applications, and what every verb needs."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from iom.errors import EnrolmentError, NotEnrolledError, RevokedError, StoreError
from iom.gallery.audit import AuditEvent, pseudonyms
from iom.gallery.closing import Closing
from iom.gallery.inspection import problems, reconcile
from iom.gallery.key_store import Anchor, KeyStore, RevokedRecord
from iom.gallery.parts import records_in_parts
from iom.gallery.record import (
    Application,
    Reference,
    check_subject_id,
    encoding_id,
    metadata_text,
)
from iom.gallery.search import Searcher
from iom.gallery.store import RecordStore, StoreStats
from iom.gallery.templates import check_hasher, make_references, rows_of
from iom.models.face_hasher import FaceHasher


class OpenGallery(Closing):
    """One record store, its key store, and a hasher.

    Opening it mends what a crash left between the two stores: a record that is revoked in one is
    revoked in the other, whichever of them is the older copy.

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
        owner = store.owner()
        if not owner:
            store.claim(keys.identity())
        elif owner != keys.identity():
            raise StoreError("this key store does not belong to this record store: another master")
        head = store.audit_head()
        if head is not None and keys.entries() < head.event.key_entries:
            raise StoreError(
                f"the key store has {keys.entries()} entries, the audit log knows of "
                f"{head.event.key_entries}: its end is missing. Take it from a backup"
            )
        reconcile(store, keys, self.event)

    def create_application(
        self,
        name: str,
        *,
        threshold: int | None = None,
        key_mode: str = "subject",
        masked: bool = False,
    ) -> Application:
        """Make an application for codes of the hasher.

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
                    "this hasher is not calibrated: give a threshold, or calibrate it with "
                    "iom calibrate"
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
        self.store.create_application(application, self.event("create", name))
        return application

    def set_threshold(self, application: str, threshold: int) -> Application:
        """Change what counts as a match from now on."""
        found = self.store.application(application)
        changed = dataclasses.replace(found, threshold=threshold)
        self.store.update_application(changed, self.event("threshold", application))
        return changed

    def stats(self) -> dict[str, tuple[Application, StoreStats]]:
        """Each application with its counts."""
        return {
            each.name: (each, self.store.stats(each.name)) for each in self.store.applications()
        }

    def references(self, application: str, subject_id: str) -> list[Reference]:
        """The valid references of a subject, by slot.

        Raises:
            NotEnrolledError: Not enrolled.
            RevokedError: Enrolled once, and revoked.
        """
        self.store.application(application)
        found = self._valid(application, check_subject_id(subject_id))
        if not found:
            raise self._absent(application, subject_id)
        return found

    def check(self) -> list[str]:
        """All problems of both stores, one line each; empty when there are none."""
        return problems(self.store, self.keys)

    def erase(self) -> None:
        """Overwrite what revoked templates left behind in both stores."""
        self.keys.erase()
        self.store.erase()
        self.store.log(self.event("erase", ""))

    def close(self) -> None:
        """Close both stores."""
        self.store.close()
        self.keys.close()

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
        ids = [check_subject_id(each) for each in subject_ids]
        # An older copy of the record store would give out the numbers of revoked records again.
        highest = max(self.keys.revoked(application.name), default=-1)
        records: Sequence[int]
        if hasher.parts > 1:
            records = records_in_parts(
                self.store,
                self.keys,
                application,
                ids,
                parts=hasher.parts,
                above=highest,
                fresh=renewed,
            )
        else:
            records = self.store.reserve(application.name, len(rows), above=highest)
        places = list(zip(ids, records, texts, strict=True))
        created = int(self._clock())
        return make_references(self.keys, hasher, application, places, rows, created=created)

    def _valid(self, application: str, subject_id: str) -> list[Reference]:
        revoked = self.keys.revoked(application)
        found = self.store.references(application, subject_id)
        return [each for each in found if each.record not in revoked]

    def _chosen(self, application: str, subject_id: str, slot: int | None) -> list[Reference]:
        self.store.application(application)
        found = self.store.references(application, check_subject_id(subject_id))
        chosen = [each for each in found if slot is None or each.slot == slot]
        if not chosen:
            raise self._absent(application, subject_id, slot)
        return chosen

    def _absent(self, application: str, subject_id: str, slot: int | None = None) -> Exception:
        if slot is not None and self.store.references(application, subject_id):
            return EnrolmentError(f"subject {subject_id!r} has no reference in slot {slot}")
        if self.store.tombstones(application, subject_id=subject_id):
            return _revoked(subject_id)
        if subject_id in self.keys.revoked(application).values():
            return _revoked(subject_id)
        return NotEnrolledError(
            f"subject {subject_id!r} is not enrolled in {application}", subject_id=subject_id
        )

    def _was_revoked(self, application: str, subject_id: str) -> bool:
        return isinstance(self._absent(application, subject_id), RevokedError)

    def _remember(self, application: str, records: Sequence[tuple[str, int]]) -> None:
        """Put revoked records into the key store, with where the audit log is now."""
        head = self.store.audit_head()
        anchor = None if head is None else Anchor(head.sequence, head.digest)
        entries = [RevokedRecord(subject, record) for subject, record in records]
        self.keys.revoke(application, entries, anchor)


def _revoked(subject_id: str) -> RevokedError:
    return RevokedError(
        f"subject {subject_id!r} was revoked; renew it to bring it back", subject_id=subject_id
    )

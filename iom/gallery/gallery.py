"""Enrol, verify, identify, revoke, renew: record store, key store and hasher made one."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import EnrolmentError
from iom.gallery.collection import no_collection
from iom.gallery.open_gallery import OpenGallery
from iom.gallery.record import Application, Reference, check_subject_id
from iom.gallery.search import Candidate, distances_to
from iom.gallery.templates import check_hasher, check_seal, rows_of


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


class Gallery(OpenGallery):
    """All verbs over one record store and its key store; see `OpenGallery` for its arguments.

    Threads may share it.
    """

    def enroll(
        self,
        application: str,
        subject_id: str,
        embeddings: NDArray[Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        another: bool = False,
    ) -> list[Reference]:
        """Enrol one subject; each row of `embeddings` `(D,)` or `(R, D)` becomes a reference.

        Args:
            application: Name.
            subject_id: Who.
            embeddings: Unit length.
            metadata: Small JSON object, kept beside the code.
            another: Allow a subject that is enrolled already.

        Raises:
            EnrolmentError: Enrolled already, no such application, or it belongs to another model.
        """
        rows = rows_of(embeddings)
        return self.enroll_many(
            application,
            [subject_id] * len(rows),
            rows,
            metadata=[metadata] * len(rows),
            another=another,
        )

    def enroll_many(
        self,
        application: str,
        subject_ids: Sequence[str],
        embeddings: NDArray[Any],
        *,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        another: bool = False,
    ) -> list[Reference]:
        """Enrol a batch `(N, D)`, all or none; durable when it returns. See `enroll`."""
        found = self.store.application(application)
        with no_collection(len(subject_ids)):
            new = self._new_references(found, subject_ids, embeddings, metadata)
            event = self.event("enroll", application, subject_ids)
            return self.store.add(new, event, new_subjects=not another)

    def verify(self, application: str, subject_id: str, embedding: NDArray[Any]) -> Decision:
        """Compare one probe `(D,)` with the references of a subject.

        Raises:
            EnrolmentError: Not enrolled.
            RevokedError: Enrolled once, and revoked.
        """
        found = self.store.application(application)
        hasher = check_hasher(found, self.hasher)
        probe = _one(embedding)
        references = self.references(application, subject_id)
        for reference in references:
            check_seal(self.keys, reference)
        distances = distances_to(self.keys, found, hasher, references, probe)
        best = int(np.argmin(distances))
        distance = int(distances[best])
        return Decision(
            distance <= found.threshold, distance, found.threshold, references[best].slot
        )

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
        return self.identify_many(
            application, _one(embedding)[None], top=top, threshold=threshold, closed=closed
        )[0]

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
                be enrolled); else every match within the threshold and nobody else.
        """
        found = self.store.application(application)
        hasher = check_hasher(found, self.hasher)
        rows = rows_of(embeddings)
        if top < 0:
            raise EnrolmentError(f"top: expected 0 (all) or more subjects, received {top}")
        limit = found.threshold if threshold is None else threshold
        wanted = top or int(closed)
        asked = wanted if closed else 0
        while True:
            hits = self._searcher.search(
                found, hasher, rows, top=asked, threshold=None if closed else limit
            )
            results = [self._searcher.candidates(found, each, limit) for each in hits]
            # Several references of one subject may fill the places of other subjects.
            short = closed and any(
                len(people) < wanted and len(each) == asked
                for people, each in zip(results, hits, strict=True)
            )
            if not short:
                return [people[:wanted] if wanted else people for people in results]
            asked *= 2

    def revoke(self, application: str, subject_id: str, *, slot: int | None = None) -> int:
        """Revoke a subject, or one of its references, for ever.

        Returns:
            Number of references revoked.

        Raises:
            EnrolmentError: Not enrolled, or no such slot.
            RevokedError: Revoked already.
        """
        references = self._chosen(application, subject_id, slot)
        event = self.event("revoke", application, [subject_id] * len(references))
        buried = self.store.revoke(application, [each.record for each in references], event)
        self._remember(application, [(subject_id, each.record) for each in buried])
        return len(buried)

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
            EnrolmentError: Never enrolled, or the key is the application's and has not been
                rotated since: a template under the same key would be the old one.
            RevokedError: Keys of kind `part`, and the subject has used up every part.
        """
        found = self.store.application(application)
        check_subject_id(subject_id)
        old = self.store.references(application, subject_id)
        if slot is not None:
            old = [each for each in old if each.slot == slot]
        if not old and not (slot is None and self._was_revoked(application, subject_id)):
            raise self._absent(application, subject_id, slot)
        if found.key_mode == "application" and any(each.epoch == found.epoch for each in old):
            raise EnrolmentError(
                f"application {application} has one key for all: rotate it before you renew, or "
                "the new template is the old one"
            )
        rows = rows_of(embeddings)
        ids = [subject_id] * len(rows)
        new = self._new_references(found, ids, rows, [metadata] * len(rows), renewed=True)
        added = self.store.replace(old, new, self.event("renew", application, ids))
        self._remember(application, [(subject_id, each.record) for each in old])
        return added

    def rotate(self, application: str, *, retire: bool = False) -> Application:
        """Give an application with a common key a new one, for what is enrolled from now on.

        References under older keys stay valid until they are renewed, so that subjects can come
        one after the other. Where a key has leaked, `retire` revokes them all at once.
        """
        found = self.store.application(application)
        if found.key_mode != "application":
            raise EnrolmentError(f"application {application} has no common key; renew its subjects")
        following = dataclasses.replace(found, epoch=found.epoch + 1)
        self.store.update_application(following, self.event("rotate", application))
        after = -1
        while retire and (page := self.store.scan(application, after=after)):
            after = page[-1].record
            old = [each for each in page if each.epoch < following.epoch]
            event = self.event("revoke", application, [each.subject_id for each in old])
            if old:
                records = [each.record for each in old]
                self.store.revoke(application, records, event)
                self._remember(application, [(each.subject_id, each.record) for each in old])
        return following


def _one(embedding: NDArray[Any]) -> NDArray[np.float32]:
    rows = rows_of(embedding)
    if len(rows) != 1:
        raise EnrolmentError(f"expected one embedding, received {len(rows)}")
    return np.asarray(rows[0])

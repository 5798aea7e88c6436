"""A gallery that is searched in Milvus: the record in SQL, its codes in Milvus as binary vectors.

Milvus has no transaction over two rows and no unique numbers, so it cannot be the durable record:
a renewal or an entry of the audit log beside it would be half done after a crash. The record is
another store, and Milvus follows it (see `vector_index`).
"""

import logging
import re
import threading
import time
import urllib.parse
from collections.abc import Sequence

from iom.codes.distances import paired
from iom.codes.packing import PackedCodes
from iom.codes.words import bits_apart, words_of
from iom.errors import StoreError
from iom.gallery.audit import AuditEvent
from iom.gallery.delegating_store import DelegatingStore
from iom.gallery.milvus_link import MilvusLink, VectorLink
from iom.gallery.record import Application, Reference, Tombstone
from iom.gallery.store import Hit, RecordStore, open_store
from iom.gallery.vector_index import VectorIndex, packed

PREFIX = "iom"
_SHAPE = (
    "milvus://[user:password@]host[:port]/[database]?[prefix=NAME&][secure=true&]record=URL, or "
    "milvus:///path.db?record=URL for the embedded edition"
)
_PREFIX_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_PAUSE_SECONDS = 30.0
"""Writes do not wait for Milvus again that long after it gave no answer."""
_log = logging.getLogger(__name__)


def open_url(url: str, *, create: bool = False) -> "MilvusStore":
    """Store of a Milvus server and a record store; `record=` comes last, and its URL as it is.

    Raises:
        StoreError: The URL cannot be read (it is not repeated: there may be a password in it), or
            one of the two stores cannot be opened.
    """
    front, _, record_url = url.removeprefix("milvus://").partition("record=")
    place, mark, query = front.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    prefix = options.pop("prefix", PREFIX)
    secure = options.pop("secure", "false")
    authority, _, path = place.partition("/")
    credentials, _, server = authority.rpartition("@")
    wrong = not mark or not record_url or not place.strip("/") or "@" in path + credentials
    if wrong or options or secure not in ("true", "false") or not _PREFIX_NAME.fullmatch(prefix):
        raise StoreError(f"record store: expected {_SHAPE}; received another form")
    if record_url.startswith("milvus:"):
        raise StoreError("record store: the record of a gallery in Milvus is one in SQL")
    if server:
        uri = f"{'https' if secure == 'true' else 'http'}://{server}"
        uri += "" if ":" in server.rpartition("]")[2] else ":19530"
    elif path.endswith(".db"):
        uri = path
    else:
        raise StoreError("record store: milvus:///path: expected a path that ends in .db")
    link = MilvusLink(
        uri,
        name=f"milvus://{server}/{path}",
        secret=urllib.parse.unquote(credentials),
        database=path if server else "",
    )
    try:
        record = open_store(record_url, create=create)
    except BaseException:
        link.close()
        raise
    return MilvusStore(record, link, prefix=prefix)


class MilvusStore(DelegatingStore):
    """Writes go to the record and are durable there; then Milvus is brought up to it.

    When Milvus cannot be reached after a write, the write is done all the same, which a warning
    says; Milvus follows before the next search. A search asks Milvus, and believes it no more than
    it must: each hit is looked up in the record, its distance computed from the code there.

    Args:
        record: The durable store.
        link: Where the vectors are.
        prefix: Of the names of the collections.
    """

    def __init__(self, record: RecordStore, link: VectorLink, *, prefix: str = PREFIX) -> None:
        super().__init__(record)
        self._link = link
        self._index = VectorIndex(record, link, prefix)
        self._lock = threading.RLock()
        self._paused_until = 0.0

    def update_application(self, application: Application, event: AuditEvent) -> None:
        """See `RecordStore.update_application`."""
        super().update_application(application, event)
        self._follow(application.name)

    def add(
        self, references: Sequence[Reference], event: AuditEvent, *, new_subjects: bool = True
    ) -> list[Reference]:
        """See `RecordStore.add`."""
        added = super().add(references, event, new_subjects=new_subjects)
        if added:
            self._follow(added[0].application)
        return added

    def replace(
        self, old: Sequence[Reference], new: Sequence[Reference], event: AuditEvent
    ) -> list[Reference]:
        """See `RecordStore.replace`."""
        added = super().replace(old, new, event)
        self._follow(added[0].application)
        return added

    def revoke(
        self, application: str, records: Sequence[int], event: AuditEvent
    ) -> list[Tombstone]:
        """See `RecordStore.revoke`; the vectors are deleted, too."""
        buried = super().revoke(application, records, event)
        self._follow(application)
        return buried

    def search(
        self,
        application: str,
        epoch: int,
        probe: PackedCodes,
        *,
        top: int = 0,
        threshold: int | None = None,
    ) -> list[Hit] | None:
        """See `RecordStore.search`.

        Raises:
            StoreError: Milvus cannot be reached, or holds other vectors than the record has codes.
        """
        found = self.record.application(application)
        if not _is_searched(found):
            return None
        if threshold is not None and threshold < 0:
            return []
        try:
            return self._search(found, epoch, probe, top, threshold)
        except StoreError:
            self._index.distrust(application)  # another process may have made it anew meanwhile
        return self._search(found, epoch, probe, top, threshold)

    def check(self) -> list[str]:
        """See `RecordStore.check`; vectors are compared with the codes they stand for."""
        problems = self.record.check()
        if problems:
            return problems
        try:
            with self._lock:
                for application in filter(_is_searched, self.record.applications()):
                    problems += self._index.problems(application)
        except StoreError as error:
            problems.append(str(error))
        return problems

    def erase(self) -> None:
        """See `RecordStore.erase`; all collections are made anew and the old ones dropped."""
        self.record.erase()
        with self._lock:
            searched = list(filter(_is_searched, self.record.applications()))
            self._index.forget([application.name for application in searched])
            for application in searched:
                self._index.rebuild(application)
            self._link.compact()

    def close(self) -> None:
        """See `RecordStore.close`."""
        self.record.close()
        self._link.close()

    def _follow(self, name: str) -> None:
        """Bring Milvus up to a write that is done, whatever becomes of this."""
        if time.monotonic() < self._paused_until:
            return
        try:
            application = self.record.application(name)
            if _is_searched(application):
                with self._lock:
                    self._index.follow(application)
        except StoreError as error:
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
            _log.warning("written, but Milvus will follow later: %s", error)

    def _search(
        self,
        application: Application,
        epoch: int,
        probe: PackedCodes,
        top: int,
        threshold: int | None,
    ) -> list[Hit]:
        with self._lock:
            mark = self._index.follow(application)
        word = words_of(probe)[0].tobytes()
        apart = bits_apart(probe.alphabet_size)
        limit = probe.code_length if threshold is None else threshold
        collection = self._index.collection(application.name, mark, epoch)
        while True:
            if threshold is None and top:
                near = self._index.nearest(collection, word, top)
            else:
                near = self._index.within(collection, word, apart * limit)
            ordered = sorted((each.distance // apart, each.record) for each in near)
            hits = [Hit(record, distance) for distance, record in ordered]
            hits = hits[:top] if top else hits
            gone = self._not_valid(application, epoch, probe, hits)
            if not gone:
                return hits
            self._index.delete(application.name, mark, epoch, gone)

    def _not_valid(
        self, application: Application, epoch: int, probe: PackedCodes, hits: Sequence[Hit]
    ) -> list[int]:
        """Records of hits that the record store does not know as valid."""
        records = [hit.record for hit in hits]
        valid = {
            reference.record: reference
            for reference in self.record.by_record(application.name, records)
            if reference.epoch == epoch
        }
        kept = [hit for hit in hits if hit.record in valid]
        if kept:
            codes = packed(application, [valid[hit.record] for hit in kept])
            probes = PackedCodes(
                probe.planes.repeat(len(kept), axis=0), probe.code_length, probe.alphabet_size
            )
            if paired(probes, codes).tolist() != [hit.distance for hit in kept]:
                raise StoreError(
                    f"application {application.name}: Milvus holds other vectors than the record "
                    "has codes: somebody changed them there. iom erase makes them anew"
                )
        return [record for record in records if record not in valid]


def _is_searched(application: Application) -> bool:
    """Whether codes can be compared without any further key; only those are given to Milvus."""
    return application.key_mode == "application" and not application.masked

"""Vectors in a database that follow a record store: brought up to it, searched, checked, rebuilt.

The vectors are only ever a copy. A mark beside them says which version of the application they
hold in full, and an entry of the audit log that belongs to it: a record store with another history
(an older copy was put back) is noticed, and the vectors are made anew. Everything that is done may
be done twice, by several processes at a time, or be cut off anywhere: vectors are written before
the mark, and what was revoked meanwhile is read after they were written and deleted again.
"""

import re
import secrets
from collections.abc import Iterator, Sequence

import numpy as np

from iom.codes.packing import PackedCodes, plane_count, word_count
from iom.codes.words import dimension, words_of
from iom.errors import CodeError, StoreError
from iom.gallery.milvus_link import MOST_ROWS, Mark, Near, Row, VectorLink
from iom.gallery.record import Application, Reference, code_bytes, encoding_shape
from iom.gallery.store import RecordStore

END = 2**62
"""Above all record numbers."""
_MORE = 32


class VectorIndex:
    """Collections of one gallery: one for each application and key epoch.

    Args:
        record: What they follow.
        link: Where they are.
        prefix: Their names begin with it; another gallery in the same database needs another.
    """

    def __init__(self, record: RecordStore, link: VectorLink, prefix: str) -> None:
        self._record = record
        self._link = link
        self._prefix = prefix
        self._marks = f"{prefix}_marks"
        self._known: dict[str, str] = {}

    def follow(self, application: Application) -> Mark:
        """Bring the vectors of an application up to its record; the mark they have now."""
        name = application.name
        mark = self._link.mark(self._marks, _hex(name))
        version = self._record.version(name)
        if mark is None or not self._is_trusted(mark, version):
            return self.rebuild(application)
        is_known = self._known.get(name) == mark.generation
        # What became of the vectors in any other way than through here is noticed once a process.
        if not is_known and not self._are_there(application, mark):
            return self.rebuild(application)
        if mark.version < version:
            mark = self._bring_up(application, mark)
        if not is_known and not self._counts(application, mark):
            return self.rebuild(application)
        self._known[name] = mark.generation
        return mark

    def distrust(self, application: str) -> None:
        """Look again whether everything is there, the next time."""
        self._known.pop(application, None)

    def rebuild(self, application: Application) -> Mark:
        """Make all collections of an application anew, and drop what was there."""
        mark = self._bring_up(application, Mark(secrets.token_hex(6), 0, 0, 0, ""))
        for collection, name, generation in self._ours():
            if name == _hex(application.name) and generation != mark.generation:
                self._link.drop(collection)
        self._known[application.name] = mark.generation
        return mark

    def forget(self, names: Sequence[str]) -> None:
        """Drop collections of applications that are not among `names`."""
        kept = set(map(_hex, names))
        for collection, name, _ in self._ours():
            if name not in kept:
                self._link.drop(collection)

    def nearest(self, collection: str, word: bytes, top: int) -> list[Near]:
        """The `top` nearest and all others as far as the last of them, in any order."""
        asked = min(top + _MORE, MOST_ROWS)
        found = sorted(self._search(collection, word, asked, END), key=lambda near: near.distance)
        if len(found) < asked:
            return found
        if top >= asked:
            return self.within(collection, word, END)
        # Which of those at the same distance Milvus leaves out is its own choice.
        limit = found[top - 1].distance
        return found if found[-1].distance > limit else self.within(collection, word, limit)

    def within(
        self, collection: str, word: bytes, limit: int, first: int = 0, end: int = END
    ) -> list[Near]:
        """All at most `limit` bits away, in any order."""
        found = self._search(collection, word, MOST_ROWS, limit, first, end)
        if len(found) < MOST_ROWS:
            return found
        middle = sorted(near.record for near in found)[MOST_ROWS // 2]
        lower = self.within(collection, word, limit, first, middle)
        return lower + self.within(collection, word, limit, middle, end)

    def delete(self, application: str, mark: Mark, epoch: int, records: Sequence[int]) -> None:
        """Delete vectors of records that are not valid."""
        self._link.delete(self.collection(application, mark, epoch), records)

    def problems(self, application: Application) -> Iterator[str]:
        """Where vectors and records differ, in words."""
        mark, name = self.follow(application), application.name
        present = 0
        for epoch in range(mark.epochs):
            for rows in self._pages(self.collection(name, mark, epoch), 0, END):
                valid = self._words(application, epoch, [row.record for row in rows])
                present += len(valid)
                excess = sum(row.record not in valid for row in rows)
                other = sum(valid.get(row.record, row.word) != row.word for row in rows)
                if excess:
                    yield f"application {name}: {excess} vectors in Milvus are of no valid record"
                if other:
                    yield f"application {name}: {other} vectors in Milvus are not those of the code"
        missing = self._record.stats(name).references - present
        if missing > 0 and self._record.version(name) == mark.version:
            yield f"application {name}: {missing} vectors are missing in Milvus"

    def collection(self, application: str, mark: Mark, epoch: int) -> str:
        """Name of the collection of an epoch."""
        return f"{self._prefix}_{_hex(application)}_{mark.generation}_{epoch}"

    def _ours(self) -> Iterator[tuple[str, str, str]]:
        """Collections under the prefix: name, application as in `_hex`, generation."""
        form = re.compile(rf"{self._prefix}_([0-9a-f]+)_([0-9a-f]{{12}})_\d+")
        for collection in self._link.collections():
            match = form.fullmatch(collection)
            if match:
                yield collection, match[1], match[2]

    def _is_trusted(self, mark: Mark, version: int) -> bool:
        """Whether the record store has the history that the vectors were made from."""
        if mark.version > version:
            return False
        entries = self._record.audit(after=mark.sequence - 1, limit=1)
        return bool(entries) and entries[0].digest.hex() == mark.digest

    def _are_there(self, application: Application, mark: Mark) -> bool:
        there = set(self._link.collections())
        return there.issuperset(
            self.collection(application.name, mark, epoch) for epoch in range(mark.epochs)
        )

    def _bring_up(self, application: Application, mark: Mark) -> Mark:
        """Write what was added since the mark, delete what was revoked, and set the mark."""
        name = application.name
        # In this order: an entry that is not older than the version, and an epoch that is not.
        version, head = self._record.version(name), self._record.audit_head()
        application = self._record.application(name)
        sequence, digest = (head.sequence, head.digest.hex()) if head else (0, "")
        bits = dimension(*encoding_shape(application.encoding))
        for epoch in range(application.epoch + 1):
            self._link.create(self.collection(name, mark, epoch), bits)
        after = -1
        while page := self._record.scan(name, after=after, since=mark.version):
            after = page[-1].record
            for epoch in sorted({reference.epoch for reference in page}):
                of_epoch = [reference for reference in page if reference.epoch == epoch]
                collection = self.collection(name, mark, epoch)
                if epoch > application.epoch:  # rotated a moment ago
                    self._link.create(collection, bits)
                self._link.put(collection, _rows(application, of_epoch))
        stones = self._record.tombstones(name, since=mark.version)
        gone = [stone.record for stone in stones]
        for epoch in range(application.epoch + 1):
            if gone:
                self._link.delete(self.collection(name, mark, epoch), gone)
        mark = Mark(mark.generation, application.epoch + 1, version, sequence, digest)
        self._link.set_mark(self._marks, _hex(name), mark)
        return mark

    def _counts(self, application: Application, mark: Mark) -> bool:
        """Whether there are as many vectors as references, unless somebody is writing just now."""
        name = application.name
        count = sum(
            self._link.count(self.collection(name, mark, epoch)) for epoch in range(mark.epochs)
        )
        wanted = self._record.stats(name).references
        return count == wanted or self._record.version(name) != mark.version

    def _words(
        self, application: Application, epoch: int, records: Sequence[int]
    ) -> dict[int, bytes]:
        """Words that valid records among `records` should have."""
        found = self._record.by_record(application.name, records)
        of_epoch = [reference for reference in found if reference.epoch == epoch]
        return dict(_rows(application, of_epoch)) if of_epoch else {}

    def _pages(self, collection: str, first: int, end: int) -> Iterator[list[Row]]:
        rows = self._link.between(collection, first, end)
        if len(rows) < MOST_ROWS:
            if rows:
                yield rows
            return
        middle = sorted(row.record for row in rows)[MOST_ROWS // 2]
        yield from self._pages(collection, first, middle)
        yield from self._pages(collection, middle, end)

    def _search(
        self, collection: str, word: bytes, limit: int, within: int, first: int = 0, end: int = END
    ) -> list[Near]:
        within = min(within, 8 * len(word))
        return self._link.search(collection, word, limit=limit, within=within, first=first, end=end)


def packed(application: Application, references: Sequence[Reference]) -> PackedCodes:
    """Codes of references that are under no mask.

    Raises:
        StoreError: A code of a wrong length.
    """
    shape = encoding_shape(application.encoding)
    size = code_bytes(application.encoding)
    if any(len(reference.code) != size for reference in references):
        raise StoreError(
            f"application {application.name}: a code has a wrong length; run iom check"
        )
    joined = b"".join(reference.code for reference in references)
    words = (len(references), plane_count(shape[1]), word_count(shape[0]))
    planes = np.frombuffer(joined, "<u8").astype(np.uint64).reshape(words)
    return PackedCodes(planes, *shape)


def _rows(application: Application, references: Sequence[Reference]) -> list[Row]:
    try:
        words = words_of(packed(application, references))
    except CodeError as error:
        raise StoreError(
            f"application {application.name}: a code is damaged; take the record from a backup"
        ) from error
    pairs = zip(references, words, strict=True)
    return [Row(reference.record, word.tobytes()) for reference, word in pairs]


def _hex(name: str) -> str:
    """A name for Milvus, which takes letters, digits and `_` only."""
    return name.encode().hex()

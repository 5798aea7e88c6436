"""Identification: codes in memory that follow the record store, and subjects of the nearest codes."""

import dataclasses
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iom.codes.asymmetric import SYMBOLS, CodeVectors
from iom.codes.distances import Neighbours, nearest, paired, within
from iom.codes.packing import PackedCodes, encoding_shape, pack, plane_count, unpack, word_count
from iom.codes.scan import InterleavedCodes, grown
from iom.errors import StoreError
from iom.gallery.key_store import KeyStore
from iom.gallery.models import ALL, Application, Reference, Shard
from iom.gallery.templates import check_seal, record_keys, unmasked, with_token
from iom.keys import SubjectToken
from iom.models.face_hasher import FaceHasher

if TYPE_CHECKING:
    from iom.gallery.stores.base import RecordStore

Probe: TypeAlias = PackedCodes | NDArray[np.int32]
"""What is compared with the codes of an epoch: the code of a probe under its key, or its keyed row `(1, K)`."""
_MIN_CAPACITY = 1024
_MAX_DELETED = 256
_CANDIDATES_A_BATCH = 1024


class Hit(NamedTuple):
    """A record and its distance to a probe."""

    record: int
    distance: int


class Found(NamedTuple):
    """Hits among the codes of a version of the record store, and the key epochs that it has."""

    hits: list[Hit]
    version: int
    epochs: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A subject found by a search: distance, slot and record number of its nearest reference."""

    subject_id: str
    distance: int
    match: bool
    slot: int
    record: int


class _PlaneCodes:
    """Codes in memory as bit planes, for searches by differing positions; changed in place."""

    def __init__(self, code_length: int, alphabet_size: int, *, capacity: int) -> None:
        self._shape = (code_length, alphabet_size)
        words = (plane_count(alphabet_size), word_count(code_length))
        self._planes: NDArray[np.uint64] = np.empty((capacity, *words), np.uint64)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        return self._planes.nbytes

    def append(self, codes: PackedCodes) -> None:
        needed = self._size + len(codes)
        if needed > len(self._planes):
            self._planes = grown(self._planes, self._size, max(needed, 2 * len(self._planes)))
        self._planes[self._size : needed] = codes.planes
        self._size = needed

    def clear(self, row: int) -> None:
        self._planes[row] = 0

    def keep(self, rows: NDArray[np.intp]) -> None:
        """Keep some rows, in this order; plane by plane, since a whole copy would double the memory."""
        for plane in range(self._planes.shape[1]):
            self._planes[: len(rows), plane] = self._planes[rows, plane]
        self._planes[len(rows) : self._size] = 0
        self._size = len(rows)

    def nearest(self, probe: PackedCodes, k: int) -> Neighbours:
        return nearest(probe, self._packed(), k)

    def within(self, probe: PackedCodes, threshold: float) -> Neighbours:
        return within(probe, self._packed(), threshold)

    def _packed(self) -> PackedCodes:
        return PackedCodes(self._planes[: self._size], *self._shape)


class CodeIndex:
    """Codes of one application and key epoch in memory, by record number; changed in place.

    A row takes its code and 8 bytes: twice the record number, plus 1 where the row is deleted. A code takes its bit
    planes (200 bytes in all for 512x8), or for asymmetric distance its interleaved words and 8 bytes more (80 in all
    for 512x2). Deleted rows are zeroed, left out of results, and removed when there are many. Unused capacity is
    address space only, which the system backs with memory when it is written to.

    Args:
        code_length: M.
        alphabet_size: Q.
        capacity: Rows to make room for.
        vectors: What the symbols stand for, to search by asymmetric distance; `None` counts differing positions.
    """

    def __init__(
        self, code_length: int, alphabet_size: int, *, capacity: int = 0, vectors: CodeVectors | None = None
    ) -> None:
        rows = max(capacity, _MIN_CAPACITY)
        self._codes: Any = (
            _PlaneCodes(code_length, alphabet_size, capacity=rows)
            if vectors is None
            else InterleavedCodes(vectors, capacity=rows)
        )
        self._marks: NDArray[np.int64] = np.empty(rows, np.int64)
        self._deleted = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._codes) - self._deleted

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that there is room for."""
        return int(self._codes.nbytes) + self._marks.nbytes

    def append(self, records: Sequence[int] | NDArray[np.int64], codes: PackedCodes) -> None:
        """Add codes; records that are present already are left as they are."""
        numbers = np.asarray(records, np.int64)
        with self._lock:
            fresh = np.flatnonzero(~self._holds(numbers))
            if not len(fresh):
                return
            fresh = fresh[np.argsort(numbers[fresh], kind="stable")]
            size = len(self._codes)
            needed = size + len(fresh)
            if needed > len(self._marks):
                self._marks = grown(self._marks, size, max(needed, 2 * len(self._marks)))
            self._marks[size:needed] = 2 * numbers[fresh]
            self._codes.append(codes[fresh])
            if size and self._marks[size] < self._marks[size - 1]:
                self._keep(np.argsort(self._marks[:needed], kind="stable"))  # lower numbers were committed later

    def delete(self, records: Sequence[int]) -> None:
        """Delete records; absent ones are ignored."""
        with self._lock:
            for record in records:
                row = int(np.searchsorted(self._used(), 2 * record))
                if row < len(self._codes) and self._marks[row] == 2 * record:
                    self._marks[row] += 1
                    self._codes.clear(row)  # the code of a revoked record is not kept in memory
                    self._deleted += 1
            if self._deleted > _MAX_DELETED:
                self._keep(np.flatnonzero(self._used() & 1 == 0))
                self._deleted = 0

    def search(self, probe: Probe, *, top: int, threshold: int | None) -> list[Hit]:
        """Records within `threshold` of one probe, or the `top` nearest: nearest first, the lowest record in a tie."""
        with self._lock:
            if not len(self):
                return []
            if threshold is None:
                count = min(top + self._deleted, len(self._codes))
                rows, distances = (each[0] for each in self._codes.nearest(probe, count))
            else:
                rows, distances = self._codes.within(probe, threshold)
            marks = self._marks[rows]
            valid = marks & 1 == 0
            hits = list(map(Hit, (marks[valid] >> 1).tolist(), distances[valid].tolist()))
            return hits[:top] if threshold is None else hits

    def _used(self) -> NDArray[np.int64]:
        return self._marks[: len(self._codes)]

    def _holds(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        marks = self._used() >> 1
        if not len(marks):
            return np.zeros(len(numbers), bool)
        rows = np.minimum(np.searchsorted(marks, numbers), len(marks) - 1)
        return np.asarray(marks[rows] == numbers)

    def _keep(self, rows: NDArray[np.intp]) -> None:
        self._marks[: len(rows)] = self._marks[rows]
        self._codes.keep(rows)


class Searcher:
    """Searches the applications of a store.

    With one key an epoch, a probe is hashed once and compared with a matrix in memory. With one key a record, it is
    hashed under the key of every reference, in batches: about a thousand times slower. References that need a token of
    their subject are left out.

    Args:
        store: Record store.
        keys: Its key store.
        shard: The records that are held in memory.
    """

    def __init__(self, store: "RecordStore", keys: KeyStore, *, shard: Shard = ALL) -> None:
        self._store = store
        self._keys = keys
        self._shard = shard
        self._indexes: dict[tuple[str, bool], tuple[int, dict[int, CodeIndex]]] = {}
        self._lock = threading.RLock()

    def search(
        self,
        application: Application,
        hasher: FaceHasher,
        embedding: NDArray[np.float32],
        *,
        top: int,
        threshold: int | None,
    ) -> list[Hit]:
        """The `top` nearest of a probe `(D,)`, or all within `threshold`."""
        name = application.name
        if application.key_mode == "application":
            vectors = None if application.comparison == SYMBOLS else hasher.vectors
            epochs = frozenset(self.refresh(application, vectors))
            while True:
                probes = make_probes(self._keys, application, hasher, embedding, epochs)
                found = self.nearest(application, probes, top=top, threshold=threshold, vectors=vectors)
                if found.epochs <= epochs:
                    return found.hits
                epochs = found.epochs  # the key was rotated meanwhile
        hits = []
        revoked = self._keys.revoked(name)
        for page in self._store.pages(name, limit=_CANDIDATES_A_BATCH):
            page = [each for each in page if each.record not in revoked and not each.token]
            distances = distances_to(self._keys, application, hasher, page, embedding).tolist()
            hits += [Hit(reference.record, distance) for reference, distance in zip(page, distances, strict=True)]
            hits = best_hits(hits, top, threshold)
            near = {hit.record for hit in hits}
            for reference in page:
                if reference.record in near:
                    check_seal(self._keys, reference)
        if self._is_masked_now(application):
            return self.search(self._store.application(name), hasher, embedding, top=top, threshold=threshold)
        return hits

    def close(self) -> None:
        """Forget the codes in memory."""
        self._indexes.clear()

    def nearest(
        self,
        application: Application,
        probes: Mapping[int, Probe],
        *,
        top: int,
        threshold: int | None,
        version: int | None = None,
        vectors: CodeVectors | None = None,
    ) -> Found:
        """The `top` nearest of the codes in memory, or all within `threshold`, by the probe of their epoch.

        With `vectors`, probes are keyed rows and distances asymmetric; else codes, and distances differing positions.
        The record store is asked for writes of this and other processes, unless the codes in memory are those of the
        given `version`.
        """
        known, place = -1, (application.name, vectors is not None)
        while known != self._indexes.get(place, (0,))[0]:  # else another thread has deleted codes meanwhile
            known, indexes = self._indexes_of(application, vectors, version)
            hits: list[Hit] = []
            for epoch, index in sorted(indexes.items()):
                if epoch in probes:
                    hits += index.search(probes[epoch], top=top, threshold=threshold)
        return Found(best_hits(hits, top, threshold), known, frozenset(indexes))

    def candidates(self, application: Application, hits: Sequence[Hit], threshold: int) -> tuple[list[Candidate], bool]:
        """Subjects of hits, each once, without those revoked since the search, and whether there are such."""
        revoked = self._keys.revoked(application.name)
        records = [hit.record for hit in hits if hit.record not in revoked]
        references = {reference.record: reference for reference in self._store.by_record(application.name, records)}
        found: dict[str, Candidate] = {}
        for record, distance in hits:
            reference = references.get(record)
            if reference is None or reference.subject_id in found:
                continue
            check_seal(self._keys, reference)
            found[reference.subject_id] = Candidate(
                reference.subject_id, distance, distance <= threshold, reference.slot, record
            )
        return list(found.values()), len(references) < len(hits)

    def refresh(self, application: Application, vectors: CodeVectors | None = None) -> dict[int, CodeIndex]:
        """Indexes by epoch, with all writes of this and other processes; `vectors` as of `nearest`."""
        return self._indexes_of(application, vectors)[1]

    def _indexes_of(
        self, application: Application, vectors: CodeVectors | None, wanted: int | None = None
    ) -> tuple[int, dict[int, CodeIndex]]:
        """Version and indexes by epoch: those of a `wanted` version if it is in memory, else the newest."""
        name = application.name
        place = (name, vectors is not None)
        with self._lock:
            known, indexes = self._indexes.get(place, (0, {}))
            if wanted is not None and wanted == known:
                return known, indexes
            version = self._store.version(name)
            if version == known:
                return known, indexes
            if version < known:  # an older copy of the store was put back
                known, indexes = 0, {}
            # Revocations of this version and no later one, and then what was added by then or later: of a renewal that
            # is under way, the new reference is never missing where the old one is.
            revoked = self._revoked_since(name, known)
            while (newer := self._store.version(name)) != version:
                version, revoked = newer, self._revoked_since(name, known)
            capacity = 0 if known else -(-self._store.stats(name).references // self._shard.shards)
            indexes = dict(indexes)
            for page in self._store.pages(name, since=known, shard=self._shard):
                self._append(application, indexes, page, capacity, vectors)
            if self._is_masked_now(application):
                self._indexes.pop(place, None)
                return self._indexes_of(self._store.application(name), vectors)
            self._indexes[place] = version, indexes  # before codes are deleted, so that searches see that they were
            for index in indexes.values():
                index.delete(revoked)
            indexes = {epoch: index for epoch, index in indexes.items() if len(index)}
            self._indexes[place] = version, indexes
            return version, indexes

    def _revoked_since(self, name: str, version: int) -> list[int]:
        return [stone.record for stone in self._store.tombstones(name, since=version)]

    def _is_masked_now(self, application: Application) -> bool:
        """Whether codes that were read as those of an application without masks may have been under masks."""
        return not application.masked and self._store.application(application.name).masked

    def _append(
        self,
        application: Application,
        indexes: dict[int, CodeIndex],
        page: Sequence[Reference],
        capacity: int,
        vectors: CodeVectors | None,
    ) -> None:
        revoked = self._keys.revoked(application.name)
        page = [reference for reference in page if reference.record not in revoked]
        for reference in page:  # a code that was changed for a moment would match from then on
            check_seal(self._keys, reference)
        for epoch in sorted({reference.epoch for reference in page}):
            of_epoch = [reference for reference in page if reference.epoch == epoch]
            try:
                codes = unmasked(self._keys, application, of_epoch)
            except StoreError:
                revoked = self._keys.revoked(application.name)
                if not any(reference.record in revoked for reference in of_epoch):
                    raise
                self._append(application, indexes, page, capacity, vectors)  # one was revoked meanwhile, with its mask
                return
            if epoch not in indexes:
                shape = encoding_shape(application.encoding)
                indexes[epoch] = CodeIndex(*shape, capacity=capacity, vectors=vectors)
            indexes[epoch].append([reference.record for reference in of_epoch], codes)


def distances_to(
    keys: KeyStore,
    application: Application,
    hasher: FaceHasher,
    references: Sequence[Reference],
    embedding: NDArray[np.float32],
    *,
    token: SubjectToken | None = None,
) -> NDArray[np.int32]:
    """Distance of a probe under the key of each reference to that reference, `(N,)`, as the application compares.

    `token` is the one that the keys of all of them need.
    """
    if not references:
        return np.zeros(0, np.int32)
    places = [(entry.subject_id, entry.record, entry.epoch) for entry in references]
    rows = np.repeat(embedding[None], len(references), axis=0)
    own_keys, stored = (
        with_token(record_keys(keys, application, places), token),
        unmasked(keys, application, references),
    )
    if application.comparison == SYMBOLS:
        return paired(pack(hasher.hash(rows, own_keys), hasher.alphabet_size), stored)
    return hasher.asymmetric_distances(unpack(stored), hasher.rows(rows, own_keys))


def make_probes(
    keys: KeyStore, application: Application, hasher: FaceHasher, embedding: NDArray[np.float32], epochs: Iterable[int]
) -> dict[int, Probe]:
    """A probe `(D,)` under the common key of each epoch: its code, or its keyed row, as the application compares."""
    wanted, row = sorted(epochs), embedding[None]
    made = dict(zip(wanted, keys.application_keys(application.name, wanted), strict=True))
    if application.comparison == SYMBOLS:
        return {epoch: pack(hasher.hash(row, key), hasher.alphabet_size) for epoch, key in made.items()}
    return {epoch: hasher.rows(row, key) for epoch, key in made.items()}


def best_hits(hits: list[Hit], top: int, threshold: int | None) -> list[Hit]:
    """Nearest first, the lowest record first in a tie; `top` 0 is all."""
    near = hits if threshold is None else [hit for hit in hits if hit.distance <= threshold]
    ordered = sorted(near, key=lambda hit: (hit.distance, hit.record))
    return ordered[:top] if top else ordered

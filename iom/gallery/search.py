"""Identification: the codes in memory follow the record store, and hits become subjects."""

import dataclasses
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iom.codes.distances import paired
from iom.codes.packing import PackedCodes, pack
from iom.gallery.index import CodeIndex
from iom.gallery.keys.key_store import KeyStore
from iom.gallery.models import Application, Reference, encoding_shape
from iom.gallery.stores.store import Hit, RecordStore
from iom.gallery.templates import check_seal, record_keys, unmasked
from iom.models.face_hasher import FaceHasher

_CANDIDATES_A_BATCH = 1024


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A subject that a search found.

    Attributes:
        subject_id: Who.
        distance: Of the nearest of its references.
        match: Whether that is at most the threshold.
        slot: Which reference.
        record: Its number.
    """

    subject_id: str
    distance: int
    match: bool
    slot: int
    record: int


class Searcher:
    """Searches the applications of a store.

    Where records share a key, the probe is hashed once an epoch and compared with a matrix in
    memory. Where each has its own, the probe is hashed under every candidate's key, in batches:
    about a thousand times slower, which is the price of keys that must be stolen one by one.

    Args:
        store: The record store.
        keys: The key store.
    """

    def __init__(self, store: RecordStore, keys: KeyStore) -> None:
        self._store = store
        self._keys = keys
        self._indexes: dict[str, dict[int, CodeIndex]] = {}
        self._versions: dict[str, int] = {}
        self._lock = threading.RLock()

    def search(
        self,
        application: Application,
        hasher: FaceHasher,
        embeddings: NDArray[np.float32],
        *,
        top: int,
        threshold: int | None,
    ) -> list[list[Hit]]:
        """Hits for each of `embeddings` `(N, D)`: the `top` nearest, or all within `threshold`."""
        if application.key_mode == "subject":
            return [self._each_key(application, hasher, row, top=top, threshold=threshold) for row in embeddings]
        found: list[list[Hit]] = [[] for _ in embeddings]
        for epoch in sorted(self.refresh(application)):
            key = self._keys.application_key(application.name, epoch)
            probes = pack(hasher.hash(embeddings, key), hasher.alphabet_size)
            for hits, more in zip(found, self._one_key(application, epoch, probes, top, threshold), strict=True):
                hits += more
        return [_best(hits, top, threshold) for hits in found]

    def candidates(self, application: Application, hits: Sequence[Hit], threshold: int) -> list[Candidate]:
        """Subjects of hits, each once; what was revoked since the search is left out."""
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
        return list(found.values())

    def refresh(self, application: Application) -> dict[int, CodeIndex]:
        """Matrices by epoch, with all that this and other processes have written."""
        name = application.name
        with self._lock:
            version, known = self._store.version(name), self._versions.get(name, 0)
            if version == known:
                return self._indexes.setdefault(name, {})
            if version < known:  # an older copy of the store was put back
                self._indexes.pop(name, None)
                known = 0
            indexes = self._indexes.setdefault(name, {})
            capacity = 0 if known else self._store.stats(name).references
            after = -1
            while page := self._store.scan(name, after=after, since=known):
                self._take_up(application, indexes, page, capacity)
                after = page[-1].record
            revoked = [stone.record for stone in self._store.tombstones(name, since=known)]
            for index in indexes.values():
                index.delete(revoked)
            for epoch in [epoch for epoch, index in indexes.items() if not len(index)]:
                del indexes[epoch]
            self._versions[name] = version
            return indexes

    def _take_up(
        self, application: Application, indexes: dict[int, CodeIndex], page: Sequence[Reference], capacity: int
    ) -> None:
        revoked = self._keys.revoked(application.name)
        page = [reference for reference in page if reference.record not in revoked]
        for reference in page:  # a code that was changed for a while would match ever after
            check_seal(self._keys, reference)
        for epoch in sorted({reference.epoch for reference in page}):
            of_epoch = [reference for reference in page if reference.epoch == epoch]
            if epoch not in indexes:
                shape = encoding_shape(application.encoding)
                indexes[epoch] = CodeIndex(*shape, capacity=capacity)
            records = [reference.record for reference in of_epoch]
            indexes[epoch].append(records, unmasked(self._keys, application, of_epoch))

    def _one_key(
        self, application: Application, epoch: int, probes: PackedCodes, top: int, threshold: int | None
    ) -> list[list[Hit]]:
        index = self.refresh(application).get(epoch)
        if index is None:
            return [[] for _ in range(len(probes))]
        if threshold is None:
            return index.nearest(probes, top)
        return index.within_each(probes, threshold)

    def _each_key(
        self,
        application: Application,
        hasher: FaceHasher,
        embedding: NDArray[np.float32],
        *,
        top: int,
        threshold: int | None,
    ) -> list[Hit]:
        revoked, hits, after = self._keys.revoked(application.name), [], -1
        while page := self._store.scan(application.name, after=after, limit=_CANDIDATES_A_BATCH):
            after = page[-1].record
            page = [reference for reference in page if reference.record not in revoked]
            distances = distances_to(self._keys, application, hasher, page, embedding)
            found = zip(page, distances.tolist(), strict=True)
            hits += [Hit(reference.record, distance) for reference, distance in found]
            hits = _best(hits, top, threshold)
            near = {hit.record for hit in hits}
            for reference in page:
                if reference.record in near:
                    check_seal(self._keys, reference)
        return hits


def distances_to(
    keys: KeyStore,
    application: Application,
    hasher: FaceHasher,
    references: Sequence[Reference],
    embedding: NDArray[np.float32],
) -> NDArray[np.int32]:
    """Distance of a probe, hashed under the key of each reference, to that reference, `(N,)`."""
    if not references:
        return np.zeros(0, np.int32)
    places = [(entry.subject_id, entry.record, entry.epoch) for entry in references]
    rows = np.repeat(embedding[None], len(references), axis=0)
    codes = hasher.hash(rows, record_keys(keys, application, places))
    return paired(pack(codes, hasher.alphabet_size), unmasked(keys, application, references))


def _best(hits: list[Hit], top: int, threshold: int | None) -> list[Hit]:
    """Nearest first, the lowest record first in a tie; `top` 0 is all."""
    near = hits if threshold is None else [hit for hit in hits if hit.distance <= threshold]
    ordered = sorted(near, key=lambda hit: (hit.distance, hit.record))
    return ordered[:top] if top else ordered

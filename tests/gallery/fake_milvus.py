"""Vectors in dictionaries, as unhelpful as Milvus may be: ties in the worst order, few rows a
time, and an error at any call that is asked for."""

import numpy as np

from iom.errors import StoreError
from iom.gallery import vector_index
from iom.gallery.milvus_link import Near, Row, VectorLink


class FakeMilvus:
    """What all clients see; `link()` makes one."""

    def __init__(self):
        self.vectors, self.marks = {}, {}

    def link(self, **options):
        return FakeLink(self, **options)


class FakeLink(VectorLink):
    """Fails at the call number `fails_at` and at each one after it."""

    def __init__(self, server, *, fails_at=10**9):
        self._server, self._left, self._closed = server, fails_at, False

    def _asked(self, collection=None):
        self._left -= 1
        if self._closed or self._left < 0:
            raise StoreError("no answer")
        if collection is not None and collection not in self._server.vectors:
            raise StoreError("collection not found")
        return self._server.vectors.get(collection)

    def collections(self):
        self._asked()
        return [*self._server.vectors, "somebody_elses"]

    def create(self, collection, dimension):
        self._asked()
        self._server.vectors.setdefault(collection, {})

    def drop(self, collection):
        self._asked()
        assert collection != "somebody_elses"
        self._server.vectors.pop(collection, None)

    def put(self, collection, rows):
        self._asked(collection).update(dict(rows))

    def delete(self, collection, records):
        held = self._asked(collection)
        for record in records:
            held.pop(record, None)

    def between(self, collection, first, end):
        rows = [Row(*item) for item in self._asked(collection).items() if first <= item[0] < end]
        return rows[: vector_index.MOST_ROWS]

    def count(self, collection):
        return len(self._asked(collection))

    def search(self, collection, word, *, limit, within, first, end):
        assert 1 <= limit <= vector_index.MOST_ROWS
        probe, near = np.frombuffer(word, np.uint8), []
        for record, other in self._asked(collection).items():
            distance = int(np.bitwise_count(probe ^ np.frombuffer(other, np.uint8)).sum())
            if first <= record < end and distance <= within:
                near.append(Near(record, distance))
        return sorted(near, key=lambda each: (each.distance, -each.record))[:limit]

    def mark(self, marks, name):
        self._asked()
        return self._server.marks.get(name)

    def set_mark(self, marks, name, mark):
        self._asked()
        self._server.marks[name] = mark

    def compact(self):
        self._asked()

    def close(self):
        self._closed = True

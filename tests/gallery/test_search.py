"""The codes in memory against a dictionary."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iom.codes.packing import pack
from iom.gallery import search as module
from iom.gallery.models import Shard
from iom.gallery.search import CodeIndex, Searcher, best_hits, make_probes
from tests.gallery.conftest import faces

CODES = np.random.default_rng(1).integers(0, 4, (40, 70)).astype(np.uint8)


def ranked(held, probe):
    pairs = [(int((CODES[r] != probe).sum()), r) for r in held]
    return [(record, distance) for distance, record in sorted(pairs)]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 39), min_size=1)), max_size=12))
def test_any_order_of_appending_and_deleting(steps):
    index, held, ever = CodeIndex(70, 4), set(), set()
    for appends, records in steps:
        if appends:
            new = sorted(set(records) - ever)
            ever |= set(new)
            held |= set(new)
            index.append(new, pack(CODES[new], 4))
        else:
            held -= set(records)
            index.delete(records)
    probe = CODES[3]
    packed = pack(probe[None], 4)
    assert len(index) == len(held)
    assert [tuple(hit) for hit in index.search(packed, top=5, threshold=None)] == ranked(held, probe)[:5]
    near = [pair for pair in ranked(held, probe) if pair[1] <= 50]
    assert [tuple(hit) for hit in index.search(packed, top=0, threshold=50)] == near


def test_many_deletions_are_squeezed_out(monkeypatch):
    monkeypatch.setattr(module, "_MAX_DELETED", 3)
    index = CodeIndex(70, 4)
    index.append(range(40), pack(CODES, 4))
    index.delete(range(0, 40, 2))
    assert [hit.record for hit in index.search(pack(CODES[7:8], 4), top=1, threshold=None)] == [7]
    assert len(index.search(pack(CODES[:1], 4), top=99, threshold=None)) == len(index) == 20


def test_two_hundred_bytes_a_template():
    index = CodeIndex(512, 8, capacity=5000)
    held = index._planes.nbytes + index._marks.nbytes
    assert held == 5000 * 200


def shards_of(gallery, count):
    return [Searcher(gallery.store, gallery.keys, shard=Shard(number, count)) for number in range(count)]


def asked(searcher, gallery, embedding, *, epochs):
    found = gallery.application("door")
    probes = make_probes(gallery.keys, found, gallery.hasher, embedding, epochs)
    return searcher.nearest(found, probes, top=0, threshold=96)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_have_every_record_once(place, count):
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode="application")
    rows = faces(23)
    rows[5], rows[17] = rows[2], rows[2]  # ties
    gallery.enroll_many([f"s{i}" for i in range(23)], rows, application="door")
    gallery.rotate(application="door")
    gallery.renew("s3", rows[3], application="door")
    gallery.revoke("s8", application="door")
    whole = asked(Searcher(gallery.store, gallery.keys), gallery, rows[2], epochs=(0, 1))
    parts = [asked(each, gallery, rows[2], epochs=(0, 1)) for each in shards_of(gallery, count)]
    assert best_hits([hit for part in parts for hit in part.hits], 0, None) == whole.hits
    assert len(whole.hits) == 22
    assert [hit.record for hit in whole.hits[:3]] == [2, 5, 17]
    assert frozenset().union(*(part.epochs for part in parts)) == whole.epochs == {0, 1}
    assert {part.version for part in parts} == {gallery.store.version("door")}


def test_the_record_store_is_not_asked_for_a_version_in_memory(place, monkeypatch):
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode="application")
    gallery.enroll("ann", faces(1), application="door")
    searcher = Searcher(gallery.store, gallery.keys)
    first = asked(searcher, gallery, faces(1)[0], epochs=[0])
    application = gallery.application("door")
    probes = make_probes(gallery.keys, application, gallery.hasher, faces(1)[0], [0])
    monkeypatch.setattr(gallery.store, "version", None)
    assert searcher.nearest(application, probes, top=0, threshold=96, version=first.version) == first
    with pytest.raises(TypeError):
        searcher.nearest(application, probes, top=0, threshold=96, version=first.version + 1)


@pytest.mark.parametrize("moment", ["version", "tombstones", "pages", "search"])
def test_a_renewal_in_the_middle_of_a_search_loses_nobody(place, monkeypatch, moment):
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode="application")
    gallery.enroll_many(["ann", "bob"], faces(2), application="door")
    gallery.identify(faces(2)[0], application="door")
    owner = Searcher if moment == "search" else gallery.store
    real, calls = getattr(owner, moment), []

    def renewed(*args, **settings):
        result = real(*args, **settings)
        if not calls:
            calls.append(moment)
            other = place.open()
            other.rotate(application="door")
            other.renew("ann", faces(2)[0], application="door")
        return result

    gallery.enroll("cid", faces(3)[2], application="door")
    monkeypatch.setattr(owner, moment, renewed)
    found = gallery.identify(faces(2)[0], application="door")
    assert [(each.subject_id, each.distance) for each in found] == [("ann", 0)]
    assert calls


def test_a_record_that_loses_its_mask_while_it_is_loaded_is_left_out(place, monkeypatch):
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode="application")
    gallery.enroll_many(["ann", "bob"], faces(2), application="door")
    real, calls = gallery.keys.masks, []

    def masks(application, records):
        if not calls:
            calls.append(records)
            place.open().revoke("ann", application="door")
        return real(application, records)

    monkeypatch.setattr(gallery.keys, "masks", masks)
    found = gallery.identify(faces(2)[1], application="door")
    assert [each.subject_id for each in found] == ["bob"]
    assert calls

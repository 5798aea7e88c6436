"""The codes in memory against a dictionary, by differing positions and by asymmetric distance."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iom.codes.asymmetric import CodeVectors, asymmetric_distances, keyed_rows, row_lengths
from iom.codes.packing import pack
from iom.gallery import search as module
from iom.gallery.models import Reference, Shard
from iom.gallery.search import CodeIndex, Searcher, best_hits, make_probes
from tests.gallery.conftest import Place, faces

CODES = np.random.default_rng(1).integers(0, 4, (40, 70)).astype(np.uint8)


VECTORS = CodeVectors.of_kernel(np.random.default_rng(2).normal(size=(16, 70 * 4)), 4)
ROW = keyed_rows(VECTORS.read_back(CODES[3:4]) + np.random.default_rng(3).normal(size=(1, 16)))


def differing(record):
    return int((CODES[record] != CODES[3]).sum())


def asymmetric(record):
    held = VECTORS.read_back(CODES[record : record + 1])
    return int(asymmetric_distances(held @ ROW[0], row_lengths(held), row_lengths(ROW))[0])


COMPARISONS = {"symbols": (None, pack(CODES[3:4], 4), differing, 50), "asymmetric": (VECTORS, ROW, asymmetric, 9000)}


def ranked(held, distance_of):
    pairs = [(distance_of(r), r) for r in held]
    return [(record, distance) for distance, record in sorted(pairs)]


@pytest.mark.parametrize("comparison", COMPARISONS)
@settings(max_examples=60)
@given(steps=st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 39), min_size=1)), max_size=12))
def test_any_order_of_appending_and_deleting(comparison, steps):
    vectors, probe, distance_of, threshold = COMPARISONS[comparison]
    index, held, ever = CodeIndex(70, 4, vectors=vectors), set(), set()
    for appends, records in steps:
        if appends:
            new = sorted(set(records) - ever)
            ever |= set(new)
            held |= set(new)
            index.append(new, pack(CODES[new], 4))
        else:
            held -= set(records)
            index.delete(records)
    assert len(index) == len(held)
    expected = ranked(held, distance_of)
    assert [tuple(hit) for hit in index.search(probe, top=5, threshold=None)] == expected[:5]
    assert [tuple(hit) for hit in index.search(probe, top=99, threshold=None)] == expected
    near = [pair for pair in expected if pair[1] <= threshold]
    assert [tuple(hit) for hit in index.search(probe, top=0, threshold=threshold)] == near


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_many_deletions_are_squeezed_out(comparison, monkeypatch):
    vectors, probe, distance_of, _ = COMPARISONS[comparison]
    monkeypatch.setattr(module, "_MAX_DELETED", 3)
    index = CodeIndex(70, 4, vectors=vectors)
    index.append(range(40), pack(CODES, 4))
    index.delete(range(0, 40, 2))
    assert [hit.record for hit in index.search(probe, top=1, threshold=None)] == [3]
    found = [tuple(hit) for hit in index.search(probe, top=99, threshold=None)]
    assert len(index) == 20
    assert found == ranked(range(1, 40, 2), distance_of)


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_an_index_that_grows_keeps_its_codes(comparison):
    vectors, probe, distance_of, _ = COMPARISONS[comparison]
    index = CodeIndex(70, 4, vectors=vectors)
    for start in (2400, 1200, 0):  # lower numbers later
        index.append(range(start, start + 1200), pack(CODES[np.arange(start, start + 1200) % 40], 4))
    expected = sorted((distance_of(record % 40), record) for record in range(3600))
    found = index.search(probe, top=200, threshold=None)
    assert [(hit.distance, hit.record) for hit in found] == expected[:200]


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_searches_beside_writes_see_whole_records(comparison):
    """One thread appends and deletes, others search: hits have their distances, and what stays is never missing."""
    vectors, probe, distance_of, _ = COMPARISONS[comparison]
    index = CodeIndex(70, 4, vectors=vectors)
    index.append(range(40), pack(CODES, 4))
    ended, wrong = threading.Event(), []

    def write():
        for start in range(40, 3000, 80):
            records = np.arange(start, start + 80)
            index.append(records, pack(CODES[records % 40], 4))
            index.delete(records[::2].tolist())
        ended.set()

    def search():
        while not ended.is_set():
            found = index.search(probe, top=60, threshold=None)
            kept = [hit for hit in found if hit.record < 40]
            if any(hit.distance != distance_of(hit.record % 40) for hit in found) or not kept:
                wrong.append(found)

    threads = [threading.Thread(target=work) for work in (write, search, search)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_revoked_code_is_not_kept_in_memory():
    """Neither its words nor its length, which tells of it."""
    index = CodeIndex(70, 4, vectors=VECTORS)
    index.append(range(40), pack(CODES, 4))
    words, lengths = index._codes._words, index._codes._lengths
    assert words[0, :, 5].any()
    index.delete([5])
    assert not words[0, :, 5].any()
    assert lengths[5] not in VECTORS.lengths(CODES)


def test_two_hundred_bytes_a_template():
    assert CodeIndex(512, 8, capacity=5000).nbytes == 5000 * 200


def test_eighty_bytes_a_template_of_64_bytes():
    """And 16 for a block of 64."""
    vectors = CodeVectors.of_kernel(np.random.default_rng(1).normal(size=(4, 1024)), 2)
    assert CodeIndex(512, 2, capacity=6400, vectors=vectors).nbytes == 6400 * 80 + 100 * 16


def shards_of(gallery, count):
    return [Searcher(gallery.store, gallery.keys, shard=Shard(number, count, block=1)) for number in range(count)]


def asked(searcher, gallery, embedding, *, epochs):
    found = gallery.application("door")
    probes = make_probes(gallery.keys, found, gallery.hasher, embedding, epochs)
    return searcher.nearest(found, probes, top=0, threshold=96)


@settings(max_examples=20)
@given(st.sets(st.integers(0, 200) | st.integers(2**40, 2**40 + 40), max_size=30), st.integers(1, 5), st.integers(1, 9))
def test_pages_of_shards_are_all_references(tmp_path_factory, records, count, block):
    place = Place(tmp_path_factory.mktemp("g"))
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode="subject")
    code, seal = bytes(8 * 3 * 2), bytes(16)
    references = [Reference("door", f"s{each}", -1, each, 0, code, seal) for each in records]
    gallery.store.add(references, gallery.event("import", "door"), imported=True)
    for since in (0, gallery.store.version("door") - 1):
        found = []
        for number in range(count):
            shard = Shard(number, count, block)
            part = [each.record for page in gallery.store.pages("door", since=since, shard=shard) for each in page]
            assert part == [each for each in sorted(records) if each // block % count == number]
            found += part
        assert sorted(found) == sorted(records)
    place.close()


def test_what_was_added_is_found_without_reading_the_rest(place):
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode="subject")
    for records in (range(20_000), [20_000]):
        references = [Reference("door", f"s{each}", -1, each, 0, bytes(48), bytes(16)) for each in records]
        gallery.store.add(references, gallery.event("import", "door"), imported=True)

    def seconds(since):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            count = sum(map(len, gallery.store.pages("door", since=since)))
            times.append(time.perf_counter() - began)
        return count, min(times)

    (every, slow), (added, fast) = seconds(0), seconds(gallery.store.version("door") - 1)
    assert (every, added) == (20_001, 1)
    assert fast < slow / 100  # by reading the table it is a fiftieth


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

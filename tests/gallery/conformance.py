"""What every record store must do. A test module of a store imports all of it:

    from tests.gallery.conformance import *

and defines a fixture `make_store() -> RecordStore`: the first call makes an empty store, each
further call opens the same one anew, as another process would.
"""

import dataclasses
import threading

import numpy as np
import pytest

from iom.codes.packing import pack
from iom.errors import EnrolmentError, RevokedError, StoreError
from iom.gallery.audit import AuditEvent, chain_problems
from iom.gallery.record import UNSLOTTED, Application, Reference

HOSTILE = ["'; DROP TABLE references; --", '" OR ""="', "a%' --", "../x", "\\x00", "{}", "名前"]
DOOR = Application("door", "iom-planes/1:96x8", "model", 30, key_mode="application", created=5)


@pytest.fixture
def store(make_store):
    store = make_store()
    store.create_application(DOOR, event("create"))
    return store


def event(action, count=0):
    return AuditEvent(action, "door", count, (bytes(range(16)),) * count, 3, 1000)


def code(seed):
    symbols = np.random.default_rng(seed).integers(0, 8, (1, 96), np.uint8)
    return pack(symbols, 8).planes.astype("<u8").tobytes()


def reference(record, subject, *, application="door", slot=UNSLOTTED, metadata="{}"):
    return Reference(
        application, subject, slot, record, 0, code(record), bytes([record % 256]) * 16, metadata, 7
    )


def enrolled(store, *subjects, new_subjects=True):
    records = store.reserve("door", len(subjects))
    new = [reference(record, name) for record, name in zip(records, subjects, strict=True)]
    return store.add(new, event("enroll", len(new)), new_subjects=new_subjects)


def test_what_is_added_is_read(store, make_store):
    added = enrolled(store, "a", "b", "a")
    assert [(r.subject_id, r.slot) for r in added] == [("a", 0), ("b", 0), ("a", 1)]
    for each in (store, make_store()):
        assert each.references("door", "a") == [added[0], added[2]]
        assert each.references("door", "nobody") == []
        assert each.scan("door") == sorted(added, key=lambda r: r.record)
        assert each.by_record("door", [added[1].record, 10**9]) == [added[1]]
        assert each.codes("door") == [(r.record, r.epoch, r.code) for r in added]
        assert each.application("door") == DOOR
        assert each.applications() == [DOOR]
        assert dataclasses.astuple(each.stats("door")) == (2, 3, 0)


def test_pages(store):
    added = enrolled(store, *[f"s{i}" for i in range(25)])
    seen, after = [], -1
    while page := store.scan("door", after=after, limit=10):
        assert len(page) <= 10
        seen += page
        after = page[-1].record
    assert seen == added
    assert store.by_record("door", [r.record for r in reversed(added)]) == added


def test_record_numbers_are_never_given_out_twice(store, make_store):
    first = list(store.reserve("door", 3))
    second = list(make_store().reserve("door", 2))
    assert len({*first, *second}) == 5
    assert min(second) > max(first)
    assert min(store.reserve("door", 1, above=1000)) == 1001
    store.add([reference(5000, "a")], event("import", 1))
    assert min(store.reserve("door", 1)) > 5000


def test_an_enrolled_subject_is_refused_and_nothing_is_added(store):
    enrolled(store, "a")
    with pytest.raises(EnrolmentError):
        enrolled(store, "b", "a")
    assert store.references("door", "b") == []
    assert len(store.audit()) == 2
    assert enrolled(store, "a", new_subjects=False)[0].slot == 1


def test_a_taken_record_or_slot_is_refused(store):
    (first,) = enrolled(store, "a")
    for wrong in (reference(first.record, "b"), reference(999, "a", slot=0)):
        with pytest.raises(EnrolmentError):
            store.add([wrong], event("enroll", 1), new_subjects=False)
    assert store.scan("door") == [first]


def test_revocation_leaves_a_tombstone_and_no_code(store, make_store):
    a, b = enrolled(store, "a", "b")
    (stone,) = store.revoke("door", [a.record], event("revoke", 1))
    assert (stone.subject_id, stone.record) == ("a", a.record)
    for each in (store, make_store()):
        assert each.references("door", "a") == []
        assert each.by_record("door", [a.record, b.record]) == [b]
        assert each.tombstones("door") == [stone]
        assert each.tombstones("door", subject_id="b") == []
        assert dataclasses.astuple(each.stats("door")) == (1, 1, 1)
    with pytest.raises(RevokedError):
        store.revoke("door", [b.record, a.record], event("revoke", 2))
    assert store.references("door", "b") == [b]
    with pytest.raises(RevokedError):
        store.add([reference(a.record, "a")], event("enroll", 1))


def test_replacing_is_all_or_nothing(store):
    (old,) = enrolled(store, "a")
    (new,) = store.replace([old], [reference(store.reserve("door", 1)[0], "a")], event("renew", 1))
    assert new.slot == old.slot
    assert store.references("door", "a") == [new]
    with pytest.raises(RevokedError):
        store.replace([old], [reference(store.reserve("door", 1)[0], "a")], event("renew", 1))
    assert store.references("door", "a") == [new]
    (back,) = store.replace([], [reference(store.reserve("door", 1)[0], "z")], event("renew", 1))
    assert store.references("door", "z") == [back]


def test_versions_tell_what_changed(store):
    before = store.version("door")
    (a,) = enrolled(store, "a")
    middle = store.version("door")
    (b,) = enrolled(store, "b")
    store.revoke("door", [a.record], event("revoke", 1))
    assert before < middle < store.version("door")
    assert store.scan("door", since=middle) == [b]
    assert store.codes("door", since=middle) == [(b.record, b.epoch, b.code)]
    assert [stone.record for stone in store.tombstones("door", since=middle)] == [a.record]
    assert store.tombstones("door", since=store.version("door")) == []


def test_applications_are_apart(store):
    other = dataclasses.replace(DOOR, name="other", key_mode="subject", masked=True)
    store.create_application(other, event("create"))
    enrolled(store, "a")
    same = reference(store.reserve("other", 1)[0], "a", application="other")
    store.add([same], event("enroll", 1))
    assert [r.application for r in store.references("other", "a")] == ["other"]
    store.revoke("other", [same.record], event("revoke", 1))
    assert len(store.references("door", "a")) == 1
    assert store.application("other") == other


def test_an_application_keeps_what_codes_depend_on(store):
    with pytest.raises(EnrolmentError):
        store.create_application(DOOR, event("create"))
    changed = dataclasses.replace(DOOR, threshold=10, epoch=2)
    store.update_application(changed, event("rotate"))
    assert store.application("door") == changed
    for wrong in (
        {"epoch": 1},
        {"model": "x"},
        {"masked": True},
        {"encoding": "iom-planes/1:64x8"},
    ):
        with pytest.raises(EnrolmentError):
            store.update_application(dataclasses.replace(changed, **wrong), event("rotate"))
    for verb in (store.application, store.version, store.stats):
        with pytest.raises(EnrolmentError):
            verb("nowhere")


def test_the_audit_log_is_a_chain(store, make_store):
    added = enrolled(store, "a", "b")
    store.revoke("door", [added[0].record], event("revoke", 1))
    store.log(event("export"))
    entries = make_store().audit()
    assert [e.event.action for e in entries] == ["create", "enroll", "revoke", "export"]
    assert entries[1].event == event("enroll", 2)
    assert list(chain_problems(entries)) == []
    assert store.audit_head() == entries[-1]
    assert store.audit(after=2, limit=1) == [entries[2]]


def test_one_owner(make_store):
    store = make_store()
    assert store.owner() == ""
    store.claim("me")
    store.claim("me")
    assert make_store().owner() == "me"
    with pytest.raises(StoreError):
        store.claim("you")


def test_every_string_is_data(store):
    for text in HOSTILE:
        (added,) = store.add(
            [reference(store.reserve("door", 1)[0], text, metadata=text)], event("enroll", 1)
        )
        assert store.references("door", text) == [added]
        with pytest.raises(EnrolmentError):
            store.application(text)
    assert len(store.scan("door")) == len(HOSTILE)
    assert store.check() == []


def test_two_writers(store, make_store):
    errors = []

    def work(name):
        try:
            mine = make_store()
            for i in range(20):
                enrolled(mine, f"{name}{i}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[name]) for name in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert dataclasses.astuple(store.stats("door")) == (40, 40, 0)
    assert list(chain_problems(store.audit())) == []


def test_one_of_two_renewals_wins(store, make_store):
    (old,) = enrolled(store, "a")
    second = make_store()
    store.replace([old], [reference(store.reserve("door", 1)[0], "a")], event("renew", 1))
    with pytest.raises(RevokedError):
        second.replace([old], [reference(second.reserve("door", 1)[0], "a")], event("renew", 1))
    assert len(store.references("door", "a")) == 1


def test_a_store_that_searches_finds_what_memory_finds(store, make_store):
    """Distances, order and ties are those of a plain loop; `None` is a store that cannot search."""
    rng = np.random.default_rng(5)
    people = rng.integers(0, 8, (5, 96))
    codes = people[rng.integers(0, 5, 70)].copy()
    codes[20:, :10] = rng.integers(0, 8, (50, 10))
    codes[60:] = rng.integers(0, 8, (10, 96))
    packed = pack(codes.astype(np.uint8), 8)
    held = {}

    def put(rows, epoch):
        new = []
        for row, record in zip(rows, store.reserve("door", len(rows)), strict=True):
            planes = packed.planes[row].astype("<u8").tobytes()
            new.append(dataclasses.replace(reference(record, f"s{row}"), code=planes, epoch=epoch))
            held[record] = (row, epoch)
        store.add(new, event("enroll", len(new)))

    def compare():
        for each in (store, make_store()):
            for row, epoch in [(0, 0), (3, 0), (65, 0), (0, 1), (69, 1)]:
                ranked = sorted(
                    (int((codes[other] != codes[row]).sum()), record)
                    for record, (other, of) in held.items()
                    if of == epoch
                )
                wanted = [(record, distance) for distance, record in ranked]
                for top in (1, 2, 5, 13, 1000):
                    found = each.search("door", epoch, packed[row : row + 1], top=top)
                    assert found is None or [tuple(hit) for hit in found] == wanted[:top]
                for threshold in (-1, 0, 6, 9, 80, 96):
                    found = each.search("door", epoch, packed[row : row + 1], threshold=threshold)
                    near = [pair for pair in wanted if pair[1] <= threshold]
                    assert found is None or [tuple(hit) for hit in found] == near

    put(range(40), 0)
    store.update_application(dataclasses.replace(DOOR, epoch=1), event("rotate"))
    compare()
    put(range(40, 70), 1)
    dead = list(held)[::4]
    store.revoke("door", dead, event("revoke", len(dead)))
    for record in dead:
        del held[record]
    compare()
    assert store.check() == []


def test_checking_erasing_and_closing(store):
    added = enrolled(store, "a", "b")
    store.revoke("door", [added[0].record], event("revoke", 1))
    assert store.check() == []
    store.erase()
    assert store.scan("door") == [added[1]]
    store.close()
    store.close()
    with pytest.raises(StoreError):
        store.scan("door")

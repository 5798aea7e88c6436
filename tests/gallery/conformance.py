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
from iom.errors import AlreadyEnrolledError, EnrolmentError, RevokedError, StoreError
from iom.gallery.models import UNSLOTTED, Application, AuditChain, AuditEvent, Counts, Reference, Tombstone

HOSTILE = ["'; DROP TABLE references; --", '" OR ""="', "a%' --", "../x", "\\x00", "{}", "名前"]
DOOR = Application("door", "iom-planes/1:96x8", "model", 30, created=5)


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
    return Reference(application, subject, slot, record, 0, code(record), bytes([record % 256]) * 16, metadata, 7)


def numbers(store, count, application="door"):
    """Record numbers that are not in use; a gallery takes them from its key store."""
    used = [each.record for each in store.scan(application, limit=10**6)]
    used += [each.record for each in store.tombstones(application)]
    first = max(used, default=-1) + 1
    return range(first, first + count)


def enrolled(store, *subjects, first=None, **options):
    count = len(subjects)
    records = numbers(store, count) if first is None else range(first, first + count)
    new = [reference(record, name) for record, name in zip(records, subjects, strict=True)]
    return store.add(new, event("enroll", len(new)), **options)


def stone(reference, seal=b"seal"):
    return Tombstone(reference.subject_id, reference.record, reference.epoch, seal)


def revoked(store, *references, application="door"):
    stones = [stone(each) for each in references]
    store.revoke(application, stones, event("revoke", len(stones)))


def problems(store):
    return list(AuditChain().problems(store.audit()))


def test_what_is_added_is_read(store, make_store):
    added = enrolled(store, "a", "b", "a")
    assert [(r.subject_id, r.slot) for r in added] == [("a", 0), ("b", 0), ("a", 1)]
    for each in (store, make_store()):
        assert each.references("door", "a") == [added[0], added[2]]
        assert each.references("door", "nobody") == []
        assert each.scan("door") == sorted(added, key=lambda r: r.record)
        assert each.by_record("door", [added[1].record, 10**9]) == [added[1]]
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


def test_an_enrolled_subject_is_refused_and_nothing_is_added(store):
    enrolled(store, "a")
    with pytest.raises(AlreadyEnrolledError) as caught:
        enrolled(store, "b", "a")
    assert caught.value.subject_id == "a"
    assert store.references("door", "b") == []
    assert len(store.audit()) == 2
    assert enrolled(store, "a", another=True)[0].slot == 1


def test_a_revoked_subject_is_refused_unless_it_may_return(store):
    a, b, _ = enrolled(store, "a", "b", "b")
    revoked(store, a, b)
    for options in ({}, {"another": True}):
        with pytest.raises(RevokedError, match="'a' was revoked"):
            enrolled(store, "c", "a", **options)
    assert store.references("door", "c") == []
    assert enrolled(store, "b", another=True)[0].slot == 0  # one of its references is valid
    assert enrolled(store, "a", returning=True)[0].slot == 0
    with pytest.raises(AlreadyEnrolledError):
        enrolled(store, "a", returning=True)


def test_a_common_key_makes_no_template_of_a_revoked_subject_twice(store):
    gate = dataclasses.replace(DOOR, name="gate", key_mode="application", epoch=3)
    store.create_application(gate, dataclasses.replace(event("create"), application="gate"))

    def made(record, epoch):
        return dataclasses.replace(reference(record, "a", application="gate"), epoch=epoch)

    happened = AuditEvent("enroll", "gate", 1)
    (old,) = store.add([made(0, 3)], happened)
    store.revoke("gate", [stone(old)], happened)
    for options in ({"returning": True}, {"returning": True, "another": True}):
        with pytest.raises(RevokedError, match="rotate it first"):
            store.add([made(1, 3)], happened, **options)
    with pytest.raises(RevokedError, match="rotate it first"):
        store.replace([], [made(1, 3)], happened)
    store.update_application(dataclasses.replace(gate, epoch=4, revision=1), happened)
    with pytest.raises(EnrolmentError, match="rotated in the meantime"):
        store.add([made(1, 3)], happened, returning=True)
    assert store.add([made(1, 4)], happened, returning=True)[0].epoch == 4


def test_a_taken_record_or_slot_is_refused(store):
    (first,) = enrolled(store, "a")
    for wrong in (reference(first.record, "b"), reference(999, "a", slot=0)):
        with pytest.raises(EnrolmentError):
            store.add([wrong], event("enroll", 1), another=True)
    assert store.scan("door") == [first]


def test_revocation_leaves_a_tombstone_and_no_code(store, make_store):
    a, b = enrolled(store, "a", "b")
    revoked(store, a)
    for each in (store, make_store()):
        assert each.references("door", "a") == []
        assert each.by_record("door", [a.record, b.record]) == [b]
        (left,) = each.tombstones("door")
        assert (left.subject_id, left.record, left.epoch, left.seal) == ("a", a.record, 0, b"seal")
        assert each.tombstones("door", subject_id="b") == []
        assert dataclasses.astuple(each.stats("door")) == (1, 1, 1)
    with pytest.raises(RevokedError):
        revoked(store, b, a)
    assert store.references("door", "b") == [b]
    with pytest.raises(RevokedError):
        store.add([reference(a.record, "z")], event("enroll", 1))


def test_replacing_is_all_or_nothing(store):
    (old,) = enrolled(store, "a")
    new = reference(numbers(store, 1)[0], "a", slot=old.slot)
    (new,) = store.replace([stone(old)], [new], event("renew", 1))
    assert new.slot == old.slot
    assert store.references("door", "a") == [new]
    with pytest.raises(RevokedError):
        store.replace([stone(old)], [reference(numbers(store, 1)[0], "a")], event("renew", 1))
    assert store.references("door", "a") == [new]
    (back,) = store.replace([], [reference(numbers(store, 1)[0], "z")], event("renew", 1))
    assert store.references("door", "z") == [back]


def test_rotating_revokes_all_older_references_or_changes_nothing(store, make_store):
    a, b = enrolled(store, "a", "b")
    following = dataclasses.replace(DOOR, epoch=1, revision=1)
    with pytest.raises(RevokedError, match="nothing was changed"):
        store.update_application(following, event("retire", 1), retired=[stone(a)])
    assert store.application("door") == DOOR
    assert len(store.scan("door")) == 2
    store.update_application(following, event("retire", 2), retired=[stone(a), stone(b)])
    for each in (store, make_store()):
        assert each.application("door") == following
        assert each.scan("door") == []
        assert [left.record for left in each.tombstones("door")] == [a.record, b.record]


def test_a_snapshot_sees_nothing_that_comes_later(store, make_store):
    (a,) = enrolled(store, "a")
    with store.snapshot() as still:
        (b,) = enrolled(make_store(), "b")
        revoked(store, a)
        assert still.scan("door") == [a]
        assert still.tombstones("door") == []
        assert still.audit_head().event.action == "enroll"
        with pytest.raises(StoreError):
            revoked(still, b)
    assert store.scan("door") == [b]


def test_versions_tell_what_changed(store):
    before = store.version("door")
    (a,) = enrolled(store, "a")
    middle = store.version("door")
    (b,) = enrolled(store, "b")
    revoked(store, a)
    assert before < middle < store.version("door")
    assert store.scan("door", since=middle) == [b]
    assert [stone.record for stone in store.tombstones("door", since=middle)] == [a.record]
    assert store.tombstones("door", since=store.version("door")) == []


def test_applications_are_apart(store):
    other = dataclasses.replace(DOOR, name="other", key_mode="application", masked=True)
    happened = AuditEvent("enroll", "other", 1)
    store.create_application(other, happened)
    enrolled(store, "a")
    same = reference(0, "a", application="other")
    store.add([same], happened, masked=True)
    assert [r.application for r in store.references("other", "a")] == ["other"]
    store.revoke("other", [stone(same)], happened)
    assert len(store.references("door", "a")) == 1
    assert store.application("other") == other


def test_codes_are_put_under_masks_all_or_none(store):
    gate = dataclasses.replace(DOOR, name="gate")
    store.create_application(gate, dataclasses.replace(event("create"), application="gate"))
    added, version = enrolled(store, *"abc"), store.version("door")
    pages = []

    def masked(known, page):
        pages.append((known, page))
        return [each.changed(code=code(90 + each.record), seal=b"new") for each in page]

    def changed(known):
        return dataclasses.replace(known, masked=True, revision=1, seal=b"tag"), event("mask")

    with pytest.raises(ZeroDivisionError):
        store.mask("door", masked, lambda known: 1 / 0)
    assert store.references("door", "a") == added[:1]
    assert store.mask("door", masked, changed) == store.application("door") == changed(DOOR)[0]
    assert pages == [(DOOR, added)] * 2
    expected = [each.changed(code=code(90 + each.record), seal=b"new") for each in added]
    assert store.scan("door") == expected
    assert store.version("door") == version + 1
    assert store.scan("door", since=version) == []  # who has read the codes needs not read them again
    assert store.audit_head().event.action == "mask"
    assert store.mask("door", masked, lambda known: 1 / 0).masked
    assert store.application("gate") == gate
    late = reference(50, "d")
    with pytest.raises(EnrolmentError, match="under masks in the meantime"):
        store.add([late], event("enroll"))
    with pytest.raises(EnrolmentError, match="under masks in the meantime"):
        store.replace([stone(added[0])], [late], event("renew"))
    assert store.scan("door") == expected


def test_an_application_keeps_what_codes_depend_on(store):
    with pytest.raises(EnrolmentError):
        store.create_application(DOOR, event("create"))
    changed = dataclasses.replace(DOOR, threshold=10, epoch=2, revision=1, seal=b"tag")
    store.update_application(changed, event("rotate"))
    assert store.application("door") == changed
    for wrong in ({"revision": 1}, {"epoch": 1}, {"model": "x"}, {"masked": True}, {"encoding": "iom-planes/1:64x8"}):
        with pytest.raises(EnrolmentError):
            store.update_application(dataclasses.replace(changed, **{"revision": 2, **wrong}), event("rotate"))
    for verb in (store.application, store.version, store.stats):
        with pytest.raises(EnrolmentError):
            verb("nowhere")


def test_the_audit_log_is_a_chain(store, make_store):
    added = enrolled(store, "a", "b")
    revoked(store, added[0])
    store.log(event("export"))
    store.log(AuditEvent("erase"))
    entries = make_store().audit()
    actions = ["create", "enroll", "revoke", "export", "erase"]
    assert [e.event.action for e in entries] == actions
    assert entries[1].event == event("enroll", 2)
    counts = [Counts(0, 0), Counts(2, 0), Counts(1, 1), Counts(1, 1), Counts()]
    assert [e.counts for e in entries] == counts
    assert problems(store) == []
    assert store.audit_head() == entries[-1]
    assert store.audit_head("door") == entries[3]
    assert store.audit_head("nowhere") is None
    assert store.audit(after=2, limit=1) == [entries[2]]


def test_without_the_key_of_the_log_nothing_goes_on(store, make_store):
    (a,) = enrolled(store, "a")
    other = make_store()
    other.chain = AuditChain(b"another key")
    with pytest.raises(StoreError, match="no authentic entry"):
        enrolled(other, "b")
    with pytest.raises(StoreError, match="no authentic entry"):
        revoked(other, a)
    assert store.scan("door") == [a]
    assert list(AuditChain(b"another key").problems(store.audit()))


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
        (added,) = store.add([reference(numbers(store, 1)[0], text, metadata=text)], event("enroll", 1))
        assert store.references("door", text) == [added]
        with pytest.raises(EnrolmentError):
            store.application(text)
    assert len(store.scan("door")) == len(HOSTILE)
    assert store.check() == []


def test_two_writers(store, make_store):
    errors = []

    def work(name, first):
        try:
            mine = make_store()
            for i in range(20):
                mine.add([reference(first + i, f"{name}{i}")], event("enroll", 1))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=work_of) for work_of in (("x", 0), ("y", 100))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert dataclasses.astuple(store.stats("door")) == (40, 40, 0)
    assert problems(store) == []
    assert store.audit_head("door").counts == Counts(40, 0)


def test_one_of_two_renewals_wins(store, make_store):
    (old,) = enrolled(store, "a")
    second = make_store()
    store.replace([stone(old)], [reference(10, "a")], event("renew", 1))
    with pytest.raises(RevokedError):
        second.replace([stone(old)], [reference(11, "a")], event("renew", 1))
    assert len(store.references("door", "a")) == 1


def test_checking_erasing_and_closing(store):
    added = enrolled(store, "a", "b")
    revoked(store, added[0])
    assert store.check() == []
    store.erase()
    assert store.scan("door") == [added[1]]
    store.close()
    store.close()
    with pytest.raises(StoreError):
        store.scan("door")

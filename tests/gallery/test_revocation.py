"""Revocation that stays: no path gives a revoked code again."""

import shutil

import pytest

from iom.errors import AlreadyEnrolledError, RevokedError
from iom.gallery.transfer import export_application, import_application
from tests.gallery.conftest import faces

FACE = faces(1)[0]


@pytest.fixture
def gallery(place):
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode="application")
    gallery.create_application("gate")
    return gallery


def attempts(gallery):
    """Every way to enrol a subject that may be one who was revoked."""
    return {
        "enroll": lambda: gallery.enroll("alice", FACE, application="door"),
        "another": lambda: gallery.enroll("alice", FACE, application="door", another=True),
        "allowed": lambda: gallery.enroll("alice", FACE, application="door", allow_revoked=True),
        "both": lambda: gallery.enroll("alice", FACE, application="door", another=True, allow_revoked=True),
        "many": lambda: gallery.enroll_many(["bob", "alice"], faces(2), application="door"),
        "renew": lambda: gallery.renew("alice", FACE, application="door"),
    }


def refused(gallery):
    for attempt in attempts(gallery).values():
        with pytest.raises(RevokedError):
            attempt()
    assert gallery.store.scan("door") == []


def test_a_common_key_gives_no_revoked_code_again(gallery, place):
    (old,) = gallery.enroll("alice", FACE, application="door")
    gallery.revoke("alice", application="door")
    refused(gallery)
    place.close()
    gallery = place.open()
    refused(gallery)
    gallery.rotate(application="door")
    with pytest.raises(RevokedError, match="renew it"):
        gallery.enroll("alice", FACE, application="door")
    (new,) = gallery.renew("alice", FACE, application="door")
    assert new.code != old.code
    assert gallery.check() == []


def test_nor_after_the_record_store_was_lost_or_rolled_back(gallery, place):
    place.close()
    shutil.copy(place.database, place.folder / "empty.db")
    gallery = place.open()
    gallery.enroll("alice", FACE, application="door")
    gallery.revoke("alice", application="door")
    place.close()
    (place.folder / "empty.db").replace(place.database)
    refused(place.open())


def test_nor_by_import(gallery, place):
    gallery.enroll("alice", FACE, application="door")
    export_application(gallery, "door", place.folder / "door.iomx")
    gallery.revoke("alice", application="door")
    assert import_application(gallery, place.folder / "door.iomx").revoked == 1
    assert gallery.store.scan("door") == []


def test_nor_where_the_key_store_has_not_learned_of_it(gallery, place, monkeypatch):
    """Another process has revoked in the record store and was killed before the key store."""
    other = place.open()
    gallery.enroll("alice", FACE, application="door")
    monkeypatch.setattr(other.keys, "revoke", lambda *_: None)
    other.revoke("alice", application="door")
    refused(gallery)


def test_one_slot_that_was_revoked_burns_the_key_for_its_subject(gallery):
    gallery.enroll("alice", faces(2), application="door")
    gallery.revoke("alice", application="door", slot=1)
    with pytest.raises(RevokedError, match="rotate it first"):
        gallery.enroll("alice", faces(2)[1], application="door", another=True)
    gallery.enroll("bob", FACE, application="door")


def test_a_revoked_subject_comes_back_only_when_asked_for(gallery):
    gallery.enroll("alice", FACE, application="gate")
    gallery.revoke("alice", application="gate")
    for options in ({}, {"another": True}):
        with pytest.raises(RevokedError) as caught:
            gallery.enroll("alice", FACE, application="gate", **options)
        assert caught.value.subject_id == "alice"
    with pytest.raises(RevokedError):
        gallery.enroll_many(["bob", "alice"], faces(2), application="gate")
    with pytest.raises(RevokedError):
        gallery.references("alice", application="gate")
    gallery.enroll("alice", FACE, application="gate", allow_revoked=True)
    assert gallery.references("alice", application="gate")
    with pytest.raises(AlreadyEnrolledError):
        gallery.enroll("alice", FACE, application="gate", allow_revoked=True)
    gallery.revoke("alice", application="gate")
    gallery.renew("alice", FACE, application="gate")
    assert gallery.check() == []


def test_retiring_a_key_is_one_step(gallery, place, monkeypatch):
    """Killed at any moment, either the old key and its templates are there, or neither."""
    gallery.enroll_many(list("abc"), faces(3), application="door")
    monkeypatch.setattr(gallery.keys, "revoke", lambda *_: 1 / 0)  # as if killed here
    with pytest.raises(ZeroDivisionError):
        gallery.rotate(application="door", retire=True)
    place.close()
    monkeypatch.undo()
    gallery = place.open()
    assert gallery.application("door").epoch == 1
    assert gallery.store.scan("door") == []
    assert len(gallery.keys.revoked("door")) == 3
    assert gallery.check() == []


def test_retiring_revokes_what_is_enrolled_meanwhile(gallery, place, monkeypatch):
    other, scan = place.open(), gallery.store.scan
    gallery.enroll_many(list("abc"), faces(3), application="door")

    def slow(*arguments, **options):
        found = scan(*arguments, **options)
        if not found and not other.keys.revoked("gate"):
            other.enroll("late", FACE, application="door")
            other.enroll("late", FACE, application="gate")
            other.revoke("late", application="gate")
        return found

    monkeypatch.setattr(gallery.store, "scan", slow)
    gallery.rotate(application="door", retire=True)
    monkeypatch.undo()
    assert gallery.store.scan("door") == []
    with pytest.raises(RevokedError):
        gallery.references("late", application="door")
    assert gallery.check() == []


def test_subjects_are_the_same_in_every_normal_form(gallery):
    composed, decomposed = "Ren\u00e9", "Rene\u0301"
    gallery.enroll(decomposed, FACE, application="gate")
    with pytest.raises(AlreadyEnrolledError):
        gallery.enroll(composed, FACE, application="gate")
    for name in (composed, decomposed):
        assert gallery.verify(name, FACE, application="gate").match
    gallery.revoke(composed, application="gate")
    with pytest.raises(RevokedError):
        gallery.enroll(decomposed, FACE, application="gate")

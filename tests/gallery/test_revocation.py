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
        "enroll": lambda: gallery.enroll("door", "alice", FACE),
        "another": lambda: gallery.enroll("door", "alice", FACE, another=True),
        "allowed": lambda: gallery.enroll("door", "alice", FACE, allow_revoked=True),
        "both": lambda: gallery.enroll("door", "alice", FACE, another=True, allow_revoked=True),
        "many": lambda: gallery.enroll_many("door", ["bob", "alice"], faces(2)),
        "renew": lambda: gallery.renew("door", "alice", FACE),
    }


def refused(gallery):
    for attempt in attempts(gallery).values():
        with pytest.raises(RevokedError):
            attempt()
    assert gallery.store.scan("door") == []


def test_a_common_key_gives_no_revoked_code_again(gallery, place):
    (old,) = gallery.enroll("door", "alice", FACE)
    gallery.revoke("door", "alice")
    refused(gallery)
    place.close()
    gallery = place.open()
    refused(gallery)
    gallery.rotate("door")
    with pytest.raises(RevokedError, match="renew it"):
        gallery.enroll("door", "alice", FACE)
    (new,) = gallery.renew("door", "alice", FACE)
    assert new.code != old.code
    assert gallery.check() == []


def test_nor_after_the_record_store_was_lost_or_rolled_back(gallery, place):
    place.close()
    shutil.copy(place.database, place.folder / "empty.db")
    gallery = place.open()
    gallery.enroll("door", "alice", FACE)
    gallery.revoke("door", "alice")
    place.close()
    (place.folder / "empty.db").replace(place.database)
    refused(place.open())


def test_nor_by_import(gallery, place):
    gallery.enroll("door", "alice", FACE)
    export_application(gallery, "door", place.folder / "door.iomx")
    gallery.revoke("door", "alice")
    assert import_application(gallery, place.folder / "door.iomx").revoked == 1
    assert gallery.store.scan("door") == []


def test_nor_where_the_key_store_has_not_learned_of_it(gallery, place, monkeypatch):
    """Another process has revoked in the record store and was killed before the key store."""
    other = place.open()
    gallery.enroll("door", "alice", FACE)
    monkeypatch.setattr(other.keys, "revoke", lambda *_: None)
    other.revoke("door", "alice")
    refused(gallery)


def test_one_slot_that_was_revoked_burns_the_key_for_its_subject(gallery):
    gallery.enroll("door", "alice", faces(2))
    gallery.revoke("door", "alice", slot=1)
    with pytest.raises(RevokedError, match="rotate it first"):
        gallery.enroll("door", "alice", faces(2)[1], another=True)
    gallery.enroll("door", "bob", FACE)


def test_a_revoked_subject_comes_back_only_when_asked_for(gallery):
    gallery.enroll("gate", "alice", FACE)
    gallery.revoke("gate", "alice")
    for options in ({}, {"another": True}):
        with pytest.raises(RevokedError) as caught:
            gallery.enroll("gate", "alice", FACE, **options)
        assert caught.value.subject_id == "alice"
    with pytest.raises(RevokedError):
        gallery.enroll_many("gate", ["bob", "alice"], faces(2))
    with pytest.raises(RevokedError):
        gallery.references("gate", "alice")
    gallery.enroll("gate", "alice", FACE, allow_revoked=True)
    assert gallery.references("gate", "alice")
    with pytest.raises(AlreadyEnrolledError):
        gallery.enroll("gate", "alice", FACE, allow_revoked=True)
    gallery.revoke("gate", "alice")
    gallery.renew("gate", "alice", FACE)
    assert gallery.check() == []


def test_retiring_a_key_is_one_step(gallery, place, monkeypatch):
    """Killed at any moment, either the old key and its templates are there, or neither."""
    gallery.enroll_many("door", list("abc"), faces(3))
    monkeypatch.setattr(gallery.keys, "revoke", lambda *_: 1 / 0)  # as if killed here
    with pytest.raises(ZeroDivisionError):
        gallery.rotate("door", retire=True)
    place.close()
    monkeypatch.undo()
    gallery = place.open()
    assert gallery.application("door").epoch == 1
    assert gallery.store.scan("door") == []
    assert len(gallery.keys.revoked("door")) == 3
    assert gallery.check() == []


def test_retiring_revokes_what_is_enrolled_meanwhile(gallery, place, monkeypatch):
    other, scan = place.open(), gallery.store.scan
    gallery.enroll_many("door", list("abc"), faces(3))

    def slow(*arguments, **options):
        found = scan(*arguments, **options)
        if not found and not other.keys.revoked("gate"):
            other.enroll("door", "late", FACE)
            other.enroll("gate", "late", FACE)
            other.revoke("gate", "late")
        return found

    monkeypatch.setattr(gallery.store, "scan", slow)
    gallery.rotate("door", retire=True)
    monkeypatch.undo()
    assert gallery.store.scan("door") == []
    with pytest.raises(RevokedError):
        gallery.references("door", "late")
    assert gallery.check() == []


def test_subjects_are_the_same_in_every_normal_form(gallery):
    composed, decomposed = "Ren\u00e9", "Rene\u0301"
    gallery.enroll("gate", decomposed, FACE)
    with pytest.raises(AlreadyEnrolledError):
        gallery.enroll("gate", composed, FACE)
    for name in (composed, decomposed):
        assert gallery.verify("gate", name, FACE).match
    gallery.revoke("gate", composed)
    with pytest.raises(RevokedError):
        gallery.enroll("gate", decomposed, FACE)

"""The verbs, over every kind of application."""

import dataclasses
import shutil
import types

import numpy as np
import pytest

from iom.errors import EnrolmentError, IomError, KeyKindWarning, RevokedError, StoreError, StoreNotFoundError
from iom.gallery.gallery import Gallery
from tests.gallery.conftest import FakeHasher, again, faces

HOSTILE = ["'; DROP TABLE reference_codes; --", '" OR 1=1 --', "../../etc/passwd", "%s{}\\", "名前"]


def renewed(gallery, subject, embedding):
    if gallery.store.application("door").key_mode == "application":
        gallery.rotate(application="door")
    return gallery.renew(subject, embedding, application="door")


def test_life_of_a_template(gallery, place):
    people = faces(6)
    names = [f"p{i}" for i in range(6)]
    gallery.enroll_many(names, people, application="door")
    assert gallery.verify("p2", again(people[2]), application="door").match
    assert not gallery.verify("p2", people[3], application="door").match
    assert [found.subject_id for found in gallery.identify(again(people[4]), application="door")] == ["p4"]
    assert gallery.identify(faces(1, seed=99)[0], application="door", threshold=10) == []
    old = gallery.store.references("door", "p2")[0]
    (new,) = renewed(gallery, "p2", again(people[2], 5))
    assert new.record > old.record
    assert new.code != old.code
    assert [r.record for r in gallery.store.references("door", "p2")] == [new.record]
    assert gallery.verify("p2", people[2], application="door").match
    assert gallery.revoke("p4", application="door") == 1
    with pytest.raises(RevokedError):
        gallery.verify("p4", people[4], application="door")
    with pytest.raises(RevokedError):
        gallery.revoke("p4", application="door")
    assert gallery.identify(people[4], application="door", threshold=20) == []
    gallery.renew("p4", people[4], application="door")
    assert gallery.verify("p4", people[4], application="door").distance == 0
    assert gallery.check() == []
    place.close()
    opened = place.open()
    assert opened.verify("p2", people[2], application="door").match
    assert [found.subject_id for found in opened.identify(people[4], application="door")] == ["p4"]
    assert opened.check() == []


def test_several_references_and_closed_search(gallery):
    people = faces(4)
    gallery.enroll("a", np.stack([people[0], again(people[0]), people[1]]), application="door")
    gallery.enroll("b", people[2], application="door", metadata={"room": 1})
    assert [r.slot for r in gallery.store.references("door", "a")] == [0, 1, 2]
    assert gallery.verify("a", people[1], application="door").slot == 2
    ranked = gallery.identify(people[0], application="door", top=2, closed=True)
    assert [found.subject_id for found in ranked] == ["a", "b"]
    assert [found.match for found in ranked] == [True, False]
    with pytest.raises(EnrolmentError, match="enrolled already"):
        gallery.enroll("a", people[3], application="door")
    gallery.revoke("a", application="door", slot=1)
    if gallery.store.application("door").key_mode == "application":
        with pytest.raises(RevokedError, match="rotate it first"):
            gallery.enroll("a", people[3], application="door", another=True)
        gallery.rotate(application="door")
    assert gallery.enroll("a", people[3], application="door", another=True)[0].slot == 1
    with pytest.raises(EnrolmentError, match="no reference in slot 7"):
        gallery.revoke("a", application="door", slot=7)
    assert gallery.check() == []


def test_applications_are_apart(gallery):
    gallery.create_application("other", key_mode="application")
    face = faces(1)[0]
    gallery.enroll("a", face, application="door")
    with pytest.raises(EnrolmentError, match="not enrolled"):
        gallery.verify("a", face, application="other")
    assert gallery.identify(face, application="other") == []
    gallery.enroll("a", face, application="other")
    codes = [gallery.store.references(name, "a")[0].code for name in ("door", "other")]
    assert codes[0] != codes[1]


def test_a_second_gallery_sees_what_the_first_writes(gallery, place):
    second, people = place.open(), faces(5)
    gallery.enroll_many(list("abcd"), people[:4], application="door")
    assert [f.subject_id for f in second.identify(people[1], application="door")] == ["b"]
    gallery.revoke("b", application="door")
    second.enroll("e", people[4], application="door")
    assert second.identify(people[1], application="door", threshold=0) == []
    assert [f.subject_id for f in gallery.identify(people[4], application="door")] == ["e"]


def test_ties_go_to_the_lowest_record(gallery):
    face = faces(1)[0]
    for name in ("z", "a", "m"):
        gallery.enroll(name, face, application="door")
    assert [f.subject_id for f in gallery.identify(face, application="door")] == ["z", "a", "m"]


def test_an_older_copy_does_not_bring_a_revoked_template_back(gallery, place):
    people = faces(3)
    gallery.enroll_many(list("abc"), people, application="door")
    place.close()
    shutil.copy(place.database, place.folder / "old.db")
    gallery = place.open()
    gallery.revoke("b", application="door")
    highest = gallery.enroll("d", faces(1, seed=5)[0], application="door")[0].record
    gallery.revoke("d", application="door")
    place.close()
    (place.folder / "old.db").replace(place.database)
    gallery = place.open()
    with pytest.raises(RevokedError):
        gallery.verify("b", people[1], application="door")
    assert gallery.identify(people[1], application="door", threshold=0) == []
    assert gallery.store.references("door", "b") == []
    assert gallery.verify("a", people[0], application="door").match
    with pytest.raises(RevokedError):
        gallery.enroll("d", people[1], application="door")
    assert renewed(gallery, "d", people[1])[0].record > highest
    assert any("older copy" in problem for problem in gallery.check())


def test_a_crash_between_the_two_stores_is_mended(gallery, place, monkeypatch):
    people = faces(2)
    gallery.enroll_many(list("ab"), people, application="door")
    monkeypatch.setattr(gallery.keys, "revoke", lambda *arguments: None)
    gallery.revoke("a", application="door")
    assert any("missing in the key store" in problem for problem in gallery.check())
    monkeypatch.undo()
    place.close()
    assert place.open().check() == []


def test_a_cut_key_store_is_found(gallery, place):
    gallery.enroll("a", faces(1)[0], application="door")
    gallery.revoke("a", application="door")
    whole = place.key_file.read_bytes()
    gallery.enroll("b", faces(1)[0], application="door")
    gallery.revoke("b", application="door")
    gallery.enroll("c", faces(1)[0], application="door")
    place.close()
    place.key_file.write_bytes(whole)
    with pytest.raises(StoreError, match="its end is missing"):
        place.open()


def test_another_key_store_is_refused(gallery, place):
    place.close()
    place.key_file.unlink()
    place.keys(create=True)
    with pytest.raises(StoreError, match="another master"):
        place.open()


def test_a_code_put_under_another_subject_is_refused(gallery):
    people = faces(2)
    gallery.enroll_many(list("ab"), people, application="door")
    gallery.store._file.rows("UPDATE reference_codes SET subject = 'x' WHERE subject = 'a'")
    gallery.store._file.rows("UPDATE reference_codes SET subject = 'a' WHERE subject = 'b'")
    with pytest.raises(StoreError, match="changed outside"):
        gallery.verify("a", people[1], application="door")
    assert any("changed outside" in problem for problem in gallery.check())


def test_the_clock_may_go_back(place, monkeypatch):
    times = iter([1000.0, 500.0, 10.0, 2.0, 1.0])
    monkeypatch.setattr("iom.gallery.gallery.time", types.SimpleNamespace(time=lambda: next(times, 0.0)))
    gallery = place.open(create=True)
    gallery.create_application("door")
    for name in "abc":
        gallery.enroll(name, faces(1)[0], application="door")
    gallery.revoke("a", application="door")
    assert gallery.check() == []
    assert [entry.sequence for entry in gallery.store.audit()] == [1, 2, 3, 4, 5]


def test_a_changed_audit_log_is_found(gallery):
    for name in "abc":
        gallery.enroll(name, faces(1)[0], application="door")
    gallery.revoke("a", application="door")
    gallery.store._file.rows("UPDATE audit SET count = 9 WHERE sequence = 2")
    assert any("entry 2 was changed" in problem for problem in gallery.check())
    gallery.store._file.rows("DELETE FROM audit WHERE sequence >= 2")
    assert any("is missing or another one" in problem for problem in gallery.check())


def test_every_string_is_data(gallery):
    face = faces(1)[0]
    for name in HOSTILE:
        gallery.enroll(name, face, application="door", metadata={"note": name})
        assert gallery.verify(name, face, application="door").match
        gallery.revoke(name, application="door")
        for verb in (gallery.create_application, gallery.store.application):
            with pytest.raises(EnrolmentError):
                verb(name)
    for bad in ("", " a", "a\n", "a\x00b", "x" * 257, None, 5, "\ud800"):
        with pytest.raises(EnrolmentError):
            gallery.enroll(bad, face, application="door")
    assert gallery.check() == []


def test_wrong_input_is_refused(gallery, place):
    face = faces(1)[0]
    for bad in (np.full(32, np.nan), np.zeros((0, 32)), np.zeros((2, 2, 2))):
        with pytest.raises(EnrolmentError):
            gallery.enroll("a", bad, application="door")
    with pytest.raises(EnrolmentError, match="metadata"):
        gallery.enroll("a", face, application="door", metadata={"x": "y" * 5000})
    gallery.hasher = FakeHasher()
    gallery.hasher.fingerprint = "another"
    with pytest.raises(EnrolmentError, match="never compare"):
        gallery.enroll("a", face, application="door")
    gallery.hasher.code_length = 128
    with pytest.raises(EnrolmentError, match="128x8"):
        gallery.identify(face, application="door")


def test_secrets_are_nowhere_to_be_seen(gallery, place, caplog):
    face = faces(1)[0]
    (reference,) = gallery.enroll("alice", face, application="door")
    master = vars(gallery.keys)["_source"]._master
    secret = master.secret
    shown = [repr(reference), repr(gallery.keys), repr(vars(gallery.keys)), caplog.text]
    for attempt in (
        lambda: gallery.enroll("alice", face, application="door"),
        lambda: gallery.verify("y", face, application="x"),
    ):
        with pytest.raises(IomError) as error:
            attempt()
        shown.append(repr(error.value))
    for text in shown:
        assert str(reference.code)[2:20] not in text
        assert secret.hex()[:8] not in text
    files = b"".join(path.read_bytes() for path in place.folder.iterdir())
    assert secret not in files
    assert vars(gallery.keys)["_source"]._master.to_text().encode() not in files
    assert b"alice" not in b"".join(b"".join(entry.event.subjects) for entry in gallery.store.audit())


def test_a_revoked_code_is_in_no_file(gallery, place):
    (reference,) = gallery.enroll("a", faces(1)[0], application="door")
    gallery.revoke("a", application="door")
    for path in place.folder.iterdir():
        assert reference.code not in path.read_bytes(), path
    gallery.erase()
    assert gallery.check() == []


def test_rotation_of_a_common_key(place):
    gallery, people = place.open(create=True), faces(3)
    gallery.create_application("door", key_mode="application", masked=True)
    gallery.enroll_many(list("ab"), people[:2], application="door")
    with pytest.raises(EnrolmentError, match="rotate it before"):
        gallery.renew("a", people[0], application="door")
    gallery.rotate(application="door")
    gallery.renew("a", people[0], application="door")
    gallery.enroll("c", people[2], application="door")
    for name, face in zip("abc", people, strict=True):
        assert gallery.verify(name, face, application="door").match
        assert [f.subject_id for f in gallery.identify(face, application="door")] == [name]
    gallery.rotate(application="door", retire=True)
    for name, face in zip("abc", people, strict=True):
        with pytest.raises(RevokedError):
            gallery.verify(name, face, application="door")
        assert gallery.identify(face, application="door") == []
    assert gallery.check() == []
    assert dataclasses.asdict(gallery.stats()["door"][1]) == {"subjects": 0, "references": 0, "revoked": 4}


@pytest.mark.parametrize(("masked", "told"), [(False, "without any key"), (True, "the masks")])
def test_permutation_keys_are_warned_of_by_every_verb_that_hashes(place, masked, told):
    """A gallery of before: it opens, verifies, and says how to renew."""
    gallery = place.open(create=True)
    gallery.hasher.key_kind = "permutation"
    alice = faces(1)
    for verb in (
        lambda: gallery.create_application("door", masked=masked),
        lambda: gallery.enroll("alice", alice, application="door"),
        lambda: gallery.verify("alice", alice, application="door"),
        lambda: gallery.identify(alice, application="door"),
        lambda: gallery.renew("alice", alice, application="door"),
    ):
        with pytest.warns(KeyKindWarning, match=rf"application door: .* {told}.*enrol everyone"):
            verb()


def test_a_gallery_is_opened_by_two_urls(tmp_path):
    urls = {"url": f"sqlite:///{tmp_path}/g.db", "keys": f"file:{tmp_path}/g.keys?key-file={tmp_path}/g.wrap"}
    with pytest.raises(StoreNotFoundError) as caught:
        Gallery.open(**urls)
    assert caught.value.place == str(tmp_path / "g.keys")
    with Gallery.open(**urls, hasher=FakeHasher(), create=True) as gallery:
        gallery.create_application("door")
        gallery.enroll("a", faces(1), application="door")
    with Gallery.open(**urls, hasher=FakeHasher()) as gallery:
        assert gallery.verify("a", faces(1), application="door").distance == 0
    with pytest.raises(StoreNotFoundError):
        Gallery.open(f"sqlite:///{tmp_path}/none.db", keys=urls["keys"])
    with pytest.raises(TypeError):
        Gallery.open(urls["url"])

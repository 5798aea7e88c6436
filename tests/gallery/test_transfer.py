"""Export and import."""

import hashlib
import json
import shutil

import pytest

from iom.errors import EnrolmentError, IomError, RevokedError, StoreError
from iom.gallery.gallery import Gallery
from iom.gallery.stores.sqlite import SqliteStore
from iom.gallery.transfer import export_application, import_application
from tests.gallery.conftest import FakeHasher, faces

PEOPLE = faces(3)


@pytest.fixture
def exported(gallery, place):
    gallery.enroll_many(list("abc"), PEOPLE, application="door", metadata=[{"n": 1}, None, None])
    assert export_application(gallery, "door", place.folder / "door.iom") == 3
    return place.folder / "door.iom"


@pytest.fixture
def empty(place, exported):
    with SqliteStore(place.folder / "new.db", create=True) as store:
        yield Gallery(store, place.keys(), FakeHasher())


def test_what_is_exported_comes_back(gallery, exported, empty):
    assert import_application(empty, exported).added == 3
    assert empty.store.scan("door") == gallery.store.scan("door")
    assert empty.verify("b", PEOPLE[1], application="door").distance == 0
    again = import_application(empty, exported)
    assert (again.added, again.present) == (0, 3)
    new = empty.enroll("d", PEOPLE[0], application="door")
    assert new[0].record > max(r.record for r in gallery.store.scan("door"))
    assert empty.check() == []


def test_what_was_revoked_stays_revoked(gallery, exported, empty):
    gallery.revoke("b", application="door")
    done = import_application(empty, exported)
    assert (done.added, done.revoked) == (2, 1)
    with pytest.raises(RevokedError):
        empty.verify("b", PEOPLE[1], application="door")
    assert import_application(gallery, exported).added == 0


def test_no_key_and_no_mask_is_in_it(gallery, exported):
    data = exported.read_bytes()
    keys = gallery.keys
    assert vars(keys)["_source"]._master.secret not in data
    for mask in keys.masks("door", sorted(keys.masked_records("door"))):
        assert mask not in data
    assert json.loads(data.split(b"\n")[0])["version"] == 2


def test_another_key_store_or_application_is_refused(exported, place, tmp_path):
    from iom.gallery.key_source import Seal
    from iom.gallery.key_store import KeyStore

    keys = KeyStore.open(tmp_path / "k", Seal("key", lambda *_: bytes(32)), create=True)
    with keys, SqliteStore(tmp_path / "x.db", create=True) as store:
        with pytest.raises(StoreError, match="another key store"):
            import_application(Gallery(store, keys), exported)
        assert store.applications() == []


def test_an_application_of_another_model_is_refused(exported, empty):
    empty.hasher.fingerprint = "another"
    empty.create_application("door")
    with pytest.raises(EnrolmentError, match="another"):
        import_application(empty, exported)


def test_damage_is_found_before_anything_is_written(exported, empty, tmp_path):
    data = exported.read_bytes()
    damaged = tmp_path / "damaged"
    for place in [*range(0, len(data), 23), len(data) - 3]:
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        for text in (changed, data[:place]):
            damaged.write_bytes(text)
            with pytest.raises(IomError):
                import_application(empty, damaged)
    assert empty.store.applications() == []


def recomputed(path, **fields):
    """The file with fields of its first reference changed, and its check made to hold again."""
    header, page, rest = path.read_bytes().split(b"\n", 2)
    references = json.loads(page)
    codes = rest[: references["bytes"]]
    references["references"][0].update(fields)
    body = header + b"\n" + json.dumps(references, separators=(",", ":")).encode() + b"\n" + codes
    end = {"end": len(references["references"]), "sha256": hashlib.sha256(body).hexdigest()}
    changed = path.with_name("changed.iom")
    changed.write_bytes(body + json.dumps(end, separators=(",", ":")).encode() + b"\n")
    return changed


@pytest.mark.parametrize(
    "fields",
    [
        *[{"slot": slot} for slot in (2**70, -5, 1.5, "abc", None, True, [1])],
        *[{"record": "0"}, {"epoch": "0"}, {"metadata": {"n": 1}}, {"created": 1.0}],
    ],
    ids=str,
)
def test_fields_that_no_seal_covers_are_checked(exported, empty, fields):
    with pytest.raises(StoreError, match=r"damaged|changed"):
        import_application(empty, recomputed(exported, **fields))
    assert empty.store.applications() == []


def test_an_older_file_does_not_bring_an_older_threshold_back(gallery, exported, empty):
    gallery.set_threshold(7, application="door")
    assert import_application(empty, exported).added == 3
    assert empty.application("door").threshold == 7


def test_no_other_record_brings_a_revoked_code_back(place):
    """After a roll-back a file holds a record that was never revoked, with the code of one."""
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode="application")
    place.close()
    shutil.copy(place.database, place.folder / "old.db")
    gallery = place.open()
    gallery.enroll("a", PEOPLE[0], application="door")
    export_application(gallery, "door", place.folder / "door.iom")
    place.close()
    (place.folder / "old.db").replace(place.database)
    gallery = place.open()
    gallery.enroll("a", PEOPLE[0], application="door")
    gallery.revoke("a", application="door")
    done = import_application(gallery, place.folder / "door.iom")
    assert (done.added, done.revoked) == (0, 1)
    with pytest.raises(RevokedError):
        gallery.verify("a", PEOPLE[0], application="door")


def test_an_export_replaces_nothing_but_an_export(gallery, exported, place):
    assert export_application(gallery, "door", exported) == 3
    for path in (place.database, place.key_file):
        whole = path.read_bytes()
        with pytest.raises(StoreError, match="no export of a gallery"):
            export_application(gallery, "door", path)
        assert path.read_bytes() == whole
    assert gallery.check() == []

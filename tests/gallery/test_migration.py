"""A gallery of format 1, made by version 0.1.0 with the hasher of these tests, converted.

In each of its four applications `alice`, `bob`, `carol` and `dave` (faces 0 to 3 of seed 11) were
enrolled, `bob` was revoked, `carol` renewed, and the threshold set to 45.
"""

import contextlib
import shutil
import sqlite3

import pytest

from iom.errors import IomError, RevokedError, StoreError
from iom.gallery.gallery import Gallery
from iom.gallery.key_store import open_key_store
from iom.gallery.migration import migrate
from iom.gallery.stores.base import open_store
from iom.gallery.stores.sqlite import SqliteStore
from iom.gallery.transfer import import_application
from iom.keys import TransformKey
from tests.gallery.conftest import KINDS, UNMASKED, FakeHasher, faces

pytestmark = UNMASKED

PEOPLE = faces(5, seed=11)
NAMES = [f"{mode}{'-masked' * masked}" for mode, masked in KINDS]


@pytest.fixture
def old(tmp_path, root):
    for path in (root / "tests" / "fixtures" / "gallery_v1").iterdir():
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def urls(folder, keys="gallery.keys"):
    return f"sqlite:///{folder}/gallery.db", f"file:{folder}/{keys}?key-file={folder}/gallery.wrap"


@contextlib.contextmanager
def converted(folder):
    gallery, keys = urls(folder, "gallery.keys.v2")
    with Gallery(open_store(gallery), open_key_store(keys), FakeHasher()) as opened:
        yield opened


def changed(folder, statement):
    with contextlib.closing(sqlite3.connect(folder / "gallery.db")) as connection, connection:
        connection.execute(statement)


def test_old_stores_are_refused_with_the_way_to_convert_them(old):
    gallery, keys = urls(old)
    for action in (lambda: open_store(gallery), lambda: open_key_store(keys)):
        with pytest.raises(StoreError, match="convert it with: iom migrate"):
            action()


def test_keys_of_another_kind_are_no_conversion(old, monkeypatch):
    migrate(*urls(old))
    monkeypatch.setenv("MASTER", TransformKey.generate().to_text())
    before = {path: path.read_bytes() for path in old.iterdir()}
    for keys in (f"environment:MASTER?file={old}/gallery.keys.v2", f"environment:MASTER?file={old}/new"):
        with pytest.raises(StoreError, match=r"make a new gallery and enrol anew|no key store at"):
            migrate(urls(old)[0], keys)
    with pytest.raises(StoreError, match="expected one part"):
        migrate(urls(old)[0], urls(old)[1] + "+environment:MASTER")
    assert {path: path.read_bytes() for path in before} == before


def test_subjects_are_verified_and_revoked_ones_refused(old):
    whole = (old / "gallery.keys").read_bytes()
    done = migrate(*urls(old))
    assert (done.applications, done.references, done.revoked) == (4, 12, 8)
    assert done.odd_subjects == ()
    assert (old / "gallery.keys").read_bytes() == whole
    assert (old / "gallery.keys.v2").stat().st_mode & 0o077 == 0
    with converted(old) as gallery:
        assert gallery.check() == []
        for name in NAMES:
            assert gallery.application(name).threshold == 45
            for number, subject in ((0, "alice"), (2, "carol"), (3, "dave")):
                assert gallery.verify(subject, PEOPLE[number], application=name).distance == 0
                (found,) = gallery.identify(PEOPLE[number], application=name, threshold=0)
                assert found.subject_id == subject
            for refused in (gallery.verify, gallery.enroll):
                with pytest.raises(RevokedError):
                    refused("bob", PEOPLE[1], application=name)
            (new,) = gallery.enroll("erin", PEOPLE[4], application=name)
            used = [each.record for each in gallery.store.tombstones(name)]
            assert new.record > max(used)
            if gallery.application(name).key_mode == "application":
                with pytest.raises(RevokedError, match="rotate it first"):
                    gallery.renew("bob", PEOPLE[1], application=name)
                gallery.rotate(application=name)
            assert gallery.renew("bob", PEOPLE[1], application=name)
        assert gallery.check() == []


def test_what_was_interrupted_is_done_again(old, monkeypatch):
    """Killed after the new key store was made, and after the record store was converted."""
    with monkeypatch.context() as patch:
        patch.setattr("iom.gallery.migration._seal", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            migrate(*urls(old))
    with pytest.raises(StoreError, match="format 1"):
        open_store(urls(old)[0])
    with monkeypatch.context() as patch:
        patch.setattr("iom.gallery.migration.Gallery", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            migrate(*urls(old))
    assert migrate(*urls(old)).references == 12
    assert migrate(*urls(old)).references == 12
    with converted(old) as gallery:
        assert gallery.check() == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE audit SET count = 9 WHERE sequence = 2", "was changed"),
        ("UPDATE reference_codes SET subject = 'eve' WHERE subject = 'dave'", "changed outside"),
        ("INSERT INTO tombstones VALUES (1, 9223372036854775807, 'x', 1)", "never given out"),
        ("UPDATE tombstones SET subject = 'alice'", "another subject"),
        ("UPDATE applications SET next_record = 'x'", "out of range"),
        ("UPDATE applications SET next_record = 9223372036854775807", "out of range"),
        ("UPDATE owner SET name = 'x'", "another master"),
    ],
)
def test_a_damaged_gallery_is_not_converted(old, statement, words):
    changed(old, statement)
    whole = (old / "gallery.db").read_bytes()
    with pytest.raises(StoreError, match=words):
        migrate(*urls(old))
    assert (old / "gallery.db").read_bytes() == whole


def test_a_damaged_or_foreign_key_store_is_told(old):
    gallery, keys = urls(old)
    path = old / "gallery.keys"
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(IomError):
            migrate(gallery, keys)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="end is missing"):
        migrate(gallery, keys)
    path.unlink()
    with pytest.raises(StoreError, match="no key store"):
        migrate(gallery, keys)
    assert not (old / "gallery.keys.v2").exists()


def test_an_export_of_version_1_needs_the_application(old):
    migrate(*urls(old))
    keys = open_key_store(urls(old, "gallery.keys.v2")[1])
    with Gallery(SqliteStore(old / "new.db", create=True), keys, FakeHasher()) as gallery:
        with pytest.raises(StoreError, match="iom init --application subject"):
            import_application(gallery, old / "subject.iomx")
        gallery.create_application("subject", threshold=45)
        assert import_application(gallery, old / "subject.iomx").added == 3
        assert gallery.verify("alice", PEOPLE[0], application="subject").distance == 0


@pytest.mark.parametrize("start", [-5, 10**30, '"x"'])
def test_a_start_out_of_range_is_damage(old, start):
    path = old / "gallery.keys"
    path.write_bytes(path.read_bytes().replace(b'"start":0', f'"start":{start}'.encode(), 1))
    with pytest.raises(StoreError, match="format 1"):
        migrate(*urls(old))

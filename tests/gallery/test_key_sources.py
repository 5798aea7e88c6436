"""Key stores whose keys come from elsewhere: joined parts, URLs, label spaces, and old ways of derivation."""

import contextlib
import hashlib
import hmac
import json
import shutil
import sqlite3
import stat

import pytest

from iom.errors import StoreError, StoreNotFoundError
from iom.gallery.gallery import Gallery
from iom.gallery.key_source import JoinedSource, KeySource, MasterSource, Seal, SourceOpener
from iom.gallery.key_store import KeyStore, open_key_store
from iom.gallery.key_url import parse_key_url
from iom.gallery.stores.sqlite import SqliteStore
from iom.keys import TransformKey
from tests.gallery.conftest import FakeHasher, again, faces

MASTER, OTHER = (TransformKey(bytes([number]) * 32) for number in (1, 2))


@pytest.fixture
def masters(monkeypatch):
    monkeypatch.setenv("ONE", MASTER.to_text())
    monkeypatch.setenv("TWO", OTHER.to_text())


class Counting(KeySource):
    """A source that notes its requests."""

    def __init__(self, master=MASTER):
        self.source, self.requests, self.is_closed = MasterSource(master), [], False

    def derive(self, labels):
        self.requests.append(list(labels))
        return self.source.derive(labels)

    def close(self):
        self.is_closed = True


def counted(path, *, create=True):
    source = Counting()
    return KeyStore.open(path, SourceOpener("counting", lambda is_new: source), create=create), source


def test_a_key_is_the_hmac_of_its_label():
    source = MasterSource(MASTER)
    expected = [hmac.new(MASTER.secret, label, hashlib.sha256).digest() for label in (b"a", b"")]
    assert source.derive([b"a", b""]) == expected
    assert source.derive([]) == []
    source.close()
    with pytest.raises(StoreError, match="closed"):
        source.derive([b"a"])


def test_record_keys_are_those_of_the_master(tmp_path, masters):
    with open_key_store(f"environment:ONE?file={tmp_path}/k", create=True) as keys:
        expected = MASTER.derive(application="door", subject="alice", record=7)
        assert keys.record_key("door", "alice", 7) == expected
        assert keys.record_keys("door", [("alice", 7), ("bob", 1)])[0] == expected
        assert keys.application_keys("door", [3]) == [MASTER.derive(application="door", subject="", record=3)]
        assert keys.record_keys("door", []) == []


def test_joined_keys_need_all_parts_in_their_order():
    one, two = MasterSource(MASTER), MasterSource(OTHER)
    joined = JoinedSource([one, two]).derive([b"a", b"b"])
    # HKDF (RFC 5869), written out: extract, then one block of expand.
    material = one.derive([b"a"])[0] + two.derive([b"a"])[0]
    extracted = hmac.digest(b"iom/joined-keys/v1", material, "sha256")
    assert joined[0] == hmac.digest(extracted, b"iom/joined-keys/v1\0\x02a\x01", "sha256")
    found = {*joined}
    for sources in ([two, one], [one], [two], [one, one], [one, two, two]):
        found.update(JoinedSource(sources).derive([b"a", b"b"]))
    found.update(one.derive([b"a", b"b"]), two.derive([b"a", b"b"]))
    assert len(found) == 2 * 6 + 4


def test_spaces_never_meet(tmp_path):
    keys, source = counted(tmp_path / "k")
    with keys:
        found = [keys.derive(space, [label])[0] for space, label in ((("a"), b"bc"), ("ab", b"c"), ("abc", b""))]
        own = source.requests[0]  # what the key store derives for itself
        found += [keys.derive("a", [label])[0] for label in own]
        found += MasterSource(MASTER).derive(own)
        found.append(keys.record_key("a", "bc", 0).secret)
        assert len(set(found)) == len(found)


def test_a_batch_is_one_request_and_so_is_a_verification(tmp_path):
    keys, source = counted(tmp_path / "k")
    with Gallery(SqliteStore(tmp_path / "g.db", create=True), keys, FakeHasher()) as gallery:
        assert len(source.requests) == 1
        gallery.create_application("door")
        people = faces(40)
        for action in (
            lambda: gallery.enroll_many([f"s{number}" for number in range(40)], people, application="door"),
            lambda: gallery.verify("s3", again(people[3]), application="door"),
            lambda: gallery.identify(again(people[3]), application="door"),
            lambda: gallery.renew("s3", people[3], application="door"),
        ):
            source.requests.clear()
            action()
            assert len(source.requests) == 1
        source.requests.clear()
        gallery.revoke("s4", application="door")
        assert gallery.check() == []
        assert source.requests == []
    assert source.is_closed
    again_open, source = counted(tmp_path / "k", create=False)
    with again_open:
        assert len(source.requests) == 1


def test_a_joined_gallery_lives_and_refuses_other_keys(tmp_path, masters):
    file, wrap, database = tmp_path / "k", tmp_path / "w", tmp_path / "g.db"
    url = f"file:{file}?key-file={wrap}+environment:ONE"
    person = faces(1)[0]
    with Gallery.open(database, keys=url, hasher=FakeHasher(), create=True) as gallery:
        gallery.create_application("door", key_mode="application", masked=True)
        gallery.enroll("a", person, application="door")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(wrap.stat().st_mode) == 0o600
    for wrong, text in {
        f"environment:ONE+file:{file}?key-file={wrap}": "is not opened by external\\+key",
        f"file:{file}?key-file={wrap}": "is not opened by key",
        f"environment:ONE?file={file}": "is not opened by external",
        f"{url}+environment:TWO": "is not opened by",
        f"file:{file}?key-file={wrap}+environment:TWO": "belongs to other keys",
    }.items():
        with pytest.raises(StoreError, match=text):
            Gallery.open(database, keys=wrong, hasher=FakeHasher())
    assert {path: path.read_bytes() for path in before} == before
    with Gallery.open(database, keys=url, hasher=FakeHasher()) as gallery:
        assert gallery.check() == []
        assert gallery.verify("a", again(person), application="door").match


def test_two_sources_of_one_kind_in_another_order(tmp_path, masters):
    open_key_store(f"environment:ONE+environment:TWO?file={tmp_path}/k", create=True).close()
    with pytest.raises(StoreError, match="in another order"):
        open_key_store(f"environment:TWO+environment:ONE?file={tmp_path}/k")
    open_key_store(f"environment:ONE?file={tmp_path}/k+environment:TWO").close()


def test_the_rows_of_joined_stores_need_all_parts(tmp_path, masters):
    """Whoever has the file and its own seal reads no mask."""
    seal = Seal("key", lambda *_: bytes(32))
    opener = SourceOpener("external", lambda is_new: MasterSource(OTHER))
    with KeyStore.open(tmp_path / "k", seal, opener, create=True) as keys:
        keys.put_masks("door", {1: bytes(48)})
    with contextlib.closing(sqlite3.connect(tmp_path / "k")) as connection:
        header = json.loads(connection.execute("SELECT text FROM header").fetchone()[0])
    own = seal.read_master(header, header["master"])
    (rows,) = own.derive([b"iom/key-store/rows/v2\0" + header["salt"].encode()])
    with pytest.raises(StoreError, match="wrong passphrase or key"):
        KeyStore(tmp_path / "k", rows, header, source=own)


@pytest.mark.parametrize("change", ["derivation", "salt", "identity", "master", "sealed_by", "new"])
def test_a_header_that_was_changed(tmp_path, change):
    seal, path = Seal("key", lambda *_: bytes(32)), tmp_path / "k"
    KeyStore.open(path, seal, create=True).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        header = json.loads(connection.execute("SELECT text FROM header").fetchone()[0])
        for value in (5, "x", None, header.get(change, "")[:-1] if isinstance(header.get(change), str) else []):
            text = json.dumps({**header, change: value})
            connection.execute("UPDATE header SET text = ?", (text,))
            connection.commit()
            with pytest.raises(StoreError):
                KeyStore.open(path, seal).close()
        if change in header:
            text = json.dumps({name: value for name, value in header.items() if name != change})
            connection.execute("UPDATE header SET text = ?", (text,))
            connection.commit()
            with pytest.raises(StoreError):
                KeyStore.open(path, seal).close()
        connection.execute("UPDATE header SET text = ?", (json.dumps(header),))
    KeyStore.open(path, seal).close()


def test_urls(tmp_path):
    path, tls = tmp_path / "a+b&c?d", "certificate=c&key=k&authority=a"
    for url, kinds in {
        f"{path}": ["passphrase"],
        f"file:{path}?key-file={path}.wrap": ["key"],
        f"command:a b?x=1&file={path}": ["external"],
        f"environment:A?file={path}&mode=ro": ["external"],
        f"https://h:1?{tls}&file={path}": ["https"],
        f"pkcs11:token=a;object=b?module-path=/l.so&pin-source=file:p&file={path}": ["pkcs11"],
        f"file:{path}+https://h:1?{tls}+pkcs11:token=a;object=b?module-path=/l": ["passphrase", "https", "pkcs11"],
    }.items():
        found = parse_key_url(url, None)
        assert [part.kind for part in found.parts] == kinds
        assert (found.path, found.read_only) == (path, "mode=ro" in url)
    for wrong in (
        "",
        ":",
        "https:x",
        f"https://h:1?{tls}",
        f"environment:A?file={path}&file={path}",
        f"environment:A?file={path}&mode=rx",
        f"file:{path}+file:{path}",
        f"file:{path}+environment:A?file={path}",
        "environment:A+command:b",
        f"http://h:1?file={path}",
        f"environment:?file={path}",
    ):
        with pytest.raises(StoreError):
            parse_key_url(wrong, None)
    for wrong, text in {
        f"https://h:1?certificate=c&file={path}": "received no key, authority",
        f"pkcs11:token=a;object=b?file={path}": "no module-path",
        f"pkcs11:token=a;object=b?module-path=/l&pin-value=1234&file={path}": "can be read by every user",
    }.items():
        with pytest.raises(StoreError, match=text) as caught:
            open_key_store(wrong, create=True)
        assert "1234" not in str(caught.value)
    with pytest.raises(StoreNotFoundError):  # told before anything outside is asked
        open_key_store(f"https://h:1?{tls}&file={path}")
    assert list(tmp_path.iterdir()) == []


def test_an_old_key_store_keeps_its_derivation(tmp_path, root):
    """Fixtures of older galleries are opened in their own tests; here their header is looked at."""
    shutil.copy(root / "tests/fixtures/edition_1/gallery/gallery.keys", tmp_path / "k")
    text = (root / "tests/fixtures/edition_1/gallery/passphrase").read_text().strip()
    with contextlib.closing(sqlite3.connect(tmp_path / "k")) as connection:
        (header,) = connection.execute("SELECT text FROM header").fetchone()
    assert "derivation" not in json.loads(header)
    with open_key_store(f"file:{tmp_path}/k", passphrase=text) as keys:
        master = keys.state().master
        assert keys.audit_key() == master.stream("gallery-audit", 32)
        assert keys.seal(b"a") == hmac.digest(master.stream("gallery-seal", 32), b"a", "sha256")[:16]
        assert keys.record_key("door", "a", 1) == master.derive(application="door", subject="a", record=1)
    with open_key_store(f"file:{tmp_path}/new", passphrase=text, create=True) as keys:
        assert keys.state().master is None

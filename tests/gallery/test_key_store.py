"""Key stores: the file, its seals, and masters from outside."""

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import pytest

from iom.errors import KeyMaterialError, StoreError, StoreNotFoundError
from iom.gallery.gallery import Gallery
from iom.gallery.key_source import Seal, passphrase_seal
from iom.gallery.key_store import Anchor, KeyStore, open_key_store
from iom.gallery.models import AuditChain, AuditEvent, Counts, Tombstone
from iom.gallery.stores.sqlite import SqliteStore
from iom.keys import TransformKey
from tests.gallery.conftest import FakeHasher, faces

MASK = bytes(range(48))
ENTRY = AuditChain(b"key").following(AuditEvent("revoke", "door", 1), Counts(3, 1), (3, bytes(32)))


@pytest.fixture(autouse=True)
def closing(monkeypatch):
    """Every key store that a test opens is closed after it."""
    stack, made = contextlib.ExitStack(), KeyStore.__init__

    def remembered(self, *arguments, **options):
        made(self, *arguments, **options)
        stack.callback(self.close)

    monkeypatch.setattr(KeyStore, "__init__", remembered)
    with stack:
        yield


def opened(path, *, create=False, passphrase="correct horse"):
    return KeyStore.open(path, passphrase_seal(lambda: passphrase, cost=2), create=create)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "g.keys"


def changed(path, statement):
    """Change the file as a person without the wrapping key can."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_everything_is_read_back(path):
    keys = opened(path, create=True)
    keys.put_masks("door", {1: MASK, 2: MASK[::-1]})
    keys.revoke("door", [Tombstone("alice", 1, 5)], ENTRY)
    for each in (keys, opened(path)):
        assert each.identity() == keys.identity()
        assert each.derive("a", [b"b"]) == keys.derive("a", [b"b"])
        assert each.masks("door", [2]) == [MASK[::-1]]
        assert each.masked_records("door") == {2}
        assert each.revoked("door") == {1: Tombstone("alice", 1, 5)}
        assert each.revoked_epochs("door") == {"alice": 5}
        assert each.revoked("other") == {}
        assert each.state().anchor == Anchor(4, ENTRY.digest)
        assert each.state().position == 3
    assert path.stat().st_mode & 0o077 == 0


def test_record_numbers_are_never_given_out_twice(path):
    keys, other = opened(path, create=True), opened(path)
    numbers = [*keys.reserve("door", 3), *other.reserve("door", 2), *keys.reserve("door", 1)]
    assert numbers == list(range(6))
    assert list(keys.reserve("gate", 1)) == [0]
    other.claim_records("door", 1000)
    keys.claim_records("door", 10)
    assert list(keys.reserve("door", 1)) == [1000]
    for number in (-1, 2**63 - 1):
        with pytest.raises(StoreError, match="record number"):
            keys.claim_records("door", number)


def test_a_mask_is_used_once(path):
    keys = opened(path, create=True)
    keys.put_masks("door", {1: MASK})
    keys.revoke("door", [Tombstone("a", 2)])
    for record in (1, 2):
        with pytest.raises(KeyMaterialError, match="once"):
            keys.put_masks("door", {record: MASK})
    with pytest.raises(StoreError, match="no mask"):
        keys.masks("door", [3])
    keys.forget_masks("door", [1])
    assert keys.masked_records("door") == set()


def test_two_processes_see_each_other(path):
    first = opened(path, create=True)
    second = opened(path)
    first.put_masks("door", {1: MASK})
    second.put_masks("door", {2: MASK})
    first.revoke("door", [Tombstone("a", 2)])
    assert first.masked_records("door") == second.masked_records("door") == {1}
    second.erase()
    second.erase()  # the file may be given its first inode again
    first.put_masks("door", {3: MASK})
    assert second.masked_records("door") == {1, 3}
    assert set(first.revoked("door")) == set(opened(path).revoked("door")) == {2}


def test_no_thread_sees_fewer_revocations_while_another_process_erases(path, root):
    """Every read is of a whole state: an acknowledged revocation is never missing."""
    keys = opened(path, create=True)
    keys.revoke("door", [Tombstone(f"s{i}", i) for i in range(50)])
    code = (
        "import sys\n"
        "from iom.gallery.key_store import open_key_store\n"
        "from iom.gallery.models import Tombstone\n"
        "keys = open_key_store(f'file:{sys.argv[1]}', passphrase=lambda: 'correct horse')\n"
        "for i in range(8):\n"
        "    keys.revoke('door', [Tombstone(f't{i}', 50 + i)])\n"
        "    keys.erase()\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=root)
    wrong, seen = [], [0] * 4

    def read(number):
        try:
            while worker.poll() is None:
                count = len(keys.revoked("door"))
                if count < max(50, seen[number]):
                    wrong.append(count)
                seen[number] = count
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=read, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worker.wait() == 0
    assert not wrong
    assert len(keys.revoked("door")) == 58


def test_what_is_handed_out_does_not_change(path):
    keys = opened(path, create=True)
    before = keys.revoked("door")
    keys.revoke("door", [Tombstone("a", 1)])
    assert before == {}
    with pytest.raises(TypeError):
        keys.revoked("door")[2] = Tombstone("b", 2)


def test_erasing_forgets_masks_and_goes_on_counting(path):
    keys = opened(path, create=True)
    keys.put_masks("door", {number: MASK for number in range(500)})
    keys.revoke("door", [Tombstone("a", number) for number in range(499)], ENTRY)
    before, size = keys.state().position, path.stat().st_size
    keys.erase()
    assert keys.state().position >= before
    assert path.stat().st_size < size
    again = opened(path)
    assert again.masked_records("door") == {499}
    assert len(again.revoked("door")) == 499
    assert again.state().anchor == keys.state().anchor
    assert again.identity() == keys.identity()


def test_a_forgotten_mask_is_in_no_file(path):
    keys = opened(path, create=True)
    keys.put_masks("door", {1: MASK, 2: MASK})
    query = "SELECT sealed FROM masks WHERE record = 1"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        ((sealed,),) = connection.execute(query).fetchall()
    assert any(sealed in file.read_bytes() for file in path.parent.iterdir())
    keys.forget_masks("door", [1])
    assert not any(sealed in file.read_bytes() for file in path.parent.iterdir())


def test_the_wrong_passphrase(path):
    opened(path, create=True)
    with pytest.raises(StoreError, match="wrong passphrase"):
        opened(path, passphrase="wrong horse")
    with pytest.raises(KeyMaterialError, match="8 characters"):
        opened(path.with_name("new"), create=True, passphrase="short")
    with pytest.raises(StoreError, match="already"):
        opened(path, create=True)
    with pytest.raises(StoreError, match="opened by"):
        KeyStore.open(path, Seal("key", lambda *_: bytes(32)))


def content(path):
    with opened(path) as keys:
        return (
            keys.identity(),
            dict(keys.revoked("door")),
            keys.masks("door", [3]),
            keys.state().anchor,
            keys.problems(),
        )


def test_damage_anywhere_is_found(path):
    keys = opened(path, create=True)
    keys.put_masks("door", {1: MASK, 3: MASK[::-1]})
    keys.revoke("door", [Tombstone("a", 1)], ENTRY)
    keys.close()
    whole, expected = path.read_bytes(), content(path)
    damaged = path.with_name("damaged.keys")
    used = [place for place in range(len(whole)) if whole[place]]
    for place in used[::23]:
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with contextlib.suppress(StoreError, KeyMaterialError):
            found = content(damaged)
            assert found == expected or found[-1], f"a changed byte {place} went unnoticed"
    for length in range(0, len(whole), 997):
        damaged.write_bytes(whole[:length])
        with pytest.raises(StoreError):
            content(damaged)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE kind = 'revoked'",
        "DELETE FROM entries WHERE number = 2",
        "DELETE FROM state",
        "UPDATE state SET number = 9",
        "UPDATE entries SET kind = 'master' WHERE number = 1",
        "UPDATE entries SET sealed = (SELECT sealed FROM entries WHERE number = 1) WHERE number = 2",
        "UPDATE entries SET number = 9 WHERE number = 2",
        "INSERT INTO entries SELECT 3, kind, sealed FROM entries WHERE number = 2",
    ],
)
def test_rows_that_were_changed_without_the_key_are_found(path, statement):
    keys = opened(path, create=True)
    keys.revoke("door", [Tombstone("a", 1)])
    keys.revoke("door", [Tombstone("b", 2)])
    keys.close()
    changed(path, statement)
    with pytest.raises(StoreError, match="from a backup"):
        opened(path)


def test_masks_that_were_exchanged_are_found(path):
    keys = opened(path, create=True)
    keys.put_masks("door", {1: MASK, 2: MASK[::-1]})
    changed(path, "UPDATE masks SET record = record + 10")
    with pytest.raises(StoreError, match="mask of record 11"):
        keys.masks("door", [11])


def test_an_older_copy_that_is_put_back_while_it_is_open_is_noticed(path):
    keys = opened(path, create=True)
    keys.close()
    shutil.copy(path, path.with_name("old"))
    keys = opened(path)
    keys.revoke("door", [Tombstone("a", 1)])
    keys.close()
    running = opened(path)
    path.with_name("old").replace(path)
    with pytest.raises(StoreError, match="was replaced while it was open"):
        running.revoke("door", [Tombstone("b", 2)])


def test_a_closed_store_answers_nothing(path):
    keys = opened(path, create=True)
    keys.revoke("door", [Tombstone("a", 1)])
    keys.close()
    keys.close()
    for question in (
        keys.identity,
        keys.state,
        keys.chain,
        lambda: keys.revoked("door"),
        lambda: keys.derive("a", [b""]),
    ):
        with pytest.raises(StoreError, match="closed"):
            question()


def test_a_full_disk_leaves_the_file_as_it_was(path):
    keys = opened(path, create=True)
    keys.put_masks("door", {1: MASK})
    pages = keys._file.rows("PRAGMA page_count")[0][0]
    keys._file.rows(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="disk is full"):
        keys.put_masks("door", {number: MASK for number in range(2, 500)})
    assert keys.masked_records("door") == {1}
    keys._file.rows("PRAGMA max_page_count = 100000")
    keys.put_masks("door", {2: MASK})
    assert opened(path).masked_records("door") == {1, 2}


def test_no_secret_is_in_the_file_or_a_repr(path):
    keys = opened(path, create=True)
    keys.put_masks("door", {1: MASK})
    data = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert MASK not in data
    master = vars(keys)["_source"]._master
    assert master.secret not in data
    assert master.to_text().encode() not in data
    for secret in (master.secret.hex(), master.to_text(), repr(master.secret)):
        assert secret not in repr([keys, keys.chain(), *vars(keys).values()])


def test_keys_from_elsewhere(path, tmp_path, monkeypatch):
    master = TransformKey.generate()
    monkeypatch.setenv("MASTER", master.to_text())
    url = f"environment:MASTER?file={path}"
    made = open_key_store(url, create=True)
    assert made.record_key("door", "a", 1) == master.derive(application="door", subject="a", record=1)
    program = tmp_path / "print_key.py"
    program.write_text(f"print({master.to_text()!r})")
    command = f"command:{sys.executable} {program}?file={path}"
    assert open_key_store(command).identity() == made.identity()
    monkeypatch.setenv("MASTER", TransformKey.generate().to_text())
    with pytest.raises(StoreError, match="wrong passphrase or key"):
        open_key_store(url)
    monkeypatch.setenv("MASTER", "iom-key-1:secretsecret:0")
    with pytest.raises(KeyMaterialError) as caught:
        open_key_store(url)
    assert "secretsecret" not in str(caught.value)
    program.write_text("import sys; print('hush', file=sys.stderr); sys.exit(3)")
    with pytest.raises(StoreError, match="code 3") as caught_too:
        open_key_store(command)
    assert "hush" not in str(caught_too.value)
    for wrong in ("environment:NOT_SET?file=x", "environment:MASTER", "vault:x", "x", "command:?file=x"):
        with pytest.raises(StoreError):
            open_key_store(wrong)


def test_a_key_file_beside_it(path, tmp_path):
    url = f"file:{path}?key-file={tmp_path}/wrap"
    made = open_key_store(url, create=True)
    assert open_key_store(url).identity() == made.identity()
    assert (tmp_path / "wrap").stat().st_mode & 0o077 == 0
    (tmp_path / "wrap").write_text(TransformKey.generate().to_text())
    with pytest.raises(StoreError, match="wrong passphrase or key"):
        open_key_store(url)


def test_a_wrapping_key_is_never_readable_by_others(path, tmp_path, monkeypatch):
    """Every file of the folder is looked at around each call that may widen its mode."""
    modes = set()
    for name in ("fsync", "replace", "link", "chmod", "open"):
        original = getattr(os, name)

        def watched(*arguments, original=original, **options):
            result = original(*arguments, **options)
            modes.update(stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir())
            return result

        monkeypatch.setattr(os, name, watched)
    open_key_store(f"file:{path}?key-file={tmp_path}/wrap", create=True)
    assert modes == {0o600}


def test_a_store_that_is_not_there(path, tmp_path):
    for url in (f"file:{path}", f"file:{path}?key-file={tmp_path}/wrap"):
        with pytest.raises(StoreNotFoundError) as caught:
            open_key_store(url)
        assert caught.value.place == str(path)
    assert not (tmp_path / "wrap").exists()


def killed(code, root, *arguments, seconds):
    worker = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=root,
                              stdout=subprocess.PIPE)  # fmt: skip
    worker.stdout.readline()  # everything is imported
    time.sleep(seconds)
    worker.kill()
    worker.communicate()


def test_a_killed_init_can_be_repeated(tmp_path, root):
    """Whatever it left, the same call again makes the store, and nothing is readable by others."""
    code = (
        "import sys\n"
        "from iom.gallery.key_store import open_key_store\n"
        "for i in range(10**6):\n"
        "    if i == 0: print('ready', flush=True)\n"
        "    open_key_store(sys.argv[1].format(i), create=True).close()\n"
    )
    url = f"file:{tmp_path}/{{0}}.keys?key-file={tmp_path}/{{0}}.wrap"
    for trial in range(4):
        killed(code, root, url, seconds=0.003 + 0.013 * trial)
        made = {path.name for path in tmp_path.iterdir()}
        assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
        for number in range(len(made) + 1):
            create = f"{number}.keys" not in made
            open_key_store(url.format(number), create=create).close()
        for path in tmp_path.iterdir():
            path.unlink()


def test_a_killed_erase_leaves_nothing_that_was_forgotten(path, root):
    keys = opened(path, create=True)
    keys.put_masks("door", {number: MASK for number in range(2000)})
    with contextlib.closing(sqlite3.connect(path)) as connection:
        ((sealed,),) = connection.execute("SELECT sealed FROM masks WHERE record = 7").fetchall()
    keys.forget_masks("door", range(1000))
    keys.close()
    code = (
        "import sys\n"
        "from iom.gallery.key_store import open_key_store\n"
        "keys = open_key_store(f'file:{sys.argv[1]}', passphrase=lambda: 'correct horse')\n"
        "print('ready', flush=True)\n"
        "while True: keys.erase()\n"
    )
    for trial in range(4):
        killed(code, root, path, seconds=0.002 + 0.011 * trial)
        with opened(path) as again:
            assert again.masked_records("door") == set(range(1000, 2000))
            assert again.problems() == []
        assert not any(sealed in file.read_bytes() for file in path.parent.iterdir())
        assert {file.name for file in path.parent.iterdir()} == {path.name}


READ_ONLY = """
import sys
from iom.errors import StoreError
from iom.gallery.gallery import Gallery
from iom.gallery.key_store import open_key_store
from iom.gallery.stores.base import open_store
store, keys = f"sqlite:///{sys.argv[1]}/g.db", f"file:{sys.argv[1]}/keys?key-file={sys.argv[1]}/w"
for opener, url in ((open_store, store), (open_key_store, keys)):
    try:
        opener(url)
    except StoreError as error:
        assert "?mode=ro" in str(error), error
    else:
        raise SystemExit("expected a refusal")
with Gallery(open_store(store + "?mode=ro"), open_key_store(keys + "&mode=ro")) as gallery:
    assert gallery.store.references("door", "alice") == [], "expected none"
    assert gallery.application("door").threshold == 50
    try:
        gallery.revoke("alice", application="door")
    except Exception as error:
        print(type(error).__name__)
"""


def test_a_read_only_mount_is_opened_for_reading(tmp_path, root):
    source, mount = tmp_path / "source", tmp_path / "mount"
    source.mkdir()
    mount.mkdir()
    keys = open_key_store(f"file:{source}/keys?key-file={source}/w", create=True)
    with Gallery(SqliteStore(source / "g.db", create=True), keys, FakeHasher()) as gallery:
        gallery.create_application("door")
    mounting = f"mount --bind {source} {mount} && mount -o remount,ro,bind {mount}"
    tried = subprocess.run(["unshare", "-m", "sh", "-c", mounting], capture_output=True)
    if tried.returncode:
        pytest.skip("needs the right to mount")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mounting} && exec "$0" -c "$1" {mount}',
         sys.executable, READ_ONLY],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "NotEnrolledError\n", "")


@pytest.mark.parametrize("value", ["'abc'", "1.5", "-5", "''"])
@pytest.mark.parametrize("column", ["state.number", "state.sealed", "entries.kind", "masks.sealed"])
def test_values_of_other_types_are_damage(place, column, value):
    gallery = place.open(create=True)
    gallery.create_application("door", masked=True)
    gallery.enroll("a", faces(1), application="door")
    gallery.enroll("b", faces(1, seed=3), application="door")
    gallery.revoke("b", application="door")
    place.close()
    table, name = column.split(".")
    with contextlib.closing(sqlite3.connect(place.key_file)) as connection, connection:
        connection.execute(f"UPDATE {table} SET {name} = {value}")
    with pytest.raises(StoreError):
        place.open().verify("a", faces(1), application="door")


def test_check_opens_every_mask(place):
    gallery = place.open(create=True)
    gallery.create_application("door", masked=True)
    gallery.enroll_many(["a", "b"], faces(2), application="door")
    with contextlib.closing(sqlite3.connect(place.key_file)) as connection, connection:
        connection.execute("UPDATE masks SET sealed = (SELECT sealed FROM masks WHERE record = 1) WHERE record = 0")
    (problem,) = gallery.check()
    assert "the mask of record 0 of door" in problem


def test_a_key_store_that_was_replaced_is_not_read_any_more(place):
    """Another process revokes in the new file; the old one would let that subject in for ever."""
    gallery = place.open(create=True)
    gallery.create_application("door")
    gallery.enroll("a", faces(1), application="door")
    copy = place.folder / "copy"
    with contextlib.closing(sqlite3.connect(place.key_file)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    copy.replace(place.key_file)
    with pytest.raises(StoreError, match="replaced while it was open"):
        gallery.verify("a", faces(1), application="door")


def test_a_key_file_that_is_no_text_is_told_without_its_content(path, tmp_path):
    url = f"file:{path}?key-file={tmp_path}/wrap"
    open_key_store(url, create=True)
    (tmp_path / "wrap").write_bytes(b"\xfe\xff" * 20)
    with pytest.raises(StoreError, match="no text of a key") as caught:
        open_key_store(url)
    assert "0xfe" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(StoreError, match="Is a directory"):
        open_key_store(f"file:{path}?key-file={tmp_path}")

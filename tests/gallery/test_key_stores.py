"""Key files and external masters."""

import os
import sys

import pytest

from iom.errors import KeyMaterialError, StoreError
from iom.gallery.key_file import KeyFile
from iom.gallery.key_store import Anchor, RevokedRecord, open_key_store
from iom.keys import TransformKey

MASK = bytes(range(48))


def opened(path, *, create=False, passphrase="correct horse"):
    return KeyFile.with_passphrase(path, passphrase, create=create, cost=2)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "g.keys"


def test_everything_is_read_back(path):
    keys = opened(path, create=True)
    keys.put_masks("door", {1: MASK, 2: MASK[::-1]})
    keys.revoke("door", [RevokedRecord("alice", 1)], Anchor(4, bytes(32)))
    for each in (keys, opened(path)):
        assert each.master() == keys.master()
        assert each.masks("door", [2]) == [MASK[::-1]]
        assert each.masked_records("door") == {2}
        assert each.revoked("door") == {1: "alice"}
        assert each.revoked("other") == {}
        assert list(each.anchors()) == [Anchor(4, bytes(32))]
        assert each.entries() == 3
    assert path.stat().st_mode & 0o077 == 0


def test_a_mask_is_used_once(path):
    keys = opened(path, create=True)
    keys.put_masks("door", {1: MASK})
    keys.revoke("door", [RevokedRecord("a", 2)], None)
    for record in (1, 2):
        with pytest.raises(KeyMaterialError, match="once"):
            keys.put_masks("door", {record: MASK})
    with pytest.raises(StoreError, match="no mask"):
        keys.masks("door", [3])


def test_two_processes_see_each_other(path):
    first = opened(path, create=True)
    second = opened(path)
    first.put_masks("door", {1: MASK})
    second.put_masks("door", {2: MASK})
    first.revoke("door", [RevokedRecord("a", 2)], None)
    assert first.masked_records("door") == second.masked_records("door") == {1}
    second.erase()
    first.put_masks("door", {3: MASK})
    assert second.masked_records("door") == {1, 3}
    assert first.revoked("door") == {2: "a"}


def test_erasing_forgets_masks_and_goes_on_counting(path):
    keys = opened(path, create=True)
    keys.put_masks("door", {number: MASK for number in range(50)})
    keys.revoke("door", [RevokedRecord("a", number) for number in range(49)], Anchor(1, bytes(32)))
    before, size = keys.entries(), path.stat().st_size
    keys.erase()
    assert keys.entries() >= before
    assert path.stat().st_size < size
    again = opened(path)
    assert again.masked_records("door") == {49}
    assert len(again.revoked("door")) == 49
    assert again.anchors() == keys.anchors()
    assert again.master() == keys.master()


def test_the_wrong_passphrase(path):
    opened(path, create=True)
    with pytest.raises(StoreError, match="wrong passphrase"):
        opened(path, passphrase="wrong horse")
    with pytest.raises(KeyMaterialError, match="8 characters"):
        opened(path.with_name("new"), create=True, passphrase="short")
    with pytest.raises(StoreError, match="already"):
        opened(path, create=True)
    with pytest.raises(StoreError, match="opened by"):
        KeyFile.with_key(path, bytes(32))


def test_damage_anywhere_is_found_or_is_an_unfinished_entry(path):
    keys = opened(path, create=True)
    start = path.stat().st_size
    keys.put_masks("door", {1: MASK})
    first = path.stat().st_size
    keys.revoke("door", [RevokedRecord("a", 1)], None)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            read = opened(path).entries()
        except StoreError:
            continue
        assert read < 3, f"a changed byte {place} went unnoticed"
    for length in range(0, len(whole), 11):
        path.write_bytes(whole[:length])
        try:
            read = opened(path)
            assert read.entries() == (length >= start) + (length >= first)
            read.put_masks("door", {length + 5: MASK})
            assert opened(path).masked_records("door") >= {length + 5}
        except StoreError:
            assert length < start
    order = whole[:start] + whole[first:] + whole[start:first]
    path.write_bytes(order)
    with pytest.raises(StoreError, match="damaged or was changed"):
        opened(path)


def test_a_closed_store_answers_nothing(path):
    keys = opened(path, create=True)
    keys.revoke("door", [RevokedRecord("a", 1)], None)
    keys.close()
    keys.close()
    for question in (keys.master, keys.entries, keys.anchors, lambda: keys.revoked("door")):
        with pytest.raises(StoreError, match="closed"):
            question()


def test_a_full_disk_leaves_the_file_as_it_was(path, monkeypatch):
    keys = opened(path, create=True)
    keys.put_masks("door", {1: MASK})
    whole = path.read_bytes()

    def full(descriptor, data, offset):
        return real(descriptor, data[:9], offset)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreError, match="No space left"):
        keys.put_masks("door", {2: MASK})
    monkeypatch.undo()
    assert path.read_bytes() == whole
    keys.put_masks("door", {2: MASK})
    assert opened(path).masked_records("door") == {1, 2}


def test_no_secret_is_in_the_file_or_a_repr(path):
    keys = opened(path, create=True)
    keys.put_masks("door", {1: MASK})
    data = path.read_bytes()
    assert MASK not in data
    assert keys.master().secret not in data
    assert keys.master().to_text().encode() not in data
    assert repr(keys) == "KeyFile()"


def test_keys_from_elsewhere(path, tmp_path, monkeypatch):
    master = TransformKey.generate()
    monkeypatch.setenv("MASTER", master.to_text())
    url = f"environment:MASTER?file={path}"
    assert open_key_store(url, create=True).master() == master
    program = tmp_path / "print_key.py"
    program.write_text(f"print({master.to_text()!r})")
    command = f"command:{sys.executable} {program}?file={path}"
    assert open_key_store(command).master() == master
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
    for wrong in (
        "environment:NOT_SET?file=x",
        "environment:MASTER",
        "vault:x",
        "x",
        "command:?file=x",
    ):
        with pytest.raises(StoreError):
            open_key_store(wrong)


def test_a_key_file_beside_it(path, tmp_path):
    url = f"file:{path}?key-file={tmp_path}/wrap"
    made = open_key_store(url, create=True)
    assert open_key_store(url).master() == made.master()
    assert (tmp_path / "wrap").stat().st_mode & 0o077 == 0
    (tmp_path / "wrap").write_text(TransformKey.generate().to_text())
    with pytest.raises(StoreError, match="wrong passphrase or key"):
        open_key_store(url)

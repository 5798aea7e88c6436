"""The audit log of a server keeps what was written, and shows what was changed."""

import stat
import threading

import pytest

from iom._files import Journal
from iom.errors import StoreError
from iom.service.audit_log import AuditLog

KEY = bytes(range(32))


def test_entries_are_kept_as_pseudonyms(tmp_path):
    path = tmp_path / "audit"
    with AuditLog(path, KEY) as log:
        log.add("door", "derive", [b"label-of-alice", b"label-of-bob"])
        log.add("gate", "derive", [b"label-of-alice"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"alice" not in path.read_bytes()
    with AuditLog(path, KEY) as log:
        log.add("door", "derive", [b"label-of-bob"])
        log.add("door", "open")
        first, other, second, last = log.records()
    assert [each.caller for each in (first, other, second, last)] == ["door", "gate", "door", "door"]
    assert [each.count for each in (first, other, second, last)] == [2, 1, 1, 0]
    assert first.labels[1] == second.labels[0]
    assert first.labels[0] != other.labels[0]  # a pseudonym is of one caller


def test_changes_are_found(tmp_path):
    path = tmp_path / "audit"
    with AuditLog(path, KEY) as log:
        for number in range(4):
            log.add("door", "derive", [bytes([number])])
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    changed = [
        whole.replace(b"door", b"gate", 1),
        b"".join([*lines[:2], *lines[3:]]),
        b"".join([lines[0], lines[2], lines[1], *lines[3:]]),
        b"".join([*lines, b'{"entry": [1, "door", "derive", 0, "", "00"]}\n']),
        b"".join([*lines, b'{"entry": 1}\n']),
        b"".join([*lines, b"x\n"]),
    ]
    for content in changed:
        path.write_bytes(content)
        with pytest.raises(StoreError):
            AuditLog(path, KEY)
        assert path.read_bytes() == content
    path.write_bytes(whole)
    with pytest.raises(StoreError, match="another key"):
        AuditLog(path, bytes(32))
    path.write_bytes(whole + b'{"entry": [1, "do')  # killed within a write
    with AuditLog(path, KEY) as log:
        log.add("door", "derive")
        assert len(list(log.records())) == 5


def test_one_process_at_a_time_and_other_files(tmp_path):
    with AuditLog(tmp_path / "audit", KEY), pytest.raises(StoreError, match="another"):
        AuditLog(tmp_path / "audit", KEY)
    (tmp_path / "text").write_text("a text\n")
    for path in (tmp_path / "text", tmp_path):
        with pytest.raises(StoreError):
            AuditLog(path, KEY)


def test_a_full_disk_ends_the_log_until_it_is_opened_again(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    for name in ("add", "sync"):
        path = tmp_path / name
        with AuditLog(path, KEY) as log:
            log.add("door", "derive")
            with monkeypatch.context() as patch:
                patch.setattr(Journal, name, full)
                with pytest.raises(StoreError, match="No space left"):
                    log.add("door", "derive")
            with pytest.raises(StoreError, match="start this program again"):
                log.add("door", "derive")
        with AuditLog(path, KEY) as log:
            log.add("gate", "derive")
            assert [each.caller for each in log.records()][-1] == "gate"


def test_threads_share_a_log(tmp_path):
    with AuditLog(tmp_path / "audit", KEY) as log:
        threads = [
            threading.Thread(target=lambda name=name: [log.add(name, "derive", [b"x"]) for _ in range(20)])
            for name in ("a", "b", "c")
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(list(log.records())) == 60

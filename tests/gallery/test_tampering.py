"""Changes of the record store by a person who can write it and has no key."""

import contextlib
import dataclasses
import json
import re
import shutil
import sqlite3
import threading

import numpy as np
import pytest

from iom.errors import EnrolmentError, RevokedError, StoreError
from iom.gallery.gallery import Gallery
from iom.gallery.stores.sqlite import SqliteStore
from iom.gallery.transfer import export_application, import_application
from tests.gallery.conftest import UNMASKED, FakeHasher, faces

PEOPLE = faces(6)


@pytest.fixture
def gallery(place):
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode="application", masked=True)
    gallery.enroll_many(list("abc"), PEOPLE[:3], application="door")
    gallery.rotate(application="door")
    gallery.revoke("c", application="door")
    return gallery


def changed(place, *statements):
    """Change the record store behind the gallery's back, and open the gallery anew."""
    place.close()
    with contextlib.closing(sqlite3.connect(place.database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return place.open()


SETTINGS = ["threshold = 96", "masked = 0", "epoch = 0", "model = 'other'", "created = 0"]


@UNMASKED
@pytest.mark.parametrize("setting", SETTINGS)
def test_changed_settings_admit_no_one(gallery, place, setting):
    gallery = changed(place, f"UPDATE applications SET {setting}")
    for verb in (
        lambda: gallery.verify("a", PEOPLE[5], application="door"),
        lambda: gallery.identify(PEOPLE[5], application="door"),
        lambda: gallery.enroll("f", PEOPLE[5], application="door"),
        lambda: gallery.renew("a", PEOPLE[0], application="door"),
        lambda: gallery.revoke("a", application="door"),
        lambda: gallery.rotate(application="door"),
        lambda: gallery.set_threshold(20, application="door"),
        lambda: export_application(gallery, "door", place.folder / "x"),
    ):
        with pytest.raises(StoreError, match="changed outside"):
            verb()
    assert any("settings" in problem for problem in gallery.check())


def test_settings_that_are_set_back_with_their_seal_are_found(gallery, place):
    columns = "threshold, epoch, revision, seal"
    (old,) = gallery.store._file.rows(f"SELECT {columns} FROM applications")
    gallery.rotate(application="door")
    place.close()
    with contextlib.closing(sqlite3.connect(place.database)) as connection, connection:
        connection.execute("UPDATE applications SET threshold = ?, epoch = ?, revision = ?, seal = ?", old)
    gallery = place.open()
    with pytest.raises(StoreError, match="set back"):
        gallery.enroll("f", PEOPLE[5], application="door")
    assert any("set back" in problem for problem in gallery.check())


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["DELETE FROM audit"], "cut or emptied|audit log was cut"),
        (["DELETE FROM audit WHERE sequence > 3"], "audit log was cut"),
        (["DELETE FROM audit WHERE sequence = 2"], "entries are missing"),
        (["UPDATE audit SET time = 9 WHERE sequence = 2"], "entry 2 was changed or forged"),
        (
            [
                "INSERT INTO audit SELECT 5, time, action, application, count, subjects, "
                "key_entries, valid, revoked, revision, digest, digest FROM audit "
                "WHERE sequence = 4"
            ],
            "entry 5 was changed or forged",
        ),
        (["DELETE FROM reference_codes WHERE subject = 'a'"], "expected 2 valid references"),
        (["DELETE FROM tombstones"], "expected 1 tombstones"),
        (["UPDATE tombstones SET subject = 'x'"], "was forged or changed"),
        (["UPDATE tombstones SET epoch = 9"], "was forged or changed"),
        (["INSERT INTO tombstones VALUES (1, 99, 'a', 0, x'00', 9)"], "record 99 was forged"),
        (["DELETE FROM reference_codes", "DELETE FROM tombstones", "DELETE FROM applications"],
         "the record store does not"),
    ],
)  # fmt: skip
def test_what_is_deleted_inserted_or_forged_is_found(gallery, place, statements, words):
    assert gallery.check() == []
    gallery = changed(place, *statements)
    with contextlib.closing(gallery):
        found = " ".join(gallery.check())

    assert re.search(words, found), found


def test_an_older_record_store_is_found_also_where_it_lost_enrolments_only(gallery, place):
    place.close()
    shutil.copy(place.database, place.folder / "old.db")
    gallery = place.open()
    (lost,) = gallery.enroll("d", PEOPLE[3], application="door")
    place.close()
    (place.folder / "old.db").replace(place.database)
    gallery = place.open()
    assert any("older copy" in problem for problem in gallery.check())
    (added,) = gallery.enroll("d", PEOPLE[3], application="door")
    assert added.record > lost.record  # a number, and so a key or a mask, is used once
    assert any("older copy" in problem for problem in gallery.check())
    gallery.accept_rollback()
    assert gallery.check() == []


def test_a_restored_store_takes_up_the_newest_settings(gallery, place):
    place.close()
    shutil.copy(place.database, place.folder / "old.db")
    gallery = place.open()
    gallery.set_threshold(12, application="door")
    gallery.rotate(application="door")
    place.close()
    (place.folder / "old.db").replace(place.database)
    gallery = place.open()
    restored = gallery.application("door")
    assert (restored.threshold, restored.epoch) == (12, 2)
    assert gallery.enroll("d", PEOPLE[3], application="door")[0].epoch == 2
    assert all("older copy" in problem for problem in gallery.check())


def test_an_emptied_log_takes_no_further_entry(gallery, place):
    """A write would begin a log that looks whole."""
    gallery = changed(place, "DELETE FROM audit")
    with pytest.raises(StoreError, match="no authentic entry"):
        gallery.enroll("d", PEOPLE[3], application="door")
    assert gallery.check()


def test_forged_tombstones_harm_nothing_but_the_record_store(gallery, place):
    """Once the good record store is back, everything is as it was."""
    place.close()
    shutil.copy(place.database, place.folder / "good.db")
    forged = "INSERT INTO tombstones VALUES (1, {}, 'a', 0, x'00', 99)"
    gallery = changed(place, forged.format(2**63 - 1), forged.format(0))
    assert any("valid and revoked" in problem for problem in gallery.check())
    place.close()
    (place.folder / "good.db").replace(place.database)
    gallery = place.open()
    assert gallery.check() == []
    assert gallery.verify("a", PEOPLE[0], application="door").match
    assert gallery.enroll("d", PEOPLE[3], application="door")[0].record < 10


def test_masks_of_refused_enrolments_do_not_stay(gallery):
    before = gallery.keys.masked_records("door")
    with pytest.raises(EnrolmentError):
        gallery.enroll("a", PEOPLE[:5], application="door")
    assert gallery.keys.masked_records("door") == before


def test_masks_that_a_killed_enrolment_left_are_erased_when_they_are_old(gallery, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(gallery.store, "add", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gallery.enroll("d", PEOPLE[3], application="door")
    kept = {each.record for each in gallery.store.scan("door")}
    gallery.erase()
    assert gallery.keys.masked_records("door") > kept  # it may be on its way into the store
    monkeypatch.setattr("iom.gallery.gallery.ORPHAN_SECONDS", -10)
    gallery.erase()
    assert gallery.keys.masked_records("door") == kept
    assert gallery.verify("a", PEOPLE[0], application="door").match
    assert gallery.check() == []


def test_a_key_store_that_is_full_is_told_and_mended_by_the_next_write(gallery):
    keys = gallery.keys
    pages = keys._file.rows("PRAGMA page_count")[0][0]
    keys._file.rows(f"PRAGMA max_page_count = {pages}")

    def enrol_many():
        for number in range(300):
            gallery.enroll(f"s{number}", np.roll(PEOPLE[5], number), application="door")

    with pytest.raises(StoreError, match="disk is full"):
        enrol_many()
    keys._file.rows("PRAGMA max_page_count = 1000000")
    gallery.revoke("a", application="door")
    assert gallery.check() == []


def test_the_settings_in_an_export_are_sealed(gallery, place):
    path = place.folder / "door.iomx"
    export_application(gallery, "door", path)
    assert path.stat().st_mode & 0o077 == 0
    line, _, rest = path.read_bytes().partition(b"\n")
    header = json.loads(line)
    with SqliteStore(place.folder / "new.db", create=True) as store:
        empty = Gallery(store, gallery.keys, FakeHasher())
        for name, value in (("threshold", 96), ("masked", False), ("epoch", 0)):
            forged = {**header, "application": {**header["application"], name: value}}
            path.write_bytes(json.dumps(forged, separators=(",", ":")).encode() + b"\n" + rest)
            with pytest.raises(StoreError, match="settings were changed"):
                import_application(empty, path)
        assert store.applications() == []


def test_an_import_does_not_bring_a_retired_key_back(gallery, place):
    path = place.folder / "door.iomx"
    export_application(gallery, "door", path)
    gallery.rotate(application="door")
    with SqliteStore(place.folder / "new.db", create=True) as store:
        moved = Gallery(store, gallery.keys, FakeHasher())
        assert import_application(moved, path).added == 2
        assert moved.application("door").epoch == 2
        assert moved.enroll("d", PEOPLE[3], application="door")[0].epoch == 2
        assert moved.check() == []


def test_an_export_is_of_one_moment(gallery, place, monkeypatch):
    """A renewal in the middle leaves neither both references in the file nor none."""
    other, path = place.open(), place.folder / "door.iomx"
    snapshot, renewed = gallery.store.snapshot, []

    @contextlib.contextmanager
    def slow():
        with snapshot() as still:
            scan = still.scan

            def slow_scan(name, *, after=-1, **options):
                if not renewed:
                    renewed.extend(other.renew("a", PEOPLE[0], application="door"))
                return scan(name, after=after, limit=1)

            monkeypatch.setattr(still, "scan", slow_scan)
            yield still

    monkeypatch.setattr(gallery.store, "snapshot", slow)
    assert export_application(gallery, "door", path) == 2
    assert renewed
    monkeypatch.undo()
    with SqliteStore(place.folder / "new.db", create=True) as store:
        moved = Gallery(store, gallery.keys, FakeHasher())
        done = import_application(moved, path)
        assert dataclasses.astuple(done) == (1, 0, 1)


def test_a_gallery_is_checked_while_others_write(gallery, place):
    """What is being written is no problem."""

    other, stop, errors = place.open(), threading.Event(), []

    def write():
        try:
            number = 0
            while not stop.is_set():
                name = f"w{number}"
                other.enroll(name, PEOPLE[4], application="door")
                other.revoke(name, application="door")
                other.set_threshold(number % 50, application="door")
                number += 1
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(12):
            assert gallery.check() == []
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert gallery.check() == []


def test_a_log_that_is_cut_while_a_gallery_is_open_is_found(gallery, place):
    """Entries that are written behind the cut must not take the place of those that are gone."""
    gallery.enroll("d", PEOPLE[3], application="door")
    with contextlib.closing(sqlite3.connect(place.database)) as connection, connection:
        connection.execute("DELETE FROM reference_codes WHERE subject = 'd'")
        connection.execute("DELETE FROM audit WHERE sequence = (SELECT MAX(sequence) FROM audit)")
    gallery.enroll("e", PEOPLE[4], application="door")
    gallery.enroll("f", PEOPLE[5], application="door")
    assert any("audit log was cut" in problem for problem in gallery.check())
    place.close()
    assert any("audit log was cut" in problem for problem in place.open().check())


def test_a_forged_entry_says_nothing_of_the_key_store(gallery, place):
    gallery = changed(place, "UPDATE audit SET key_entries = 1000000 WHERE sequence = 3")
    assert any("entry 3 was changed" in problem for problem in gallery.check())


@UNMASKED
@pytest.mark.parametrize("is_put_back", [False, True])
def test_a_code_that_was_changed_while_a_search_took_it_up_never_matches(place, is_put_back):
    """Under a common key an insider's own code fits into the record of another person."""
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode="application", masked=False)
    gallery.enroll_many(["victim", "insider"], PEOPLE[:2], application="door")
    ((code,),) = gallery.store._file.rows("SELECT code FROM reference_codes WHERE subject = 'victim'")

    def write(statement, *values):
        with contextlib.closing(sqlite3.connect(place.database)) as connection, connection:
            connection.execute(statement, values)

    write(
        "UPDATE reference_codes SET code = (SELECT code FROM reference_codes "
        "WHERE subject = 'insider') WHERE subject = 'victim'"
    )
    with pytest.raises(StoreError, match="changed outside"):
        gallery.identify(PEOPLE[5], application="door")
    if is_put_back:
        write("UPDATE reference_codes SET code = ? WHERE subject = 'victim'", code)
        found = gallery.identify(PEOPLE[1], application="door")
        assert [each.subject_id for each in found] == ["insider"]
    else:
        with pytest.raises(StoreError, match="changed outside"):
            gallery.identify(PEOPLE[1], application="door")


COLUMNS = {
    "applications": ["threshold", "model", "epoch", "revision", "seal", "version"],
    "reference_codes": ["record", "epoch", "code", "seal"],
    "tombstones": ["record", "subject", "epoch", "seal"],
    "audit": ["time", "action", "subjects", "key_entries", "valid", "previous", "digest"],
}


@pytest.mark.parametrize("value", ["'abc'", "x'ff'", "1.5", "9223372036854775807"])
@pytest.mark.parametrize("column", [f"{table}.{name}" for table, names in COLUMNS.items() for name in names])
def test_values_of_other_types_are_told_as_damage(gallery, place, column, value):
    """SQLite keeps any type in any column; no verb may fail over it but in one line."""
    table, name = column.split(".")
    place.close()
    with (
        contextlib.closing(sqlite3.connect(place.database)) as connection,
        contextlib.suppress(sqlite3.IntegrityError),
        connection,
    ):
        connection.execute(f"UPDATE {table} SET {name} = {value}")
    try:
        gallery = place.open()
    except StoreError:
        return
    for verb in (
        lambda: gallery.verify("a", PEOPLE[0], application="door"),
        lambda: gallery.identify(PEOPLE[0], application="door"),
        lambda: gallery.enroll("d", PEOPLE[3], application="door"),
        lambda: gallery.renew("a", PEOPLE[0], application="door"),
        lambda: gallery.revoke("a", application="door"),
        lambda: gallery.check(),
    ):
        with contextlib.suppress(StoreError, EnrolmentError):
            verb()


def test_check_tells_of_values_of_other_types(gallery, place):
    gallery = changed(place, "UPDATE reference_codes SET seal = 'abc' WHERE subject = 'a'")
    (problem,) = gallery.check()
    assert "table reference_codes: 1 rows with a value of a wrong type" in problem


@pytest.mark.parametrize("which", ["database", "key_file"])
def test_triggers_are_refused(gallery, place, which):
    """One that copies what is deleted would make revocation and erasure mean nothing."""
    place.close()
    with contextlib.closing(sqlite3.connect(getattr(place, which))) as connection, connection:
        table = {"database": "reference_codes", "key_file": "masks"}[which]
        connection.execute("CREATE TABLE kept (row)")
        connection.execute(
            f"CREATE TRIGGER keep AFTER DELETE ON {table} BEGIN INSERT INTO kept VALUES (old.record); END"
        )
    with pytest.raises(StoreError, match="triggers or views"):
        place.open()


def test_settings_that_another_process_changes_meanwhile_were_not_set_back(gallery, place):
    """Between reading the record store and the key store."""
    other, read = place.open(), gallery.store.application
    gallery.store.application = lambda name: (read(name), other.set_threshold(7, application="door"))[0]
    with pytest.raises(RevokedError):
        gallery.verify("c", PEOPLE[2], application="door")

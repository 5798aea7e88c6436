"""Masks by default under a common key, and galleries without masks that get them in place."""

import contextlib
import os
import shutil
import signal
import sqlite3
import threading
import time
import warnings

import numpy as np
import pytest

from iom.errors import EnrolmentError, StoreError, UnmaskedWarning
from iom.gallery.gallery import Gallery
from iom.gallery.stores.sqlite import SqliteStore
from iom.gallery.transfer import export_application, import_application
from tests.gallery.conftest import UNMASKED, FakeHasher, again, faces

COUNT = 60
PEOPLE = faces(COUNT, seed=5)
NAMES = [f"p{number}" for number in range(COUNT)]


def filled(place, *, key_mode="application", masked=False):
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode=key_mode, masked=masked)
    gallery.enroll_many(NAMES, PEOPLE, application="door")
    return gallery


def stored(place):
    """Codes in the record store, by subject."""
    with contextlib.closing(sqlite3.connect(place.database)) as connection:
        return dict(connection.execute("SELECT subject, code FROM reference_codes"))


def bytes_of(path):
    """All that lies on the disk of a SQLite file."""
    return b"".join(each.read_bytes() for each in sorted(path.parent.glob(f"{path.name}*")))


def is_whole(gallery):
    """All subjects are found by both ways, and the check is clean."""
    assert gallery.check() == []
    for number in (0, 7, COUNT - 1):
        assert gallery.verify(NAMES[number], PEOPLE[number], application="door").distance == 0
        (found,) = gallery.identify(PEOPLE[number], application="door", threshold=0)
        assert found.subject_id == NAMES[number]


@pytest.mark.parametrize(("key_mode", "expected"), [("subject", False), ("application", True)])
def test_masks_are_the_default_under_a_common_key(place, key_mode, expected):
    made = place.open(create=True).create_application("door", key_mode=key_mode)
    assert made.masked is expected


def test_a_common_key_without_masks_is_warned_of_where_it_is_made_opened_and_used(place):
    gallery = place.open(create=True)
    advice = "none to ten of the enrolled faces.*iom migrate --mask --application door"
    with pytest.warns(UnmaskedWarning, match=advice):
        gallery.create_application("door", key_mode="application", masked=False)
    for act in (
        lambda: gallery.enroll("a", PEOPLE[0], application="door"),
        lambda: gallery.verify("a", PEOPLE[0], application="door"),
        lambda: gallery.identify(PEOPLE[0], application="door"),
        place.open,
    ):
        with pytest.warns(UnmaskedWarning, match=advice):
            act()


def test_the_warning_is_shown_once(place):
    gallery = place.open(create=True)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        gallery.create_application("door", key_mode="application", masked=False)
        gallery.enroll("a", PEOPLE[0], application="door")
        gallery.verify("a", PEOPLE[0], application="door")
        place.open()
    assert [each.category for each in shown] == [UnmaskedWarning]


@UNMASKED
@pytest.mark.parametrize("key_mode", ["application", "subject"])
def test_codes_get_masks_and_the_old_ones_are_in_no_file(place, key_mode):
    gallery = filled(place, key_mode=key_mode)
    old = stored(place)
    assert all(code in bytes_of(place.database) for code in old.values())
    gallery.identify(PEOPLE[0], application="door")  # its matrix is in memory
    revision = gallery.application("door").revision
    assert gallery.mask(application="door") == COUNT
    is_whole(gallery)
    found = gallery.application("door")
    assert (found.masked, found.revision) == (True, revision + 1)
    new, files = stored(place), bytes_of(place.database)
    assert all(new[name] != old[name] for name in NAMES)
    assert not any(code in files for code in old.values())
    assert not any(code in bytes_of(place.key_file) for code in old.values())
    (event,) = [each.event for each in gallery.store.whole_audit() if each.event.action == "mask"]
    assert (event.application, event.count) == ("door", 0)
    assert gallery.mask(application="door") == 0
    assert stored(place) == new
    place.close()
    gallery = place.open()
    is_whole(gallery)
    gallery.enroll("new", faces(1, seed=9), application="door")
    assert len(gallery.keys.masked_records("door")) == COUNT + 1
    gallery.revoke("p1", application="door")
    assert len(gallery.keys.masked_records("door")) == COUNT
    assert gallery.check() == []


@UNMASKED
@pytest.mark.parametrize("step", ["store.mask", "_settle", "erase"])
def test_an_interrupted_call_is_repeated(place, monkeypatch, step):
    """Only masks are written; the record store is masked and the key store does not know; old codes lie in the file."""
    gallery = filled(place)
    old = stored(place)
    target = gallery.store if step == "store.mask" else gallery
    name = "_log" if step == "store.mask" else step
    monkeypatch.setattr(target, name, lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gallery.mask(application="door")
    monkeypatch.undo()
    assert (stored(place) == old) == (step == "store.mask")
    before = gallery.keys.masks("door", sorted(gallery.keys.masked_records("door")))
    assert len(before) == COUNT
    place.close()
    gallery = place.open()
    is_whole(gallery)
    assert gallery.mask(application="door") == (COUNT if step == "store.mask" else 0)
    is_whole(gallery)
    assert gallery.keys.masks("door", sorted(gallery.keys.masked_records("door"))) == before
    assert not any(code in bytes_of(place.database) for code in old.values())


@UNMASKED
def test_killed_at_any_moment_it_is_old_or_new(place):
    """The first run is not killed: the others are at moments of as long as it takes, whatever else the machine does."""
    filled(place)
    place.close()
    old, random, masked, whole = stored(place), np.random.default_rng(3), 0, 0.0
    for trial in range(25):
        for path in (place.database, place.key_file):
            shutil.copy(path, path.with_name(f"copy of {path.name}"))
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                place.open().mask(application="door")
            os._exit(0)
        began = time.perf_counter()
        if trial:
            time.sleep(float(random.uniform(0, 1.2 * whole)))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        whole = whole or time.perf_counter() - began
        with contextlib.closing(place.open()) as gallery:
            is_whole(gallery)
            is_masked = gallery.application("door").masked
            masked += is_masked
            assert gallery.mask(application="door") == (0 if is_masked else COUNT)
            is_whole(gallery)
        assert not any(code in bytes_of(place.database) for code in old.values())
        for path in (place.database, place.key_file):
            for left in path.parent.glob(f"{path.name}-*"):
                left.unlink()
            path.with_name(f"copy of {path.name}").replace(path)
    assert masked


@UNMASKED
def test_templates_that_were_made_before_are_refused(place):
    """Another process has made codes without masks, and writes them after the application got masks."""
    first = filled(place)
    second = place.open()
    add, replace = second.store.add, second.store.replace

    def late(write):
        def writing(*arguments, **options):
            first.mask(application="door")
            return write(*arguments, **options)

        return writing

    second.store.add = late(add)
    with pytest.raises(EnrolmentError, match="put under masks in the meantime; nothing was written"):
        second.enroll("late", PEOPLE[0], application="door")
    second.store.add = add
    second.enroll("late", faces(1, seed=8), application="door")
    is_whole(second)
    second.close()
    place.close()
    (place.folder / "2").mkdir()
    place.database, place.key_file = place.folder / "2/g.db", place.folder / "2/g.keys"
    first = filled(place, key_mode="subject")
    second = place.open()
    second.store.replace = late(replace.__func__.__get__(second.store))
    with pytest.raises(EnrolmentError, match="put under masks in the meantime"):
        second.renew("p0", PEOPLE[0], application="door")
    is_whole(second)


@UNMASKED
@pytest.mark.parametrize("key_mode", ["application", "subject"])
def test_a_search_meanwhile_compares_right(place, key_mode, monkeypatch):
    """Settings were read before the codes got masks, the codes after it."""
    first = filled(place, key_mode=key_mode)
    second = place.open()
    whole = second.application
    for act in (
        lambda: second.verify("p3", PEOPLE[3], application="door").distance == 0,
        lambda: [each.subject_id for each in second.identify(PEOPLE[3], application="door", threshold=0)] == ["p3"],
    ):
        with monkeypatch.context() as patch:

            def application(name):
                found = whole(name)
                patch.setattr(second, "application", whole)
                first.mask(application="door")
                return found

            patch.setattr(second, "application", application)
            assert act()
        assert act()


@UNMASKED
def test_enrolments_and_searches_of_another_thread_are_kept(place):
    first, second = filled(place), place.open()
    more, added, stop = faces(400, seed=6), [], threading.Event()

    def enrol():
        for number, row in enumerate(more):
            if stop.is_set():
                return
            with contextlib.suppress(EnrolmentError):
                second.enroll(f"q{number}", row, application="door")
                added.append(number)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread = threading.Thread(target=enrol)
        thread.start()
        while len(added) < 3:
            time.sleep(0.01)
        first._mask(first.application("door"))
        wanted = len(added) + 3
        while len(added) < wanted and thread.is_alive():
            time.sleep(0.01)
        stop.set()
        thread.join()
    for gallery in (first, second):
        is_whole(gallery)
        for number in added:
            assert gallery.verify(f"q{number}", more[number], application="door").distance == 0
            (found,) = gallery.identify(more[number], application="door", threshold=0)
            assert found.subject_id == f"q{number}"


@UNMASKED
def test_a_changed_reference_is_not_sealed_anew(place):
    gallery = filled(place)
    with contextlib.closing(sqlite3.connect(place.database)) as connection, connection:
        connection.execute("UPDATE reference_codes SET subject = 'eve' WHERE subject = 'p7'")
    before = stored(place)
    with pytest.raises(StoreError, match="changed outside"):
        gallery.mask(application="door")
    assert stored(place) == before


@UNMASKED
def test_an_older_copy_without_masks_gets_them_again(place):
    gallery = filled(place)
    place.close()
    shutil.copy(place.database, place.folder / "old.db")
    gallery = place.open()
    gallery.mask(application="door")
    new = stored(place)
    gallery.set_threshold(40, application="door")
    gallery.revoke("p9", application="door")
    place.close()
    (place.folder / "old.db").replace(place.database)
    gallery = place.open()
    found = gallery.application("door")
    assert (found.masked, found.threshold) == (True, 40)
    assert stored(place) == {name: code for name, code in new.items() if name != "p9"}
    (problem,) = gallery.check()
    assert "older copy" in problem
    gallery.accept_rollback()
    is_whole(gallery)


@UNMASKED
@pytest.mark.parametrize("is_known", [True, False])
def test_an_export_without_masks_gets_them_where_the_application_has_them(place, is_known):
    gallery = filled(place)
    path = place.folder / "door.iomx"
    assert export_application(gallery, "door", path) == COUNT
    assert all(code in path.read_bytes() for code in stored(place).values())
    if is_known:
        gallery.mask(application="door")
        new = stored(place)
        done = import_application(gallery, path)
        assert (done.added, done.present) == (0, COUNT)
        assert stored(place) == new
    with SqliteStore(place.folder / "new.db", create=True) as store:
        other = Gallery(store, gallery.keys, FakeHasher())
        assert import_application(other, path).added == COUNT
        assert other.application("door").masked is is_known
        is_whole(other)
        assert other.verify("p5", again(PEOPLE[5]), application="door").match


def test_an_export_with_masks_is_refused_where_there_are_none(place):
    gallery = filled(place, masked=True)
    path = place.folder / "door.iomx"
    export_application(gallery, "door", path)
    with SqliteStore(place.folder / "new.db", create=True) as store:
        other = Gallery(store, gallery.keys, FakeHasher())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other.create_application("door", key_mode="application", masked=False)
        with pytest.raises(EnrolmentError, match="iom migrate --mask --application door"):
            import_application(other, path)


@pytest.mark.parametrize("sealed", [b"", b"short", b"x" * 64, "text", 7])
@pytest.mark.parametrize("records", [[3, 4, 5, 6], [0, 5, 59], [5]])
def test_a_damaged_mask_is_told_by_its_record(place, sealed, records):
    """Read as a range, as a list, and alone."""
    gallery = filled(place, masked=True)
    with contextlib.closing(sqlite3.connect(place.key_file)) as connection, connection:
        connection.execute("UPDATE masks SET sealed = ? WHERE record = 5", (sealed,))
    with pytest.raises(StoreError, match="the mask of record 5 of door is damaged"):
        gallery.keys.masks("door", records)
    others = [record for record in records if record != 5]
    assert len(gallery.keys.masks("door", others)) == len(others)
    with pytest.raises(StoreError, match="the mask of record 5"):
        gallery.identify(PEOPLE[0], application="door")


def test_masks_come_in_the_order_of_the_records(place):
    gallery = filled(place, masked=True)
    whole = gallery.keys.masks("door", range(COUNT))
    assert len(set(whole)) == COUNT
    for records in ([3, 1, 2], [59, 0, 30, 30], [7]):
        assert gallery.keys.masks("door", records) == [whole[record] for record in records]
    with pytest.raises(StoreError, match="1 records have no mask"):
        gallery.keys.masks("door", [1, COUNT])
    assert gallery.keys.masks("door", []) == []

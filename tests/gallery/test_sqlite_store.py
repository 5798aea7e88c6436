"""The SQLite store: the common suite, and what may happen to a file."""

import contextlib
import subprocess
import sys

import pytest

from iom.errors import MissingExtraError, StoreError
from iom.gallery.stores.base import STORES, open_store
from tests.gallery.conformance import *  # noqa: F403
from tests.gallery.conformance import DOOR, enrolled, event, reference


@pytest.fixture
def make_store(tmp_path):
    stores = []

    def make():
        stores.append(open_store(f"sqlite:///{tmp_path}/g.db", create=not stores))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def fails(action, words):
    with pytest.raises(StoreError, match=words) as caught:
        action()
    assert "\n" not in str(caught.value)


def test_a_full_disk(store):
    enrolled(store, "a")
    pages = store._file.rows("PRAGMA page_count")[0][0]
    store._file.rows(f"PRAGMA max_page_count = {pages}")
    fails(lambda: enrolled(store, *[f"s{i}" for i in range(500)]), "disk is full")
    store._file.rows("PRAGMA max_page_count = 100000")
    assert len(store.scan("door")) == 1
    assert store.check() == []
    enrolled(store, "b")


def test_reading_only(store, tmp_path):
    enrolled(store, "a")
    with open_store(f"sqlite:///{tmp_path}/g.db?mode=ro") as reader:
        assert len(reader.scan("door")) == 1
        fails(lambda: enrolled(reader, "b"), "reading only")


def test_a_damaged_file(store, make_store, tmp_path):
    enrolled(store, *[f"s{i}" for i in range(300)])
    store.close()
    path = tmp_path / "g.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:20000] + bytes(30000) + whole[50000:])
    damaged = make_store()
    assert damaged.check()
    damaged.close()
    path.write_bytes(b"x" * 100 + whole[100:])
    fails(make_store, "expected a gallery|damaged")
    path.write_bytes(whole[: len(whole) // 3])
    with contextlib.suppress(StoreError):
        assert make_store().check()


def test_files_that_are_no_gallery(tmp_path):
    fails(lambda: open_store(f"sqlite:///{tmp_path}/none.db"), "iom init")
    (tmp_path / "text.db").write_text("hello" * 1000)
    fails(lambda: open_store(f"sqlite:///{tmp_path}/text.db"), "expected a gallery")
    (tmp_path / "empty.db").touch()
    fails(lambda: open_store(f"sqlite:///{tmp_path}/empty.db"), "another SQLite file")
    fails(lambda: open_store(f"sqlite:///{tmp_path}/text.db", create=True), "already")
    fails(lambda: open_store(f"{tmp_path}/none.db"), "iom init")  # a path is SQLite
    for url in ("sqlite:///", "sqlite://x", "mysql://x", ""):
        fails(lambda url=url: open_store(url), "expected")


def test_a_gallery_that_was_searched_in_milvus_says_how_to_go_on():
    fails(lambda: open_store("milvus:///v.db?record=sqlite:///g.db"), "record=")


def test_a_missing_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, STORES["postgresql"], raising=False)
    with pytest.raises(MissingExtraError, match=r"extra 'postgresql'"):
        open_store("postgresql://host/db")


def test_the_file_is_private(store, tmp_path):
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


def test_two_processes_write(store, tmp_path, root):
    code = (
        "import sys\n"
        "from tests.gallery.conformance import event, reference\n"
        "from iom.gallery.stores.base import open_store\n"
        f"with open_store('sqlite:///{tmp_path}/g.db') as store:\n"
        "    for i in map(int, sys.argv[1:]): store.add([reference(i, f's{i}')], event('enroll'))\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, *map(str, numbers)], cwd=root)
        for numbers in (range(15), range(100, 115))
    ]
    for i in range(200, 215):
        store.add([reference(i, f"s{i}")], event("enroll"))
    assert [worker.wait() for worker in workers] == [0, 0]
    assert store.stats("door").subjects == 45
    assert store.check() == []
    assert DOOR.name == event("x").application

"""A gallery searched in Milvus: the common suite, and what may come between the two.

Here Milvus is one of dictionaries. `make stores` installs pymilvus and milvus-lite into an
environment of their own and runs the same tests there, over the embedded edition, too.
"""

import importlib.util
import shutil
import subprocess
import sys

import numpy as np
import pytest

from iom.codes.distances import nearest, within
from iom.codes.packing import pack
from iom.codes.words import dimension, words_of
from iom.errors import StoreError
from iom.gallery import vector_index
from iom.gallery.gallery import Gallery
from iom.gallery.milvus_link import MilvusLink, Row
from iom.gallery.milvus_store import MilvusStore, open_url
from iom.gallery.store import STORES, StoreKind, open_store
from iom.gallery.vector_index import END
from tests.gallery.conformance import *  # noqa: F403
from tests.gallery.conformance import code, enrolled, event
from tests.gallery.conftest import FakeHasher, Place, again, faces
from tests.gallery.fake_milvus import FakeMilvus

# milvus-lite 2.5 asks setuptools for its version.
pytestmark = pytest.mark.filterwarnings("ignore:pkg_resources is deprecated:UserWarning")
HAS_MILVUS = all(importlib.util.find_spec(name) for name in ("pymilvus", "milvus_lite"))


class Embedded:
    """The embedded edition; one process serves all links to a file."""

    def __init__(self, folder):
        self.path = folder / "vectors.db"

    def link(self):
        return MilvusLink(str(self.path), name="milvus:///vectors.db")

    def stop(self):
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_all()


@pytest.fixture(params=["fake", "embedded"] if HAS_MILVUS else ["fake"])
def milvus(request, tmp_path):
    if request.param == "fake":
        yield FakeMilvus()
        return
    server = Embedded(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def connect(milvus, tmp_path):
    """Makes a store over the SQLite file; the first call makes the file."""
    stores = []

    def connect(**options):
        record = open_store(f"sqlite:///{tmp_path}/g.db", create=not (tmp_path / "g.db").exists())
        stores.append(MilvusStore(record, milvus.link(**options)))
        return stores[-1]

    yield connect
    for store in stores:
        store.close()


@pytest.fixture
def make_store(connect):
    return connect


@pytest.fixture(params=[16384, 40])
def most_rows(request, monkeypatch):
    """How many rows an answer has: many, and so few that ranges are split again and again."""
    monkeypatch.setattr(vector_index, "MOST_ROWS", request.param)


def vectors(link):
    """All vectors of all collections but the marks, by number."""
    names = [name for name in link.collections() if name.count("_") == 3]
    return {row.record: row.word for name in names for row in link.between(name, 0, END)}


def collection(link):
    return next(name for name in link.collections() if name.count("_") == 3)


def probe_of(store, record):
    found = store.by_record("door", [record])
    return vector_index.packed(store.application("door"), found)


@pytest.mark.proof
@pytest.mark.skipif(HAS_MILVUS, reason="this is that environment")
def test_all_this_over_the_embedded_edition(root):
    """In an environment of its own, made once: milvus-lite wants an old setuptools."""
    folder = root / ".cache" / "milvus"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        requirements = root / "tests" / "gallery" / "milvus-requirements.txt"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
        (folder / "complete").touch()
    tests = ["tests/gallery/test_milvus_store.py", "tests/codes/test_words.py"]
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    result = subprocess.run(command, cwd=root, text=True, capture_output=True)
    print(result.stdout[-2000:])
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


@pytest.mark.usefixtures("most_rows")
def test_few_rows_at_a_time(store, make_store):
    test_a_store_that_searches_finds_what_memory_finds(store, make_store)  # noqa: F405


@pytest.mark.parametrize("masked", [False, True])
def test_a_gallery_finds_the_same_in_milvus_and_in_memory(connect, tmp_path, masked):
    store = connect()
    people = faces(60, seed=8)
    with Gallery(store, Place(tmp_path).keys(create=True), FakeHasher()) as gallery:
        gallery.create_application("door", key_mode="application", masked=masked)
        gallery.create_application("own", key_mode="subject")
        names = [f"p{i}" for i in range(60)]
        gallery.enroll_many("door", names, people)
        gallery.enroll_many("door", names[:20], people[:20], another=True)  # ties
        gallery.enroll("own", "p1", people[1])
        gallery.rotate("door")
        gallery.renew("door", "p3", again(people[3]))
        gallery.revoke("door", "p4")
        memory = Gallery(store.record, gallery.keys, FakeHasher())
        for options in ({}, {"threshold": 70}, {"closed": True, "top": 7}, {"top": 3}):
            probes = people[:8] + 0.01
            found = gallery.identify_many("door", probes, **options)
            assert found == memory.identify_many("door", probes, **options)
        assert [each.subject_id for each in gallery.identify("own", people[1])] == ["p1"]
        held = vectors(store._link)
        assert len(held) == (0 if masked else 77)  # neither masked codes nor those of own keys
        gallery.rotate("door", retire=True)
        assert vectors(store._link) == {}
        assert gallery.check() == []


def test_revoked_vectors_are_deleted(store):
    a, b = enrolled(store, "a", "b")
    assert set(vectors(store._link)) == {a.record, b.record}
    store.revoke("door", [a.record], event("revoke", 1))
    assert set(vectors(store._link)) == {b.record}


def test_milvus_fails_at_any_call(milvus, connect):
    if not isinstance(milvus, FakeMilvus):
        pytest.skip("calls fail in the fake one")
    connect().create_application(DOOR, event("create"))  # noqa: F405
    for calls in range(30):
        store = connect(fails_at=calls)
        a, b = enrolled(store, f"a{calls}", f"b{calls}")  # done, whatever Milvus does
        store.revoke("door", [a.record], event("revoke", 1))
        if calls < 8:
            with pytest.raises(StoreError):
                [store.search("door", 0, probe_of(store, b.record), top=1) for _ in range(8)]
        healthy = connect()
        (hit,) = healthy.search("door", 0, probe_of(store, b.record), top=1)
        assert hit.record == b.record
        assert set(vectors(healthy._link)) == {each.record for each in healthy.scan("door")}
    assert connect().check() == []


def test_a_failure_while_it_follows_is_told(connect, milvus, caplog):
    if not isinstance(milvus, FakeMilvus):
        pytest.skip("calls fail in the fake one")
    connect().create_application(DOOR, event("create"))  # noqa: F405
    enrolled(connect(fails_at=0), "a")
    assert "Milvus will follow later" in caplog.text
    assert connect(fails_at=0).check() == ["no answer"]


def test_a_vector_of_no_valid_record_is_not_found_and_deleted(store):
    (a, b) = enrolled(store, "a", "b")
    probe = probe_of(store, a.record)
    link, word = store._link, vectors(store._link)[a.record]
    link.put(collection(link), [Row(77, word), Row(78, word)])
    assert "2 vectors in Milvus are of no valid record" in " ".join(store.check())
    assert [hit.record for hit in store.search("door", 0, probe, top=2)] == [a.record, b.record]
    assert set(vectors(link)) == {a.record, b.record}


def test_changed_vectors_are_not_believed(store, connect):
    (a, b) = enrolled(store, "a", "b")
    link = store._link
    held = vectors(link)
    link.put(collection(link), [Row(b.record, held[a.record])])
    with pytest.raises(StoreError, match="other vectors"):
        store.search("door", 0, probe_of(store, a.record), top=2)
    assert "not those of the code" in " ".join(store.check())
    store.erase()
    assert vectors(link) == held
    assert connect().check() == []


def test_lost_vectors_are_made_anew(store, connect):
    (a, _) = enrolled(store, "a", "b")
    held = vectors(store._link)
    store._link.delete(collection(store._link), [a.record])
    assert "1 vectors are missing" in " ".join(store.check())
    assert connect().search("door", 0, probe_of(store, a.record), top=1)[0].record == a.record
    store._link.drop(collection(store._link))
    assert store.search("door", 0, probe_of(store, a.record), top=1)[0].record == a.record
    assert vectors(store._link) == held


def test_an_older_copy_of_the_record_is_followed(store, connect, tmp_path):
    enrolled(store, "a", "b")
    store.record.erase()
    shutil.copy(tmp_path / "g.db", tmp_path / "old.db")
    gone = enrolled(store, "c", "d")
    store.close()
    shutil.copy(tmp_path / "old.db", tmp_path / "g.db")
    for file in ("g.db-wal", "g.db-shm"):
        (tmp_path / file).unlink(missing_ok=True)
    with open_store(f"sqlite:///{tmp_path}/g.db") as alone:  # the same versions, another history
        alone.reserve("door", 100)
        enrolled(alone, "x", "y", "z")
        enrolled(alone, "w")
    back = connect()
    assert back.check() == []
    assert len(vectors(back._link)) == 6
    probe = vector_index.packed(back.application("door"), gone)
    assert back.search("door", 0, probe[:1], threshold=0) == []


def test_erasing_makes_collections_anew(store, tmp_path):
    a, b = enrolled(store, "a", "b")
    word = vectors(store._link)[a.record]
    store.revoke("door", [a.record], event("revoke", 1))
    before = collection(store._link)
    store.erase()
    assert collection(store._link) != before
    assert set(vectors(store._link)) == {b.record}
    for file in tmp_path.glob("*.db"):
        assert word not in file.read_bytes()
        assert code(a.record) not in file.read_bytes()


@pytest.mark.parametrize(
    "url",
    [
        "milvus://host",
        "milvus://host/db",
        "milvus://?record=sqlite:///g.db",
        "milvus://me:s3cret@x@host/?record=sqlite:///g.db",
        "milvus://me:x/s3cret@host/?record=sqlite:///g.db",
        "milvus://me:x?s3cret@host/?record=sqlite:///g.db",
        "milvus://host/?s3cret=1&record=sqlite:///g.db",
        "milvus://host/?prefix=a-b&record=sqlite:///g.db",
        "milvus:///vectors?record=sqlite:///g.db",
        "milvus://host/?record=milvus://host/?record=sqlite:///g.db",
    ],
)
def test_urls_that_cannot_be_read(url):
    with pytest.raises(StoreError) as caught:
        open_url(url)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(STORES, "milvus", StoreKind("iom.gallery.x", "no_such_driver", "milvus"))
    with pytest.raises(Exception, match=r"extra 'milvus'"):
        open_store("milvus:///v.db?record=sqlite:///g.db")


@pytest.mark.skipif(not HAS_MILVUS, reason="needs the embedded edition: make stores")
def test_more_codes_than_an_answer_holds(tmp_path):
    """20,000 codes of 512x8 against the kernel, with many ties, beyond Milvus' 16,384 rows."""
    rng = np.random.default_rng(2)
    people = rng.integers(0, 8, (50, 512), np.uint8)
    codes = people[rng.integers(0, 50, 20_000)]
    codes[:, :20] = rng.integers(0, 8, (20_000, 20), np.uint8)
    packed = pack(codes, 8)
    words, server = words_of(packed), Embedded(tmp_path)
    with server.link() as link:
        link.create("c", dimension(512, 8))
        link.put("c", [Row(i, word.tobytes()) for i, word in enumerate(words)])
        index = vector_index.VectorIndex(None, link, "iom")
        for row in (0, 77, 19_999):
            for top in (1, 10, 400, 20_000):
                near = index.nearest("c", words[row].tobytes(), top)
                found = sorted((each.distance // 4, each.record) for each in near)[:top]
                rows, distances = nearest(packed[row : row + 1], packed, top)
                assert found == list(zip(distances[0].tolist(), rows[0].tolist(), strict=True))
            for threshold in (0, 15, 18, 512):
                near = index.within("c", words[row].tobytes(), 4 * threshold)
                found = sorted((each.distance // 4, each.record) for each in near)
                rows, distances = within(packed[row : row + 1], packed, threshold)
                assert found == list(zip(distances.tolist(), rows.tolist(), strict=True))
    server.stop()


@pytest.mark.skipif(not HAS_MILVUS, reason="needs the embedded edition: make stores")
def test_by_its_url_and_killed_in_the_middle(tmp_path, root):
    url = f"milvus:///{tmp_path}/v.db?record=sqlite:///{tmp_path}/g.db"
    program = (
        "import sys, os\n"
        "from tests.gallery.conformance import DOOR, enrolled, event\n"
        "from iom.gallery.store import open_store\n"
        "store = open_store(sys.argv[1], create=sys.argv[2] == '0')\n"
        "if sys.argv[2] == '0': store.create_application(DOOR, event('create'))\n"
        "for i in range(10**9):\n"
        "    a, b = enrolled(store, f'a{sys.argv[2]}-{i}', f'b{sys.argv[2]}-{i}')\n"
        "    store.revoke('door', [a.record], event('revoke', 1))\n"
        "    print(b.record, flush=True)\n"
    )
    acknowledged = []
    for trial in range(3):
        worker = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program, url, str(trial)],
            cwd=root, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        acknowledged += [int(worker.stdout.readline()) for _ in range(5 + trial)]
        worker.kill()
        rest = worker.communicate()[0].splitlines(keepends=True)
        acknowledged += [int(line) for line in rest if line.endswith("\n")]
    with open_store(url) as store:
        valid = [each.record for each in store.scan("door")]
        assert set(acknowledged) <= set(valid)
        for record in valid[:: max(1, len(valid) // 10)]:
            hits = store.search("door", 0, probe_of(store, record), top=1)
            assert hits[0].record == record
        assert store.check() == []
    Embedded(tmp_path).stop()

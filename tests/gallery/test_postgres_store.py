"""The PostgreSQL store: the common suite, and what may happen to a server and a wire.

`IOM_TEST_POSTGRESQL=postgresql://...` has the suite run in a database of yours, each test in a
schema of its own that is dropped after it; else a server is started for the tests.
"""

import contextlib
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from iom.errors import EnrolmentError, StoreError
from iom.gallery.gallery import Gallery
from iom.gallery.key_store import open_key_store
from iom.gallery.migration import migrate
from iom.gallery.stores.base import open_store
from tests.gallery.conformance import *  # noqa: F403
from tests.gallery.conformance import code, enrolled, event, problems, reference, revoked
from tests.gallery.conftest import FakeHasher, Place, again, faces
from tests.gallery.postgres_server import PASSWORD, Server, Wire, find_binaries
from tests.on_device import Place as DevicePlace

psycopg = pytest.importorskip("psycopg", reason="needs psycopg")
_numbers = itertools.count()


@pytest.fixture(scope="module")
def server():
    """A server that may be stopped."""
    if os.environ.get("IOM_TEST_POSTGRESQL"):
        pytest.skip("stops its server or looks into its files: not the one of IOM_TEST_POSTGRESQL")
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    server = Server(binaries)
    yield server
    server.remove()


@pytest.fixture(scope="module")
def base(request):
    return os.environ.get("IOM_TEST_POSTGRESQL") or request.getfixturevalue("server").url()


@pytest.fixture
def schema(base):
    name = f"iom_test_{os.getpid()}_{next(_numbers)}"
    yield name
    with psycopg.connect(base, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


@pytest.fixture
def url(base, schema):
    return f"{base}{'&' if '?' in base else '?'}schema={schema}"


@pytest.fixture
def make_store(url):
    stores = []

    def make():
        stores.append(open_store(url, create=not stores))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def wire(server):
    wire = Wire(server.port)
    yield wire
    wire.close()


def fails(action, words):
    with pytest.raises(StoreError, match=words) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    assert PASSWORD not in text
    return text


def execute(base, statement):
    with psycopg.connect(base, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else None


def test_places_that_are_no_gallery(base, url, schema, make_store):
    fails(lambda: open_store(url), "no gallery at .*iom init")
    make_store()
    fails(lambda: open_store(url, create=True), "already")
    execute(base, f"UPDATE {schema}.gallery SET format = 99")
    fails(lambda: open_store(url), "expected a gallery of format 2, found format 99; use the program")
    execute(base, f"UPDATE {schema}.gallery SET format = 1")
    fails(lambda: open_store(url), "iom migrate")
    fails(lambda: open_store(f"{url}%20x"), "schema")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{PASSWORD}@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?user=me&password={PASSWORD}",
        f"postgresql://me:{PASSWORD}@x@127.0.0.1:1/db",
        f"postgresql://me:x/{PASSWORD}@127.0.0.1:1/db",
        f"postgresql://me:x?{PASSWORD}@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?{PASSWORD}=1",
        f"postgresql://127.0.0.1:1/db?schema={PASSWORD}",
        f"postgresql://me:{PASSWORD}@[127/db",
    ],
)
def test_no_error_shows_a_password(url):
    fails(lambda: open_store(url), "record store|reached")


def test_no_password_in_what_is_printed(store, server):
    for text in (repr(store), repr(store._dsn), store._dsn.name):
        assert PASSWORD not in text
    wrong = server.url().replace(PASSWORD, f"{PASSWORD}x")
    assert "password authentication" in fails(lambda: open_store(wrong), "let this user in")


WORKER = """
import sys
from iom.errors import EnrolmentError, StoreError
from iom.gallery.stores.base import open_store
from tests.gallery.conformance import enrolled, event, reference, stone

store, first = open_store(sys.argv[1]), int(sys.argv[3])
for i in range(10**9):
    names = [f"{sys.argv[2]}-{i}-{j}" for j in range(20)]
    try:
        olds = enrolled(store, *names, first=first + 100 * i)
        print("enrolled", names[0], flush=True)
    except StoreError as error:
        assert "nothing was written" in str(error), error
        print("lost", names[0], flush=True)
        continue
    try:
        new = reference(first + 100 * i + 50, names[0])
        (new,) = store.replace([stone(olds[0])], [new], event("renew", 1))
        print("renewed", names[0], new.record, flush=True)
    except StoreError as error:
        assert "nothing was written" in str(error), error
        print("kept", names[0], olds[0].record, flush=True)
"""


def start_worker(url, name, root, first):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, url, name, str(first)], cwd=root, stdout=subprocess.PIPE, text=True
    )


def compare(store, lines):
    """What a worker was told must be so, and what it was not told is all there or not at all."""
    told = [line.split() for line in lines if line.endswith("\n")]
    people = {}
    for each in store.scan("door", limit=10**6):
        people.setdefault(each.subject_id.rpartition("-")[0], []).append(each)
    for batch in people.values():
        assert len(batch) == len({each.subject_id for each in batch}) == 20
    for word, subject, *record in told:
        found = [each.record for each in store.references("door", subject)]
        assert len(found) == (word != "lost")
        assert not record or found == [int(record[0])]
    assert store.check() == []
    assert list(store.chain.problems(store.audit(limit=10**6))) == []
    return [word for word, *_ in told]


def kill_in_the_middle(store, url, root, trials):
    lines = []
    for trial in range(trials):
        worker = start_worker(url, f"t{trial}", root, 10**6 * trial)
        lines += [worker.stdout.readline() for _ in range(3 + trial % 5)]
        time.sleep(0.0017 * (trial % 11))
        worker.send_signal(signal.SIGKILL)
        lines += worker.communicate()[0].splitlines(keepends=True)
    assert set(compare(store, lines)) == {"enrolled", "renewed"}


def test_all_or_nothing_when_the_writer_is_killed(store, url, root):
    kill_in_the_middle(store, url, root, 3)


@pytest.mark.proof
def test_forty_writers_are_killed(store, url, root):
    kill_in_the_middle(store, url, root, 40)


@pytest.mark.proof
def test_the_server_crashes_again_and_again_while_two_write(server, store, url, root):
    """What was acknowledged is there, and what was said not to be written is not."""
    workers = [start_worker(url, name, root, first) for name, first in (("x", 0), ("y", 10**8))]
    lines = []
    for crash in range(10):
        for worker in workers:
            lines += [worker.stdout.readline() for _ in range(5)]
        time.sleep(0.003 * crash)
        server.stop("immediate")
        server.start()
    for worker in workers:
        lines += [worker.stdout.readline() for _ in range(5)]
        assert worker.poll() is None
        worker.kill()
        lines += worker.communicate()[0].splitlines(keepends=True)
    words = compare(store, lines)
    print({word: words.count(word) for word in sorted(set(words))})


def test_two_processes_write(store, url, root):
    program = (
        "import sys\n"
        "from tests.gallery.conformance import enrolled\n"
        "from iom.gallery.stores.base import open_store\n"
        "with open_store(sys.argv[1]) as store:\n"
        "    for i in range(15):\n"
        "        names = f'{sys.argv[2]}{i}', 'shared'\n"
        "        enrolled(store, *names, another=True, first=int(sys.argv[3]) + 2 * i)\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", program, url, name, first], cwd=root)
        for name, first in (("x", "0"), ("y", "100"))
    ]
    for i in range(15):
        enrolled(store, f"z{i}", first=200 + i)
    assert [worker.wait() for worker in workers] == [0, 0]
    assert store.stats("door").subjects == 46
    assert [each.slot for each in store.references("door", "shared")] == list(range(30))
    assert store.check() == []
    assert problems(store) == []


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_the_server_is_restarted_in_between(server, store, mode):
    (first,) = enrolled(store, "a")
    server.stop(mode)
    starting = threading.Timer(0.5, server.start)
    starting.start()
    assert store.references("door", "a") == [first]  # waits for it
    starting.join()
    server.stop(mode)
    server.start()
    enrolled(store, "b")
    assert store.stats("door").subjects == 2
    assert store.check() == []


def through(wire, server, url):
    return open_store(url.replace(f":{server.port}/", f":{wire.port}/"))


def test_a_wire_cut_within_a_write(server, url, store, wire):
    cut = through(wire, server, url)
    for word in (b"INSERT INTO reference_codes", b"INSERT INTO audit"):
        wire.cut_at(word)
        fails(lambda: enrolled(cut, "a"), "nothing was written")
        assert store.references("door", "a") == []
    wire.cut_at(b"BEGIN ISOLATION")
    enrolled(cut, "a")
    wire.cut_at(b"SELECT applications.id, applications.version")
    assert cut.version("door") == store.version("door")
    cut.close()


def test_a_commit_whose_answer_is_lost_is_asked_for(server, url, store, wire):
    cut = through(wire, server, url)
    records = range(2)
    wire.cut_at(b"COMMIT\0", after=True)
    cut.add([reference(records[0], "done")], event("enroll", 1))
    assert len(store.references("door", "done")) == 1
    wire.cut_at(b"COMMIT\0")
    fails(lambda: cut.add([reference(records[1], "lost")], event("enroll", 1)), "nothing was")
    assert store.references("door", "lost") == []
    assert len(store.audit()) == 2
    cut.close()


def test_a_commit_nobody_can_be_asked_about(server, url, store, wire, monkeypatch):
    monkeypatch.setattr("iom.gallery.stores.postgres.RECONNECT_SECONDS", 0.3)
    cut = through(wire, server, url)
    wire.cut_at(b"COMMIT\0", after=True, stays_cut=True)
    fails(lambda: cut.claim("me"), "is done or it is not")
    assert store.owner() == "me"
    wire.cut_at(None)
    assert cut.owner() == "me"
    cut.close()


def test_a_writer_waits_no_longer_than_it_should(store, make_store, monkeypatch):
    monkeypatch.setattr("iom.gallery.stores.postgres.LOCK_SECONDS", 1)
    other = make_store()
    with store._writing():
        fails(lambda: enrolled(other, "a"), "writing for too long")
    enrolled(other, "a")


def test_a_reader_sees_no_write_that_is_not_committed(store, make_store):
    other = make_store()
    with store._writing() as connection:
        connection.exec_driver_sql("UPDATE applications SET threshold = 1")
        assert other.application("door").threshold == 30
    assert other.application("door").threshold == 1


def test_rows_changed_from_outside_are_found(base, schema, store):
    enrolled(store, "a", "b")
    execute(base, f"UPDATE {schema}.reference_codes SET code = '\\x00' WHERE subject = 'a'")
    assert "codes of a wrong length" in " ".join(store.check())


def test_reading_only(base, schema, server):
    open_store(f"{server.url()}?schema={schema}", create=True).close()
    with open_store(f"{server.url()}?schema={schema}&options=-cdefault_transaction_read_only%3Don") as reader:
        assert reader.applications() == []
    execute(base, "CREATE ROLE guest LOGIN PASSWORD 'g'")
    execute(base, f"GRANT USAGE ON SCHEMA {schema} TO guest")
    execute(base, f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO guest")
    guest = server.url().replace(f"owner:{PASSWORD}", "guest:g")
    with open_store(f"{guest}?schema={schema}") as reader:
        assert reader.applications() == []
        fails(lambda: reader.log(event("x")), "lacks the right")
    execute(base, "DROP OWNED BY guest; DROP ROLE guest")


def test_erasing_leaves_no_code_in_the_tables(base, schema, server, store):
    added = enrolled(store, "a", "b")
    relation = lambda: execute(  # noqa: E731
        base, f"SELECT pg_relation_filepath('{schema}.reference_codes')"
    )[0][0]
    execute(base, "CHECKPOINT")
    old = server.folder / "data" / relation()
    assert code(added[0].record) in old.read_bytes()
    with psycopg.connect(base) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        revoked(store, added[0])
        fails(store.erase, "still sees what was deleted")
    store.erase()
    new = server.folder / "data" / relation()
    assert code(added[1].record) in new.read_bytes()
    assert code(added[0].record) not in new.read_bytes()
    assert not old.exists() or not old.read_bytes()


def test_a_gallery_over_it(make_store, tmp_path):
    people = faces(8)
    with Gallery(make_store(), Place(tmp_path).keys(create=True), FakeHasher()) as gallery:
        gallery.create_application("door", masked=True)
        gallery.create_application("gate", key_mode="application")
        for application in ("door", "gate"):
            gallery.enroll_many([f"p{i}" for i in range(8)], people, application=application)
            assert gallery.verify("p3", again(people[3]), application=application).match
            (found,) = gallery.identify(people[5], application=application, threshold=5)
            assert found.subject_id == "p5"
        gallery.renew("p3", again(people[3]), application="door")
        gallery.revoke("p5", application="gate")
        assert gallery.identify(people[5], application="gate", threshold=5) == []
        gallery.erase()
        assert gallery.check() == []


@pytest.mark.filterwarnings("ignore::iom.errors.UnmaskedWarning")
def test_codes_get_masks_and_the_old_ones_are_in_no_table_file(base, schema, make_store, tmp_path, server):
    people = faces(8)
    with Gallery(make_store(), Place(tmp_path).keys(create=True), FakeHasher()) as gallery:
        gallery.create_application("gate", key_mode="application", masked=False)
        gallery.enroll_many([f"p{i}" for i in range(8)], people, application="gate")
        old = [each.code for each in gallery.store.scan("gate")]
        assert gallery.mask(application="gate") == 8
        ((place,),) = execute(base, f"SELECT pg_relation_filepath('{schema}.reference_codes')")
        execute(base, "CHECKPOINT")
        content = (server.folder / "data" / place).read_bytes()
        assert not any(each in content for each in old)
        assert all(each.code in content for each in gallery.store.scan("gate"))
        assert gallery.verify("p3", again(people[3]), application="gate").match
        (found,) = gallery.identify(people[5], application="gate", threshold=0)
        assert found.subject_id == "p5"
        assert gallery.check() == []


@pytest.mark.filterwarnings("ignore::iom.errors.UnmaskedWarning")
def test_masks_are_there_or_not_when_it_is_killed(make_store, url, tmp_path):
    people, place, masked = faces(300), Place(tmp_path), 0
    with Gallery(make_store(), place.keys(create=True), FakeHasher()) as gallery:
        for number in range(8):
            gallery.create_application(f"gate{number}", key_mode="application", masked=False)
            gallery.enroll_many([f"p{i}" for i in range(300)], people, application=f"gate{number}")
    for number in range(8):
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                Gallery(open_store(url), place.keys(), FakeHasher()).mask(application=f"gate{number}")
            os._exit(0)
        time.sleep(0.04 * number)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with Gallery(open_store(url), place.keys(), FakeHasher()) as gallery:
            name = f"gate{number}"
            assert gallery.check() == []
            masked += gallery.application(name).masked
            assert gallery.verify("p7", people[7], application=name).distance == 0
            assert gallery.mask(application=name) in (0, 300)
            (found,) = gallery.identify(people[9], application=name, threshold=0)
            assert found.subject_id == "p9"
            assert gallery.check() == []
    assert masked < 8


def test_writers_leave_nothing_behind(base, schema, url):
    with open_store(url, create=True) as store:
        store.create_application(DOOR, event("create"))  # noqa: F405
        execute(base, f"INSERT INTO {schema}.writers VALUES (gen_random_uuid(), 1, now() - interval '2d')")
    with open_store(url) as store:
        enrolled(store, "a")
        assert len(execute(base, f"SELECT * FROM {schema}.writers")) == 1
    assert execute(base, f"SELECT * FROM {schema}.writers") == []


SCHEMA_1 = """
CREATE TABLE {0}.gallery (one integer PRIMARY KEY, format integer NOT NULL, owner text NOT NULL);
CREATE TABLE {0}.applications (
    id integer PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE, encoding text NOT NULL,
    model text NOT NULL, threshold integer NOT NULL, key_mode text NOT NULL,
    masked boolean NOT NULL, epoch integer NOT NULL, created bigint NOT NULL,
    version bigint NOT NULL DEFAULT 0, next_record bigint NOT NULL DEFAULT 0);
CREATE TABLE {0}.reference_codes (
    application integer NOT NULL REFERENCES {0}.applications (id), record bigint NOT NULL,
    subject text COLLATE "C" NOT NULL, slot integer NOT NULL, epoch integer NOT NULL,
    code bytea NOT NULL, seal bytea NOT NULL, metadata text NOT NULL, created bigint NOT NULL,
    version bigint NOT NULL, PRIMARY KEY (application, record),
    CONSTRAINT slots UNIQUE (application, subject, slot));
CREATE TABLE {0}.tombstones (
    application integer NOT NULL REFERENCES {0}.applications (id), record bigint NOT NULL,
    subject text COLLATE "C" NOT NULL, version bigint NOT NULL, PRIMARY KEY (application, record));
CREATE TABLE {0}.audit (
    sequence bigint PRIMARY KEY, time bigint NOT NULL, action text NOT NULL,
    application text NOT NULL, count integer NOT NULL, subjects bytea NOT NULL,
    key_entries bigint NOT NULL, previous bytea NOT NULL, digest bytea NOT NULL);
CREATE TABLE {0}.writers (id uuid PRIMARY KEY, write bigint NOT NULL, at timestamptz NOT NULL);
"""


@pytest.mark.filterwarnings("ignore::iom.errors.UnmaskedWarning")
def test_a_gallery_of_format_1_is_converted(base, schema, url, tmp_path, root):
    """The rows of the SQLite fixture, in the tables of format 1."""
    fixture = root / "tests" / "fixtures" / "gallery_v1"
    for name in ("gallery.db", "gallery.keys", "gallery.wrap"):
        shutil.copy(fixture / name, tmp_path / name)
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "gallery.db")) as old,
        psycopg.connect(base, autocommit=True) as connection,
    ):
        connection.execute(f"CREATE SCHEMA {schema}")
        for statement in filter(str.strip, SCHEMA_1.format(schema).split(";")):
            connection.execute(statement)
        ((owner,),) = old.execute("SELECT name FROM owner").fetchall()
        connection.execute(f"INSERT INTO {schema}.gallery VALUES (1, 1, %s)", (owner,))
        for table in ("applications", "reference_codes", "tombstones", "audit"):
            for row in old.execute(f"SELECT * FROM {table}"):
                values = list(row)
                if table == "applications":
                    values[6] = bool(values[6])
                marks = ", ".join(["%s"] * len(values))
                connection.execute(f"INSERT INTO {schema}.{table} VALUES ({marks})", values)
    fails(lambda: open_store(url), "iom migrate")
    keys = f"file:{tmp_path}/gallery.keys{{}}?key-file={tmp_path}/gallery.wrap"
    done = migrate(url, keys.format(""))
    assert (done.applications, done.references, done.revoked) == (4, 12, 8)
    people = faces(5, seed=11)
    with Gallery(open_store(url), open_key_store(keys.format(".v2")), FakeHasher()) as gallery:
        assert gallery.verify("alice", people[0], application="subject-masked").distance == 0
        with pytest.raises(RevokedError):  # noqa: F405
            gallery.verify("bob", people[1], application="application")
        gallery.enroll("erin", people[4], application="subject")
        assert gallery.check() == []


def test_what_was_changed_or_rolled_back_is_found(base, schema, url, tmp_path):
    people = faces(4)
    keys = Place(tmp_path).keys(create=True)
    with open_store(url, create=True) as store:
        gallery = Gallery(store, keys, FakeHasher())
        gallery.create_application("door", masked=True)
        gallery.enroll_many(list("abc"), people[:3], application="door")
        gallery.revoke("c", application="door")
        assert gallery.check() == []
        for statement, words in (
            ("UPDATE {0}.applications SET threshold = 96", "settings"),
            ("UPDATE {0}.tombstones SET subject = 'x'", "forged or changed"),
            ("DELETE FROM {0}.reference_codes WHERE subject = 'a'", "expected 2 valid references"),
            ("DELETE FROM {0}.audit WHERE sequence > 2", "cut or rewritten"),
        ):
            execute(base, statement.format(schema))
            assert words in " ".join(gallery.check())
        with pytest.raises(StoreError, match="changed outside"):
            gallery.verify("b", people[3], application="door")


def test_devices_and_nonces_lie_in_the_same_schema(base, url, schema, tmp_path):
    place = DevicePlace(tmp_path, url=url)
    with contextlib.closing(place):
        gallery = place.made()
        place.ask(gallery, "enroll", "alice", 1, 1)
        message = place.message(gallery, "verify", "alice", 1, 1)
        signature = place.device("alice").sign(message)
        other = place.open()
        assert other.verify_code(message, signature).match
        with pytest.raises(EnrolmentError, match="nonce was used"):
            gallery.verify_code(message, signature)
        with pytest.raises(EnrolmentError, match="transform key was used"):
            place.ask(gallery, "renew", "alice", 2, 1)
        place.ask(gallery, "renew", "alice", 2, 2)
        assert place.ask(other, "verify", "alice", 2, 2).match
        assert gallery.check() == []
        execute(base, f"UPDATE {schema}.devices_1 SET key = 'x' WHERE record = 0")
        assert any("the device of record 0 was changed" in each for each in gallery.check())

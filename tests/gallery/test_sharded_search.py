"""A search over shards against the search of one process, without what carries the messages."""

import contextlib
import dataclasses
import pickle
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iom.codes.asymmetric import CodeVectors, keyed_rows
from iom.codes.packing import pack
from iom.errors import ConfigError, DataError, MissingExtraError, StoreError, WorkerError
from iom.gallery.gallery import Gallery
from iom.gallery.key_relay import KeyRelay
from iom.gallery.key_source import passphrase_seal
from iom.gallery.key_store import KeyStore, open_key_store
from iom.gallery.models import Shard
from iom.gallery.sharded_search import SearchShard, SearchUrl, ShardedSearcher, ShardPlace
from iom.gallery.stores.base import open_store
from iom.gallery.stores.sqlite import SqliteStore
from tests.gallery.conftest import SIZE, UNMASKED, FakeHasher, again, faces

PASSPHRASE = "correct horse battery"


class DirectShards:
    """Shards in this process; `before` is called with the number of each shard that is asked."""

    def __init__(self, place, count, **settings):
        self.make = lambda number: SearchShard(place, Shard(number, count, block=1), **settings)
        self.shards = [self.make(number) for number in range(count)]
        self.count, self.messages, self.is_closed = count, [], False
        self.before = self.change = lambda *_: None

    def ask(self, request, seconds):
        answers = []
        for number in range(self.count):
            self.before(number)
            answers.append(self.shards[number].answer(request))
        self.messages += [request, *answers]
        return self.change(answers) or answers

    def restart(self, number):
        self.shards[number].close()
        self.shards[number] = self.make(number)

    def close(self):
        self.is_closed = True
        for shard in self.shards:
            shard.close()


class Folder:
    """A gallery with one key an epoch: one process, and shards."""

    def __init__(self, folder):
        self.folder = folder
        self.store, self.keys = str(folder / "g.db"), f"file:{folder}/g.keys?key-file={folder}/g.wrap"
        self.opened = contextlib.ExitStack()
        with Gallery.open(self.store, keys=self.keys, hasher=FakeHasher(), create=True) as gallery:
            gallery.create_application("door", key_mode="application")

    def single(self):
        return self.opened.enter_context(Gallery.open(self.store, keys=self.keys, hasher=FakeHasher()))

    def place(self, **changes):
        return dataclasses.replace(ShardPlace.of(self.store, self.keys), **changes)

    def sharded(self, count=3, *, seconds=60.0, follow=60.0, place=None, **settings):
        place = place or self.place()
        shards = DirectShards(place, count, **settings)
        store, keys = open_store(self.store), open_key_store(self.keys)
        searcher = ShardedSearcher(store, keys, shards, place.session, seconds=seconds, follow=follow)
        gallery = self.opened.enter_context(Gallery(store, keys, FakeHasher(), searcher=searcher))
        return gallery, shards


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path)
    yield folder
    folder.opened.close()


def every_answer(gallery, rows):
    found = []
    for row in rows:
        found.append(gallery.identify(row, application="door"))
        found.append(gallery.identify(row, application="door", top=3, closed=True))
        found.append(gallery.identify(row, application="door", threshold=96))
    return found


@pytest.mark.parametrize("count", [1, 2, 5])
def test_answers_are_those_of_one_process(folder, count):
    single, (sharded, _) = folder.single(), folder.sharded(count)
    rows = faces(24)
    rows[5] = rows[11] = rows[2]  # ties, in different shards
    single.enroll_many([f"s{i}" for i in range(20)], rows[:20], application="door")
    probes = [rows[2], again(rows[7]), rows[23]]
    first = every_answer(sharded, probes)
    assert first == every_answer(single, probes)
    assert [each.record for each in first[2][:3]] == [2, 5, 11]
    single.revoke("s5", application="door")
    sharded.revoke("s7", application="door")
    sharded.enroll("new", rows[23], application="door")
    assert every_answer(sharded, probes) == every_answer(single, probes)
    single.rotate(application="door")
    sharded.renew("s2", rows[2], application="door")
    assert every_answer(sharded, probes) == every_answer(single, probes)
    single.rotate(application="door", retire=True)
    assert every_answer(sharded, probes) == every_answer(single, probes)
    assert sharded.identify(rows[2], application="door") == []


STEPS = st.lists(
    st.tuples(st.sampled_from(["enroll", "revoke", "renew", "rotate", "restart"]), st.integers(0, 7)), max_size=10
)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, count=st.integers(1, 4))
def test_any_order_of_writes_and_restarts(tmp_path_factory, steps, count):
    folder, rows = Folder(tmp_path_factory.mktemp("g")), faces(4)
    with folder.opened:
        single, (sharded, shards) = folder.single(), folder.sharded(count)
        for turn, (verb, number) in enumerate(steps):
            gallery, row = (single, sharded)[turn % 2], rows[number % 4]
            with contextlib.suppress(Exception):
                if verb == "rotate":
                    gallery.rotate(application="door", retire=number == 0)
                elif verb == "restart":
                    shards.restart(number % count)
                elif verb == "revoke":
                    gallery.revoke(f"s{number}", application="door")
                else:
                    getattr(gallery, verb)(f"s{number}", row, application="door")
            assert every_answer(sharded, rows[:2]) == every_answer(single, rows[:2])


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_renewal_between_the_answers_of_two_shards_loses_nobody(folder, moment):
    single, (sharded, shards) = folder.single(), folder.sharded(3)
    single.enroll_many(["bob", "cid", "ann"], faces(3), application="door")
    sharded.identify(faces(3)[2], application="door")
    single.enroll("dan", faces(4)[3], application="door")  # so that the shards read the store
    left = [True]

    def renewed(number):
        if number == moment and left:
            left.clear()
            single.rotate(application="door")
            (new,) = single.renew("ann", faces(3)[2], application="door")
            assert new.record % 3 == 1  # the old one is of the last shard

    shards.before = renewed
    found = sharded.identify(faces(3)[2], application="door")
    assert [(each.subject_id, each.distance) for each in found] == [("ann", 0)]
    assert not left


@pytest.mark.parametrize("moment", ["version", "tombstones", "pages"])
def test_a_shard_that_reads_during_a_renewal_loses_nobody(folder, monkeypatch, moment):
    single, (sharded, shards) = folder.single(), folder.sharded(2)
    single.enroll_many(["bob", "ann", "cid"], faces(3), application="door")
    sharded.identify(faces(2)[1], application="door")
    single.enroll("dan", faces(4)[3], application="door")
    real, asked = getattr(SqliteStore, moment), []
    shards.before = asked.append

    def renewed(store, *args, **settings):
        if asked == [0, 1] and moment == "tombstones":
            asked.append("renewed")
            renew()
        result = real(store, *args, **settings)
        if asked == [0, 1]:
            asked.append("renewed")
            renew()
        return result

    def renew():
        single.rotate(application="door")
        (new,) = single.renew("ann", faces(2)[1], application="door")
        assert new.record % 2 == 0  # of the first shard, which has answered; the second one is reading

    monkeypatch.setattr(SqliteStore, moment, renewed)
    found = sharded.identify(faces(2)[1], application="door")
    assert [(each.subject_id, each.distance) for each in found] == [("ann", 0)]
    assert "renewed" in asked


def test_writes_without_end_are_an_error_after_the_stated_time(folder):
    single, (sharded, shards) = folder.single(), folder.sharded(2, seconds=0.3)
    single.enroll("ann", faces(1), application="door")
    shards.before = lambda number: single.set_threshold(50 + number, application="door")
    with pytest.raises(WorkerError, match=r"no common state for 0.3 s") as caught:
        sharded.identify(faces(1)[0], application="door")
    assert caught.value.timed_out
    shards.before = lambda number: None
    assert sharded.identify(faces(1)[0], application="door")


def test_a_missing_answer_is_an_error(folder):
    single, (sharded, shards) = folder.single(), folder.sharded(3)
    single.enroll_many(["ann", "bob", "cid"], faces(3), application="door")
    shards.change = lambda answers: answers[:2]
    with pytest.raises(WorkerError, match="answers of 3 shards, received 2"):
        sharded.identify(faces(1)[0], application="door")


CHANGES = {
    "swapped": lambda answers: answers[::-1],
    "one for both": lambda answers: [answers[0], answers[0]],
    "a changed byte": lambda answers: [answers[0][:-1] + bytes([answers[0][-1] ^ 1]), answers[1]],
    "cut": lambda answers: [answers[0][:7], answers[1]],
    "empty": lambda answers: [b"", answers[1]],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_answers_are_refused(folder, change):
    single, (sharded, shards) = folder.single(), folder.sharded(2)
    single.enroll_many(["ann", "bob"], faces(2), application="door")
    shards.change = change
    with pytest.raises(WorkerError, match="not sealed by this gallery's key store"):
        sharded.identify(faces(1)[0], application="door")


def test_an_old_answer_is_refused(folder):
    single, (sharded, shards) = folder.single(), folder.sharded(2)
    single.enroll_many(["ann", "bob"], faces(2), application="door")
    sharded.identify(faces(1)[0], application="door")
    old = shards.messages[1:3]
    shards.change = lambda answers: old
    with pytest.raises(WorkerError, match="not sealed"):
        sharded.identify(faces(1)[0], application="door")


@pytest.mark.parametrize("request_", [b"", b"x" * 20, b"x" * 400])
def test_a_shard_answers_nobody_else(folder, request_):
    shard = SearchShard(folder.place(), Shard(0, 1))
    with contextlib.closing(shard), pytest.raises(WorkerError, match="not sealed"):
        shard.answer(request_)


def test_shards_of_another_session_are_refused(folder):
    sharded, shards = folder.sharded(1)
    shards.shards = [SearchShard(folder.place(), Shard(0, 1))]
    with pytest.raises(WorkerError, match="not sealed"):
        sharded.identify(faces(1)[0], application="door")


def test_what_travels_says_nothing(folder):
    single, (sharded, shards) = folder.single(), folder.sharded(2)
    rows = faces(40)
    single.enroll_many([f"subject-{i}" for i in range(40)], rows, application="door")
    for _ in range(2):
        assert sharded.identify(rows[3], application="door")
    (key,) = single.keys.application_keys("door", [0])
    code = pack(single.hasher.hash(rows[3:4], key), 8).planes.tobytes()
    (reference,) = single.references("subject-3", application="door")
    mask = single.keys.masks("door", [reference.record])[0]
    known = [code, reference.code, mask, key.secret, b"subject", b"door", rows[3].tobytes()]
    messages = [*shards.messages, pickle.dumps([shard._place for shard in shards.shards])]
    for secret in known:
        for piece in (secret[:8], secret[8:24].hex().encode(), secret[8:24]):
            assert not piece or not any(piece in message for message in messages)
    assert len(set(shards.messages)) == len(shards.messages)
    texts = repr(shards.shards) + repr(sharded) + repr(folder.place())
    assert key.secret.hex() not in texts
    assert (folder.folder / "g.wrap").read_text().strip() not in texts


def test_the_master_and_the_passphrase_stay_where_they_are(folder, monkeypatch, tmp_path):
    keys = f"file:{tmp_path}/p.keys"
    made = KeyStore.open(tmp_path / "p.keys", passphrase_seal(PASSPHRASE, cost=2), create=True)
    with Gallery(open_store(tmp_path / "p.db", create=True), made, FakeHasher()) as gallery:
        gallery.create_application("door", key_mode="application")
        gallery.enroll("ann", faces(1), application="door")
    place = ShardPlace.of(tmp_path / "p.db", keys)
    assert PASSPHRASE not in repr(place)
    monkeypatch.delenv("IOM_PASSPHRASE", raising=False)
    monkeypatch.delenv("IOM_PASSPHRASE_FILE", raising=False)
    file = tmp_path / "pass"
    file.write_text(PASSPHRASE + "\n")

    def asked(**settings):
        with contextlib.ExitStack() as opened:
            store = open_store(str(tmp_path / "p.db"))
            keys = opened.enter_context(open_key_store(place.keys, passphrase=PASSPHRASE))
            searcher = ShardedSearcher(store, keys, DirectShards(place, 2, **settings), place.session)
            gallery = opened.enter_context(Gallery(store, keys, FakeHasher(), searcher=searcher))
            return gallery.identify(faces(1)[0], application="door")

    with pytest.raises(StoreError, match="needs a passphrase, which no message carries"):
        asked()
    with pytest.raises(DataError, match="cannot read the passphrase file"):
        asked(passphrase_file=str(tmp_path / "none"))
    assert len(asked(passphrase_file=str(file))) == 1
    monkeypatch.setenv("IOM_PASSPHRASE", PASSPHRASE)
    assert len(asked()) == 1
    monkeypatch.setenv("IOM_PASSPHRASE", "another one")
    with pytest.raises(StoreError, match="wrong passphrase") as caught:
        asked()
    assert "another one" not in str(caught.value)


def test_a_sqlite_record_store_serves_one_machine(folder):
    place = folder.place(record_file="that of another machine")
    sharded, _ = folder.sharded(1, place=place)
    with pytest.raises(StoreError, match=r"is a SQLite file, which serves one machine.*use PostgreSQL"):
        sharded.identify(faces(1)[0], application="door")


def test_the_key_store_is_read_from_another_machine(folder):
    single = folder.single()
    rows = faces(12)
    single.enroll_many([f"s{i}" for i in range(10)], rows[:10], application="door")
    place, relay, asked = folder.place(key_file="another"), KeyRelay(folder.folder / "g.keys"), []

    def rows_of(name, values):
        found = relay.rows(name, values)
        asked.append(pickle.dumps(found))
        return found

    with contextlib.closing(relay):
        sharded, _ = folder.sharded(2, place=place, relay=rows_of)
        assert every_answer(sharded, rows[:3]) == every_answer(single, rows[:3])
        single.enroll("new", rows[11], application="door")
        single.revoke("s0", application="door")
        assert every_answer(sharded, [rows[0], rows[11]]) == every_answer(single, [rows[0], rows[11]])
        count = len(asked)
        every_answer(sharded, rows)
        assert len(asked) == count  # nothing is read while nothing is written
    (key,) = single.keys.application_keys("door", [0])
    masks = single.keys.masks("door", [reference.record for reference in single.references("s4", application="door")])
    assert not any(secret in text for text in asked for secret in (key.secret, *masks))


def test_a_key_store_elsewhere_needs_a_relay(folder):
    sharded, _ = folder.sharded(1, place=folder.place(key_file="another"))
    with pytest.raises(StoreError, match=r"another file than the head, or none, at .*g\.keys"):
        sharded.identify(faces(1)[0], application="door")


def test_a_relay_reads_what_it_should(folder):
    with contextlib.closing(KeyRelay(folder.folder / "g.keys")) as relay:
        with pytest.raises(StoreError, match="expected a name of header, state"):
            relay.rows("DELETE FROM masks", [])
        (folder.folder / "g.keys").rename(folder.folder / "moved")
        with pytest.raises(StoreError, match="was replaced"):
            relay.rows("state", [])


def test_machines_have_the_same_version(folder):
    sharded, _ = folder.sharded(1, place=folder.place(version="0.0.1"))
    with pytest.raises(WorkerError, match=r"the head 0\.0\.1; install the same version"):
        sharded.identify(faces(1)[0], application="door")


def test_shards_of_other_stores_are_refused(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    place = dataclasses.replace(Folder(other).place(), store=folder.store, record_file=folder.place().record_file)
    shard = SearchShard(place, Shard(0, 1))
    with pytest.raises(StoreError, match="do not belong together"):
        shard.answer(bytes(64))


def test_a_shard_that_failed_is_asked_again(folder):
    single, (sharded, _) = folder.single(), folder.sharded(2)
    single.enroll("ann", faces(1), application="door")
    wrap = folder.folder / "g.wrap"
    wrap.rename(folder.folder / "away")
    with pytest.raises(StoreError, match=r"g\.wrap: cannot be read"):
        sharded.identify(faces(1)[0], application="door")
    (folder.folder / "away").rename(wrap)
    assert len(sharded.identify(faces(1)[0], application="door")) == 1


def test_shards_follow_while_nobody_searches(folder):
    single, (sharded, shards) = folder.single(), folder.sharded(2, follow=0.05)
    single.enroll("ann", faces(1), application="door")
    assert len(sharded.identify(faces(1)[0], application="door")) == 1
    shards.restart(0)
    single.enroll("bob", faces(2)[1], application="door")
    count, wrap = len(shards.messages), folder.folder / "g.wrap"
    for _ in range(200):
        time.sleep(0.05)
        if len(shards.messages) > count + 6:
            break
    wrap.rename(folder.folder / "away")  # the new shard has opened its stores by now
    assert [each.subject_id for each in sharded.identify(faces(2)[1], application="door")] == ["bob"]
    (folder.folder / "away").rename(wrap)
    sharded.close()
    count = len(shards.messages)
    time.sleep(0.2)
    assert len(shards.messages) == count


class RowHasher(FakeHasher):
    """The same codes; probes are keyed rows."""

    comparison = "asymmetric"
    calibration = None

    def __init__(self):
        super().__init__()
        self.vectors = CodeVectors.of_kernel(self._rows.T, 8)

    def rows(self, embeddings, keys):
        keys = keys if isinstance(keys, list) else [keys] * len(embeddings)
        orders = np.array([key.permutation(SIZE) for key in keys])
        return keyed_rows(np.take_along_axis(np.asarray(embeddings), orders, axis=1))


@pytest.mark.parametrize("count", [1, 3])
def test_asymmetric_answers_are_those_of_one_process(folder, count):
    single, (sharded, shards) = folder.single(), folder.sharded(count)
    single.hasher = sharded.hasher = RowHasher()
    single.create_application("rows", key_mode="application", comparison="asymmetric", threshold=4000)
    rows = faces(24)
    rows[5] = rows[11] = rows[2]  # ties, in different shards
    single.enroll_many([f"s{i}" for i in range(20)], rows[:20], application="rows")

    def compare():
        found = []
        for row in (rows[2], again(rows[7]), rows[23]):
            for limits in ({}, {"top": 6, "closed": True}, {"threshold": 20_000}):
                found.append(sharded.identify(row, application="rows", **limits))
                assert found[-1] == single.identify(row, application="rows", **limits)
        return found

    first = compare()
    assert [each.record for each in first[1][:3]] == [2, 5, 11]
    assert 0 < first[1][0].distance == first[1][2].distance < 1000 < first[1][3].distance
    assert len(first[2]) == 20
    sent = sum(len(message) > 50_000 for message in shards.messages)
    assert sent == 1  # the code vectors, once for all searches
    shards.restart(0)
    single.rotate(application="rows")
    sharded.renew("s2", rows[2], application="rows")
    sharded.revoke("s11", application="rows")
    compare()
    assert sum(len(message) > 50_000 for message in shards.messages) == 2
    single.enroll_many([f"s{i}" for i in range(20)], rows[:20], application="door")
    assert every_answer(sharded, rows[:4]) == every_answer(single, rows[:4])  # by symbols, in the same shards


def test_one_key_a_record_is_searched_by_the_head(folder):
    sharded, shards = folder.sharded(2)
    sharded.create_application("own")
    sharded.enroll("ann", faces(1), application="own")
    (found,) = sharded.identify(faces(1)[0], application="own")
    assert (found.subject_id, found.distance, shards.messages) == ("ann", 0, [])


@UNMASKED
def test_masking_while_shards_hold_the_codes(folder):
    single, (sharded, _) = folder.single(), folder.sharded(2)
    single.create_application("bare", key_mode="application", masked=False)
    single.enroll_many(["ann", "bob"], faces(2), application="bare")
    before = sharded.identify(faces(1)[0], application="bare")
    single.mask(application="bare")
    single.enroll("cid", faces(3)[2], application="bare")
    assert sharded.identify(faces(1)[0], application="bare") == before
    assert [each.subject_id for each in sharded.identify(faces(3)[2], application="bare")] == ["cid"]


def test_shards_end_with_the_gallery(folder):
    sharded, shards = folder.sharded(1)
    sharded.close()
    assert shards.is_closed


def test_many_hits_at_once(folder):
    single, (sharded, _) = folder.single(), folder.sharded(3)
    rows = np.repeat(faces(1), 300, axis=0)
    single.enroll_many([f"s{i}" for i in range(300)], rows, application="door")
    found = sharded.identify(rows[0], application="door")
    assert [each.record for each in found] == list(range(300))
    single.revoke("s7", application="door")
    assert [each.record for each in sharded.identify(rows[0], application="door")] == [*range(7), *range(8, 300)]


GOOD = {
    "ray": SearchUrl(),
    "ray?shards=3": SearchUrl("", 3),
    "ray://local": SearchUrl("local"),
    "ray://local?shards=2&seconds=1.5": SearchUrl("local", 2, 1.5),
    "ray://head.example:6379": SearchUrl("head.example:6379"),
    "ray://[::1]:6379?passphrase-file=/a%20b": SearchUrl("[::1]:6379", 0, 60.0, "/a b"),
}


@pytest.mark.parametrize("text", GOOD)
def test_search_urls(text):
    assert SearchUrl.parse(text) == GOOD[text]


BAD = """
rays local ray:// ray://head ray://head:x ray://:6379 ray://local?shard=2 ray?shards=0 ray?shards=-1
ray?shards=2&shards=3 ray?shards=x ray?seconds=0 ray?seconds=nan ray?shards=9999 http://head:6379 ray://head:6379/x
"""


@pytest.mark.parametrize("text", ["", "ray://a b:1", *BAD.split()])
def test_search_urls_of_another_form(text):
    with pytest.raises(ConfigError, match="search: expected"):
        SearchUrl.parse(text)


SECRET = "s3cret"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{SECRET}@host/db",
        f"postgresql://host/db?password={SECRET}",
        f"postgresql://host/db?schema=a&sslpassword={SECRET}",
    ],
)
def test_no_password_travels(folder, url):
    with pytest.raises(ConfigError, match="without a password in its URL") as caught:
        ShardPlace.of(url, folder.keys)
    assert SECRET not in str(caught.value)
    assert ShardPlace.of("postgresql://user@host/db?schema=a", folder.keys).record_file == ""


def test_a_cluster_of_everybody_is_refused(folder, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE=token, or with RAY_USE_TLS=1"):
        Gallery.open(folder.store, keys=folder.keys, search="ray://head:6379")


def test_without_ray(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="a search on Ray needs the extra 'ray'"):
        Gallery.open(folder.store, keys=folder.keys, search="ray://local")

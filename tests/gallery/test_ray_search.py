"""Search in shards of Ray: workers that are killed, several nodes, the command line."""

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.ray_search import workers
from iom.errors import ConfigError, StoreError, WorkerError
from iom.gallery.gallery import Gallery
from iom.gallery.ray_search import RayShards
from iom.gallery.sharded_search import SearchUrl, ShardedSearcher, ShardPlace
from tests.gallery.conftest import FakeHasher, faces
from tests.gallery.postgres_server import PASSWORD, Server, find_binaries
from tests.gallery.test_sharded_search import Folder, every_answer

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("ray")]


@pytest.fixture(scope="module")
def ray():
    """Ray with a token, which it reads once in a process."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray = pytest.importorskip("ray", reason="needs Ray: pip install '.[ray]'")
    ray._raylet.Config.initialize("")  # where another test has imported it before
    return ray


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path)
    with folder.opened:
        yield folder


def on_ray(folder, search="ray://local?shards=2&seconds=60"):
    return folder.opened.enter_context(Gallery.open(folder.store, keys=folder.keys, hasher=FakeHasher(), search=search))


def test_kills_and_writes(folder, ray):
    single, sharded, other = folder.single(), on_ray(folder), on_ray(folder)
    rows = faces(60)
    single.enroll_many([f"s{i}" for i in range(50)], rows[:50], application="door")
    assert every_answer(sharded, rows[:20]) == every_answer(single, rows[:20])
    for turn in range(4):
        os.kill(workers()[turn % 2], signal.SIGKILL)
        if turn == 2:
            single.rotate(application="door")
            other.renew("s1", rows[1], application="door")
        single.revoke(f"s{turn}", application="door")
        sharded.enroll(f"new{turn}", rows[50 + turn], application="door")
        assert every_answer(sharded, rows[:6]) == every_answer(single, rows[:6])
        assert every_answer(other, rows[50:54]) == every_answer(single, rows[50:54])
    sharded.close()
    assert every_answer(other, rows[:3]) == every_answer(single, rows[:3])
    other.close()
    assert not workers()
    assert not ray.is_initialized()
    with pytest.raises(WorkerError, match="the gallery is closed"):
        sharded._searcher._shards.ask(b"", 1.0)


def test_a_search_that_lacks_a_shard_fails_after_the_stated_time(folder):
    single, sharded = folder.single(), on_ray(folder, "ray://local?shards=2&seconds=4")
    single.enroll("ann", faces(1), application="door")
    for _ in range(20):  # the start of processes may take longer
        with contextlib.suppress(WorkerError):
            assert len(sharded.identify(faces(1)[0], application="door")) == 1
            break
    stopped = workers()[0]
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"1 of 2 shards did not answer within 4 s.*Nothing was answered") as caught:
        sharded.identify(faces(1)[0], application="door")
    assert 3 < time.monotonic() - began < 30
    assert caught.value.timed_out
    os.kill(stopped, signal.SIGCONT)
    time.sleep(1)
    assert len(sharded.identify(faces(1)[0], application="door")) == 1


def test_an_error_of_a_shard_is_one_line(folder):
    sharded = on_ray(folder)
    (folder.folder / "g.wrap").rename(folder.folder / "away")
    with pytest.raises(StoreError, match=r"g\.wrap: cannot be read") as caught:
        sharded.identify(faces(1)[0], application="door")
    assert "\n" not in str(caught.value)
    (folder.folder / "away").rename(folder.folder / "g.wrap")
    assert sharded.identify(faces(1)[0], application="door") == []


def test_nothing_of_the_gallery_is_in_the_files_of_ray(folder, ray):
    single, sharded = folder.single(), on_ray(folder)
    single.enroll("subject-of-this-test", faces(1), application="door")
    assert sharded.identify(faces(1)[0], application="door")
    session = Path(ray._private.worker._global_node.get_session_dir_path()).resolve()
    assert session.parent.parent.stat().st_mode & 0o077 == 0
    (key,) = single.keys.application_keys("door", [0])
    wrap = (folder.folder / "g.wrap").read_text().strip()
    known = [key.secret, key.secret.hex().encode(), wrap.encode(), b"subject-of-this-test"]
    files = [path for path in session.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files for secret in known if secret in path.read_bytes()]


COMMAND = """
import sys
from iom.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_command_line(tmp_path):
    from PIL import Image

    from iom.synthetic import load_face_model

    chips = load_face_model().sample(2, 2, seed=3)[0]
    names = [tmp_path / f"{number}.png" for number in range(4)]
    for name, pixels in zip(names, chips, strict=True):
        Image.fromarray(pixels).save(name)
    secret = tmp_path / "pass"
    secret.write_text("correct horse battery\n")
    places = ["--gallery", "g.db", "--keys", "g.keys", "--passphrase-file", "pass", "--json"]

    def iom(*arguments):
        command = [sys.executable, "-c", COMMAND, *map(str, arguments), *places]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
        return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr

    assert iom("init", "--key-mode", "application")[0] == 0
    assert iom("enroll", "ann", names[0], "--unchecked")[0] == 0
    assert iom("enroll", "bob", names[2], "--unchecked")[0] == 0
    plain = iom("identify", names[1], "--unchecked", "--closed", "--top", "2")
    there = iom("identify", names[1], "--unchecked", "--closed", "--top", "2", "--search", "ray://local?shards=2")
    assert there[:2] == plain[:2]
    assert len(there[1]["candidates"]) == 2
    code, answer, _ = iom("identify", names[1], "--search", "ray://nowhere")
    assert code == 2
    assert "search: expected ray" in json.dumps(answer)


@pytest.fixture
def cluster(ray, monkeypatch):
    """Three nodes of one machine, all but the head's of which can be removed."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    extra = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster, extra
    cluster.shutdown()


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("psycopg", reason="needs psycopg")
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    server = Server(binaries)
    yield server
    server.remove()


def nodes_of(ray, gallery):
    actors = gallery._searcher._shards._actors
    return set(
        ray.get([each.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()) for each in actors])
    )


def test_several_nodes_and_the_loss_of_one(tmp_path, ray, cluster, server):
    cluster, extra = cluster
    url = server.url().replace(f":{PASSWORD}@", "@")
    keys = f"file:{tmp_path}/g.keys?key-file={tmp_path}/g.wrap"
    rows = faces(40)
    with contextlib.ExitStack() as opened:
        single = opened.enter_context(Gallery.open(url, keys=keys, hasher=FakeHasher(), create=True))
        single.create_application("door", key_mode="application")
        single.enroll_many([f"s{i}" for i in range(30)], rows[:30], application="door")
        search = f"ray://{cluster.address}?shards=2&seconds=90"
        sharded = opened.enter_context(Gallery.open(url, keys=keys, hasher=FakeHasher(), search=search))
        assert every_answer(sharded, rows[:5]) == every_answer(single, rows[:5])
        assert len(nodes_of(ray, sharded)) == 2
        lost = next(node for node in extra if node.node_id in nodes_of(ray, sharded))
        single.revoke("s0", application="door")
        cluster.remove_node(lost, allow_graceful=False)
        sharded.enroll("new", rows[35], application="door")
        assert every_answer(sharded, [rows[0], rows[35]]) == every_answer(single, [rows[0], rows[35]])
        with pytest.raises(ConfigError, match="this process uses the Ray of"):
            Gallery.open(url, keys=keys, search="ray://local")


def test_shards_on_a_machine_with_another_key_file(tmp_path, cluster, server):
    """As on machines that do not share files: the key store is read through the head's machine."""
    cluster, _ = cluster
    url = server.url().replace(f":{PASSWORD}@", "@") + "?schema=other"
    keys = f"file:{tmp_path}/g.keys?key-file={tmp_path}/g.wrap"
    rows = faces(40)
    with contextlib.ExitStack() as opened:
        single = opened.enter_context(Gallery.open(url, keys=keys, hasher=FakeHasher(), create=True))
        single.create_application("door", key_mode="application")
        single.enroll_many([f"s{i}" for i in range(30)], rows[:30], application="door")
        place = dataclasses.replace(ShardPlace.of(url, keys), key_file="of another machine")
        shards = RayShards(SearchUrl(cluster.address, 2, 90.0), place)
        searcher = ShardedSearcher(single.store, single.keys, shards, place.session, seconds=90.0)
        opened.callback(searcher.close)
        sharded = Gallery(single.store, single.keys, FakeHasher(), searcher=searcher)
        assert every_answer(sharded, rows[:5]) == every_answer(single, rows[:5])
        single.revoke("s0", application="door")
        single.enroll("new", rows[35], application="door")
        assert every_answer(sharded, [rows[0], rows[35]]) == every_answer(single, [rows[0], rows[35]])

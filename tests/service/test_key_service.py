"""A key service gives keys by label, each caller those of its name space, and never its master."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from iom._peers import PeerClient, TlsFiles, make_certificates
from iom.errors import DataError, RateLimitError, StoreError
from iom.gallery.gallery import Gallery
from iom.gallery.key_source import MasterSource, SourceOpener
from iom.gallery.key_store import KeyStore, open_key_store
from iom.gallery.remote_source import ACTION, MAX_LABELS, RemoteSource, pack_labels, unpack_labels
from iom.keys import TransformKey, derivation_label
from iom.service.audit_log import AuditLog
from iom.service.callers import Callers
from iom.service.key_service import KeyService, audit_key
from iom.service.mutual_tls import PeerApp, peers_in_background
from tests.gallery.conftest import FakeHasher, again, faces

MASTER = TransformKey.generate()
CALLERS = {"door": "door", "door-2": "door", "gate": "gate"}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder, ["keys", *CALLERS, "stranger"])
    return folder


def tls(certificates, name):
    files = {"certificate": f"{name}.pem", "key": f"{name}.key", "authority": "authority.pem"}
    return {part: certificates / file for part, file in files.items()}


class Service:
    """A running key service."""

    def __init__(self, folder, certificates, stack, **limits):
        self.folder, self.certificates = folder, certificates
        (folder / "callers.json").write_text(json.dumps(CALLERS))
        opener = SourceOpener("external", lambda is_new: MasterSource(MASTER))
        file = folder / "service.keys"
        self.keys = stack.enter_context(KeyStore.open(file, opener, create=not file.exists()))
        self.audit = stack.enter_context(AuditLog(folder / "audit", audit_key(self.keys)))
        service = KeyService(self.keys, Callers(folder / "callers.json"), self.audit, **limits)
        files = TlsFiles(**tls(certificates, "keys"))
        self.url = stack.enter_context(peers_in_background(PeerApp(service.handlers), files))

    def source(self, caller, **more):
        return RemoteSource(self.url, **tls(self.certificates, caller), **more)

    def key_url(self, caller, file):
        files = "&".join(f"{part}={path}" for part, path in tls(self.certificates, caller).items())
        return f"{self.url}?{files}&file={file}"


@pytest.fixture
def started(tmp_path, certificates):
    with contextlib.ExitStack() as stack:
        (tmp_path / "service").mkdir()
        yield lambda **limits: Service(tmp_path / "service", certificates, stack, **limits)


def test_callers_have_name_spaces(started):
    service = started()
    labels = [b"a", b"", b"label" * 100]
    sources = {name: service.source(name) for name in CALLERS}
    sources["named"] = service.source("door", name="keys")
    found = {name: source.derive(labels) for name, source in sources.items()}
    assert found["door"] == found["door-2"] == found["named"]
    assert not {*found["door"]} & {*found["gate"]}
    assert len({*found["door"]}) == 3
    assert all(len(key) == 32 for key in found["door"])
    assert sources["door"].derive([]) == []
    for source in sources.values():
        source.close()
    with service.source("stranger") as stranger:
        for _ in range(3):
            with pytest.raises(StoreError, match="stranger has no name space"):
                stranger.derive([b"a"])
    refused = [each for each in service.audit.records() if each.caller == "stranger"]
    assert [(each.action, each.count) for each in refused] == [("refused", 0)]


def test_a_caller_is_no_key_service(certificates):
    """Its certificate holds for the same hosts: who has it would give keys that he knows."""
    files = TlsFiles(**tls(certificates, "gate"))
    app = PeerApp({ACTION: lambda caller, body: bytes(32 * len(unpack_labels(body)))})
    with (
        peers_in_background(app, files) as url,
        RemoteSource(url, **tls(certificates, "door")) as source,
        pytest.raises(StoreError, match="expected the server 'keys', found 'gate'"),
    ):
        source.derive([b"a"])


def test_no_caller_reaches_keys_of_another_use(started):
    """Labels of a caller are never those of the service's own keys, of records, or of another name space."""
    service = started()
    own = vars(service.keys)["_own"]
    secret = {own.rows, own.audit, own.chain, own.seal, audit_key(service.keys)}
    secret.add(service.keys.record_key("door", "a", 1).secret)
    tried = [b"iom/key-store/seal/v2", b"iom/key-store/rows/v2\0", b"iom/key-store/audit/v2", b"", b"gate"]
    tried += [derivation_label("door", "a", 1), b"iom/space/v1\0\0\0\0\x11key-service-audit", b"/../gate"]
    with service.source("door") as door, service.source("gate") as gate:
        found = {*door.derive(tried)}
        assert not found & secret
        assert not found & {*gate.derive(tried)}
        plain = {*MasterSource(MASTER).derive(tried)}
        assert not found & plain


def test_a_gallery_behind_a_service(started, tmp_path):
    service, person = started(), faces(1)[0]
    url = service.key_url("door", tmp_path / "k")
    with Gallery.open(tmp_path / "g.db", keys=url, hasher=FakeHasher(), create=True) as gallery:
        gallery.create_application("door", masked=True)
        gallery.enroll_many([f"s{number}" for number in range(30)], faces(30), application="door")
        entries = [(each.action, each.count) for each in service.audit.records()]
        assert entries == [("derive", 5), ("derive", 30)]  # to open it, and one request for the batch
        assert gallery.verify("s0", again(person), application="door").match
    with Gallery.open(
        tmp_path / "g.db", keys=service.key_url("door-2", tmp_path / "k"), hasher=FakeHasher()
    ) as gallery:
        assert gallery.check() == []
        assert gallery.verify("s0", again(person), application="door").match
    with pytest.raises(StoreError, match="belongs to other keys"):
        open_key_store(service.key_url("gate", tmp_path / "k"))
    with pytest.raises(StoreError, match="stranger has no name space"):
        open_key_store(service.key_url("stranger", tmp_path / "k"))


def test_a_door_with_two_parts(started, tmp_path, monkeypatch):
    service, person = started(), faces(1)[0]
    both = f"file:{tmp_path}/k?key-file={tmp_path}/w+" + service.key_url("door", "").removesuffix("&file=")
    with Gallery.open(tmp_path / "g.db", keys=both, hasher=FakeHasher(), create=True) as gallery:
        gallery.create_application("door", masked=True)
        gallery.enroll("a", person, application="door")
    (service.folder / "callers.json").write_text(json.dumps({"gate": "gate"}))
    with pytest.raises(StoreError, match="door has no name space"):
        Gallery.open(tmp_path / "g.db", keys=both, hasher=FakeHasher())
    (service.folder / "callers.json").write_text(json.dumps(CALLERS))
    with Gallery.open(tmp_path / "g.db", keys=both, hasher=FakeHasher()) as gallery:
        assert gallery.verify("a", again(person), application="door").match


def test_a_service_that_is_down_writes_nothing(certificates, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    files = "&".join(f"{part}={path}" for part, path in tls(certificates, "door").items())
    service = f"https://127.0.0.1:{port}?{files}"
    for url in (f"{service}&file={tmp_path}/k", f"file:{tmp_path}/k?key-file={tmp_path}/w+{service}"):
        with pytest.raises(StoreError, match="nothing listens there"):
            open_key_store(url, create=True)
    assert list(tmp_path.iterdir()) == []


def test_too_many_labels(started):
    service = started(rate=1.0, burst=10)
    with service.source("door") as door, service.source("gate") as gate:
        door.derive([b"a"] * 8)
        with pytest.raises(RateLimitError, match=r"key service: .*retry in [123]\.\d s") as limited:
            door.derive([b"a"] * 5)
        assert 1 < limited.value.retry_after <= 3
        with pytest.raises(RateLimitError):
            door.derive([b"a"] * 5)
        gate.derive([b"a"] * 10)
        with pytest.raises(StoreError, match="1 to 10 labels at once, received 11"):
            gate.derive([b"a"] * 11)
    entries = [(each.caller, each.action, each.count) for each in service.audit.records()]
    assert entries == [("door", "derive", 8), ("door", "limited", 5), ("gate", "derive", 10)]


def test_requests_of_another_form(started):
    service = started()
    assert unpack_labels(pack_labels([b"a", b"", b"bc"])) == [b"a", b"", b"bc"]
    bodies = [b"\0", b"\0\0\0\x05abcd", b"\xff" * 8, pack_labels([b""] * (MAX_LABELS + 1)), pack_labels([b"x" * 4097])]
    with PeerClient(service.url, **tls(service.certificates, "door")) as door:
        for body in bodies:
            with pytest.raises(DataError):
                door.call(ACTION, body)
        with pytest.raises(DataError, match="1 to 5000 labels"):
            door.call(ACTION)  # each request is a line of the audit log
        with pytest.raises(DataError, match="expected POST"):
            door.call("master")
        assert len(door.call(ACTION, pack_labels([b""] * MAX_LABELS))) == 32 * MAX_LABELS
    with service.source("door") as door:
        assert len(door.derive([bytes([each % 251]) for each in range(MAX_LABELS + 3)][-3:])) == 3


CLIENT = """
import sys
from iom.gallery.gallery import Gallery
from tests.gallery.conftest import FakeHasher, again, faces
with Gallery.open(sys.argv[1], keys=sys.argv[2], hasher=FakeHasher(), create=True) as gallery:
    gallery.create_application("door")
    gallery.enroll_many([f"s{number}" for number in range(20)], faces(20), application="door")
    assert gallery.verify("s0", again(faces(20)[0]), application="door").match
    key = gallery.keys.record_key("door", "s0", 0)
    print("ready", key.secret.hex(), flush=True)
    sys.stdin.readline()
"""


def memory_of(process):
    """All readable bytes of a process."""
    parts = []
    with Path(f"/proc/{process.pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            place, mode, *_ = line.split()
            start, end = (int(each, 16) for each in place.split("-"))
            if mode.startswith("r"):
                with contextlib.suppress(OSError, OverflowError, ValueError):
                    memory.seek(start)
                    parts.append(memory.read(end - start))
    return b"\0".join(parts)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="reads the memory of another process")
def test_the_memory_of_a_client_has_no_master(started, tmp_path, root, monkeypatch):
    service = started()
    monkeypatch.setenv("MASTER", MASTER.to_text())
    text = MASTER.to_text().split(":")[1].encode()
    found = {}
    for name, url in {
        "service": service.key_url("door", tmp_path / "k"),
        "here": f"environment:MASTER?file={tmp_path}/k2",
    }.items():
        environment = {key: value for key, value in os.environ.items() if name == "here" or key != "MASTER"}
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(tmp_path / f"{name}.db"), url],
            env=environment,
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with client:
            _, derived = client.stdout.readline().split()
            memory = memory_of(client)
            client.stdin.write("\n")
        assert client.returncode == 0
        assert bytes.fromhex(derived) in memory  # so what is looked for would be seen
        found[name] = MASTER.secret in memory or text in memory
    assert found == {"service": False, "here": True}


def test_the_command(certificates, tmp_path, root):
    (tmp_path / "callers.json").write_text(json.dumps(CALLERS))
    files = tls(certificates, "keys")
    arguments = [*(f"--{part}={path}" for part, path in files.items()), "--callers", "callers.json", "--port=0"]
    command = [sys.executable, "-m", "iom", "serve-keys", "--keys", "file:s.keys?key-file=s.wrap", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 6
    assert done.stderr.startswith("error: no key store at s.keys")
    identities = set()
    for turn in range(2):
        more = ["--create"] if turn == 0 else []
        server = subprocess.Popen(
            [*command, *more], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with server:
            url = server.stdout.readline().split()[-1]
            with RemoteSource(url, **tls(certificates, "door")) as door:
                identities.add(door.derive([b"a"])[0])
            server.send_signal(signal.SIGTERM)
            _, errors = server.communicate(timeout=30)
        assert (server.returncode, errors) == (0, "")
    assert len(identities) == 1
    assert len((tmp_path / "s.keys.audit").read_text().splitlines()) == 3
    for mistake, text in {
        "--rate=0": "--rate",
        "--callers=none": "cannot read the callers",
        "--key=x": "cannot read x",
    }.items():
        done = subprocess.run([*command, mistake], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert text in done.stderr
        assert "Traceback" not in done.stderr

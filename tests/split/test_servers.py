"""Share servers as processes of their own, from the command line, over mutual TLS."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from iom.cli.main import main
from iom.codes.packing import code_bytes
from iom.errors import EnrolmentError, RevokedError
from iom.gallery.key_store import open_key_store
from iom.gallery.stores.base import open_store
from iom.split.share_store import Share, ShareStore
from iom.split.shares import COMMITMENT_BYTES, SECRET_BYTES
from iom.synthetic import load_face_model

WAIT = 60
SPLIT = "split://a:1,b:2?certificate=x&key=x&authority=x"


def start(folder, side, ports, *more):
    """A share server; what it prints goes to a file."""
    other = "ab"[side == "a"]
    with (folder / f"{side}.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "iom", "serve-share", "--side", side, "--store", f"{side}.db"),
                *("--keys", f"file:{side}.keys?key-file={side}.wrap", "--certificate", f"{side}.pem"),
                *("--key", f"{side}.key", "--authority", "authority.pem", "--port", str(ports[side])),
                *("--peer", f"https://localhost:{ports[other]}", "--callers", f"{side}.callers", *more),
            ],
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    deadline, place = time.monotonic() + WAIT, f"https://127.0.0.1:{ports[side]}".encode()
    while place not in (folder / f"{side}.log").read_bytes().split(b"--restart--")[-1]:
        assert process.poll() is None, (folder / f"{side}.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


def kill(process, folder, side):
    process.send_signal(signal.SIGKILL)
    process.wait()
    with (folder / f"{side}.log").open("ab") as log:
        log.write(b"--restart--")


def free_ports():
    import socket

    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in "ab"]
        return dict(zip("ab", (each.getsockname()[1] for each in sockets), strict=True))


def ask(code, capsys, *arguments):
    assert main(list(arguments)) == code, capsys.readouterr()
    return capsys.readouterr().out


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, _ = load_face_model().sample(2, 3, seed=8)  # far from the threshold under every key
    from PIL import Image

    for number, image in enumerate(images):
        Image.fromarray(image).save(f"{'alice' if number < 3 else 'bob'}_{number % 3}.png")
    return tmp_path


@pytest.mark.parametrize("protocol", ["full", pytest.param("lite", marks=pytest.mark.proof)])
def test_the_whole_way_from_the_command_line(folder, capsys, protocol):
    ask(0, capsys, "make-certificates", ".", "a", "b", "door", "desk")
    for side in "ab":
        ask(0, capsys, "init", "--gallery", f"{side}.db", "--keys", f"file:{side}.keys?key-file={side}.wrap",
            "--key-mode", "share")  # fmt: skip
    dealt = {"a": (), "b": ()}
    if protocol == "full":
        ask(0, capsys, "deal", "--count", "64", "--out-a", "a.deal", "--out-b", "b.deal", "--quiet")
        dealt = {side: ("--correlations", f"{side}.deal") for side in "ab"}
    ports = free_ports()
    place = f"split://localhost:{ports['a']},localhost:{ports['b']}?authority=authority.pem&protocol={protocol}"
    desk, door = (("--gallery", f"{place}&certificate={name}.pem&key={name}.key") for name in ("desk", "door"))
    processes = {}
    for side in "ab":
        (folder / f"{side}.callers").write_text('{"door": "verifier", "desk": "admin"}')
    try:
        for side in "ab":
            processes[side] = start(folder, side, ports, *dealt[side])
        (folder / "secret").write_text("open sesame\n")
        release = ("--release", "secret") if protocol == "full" else ()
        ask(0, capsys, "enroll", "alice", "alice_0.png", "alice_1.png", "--unchecked", *release, *desk)
        found = json.loads(ask(0, capsys, "verify", "alice", "alice_2.png", "--unchecked", "--json", *door))
        assert found["match"]
        assert found["released"] == ("open sesame" if release else None)
        found = json.loads(ask(1, capsys, "verify", "alice", "bob_0.png", "--unchecked", "--json", *door))
        assert (found["match"], found["released"]) == (False, None)
        assert "may not ask" in json.loads(
            ask(2, capsys, "enroll", "bob", "bob_0.png", "--unchecked", "--json", *door)
        )["error"]["message"]  # fmt: skip
        assert "refreshed 2 records" in ask(0, capsys, "refresh-shares", desk[1])
        kill(processes["b"], folder, "b")
        assert "nothing listens there" in json.loads(
            ask(2, capsys, "verify", "alice", "alice_2.png", "--unchecked", "--json", *door)
        )["error"]["message"]  # fmt: skip
        assert "revoked 2 references" in ask(0, capsys, "revoke", "alice", *desk)
        processes["b"] = start(folder, "b", ports, *dealt["b"])
        ask(4, capsys, "verify", "alice", "alice_2.png", "--unchecked", *door)
        ask(0, capsys, "renew", "alice", "alice_0.png", "--unchecked", *desk)
        ask(0, capsys, "verify", "alice", "alice_2.png", "--unchecked", *door)
        for content, words in (('{"desk": "admin"}', "door may not ask"), ("{", "expected JSON of callers")):
            (folder / "a.callers").write_text(content)
            found = json.loads(ask(2, capsys, "verify", "alice", "alice_2.png", "--unchecked", "--json", *door))
            assert words in found["error"]["message"]
    finally:
        for process in processes.values():
            process.terminate()
        codes = {side: process.wait(WAIT) for side, process in processes.items()}
    assert codes == {"a": 0, "b": 0}
    for side in "ab":
        stores = ("--gallery", f"{side}.db", "--keys", f"file:{side}.keys?key-file={side}.wrap")
        ask(0, capsys, "check", *stores)
        (shown,) = json.loads(ask(0, capsys, "show", "alice", "--json", *stores))["references"]
        assert shown["metadata"] == {}  # what is kept there is a share
    with open_store("a.db") as store:  # B need not have been asked
        refused = [each.event.action for each in store.whole_audit() if each.event.action.startswith("refused")]
    assert [each.split()[-1] for each in refused][:1] == ["door"]


def test_a_revocation_on_the_stores_of_a_server_ends_what_is_prepared(folder, capsys):
    keys = "file:a.keys?key-file=a.wrap"
    ask(0, capsys, "init", "--gallery", "a.db", "--keys", keys, "--key-mode", "share")
    with ShareStore(open_store("a.db"), open_key_store(keys)) as running:
        code = bytes(code_bytes(running.application("default").encoding))
        old, new = (Share(record, code, bytes(SECRET_BYTES), bytes(COMMITMENT_BYTES)) for record in (1, 2))
        running.prepare("default", 1, "alice", [old])
        running.commit("default", 1, [1])
        running.prepare("default", 2, "alice", [new], replaces=[1])
        ask(0, capsys, "revoke", "alice", "--gallery", "a.db", "--keys", keys)
        with pytest.raises(EnrolmentError, match="given up"):
            running.commit("default", 2, [2])
        with pytest.raises(RevokedError):
            running.shares("default", "alice")


def test_mistakes_are_told(folder, capsys):
    (folder / "empty").write_text("\n")
    ask(0, capsys, "make-certificates", ".", "a", "door")
    ask(0, capsys, "init", "--gallery", "a.db", "--keys", "file:a.keys?key-file=a.wrap", "--key-mode", "share")
    image = ("alice", "alice_0.png", "--unchecked")
    stores = ("--gallery", "a.db", "--keys", "file:a.keys?key-file=a.wrap")
    serve = (
        *("serve-share", "--side", "a", "--store", "a.db", "--keys", stores[3], "--certificate", "a.pem"),
        *("--key", "a.key", "--authority", "authority.pem", "--peer", "https://localhost:1", "--callers"),
    )
    (folder / "king.json").write_text('{"door": "king"}')
    (folder / "peer.json").write_text('{"door": "peer"}')
    for code, words, arguments in (
        (2, "shares of a split gallery", ("enroll", *image, *stores)),
        (2, "expected split://", ("verify", *image, "--gallery", "split://here")),
        (2, "expected split://", ("verify", *image, "--gallery", "split://a:1,b:2?certificate=door.pem")),
        (2, "one subject at a time", ("list", "--gallery", SPLIT)),
        (2, "--release is for a split gallery", ("enroll", *image, "--release", "x", *stores)),
        (2, "cannot read the secret", ("enroll", *image, "--release", "x", "--gallery", SPLIT)),
        (2, "expected a secret to release", ("enroll", *image, "--release", "empty", "--gallery", SPLIT)),
        (2, "not for a split gallery", ("revoke", "alice", "--slot", "1", "--gallery", "split://a:1,b:2")),
        (2, "cannot read the callers", (*serve, "none.json")),
        (2, "expected one of verifier, enroller, admin", (*serve, "king.json")),
        (2, "expected one of verifier, enroller, admin", (*serve, "peer.json")),
    ):
        assert main(list(arguments)) == code
        assert words in capsys.readouterr().err

"""Workers that hang, die or lie cost their own request; nothing they send is unpickled."""

import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from iom._workers import WorkerPool
from iom.errors import BusyError, DataError, MissingExtraError, WorkerError


def framed(message):
    """A message as `multiprocessing.connection` sends it."""
    return struct.pack("!i", len(message)) + message


def echo(prefix="", raises=""):
    """Handler of the tests: commands come as requests."""
    if raises == "DataError":
        raise DataError("no weights")
    if raises == "MissingExtraError":
        raise MissingExtraError("no package")
    if raises == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if raises == "ValueError":
        raise ValueError

    def handle(request):
        command, _, rest = request.partition(b" ")
        if command == b"sleep":
            time.sleep(float(rest))
        elif command == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif command == b"raise":
            raise RuntimeError
        elif command == b"allocate":
            return bytes(int(rest))[:1]
        elif command == b"pid":
            return str(os.getpid()).encode()
        elif command == b"write":
            try:
                Path(rest.decode()).write_text("x")
            except OSError:
                return b"refused"
        elif command == b"extra":
            os.write(0, framed(b"Amore"))
        return prefix.encode() + request

    return handle


@pytest.fixture
def pool():
    pools = []

    def start(*arguments, workers=1, **options):
        options = {"max_answer": 1 << 20, "start_seconds": 60.0, **options}
        pools.append(WorkerPool("tests.test_workers:echo", *arguments, workers=workers, **options))
        return pools[-1]

    yield start
    for each in pools:
        each.close()


def ask(pool, request, *, seconds=30.0, wait=None):
    return pool.ask(request, bytes, seconds=seconds, wait=wait)


def test_requests_are_answered_by_one_process(pool):
    echoing = pool("> ")
    echoing.start()
    assert ask(echoing, b"") == b"> "
    large = os.urandom(1 << 19)
    assert ask(echoing, large) == b"> " + large
    assert ask(echoing, b"pid") == ask(echoing, b"pid")


@pytest.mark.parametrize("request_", [b"die", b"raise", b"allocate 4000000000"])
def test_a_request_that_ends_its_process_costs_itself(pool, request_):
    limited = pool(memory=2 << 30)
    first = ask(limited, b"pid")
    with pytest.raises(WorkerError, match="died") as caught:
        ask(limited, request_)
    assert not caught.value.timed_out
    assert ask(limited, b"pid") != first


def test_a_request_that_hangs_is_given_up_and_its_process_killed(pool):
    one = pool()
    process = int(ask(one, b"pid"))
    for request in (b"sleep 60", bytes(8 << 20)):
        if request.startswith(b"\0"):  # a worker that does not read
            process = int(ask(one, b"pid"))
            os.kill(process, signal.SIGSTOP)
        with pytest.raises(WorkerError, match="too long") as caught:
            ask(one, request, seconds=0.3)
        assert caught.value.timed_out
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_no_worker_is_free(pool):
    one = pool()
    ask(one, b"")
    thread = threading.Thread(target=lambda: ask(one, b"sleep 1"))
    thread.start()
    time.sleep(0.2)
    with pytest.raises(BusyError):
        ask(one, b"", wait=0.05)
    thread.join()


def test_an_answer_that_its_reader_refuses_replaces_the_worker(pool):
    one = pool()
    first = ask(one, b"pid")

    def refuse(answer):
        raise WorkerError("malformed")

    with pytest.raises(WorkerError, match="malformed"):
        one.ask(b"x", refuse, seconds=30)
    assert ask(one, b"pid") != first


def test_a_message_too_many_is_no_answer_to_the_next_request(pool):
    one = pool()
    assert ask(one, b"extra") == b"more"
    time.sleep(0.3)
    with pytest.raises(WorkerError, match="nothing had asked for"):
        ask(one, b"next")
    assert ask(one, b"next") == b"next"


LIES = {
    "pickle": pickle.dumps(b"answer"),
    "garbage": bytes(range(256)) * 8,
    "long": struct.pack("!iQ", -1, 1 << 62),
    "kind": framed(b"R"),
    "empty": framed(b""),
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("ready", [framed(b"R"), b""])
def test_what_is_no_message_is_refused(pool, name, ready, monkeypatch):
    lie = "import socket; s = socket.socket(fileno=0)\n"
    lie += f"s.sendall({ready!r}); {'s.recv(100); ' if ready else ''}s.sendall({LIES[name]!r}); s.recv(100)"
    monkeypatch.setattr("iom._workers.worker_command", lambda *_, **__: [sys.executable, "-S", "-c", lie])
    with pytest.raises(WorkerError):
        ask(pool(start_seconds=5.0), b"request", seconds=3.0)


def test_an_isolated_worker_has_no_environment_and_no_files_and_writes_none(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("IOM_PASSPHRASE", "a secret passphrase")
    isolated = pool(isolated=True)
    with (tmp_path / "keys").open("wb") as keys:
        os.set_inheritable(keys.fileno(), True)
        process = Path(f"/proc/{int(ask(isolated, b'pid'))}")
        assert ask(isolated, f"write {tmp_path / 'new'}".encode()) == b"refused"
        if not process.is_dir():
            pytest.skip("no /proc on this machine")
        names = {line.partition(b"=")[0] for line in (process / "environ").read_bytes().split(b"\0")}
        files = [str(link.readlink()) for link in (process / "fd").iterdir()]
        limits = (process / "limits").read_text()
    assert names <= {b"", b"PATH", b"LD_LIBRARY_PATH", b"DYLD_LIBRARY_PATH", b"PYTHONHOME"}
    assert not [each for each in files if each.startswith(str(tmp_path))]
    assert re.search(r"Max core file size +0 +0 ", limits)


@pytest.mark.parametrize("kind", [DataError, MissingExtraError])
def test_a_handler_that_cannot_be_built_says_why(pool, kind):
    with pytest.raises(kind, match=r"^no (weights|package)$"):
        pool("", kind.__name__).check()


@pytest.mark.parametrize("way", ["crash", "ValueError"])
def test_a_worker_that_does_not_start_is_one_error(pool, way, capfd):
    with pytest.raises(WorkerError, match="did not start"):
        pool("", way).check()
    capfd.readouterr()


def test_closing_ends_requests_under_way(pool):
    one, errors = pool(), []
    process = int(ask(one, b"pid"))

    def wait():
        with pytest.raises(WorkerError) as caught:
            ask(one, b"sleep 60", seconds=60)
        errors.append(caught.value)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    one.close()
    thread.join(30)
    assert len(errors) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(WorkerError, match="closed"):
        ask(one, b"")


PARENT = """
from iom._workers import WorkerPool
pool = WorkerPool("tests.test_workers:echo", workers=1, max_answer=100)
print(pool.ask(b"pid", bytes, seconds=60).decode(), flush=True)
pool.ask(b"sleep 60", bytes, seconds=60)
"""


def test_a_worker_ends_with_its_parent_even_at_work(root):
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=root, stdout=subprocess.PIPE, text=True)
    process = int(parent.stdout.readline())
    time.sleep(0.2)
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.kill(process, 0)
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            break
        if state == "Z":  # nobody reaps it here
            break
        time.sleep(0.05)
    else:
        pytest.fail("the worker outlived its parent")

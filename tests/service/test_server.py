"""The server around the application: what cannot be served is told before anything is loaded."""

import contextlib
import http.client
import os
import signal
import socket
import threading

import pytest
from fastapi import FastAPI

from iom.errors import ConfigError
from iom.service.server import serve


def never(address):
    raise AssertionError("nothing is opened where nothing can be served")


@contextlib.contextmanager
def empty(address):
    yield FastAPI(), address


def run(opened=never, *, host="127.0.0.1", port=0, ready=print, **options):
    return serve(opened, host=host, port=port, ready=ready, **options)


def test_an_address_that_is_taken():
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1, port"):
        run(port=taken.getsockname()[1])
    with pytest.raises(ConfigError, match="cannot listen"):
        run(port=65536)
    with pytest.raises(ConfigError, match="cannot listen"):
        run(host="no such host")


def test_certificates(tmp_path):
    with pytest.raises(ConfigError, match="both"):
        run(certificate=tmp_path / "a")
    with pytest.raises(ConfigError, match="cannot use the certificate"):
        run(empty, certificate=tmp_path / "a", certificate_key=tmp_path / "b")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_under_way_is_answered_before_the_end(number):
    app, started, told, ended = FastAPI(), threading.Event(), [], []
    answers = []

    @app.get("/slow")
    def slow():
        started.set()
        assert stopping.wait(10)
        return "done"

    stopping = threading.Event()

    @contextlib.contextmanager
    def opened(address):
        yield app, address
        ended.append(True)

    def ready(address):
        told.append(address)
        threading.Thread(target=ask, args=(address,)).start()

    def ask(address):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
        threading.Thread(target=stop).start()
        connection.request("GET", "/slow")
        answers.append(connection.getresponse().read())
        connection.close()

    def stop():
        assert started.wait(10)
        os.kill(os.getpid(), number)
        stopping.set()

    before = signal.getsignal(number)
    assert run(opened, ready=ready) == 0
    assert answers == [b'"done"']
    assert ended == [True]
    assert told[0].startswith("http://127.0.0.1:")
    assert signal.getsignal(number) is before

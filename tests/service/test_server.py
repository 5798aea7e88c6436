"""The server around the application: what cannot be served is told."""

import http.client
import os
import signal
import socket
import threading

import pytest
from fastapi import FastAPI

from iom._peers import TlsFiles
from iom.errors import ConfigError
from iom.service.server import listening, serve
from iom.service.settings import ServiceSettings


def test_an_address_that_is_taken():
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1, port"):
        listening("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="cannot listen"):
        listening("127.0.0.1", 65536)
    with pytest.raises(ConfigError, match="cannot listen"):
        listening("no such host", 0)


def test_certificates(tmp_path):
    files = TlsFiles(tmp_path / "a", tmp_path / "b")
    with listening("127.0.0.1", 0) as listener, pytest.raises(ConfigError, match="cannot use the certificate"):
        serve(FastAPI(), listener, ServiceSettings(), tls=files, ready=print)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_under_way_is_answered_before_the_end(number):
    app, started, answers = FastAPI(), threading.Event(), []

    @app.get("/slow")
    def slow():
        started.set()
        assert stopping.wait(10)
        return "done"

    stopping = threading.Event()

    def ask():
        connection = http.client.HTTPConnection(*listener.getsockname(), timeout=10)
        threading.Thread(target=stop).start()
        connection.request("GET", "/slow")
        answers.append(connection.getresponse().read())
        connection.close()

    def stop():
        assert started.wait(10)
        os.kill(os.getpid(), number)
        stopping.set()

    before = signal.getsignal(number)
    with listening("127.0.0.1", 0) as listener:
        serve(app, listener, ServiceSettings(), ready=threading.Thread(target=ask).start)
    assert answers == [b'"done"']
    assert signal.getsignal(number) is before

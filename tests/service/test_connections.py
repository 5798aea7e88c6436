"""Connections that send nothing, or too slowly, do not keep others out."""

import asyncio
import contextlib
import http.client
import ipaddress
import os
import signal
import socket
import threading
import time

import pytest
from fastapi import FastAPI, Request

from iom.service.server import client_network, listening, serve
from iom.service.settings import ServiceSettings

LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def application():
    app = FastAPI()

    @app.get("/health/live")
    async def live(request: Request):
        return request.client.host

    @app.get("/large")
    async def large():
        return "x" * 20_000_000

    @app.post("/slow")
    async def slow():
        await asyncio.sleep(0.35)
        return "done"

    return app


def served(client, *, proxies=(), **settings):
    """What `client(address)` returns, called in a thread while the service runs."""
    results = []

    def work():
        try:
            results.append(client(listener.getsockname()))
        except BaseException as error:
            results.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with listening("127.0.0.1", 0) as listener:
        ready = threading.Thread(target=work).start
        networks = [ipaddress.ip_network(each) for each in proxies]
        serve(application(), listener, ServiceSettings(**settings), proxies=networks, ready=ready)
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def ask(address, request=LIVE, seconds=5.0):
    with socket.create_connection(address, timeout=seconds) as connection:
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


def test_an_answer_does_not_wait_for_an_acknowledgement():
    def client(address):
        with contextlib.closing(http.client.HTTPConnection(*address)) as connection:
            seconds = []
            for _ in range(10):
                begin = time.perf_counter()
                connection.request("GET", "/health/live")
                connection.getresponse().read()
                seconds.append(time.perf_counter() - begin)
            return sorted(seconds)[5]

    assert served(client) < 0.03


def is_closed(connection, seconds):
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@contextlib.contextmanager
def held(address, count, first=b""):
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(address, timeout=5))
            connection.sendall(first)
            connections.append(connection)
        yield connections


@pytest.mark.parametrize("first", [b"", b"GET /health/live HTTP/1.1\r\nX"], ids=["idle", "half"])
def test_health_answers_while_500_connections_are_held(first):
    def client(address):
        with held(address, 500, first) as connections:
            answers = [ask(address) for _ in range(3)]
            for _ in range(8):
                for connection in connections[-20:]:
                    with contextlib.suppress(OSError):
                        connection.sendall(b"x")  # drips
                answers.append(ask(address))
                time.sleep(0.1)
            return answers, [is_closed(each, 0.5) for each in connections[:1] + connections[-1:]]

    answers, closed = served(client, header_seconds=0.6)
    assert len(answers) == 11
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert closed == [True, True]


def test_the_rest_of_a_body_that_nobody_reads_has_a_deadline():
    def client(address):
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 404")
            begin = time.monotonic()
            while time.monotonic() < begin + 3:
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")
                if is_closed(connection, 0.05):
                    break
            return time.monotonic() - begin

    assert served(client, header_seconds=0.4) < 2


def test_who_does_not_read_an_answer_is_disconnected():
    def client(address):
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(address)
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.6)
            connection.settimeout(5)
            count = 0
            with contextlib.suppress(ConnectionResetError):
                while data := connection.recv(1 << 20):
                    count += len(data)
            return count

    assert served(client, header_seconds=0.2) < 20_000_000


def test_a_request_under_way_is_not_cut_by_the_deadline_of_headers():
    def client(address):
        request = b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        with socket.create_connection(address, timeout=5) as connection:
            for _ in range(2):  # kept alive in between
                connection.sendall(request)
                answer = b""
                while b'"done"' not in answer:
                    answer += connection.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200")
                time.sleep(0.1)
        return True

    assert served(client, header_seconds=0.2)


def test_a_forwarded_address_is_believed_from_a_named_proxy_only():
    request = LIVE.replace(b"Host", b"X-Forwarded-For: 10.9.8.7\r\nHost")
    assert b"127.0.0.1" in served(lambda address: ask(address, request))
    assert b"127.0.0.1" in served(lambda address: ask(address, request), proxies=["10.0.0.0/24"])
    assert b"10.9.8.7" in served(lambda address: ask(address, request), proxies=["127.0.0.1"])


def test_the_limit_of_an_address_is_not_for_a_proxy_and_not_for_others():
    def client(address):
        with held(address, 12) as connections:
            ask(address)
            return sum(is_closed(each, 0.02) for each in connections)

    assert served(client, max_waiting_per_client=4) == 9  # one of the 13 was served
    assert served(client, max_waiting_per_client=4, proxies=["127.0.0.1"]) == 0
    assert served(client, max_waiting=6) == 7


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /health/live HTTP/1.1\nHost: x\n\n",
        LIVE.replace(b"Host: x\r\n", b"Host: x\nX: y\r\n"),
        LIVE.replace(b"close\r\n\r\n", b"close\r\n\n"),
    ],
)
def test_a_header_line_without_cr_is_refused(request_):
    assert served(lambda address: ask(address, request_)).startswith(b"HTTP/1.1 400")


def test_a_client_is_an_address_or_64_bits():
    assert client_network("10.0.0.1") == "10.0.0.1"
    assert client_network("::ffff:10.0.0.1") == "10.0.0.1"
    assert client_network("2001:db8::1") == client_network("2001:db8::ffff:1")
    assert client_network("2001:db8::1") != client_network("2001:db8:0:1::1")
    assert client_network("-") == "-"

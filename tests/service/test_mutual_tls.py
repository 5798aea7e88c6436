"""Programs talk to each other over mutual TLS, and refuse everybody else."""

import contextlib
import datetime
import http.client
import ipaddress
import os
import random
import socket
import ssl
import stat
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import iom._peers
from iom._peers import PeerClient, TlsFiles, make_certificates
from iom.errors import (
    ConfigError,
    DataError,
    NotPermittedError,
    PeerError,
    RateLimitError,
    RevokedError,
    StoreError,
    WorkerError,
)
from iom.service.mutual_tls import PEER_SETTINGS, PeerApp, peers_in_background
from iom.service.settings import ConnectionSettings


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("certificates")
    make_certificates(place, ["keys", "door", "gate"])
    return place


def files(folder, name):
    return TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / "authority.pem")


@contextlib.contextmanager
def serving(folder, handlers, settings=PEER_SETTINGS, **more):
    with peers_in_background(PeerApp(handlers, settings, **more), files(folder, "keys"), settings) as url:
        yield url


def client(url, folder, name="door", **more):
    return PeerClient(url, **vars(files(folder, name)), **more)


def echo(caller, body):
    return caller.encode() + b" " + body


def test_a_call_and_its_caller(folder):
    with serving(folder, {"echo": echo}) as url, client(url, folder) as door, client(url, folder, "gate") as gate:
        assert door.call("echo", b"a") == b"door a"
        assert gate.call("echo", b"b") == b"gate b"
        assert door.call("echo") == b"door "
        large = random.Random(0).randbytes(3_000_000)
        assert door.call("echo", large) == b"door " + large


def test_many_threads_share_a_client(folder):
    answers, connections = {}, set()

    def note(caller, body):
        connections.add(threading.get_ident())
        return body

    with serving(folder, {"note": note}) as url, client(url, folder) as door:

        def work(number):
            for turn in range(50):
                text = f"{number} {turn}".encode()
                answers[text] = door.call("note", text)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert len(answers) == 200
    assert all(question == answer for question, answer in answers.items())


def test_errors_cross_as_their_class(folder):
    def fail(caller, body):
        if body == b"revoked":
            raise RevokedError("subject 'a' was revoked", subject_id="a")
        if body == b"rate":
            raise RateLimitError("slowly", retry_after=2.5)
        if body == b"store":
            raise StoreError("no disk")
        raise ValueError("a secret: 0123456789abcdef")

    with serving(folder, {"fail": fail}) as url, client(url, folder) as door:
        with pytest.raises(RevokedError, match="subject 'a' was revoked") as revoked:
            door.call("fail", b"revoked")
        assert revoked.value.subject_id == "a"
        with pytest.raises(RateLimitError) as limited:
            door.call("fail", b"rate")
        assert limited.value.retry_after == 2.5
        with pytest.raises(StoreError, match="no disk"):
            door.call("fail", b"store")
        with pytest.raises(WorkerError) as unforeseen:
            door.call("fail")
        assert "secret" not in str(unforeseen.value)


def test_an_error_that_is_none_of_ours():
    for body in (b"", b"[]", b'{"error": "SystemExit", "detail": "x"}', b'{"error": "IomError"}', b"\xff", b"[" * 9999):
        assert type(iom._peers.error_from_json(body, "u")) is PeerError
    odd = b'{"error": "RateLimitError", "detail": "a\\nb", "retry_after": 1, "__class__": 5, "_x": 1, "l": [1]}'
    found = iom._peers.error_from_json(odd, "u")
    assert (type(found), str(found), vars(found)) == (RateLimitError, "a b", {"retry_after": 1.0})
    for value in (
        b'"x"',
        b"1e999",
        b"9" * 4000,
        b"NaN",
        b"-1",
        b"true",
        b"null",
        b"[]",
        b"{}",
    ):  # what a caller counts with
        odd = b'{"error": "RateLimitError", "detail": "a", "retry_after": ' + value + b"}"
        assert vars(iom._peers.error_from_json(odd, "u")).get("retry_after", 1.0) == 1.0
    assert iom._peers.error_from_json(b'{"error": "RevokedError", "detail": "a"}', "u").subject_id == ""
    assert (
        iom._peers.error_from_json(b'{"error": "WorkerError", "detail": "a", "timed_out": true}', "u").timed_out is True
    )
    for value, mark in ((b"7", 7), (b"-1", 0), (b"7.5", 0), (b"true", 0)):
        text = b'{"error": "CorrelationError", "detail": "a", "mark": ' + value + b"}"
        assert iom._peers.error_from_json(text, "u").mark == mark
    needs_more = b'{"error": "SettingsChangedError", "detail": "a"}'
    assert type(iom._peers.error_from_json(needs_more, "u")) is PeerError


def test_unknown_actions_and_callers_that_are_not_permitted(folder):
    def admit(caller, action):
        if (caller, action) == ("door", "echo"):
            raise NotPermittedError("door may not ask for echo")

    with (
        serving(folder, {"echo": echo, "open": echo}, admit=admit) as url,
        client(url, folder) as door,
        client(url, folder, "gate") as gate,
    ):
        assert gate.call("echo") == b"gate "
        assert door.call("open") == b"door "
        with pytest.raises(NotPermittedError, match="door may not ask for echo"):
            door.call("echo")
        for action in ("close", "", "../v1/open", "echo?x=1"):
            with pytest.raises((DataError, NotPermittedError)):
                door.call(action)
        assert door.call("open") == b"door "


def test_one_caller_has_one_rate(folder):
    slow = ConnectionSettings(rate=0.5, burst=3)
    with serving(folder, {"echo": echo}, slow) as url, client(url, folder) as door, client(url, folder, "gate") as gate:
        for _ in range(3):
            door.call("echo")
        with pytest.raises(RateLimitError, match=r"retry in [12]\.\d s") as limited:
            door.call("echo")
        assert 0 < limited.value.retry_after <= 2
        assert gate.call("echo") == b"gate "


def test_a_body_that_is_too_large(folder):
    small = ConnectionSettings(max_body=100)
    with serving(folder, {"echo": echo}, small) as url, client(url, folder) as door:
        assert door.call("echo", bytes(100)) == b"door " + bytes(100)
        with pytest.raises(DataError, match="at most 100 bytes"):
            door.call("echo", bytes(101))
        with raw(url, folder) as connection:  # chunked: without a length to refuse it by
            connection.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            connection.sendall(b"65\r\n" + bytes(0x65) + b"\r\n0\r\n\r\n")
            assert b"at most 100 bytes" in answer(connection)
        with pytest.raises(PeerError, match="at most 4 bytes"):
            door.call("echo", b"1", max_answer=4)
        assert door.call("echo") == b"door "


@contextlib.contextmanager
def raw(url, folder, name="door"):
    """A TLS connection without HTTP."""
    context = files(folder, name).client_context() if name else ssl._create_unverified_context()
    plain = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10)
    with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        yield connection


def answer(connection):
    with contextlib.closing(http.client.HTTPResponse(connection)) as response:
        response.begin()
        return response.read()


def test_slow_clients_are_closed(folder):
    quick = ConnectionSettings(header_seconds=0.5, wait_for_body=0.3)
    with serving(folder, {"echo": echo}, quick) as url:
        with raw(url, folder) as connection:
            begin = time.monotonic()
            assert connection.recv(1) == b""
            assert 0.3 < time.monotonic() - begin < 5
        with raw(url, folder) as connection:
            connection.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
            assert b"too slowly" in answer(connection)
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as plain:
            assert plain.recv(1) == b""  # no handshake
        with client(url, folder) as door:
            assert door.call("echo") == b"door "


def test_a_client_without_a_certificate(folder):
    received, request = b"", b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    refused = contextlib.suppress(ssl.SSLError, ConnectionError)
    with serving(folder, {"echo": echo}) as url, refused, raw(url, folder, "") as connection:
        connection.sendall(request)
        received = connection.recv(1)
    assert not received


def test_certificates_of_another_authority(folder, tmp_path):
    make_certificates(tmp_path, ["keys", "door"])
    with serving(folder, {"echo": echo}) as url:
        mixed = TlsFiles(tmp_path / "door.pem", tmp_path / "door.key", folder / "authority.pem")
        with (
            PeerClient(url, **vars(mixed)) as stranger,
            pytest.raises(PeerError, match=r"refuses this program's certificate .* not signed by"),
        ):
            stranger.call("echo")
        mixed = TlsFiles(folder / "door.pem", folder / "door.key", tmp_path / "authority.pem")
        with PeerClient(url, **vars(mixed)) as door, pytest.raises(PeerError, match="certificate is refused"):
            door.call("echo")


def expired(folder, name):
    """A certificate of the folder's authority, whose time is over."""
    authority, key = iom._peers._read_authority(folder)
    private = ec.generate_private_key(ec.SECP256R1())
    alternative = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = iom._peers._certificate(name, private, authority, key, -0.01, alternative)
    return made, private


def write_pair(folder, name, certificate, key):
    pem = Encoding.PEM
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
    (folder / f"{name}.key").write_bytes(key.private_bytes(pem, PrivateFormat.PKCS8, NoEncryption()))


def test_expired_certificates(folder, tmp_path):
    write_pair(tmp_path, "door", *expired(folder, "door"))
    write_pair(tmp_path, "keys", *expired(folder, "keys"))
    (tmp_path / "authority.pem").write_bytes((folder / "authority.pem").read_bytes())
    with (
        serving(folder, {"echo": echo}) as url,
        client(url, tmp_path) as door,
        pytest.raises(PeerError, match=r"refuses this program's certificate .*: it is valid from"),
    ):
        door.call("echo")
    with (
        serving(tmp_path, {"echo": echo}) as url,
        client(url, folder) as door,
        pytest.raises(PeerError, match="certificate is refused: certificate has expired"),
    ):
        door.call("echo")


def test_a_server_of_another_name(folder):
    with serving(folder, {"echo": echo}) as url:
        with PeerClient(url, **vars(files(folder, "door")), name="keys") as door:
            assert door.call("echo") == b"door "
        wrong = PeerClient(url, **vars(files(folder, "door")), name="gate")
        with wrong, pytest.raises(PeerError, match="expected the server 'gate', found 'keys'"):
            wrong.call("echo")


def test_servers_that_are_down_slow_or_something_else(folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with client(f"https://127.0.0.1:{port}", folder) as door, pytest.raises(PeerError, match="nothing listens there"):
        door.call("echo")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with client(url, folder, seconds=0.2) as door, pytest.raises(PeerError, match=r"no answer within 0\.2 s"):
            door.call("echo")
    stop = threading.Event()
    with serving(folder, {"wait": lambda caller, body: b"" if stop.wait(5) else b"x"}) as url:
        with client(url, folder, seconds=0.3) as door, pytest.raises(PeerError, match=r"no answer within 0\.3 s"):
            door.call("wait")
        stop.set()
    with client("https://no-such-host.invalid:1", folder) as door, pytest.raises(PeerError, match="cannot be reached"):
        door.call("echo")


def test_a_connection_that_the_server_closed_is_not_used_again(folder):
    quick = ConnectionSettings(header_seconds=0.3)
    with serving(folder, {"echo": echo}, quick) as url, client(url, folder) as door:
        assert door.call("echo") == b"door "
        time.sleep(0.8)
        assert door.call("echo") == b"door "
        door.close()
        with pytest.raises(PeerError, match="closed"):
            door.call("echo")


def test_hostile_bytes_over_tls(folder):
    randomness = random.Random(1)
    requests = [randomness.randbytes(randomness.randrange(1, 4000)) for _ in range(30)]
    requests += [b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
    requests += [b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\n"]
    requests += [b"A" * 100_000, b"POST /v1/%00%ff%2e HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"]
    with serving(folder, {"echo": echo}) as url:
        for request in requests:
            with contextlib.suppress(OSError), raw(url, folder) as connection:
                connection.settimeout(0.05)
                connection.sendall(request)
                assert b" 200 " not in connection.recv(100)
        with client(url, folder) as door:
            assert door.call("echo") == b"door "


def test_answers_of_a_hostile_server(folder):
    """A server with a good certificate, whose answers are not."""
    answers = [b"x", b"HTTP/1.1 200 OK\r\n\r\nx", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx", b""]
    answers += [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 500 x\r\nContent-Length: 1\r\n\r\nx",
    ]
    answers += [b"HTTP/1.1 " + b"A" * 70000]
    tls = files(folder, "keys")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)

    def work():
        for answer in answers:
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(65536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=work)
        thread.start()
        with client(f"https://127.0.0.1:{listener.getsockname()[1]}", folder, seconds=5) as door:
            for _ in answers:
                with pytest.raises(PeerError):
                    door.call("echo")
        thread.join()


def test_a_server_stops_at_once_while_a_client_stays_connected(folder):
    with contextlib.ExitStack() as opened:
        url = opened.enter_context(serving(folder, {"echo": echo}))
        with client(url, folder) as peer:
            peer.call("echo", b"")
            begin = time.monotonic()
            opened.close()
            assert time.monotonic() - begin < PEER_SETTINGS.header_seconds / 3


def test_old_versions_of_tls_are_refused(folder):
    with serving(folder, {"echo": echo}) as url:
        context = files(folder, "door").client_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        place = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(place, 10) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_urls_and_files_of_a_client(folder, tmp_path):
    for url in ("http://a:1", "https://a", "https://a:x", "https://a:1/b", "https://u:p@a:1", "a", ""):
        with pytest.raises(ConfigError, match="expected a URL"):
            client(url, folder)
    with pytest.raises(ConfigError, match="cannot read"):
        PeerClient("https://a:1", certificate=tmp_path / "a", key=tmp_path / "b", authority=tmp_path / "c")
    other = TlsFiles(folder / "door.pem", folder / "gate.key", folder / "authority.pem")
    with pytest.raises(ConfigError, match="cannot use the certificate"):
        PeerClient("https://a:1", **vars(other))
    (tmp_path / "text").write_text("no certificate")
    with pytest.raises(ConfigError, match="cannot use the certificate"):
        PeerClient("https://a:1", **vars(files(folder, "door")) | {"authority": tmp_path / "text"})
    with pytest.raises(ConfigError, match="cannot use the certificate"), peers_in_background(PeerApp({}), other):
        pass


def test_certificates(tmp_path):
    made = make_certificates(tmp_path, ["a", "b"], hosts=["10.0.0.1", "host.example"], days=10)
    assert {each.name for each in made} == {f"{n}{s}" for n in ("authority", "a", "b") for s in (".pem", ".key")}
    for path in made:
        if path.suffix == ".key":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = x509.load_pem_x509_certificate((tmp_path / "a.pem").read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a", "localhost", "host.example"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "10.0.0.1"]
    left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=9) < left < datetime.timedelta(days=11)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for names in (["a"], ["c", "a"], ["authority"], ["c", "c"], ["../c"], [""], []):
        with pytest.raises(ConfigError):
            make_certificates(tmp_path, names)
    for more in ({"hosts": ["a b"]}, {"days": 0}, {"days": 1e9}):
        with pytest.raises(ConfigError):
            make_certificates(tmp_path, ["c"], **more)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    make_certificates(tmp_path, ["c"])  # of the same authority
    (tmp_path / "authority.key").unlink()
    with pytest.raises(ConfigError, match=r"authority\.key cannot be used"):
        make_certificates(tmp_path, ["d"])
    assert not (tmp_path / "d.key").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot write"):
        make_certificates(tmp_path / "x", ["a"])


def test_the_response_is_http(folder):
    with serving(folder, {"echo": echo}) as url, raw(url, folder) as connection:
        connection.sendall(b"POST /v1/none HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert (response.status, response.getheader("cache-control")) == (422, "no-store")
        response.close()

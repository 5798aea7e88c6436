"""Mutual TLS between the programs of an installation: certificates, client, and errors on the wire.

Both sides show a certificate of one private authority; the common name in it is the name of a program. A request is
`POST /v1/ACTION` with bytes as its body and bytes as its answer. An error of `iom.errors` crosses as JSON
`{"error": class, "detail": text, ...}` with the error's attributes, and is raised as the same class on the other side.
"""

import contextlib
import dataclasses
import datetime
import http.client
import ipaddress
import json
import math
import re
import select
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import iom.errors
from iom._files import atomic_path, write_secret
from iom._untrusted import one_line, parse_json
from iom.errors import ConfigError, IomError, PeerError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

PREFIX = "/v1/"
MAX_ANSWER = 64 * 2**20
"""Bytes of an answer."""
MAX_IDLE_SECONDS = 20.0
"""Age of an unused connection at which a client opens another; a server closes it later."""
MAX_IDLE = 32
"""Unused connections that a client keeps."""
AUTHORITY = "authority"
AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 730
_ERROR_BYTES = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclasses.dataclass(frozen=True)
class TlsFiles:
    """PEM files of one side: its certificate, its key, and the authority whose certificates it accepts."""

    certificate: Path
    key: Path
    authority: Path | None = None

    def check(self) -> None:
        """Raise `ConfigError` where one of them cannot be read."""
        for path in (self.certificate, self.key, *([self.authority] if self.authority else [])):
            try:
                path.read_bytes()
            except OSError as error:
                raise ConfigError(
                    f"cannot read {path}: {error.strerror}; make certificates with iom make-certificates"
                ) from error

    def client_context(self) -> ssl.SSLContext:
        """The context of a client: TLS 1.3, certificates of the authority alone."""
        self.check()
        try:
            context = ssl.create_default_context(cafile=self.authority)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(self.certificate, self.key, password=lambda: b"")  # never asks at a terminal
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot use the certificate {self.certificate} with the key {self.key} and the authority "
                f"{self.authority}: {one_line(error)}"
            ) from error
        return context

    def problem(self) -> str:
        """Why a server with the same authority would not accept the certificate; empty where nothing is known."""
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature

        assert self.authority is not None  # noqa: S101 - clients have one
        own, authority = (
            x509.load_pem_x509_certificate(each.read_bytes()) for each in (self.certificate, self.authority)
        )
        if not own.not_valid_before_utc <= datetime.datetime.now(datetime.UTC) <= own.not_valid_after_utc:
            return f"it is valid from {own.not_valid_before_utc} to {own.not_valid_after_utc}"
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):
            own.verify_directly_issued_by(authority)
            return ""
        return f"it was not signed by {self.authority}"


def common_name(certificate: Any) -> str:
    """The name in a certificate, as `getpeercert` gives it; empty unless there is one, of letters, digits, `_.-`."""
    fields = [pair for group in (certificate or {}).get("subject", ()) for pair in group]
    names = [value for field, value in fields if field == "commonName"]
    return names[0] if len(names) == 1 and _NAME.fullmatch(names[0]) else ""


def error_to_json(error: IomError) -> bytes:
    """An error for the wire; the attributes that are texts and numbers go with it."""
    attributes = {name: value for name, value in vars(error).items() if isinstance(value, str | int | float)}
    return json.dumps({**attributes, "error": type(error).__name__, "detail": str(error)}).encode()


def error_from_json(body: bytes, url: str) -> IomError:
    """The error that a server at `url` sent, with its texts and numbers; a `PeerError` for none of `iom.errors`."""
    try:
        content = dict(parse_json(body, max_bytes=_ERROR_BYTES))
        kind, detail = getattr(iom.errors, content.pop("error"), None), one_line(content.pop("detail"))
        if not (isinstance(kind, type) and issubclass(kind, IomError)):
            return PeerError(f"{url}: {detail}", url=url)
        error = kind(detail)
    except (ValueError, TypeError, KeyError):
        return PeerError(f"{url}: no error of iom", url=url)
    for name, usual in list(vars(error).items()):
        value: Any = content.get(name)
        if isinstance(usual, str) and isinstance(value, str):
            setattr(error, name, one_line(value))
        elif type(value) is type(usual) or (isinstance(usual, float) and type(value) is int):
            with contextlib.suppress(TypeError, OverflowError):  # no number, or an endless one
                if math.isfinite(value) and value >= 0:
                    setattr(error, name, float(value) if isinstance(usual, float) else value)
    return error


class PeerClient(contextlib.AbstractContextManager["PeerClient"]):
    """Client of a program that serves others; threads may share it.

    Connections are kept and used again. A call is made at most once: after an error it is not known whether the server
    carried it out, unless the error is the server's own.

    Args:
        url: `https://HOST:PORT`.
        certificate: PEM of this program.
        key: PEM of its key.
        authority: PEM of the authority that signed the server's certificate.
        name: Common name that the server must have; by default any that the authority signed for HOST.
        seconds: Longest wait for a connection, and for the server at each step of a call.

    Raises:
        ConfigError: The URL is of another form, or a file cannot be used.
    """

    def __init__(
        self, url: str, *, certificate: Path, key: Path, authority: Path, name: str = "", seconds: float = 30.0
    ) -> None:
        self.url, self._name, self._seconds = url, name, seconds
        self._host, self._port = _place(url)
        self._tls = TlsFiles(certificate, key, authority)
        self._context = self._tls.client_context()
        self._idle: list[tuple[ssl.SSLSocket, float]] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"PeerClient({self.url!r})"

    def call(self, action: str, body: bytes = b"", *, max_answer: int = MAX_ANSWER) -> bytes:
        """The server's answer to `body`.

        Raises:
            IomError: The server's own error, as the class that it raised.
            PeerError: The server cannot be reached in time, refuses this program's certificate, has none of the
                authority or another name, or answers something else than a program of this kind.
        """
        connection = self._connection()
        is_done = False
        try:
            with self._explained():
                head = f"POST {PREFIX}{action} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode("ascii") + body)  # one write: half the time of two
                response = http.client.HTTPResponse(connection, method="POST")
                try:
                    response.begin()
                    answer = self._read(response, max_answer)
                    is_done = not response.will_close
                finally:
                    response.close()
        finally:
            if is_done:
                self._keep(connection)
            else:
                connection.close()
        if response.status != 200:
            raise error_from_json(answer, self.url)
        return answer

    def close(self) -> None:
        """Close the unused connections; a second call does nothing."""
        with self._lock:
            self._is_closed, idle = True, self._idle
            self._idle = []
        for connection, _ in idle:
            connection.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, response: http.client.HTTPResponse, max_answer: int) -> bytes:
        size = response.length
        if size is None or size > max_answer:
            raise PeerError(f"{self.url}: expected an answer of at most {max_answer} bytes, received {size}")
        answer = response.read()
        if len(answer) != size:
            raise http.client.IncompleteRead(answer, size - len(answer))
        return answer

    def _connection(self) -> ssl.SSLSocket:
        """A connection that nobody uses, or a new one."""
        oldest = time.monotonic() - MAX_IDLE_SECONDS
        while True:
            with self._lock:
                if self._is_closed:
                    raise PeerError(f"{self.url}: the client is closed", url=self.url)
                connection, since = self._idle.pop() if self._idle else (None, 0.0)
            if connection is None:
                return self._connect()
            if since > oldest and not select.select([connection], [], [], 0)[0]:  # readable: the server has closed it
                return connection
            connection.close()

    def _keep(self, connection: ssl.SSLSocket) -> None:
        with self._lock:
            if not self._is_closed and len(self._idle) < MAX_IDLE:
                self._idle.append((connection, time.monotonic()))
                return
        connection.close()

    def _connect(self) -> ssl.SSLSocket:
        with contextlib.ExitStack() as opened, self._explained():
            plain = opened.enter_context(socket.create_connection((self._host, self._port), self._seconds))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = opened.enter_context(self._context.wrap_socket(plain, server_hostname=self._host))
            found = common_name(connection.getpeercert())
            if self._name and found != self._name:
                raise PeerError(f"{self.url}: expected the server {self._name!r}, found {found!r}", url=self.url)
            opened.pop_all()
            return connection

    @contextlib.contextmanager
    def _explained(self) -> Any:
        try:
            yield
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            problem = _problem(error, self._seconds)
            if isinstance(error, ConnectionError | ssl.SSLEOFError):  # a server may close without a TLS alert
                with contextlib.suppress(OSError, ValueError):
                    if reason := self._tls.problem():
                        problem = f"the server refuses this program's certificate {self._tls.certificate}: {reason}"
            raise PeerError(f"{self.url}: {problem}", url=self.url) from error


def _problem(error: Exception, seconds: float) -> str:
    """What an error of a connection means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {one_line(error.verify_message)}"
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        reason = (error.reason or "").lower()
        if "alert" in reason:
            cause = reason.partition("alert_")[2].replace("_", " ") or reason
            return f"the server refuses this program's certificate: {cause}"
        return f"no TLS 1.3 with the server: {reason.replace('_', ' ') or one_line(error)}"
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there; is the server running?"
    if isinstance(error, ConnectionError | ssl.SSLEOFError):  # RemoteDisconnected among them
        return "the server closed the connection without an answer; does it accept certificates of this authority?"
    if isinstance(error, http.client.HTTPException | UnicodeError):
        return f"not the answer of a program of iom: {type(error).__name__}"
    return f"cannot be reached: {one_line(error.strerror if isinstance(error, OSError) else error)}"


def _place(url: str) -> tuple[str, int]:
    """Host and port of a URL."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme == "https" and parts.hostname and parts.port and not (parts.path.strip("/") or parts.username):
            return parts.hostname, parts.port
    raise ConfigError(f"expected a URL https://HOST:PORT, received {one_line(url)!r}")


def make_certificates(
    folder: Path, names: Sequence[str], *, hosts: Sequence[str] = (), days: float = CERTIFICATE_DAYS
) -> list[Path]:
    """Make a certificate and a key for each name, and a private authority where the folder has none.

    The files are `authority.pem`, `authority.key`, `NAME.pem` and `NAME.key`; keys are P-256 and have mode 0600. Each
    certificate is for servers and clients, valid for localhost, 127.0.0.1, ::1, its name, and `hosts` (names or
    addresses).

    Raises:
        ConfigError: A name is not of letters, digits and `_.-`, occurs twice, or has a file already; nothing is
            written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    _check_names(folder, names)
    if not 0 < days <= AUTHORITY_DAYS:
        raise ConfigError(f"days: expected more than 0, at most {AUTHORITY_DAYS}, received {days:g}")
    is_new = not (folder / f"{AUTHORITY}.pem").exists()
    alternatives = [_alternative(host) for host in ("localhost", "127.0.0.1", "::1", *hosts)]
    if is_new:
        authority_key = ec.generate_private_key(ec.SECP256R1())
        authority = _certificate(f"{AUTHORITY} of iom", authority_key, None, authority_key, AUTHORITY_DAYS, [])
    else:
        authority, authority_key = _read_authority(folder)
    made = [(AUTHORITY, authority, authority_key)] if is_new else []
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        own = [x509.DNSName(name), *(each for each in alternatives if each != x509.DNSName(name))]
        made.append((name, _certificate(name, key, authority, authority_key, days, own), key))
    written: list[Path] = []
    try:
        for name, certificate, key in made:
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_secret(folder / f"{name}.key", pem.decode())
            written.append(folder / f"{name}.key")
            with atomic_path(folder / f"{name}.pem", replace=False) as temporary:
                temporary.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
            written.append(folder / f"{name}.pem")
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConfigError(f"cannot write to {folder}: {error.strerror or error}; nothing was made") from error
        raise
    return written


def _check_names(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name) or name == AUTHORITY or names.count(name) > 1:
            raise ConfigError(
                f"name of a certificate: expected 1 to 64 letters, digits and '_.-', once, and not {AUTHORITY}, "
                f"received {name[:80]!a}"
            )
    if not names:
        raise ConfigError("make-certificates: expected at least one name")
    for path in (folder / f"{name}{suffix}" for name in names for suffix in (".pem", ".key")):
        if path.exists():
            raise ConfigError(f"{path}: there is a file already; nothing was made. Take another name or folder")


def _read_authority(folder: Path) -> "tuple[x509.Certificate, ec.EllipticCurvePrivateKey]":
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        certificate = x509.load_pem_x509_certificate((folder / f"{AUTHORITY}.pem").read_bytes())
        key: Any = serialization.load_pem_private_key((folder / f"{AUTHORITY}.key").read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "damaged"
        raise ConfigError(
            f"{folder}: holds the certificate of an authority, but its key {AUTHORITY}.key cannot be used ({reason}): "
            "put it back, or take another folder"
        ) from error
    if key.public_key() != certificate.public_key():
        raise ConfigError(f"{folder}: {AUTHORITY}.key is not the key of {AUTHORITY}.pem; nothing was made")
    return certificate, key


def _alternative(host: str) -> "x509.GeneralName":
    from cryptography import x509

    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    try:
        if not host or any(not (each.isalnum() or each in "-._*") for each in host):
            raise ValueError
        return x509.DNSName(host)
    except ValueError:
        raise ConfigError(f"host: expected a name or an address, received {host[:80]!a}") from None


def _certificate(
    name: str,
    key: "ec.EllipticCurvePrivateKey",
    authority: "x509.Certificate | None",
    authority_key: "ec.EllipticCurvePrivateKey",
    days: float,
    alternatives: "Sequence[x509.GeneralName]",
) -> "x509.Certificate":
    """A certificate, of an authority where none is given; valid from an hour ago, as clocks differ."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    is_authority = authority is None
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    unused = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False) | {
        "encipher_only": False,
        "decipher_only": False,
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, **unused
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if not is_authority:
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    return builder.sign(authority_key, hashes.SHA256())

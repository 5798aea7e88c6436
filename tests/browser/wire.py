"""A recorder between browser and service: every byte that leaves the browser, whichever part of it sent them."""

import contextlib
import socket
import threading
from dataclasses import dataclass

END = b"\r\n\r\n"


@dataclass(frozen=True)
class Recorded:
    """One HTTP request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Wire:
    """Forwards connections of a port of its own to a service and keeps what came from the browser."""

    def __init__(self, host, port):
        self.service = host, port
        self.listener, self.streams, self.open = None, [], []
        self.port = 0
        self.mend()

    @property
    def origin(self):
        return f"http://127.0.0.1:{self.port}"

    def mend(self):
        """Accept connections."""
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self):
        """End all connections and refuse new ones, as a service does that is gone."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for each in self.open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.open.clear()

    def mark(self):
        """How much came so far, for `requests`; while no request is under way."""
        return [len(stream) for stream in self.streams]

    def requests(self, since=()):
        """All that came, or came since a mark, by connection; `AssertionError` for what is no plain HTTP request."""
        starts = [*since, *[0] * (len(self.streams) - len(since))]
        return [
            request
            for stream, start in zip(self.streams, starts, strict=True)
            for request in parsed(bytes(stream[start:]))
        ]

    def _accept(self, listener):
        while True:
            try:
                browser, _ = listener.accept()
            except OSError:
                return
            try:
                service = socket.create_connection(self.service)
            except OSError:
                browser.close()
                continue
            stream = bytearray()
            self.streams.append(stream)
            self.open += browser, service
            threading.Thread(target=_pump, args=(browser, service, stream), daemon=True).start()
            threading.Thread(target=_pump, args=(service, browser), daemon=True).start()


def _pump(source, sink, stream=None):
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            if stream is not None:
                stream += data
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def parsed(stream):
    """The requests of one connection; one that is cut off at its end is left out."""
    found = []
    while END in stream:
        head, _, stream = stream.partition(END)
        first, *lines = head.decode("ascii").split("\r\n")
        method, path, version = first.split(" ")
        assert version == "HTTP/1.1", first
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert "transfer-encoding" not in headers, head
        assert "upgrade" not in headers, head
        size = int(headers.get("content-length", "0"))
        if len(stream) < size:
            break
        found.append(Recorded(method, path, headers, stream[:size]))
        stream = stream[size:]
    return found

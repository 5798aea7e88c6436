"""Start `iom serve` for a benchmark, and ask it: what service_load and service_fuzz share."""

import contextlib
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from iom._files import data_folder

ROOT = Path(__file__).parents[1]
HASHER = "bundled"
FIRST_WORDS = re.compile(r"serving on http://([\d.]+):(\d+)")


class Service:
    """A running `iom serve`.

    Attributes:
        host: Where it listens.
        port: At which port.
        process: Its process.
        log: File of what it writes on standard error.
    """

    def __init__(self, process: subprocess.Popen, log: Path, host: str, port: int) -> None:
        self.process, self.log, self.host, self.port = process, log, host, port

    def ask(
        self,
        method: str,
        path: str,
        *,
        token: str = "",
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        seconds: float = 30,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, headers and body of the answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=seconds)
        every = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            connection.request(method, path, body=body, headers={**every, **(headers or {})})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def post(
        self, path: str, *, token: str = "", seconds: float = 30, **fields: Any
    ) -> tuple[int, dict[str, str], bytes]:
        """A form: text fields are `str`, files `bytes`."""
        body, kind = form(fields)
        headers = {"Content-Type": kind}
        return self.ask("POST", path, token=token, body=body, headers=headers, seconds=seconds)

    def ok(self, path: str, **values: Any) -> bytes:
        """`post` that must succeed."""
        status, _, body = self.post(path, **values)
        if status != 200:
            raise SystemExit(f"{path}: the service answered {status} {body[:200]!r}")
        return body

    def memory(self) -> int:
        """Bytes of it and of its workers that are in memory; shared pages count for each."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = [str(self.process.pid), *children.read_text().split()]
        return sum(_resident(pid) for pid in pids)


@contextlib.contextmanager
def serving(*options: str) -> Iterator[Service]:
    """`iom serve` with options, on a free port of this machine; ended behind the block."""
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "iom", "serve", "--port", "0", *options],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env={**os.environ, "IOM_PASSPHRASE": "not needed"},
            )
        told = process.stdout or []
        try:
            for line in told:
                if found := FIRST_WORDS.search(line):
                    service = Service(process, log, found[1], int(found[2]))
                    break
            else:
                raise SystemExit(f"the service did not start:\n{log.read_text()[-2000:]}")
            wait_until_ready(service)
            yield service
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def wait_until_ready(service: Service, seconds: float = 30) -> None:
    """Until it answers that it is ready."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if service.ask("GET", "/health/ready")[0] == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the service did not become ready")


def form(fields: dict[str, Any], *, boundary: str = "boundary-of-the-form") -> tuple[bytes, str]:
    """Body and type of a `multipart/form-data` request."""
    body = b""
    for name, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
            if isinstance(each, bytes):
                body += b'; filename="face"\r\nContent-Type: application/octet-stream'
            body += b"\r\n\r\n" + (each if isinstance(each, bytes) else each.encode()) + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def real_face() -> bytes | None:
    """An aligned photograph of LFW, or `None`."""
    folder = data_folder() / "lfw_112x112"
    path = next(iter(sorted(folder.glob("*/*_0001.jpg"))), None)
    return None if path is None else path.read_bytes()


def drawn_faces(count: int, *, seed: int = 4) -> list[bytes]:
    """PNG of synthetic faces, each of another person."""
    from iom.synthetic import load_face_model

    faces, _ = load_face_model().sample(count, 1, seed=seed)
    return [picture(face) for face in faces]


def picture(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An encoded image."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def report(figures: dict[str, Any]) -> None:
    """The last line of a benchmark."""
    print(json.dumps(figures))


def _resident(pid: str) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0  # it ended in between
    return pages * os.sysconf("SC_PAGE_SIZE")

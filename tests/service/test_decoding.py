"""Decoding in processes: limits hold, and a worker that hangs or dies is replaced."""

import os
import pickle
import re
import signal
import socket
import struct
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from iom.errors import ConfigError, DataError
from iom.photos.detectors import Face
from iom.photos.photographs import TooLargeError
from iom.service.decode_frames import FrameError, receive_request
from iom.service.decode_worker import decode
from iom.service.decoding import BusyError, Decoder
from iom.service.face_pipeline import Faces
from iom.service.settings import ServiceSettings
from tests.service.conftest import FakeEmbedder, picture


def test_decodes(decoder):
    found = decoder.decode(picture(7))
    assert found.is_aligned
    assert found.pixels.shape == (112, 112, 3)
    assert found.pixels.max() == 7


def test_a_worker_that_dies_is_replaced(decoder):
    decoder.decode(picture(1))
    worker = decoder._idle.get()
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    decoder._idle.put(worker)
    with pytest.raises(DataError, match="took too long"):
        decoder.decode(picture(1))
    assert decoder.decode(picture(2)).pixels.max() == 2


def test_a_worker_that_hangs_is_killed(decoder):
    decoder.decode(picture(1))
    worker = decoder._idle.get()
    os.kill(worker.process.pid, signal.SIGSTOP)
    decoder._idle.put(worker)
    decoder._settings, whole = ServiceSettings(decode_seconds=0.2), decoder._settings
    with pytest.raises(DataError, match="took too long"):
        decoder.decode(picture(1))
    decoder._settings = whole
    assert worker.process.poll() is not None


def test_all_at_work():
    decoder = Decoder(ServiceSettings(decode_workers=1, wait_seconds=0.05))
    decoder._idle.get()
    with pytest.raises(BusyError):
        decoder.decode(picture(1))


def test_photographs_in_this_process():
    kind, pixels = decode(picture(5, size=(3000, 1500)), True, 25.0)
    assert (kind, pixels.shape) == ("photograph", (512, 1024, 3))
    assert decode(picture(5), True, 25.0)[0] == "aligned"
    assert decode(picture(5, size=(3000, 1500)), True, 1.0)[0] == "large"
    assert decode(picture(5, size=(112, 113)), False, 25.0)[0] == "bad"
    assert decode(b"GIF89a", True, 25.0)[0] == "bad"


def test_faces_are_aligned():
    canvas = np.zeros((200, 200, 3), np.uint8)
    points = np.array([[70, 80], [110, 80], [90, 100], [75, 120], [105, 120]], np.float64)
    found = []
    answer = types.SimpleNamespace(pixels=canvas + 9, is_aligned=False)
    decoder = types.SimpleNamespace(decode=lambda data: answer, close=threading.Event().set)
    faces = Faces(FakeEmbedder(), decoder, lambda image: found)
    with pytest.raises(DataError, match="found none"):
        faces.embed([b""])
    found.append(Face(points, 0.9))
    assert faces.embed([b""]).shape == (1, 32)
    found[0] = Face(points / 9, 0.9)
    with pytest.raises(DataError, match="found one of"):
        faces.embed([b""])


def test_limits_are_positive():
    assert issubclass(TooLargeError, DataError)
    with pytest.raises(ConfigError, match="decode_seconds"):
        ServiceSettings(decode_seconds=0)


LIES = {
    "pickle": pickle.dumps(("aligned", np.zeros((2, 2, 3), np.uint8))),
    "garbage": bytes(range(256)) * 8,
    "kind": struct.pack("!4sBHHI", b"iomA", 9, 112, 112, 112 * 112 * 3),
    "length": struct.pack("!4sBHHI", b"iomA", 1, 112, 112, 2**32 - 1),
    "size": struct.pack("!4sBHHI", b"iomA", 1, 65535, 65535, 65535),
    "text": struct.pack("!4sBHHI", b"iomA", 3, 0, 0, 2**31),
    "not aligned": struct.pack("!4sBHHI", b"iomA", 0, 1, 1, 3) + b"abc",
    "no text": struct.pack("!4sBHHI", b"iomA", 3, 0, 0, 2) + b"\xff\xff",
    "escape": struct.pack("!4sBHHI", b"iomA", 3, 0, 0, 2) + b"\x1b[",
}


@pytest.mark.parametrize("name", LIES)
def test_an_answer_of_another_form_is_refused_and_its_worker_replaced(name, monkeypatch):
    lie = f"import socket, sys; s = socket.socket(fileno=0); s.recv(100)\ns.sendall({LIES[name]!r}); s.recv(100)"
    command = [sys.executable, "-S", "-c", lie]
    decoder = Decoder(ServiceSettings(decode_workers=1))
    monkeypatch.setattr("iom.service.decoding.worker_command", lambda _: command)
    with pytest.raises(DataError, match="took too long"):
        decoder.decode(picture(1))
    assert decoder.given_up == 1
    monkeypatch.undo()
    if name == "pickle":
        assert decoder.decode(picture(2)).pixels.max() == 2
    decoder.close()


def test_a_worker_has_no_environment_and_no_files_of_the_service(tmp_path, monkeypatch):
    monkeypatch.setenv("IOM_PASSPHRASE", "a secret passphrase")
    monkeypatch.setenv("SOME_TOKEN", "another secret")
    decoder = Decoder(ServiceSettings(decode_workers=1))
    with (tmp_path / "keys").open("wb") as keys:
        os.set_inheritable(keys.fileno(), True)
        decoder.decode(picture(1))
        process = Path(f"/proc/{decoder._idle.queue[0].process.pid}")
        if not process.is_dir():
            pytest.skip("no /proc on this machine")
        names = {line.partition(b"=")[0] for line in (process / "environ").read_bytes().split(b"\0")}
        files = [str(link.readlink()) for link in (process / "fd").iterdir()]
        limits = (process / "limits").read_text()
    decoder.close()
    assert names <= {b"", b"PATH", b"LD_LIBRARY_PATH", b"DYLD_LIBRARY_PATH", b"PYTHONHOME"}
    assert not [each for each in files if each.startswith(str(tmp_path))]
    assert re.search(r"Max core file size +0 +0 ", limits)


def test_a_worker_refuses_what_is_no_request():
    for header in (pickle.dumps((b"", False)), struct.pack("!4sBI", b"iomQ", 0, 2**31)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(header)
            with pytest.raises(FrameError):
                receive_request(theirs, max_bytes=100)


def test_a_worker_that_does_not_read_is_ended():
    decoder = Decoder(ServiceSettings(decode_workers=1, decode_seconds=0.2))
    decoder.decode(picture(1))
    worker = decoder._idle.queue[0]
    os.kill(worker.process.pid, signal.SIGSTOP)
    with pytest.raises(DataError, match="took too long"):
        decoder.decode(bytes(8 * 2**20))
    assert worker.process.poll() is not None
    decoder.close()

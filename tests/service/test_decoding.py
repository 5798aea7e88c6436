"""Decoding in processes: limits hold, and a worker that hangs or dies is replaced."""

import os
import signal
import threading
import types

import numpy as np
import pytest

from iom.data.detectors import Face
from iom.data.photographs import TooLargeError
from iom.errors import ConfigError, DataError
from iom.service.decode_worker import decode
from iom.service.decoding import BusyError, Decoder
from iom.service.faces import Faces
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
    worker.process.join()
    decoder._idle.put(worker)
    with pytest.raises(DataError, match="given up"):
        decoder.decode(picture(1))
    assert decoder.decode(picture(2)).pixels.max() == 2


def test_a_worker_that_hangs_is_killed(decoder):
    decoder.decode(picture(1))
    worker = decoder._idle.get()
    os.kill(worker.process.pid, signal.SIGSTOP)
    decoder._idle.put(worker)
    decoder._settings, whole = ServiceSettings(decode_seconds=0.2), decoder._settings
    with pytest.raises(DataError, match="given up"):
        decoder.decode(picture(1))
    decoder._settings = whole
    assert not worker.process.is_alive()


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

"""Decoding of uploads: limits hold, and an answer of another form is none."""

import pickle
import struct
import threading
import types

import numpy as np
import pytest

from iom.errors import ConfigError, DataError, FaceError, TooLargeError, WorkerError
from iom.photos.align import Face
from iom.service.decoding import Decoder, decode, parse_answer
from iom.service.face_pipeline import FacePipeline
from iom.service.settings import ServiceSettings
from tests.service.conftest import FakeEmbedder, picture


def test_decodes(decoder):
    found = decoder.decode(picture(7))
    assert found.is_aligned
    assert found.pixels.shape == (112, 112, 3)
    assert found.pixels.max() == 7


def test_an_image_that_takes_too_long_is_given_up(decoder):
    impatient = Decoder(ServiceSettings(decode_workers=1, decode_seconds=1e-6))
    with pytest.raises(FaceError, match="took too long"):
        impatient.decode(picture(1))
    assert impatient.given_up == 1
    impatient.close()


def test_photographs_in_this_process():
    kind, pixels = decode(picture(5, size=(3000, 1500)), True, 25.0)
    assert (kind, pixels.shape) == ("photograph", (512, 1024, 3))
    assert decode(picture(5), True, 25.0)[0] == "aligned"
    assert decode(picture(5, size=(3000, 1500)), True, 1.0)[0] == "large"
    assert decode(picture(5, size=(112, 113)), False, 25.0)[0] == "bad"
    assert decode(b"GIF89a", True, 25.0)[0] == "bad"


def test_faces_are_aligned():
    canvas = np.random.default_rng(0).integers(0, 200, (200, 200, 3)).astype(np.uint8)
    points = np.array([[70, 80], [110, 80], [90, 100], [75, 120], [105, 120]], np.float64)
    found = []
    answer = types.SimpleNamespace(pixels=canvas, is_aligned=False)
    decoder = types.SimpleNamespace(decode=lambda data: answer, close=threading.Event().set)
    faces = FacePipeline(FakeEmbedder(), decoder, lambda image: found)
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


HEAD = struct.Struct("!BHH")
LIES = {
    "nothing": b"",
    "pickle": pickle.dumps(("aligned", np.zeros((2, 2, 3), np.uint8))),
    "kind": HEAD.pack(9, 112, 112) + bytes(112 * 112 * 3),
    "size": HEAD.pack(1, 65535, 65535),
    "length": HEAD.pack(1, 2, 2) + bytes(11),
    "empty": HEAD.pack(1, 0, 2),
    "long text": HEAD.pack(3, 0, 0) + b"a" * 1001,
    "not aligned": HEAD.pack(0, 1, 1) + b"abc",
    "no text": HEAD.pack(3, 0, 0) + b"\xff\xff",
    "escape": HEAD.pack(3, 0, 0) + b"\x1b[",
}


@pytest.mark.parametrize("name", LIES)
def test_an_answer_of_another_form_is_refused(name):
    with pytest.raises(WorkerError, match="malformed"):
        parse_answer(LIES[name])


def test_a_worker_that_answers_in_another_form_is_replaced(monkeypatch):
    decoder = Decoder(ServiceSettings(decode_workers=1))
    with monkeypatch.context() as patch:
        patch.setattr("iom.service.decoding._KINDS", ())
        with pytest.raises(DataError, match="took too long"):
            decoder.decode(picture(1))
    assert decoder.given_up == 1
    assert decoder.decode(picture(2)).pixels.max() == 2
    decoder.close()

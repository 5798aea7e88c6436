"""Photographs in worker processes: their order, and processes that die, hang or cannot find faces."""

import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from iom.errors import DataError, WorkerError
from iom.photos import pipeline
from iom.photos.align import Face
from iom.photos.images import read_image
from iom.photos.photograph import AlignedFace, PhotoResult, PhotoSettings
from iom.photos.pipeline import PhotoRun

ALIGNED = PhotoSettings(detector="aligned")


@pytest.fixture
def faces(tmp_path):
    draw = np.random.default_rng(1)
    names = [f"{i:03d}.png" for i in range(30)]
    for name in names:
        pixels = draw.integers(0, 256, (112, 112, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "003.png").write_bytes(b"x")
    return tmp_path, names


def results(root, names, *, workers=1, settings=ALIGNED, seconds=60.0):
    run = PhotoRun(root, settings, workers=workers, seconds=seconds)
    with run.results(names, names, "finding") as found:
        return list(found)


@pytest.mark.parametrize("workers", [0, 2])
def test_photographs_come_in_their_order(faces, workers, monkeypatch):
    monkeypatch.setattr(pipeline, "AHEAD", 4)
    root, names = faces
    found = results(root, names, workers=workers)
    assert [result.name for result in found] == names
    for result in found:
        if result.name == "003.png":
            assert result.status == "wrong_type"
            continue
        np.testing.assert_array_equal(result.faces[0].crop, read_image(root / result.name))


@pytest.mark.parametrize(("signal_", "why"), [(signal.SIGKILL, "died"), (signal.SIGSTOP, "too long")])
def test_a_process_that_dies_or_hangs_costs_one_photograph(faces, monkeypatch, signal_, why):
    root, names = faces
    ask = pipeline.WorkerPool.ask

    def hurt(pool, request, parse, *, seconds):
        if b"007.png" in request:
            with pool._worker(None) as worker:
                os.kill(worker.process.pid, signal_)
            seconds = 1.0
        return ask(pool, request, parse, seconds=seconds)

    monkeypatch.setattr(pipeline.WorkerPool, "ask", hurt)
    found = {result.name: result for result in results(root, names[5:10])}
    lost = found.pop("007.png")
    assert lost.status == "gave_up"
    assert why in lost.reason
    assert {result.status for result in found.values()} == {"aligned"}


def test_stopping_early_ends_the_processes(faces):
    root, names = faces
    begun = time.monotonic()
    with PhotoRun(root, ALIGNED, workers=1).results(names, names, "finding") as found:
        next(found)
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("workers", [0, 1])
def test_a_detector_without_weights_is_one_error(faces, workers):
    with pytest.raises(DataError, match="yunet needs its ONNX file"):
        results(*faces, workers=workers, settings=PhotoSettings(detector="yunet"))


def test_a_result_comes_back_from_its_bytes():
    draw = np.random.default_rng(0)
    found = tuple(Face(draw.normal(size=(5, 2)), float(draw.random())) for _ in range(3))
    faces = tuple(
        AlignedFace(i, draw.integers(0, 256, (112, 112, 3)).astype(np.uint8), {"size": float(draw.random())})
        for i in (0, 2)
    )
    result = PhotoResult("a/\udcff\n.jpg", "aligned", "", ("turned",), found, faces, (7, 1 << 60), (0.1, 0.2, 0.3))
    again = PhotoResult.from_bytes(result.to_bytes())
    for name in ("name", "status", "reason", "notes", "mark", "seconds"):
        assert getattr(again, name) == getattr(result, name)
    for one, other in zip(again.found, found, strict=True):
        assert one.score == other.score
        np.testing.assert_array_equal(one.points, other.points)
    for face, other in zip(again.faces, faces, strict=True):
        assert (face.number, face.measures) == (other.number, other.measures)
        np.testing.assert_array_equal(face.crop, other.crop)
    for data in (b"", b"{}\n", result.to_bytes()[:-1], b"[]\n"):
        with pytest.raises(WorkerError, match="malformed"):
            PhotoResult.from_bytes(data)

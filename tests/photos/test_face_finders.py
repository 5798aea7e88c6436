"""Faces found in processes and threads: order, damage, death, a detector that is not there."""

import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from iom.data.images import read_image
from iom.errors import DataError
from iom.photos import face_finders
from iom.photos.face_finders import FaceFinders
from iom.photos.face_finding import FindSettings, Job

ALIGNED = FindSettings(detector="aligned")


@pytest.fixture
def faces(tmp_path):
    draw = np.random.default_rng(1)
    names = [f"{i:03d}.png" for i in range(30)]
    for name in names:
        pixels = draw.integers(0, 256, (112, 112, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "003.png").write_bytes(b"x")
    return tmp_path, names


@pytest.mark.parametrize("workers", [0, 2])
def test_photographs_come_in_their_order(faces, workers, monkeypatch):
    monkeypatch.setattr(face_finders, "AHEAD", 4)
    root, names = faces
    finders = FaceFinders(root, ALIGNED, workers=workers)
    results = list(finders.found(Job(name) for name in names))
    assert [job.name for job, _ in results] == names
    for name, (_, found) in zip(names, results, strict=True):
        if name == "003.png":
            assert found.status == "damaged"
            continue
        np.testing.assert_array_equal(found.faces[0].pixels, read_image(root / name))


def test_a_process_that_dies_costs_one_photograph(faces, monkeypatch):
    root, names = faces
    asked = face_finders._Process.ask

    def dies(self, job, seconds):
        if job.name == "007.png":
            os.kill(self._process.pid, signal.SIGKILL)
        return asked(self, job, seconds)

    monkeypatch.setattr(face_finders._Process, "ask", dies)
    results = dict(FaceFinders(root, ALIGNED, workers=1).found([Job(n) for n in names[5:10]]))
    statuses = {job: found.status for (job, _), found in results.items()}
    assert statuses.pop("007.png") == "gave_up"
    assert set(statuses.values()) == {"found"}


def test_a_photograph_that_hangs_is_given_up(faces, monkeypatch):
    root, names = faces
    asked = face_finders._Process.ask

    def hangs(self, job, seconds):
        if job.name == names[1]:
            os.kill(self._process.pid, signal.SIGSTOP)
        return asked(self, job, 0.3 if job.name == names[1] else seconds)

    monkeypatch.setattr(face_finders._Process, "ask", hangs)
    finders = FaceFinders(root, ALIGNED, workers=1)
    results = [found for _, found in finders.found([Job(name) for name in names[:3]])]
    assert [found.status for found in results] == ["found", "gave_up", "found"]
    assert "took too long" in results[1].reason


def test_stopping_early_ends_the_processes(faces):
    root, names = faces
    finders = FaceFinders(root, ALIGNED, workers=1)
    results = finders.found([Job(name) for name in names])
    next(results)
    begun = time.monotonic()
    results.close()
    assert time.monotonic() - begun < 60
    assert finders._idle.empty()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_detector_without_weights_is_one_error(faces, workers):
    root, names = faces
    with pytest.raises(DataError, match="yunet needs its ONNX file"):
        list(FaceFinders(root, FindSettings(detector="yunet"), workers=workers).found([Job(name) for name in names]))

"""The commands around the face model."""

from pathlib import Path

import numpy as np
import pytest

from iom.config import FolderConfig
from iom.data.folders import scan_folder
from iom.photos.images import check_images
from iom.synthetic import FaceModel
from tests.commands import command


def test_synthesize_writes_a_folder_that_can_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "faces"
    arguments = ["--output", str(root), "--subjects", "5", "--images", "3", "--quiet"]
    assert command("synthesize")(arguments) == 0
    assert "15 faces of 5 synthetic subjects" in capsys.readouterr().out
    folder = scan_folder(FolderConfig(root=str(root), min_images=2))
    assert len(folder) == 15
    assert len(folder.subjects) == 5
    check_images(folder.files)
    assert command("synthesize")(arguments) == 2
    assert "new or empty folder" in capsys.readouterr().err
    assert command("synthesize")(["--output", str(tmp_path / "x"), "--subjects", "0"]) == 2
    assert "at least one subject" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_a_face_model_is_made_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, output = tmp_path / "faces", tmp_path / "model.npz"
    images = ["--subjects", "60", "--images", "5", "--seed", "2", "--quiet"]
    assert command("synthesize")(["--output", str(root), *images]) == 0
    arguments = ["--folder", str(root), "--output", str(output), "--quiet", "--frontal", "0.9"]
    assert command("make-face-model")(arguments) == 0
    assert "160 symmetric" in capsys.readouterr().out
    model = FaceModel.load(output)
    faces, _ = model.sample(10, 1, seed=1)
    assert 20 < faces.astype(float).std(0).mean() < 60
    assert np.isfinite(model.between).all()
    few = [*arguments, "--frontal", "0.3"]
    assert command("make-face-model")(few) == 2
    assert "a face model of 160 components needs more images" in capsys.readouterr().err

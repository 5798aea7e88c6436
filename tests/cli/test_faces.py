"""iom faces: what it prints, writes and answers."""

import json

import numpy as np
import pytest
from PIL import Image

from iom.cli.main import main
from iom.synthetic import write_folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A photograph of one face, one of nothing, and a text."""
    write_folder(tmp_path / "people", 1, 1, seed=1, progress=False)
    canvas = Image.new("RGB", (300, 260), (110, 120, 130))
    canvas.paste(Image.open(next((tmp_path / "people").glob("*/*.png"))).resize((180, 180)), (50, 40))
    canvas.save(tmp_path / "ada.jpg", quality=95)
    Image.new("RGB", (120, 90), "gray").save(tmp_path / "wall.png")
    (tmp_path / "text.jpg").write_text("no picture")
    monkeypatch.chdir(tmp_path)


def test_faces_are_printed_and_drawn(photos, capsys, tmp_path):
    assert main(["faces", "ada.jpg", "--output", "found"]) == 0
    out = capsys.readouterr().out
    assert "ada.jpg: 1 face in a picture of 300 x 260 pixels" in out
    assert "AlignedFace(0: score" in out
    with Image.open(tmp_path / "found" / "0_ada.jpg") as picture:
        assert picture.size == (300, 372)
        assert np.asarray(picture)[280:360, :100].std() > 10  # the crop


def test_photographs_without_a_face_are_told_and_others_go_on(photos, capsys):
    assert main(["faces", "wall.png", "text.jpg", "none.jpg", "ada.jpg", "--json"]) == 1
    wall, text, none, ada = json.loads(capsys.readouterr().out)["photographs"]
    assert "found none" in wall["reason"]
    assert "received something else" in text["reason"]
    assert "none.jpg: cannot read the image: No such file" in none["reason"]
    assert [len(each["faces"]) for each in (wall, text, none, ada)] == [0, 0, 0, 1]
    (face,) = ada["faces"]
    assert face["score"] > 0.9
    assert np.shape(face["landmarks"]) == (5, 2)
    assert face["left"] < 70 < 200 < face["right"]
    assert main(["faces", "ada.jpg", "--min-size", "500"]) == 1
    assert "expected a face of 500 pixels or more" in capsys.readouterr().out
    assert main(["faces", "ada.jpg", "--detector", "mtcn"]) == 2
    assert "did you mean 'mtcnn'" in capsys.readouterr().err

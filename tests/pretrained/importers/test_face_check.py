"""The check on synthetic faces tells a right statement from a wrong one."""

import json
import shutil

import numpy as np
import pytest

from iom.errors import WeightsError
from iom.pretrained.face_check import CLEAR, check_on_faces
from iom.pretrained.manifest import Statement
from iom.pretrained.weights import load_backbone_model

SIZE = 32


def fed_by(spec):
    """What a network sees: raw RGB pixels as the statement turns them."""

    def feed(images):
        scale, offset = spec.scaling
        pixels = np.asarray(images, np.float64) * scale + offset
        return pixels[..., ::-1] if spec.colour_order == "BGR" else pixels

    return feed


def network(seen):
    """A network that wants RGB in -1..1: it saturates elsewhere, and hardly looks at blue."""
    weights = np.array([1.0, 0.6, 0.02])
    maps = np.tanh(1.5 * (seen[:, ::4, ::4] @ weights - 0.2))
    return maps.reshape(len(seen), -1)


RIGHT = Statement(colour_order="RGB", range="-1..1", size=SIZE)


def test_the_right_statement_passes():
    feed = fed_by(RIGHT)
    check = check_on_faces(lambda images: network(feed(images)), RIGHT, source="x")
    assert len(check.evidence) == 3
    assert check.evidence["BGR -1..1"] > -CLEAR
    assert check.evidence["RGB 0..255"] > CLEAR
    assert set(check.separation) == {"RGB -1..1", *check.evidence}


@pytest.mark.parametrize(
    ("spec", "right"),
    [
        (Statement(colour_order="RGB", range="0..255", size=SIZE), "RGB -1..1"),
        (Statement(colour_order="RGB", range="0..1", size=SIZE), "RGB -1..1"),
    ],
)
def test_a_wrong_range_is_refused(spec, right):
    feed = fed_by(spec)
    with pytest.raises(WeightsError, match=rf"x: .*'{right}' separates"):
        check_on_faces(lambda images: network(feed(images)), spec, source="x")


def test_a_network_that_cannot_tell_passes():
    """Grey values, with a scale that cancels: nothing to see, nothing to refuse."""
    feed = fed_by(RIGHT)

    def grey(images):
        maps = feed(images)[:, ::4, ::4].mean(-1).reshape(len(images), -1)
        maps = maps - maps.mean(1, keepdims=True)
        return maps / np.linalg.norm(maps, axis=1, keepdims=True)

    check = check_on_faces(grey, RIGHT, source="x")
    assert not check.is_confirmed


@pytest.fixture
def real_weights(tmp_path, foreign_weights):
    folder = tmp_path / "y1"
    shutil.copytree(foreign_weights("mobilefacenet_y1/model-0000.params").parent, folder)

    def load(**changes):
        values = {"colour_order": "RGB", "range": "0..255", "size": 112} | changes
        folder.chmod(0o755)
        (folder / "model-0000.params.input.json").write_text(json.dumps(values))
        return load_backbone_model(str(folder / "model-0000.params"))

    return load


@pytest.mark.proof
def test_real_weights_tell_the_colour_order(real_weights):
    loaded = real_weights()
    print(f"mobilefacenet_y1 on synthetic faces: {loaded.check}")
    assert loaded.check.is_confirmed
    with pytest.raises(WeightsError, match=r"'BGR 0\.\.255' is stated.*'RGB 0\.\.255' separates"):
        real_weights(colour_order="BGR")
    with pytest.raises(WeightsError, match="graph itself scales pixels"):
        real_weights(range="-1..1")
    with pytest.raises(WeightsError, match="size: 128 is stated, the file holds 112"):
        real_weights(size=128)

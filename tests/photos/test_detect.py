"""The packaged detectors on real faces, set upside up into larger photographs."""

import warnings

import numpy as np
import pytest
from PIL import Image

from iom.errors import DataError
from iom.photos.align import TEMPLATE
from iom.photos.detect import build_detector
from iom.photos.images import read_image

PACKAGE = {"mtcnn": "mtcnn", "yunet": "cv2", "yunet_onnx": "onnxruntime"}


@pytest.mark.parametrize("name", PACKAGE)
def test_faces_are_found_where_they_are(prepared_data, foreign_weights, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(PACKAGE[name], reason=f"{name} is an extra that is not installed")
    yunet = foreign_weights("yunet/*.onnx")
    weights = None if name == "mtcnn" else yunet
    detect = build_detector(name, weights=weights)
    folder = prepared_data / "lfw_112x112"
    for i, subject in enumerate(["Aaron_Peirsol", "George_W_Bush", "Serena_Williams"]):
        photo = np.full((400, 500, 3), 120, np.uint8)
        left, top = 150 + 30 * i, 90
        face = Image.fromarray(read_image(folder / subject / f"{subject}_0001.jpg"))
        photo[top : top + 168, left : left + 168] = np.asarray(face.resize((168, 168)))
        found = detect(photo)
        assert len(found) == 1
        assert found[0].points.shape == (5, 2)
        assert 0.6 < found[0].score <= 1.0
        expected = (TEMPLATE + 0.5) * 1.5 - 0.5 + [left, top]
        assert np.linalg.norm(found[0].points - expected, axis=1).mean() < 10
    assert detect(np.full((300, 400, 3), 90, np.uint8)) == []
    assert detect(np.zeros((7, 5, 3), np.uint8)) == []


@pytest.mark.parametrize("name", ["yunet", "yunet_onnx"])
def test_a_damaged_file_of_weights_is_refused(tmp_path, name):
    pytest.importorskip(PACKAGE[name], reason=f"{name} is an extra that is not installed")
    path = tmp_path / "w.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(DataError, match=r"w\.onnx.*YuNet"):
        build_detector(name, weights=path)
    for missing in (None, tmp_path / "none.onnx"):
        with pytest.raises(DataError, match="needs its ONNX file"):
            build_detector(name, weights=missing)
    with pytest.raises(DataError, match="brings its own"):
        build_detector("mtcnn", weights=path)

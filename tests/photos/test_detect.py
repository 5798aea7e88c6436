"""The detectors on real faces, set upside up into larger photographs."""

import hashlib
import warnings

import numpy as np
import pytest
from PIL import Image

from iom.errors import DataError
from iom.photos.align import TEMPLATE
from iom.photos.detect import build_detector
from iom.photos.images import read_image
from iom.photos.mtcnn import FOLDER, NETWORKS, Mtcnn, _averaged, _averaged_lines, _best, _patches

PACKAGE = {"mtcnn": "onnxruntime", "yunet": "cv2", "yunet_onnx": "onnxruntime"}


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


def test_bands_of_a_picture_are_averages_of_its_pixels():
    rows = np.arange(35, dtype=np.float32).reshape(7, 5) ** 2
    np.testing.assert_allclose(_averaged(rows, 7), rows)
    np.testing.assert_allclose(_averaged(rows, 1)[0], rows.mean(axis=0), rtol=1e-6)
    shares = np.repeat(rows, 3, axis=0).reshape(3, 7, 5)  # thirds of rows, seven a band
    np.testing.assert_allclose(_averaged(rows, 3), shares.mean(axis=1), rtol=1e-6)
    sums = np.concatenate([np.zeros((1, 5), np.float32), np.cumsum(rows, axis=0)])
    for count in (1, 2, 3, 5, 7):
        np.testing.assert_allclose(_averaged_lines(rows, sums, count), _averaged(rows, count), rtol=1e-5)


def test_patches_are_sampled_between_pixels_and_grey_outside():
    image = np.zeros((10, 12, 3), np.uint8)
    image[:] = np.arange(12)[:, None] * 20
    (patch,) = _patches(image, np.array([[-12.0, 0.0, 12.0, 10.0]]), 25)
    assert (patch[:, :12] == 127.5).all()
    np.testing.assert_allclose(patch[5, 13:, 0], np.linspace(0, 220, 13)[1:], rtol=1e-5)


def test_of_boxes_that_overlap_the_better_stays():
    box = [0.0, 0.0, 10.0, 10.0]
    boxes = np.array([box, [1.0, 0.0, 11.0, 10.0], [0.0, 0.0, 4.0, 4.0], [30.0, 30.0, 40.0, 40.0]])
    scores = np.array([0.7, 0.9, 0.8, 0.1])
    assert _best(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert _best(boxes, scores, 0.5, of_smaller=True).tolist() == [1, 3]
    many = np.tile(box, (2000, 1)) + 20.0 * np.arange(2000)[:, None]
    assert len(_best(many, np.linspace(0, 1, 2000), 0.5)) == 2000
    assert _best(np.tile(box, (2000, 1)), np.linspace(0, 1, 2000), 0.5).tolist() == [1999]


def test_noise_is_no_face_and_threads_change_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for threads in (1, 2):
        points, scores = Mtcnn(threads=threads)(noise, min_score=0.9)
        assert points.shape == (0, 5, 2)
        assert scores.shape == (0,)


@pytest.mark.proof
def test_the_packaged_detector_is_the_registry_package(prepared_data):
    """Landmarks as `mtcnn` gives them; it may keep another of two boxes whose scores both round to 1 in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("mtcnn", reason="the package mtcnn is not installed")
    theirs, ours = package.MTCNN(), Mtcnn()
    draw = np.random.default_rng(1)
    differences = []
    for subject in sorted((prepared_data / "lfw_112x112").iterdir())[::90]:
        face = Image.open(next(subject.glob("*.jpg")))
        side = int(draw.integers(80, 300))
        photo = np.full((480, 640, 3), 120, np.uint8)
        left, top = draw.integers(0, 640 - side), draw.integers(0, 480 - side)
        photo[top : top + side, left : left + side] = np.asarray(face.resize((side, side)))
        # A row: image, box (4), score, the five x, the five y.
        rows = np.asarray(
            theirs.detect_faces(photo, output_type="numpy", box_format="xyxy", fit_to_image=False, threshold_onet=0.3)
        ).reshape(-1, 16)
        rows = rows[np.argsort(-rows[:, 5])]
        points, scores = ours(photo, min_score=0.3)
        assert len(points) == len(rows)
        if len(rows):
            expected = rows[0, 6:].reshape(2, 5).T
            differences.append(np.abs(points[0] - expected).max())
            assert differences[-1] < 0.1 * side
            assert scores[0] == pytest.approx(rows[0, 5], abs=0.05)
    assert len(differences) > 60
    assert np.mean(np.array(differences) < 2e-3) > 0.9


def test_the_bundled_files_are_those_that_the_importer_made():
    notice = (FOLDER / "NOTICE").read_text(encoding="utf-8")
    for name in NETWORKS:
        assert hashlib.sha256((FOLDER / f"{name}.onnx").read_bytes()).hexdigest() in notice

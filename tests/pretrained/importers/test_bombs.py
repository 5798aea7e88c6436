"""Small files that would take gigabytes or minutes: refused with little of either."""

import io
import json
import pickle
import struct
import time
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from iom._files import sha256_of
from iom._unpickling import restricted_loads
from iom._untrusted import read_arrays
from iom.data.formats.pair_files import read_bin_images
from iom.errors import DataError, WeightsError
from iom.models.artifact import open_keras
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_numpy import PROGRAM, Head
from iom.pretrained.importers.keras_files import read_keras, save_model
from iom.pretrained.manifest import Statement

SECONDS, BYTES, OPCODES = 5, 30 << 20, 20_000


@pytest.fixture(autouse=True)
def bounded(monkeypatch):
    """A test that takes long or much memory fails; the bombs are small for the sake of time."""
    monkeypatch.setattr("iom._untrusted.INFLATED_MORE", 4 << 20)
    monkeypatch.setattr("iom._unpickling.MAX_OPCODES", OPCODES)
    tracemalloc.start()
    begun = time.process_time()
    yield
    taken, peak = time.process_time() - begun, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < SECONDS
    assert peak < BYTES


@pytest.fixture(scope="module")
def model():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(image)
    x = layers.Dense(4, name="dense")(layers.Flatten(name="flat")(x))
    return keras.Model(image, x)


def change(path, edit, **members):
    """Rewrite the configuration of a `.keras` file, and members."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    for layer in config["config"]["layers"]:
        edit(layer["config"])
    parts |= {"config.json": json.dumps(config).encode()} | members
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def units(config):
    if config["name"] == "dense":
        config["units"] = 200_000_000


def channels(config):
    if config["name"] == "conv":
        config["filters"] = 50_000_000


READERS = [read_keras, lambda path: open_keras(path, precision="float32")]


@pytest.mark.parametrize("edit", [units, channels])
@pytest.mark.parametrize("read", READERS)
def test_a_layer_cannot_ask_for_more_weights_than_its_file_holds(tmp_path, model, read, edit):
    save_model(model, tmp_path / "m.keras")
    plain = keras.layers.Layer.add_weight
    with pytest.raises(WeightsError, match=r"layer '(dense|conv)' asks for weights of shape"):
        read(change(tmp_path / "m.keras", edit))
    assert keras.layers.Layer.add_weight is plain
    assert layers.Dense(3).build((None, 4)) is None


def test_nor_can_a_hasher(tmp_path, model):
    save_model(model, tmp_path / "hasher.keras")
    digest = sha256_of(change(tmp_path / "hasher.keras", units))
    (tmp_path / "hasher.json").write_text(json.dumps({"format": 1, "model_sha256": digest}))
    with pytest.raises(WeightsError, match="'dense' asks for weights of shape"):
        KerasFaceHasher.load(tmp_path)


def test_nor_can_a_statement_beside_weights_alone(tmp_path, model):
    model.save_weights(tmp_path / "x.weights.h5")
    arguments = {"widths": [16, 1 << 20], "depths": [1, 1]}
    network = {"architecture": "iresnet_slim", "arguments": arguments, "embedding_size": 8}
    known = Statement(colour_order="RGB", range="0..255", size=16, **network)
    with pytest.raises(WeightsError, match="asks for weights of shape"):
        read_keras(tmp_path / "x.weights.h5", known)


def test_an_output_that_fits_into_no_memory_is_refused(tmp_path):
    image = keras.Input((8, 8, 3))
    x = layers.UpSampling2D(2, name="up")(image)
    model = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    save_model(model, tmp_path / "m.keras")

    def edit(config):
        if config["name"] == "up":
            config["size"] = [40_000, 40_000]

    with pytest.raises(WeightsError, match="'up' gives"):
        read_keras(change(tmp_path / "m.keras", edit))


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5", "other"])
def test_an_archive_that_inflates_is_not_unpacked(tmp_path, model, member):
    save_model(model, tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist() if name != member}
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
        with archive.open(member, "w", force_zip64=True) as stream:
            for _ in range(8):
                stream.write(bytes(1 << 20))
    with pytest.raises(WeightsError, match="unpacked"):
        read_keras(tmp_path / "m.keras", None)


def test_a_large_configuration_is_not_parsed(tmp_path, model, monkeypatch):
    monkeypatch.setattr("iom.pretrained.importers.keras_files.CONFIG_BYTES", 1000)
    save_model(model, tmp_path / "m.keras")
    with pytest.raises(WeightsError, match=r"config\.json of at most 1000 bytes"):
        read_keras(tmp_path / "m.keras", None)


def test_numbers_that_are_stated_and_not_stored(tmp_path, model):
    """A dataset without chunks takes no room in its file."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("x", shape=(1 << 30,), dtype="f4", chunks=(1 << 20,))
    with pytest.raises(WeightsError, match="unpacked"):
        read_keras(tmp_path / "m.h5", None)


@pytest.mark.parametrize("kind", ["dataset", "link", "virtual"])
def test_weights_in_another_file_are_refused(tmp_path, kind):
    """HDF5 can take any file of the disk for the numbers of a dataset."""
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.zeros(4, "f4")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("layer/vars")
        if kind == "dataset":
            group.create_dataset("x", shape=(4,), dtype="f4", external=[(str(tmp_path / "secret"), 0, 16)])
        elif kind == "link":
            group["x"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
        else:
            layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=(4,))
            group.create_virtual_dataset("x", layout)
    with pytest.raises(WeightsError, match="another file"):
        read_keras(tmp_path / "m.h5", None)


def write_head(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                for part in data:
                    stream.write(part)
    return path


def header(shape, descr="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        [header((8 << 18,)), *[bytes(1 << 20)] * 8],
        [header((1 << 40,)), bytes(4)],
        [header((4,), "|O"), bytes(32)],
        [b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 60_000],
        [bytes(8)],
    ],
    ids=["inflates", "stated alone", "objects", "deep header", "other"],
)
def test_heads_that_would_take_gigabytes(tmp_path, data):
    program = [header((2,), "|u1"), b"[]"]
    path = write_head(tmp_path / "a.head.npz", **{PROGRAM: program, "kernel": data})
    with pytest.raises(WeightsError, match=r"a\.head\.npz: missing or damaged"):
        Head.load(path)


def test_arrays_are_read_as_they_were_written(tmp_path):
    arrays = {
        "a": np.arange(6, dtype="<f4").reshape(2, 3),
        "b": np.asfortranarray(np.eye(3)),
        "c": np.array(5),
        "d": np.array("text"),
        "e": np.zeros((0, 4)),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        found = read_arrays(tmp_path / "x.npz")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


def bytearray8(size):
    return b"\x80\x05\x96" + struct.pack("<Q", size)


def again_and_again():
    """The bytes of one array, copied by a few opcodes each time."""
    text = "x" * (1 << 20)
    encode = b"c_codecs\nencode\n" + b"(h\x00h\x01tR0"
    return (
        b"\x80\x02X"
        + struct.pack("<I", len(text))
        + text.encode()
        + b"q\x000"
        + b"X\x06\x00\x00\x00latin1q\x010"
        + encode * 1000
        + b"N."
    )


PICKLES = {
    "announced bytes": bytearray8(3 << 30) + b"x.",
    "announced bytes without end": bytearray8(1 << 62) + b"x.",
    "opcodes": b"\x80\x04" + b"]0" * (OPCODES) + b"N.",
    "copies": again_and_again(),
    "long": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
}


@pytest.mark.parametrize("data", PICKLES.values(), ids=PICKLES)
def test_pickles_that_would_take_gigabytes(tmp_path, data):
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.bin: damaged pickle"):
        read_bin_images(path)


def test_a_bytearray_of_the_stated_size_is_read():
    value = pickle.dumps([bytearray(b"abc" * 100)], protocol=5)
    assert restricted_loads(value, source="x") == [bytearray(b"abc" * 100)]

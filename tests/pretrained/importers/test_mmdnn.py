"""MMdnn dictionaries: against a NumPy oracle, damaged, hostile and of another network."""

import os
import pickle

import numpy as np
import pytest

from iom.errors import WeightsError
from iom.pretrained.importers.foreign import build_foreign
from iom.pretrained.importers.mxnet import read_mmdnn
from iom.pretrained.manifest import Statement

RAW = Statement(colour_order="RGB", range="0..255", size=16)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_small_network_equals_numpy(tmp_path, mmdnn, images, expected, protocol):
    path = tmp_path / "x.npy"
    mmdnn.write(path, mmdnn.layers, protocol=protocol)
    model = build_foreign(read_mmdnn(path), RAW)
    np.testing.assert_allclose(np.asarray(model(images.astype("f4"))), expected, atol=2e-5)


def test_numpy_writes_the_same(tmp_path, mmdnn, images, expected):
    np.save(tmp_path / "x.npy", mmdnn.layers, allow_pickle=True)
    model = build_foreign(read_mmdnn(tmp_path / "x.npy"), RAW)
    np.testing.assert_allclose(np.asarray(model(images.astype("f4"))), expected, atol=2e-5)


def test_without_constants_the_statement_scales(tmp_path, mmdnn, images, expected):
    layers = {name: layer for name, layer in mmdnn.layers.items() if "value" not in layer}
    mmdnn.write(tmp_path / "x.npy", layers)
    stated = Statement(colour_order="RGB", range="-1..1 (/128)", size=16)
    model = build_foreign(read_mmdnn(tmp_path / "x.npy"), stated)
    np.testing.assert_allclose(np.asarray(model(images.astype("f4"))), expected, atol=2e-5)


def test_with_constants_another_range_is_an_error(tmp_path, mmdnn):
    mmdnn.write(tmp_path / "x.npy", mmdnn.layers)
    with pytest.raises(WeightsError, match="itself scales pixels"):
        build_foreign(read_mmdnn(tmp_path / "x.npy"), Statement(colour_order="RGB", range="-1..1", size=16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers.pop("stage1_unit2_conv1"), "no layer 'stage1_unit2_conv1'"),
        (lambda layers: layers.pop("pre_fc1"), "no layer 'pre_fc1'"),
        (lambda layers: layers.update(extra={"weights": np.ones(2)}), "no place.*'extra'"),
        (lambda layers: layers["bn0"].pop("mean"), "'bn0' holds"),
        (lambda layers: layers["bn0"].update(other=np.ones(2)), "'bn0' holds"),
        (lambda layers: layers["conv0"].update(weights=np.ones((3, 3))), "'conv0'"),
        (lambda layers: layers["pre_fc1"].update(weights=np.ones((512, 20))), "bias|fit"),
        (lambda layers: layers["stage1_unit1_bn2"].update(mean=np.ones(3)), "mean"),
        (lambda layers: layers.clear(), "no layer 'conv0'"),
    ],
)
def test_another_network_is_an_error(tmp_path, mmdnn, change, message):
    layers = {name: dict(layer) for name, layer in mmdnn.layers.items()}
    change(layers)
    mmdnn.write(tmp_path / "x.npy", layers)
    with pytest.raises(WeightsError, match=message):
        build_foreign(read_mmdnn(tmp_path / "x.npy"), RAW)


def test_damage_is_an_error_or_harmless(tmp_path, mmdnn, damage):
    path = tmp_path / "x.npy"
    mmdnn.write(path, mmdnn.layers)
    original = path.read_bytes()
    for name, data in damage(original):
        path.write_bytes(data)
        try:
            read_mmdnn(path)
        except WeightsError as error:
            assert "\n" not in str(error), name  # noqa: PT017 - both outcomes are right
        else:
            assert len(data) == len(original), name


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickle_does_not_run(tmp_path, mmdnn, protocol):
    mark = tmp_path / "ran"
    mmdnn.write(tmp_path / "x.npy", {"conv0": {"weights": Hostile(mark)}}, protocol=protocol)
    with pytest.raises(WeightsError, match=r"refused.*system"):
        read_mmdnn(tmp_path / "x.npy")
    assert not mark.exists()


def test_other_files_are_errors(tmp_path, mmdnn):
    plain = tmp_path / "plain.npy"
    np.save(plain, np.ones(3))
    bare = tmp_path / "bare.npy"
    bare.write_bytes(pickle.dumps(mmdnn.layers))
    listed = tmp_path / "list.npy"
    mmdnn.write(listed, [1, 2])
    for path in (plain, bare, listed):
        with pytest.raises(WeightsError, match="not an MMdnn dictionary"):
            read_mmdnn(path)
    with pytest.raises(WeightsError, match="cannot read"):
        read_mmdnn(tmp_path / "none.npy")

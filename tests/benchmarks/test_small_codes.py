"""The benchmark of short codes on synthetic faces and a backbone that was never trained."""

import json

import numpy as np
import pytest

from benchmarks import small_codes
from benchmarks.small_codes import TwoSided, TwoSidedCosine
from iom.baselines import BASELINES
from iom.config import CodeConfig
from iom.keys import TransformKey
from iom.nn.backbones.registry import build_backbone
from iom.synthetic import write_folder


def test_a_stored_row_is_compared_with_a_probe():
    stream = np.random.default_rng(0)
    comparator = TwoSidedCosine()
    both = comparator.prepare(TwoSided(stream.normal(size=(4, 6)), stream.normal(size=(4, 6)) * 3))
    table = comparator.all_pairs(both, both[1:3])
    for i in range(4):
        for j in range(2):
            assert table[i, j] == pytest.approx(1 - both.stored[i] @ both.probes[1 + j], abs=1e-6)
    np.testing.assert_allclose(comparator.paired(both, both), np.diag(comparator.all_pairs(both, both)), atol=1e-6)


def test_one_bit_is_the_sign_of_each_rotated_value():
    quantiser = BASELINES["scalar_1bit"](16, CodeConfig())
    rows, key = np.random.default_rng(0).normal(size=(5, 16)).astype("float32"), TransformKey(bytes(32))
    values = quantiser.hash(rows, key)
    np.testing.assert_array_equal(np.sign(values), np.sign(rows @ quantiser.rotation(key).T))
    np.testing.assert_allclose(np.abs(values), np.sqrt(2 / np.pi), rtol=1e-5)


@pytest.mark.proof
def test_it_trains_and_measures(tmp_path, root, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("fiw_112x112", "lfw_112x112")):
        write_folder(tmp_path / "data" / name, 14, 4, seed=seed)
    build_backbone("iresnet_slim", embedding_size=128, stem=16, widths=(16,), depths=(1,)).save(tmp_path / "b.keras")
    lists = tmp_path / "data/lists"
    lists.mkdir()
    images = sorted(path.relative_to(tmp_path / "data/fiw_112x112") for path in (tmp_path / "data").glob("fiw*/*/*"))
    (lists / "fiw_clean.txt").write_text("".join(f"{path}\n" for path in images))
    (lists / "fiw_probable_duplicates.tsv").write_text("subject_0000\tsubject_0001\t0.1\n")
    (tmp_path / "c.yaml").write_text(
        f"base: {root / 'configs/stage2/mobilefacenet_y1_64x16.yaml'}\n"
        "data: {holdout: 0.4, group_separator: ''}\n"
        "batches: {subjects: 6, images: 2, steps_per_epoch: 2}\n"
        "epochs: 1\n"
        "calibration: {fmr: 0.1, keys: 1, bootstrap: 0}\n"
    )
    arguments = [
        "--embedder", str(tmp_path / "b.keras"), "--config", str(tmp_path / "c.yaml"), "--bytes", "32", "--keys", "2",
        "--replicates", "3", "--no-protection", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "runs"),
    ]  # fmt: skip
    for _ in range(2):  # the second time with the hasher that is there
        assert small_codes.main(arguments) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert {"float_fnmr_1e4", "fnmr_32", "eer_32", "scalar_fnmr_32", "learned_minus_untrained_32"} <= set(found)
        low, high = found["learned_minus_untrained_32"]
        assert low <= high
        assert 0 < found["eer_32"] < 1
    assert small_codes.main([*arguments, "--centred"]) == 0
    centred = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert centred["float_eer"] != found["float_eer"]

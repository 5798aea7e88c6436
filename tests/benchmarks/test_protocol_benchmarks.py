import json

import numpy as np
import pytest

from benchmarks import all_pairs, blufr, metrics_parity
from benchmarks.stored_embeddings import embeddings_of
from iom.errors import DataError


@pytest.mark.parametrize("module", [all_pairs, blufr, metrics_parity])
def test_help(module, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert f"python -m {module.__name__}" in capsys.readouterr().out


@pytest.mark.parametrize("module", [all_pairs, blufr])
def test_without_data_the_error_is_one_line(module, tmp_path, capsys):
    assert module.main(["--data", str(tmp_path / "absent")]) == 2
    errors = [e for e in capsys.readouterr().err.splitlines() if e.startswith("error: ")]
    assert len(errors) == 1


def test_every_metric_agrees_with_independent_implementations(capsys):
    assert metrics_parity.main([]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["max_abs_diff"] < 1e-9
    assert figures["d_sys_linkable"] > 0.99
    assert figures["d_sys_unlinkable"] < 0.01


def test_bob_that_is_not_there(capsys):
    import sys

    assert metrics_parity.main(["--bob", sys.executable]) == 2
    assert "could not run bob.measure" in capsys.readouterr().err


def test_counting_in_its_own_process(tmp_path):
    codes = np.random.default_rng(0).integers(8, size=(60, 512)).astype(np.uint8)
    path = tmp_path / "codes.npz"
    np.savez(path, codes=codes, labels=np.repeat(np.arange(20), 3))
    figures = all_pairs._in_own_process(path, 1)
    assert figures["comparisons"] == 60 * 59 // 2
    assert 20 < figures["peak_mb"] < 500


def test_stored_embeddings_that_lack_an_image(tmp_path):
    root = tmp_path / "faces"
    folder = tmp_path / "embeddings"
    folder.mkdir()
    np.savez(folder / "faces.mobilefacenet_y1.npz", embedding=np.ones((1, 4)), path=np.array(["a/1.jpg"]))
    assert embeddings_of([root / "a" / "1.jpg"], root, tmp_path).shape == (1, 4)
    with pytest.raises(DataError, match=r"1 images have no embedding, first a/2\.jpg"):
        embeddings_of([root / "a" / "2.jpg"], root, tmp_path)

"""The benchmarks of photographs and of several enrolment images, on made-up vectors."""

import numpy as np
import pytest

from benchmarks import centroids, detectors, photos
from iom.metrics.verification import error_curve
from iom.photos.align import TEMPLATE, Face


@pytest.mark.parametrize("module", [centroids, detectors, photos])
def test_help(module, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert f"python -m {module.__name__}" in capsys.readouterr().out


@pytest.mark.parametrize("module", [centroids, detectors, photos])
def test_without_data_the_error_is_one_line(module, tmp_path, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert module.main(["--data", str(tmp_path / "absent")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: no folder")


def test_probes_are_the_same_for_every_count():
    labels = np.repeat(np.arange(4), [7, 5, 30, 6])
    setting = centroids._setting(labels)
    assert setting.enrolled.tolist() == [[0, 1, 2, 3, 4], [12, 13, 14, 15, 16], [42, 43, 44, 45, 46]]
    assert setting.others.tolist() == [7]
    assert setting.subject.tolist() == [0] * 2 + [1] * 15 + [2]
    assert labels[setting.probes].tolist() == [0] * 2 + [2] * 15 + [3]
    assert not set(setting.probes) & set(setting.enrolled.ravel())


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_figures_against_loops(kind):
    draw = np.random.default_rng(1)
    subject = draw.integers(0, 5, 40)
    distances = draw.integers(20, 90, (40, 9))
    distances[np.arange(40), subject] -= 15
    setting = centroids.Setting(np.zeros((5, 5), int), np.zeros(4, int), np.arange(40), subject)
    mated = [distances[i, subject[i]] for i in range(40)]
    non_mated = [distances[i, j] for i in range(40) for j in range(9) if j != subject[i]]
    first = [all(distances[i, j] > mated[i] for j in range(9) if j != subject[i]) for i in range(40)]
    scale = 100 if kind is np.float32 else 1
    figures = centroids._figures((distances / scale).astype(kind), setting)
    assert figures["rank_1"] == np.mean(first)
    assert figures["eer"] == pytest.approx(error_curve(mated, non_mated).equal_error_rate(), abs=0.01)
    assert figures["fnmr_1e-3"] == pytest.approx(error_curve(mated, non_mated).fnmr_at_fmr(1e-3))
    found = centroids._at(distances, setting, 40)
    false = [distances[i, j] <= 40 for i in range(40) for j in range(5) if j != subject[i]]
    assert found["calibrated_fmr"] == pytest.approx(np.mean(false))
    assert found["calibrated_fnmr"] == pytest.approx(np.mean(np.array(mated) > 40))


def test_faces_that_are_found_and_false_are_counted():
    face, apart = Face(TEMPLATE + 50, 0.9), Face(TEMPLATE * 2 + 100, 0.8)
    truth = (TEMPLATE + 50)[None]
    near = Face(TEMPLATE + np.array([53, 54]), 0.95)
    figures = detectors._accuracy(
        [(None, truth), (None, truth), (None, 2)], [[near, apart], [], [face, apart, near]], [[face], [face], []]
    )
    assert figures == {"pictures": 3, "faces": 4, "found": 3, "false": 2, "error": 5.0, "from_yunet": 5.0}

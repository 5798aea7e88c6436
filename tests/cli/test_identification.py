import json

import numpy as np
import pytest

from iom.data.benchmarks.folders import folder_identification
from iom.errors import DataError
from iom.synthetic import load_face_model
from tests.commands import command
from tests.data import layouts

main = command("identification")


@pytest.fixture(scope="module")
def synthetic_faces(tmp_path_factory):
    """Four people with three images, and one with a single one."""
    from PIL import Image

    root = tmp_path_factory.mktemp("faces")
    pixels, labels = load_face_model().sample(5, 3, seed=1)
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        if label == 4 and number % 3:
            continue
        (root / f"person_{label}").mkdir(exist_ok=True)
        Image.fromarray(image).save(root / f"person_{label}" / f"{number}.png")
    return root


def test_two_galleries_of_a_folder(synthetic_faces):
    benchmark = folder_identification(synthetic_faces)
    assert [len(rows) for rows in benchmark.galleries.values()] == [2, 2]
    assert len(benchmark.probes) == 13 - 4
    held = set(benchmark.subjects[benchmark.galleries["1"]].tolist())
    assert held == {0, 2}


def test_two_enrolment_images_of_a_folder(synthetic_faces):
    benchmark = folder_identification(synthetic_faces, gallery_images=2)
    assert len(benchmark.pooling) == 13 - 4
    assert [len(rows) for rows in benchmark.galleries.values()] == [2, 2]
    sizes = np.bincount(benchmark.pooling.template)
    for rows in benchmark.galleries.values():
        assert (sizes[rows] == 2).all()
    assert (sizes[benchmark.probes] == 1).all()
    assert len(benchmark.probes) == 4 + 1


def test_one_subject_is_not_enough(tmp_path):
    layouts.touch(tmp_path, "Ada/1.png", "Ada/2.png", "Bea/1.png")
    with pytest.raises(DataError, match="two subjects or more with two images, received 1"):
        folder_identification(tmp_path)


def test_from_a_folder_to_figures(synthetic_faces, tmp_path, capsys):
    settings = [
        "benchmark.source=folder",
        f"benchmark.root={synthetic_faces}",
        f"embedder.cache={tmp_path / 'cache'}",
        "scenario.systems=[float, grp, polyprotect, learned]",
        "scenario.keys=1",
    ]
    arguments = ["--config", "configs/evaluate/synthetic.yaml", "--output", str(tmp_path / "out")]
    for setting in settings:
        arguments += ["--set", setting]
    assert main([*arguments, "--quiet"]) == 0
    rows = json.loads((tmp_path / "out" / "identification.json").read_text())["rows"]
    places = {(row["system"], row["scenario"]) for row in rows}
    assert len(places) == 1 + 4 * 2  # the trained hasher has a row for either comparison
    rates = [row["value"] for row in rows if row["metric"] == "cmc_rank_1"]
    assert all(0 <= rate <= 1 for rate in rates)
    assert "cmc_rank_1 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("benchmark.source=foldr", "unknown identification protocol 'foldr' - did you mean"),
        ("benchmark.source=folder", "needs benchmark.root"),
        ("benchmark.source=megaface", "needs benchmark.path"),
        ("benchmark.source=blufr", "needs benchmark.path"),
        ("benchmark.source=ijb", "needs benchmark.path"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, setting, reason):
    arguments = ["--config", "configs/evaluate/synthetic.yaml", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--set", setting, "--quiet"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert reason in error

"""The check of prepared data, and lists that are made anew."""

import json
import shutil

import numpy as np

from benchmarks.prepared_data import CLEAN, DUPLICATES, FOLDERS, LISTS, clean_rows, main


def test_what_is_missing_or_differs_is_told(tmp_path, capsys):
    (tmp_path / "lfw_112x112" / "Ann").mkdir(parents=True)
    (tmp_path / "lfw_112x112" / "Ann" / "a.jpg").touch()
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "lfw_pairs.txt").write_text("10 300")
    assert main(["--data", str(tmp_path)]) == 1
    states = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert states["lfw_112x112"] == "differs: 1 images of 1 subjects, expected 13,233 images of 5,749 subjects"
    assert states["fiw_112x112"] == "missing"
    assert states["lists/lfw_pairs.txt"] == "differs"
    assert main(["--data", str(tmp_path / "absent")]) == 2


def test_an_image_far_from_its_label_is_left_out():
    rows = np.eye(4, dtype=np.float32)[[0, 0, 0, 1, 2, 2, 3]]
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    kept, centres = clean_rows(rows, labels)
    assert kept.tolist() == [True, True, True, False, True, True, True]
    np.testing.assert_allclose(centres, np.eye(4)[[0, 2, 3]])


def test_the_data_are_as_measured_and_so_are_lists_made_anew(prepared_data, tmp_path, capsys):
    for name in (*FOLDERS, "embeddings"):
        (tmp_path / name).symlink_to(prepared_data / name)
    shutil.copytree(prepared_data / "lists", tmp_path / "lists", copy_function=shutil.copyfile)
    for name in (CLEAN, DUPLICATES):
        (tmp_path / name).unlink()
    assert main(["--data", str(tmp_path), "--make", "lists"]) == 0
    states = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(states) == {*FOLDERS, *LISTS}

import numpy as np
import pytest

from iom.config import FolderConfig
from iom.data.folders import hold_out, scan_folder
from iom.errors import DataError


@pytest.fixture
def faces(tmp_path):
    """Ten families of two members with three images, and one member with a single image."""
    root = tmp_path / "faces"
    for family in range(10):
        for member in range(2):
            folder = root / f"F{family}_M{member}"
            folder.mkdir(parents=True)
            for image in range(3):
                (folder / f"{image}.jpg").write_bytes(b"")
    (root / "F9_M2").mkdir()
    (root / "F9_M2" / "0.png").write_bytes(b"")
    (root / "F9_M2" / "notes.txt").write_bytes(b"")
    return root


def config(root, **settings):
    return FolderConfig(root=str(root), **settings)


def test_labels_are_dense_and_sorted(faces):
    folder = scan_folder(config(faces))
    assert len(folder) == 60
    assert folder.left_out == 1
    assert folder.subjects == tuple(sorted(folder.subjects))
    for path, label in zip(folder.paths, folder.labels, strict=True):
        assert path.split("/")[0] == folder.subjects[label]
    assert sorted(set(folder.labels.tolist())) == list(range(20))


def test_single_images_can_be_kept(faces):
    assert len(scan_folder(config(faces, min_images=1))) == 61


def test_include_list(faces, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("F0_M0/0.jpg\nF0_M0/1.jpg\n\nF1_M0/0.jpg\nF1_M0/2.jpg\n")
    folder = scan_folder(config(faces, include=str(listed)))
    assert folder.paths == ("F0_M0/0.jpg", "F0_M0/1.jpg", "F1_M0/0.jpg", "F1_M0/2.jpg")


def test_pairs_are_merged_transitively_above_the_similarity(faces, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("F1_M0\tF0_M0\t0.9\nF1_M0\tF2_M0\t0.7\nF3_M0\tF4_M0\t0.5\n")
    folder = scan_folder(config(faces, same_subject=str(pairs)))
    assert len(folder.subjects) == 18
    assert np.bincount(folder.labels)[folder.subjects.index("F0_M0")] == 9
    assert "F3_M0" in folder.subjects
    assert "F4_M0" in folder.subjects


def test_families_are_held_out_whole(faces):
    settings = config(faces, holdout=0.3, group_separator="_")
    train, held_out = hold_out(scan_folder(settings), settings)
    families = [{name.split("_")[0] for name in part.subjects} for part in (train, held_out)]
    assert not families[0] & families[1]
    assert len(families[1]) == 3
    assert len(train) + len(held_out) == 60


def test_families_joined_by_a_merged_subject_are_held_out_together(faces, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("F0_M0\tF1_M0\t0.9\nF1_M1\tF2_M0\t0.9\nF5_M0\tF7_M1\t0.9\n")
    for seed in range(12):
        settings = config(faces, same_subject=str(pairs), holdout=0.3, holdout_seed=seed, group_separator="_")
        parts = hold_out(scan_folder(settings), settings)
        families = [{path.split("_")[0] for path in part.paths} for part in parts]
        assert not families[0] & families[1]


def test_what_is_left_out_is_told(faces):
    settings = config(faces, holdout=0.3)
    train, _ = hold_out(scan_folder(settings), settings)
    assert "1 subjects with fewer than 2 images are left out" in train.describe_left_out(2)
    assert scan_folder(config(faces, min_images=1)).describe_left_out(1) == ""


def test_the_split_follows_the_seed(faces):
    one, two = (config(faces, holdout=0.3, holdout_seed=seed) for seed in (1, 2))
    folder = scan_folder(one)
    assert hold_out(folder, one)[1].paths == hold_out(folder, one)[1].paths
    assert hold_out(folder, one)[1].paths != hold_out(folder, two)[1].paths


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": ""}, "set data.root"),
        ({"root": "no-such-folder"}, "no folder no-such-folder"),
        ({"min_images": 4}, "at least two subjects with 4 images"),
        ({"include": "no-such-list.txt"}, "cannot read no-such-list.txt"),
        ({"same_subject": "no-such-list.tsv"}, "cannot read no-such-list.tsv"),
    ],
)
def test_what_is_wrong_is_named(faces, settings, message):
    with pytest.raises(DataError, match=message):
        scan_folder(FolderConfig(**({"root": str(faces)} | settings)))


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match="found no image"):
        scan_folder(config(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("F0_M0/9.jpg\n", "1 of 1 images are not in"),
        ("../../etc/passwd\n", "expected lines <subject>/<image>"),
        ("/etc/passwd\n", "expected lines <subject>/<image>"),
        ("../x.jpg\n", "expected lines <subject>/<image>"),
    ],
)
def test_bad_lists(faces, tmp_path, text, message):
    listed = tmp_path / "list.txt"
    listed.write_text(text)
    with pytest.raises(DataError, match=message):
        scan_folder(config(faces, include=str(listed)))


@pytest.mark.parametrize(("text", "message"), [("a\tb\tx\n", "line 1"), ("\na\n", "line 2")])
def test_bad_pairs(faces, tmp_path, text, message):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text(text)
    with pytest.raises(DataError, match=message):
        scan_folder(config(faces, same_subject=str(pairs)))


def test_holding_out_nobody_or_everybody(faces):
    folder = scan_folder(config(faces))
    with pytest.raises(DataError, match=r"data\.holdout is 0"):
        hold_out(folder, config(faces, holdout=0.0))
    with pytest.raises(DataError, match="cannot hold out"):
        hold_out(folder, config(faces, holdout=0.99))

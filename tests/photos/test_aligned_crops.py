"""IJB in its published layout: loose crops beside `meta`, aligned by the listed landmarks."""

import numpy as np
import pytest
from PIL import Image

from iom.config import BenchmarkConfig
from iom.data.benchmarks import load_benchmark
from iom.data.benchmarks.identification import read_ijb_identification, read_ijb_pairs
from iom.errors import DataError
from iom.photos.align import TEMPLATE, align
from iom.photos.images import read_image, read_images
from tests.data import layouts


@pytest.fixture
def published(tmp_path):
    """Crops of noise, each with landmarks of its own."""
    meta, root = layouts.ijb(tmp_path, "ijbb")
    crops = root.rename(tmp_path / "loose_crop")
    listed = meta / "ijbb_name_5pts_score.txt"
    draw = np.random.default_rng(0)
    lines, points = [], {}
    for line in listed.read_text().splitlines():
        name = line.split()[0]
        noise = draw.integers(0, 256, (30, 25, 3), np.uint8)
        Image.fromarray(noise).resize((250, 300)).save(crops / name, format="png")
        points[name] = (TEMPLATE * draw.uniform(1, 2) + draw.uniform(0, 40, 2)).round(3)
        lines.append(" ".join([name, *map(str, points[name].ravel()), "0.9"]))
    layouts.write(listed, *lines)
    return meta, crops, points


def test_faces_are_aligned_by_their_landmarks(published, tmp_path):
    meta, crops, points = published
    benchmark = read_ijb_pairs(meta, crops, align_into=tmp_path / "aligned")
    for name, face in zip(points, read_images(benchmark.images), strict=True):
        photo = np.asarray(Image.open(crops / name))
        np.testing.assert_array_equal(face, align(photo, points[name], smooth=False))
    searches = read_ijb_identification(meta, crops, align_into=tmp_path / "aligned")
    assert searches.images == benchmark.images


def test_what_is_aligned_already_is_kept_and_the_rest_made_again(published, tmp_path):
    meta, crops, _ = published
    config = BenchmarkConfig(source="ijb", path=str(meta), root=str(crops), align_into=str(tmp_path / "aligned"))
    images = load_benchmark(config, seed=1).images
    before = read_image(images[5])
    times = {file: file.stat().st_mtime_ns for file in images}
    images[5].unlink()
    load_benchmark(config, seed=1)
    np.testing.assert_array_equal(read_image(images[5]), before)
    assert [file for file in images if file.stat().st_mtime_ns != times[file]] == [images[5]]


def test_other_landmarks_or_damaged_crops_are_refused(published, tmp_path):
    meta, crops, points = published
    first = next(iter(points))
    read_ijb_pairs(meta, crops, align_into=tmp_path / "aligned")
    listed = meta / "ijbb_name_5pts_score.txt"
    text = listed.read_text()
    listed.write_text(text.replace(str(points[first][0, 0]), "61.25", 1))
    with pytest.raises(DataError, match="aligned: expected faces aligned from these"):
        read_ijb_pairs(meta, crops, align_into=tmp_path / "aligned")
    layouts.write(listed, f"{first} {'7.0 ' * 10}0.9", *text.splitlines()[1:])
    with pytest.raises(DataError, match=f"{first}.*one point"):
        read_ijb_pairs(meta, crops, align_into=tmp_path / "again")
    listed.write_text(text)
    (crops / first).write_bytes(b"x")
    with pytest.raises(DataError, match=first):
        read_ijb_pairs(meta, crops, align_into=tmp_path / "third")

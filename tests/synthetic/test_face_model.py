"""The face model gives distinct, repeatable subjects with the covariances that it states."""

import errno
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iom import synthetic
from iom.errors import DataError
from iom.photos.images import read_image
from iom.synthetic import MODEL_PATH, FaceModel, load_face_model, write_folder

# Grey levels of nine blocks of the first face of seed 1.
KNOWN_LEVELS = [[50.1, 88.9, 80.3], [99.0, 160.2, 96.8], [48.1, 140.7, 61.0]]


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return load_face_model()


def level(image: np.ndarray) -> np.ndarray:
    """A coarse view of images `(N, 112, 112, 3)`: means of 16x16 blocks."""
    return image.reshape(len(image), 7, 16, 7, 16, 3).mean((2, 4))


def test_the_tracked_file_is_small() -> None:
    assert MODEL_PATH.stat().st_size <= 2_000_000


def test_samples_have_shape_type_and_labels(model: FaceModel) -> None:
    images, labels = model.sample(3, 2, seed=5)
    assert images.shape == (6, 112, 112, 3)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.std() > 20


def test_the_same_seed_gives_the_same_faces_whatever_the_number(model: FaceModel) -> None:
    few, _ = model.sample(3, 2, seed=5)
    many, labels = model.sample(7, 4, seed=5)
    rows = [np.flatnonzero(labels == s)[j] for s in range(3) for j in range(2)]
    assert np.abs(few.astype(int) - many[rows]).max() <= 1  # products of other sizes round otherwise
    other, _ = model.sample(3, 2, seed=6)
    assert np.abs(few.astype(int) - other).mean() > 10


def test_the_first_face_of_seed_one_is_known(model: FaceModel) -> None:
    """A change of the file, the stream or the rendering shows here, machine rounding does not."""
    face, _ = model.sample(1, 1, seed=1)
    expected = np.array(KNOWN_LEVELS)
    assert np.abs(level(face)[0, ::3, ::3].mean(-1) - expected).max() < 0.5


def test_no_two_samples_are_alike(model: FaceModel) -> None:
    images, labels = model.sample(40, 3, seed=2)
    coarse = level(images).reshape(len(images), -1)
    distance = np.linalg.norm(coarse[:, None] - coarse[None], axis=-1)
    same = labels[:, None] == labels[None]
    np.fill_diagonal(distance, np.inf)
    assert distance.min() > 20
    assert np.median(distance[same & np.isfinite(distance)]) < 0.8 * np.median(distance[~same])


def test_coefficients_have_the_stated_covariances(model: FaceModel) -> None:
    subjects, images, between, within = 4000, 3, 1.2, 0.5
    symmetric, antisymmetric = model.coefficients(subjects, images, seed=3, between=between, within=within)
    grouped = symmetric.reshape(subjects, images, -1)[..., -40:]
    means = grouped.mean(1)
    residual = (grouped - means[:, None]).reshape(subjects * images, -1)
    found_within = residual.T @ residual / (subjects * (images - 1))
    found_between = np.cov(means.T) - found_within / images
    part = slice(-40, None)
    stated_within = within**2 * (model.within @ model.within.T)[part, part]
    stated_between = between**2 * (model.between @ model.between.T)[part, part]
    for found, stated in ((found_within, stated_within), (found_between, stated_between)):
        scale = np.sqrt(np.outer(np.diag(stated), np.diag(stated)))
        assert np.abs((found - stated) / scale.clip(1e-3)).max() < 0.15
    assert np.abs(np.cov(antisymmetric.T) / within**2 - np.eye(60)).max() < 0.1
    assert np.abs(symmetric.mean(0)).max() < 0.1


def test_symmetric_coefficients_render_symmetric_faces(model: FaceModel) -> None:
    symmetric, antisymmetric = model.coefficients(4, 1, seed=4)
    face = model.render(symmetric, 0 * antisymmetric).astype(int)
    assert np.abs(face - face[:, :, ::-1]).max() <= 1
    turned = model.render(symmetric, antisymmetric).astype(int)
    mirrored = model.render(symmetric, -antisymmetric).astype(int)
    assert np.abs(turned - mirrored[:, :, ::-1]).max() <= 1
    assert np.abs(turned - face).mean() > 1


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (-1, 2)])
def test_counts_below_one_are_refused(model: FaceModel, arguments: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="at least one subject"):
        model.sample(*arguments, seed=1)
    with pytest.raises(DataError, match="negative"):
        model.sample(1, 1, seed=1, within=-0.1)


def test_the_compact_file_keeps_the_faces(model: FaceModel, tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    model.save(path)
    again = FaceModel.load(path)
    ours, _ = model.sample(5, 2, seed=9)
    theirs, _ = again.sample(5, 2, seed=9)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    data = MODEL_PATH.read_bytes()
    path = tmp_path / "model.npz"
    for damaged in (b"", b"text", data[:1000], data[: len(data) // 2], data[:-100]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"model\.npz"):
            FaceModel.load(path)
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DataError, match="damaged"):
        FaceModel.load(path)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x40
    path.write_bytes(flipped)
    with pytest.raises(DataError, match="damaged"):
        FaceModel.load(path)
    with pytest.raises(DataError, match="cannot read"):
        FaceModel.load(tmp_path / "missing.npz")


@pytest.mark.parametrize(
    "change",
    [
        {"format": np.int64(99)},
        {"mean": np.zeros(5)},
        {"between": np.full((160, 160), np.nan)},
        {"within": np.zeros((160, 3))},
        {"step": None},
        {"symmetric_luma": np.zeros((160, 10, 5), np.int8)},
        {"antisymmetric_chroma": np.zeros((3, 2, 16, 8), np.int8)},
        {"mean": np.array([None], dtype=object)},
    ],
)
def test_an_inconsistent_file_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    with np.load(MODEL_PATH) as stored:
        values = {name: stored[name] for name in stored.files} | change
    path = tmp_path / "model.npz"
    np.savez(path, **{name: value for name, value in values.items() if value is not None})
    with pytest.raises(DataError, match="damaged or not a face model"):
        FaceModel.load(path)


def test_a_folder_holds_what_was_sampled(model: FaceModel, tmp_path: Path) -> None:
    root = tmp_path / "new" / "faces"
    write_folder(root, 3, 2, seed=8)
    images, _ = model.sample(3, 2, seed=8)
    files = sorted(root.rglob("*.png"))
    assert [str(file.relative_to(root)) for file in files[:3]] == [
        "subject_0000/000.png",
        "subject_0000/001.png",
        "subject_0001/000.png",
    ]
    assert all(np.array_equal(read_image(f), face) for f, face in zip(files, images, strict=True))
    assert list(root.parent.iterdir()) == [root]
    with pytest.raises(DataError, match="new or empty folder"):
        write_folder(root, 3, 2, seed=8)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="new or empty folder"):
        write_folder(tmp_path / "file", 3, 2, seed=8)


def test_an_interrupted_run_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Image.Image.save
    calls = 0

    def fail_late(image: Image.Image, path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved(image, path)

    monkeypatch.setattr(synthetic.Image.Image, "save", fail_late)
    with pytest.raises(DataError, match="No space left"):
        write_folder(tmp_path / "faces", 3, 2, seed=8)
    assert list(tmp_path.iterdir()) == []


def test_nothing_in_the_file_is_a_pickle() -> None:
    with zipfile.ZipFile(MODEL_PATH) as archive:
        for name in archive.namelist():
            assert b"'descr': '|O'" not in archive.read(name)[:200]


def test_samples_are_as_hard_as_verification_and_no_one_known(model: FaceModel, prepared_data: Path) -> None:
    """Measured with a network that had no part in the model, against all of LFW's embeddings."""
    from iom.models.embedder import load_embedder

    images, labels = model.sample(30, 4, seed=1)
    embeddings = load_embedder("mobilefacenet_y1.ms1m", batch_size=40).embed(images)
    cosine = embeddings @ embeddings.T
    same = labels[:, None] == labels[None]
    mated, non_mated = cosine[same & (cosine < 0.9999)], cosine[~same]
    assert 0.5 < mated.mean() < 0.75
    assert 0 < non_mated.mean() < 0.2
    threshold = np.quantile(non_mated, 0.98)
    assert np.mean(mated < threshold) < 0.05
    assert mated.min() < non_mated.max()  # not trivial
    with np.load(prepared_data / "embeddings" / "lfw_112x112.mobilefacenet_y1.npz") as stored:
        people = np.array([path.split("/")[0] for path in stored["path"]])
        known = stored["embedding"]
    others = known[::50] @ known.T
    others[people[::50, None] == people[None]] = -1
    nearest = (embeddings @ known.T).max(1)
    assert np.mean(nearest) < np.mean(others.max(1))  # farther than non-mated faces are
    assert nearest.max() < 0.6

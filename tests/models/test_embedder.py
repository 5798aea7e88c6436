import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from iom.errors import DataError, WeightsError
from iom.models.embedder import CHUNK, Embedder


def moments(batch):
    """A stand-in for a network: eight numbers that depend on every pixel and on left and right."""
    flat = batch.reshape(len(batch), -1)
    weights = np.random.default_rng(0).normal(size=(flat.shape[1], 8)) / 255
    return flat @ weights


def embedder(predict=moments, **settings):
    defaults = {"name": "stand-in", "fingerprint": "f", "embedding_size": 8, "input_size": 16}
    return Embedder(predict, **(defaults | {"batch_size": 4} | settings))


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)


def test_rows_have_unit_length_and_do_not_depend_on_the_batch(images):
    rows = embedder().embed(images)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(rows, embedder(batch_size=3).embed(images), rtol=1e-5, atol=1e-6)


def test_flip_averages_before_normalising(images):
    expected = moments(images.astype("f4")) + moments(images[:, :, ::-1].astype("f4"))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder(flip=True).embed(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x / 255.0,
        lambda x: x.astype(np.float32),
        lambda x: x[:, :8],
        lambda x: x[0],
        lambda x: x.transpose(0, 3, 1, 2),
    ],
)
def test_wrong_range_or_size_is_an_error_and_not_a_worse_result(images, change):
    with pytest.raises(DataError, match="expected RGB images"):
        embedder().embed(change(images))


def test_a_model_of_another_size(images):
    with pytest.raises(WeightsError, match="expected embeddings of size 9"):
        embedder(embedding_size=9).embed(images)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_embeddings_that_cannot_be_normalised(images, value):
    with pytest.raises(WeightsError, match="zero or not finite"):
        embedder(lambda batch: np.full((len(batch), 8), value)).embed(images)


@pytest.fixture
def files(tmp_path, images):
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def test_files_are_embedded_once(files, images, tmp_path):
    calls = []

    def counted(batch):
        calls.append(len(batch))
        return moments(batch)

    cached = embedder(counted, cache=tmp_path / "cache")
    first = cached.embed_files(files)
    np.testing.assert_array_equal(first, embedder().embed(images))
    before = len(calls)
    np.testing.assert_array_equal(cached.embed_files(files), first)
    assert len(calls) == before


def test_the_cache_follows_the_bytes_and_the_model(files, tmp_path):
    cached = embedder(cache=tmp_path / "cache")
    first = cached.embed_files(files)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8) + 7).save(files[0])
    changed = cached.embed_files(files)
    assert not np.allclose(first[0], changed[0])
    other = embedder(lambda b: moments(b) + 1, fingerprint="g", cache=tmp_path / "cache")
    assert not np.allclose(other.embed_files(files), changed)


def test_an_added_image_costs_one_embedding(files, images, tmp_path):
    embedded = []

    def counted(batch):
        embedded.append(int(batch.any(axis=(1, 2, 3)).sum()))  # the rest is padding
        return moments(batch)

    cached = embedder(counted, cache=tmp_path / "cache")
    before = cached.embed_files(files[1:])
    assert sum(embedded) == len(files) - 1
    embedded.clear()
    rows = cached.embed_files([*files, files[0]])
    assert sum(embedded) == 1
    np.testing.assert_array_equal(rows[1:-1], before)
    np.testing.assert_array_equal(rows[0], rows[-1])
    embedded.clear()
    np.testing.assert_array_equal(cached.embed_files(files[::-1]), rows[-2::-1])
    assert embedded == []


@pytest.mark.parametrize("change", [{"flip": True}, {"batch_size": 5}, {"fingerprint": "g"}])
def test_what_changes_an_embedding_changes_its_address(files, tmp_path, change):
    calls = []

    def counted(batch):
        calls.append(len(batch))
        return moments(batch)

    embedder(cache=tmp_path / "cache").embed_files(files)
    embedder(counted, cache=tmp_path / "cache", **change).embed_files(files)
    assert calls


def test_a_damaged_row_is_computed_anew(files, tmp_path):
    cached = embedder(cache=tmp_path / "cache")
    first = cached.embed_files(files)
    (stored,) = (tmp_path / "cache").iterdir()
    with contextlib.closing(sqlite3.connect(stored)) as database, database:
        database.execute("UPDATE embeddings SET row = zeroblob(36)")
    np.testing.assert_array_equal(cached.embed_files(files), first)


def test_several_may_write_at_once(files, tmp_path):
    def embed(_):
        return embedder(cache=tmp_path / "cache").embed_files(files)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(embed, range(16)))
    for rows in found:
        np.testing.assert_array_equal(rows, found[0])


def test_a_cache_that_cannot_be_used_is_one_error(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot use the cache"):
        embedder(cache=tmp_path / "file" / "below").embed_files(files)


def test_a_damaged_cache_is_computed_anew(files, tmp_path):
    cached = embedder(cache=tmp_path / "cache")
    first = cached.embed_files(files)
    for stored in (tmp_path / "cache").iterdir():
        stored.write_bytes(stored.read_bytes()[:50])
    np.testing.assert_array_equal(cached.embed_files(files), first)


def test_chunks_keep_the_order(files):
    many = files * (CHUNK // len(files) + 1)
    rows = embedder().embed_files(many)
    np.testing.assert_array_equal(rows[: len(files)], rows[len(files) : 2 * len(files)])
    assert len(rows) == len(many) > CHUNK


def test_a_missing_or_damaged_file_is_named(files, tmp_path):
    files[3].unlink()
    with pytest.raises(DataError, match=r"3\.png"):
        embedder(cache=tmp_path / "cache").embed_files(files)
    files[3].write_bytes(files[2].read_bytes()[:60])
    with pytest.raises(DataError, match=r"3\.png"):
        embedder().embed_files(files)

"""Requests share a hasher: what each gets is what it would get alone."""

import threading
import types

import numpy as np
import pytest

from iom.codes._kernels import chosen
from iom.errors import DataError
from iom.keys import TransformKey
from iom.models.face_hasher import BATCH
from iom.service.face_pipeline import SharedHasher, warm_hasher
from tests.gallery.conftest import FakeHasher, faces


class Slow(FakeHasher):
    """Waits to be let on, and counts its calls; refuses rows that are not finite."""

    def __init__(self):
        super().__init__()
        self.go, self.entered, self.sizes = threading.Event(), threading.Event(), []

    def hash(self, embeddings, keys):
        self.sizes.append(len(embeddings))
        self.entered.set()
        assert self.go.wait(10)
        if not np.isfinite(embeddings).all():
            raise DataError("not finite")
        return super().hash(embeddings, keys)


def in_threads(shared, calls):
    """Results of calls that all wait at the same time; errors are results."""
    results = [None] * len(calls)

    def work(number):
        try:
            results[number] = shared.hash(*calls[number])
        except DataError as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    threads[0].start()
    assert shared._hasher.entered.wait(10)  # the first is at work, the others will wait
    for thread in threads[1:]:
        thread.start()
    while len(shared._hashing.waiting) < len(calls) - 1:
        pass
    shared._hasher.go.set()
    for thread in threads:
        thread.join(10)
    return results


class WithEmbedder(FakeHasher):
    input_size = 112

    def with_batch_size(self, size):
        return self

    def embed(self, images):
        return faces(len(images))


def test_a_warm_hasher_has_chosen_the_kernels():
    chosen.cache_clear()
    assert isinstance(warm_hasher(WithEmbedder()), SharedHasher)
    assert chosen.cache_info().currsize == 1


def test_each_gets_its_own_codes():
    rows = faces(40)
    keys = [TransformKey.generate() for _ in rows]
    calls = [(rows[i : i + 1 + i % 3], keys[i : i + 1 + i % 3]) for i in range(0, 36, 3)]
    calls.append((rows[:2], keys[0]))  # one key for all rows
    slow = Slow()
    results = in_threads(SharedHasher(slow), calls)
    for (embeddings, key), codes in zip(calls, results, strict=True):
        np.testing.assert_array_equal(codes, FakeHasher().hash(embeddings, key))
    assert len(slow.sizes) == 2  # those who waited went together


def test_no_call_is_too_large():
    rows, key = faces(200), TransformKey.generate()
    slow = Slow()
    results = in_threads(SharedHasher(slow), [(rows[:1], key), *[(rows[:50], key)] * 5, (rows, key)])
    assert all(len(codes) in (1, 50, 200) for codes in results)
    assert max(size for size in slow.sizes if size != 200) <= BATCH


def test_nobody_suffers_for_another_ones_rows():
    rows, key = faces(4), TransformKey.generate()
    bad = np.full((1, rows.shape[1]), np.nan, np.float32)
    results = in_threads(SharedHasher(Slow()), [(rows[:1], key), (rows[1:2], key), (bad, key), (rows[2:], key)])
    assert isinstance(results[2], DataError)
    assert [len(results[number]) for number in (0, 1, 3)] == [1, 1, 2]


def test_keys_of_one_request_are_never_taken_for_another_one_s():
    rows, key = faces(4), TransformKey.generate()

    class Strict(Slow):
        def hash(self, embeddings, keys):
            if isinstance(keys, list) and len(keys) != len(embeddings):
                raise DataError("another number of keys than rows")
            return super().hash(embeddings, keys)

    slow = Strict()
    slow.go.set()
    shared = SharedHasher(slow)
    with pytest.raises(DataError, match="another number"):
        shared.hash(rows[:2], [key])
    np.testing.assert_array_equal(shared.hash(rows, key), FakeHasher().hash(rows, key))


def test_it_is_the_hasher_to_a_gallery():
    hasher = FakeHasher()
    shared = SharedHasher(hasher)
    for name in ("code_length", "alphabet_size", "parts", "fingerprint", "calibration"):
        assert getattr(shared, name) == getattr(hasher, name)
    with pytest.raises(AttributeError):
        shared.parts = 2


class Counting(FakeHasher):
    """The mean of an image is its embedding; remembers the batch size of each call and its rows."""

    def __init__(self):
        super().__init__()
        self.calls, self.go = [], threading.Event()

    def with_batch_size(self, batch_size):
        return types.SimpleNamespace(embed=lambda images: self.embed_in(batch_size, images))

    def embed_in(self, batch_size, images):
        self.calls.append((batch_size, len(images)))
        assert self.go.wait(10)
        return images.mean(axis=(1, 2))


def test_many_faces_go_in_batches_and_few_alone():
    counting = Counting()
    shared = SharedHasher(counting)
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8)
    results = {}

    def work(number):
        results[number] = shared.embed(images[number : number + 1])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    threads[0].start()
    while not counting.calls:
        pass
    for thread in threads[1:]:
        thread.start()
    while len(shared._embedding.waiting) < 11:
        pass
    counting.go.set()
    for thread in threads:
        thread.join(10)
    assert counting.calls == [(1, 1), (8, 8), (1, 3)]
    for number, rows in results.items():
        np.testing.assert_array_equal(rows[0], images[number].mean(axis=(0, 1)))

"""One reference of several images, against loops over positions."""

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from iom._registry import FUSIONS
from iom.errors import ConfigError, DataError, EnrolmentError
from iom.gallery.templates import MajorityHasher, fuse
from iom.keys import TransformKey
from tests.gallery.conftest import SIZE, FakeHasher, Place, again, faces


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99), st.booleans())
def test_a_vote_of_codes_against_a_loop(subjects, images, seed, one_key):
    hasher = FakeHasher()
    rows = faces(subjects * images, seed)
    keys = [TransformKey(bytes([i]) * 32) for i in range(subjects)]
    if one_key:
        keys = keys[:1] * subjects
    voted = MajorityHasher(hasher).hash(rows.reshape(subjects, -1), keys[0] if one_key else keys)
    for subject, code in enumerate(voted):
        own = rows[subject * images : (subject + 1) * images]
        each = hasher.hash(own, keys[subject])
        for position, symbol in enumerate(code):
            counts = Counter(each[:, position].tolist())
            most = max(counts.values())
            assert symbol == min(value for value, count in counts.items() if count == most)


def test_a_voting_hasher_is_the_same_model():
    hasher = FakeHasher()
    voting = MajorityHasher(hasher)
    for name in ("code_length", "alphabet_size", "parts", "fingerprint", "calibration"):
        assert getattr(voting, name) == getattr(hasher, name)
    key = TransformKey(bytes(32))
    np.testing.assert_array_equal(voting.hash(faces(3), key), hasher.hash(faces(3), key))
    for width in (SIZE + 1, SIZE // 2):
        with pytest.raises(EnrolmentError, match="whole embeddings of size 32"):
            voting.hash(np.ones((1, width), np.float32), key)


@given(st.integers(1, 6), st.integers(0, 99))
def test_the_mean_vector_against_a_loop(images, seed):
    rows = faces(images, seed)
    (centre,) = fuse(rows, "centroid")
    total = sum(row.astype(float) for row in rows)
    np.testing.assert_allclose(centre, total / np.linalg.norm(total), atol=1e-5)
    np.testing.assert_array_equal(fuse(rows, "none"), rows)


def test_what_cannot_be_fused():
    with pytest.raises(ConfigError, match="unknown fusion 'mean'"):
        fuse(faces(2), "mean")
    with pytest.raises(DataError, match="no direction"):
        fuse(np.array([[1.0, 0.0], [-1.0, 0.0]]), "centroid")
    with pytest.raises(EnrolmentError, match="finite"):
        fuse(np.array([[np.nan, 0.0]]), "majority")


@pytest.mark.parametrize("how", FUSIONS)
def test_a_gallery_of_fused_references(tmp_path, how):
    place = Place(tmp_path)
    people = faces(4)
    with place.open(create=True) as gallery:
        gallery.hasher = MajorityHasher(gallery.hasher)
        gallery.create_application("door", masked=True)
        for number, person in enumerate(people):
            images = np.stack([again(person, seed) for seed in range(number + 1)])
            new = gallery.enroll(f"s{number}", fuse(images, how), application="door")
            assert len(new) == (number + 1 if how == "none" else 1)
    with place.open() as gallery:  # an ordinary one reads what the voting one wrote
        for number, person in enumerate(people):
            probe = again(person, 50)
            assert gallery.verify(f"s{number}", probe, application="door").match
            assert gallery.identify(probe, application="door", closed=True)[0].subject_id == f"s{number}"
        assert gallery.check() == []

"""Keys of kind `part` in a gallery: every renewal moves to a fresh part, and there are few."""

import pytest

from iom.errors import EnrolmentError, RevokedError
from iom.keys import part_of
from tests.gallery.conftest import FakeHasher, again, faces


@pytest.fixture
def gallery(place):
    gallery = place.open(create=True)
    gallery.hasher = FakeHasher()
    gallery.hasher.parts = 3
    gallery.create_application("door")
    return gallery


def parts(gallery, references):
    keys = [gallery.keys.record_key("door", each.subject_id, each.record) for each in references]
    return [part_of(key, 3) for key in keys]


def test_first_template_takes_part_zero_for_everyone(gallery):
    people = [f"p{i}" for i in range(20)]
    assert parts(gallery, gallery.enroll_many(people, faces(20), application="door")) == [0] * 20


def test_renewals_take_fresh_parts_until_none_is_left(gallery):
    (face,) = faces(1)
    gallery.enroll("alice", face, application="door")
    assert parts(gallery, gallery.renew("alice", again(face, 2), application="door")) == [1]
    gallery.revoke("alice", application="door")
    assert parts(gallery, gallery.renew("alice", again(face, 3), application="door")) == [2]
    with pytest.raises(RevokedError, match="used up all 3 parts"):
        gallery.renew("alice", again(face, 4), application="door")
    assert gallery.verify("alice", again(face, 5), application="door").match


def test_another_reference_joins_the_part_of_the_valid_ones(gallery):
    (face,) = faces(1)
    gallery.enroll("alice", face, application="door")
    gallery.renew("alice", again(face, 2), application="door")
    more = gallery.enroll("alice", [again(face, 3), again(face, 4)], application="door", another=True)
    assert parts(gallery, more) == [1, 1]


def test_enrolling_anew_after_a_revocation_does_not_reuse_a_part(gallery):
    (face,) = faces(1)
    gallery.enroll("alice", face, application="door")
    gallery.revoke("alice", application="door")
    assert parts(gallery, gallery.enroll("alice", again(face, 2), application="door", allow_revoked=True)) == [1]


def test_a_common_key_is_refused(gallery):
    with pytest.raises(EnrolmentError, match="key mode 'subject'"):
        gallery.create_application("gate", key_mode="application")

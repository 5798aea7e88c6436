"""Galleries whose stored codes are compared with the keyed rows of probes."""

import dataclasses
import types
import warnings

import numpy as np
import pytest

from iom.codes.asymmetric import asymmetric_distances, row_lengths
from iom.codes.packing import unpack
from iom.errors import CodeError, ConfigError, EnrolmentError, StoreError, UnmaskedWarning
from iom.gallery.gallery import Gallery
from iom.gallery.models import Application
from iom.gallery.templates import MajorityHasher, fuse, record_keys, unmasked
from iom.gallery.transfer import export_application, import_application
from iom.keys import SubjectToken, TransformKey
from tests.gallery.conftest import FakeHasher, Place, again, faces

CALIBRATED = types.SimpleNamespace(threshold=3000, probability=lambda distance: 0.5, comparison="asymmetric")


class AsymmetricHasher(FakeHasher):
    """The same codes, with a threshold of asymmetric distances."""

    comparison, calibration = "asymmetric", CALIBRATED


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.close()


@pytest.fixture(params=[False, True], ids=["plain", "masked"])
def gallery(request, place):
    gallery = place.open(create=True)
    gallery.hasher = AsymmetricHasher()
    gallery.create_application("door", masked=request.param)
    return gallery


def by_hand(gallery, subject, probe):
    """The distance to the one reference of a subject: look-ups of the responses to the probe's row under its key."""
    (reference,) = gallery.references(subject, application="door")
    application = gallery.application("door")
    place = [(subject, reference.record, reference.epoch)]
    found = record_keys(gallery.keys, application, place)
    key = found if isinstance(found, TransformKey) else found[0]
    (code,) = unpack(unmasked(gallery.keys, application, [reference]))
    vectors, row = gallery.hasher.vectors, gallery.hasher.rows(probe[None], [key])
    product = sum(int(responses[symbol]) for responses, symbol in zip(vectors.responses(row)[0], code, strict=True))
    return int(asymmetric_distances(product, vectors.lengths(code[None])[0], row_lengths(row)[0]))


def test_a_subject_is_verified_by_its_code_and_the_row_of_the_probe(gallery):
    people = faces(4)
    for number, person in enumerate(people):
        gallery.enroll(f"s{number}", person, application="door")
    assert (gallery.application("door").comparison, gallery.application("door").threshold) == ("asymmetric", 3000)
    probe = again(people[1])
    for number in range(4):
        found = gallery.verify(f"s{number}", probe, application="door")
        assert found.match == (number == 1)
        assert found.distance == by_hand(gallery, f"s{number}", probe)
        assert found.probability == 0.5
    first, *others = gallery.identify(probe, application="door", closed=True, top=4)
    assert first.subject_id == "s1"
    assert [each.distance for each in others] == sorted(by_hand(gallery, each.subject_id, probe) for each in others)
    assert gallery.check() == []


def test_a_renewed_or_tokened_record_is_compared_under_its_own_key(gallery):
    (person,) = faces(1)
    token = SubjectToken.generate()
    gallery.enroll("alice", person, application="door", token=token)
    assert gallery.verify("alice", again(person), application="door", token=token).match
    renewed = SubjectToken.generate()
    gallery.renew("alice", person, application="door", token=renewed)
    assert gallery.verify("alice", again(person), application="door", token=renewed).match


def test_a_voted_code_is_compared_with_the_row_of_one_image(gallery):
    gallery.hasher = MajorityHasher(gallery.hasher)
    for number, person in enumerate(faces(3)):
        images = np.stack([again(person, seed) for seed in range(3)])
        gallery.enroll(f"s{number}", fuse(images, "majority"), application="door")
    for number, person in enumerate(faces(3)):
        assert gallery.verify(f"s{number}", again(person, 50), application="door").match
        assert not gallery.verify(f"s{(number + 1) % 3}", again(person, 50), application="door").match


def test_an_application_keeps_its_comparison_whatever_the_hasher_is_calibrated_for(gallery):
    """The threshold of one comparison must never meet distances of the other one."""
    one, other = faces(2)
    gallery.enroll("alice", one, application="door")
    gallery.hasher = FakeHasher()
    found = gallery.verify("alice", again(one), application="door")
    assert found.match
    assert (found.probability, found.threshold) == (None, 3000)
    assert not gallery.verify("alice", other, application="door").match
    gallery.set_threshold(50, application="door", comparison="symbols")
    assert gallery.application("door").encoding == "iom-planes/1:96x8"
    assert gallery.verify("alice", again(one), application="door").distance < 50
    assert not gallery.verify("alice", other, application="door").match
    with pytest.raises(EnrolmentError, match=r"-1 \(reject everything\) to 96 differing positions, received 3000"):
        gallery.set_threshold(3000, application="door")
    gallery.set_threshold(2500, application="door", comparison="asymmetric")
    assert gallery.verify("alice", again(one), application="door").threshold == 2500
    assert gallery.set_threshold(-1, application="door").comparison == "asymmetric"
    assert not gallery.verify("alice", one, application="door").match
    assert gallery.check() == []


def test_the_comparison_is_sealed(gallery):
    """Who changes it in the record store, where a threshold of 50 positions would reject all, or 3000 accept all."""
    settings = gallery.application("door")
    changed = dataclasses.replace(settings, encoding="iom-planes/1:96x8", threshold=96, revision=settings.revision + 1)
    gallery.store.update_application(changed, gallery.event("threshold", "door"))
    with pytest.raises(StoreError, match="changed outside of the gallery"):
        gallery.application("door")


def test_the_shape_of_codes_cannot_be_changed(gallery):
    settings = gallery.application("door")
    changed = dataclasses.replace(settings, encoding="iom-planes/1:64x8;asymmetric", revision=settings.revision + 1)
    with pytest.raises(EnrolmentError, match="its shape cannot be changed"):
        gallery.store.update_application(changed, gallery.event("threshold", "door"))


@pytest.mark.parametrize("masked", [False, True])
def test_identification_under_a_common_key_is_by_the_row_of_the_probe(place, masked):
    people = faces(30)
    with place.open(create=True) as gallery, warnings.catch_warnings():
        warnings.simplefilter("ignore", UnmaskedWarning)
        gallery.hasher = AsymmetricHasher()
        gallery.create_application("door", key_mode="application", masked=masked)
        for number, person in enumerate(people):
            gallery.enroll(f"s{number}", person, application="door")
            if number == 15:
                gallery.rotate(application="door")
        for number in (3, 20):
            probe = again(people[number])
            found = gallery.identify(probe, application="door", closed=True, top=30)
            expected = sorted((by_hand(gallery, f"s{other}", probe), other) for other in range(30))
            assert [(each.distance, int(each.subject_id[1:])) for each in found] == expected
            (match,) = gallery.identify(probe, application="door")
            assert match.subject_id == f"s{number}"
        gallery.set_threshold(50, application="door", comparison="symbols")
        assert gallery.identify(again(people[3]), application="door")[0].distance < 50
        gallery.set_threshold(3000, application="door", comparison="asymmetric")
        gallery.revoke("s3", application="door")
        assert gallery.identify(again(people[3]), application="door") == []


def test_it_is_exported_and_imported(gallery, tmp_path):
    (person,) = faces(1)
    gallery.enroll("alice", person, application="door")
    export_application(gallery, "door", tmp_path / "door.iomx")
    gallery.set_threshold(2800, application="door")
    assert import_application(gallery, tmp_path / "door.iomx").present == 1
    gallery.set_threshold(50, application="door", comparison="symbols")
    assert import_application(gallery, tmp_path / "door.iomx").present == 1
    assert gallery.application("door").comparison == "symbols"


def test_a_threshold_must_be_of_the_comparison(place):
    gallery = place.open(create=True)
    with pytest.raises(EnrolmentError, match="iom calibrate --comparison asymmetric"):
        gallery.create_application("door", comparison="asymmetric")
    with pytest.raises(ConfigError, match="asymmetric"):
        gallery.create_application("door", threshold=3, comparison="asymetric")
    made = gallery.create_application("door", threshold=20_000, comparison="asymmetric")
    assert made.encoding == "iom-planes/1:96x8;asymmetric"
    with pytest.raises(EnrolmentError, match="to 20000 ten-thousandths"):
        gallery.create_application("gate", threshold=20_001, comparison="asymmetric")


def test_shares_of_codes_are_compared_by_symbols_alone():
    with pytest.raises(EnrolmentError, match="iom calibrate --comparison symbols"):
        Application("door", "iom-planes/1:96x8;asymmetric", "model", 3000, "share")


def test_an_older_program_refuses_the_encoding(place):
    """As any unknown one: it would take the threshold for positions."""
    with pytest.raises(CodeError, match="read it with the program that wrote it"):
        Application("door", "iom-planes/1:96x8;cosine", "model", 3)


def test_a_gallery_opened_anew_compares_as_before(place):
    (person,) = faces(1)
    with place.open(create=True) as gallery:
        gallery.hasher = AsymmetricHasher()
        gallery.create_application("door")
        gallery.enroll("alice", person, application="door")
        expected = gallery.verify("alice", again(person), application="door").distance
    with place.open() as gallery:
        assert isinstance(gallery, Gallery)
        assert gallery.application("door").comparison == "asymmetric"
        assert gallery.verify("alice", again(person), application="door").distance == expected

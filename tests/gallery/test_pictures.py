"""Gallery with pictures, paths and the bundled hasher: what a newcomer writes first."""

import io

import numpy as np
import pytest
from PIL import Image

import iom
from iom.errors import EnrolmentError, FaceError, StoreNotFoundError, UnknownApplicationError
from iom.models.verification import Verification
from iom.synthetic import load_face_model


@pytest.fixture(scope="module")
def people():
    """Two images each of two persons."""
    return load_face_model().sample(2, 2, seed=5)[0]


@pytest.fixture
def door(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("iom.gallery.key_source.SCRYPT_COST", 2)
    monkeypatch.setenv("IOM_PASSPHRASE", "correct horse")
    with iom.Gallery.open("door.db", keys="door.keys", create=True) as gallery:
        yield gallery


def test_from_photographs_to_a_decision(door, people, tmp_path):
    Image.fromarray(people[0]).save("a.png")
    scene = Image.new("RGB", (400, 300), (90, 120, 90))
    scene.paste(Image.fromarray(people[0]).resize((168, 168)), (120, 60))
    scene.save("scene.jpg")
    data = io.BytesIO()
    Image.fromarray(people[2]).save(data, "PNG")
    (new,) = door.enroll("alice", "a.png")
    assert new.application == "default"
    assert len(door.enroll("bob", [people[2], data.getvalue()])) == 2
    found = door.verify("alice", "scene.jpg")
    assert isinstance(found, Verification)
    assert (found.match, found.slot) == (True, 0)
    assert not door.verify("alice", tmp_path / "a.png").distance
    assert not door.verify("alice", Image.fromarray(people[3])).match
    assert [each.subject_id for each in door.identify(people[2])] == ["bob"]
    assert len(door.renew("alice", people[:2])) == 2
    assert door.revoke("bob") == 2
    assert {name: len(some) for name, some in door.subjects().items()} == {"alice": 2, "bob": 0}
    shown = repr(door)
    assert shown.startswith("Gallery(default: 1 subjects, 2 references, 3 revoked")
    assert "default" in door._repr_html_()
    assert "horse" not in shown + door._repr_html_()
    door.close()
    assert repr(door) == "Gallery(no applications)"


def test_what_shows_no_face_is_not_enrolled_unless_asked_for(door, people):
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    rows, columns = np.mgrid[:112, :112]
    stripes = np.repeat(((rows + 2 * columns) % 32 * 8).astype(np.uint8)[:, :, None], 3, axis=2)
    door.enroll("alice", people[0])
    for bad in (np.zeros_like(noise), noise, stripes, np.roll(people[0], 40, axis=1)):
        for act in (door.enroll, door.verify, door.renew):
            with pytest.raises(FaceError, match="face") as refused:
                act("alice", bad)
            assert refused.value.status in ("no_face", "too_blurred")
    assert door.enroll("noise", noise, checked=False)
    assert door.verify("noise", noise, checked=False).distance == 0


def test_stores_and_the_application_are_made_only_when_asked_for(door, people, tmp_path):
    with pytest.raises(StoreNotFoundError, match="iom init, or create=True"):
        iom.Gallery.open("other.db", keys="door.keys")
    door.enroll("alice", people[0])
    with pytest.raises(UnknownApplicationError):
        door.enroll("alice", people[0], application="gate")
    with iom.Gallery.open(tmp_path / "door.db", keys=tmp_path / "door.keys", passphrase="correct horse") as again:
        assert again.verify("alice", people[0]).match
    with iom.Gallery.open("new.db", keys="new.keys", create=True, passphrase=lambda: "correct horse"):
        pass
    with iom.Gallery.open("new.db", keys="new.keys") as empty, pytest.raises(UnknownApplicationError):
        empty.enroll("alice", people[0])


def test_the_application_first_is_refused(door, people):
    """As it was before: no subject may get the name of an application."""
    door.create_application("gate")
    for old in (
        lambda: door.enroll("gate", "alice", people[0]),
        lambda: door.verify("gate", "alice", people[0]),
        lambda: door.identify("gate", people[0]),
        lambda: door.renew("gate", "alice", people[0]),
        lambda: door.revoke("gate", "alice"),
        lambda: door.references("gate", "alice"),
        lambda: door.rotate("gate"),
        lambda: door.set_threshold("gate", 5),
    ):
        with pytest.raises(TypeError, match="positional argument"):
            old()
    assert door.subjects(application="gate") == {}


@pytest.mark.parametrize("odd", [None, [], "nothere.jpg", ["nothere.jpg"], ["a", 1.0], {"a": 1}])
def test_what_is_neither_picture_nor_embedding_is_told(door, odd):
    with pytest.raises((EnrolmentError, FaceError), match=r"picture|embeddings"):
        door.enroll("alice", odd)

"""Tokens of subjects: a part of the key of their records that no store has."""

import contextlib
import os
import shutil
import sqlite3

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from iom.codes.distances import paired
from iom.codes.packing import pack
from iom.errors import AlreadyEnrolledError, EnrolmentError, RevokedError, StoreError, TokenError
from iom.gallery.gallery import Gallery
from iom.gallery.models import TOKEN_FIELD, metadata_text
from iom.gallery.stores.sqlite import SqliteStore
from iom.gallery.templates import record_keys, unmasked, with_token
from iom.gallery.token_files import check_new_token_file, new_token, read_token, write_token
from iom.gallery.transfer import export_application, import_application
from iom.keys import SubjectToken, TransformKey
from tests.gallery.conftest import FakeHasher, again, faces

PEOPLE = faces(40, seed=12)
TOKEN, OTHER = SubjectToken(bytes(range(32))), SubjectToken(bytes(range(1, 33)))


@pytest.fixture(params=[False, True], ids=["unmasked", "masked"])
def gallery(place, request):
    gallery = place.open(create=True)
    gallery.create_application("default", masked=request.param)
    return gallery


def test_the_derivation_never_changes():
    key = TransformKey(bytes(32)).with_token(TOKEN)
    assert key.to_text() == TransformKey.from_text(key.to_text()).to_text()
    assert key.secret.hex() == "ced0ce32ebaac4a2bce3837e45c3fc1d031e786741ca203b37a236643c361671"
    assert TOKEN.identifier == "dc4eeec98513a430e4619b41910b6f72"
    assert TOKEN.to_text() == "iom-token-1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8:d8986115"


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_key_and_token_are_both_needed(first, second):
    key, token = TransformKey(first), SubjectToken(second)
    made = key.with_token(token)
    assert made not in (key, TransformKey(second))
    assert (TransformKey(second).with_token(SubjectToken(first)) == made) == (first == second)
    assert token.identifier not in (first.hex()[:32], second.hex()[:32])


def test_a_subject_is_verified_with_its_token_alone(gallery):
    (new,) = gallery.enroll("alice", PEOPLE[0], token=TOKEN, metadata={"door": 1})
    assert new.token == TOKEN.identifier
    assert gallery.verify("alice", PEOPLE[0], token=TOKEN).distance == 0
    assert gallery.verify("alice", again(PEOPLE[0]), token=TOKEN).match
    assert not gallery.verify("alice", PEOPLE[1], token=TOKEN).match
    for token, told in ((None, "was enrolled with a token: give it"), (OTHER, "enrolled with another token")):
        with pytest.raises(TokenError, match=told) as caught:
            gallery.verify("alice", PEOPLE[0], token=token)
        assert caught.value.subject_id == "alice"
    gallery.enroll("bob", PEOPLE[1])
    with pytest.raises(TokenError, match="without a token: give none"):
        gallery.verify("bob", PEOPLE[1], token=TOKEN)
    assert gallery.check() == []


def test_it_is_refused_before_anything_is_compared(gallery, monkeypatch):
    gallery.enroll("alice", PEOPLE[0], token=TOKEN)
    monkeypatch.setattr(FakeHasher, "hash", lambda *_: 1 / 0)
    monkeypatch.setattr(Gallery, "embed", lambda *_, **__: 1 / 0)
    for token in (None, OTHER):
        with pytest.raises(TokenError):
            gallery.verify("alice", PEOPLE[0], token=token)


def test_all_references_of_a_subject_have_one_token(gallery):
    gallery.enroll("alice", PEOPLE[0], token=TOKEN)
    for token in (None, OTHER):
        with pytest.raises(TokenError):
            gallery.enroll("alice", PEOPLE[1], another=True, token=token)
    with pytest.raises(TokenError):
        gallery.enroll_many(["bob", "alice"], PEOPLE[:2], another=True)
    with pytest.raises(AlreadyEnrolledError):
        gallery.enroll("alice", PEOPLE[1], token=TOKEN)
    gallery.enroll("alice", PEOPLE[1], another=True, token=TOKEN)
    assert gallery.verify("alice", PEOPLE[1], token=TOKEN).slot == 1
    gallery.enroll("bob", PEOPLE[2])
    with pytest.raises(TokenError, match="without a token"):
        gallery.enroll("bob", PEOPLE[3], another=True, token=TOKEN)
    with pytest.raises(TokenError, match="renew it without a slot"):
        gallery.renew("alice", PEOPLE[0], slot=0, token=OTHER)


def test_a_renewal_makes_the_old_token_useless(gallery):
    gallery.enroll("alice", PEOPLE[0], token=TOKEN)
    for token, told in ((None, "a renewal needs a new one"), (TOKEN, "has this token already")):
        with pytest.raises(TokenError, match=told):
            gallery.renew("alice", PEOPLE[0], token=token)
    gallery.renew("alice", PEOPLE[0], token=OTHER)
    assert gallery.verify("alice", PEOPLE[0], token=OTHER).distance == 0
    with pytest.raises(TokenError, match="another token"):
        gallery.verify("alice", PEOPLE[0], token=TOKEN)
    gallery.enroll("bob", PEOPLE[1])
    gallery.renew("bob", PEOPLE[1], token=TOKEN)
    assert gallery.verify("bob", PEOPLE[1], token=TOKEN).distance == 0
    gallery.revoke("alice")
    with pytest.raises(RevokedError):
        gallery.verify("alice", PEOPLE[0], token=OTHER)
    gallery.enroll("alice", PEOPLE[0], allow_revoked=True)
    assert gallery.verify("alice", PEOPLE[0]).distance == 0


def test_a_search_leaves_subjects_with_a_token_out(gallery):
    gallery.enroll("alice", PEOPLE[0], token=TOKEN)
    gallery.enroll("bob", PEOPLE[1])
    assert gallery.identify(PEOPLE[0]) == []
    assert [each.subject_id for each in gallery.identify(PEOPLE[0], top=5, closed=True)] == ["bob"]


def test_a_token_needs_a_key_for_each_record(gallery, monkeypatch):
    gallery.create_application("gate", key_mode="application")
    for verb in (gallery.enroll, gallery.renew):
        if verb == gallery.renew:
            gallery.enroll("alice", PEOPLE[0], application="gate")
            gallery.rotate(application="gate")
        with pytest.raises(EnrolmentError, match="a token needs a key for each record"):
            verb("alice", PEOPLE[0], application="gate", token=TOKEN)
    monkeypatch.setattr(FakeHasher, "parts", 2)
    with pytest.raises(EnrolmentError, match="'part'"):
        gallery.enroll("bob", PEOPLE[0], token=TOKEN)


def test_the_name_in_the_metadata_is_taken(gallery):
    with pytest.raises(EnrolmentError, match=r"'iom\.token' is taken"):
        gallery.enroll("alice", PEOPLE[0], metadata={TOKEN_FIELD: "x"})
    assert metadata_text(None, token="x") == '{"iom.token":"x"}'


@pytest.mark.parametrize("metadata", ["{}", '{"iom.token":"' + OTHER.identifier + '"}', '{"iom.token":' + "[" * 4000])
def test_nobody_takes_the_need_of_a_token_away(gallery, place, metadata):
    gallery.enroll("alice", PEOPLE[0], token=TOKEN)
    with contextlib.closing(sqlite3.connect(place.database)) as connection, connection:
        connection.execute("UPDATE reference_codes SET metadata = ?", (metadata,))
    for token in (None, OTHER, TOKEN):
        with pytest.raises(StoreError, match="changed outside"):
            gallery.verify("alice", PEOPLE[0], token=token)


def test_it_outlives_export_and_import_and_masks(gallery, place):
    gallery.enroll("alice", PEOPLE[0], token=TOKEN)
    gallery.mask()
    assert gallery.verify("alice", PEOPLE[0], token=TOKEN).distance == 0
    export_application(gallery, "default", place.folder / "door.iomx")
    with SqliteStore(place.folder / "new.db", create=True) as store:
        other = Gallery(store, gallery.keys, FakeHasher())
        assert import_application(other, place.folder / "door.iomx").added == 1
        assert other.verify("alice", PEOPLE[0], token=TOKEN).distance == 0
        with pytest.raises(TokenError):
            other.verify("alice", PEOPLE[0])


def test_no_file_and_no_text_holds_a_token(gallery, place):
    gallery.enroll("alice", PEOPLE[0], token=TOKEN)
    export_application(gallery, "default", place.folder / "door.iomx")
    content = b"".join(path.read_bytes() for path in place.folder.iterdir())
    text = TOKEN.to_text().split(":")[1].encode()
    for secret in (TOKEN.secret, text, TOKEN.secret.hex().encode()):
        assert secret not in content
    assert TOKEN.identifier.encode() in content
    assert text.decode() not in f"{gallery.references('alice')} {TOKEN!r} {gallery!r}"


@pytest.mark.parametrize("has_token", [False, True])
def test_both_stores_without_the_token_accept_no_better_than_chance(gallery, has_token):
    """Whoever has record store, key store and the very faces: with the token the control, without it chance.

    The thief leaves out the check and computes the codes himself, under the keys that the stores give, and under
    tokens that he guesses.
    """
    tokens = [SubjectToken.generate() for _ in PEOPLE]
    for number, row in enumerate(PEOPLE):
        gallery.enroll(f"p{number}", row, token=tokens[number])
    application, threshold = gallery.application("default"), gallery.application("default").threshold
    distances = []
    for number, row in enumerate(PEOPLE):
        (reference,) = gallery.references(f"p{number}")
        stored = unmasked(gallery.keys, application, [reference])
        keys = record_keys(gallery.keys, application, [(reference.subject_id, reference.record, reference.epoch)])
        for token in [tokens[number]] if has_token else [None, *(SubjectToken.generate() for _ in range(5))]:
            code = FakeHasher().hash(row[None], with_token(keys, token))
            distances += paired(pack(code, 8), stored).tolist()
    accepted = np.mean(np.array(distances) <= threshold)
    if has_token:
        assert distances == [0] * len(PEOPLE)
    else:
        assert accepted == 0
        assert abs(np.mean(distances) - 96 * 7 / 8) < 5  # symbols of eight, drawn: the threshold is 50


def test_a_text_file(tmp_path):
    path = tmp_path / "alice.token"
    write_token(path, TOKEN)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == TOKEN.to_text() + "\n"
    assert len(TOKEN.to_text()) == 64
    assert read_token(path) == TOKEN
    for act in (lambda: write_token(path, OTHER), lambda: check_new_token_file(path)):
        with pytest.raises(TokenError, match="a file already"):
            act()
    assert read_token(path) == TOKEN


@given(st.binary(max_size=1100))
def test_a_hostile_file_is_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "hostile.token"
    path.write_bytes(content)
    with pytest.raises(TokenError):
        read_token(path)


@given(st.integers(0, 64), st.sampled_from([b"", b"x", b"\0", b"\xff", b"A", b"\n"]))
def test_a_damaged_text_is_refused_and_not_shown(tmp_path_factory, place, piece):
    path = tmp_path_factory.getbasetemp() / "damaged.token"
    whole = TOKEN.to_text().encode()
    damaged = whole[:place] + piece + whole[place + 1 :]
    path.write_bytes(damaged)
    if damaged.strip() == whole:
        assert read_token(path) == TOKEN
        return
    with pytest.raises(TokenError) as caught:
        read_token(path)
    body = TOKEN.to_text().split(":")[1]
    assert not any(body[start : start + 6] in str(caught.value) for start in range(len(body) - 6))


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "large"])
def test_no_token_file(tmp_path, kind):
    path = tmp_path / "alice.token"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        path.write_text(TOKEN.to_text() + " " * 2000)
    with pytest.raises(TokenError, match="cannot be read"):
        read_token(path)


class TestQrCodes:
    """PNG with a QR code."""

    segno = pytest.importorskip("segno", reason="needs the extra qr")
    pytest.importorskip("zxingcpp", reason="needs the extra qr")

    def test_there_and_back(self, tmp_path):
        path = tmp_path / "alice.png"
        write_token(path, TOKEN)
        assert path.stat().st_mode & 0o777 == 0o600
        assert read_token(path) == TOKEN
        with pytest.raises(TokenError, match="a file already"):
            write_token(path, OTHER)

    def test_a_photograph_of_it_is_read(self, tmp_path):
        write_token(tmp_path / "alice.png", TOKEN)
        with Image.open(tmp_path / "alice.png") as code:
            page = Image.new("RGB", (900, 700), "white")
            page.paste(code.convert("RGB").resize((330, 330)), (250, 150))
            page.rotate(8, fillcolor="grey").save(tmp_path / "photo.jpg", quality=60)
        assert read_token(tmp_path / "photo.jpg") == TOKEN

    def test_a_picture_without_one_token_is_refused(self, tmp_path):
        path = tmp_path / "x.png"
        Image.new("RGB", (200, 200), "white").save(path)
        with pytest.raises(TokenError, match="expected the QR code of a token, found none"):
            read_token(path)
        for text in ("https://example.org", "iom-token-1:", TOKEN.to_text()[:-1], "iom-key-1:" + "A" * 43):
            self.segno.make_qr(text).save(str(path), scale=4)
            with pytest.raises(TokenError, match="token"):
                read_token(path)
        page = Image.new("RGB", (900, 450), "white")
        for place, token in enumerate((TOKEN, OTHER)):
            write_token(tmp_path / f"{place}.png", token)
            with Image.open(tmp_path / f"{place}.png") as code:
                page.paste(code.convert("RGB").resize((360, 360)), (40 + 440 * place, 40))
        page.save(path)
        with pytest.raises(TokenError, match="one token, found 2"):
            read_token(path)

    def test_a_hostile_picture_is_refused(self, tmp_path):
        write_token(tmp_path / "alice.png", TOKEN)
        whole, path = (tmp_path / "alice.png").read_bytes(), tmp_path / "x.png"
        random = np.random.default_rng(1)
        contents = [b"", b"\x89PNG\r\n\x1a\n", whole[: len(whole) // 2], b"<svg/>", TOKEN.to_text().encode()]
        header = whole[:16] + (60_000).to_bytes(4, "big") * 2 + whole[24:]
        for content in [*contents, header, random.bytes(5000)]:
            path.write_bytes(content)
            with pytest.raises(TokenError):
                read_token(path)
        for _ in range(100):
            damaged = bytearray(whole)
            damaged[random.integers(len(whole))] ^= 1 << random.integers(8)
            path.write_bytes(damaged)
            with contextlib.suppress(TokenError):
                assert read_token(path) == TOKEN

    def test_another_suffix_of_a_picture_is_refused(self, tmp_path):
        with pytest.raises(TokenError, match=r"expected a name that ends in \.png"):
            check_new_token_file(tmp_path / "alice.jpg")


@pytest.mark.parametrize(("error", "stays"), [(EnrolmentError, False), (StoreError, True), (KeyboardInterrupt, True)])
def test_a_token_of_a_refused_enrolment_is_removed(tmp_path, error, stays):
    """Where the enrolment may have been written, the token is kept."""
    path = tmp_path / "alice.token"

    def refused():
        with new_token(path) as token:
            assert read_token(path) == token
            raise error("no")

    with pytest.raises(error):
        refused()
    assert path.exists() is stays


def test_an_older_gallery_has_no_tokens(root, tmp_path):
    shutil.copytree(root / "tests/fixtures/edition_1/gallery", tmp_path / "gallery")
    with SqliteStore(tmp_path / "gallery/gallery.db") as store:
        assert {each.token for page in store.pages("default") for each in page} == {""}

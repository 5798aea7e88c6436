"""Cards: sealed templates as QR codes, for which nothing is stored."""

import contextlib
import dataclasses
import datetime
import hashlib
import hmac
import itertools
import re
import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from iom.codes.asymmetric import CodeVectors, keyed_rows
from iom.errors import CardError, CodeError, ConfigError, DataError, RevokedError, StoreError
from iom.gallery.cards import Card, read_revoked
from iom.gallery.key_source import passphrase_seal
from iom.gallery.key_store import KeyStore
from iom.keys import TransformKey
from iom.models.artifact import Calibration
from iom.models.face_hasher import FaceHasher

pytest.importorskip("base45", reason="needs the extra qr")
pytest.importorskip("segno", reason="needs the extra qr")
pytest.importorskip("zxingcpp", reason="needs the extra qr")

SIZE = 64
KEY, OTHER = TransformKey(bytes(range(32))), TransformKey(bytes(range(1, 33)))
END = datetime.datetime(2100, 1, 31, 23, 59, 59, tzinfo=datetime.UTC)


class MatrixHasher(FaceHasher):
    """Index-of-Max of a Gaussian matrix behind a permutation, of any shape; a picture is an embedding."""

    name, embedding_size, key_size, keep, key_kind = "matrix", SIZE, SIZE, 0, "permutation"
    embedder = head = check_embedder = with_batch_size = save_calibration = summary = None
    fingerprint = ""

    def __init__(self, code_length=256, alphabet_size=2, seed=7, fingerprint=""):
        self.code_length, self.alphabet_size = code_length, alphabet_size
        self.fingerprint = fingerprint or hashlib.sha256(f"{code_length} {alphabet_size} {seed}".encode()).hexdigest()
        self.matrix = np.random.default_rng(seed).normal(size=(SIZE, code_length * alphabet_size))
        chance = code_length * (1 - 1 / alphabet_size)
        self.calibration = Calibration(threshold=int(0.5 * chance), fmr=1e-3, fnmr=0.1, subjects=9, keys=2)

    def embed_picture(self, picture, *, detector=None, checked=True):
        return np.asarray(picture, np.float32)

    def _hash_batch(self, embeddings, orders):
        rows = np.take_along_axis(embeddings, orders, axis=1) @ self.matrix
        return rows.reshape(-1, self.code_length, self.alphabet_size).argmax(-1).astype(np.uint8)


class AsymmetricHasher(MatrixHasher):
    """The same, whose codes are compared with keyed rows."""

    def __init__(self):
        super().__init__()
        self.calibration = dataclasses.replace(self.calibration, threshold=5000, comparison="asymmetric")

    @property
    def vectors(self):
        return CodeVectors.of_kernel(self.matrix, self.alphabet_size)

    def rows(self, embeddings, keys):
        return keyed_rows(embeddings[:, keys.permutation(SIZE)])


HASHER = MatrixHasher()
FACES = np.random.default_rng(3).normal(size=(4, SIZE))
AGAIN = FACES + 0.2 * np.random.default_rng(4).normal(size=FACES.shape)


@pytest.fixture(scope="module")
def card():
    return Card.issue(FACES[0], hasher=HASHER, key=KEY, subject_id="alice", valid_until=END)


def siv(keys, sealed, associated):
    """AES-SIV (RFC 5297) of its parts: what the docs tell another reader to do."""

    def cmac(message):
        mac = CMAC(algorithms.AES(keys[:32]))
        mac.update(message)
        return mac.finalize()

    def doubled(block):
        number = int.from_bytes(block, "big") << 1
        return (number % (1 << 128) ^ (0x87 if number >> 128 else 0)).to_bytes(16, "big")

    def xored(a, b):
        return bytes(x ^ y for x, y in zip(a, b, strict=True))

    tag, counter = sealed[:16], bytearray(sealed[:16])
    counter[8] &= 0x7F
    counter[12] &= 0x7F
    plain = Cipher(algorithms.AES(keys[32:]), modes.CTR(bytes(counter))).decryptor().update(sealed[16:])
    block = cmac(bytes(16))
    for part in associated:
        block = xored(doubled(block), cmac(part))
    if len(plain) >= 16:
        last = plain[:-16] + xored(plain[-16:], block)
    else:
        last = xored(doubled(block), (plain + b"\x80").ljust(16, b"\0"))
    assert cmac(last) == tag
    return plain


def read_by_the_document(payload, secret, fingerprint):
    """What is under the seal, and the transform key, by the table of docs/cards.md alone."""
    derived = hmac.digest(secret, b"iom/card/v1\0" + payload[9:25], "sha256")
    expanded, block = b"", b""
    for number in (1, 2, 3):
        block = hmac.digest(derived, block + b"iom/card/keys/v1" + bytes([number]), "sha256")
        expanded += block
    return siv(expanded[32:], payload[25:], [payload[:25], bytes.fromhex(fingerprint)]), expanded[:32]


def test_a_card_is_verified_without_a_store(card):
    assert card.verify(AGAIN[0], hasher=HASHER, key=KEY).match
    assert not card.verify(AGAIN[1], hasher=HASHER, key=KEY).match
    content = card.open(hasher=HASHER, key=KEY)
    assert (content.subject_id, content.valid_until) == ("alice", END)
    np.testing.assert_array_equal(content.code, HASHER.hash(FACES[:1].astype(np.float32), content.key)[0])
    assert Card.from_text(card.to_text()) == card


@pytest.mark.parametrize(
    ("code_length", "alphabet_size", "code_bytes"),
    [(128, 2, 16), (16, 256, 16), (256, 2, 32), (64, 16, 32), (512, 2, 64), (1536, 2, 192), (512, 8, 192), (7, 3, 2)],
)
def test_sizes(code_length, alphabet_size, code_bytes, tmp_path):
    hasher = MatrixHasher(code_length, alphabet_size)
    card = Card.issue(FACES[0], hasher=hasher, key=KEY)
    assert len(card.payload) == code_bytes + 45
    if code_bytes == 32:
        assert len(card.payload) <= 80
    card.save(tmp_path / "x.png")
    found = Card.read(tmp_path / "x.png")
    assert found == card
    assert found.verify(FACES[0], hasher=hasher, key=KEY).distance == 0


def test_a_code_of_32_bytes_takes_a_qr_code_of_37_modules(tmp_path):
    Card.issue(FACES[0], hasher=HASHER, key=KEY).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (360, 360)  # version 5: 37 modules and a margin of 4 on either side, of 8 pixels


@given(st.data())
def test_whatever_is_altered_is_refused(card, data):
    place = data.draw(st.integers(0, len(card.payload) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != card.payload[place]))
    with pytest.raises(CardError):
        Card(card.payload[:place] + bytes([value]) + card.payload[place + 1 :]).open(hasher=HASHER, key=KEY)


def test_every_altered_byte_is_refused(card):
    for place in range(len(card.payload)):
        altered = bytearray(card.payload)
        altered[place] ^= 1 << place % 8
        expected = "unreadable" if place == 0 else "other_hasher" if place < 9 else "not_sealed"
        with pytest.raises(CardError) as caught:
            Card(bytes(altered)).open(hasher=HASHER, key=KEY)
        assert caught.value.status == expected


@given(st.binary(max_size=120) | st.binary(min_size=46, max_size=120).map(lambda rest: b"\x01" + rest))
def test_hostile_payloads_are_refused(payload):
    with pytest.raises(CardError):
        Card(payload).open(hasher=HASHER, key=KEY)


@given(st.text(max_size=60) | st.text("0123456789ABCDEF $%*+-./:", max_size=150))
def test_hostile_texts_are_refused(text):
    for each in (text, "IOM:" + text):
        with pytest.raises(CardError):
            Card.from_text(each).open(hasher=HASHER, key=KEY)


def test_cut_longer_and_newer_cards_are_refused(card):
    for payload in (b"", card.payload[:-1], card.payload + b"\0", card.payload[:45], card.payload[:25]):
        with pytest.raises(CardError):
            Card(payload).open(hasher=HASHER, key=KEY)
    with pytest.raises(CardError, match=r"expected version 1, .* received version 2"):
        Card(b"\x02" + card.payload[1:])
    with pytest.raises(CardError, match="at most 4296 characters"):
        Card.from_text("IOM:" + "0" * 5000)


def test_another_key_and_another_hasher_are_refused(card):
    with pytest.raises(CardError, match="made under another key") as caught:
        card.verify(FACES[0], hasher=HASHER, key=OTHER)
    assert caught.value.status == "not_sealed"
    with pytest.raises(CardError, match="made with another hasher") as caught:
        card.verify(FACES[0], hasher=MatrixHasher(seed=8), key=KEY)
    assert caught.value.status == "other_hasher"
    same_start = MatrixHasher(seed=8, fingerprint=HASHER.fingerprint[:16] + "0" * 48)
    with pytest.raises(CardError, match="its seal does not hold"):
        card.open(hasher=same_start, key=KEY)


def test_a_sealed_card_without_a_code_is_refused():
    """Whoever has the key can seal anything."""
    few = MatrixHasher(16, 2, fingerprint=HASHER.fingerprint)
    three, four = (MatrixHasher(128, size, fingerprint="00" * 32) for size in (3, 4))
    for made, read in ((few, HASHER), (four, three)):
        with pytest.raises(CardError, match="holds no code of this hasher"):
            Card.issue(FACES[0], hasher=made, key=KEY).open(hasher=read, key=KEY)
    with pytest.raises(CodeError, match="expected a code of the hasher"):
        MatrixHasher(seed=9).compare(
            Card.issue(FACES[0], hasher=HASHER, key=KEY).open(hasher=HASHER, key=KEY).code, 0, KEY
        )


def test_a_card_expires_after_its_last_second(card):
    last = END.timestamp()
    assert card.open(hasher=HASHER, key=KEY, now=last + 0.9).valid_until == END
    with pytest.raises(CardError, match="expired at 2100-01-31T23:59:59") as caught:
        card.open(hasher=HASHER, key=KEY, now=last + 1)
    assert caught.value.status == "expired"
    unlimited = Card.issue(FACES[0], hasher=HASHER, key=KEY)
    assert unlimited.open(hasher=HASHER, key=KEY, now=2**40).valid_until is None
    for year in (1970, 2020, 2107):
        with pytest.raises(ConfigError, match="from now to the year 2105"):
            Card.issue(FACES[0], hasher=HASHER, key=KEY, valid_until=datetime.datetime(year, 1, 1))


def test_revoked_cards_are_refused(card, tmp_path):
    path = tmp_path / "revoked.txt"
    path.write_text(f"# lost\n\n{'0' * 32}\n{card.serial.upper()} alice, 2026-11-27\n")
    revoked = read_revoked(path)
    assert revoked == {"0" * 32, card.serial}
    with pytest.raises(RevokedError, match=card.serial):
        card.verify(AGAIN[0], hasher=HASHER, key=KEY, revoked=revoked)
    assert card.verify(AGAIN[0], hasher=HASHER, key=KEY, revoked={"0" * 32}).match


@pytest.mark.parametrize("content", ["alice\n", "0" * 31, "0" * 33, "0" * 32 + "\nx", b"\xff"])
def test_a_list_that_cannot_be_read_refuses_all(content, tmp_path):
    path = tmp_path / "revoked.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError):
        read_revoked(path)
    with pytest.raises(DataError, match="cannot read the list"):
        read_revoked(tmp_path / "absent")


def test_a_card_tells_nothing_without_its_key(card):
    """Cards of one face under one key have nothing in common but the name of the hasher, and hold no code."""
    cards = [Card.issue(FACES[0], hasher=HASHER, key=KEY, subject_id="alice") for _ in range(200)]
    assert len({each.serial for each in cards}) == 200
    bodies = np.array([list(each.payload[9:]) for each in cards])
    assert np.mean(bodies[:100] == bodies[100:]) < 0.02  # chance: 0.4 %
    assert {each.payload[:9] for each in cards} == {b"\x01" + bytes.fromhex(HASHER.fingerprint)[:8]}
    content = card.open(hasher=HASHER, key=KEY)
    assert np.packbits(content.code).tobytes() not in card.payload
    assert b"alice" not in card.payload
    opened = [each.open(hasher=HASHER, key=KEY) for each in cards[:50]]
    agreement = np.mean([np.asarray(a.code) == np.asarray(b.code) for a, b in itertools.pairwise(opened)])
    assert 0.4 < agreement < 0.6  # each code is under a key of its own


def test_nothing_secret_is_shown(card):
    content = card.open(hasher=HASHER, key=KEY)
    for text in (repr(card), str(card), repr(content)):
        assert "[" not in text
        assert not re.search(r"\\x", text)
    assert repr(card) == f"Card('{card.serial}', hasher {HASHER.fingerprint[:16]})"


def test_keys_of_a_key_store(card, tmp_path):
    stores = []
    for name in "ab":
        stores.append(KeyStore.open(tmp_path / name, passphrase_seal("correct horse", cost=2), create=True))
    made = Card.issue(FACES[0], hasher=HASHER, key=stores[0])
    stores[0].close()
    with KeyStore.open(tmp_path / "a", passphrase_seal("correct horse", cost=2)) as again:
        assert made.verify(AGAIN[0], hasher=HASHER, key=again).match
    for key in (stores[1], KEY):
        with pytest.raises(CardError, match="another key"):
            made.open(hasher=HASHER, key=key)
    stores[1].close()
    with pytest.raises(StoreError, match="closed"):
        made.open(hasher=HASHER, key=stores[0])


def test_another_reader_by_the_document(card):
    content, transform = read_by_the_document(card.payload, KEY.secret, HASHER.fingerprint)
    assert struct.unpack(">I", content[:4])[0] == END.timestamp()
    assert content[36:] == b"alice"
    opened = card.open(hasher=HASHER, key=KEY)
    assert opened.key.secret == transform
    assert np.packbits(opened.code).tobytes() == content[4:36]


def test_the_test_vector_of_the_document(root):
    page = (root / "docs" / "cards.md").read_text(encoding="utf-8")
    given = dict(re.findall(r"^(\w+) +(\S+)$", re.search(r"```text\n(.*?)```", page, flags=re.S)[1], flags=re.M))
    hasher = MatrixHasher(8, 4, fingerprint=given["fingerprint"])
    key = TransformKey(bytes.fromhex(given["key"]))
    card = Card.from_text(given["text"])
    assert card.payload.hex() == given["payload"]
    content = card.open(hasher=hasher, key=key, now=0)
    assert "".join(map(str, content.code.symbols)) == given["symbols"]
    assert content.subject_id == given["subject"]
    assert content.valid_until.isoformat() == given["until"]
    assert content.key.secret.hex() == given["transform"]
    plain, transform = read_by_the_document(card.payload, key.secret, given["fingerprint"])
    assert (plain.hex(), transform.hex()) == (given["plain"], given["transform"])


def test_a_subject_id_has_an_end():
    assert Card.issue(FACES[0], hasher=HASHER, key=KEY, subject_id="ü" * 32).open(hasher=HASHER, key=KEY).subject_id
    with pytest.raises(ConfigError, match="at most 64 bytes, received 66"):
        Card.issue(FACES[0], hasher=HASHER, key=KEY, subject_id="ü" * 33)


def test_an_asymmetric_hasher_compares_its_way(card):
    """Whatever the calibration says; the oracle is the comparator itself on the card's code."""
    hasher = AsymmetricHasher()
    made = Card.issue(FACES[0], hasher=hasher, key=KEY)
    found, other = (made.verify(face, hasher=hasher, key=KEY) for face in (AGAIN[0], AGAIN[1]))
    content = made.open(hasher=hasher, key=KEY)
    stored = hasher.vectors.read_back(np.asarray(content.code)[None])[0]
    row = hasher.rows(AGAIN[:1].astype(np.float32), content.key)[0].astype(np.float64)
    cosine = stored @ row / np.sqrt((stored @ stored) * (row @ row))
    assert found.distance == np.rint(10_000 * (1 - cosine))
    assert found.match
    assert not other.match


class TestPictures:
    """Files of cards and photographs of them."""

    def test_there_and_back(self, card, tmp_path):
        path = tmp_path / "alice.png"
        card.save(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert Card.read(path) == card
        before = path.read_bytes()
        with pytest.raises(DataError, match="a file already"):
            card.save(path)
        assert path.read_bytes() == before

    def test_to_print(self, card, tmp_path):
        card.save(tmp_path / "x.svg")
        card.save(tmp_path / "x.PDF")
        assert b"<svg" in (tmp_path / "x.svg").read_bytes()
        assert (tmp_path / "x.PDF").read_bytes().startswith(b"%PDF")
        with pytest.raises(ConfigError, match=r"ends in \.png, \.svg, \.pdf"):
            card.save(tmp_path / "x.jpg")

    @pytest.mark.parametrize("code_length", [256, 1536])
    @pytest.mark.parametrize("angle", [0, 8, 33, 90, 171])
    def test_a_photograph_of_it_is_read(self, code_length, angle, tmp_path):
        hasher = MatrixHasher(code_length)
        card = Card.issue(FACES[0], hasher=hasher, key=KEY)
        card.save(tmp_path / "alice.png")
        with Image.open(tmp_path / "alice.png") as code:
            side = 330 if code_length == 256 else 480
            page = Image.new("RGB", (1000, 900), (236, 233, 224))
            page.paste(code.convert("RGB").resize((side, side), Image.Resampling.BICUBIC), (300, 200))
        page = page.rotate(angle, Image.Resampling.BICUBIC, fillcolor="grey")
        page = page.transform(  # seen from the side
            page.size, Image.Transform.QUAD, (0, 0, 30, 900, 1000, 860, 960, 40), Image.Resampling.BICUBIC
        )
        page = page.filter(ImageFilter.GaussianBlur(1.2))
        noisy = np.asarray(page) + np.random.default_rng(1).normal(0, 12, (900, 1000, 3))
        Image.fromarray(noisy.clip(40, 225).astype(np.uint8)).save(tmp_path / "photo.jpg", quality=60)
        assert Card.read(tmp_path / "photo.jpg") == card

    def test_one_card_among_other_qr_codes(self, card, tmp_path):
        import segno

        segno.make_qr("https://example.org").save(str(tmp_path / "url.png"), scale=8)
        card.save(tmp_path / "card.png")
        Card.issue(FACES[1], hasher=HASHER, key=KEY).save(tmp_path / "other.png")
        path = tmp_path / "page.png"

        def paste(*names):
            page = Image.new("RGB", (1300, 450), "white")
            for place, name in enumerate(names):
                with Image.open(tmp_path / f"{name}.png") as code:
                    page.paste(code.convert("RGB").resize((360, 360)), (40 + 420 * place, 40))
            page.save(path)
            return path

        assert Card.read(paste("card", "url")) == card
        assert Card.read(paste("card", "url", "card")) == card
        for names, found in ((("url",), "none"), (("card", "other"), "2"), ((), "none")):
            with pytest.raises(CardError, match=f"the QR code of one card, found {found}") as caught:
                Card.read(paste(*names))
            assert caught.value.status == "unreadable"
        segno.make_qr("IOM:X").save(str(path), scale=8)
        with pytest.raises(CardError, match=r"page\.png: card: its text is damaged"):
            Card.read(path)

    def test_a_hostile_picture_is_refused(self, card, tmp_path):
        card.save(tmp_path / "alice.png")
        whole, path = (tmp_path / "alice.png").read_bytes(), tmp_path / "x.png"
        random = np.random.default_rng(1)
        header = whole[:16] + (60_000).to_bytes(4, "big") * 2 + whole[24:]
        for content in [b"", b"\x89PNG\r\n\x1a\n", whole[: len(whole) // 2], b"<svg/>", header, random.bytes(5000)]:
            path.write_bytes(content)
            with pytest.raises(CardError):
                Card.read(path)
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[random.integers(len(whole))] ^= 1 << random.integers(8)
            path.write_bytes(damaged)
            with contextlib.suppress(CardError):
                assert Card.read(path) == card
        for absent in (tmp_path / "absent.png", tmp_path):
            with pytest.raises(CardError, match="expected a picture of a card"):
                Card.read(absent)

"""`iom card` and `iom verify-card`: arguments, exit codes and what is left behind."""

import json
import os
import re

import pytest
from PIL import Image

from iom.cli.main import main
from iom.gallery.cards import Card
from iom.gallery.key_store import open_key_store
from iom.keys import TransformKey
from tests.gallery.test_cards import AGAIN, FACES, MatrixHasher

KEY = TransformKey(bytes(range(32)))


class NumberedHasher(MatrixHasher):
    """The face is the number in the file's name; 9 is another image of 0."""

    loaded = 0

    def embed_picture(self, path, *, detector=None, checked=True):
        number = int(path.stem)
        return super().embed_picture(AGAIN[0] if number == 9 else FACES[number])


@pytest.fixture
def iom(tmp_path, monkeypatch, capsys):
    def load(path, *, weights):
        NumberedHasher.loaded += 1
        return NumberedHasher(seed=8 if path == "other" else 7)

    monkeypatch.setattr("iom.models.face_hasher.load", load)
    monkeypatch.setattr("iom.gallery.key_source.SCRYPT_COST", 2)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("IOM_")]:
        monkeypatch.delenv(name)
    for number in (0, 1, 9):
        Image.new("L", (112, 112)).save(f"{number}.jpg")
    (tmp_path / "door.key").write_text(KEY.to_text() + "\n")
    (tmp_path / "other.key").write_text(TransformKey(bytes(32)).to_text())

    def run(line):
        NumberedHasher.loaded = 0
        code = main(line.split())
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_from_a_photograph_to_a_decision(iom, tmp_path):
    code, out, _ = iom("card 0.jpg --key-file door.key --out alice.png --subject alice")
    serial = Card.read("alice.png").serial
    assert (code, out) == (0, f"alice.png: 82 bytes; note its serial number to revoke it: {serial}\n")
    code, out, _ = iom("verify-card alice.png 9.jpg --key-file door.key")
    assert code == 0
    assert re.fullmatch(r"alice: match: distance \d+, threshold 64\n", out)
    code, out, _ = iom("verify-card alice.png 1.jpg --key-file door.key")
    assert code == 1
    assert out.startswith("alice: no match: distance")
    (tmp_path / "revoked.txt").write_text(f"{serial}  lost\n")
    code, _, err = iom("verify-card alice.png 9.jpg --key-file door.key --revoked revoked.txt")
    assert (code, err) == (4, f"error: card {serial}: revoked\n")


def test_json(iom):
    code, out, _ = iom("card 0.jpg --key-file door.key --output a.svg --valid-until 2099-01-31 --json")
    made = json.loads(out)
    assert code == 0
    assert made.pop("text").startswith("IOM:")
    serial = made.pop("serial")
    assert made == {"card": "a.svg", "bytes": 77, "subject": "", "valid_until": "2099-01-31T23:59:59+00:00"}
    iom("card 0.jpg --key-file door.key --output a.png --valid-until 2099-01-31T18:00+01:00")
    found = json.loads(iom("verify-card a.png 9.jpg --key-file door.key --json")[1])
    assert found.pop("serial") != serial
    assert found.pop("distance") <= found.pop("threshold")
    assert found == {"subject": "", "valid_until": "2099-01-31T17:00:00+00:00", "match": True, "probability": None}
    code, out, _ = iom("verify-card a.png 9.jpg --key-file other.key --json")
    error = json.loads(out)["error"]
    assert (code, error["type"], error["status"], error["exit_code"]) == (7, "CardError", "not_sealed", 7)


def test_the_key_of_the_environment_and_of_a_key_store(iom, monkeypatch):
    monkeypatch.setenv("IOM_KEY", KEY.to_text())
    assert iom("card 0.jpg --out a.png")[0] == 0
    assert iom("verify-card a.png 9.jpg --key-file door.key")[0] == 0
    open_key_store("file:g.keys?key-file=g.wrap", create=True).close()
    assert iom("card 0.jpg --keys file:g.keys?key-file=g.wrap --out b.png")[0] == 0
    assert iom("verify-card b.png 9.jpg --keys file:g.keys?key-file=g.wrap")[0] == 0
    assert iom("verify-card b.png 9.jpg")[0] == 7  # the key of the environment
    (code, _, err) = iom("verify-card b.png 9.jpg --keys file:absent.keys?key-file=g.wrap")
    assert (code, "absent.keys" in err) == (6, True)


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("card 0.jpg --out a.png", 6, "expected a key: --key-file FILE"),
        ("card 0.jpg --out a.png --passphrase-file door.key", 6, "--keys PATH_OR_URL"),
        ("card 0.jpg --out a.png --key-file absent.key", 6, "absent.key: cannot read the key"),
        ("card 0.jpg --out a.png --key-file 0.jpg", 6, "0.jpg: cannot read the key"),
        ("card 0.jpg --out a.png --key-file door.key --keys x", 2, "exclude each other"),
        ("card 0.jpg --out a.jpg --key-file door.key", 2, "a.jpg: expected a name that ends in .png, .svg, .pdf"),
        ("card 0.jpg --out 1.jpg --key-file door.key", 2, "expected a name that ends in"),
        ("card absent.jpg --out a.png --key-file door.key", 2, "absent.jpg: cannot read the image"),
        ("card door.key --out a.png --key-file door.key", 5, "received something else"),
        ("card 0.jpg --out a.png --key-file door.key --valid-until tomorrow", 2, "2027-01-31T18:00, received"),
        ("card 0.jpg --out a.png --key-file door.key --valid-until 2020-01-31", 2, "from now to the year 2105"),
        ("card 0.jpg --key-file door.key", 2, "missing option"),
        ("verify-card 0.jpg 9.jpg --key-file door.key", 7, "the QR code of one card, found none"),
        ("verify-card absent.png 9.jpg --key-file door.key", 7, "absent.png: cannot read"),
        ("verify-card card.png absent.jpg --key-file door.key", 2, "absent.jpg: cannot read the image"),
        ("verify-card card.png 9.jpg --key-file other.key", 7, "made under another key"),
        ("verify-card card.png 9.jpg --key-file door.key --hasher other", 7, "made with another hasher"),
        ("verify-card card.png 9.jpg --key-file door.key --revoked absent.txt", 2, "the list of revoked cards"),
        ("verify-card card.png 9.jpg --key-file door.key --revoked door.key", 2, "door.key: line 1: expected"),
        ("verify-card card.png 9.jpg --key-file door.key --fmr 0.5", 2, "expected one of its false match rates"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(iom, tmp_path, line, code, told):
    Card.issue(FACES[0], hasher=MatrixHasher(), key=KEY).save("card.png")
    before = {path.name for path in tmp_path.iterdir()}
    found, out, err = iom(line)
    assert (found, out) == (code, "")
    assert told in err
    assert err.count("\n") == 1
    assert KEY.to_text()[12:40] not in err
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_mistake_is_told_before_a_model_is_loaded(iom):
    iom("card 0.jpg --key-file door.key --out a.png")
    assert iom("card 0.jpg --key-file door.key --out a.png")[0] == 2  # never replaced
    assert NumberedHasher.loaded == 0
    for line in ("verify-card 0.jpg 9.jpg --key-file door.key", "verify-card a.png 9.jpg", "card 0.jpg --out b.png"):
        assert iom(line)[0] in (6, 7)
        assert NumberedHasher.loaded == 0


def test_no_secret_is_printed(iom):
    texts = "".join(iom("card 0.jpg --key-file door.key --out a.png --json")[1:])
    texts += "".join(iom("verify-card a.png 9.jpg --key-file door.key --json")[1:])
    content = Card.read("a.png").open(hasher=MatrixHasher(), key=KEY)
    for secret in (KEY, content.key):
        assert secret.secret.hex() not in texts
        assert secret.to_text().split(":")[1] not in texts

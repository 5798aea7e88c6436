"""What must not leave a browser, and the search for it in what did."""

import base64
import json
import re

import numpy as np
from PIL import Image

import iom
from iom.photos.picture import one_face
from iom.pretrained import BUNDLED

APPLICATION = "default"
WINDOW = 24
"""Bytes in a row that are taken as a find: 2 ** -192 by chance."""
FIELDS = {
    "nonce": set(),
    "enroll-code": {"subject", "hasher", "key", "code", "device", "nonce", "signature"},
    "verify-code": {"subject", "hasher", "key", "code", "nonce", "signature"},
    "renew-code": {"subject", "hasher", "key", "code", "nonce", "signature"},
    "revoke-code": {"subject", "nonce", "signature"},
}
BYTES = {"code": 192, "device": 91, "nonce": 32, "signature": 64}
"""Lengths of binary fields; a code of the bundled hasher has 1,536 symbols of a bit each."""
HEADERS = {
    "accept", "accept-encoding", "accept-language", "authorization", "cache-control", "connection", "content-length",
    "content-type", "dnt", "host", "if-modified-since", "if-none-match", "origin", "pragma", "priority", "referer",
    "service-worker", "upgrade-insecure-requests", "user-agent",
}  # fmt: skip
"""Headers of requests, beside those of the browser itself (`sec-...`)."""


def check_heads(requests, origin):
    """Addresses and headers have no room for anything either."""
    for each in requests:
        assert re.fullmatch(r"/[\w./-]*", each.path), each.path
        assert [name for name in each.headers if not name.startswith("sec-") and name not in HEADERS] == []
        assert each.headers.get("referer", origin).startswith(origin)
        assert each.method in ("GET", "POST")
        assert each.method == "POST" or not each.body


def check_posts(posts, subjects):
    """Requests have codes, signatures and names, and nothing that a face or a key could be in."""
    for each in posts:
        content = json.loads(each.body)
        action = each.path.rpartition("/")[2]
        assert each.path == f"/v1/{APPLICATION}/{action}"
        assert action != "enroll-code" or content.pop("returning", True) is True
        assert set(content) == FIELDS[action], action
        for name, size in BYTES.items():
            assert name not in content or len(_plain(content[name])) == size, (action, name)
        assert action == "nonce" or content["subject"] in subjects
        assert re.fullmatch("[0-9a-f]{64}", content.get("hasher", "0" * 64))
        assert re.fullmatch("[0-9a-f]{32}", content.get("key", "0" * 32))


def check_bytes(page, wire, posts, photographs, chip):
    """No bytes of a photograph, a face, an embedding or a key are in anything that left the browser."""
    everything = b"\n".join(bytes(stream) for stream in wire.streams)
    bodies = [json.loads(each.body) for each in posts]
    everything += b"\n".join(_plain(value) for body in bodies for value in body.values() if isinstance(value, str))
    assert b"token=" not in everything  # in headers alone, not in an address
    hasher = iom.load(BUNDLED)
    for path in photographs:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        face, _ = one_face(pixels, template=hasher.embedder.template.name)
        embedding = hasher.embed(face[None])[0]
        assert not holds_vector(everything, embedding)
        for secret in (path.read_bytes()[100:], pixels[200:280, 280:360].tobytes(), face.tobytes()):
            assert not holds(everything, secret[:4000])
    assert not holds(everything, chip[:8000])
    master = page.key()
    subjects = {body.get("subject", "") for body in bodies}
    records = [
        master.derive(application=APPLICATION, subject=subject, record=number)
        for subject in subjects
        for number in range(4)
    ]
    for key in (master, *records):
        assert not holds(everything, key.secret, 16)
        assert key.to_text().encode() not in everything


def _plain(text):
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return text.encode()


def forms(secret):
    """A secret as it may be written in a request: raw, hexadecimal, in Base64 at each of three places, as numbers."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for start in range(3):
        text = base64.b64encode(secret[start : len(secret) - (len(secret) - start) % 3])
        yield text
        yield text.translate(bytes.maketrans(b"+/", b"-_"))
    yield ",".join(map(str, secret)).encode()


def holds(content, secret, window=WINDOW):
    """Whether `window` bytes of a secret that follow each other are in a content, in one of `forms`.

    Windows begin at each third of their length, so that any stretch twice as long holds a whole one.
    """
    step = window // 3
    for start in range(0, max(1, len(secret) - window + 1), step):
        part = secret[start : start + window]
        if len(set(part)) > 4 and any(form in content for form in forms(part)):  # not of a surface of one colour
            return True
    return False


def holds_vector(content, vector, length=24):
    """Whether a content has numbers that run as those of a vector do, in any binary floating-point type.

    The first `length` values decide, by their correlation: those of another program differ in their last bits.
    """
    wanted = np.asarray(vector, np.float64)[:length]
    wanted = (wanted - wanted.mean()) / wanted.std()
    for kind in ("<f4", ">f4", "<f8", ">f8", "<f2", ">f2"):
        size = np.dtype(kind).itemsize
        for start in range(size):
            rest = content[start:]
            values = np.frombuffer(rest[: len(rest) // size * size], kind)
            with np.errstate(all="ignore"):
                values = np.nan_to_num(values.astype(np.float64), nan=0, posinf=0, neginf=0).clip(-1e6, 1e6)
            if len(values) < length:
                continue
            rows = np.lib.stride_tricks.sliding_window_view(values, length)
            rows = rows - rows.mean(axis=1, keepdims=True)
            norms = np.linalg.norm(rows, axis=1)
            scores = rows @ wanted / np.maximum(norms * np.sqrt(length), 1e-12)
            if (scores > 0.98).any():
                return True
    return False

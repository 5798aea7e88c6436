"""The search for what must not leave a browser finds it when it does."""

import base64
import json

import numpy as np
import pytest

from tests.browser.leaks import holds, holds_vector
from tests.browser.wire import parsed

RANDOM = np.random.default_rng(0)
SECRET = RANDOM.bytes(32)
PIXELS = RANDOM.bytes(3000)
EMBEDDING = (lambda row: (row / np.linalg.norm(row)).astype("<f4"))(RANDOM.normal(size=128))


def upper_hex(data):
    return data.hex().upper()


def written_by(write, data):
    text = write(data)
    return text if isinstance(text, bytes) else text.encode()


@pytest.mark.parametrize("place", [0, 1, 2, 5])
@pytest.mark.parametrize("written", [bytes, base64.b64encode, base64.urlsafe_b64encode, bytes.hex, upper_hex])
def test_bytes_are_found_however_they_are_written(written, place):
    before = RANDOM.bytes(place)
    assert holds(b"{" + written_by(written, before + SECRET + b"!") + b"}", SECRET)
    assert holds(b"{" + written_by(written, before + PIXELS[100:400]) + b"}", PIXELS)
    assert not holds(b"{" + written_by(written, before + RANDOM.bytes(4000)) + b"}", SECRET)


def test_numbers_are_found_too():
    assert holds(json.dumps(list(SECRET), separators=(",", ":")).encode(), SECRET)


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", "<f2"])
def test_an_embedding_is_found_although_its_last_bits_differ(kind):
    near = EMBEDDING.astype("f8") * (1 + 1e-3 * RANDOM.normal(size=128))
    assert holds_vector(b"12345" + near.astype(kind).tobytes() + b"x", EMBEDDING)
    assert not holds_vector(RANDOM.bytes(4000), EMBEDDING)


def test_requests_of_a_connection():
    one = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
    found = parsed(one + b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n" + one[:-1])
    assert [(each.method, each.path, each.body) for each in found] == [("POST", "/a", b"abc"), ("GET", "/b", b"")]
    with pytest.raises(AssertionError):
        parsed(b"GET /c HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")

"""What service_fuzz throws at the service: uploads, strings, tokens, forms and raw bytes."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.service_client import form

STRINGS = [
    "' OR '1'='1", "'; DROP TABLE reference; --", '" OR ""="', "1; ATTACH DATABASE '/data/x' AS x",
    "alice' UNION SELECT code FROM reference --", "%' --", "_", "%", "*", "\\", "a\\' OR 1=1 --",
    "../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "..\\..\\windows\\win.ini", "/etc/passwd",
    "file:///etc/passwd", "C:\\boot.ini", "....//....//etc/passwd", "%2e%2e/%2e%2e/", "%00",
    "\x00", "a\x00b", "a\nb", "a\r\nSet-Cookie: x=1", "\u202egnp.exe", "\ufeff", "\ud7ff", "\x7f",
    "${jndi:ldap://127.0.0.1/a}", "{{7*7}}", "${7*7}", "#{7*7}", "<%= 7*7 %>", "{0.__class__}",
    "%s%s%s%n", "%x" * 50, "<script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "`id`", "$(id)", "; id", "| id", "&& id", "\n id", "-1", "0", "NaN", "null", "None", "true",
    "[]", "{}", "1e309", "9" * 400, "a" * 256, "a" * 257, "a" * 100_000, " ", "", " a", "a ",
    "\u540d\u524d \U0001f600", "\u0130I\u0131i", "\u1e9e\xdf", "\xe9 e\u0301", "\u200b",
    "Z\u0351" * 120, "__proto__", "constructor", "admin", "default", "door", "gate",
]  # fmt: skip
METHODS = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "X")


def face(seed: int) -> np.ndarray:
    """Pixels `(112, 112, 3)` of random noise."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
    return np.asarray(small.resize((112, 112), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    """An image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, data: bytes, *, depth: int = 8, color: int = 2) -> bytes:
    """A PNG whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in chunks)


def uploads() -> dict[str, bytes]:
    """Hostile files by name."""
    jpeg, whole = encoded(face(1), "JPEG", quality=95), encoded(face(1), "PNG")
    flat = np.zeros((112, 112), np.uint8)
    noise = np.random.default_rng(2).integers(0, 256, (900, 900, 3), np.uint8)
    swollen = b"a\0\0" + zlib.compress(bytes(200_000_000), 9)
    pickled = "80049520000000000000008c05706f736978948c0673797374656d9493942e"
    found = {
        "nothing": b"",
        "one byte": b"\xff",
        "text": b"I am not a picture",
        "html": b"<html><script>alert(1)</script></html>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        "svg entity": b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
        "bomb": png(60_000, 60_000, bytes(30_000_000)),
        "bomb, largest header": png(2**31 - 1, 2**31 - 1, b""),
        "bomb, 112 wide": png(112, 2**30, bytes(10_000_000)),
        "bomb in text chunk": _with_chunk(whole, b"zTXt", swollen),
        "bomb in profile": _with_chunk(whole, b"iCCP", swollen),
        "20,000 text chunks": _with_chunk(whole, b"tEXt", b"a\0b", times=20_000),
        "lying, larger": png(112, 112, bytes(5_000_000)),
        "lying, smaller": png(112, 112, bytes(50)),
        "lying depth": png(112, 112, bytes(112 * 337), depth=16),
        "lying palette": png(112, 112, bytes(112 * 113), color=3),
        "0x0": png(0, 0, b""),
        "1x1": encoded(flat[:1, :1], "PNG"),
        "1x5000": encoded(np.zeros((5000, 1), np.uint8), "PNG"),
        "5000x1": encoded(np.zeros((1, 5000), np.uint8), "PNG"),
        "111x112": encoded(flat[:, :111], "PNG"),
        "2x2 jpeg": encoded(flat[:2, :2], "JPEG"),
        "24 megapixels": encoded(np.full((4000, 6000), 200, np.uint8), "JPEG"),
        "50 megapixels": encoded(np.zeros((6250, 8000), np.uint8), "PNG"),
        "50 megapixels of jpeg": encoded(np.zeros((6250, 8000), np.uint8), "JPEG"),
        "flat": encoded(flat, "PNG"),
        "noise, large": encoded(noise, "PNG"),
        "gif": encoded(flat, "GIF"),
        "gif, 500 frames": _animation(500),
        "tiff": encoded(flat, "TIFF"),
        "ico": encoded(flat, "ICO"),
        "ppm": encoded(face(1), "PPM"),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 112 112\nquit\n",
        "pdf": b"%PDF-1.7\n1 0 obj<<>>endobj",
        "cmyk": _saved(Image.new("CMYK", (112, 112)), "JPEG"),
        "16 bit": _saved(Image.fromarray(np.zeros((112, 112), np.uint16)), "PNG"),
        "transparent": _saved(Image.new("RGBA", (112, 112), (9, 9, 9, 9)), "PNG"),
        "gif then png": b"GIF89a" + whole,
        "zip then png": b"PK\x03\x04" + whole,
        "png then zip": whole + b"PK\x03\x04" + bytes(100),
        "jpeg then script": jpeg + b"<script>alert(1)</script><?php system('id'); ?>",
        "php in a comment": jpeg[:2] + b"\xff\xfe\0\x18<?php system('id'); ?>" + jpeg[2:],
        "exif bomb": _saved(Image.fromarray(face(1)), "JPEG", exif=_exif()),
        "apng": _with_chunk(whole, b"acTL", struct.pack(">II", 2**31 - 1, 0)),
        "npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "pickle": bytes.fromhex(pickled),
        "gzip of png": b"\x1f\x8b\x08\x00" + whole,
        "base64": base64.b64encode(whole),
    }  # fmt: skip
    for cut in (1, 8, 20, 33, 50, 100, 300, 600, len(jpeg) - 2):
        found[f"jpeg cut at {cut}"], found[f"png cut at {cut}"] = jpeg[:cut], whole[:cut]
    return found


def damaged(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Valid files with bytes flipped, cut out, doubled, or with pieces of another."""
    random = np.random.default_rng(seed)
    large = np.kron(face(3)[::4, ::4], np.ones((20, 20, 1), np.uint8))
    seeds = [encoded(pixels, kind) for pixels in (face(1), large) for kind in ("JPEG", "PNG", "WEBP", "BMP")]
    for number in range(count):
        data = bytearray(seeds[random.integers(len(seeds))])
        for _ in range(random.integers(1, 6)):
            at = int(random.integers(len(data)))
            length = int(random.integers(1, 40))
            kind = random.integers(5)
            if kind == 0:
                data[at] ^= 1 << int(random.integers(8))
            elif kind == 1:
                data[at : at + length] = random.bytes(len(data[at : at + length]))
            elif kind == 2 and len(data) > 100:
                del data[at : at + length]
            elif kind == 3:
                data[at:at] = data[at : at + length]
            else:
                other = seeds[random.integers(len(seeds))]
                data[at : at + length] = other[at % len(other) :][:length]
        yield f"damaged {number}", bytes(data)


def bearers(tokens: dict[str, str], file: Path, removed: str, expired: str) -> dict[str, str]:
    """`Authorization` headers that open nothing of the application `door`."""
    door = tokens["door admin"]
    stored = [each["digest"] for each in json.loads(file.read_text())["tokens"]]
    found = {
        "none": "", "scheme only": "Bearer", "space": "Bearer ", "basic": f"Basic {door}",
        "removed": f"Bearer {removed}", "expired": f"Bearer {expired}",
        "another application": f"Bearer {tokens['gate admin']}",
        "monitor": f"Bearer {tokens['monitor']}", "no scheme": door, "cut": f"Bearer {door[:-1]}",
        "longer": f"Bearer {door}x", "lower": f"Bearer {door.lower()}",
        "upper": f"Bearer {door.upper()}", "twice": f"Bearer {door}, Bearer {door}",
        "two": f"Bearer {door} {door}", "quoted": f'Bearer "{door}"', "null": "Bearer null",
        "jwt": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.", "long": "Bearer " + "a" * 8000,
        "sql": "Bearer ' OR '1'='1", "wildcard": "Bearer *", "latin": "Bearer \xe9\xff",
        "name": "Bearer door-admin", "prefix": "Bearer iom_",
    }  # fmt: skip
    return found | {f"stored hash {i}": f"Bearer {each}" for i, each in enumerate(stored)}


def forms(image: bytes) -> dict[str, tuple[bytes, str]]:
    """Bodies that are no good forms: body and type by name."""
    good, kind = form({"subject": "alice", "image": image})
    boundary = kind.split("=")[1]
    many = {f"f{number}": "x" for number in range(2000)}
    files = {"image": [image] * 200}
    return {
        "empty": (b"", kind),
        "no boundary": (good, "multipart/form-data"),
        "another boundary": (good, "multipart/form-data; boundary=other"),
        "endless boundary": (good, "multipart/form-data; boundary=" + "b" * 5000),
        "cut": (good[: len(good) // 2], kind),
        "no end": (good[:-10], kind),
        "only boundaries": (f"--{boundary}\r\n".encode() * 5000, kind),
        "2000 fields": form(many),
        "200 files": form(files),
        "huge field": form({"subject": "a" * 3_000_000, "image": image}),
        "image as text": form({"subject": "alice", "image": "my face"}),
        "subject as file": form({"subject": image, "image": image}),
        "two subjects": form({"subject": ["alice", "bob"], "image": image}),
        "nested": form({"subject": "alice", "image": good}),
        "json": (json.dumps({"subject": "alice", "image": "x"}).encode(), "application/json"),
        "deep json": (b"[" * 100_000, "application/json"),
        "xml": (b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "text/xml"),
        "urlencoded": (b"subject=alice&image=x", "application/x-www-form-urlencoded"),
        "image alone": (image, "image/png"),
        "long header of a part": (good.replace(b"filename", b"f" * 100_000), kind),
        "path as file name": (good.replace(b'"face"', b'"../../../data/x"'), kind),
        "null in file name": (good.replace(b'"face"', b'"a\x00b"'), kind),
        "latin name": (good.replace(b"subject", b"\xff\xfe"), kind),
        "utf-7": (good, kind + "; charset=utf-7"),
        "no such charset": (good.replace(b"octet-stream", b"x; charset=none"), kind),
        "too large": form({"subject": "alice", "image": bytes(9 * 2**20)}),
    }


def raw(host: str, token: str, body: bytes, kind: str) -> dict[str, bytes]:
    """Whole requests as bytes: lying lengths, smuggling, broken lines."""

    def request(*lines: str, content: bytes = body) -> bytes:
        head = [
            "POST /v1/door/identify HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {token}",
            f"Content-Type: {kind}", "Connection: close", *lines,
        ]  # fmt: skip
        return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + content

    size = len(body)
    smuggled = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    return {
        "length too small": request(f"Content-Length: {size // 2}"),
        "length negative": request("Content-Length: -1"),
        "length huge": request("Content-Length: 99999999999999999999999"),
        "length above the limit": request(f"Content-Length: {2**30}"),
        "length text": request("Content-Length: many"),
        "two lengths": request(f"Content-Length: {size}", "Content-Length: 5"),
        "length and chunks": request(
            f"Content-Length: {size}", "Transfer-Encoding: chunked", content=smuggled
        ),
        "bad chunks": request("Transfer-Encoding: chunked", content=b"zz\r\n" + body),
        "huge chunk": request("Transfer-Encoding: chunked", content=b"ffffffffffffffff\r\n" + body),
        "odd coding": request("Transfer-Encoding: chunked, identity", content=smuggled),
        "two tokens": request("Authorization: Bearer x", f"Content-Length: {size}"),
        "gzip": request(f"Content-Length: {size}", "Content-Encoding: gzip"),
        "expect": request(f"Content-Length: {size}", "Expect: 100-continue"),
        "upgrade": request("Content-Length: 0", "Upgrade: websocket", content=b""),
        "long header": request("X: " + "a" * 200_000, f"Content-Length: {size}"),
        "many headers": request(*[f"X{i}: 1" for i in range(5000)], f"Content-Length: {size}"),
        "null in header": request("X: a\x00b", f"Content-Length: {size}"),
        "no host": request(f"Content-Length: {size}").replace(b"Host", b"X-Host"),
        "version": request(f"Content-Length: {size}").replace(b"HTTP/1.1", b"HTTP/9.9"),
        "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        "absolute": request(f"Content-Length: {size}").replace(b"POST /", b"POST http://x/", 1),
        "long path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "path of bytes": b"GET /\xff\xfe\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        "star": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        "nothing": b"",
        "noise": np.random.default_rng(3).bytes(5000),
        "lines": b"\r\n" * 5000,
    }  # fmt: skip


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _with_chunk(file: bytes, kind: bytes, content: bytes, *, times: int = 1) -> bytes:
    """A PNG with something behind its header, which is 33 bytes long."""
    return file[:33] + times * _chunk(kind, content) + file[33:]


def _animation(frames: int) -> bytes:
    pictures = [Image.new("P", (112, 112), i % 256) for i in range(frames)]
    return _saved(pictures[0], "GIF", save_all=True, append_images=pictures[1:])


def _exif() -> bytes:
    """Exif whose directory points at itself."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff\0\x09\0\0\0\0\0\x08"


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()

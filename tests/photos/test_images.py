"""Good images come through exactly; every kind of wrong one is a DataError that names the file."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iom.errors import DataError
from iom.photos.images import check_images, decode_image, read_image, read_images

SIZE = 24


def pattern(seed: int = 0, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **arguments: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **arguments)
    return stream.getvalue()


def png_of(width: int, height: int, *, bit_depth: int = 8, size: int = 100) -> bytes:
    """A PNG that states a size of an image and holds `size` bytes of it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, 2, 0, 0, 0)
    rows = zlib.compress(bytes(size))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_lossless_formats_come_through_exactly(kind: str) -> None:
    pixels = pattern()
    assert np.array_equal(decode_image(encode(Image.fromarray(pixels), kind), "x", size=SIZE), pixels)


def test_channels_are_rgb_in_this_order() -> None:
    for channel in range(3):
        pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
        pixels[..., channel] = 200
        decoded = decode_image(encode(Image.fromarray(pixels), "JPEG", quality=95), "x", size=SIZE)
        assert decoded.mean((0, 1)).argmax() == channel
        assert decoded.dtype == np.uint8


def test_grey_palette_and_opaque_alpha_become_rgb() -> None:
    pixels = pattern()
    grey = Image.fromarray(pixels[..., 0])
    assert np.array_equal(decode_image(encode(grey), "x", size=SIZE), np.repeat(pixels[..., :1], 3, axis=2))
    opaque = Image.fromarray(np.dstack([pixels, np.full((SIZE, SIZE), 255, np.uint8)]))
    assert np.array_equal(decode_image(encode(opaque), "x", size=SIZE), pixels)
    few_colours = (pixels // 128) * 255
    palette = Image.fromarray(few_colours).quantize(8)
    assert np.array_equal(decode_image(encode(palette), "x", size=SIZE), few_colours)
    bilevel = grey.convert("1")
    assert set(np.unique(decode_image(encode(bilevel), "x", size=SIZE))) == {0, 255}


def test_exif_orientation_is_applied() -> None:
    pixels = pattern()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    decoded = decode_image(encode(Image.fromarray(pixels), exif=exif), "x", size=SIZE)
    assert np.array_equal(decoded, pixels[::-1, ::-1])


def test_wrong_size_is_never_resized(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.fromarray(pattern(size=250)).save(path)
    with pytest.raises(DataError, match=r"large\.jpg: expected 112x112 aligned face, received 250x250"):
        read_image(path)
    with pytest.raises(DataError, match="expected 24x24 aligned face, received 30x24"):
        decode_image(encode(Image.new("RGB", (30, 24))), "x", size=SIZE)


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "F"])
def test_modes_without_a_way_to_rgb_are_refused(mode: str) -> None:
    kind = {"CMYK": "JPEG", "I;16": "PNG", "F": "TIFF"}[mode]
    with pytest.raises(DataError, match="expected"):
        decode_image(encode(Image.new(mode, (SIZE, SIZE)), kind), "x", size=SIZE)


@pytest.mark.parametrize("kind", ["TIFF", "GIF"])
def test_whatever_is_listed_is_read(kind: str) -> None:
    greys = Image.fromarray(pattern()).convert("L")
    found = decode_image(encode(greys, kind), "x", size=SIZE)
    np.testing.assert_array_equal(found, np.asarray(greys.convert("RGB")))


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP"])
def test_several_pictures_in_one_file_are_refused(kind: str) -> None:
    first, second = Image.fromarray(pattern()), Image.new("RGB", (SIZE, SIZE))
    data = encode(first, kind, save_all=True, append_images=[second])
    with pytest.raises(DataError, match="expected one picture, received several"):
        decode_image(data, "x", size=SIZE)


def test_sixteen_bit_colour_is_refused() -> None:
    with pytest.raises(DataError, match="16 bits per channel"):
        decode_image(png_of(SIZE, SIZE, bit_depth=16, size=SIZE * (1 + 6 * SIZE)), "x", size=SIZE)


def test_transparency_is_refused() -> None:
    glass = Image.fromarray(np.dstack([pattern(), np.full((SIZE, SIZE), 7, np.uint8)]))
    with pytest.raises(DataError, match="transparent"):
        decode_image(encode(glass), "x", size=SIZE)
    palette = Image.fromarray(pattern()).quantize(8)
    with pytest.raises(DataError, match="transparent"):
        decode_image(encode(palette, transparency=0), "x", size=SIZE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_files_are_refused(kind: str, share: float, tmp_path: Path) -> None:
    data = encode(Image.fromarray(pattern(size=112)), kind)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"cut\.img"):
        read_image(path)


def test_empty_missing_directory_and_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in {
        "empty": "empty file",
        "text": "something else",
        "folder": "cannot read",
        "missing": "No such file",
    }.items():
        with pytest.raises(DataError, match=rf"{name}\.jpg.*{reason}"):
            read_image(tmp_path / f"{name}.jpg")


@pytest.mark.parametrize("side", [5_000, 12_000, 60_000])
def test_decompression_bombs_are_refused_before_decoding(side: int) -> None:
    with pytest.raises(DataError, match="expected 112x112 aligned face"):
        decode_image(png_of(side, side), "bomb")


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    with pytest.raises(DataError):
        decode_image(data, "x", size=SIZE)


@given(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP"]), st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_raise_nothing_else(kind: str, data: st.DataObject) -> None:
    encoded = bytearray(encode(Image.fromarray(pattern()), kind))
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, min(len(encoded) - 1, 700)))
        encoded[place] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_image(bytes(encoded), "x", size=SIZE)
    except DataError:
        return
    assert decoded.shape == (SIZE, SIZE, 3)


def test_many_images_keep_their_order(tmp_path: Path) -> None:
    paths = []
    for index in range(30):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(np.full((SIZE, SIZE, 3), index, np.uint8)).save(paths[-1])
    images = read_images(paths[::-1], size=SIZE, workers=4)
    assert images.dtype == np.uint8
    assert images[:, 0, 0, 0].tolist() == list(range(30))[::-1]
    check_images(paths, size=SIZE)
    assert read_images([], size=SIZE).shape == (0, SIZE, SIZE, 3)


def test_check_reports_how_many_and_the_first(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(10)]
    for index, path in enumerate(paths):
        Image.new("RGB", (SIZE, SIZE) if index < 5 else (9, 9)).save(path)
    with pytest.raises(DataError) as caught:
        check_images(paths, size=SIZE)
    message = str(caught.value)
    assert message.startswith("5 of 10 images cannot be used: ")
    assert "5.png" in message
    assert "9.png" not in message
    assert "\n" not in message
    with pytest.raises(DataError, match=r"5\.png"):
        read_images(paths, size=SIZE)


def test_lfw_decodes_as_an_independent_decoder_does(prepared_data: Path) -> None:
    import tensorflow as tf

    folder = prepared_data / "lfw_112x112"
    for path in sorted(folder.glob("A*/*_0001.jpg"))[:20]:
        expected = tf.io.decode_jpeg(path.read_bytes(), 3, dct_method="INTEGER_ACCURATE").numpy()
        assert np.abs(read_image(path).astype(int) - expected).max() <= 1

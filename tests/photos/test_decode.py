"""Raw photographs of every kind, made here."""

import io

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from iom.errors import DataError, TooLargeError
from iom.photos.images import read_photograph

SLOPE = np.add.outer(np.arange(60) * 2, np.arange(80)).astype(np.uint8)
COLOURS = np.stack([SLOPE, SLOPE[::-1], 255 - SLOPE], -1)


def read(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return read_photograph(path)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.PNG"])
def test_lossless_kinds_come_back(tmp_path, name):
    pixels, notes = read(tmp_path, Image.fromarray(COLOURS), name)
    np.testing.assert_array_equal(pixels, COLOURS)
    assert notes == ()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_exif_orientation_is_honoured(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, notes = read(tmp_path, Image.fromarray(COLOURS), "a.png", exif=exif)
    turned = {
        2: COLOURS[:, ::-1],
        3: COLOURS[::-1, ::-1],
        4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2),
        6: COLOURS[::-1].transpose(1, 0, 2),
        7: COLOURS[::-1, ::-1].transpose(1, 0, 2),
        8: COLOURS[:, ::-1].transpose(1, 0, 2),
    }
    np.testing.assert_array_equal(pixels, turned[orientation])
    assert notes == ("turned",)


def test_cmyk_is_converted_and_said(tmp_path):
    grey = Image.fromarray(np.repeat(SLOPE[:, :, None], 3, 2)).convert("CMYK")
    pixels, notes = read(tmp_path, grey, "a.jpg", quality=98)
    assert notes == ("cmyk_without_profile",)
    assert np.abs(pixels.astype(int) - SLOPE[:, :, None]).mean() < 3


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_become_eight(tmp_path, name):
    deep = Image.fromarray(SLOPE.astype(np.uint16) * 257)
    pixels, notes = read(tmp_path, deep, name)
    assert notes == ("16_bit",)
    assert np.abs(pixels.astype(int) - SLOPE[:, :, None]).max() <= 1


def test_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    pixels, notes = read(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert "animated" in notes
    assert (pixels == [255, 0, 0]).all()


def test_transparency_is_laid_on_white(tmp_path):
    pixels, notes = read(tmp_path, Image.new("RGBA", (40, 30), (0, 0, 0, 0)), "a.png")
    assert notes == ("transparent",)
    assert (pixels == 255).all()


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (9000, 6000)).save(path)
    with pytest.raises(TooLargeError, match="at most 50 megapixels, received 54"):
        read_photograph(path, max_megapixels=50)
    Image.new("1", (4000, 1000)).save(path)
    assert read_photograph(path, max_megapixels=4)[0].shape == (1000, 4000, 3)


def test_a_bomb_is_refused(tmp_path):
    path = tmp_path / "bomb.png"
    stream = io.BytesIO()
    Image.new("1", (8, 8)).save(stream, "png")
    data = bytearray(stream.getvalue())
    data[16:24] = (2**30).to_bytes(4, "big") * 2
    path.write_bytes(data)
    with pytest.raises(DataError):
        read_photograph(path)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]))
def test_any_bytes_are_refused_with_the_name(tmp_path_factory, data, start):
    path = tmp_path_factory.getbasetemp() / "any.jpg"
    path.write_bytes(start + data)
    with pytest.raises(DataError, match=r"any\.jpg"):
        read_photograph(path)


def test_a_cut_photograph_is_refused_at_every_tenth(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(COLOURS).save(stream, "jpeg")
    path = tmp_path / "cut.jpg"
    for tenth in range(10):
        path.write_bytes(stream.getvalue()[: len(stream.getvalue()) * tenth // 10])
        with pytest.raises(DataError, match=r"cut\.jpg"):
            read_photograph(path)
    with pytest.raises(DataError, match="none"):
        read_photograph(tmp_path / "none.jpg")

"""Pictures of uncommon kinds are read as they look, or named for what they are: never "damaged", never black."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from singleshot.images.decode import decode_image
from singleshot.images.samples import UnreadImageError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another short in that tag of its directory."""
    at = data.index(struct.pack("<HHI", tag, 3, 1)) + 8
    return data[:at] + struct.pack("<H", value) + data[at + 2 :]


@pytest.mark.parametrize(
    ("compression", "name"),
    [
        (6, "old-style JPEG"),
        (34712, "JPEG 2000"),
        (34925, "LZMA"),
        (50000, "Zstandard"),
        (50001, "WebP"),
        (60000, "a way"),
    ],
)
def test_tiffs_packed_in_a_way_that_is_not_read(tiff, one_line, compression, name):
    data = with_tag(tiff(noise(9, 7, 3)), 259, compression)
    assert f"packed by {name} (compression {compression})" in one_line(decode_image, data, "x")


@pytest.mark.parametrize(
    ("colours", "name"), [(8, "CIE L*a*b*"), (32803, "raw mosaic"), (34892, "raw samples"), (77, "another kind")]
)
def test_tiffs_of_colours_that_are_not_read(tiff, one_line, colours, name):
    assert name in one_line(decode_image, with_tag(tiff(noise(9, 7, 3)), 262, colours), "x")


def test_four_bits_are_named(tiff):
    packed = bytes(8 * 9)
    with pytest.raises(UnreadImageError, match="a uint4 TIFF"):
        decode_image(tiff(np.zeros((9, 16), np.uint8), bits=4, packed=packed), "x")


@pytest.mark.parametrize("mark", [0, 1, 2])
@pytest.mark.parametrize("order", "<>")
def test_alpha_of_a_tiff_does_not_darken_its_colours(tiff, mark, order):
    image = noise(8, 8, 4)
    data = tiff(image, order)
    at = data.index(struct.pack(order + "HHI", 338, 3, 1)) + 8
    data = data[:at] + struct.pack(order + "H", mark) + data[at + 2 :]
    assert np.array_equal(decode_image(data, "x"), image[..., :3])


@pytest.mark.parametrize(
    ("marker", "bits", "words"),
    [
        (0xC1, 12, "a JPEG of 12 bits"),
        (0xC3, 16, "a JPEG of 16 bits"),
        (0xC5, 8, "hierarchical"),
        (0xCF, 8, "hierarchical"),
    ],
)
def test_jpegs_of_other_processes_are_named(one_line, marker, bits, words):
    data = cv2.imencode(".jpg", noise(16, 16, 3))[1].tobytes()
    at = data.index(b"\xff\xc0")
    data = data[: at + 1] + bytes([marker]) + data[at + 2 : at + 4] + bytes([bits]) + data[at + 5 :]
    assert words in one_line(decode_image, data, "x")


def test_white_is_white_in_a_bmp_of_16_bits():
    pixels = np.array([[0x7FFF, 0, 0x7C00, 0x001F]] * 4, "<u2")
    head = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 16, 0, pixels.nbytes, 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 54 + pixels.nbytes, 0, 0, 54) + head + pixels.tobytes()
    assert decode_image(data, "x")[0].tolist() == [[255] * 3, [0] * 3, [255, 0, 0], [0, 0, 255]]


@pytest.mark.parametrize("form", ["jpg", "png", "gif", "bmp", "webp"])
def test_sides_of_zero_are_refused(one_line, form):
    data = bytearray(cv2.imencode(f".{form}", noise(16, 16, 3), [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes())
    place = {"jpg": data.find(b"\xff\xc0") + 5, "png": 16, "gif": 6, "bmp": 18, "webp": 26}[form]
    data[place : place + 2] = bytes(2) if form != "png" else data[place : place + 2]
    data[place : place + 4] = bytes(4) if form in ("png", "bmp") else data[place : place + 4]
    assert "none at all" in one_line(decode_image, bytes(data), "x")

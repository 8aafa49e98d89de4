"""Pictures of more than 8 bits: read as they were, stretched where that is asked for, refused by name where they are
of a kind that is not read."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from singleshot.errors import DataError
from singleshot.images.decode import decode_image, image_size, read_encoded, read_image
from singleshot.images.samples import UnreadImageError, count_greys, stretched, unread_samples


def camera(channels: int = 1, low: int = 200, high: int = 4095, dtype: str = "uint16") -> np.ndarray:
    """12 bits, as a camera gives them; [23, 31, channels]."""
    return np.random.default_rng(channels).integers(low, high + 1, (23, 31, channels)).astype(dtype)


def by_hand(samples: np.ndarray) -> np.ndarray:
    low, high = float(samples.min()), float(samples.max())
    return np.rint((samples.astype(np.float64) - low) * (255 / max(high - low, 1.0)))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_stretch_gives_each_picture_its_own_range(suffix, channels):
    samples = camera(channels)
    data = cv2.imencode(suffix, samples)[1].tobytes()
    shown = samples if channels == 1 else samples[..., 2::-1]  # written as BGR
    assert (decode_image(data, "x", sixteen_bit="stretch") == by_hand(shown)).all()
    assert (decode_image(data, "x") <= 16).all()
    half = decode_image(data, "x", reduce=2, sixteen_bit="stretch")
    assert half.shape == (12, 16, 3)


def test_a_png_of_grey_and_alpha():
    samples = camera(1)[..., 0]
    rows = np.dstack([samples, np.full_like(samples, 65535)]).astype(">u2")
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 31, 23, 16, 4, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    found = decode_image(data, "x", sixteen_bit="stretch")
    assert (found == by_hand(samples)[..., None]).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiffs_of_other_makers(tiff, order):
    for samples in (camera(1), camera(3), camera(1, -500, 900, "int16")):
        found = decode_image(tiff(samples, order), "x", sixteen_bit="stretch")
        assert (found == by_hand(samples)).all()


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_samples_are_read_either_way(tiff, bits):
    rows = np.random.default_rng(bits).integers(0, 1 << bits, (8, 32))
    packed = b"".join(int("".join(f"{v:0{bits}b}" for v in row), 2).to_bytes(4 * bits, "big") for row in rows.tolist())
    data = tiff(rows.astype(np.uint16), bits=bits, packed=packed)
    assert (decode_image(data, "x")[..., 0] == rows >> (bits - 8)).all()
    assert np.abs(decode_image(data, "x", sixteen_bit="stretch")[..., 1] - by_hand(rows)).max() <= 1


def test_pictures_of_8_bits_are_what_they_were_under_either_rule():
    image = np.random.default_rng(0).integers(40, 90, (20, 30, 3), np.uint8)
    for suffix in (".png", ".jpg", ".tiff", ".webp", ".bmp"):
        data = cv2.imencode(suffix, image)[1].tobytes()
        assert (decode_image(data, "x", sixteen_bit="stretch") == decode_image(data, "x")).all()


def test_a_picture_of_one_value_is_black():
    assert (stretched(np.full((4, 4), 700, np.uint16)) == 0).all()


def test_an_exif_turn_is_applied_to_a_stretched_picture_too(tmp_path):
    samples = camera(1)
    data = cv2.imencode(".png", samples)[1].tobytes()
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    path = tmp_path / "a.png"
    path.write_bytes(data[:33] + chunk + data[33:])
    found = read_image(path, "stretch")
    assert found.shape == (31, 23, 3)
    assert (found[..., 0] == np.rot90(by_hand(samples[..., 0]), -1)).all()
    encoded = read_encoded(str(path), "stretch")
    assert (encoded.width, encoded.height) == (23, 31)
    assert (encoded.decode() == found).all()


KINDS = {
    "float32": "a float32 TIFF",
    "float64": "a float64 TIFF",
    "float16": "a float16 TIFF",
    "int32": "an int32 TIFF",
    "uint32": "a uint32 TIFF",
    "complex64": "a complex64 TIFF",
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_read_is_called_by_its_name(tmp_path, tiff, one_line, kind, order):
    path = tmp_path / "a.tif"
    for channels in (1, 3, 5):
        path.write_bytes(tiff(camera(channels).astype(kind), order))
        said = one_line(read_image, path)
        assert KINDS[kind] in said
        assert "singleshot reads 8- and 16-bit pictures of 1 to 4 channels: convert it" in said
        assert "damaged" not in said
        assert ("-b 1 -b 2 -b 3" in said) == (channels > 4)
        with pytest.raises(UnreadImageError):
            image_size(path)


def test_many_bands(tmp_path, tiff):
    for kind in ("uint8", "uint16"):
        for channels in (5, 13):
            with pytest.raises(UnreadImageError, match=f"a {kind} TIFF of {channels} bands"):
                decode_image(tiff(camera(channels).astype(kind)), "x")
        assert all(unread_samples(tiff(camera(channels).astype(kind))) == "" for channels in (1, 2, 3, 4))


def test_two_channels_of_16_bits_are_not_stretched(tiff):
    assert decode_image(tiff(camera(2)), "x").shape == (23, 31, 3)
    with pytest.raises(DataError, match="with an alpha channel are not stretched; save it without"):
        decode_image(tiff(camera(2)), "x", sixteen_bit="stretch")


def test_what_8_bits_keep():
    assert count_greys(camera()[..., 0]).few
    assert count_greys(camera()[..., 0]).kept == 16
    assert not count_greys(camera(high=65535)[..., 0]).few
    mask = np.array([[0, 256, 512]], np.uint16)  # a stretch has nothing to add
    assert not count_greys(mask).few
    assert not count_greys(np.full((4, 4), 700, np.uint16)).few

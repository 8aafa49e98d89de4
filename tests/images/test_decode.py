from __future__ import annotations

import os
import struct
import threading
import zlib

import cv2
import numpy as np
import pytest

from singleshot.errors import DataError
from singleshot.images import decode as images
from singleshot.images.decode import decode_image, image_size, read_encoded, read_image
from singleshot.images.headers import header_size

FORMATS = (".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif")


def encoded(suffix: str, image: np.ndarray, *flags: int) -> bytes:
    ok, data = cv2.imencode(suffix, image, list(flags))
    assert ok
    return data.tobytes()


def noise(height: int = 37, width: int = 53) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def huge_headers() -> dict[str, bytes]:
    """Small files of each format whose header declares 20000 x 20000 pixels."""
    png = bytearray(encoded(".png", noise()))
    png[16:24] = struct.pack(">II", 20000, 20000)
    png[29:33] = struct.pack(">I", zlib.crc32(bytes(png[12:29])))
    jpg = bytearray(encoded(".jpg", noise()))
    at = jpg.index(b"\xff\xc0")
    jpg[at + 5 : at + 9] = struct.pack(">HH", 20000, 20000)
    bmp = bytearray(encoded(".bmp", noise()))
    bmp[18:26] = struct.pack("<ii", 20000, -20000)
    gif = bytearray(encoded(".gif", noise()))
    gif[6:10] = struct.pack("<HH", 20000, 20000)
    entries = struct.pack("<HHIIHHII", 256, 4, 1, 20000, 257, 4, 1, 20000)
    tiff = b"II*\0" + struct.pack("<IH", 8, 2) + entries + b"\0" * 4
    big = struct.pack("<HHQQHHQQ", 256, 16, 1, 20000, 257, 16, 1, 20000)
    bigtiff = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 2) + big
    canvas = (20000 - 1).to_bytes(3, "little") * 2
    webp = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + canvas
    return {"png": bytes(png), "jpg": bytes(jpg), "bmp": bytes(bmp), "gif": bytes(gif)} | {
        "tiff": tiff,
        "bigtiff": bigtiff,
        "webp": webp,
    }


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_lossless_formats_give_the_written_pixels_as_rgb(tmp_path, suffix):
    rgb = noise()
    path = tmp_path / f"x{suffix}"
    path.write_bytes(encoded(suffix, rgb[..., ::-1]))
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, rgb)


def test_grey_alpha_and_16_bit_become_three_channels_of_8_bits():
    grey = noise()[..., 0]
    np.testing.assert_array_equal(decode_image(encoded(".png", grey), "x"), np.stack([grey] * 3, axis=-1))
    assert decode_image(encoded(".png", np.dstack([noise(), grey])), "x").shape == (37, 53, 3)
    deep = decode_image(encoded(".png", grey.astype(np.uint16) * 257), "x")
    assert deep.dtype == np.uint8
    np.testing.assert_array_equal(deep[..., 0], grey)


@pytest.mark.parametrize("suffix", FORMATS)
def test_header_size_is_what_the_decoder_gives(suffix):
    for height, width in ((37, 53), (1, 300), (129, 2)):
        data = encoded(suffix, noise(height, width))
        assert header_size(data) == (width, height)
        assert decode_image(data, "x").shape == (height, width, 3)


def test_header_size_of_lossy_webp_progressive_jpeg_and_big_endian_tiff():
    assert header_size(encoded(".webp", noise(), cv2.IMWRITE_WEBP_QUALITY, 50)) == (53, 37)
    assert header_size(encoded(".jpg", noise(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)) == (53, 37)
    entries = struct.pack(">HHIHHHHIHH", 256, 3, 1, 53, 0, 257, 3, 1, 37, 0)
    assert header_size(b"MM\0*" + struct.pack(">IH", 8, 2) + entries) == (53, 37)


@pytest.mark.parametrize("name", huge_headers())
def test_too_many_pixels_are_refused_before_decoding(name, monkeypatch):
    def decoder(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", decoder)
    with pytest.raises(DataError, match=r"^x: 20000 x 20000 pixels \(at most 100 million"):
        decode_image(huge_headers()[name], "x")


def test_too_large_a_file_is_refused_without_being_read_whole(tmp_path):
    path = tmp_path / "x.png"
    with path.open("wb") as file:
        file.truncate(images.MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(DataError, match="larger than 256 MB"):
        read_image(path)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_cut_short_files_are_refused_whatever_the_format(suffix, part, capfd):
    data = encoded(suffix, noise())
    with pytest.raises(DataError, match=r"^x\.jpg: (damaged or cut short|not an image)") as caught:
        decode_image(data[: int(len(data) * part)], "x.jpg")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_what_is_no_image_says_where_and_what_to_do(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "text\n.jpg").write_text("<html>not found</html>\n")
    (tmp_path / "pointer.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    wanted = {
        "empty.jpg": r"empty\.jpg: empty file .* fetch it again",
        "folder.jpg": r"folder\.jpg: is a folder",
        "pointer.jpg": r"pointer\.jpg: is a Git LFS pointer, not the image itself; .* git lfs pull",
        "none.jpg": r"none\.jpg: no such image file",
        "text\n.jpg": r"text\\n\.jpg: not an image that is read here \(want JPEG, PNG",
        "nul\0.jpg": r"nul\\x00\.jpg: cannot be read",
    }
    for name, message in wanted.items():
        with pytest.raises(DataError, match=message) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        read_image(tmp_path / "pipe.jpg")


def test_a_hostile_jpeg_header_is_given_up_on():
    assert header_size(b"\xff\xd8\xff" + b"\xff" * 3_000_000) is None
    assert header_size(b"\xff\xd8\xff\xe0\0\0" + b"\0" * 3_000_000) is None
    assert header_size(b"\xff\xd8\xff\xda\0\x08") is None


def test_opencvs_log_level_is_as_before_even_from_threads():
    log = cv2.utils.logging
    before = log.getLogLevel()
    good, bad = encoded(".png", noise()), encoded(".bmp", noise())[:200]

    def work() -> None:
        for _ in range(20):
            decode_image(good, "x")
            with pytest.raises(DataError):
                decode_image(bad, "x")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.getLogLevel() == before


@pytest.mark.parametrize("suffix", [".gif", ".png", ".bmp", ".jpg"])
def test_a_header_without_pixels_is_refused(suffix, tmp_path):
    data = bytearray(encoded(suffix, noise(6, 8)))
    at, length = {".gif": (6, 2), ".png": (16, 4), ".bmp": (18, 4), ".jpg": (data.find(b"\xff\xc0") + 7, 2)}[suffix]
    data[at : at + length] = bytes(length)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data)
    for read in (read_image, image_size, read_encoded):
        with pytest.raises(DataError, match="0 x 6 pixels, none at all"):
            read(str(path))

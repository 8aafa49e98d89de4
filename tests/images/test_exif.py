"""The orientation is read as OpenCV applies it: files are put together here, byte by byte, and decoded."""

from __future__ import annotations

import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singleshot.images.decode import decode_image, image_size
from singleshot.images.headers import header_size
from singleshot.images.orientation import UPRIGHT, orientation, turn_of, upright

HEIGHT, WIDTH = 24, 40
# What EXIF 2.32 (4.6.4, tag 274) has done to upright pixels; here the way back to upright.
TURNS = {
    1: lambda im: im,
    2: lambda im: im[:, ::-1],
    3: lambda im: im[::-1, ::-1],
    4: lambda im: im[::-1],
    5: lambda im: im.transpose(1, 0, 2),
    6: lambda im: np.rot90(im, -1),
    7: lambda im: im[::-1, ::-1].transpose(1, 0, 2),
    8: lambda im: np.rot90(im, 1),
}


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture() -> np.ndarray:
    """Four flat fields of different colour, so that every turn shows even after lossy coding."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[: HEIGHT // 2, : WIDTH // 2] = (250, 10, 10)
    image[: HEIGHT // 2, WIDTH // 2 :] = (10, 250, 10)
    image[HEIGHT // 2 :, : WIDTH // 2] = (10, 10, 250)
    return image


def encoded(suffix: str, *flags: int) -> bytes:
    return cv2.imencode(suffix, picture()[..., ::-1], list(flags))[1].tobytes()


def tiff_block(value: int, order: str = "<", before: int = 0, kind: int = 3) -> bytes:
    """A TIFF header with one directory: some other tags, then the orientation as a short."""
    entries = b"".join(struct.pack(order + "HHII", 0x0100 + k, 4, 1, 7) for k in range(before))
    short = struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
    entries += struct.pack(order + "HHI", 0x0112, kind, 1) + short
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + struct.pack(order + "H", before + 1) + entries + bytes(4)


def jpeg(block: bytes, first: bytes = b"") -> bytes:
    body = b"Exif\0\0" + block
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    return b"\xff\xd8" + first + segment + encoded(".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)[2:]


def jpeg_after_jfif(block: bytes) -> bytes:
    data = encoded(".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)
    end = 4 + struct.unpack(">H", data[4:6])[0]
    body = b"Exif\0\0" + block
    return data[:end] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[end:]


def jpeg_after_comment(block: bytes) -> bytes:
    return jpeg(block, b"\xff\xfe\0\x06\xff\xe1\0\x02" + b"\xff\xff")


def png(block: bytes) -> bytes:
    data = encoded(".png")
    chunk = b"eXIf" + block
    return data[:33] + struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def png_at_the_end(block: bytes) -> bytes:
    data = encoded(".png")
    chunk = b"eXIf" + block
    return data[:-12] + struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[-12:]


def webp(block: bytes) -> bytes:
    data = encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 101)
    image = data[12:]
    if image[:4] == b"VP8X":
        image = image[18:]
    head = b"VP8X" + struct.pack("<I", 10) + bytes([8, 0, 0, 0])
    head += (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    exif = b"EXIF" + struct.pack("<I", len(block)) + block + b"\0" * (len(block) % 2)
    body = b"WEBP" + head + image + exif
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_with_prefix(block: bytes) -> bytes:
    return webp(b"Exif\0\0" + block)


def png_with_prefix(block: bytes) -> bytes:
    return png(b"Exif\0\0" + block)


def tiff(value: int, order: str = "<", kind: int = 3) -> bytes:
    """An uncompressed RGB TIFF whose own directory has the orientation."""
    pixels = picture().tobytes()
    tags = [(256, 3, 1, WIDTH), (257, 3, 1, HEIGHT), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 0)]
    tags += [(274, kind, 1, value), (277, 3, 1, 3), (278, 3, 1, HEIGHT), (279, 4, 1, len(pixels)), (284, 3, 1, 1)]
    start = 8 + 2 + 12 * len(tags) + 4 + 6
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(tags))
    for tag, type_, count, number in tags:
        if tag == 258:
            head += struct.pack(order + "HHII", tag, 3, 3, start - 6)
        elif type_ == 3:
            head += struct.pack(order + "HHIHH", tag, type_, count, number, 0)
        else:
            head += struct.pack(order + "HHII", tag, type_, count, start if tag == 273 else number)
    return head + bytes(4) + struct.pack(order + "HHH", 8, 8, 8) + pixels


PLACES = {
    "jpeg": jpeg,
    "jpeg after JFIF": jpeg_after_jfif,
    "jpeg after a comment": jpeg_after_comment,
    "png": png,
    "png at the end": png_at_the_end,
    "png with prefix": png_with_prefix,
    "webp": webp,
    "webp with prefix": webp_with_prefix,
}


def close(image: np.ndarray, wanted: np.ndarray) -> bool:
    return image.shape == wanted.shape and np.abs(image.astype(int) - wanted).mean() < 6


def agree(path, data: bytes) -> int:
    """The orientation that is read, after holding it against what decoding did; and the sizes and upright() to it."""
    told = orientation(data)
    image = decode_image(data, "x")
    assert close(image, TURNS[told](picture())), told
    assert header_size(data) == (WIDTH, HEIGHT)
    path.write_bytes(data)
    assert image_size(path) == image.shape[1::-1]
    level = upright(data)
    assert len(level) == len(data)
    assert orientation(level) == 1
    assert close(decode_image(level, "x"), picture())
    assert upright(level) == level
    return told


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("place", PLACES)
def test_it_is_what_the_decoder_does(tmp_path, place, value, order):
    told = agree(tmp_path / "x", PLACES[place](tiff_block(value, order, before=value % 3)))
    assert told == value


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", range(1, 9))
def test_tiffs_own_tag_does_what_the_decoder_does(tmp_path, value, order):
    assert agree(tmp_path / "x.tif", tiff(value, order)) == value
    assert agree(tmp_path / "x.tif", tiff(value, order, kind=4)) == value
    assert agree(tmp_path / "x.tif", tiff(9, order)) == 1


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
@pytest.mark.parametrize("place", PLACES)
def test_senseless_values_turn_nothing(tmp_path, place, value):
    assert agree(tmp_path / "x", PLACES[place](tiff_block(value))) == 1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "block",
    [b"", b"II", b"XX*\0\x08\0\0\0", tiff_block(6)[:18], tiff_block(6)[:8] + b"\0\0", b"II*\0\xff\xff\xff\xff",
     b"II*\0\0\0\0\0", b"MM\0*\0\0\0\x08\xff\xff"],
)  # fmt: skip
def test_blocks_that_break_off_turn_nothing(tmp_path, place, block):
    assert agree(tmp_path / "x", PLACES[place](block)) == 1


@pytest.mark.parametrize("order", "<>")
def test_other_types_of_the_tag_are_read_as_the_decoder_reads_them(tmp_path, order):
    for place in ("jpeg", "png", "webp"):
        agree(tmp_path / "x", PLACES[place](tiff_block(6, order, kind=4)))


def xmp(value: int, as_element: bool = False) -> bytes:
    text = f"><tiff:Orientation>{value}</tiff:Orientation>" if as_element else f' tiff:Orientation="{value}"/>'
    return f"<rdf:RDF><rdf:Description{text}</rdf:RDF>".encode()


def png_text(name: bytes, body: bytes) -> bytes:
    data = encoded(".png")
    chunk = name + body
    return data[:33] + struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def raw_profile(value: int) -> bytes:
    """ImageMagick's: the name, the length and lines of digits."""
    block = b"Exif\0\0" + tiff_block(value)
    digits = block.hex().encode()
    return b"\nexif\n%8d\n" % len(block) + digits[:36] + b"\n" + digits[36:] + b"\n"


def jpeg_xmp(value: int) -> bytes:
    body = b"http://ns.adobe.com/xap/1.0/\0" + xmp(value)
    data = encoded(".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def webp_xmp(value: int) -> bytes:
    body = xmp(value)
    data = bytearray(webp(body).replace(b"EXIF", b"XMP "))
    data[data.index(b"VP8X") + 8] = 4
    return bytes(data)


def tiff_xmp(value: int) -> bytes:
    """In place of the tag of the orientation, which Pillow would take first."""
    data, body = tiff(1), xmp(value)
    at = data.index(struct.pack("<HHI", 274, 3, 1))
    entries = struct.unpack_from("<H", data, 8)[0]
    rows = [data[10 + 12 * k : 22 + 12 * k] for k in range(entries) if 10 + 12 * k != at]
    rows.append(struct.pack("<HHII", 700, 1, len(body), len(data)))
    return data[:10] + b"".join(rows) + data[10 + 12 * entries :] + body


KEY, RAW = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"
SAID = {
    "jpeg": jpeg_xmp,
    "webp": webp_xmp,
    "tiff": tiff_xmp,
    "png": lambda value: png_text(b"iTXt", KEY + b"\0\0en\0\0" + xmp(value)),
    "png, packed": lambda value: png_text(b"iTXt", KEY + b"\1\0\0\0" + zlib.compress(xmp(value, True))),
    "png, raw and packed": lambda value: png_text(b"zTXt", RAW + b"\0" + zlib.compress(raw_profile(value))),
    "png, raw": lambda value: png_text(b"tEXt", RAW + raw_profile(value)),
}


@pytest.mark.parametrize("value", range(10))
@pytest.mark.parametrize("place", SAID)
def test_xmp_and_raw_profiles_turn_too(tmp_path, place, value):
    data = SAID[place](value)
    wanted = value if 1 <= value <= 8 else 1
    assert orientation(data) == wanted
    assert close(decode_image(data, "x"), TURNS[wanted](picture()))
    (tmp_path / "x").write_bytes(data)
    assert image_size(tmp_path / "x") == decode_image(data, "x").shape[1::-1]
    level = upright(data)
    assert orientation(level) == 1
    assert close(decode_image(level, "x"), picture())


def test_exif_goes_before_xmp_even_where_it_says_upright():
    body = b"http://ns.adobe.com/xap/1.0/\0" + xmp(6)
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    assert orientation(jpeg(tiff_block(1), segment)) == 1
    assert orientation(jpeg(tiff_block(3), segment)) == 3


def test_texts_that_grow_without_end_are_inflated_to_a_limit_only():
    bomb = RAW + b"\0" + zlib.compress(b"\n\n\n" + bytes(200_000_000))
    start = time.process_time()
    assert orientation(png_text(b"zTXt", bomb)) == 1
    assert orientation(png_text(b"iTXt", KEY + b"\1\0\0\0" + bomb[len(RAW) + 1 :])) == 1
    assert time.process_time() - start < 0.5


def test_of_several_the_decoders_choice_counts(tmp_path):
    one, two = tiff_block(6), tiff_block(3)
    twice = jpeg_after_jfif(one)
    body = b"Exif\0\0" + two
    twice = twice[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + twice[2:]
    agree(tmp_path / "x", twice)
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x/>"
    agree(tmp_path / "x", jpeg(one, b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp))


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("form", [".png", ".webp"])
def test_large_files_may_say_it_after_the_pixels(tmp_path, form, late):
    data = cv2.imencode(form, noise(300, 500), [cv2.IMWRITE_WEBP_QUALITY, 101] if form == ".webp" else [])[1].tobytes()
    assert len(data) > 2**18
    block = tiff_block(6)
    if form == ".png":
        chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
        data = data[:-12] + chunk + data[-12:] if late else data[:33] + chunk + data[33:]
    else:
        head = b"VP8X" + struct.pack("<I", 10) + bytes([8 * late, 0, 0, 0]) + (499).to_bytes(3, "little")
        body = b"WEBP" + head + (299).to_bytes(3, "little") + data[12:]
        body += b"EXIF" + struct.pack("<I", len(block)) + block if late else b""
        data = b"RIFF" + struct.pack("<I", len(body)) + body
    (tmp_path / "x").write_bytes(data)
    assert image_size(tmp_path / "x") == decode_image(data, "x").shape[1::-1]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".gif", ".tiff"])
def test_files_without_it_are_left_alone(suffix):
    data = encoded(suffix)
    assert orientation(data) == 1
    assert upright(data) == data
    assert turn_of(b"") == UPRIGHT


def test_a_png_without_its_checksum_is_turned_and_keeps_its_length():
    block = tiff_block(6)
    start = encoded(".png")[:33] + struct.pack(">I", len(block)) + b"eXIf" + block
    for cut_short in (start, start + b"12", start[:-1]):
        turned = upright(cut_short)
        assert len(turned) == len(cut_short)
        assert orientation(cut_short) == 6
        assert orientation(turned) == 1


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(PLACES)), st.integers(1, 8), st.sampled_from("<>"), st.data())
def test_changed_bytes_never_raise(place, value, order, data):
    whole = bytearray(PLACES[place](tiff_block(value, order, before=2)))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, min(len(whole) - 1, 160)) | st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    told, level = orientation(bytes(whole)), upright(bytes(whole))
    assert 1 <= told <= 8
    assert len(level) == len(whole)
    assert orientation(level) == 1


@settings(max_examples=300)
@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"II*\0", b"MM\0*"]),
    st.binary(max_size=99),
)
def test_arbitrary_bytes_never_raise(start, rest):
    assert 1 <= orientation(start + rest) <= 8
    assert orientation(upright(start + rest)) == 1


@pytest.mark.parametrize(
    "data",
    [b"\xff\xd8" + b"\xff" * 3_000_000, b"\xff\xd8" + b"\xff\xe0\0\0" * 500_000, b"\xff\xd8\xff\xe0\0\x02" * 500_000,
     b"\x89PNG\r\n\x1a\n" + bytes(3_000_000), b"RIFF\0\0\0\0WEBP" + bytes(3_000_000)],
)  # fmt: skip
def test_hostile_files_take_no_time(data):
    start = time.process_time()
    assert orientation(data) == 1
    assert time.process_time() - start < 1

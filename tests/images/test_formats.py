"""AVIF, HEIC and JPEG XL: what their headers say is what decoding gives, and limits hold before it."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singleshot.errors import DataError
from singleshot.images import extra_decoders
from singleshot.images.decode import decode_image, image_size, read_encoded, upright_size, verify_image
from singleshot.images.headers import ending_of, header_size
from singleshot.images.jpeg_xl import image_header
from singleshot.images.orientation import orientation, turned, upright


def _module(name: str):
    """A file of helpers next to this one, in a package of no name."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


iso = _module("iso_files")


def quarters() -> np.ndarray:
    """Twice as wide as high, in four flat quarters."""
    return np.ascontiguousarray(cv2.resize(iso.quarters(), (96, 48), interpolation=cv2.INTER_NEAREST))


def jxl(image: np.ndarray, value: int = 1, **options) -> bytes:
    """A JPEG XL that says orientation `value`, in three bits that are there in an animation."""
    if value == 1:
        return imagecodecs.jpegxl_encode(image, lossless=True, **options)
    data = imagecodecs.jpegxl_encode(np.stack([image, image[::-1]]), lossless=True, **options)
    number = int.from_bytes(data, "little") | (value - 1) << image_header(data).bit
    return number.to_bytes(len(data), "little")


def alike(image: np.ndarray, wanted: np.ndarray, most: float) -> bool:
    return image.shape == wanted.shape and np.abs(image.astype(int) - wanted).mean() < most


@pytest.mark.parametrize("form", ["heic", "avif"])
@pytest.mark.parametrize("value", range(1, 9))
def test_turns_by_the_boxes(tmp_path, form, value):
    data = getattr(iso, form)(value)
    assert ending_of(data) == form
    assert orientation(data) == value
    assert alike(decode_image(data, "x"), turned(iso.quarters(), value), 3)
    level = upright(data)
    assert len(level) == len(data)
    assert orientation(level) == 1
    assert alike(decode_image(level, "x"), iso.quarters(), 3)


def test_sides_are_those_of_the_pixels(tmp_path):
    path = tmp_path / "x.heic"
    aperture = struct.pack(">8I", 40, 1, 24, 1, 0, 1, 0, 1)
    path.write_bytes(iso.heic(6, extra=iso.box(b"clap", aperture)))
    image = read_encoded(str(path)).decode()
    assert image_size(path) == image.shape[1::-1] == (24, 40)
    assert verify_image(path.read_bytes(), "x") == (24, 40)


@pytest.mark.parametrize("form", ["heic", "avif"])
def test_limits_hold_before_decoding(form, one_line):
    make = getattr(iso, form)
    assert "16384 x 16384 pixels (at most 100 million" in one_line(decode_image, make(sides=(16384, 16384)), "x")
    assert "at most 50 million" in one_line(decode_image, make(sides=(9000, 9000)), "x")
    assert "none at all" in one_line(decode_image, make(sides=(0, 64)), "x")
    assert "not an image that is read here" in one_line(decode_image, make()[:60], "x")


@pytest.mark.parametrize("value", range(1, 9))
def test_jpeg_xl_turns(value):
    data = jxl(quarters(), value)
    assert orientation(data) == value
    assert np.array_equal(decode_image(data, "x"), turned(quarters(), value))
    assert header_size(data) == (96, 48)
    assert upright_size(data, "x") == turned(quarters(), value).shape[1::-1]
    level = upright(data)
    assert (len(level), orientation(level)) == (len(data), 1)
    assert np.array_equal(decode_image(level, "x"), quarters())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_jpeg_xl_samples(channels, kind):
    rgb = quarters()
    image = np.concatenate([rgb if channels > 2 else rgb[..., :1], rgb[..., 1:2]], axis=2)[..., :channels]
    wanted = image[..., :3] if channels > 2 else image[..., :1].repeat(3, axis=2)
    scale = {"uint8": 1, "uint16": 257, "float32": 1 / 255}[kind]
    data = jxl(np.squeeze(image * np.array(scale, kind)).astype(kind))
    assert alike(decode_image(data, "x"), wanted, 1.5 if kind == "float32" else 0.01)


@pytest.mark.parametrize(
    "sides",
    [(8, 8), (256, 256), (257, 300), (300, 360), (300, 400), (320, 480), (90, 160), (80, 100), (50, 100), (1, 9000)],
)
def test_jpeg_xl_writes_sides_in_many_ways(sides):
    data = jxl(np.zeros(sides, np.uint8))
    assert header_size(data) == sides[::-1]
    assert header_size(jxl(np.zeros(sides, np.uint8), usecontainer=True)) == sides[::-1]


def test_sides_that_are_not_those_of_the_coded_picture_are_damage(one_line):
    assert "damaged" in one_line(decode_image, iso.heic(sides=(32, 32)), "x")
    assert "damaged" in one_line(decode_image, iso.heic(sides=(6000, 6000)), "x")
    assert decode_image(iso.avif(sides=(32, 40)), "x").shape == (40, 32, 3)  # its decoder scales it


def test_jpeg_xl_limits(one_line):
    huge = b"\xff\x0a" + (3 << 1 | (2**30 - 1) << 3 | 1 << 33).to_bytes(16, "little")  # 30 bits of height, as wide
    assert "1073741824 x 1073741824 pixels" in one_line(decode_image, huge, "x")
    # 8 x 8 pixels of 8 bits, which says that 4096 channels follow: 12 bits after the fourth way.
    bits = [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, *[1] * 12]
    many = b"\xff\x0a" + sum(bit << k for k, bit in enumerate(bits)).to_bytes(16, "little")
    assert "channels next to those of colour" in one_line(decode_image, many, "x")
    assert "damaged or cut short" in one_line(decode_image, jxl(quarters())[:40], "x")
    assert "not an image" in one_line(decode_image, b"\xff\x0a", "x")


@pytest.mark.parametrize(("make", "extra"), [(iso.heic, "heif"), (lambda: jxl(quarters()), "jxl")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, one_line, make, extra):
    monkeypatch.setattr(extra_decoders, "_is_installed", lambda package: False)
    assert f"pip install 'singleshot[{extra}]'" in one_line(decode_image, make(), "x")


def test_an_opencv_without_avif_is_named(monkeypatch, one_line):
    monkeypatch.setattr(extra_decoders, "_has_avif", lambda: False)
    assert "pip install -U opencv-python-headless" in one_line(decode_image, iso.avif(), "x")


def test_avif_with_alpha_keeps_its_colours():
    bgra = np.dstack([iso.quarters()[..., ::-1], np.full((64, 64), 90, np.uint8)])
    data = cv2.imencode(".avif", bgra, [cv2.IMWRITE_AVIF_QUALITY, 95])[1].tobytes()
    assert alike(decode_image(data, "x"), iso.quarters(), 3)


WHOLE = {"heic": iso.heic(6), "avif": iso.avif(5), "jxl": jxl(quarters())}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_changed_headers_never_raise(form, data):
    whole = bytearray(WHOLE[form])
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(len(whole), 400) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    changed = bytes(whole)
    assert 1 <= orientation(changed) <= 8
    assert orientation(upright(changed)) == 1
    header_size(changed)


@pytest.mark.parametrize("form", sorted(WHOLE))
def test_changed_files_decode_or_end_in_a_line(form):
    generator = np.random.default_rng(0)
    for _ in range(25):
        whole = bytearray(WHOLE[form])
        for at in generator.integers(12, len(whole), 3):
            whole[at] = generator.integers(256)
        try:
            image = decode_image(bytes(whole), "x")
        except DataError:
            continue
        assert image.ndim == 3


@pytest.mark.parametrize("form", sorted(WHOLE))
def test_data_sets_take_them(tmp_path, write_coco, form):
    from singleshot.datasets import open_dataset, open_source
    from singleshot.datasets.checks import check_source

    (tmp_path / f"a.{form}").write_bytes(WHOLE[form])
    width, height = upright_size(WHOLE[form], "a")
    images = [{"id": 1, "file_name": f"a.{form}", "width": width, "height": height}]
    objects = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}
    write_coco(tmp_path / "annotations.json", content)
    kinds = {finding.kind for finding in check_source(open_source(tmp_path)).findings}
    assert not kinds & {"image-corrupt", "image-unread", "image-damaged", "size-wrong"}
    sample = open_dataset(tmp_path, "train").sample(0)
    assert np.array_equal(sample.image, decode_image(WHOLE[form], "a"))

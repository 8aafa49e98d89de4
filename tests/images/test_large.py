"""Windows of files that are read in parts: the same pixels as of the whole, and no more memory than is said."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from singleshot.errors import DataError
from singleshot.images import decode, large
from singleshot.images.decode import read_image
from singleshot.images.large import LargeImage
from singleshot.records import ImageDetections


def smooth(height: int = 300, width: int = 420) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def written(path, image, *flags):
    path.write_bytes(cv2.imencode(path.suffix, image, list(flags))[1].tobytes())
    return str(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("kind", ["colour", "grey", "alpha", "deep"])
def test_windows_are_those_of_the_whole(tmp_path, suffix, kind):
    image = smooth()
    image = {
        "grey": image[..., 0],
        "alpha": np.dstack([image, image[..., :1]]),
        "deep": image.astype(np.uint16) * 257,
    }.get(kind, image)
    if suffix == ".jpg" and kind in ("alpha", "deep"):
        return
    path = written(tmp_path / f"a{suffix}", image)
    opened, whole = LargeImage(path), read_image(path)
    assert opened.shape == whole.shape
    for rows, columns in (
        (slice(0, 90), slice(0, 420)),
        (slice(200, 300), slice(301, 402)),
        (slice(50, 51), slice(7, 9)),
    ):
        far = np.abs(opened[rows, columns].astype(int) - whole[rows, columns])
        assert far.max() <= (8 if suffix == ".jpg" else 0)  # another decoder spreads the colours between pixels
        assert far.mean() < 1
    opened.close()


def test_a_palette_is_looked_up(tmp_path):
    from PIL import Image

    path = tmp_path / "a.png"
    Image.fromarray(smooth()).convert("P", palette=Image.Palette.ADAPTIVE).save(path)
    assert np.array_equal(LargeImage(str(path))[0:300, 0:420], read_image(path))


def test_a_very_large_window_is_reduced_by_means(tmp_path, monkeypatch):
    path = written(tmp_path / "a.png", smooth())
    monkeypatch.setattr(large, "_MOST_WINDOW", 10_000)
    part = LargeImage(path)[0:300, 0:420]
    assert part.shape == (75, 105, 3)
    assert np.abs(part.astype(int) - cv2.resize(read_image(path), (105, 75), interpolation=cv2.INTER_AREA)).max() <= 2


def test_what_cannot_be_read_in_parts_is_named(tmp_path, monkeypatch, one_line, tiff):
    image = smooth()
    progressive = written(tmp_path / "p.jpg", image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert "a progressive JPEG cannot be" in one_line(LargeImage, progressive)
    assert "only JPEG, PNG and TIFF" in one_line(LargeImage, written(tmp_path / "a.webp", image))
    (tmp_path / "f.tif").write_bytes(tiff(image.astype(np.float32)))
    assert "3 channels of 32 bits (float32)" in one_line(LargeImage, str(tmp_path / "f.tif"))
    path = written(tmp_path / "a.png", image.astype(np.uint16))
    assert "without a stretch" in one_line(LargeImage, path, "stretch")
    monkeypatch.setattr(large, "_MOST_BLOCK", 10)
    assert "too large to be held" in one_line(LargeImage, path)
    cut_short = tmp_path / "short.png"
    cut_short.write_bytes((tmp_path / "a.png").read_bytes()[:4000])
    monkeypatch.undo()
    opened = LargeImage(str(cut_short))
    with pytest.raises(DataError, match="damaged or cut short"):
        opened[200:300, 0:420]


@pytest.mark.parametrize("value", [1, 6])
def test_turns_are_named_even_at_the_end_of_a_tiff(tmp_path, value):
    from PIL import Image

    path = tmp_path / "a.tif"
    Image.fromarray(smooth(600, 900)).save(path, tiffinfo={274: value})
    data = path.read_bytes()
    count = struct.unpack_from("<H", data, struct.unpack_from("<I", data, 4)[0])[0]
    directory = data[struct.unpack_from("<I", data, 4)[0] :][: 2 + 12 * count + 4]
    path.write_bytes(data[:4] + struct.pack("<I", len(data)) + data[8:] + directory)
    if value == 1:
        assert LargeImage(str(path)).shape == (600, 900, 3)
    else:
        with pytest.raises(DataError, match="save it upright"):
            LargeImage(str(path))


def test_tiles_of_a_large_file_find_the_same(tmp_path, monkeypatch):
    from singleshot.inputs import InputSpec
    from singleshot.runtime import Detector

    class Bright:
        def __call__(self, images):
            found = []
            for image in images:
                ys, xs = np.nonzero(image.min(axis=2) > 128)
                box = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]] if len(xs) else np.zeros((0, 4))
                scores = np.full(len(box), 0.9, np.float32)
                found.append(ImageDetections(np.array(box, np.float32) / 300, scores, np.zeros(len(box), np.int64)))
            return found

    image = np.zeros((800, 1200, 3), np.uint8)
    image[310:390, 500:640] = image[20:60, 30:50] = 255
    path = written(tmp_path / "a.png", image)
    detector = Detector(Bright(), InputSpec(size=300), ("bright",))
    (usual,) = detector.stream(path, tile=400, keep_images=False)
    monkeypatch.setattr(decode, "MAX_PIXELS", 900_000)
    monkeypatch.setattr(large, "_MOST_WINDOW", 300_000)
    (found,) = detector.stream(path, tile=400, keep_images=False)
    assert found.detections.boxes == pytest.approx(usual.detections.boxes, abs=4)
    assert (found.detections.width, found.detections.height) == (1200, 800)
    (kept,) = detector.stream(path, tile=400)
    assert "--no-draw" in str(kept.frame.error)
    (untiled,) = detector.stream(path)
    assert "--tile" in str(untiled.frame.error)


def test_without_the_package_its_extra_is_named(tmp_path, monkeypatch, one_line):
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    assert "pip install 'singleshot[large]'" in one_line(LargeImage, written(tmp_path / "a.png", smooth()))

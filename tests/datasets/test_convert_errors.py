"""Each kind of error that `data check` has for labels and images, with each form that is written: refused in one line,
nothing half-written; boxes are cut where that is asked for."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.datasets import open_source
from singleshot.datasets.checks import check_source
from singleshot.datasets.formats import written_formats
from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.datasets.writing import write_dataset

FORMS = tuple(written_formats())
GOOD = (3.0, 4.0, 20.0, 30.0)
# kind of finding -> box that has it (an image is 64 x 48), the words of the refusal, and whether cutting leaves some.
BOXES = {
    "negative width": ((20.0, 4.0, 3.0, 30.0), "has no area", False),
    "negative height": ((3.0, 30.0, 20.0, 4.0), "has no area", False),
    "no width": ((3.0, 4.0, 3.0, 30.0), "has no area", False),
    "a hair's width": ((0.0, 4.0, 1e-9, 30.0), "has no area", False),
    "outside": ((100.0, 4.0, 120.0, 30.0), "lies outside the image of 64 x 48", False),
    "half outside": ((40.0, 4.0, 90.0, 30.0), "lies outside the image of 64 x 48", True),
    "left of it": ((-30.0, 4.0, 20.0, 30.0), "lies outside the image of 64 x 48", True),
    "at the edge": ((63.0, 47.0, 65.0, 49.0), "", True),
}


def data_set(folder: Path, box=GOOD, size=(64, 48), relative: bool = False) -> RawSet:
    """Two images of 64 x 48, whose first has `box` besides a good one; size: what its label says."""
    images = []
    for k in range(2):
        path = folder / f"{k}.png"
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(k).integers(0, 255, (48, 64, 3), np.uint8))
        boxes = (GOOD, box) if k == 0 else (GOOD,)
        if relative:
            boxes = tuple((x0 / 64, y0 / 48, x1 / 64, y1 / 48) for x0, y0, x1, y1 in boxes)
        objects = [RawObject("cat" if n == 0 else "dog", found) for n, found in enumerate(boxes)]
        images.append(RawImage(str(path), str(k), *(size if k == 0 else (0, 0)), objects, f"{k}.label", relative))
    return RawSet("test", "the set", ("cat", "dog"), images, {"train": [0], "val": [1]})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", BOXES)
@pytest.mark.parametrize("said", ["its size", "parts"])
def test_boxes(tmp_path, one_line, form, kind, said):
    box, words, some_left = BOXES[kind]
    raw = data_set(tmp_path / "from", box, (0, 0) if said == "parts" else (64, 48), said == "parts")
    if words:
        text = one_line(write_dataset, raw, tmp_path / "b", form, strict=True)
        assert text.startswith("0.label: object 0 (dog): box [")
        assert words in text
        assert "--clip-boxes" in text
        assert "data check --fix" in text
        assert [path.name for path in tmp_path.iterdir()] == ["from"]
    written = write_dataset(raw, tmp_path / "b", form, strict=True, clip_boxes=True)
    assert written.objects == 2 + some_left
    if (form, kind) in (("coco", "half outside"), ("yolo", "at the edge")):
        result = check_source(open_source(tmp_path / "b"), workers=1)
        assert result.severity("error") == 0


@pytest.mark.parametrize("form", FORMS)
def test_images(tmp_path, one_line, tiff, form):
    def refused(raw: RawSet) -> str:
        text = one_line(write_dataset, raw, tmp_path / "b", form, strict=True, clip_boxes=True)
        assert [path.name for path in tmp_path.iterdir()] == ["from"]
        return text

    text = refused(data_set(tmp_path / "from", size=(640, 480)))
    assert text.startswith("0.label: says 640 x 480 pixels, but ")
    assert text.endswith("0.png is 64 x 48; correct it, or let singleshot data check --fix write a repaired copy first")
    raw = data_set(tmp_path / "from")
    image = Path(raw.images[1].path)
    whole = image.read_bytes()
    for damaged in (whole[:-40], whole[:60] + bytes(40) + whole[100:], b"\xff\xd8\xff\xe0 not a JPEG \xff\xd9"):
        image.write_bytes(damaged)
        assert "1.png" in refused(raw)
    image.write_bytes(tiff(np.zeros((48, 64), np.float32)))
    assert "a float32 TIFF" in refused(raw)
    image.unlink()
    assert "1.png" in refused(raw)


@pytest.mark.parametrize("form", FORMS)
def test_sets(tmp_path, one_line, form):
    raw = data_set(tmp_path / "from")
    parts = [RawObject("cat", (0.1, 0.2, 0.33, 0.4))]
    text = one_line(write_dataset, raw._replace(images=[i._replace(objects=parts) for i in raw.images]),
                    tmp_path / "b", form, strict=True)  # fmt: skip
    assert "all 2 boxes lie between 0 and 1" in text
    bare = raw._replace(images=[i._replace(objects=[]) for i in raw.images])
    assert "no image has an object" in one_line(write_dataset, bare, tmp_path / "b", form, strict=True)
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


def test_boxes_that_may_be_percent_are_said(tmp_path, caplog):
    raw = data_set(tmp_path / "from")
    percent = [RawObject("cat", (10.5 + k, 20.5, 40.5 + k, 60.5)) for k in range(10)]
    images = []
    for image in raw.images:
        cv2.imwrite(image.path, np.zeros((300, 400, 3), np.uint8))
        images.append(image._replace(objects=percent, width=400, height=300))
    write_dataset(raw._replace(images=images), tmp_path / "b", "yolo", strict=True)
    assert "if they are percent" in caplog.text

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleshot.datasets import open_dataset
from singleshot.datasets.build_dataset import build_dataset, measure
from singleshot.datasets.raw import RawImage, RawObject, RawSet


@pytest.fixture(scope="module")
def picture(tmp_path_factory, write_image):
    """The path of an image of 64 x 48 pixels."""
    path = tmp_path_factory.mktemp("images") / "a.png"
    write_image(path, 64, 48)
    return str(path)


def image(path, *objects, size=(0, 0), relative=False, file="labels.csv"):
    return RawImage(path, "a", *size, list(objects), file, relative)


def raw(*images, names=("cat", "dog"), form="csv", splits=None):
    return RawSet(form, "/set", names, list(images), splits or {"train": list(range(len(images)))})


def test_relative_boxes_become_pixels_of_the_measured_image(picture):
    objects = [RawObject("dog", (0.25, 0, 0.5, 1)), RawObject("cat", (0, 0.5, 1, 1))]
    pixels = image(picture, RawObject("cat", (0.25, 0, 0.5, 1)))
    empty = image(picture, relative=True)
    data = build_dataset(raw(image(picture, *objects, relative=True), pixels, empty), "train")
    assert data.boxes_px.tolist() == [[16, 0, 32, 48], [0, 24, 64, 48], [0.25, 0, 0.5, 1]]
    assert data.sizes.tolist() == [[64, 48], [0, 0], [64, 48]]  # what is not relative is not opened for it
    assert data.ptr.tolist() == [0, 2, 3, 3]
    assert data.labels.tolist() == [1, 0, 0]
    assert data.area.tolist() == [16 * 48, 64 * 24, 0.25]


def test_a_told_size_is_taken_without_opening_the_file():
    obj = RawObject("cat", (0, 0, 0.5, 1))
    data = build_dataset(raw(image("/none.png", obj, size=(200, 100), relative=True)), "train")
    assert data.boxes_px.tolist() == [[0, 0, 100, 100]]


def test_a_relative_image_that_cannot_be_measured_is_said(tmp_path, one_line):
    obj = RawObject("cat", (0, 0, 0.5, 1))
    (tmp_path / "broken.png").write_bytes(b"nonsense")
    for name, message in (("none.png", "no such image file"), ("broken.png", "not an image that is read here")):
        assert message in one_line(build_dataset, raw(image(str(tmp_path / name), obj, relative=True)), "train")


def test_half_a_size_is_none():
    sizes, scales = measure([image("a", size=(64, 0)), image("b", size=(0, 48)), image("c", size=(64, 48))])
    assert sizes.tolist() == [[0, 0], [0, 0], [64, 48]]
    assert scales.tolist() == [[1] * 4] * 3
    sizes, scales = measure([])
    assert sizes.shape == (0, 2)
    assert scales.shape == (0, 4)


@given(st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), max_size=6))
def test_relative_boxes_are_scaled_by_width_and_height(boxes):
    boxes = [box for box in boxes if box[2] - box[0] > 1e-3 and box[3] - box[1] > 1e-3]
    objects = [RawObject("cat", box) for box in boxes]
    data = build_dataset(raw(image("/none.png", *objects, size=(640, 480), relative=True)), "train")
    wanted = np.array(boxes).reshape(-1, 4) * [640, 480, 640, 480]
    np.testing.assert_allclose(data.boxes_px, wanted, atol=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("clip", [True, False])
def test_what_is_no_place_is_refused_without_a_warning(value, relative, clip, one_line):
    obj = RawObject("cat", (0, 0, value, 1), line=7, number=3)
    one = raw(image("/none.png", obj, size=(64, 48), relative=relative))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = one_line(build_dataset, one, "train", None, clip)
    assert text.startswith("labels.csv:7: object 3 (cat): box [0, 0, ")
    assert "is not a place" in text


def test_messages_show_boxes_as_their_file_has_them(one_line, tmp_path, coco, write_coco, write_image):
    write_image(tmp_path / "yolo" / "images" / "a.png", 64, 48)
    (tmp_path / "yolo" / "labels").mkdir()
    (tmp_path / "yolo" / "labels" / "a.txt").write_text("0 1 0.5 1 0.5\n")
    text = one_line(open_dataset, tmp_path / "yolo")
    assert "object 0 (class 0): box 1 0.5 1 0.5 (centre, width, height) lies outside the image of 64 x 48" in text
    rows = [{"id": 9, "image_id": 10, "category_id": 7, "bbox": [990, 1, 9, 1]}]
    path = write_coco(tmp_path / "coco" / "train.json", coco(rows))
    assert "annotation 0 (id 9, cat): bbox [990, 1, 9, 1]" in one_line(open_dataset, path)


def test_unknown_classes_are_said_with_the_nearest(one_line):
    one = raw(image("/none.png", RawObject("cat", (0, 0, 1, 1)), RawObject("dogs\n", (0, 0, 1, 1), number=1, line=4)))
    text = one_line(build_dataset, one, "train")
    assert text.startswith(
        r"labels.csv:4: object 1 (dogs\n): class 'dogs\\n', which is not among the 2 wanted (cat, dog)"
    )
    assert "did you mean 'dog'?" in text
    assert "'cat', which is not among the 1 wanted (bird)" in one_line(build_dataset, one, "train", ["bird"])


def test_no_classes_at_all_is_said(one_line):
    assert "no annotation has an object" in one_line(build_dataset, raw(image("/none.png"), names=()), "train")
    assert build_dataset(raw(image("/none.png"), names=()), "train", ["cat"]).class_names == ("cat",)


def test_given_classes_order_the_labels():
    one = raw(image("/none.png", RawObject("cat", (0, 0, 1, 1)), RawObject("dog", (0, 0, 1, 1))))
    data = build_dataset(one, "train", ["bird", "dog", "cat"])
    assert data.class_names == ("bird", "dog", "cat")
    assert data.labels.tolist() == [2, 1]


def test_clip_boxes_cuts_drops_counts_and_keeps_all_in_step(caplog, one_line):
    boxes = [(-9, 0, 5, 5), (70, 0, 90, 5), (5, 5, 5, 9), (1, 1, 2, 3), (-1, -1, 65, 49)]
    objects = [RawObject("cat", box, k % 2 == 0, k == 3, 100 + k, k) for k, box in enumerate(boxes)]
    one = raw(image("/none.png", *objects[:3], size=(64, 48)), image("/b.png", *objects[3:], size=(64, 48)))
    data = build_dataset(one, "train", clip_boxes=True)
    assert "/set (train): 1 boxes cut to their image, 2 dropped" in caplog.text
    assert data.boxes_px.tolist() == [[0, 0, 5, 5], [1, 1, 2, 3], [0, 0, 64, 48]]
    assert data.ptr.tolist() == [0, 1, 3]
    assert data.difficult.tolist() == [True, False, True]
    assert data.crowd.tolist() == [False, True, False]
    assert data.area.tolist() == [100, 103, 104]
    assert data.clip_boxes
    assert "lies outside" in one_line(build_dataset, one, "train")


def test_a_missing_area_is_the_boxs_own():
    objects = [
        RawObject("cat", (1, 2, 4, 8)),
        RawObject("cat", (1, 2, 4, 8), area=0),
        RawObject("cat", (0, 0, 2, 2), area=3.5),
    ]
    data = build_dataset(raw(image("/none.png", *objects, size=(64, 48))), "train")
    assert data.area.tolist() == [18, 0, 3.5]
    assert data.area.dtype == np.float32


def test_only_the_split_is_taken():
    one = raw(image("/a.png", RawObject("cat", (0, 0, 1, 1))), image("/b.png", RawObject("dog", (0, 0, math.nan, 1))))
    data = build_dataset(one._replace(splits={"train": [0], "val": [1], "none": []}), "train")
    assert list(data.names) == ["/a.png"]
    assert data.source == "/set (train)"
    empty = build_dataset(one._replace(splits={"none": []}), "none")
    assert len(empty) == 0
    assert empty.boxes_px.shape == (0, 4)
    assert empty.sizes.shape == (0, 2)

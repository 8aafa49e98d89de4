"""Drawn labels can be read, and the record behaves like a sequence."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from singleshot.runtime import Detections, drawing


def contrast(a, b):
    """WCAG 2 contrast ratio, written from its definition."""

    def luminance(rgb):
        parts = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_colours_are_distinct_and_their_text_readable():
    colours = [drawing.class_colour(label) for label in range(90)]
    assert len(set(colours)) == 90
    lab = cv2.cvtColor(np.array([colours], np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(90)
    assert apart.min() > 5  # about 2.3 is just noticeable
    assert all(contrast(colour, drawing.text_colour(colour)) >= 4.5 for colour in colours)  # WCAG AA
    assert drawing.class_colour(1_000_000) in drawing._palette()


def test_draw_leaves_the_original_alone_and_marks_the_box(found):
    image = np.full((100, 200, 3), 128, np.uint8)
    drawn = found().draw(image)
    assert (image == 128).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert tuple(drawn[60, 10]) == drawing.class_colour(1)  # on the left edge of the dog's box
    assert (drawn[50:75, 20:100] == 128).all()  # its inside is free


@pytest.mark.parametrize("size", [(1, 1), (3, 300), (300, 3), (17, 17), (4000, 3000), (480, 640)])
@pytest.mark.parametrize(
    "box", [(0, 0, 1, 1), (0.9, 0.9, 1, 1), (0.4, 0, 0.6, 0.1), (1, 1, 1, 1), (0, 0.999, 0.001, 1)]
)
def test_any_size_and_place(size, box):
    height, width = size
    boxes = np.array([box], np.float32) * [width, height, width, height]
    one = Detections(
        boxes.astype(np.float32), np.array([0.5]), np.array([3]), ("a rather long name",), "x", width, height
    )
    image = np.zeros((height, width, 3), np.uint8)
    assert one.draw(image).any()


@pytest.mark.parametrize("name", ["person", "Straße", "собака", "狗", "ñandú", "Ελλάδα"])
def test_names_in_many_scripts(name):
    if drawing._font() is None:
        pytest.skip("OpenCV before 5 has ASCII letters only")
    assert drawing.display_name(name, 3) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [("हिन्दी", "class 3"), ("ไทย", "class 3"), ("😀", "class 3"), ("", "class 3"), ("a\nb", "a\\nb"), ("why?", "why?")],
)
def test_names_that_cannot_be_drawn(name, shown):
    assert drawing.display_name(name, 3) == shown


def test_drawing_without_opencv_5(monkeypatch, found):
    monkeypatch.setattr(drawing, "_font", lambda: None)
    drawing.display_name.cache_clear()
    try:
        assert drawing.display_name("ñandú", 3) == "nandu"
        assert drawing.display_name("狗", 3) == "class 3"
        image = np.full((400, 600, 3), 128, np.uint8)
        assert (found().draw(image) != image).any()
    finally:
        drawing.display_name.cache_clear()


def test_detections_as_a_sequence(found):
    both = found()
    assert len(both) == 2
    assert [one.names for one in both] == [("dog",), ("cat",)]
    assert both[-1].names == ("cat",)
    assert both[both.labels == 1].boxes.shape == (1, 4)
    assert both[:0].boxes.shape == (0, 4)
    assert both.above(0.875).names == ("dog",)
    assert both.above(0.9).to_coco() == []
    assert both.to_coco("k")[1]["image_id"] == "k"
    assert both.summary() == "1 cat, 1 dog"
    with pytest.raises(IndexError):
        both[2]

"""Drawn labels can be read, and the record behaves like a sequence."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from singleshot.errors import ConfigError
from singleshot.runtime import Detections, drawing
from singleshot.runtime.label_layout import Label


def contrast(a, b):
    """WCAG 2 contrast ratio, written from its definition."""

    def luminance(rgb):
        parts = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_colours_are_distinct_and_their_text_readable():
    colours = list(drawing.class_colours(tuple(f"class {label}" for label in range(90))).values())
    assert len(set(colours)) == 90
    lab = cv2.cvtColor(np.array([colours], np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(90)
    assert apart.min() > 5  # about 2.3 is just noticeable
    assert all(contrast(colour, drawing.text_colour(colour)) >= 4.5 for colour in colours)  # WCAG AA
    assert len(drawing.class_colours(tuple(map(str, range(500))))) == 500


def test_a_class_keeps_its_colour_in_any_order_and_few_are_far_apart():
    names = (
        "person",
        "car",
        "traffic light",
        "dog",
        "a\udcff",
        "bicycle",
        "tv",
        "cup",
        "plate",
        "Platelets",
        "RBC",
        "WBC",
    )
    colours = drawing.class_colours(names)
    assert drawing.class_colours(names[::-1]) == colours
    lab = drawing._seen(np.array(list(colours.values()), np.uint8))
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=3).min(axis=2) + 1e3 * np.eye(len(names))
    assert apart.min() >= 15  # for the worst of three eyes
    alone = [drawing.class_colours((name,))[name] == colours[name] for name in names]
    assert sum(alone) >= len(names) // 3  # the others gave way


@pytest.mark.parametrize(
    "names", [("Platelets", "RBC", "WBC"), ("cat", "dog"), ("car", "bus", "truck"), ("apple", "banana", "orange")]
)
def test_the_colours_of_two_or_three_classes_are_nobodys_to_mix_up(names):
    lab = drawing._seen(np.array(list(drawing.class_colours(names).values()), np.uint8))
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=3).min(axis=2) + 1e3 * np.eye(len(names))
    assert apart.min() >= 40  # as seen by the worst of three eyes: two blues are nearer


def test_the_colours_of_a_picture_are_those_of_the_model(found):
    image = np.full((100, 200, 3), 128, np.uint8)
    one = found()
    every = replace(one, every_class=("zebra", "dog", "cat"))
    assert (every.draw(image) == replace(one, every_class=("cat", "zebra", "dog")).draw(image)).all()
    assert (every[0].draw(image)[60, 10] == every.draw(image)[60, 10]).all()


def test_draw_leaves_the_original_alone_and_marks_the_box(found):
    image = np.full((100, 200, 3), 128, np.uint8)
    drawn = found().draw(image)
    assert (image == 128).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert tuple(drawn[60, 10]) == drawing.class_colours(("cat", "dog"))["dog"]  # on the left edge of the dog's box
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


# ---------------------------------------------------------------------------------------------- labels


def crowd(count: int, height: int, width: int, seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0.03, 0.12, (count, 2)) * min(height, width)
    centres = rng.uniform(0, 1, (count, 2)) * [width, height]
    boxes = np.clip(np.hstack([centres - sides / 2, centres + sides / 2]), 0, [width, height] * 2)
    names = tuple("a class with a long name" if k % 7 == 0 else "person" for k in range(count))
    scores = np.linspace(1, 0.3, count, dtype=np.float32)
    return Detections(boxes.astype(np.float32), scores, np.arange(count) % 5, names, "x", width, height)


def labels_of(found: Detections, height: int, width: int, **options: bool) -> list[Label]:
    """The labels that are drawn, taken where they are drawn."""
    seen: list[Label] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_draw_label", lambda image, label, colour: seen.append(label))
        found.draw(np.zeros((height, width, 3), np.uint8), **options)
    return seen


@pytest.mark.parametrize(
    ("count", "height", "width"), [(1, 480, 640), (12, 480, 640), (150, 480, 640), (150, 4000, 6000)]
)
def test_labels_stand_apart_inside_the_picture_and_hide_no_small_object(count, height, width):
    found = crowd(count, height, width)
    labels = labels_of(found, height, width)
    assert len(labels) >= min(count, 8)
    taken = np.zeros((height, width), np.uint8)
    for one in labels:
        assert 0 <= one.x <= one.x + one.width <= width
        assert 0 <= one.y <= one.y + one.height <= height
        taken[one.y : one.y + one.height, one.x : one.x + one.width] += 1
        assert one.pixels >= 11
    assert taken.max() == 1
    for x0, y0, x1, y1 in found.boxes.round().astype(int):
        inside = taken[y0:y1, x0:x1]
        assert inside.size == 0 or inside.mean() < 0.45


def test_letters_are_small_where_the_box_is():
    (large,) = labels_of(crowd(1, 3000, 3000)[:1], 3000, 3000)
    one = Detections(
        np.array([[50, 50, 70, 70]], np.float32), np.array([0.5]), np.array([0]), ("cat",), "x", 3000, 3000
    )
    (small,) = labels_of(one, 3000, 3000)
    assert small.text == "cat 0.50"
    assert small.pixels == 11 < large.pixels


def test_names_are_shortened_then_left_out():
    def texts(box: list[float], name: str = "a rather long class name", height: int = 200) -> list[str]:
        one = Detections(np.array([box], np.float32), np.array([0.5]), np.array([0]), (name,), "x", 400, height)
        return [label.text for label in labels_of(one, height, 400)]

    assert texts([10, 60, 390, 190]) == ["a rather long class name 0.50"]
    (short,) = texts([10, 60, 60, 190])
    assert short.startswith("a ")
    assert short.endswith("... 0.50")
    assert texts([10, 60, 60, 190], "W" * 40)[0].startswith("W")
    rows = [[0, y, 24, y + 12] for y in range(0, 192, 12)]  # nothing but small boxes, in a picture as narrow
    found = Detections(np.array(rows, np.float32), np.full(16, 0.5), np.zeros(16, int), ("cat",) * 16, "x", 24, 192)
    assert labels_of(found, 192, 24) == []


def test_without_labels_and_without_scores(found):
    image = np.full((480, 640, 3), 128, np.uint8)
    plain = found().draw(image, labels=False)
    assert labels_of(found(), 480, 640, labels=False) == []
    assert (plain != image).any()
    assert all("0." not in one.text for one in labels_of(found(), 480, 640, scores=False))
    thick = found().draw(image, line_width=9, labels=False)
    assert (thick != image).sum() > 2 * (plain != image).sum()
    with pytest.raises(ConfigError, match="line width 0: want 1 to 100"):
        found().draw(image, line_width=0)

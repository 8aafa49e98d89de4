"""Image -> input and boxes back, for both resize rules, squares and other proportions, colour and grey."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleshot.errors import ConfigError
from singleshot.inputs import InputSpec, boxes_from_square, boxes_in_input, boxes_to_square, placement, to_square

side = st.integers(8, 900)


sizes = st.one_of(st.integers(32, 400), st.tuples(st.integers(32, 400), st.integers(32, 400)))


def spec_of(size: int | tuple[int, int], **options) -> InputSpec:
    high, wide = (size, size) if isinstance(size, int) else size
    return InputSpec(height=high, width=wide, **options)


@given(side, side, st.sampled_from(["stretch", "letterbox"]), sizes, st.sampled_from([1, 3]), st.randoms())
def test_boxes_come_back(height: int, width: int, resize: str, size, channels: int, random) -> None:
    spec = spec_of(size, resize=resize, channels=channels)
    image, place = to_square(np.zeros((height, width, 3), np.uint8), spec)
    assert image.shape == spec.shape
    assert image.dtype == np.uint8
    x = sorted(random.uniform(0, width) for _ in range(2))
    y = sorted(random.uniform(0, height) for _ in range(2))
    box = np.array([[x[0], y[0], x[1], y[1]]], np.float32)
    square = boxes_to_square(box, place, size)
    assert square.min() >= -1e-6
    assert square.max() <= 1 + 1e-6
    np.testing.assert_allclose(
        boxes_from_square(square, place, size, height, width), box, atol=max(height, width) * 1e-5
    )


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize(("height", "width"), [(100, 200), (333, 200), (320, 320), (41, 640)])
@pytest.mark.parametrize("size", [320, (160, 320), (320, 200)])
def test_a_painted_rectangle_lies_under_its_box(resize: str, height: int, width: int, size) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = width // 4, height // 4, width // 2, height * 3 // 4
    image[y0:y1, x0:x1] = 255
    spec = spec_of(size, resize=resize, mean=(0.0, 0.0, 0.0))
    square, place = to_square(image, spec)
    assert square.shape == spec.shape
    lit = cv2.boundingRect((square[..., 0] > 127).astype(np.uint8))
    high, wide = spec.sides
    want = boxes_to_square(np.array([[x0, y0, x1, y1]], np.float32), place, size)[0] * (wide, high, wide, high)
    np.testing.assert_allclose([lit[0], lit[1], lit[0] + lit[2], lit[1] + lit[3]], want, atol=1.0)


def test_letterbox_keeps_the_aspect_and_fills_with_the_mean() -> None:
    image = np.full((100, 200, 3), 9, np.uint8)
    square, place = to_square(image, InputSpec(size=300, resize="letterbox", mean=(123.0, 117.0, 104.0)))
    assert place.scale_x == place.scale_y == 1.5
    assert square[0, 0].tolist() == [123, 117, 104]
    assert (square[75:225] == 9).all()


def test_boxes_outside_the_image_are_clipped_to_it() -> None:
    _, place = to_square(np.zeros((50, 100, 3), np.uint8), InputSpec(size=100, resize="letterbox"))
    boxes = boxes_from_square(np.array([[-0.5, 0.0, 1.5, 1.0]]), place, 100, 50, 100)
    assert boxes.tolist() == [[0.0, 0.0, 100.0, 50.0]]


def test_spec_survives_plain_values_and_refuses_nonsense() -> None:
    spec = InputSpec(size=512, resize="letterbox", colour_order="bgr", std=(2.0, 3.0, 4.0))
    assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    wrong: list[tuple[dict[str, object], str]] = [
        ({"size": 7}, "input size 7"),
        ({"size": 320.5}, "whole size"),
        ({"resize": "crop"}, "crop"),
        ({"colour_order": "grb"}, "grb"),
        ({"std": (1, 0, 1)}, "std"),
        ({"mean": (1, 2)}, "want three means"),
        ({"channels": 2}, "channels 2"),
        ({"channels": 1}, "one channel has none"),
        ({"channels": 1, "colour_order": "rgb"}, "want one means"),
        ({"more": 1}, "unknown key more"),
    ]
    for change, says in wrong:
        with pytest.raises(ConfigError, match=says):
            InputSpec.from_dict({**spec.to_dict(), **change})


def test_a_square_in_colour_is_written_as_it_always_was() -> None:
    assert InputSpec().to_dict() == {
        "size": 300,
        "resize": "stretch",
        "colour_order": "rgb",
        "mean": [123.0, 117.0, 104.0],
        "std": [1.0, 1.0, 1.0],
    }
    assert list(InputSpec(512).to_dict()) == ["size", "resize", "colour_order", "mean", "std"]
    assert InputSpec(height=200, width=200) == InputSpec(size=200)
    assert replace(InputSpec(height=200, width=300), size=320) == InputSpec(size=320)


def test_other_shapes_survive_plain_values_and_have_no_side() -> None:
    for spec in (
        InputSpec(height=240, width=416),
        InputSpec(128, channels=1),
        InputSpec(height=64, width=32, channels=1),
    ):
        assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
        assert replace(spec, resize="letterbox").shape == spec.shape == (*spec.sides, spec.channels)
    assert InputSpec(128, channels=1).size == 128
    with pytest.raises(ConfigError, match=r"240 x 416 pixels .* not square"):
        InputSpec(height=240, width=416).size  # noqa: B018


def test_grey_is_the_luminance_that_the_mean_is_of() -> None:
    rgb = np.full((50, 80, 3), (123, 117, 104), np.uint8)
    spec = InputSpec(64, resize="letterbox", channels=1)
    grey, _ = to_square(rgb, spec)
    assert grey.shape == (64, 64, 1)
    assert abs(float(spec.mean[0]) - 117.31) < 0.01
    assert set(np.unique(grey)) == {117} == set(spec.fill)
    colours = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    own, _ = to_square(colours, InputSpec(40, channels=1))
    np.testing.assert_allclose(own[..., 0], colours @ (0.299, 0.587, 0.114), atol=0.51)


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_boxes_of_many_images_lie_where_each_image_puts_them(resize):
    rng = np.random.default_rng(0)
    sizes = np.array([(640, 480), (333, 1000), (640, 480), (50, 50)])
    boxes = rng.random((4, 4)) * np.tile(sizes, 2)
    spec = InputSpec(height=200, width=320, resize=resize)
    want = [
        boxes_to_square(box[None], placement(height, width, spec.sides, resize), spec.sides)[0]
        for box, (width, height) in zip(boxes, sizes.tolist(), strict=True)
    ]
    np.testing.assert_allclose(boxes_in_input(boxes, sizes, spec), want, rtol=1e-6)
    assert boxes_in_input(np.zeros((0, 4)), np.zeros((0, 2), int), spec).shape == (0, 4)

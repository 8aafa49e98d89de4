"""Image -> square and boxes back, for both resize rules."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleshot.errors import ConfigError
from singleshot.inputs import InputSpec, boxes_from_square, boxes_to_square, to_square

side = st.integers(8, 900)


@given(side, side, st.sampled_from(["stretch", "letterbox"]), st.integers(32, 400), st.randoms())
def test_boxes_come_back(height: int, width: int, resize: str, size: int, random) -> None:
    _, place = to_square(np.zeros((height, width, 3), np.uint8), InputSpec(size=size, resize=resize))
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
def test_a_painted_rectangle_lies_under_its_box(resize: str, height: int, width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = width // 4, height // 4, width // 2, height * 3 // 4
    image[y0:y1, x0:x1] = 255
    spec = InputSpec(size=320, resize=resize, mean=(0.0, 0.0, 0.0))
    square, place = to_square(image, spec)
    assert square.shape == (320, 320, 3)
    lit = cv2.boundingRect((square[..., 0] > 127).astype(np.uint8))
    want = boxes_to_square(np.array([[x0, y0, x1, y1]], np.float32), place, 320)[0] * 320
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
    for change, says in (({"size": 7}, "input size 7"), ({"resize": "crop"}, "crop"), ({"colour_order": "grb"}, "grb"),
                         ({"std": (1, 0, 1)}, "std"), ({"more": 1}, "unknown key more")):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            InputSpec.from_dict({**spec.to_dict(), **change})

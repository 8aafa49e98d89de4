"""AugmentSpec checks itself; augment keeps image, boxes and labels together."""

from __future__ import annotations

import json

import numpy as np
import pytest

from singleshot.errors import ConfigError
from singleshot.inputs import InputSpec, boxes_to_square, to_square
from singleshot.loading.augment import augment
from singleshot.loading.augment_spec import AUGMENTS, AugmentSpec
from singleshot.records import Sample

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
GEOMETRY_ONLY = AugmentSpec(expand_p=0.5, crop="caffe", mirror_p=0.5, flip_vertical_p=0.5)


def scene(rng: np.random.Generator, height: int = 120, width: int = 160, objects: int = 3) -> Sample:
    """Dark noise with disjoint rectangles, each in its label's colour."""
    image = rng.integers(0, 40, (height, width, 3), dtype=np.uint8)
    boxes = []
    for k in range(objects):
        left, right = k * width // objects, (k + 1) * width // objects
        x0, x1 = left + 3, int(rng.integers(left + 25, right - 2))
        y0 = int(rng.integers(0, height - 30))
        y1 = int(rng.integers(y0 + 25, height + 1))
        image[y0:y1, x0:x1] = COLOURS[k]
        boxes.append((x0, y0, x1, y1))
    boxes_px = np.array(boxes, np.float32).reshape(-1, 4)
    return Sample(image, boxes_px, np.arange(objects), np.zeros(objects, bool), "scene.jpg")


def with_boxes(sample: Sample, boxes_px: list[list[float]]) -> Sample:
    boxes = np.array(boxes_px, np.float32).reshape(-1, 4)
    return sample._replace(boxes_px=boxes, labels=np.zeros(len(boxes), np.int64), difficult=np.zeros(len(boxes), bool))


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_none_is_what_evaluation_sees(resize: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        sample = scene(rng, int(rng.integers(60, 300)), int(rng.integers(90, 300)))
        spec = InputSpec(size=128, resize=resize)
        image, boxes, labels = augment(sample, AUGMENTS["none"], spec, rng)
        square, place = to_square(sample.image, spec)
        assert (image == square).all()
        assert (boxes == boxes_to_square(sample.boxes_px, place, 128)).all()
        assert (labels == sample.labels).all()


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("name", ["caffe", "light", "geometry"])
def test_labels_follow_their_boxes(name: str, resize: str) -> None:
    """In the middle of each returned box lies the colour of its label."""
    spec = {**AUGMENTS, "geometry": GEOMETRY_ONLY}[name]
    rng = np.random.default_rng(1)
    input_spec = InputSpec(size=100, resize=resize)
    seen = 0
    for _ in range(300):
        image, boxes, labels = augment(scene(rng), spec, input_spec, rng)
        assert image.shape == (100, 100, 3)
        assert image.dtype == np.uint8
        assert boxes.dtype == np.float32
        assert labels.dtype == np.int64
        assert len(boxes) == len(labels) > 0
        assert (boxes >= 0).all()
        assert (boxes <= 1).all()
        for box, label in zip(boxes * 100, labels, strict=True):
            if min(box[2] - box[0], box[3] - box[1]) < 8:
                continue
            x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
            assert image[y, x].argmax() == label
            seen += 1
    assert seen > 300


@pytest.mark.parametrize("name", sorted(AUGMENTS))
def test_same_generator_same_result(name: str) -> None:
    sample = scene(np.random.default_rng(2))
    before = sample.image.copy(), sample.boxes_px.copy()
    runs = [augment(sample, AUGMENTS[name], InputSpec(64), np.random.default_rng(s)) for s in (7, 7, 8)]
    assert all((a == b).all() for a, b in zip(runs[0], runs[1], strict=True))
    if name != "none":
        assert (runs[0][0] != runs[2][0]).any()
    assert (sample.image == before[0]).all()
    assert (sample.boxes_px == before[1]).all()


@pytest.mark.parametrize("name", sorted(AUGMENTS))
def test_images_without_objects(name: str) -> None:
    rng = np.random.default_rng(3)
    sample = with_boxes(scene(rng), [])
    sample.image[:] = 255
    spec = InputSpec(size=64, mean=(0.0, 0.0, 0.0))
    for _ in range(200):
        image, boxes, labels = augment(sample, AUGMENTS[name], spec, rng)
        assert boxes.shape == (0, 4)
        assert labels.shape == (0,)
        assert image.max() > 0  # never only fill


@pytest.mark.parametrize("name", ["caffe", "light"])
def test_an_image_with_objects_keeps_one(name: str) -> None:
    rng = np.random.default_rng(4)
    corner = with_boxes(scene(rng), [[0, 0, 12, 12]])
    tiny = with_boxes(scene(rng), [[80, 60, 81.4, 61.4]])
    border = with_boxes(scene(rng), [[0, 0, 160, 120], [158, 0, 160, 120]])
    for sample in (corner, tiny, border):
        for _ in range(300):
            _, boxes, _ = augment(sample, AUGMENTS[name], InputSpec(64), rng)
            assert len(boxes) > 0
            assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_mirror_and_vertical_flip_rates() -> None:
    rng = np.random.default_rng(5)
    sample = with_boxes(scene(rng), [[0, 0, 20, 20]])
    spec = AugmentSpec(mirror_p=0.5, flip_vertical_p=0.25)
    drawn = np.array([augment(sample, spec, InputSpec(64), rng)[1][0] for _ in range(2000)])
    assert np.mean(drawn[:, 0] > 0.5) == pytest.approx(0.5, abs=0.04)
    assert np.mean(drawn[:, 1] > 0.5) == pytest.approx(0.25, abs=0.04)


def test_an_object_too_small_to_see_leaves_a_background() -> None:
    rng = np.random.default_rng(9)
    sample = with_boxes(scene(rng), [[80, 60, 81, 61]])
    for name in ("caffe", "light"):
        found = [len(augment(sample, AUGMENTS[name], InputSpec(32), rng)[1]) for _ in range(50)]
        assert set(found) <= {0, 1}
        assert 0 in found


def test_fill_is_the_mean_and_keeps_it() -> None:
    """Photometric steps leave the border alone: the network shall see zero there."""
    rng = np.random.default_rng(6)
    sample = scene(rng)
    spec = AugmentSpec(photometric=1.0, expand_p=1.0)
    pure = 0
    for _ in range(60):
        image, _, _ = augment(sample, spec, InputSpec(64), rng)
        ring = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        pure += bool((ring == (123, 117, 104)).all(1).any())
    assert pure >= 58  # an image that was hardly expanded shows no border


def test_specs_survive_json() -> None:
    for spec in AUGMENTS.values():
        assert AugmentSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert AugmentSpec.from_dict({}) == AUGMENTS["none"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mirror": 0.5}, "unknown key mirror"),
        ({"mirror_p": 1.5}, "mirror_p 1.5: want a number from 0 to 1"),
        ({"mirror_p": "often"}, "mirror_p often"),
        ({"mirror_p": True}, "mirror_p True"),
        ({"photometric": float("nan")}, "photometric nan"),
        ({"expand_max": 0.5}, "expand_max 0.5"),
        ({"crop": "random"}, "crop 'random': want one of none, caffe"),
        ({"crop": ["caffe"]}, "want one of none, caffe"),
        ({"interpolation": "cubic"}, "want one of linear, random"),
        ({"zoom": [1.4, 0.7]}, "want the smaller one first"),
        ({"zoom": [0.7]}, "want two numbers"),
        ({"zoom": 0.7}, "want two numbers"),
        ({"zoom": [0, 1]}, "zoom 0: want a number from 0.1 to 10"),
        ({"aspect": 0.9}, "aspect 0.9"),
        ({"shift": -1}, "shift -1"),
        ({"bad\nkey": 1}, r"bad\nkey"),
    ],
)
def test_mistakes_in_a_spec_are_told_in_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AugmentSpec.from_dict(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

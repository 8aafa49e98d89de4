"""Labels that state another size than their image has: boxes are scaled, read as of the image, or it is an error."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.build_dataset import build_dataset
from singleshot.datasets.checks import check_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.datasets.stated_sizes import fit_to_images
from singleshot.datasets.writing import write_dataset
from singleshot.errors import DataError

# Half of the sides that the labels state, one of them rounded.
SIZE, STATED, BOX = (64, 47), (128, 95), (20.0, 10.0, 100.0, 60.0)


def picture(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC))
    return str(path)


def labelled(folder: Path, boxes, stated=STATED, size=SIZE, relative=False) -> RawSet:
    """A set with an image for each list of boxes."""
    images = []
    for k, mine in enumerate(boxes):
        objects = [RawObject("cat", box, area=100.0) for box in mine]
        path = picture(folder / f"{k}.png", k, size)
        images.append(RawImage(path, str(k), *stated, objects, f"{k}.label", relative))
    return RawSet("voc", str(folder), ("cat",), images, {"train": list(range(len(images)))})


def fit(raw: RawSet) -> tuple[RawSet, CollectErrors]:
    problems = CollectErrors()
    return fit_to_images(raw, None, problems), problems


@pytest.mark.parametrize("form", ["voc", "coco", "csv", "cvat", "labelme", "labelstudio"])
def test_boxes_are_scaled_in_every_form_that_states_sizes(tmp_path, form):
    # Written for large pictures, in whose places small ones are put then.
    write_dataset(labelled(tmp_path / "from", [[BOX], [BOX]], size=STATED), tmp_path / "set", form)
    for name in (tmp_path / "set").rglob("*.png"):
        picture(name, int(name.stem))
    result = check_source(open_source(tmp_path / "set"), workers=1)
    assert result.counts == {"boxes-scaled": 1}
    (found,) = result.findings
    assert "2 of 2 images state another size" in found.message
    assert "says 128 x 95, 0.png is 64 x 47 pixels): boxes are scaled" in found.message
    data = open_dataset(tmp_path / "set")
    wanted = np.array(BOX) * np.tile(np.array(SIZE) / STATED, 2)
    for i in range(len(data)):
        np.testing.assert_allclose(data.sample(i).boxes_px, [wanted], rtol=1e-4)


def test_via_and_create_ml_state_none(tmp_path):
    for form in ("via", "createml"):
        raw = labelled(tmp_path / "from", [[(2.0, 3.0, 40.0, 30.0)]], size=SIZE, stated=SIZE)
        write_dataset(raw, tmp_path / form, form)
        assert open_source(tmp_path / form).read().images[0].width == 0


def test_areas_are_scaled_and_parts_of_images_are_not(tmp_path):
    fitted, problems = fit(labelled(tmp_path, [[BOX]], stated=(128, 94)))
    assert fitted.images[0].objects[0].area == 25
    assert (fitted.images[0].width, fitted.images[0].height) == SIZE
    assert list(problems.counts) == ["boxes-scaled"]
    parts = (0.1, 0.2, 0.7, 0.8)
    fitted, problems = fit(labelled(tmp_path, [[parts]], relative=True))
    assert fitted.images[0].objects[0].box == parts
    assert (fitted.images[0].width, fitted.images[0].height) == SIZE


NEAR = (1292, 729), (960, 540)  # 0.3 % less in height than in width, by a tool that cut two rows


def test_images_made_smaller_with_nearly_their_proportions_are_scaled_where_boxes_say_so(tmp_path):
    # Within the image's own size a box says nothing.
    for boxes, kinds in (([[900, 600, 1280, 720]] * 2, ["boxes-scaled"]), ([[9, 9, 99, 99]] * 2, [])):
        raw, problems = fit(labelled(tmp_path, [[tuple(map(float, box))] for box in boxes], *NEAR))
        assert list(problems.counts) == kinds
        scaled = np.multiply(boxes[0], np.tile(np.divide(*NEAR[::-1]), 2)) if kinds else boxes[0]
        np.testing.assert_allclose(raw.images[0].objects[0].box, scaled)
    # A few columns less are no other size of the same picture.
    raw, problems = fit(labelled(tmp_path, [[(9.0, 9.0, 409.0, 99.0)]] * 2, (410, 300), (404, 300)))
    assert not problems.counts


def test_one_image_of_another_shape_leaves_all_as_they_are(tmp_path):
    raw = labelled(tmp_path, [[BOX]] * 3)
    picture(tmp_path / "1.png", 1, (64, 64))
    fitted, problems = fit(raw)
    assert fitted == raw
    assert not problems.counts


@pytest.mark.parametrize("size", [SIZE, (640, 475)])
def test_a_size_that_boxes_leave_is_wrong(tmp_path, size):
    # Of the images' size, whatever the labels state: in a large one they reach out of the stated size.
    x, y = size[0] - 4.0, size[1] - 4.0
    raw = labelled(tmp_path, [[(1.0, 1.0, x, y)], [(x / 2, y / 2, x, y)]], stated=(100, 40), size=size)
    fitted, problems = fit(raw)
    assert list(problems.counts) == ["size-wrong"]
    assert [image.objects for image in fitted.images] == [image.objects for image in raw.images]
    assert {(image.width, image.height) for image in fitted.images} == {size}


def test_a_constant_size_is_wrong_where_many_images_never_use_it(tmp_path):
    # One image of the size stated for all proves nothing, many do: boxes would leave them by chance.
    boxes = [(2.0, 3.0, 60.0, 40.0)]
    for count, kinds in ((1, []), (6, ["size-wrong"])):
        assert list(fit(labelled(tmp_path, [boxes] * count, stated=(100, 100)))[1].counts) == kinds


def test_swapped_sides_are_wrong_where_boxes_say_so(tmp_path):
    tall = labelled(tmp_path, [[(5.0, 5.0, 60.0, 40.0)]], stated=SIZE[::-1])
    assert list(fit(tall)[1].counts) == ["size-wrong"]
    unsure = labelled(tmp_path, [[(5.0, 5.0, 40.0, 40.0)]], stated=SIZE[::-1])
    assert not fit(unsure)[1].counts
    # They do not keep others from being scaled.
    both = unsure._replace(images=[*unsure.images, *labelled(tmp_path / "b", [[BOX]]).images])
    assert list(fit(both)[1].counts) == ["boxes-scaled"]


def test_an_error_names_the_image_where_nothing_is_known(tmp_path, one_line):
    raw = labelled(tmp_path / "from", [[(2.0, 3.0, 40.0, 30.0)]], stated=SIZE, size=SIZE)
    write_dataset(raw, tmp_path / "set", "coco")
    path = next((tmp_path / "set").rglob("*.json"))
    content = json.loads(path.read_text())
    content["images"][0] |= {"width": 70, "height": 90}
    path.write_text(json.dumps(content))
    result = check_source(open_source(tmp_path / "set"), workers=1)
    assert result.counts == {"size-mismatch": 1}
    with pytest.raises(DataError, match="its annotation says 70 x 90"):
        open_dataset(tmp_path / "set").sample(0)


def test_headers_that_cannot_be_read_and_right_sizes_change_nothing(tmp_path):
    raw = labelled(tmp_path, [[BOX]], stated=SIZE)
    assert fit(raw)[0] is raw
    Path(raw.images[0].path).write_bytes(b"no image")
    assert fit(raw._replace(images=[raw.images[0]._replace(width=9)]))[1].counts == {}


@pytest.mark.parametrize(
    ("stated", "size", "kinds"),
    [
        ((410, 308), (408, 308), []),  # two columns less are no other scale
        ((410, 308), (205, 154), ["boxes-scaled"]),
        ((1000, 667), (640, 426), ["boxes-scaled"]),  # 426.9 cut off
        ((1000, 667), (640, 427), ["boxes-scaled"]),
        ((640, 480), (640, 481), ["boxes-scaled"]),
        ((640, 480), (640, 482), []),
        ((64, 48), (1000, 757), ["boxes-scaled"]),  # made of the image, and rounded
    ],
)
def test_proportions_are_those_up_to_rounding(tmp_path, stated, size, kinds):
    boxes = [(0.1 * stated[0], 1.0, 0.5 * stated[0], 0.5 * stated[1])]
    assert list(fit(labelled(tmp_path, [boxes], stated=stated, size=size))[1].counts) == kinds


@pytest.mark.parametrize(("differing", "least", "most"), [(None, 10, 20), (0, 40, 40)])
def test_of_remote_images_a_few_are_measured_first(tmp_path, monkeypatch, differing, least, most):
    raw = labelled(tmp_path, [[(1.0, 1.0, 30.0, 30.0)]] * 40, stated=SIZE)
    if differing is not None:
        raw.images[differing] = raw.images[differing]._replace(width=128, height=94)
    asked = []

    def size_of(path):
        asked.append(path)
        return SIZE

    monkeypatch.setattr("singleshot.datasets.stated_sizes.is_remote", lambda path: True)
    monkeypatch.setattr("singleshot.datasets.stated_sizes.image_size", size_of)
    fitted, problems = fit(raw)
    assert least <= len(set(asked)) == len(asked) <= most
    assert list(problems.counts) == ([] if differing is None else ["boxes-scaled"])
    assert {(image.width, image.height) for image in fitted.images} == {SIZE}


def check_box_is_white(sample, most: float) -> None:
    """The first box holds all that is white: with what JPEG blurs, the image has `most` times as much at most."""
    x0, y0, x1, y1 = sample.boxes_px[0].astype(int)
    inside = sample.image[y0:y1, x0:x1]
    assert inside.mean() > 240  # JPEG blurs the edges
    assert sample.image.sum() < most * inside.sum()


def stored(path: Path, way: int, box: tuple[int, int, int, int]) -> str:
    """A black JPEG of 64 x 48 stored pixels with a white box, that EXIF says to turn."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    body = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, way, 0, 0)
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:])
    return str(path)


def test_slips_over_an_edge_turn_no_boxes(tmp_path):
    """Boxes that are right as the pictures are shown, 48 x 64, some of which reach over the right edge."""
    inside = (10, 20, 30, 40)
    images = [
        RawImage(
            stored(tmp_path / f"{k}.jpg", 6, inside), str(k), 0, 0,
            [RawObject("cat", (20, 20, 50, 40) if k < 6 else inside)], "table.csv",
        )
        for k in range(20)
    ]  # fmt: skip
    raw, problems = fit(RawSet("csv", str(tmp_path), ("cat",), images, {"train": list(range(20))}))
    assert not problems.findings
    assert raw.images == images


@pytest.mark.parametrize("way", [5, 6, 7, 8])
def test_boxes_of_stored_images_are_turned_where_no_size_is_stated(tmp_path, way):
    boxes = [(40, 8, 64, 24), (48, 16, 60, 40), (8, 4, 56, 12), (4, 4, 20, 20)]
    images = [
        RawImage(stored(tmp_path / f"{k}.jpg", way, box), str(k), 0, 0, [RawObject("cat", box)], "via.json")
        for k, box in enumerate(boxes)
    ]
    images += [RawImage(picture(tmp_path / "b.png"), "b", 0, 0, [RawObject("cat", (1, 1, 5, 5))], "via.json")]
    images += [RawImage(str(tmp_path / "gone.jpg"), "gone", 0, 0, [RawObject("cat", (1, 1, 5, 5))], "via.json")]
    whole = RawSet("via", str(tmp_path), ("cat",), images, {"train": list(range(6))})
    raw, problems = fit(whole)
    assert problems.counts == {"boxes-turned": 1}
    assert "labels of 4 of 6 images fit the image before EXIF's turn by a quarter, and of 3" in str(
        problems.findings[0]
    )
    assert [image.objects[0].box for image in raw.images[4:]] == [(1, 1, 5, 5)] * 2
    assert {(image.width, image.height) for image in raw.images} == {(0, 0)}
    true = np.array([(48, 64)] * 4 + [SIZE, (0, 0)], np.int32)
    assert fit_to_images(whole, true, CollectErrors()).images == raw.images
    data = build_dataset(raw._replace(splits={"train": [0, 1, 2, 3]}), "train")
    for i in range(4):
        check_box_is_white(data.sample(i), 1.15)
    for few in ([0], [0, 1], [3, 4], [3]):  # slips, or boxes that fit both
        assert not fit(whole._replace(images=[images[i] for i in few], splits={}))[1].findings


@pytest.mark.parametrize("way", [5, 6, 7, 8])
def test_boxes_of_stored_images_are_turned_with_them(tmp_path, way):
    boxes = [(40, 8, 64, 24), (48, 16, 60, 40), (8, 4, 56, 12)]
    images = [
        RawImage(stored(tmp_path / f"{k}.jpg", way, box), str(k), 64, 48, [RawObject("cat", box)], f"{k}.label")
        for k, box in enumerate(boxes)
    ]
    raw, problems = fit(RawSet("voc", str(tmp_path), ("cat",), images, {"train": [0, 1, 2]}))
    assert problems.counts == {"boxes-turned": 1}
    assert "before EXIF's turn by a quarter (first: 0.label says 64 x 48, 0.jpg is 48 x 64 pixels)" in str(
        problems.findings[0]
    )
    data = build_dataset(raw, "train")
    for i in range(3):
        check_box_is_white(data.sample(i), 1.1)
    # A single box in the part that only the stored image has could be a slip: an error, which --fix repairs.
    assert not fit(raw._replace(images=images[:1], splits={"train": [0]}))[1].findings

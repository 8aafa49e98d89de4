from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import labelstudio
from singleshot.datasets.readers.shapes import surround_rotated_corner

SIZE = {"original_width": 64, "original_height": 48, "image_rotation": 0}
MADE = ("train", "val", "test", "trainval")


def rect(*labels, x=25, y=50, width=12.5, height=25, **more):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, **more}
    return {"id": "r", "type": "rectanglelabels", "from_name": "label", "to_name": "image", **SIZE,
            "value": {**value, "rectanglelabels": list(labels or ("cat",))}}  # fmt: skip


def shape(kind, labels=("cat",), **value):
    return {"id": "s", "type": f"{kind}labels", **SIZE, "value": {**value, f"{kind}labels": list(labels)}}


def task(image="a.png", *results, **more):
    annotations = [{"id": 3, "was_cancelled": False, "ground_truth": False, "result": list(results)}]
    return {"id": 1, "annotations": annotations, "predictions": [], "data": {"image": image}, "meta": {}, **more}


def flat(image="a.png", *results):
    """The same as JSON-MIN."""
    record = {"image": image, "id": 1, "annotator": 1, "annotation_id": 3, "created_at": "2024"}
    return {**record, "label": [{**one["value"], **SIZE} for one in results]} if results else record


WAYS = {"JSON": task, "JSON-MIN": flat}


@pytest.fixture
def read(folder):
    """read(tasks...): the raw set and the findings."""

    def make(*tasks, images=("a.png", "b.png")):
        found = CollectErrors()
        return open_source(folder({"project-1.json": json.dumps(tasks)}, images)).read(None, found), found.findings

    return make


# ---------------------------------------------------------------------------------------------- shapes


def test_flags_are_the_regions_meta(read):
    results = [{**rect(), "meta": {"difficult": True}}, {**rect("dog"), "meta": {"text": ["a note"], "crowd": "1"}},
               {**rect(), "meta": ["odd"]}, {**rect(), "meta": {"crowd": 7}}]  # fmt: skip
    raw, findings = read(task("a.png", *results))
    assert [(o.name, o.difficult, o.crowd) for o in raw.images[0].objects] == [
        ("cat", True, False), ("dog", False, True), ("cat", False, False)]  # fmt: skip
    assert [f.message for f in findings] == ["crowd 7; want true or false"]


@pytest.mark.parametrize("way", WAYS)
def test_percent_become_pixels(folder, way):
    make = WAYS[way]
    tasks = [make("a.png", rect(), rect("dog", x="0", y=0, width=100, height=100)), make("b.png")]
    source = open_source(folder({"project-1-at-2024.json": json.dumps(tasks)}))
    assert source.form == "labelstudio"
    assert source.splits == MADE
    raw = source.read()
    assert (raw.class_names, raw.made) == (("cat", "dog"), True)
    assert [[(o.name, o.box, o.number) for o in im.objects] for im in raw.images] == [
        [("cat", (16, 24, 24, 36), 0), ("dog", (0, 0, 64, 48), 1)],
        [],
    ]
    assert [(im.width, im.height) for im in raw.images] == [(64, 48), (0, 0)]
    assert open_dataset(source.tree.root, "trainval").sample(0).boxes_px[0].tolist() == [16, 24, 24, 36]


SHAPES = {
    # 16 24 8 12 in pixels: its corner stays, its width goes down, its height to the left.
    "quarter turn": (rect(rotation=90), (4, 24, 16, 32)),
    "half turn": (rect(rotation=180), (8, 12, 16, 24)),
    "turned out of the image": (rect(x=0, y=50, rotation=45), (0, 24, 32**0.5, 24 + 20 / 2**0.5)),
    "ellipse": (shape("ellipse", x=50, y=50, radiusX=12.5, radiusY=6.25), (24, 21, 40, 27)),
    "turned ellipse": (shape("ellipse", x=50, y=50, radiusX=12.5, radiusY=6.25, rotation=90), (29, 16, 35, 32)),
    "polygon": (shape("polygon", points=[[25, 50], [50, 25], [75, 75]]), (16, 12, 48, 36)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", SHAPES)
def test_shapes_become_boxes(read, way, case):
    result, box = SHAPES[case]
    raw, found = read(WAYS[way]("a.png", result))
    assert [f.kind for f in found] == ["shapes-cut"] * ("out of the image" in case)
    np.testing.assert_allclose(raw.images[0].objects[0].box, box, atol=1e-9)


@given(*[st.floats(-50, 50)] * 2, *[st.floats(0.5, 40)] * 2, st.floats(-720, 720))
def test_a_turn_about_the_corner_against_numpy(x, y, width, height, degrees):
    turn = math.radians(degrees)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)]) @ matrix.T
    box = surround_rotated_corner((x, y, x + width, y + height), degrees)
    np.testing.assert_allclose(box, np.concatenate([corners.min(0), corners.max(0)]) + np.tile([x, y], 2), atol=1e-9)


def test_several_labels_of_a_shape_are_objects_each(read):
    raw, found = read(task("a.png", rect("cat", "animal", "cat")))
    assert not found
    assert [(o.name, o.box) for o in raw.images[0].objects] == [("cat", (16, 24, 24, 36)), ("animal", (16, 24, 24, 36))]


def test_labels_of_a_control_of_their_own(read):
    box = {**rect(), "type": "rectangle", "value": {"x": 25, "y": 50, "width": 12.5, "height": 25}}
    labels = {**box, "type": "labels", "value": {**box["value"], "labels": ["dog"]}}
    raw, found = read(task("a.png", box, labels))
    assert not found
    assert [(o.name, o.box) for o in raw.images[0].objects] == [("dog", (16, 24, 24, 36))]


def test_results_that_are_no_objects_are_passed_over_and_said(read, caplog):
    choice = {"type": "choices", "value": {"choices": ["night"]}}
    raw, found = read(task("a.png", choice, rect(), {**choice, "type": "textarea"}))
    assert not found
    assert len(raw.images[0].objects) == 1
    assert "results that are no objects are passed over: 1 choices, 1 textarea" in caplog.text


# ---------------------------------------------------------------------------------------------- tasks


def test_of_several_annotations_the_checked_one_counts_and_skipped_ones_never(read):
    def of(label, **more):
        return {"result": [rect(label)], **more}

    one = task("a.png", annotations=[of("bad", was_cancelled=True), of("first"), of("second")])
    two = task("b.png", annotations=[of("first"), of("checked", ground_truth=True)])
    raw, _ = read(one, two)
    assert [im.objects[0].name for im in raw.images] == ["first", "checked"]


def test_tasks_without_annotations_are_not_labelled_yet(read, caplog):
    tasks = [task("b.png", annotations=[]), task("b.png", annotations=[{"was_cancelled": True, "result": []}])]
    raw, found = read(task("a.png", rect()), *tasks, task("gone.png", annotations=[]))
    assert not found
    assert [Path(im.path).name for im in raw.images] == ["a.png"]
    assert "tasks without an annotation are left out: 3" in caplog.text


def test_old_exports_have_completions(read):
    old = task("a.png", rect())
    old["completions"] = old.pop("annotations")
    raw, found = read(old)
    assert not found
    assert len(raw.images[0].objects) == 1


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("/data/upload/1/0a1b2c3d-a.png", "images/0a1b2c3d-a.png"),
        ("/data/upload/1/0a1b2c3d-a.png", "a.png"),
        ("/data/upload/1/0a1b2c3d-my%20cat%20%C3%BC.png", "my cat ü.png"),
        ("/data/upload/0a1b2c3d-my%20cat.png", "images/0a1b2c3d-my%20cat.png"),
        ("/data/local-files/?d=cats/my%20cat.png", "cats/my cat.png"),
        ("https://host:8080/data/a.png?x=1", "a.png"),
        ("s3://bucket/deep/a.png", "deep/a.png"),
        ("C:\\cats\\a.png", "a.png"),
        ("upload/1/x.png", "0a1b2c3d-real.png"),
    ],
)
def test_names_of_images(read, name, picture):
    raw, found = read(task(name, rect(), file_upload="0a1b2c3d-real.png"), images=[picture])
    assert not found
    assert raw.images[0].path.endswith(f"set/{picture}")


def test_the_image_may_stand_under_another_key(read):
    raw, found = read(task(rect(), data={"text": "about", "photo": "a.png"}))
    assert not found
    assert len(raw.images) == 1


def test_folders_are_splits(folder):
    root = folder(
        {"train/x.json": json.dumps([task("a.png", rect())]), "test/x.json": json.dumps([task("a.png")])},
        ["train/a.png", "test/a.png"],
    )
    assert available_splits(root) == ("test", "train")
    raw = open_source(root).read()
    assert {split: [Path(raw.images[i].path).parent.name for i in at] for split, at in raw.splits.items()} == {
        "test": ["test"],
        "train": ["train"],
    }


HEADS = {
    "JSON": (json.dumps([task("a.png", rect())]), True),
    "JSON-MIN": (json.dumps([flat("a.png", rect())]), True),
    "JSON-MIN without objects": (json.dumps([flat()]), True),
    "mark": ("\ufeff" + json.dumps([task()]), True),
    "create ml": ('[{"image": "a.png", "annotations": [{"coordinates": {}}]}]', False),
    "coco": ('{"images": [], "annotations": [], "data": {}}', False),
    "results": ('[{"image": "a.png", "detections": []}]', False),
    "nothing": ("", False),
}


@pytest.mark.parametrize("case", HEADS)
def test_it_is_known_by_its_keys(case):
    text, want = HEADS[case]
    assert labelstudio.is_one(text.encode()) == want


# ---------------------------------------------------------------------------------------------- mistakes


BAD = {
    "null": (None, "result 1: is missing; want a value in braces"),
    "value of text": ({**rect(), "value": "x"}, "result 1: is 'x'; want a value in braces"),
    "no label": ({**rect(), "value": {"x": 1, "y": 1, "width": 1, "height": 1}}, "result 1: has no label; say"),
    "empty labels": (shape("rectangle", ()), "has no label"),
    "blank label": (shape("rectangle", (" ",)), "has no label"),
    "label of lists": (shape("rectangle", ([["x"]],)), "has no label"),
    "half a character": (shape("rectangle", ("\ud800",)), "has no label"),
    "no size": (
        {**rect(), "original_width": None},
        "(cat): original_width is missing; want the image's width in whole",
    ),
    "size": ({**rect(), "original_height": 0.5}, "original_height is 0.5; want"),
    "no x": (rect(x=None), "(cat): x is missing; want a number of percent"),
    "text": (rect(width="wide"), "(cat): width is 'wide'"),
    "truth": (rect(height=True), "(cat): height is True"),
    "rotation": (rect(rotation=math.inf), "(cat): rotation is inf; want degrees"),
    "rotation of text": (rect(rotation="much"), "rotation is 'much'"),
    "points": (shape("polygon", points=[[1, 2], [3], [4, 5]]), "points are not pairs of numbers; want [[x, y], ...]"),
    "no points": (shape("polygon"), "points are not pairs"),
    "two points": (shape("polygon", points=[[1, 2], [3, 4]]), "a polygon with 2 points; want at least 3"),
    "brush": (shape("brush", format="rle", rle=[1, 2]), "(cat): its rle is no packed brush stroke of 64 x 48 pixels"),
    "old brush": (shape("brush", maskDataURL="x"), "(cat): a brush stroke has no box; draw a rectangle"),
    "nan": (rect(x=math.nan), "box [nan, 24, nan, 36] is not a place"),
    "beyond": (rect(x=10**400), "is not a place"),
    "flat": (rect(width=0), "has no area"),
    "outside": (rect(x=95), "lies outside the image of 64 x 48 pixels"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_results_are_refused_by_their_place(folder, one_line, case):
    result, message = BAD[case]
    root = folder({"x.json": json.dumps([task("a.png", rect(), result)])})
    said = one_line(open_dataset, root, "trainval")
    assert "x.json: a.png: result 1" in said
    assert message in said


def test_bad_results_are_all_reported_with_their_numbers(read):
    raw, found = read(task("a.png", rect(x=None), rect()), task("b.png", rect(), None))
    assert [(f.kind, f.number) for f in found] == [("annotation-malformed", 0), ("annotation-malformed", 3)]
    assert [[o.number for o in im.objects] for im in raw.images] == [[1], [2]]


BAD_TASKS = {
    "no braces": (7, "task 1: is 7; want a task in braces"),
    "no image": (task(rect(), data={"text": "x"}), "task 1: names no image; want it in data.image"),
    "two images": (task(rect(), data={"a": "a.png", "b": "b.png"}), "task 1: names no image"),
    "result of text": (task("b.png", annotations=[{"result": "x"}]), "task 1: result is 'x'; want a list"),
    "annotations of text": (task("b.png", annotations="x"), "task 1: result is 'x'; want a list"),
    "missing": (task("/data/upload/1/gone.png"), "task 1 (1/gone.png): image '1/gone.png' is missing; add the file"),
    "out": (task("/data/local-files/?d=../../gone.png"), "leaves the data set's folder"),
    "nul": (task("x\0.png"), "leaves the data set's folder"),
}


@pytest.mark.parametrize("case", BAD_TASKS)
def test_bad_tasks_are_refused_by_their_place(folder, one_line, read, case):
    item, message = BAD_TASKS[case]
    raw, found = read(task("a.png", rect()), item)
    assert [len(found), len(raw.images)] == [1, 1]
    assert "project-1.json: task 1" in str(found[0])
    assert message in str(found[0])
    assert message in one_line(open_source(raw.source.rpartition("/")[0]).read)


BAD_FILES = {
    "cut": (json.dumps([task("a.png", rect())])[:-3], "is not JSON: "),
    "depth": ('[{"data": {}, "annotations": [' + "[" * 200_000, "is not JSON"),
    "digits": ('[{"data": {}, "annotations": [' + "9" * 5000 + "]}]", "is not JSON that can be read"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(folder, one_line, case):
    text, message = BAD_FILES[case]
    root = folder({"x.json": text})
    assert f"x.json: {message}" in one_line(open_source(root).read)

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import createml
from singleshot.errors import DataError

MADE = ("train", "val", "test", "trainval")


def note(label="cat", x=10, y=20, width=8, height=6.5, **more):
    return {"label": label, "coordinates": {"x": x, "y": y, "width": width, "height": height}, **more}


def label(*images, indent=1):
    return json.dumps(list(images), indent=indent)


def image(name="a.png", *notes, key="image", notes_key="annotations"):
    return {key: name, notes_key: list(notes)}


@pytest.mark.parametrize("key", ["image", "imagefilename", "imageFilename"])
@pytest.mark.parametrize("notes_key", ["annotations", "annotation"])
def test_boxes_are_centres_and_sizes_in_pixels(folder, key, notes_key):
    images = [image("a.png", note(), note("dog", "30", 20, 4, 4), key=key, notes_key=notes_key),
              image("b.png", key=key, notes_key=notes_key)]  # fmt: skip
    source = open_source(folder({"labels.json": label(*images)}))
    assert source.form == "createml"
    raw = source.read()
    assert (raw.class_names, raw.declared, raw.made) == (("cat", "dog"), False, True)
    assert [[(o.name, o.box, o.number) for o in im.objects] for im in raw.images] == [
        [("cat", (6, 16.75, 14, 23.25), 0), ("dog", (28, 18, 32, 22), 1)],
        [],
    ]
    assert [(im.ident, im.width, im.height) for im in raw.images] == [("a", 0, 0), ("b", 0, 0)]
    assert open_dataset(source.tree.root, "trainval").sample(0).image.shape == (48, 64, 3)


def test_roboflows_folders_are_splits(folder):
    name = "_annotations.createml.json"
    root = folder(
        {f"train/{name}": label(image("a.png", note("dog"))), f"valid/{name}": label(image("a.png", note()))},
        ["train/a.png", "valid/a.png"],
    )
    assert available_splits(root) == ("train", "valid")
    raw = open_source(root).read()
    assert raw.splits == {"train": [0], "valid": [1]}
    assert [Path(im.path).relative_to(root).as_posix() for im in raw.images] == ["train/a.png", "valid/a.png"]
    train, val = open_dataset(root), open_dataset(root, "val")
    assert train.class_names == val.class_names == ("cat", "dog")
    assert [train.labels.tolist(), val.labels.tolist()] == [[1], [0]]
    with pytest.raises(DataError, match="no split 'test'"):
        open_dataset(root, "test")


def test_an_image_listed_twice_has_the_objects_of_both(folder):
    root = folder({"x.json": label(image("a.png", note()), image("a.png", note("dog")))})
    raw = open_source(root).read()
    assert [[o.name for o in im.objects] for im in raw.images] == [["cat", "dog"]]


def test_flags_stand_beside_the_box(folder):
    notes = [note(difficult=True), note(crowd=1), note(difficult="no")]
    problems = CollectErrors()
    raw = open_source(folder({"x.json": label(image("a.png", *notes))})).read(None, problems)
    assert [(o.difficult, o.crowd) for o in raw.images[0].objects] == [(True, False), (False, True)]
    assert [f.message for f in problems.findings] == ["difficult 'no'; want true or false"]


@pytest.mark.parametrize("name", ['say "so".png', "back\\slash.png"])
def test_a_first_image_with_quotes_and_no_objects_is_recognised(name):
    assert createml.is_one(label(image(name), indent=None).encode())


def test_a_class_called_as_label_studios_key_changes_nothing(folder):
    raw = open_source(folder({"x.json": label(image("a.png", note("original_width")))})).read()
    assert raw.class_names == ("original_width",)


BAD = {
    "no braces": ([1], "a.png: annotation 1: is a list; want an annotation in braces"),
    "null": (None, "annotation 1: is missing; want"),
    "no label": (note(None), "annotation 1: label is missing; say what it is"),
    "blank label": (note(" "), "label is ' '"),
    "half a character": (note("\ud800"), "label is '"),
    "label of lists": (note([["x"]]), "label is a list"),
    "no coordinates": ({"label": "cat"}, "annotation 1 (cat): coordinates is missing; want x, y, width and height"),
    "a list": ({"label": "cat", "coordinates": [1, 2, 3, 4]}, "(cat): coordinates is a list"),
    "no x": (note(x=None), "(cat): x is missing; want a number of pixels"),
    "text": (note(width="wide"), "(cat): width is 'wide'"),
    "truth": (note(height=True), "(cat): height is True"),
    "nan": (note(x=math.nan), "(cat): box x nan, y 20, width nan, height 6.5 is not a place"),
    "beyond": (note(width=10**400), "is not a place"),
    "flat": (note(width=0), "(cat): box x 10, y 20, width 0, height 6.5 has no area"),
    "turned": (note(width=-4), "has no area"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_annotations_are_refused_by_their_place(folder, one_line, case):
    item, message = BAD[case]
    root = folder({"x.json": label(image("a.png", note(), item), image("b.png", note()))})
    said = one_line(lambda: open_dataset(root, "trainval").sample(0))
    assert "x.json: a.png: annotation 1" in said
    assert message in said


def test_a_box_out_of_its_image_is_found(folder, findings):
    root = folder({"x.json": label(image("a.png", note(), note(x=70)))})
    (found,) = findings(root)["box-outside"]
    assert str(found).startswith(
        f"{root / 'x.json'}:16: a.png: annotation 1 (cat): box x 70, y 20, width 8, height 6.5 "
    )


BAD_IMAGES = {
    "no braces": ("a.png", "image 1: is 'a.png'; want an image in braces"),
    "no name": ({"annotations": []}, "image 1: image is missing; want the name of a file"),
    "blank": (image(" "), "image 1: image is ' '"),
    "number": (image(7), "image 1: image is 7"),
    "no list": ({"image": "b.png", "annotations": {"x": 1}}, "image 1 (b.png): annotations is braces; want a list"),
    "missing": (image("gone.png"), "image 1 (gone.png): image 'gone.png' is missing; add the file"),
    "out": (image("../c.png"), "image 1 (../c.png): image ../c.png: leaves the data set's folder"),
    "nul": (image("\0.png"), "leaves the data set's folder"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_are_refused_by_their_place(folder, one_line, case):
    item, message = BAD_IMAGES[case]
    root = folder({"x.json": label(image("a.png", note()), item)})
    said = one_line(open_source(root).read)
    assert "x.json: image 1" in said
    assert message in said
    found = CollectErrors()
    assert len(open_source(root).read(None, found).images) == 1
    assert len(found.findings) == 1


def test_all_are_reported_with_their_numbers_and_lines(folder, findings):
    text = label(image("a.png", note(None), note()), image("b.png", note(), note(x=None)))
    root = folder({"x.json": text})
    found = findings(root)["annotation-malformed"]
    assert [f.number for f in found] == [0, 3]
    starts = [at for at, line in enumerate(text.splitlines(), 1) if '"coordinates"' in line]
    assert [f.line for f in found] == [starts[0], starts[3]]


BAD_FILES = {
    "cut": (label(image("a.png", note()))[:-5], "is not JSON: "),
    "depth": ('[{"coordinates": {' + "[" * 200_000, "is not JSON"),
    "digits": ('[{"coordinates": {"x": ' + "9" * 5000 + "}}]", "is not JSON that can be read"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(folder, one_line, case):
    text, message = BAD_FILES[case]
    root = folder({"x.json": text})
    assert f"x.json: {message}" in one_line(open_source(root).read)
    found = CollectErrors()
    open_source(root).read(None, found)
    assert [f.kind for f in found.findings] == ["annotation-unreadable"]


HEADS = {
    "boxes": (label(image("a.png", note())), True),
    "sorted keys": ('[{"annotations": [{"coordinates": {"x": 1}}], "image": "a.png"}]', True),
    "no objects": (label(image("a.png")), True),
    "mark": ("\ufeff" + label(image("a.png")), True),
    "label studio": ('[{"data": {"image": "a.png"}, "annotations": []}]', False),
    "coco": ('{"images": [], "annotations": [{"coordinates": {}}]}', False),
    "results": ('[{"image": "a.png", "detections": []}]', False),
    "nothing": ("", False),
}


@pytest.mark.parametrize("case", HEADS)
def test_it_is_known_by_its_keys(case):
    text, want = HEADS[case]
    assert createml.is_one(text.encode()) == want

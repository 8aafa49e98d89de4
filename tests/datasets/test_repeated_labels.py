"""Images that several label files name, splits that are none, and what the split to train on is called."""

from __future__ import annotations

import json

import pytest

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors

CVAT = (
    '<annotations><image name="{}.png" width="64" height="48"><box label="{}" xtl="1" ytl="2" xbr="{}" ybr="9"/>'
    "</image></annotations>"
)
HEADER = "file,xmin,ymin,xmax,ymax,class\n"


def via(name="a.png", width=9, label="cat"):
    shape = {"name": "rect", "x": 1, "y": 2, "width": width, "height": 7}
    return json.dumps(
        {name: {"filename": name, "regions": [{"shape_attributes": shape, "region_attributes": {"class": label}}]}}
    )


def createml(name="a.png", width=9, label="cat"):
    box = {"x": 5, "y": 6, "width": width, "height": 7}
    return json.dumps([{"image": name, "annotations": [{"label": label, "coordinates": box}]}])


def cvat(name="a.png", width=9, label="cat"):
    return CVAT.format(name[:-4], label, width + 1)


FORMS = {"via": (via, ".json"), "createml": (createml, ".json"), "cvat": (cvat, ".xml")}


def read(root, split=None):
    problems = CollectErrors()
    return open_source(root).read(split, problems), problems.findings


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["", "train/"])
def test_of_label_files_that_say_the_same_one_counts(folder, form, place):
    write, ending = FORMS[form]
    files = {f"{place}one{ending}": write(), f"{place}two{ending}": write(width=9.4)}
    images = [f"{place}a.png", f"{place}b.png"]
    raw, found = read(folder(files, images))
    assert (raw.form, [f.kind for f in found]) == (form, ["labels-repeated"])
    assert "1 image with the objects that" in found[0].message
    assert len(raw.images) == len(raw.images[0].objects) == 1
    assert all(len(set(members)) == len(members) for members in raw.splits.values())
    assert not place or raw.splits == {"train": [0]}


@pytest.mark.parametrize("form", FORMS)
def test_those_that_contradict_each_other_stop_a_training(folder, form, one_line):
    write, ending = FORMS[form]
    root = folder({f"train/one{ending}": write(), f"train/two{ending}": write(label="dog")}, ["train/a.png"])
    raw, found = read(root)
    assert ([f.kind for f in found], raw.splits) == (["labels-contradict"], {"train": [0]})
    assert f"two{ending}: 1 image with other objects than in" in one_line(open_dataset, root)


def test_the_same_image_in_two_splits_is_in_both(folder):
    raw, found = read(folder({"train/one.json": via(), "val/two.json": via()}, ["train/a.png", "val/b.png"]))
    assert [f.kind for f in found] == []
    assert raw.splits == {"train": [0], "val": [0]}


def test_copies_of_voc_annotations_count_once(folder, voc_xml):
    xml = voc_xml([("cat", (1, 1, 5, 5))])
    files = {"train/a.xml": xml, "train/annotations/a.xml": xml, "test/b.xml": xml}
    raw, found = read(folder(files, ["train/a.png", "test/b.png"]))
    assert [f.kind for f in found] == ["labels-repeated"]
    assert {split: len(members) for split, members in raw.splits.items()} == {"train": 1, "test": 1}
    assert len(raw.images) == 2


ROW = "0 0.5 0.5 0.2 0.2"


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("listed", [False, True])
def test_yolo_splits_without_labels_or_images_are_none(yolo, one_line, kinds, split, listed):
    images = {} if listed else {f"{split}/images/b.png": ""}
    files = {"train/images/a.png": "", "train/labels/a.txt": ROW, f"{split}.txt": ""} | images
    place = f"{split}.txt" if listed else f"{split}/images"
    root = yolo({**files, "data.yaml": f"train: train/images\n{split}: {place}\nnames: [cat]"})
    assert available_splits(root) == ("train",)
    counts = kinds(root)
    assert counts.pop("split-left-out") == 1
    assert not any(kind.startswith("split") for kind in counts)
    assert "has a label file" in one_line(open_dataset, root, split) or listed


def test_voc_lists_without_annotations_are_no_splits(tmp_path, voc_xml, write_voc, one_line):
    xmls = {"a": voc_xml([("cat", (1, 1, 5, 5))])}
    root = write_voc(tmp_path / "set", xmls, {"train": ["a"], "val": [], "test": ["x", "y"]})
    assert available_splits(root) == ("train",)
    raw, found = read(root)
    assert ([f.kind for f in found], list(raw.splits)) == (["split-left-out"] * 2, ["train"])
    assert "'test' has no annotation of any of its 2 images" in one_line(open_dataset, root, "test")


def test_empty_lists_alone_are_as_none(tmp_path, voc_xml, write_voc):
    xmls = dict.fromkeys("abcd", voc_xml([("cat", (1, 1, 5, 5))]))
    assert read(write_voc(tmp_path / "set", xmls, {"train": [], "val": []}))[0].made


COCO = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}]}  # fmt: skip


@pytest.mark.parametrize(
    ("ending", "text", "other"),
    [
        (".csv", f"{HEADER}a.png,1,1,5,5,cat\n", f"{HEADER}b.png,1,1,5,5,cat\n"),
        (".json", json.dumps(COCO), json.dumps({**COCO, "images": [{"id": 1, "file_name": "b.png"}]})),
        (".json", via(), via("b.png")),
    ],
)  # fmt: skip
def test_the_only_file_that_names_no_split_is_the_one_to_train_on(folder, ending, text, other):
    root = folder({f"annotations{ending}": text, f"annotations_test{ending}": other})
    assert set(available_splits(root)) == {"train", "test"}
    assert len(open_dataset(root, "train")) == len(open_dataset(root, "test")) == 1


def test_that_there_is_nothing_to_train_on_is_said(folder, findings, voc_xml):
    root = folder({"test/a.xml": voc_xml([("cat", (1, 1, 5, 5))])}, ["test/a.png"])
    (found,) = findings(root)["split-train-missing"]
    assert "no split 'train' (there are: test)" in found.message
    assert read(root / "test")[0].made


def test_names_of_splits_that_are_not_usual_stay(folder):
    texts = {name: f"{HEADER}{name[0]}.png,1,1,5,5,cat\n" for name in ("a part.csv", "b_test.csv")}
    assert set(available_splits(folder(texts))) == {"a part", "test"}

"""Sets in several folders: read as one where they plainly are parts of it, listed elsewhere; images are 64 x 48."""

from __future__ import annotations

import json

import cv2
import pytest

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from tests.datasets.conftest import scene


def xml(name="cat", x=17):
    box = f"<bndbox><xmin>{x}</xmin><ymin>13</ymin><xmax>48</xmax><ymax>36</ymax></bndbox>"
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    return f"<annotation>{size}<object><name>{name}</name>{box}</object></annotation>"


@pytest.fixture
def parts(tmp_path):
    """parts({label file: text}, {image: seed}): files below a folder."""

    def make(files, images):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        for name, seed in images.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / name), scene(seed))
        return tmp_path

    return make


def test_numbered_folders_with_the_same_classes_and_other_images_are_one_set(parts) -> None:
    # The names of images start again in each folder; one folder lacks a class.
    labels = {"melon1/a.xml": xml(), "melon1/b.xml": xml("dog"), "melon2/a.xml": xml(x=20), "melon10/c.xml": xml("dog")}
    root = parts(labels, {name.replace("xml", "png"): k for k, name in enumerate(labels)})
    source, found = open_source(root), CollectErrors()
    raw = source.read(None, found)
    assert (raw.form, raw.class_names, raw.made) == ("voc", ("cat", "dog"), True)
    assert [image.ident for image in raw.images] == ["melon1/a", "b", "melon2/a", "c"]
    assert sorted(raw.splits["trainval"] + raw.splits["test"]) == [0, 1, 2, 3]
    assert [one.message for one in found.findings if one.kind == "sets-joined"] == [
        "melon1, melon2, melon10 are read as one set: the same classes, and other images; to read one of them, name it"
    ]
    assert len(open_dataset(root, "train")) == len(raw.splits["train"])
    assert source.unread_beside(raw) == ""


def test_parts_with_splits_keep_them(parts) -> None:
    files = {
        f"part_{k}/{split}/labels/{k}{split}.txt": "1 0.5 0.5 0.5 0.5\n" for k in (1, 2) for split in ("train", "val")
    }
    images = {name.replace("labels", "images").replace("txt", "png"): seed for seed, name in enumerate(files)}
    yaml = {
        "part_1/data.yaml": "train: train/images\nval: val/images\nnames: [cat, dog]\n",
        "part_2/data.yaml": "train: train/images\nval: val/images\nnames: [dog, cat]\n",
    }
    raw = open_source(parts({**files, **yaml}, images)).read()
    assert {split: [raw.images[i].ident for i in at] for split, at in raw.splits.items()} == {
        "train": ["1train", "2train"],
        "val": ["1val", "2val"],
    }
    assert [image.objects[0].name for image in raw.images] == ["dog", "dog", "cat", "cat"]
    assert {*open_source(raw.source).read("val").splits} == {"val"}


NAME_ONE = "; name one, or join them with `singleshot data convert`"
YOLO = "0 0.5 0.5 0.5 0.5\n"
APART = {
    "other classes": ({"a1/x.xml": xml(), "a2/y.xml": xml("dog")}, "their classes differ"),
    "classes in another order at the end": (
        {"a1/x.txt": YOLO, "a1/classes.txt": "cat\n", "a2/y.txt": YOLO, "a2/classes.txt": "dog\ncat\n"},
        "their classes differ",
    ),
    "numbers": ({"a1/x.txt": YOLO, "a2/y.txt": YOLO}, "their classes are numbers without names"),
    "splits of one": (
        {"a1/train/x.xml": xml(), "a1/test/z.xml": xml(), "a2/y.xml": xml()}, "their splits differ",
    ),
    "an image with other labels": ({"a1/x.xml": xml(), "a2/x.xml": xml(x=2)}, "the same images with other labels"),
    "versions": ({"a_v1/x.xml": xml(), "a_v2/y.xml": xml()}, ""),
    "years": ({"VOC2007/x.xml": xml(), "VOC2012/y.xml": xml()}, ""),
    "other names": ({"home/x.xml": xml(), "garden/y.xml": xml()}, ""),
    "Roboflow's versions": (
        {"a-1/x_jpg.rf.0123456789abcdef.xml": xml(), "a-2/x_jpg.rf.fedcba9876543210.xml": xml(x=2)},
        "the same images with other labels",
    ),
    "resized": ({"a1/x.xml": xml(), "a2/x.xml": xml()}, "1 of their images are the same"),
}  # fmt: skip


@pytest.mark.parametrize("case", APART)
def test_sets_that_may_be_others_are_listed(parts, one_line, case) -> None:
    files, why = APART[case]
    same = case == "an image with other labels"
    labels = [name for name in files if "classes" not in name]
    images = {f"{name[:-4]}.png": 0 if same else k for k, name in enumerate(labels)}
    text = one_line(open_source, parts(files, images))
    assert "sets below: " in text
    assert text.endswith(f"{NAME_ONE} (not read as one: {why})" if why and "labels" not in why else "")
    assert why in text
    assert why or text.endswith(NAME_ONE)


def test_folders_with_a_last_letter_are_parts(parts) -> None:
    labels = {"road_B/a.xml": xml("dog"), "road_A/a.xml": xml(), "road_A/b.xml": xml("dog"), "road_C/a.xml": xml("dog")}
    raw = open_source(parts(labels, {name.replace("xml", "png"): k for k, name in enumerate(labels)})).read()
    assert [image.ident for image in raw.images] == ["road_A/a", "b", "road_B/a", "road_C/a"]
    assert raw.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("one", "other"), [("cat", "car"), ("data", "datb"), ("road_a", "road_c"), ("v_a", "v_b"), ("testA", "testB")]
)
def test_other_last_letters_are_no_parts(parts, one_line, one, other) -> None:
    labels = {f"{one}/a.xml": xml(), f"{other}/a.xml": xml()}
    root = parts(labels, {name.replace("xml", "png"): k for k, name in enumerate(labels)})
    assert one_line(open_source, root).endswith(NAME_ONE)


HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def coco(name, category="cat"):
    images = [{"id": 1, "file_name": name, "width": 64, "height": 48}]
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [16, 12, 32, 24], "area": 768, "iscrowd": 0}]
    categories = [{"id": 1, "name": category}]
    return json.dumps({"images": images, "annotations": boxes, "categories": categories})


def rows(name):
    return f"{HEADER}{name},64,48,cat,16,12,48,36\n"


@pytest.mark.parametrize(("make", "suffix"), [(coco, "json"), (rows, "csv")])
@pytest.mark.parametrize("place", ["images", "{tag}"])
def test_label_files_that_differ_in_a_number_are_one_set_without_splits(parts, make, suffix, place) -> None:
    tags = ["part1", "part2", "part10"]
    labels = {f"{tag}.{suffix}": make(f"{tag}_x.png") for tag in tags}
    root = parts(labels, {f"{place.format(tag=tag)}/{tag}_x.png": k for k, tag in enumerate(tags)})
    source = open_source(root)
    raw = source.read()
    assert raw.made
    assert {image.path.rpartition("/")[2] for image in raw.images} == {f"{tag}_x.png" for tag in tags}
    assert sorted(raw.splits["trainval"] + raw.splits["test"]) == [0, 1, 2]
    assert [len(image.objects) for image in raw.images] == [1, 1, 1]
    assert set(source.splits) == set(raw.splits)
    one = open_source(root / f"part2.{suffix}").read()
    assert [image.path.rpartition("/")[2] for image in one.images] == ["part2_x.png"]
    part = source.read("part2")
    assert [part.images[i].path.rpartition("/")[2] for i in part.splits["part2"]] == ["part2_x.png"]
    found = CollectErrors()
    source.read(None, found)
    assert [finding.message for finding in found.findings if finding.kind == "sets-joined"] == [
        f"part1.{suffix}, part10.{suffix}, part2.{suffix} are read as one set without splits; to read one of them, name"
        " it"
    ]


@pytest.mark.parametrize(("make", "suffix"), [(coco, "json"), (rows, "csv")])
@pytest.mark.parametrize(
    "names",
    [
        ("fold1", "fold2"),
        ("fold_a", "fold_b"),
        ("foldA", "foldB"),
        ("v1", "v2"),
        ("data_80", "data_20"),
        ("anna", "bob"),
    ],
)
def test_folds_versions_and_other_names_stay_splits(parts, make, suffix, names) -> None:
    root = parts(
        {f"{name}.{suffix}": make(f"{name}_x.png") for name in names},
        {f"images/{name}_x.png": k for k, name in enumerate(names)},
    )
    raw = open_source(root).read()
    assert not raw.made
    assert {name: len(at) for name, at in raw.splits.items()} == dict.fromkeys(names, 1)


@pytest.mark.parametrize("names", [("1", "2"), ("part_a", "part_b"), ("job 1", "job 12")])
def test_other_names_of_parts(parts, names) -> None:
    labels = {f"{name}.json": coco(f"{name}_x.png") for name in names}
    root = parts(labels, {f"images/{name}_x.png": k for k, name in enumerate(names)})
    assert open_source(root).read().made


def test_numbered_files_that_contradict_each_other_say_so(parts) -> None:
    root = parts({"part1.json": coco("a.png"), "part2.json": coco("a.png", "dog")}, {"images/a.png": 0})
    found = CollectErrors()
    open_source(root).read(None, found)
    assert "labels-contradict" in {one.kind for one in found.findings}


@pytest.mark.parametrize("names", [("test1", "test2"), ("testA", "testB"), ("val_1", "val_2")])
def test_files_of_a_split_are_no_parts(parts, names) -> None:
    root = parts(
        {f"{name}.json": coco(f"{name}_x.png") for name in names}, {f"images/{name}_x.png": 0 for name in names}
    )
    assert not open_source(root).read().made

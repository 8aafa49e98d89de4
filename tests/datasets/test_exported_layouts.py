"""Folders as FiftyOne exports them and as Kaggle's data sets lie: read from the folder alone, each box in its image."""

from __future__ import annotations

import json

import pytest

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import fiftyone

NAMES = [f"{i:06d}" for i in range(4)]
TRAIN, VAL = NAMES[:2], NAMES[2:]
BOX = (16, 12, 48, 36)
MADE = ("train", "val", "test", "trainval")


def coco(names):
    """As FiftyOne writes it."""
    images = [{"id": i, "file_name": f"{name}.png", "width": 64, "height": 48, "license": None, "coco_url": None}
              for i, name in enumerate(names, 1)]  # fmt: skip
    notes = [{"id": i, "image_id": i, "category_id": 0, "bbox": [16, 12, 32, 24], "area": 768, "iscrowd": 0}
             for i in range(1, len(names) + 1)]  # fmt: skip
    return json.dumps({"info": {}, "licenses": [], "categories": [{"id": 0, "name": "cat", "supercategory": None}],
                       "images": images, "annotations": notes})  # fmt: skip


def voc(name):
    box = "<xmin>17</xmin><ymin>13</ymin><xmax>48</xmax><ymax>36</ymax>"
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    names = f"<folder></folder><filename>{name}.png</filename><path>/home/me/data/{name}.png</path>"
    return f"<annotation>{names}{size}<object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"


def cvat(names):
    meta = "<meta><task><labels><label><name>cat</name><attributes></attributes></label></labels></task></meta>"
    images = "".join(
        f'<image id="{i}" name="{name}.png" width="64" height="48">'
        '<box label="cat" xtl="16" ytl="12" xbr="48" ybr="36" occluded="0"></box></image>'
        for i, name in enumerate(names)
    )
    return f"<?xml version='1.0' encoding='utf-8'?>\n<annotations><version>1.1</version>{meta}{images}</annotations>"


def own(names):
    found = {"label": 0, "bounding_box": [0.25, 0.25, 0.5, 0.5], "confidence": None, "attributes": {}}
    return json.dumps({"classes": ["cat"], "labels": {name: [found] for name in names}})


def each(place, text, names=NAMES, ending="xml"):
    return {f"{place}{name}.{ending}": text(name) if callable(text) else text for name in names}


def images(place, names=NAMES):
    return [f"{place}{name}.png" for name in names]


ROW = "0 0.5 0.5 0.5 0.5\n"
CSV = "filename,xmin,ymin,xmax,ymax,class\n" + "".join(f"{name}.png,16,12,48,36,cat\n" for name in NAMES)
YAML = "names:\n- cat\nnc: 1\npath: /home/me/out\ntrain: ./images/train/\nval: ./images/val/\n"
LAYOUTS = {
    "FiftyOne COCO": ("coco", {"labels.json": coco(NAMES)}, images("data/"), MADE),
    "FiftyOne COCO in folders of splits": (
        "coco", {"train/labels.json": coco(TRAIN), "validation/labels.json": coco(VAL)},
        images("train/data/", TRAIN) + images("validation/data/", VAL), ("train", "validation"),
    ),
    "FiftyOne VOC": ("voc", each("labels/", voc), images("data/"), MADE),
    "FiftyOne VOC in folders of splits": (
        "voc", {**each("train/labels/", voc, TRAIN), **each("val/labels/", voc, VAL)},
        images("train/data/", TRAIN) + images("val/data/", VAL), ("train", "val"),
    ),
    "FiftyOne YOLOv5": (
        "yolo",
        {"dataset.yaml": YAML, **each("labels/train/", ROW, TRAIN, "txt"), **each("labels/val/", ROW, VAL, "txt")},
        images("images/train/", TRAIN) + images("images/val/", VAL), ("train", "val"),
    ),
    "FiftyOne YOLOv4": (
        "yolo", {"obj.names": "cat\n", "images.txt": "".join(f"{name}\n" for name in images("data/")),
                 **each("data/", ROW, ending="txt")},
        images("data/"), MADE,
    ),
    "FiftyOne CVAT": ("cvat", {"labels.xml": cvat(NAMES)}, images("data/"), MADE),
    "FiftyOne CVAT in folders of splits": (
        "cvat", {"train/labels.xml": cvat(TRAIN), "val/labels.xml": cvat(VAL)},
        images("train/data/", TRAIN) + images("val/data/", VAL), ("train", "val"),
    ),
    "FiftyOne's own": ("fiftyone", {"labels.json": own(NAMES)}, images("data/"), MADE),
    "FiftyOne's own in folders of splits": (
        "fiftyone", {"train/labels.json": own(TRAIN), "test/labels.json": own(VAL)},
        images("train/data/", TRAIN) + images("test/data/", VAL), ("test", "train"),
    ),
    "images and annotations": ("voc", each("annotations/", voc), images("images/"), MADE),
    "images and annotations in a folder": (
        "voc", {"README.md": "x", **each("set/annotations/", voc)}, images("set/images/"), MADE,
    ),
    "unpacked archives side by side": (
        "voc", {**each("train_zip/train/", voc, TRAIN), **each("test_zip/test/", voc, VAL)},
        images("train_zip/train/", TRAIN) + images("test_zip/test/", VAL), ("test", "train"),
    ),
    "a folder in a folder in a folder": (
        "coco", {"README.md": "x", "a/LICENSE": "x", "a/b/annotations/instances_default.json": coco(NAMES)},
        images("a/b/images/"), MADE,
    ),
    "COCO in a folder": (
        "coco", {"notes.txt": "x", "more/x.txt": "", "set/annotations/instances_train2017.json": coco(NAMES)},
        images("set/train2017/"), ("train",),
    ),
    "COCO in labels": ("coco", {"labels/train.json": coco(NAMES)}, images("images/"), ("train",)),
    "splits of COCO with annotations": (
        "coco", {"train/annotations/instances.json": coco(TRAIN), "valid/annotations/instances.json": coco(VAL)},
        images("train/images/", TRAIN) + images("valid/images/", VAL), ("train", "valid"),
    ),
    "splits of COCO with capitals": (
        "coco", {"Train/Annotations/instances.json": coco(TRAIN), "Val/Annotations/instances.json": coco(VAL)},
        images("Train/Images/", TRAIN) + images("Val/Images/", VAL), ("train", "val"),
    ),
    "COCO in Annotations": ("coco", {"Annotations/instances_train.json": coco(NAMES)}, images("Images/"), ("train",)),
    "COCO in annotations of splits": (
        "coco", {"annotations/train/a.json": coco(TRAIN), "annotations/val/a.json": coco(VAL)}, images("images/"),
        ("train", "val"),
    ),
    "COCO with splits as words": (
        "coco", {"train_annotations.json": coco(TRAIN), "annotations/coco-test.json": coco(VAL)}, images("images/"),
        ("test", "train"),
    ),
    "one COCO file": ("coco", {"my-test-project.json": coco(NAMES)}, images("images/"), MADE),
    "COCO beside a folder of VOC": (
        "coco", {"instances_train.json": coco(NAMES), "old/x.xml": voc("x")}, images("images/"), ("train",),
    ),
    "VOC in a folder of another name": ("voc", each("boxes/", voc), images("pictures/"), MADE),
    "Darknet's": ("yolo", {"classes.txt": "cat\n", **each("obj/", ROW, ending="txt")}, images("obj/"), MADE),
    "train and train.csv": (
        "csv", {"train.csv": CSV, "sample_submission.csv": "image_id,PredictionString\nx,1.0 0 0 5 5\n"},
        [*images("train/"), "test/x.png"], ("train",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_folder_alone_is_read(folder, layout):
    form, files, there, splits = LAYOUTS[layout]
    root = folder(files, there)
    source = open_source(root)
    assert source.form == form
    assert sorted(source.splits) == sorted(splits)
    raw = source.read()
    assert raw.class_names == ("cat",)
    assert sorted(im.path.removeprefix(f"{root}/") for im in raw.images) == sorted(n for n in there if "x.png" not in n)
    for split in splits:
        data = open_dataset(root, split)
        assert data.boxes_px.tolist() == [list(BOX)] * len(data)
    # Splits that are folders hold the images of these.
    if any(f"{splits[0]}/" in name for name in there) and len(splits) == 2:
        assert all(f"/{split}/" in raw.images[i].path for split, at in raw.splits.items() for i in at)


def test_labels_that_are_not_read_are_said(folder):
    form, files, there, _ = LAYOUTS["COCO beside a folder of VOC"]
    source = open_source(folder(files, [*there, "old/x.png"]))
    assert source.form == form
    assert source.unread_beside(source.read()) == "read as COCO; also there and not read: old (Pascal VOC, 1)"


def findings(folder, content):
    problems = CollectErrors()
    text = content if isinstance(content, str) else json.dumps(content)
    raw = open_source(folder({"labels.json": text}, ["data/a.png", "data/b.jpg"])).read(None, problems)
    return raw, [f"{one.kind} {one.item} {one.message}" for one in problems.findings]


def test_fiftyones_own_classes_may_be_names(folder):
    box = {"bounding_box": [0, 0, 0.5, 1]}
    raw, messages = findings(folder, {"classes": None, "labels": {"b": [{"label": "dog", **box}], "a": None}})
    assert messages == []
    assert [(im.ident, [o.name for o in im.objects]) for im in raw.images] == [("b", ["dog"]), ("a", [])]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"label": 1}, "class-unknown a, object 0 class 1 of 1 in classes"),
        ({"label": -1}, "class-unknown a, object 0 class -1"),
        ({"label": None}, "annotation-malformed a, object 0 label None"),
        ({"label": 0, "bounding_box": [1, 2, 3]}, "annotation-malformed a, object 0 bounding_box [1, 2, 3]; want x, y"),
        (5, "annotation-malformed a, object 0 label None"),
    ],
)
def test_fiftyones_own_with_mistakes(folder, item, said):
    good = {"label": 0, "bounding_box": [0, 0, 0.5, 0.5]}
    if isinstance(item, dict):
        item = {"bounding_box": [0, 0, 1, 1], **item}
    raw, messages = findings(folder, {"classes": ["cat"], "labels": {"a": [item, good], "gone": [good]}})
    assert len(raw.images) == 1
    assert len(raw.images[0].objects) == 1
    assert messages[0].startswith(said)
    assert messages[1].startswith("image-missing gone image 'gone.jpg' is missing")


def test_what_is_not_fiftyones():
    good = own(["a"]).encode()
    assert fiftyone.is_one(good)
    for head in (b"{}", b'{"classes": []}', b'{"labels": []}', good[1:], b"[" + good):
        assert not fiftyone.is_one(head)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ds/ann/000000.png.json", '{"objects": [{"classTitle": "cat"}]}', "is Supervisely's form; export"),
        ("annotations/a.json", '{"schema_ref": "https://darwin-public/x", "annotations": []}', "is Darwin (V7); exp"),
        ("releases/latest/annotations/a.json", '{"schema_ref": "darwin", "annotations": []}', "is Darwin (V7)"),
        ("samples.json", '{"samples": [{"ground_truth": {"_cls": "Detections"}}]}', "is FiftyOne's own form; exp"),
    ],
)  # fmt: skip
def test_forms_that_are_not_read_are_named(folder, one_line, name, text, said):
    assert f"{name} {said}" in one_line(open_source, folder({name: text}, ["images/a.png"]))


def test_lists_name_annotations_in_sub_folders_without_them(folder, voc_xml, one_line) -> None:
    xmls = {f"Annotations/{k}/{k}{i}.xml": voc_xml([("cat", (2, 3, 9, 12))], (64, 48)) for k in (1, 2) for i in (0, 1)}
    lists = {"ImageSets/Main/train.txt": "10\n20\n21\n", "ImageSets/Main/val.txt": "11.jpg\n"}
    root = folder({**xmls, **lists}, [name.replace("Annotations", "JPEGImages").replace("xml", "png") for name in xmls])
    raw = open_source(root).read()
    assert {split: [raw.images[i].path[-8:] for i in at] for split, at in raw.splits.items()} == {
        "train": ["1/10.png", "2/20.png", "2/21.png"],
        "val": ["1/11.png"],
    }
    (root / "Annotations/2/10.xml").write_text(xmls["Annotations/1/10.xml"])  # then the name says no single one
    assert "names '10' but there is no" in one_line(open_source(root).read)


@pytest.mark.parametrize("rows", ["b.png,Not Cat,,,,\n", "b.png,no cats,,,,\n", "b.png,non-cat,,,,\n"])
def test_rows_without_a_box_that_negate_are_images_without_objects(folder, one_line, rows) -> None:
    table = "flename,object,xmin,ymin,xmax,ymax\na.png,cat,1,2,30,40\n"
    root = folder({"Train.csv": table + rows, "eval.csv": table.replace("a.png", "c.png")}, ["a.png", "b.png", "c.png"])
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert [(one.kind, "without a box: read as images without" in one.message) for one in found.findings] == [
        ("columns-assumed", True)
    ]
    assert (raw.class_names, [len(image.objects) for image in raw.images]) == (("cat",), [1, 0, 1])
    assert len(open_dataset(root, "val")) == 1  # eval.csv
    (root / "Train.csv").write_text(table + "c.png,Not Cat,1,2,3,4\n" + "b.png,Not Cat,,,,\n")  # a class like others
    assert "xmin '' is not a number" in one_line(open_source(root).read)
    (root / "Train.csv").write_text(table + "b.png,Not Cat,,,,\n" + "c.png,Not Cat,1,2,3,4\n")
    assert "1 row of 'Not Cat' without a box, which other rows have" in one_line(open_source(root).read)


def test_parts_of_the_set_that_is_read_are_not_called_unread(folder, voc_xml) -> None:
    xml = voc_xml([("cat", (2, 3, 9, 12))], (64, 48))
    files = {"data/train_labels/a.xml": xml, "data/test_labels/b.xml": xml, "README.md": "x"}
    source = open_source(folder(files, ["data/images/a.png", "data/images/b.png"]))
    raw = source.read()
    assert {split: len(at) for split, at in raw.splits.items()} == {"train": 1, "test": 1}
    assert source.unread_beside(raw) == ""

"""One small data set written in each form, file by file, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.formats import written_formats
from singleshot.datasets.raw import DatasetIds, RawImage, RawObject, RawSet
from singleshot.datasets.writers import common
from singleshot.datasets.writing import write_dataset
from singleshot.errors import ConfigError

FORMS = tuple(written_formats())
WITHOUT_SIZES = ("createml", "via")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_voc_files(raw, tmp_path):
    write_dataset(raw, tmp_path / "b", "voc")
    assert files(tmp_path / "b") == [
        "Annotations/a-2.xml", "Annotations/a.xml", "Annotations/b.xml", "ImageSets/Main/train.txt",
        "ImageSets/Main/val.txt", "JPEGImages/a-2.png", "JPEGImages/a.png", "JPEGImages/b.jpg",
        "singleshot-classes.json",
    ]  # fmt: skip
    root = ElementTree.parse(tmp_path / "b" / "Annotations" / "a.xml").getroot()
    assert [element.tag for element in root] == ["folder", "filename", "size", "object", "object"]
    assert [root.findtext(f"size/{k}") for k in ("width", "height", "depth")] == ["64", "48", "3"]
    assert [[e.text for e in box] for box in root.iter("bndbox")] == [["1", "2.5", "10.25", "48"], ["4", "4", "9", "9"]]
    assert [[e.tag for e in obj] for obj in root.iter("object")] == [["name", "difficult", "bndbox"]] * 2
    crowd = ElementTree.parse(tmp_path / "b" / "Annotations" / "a-2.xml").getroot()
    assert crowd.findtext("object/crowd") == "1"
    assert (tmp_path / "b" / "ImageSets" / "Main" / "train.txt").read_text() == "a\nb\n"
    assert open_source(tmp_path / "b").read(None).class_names == ("dog", "cat", "axe")


def test_coco_files_are_read_by_pycocotools(raw, tmp_path, capsys):
    pycocotools = pytest.importorskip("pycocotools.coco")
    raw.splits["trainval"] = [0, 1, 2]
    write_dataset(raw, tmp_path / "b", "coco")
    names = [f"annotations/instances_{split}.json" for split in ("train", "trainval", "val")]
    assert files(tmp_path / "b") == [*names, "images/a-2.png", "images/a.png", "images/b.jpg"]
    api = pycocotools.COCO(str(tmp_path / "b" / names[1]))
    assert [api.cats[i]["name"] for i in (1, 2, 3)] == ["dog", "cat", "axe"]
    assert {i: (im["file_name"], im["width"], im["height"]) for i, im in api.imgs.items()} == {
        1: ("a.png", 64, 48), 2: ("a-2.png", 64, 48), 3: ("b.jpg", 64, 48)}  # fmt: skip
    assert [api.anns[i] for i in (1, 2, 3)] == [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 1.5, 10.25, 46.5], "area": 99.5, "iscrowd": 0,
         "ignore": 1},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [3, 3, 6, 6], "area": 36, "iscrowd": 0},
        {"id": 3, "image_id": 2, "category_id": 2, "bbox": [1, 2, 2, 2], "area": 4, "iscrowd": 1},
    ]  # fmt: skip
    val = json.loads((tmp_path / "b" / names[2]).read_text())
    assert [a["id"] for a in val["annotations"]] == [3]
    assert [i["id"] for i in val["images"]] == [2]


def test_coco_keeps_its_ids_and_file_names(tmp_path, write_image):
    """Ids with gaps, images in folders, and names that repeat in another split."""
    categories = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]
    names = {"train": ["deep/er/a.png", "b.png"], "val": ["b.png", "c.png"]}
    before = {}
    for split, listed in names.items():
        images = [{"id": 900 - i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(listed)]
        rows = [{"id": 7, "image_id": 900, "category_id": 18, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}]
        before[split] = (images, rows)
        for name in listed:
            write_image(tmp_path / "a" / split / name, 64, 48)
        content = {"images": images, "annotations": rows, "categories": categories}
        (tmp_path / "a" / f"{split}.json").write_text(json.dumps(content))
    write_dataset(open_source(tmp_path / "a").read(None), tmp_path / "b", "coco")
    for split, (images, rows) in before.items():
        after = json.loads((tmp_path / "b" / "annotations" / f"instances_{split}.json").read_text())
        assert after["images"] == images
        assert [{**row, "id": 7} for row in after["annotations"]] == rows
        assert sorted(after["categories"], key=str) == sorted(categories, key=str)
    paths = {split: [im.path for im in open_source(tmp_path / "b").read(split).images] for split in names}
    assert paths == {split: [str(tmp_path / "b/images" / split / name) for name in names[split]] for split in names}


@pytest.mark.parametrize("listed", ["/etc/a.png", "../a.png", "x\\a.png", "C:/a.png", ".hidden/a.png", "a", "x//a.png"])
def test_a_name_that_leads_elsewhere_is_not_kept(tmp_path, write_image, listed):
    write_image(tmp_path / "a.png", 64, 48)
    image = RawImage(str(tmp_path / "a.png"), "5", 64, 48, [], "f", listed=listed)
    raw = RawSet("coco", "s", ("cat",), [image], {"train": [0]}, ids=DatasetIds({"cat": 4}, False))
    write_dataset(raw, tmp_path / "b", "coco")
    assert files(tmp_path / "b") == ["annotations/instances_train.json", "images/a.png"]
    content = json.loads((tmp_path / "b" / "annotations/instances_train.json").read_text())
    assert (content["images"][0]["id"], content["images"][0]["file_name"]) == ("5", "a.png")


def test_yolo_files_with_and_without_overlap(raw, tmp_path):
    yaml = pytest.importorskip("yaml")
    write_dataset(raw, tmp_path / "b", "yolo")
    assert files(tmp_path / "b") == [
        "data.yaml", "images/train/a.png", "images/train/b.jpg", "images/val/a-2.png", "labels/train/a.txt",
        "labels/train/b.txt", "labels/val/a-2.txt", "singleshot-flags.csv"]  # fmt: skip
    told = yaml.safe_load((tmp_path / "b" / "data.yaml").read_text())
    names = {0: "dog", 1: "cat", 2: "axe"}
    assert told == {"path": ".", "train": "images/train", "val": "images/val", "names": names}
    rows = [line.split() for line in (tmp_path / "b" / "labels/train/a.txt").read_text().splitlines()]
    assert [row[0] for row in rows] == ["0", "1"]
    np.testing.assert_allclose(
        np.array([row[1:] for row in rows], float) * [64, 48, 64, 48], [[5.125, 24.75, 10.25, 46.5], [6, 6, 6, 6]]
    )
    assert (tmp_path / "b" / "labels/train/b.txt").read_bytes() == b""
    flags = (tmp_path / "b" / "singleshot-flags.csv").read_text().splitlines()
    assert flags == ["label,object,difficult,crowd", "labels/train/a.txt,0,1,0", "labels/val/a-2.txt,0,0,1"]
    raw.splits["trainval"] = [2, 0, 1]
    write_dataset(raw, tmp_path / "c", "yolo")
    told = yaml.safe_load((tmp_path / "c" / "data.yaml").read_text())
    assert (told["train"], told["trainval"], told["names"]) == ("train.txt", "trainval.txt", names)
    assert (tmp_path / "c" / "trainval.txt").read_text() == "./images/b.jpg\n./images/a.png\n./images/a-2.png\n"
    assert (tmp_path / "c" / "labels" / "b.txt").read_bytes() == b""


def test_csv_files(raw, tmp_path):
    write_dataset(raw, tmp_path / "b", "csv")
    names = ["classes.txt", "images/a-2.png", "images/a.png", "images/b.jpg", "train.csv", "val.csv"]
    assert files(tmp_path / "b") == names
    with (tmp_path / "b" / "train.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "width", "height", "xmin", "ymin", "xmax", "ymax", "class", "difficult", "crowd"]
    assert rows[1:] == [
        ["images/a.png", "64", "48", "0", "1.5", "10.25", "48", "dog", "1", "0"],
        ["images/a.png", "64", "48", "3", "3", "9", "9", "cat", "0", "0"],
        ["images/b.jpg", "64", "48", *[""] * 7],
    ]
    assert (tmp_path / "b" / "classes.txt").read_text() == "dog\ncat\naxe\n"
    # Sorted names that all have objects need no list.
    sorted_raw = raw._replace(class_names=("cat", "dog"))
    write_dataset(sorted_raw, tmp_path / "c", "csv")
    assert "classes.txt" not in files(tmp_path / "c")


def test_cvat_files(raw, tmp_path):
    write_dataset(raw, tmp_path / "b", "cvat")
    assert files(tmp_path / "b") == ["annotations.xml", "images/a-2.png", "images/a.png", "images/b.jpg"]
    root = ElementTree.parse(tmp_path / "b" / "annotations.xml").getroot()
    assert [e.text for e in root.iterfind("meta/task/labels/label/name")] == ["dog", "cat", "axe"]
    assert [e.text for e in root.iterfind("meta/task/labels/label/attributes/attribute/name")] == [
        "difficult", "crowd"] * 3  # fmt: skip
    images = [
        (e.get("id"), e.get("name"), e.get("subset"), e.get("width"), e.get("height")) for e in root.iter("image")
    ]
    assert images == [("0", "a.png", "train", "64", "48"), ("1", "b.jpg", "train", "64", "48"),
                      ("2", "a-2.png", "val", "64", "48")]  # fmt: skip
    first = next(root.iter("box"))
    assert [first.get(k) for k in ("label", "xtl", "ytl", "xbr", "ybr")] == ["dog", "0", "1.5", "10.25", "48"]
    assert [(e.get("name"), e.text) for e in first] == [("difficult", "true"), ("crowd", "false")]


def test_files_of_the_other_annotation_programs(raw, tmp_path):
    """A folder for each split, images beside their labels."""
    names = {"createml": "_annotations.createml.json", "via": "via_region_data.json", "labelstudio": "labelstudio.json"}
    told = {}
    for form, name in names.items():
        write_dataset(raw, tmp_path / form, form)
        images = ["train/a.png", "train/b.jpg", "val/a-2.png"]
        assert files(tmp_path / form) == sorted(["singleshot-classes.json", f"train/{name}", f"val/{name}", *images])
        told[form] = json.loads((tmp_path / form / "train" / name).read_text())
    assert told["createml"] == [
        {"image": "a.png", "annotations": [
            {"label": "dog", "difficult": True,
             "coordinates": {"x": 5.125, "y": 24.75, "width": 10.25, "height": 46.5}},
            {"label": "cat", "coordinates": {"x": 6, "y": 6, "width": 6, "height": 6}}]},
        {"image": "b.jpg", "annotations": []},
    ]  # fmt: skip
    size = (tmp_path / "via" / "train" / "a.png").stat().st_size
    assert told["via"][f"a.png{size}"] == {"filename": "a.png", "size": size, "file_attributes": {}, "regions": [
        {"shape_attributes": {"name": "rect", "x": 0, "y": 1.5, "width": 10.25, "height": 46.5},
         "region_attributes": {"class": "dog", "difficult": "1"}},
        {"shape_attributes": {"name": "rect", "x": 3, "y": 3, "width": 6, "height": 6},
         "region_attributes": {"class": "cat"}}]}  # fmt: skip
    task = told["labelstudio"][0]
    assert task["data"] == {"image": "/data/local-files/?d=train/a.png"}
    first = task["annotations"][0]["result"][0]
    assert first["value"] == {"x": 0, "y": 3.125, "width": 16.015625, "height": 96.875, "rotation": 0,
                              "rectanglelabels": ["dog"]}  # fmt: skip
    assert (first["type"], first["original_width"], first["original_height"]) == ("rectanglelabels", 64, 48)
    assert first["meta"] == {"difficult": True}
    write_dataset(raw, tmp_path / "labelme", "labelme")
    assert files(tmp_path / "labelme") == ["singleshot-classes.json", "train/a.json", "train/a.png", "train/b.jpg",
                                           "train/b.json", "val/a-2.json", "val/a-2.png"]  # fmt: skip
    content = json.loads((tmp_path / "labelme" / "train" / "a.json").read_text())
    assert (content["imagePath"], content["imageWidth"], content["imageHeight"]) == ("a.png", 64, 48)
    assert [(s["label"], s["points"], s["shape_type"], s["flags"]) for s in content["shapes"]] == [
        ("dog", [[0, 1.5], [10.25, 48]], "rectangle", {"difficult": True}),
        ("cat", [[3, 3], [9, 9]], "rectangle", {}),
    ]


@pytest.mark.parametrize("name", ["valid", "Validation", "val", "dev"])
def test_other_readers_find_val_under_its_usual_name(raw, tmp_path, name):
    raw.splits[name] = raw.splits.pop("val")
    write_dataset(raw, tmp_path / "c", "yolo")
    yaml = pytest.importorskip("yaml")
    said = yaml.safe_load((tmp_path / "c" / "data.yaml").read_text())
    assert said["val"] == f"images/{name}"
    assert set(open_source(tmp_path / "c").splits) == {"train", name}


def test_labelled_images_in_no_split_are_said(raw, tmp_path):
    write_dataset(raw._replace(splits={"my part": [0, 1], "val": [1]}), tmp_path / "b", "createml")
    (tmp_path / "b" / "singleshot-splits.json").write_text('[{"split": "my part", "files": ["a.png"]}]')
    problems = CollectErrors()
    assert open_source(tmp_path / "b").read(None, problems).splits == {"my part": [0]}
    (found,) = problems.findings
    assert (found.kind, found.message.partition(" (as")[0]) == ("image-unused", "1 labelled images are in no split")


def test_what_a_form_has_no_place_for_is_said(raw, tmp_path, caplog):
    caplog.set_level("INFO")
    raw.images[1].objects.append(RawObject("cat", (9.0, 1.0, 3.0, 5.0)))
    for form in ("coco", "voc", "labelme"):
        write_dataset(raw, tmp_path / form, form)
    areas = "areas that are not those of the boxes have no place in {}: 1 are left out"
    order = "boxes that end before they start are written in order: 1"
    assert caplog.messages == [areas.format("voc"), areas.format("labelme"), order]


def test_images_called_as_label_files_are_called_otherwise(raw, tmp_path, write_image):
    stems = ("_annotations.createml", "via_region_data", "labelstudio", "singleshot-splits", "annotations")
    images = []
    for stem in stems:
        write_image(tmp_path / "from" / f"{stem}.png", 64, 48)
        path = str(tmp_path / "from" / f"{stem}.png")
        images.append(raw.images[0]._replace(path=path))
    for splits in ({"train": [0, 1, 2, 3, 4]}, {"my part": [0, 1, 2, 3, 4]}):
        for form in FORMS:
            out = tmp_path / f"{form}-{len(next(iter(splits)))}"
            write_dataset(raw._replace(images=images, splits=splits), out, form)
            assert len(open_source(out).read(None).images) == 5


@pytest.mark.parametrize(
    "text", ["[", "{}", '[{"split": "a"}]', '[{"split": " ", "files": []}]', '[{"split": "a", "files": [1]}]']
)
def test_a_spoilt_list_of_splits_is_told(raw, tmp_path, text, one_line):
    for form in ("createml", "labelme"):
        write_dataset(raw._replace(splits={"my part": [0, 1], "val": [1]}), tmp_path / form, form)
        (tmp_path / form / "singleshot-splits.json").write_text(text)
        assert 'singleshot-splits.json: is not a list of {"split"' in one_line(open_source(tmp_path / form).read, None)


def test_a_listed_image_without_labels_is_told(raw, tmp_path, one_line):
    write_dataset(raw._replace(splits={"my part": [0, 1], "val": [1]}), tmp_path / "b", "labelme")
    (tmp_path / "b" / "a-2.json").unlink()
    assert "split 'my part' has 'a-2.png', which no label file has" in one_line(open_source(tmp_path / "b").read, None)


@pytest.mark.parametrize("form", FORMS)
def test_image_files_are_copies_and_the_original_is_left_alone(raw, tmp_path, form):
    before = {name: (tmp_path / "from" / name).read_bytes() for name in files(tmp_path / "from")}
    calls = []
    written = write_dataset(raw, tmp_path / "b", form, lambda: calls.append(1))
    assert written == (3, 3, {"train": 2, "val": 1})
    assert len(calls) == 3
    assert {name: (tmp_path / "from" / name).read_bytes() for name in files(tmp_path / "from")} == before
    copies = [path for path in (tmp_path / "b").rglob("*") if path.suffix in (".png", ".jpg")]
    assert sorted(path.read_bytes() for path in copies) == sorted(before.values())
    assert all(path.stat().st_nlink == 1 and not path.is_symlink() for path in copies)


@pytest.mark.parametrize("form", FORMS)
def test_made_splits_are_fixed_from_then_on(tmp_path, voc_xml, write_voc, form):
    root = write_voc(tmp_path / "a", {f"s{i}": voc_xml([("cat", (1, 1, 5, 5))]) for i in range(20)})
    made = open_source(root).read(None)
    assert made.made
    write_dataset(made, tmp_path / "b", form)
    now = open_source(tmp_path / "b").read(None)
    assert not now.made

    def members(raw: RawSet) -> dict[str, set[str]]:
        return {split: {Path(raw.images[i].path).stem for i in at} for split, at in raw.splits.items()}

    assert members(now) == members(made)


@pytest.mark.parametrize("form", FORMS)
def test_splits_whose_names_lead_elsewhere_stay_inside(raw, tmp_path, form):
    names = ("../../out", "/etc/x", "names", "a\nb", "classes", "images", "Train")
    odd = raw._replace(splits={name: [n % 3, (n + 1) % 3] for n, name in enumerate(names)})
    written = write_dataset(odd, tmp_path / "deep" / "b", form)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "from"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["b"]
    now = open_source(tmp_path / "deep" / "b").read(None)
    assert len(now.splits) == len(written.splits) == len(names)
    assert all(len(members) == 2 for members in now.splits.values())


def test_the_devkits_names_of_lists_are_not_given_to_splits(raw, tmp_path):
    write_dataset(raw._replace(splits={"person_train": [0], "val": [1]}), tmp_path / "b", "voc")
    assert open_source(tmp_path / "b").splits == ("person-train", "val")


@pytest.mark.parametrize("form", FORMS)
def test_an_exif_rotated_image_is_measured_upright(tmp_path, form):
    from singleshot.images.decode import image_size

    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    import cv2

    jpeg = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    assert image_size(path) == (48, 64)
    box = (0.0, 0.0, 24.0, 16.0)
    raw = RawSet("test", "x", ("c",), [RawImage(str(path), "a", 0, 0, [RawObject("c", box)], "x")], {"train": [0]})
    write_dataset(raw, tmp_path / "b", form)
    data = open_dataset(tmp_path / "b", "train")
    assert data.sizes.tolist() == [[0, 0] if form in WITHOUT_SIZES else [48, 64]]
    np.testing.assert_allclose(data.boxes_px, [box], atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_an_image_without_an_ending_gets_one(raw, tmp_path, form):
    bare = tmp_path / "0001"
    bare.write_bytes(Path(raw.images[0].path).read_bytes())
    odd = raw._replace(images=[raw.images[0]._replace(path=str(bare)), *raw.images[1:]])
    write_dataset(odd, tmp_path / "b", form)
    assert "0001.png" in {path.name for path in (tmp_path / "b").rglob("*")}
    assert len(open_source(tmp_path / "b").read(None).images) == 3


def test_what_is_in_no_split_and_empty_splits_are_left_out(raw, tmp_path):
    written = write_dataset(raw._replace(splits={"train": [1], "val": []}), tmp_path / "b", "coco")
    assert written == (1, 1, {"train": 1})
    assert files(tmp_path / "b") == ["annotations/instances_train.json", "images/a.png"]


def test_an_image_of_two_opinions_is_two(tmp_path, coco, write_coco):
    """A file that train and val label differently; in a third the same again."""
    one = [{"id": 1, "image_id": 20, "category_id": 7, "bbox": [1, 1, 5, 5]}]
    two = [{"id": 9, "image_id": 20, "category_id": 7, "bbox": [2, 2, 5, 5]}]
    write_coco(tmp_path / "a" / "train.json", coco(one))
    write_coco(tmp_path / "a" / "val.json", coco(two))
    write_coco(tmp_path / "a" / "trainval.json", coco([{**one[0], "id": 77}]))
    raw = open_source(tmp_path / "a").read(None)
    assert len(raw.images) == 3  # a.png twice, b.png once
    write_dataset(raw, tmp_path / "b", "voc")
    for split, corner in (("train", 1), ("val", 2)):
        assert open_dataset(tmp_path / "b", split).boxes_px[:, 0].tolist() == [corner]


@pytest.mark.parametrize("form", FORMS)
def test_from_a_remote_address(raw, tmp_path, form):
    fsspec = pytest.importorskip("fsspec")
    write_dataset(raw, tmp_path / "a", "voc")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "a"), f"/convert-{form}", recursive=True)
    remote = open_source(f"memory://convert-{form}").read(None)
    write_dataset(remote, tmp_path / "b", form)
    here, there = (open_dataset(tmp_path / name, "train") for name in ("a", "b"))
    np.testing.assert_allclose(here.boxes_px, there.boxes_px, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_a_box_that_is_no_place_is_refused_before_anything_is_written(raw, tmp_path, form, value, one_line):
    raw.images[1].objects.append(RawObject("cat", (0.0, 0.0, value, 5.0), number=1))
    text = one_line(write_dataset, raw, tmp_path / "b", form)
    assert text.startswith("y/a.png.label: object 1 (cat): ")
    assert "data check --fix" in text
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_image_leaves_nothing_behind(raw, tmp_path, form, one_line):
    Path(raw.images[2].path).unlink()
    assert "b.jpg: no such image file" in one_line(write_dataset, raw, tmp_path / "b", form)
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


def test_what_cannot_be_measured_is_refused_where_it_must_be(raw, tmp_path, one_line):
    Path(raw.images[0].path).write_bytes(b"no picture")
    assert "not an image that is read here" in one_line(write_dataset, raw, tmp_path / "b", "voc")
    known = raw._replace(images=[image._replace(width=64, height=48) for image in raw.images])
    assert write_dataset(known, tmp_path / "b", "voc").images == 3
    assert "not an image that is read here" in one_line(write_dataset, known, tmp_path / "c", "yolo")


@pytest.mark.parametrize("form", FORMS)
def test_an_interruption_leaves_nothing_behind(raw, tmp_path, form):
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(raw, tmp_path / "b", form, stop)
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


def test_places_that_are_taken_and_forms_that_are_not(raw, tmp_path):
    with pytest.raises(ConfigError, match=r"tfrecord: no form .*want voc, coco, yolo, csv, cvat, "):
        write_dataset(raw, tmp_path / "b", "tfrecord")
    with pytest.raises(ConfigError, match="is there already"):
        write_dataset(raw, tmp_path / "from", "voc")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    write_dataset(raw, tmp_path / "link", "voc")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "Annotations").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot"):
        write_dataset(raw, tmp_path / "file" / "b", "voc")


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("voc", "a\x01b"),
        ("voc", "\ufffe"),
        ("yolo", "\udc80"),
        ("csv", "\udc80"),
        ("csv", "a\0b"),
        ("csv", "a\nb"),
        ("cvat", "a\x01b"),
        ("cvat", "\udc80"),
    ],
)
def test_class_names_that_a_form_cannot_hold_are_refused(raw, tmp_path, form, name, one_line):
    odd = raw._replace(class_names=("dog", "cat", name))
    text = one_line(write_dataset, odd, tmp_path / "b", form)
    assert "cannot be written as" in text
    assert [path.name for path in tmp_path.iterdir()] == ["from"]
    write_dataset(odd, tmp_path / "b", "coco")
    assert open_source(tmp_path / "b").read(None).class_names == odd.class_names


@pytest.mark.parametrize("form", [form for form in FORMS if form != "csv"])
def test_class_names_of_several_lines(raw, tmp_path, form):
    name = "a\r\nb\tc\u2028d\x85e"
    objects = [RawObject(name, (1.0, 1.0, 5.0, 5.0))]
    odd = raw._replace(
        class_names=("zoo", name), images=[raw.images[0]._replace(objects=objects)], splits={"train": [0]}
    )
    write_dataset(odd, tmp_path / "b", form)
    now = open_source(tmp_path / "b").read(None)
    assert now.class_names == ("zoo", name)
    assert now.images[0].objects[0].name == name


def test_nothing_to_write(raw, tmp_path, one_line):
    assert "no split has an image" in one_line(write_dataset, raw._replace(splits={}), tmp_path / "b", "voc")
    bare = [image._replace(objects=[]) for image in raw.images]
    unlabelled = raw._replace(images=bare, class_names=())
    assert "has no class" in one_line(write_dataset, unlabelled, tmp_path / "b", "coco")
    for form in ("voc", "yolo", "csv"):
        write_dataset(unlabelled, tmp_path / form, form)
        assert len(open_source(tmp_path / form).read(None).images) == 3


def test_yolo_cannot_hold_what_lies_far_outside(raw, tmp_path, one_line):
    raw.images[0].objects[1] = RawObject("cat", (0.0, 0.0, 400.0, 9.0), number=1)
    text = one_line(write_dataset, raw, tmp_path / "b", "yolo")
    assert "x/a.png.label: object 1 (cat): " in text
    assert "too far outside its image of 64 x 48 pixels" in text
    for form in ("voc", "coco", "csv"):
        write_dataset(raw, tmp_path / form, form)
        found = [t.box for im in open_source(tmp_path / form).read(None).images for t in im.objects]
        assert (0.0, 0.0, 400.0, 9.0) in found


@pytest.mark.parametrize("form", FORMS)
def test_bccd_is_the_same_in_every_form(shared, tmp_path, form):
    source = shared / "data" / "bccd"
    write_dataset(open_source(source).read(None), tmp_path / "b", form)
    for split in ("train", "val", "test"):
        old, new = open_dataset(source, split), open_dataset(tmp_path / "b", split)
        assert new.class_names == old.class_names
        at = {Path(name).name: i for i, name in enumerate(new.names)}
        order = [at[Path(name).name] for name in old.names]
        new = new.subset(order)
        np.testing.assert_array_equal(new.ptr, old.ptr)
        np.testing.assert_array_equal(new.sizes, 0 * old.sizes if form in WITHOUT_SIZES else old.sizes)
        np.testing.assert_array_equal(new.labels, old.labels)
        np.testing.assert_array_equal(new.difficult, old.difficult)
        exact = form not in ("yolo", "createml", "labelstudio")
        np.testing.assert_allclose(new.boxes_px, old.boxes_px, rtol=0, atol=0 if exact else 1e-3)


@pytest.mark.parametrize("text", ["dog\ncat\n", "[]x", '{"a": 1}', "[1]", '[" "]', "[" * 100_000])
def test_a_spoilt_class_list_is_told(raw, tmp_path, text, one_line):
    write_dataset(raw, tmp_path / "b", "voc")
    (tmp_path / "b" / "singleshot-classes.json").write_text(text)
    message = one_line(open_source(tmp_path / "b").read, None)
    assert "singleshot-classes.json: is not a list of names in JSON" in message


def test_an_image_twice_in_a_split_is_there_once(raw, tmp_path):
    """As a COCO file gives it that lists a file under two ids: in VOC's lists it would be an error."""
    assert write_dataset(raw._replace(splits={"train": [0, 2, 0]}), tmp_path / "b", "voc").splits == {"train": 2}
    assert len(open_source(tmp_path / "b").read("train").images) == 2


def test_what_waits_is_not_copied_after_an_interruption(raw, tmp_path, monkeypatch):
    read = []
    own = common.read_limited

    def slow(path, *args, **kwargs):
        read.append(path)
        time.sleep(0.005)
        return own(path, *args, **kwargs)

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(common, "read_limited", slow)
    many = raw._replace(images=[raw.images[0]] * 400, splits={"train": list(range(400))})
    with pytest.raises(KeyboardInterrupt):
        write_dataset(many, tmp_path / "b", "csv", stop)
    assert len(read) < 200

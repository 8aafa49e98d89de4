"""Folders whose names say split and kind, a file of all images beside one of a part, one set in several forms."""

from __future__ import annotations

import json

import cv2
import pytest

from singleshot.datasets import open_source
from singleshot.datasets.checks import check_source
from singleshot.datasets.splits import folder_split, left_for_train
from singleshot.errors import DataError


def voc(x0=16, name="cat"):
    box = f"<bndbox><xmin>{x0 + 1}</xmin><ymin>13</ymin><xmax>48</xmax><ymax>36</ymax></bndbox>"
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    return f"<annotation>{size}<object><name>{name}</name>{box}</object></annotation>"


def yolo(x0=16):
    return f"0 {(x0 + 48) / 128} 0.5 {(48 - x0) / 64} 0.5\n"


def coco(*stems, x0=16, name="cat"):
    images = [{"id": i, "file_name": f"{stem}.png", "width": 64, "height": 48} for i, stem in enumerate(stems)]
    notes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [x0, 12, 48 - x0, 24]} for i in range(len(stems))]
    return json.dumps({"images": images, "annotations": notes, "categories": [{"id": 1, "name": name}]})


def table(*stems, x0=16):
    return "filename,xmin,ymin,xmax,ymax,class\n" + "".join(f"{stem}.png,{x0},12,48,36,cat\n" for stem in stems)


def cvat(*stems):
    box = '<box label="cat" xtl="16" ytl="12" xbr="48" ybr="36"/>'
    images = "".join(f'<image id="{i}" name="{stem}.png">{box}</image>' for i, stem in enumerate(stems))
    return f"<annotations>{images}</annotations>"


def labelme(x0=16):
    return json.dumps({"shapes": [{"label": "cat", "points": [[x0, 12], [48, 36]], "shape_type": "rectangle"}]})


def splits_of(raw, root):
    """Split -> the images in it, and where the boxes of each start."""
    return {
        split: [
            (raw.images[i].path[len(f"{root}/") :], raw.images[i].objects[0].box[0])
            for i in at
            if raw.images[i].objects
        ]
        for split, at in raw.splits.items()
        if split != "trainval"
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("valid annot", ("valid", "labels")),
        ("TrainImages2", ("train", "images")),
        ("trainimg", ("train", "images")),
        ("Annotations-test", ("test", "labels")),
        ("Training", ("train", "")),
        ("json", ("", "labels")),
        ("train cats", ("", "")),
        ("train_val_images", ("", "")),
        ("images_labels_train", ("", "")),
    ],
)
def test_a_folder_says_split_and_kind(name, said) -> None:
    assert folder_split(name) == said


# train's labels and images, and those of the other split; the same name of an image in both.
FOLDERS = {
    "words apart": ("annotations/{}.xml", "images", "valid annot/{}.xml", "valid img", "valid"),
    "both are called": ("train_xml/{}.xml", "train_jpg", "Test-XML/{}.xml", "Test-JPG", "test"),
    "one word": ("trainlabels/{}.xml", "trainimages", "vallabels/{}.xml", "valimages", "val"),
    "images in the split itself": ("annots/{}.xml", "images", "test_annots/{}.xml", "test", "test"),
    "YOLO": ("labels/{}.txt", "images", "Test Labels/{}.txt", "Test Images", "test"),
    "YOLO, both are called": ("train_txt/{}.txt", "train_img", "val_txt/{}.txt", "val_img", "val"),
    "LabelMe": ("json/{}.json", "img", "valid_json/{}.json", "valid_img", "valid"),
    "LabelMe, both are called": ("train annotations/{}.json", "train", "val annotations/{}.json", "val", "val"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_called_after_split_and_kind_are_splits(folder, case) -> None:
    labels, images, more_labels, more_images, split = FOLDERS[case]
    write = {"xml": voc, "txt": yolo, "json": labelme}[labels.rpartition(".")[2]]
    files = {labels.format(stem): write(16) for stem in "abc"} | {more_labels.format(stem): write(20) for stem in "cd"}
    files |= {"classes.txt": "cat\n"} if write is yolo else {}
    root = folder(files, [f"{images}/{stem}.png" for stem in "abc"] + [f"{more_images}/{stem}.png" for stem in "de"])
    cv2.imwrite(str(root / more_images / "c.png"), 255 - cv2.imread(str(root / images / "c.png")))
    source = open_source(root)
    raw = source.read()
    found = splits_of(raw, root)
    boxes = {s: [(name, round(x0 * (64 if write is yolo else 1), 6)) for name, x0 in rows] for s, rows in found.items()}
    train = [(f"{images}/{stem}.png", 16) for stem in "abc"]
    assert boxes == {"train": train, split: [(f"{more_images}/{stem}.png", 20) for stem in "cd"]} or (
        # "c" of a folder without a split's name is a copy of the split's.
        write is voc and boxes == {"train": train[:2], split: [(f"{more_images}/{stem}.png", 20) for stem in "cd"]}
    )
    assert (source.splits, raw.class_names, raw.made) == (tuple(raw.splits), ("cat",), False)


def test_images_in_folders_of_split_and_kind_divide_one_folder_of_labels(folder) -> None:
    files = {f"annotations/{stem}.xml": voc() for stem in "abc"}
    root = folder(files, ["train_images/a.png", "train_images/b.png", "TestImages/c.png"])
    found = {split: [name for name, _ in rows] for split, rows in splits_of(open_source(root).read(), root).items()}
    assert found == {"train": ["train_images/a.png", "train_images/b.png"], "test": ["TestImages/c.png"]}


WHOLES = {
    "CSV": {"all_labels.csv": table(*"abcd"), "test_annotations.csv": table("d")},
    "CSV without the word": {"annotations.csv": table(*"abcd"), "annotations_test.csv": table("d")},
    "COCO": {"annotations/all.json": coco(*"abcd"), "annotations/test.json": coco("d")},
    "CVAT": {"annotations.xml": cvat(*"abcd"), "test_annotations.xml": cvat("d")},
}


@pytest.mark.parametrize("case", WHOLES)
def test_what_a_part_has_is_not_trained_on(folder, case, problems) -> None:
    root = folder(WHOLES[case], [f"images/{stem}.png" for stem in "abcd"])
    raw, found = problems({})
    split = {split: [name for name, _ in rows] for split, rows in splits_of(raw, root).items()}
    assert split == {"train": [f"images/{stem}.png" for stem in "abc"], "test": ["images/d.png"]}
    assert [one.message for one in found if one.kind == "labels-unread"] == [
        "1 of its images are in files of other splits: they are no part of train"
    ]
    assert [image.path for image in open_source(root).read("train").images] == [
        f"{root}/images/{stem}.png" for stem in "abc"
    ]


def test_a_table_of_all_beside_a_part_and_a_folder_of_another(folder) -> None:
    name = "c_jpg.rf.0123456789abcdef"
    files = {"all_labels.csv": table(*"abcd"), "test_annotations.csv": table("d"), "valid/annotations.csv": table(name)}
    files["count_labels.csv"] = table("e")
    root = folder(files, [*(f"images/{stem}.png" for stem in "abcde"), f"valid/{name}.png"])
    found = {split: [name for name, _ in rows] for split, rows in splits_of(open_source(root).read(), root).items()}
    assert found.pop("count_labels") == ["images/e.png"]
    images = {"train": ["images/a.png", "images/b.png"], "test": ["images/d.png"], "valid": [f"valid/{name}.png"]}
    assert found == images


def test_images_that_folders_tell_apart_stay_in_train() -> None:
    assert left_for_train(["x/1.jpg", "y/1.jpg"], ["z/1.jpg", "y/1.jpg"]) == [0]
    assert left_for_train(["a/1.jpg", "a/2_png.rf.0123456789.jpg"], ["b/2.png"]) == [0]
    assert left_for_train(["2_png.rf.0123456789.jpg", "2_png.rf.9876543210.jpg", "3.jpg"], ["2.png"]) == [2]
    assert left_for_train(["1.jpg"], ["1.jpg"]) == [0]


FORMS = {
    "VOC and COCO": ({"voc/a.xml": voc(), "voc/b.xml": voc(), "coco/x.json": coco("a", "b")}, "voc"),
    "numbers rounded": ({"voc/a.xml": voc(17), "voc/b.xml": voc(), "coco/x.json": coco("a", "b")}, "voc"),
    "YOLO without names, and COCO": (
        {"one/labels/a.txt": yolo(), "one/labels/b.txt": yolo(), "coco/x.json": coco("a", "b")}, "coco",
    ),
    "YOLO with splits, VOC and CSV": (
        {"one/train/labels/a.txt": yolo(), "one/val/labels/b.txt": yolo(), "one/classes.txt": "cat\n",
         "voc/a.xml": voc(), "voc/b.xml": voc(), "tables/x.csv": table("a", "b")}, "yolo",
    ),
    "fewer in one": ({"voc/a.xml": voc(), "coco/x.json": coco("a", "b")}, "coco"),
}  # fmt: skip
OTHERS = {
    "another box": {"voc/a.xml": voc(20), "voc/b.xml": voc(), "coco/x.json": coco("a", "b")},
    "another class": {"voc/a.xml": voc(name="dog"), "voc/b.xml": voc(), "coco/x.json": coco("a", "b")},
    "another image": {"voc/a.xml": voc(), "voc/c.xml": voc(), "coco/x.json": coco("a", "b")},
}


def places(files):
    """Where the images of the two-image sets lie."""
    found = []
    for name in files:
        top, stem = name.partition("/")[0], name.rpartition("/")[2].partition(".")[0]
        if name.endswith(("json", "csv")):
            found += [f"{top}/a.png", f"{top}/b.png"]
        elif name.endswith((".xml", ".txt")) and stem != "classes":
            found.append(name.rpartition("/")[0].replace("labels", "images") + f"/{stem}.png")
    return found


@pytest.mark.parametrize("case", FORMS)
def test_one_set_in_several_forms_is_read_once_and_said(folder, case) -> None:
    files, form = FORMS[case]
    source = open_source(folder(files, places(files)))
    assert (source.form, len(source.read().images)) == (form, 2)
    (found,) = (one for one in check_source(source, workers=1).findings if one.kind == "labels-unread")
    assert "also there and not read: " in found.message


@pytest.mark.parametrize("case", OTHERS)
def test_sets_that_say_other_things_are_listed(folder, case, one_line) -> None:
    files = OTHERS[case]
    assert "sets below: " in one_line(open_source, folder(files, places(files)))


def test_a_copy_under_other_names_is_one(folder) -> None:
    files = {f"{top}/{stem}.xml": voc(x0) for top, names in (("a", "12"), ("b", ("x1", "x2"))) for stem, x0 in
             zip(names, (16, 20), strict=True)}  # fmt: skip
    root = folder(files, places(files))
    source = open_source(root)
    assert (source.tree.root, len(source.read().images)) == (f"{root}/a", 2)
    assert "b (Pascal VOC, 2)" in source.unread_beside(source.read())
    (root / "b/x2.png").write_bytes((root / "b/x2.png").read_bytes() + b"other")
    (root / "b/x1.png").write_bytes((root / "b/x1.png").read_bytes() + b"other")
    with pytest.raises(DataError, match="sets below: "):
        open_source(root)


def test_images_with_labels_in_folders_that_are_not_read_are_said(folder) -> None:
    files = {"data.yaml": "train: images/train\nnames: [cat]\n"}
    files |= {"labels/train/a.txt": yolo(), "txt/b.txt": yolo(), "txt/c.txt": yolo()}
    root = folder(files, ["images/train/a.png", "rawimg/b.png", "rawimg/c.png"])
    (found,) = (one for one in check_source(open_source(root), workers=1).findings if one.kind == "labels-unread")
    assert found.message == "the images of rawimg have labels in txt, which are not read"
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat")
    (found,) = (one for one in check_source(open_source(root), workers=1).findings if one.kind == "labels-unread")
    assert "rawimg" in found.message


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_list_of_names_is_none(folder, text) -> None:
    files = {f"labels/{split}/{name}.txt": yolo() for split, name in (("train", "a"), ("val", "b"))}
    images = ["images/train/a.png", "images/val/b.png"]
    root = folder({**files, "labels/train/classes.txt": text, "labels/val/classes.txt": text}, images)
    assert open_source(root).read().class_names == ("class 0",)
    (root / "labels/val/classes.txt").write_text("cat\n")
    assert open_source(root).read().class_names == ("cat",)


def via(stem, attributes):
    shape = {"name": "rect", "x": 16, "y": 12, "width": 32, "height": 24}
    region = {"shape_attributes": shape, "region_attributes": attributes}
    return json.dumps({f"{stem}.png1": {"filename": f"{stem}.png", "size": 1, "regions": [region]}})


UNNAMED = {
    "VIA": {"train/via.json": via("a", {"insect": "bug"}), "val/via.json": via("b", {})},
    "CSV": {
        "train.csv": table("a").replace("cat", "bug"),
        "val.csv": "filename,xmin,ymin,xmax,ymax\nb.png,16,12,48,36\n",
    },
}


@pytest.mark.parametrize("case", UNNAMED)
def test_objects_without_a_class_are_of_the_only_one_of_the_other_files(folder, case, problems) -> None:
    images = ["train/a.png", "val/b.png"]
    root = folder(UNNAMED[case], images)
    raw, found = problems({})
    assert (raw.class_names, [obj.name for image in raw.images for obj in image.objects]) == (("bug",), ["bug", "bug"])
    assert any(one.kind == "columns-assumed" and "'bug'" in one.message for one in found)
    name = next(iter(UNNAMED[case]))
    two = UNNAMED[case][name].replace("bug", "moth")
    more = "test/via.json" if case == "VIA" else "test.csv"
    (root / more).parent.mkdir(exist_ok=True)
    (root / more).write_text(two)
    assert {"bug", "moth", "object"} <= {obj.name for image in problems({})[0].images for obj in image.objects} | {
        "moth"
    }


@pytest.mark.parametrize("name", ["annotations/a.xml", "a.json", "labels/a.txt", "train.csv"])
def test_labels_that_are_pointers_of_git_lfs_are_named(folder, name, one_line) -> None:
    said = one_line(
        open_source, folder({name: "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"}, ["a.png"])
    )
    assert name in said
    assert "Git LFS" in said


def test_of_folders_with_the_same_names_the_images_themselves_are_read(folder) -> None:
    stems = ("1", "2")
    files = {f"txts/{stem}.txt": yolo() for stem in stems} | {"classes.txt": "cat"}
    tops = ("Ground_Truth", "gt_shown", "JPG", "Original", "annotation_results")
    root = folder(files, [f"{top}/{stem}.png" for top in tops for stem in stems])
    source = open_source(root)
    raw = source.read()
    assert sorted(image.path for image in raw.images) == [f"{root}/JPG/{stem}.png" for stem in stems]
    (found,) = (one for one in check_source(source, workers=1).findings if one.kind == "labels-unread")
    assert found.message == (
        "the labels in txts are taken for those of JPG; not read, with the same names: Original, Ground_Truth, "
        "annotation_results, gt_shown"
    )


def test_empty_lists_of_a_yaml_are_said_and_folders_stand_in(folder, problems) -> None:
    files = {"data.yaml": "train: train_list.txt\nval: val_list.txt\nnames: [cat]\n", "train_list.txt": ""}
    files |= {"val_list.txt": "\n", "labels/train/a.txt": yolo(), "labels/val/b.txt": yolo()}
    root = folder(files, ["images/train/a.png", "images/val/b.png"])
    raw, found = problems({})
    assert [(one.kind, one.message) for one in found] == [
        (
            "path-moved",
            f"{split}: '{split}_list.txt' is an empty list; images/{split} is read in its place; correct the path",
        )
        for split in ("train", "val")
    ]
    assert {split: len(at) for split, at in raw.splits.items()} == {"train": 1, "val": 1}
    (root / "labels").rename(root / ".labels")
    assert "'train_list.txt' is an empty list; list its images in it, one a line" in str(problems({})[1][0])


def test_a_table_whose_rows_are_all_in_another_is_no_split(folder, problems) -> None:
    root = folder({"all_labels.csv": table(*"abc"), "labels.csv": table("b")}, [f"images/{stem}.png" for stem in "abc"])
    raw, found = problems({})
    assert (raw.made, len(raw.images), open_source(root).splits[0]) == (True, 3, "train")
    assert [one.message for one in found] == [
        "says no split, and its rows are all in all_labels.csv: it is not read; name it to read it"
    ]
    (root / "labels.csv").write_text(table("b", x0=17))  # other boxes of the image
    assert {*open_source(root).splits} == {"all_labels", "labels"}


PLACES = {
    "images at the root": ("labels/{}/{}.txt", "{}/{}.png"),
    "other words": ("txts/{}/{}.txt", "pictures/{}/{}.png"),
    "images/ and another word": ("yolo_txt/{}/{}.txt", "images/{}/{}.png"),
}


@pytest.mark.parametrize("case", PLACES)
def test_folders_of_one_name_in_different_places_are_pairs(folder, case) -> None:
    labels, images = PLACES[case]
    members = {"train": "ab", "val": "bc"}
    files = {labels.format(split, stem): yolo() for split, stems in members.items() for stem in stems}
    files["classes.txt"] = "cat"
    root = folder(files, [images.format(split, stem) for split, stems in members.items() for stem in stems])
    found = {split: [name for name, _ in rows] for split, rows in splits_of(open_source(root).read(), root).items()}
    assert found == {split: [images.format(split, stem) for stem in stems] for split, stems in members.items()}
    assert "labels-unread" not in check_source(open_source(root), workers=1).counts


def test_validate_is_a_split(folder) -> None:
    root = folder({"train/a.xml": voc(), "validate/b.xml": voc()}, ["train/a.png", "validate/b.png"])
    assert {*open_source(root).splits} == {"train", "validate"}
    assert [image.path for image in open_source(root).read("val").images] == [f"{root}/validate/b.png"]


def test_a_copy_without_names_of_classes_gives_its_splits(folder) -> None:
    files = {
        "all/Annotations/a.xml": voc(16, "cat"),
        "all/Annotations/b.xml": voc(20, "dog"),
        "all/Annotations/c.xml": voc(),
    }
    files |= {"split/labels/train/a.txt": yolo(16), "split/labels/val/b.txt": yolo(20).replace("0 ", "1 ", 1)}
    images = [*(f"all/JPEGImages/{stem}.png" for stem in "abc"), "split/images/train/a.png", "split/images/val/b.png"]
    root = folder(files, images)
    source = open_source(root)
    assert (source.form, source.tree.root, source.splits) == ("voc", f"{root}/all", ("train", "val"))
    raw = source.read()
    assert (raw.class_names, raw.made) == (("cat", "dog"), False)
    assert splits_of(raw, root) == {"train": [("all/JPEGImages/a.png", 16)], "val": [("all/JPEGImages/b.png", 20)]}
    assert splits_of(source.read("val"), root) == {"val": [("all/JPEGImages/b.png", 20)]}
    found = {one.kind: one.message for one in check_source(source, workers=1).findings}
    assert found["splits-elsewhere"] == (f"the splits are those of YOLO in {root}/split, which has the same boxes")
    assert found["image-unused"] == "1 labelled images are in no split there; add them to one"
    (root / "split/labels/val/b.txt").write_text(yolo(24))
    with pytest.raises(DataError, match="sets below: "):  # other boxes
        open_source(root)
    (root / "split/labels/val/b.txt").write_text(yolo(20))
    (root / "split/images/val/b.png").write_bytes((root / "split/images/val/b.png").read_bytes() + b"other")
    with pytest.raises(DataError, match="sets below: "):  # other images
        open_source(root)

"""Sets whose splits stand in another form of the same labels, and names that only nearly agree."""

from __future__ import annotations

import pytest

from singleshot.api.label import LabelOptions, open_labels
from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from tests.datasets.test_parts_and_copies import splits_of, table, voc, yolo

XMLS = {f"annotations/{stem}.xml": voc(x0) for stem, x0 in (("a", 16), ("b", 20), ("c", 24))}
IMAGES = [f"images/{stem}.png" for stem in "abc"]
TRAIN = table("a", x0=16) + table("b", x0=20).partition("\n")[2]
COPIES = {
    "CSV of TensorFlow's tutorial": (
        {"data/train_labels.csv": TRAIN, "data/test_labels.csv": table("c", x0=24)},
        IMAGES, "CSV in ",
    ),
    "YOLO below, with lists": (
        {**{f"data/labels/{stem}.txt": yolo(x0) for stem, x0 in (("a", 16), ("b", 20), ("c", 24))},
         "data/train.txt": "images/a.png\nimages/b.png\n", "data/test.txt": "images/c.png\n"},
        [f"data/images/{stem}.png" for stem in "abc"], "YOLO in ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COPIES)
def test_the_splits_of_a_copy_count_where_the_set_has_none(folder, case) -> None:
    files, images, place = COPIES[case]
    root = folder({**XMLS, **files}, images)
    source, found = open_source(root), CollectErrors()
    raw = source.read(None, found)
    assert (source.form, raw.made) == ("voc", False)
    top = images[0][:-5]
    assert splits_of(raw, root) == {"train": [(f"{top}a.png", 16), (f"{top}b.png", 20)], "test": [(f"{top}c.png", 24)]}
    (one,) = (one.message for one in found.findings if one.kind == "splits-elsewhere")
    assert one.startswith(f"the splits are those of {place}")
    assert len(open_dataset(root, "test")) == 1
    assert open_labels(LabelOptions(str(root))).form == "Pascal VOC"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("data/train_labels.csv", TRAIN.replace("16,", "30,")),  # another box
        ("data/train_labels.csv", table("a", x0=16)),  # not of all images
    ],
)
def test_other_labels_do_not_divide_a_set(folder, path, text) -> None:
    root = folder({**XMLS, **COPIES["CSV of TensorFlow's tutorial"][0], path: text}, IMAGES)
    assert open_source(root).read().made


def test_lists_that_divide_further_than_folders_count(folder) -> None:
    files = {"labels/train/a.xml": voc(), "labels/train/b.xml": voc(), "labels/test/c.xml": voc()}
    lists = {"image_sets/train.txt": "a\n", "image_sets/val.txt": "b\n", "image_sets/test.txt": "c\n"}
    root = folder({**files, **lists}, ["images/train/a.png", "images/train/b.png", "images/test/c.png"])
    raw = open_source(root).read()
    assert {split: len(at) for split, at in raw.splits.items()} == {"train": 1, "val": 1, "test": 1}
    (root / "image_sets/val.txt").unlink()  # then the folders say as much
    raw = open_source(root).read()
    assert {split: len(at) for split, at in raw.splits.items()} == {"train": 2, "test": 1}


def test_numbers_may_have_other_zeros_before_them(folder, one_line) -> None:
    files = {f"Annotations/{number:05}.xml": voc(number) for number in (1, 20, 30)}
    root = folder({**files, "ImageSets/Main/train.txt": "1\n30\n"}, [f"JPEGImages/{n}.png" for n in (1, 20, 30)])
    raw = open_source(root).read()
    assert splits_of(raw, root) == {"train": [("JPEGImages/1.png", 1), ("JPEGImages/30.png", 30)]}
    (root / "JPEGImages/1.png").rename(root / "JPEGImages/00001.png")  # one has its name: the others are missing
    assert "names '00030' but JPEGImages has no such image" in one_line(open_source(root).read)


def test_a_further_table_none_of_whose_images_is_there_is_left_out(folder, one_line) -> None:
    lost = table("a").replace(".png", ".bmp")
    root = folder({"train_labels.csv": table("a"), "bubble9-1.csv": lost}, ["a.png"])
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert {split: len(at) for split, at in raw.splits.items()} == {"train": 1}
    assert ["none of its 1 images is there" in one.message for one in found.findings] == [True]
    (root / "bubble9-1.csv").rename(root / "val_labels.csv")  # a split whose images are missing is an error
    assert "image 'a.bmp' is missing" in one_line(open_source(root).read)


def test_lists_of_old_macs_and_names_that_are_listed_twice(folder) -> None:
    files = {f"Annotations/{stem}.xml": voc() for stem in "abc"}
    lists = {"ImageSets/Main/train.txt": "a\rb\ra", "ImageSets/Main/val.txt": "c\r"}
    root = folder({**files, **lists}, [f"JPEGImages/{stem}.png" for stem in "abc"])
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert {split: len(at) for split, at in raw.splits.items()} == {"train": 2, "val": 1}
    assert [(one.kind, one.message) for one in found.findings] == [
        ("list-repeats", "line 3 lists 'a' again: it counts once; remove one of them")
    ]


def test_a_path_that_calls_a_split_by_its_other_name(folder) -> None:
    yaml = "train: C:\\me\\set\\labels\\train\nval: C:\\me\\set\\labels\\val\nnames: [cat]\n"
    files = {"particles.yaml": yaml, "labels/train/a.txt": yolo(), "labels/valid/b.txt": yolo()}
    root = folder(files, ["labels/train/a.png", "labels/valid/b.png"])
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert {split: len(at) for split, at in raw.splits.items()} == {"train": 1, "val": 1}
    assert [one.kind for one in found.findings] == ["path-moved"]

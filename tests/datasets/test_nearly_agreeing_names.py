"""Images with another ending than labelled, splits with a number, columns with a word more, and other names of real
sets that agree only nearly."""

from __future__ import annotations

import json

import cv2
import pytest

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from tests.datasets.conftest import scene
from tests.datasets.test_parts_and_copies import coco, cvat, labelme, splits_of, table, voc, yolo

BOX = (16.0, 12.0, 48.0, 36.0)


def messages(found, kind):
    return [one.message for one in found.findings if one.kind == kind]


# ---------------------------------------------------------------------------------------------- endings


@pytest.mark.parametrize(("name", "text"), [("labels.csv", table("a", "b")), ("annotations.xml", cvat("a", "b"))])
def test_an_image_with_another_ending_is_read_next_to_others(folder, name, text) -> None:
    root = folder({name: text}, ["images/a.png", "images/b.jpg", "other/c.jpg"])
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert sorted(image.path[len(f"{root}/") :] for image in raw.images) == ["images/a.png", "images/b.jpg"]
    (said,) = messages(found, "ending-differs")
    assert said.startswith(
        "1 of 2 images are there with another ending than it says and read so: 'b.png' is images/b.j"
    )
    (root / "images/b.jpg").rename(root / "other/b.jpg")  # no other image of the file lies there
    found = CollectErrors()
    assert len(open_source(root).read(None, found).images) == 1
    assert found.counts["image-missing"] == 1


def test_coco_finds_an_image_with_another_ending(folder) -> None:
    raw = open_source(folder({"annotations.json": coco("a", "b")}, ["a.png", "b.jpg"])).read()
    assert len(raw.images) == 2


@pytest.mark.parametrize(("name", "text"), [("labels.csv", table("a", "b")), ("annotations.xml", cvat("a", "b"))])
def test_all_images_may_have_another_ending_but_not_some_alone(folder, name, text) -> None:
    root = folder({name: text}, ["pictures/a.jpg", "pictures/b.jpg"])
    assert len(open_source(root).read().images) == 2
    (root / "pictures/b.jpg").unlink()
    found = CollectErrors()
    assert open_source(root).read(None, found).images == []
    assert found.counts["image-missing"] == 2


def test_an_image_that_another_file_names_is_not_taken(folder, one_line) -> None:
    files = {"train_labels.csv": table("a"), "val_labels.csv": table("a", "b").replace("a.png", "a.bmp")}
    root = folder(files, ["a.png", "b.png"])
    assert "image 'a.bmp' is missing" in one_line(open_source(root).read)
    assert "image 'a.bmp' is missing" in one_line(open_source(root).read, "val")


def test_of_two_images_of_a_name_the_one_that_the_annotation_names_is_read(folder) -> None:
    xml = voc().replace("<size>", "<filename>a.jpg</filename><size>")
    raw = open_source(folder({"annot/a.xml": xml}, ["img2/a.jpg", "img2/a.png"])).read()
    assert [image.path.rpartition("/")[2] for image in raw.images] == ["a.jpg"]


# ---------------------------------------------------------------------------------------------- splits


def createml(*stems):
    box = {"x": 32, "y": 24, "width": 32, "height": 24}
    return json.dumps([{"image": f"{s}.png", "annotations": [{"label": "cat", "coordinates": box}]} for s in stems])


NUMBERED = {
    "VOC": {"train1/a.xml": voc(), "val/b.xml": voc()},
    "LabelMe": {"train1/a.json": labelme(), "val/b.json": labelme()},
    "Create ML": {"train1/x.json": createml("a"), "val/x.json": createml("b")},
    "YOLO": {"train1/a.txt": yolo(), "val/b.txt": yolo(), "classes.txt": "cat"},
}


@pytest.mark.parametrize("form", NUMBERED)
def test_a_folder_of_a_split_may_have_a_number(folder, form) -> None:
    root = folder(NUMBERED[form], ["train1/a.png", "val/b.png"])
    x0 = 0.25 if form == "YOLO" else 16
    assert splits_of(open_source(root).read(), root) == {"train": [("train1/a.png", x0)], "val": [("val/b.png", x0)]}
    assert len(open_dataset(root, "train")) == len(open_dataset(root, "val")) == 1


@pytest.mark.parametrize("form", ["VOC", "LabelMe", "Create ML"])
def test_of_two_numbered_folders_none_is_the_split(folder, form) -> None:
    files = {name.replace("train1", "train2"): text for name, text in NUMBERED[form].items()} | NUMBERED[form]
    root = folder(files, ["train1/a.png", "train2/a.png", "val/b.png"])
    assert list(open_source(root).read().splits) == ["val"]


def test_folders_of_val_and_test_are_splits_without_train(folder, one_line) -> None:
    files = {"base_test/labels_test/a.json": labelme(), "base_val/labels_val/b.json": labelme()}
    root = folder(files, ["base_test/images_test/a.png", "base_val/images_val/b.png"])
    assert list(open_source(root).read().splits) == ["test", "val"]
    (root / "base_val/labels_val/b.json").write_text(labelme().replace("cat", "dog"))
    assert "sets below: " in one_line(open_source, root)


# ---------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("suffix", [".jpg", "_55d94e8c.png"])  # a .png of it, and labelme2yolo's hash
def test_a_copy_whose_images_were_written_again_is_no_second_set(folder, write_image, one_line, suffix) -> None:
    of = {"train": "a", "val": "b"}
    files = {f"json/{stem}.json": labelme(x0) for stem, x0 in (("a", 16), ("b", 20))}
    files |= {f"YOLODataset/labels/{split}/{stem}{suffix[:-4]}.txt": yolo(x0) for split, stem, x0 in
              (("train", "a", 16), ("val", "b", 20))}  # fmt: skip
    files["YOLODataset/dataset.yaml"] = "train: images/train\nval: images/val\nnames: [cat]\n"
    images = [f"json/{stem}{suffix[-4:]}" for stem in "ab"]
    images += [f"YOLODataset/images/{split}/{stem}{suffix[:-4]}.png" for split, stem in of.items()]
    root = folder(files, images)
    source = open_source(root)
    assert (source.form, sorted(source.read().splits)) == ("yolo", ["train", "val"])
    assert "json (LabelMe, 2)" in source.unread_beside(source.read())
    cv2.imwrite(str(root / images[0]), scene(3))  # another picture with the same boxes
    assert "sets below: " in one_line(open_source, root)
    write_image(root / images[0], 64, 48)
    (root / "json/c.json").write_text(labelme(24))  # one more: the first set has all, the copy the splits
    (root / f"json/c{suffix[-4:]}").write_bytes((root / images[0]).read_bytes())
    raw = open_source(root).read()
    assert (raw.form, len(raw.images)) == ("labelme", 3)


def test_the_splits_of_a_copy_below_that_lacks_an_image_count(folder) -> None:
    stems = [f"p{k:02}" for k in range(20)]
    copied = {stem: "val" if k < 4 else "train" for k, stem in enumerate(stems[:-1])}
    files = {f"json/{stem}.json": labelme(k) for k, stem in enumerate(stems)}
    files |= {f"out/labels/{split}/{stem}.txt": yolo(stems.index(stem)) for stem, split in copied.items()}
    files["out/dataset.yaml"] = "train: images/train\nval: images/val\nnames: [cat]\n"
    images = [f"json/{stem}.jpg" for stem in stems] + [f"out/images/{copied[stem]}/{stem}.png" for stem in copied]
    found = CollectErrors()
    raw = open_source(folder(files, images)).read(None, found)
    assert (raw.form, {split: len(at) for split, at in raw.splits.items()}) == ("labelme", {"train": 15, "val": 4})
    assert found.counts["splits-elsewhere"] == found.counts["image-unused"] == 1


def test_an_annotation_above_other_sets_is_no_set(folder, one_line) -> None:
    files = {"tmp.xml": voc(), "one/Annotations/a.xml": voc(), "two/Annotations/b.xml": voc(20, "dog")}
    root = folder(files, ["one/JPEGImages/a.png", "two/JPEGImages/b.png"])
    assert "sets below: one (Pascal VOC, 1), two (Pascal VOC, 1); name one" in one_line(open_source, root)


# ---------------------------------------------------------------------------------------------- columns and rows


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Filename,ball_x1,ball_y1,ball_x2,ball_y2", "ball"),
        ("file,Ball xmin,Ball ymin,Ball xmax,Ball ymax", "Ball"),
        ("file,x_min.ball,y_min.ball,x_max.ball,y_max.ball", "ball"),
        ("file,bbox_x1,bbox_y1,bbox_x2,bbox_y2", "object"),
    ],
)
def test_the_columns_of_a_box_may_have_a_word_more(folder, header, name) -> None:
    root = folder({"labels.csv": f"{header}\nimages\\a.png,16,12,48,36\n"}, ["images/a.png"])
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert [(obj.name, obj.box) for image in raw.images for obj in image.objects] == [(name, BOX)]
    (said,) = messages(found, "columns-assumed")
    assert ("after which the columns of its boxes are called" in said) is (name != "object")


def test_a_column_of_classes_counts_more_than_the_word(folder, one_line) -> None:
    root = folder({"labels.csv": "file,ball_x1,ball_y1,ball_x2,ball_y2,class\na.png,16,12,48,36,cat\n"}, ["a.png"])
    assert open_source(root).read().class_names == ("cat",)
    several = "file,a_x1,a_y1,a_x2,a_y2,b_x1,b_y1,b_x2,b_y2\na.png,16,12,48,36,1,1,9,9\n"
    (root / "labels.csv").write_text(several)
    assert "labels.csv starts with 'file,a_x1" in one_line(open_source, root)


@pytest.mark.parametrize("text", ["image,cat,dog\na.png,0,1\n", "image,label\na.png,cat\n"])
def test_classes_of_whole_images_are_said(folder, one_line, text) -> None:
    root = folder({"a.csv": "path,score\nno image,1\n", "b.csv": text}, ["a.png"])
    assert "b.csv has classes of whole images, without boxes; label the objects" in one_line(open_source, root)
    (root / "b.csv").write_text('image,boxes\na.png,"[[1, 2, 3, 4]]"\n')
    assert "b.csv starts with 'image,boxes'" in one_line(open_source, root)


def test_two_points_next_to_polygons_are_no_box(folder) -> None:
    polygon = "0 0.1 0.1 0.5 0.1 0.5 0.5\n"
    files = {"labels/a.txt": f"{polygon}0 0.875 0.5015 0.8765 0.5015\n", "labels/b.txt": "0 0.5 0.5 0.501 0.499\n"}
    root = folder({**files, "classes.txt": "cat"}, ["images/a.png", "images/b.png"])
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert [len(image.objects) for image in raw.images] == [1, 1]
    assert messages(found, "annotation-malformed") == [
        "two points of a polygon, as others here are; want three or more"
    ]

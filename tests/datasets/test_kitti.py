"""KITTI's label files: 15 columns, the images in another folder, DontCare."""

from __future__ import annotations

import math

import numpy as np
import pytest

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import kitti
from singleshot.datasets.writing import write_dataset
from singleshot.metrics.voc import voc_average_precision
from singleshot.records import ImageDetections

CAR_BOX, VAN_BOX = [10.5, 6.25, 29.75, 18.5], [0, 6, 9, 18]
REST = "2.85 2.63 12.34 0.47 1.49 69.44 -1.56"
CAR = f"Car 0.00 0 -1.57 10.5 6.25 29.75 18.5 {REST}\n"
VAN = f"Van 0.80 3 1.57 0.00 6.00 9.00 18.00 {REST}\n"
DONT_CARE = "DontCare -1 -1 -10 50.0 6.0 60.0 18.0 -1 -1 -1 -1000 -1000 -1000 -10\n"


def test_the_benchmarks_folders_are_read_with_the_left_images(folder) -> None:
    files = {
        "training/label_2/000000.txt": CAR + DONT_CARE + VAN,
        "training/label_2/000001.txt": "",
        "training/calib/000000.txt": "P0: 7.0e+02 0.0e+00\n",
    }
    images = [f"training/image_{k}/00000{i}.png" for k in (2, 3) for i in (0, 1)]
    root = folder(files, [*images, "testing/image_2/000000.png"])
    source = open_source(root)
    assert (source.form, source.splits) == ("kitti", ("training",))
    data = open_dataset(root)
    assert (data.class_names, data.labels[~data.crowd].tolist()) == (("Car", "Van"), [0, 1])
    assert data.boxes_px[~data.crowd].tolist() == [[10.5, 6.25, 29.75, 18.5], [0, 6, 9, 18]]
    raw = source.read()
    assert [image.path.rpartition("set/")[2] for image in raw.images] == images[:2]
    assert [(obj.line, obj.number) for obj in raw.images[0].objects] == [(1, 0), (3, 2)]
    found = CollectErrors()
    source.read(None, found)
    assert [(one.kind, one.message) for one in found.findings] == [
        ("regions-ignored", "1 regions without labels: detections in them count as neither right nor wrong")
    ]


def test_detections_on_dont_care_count_as_neither_right_nor_wrong_whatever_their_class(folder, tmp_path) -> None:
    wide = "DontCare -1 -1 -10 30.0 6.0 90.0 18.0 -1 -1 -1 -1000 -1000 -1000 -10\n"  # of images 64 wide
    nothing = "DontCare -1 -1 -10 5 5 5 9 -1 -1 -1 -1000 -1000 -1000 -10\n"
    root = folder({"label_2/a.txt": CAR + wide + nothing, "label_2/b.txt": VAN}, ["image_2/a.png", "image_2/b.png"])
    data = open_dataset(root, "trainval")
    truth = [data.truth(i) for i in range(2)]
    assert truth[0].labels.tolist() == [0, 0, 1]
    assert truth[0].boxes[1:].tolist() == [[30, 6, 64, 18]] * 2
    assert (truth[0].crowd.tolist(), truth[1].crowd.tolist()) == ([False, True, True], [False])
    assert [data.sample(i).labels.tolist() for i in range(2)] == [[0], [1]]
    region = [32, 7, 62, 17]
    found = [
        ImageDetections(
            np.array([region, region, CAR_BOX], np.float32), np.array([0.9, 0.9, 0.8]), np.array([0, 1, 0])
        ),
        ImageDetections(np.array([VAN_BOX], np.float32), np.array([0.7]), np.array([1])),
    ]
    assert voc_average_precision(found, truth, 2).tolist() == [1, 1]
    write_dataset(open_source(root).read(), tmp_path / "out", "coco")
    written = open_dataset(tmp_path / "out", "trainval")
    assert (len(written.labels), int(written.crowd.sum())) == (4, 2)


@pytest.mark.parametrize(
    ("labels", "images", "splits"),
    [
        (["train/labels/a.txt", "val/labels/b.txt"], ["train/images/a.png", "val/images/b.png"], {"train", "val"}),
        (["labels/train/a.txt", "labels/val/b.txt"], ["images/train/a.png", "images/val/b.png"], {"train", "val"}),
        (["labels/a.txt", "labels/b.txt"], ["data/a.png", "data/b.png"], {"train", "val", "test", "trainval"}),
        (["a.txt", "b.txt"], ["a.png", "b.png"], {"train", "val", "test", "trainval"}),
    ],
)
def test_other_folders_and_splits(folder, labels, images, splits) -> None:
    source = open_source(folder(dict.fromkeys(labels, CAR), images))
    raw = source.read()
    assert (source.form, set(raw.splits)) == ("kitti", splits)
    assert sorted(image.path.rpartition("set/")[2] for image in raw.images) == images
    assert all([obj.name for obj in image.objects] == ["Car"] for image in raw.images)
    assert set(source.splits) == splits
    assert len(source.read("train").splits["train"]) == len(raw.splits["train"])


def test_lists_are_splits_and_what_they_lack_is_counted(folder) -> None:
    files = {f"training/label_2/{name}.txt": CAR for name in "abc"}
    files |= {"ImageSets/train.txt": "a\n", "ImageSets/val.txt": "b\n", "ImageSets/test.txt": "z\n"}
    root = folder(files, [f"training/image_2/{name}.png" for name in "abc"])
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert {split: [raw.images[i].ident for i in at] for split, at in raw.splits.items()} == {
        "train": ["a"],
        "val": ["b"],
    }
    assert [(one.kind, one.message) for one in found.findings] == [
        ("image-unused", "1 labelled images are in none of the lists; add them")
    ]
    assert len(open_dataset(root, "val")) == 1


def test_scores_of_detections(folder) -> None:
    root = folder({"label_2/a.txt": CAR.replace("\n", " 0.75\n") + CAR}, ["image_2/a.png"])
    first, second = open_source(root).read().images[0].objects
    assert first.score == 0.75
    assert math.isnan(second.score)


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ("Car 0 0 0 1 2 3\n", "annotation-malformed", "object 1: 'Car 0 0 0 1 2 3': want a type and 14 numbers"),
        (CAR.replace("29.75", "x"), "annotation-malformed", "want a type and 14 numbers, of which 4 to 7 are the box"),
    ],
)
def test_mistakes_are_reported_with_their_line(folder, row, kind, message) -> None:
    root = folder({"label_2/a.txt": CAR + row}, ["image_2/a.png"])
    found = CollectErrors()
    open_source(root).read(None, found)
    (finding,) = found.findings
    assert (finding.kind, finding.line) == (kind, 2)
    assert message in str(finding)


def test_an_image_that_is_missing_is_not_taken_from_another_folder(folder) -> None:
    files = {"training/label_2/0.txt": CAR, "training/label_2/1.txt": CAR}
    root = folder(files, ["training/image_2/0.png", "testing/image_2/1.png"])
    found = CollectErrors()
    assert len(open_source(root).read(None, found).images) == 1
    (finding,) = found.findings
    assert finding.kind == "image-missing"
    assert "no image called 1 is in " in finding.message


def test_what_is_none() -> None:
    assert kitti.is_label(CAR.encode())
    assert kitti.is_label(DONT_CARE.replace("\n", "").encode())
    for head in (b"", b"0 0.5 0.5 0.1 0.1\n", b"cat 1 2 3 4\n", b"0 1 Car 0 0 1 2 3 4 5 6 7 8 9 10 11 12\n"):
        assert not kitti.is_label(head)
    assert not kitti.is_label(b"Car" + b" 1" * 100_000)

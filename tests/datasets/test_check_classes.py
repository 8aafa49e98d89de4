"""What `data check` finds in classes, splits and files without labels."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from singleshot.datasets.checks.labels import base_splits, edits, misspelt_classes
from singleshot.datasets.checks.unlabelled import _other_splits

BOX = (5, 5, 30, 30)


def scene(seed: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture unlike those of other seeds."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def test_classes_that_are_not_wanted(voc, findings):
    root = voc({"a": [("cat", BOX), ("tree", (1, 1, 20, 20))], "b": [("cat", BOX)]})
    found = findings(root, class_names=["cat", "trees", "cow"])
    assert [f.item for f in found["class-unknown"]] == ["object 1 (tree)"]
    assert "did you mean 'trees'?" in found["class-unknown"][0].message
    assert sorted(found) == ["class-absent", "class-unknown"]
    assert sorted(f.message.split("'")[1] for f in found["class-absent"]) == ["cow", "trees"]


@pytest.mark.parametrize(
    ("counts", "want"),
    [
        ({"cat": 50, "Cat": 20}, {"Cat": "cat"}),
        ({"traffic light": 9, "traffic_light": 3, "trafficlight": 1},
         {"traffic_light": "traffic light", "trafficlight": "traffic light"}),
        ({"person": 90, "persons": 40}, {"persons": "person"}),
        ({"person": 90, "perosn": 1}, {"perosn": "person"}),
        ({"aeroplane": 200, "airplane": 2}, {"airplane": "aeroplane"}),
        ({"RBC": 4155, "WBC": 3}, {}),
        ({"cat": 500, "car": 1, "cow": 1}, {}),
        ({"horse": 500, "house": 40}, {}),
        ({"class 1": 500, "class 2": 1}, {}),
        ({"type a": 500, "type b": 1}, {}),
        ({"helmet": 500, "no helmet": 1}, {}),
        ({"correct mask": 500, "incorrect mask": 1}, {}),
        ({"a": 500, "A": 1}, {}),
        ({"person": 2, "perosn": 1}, {}),
    ],
)  # fmt: skip
def test_misspelt_classes(counts, want):
    assert misspelt_classes(counts) == want
    assert misspelt_classes(counts, right=list(counts)) == {}


@pytest.mark.parametrize(
    ("a", "b", "n"),
    [("person", "perosn", 1), ("cat", "cat", 0), ("cat", "cart", 1), ("abcd", "badc", 2), ("kitten", "sitting", 3),
     ("dog", "elephant", 3)],
)  # fmt: skip
def test_edits_are_counted(a, b, n):
    assert edits(a, b, 2) == n == edits(b, a, 2)


def test_misspelt_class_is_told_where_it_stands(voc, findings):
    root = voc({"a": [("kitten", BOX)], "b": [("kitten", BOX)], "c": [("Kitten", BOX)]})
    (finding,) = findings(root)["class-misspelt"]
    assert finding.file.endswith("c.xml")
    assert "'Kitten' has 1 object, 'kitten' has 2" in finding.message


def test_a_class_that_a_split_lacks(voc, findings):
    both = [("cat", BOX), ("dog", (1, 1, 20, 20))]
    objects = {"a": both, "b": [("cat", BOX)], "c": both, "d": []}
    splits = {"train": ["a"], "val": ["b"], "test": ["c"], "trainval": ["a", "b"], "tiny": ["d"]}
    found = findings(voc(objects, splits))
    assert [f.message for f in found["class-absent"]] == [
        "split 'val' has no object of class 'dog' (1 in test, 1 in train)"
    ]
    assert sorted(found) == ["class-absent", "image-without-objects"]


@pytest.mark.parametrize(
    ("splits", "base"),
    [
        ({"train": [0, 1], "val": [2], "trainval": [0, 1, 2]}, ["train", "val"]),
        ({"train": [0, 1], "val": [0, 1]}, ["train", "val"]),
        ({"train": [0, 1, 2], "val": [2]}, ["train", "val"]),
        ({"train": [0], "val": [1], "test": [2], "everything": [0, 1, 2]}, ["train", "val", "test"]),
        ({"trainval": [0, 1]}, ["trainval"]),
    ],
)
def test_splits_that_join_others_are_known(splits, base):
    assert list(base_splits(splits)) == base


def test_nothing_labelled_and_empty_splits(voc, kinds):
    assert kinds(voc({"a": [], "b": []})) == {"nothing-labelled": 1}
    root = voc({"a": [("cat", BOX)], "b": []}, {"train": ["a", "b"], "none": []})
    assert kinds(root) == {"split-left-out": 1, "image-without-objects": 1}


def test_folders_of_splits_whose_labels_are_lost_are_named(tmp_path, coco, write_coco, write_image, findings):
    box = {"id": 1, "image_id": 20, "category_id": 3, "bbox": [1, 2, 30, 20]}
    for split in ("train", "valid"):
        write_coco(tmp_path / split / "_annotations.coco.json", coco([box]))
    for name in ("test/a.png", "test/c.png", "extra/a.png"):
        write_image(tmp_path / name, 64, 48)
    (finding,) = findings(tmp_path)["folder-unlabelled"]
    assert (finding.file, "2 images" in finding.message) == (str(tmp_path / "test"), True)
    # What the file of a split says is of another folder's images does not label its own.
    (tmp_path / "test" / "a.png").rename(tmp_path / "test" / "d.png")
    write_coco(tmp_path / "test" / "_annotations.coco.json", coco([box]), tmp_path / "train")
    (finding,) = findings(tmp_path)["folder-unlabelled"]
    assert (finding.file, "2 images" in finding.message) == (str(tmp_path / "test"), True)
    assert not any("train" in one.message for one in findings(tmp_path).get("labels-unread", []))


def test_as_many_folders_as_images_take_no_longer_than_their_number():
    places = [f"train/{k}" for k in range(4000)]
    tree = SimpleNamespace(open_folders=lambda folder: [] if folder else ["train", "test"])
    start = time.process_time()
    found = _other_splits(tree, [*places, "test/7/x"], [])
    assert time.process_time() - start < 1  # each with each other one took two seconds
    assert found == [f"test/{k}" for k in range(4000) if k != 7] + ["train/7/x"]


def test_images_that_nobody_mentions(voc, findings, kinds):
    root = voc({"a": [("cat", BOX)], "b": [("cat", BOX)], "c": [("cat", BOX)]}, {"train": ["a", "b"]})
    cv2.imwrite(str(root / "JPEGImages" / "stray.png"), scene(9))
    (root / "JPEGImages" / "notes.txt").write_text("no image")
    (root / "Annotations" / "b.xml").write_text("<broken")
    found = findings(root)
    assert {kind: [Path(f.file).name for f in of_kind] for kind, of_kind in found.items()} == {
        "annotation-unreadable": ["b.xml"],
        "image-unlabelled": ["stray.png"],
        "image-unused": ["c.png"],
    }
    assert kinds(root, split="train") == {"annotation-unreadable": 1}

"""Several data sets written as one by `data convert`; images are 64 x 48."""

from __future__ import annotations

from pathlib import Path

import pytest

from singleshot.datasets import open_source
from singleshot.datasets.merged_sets import merge_sets
from singleshot.datasets.raw import all_above_score
from singleshot.datasets.writing import write_dataset
from singleshot.errors import ConfigError, DataError

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


@pytest.fixture
def csv_set(tmp_path, write_image):
    """csv_set(folder, {image: class}): a folder of images with a box each; files: further label files by split."""

    def make(folder, classes, splits=None):
        root = tmp_path / folder
        root.mkdir()
        for name in classes:
            write_image(root / name, 64, 48)
            (root / name).write_bytes((root / name).read_bytes() + folder.encode())
        for file, names in (splits or {"labels": list(classes)}).items():
            rows = [
                f"{name},64,48,{classes[name]},16,12,48,36\n" if classes[name] else f"{name},64,48,,,,,\n"
                for name in names
            ]
            (root / f"{file}.csv").write_text(HEADER + "".join(rows))
        return root

    return make


def read(*roots):
    return merge_sets([open_source(root).read() for root in roots])


def in_pixels(image):
    scale = (64, 48, 64, 48) if image.relative else (1, 1, 1, 1)
    return tuple(a * b for a, b in zip(image.objects[0].box, scale, strict=True))


@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "csv", "labelme"])
def test_sets_of_two_forms_become_one(csv_set, tmp_path, form) -> None:
    one = csv_set("one", {"a.png": "cat", "b.png": "dog"}, {"train": ["a.png"], "val": ["b.png"]})
    two = csv_set("two", {"a.png": "dog", "c.png": "cat"}, {"train": ["a.png"], "valid": ["c.png"]})
    write_dataset(open_source(two).read(), tmp_path / "as voc", "voc")
    done = write_dataset(read(one, tmp_path / "as voc"), tmp_path / "both", form, strict=True)
    raw = open_source(tmp_path / "both").read()
    assert done.splits == {split: len(at) for split, at in raw.splits.items()}
    shown = {
        split: sorted((image.objects[0].name, in_pixels(image)) for image in map(raw.images.__getitem__, at))
        for split, at in raw.splits.items()
    }
    box = pytest.approx((16, 12, 48, 36), abs=0.01)
    assert shown == {"train": [("cat", box), ("dog", box)], "val": [("cat", box), ("dog", box)]}
    # The two pictures called a.png are both there.
    written = {Path(image.path).read_bytes() for image in raw.images}
    assert written == {path.read_bytes() for root in (one, two) for path in root.glob("*.png")}


def test_sets_without_splits_are_divided_together(csv_set) -> None:
    one = csv_set("one", {f"{k}.png": "cat" for k in range(10)})
    two = csv_set("two", {f"b{k}.png": "cat" for k in range(10)})
    raw = read(one, two)
    assert raw.made
    assert sorted(raw.splits["train"] + raw.splits["val"] + raw.splits["test"]) == list(range(20))
    assert len(raw.splits["val"]) == 2


def test_a_set_without_splits_adds_those_made_of_it(csv_set) -> None:
    one = csv_set("one", {"a.png": "cat", "b.png": "cat"}, {"train": ["a.png"], "test": ["b.png"]})
    two = csv_set("two", {f"{k}.png": "cat" for k in range(10)})
    raw = read(one, two)
    assert not raw.made
    assert {split: len(at) for split, at in raw.splits.items()} == {"train": 9, "test": 2, "val": 1}
    assert {raw.images[i].path.rpartition("/")[2] for i in raw.splits["test"]} >= {"b.png"}


def test_trainval_of_one_set_has_train_and_val_of_the_other(csv_set) -> None:
    one = csv_set("one", {"a.png": "cat", "b.png": "cat"}, {"trainval": ["a.png"], "test": ["b.png"]})
    two = csv_set("two", {"a.png": "cat", "b.png": "cat"}, {"train": ["a.png"], "valid": ["b.png"]})
    raw = read(one, two)
    assert {split: len(at) for split, at in raw.splits.items()} == {"trainval": 3, "test": 1, "train": 1, "valid": 1}


def test_classes_come_in_the_order_of_the_sets_and_what_is_lacking_is_said(csv_set, caplog) -> None:
    raw = read(csv_set("one", {"a.png": "zebra"}), csv_set("two", {"a.png": "cat", "b.png": "zebra"}))
    assert raw.class_names == ("zebra", "cat")
    assert [record.getMessage() for record in caplog.records if "has no class" in record.getMessage()] == [
        f"{raw.images[0].file}: has no class cat: what its images show of that counts as background once the sets are"
        " joined"
    ]


def test_numbers_are_not_joined_with_names(csv_set, tmp_path, write_image) -> None:
    one, two = csv_set("one", {"a.png": "cat"}), tmp_path / "two"
    write_image(two / "images" / "b.png", 64, 48)
    (two / "labels").mkdir()
    (two / "labels" / "b.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    for roots in ((one, two), (two, one)):
        with pytest.raises(DataError) as caught:
            read(*roots)
        assert str(caught.value) == (
            f"{two}: its classes have no names, those of {one / 'labels.csv'} have; put a list of names, such as"
            " classes.txt, into it"
        )


def test_an_image_of_two_sets_is_refused(csv_set, tmp_path) -> None:
    one, two = csv_set("one", {"a.png": "cat"}), csv_set("two", {"b.png": "dog"})
    with pytest.raises(DataError, match=r"a\.png is in both\); sets that are joined"):
        read(one, one)
    (two / "b.png").write_bytes((one / "a.png").read_bytes())
    with pytest.raises(DataError) as caught:
        read(one, two)
    assert str(caught.value) == (
        f"{two / 'labels.csv'}: has images of {one / 'labels.csv'} too ({one / 'a.png'} and {two / 'b.png'} are one);"
        " sets that are joined have different images: take them out of one of the two"
    )


def test_images_that_no_training_looks_at_are_said(csv_set, caplog) -> None:
    one = csv_set("one", {"a.png": "cat", "b.png": "cat"}, {"trainval": ["a.png"], "test": ["b.png"]})
    two = csv_set("two", {"a.png": "cat", "b.png": "cat"}, {"train": ["a.png"], "valid": ["b.png"]})
    read(one, two)
    assert [record.getMessage() for record in caplog.records if "in none of" in record.getMessage()] == [
        f"{one}: 1 of its 2 images are in none of train, val and test of the joined set; --split-seed makes them anew"
    ]


def test_a_set_with_val_and_dev_keeps_both(csv_set) -> None:
    names = ["train", "val", "dev"]
    one = csv_set("one", {f"{name}.png": "cat" for name in names}, {name: [f"{name}.png"] for name in names})
    two = csv_set("two", {"x.png": "cat", "y.png": "cat"}, {"train": ["x.png"], "val": ["y.png"]})
    raw = read(one, two)
    assert {split: len(at) for split, at in raw.splits.items()} == {"train": 2, "val": 2, "dev": 1}


def test_a_class_that_is_called_object_is_a_name(csv_set, tmp_path) -> None:
    two = csv_set("two", {"b.png": "object"})
    write_dataset(open_source(two).read(), tmp_path / "coco", "coco")
    assert read(csv_set("one", {"a.png": "cat"}), tmp_path / "coco").class_names == ("cat", "object")


def test_background_alone_joins_names(csv_set) -> None:
    raw = read(csv_set("one", {"a.png": "cat"}), csv_set("two", {"b.png": ""}))
    assert raw.class_names == ("cat",)
    assert [len(image.objects) for image in raw.images] == [1, 0]


def test_a_least_score_is_for_the_sets_that_have_scores(csv_set) -> None:
    labels = open_source(csv_set("one", {"a.png": "cat"})).read()
    image = labels.images[0]
    scored = [image.objects[0]._replace(score=score) for score in (0.2, 0.8)]
    found = labels._replace(images=[image._replace(objects=scored)])
    kept = all_above_score([labels, found], 0.5)
    assert [[obj.score for obj in one.images[0].objects] for one in kept[1:]] == [[0.8]]
    assert kept[0] is labels
    with pytest.raises(ConfigError, match=r"--score-min 0\.5: no object of .*labels\.csv has a score"):
        all_above_score([labels, labels], 0.5)

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import yolo as module
from singleshot.datasets.readers.yolo_layout import ident_of, split_path
from singleshot.datasets.readers.yolo_yaml import MAX_YAML_BYTES
from singleshot.errors import DataError

NAMES = "names: [cat, dog]\n"
ROW = "0 0.5 0.5 0.5 0.5\n"
MADE = ("train", "val", "test", "trainval")


@pytest.fixture
def yolo(tmp_path, write_image):
    """yolo({path: text}): writes the files below one folder, images (64 x 48, text unused) by their endings."""

    def make(files, root=tmp_path / "set"):
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in (".png", ".jpg", ".JPG"):
                write_image(path, 64, 48)
            else:
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return root

    return make


def plain(*rows, **files):
    """One image in images/ with these rows, in data.yaml's form."""
    return {"data.yaml": f"train: images\n{NAMES}", "images/a.png": "", "labels/a.txt": "\n".join(rows), **files}


@pytest.fixture
def opened(yolo):
    def make(*rows, clip_boxes=False, **files):
        return open_dataset(yolo(plain(*rows, **files)), clip_boxes=clip_boxes)

    return make


@pytest.fixture
def problems(yolo):
    """problems(files, split=None): the findings of reading the folder."""

    def make(files, split=None):
        found = CollectErrors()
        raw = open_source(yolo(files)).read(split, found)
        return raw, found.findings

    return make


# ---------------------------------------------------------------------------------------------- rows


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 1), *[st.integers(0, 63)] * 4), max_size=5))
def test_rows_cover_the_pixels_that_they_were_made_of(tmp_path_factory, write_image, objects):
    root = tmp_path_factory.mktemp("yolo")
    (root / "labels").mkdir()
    write_image(root / "images" / "a.png", 64, 48)
    (root / "data.yaml").write_text(f"train: images\n{NAMES}")
    want, rows = [], []
    for label, *sides in objects:
        x0, x1, y0, y1 = min(sides[:2]), max(sides[:2]) + 1, min(sides[2:]) // 2, max(sides[2:]) // 2 + 1
        want.append([label, x0, y0, x1, y1])
        rows.append(f"{label} {(x0 + x1) / 128!r} {(y0 + y1) / 96!r} {(x1 - x0) / 64!r} {(y1 - y0) / 48!r}")
    (root / "labels" / "a.txt").write_text("\n".join(rows))
    data = open_dataset(root)
    assert data.sizes.tolist() == [[64, 48]]
    have = np.column_stack([data.labels, data.boxes_px])
    np.testing.assert_allclose(have, np.array(want).reshape(-1, 5), atol=1e-4)


def test_types_of_a_set_and_the_image_are_as_with_others(opened):
    data = opened("1 0.5 0.5 0.5 0.5", "0 0.25 0.25 0.5 0.5")
    assert data.class_names == ("cat", "dog")
    assert data.boxes_px.tolist() == [[16, 12, 48, 36], [0, 0, 32, 24]]
    assert data.labels.tolist() == [1, 0]
    assert data.area.tolist() == [32 * 24, 32 * 24]
    assert not data.difficult.any()
    assert not data.crowd.any()
    assert data.sample(0).image.shape == (48, 64, 3)
    assert list(data.image_ids) == ["a"]


def test_polygons_become_their_boxes(opened):
    data = opened("0 0.25 0.5 0.75 0.25 0.5 1", "1 0 0 0.5 0 0.5 0.5 0 0.5")
    assert data.boxes_px.tolist() == [[16, 12, 48, 48], [0, 0, 32, 24]]


def test_points_of_pose_data_are_no_polygon(yolo):
    row = "0 0.5 0.5 0.5 0.5 " + "0.9 0.9 2 " * 2
    files = {**plain(row), "data.yaml": f"train: images\nkpt_shape: [2, 3]\n{NAMES}"}
    # Visibility 2 would be taken for pixels, and eleven numbers for a polygon.
    assert open_dataset(yolo(files)).boxes_px.tolist() == [[16, 12, 48, 36]]


@pytest.mark.parametrize("text", ["\n\n" + ROW + "\n  \n", "\ufeff" + ROW, ROW.replace("\n", "\r\n"), ROW.strip(),
                                  "0.0\t0.5 0.5  5e-1 +0.5\r\n"])  # fmt: skip
def test_ends_of_lines_blank_ones_and_a_mark_at_the_start_are_no_matter(opened, text):
    assert opened(text).boxes_px.tolist() == [[16, 12, 48, 36]]


BAD_ROWS = {
    "word": ("cat 0.5 0.5 0.5 0.5", "object 1: 'cat' is not a number"),
    "few": ("0 0.5 0.5 0.5", "object 1: 4 numbers; want class and four"),
    "six": ("0 0.5 0.5 0.5 0.5 0.9", "object 1: 6 numbers; want"),
    "two points": ("0 0.5 0.5 0.5 0.5 0.9 0.9 0.1", "object 1: 8 numbers; want"),
    "one": ("0", "object 1: 1 number; want"),
    "half": ("0.5 0.5 0.5 0.5 0.5", "object 1: 0.5 is no class number"),
    "negative": ("-1 0.5 0.5 0.5 0.5", "object 1: -1 is no class number"),
    "nan class": ("nan 0.5 0.5 0.5 0.5", "object 1: nan is no class number"),
    "inf class": ("inf 0.5 0.5 0.5 0.5", "object 1: inf is no class number"),
    "class": ("2 0.5 0.5 0.5 0.5", "object 1: class 2, but data.yaml has 2 names, from 0 (cat, dog); correct"),
    "huge class": ("1e300 0.5 0.5 0.5 0.5", "object 1: class 1000000"),
    "pixels": ("0 32 24 10 10", "object 1: 32 looks like pixels; want parts of the image, 0 to 1"),
    "pixels of a polygon": ("0 0 0 64 0 0 48", "object 1: 64 looks like pixels"),
    "nan": ("0 nan 0.5 0.5 0.5", "object 1 (cat): box nan 0.5 nan 0.5 (centre"),
    "nan in a polygon": ("0 0 0 0.5 nan 0.5 0.5", "object 1 (cat): box nan nan"),
    "inf": ("0 0.5 0.5 inf 0.5", "is not a place"),
    "flat": ("0 0.5 0.5 0 0.5", "(cat): box 0.5 0.5 0 0.5 (centre, width, height) has no area"),
    "outside": ("1 0.9 0.5 0.5 0.5", "(dog): box 0.9 0.5 0.5 0.5 (centre, width, height) lies outside the image of 64"),
    "nul": ("0 0.5 0.5 0.5 0.\0", "is not a number"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_refused_with_their_line(opened, one_line, case):
    row, message = BAD_ROWS[case]
    text = one_line(opened, ROW, row)
    assert "labels/a.txt:3: " in text  # ROW ends its line
    assert message in text


def test_every_bad_row_is_reported_and_the_good_ones_stay(problems):
    raw, found = problems(plain("0 0.5 0.5 0.5 0.5", "x", "", "7 0 0 0 0", "1 0.1 0.1 0.1 0.1"))
    assert [(f.kind, f.line, f.number) for f in found] == [("annotation-malformed", 2, 1), ("class-unknown", 4, 2)]
    assert [(o.name, o.line, o.number) for o in raw.images[0].objects] == [("cat", 1, 0), ("dog", 5, 3)]


def test_limits_of_a_label_file(opened, monkeypatch, one_line):
    monkeypatch.setattr(module, "MAX_OBJECTS", 3)
    assert len(opened(*[ROW.strip()] * 3).labels) == 3
    assert "labels/a.txt: more than 3 objects" in one_line(opened, *[ROW.strip()] * 4)
    assert "a.txt:1: object 0: more than 100001 numbers" in one_line(opened, "0 " * 100_002)
    monkeypatch.setattr(module, "MAX_LABEL_BYTES", 2**20)
    assert "larger than 1 MB" in one_line(opened, " " * 2**20, ROW)


def test_line_of_an_object():
    data = b"\xef\xbb\xbf\r\n" + b"0 1 1 1 1\r\n\r\n1 1 1 1 1"
    assert [module.line_of(data, n) for n in range(3)] == [2, 4, None]


# ---------------------------------------------------------------------------------------------- layouts

LAYOUTS = {
    "folders in images": {"images/train/a.png": "", "labels/train/a.txt": ROW, "images/val/b.png": "",
                          "labels/val/b.txt": "", "classes.txt": "cat\ndog\n"},
    "with a year": {"images/train2017/a.png": "", "labels/train2017/a.txt": ROW, "images/val2017/b.png": "",
                    "classes.txt": "cat\ndog"},
    "split first": {"train/images/a.png": "", "train/labels/a.txt": ROW, "valid/images/b.png": "",
                    "valid/labels/b.txt": "", "obj.names": "cat\ndog\n"},
    "beside, split first": {"train/a.png": "", "train/a.txt": ROW, "train/_darknet.labels": "cat\ndog",
                            "valid/b.png": "", "valid/b.txt": ROW},
    "yaml": {"images/train/a.png": "", "labels/train/a.txt": ROW, "images/val/b.png": "",
             "data.yaml": "path: ../datasets/set\ntrain: images/train\nval: images/val\n" + NAMES},
    "yaml with numbers": {"x/images/a.png": "", "x/labels/a.txt": ROW, "y/images/b.png": "",
                          "y/labels/b.txt": "",
                          "data.yml": "train: x/images\nval: [y]\nnames: {1: dog, 0: cat}\nnc: 2"},
    "roboflow": {"train/images/a.png": "", "train/labels/a.txt": ROW, "valid/images/b.png": "",
                 "valid/labels/b.txt": "", "data.yaml": "train: ../train/images\nval: ../valid/images\n"
                 "test: ../test/images\nnc: 2\n" + NAMES},
    "absolute": {"images/train/a.png": "", "labels/train/a.txt": ROW, "images/val/b.png": "", "labels/val/b.txt": "",
                 "data.yaml": "path: /home/me/set\ntrain: images/train\nval: 'C:\\me\\set\\images\\val'\n" + NAMES},
    "lists": {"images/a.png": "", "labels/a.txt": ROW, "images/b.png": "", "labels/b.txt": "",
              "data.yaml": "train: train.txt\nval: lists/val.txt\n" + NAMES, "train.txt": "./images/a.png\r\n",
              "lists/val.txt": "/content/set/images/b.png\n\n"},
    "darknet": {"obj_train_data/a.png": "", "obj_train_data/a.txt": ROW, "obj_train_data/b.png": "",
                "obj_train_data/b.txt": "", "train.txt": "data/obj_train_data/a.png\n",
                "valid.txt": "data/obj_train_data/b.png", "obj.names": "cat\ndog\n"},
    "names alone": {"images/train/a.png": "", "labels/train/a.txt": ROW, "images/val/b.png": "",
                    "labels/val/b.txt": "", "data.yaml": NAMES},
    "another name": {"images/train/a.png": "", "labels/train/a.txt": ROW, "images/val/b.png": "",
                     "labels/val/b.txt": "", "my set.yaml": "train: images/train\nval: images/val\n" + NAMES,
                     "other.yaml": "version: 2"},
    "one below": {"my set/images/train/a.png": "", "my set/labels/train/a.txt": ROW, "my set/images/val/b.png": "",
                  "my set/classes.txt": "cat\ndog", "README.txt": "hello"},
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_with_splits(yolo, case):
    files = dict(LAYOUTS[case])
    if not any(name.endswith("b.txt") for name in files):
        first = next(name for name in files if name.endswith("b.png"))
        files[first.replace("images", "labels").replace(".png", ".txt")] = ""
    root = yolo(files)
    assert open_source(root).form == "yolo"
    splits = available_splits(root)
    assert splits[0] == "train"
    assert splits[1] in ("val", "valid")
    assert len(splits) == 2
    train, val = open_dataset(root, "train"), open_dataset(root, "val")
    assert train.class_names == val.class_names == ("cat", "dog")
    assert [Path(name).name for data in (train, val) for name in data.names] == ["a.png", "b.png"]
    assert train.boxes_px.tolist() == [[16, 12, 48, 36]]
    assert val.sizes.tolist() == [[64, 48]]
    raw = open_source(root).read()
    assert raw.declared
    assert not raw.made
    assert [image.ident.rpartition("/")[2] for image in raw.images] == ["a", "b"]


WITHOUT_SPLITS = {
    "images and labels": ("images/{}.png", "labels/{}.txt"),
    "below them": ("images/x/{}.png", "labels/x/{}.txt"),
    "beside, in images": ("images/{}.png", "images/{}.txt"),
    "flat": ("{}.png", "{}.txt"),
    "other scripts, quotes": ("images/it's „ü“ 猫 {}.JPG", "labels/it's „ü“ 猫 {}.txt"),
}


@pytest.mark.parametrize("case", WITHOUT_SPLITS)
def test_layouts_without_splits(yolo, case):
    image, label = WITHOUT_SPLITS[case]
    files = {image.format(f"p{i}"): "" for i in range(20)} | {label.format(f"p{i}"): ROW for i in range(20)}
    if case == "beside, in images":
        files["labels/p0.txt"] = ROW
    root = yolo(files)
    assert available_splits(root) == MADE
    parts = {split: list(open_dataset(root, split).names) for split in MADE}
    assert [len(part) for part in parts.values()] == [16, 2, 2, 18]
    assert len({*parts["train"], *parts["val"], *parts["test"]}) == 20
    assert open_source(root).read().made
    assert open_dataset(root).class_names == ("class 0",)


def test_a_named_yaml_is_its_folder_with_all_splits(yolo):
    root = yolo(
        {
            **LAYOUTS["yaml"],
            "labels/val/b.txt": "",
            "second.yaml": "train: images/val\nval: images/train\nnames: [x, y]\n",
        }
    )
    assert available_splits(root / "data.yaml") == ("train", "val")
    assert open_dataset(root / "data.yaml", "val").names[0].endswith("b.png")
    assert open_dataset(root / "second.yaml", "val").class_names == ("x", "y")
    assert open_dataset(root / "second.yaml", "val").names[0].endswith("a.png")
    assert open_dataset(root).class_names == ("cat", "dog")
    (root / "data.yaml").rename(root / "first.yaml")
    with pytest.raises(DataError, match=r"several yaml files with names \(first\.yaml, second\.yaml\)"):
        open_dataset(root)


def test_keys_that_stand_in_splits_are_splits_too(yolo):
    yaml = f"day one: images/day one\nsplits: [day one]\n{NAMES}"
    root = yolo({"data.yaml": yaml, "images/day one/a.png": "", "labels/day one/a.txt": ROW})
    assert available_splits(root) == ("day one",)
    assert open_source(root).read("day one").images[0].ident == "a"


def test_an_image_without_a_label_is_background_but_not_all_of_them(yolo, problems, one_line):
    files = {"images/train/a.png": "", "images/train/b.png": "", "labels/train/a.txt": ROW, "images/val/c.png": "",
             "classes.txt": "cat"}  # fmt: skip
    root = yolo(files)
    assert open_dataset(root, "train").ptr.tolist() == [0, 1, 1]
    assert "split 'val': none of its 1 images has a label file (images/val/c.png is the first)" in one_line(
        open_dataset, root, "val"
    )
    raw, found = problems(files)
    assert [f.kind for f in found] == ["split-unusable"]
    assert raw.splits == {"train": [0, 1], "val": []}


def test_classes_without_names_go_up_to_the_highest_of_any_split(yolo, one_line):
    root = yolo({"images/train/a.png": "", "labels/train/a.txt": ROW, "images/val/b.png": "",
                 "labels/val/b.txt": "3 0.5 0.5 0.1 0.1\nbroken"})  # fmt: skip
    assert open_dataset(root).class_names == ("class 0", "class 1", "class 2", "class 3")
    assert not open_source(root).read("train").declared
    assert "b.txt:2: object 1: 'broken' is not a number" in one_line(open_dataset, root, "val")
    (root / "labels/val/b.txt").write_text("99999999999 0.5 0.5 0.1 0.1")
    assert open_dataset(root).class_names == ("class 0",)
    assert "class 99999999999, and no names are declared" in one_line(open_dataset, root, "val")


def test_an_image_in_two_lists_is_one(yolo):
    root = yolo({"images/a.png": "", "images/b.png": "", "labels/a.txt": ROW, "labels/b.txt": ROW,
                 "train.txt": "images/b.png\nimages/a.png\n", "val.txt": "images/a.png\n"})  # fmt: skip
    raw = open_source(root).read()
    assert [Path(image.path).name for image in raw.images] == ["b.png", "a.png"]
    assert raw.splits == {"train": [0, 1], "val": [1]}
    assert open_source(root).read("val").splits == {"val": [0]}


def test_lists_name_what_is_not_there(yolo, problems, one_line):
    lines = [
        "images/a.png",
        "images/gone.png",
        "../../etc/passwd",
        "",
        "images/a.png",
        "/" * 5000,
        "x/" * 100 + "a.png",
    ]
    files = {"images/a.png": "", "labels/a.txt": ROW, "train.txt": "\n".join(lines)}
    raw, found = problems(files)
    assert [(f.kind, f.line) for f in found] == [("image-missing", 2), ("image-missing", 3), ("split-unusable", 5),
                                                 ("image-missing", 6), ("image-missing", 7)]  # fmt: skip
    assert raw.splits == {"train": [0]}
    assert "train.txt:2: 'images/gone.png' is no image in" in one_line(open_dataset, yolo(files))


def test_idents_are_short_and_one_for_each_image_of_a_split(yolo):
    assert ident_of("images/train/x/a.b.png") == "x/a.b"
    assert ident_of("images/old/images/val2017/a.png") == "a"
    assert ident_of("train/a.png") == "a"
    assert ident_of("images.png") == "images"
    names = ["one/images/a.png", "two/images/a.png", "two/images/b.png", "two/images/b.jpg", "c.png"]
    files = dict.fromkeys(names, "") | {"one/labels/a.txt": ROW, "data.yaml": f"train: .\n{NAMES}"}
    raw = open_source(yolo(files)).read("train")
    assert sorted(image.ident for image in raw.images) == [
        "c", "one/images/a", "two/images/a", "two/images/b.jpg", "two/images/b.png"
    ]  # fmt: skip


def test_hidden_images_are_none(yolo):
    root = yolo({**plain(ROW), "images/._a.png": ""})
    assert list(open_dataset(root).image_ids) == ["a"]


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("a/./b//c", (["a", "b", "c"], False)),
        ("../a/../../b", (["b"], True)),
        ("a/../b", (["b"], False)),
        (r"C:\a\b", (["a", "b"], True)),
        ("~/a", (["a"], True)),
        ("/a", (["a"], True)),
        (".", ([], False)),
    ],
)
def test_paths_lose_what_leads_out(path, want):
    assert split_path(path) == want


# ---------------------------------------------------------------------------------------------- names and data.yaml


def test_names_of_the_same_classes_in_two_places(yolo, one_line):
    root = yolo({"images/train/a.png": "", "labels/train/a.txt": ROW, "labels/train/classes.txt": "cat\ndog\n",
                 "images/val/b.png": "", "labels/val/b.txt": ROW, "labels/val/classes.txt": "cat"})  # fmt: skip
    assert open_dataset(root, "val").class_names == ("cat", "dog")
    (root / "labels/val/classes.txt").write_text("dog\ncat")
    assert "labels/val/classes.txt: other classes than in labels/train/classes.txt" in one_line(open_dataset, root)
    (root / "classes.txt").write_text("cat\n\ndog")
    assert "classes.txt: class 1 is blank; want a name for each number" in one_line(open_dataset, root)
    (root / "classes.txt").write_bytes("\ufeffcat\r\n dog \r\n\r\n".encode())
    assert open_dataset(root).class_names == ("cat", "dog")


def test_words_that_yaml_reads_as_something_else_are_names(yolo):
    yaml = "train: images\nval: ~\ntest:\nnames:\n  0: no\n  1: 1.10\n  2: 2020-01-01\n  3: 'null'\n"
    root = yolo({**plain(ROW), "data.yaml": yaml})
    assert open_dataset(root).class_names == ("no", "1.10", "2020-01-01", "null")
    assert available_splits(root) == ("train",)


BOMB = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{k}: &{k} [{','.join(['*' + j] * 8)}]\n" for j, k in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_YAML = {
    "alias bomb": (f"names: [a]\n{BOMB}", "data.yaml:3: uses an alias (*a)"),
    "merge": ("a: &a {x: y}\nnames: {<<: *a}", "data.yaml:2: uses an alias (*a)"),
    "itself": ("names: &a [*a]", "data.yaml:1: uses an alias"),
    "depth": (f"names: [a]\nx: {'[' * 40}", "data.yaml:2: lists within lists beyond 32 levels"),
    # PyYAML has a limit of its own and may answer before ours does.
    "endless depth": (f"names: [a]\nx: {'[' * 100_000}", "data.yaml:"),
    "nul": ("names: [a\0]", "data.yaml: is not YAML ("),
    "not utf-8": (b"names: [a]\nx: \xff\xfe", "data.yaml: is not YAML"),
    "cut short": ("names: [a", "data.yaml: is not YAML ("),
    "two documents": ("names: [a]\n---\nnames: [b]", "data.yaml: is not YAML"),
    "a list": ("-\n  names: a\n", "data.yaml: holds a list; want"),
    "text for names": ("names: cat", "data.yaml: names is a text; want a list"),
    "lists for names": ("names: [[a, [b]], c]", "data.yaml: class 0 is a list; want a name"),
    "twice": ("names: [a, b, a]", "data.yaml: class 2 is called 'a', as class 0 is"),
    "gap": ("names: {0: a, 2: b}", "data.yaml: names has no class 1"),
    "text for a number": ("names: {a: b}", "data.yaml: names: the number of a class is 'a'"),
    "high number": ("names: {999999999999: b}", "is '999999999999'; want a whole number from 0 to 100000"),
    "count": ("names: [a, b]\nnc: 3", "data.yaml: nc is 3 but names has 2"),
    "count of text": ("names: [a]\nnc: [[1]]", "data.yaml: nc is a list"),
    "long count": (f"nc: {'9' * 9999}", "data.yaml: nc is '999"),
    "table for train": ("names: [a]\ntrain: {x: [y]}", "data.yaml: train holds a table of keys; want a folder"),
    "list for path": ("names: [a]\npath: [x]\ntrain: images", "data.yaml: path is a list"),
    "keypoints": ("names: [a]\nkpt_shape: 17", "data.yaml: kpt_shape is not two numbers"),
    "splits": ("names: [a]\nsplits: train", "data.yaml: splits is not a list of names"),
    "reserved": ("names: [a]\nsplits: [names]", "data.yaml: splits lists 'names'"),
    "python": ("names: !!python/object/apply:os.system ['true']\nnc: 2", "nc is 2 but names has 1"),
    "control": ('names: [a]\ntrain: "x\\ny"', r"data.yaml: train: 'x\\ny' is not in"),
    "surrogate": ('names: ["\\ud800"]', "data.yaml: "),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_bad_yaml_ends_in_one_line(yolo, one_line, case):
    text, message = BAD_YAML[case]
    root = yolo({**plain(ROW), "data.yaml": text})
    said = one_line(open_dataset, root)
    assert message in said
    assert len(said) < 600
    assert message in one_line(open_dataset, root / "data.yaml")


def test_a_large_yaml_is_refused(yolo, one_line):
    root = yolo({**plain(ROW), "data.yaml": NAMES + "#" * MAX_YAML_BYTES})
    assert "data.yaml: larger than 1 MB" in one_line(open_dataset, root)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("../other/pictures", "train: '../other/pictures' leads out of"),
        ("/etc", "train: '/etc' leads out of"),
        ("~/pictures", "leads out of"),
        (r"D:\data\pictures", "leads out of"),
        ("pictures", "train: 'pictures' is not in"),
        ("https://host/x", "is not in"),
        ("images/a.png", "is a file; want a folder of images"),
        ("x/" * 200, "has more than 64 parts"),
    ],
)
def test_places_that_are_not_in_the_folder(yolo, tmp_path, one_line, entry, message):
    (tmp_path / "other" / "pictures").mkdir(parents=True)
    root = yolo({**plain(ROW), "data.yaml": f"train: '{entry}'\nval: images\ntest: ../gone\n{NAMES}"})
    said = one_line(open_dataset, root)
    assert "data.yaml: train: " in said
    assert message in said
    # The others are read all the same; train stays among the splits so that its fault is heard.
    assert len(open_dataset(root, "val")) == 1
    assert available_splits(root) == ("val", "train")
    found = CollectErrors()
    assert list(open_source(root).read(None, found).splits) == ["val"]
    assert [f.kind for f in found.findings] == ["split-unusable"]
    assert "test: '../gone' leads out of" in one_line(open_dataset, root, "test")


@pytest.mark.parametrize("place", ["images/a.png", "images", "labels", "labels/a.txt", "data.yaml"])
def test_links_that_leave_the_folder_are_refused(yolo, tmp_path, one_line, place):
    root = yolo(plain(ROW))
    (root / place).rename(tmp_path / "outside")
    (root / place).symlink_to(tmp_path / "outside")
    assert "a link that leads out of" in one_line(open_dataset, root)


def test_a_link_below_that_leaves_the_folder_is_refused(yolo, tmp_path, one_line):
    yolo(plain(ROW), tmp_path / "outside")
    root = yolo({"README.txt": "x"})
    (root / "below").symlink_to(tmp_path / "outside")
    assert "a link that leads out of" in one_line(open_dataset, root)


def test_a_link_back_to_its_folder_ends(yolo, one_line):
    root = yolo(plain(ROW))
    (root / "images" / "again").symlink_to(root / "images")
    assert "folders within folders without end" in one_line(open_dataset, root)


# ---------------------------------------------------------------------------------------------- telling


@pytest.mark.parametrize(
    "files",
    [
        {"a.png": "", "README.txt": ROW},
        {"a.png": "", "a.txt": "a caption of five words"},
        {"a.png": "", "a.txt": ""},
        {"images/a.png": "", "labels/a.json": "{}"},
        {"images/a.png": "", "labels/classes.txt": "cat"},
        {"labels/a.txt": ROW},
        {"data.yaml": "name: x\nchannels: [conda]\n", "a.png": ""},
        {"x.yaml": "names: [a]", "a.png": ""},
        {"train.txt": "some words\n", "a.png": ""},
    ],
)
def test_what_is_no_yolo_folder(yolo, one_line, files):
    said = one_line(open_dataset, yolo(files))
    assert "no data set of a known form" in said
    assert "a YOLO data.yaml" in said


def test_voc_and_coco_folders_stay_what_they_are(yolo, voc_xml, write_voc, coco, write_coco):
    voc = write_voc(yolo({"labels/a.txt": ROW, "images/a.png": ""}), {"a": voc_xml([("cat", (1, 1, 5, 5))])})
    assert open_source(voc).form == "voc"
    both = yolo(plain(ROW), voc.parent / "both")
    write_coco(both / "annotations" / "instances_train2017.json", coco())
    assert open_source(both).form == "coco"
    label_studio = yolo({**plain(ROW), "notes.json": "{}"}, voc.parent / "studio")
    assert open_source(label_studio).form == "yolo"


def test_several_below_are_named(yolo, one_line):
    root = yolo({f"{k}/{name}": text for k in "xy" for name, text in plain(ROW).items()})
    assert "several YOLO folders (x, y); name the one" in one_line(open_dataset, root)


# ---------------------------------------------------------------------------------------------- flags


def test_flags_stand_beside_the_labels(yolo):
    flags = "label,object,difficult,crowd\nlabels/a.txt,1,1,0\nlabels/a.txt,2,0,1\n"
    files = {**plain(ROW.strip(), "1 0.5 0.5 0.2 0.2", "", "1 0.5 0.5 0.3 0.3"), "singleshot-flags.csv": flags}
    data = open_dataset(yolo(files))
    assert data.difficult.tolist() == [False, True, False]
    assert data.crowd.tolist() == [False, False, True]


BAD_FLAGS = {
    "labels/a.txt,0,1": (2, "3 values; want label,object,difficult,crowd"),
    "labels/a.txt,x,1,0": (2, "object 'x'; want its place"),
    "labels/a.txt,-1,1,0": (2, "object '-1'"),
    "labels/a.txt,0,yes,0": (2, "difficult and crowd are 'yes, 0'"),
    "labels/b.txt,0,1,0": (2, "no label file 'labels/b.txt'"),
    "../x.txt,0,1,0": (2, "leaves the data set's folder"),
    "labels/a.txt,0,1,0\nlabels/a.txt,0,1,0": (3, "object 0 of labels/a.txt a second time"),
    "labels/a.txt,1,1,0": (2, "object 1 of labels/a.txt, which has 1"),
    f"labels/a.txt,{'0' * 200_000},1,0": (2, "is not CSV ("),
}


@pytest.mark.parametrize("rows", BAD_FLAGS, ids=lambda rows: rows[:24])
def test_bad_flags_are_reported(yolo, one_line, rows):
    line, message = BAD_FLAGS[rows]
    root = yolo({**plain(ROW), "singleshot-flags.csv": f"label,object,difficult,crowd\n{rows}\n"})
    said = one_line(open_dataset, root)
    assert f"singleshot-flags.csv:{line}: " in said
    assert message in said


def test_flags_without_their_header(yolo, one_line):
    root = yolo({**plain(ROW), "singleshot-flags.csv": "labels/a.txt,0,1,0\n"})
    assert "singleshot-flags.csv:1: its first line is not label,object" in one_line(open_dataset, root)


# ---------------------------------------------------------------------------------------------- elsewhere


def test_a_remote_folder_is_read_the_same_way(yolo):
    import fsspec

    root = yolo({f"it's {k}/ä {name}" if name == "README.txt" else name: text
                 for k, (name, text) in enumerate({**LAYOUTS["lists"], "README.txt": "x"}.items())})  # fmt: skip
    place = f"/yolo-{uuid.uuid4().hex}"
    memory = fsspec.filesystem("memory")
    for path in root.rglob("*"):
        if path.is_file():
            memory.pipe(f"{place}/{path.relative_to(root).as_posix()}", path.read_bytes())
    for address in (f"memory:/{place}", f"memory:/{place}/data.yaml"):
        assert available_splits(address) == ("train", "val")
        data = open_dataset(address)
        assert data.boxes_px.tolist() == [[16, 12, 48, 36]]
        assert data.sample(0).image.shape == (48, 64, 3)


def test_listing_the_splits_reads_no_label(yolo, monkeypatch):
    root = yolo({**plain(ROW), "data.yaml": f"train: images\nval: images\n{NAMES}"})
    monkeypatch.setattr(module, "_read_rows", None)
    assert available_splits(root) == ("train", "val")

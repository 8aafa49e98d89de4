"""Where YOLO data sets keep images, labels and splits."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers.yolo_layout import ident_of, split_path
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError

NAMES = "names: [cat, dog]\n"


ROW = "0 0.5 0.5 0.5 0.5\n"


MADE = ("train", "val", "test", "trainval")


def plain(*rows, **files):
    """One image in images/ with these rows, in data.yaml's form."""
    return {"data.yaml": f"train: images\n{NAMES}", "images/a.png": "", "labels/a.txt": "\n".join(rows), **files}


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
    "lists that Darknet's description names": {
        "img/a.png": "", "img/a.txt": ROW, "img/b.png": "", "img/b.txt": "", "mine.txt": "img/a.png\n",
        "lists/theirs.txt": "/home/me/set/img/b.png\n", "custom.names": "cat\ndog\n",
        "cfg/obj.data": "classes=2\ntrain = /home/me/set/mine.txt\n valid=lists/theirs.txt\nnames=set/custom.names\n"},
    "test.txt that the description calls valid": {
        "img/a.png": "", "img/a.txt": ROW, "img/b.png": "", "img/b.txt": "", "train.txt": "img/a.png\n",
        "test.txt": "img/b.png\n", "detector.data": "train = train.txt\nvalid = test.txt\nnames = custom.names\n",
        "custom.names": "cat\ndog\n"},
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


def listed(root):
    raw = open_source(root).read()
    return {split: [raw.images[i].ident.rpartition("/")[2] for i in at] for split, at in raw.splits.items()}


DARKNET = {
    # train is no val; test.txt is a split as it is without a description.
    "val is train": ({"obj.data": "train = train.txt\nvalid = train.txt\nnames = obj.names\n"}, "a", None, "b"),
    "of a folder that is a set itself": (
        {"old/obj.data": "train = train.txt\nvalid = train.txt\n", "old/train.txt": "x/a.png\n", "old/x/a.png": "",
         "old/x/a.txt": ROW}, "a", None, "b",
    ),
    "two that differ": ({"a.data": "train = more.txt\n", "b.data": "train = test.txt\n"}, "a", None, "b"),
    "train is gone": ({"obj.data": "train = gone.txt\nvalid = more.txt\n"}, "a", None, "b"),
    "not read": ({"a.data": "\0\xff", "b.data": "train = more.txt\nvalid = nowhere.txt\n"}, "c", None, "b"),
    "another list next to train's": (
        {"lists/train.txt": "img/b.png\n", "lists/valid.txt": "img/c.png\n", "cfg/a.data": "train = lists/train.txt\n"},
        "b", "c", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DARKNET)
def test_lists_of_darknet_s_description(yolo, case):
    images = {f"img/{name}.{suffix}": ROW if suffix == "txt" else "" for name in "abc" for suffix in ("png", "txt")}
    lists = {"train.txt": "img/a.png\n", "test.txt": "img/b.png\n", "more.txt": "img/c.png\n", "obj.names": "cat\n"}
    files, *wanted = DARKNET[case]
    splits = {split: [name] for split, name in zip(("train", "val", "test"), wanted, strict=True) if name}
    root = yolo({**images, **lists, **files})
    assert listed(root) == splits
    found = CollectErrors()
    open_source(root).read(None, found)
    said = [one.message for one in found.findings if "Darknet" in one.message]
    assert len(said) == (case == "val is train")


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
    assert [f.kind for f in found] == ["split-left-out"]
    assert raw.splits == {"train": [0, 1]}
    assert available_splits(root) == ("train",)


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
    assert [(f.kind, f.line) for f in found] == [("image-missing", 2), ("image-missing", 3), ("list-repeats", 5),
                                                 ("image-missing", 6), ("image-missing", 7)]  # fmt: skip
    assert raw.splits == {"train": [0]}
    assert "train.txt:2: 'images/gone.png' is no image in" in one_line(open_dataset, yolo(files))


def test_lists_of_folders_that_are_gone_mean_darknets(yolo):
    images = {f"obj/{k}.png": "" for k in "abc"} | {f"obj/{k}.txt": ROW for k in "abc"}
    lists = {f"{split}.txt": f"/content/{split}/{k}.png" for split, k in (("train", "a"), ("test", "b"))}
    root = yolo({**images, **lists, "obj.names": "cat", "test/b.png": ""})
    raw = open_source(root).read()
    read = {split: [Path(raw.images[at].path).relative_to(root).as_posix() for at in raw.splits[split]]
            for split in raw.splits}  # fmt: skip
    assert read == {"train": ["obj/a.png"], "test": ["obj/b.png"]}


def test_an_image_without_a_label_that_a_list_names_is_that_image(yolo):
    files = {"none/a.png": "", "obj/a.png": "", "obj/a.txt": ROW, "obj/b.png": "", "obj/b.txt": ROW}
    root = yolo({**files, "obj.names": "cat", "train.txt": "none/a.png\nobj/b.png", "test.txt": "obj/a.png"})
    raw = open_source(root).read()
    assert [Path(raw.images[at].path).relative_to(root).as_posix() for at in raw.splits["train"]] == [
        "none/a.png",
        "obj/b.png",
    ]


def test_folders_are_not_listed_anew_for_each_line(yolo, monkeypatch):
    """In a folder of so many images, of which many have no label, each listing takes as long as all lines should."""
    images = {f"{k}.png": "" for k in range(300)}
    root = yolo({**images, "0.txt": ROW, "obj.names": "cat", "train.txt": "\n".join(images)})
    listed, folders = [], Tree.folders

    def counted(self, folder=""):
        listed.append(folder)
        return folders(self, folder)

    monkeypatch.setattr(Tree, "folders", counted)
    assert len(open_source(root).read().images) == 300
    assert len(listed) < 100


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


ELSE = "0 0.5 0.5 0.2 0.2"


def test_label_files_without_an_image_are_counted(yolo, findings):
    images = {f"images/{k}.png": "" for k in "ab"}
    labels = {f"labels/{k}.txt": ELSE for k in "abcd"}
    root = yolo({**images, **labels, "labels/notes.txt": "to do", "labels/classes.txt": "cat"})
    (found,) = findings(root)["label-without-image"]
    assert Path(found.file).name == "labels"
    assert "2 label files have no image (c.txt, d.txt)" in found.message
    assert len(open_dataset(root)) == 2


def test_images_with_labels_that_no_list_names(yolo, findings):
    files = {f"img/{k}.{end}": ELSE for k in "abc" for end in ("png", "txt")}
    root = yolo({**files, "img/d.png": "", "train.txt": "img/a.png", "obj.names": "cat"})
    found = findings(root)
    assert {kind: [Path(f.file).name for f in found[kind]] for kind in found if kind.startswith("image-un")} == {
        "image-unused": ["b.png", "c.png"],
        "image-unlabelled": ["d.png"],
    }


@pytest.mark.parametrize("place", ["img/classes.txt", "img/train/classes.txt"])
def test_names_lie_next_to_the_labels_of_listed_images(yolo, findings, place):
    files = {f"img/train/{k}.{end}": ELSE for k in "ab" for end in ("png", "txt")}
    root = yolo({**files, "train.txt": "C:/me/img/train/a.png\nimg/train/b.png", "x.names": "dog", place: "cat\r\ncow"})
    assert open_dataset(root).class_names == ("cat", "cow")
    assert "classes-unnamed" not in findings(root)


def test_many_images_without_a_label_file_are_a_warning(yolo, findings):
    files = {f"images/{k}.png": "" for k in range(20)} | {f"labels/{k}.txt": ELSE for k in range(10)}
    found = findings(yolo({**files, "labels/9.txt": ""}))
    assert "10 of 20 images have no label file" in found["image-without-label"][0].message
    assert "1 of 20 images have no objects (9.png)" in found["image-without-objects"][0].message
    assert "no names of the 1 classes" in found["classes-unnamed"][0].message


def test_of_several_yaml_files_the_one_that_fits_is_read_and_said(yolo, problems):
    row = "1 0.5 0.5 0.5 0.5\n"
    files = {
        "coco.yaml": "train: ./coco/train2017.txt\nval: ./coco/val2017.txt\nnames: [a, b, c]\n",
        "custom.yaml": "train: ./data/train\nval: ./data/valid\nnames: [cat, dog]\n",
        "train/images/a.png": "", "train/labels/a.txt": row, "valid/images/b.png": "", "valid/labels/b.txt": row,
    }  # fmt: skip
    raw, found = problems(files)  # by the number of names
    assert (raw.class_names, sorted(raw.splits)) == (("cat", "dog"), ["train", "val"])
    assert {one.kind for one in found} == {"yaml-chosen", "path-moved"}
    assert "not read: coco.yaml" in next(one.message for one in found if one.kind == "yaml-chosen")
    files["coco.yaml"] = "train: train/images\nval: valid/images\nnames: [a, b, c]\n"
    assert problems(files)[0].class_names == ("a", "b", "c")  # by the folders
    files["custom.yaml"] = "train: train/images\nval: valid/images\nnames: [cat, dog]\n"
    assert problems(files)[0].class_names == ("cat", "dog")
    files["coco.yaml"] = files["custom.yaml"]
    with pytest.raises(DataError, match="several yaml files"):
        open_source(yolo(files))


def test_several_folders_that_are_read_together_are_said(yolo, problems):
    row = "0 0.5 0.5 0.5 0.5\n"
    raw, found = problems(
        {"classes.txt": "cat\n", "obj/a.png": "", "obj/a.txt": row, "old/b.png": "", "old/b.txt": row}
    )
    assert len(raw.images) == 2
    assert [one.kind for one in found] == ["folders-joined"]
    assert "the images of obj, old are read together" in found[0].message


@pytest.mark.parametrize("name", ["image", "imgs", "Img"])
def test_other_names_of_the_folder_of_images_in_those_of_splits(yolo, problems, name):
    row = "0 0.5 0.5 0.5 0.5\n"
    files = {f"{split}/{name}/{split}.png": "" for split in ("train", "val")}
    files |= {f"{split}/labels/{split}.txt": row for split in ("train", "val")}
    raw = problems(files)[0]
    assert {split: [raw.images[i].ident for i in at] for split, at in raw.splits.items()} == {
        "train": ["train"],
        "val": ["val"],
    }
    assert all(image.objects for image in raw.images)
    raw, found = problems(
        {**files, "data.yaml": "train: /content/x/train/images\nval: /content/x/val/images\nnames: [cat]\n"}
    )
    assert (sorted(raw.splits), {one.kind for one in found}) == (["train", "val"], {"path-moved"})


def test_a_split_whose_first_labels_are_of_another_tool_is_read_and_they_are_errors(problems) -> None:
    files = {"train/images/a.png": "", "train/labels/a.txt": "0 0.5 0.5 0.1 0.1\n", "classes.txt": "cat\n"}
    for k in range(200):
        files |= {f"test/images/{k:03d}.png": "", f"test/Labels/{k:03d}.txt": "1\n9 9 20 30\n"}
        files |= {f"test/images/x{k:03d}.png": "", f"test/Labels/x{k:03d}.txt": "0 0.5 0.5 0.1 0.1\n"}
    raw, found = problems(files)
    assert {split: len(positions) for split, positions in raw.splits.items()} == {"test": 400, "train": 1}
    assert sum(len(image.objects) for image in raw.images) == 201
    assert {one.kind for one in found} == {"annotation-malformed"}


def test_folders_of_splits_may_have_folders_of_parts(folder):
    names = ("train/0/a", "train/1/a", "train/1/more/b", "val/c")
    root = folder({f"{name}.txt": ROW for name in names} | {"classes.txt": "cat\n"}, [f"{name}.png" for name in names])
    raw = open_source(root).read()
    assert raw.form == "yolo"
    assert raw.splits == {"train": [0, 1, 2], "val": [3]}
    assert [image.path for image in raw.images] == [str(root / f"{name}.png") for name in names]
    assert len({image.ident for image in raw.images}) == 4
    assert [len(image.objects) for image in raw.images] == [1] * 4

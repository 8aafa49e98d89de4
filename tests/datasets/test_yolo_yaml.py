"""Class names and data.yaml of YOLO data sets, and what they must not do."""

from __future__ import annotations

import pytest

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import yolo as module
from singleshot.datasets.readers.yolo_yaml import MAX_YAML_BYTES

NAMES = "names: [cat, dog]\n"


ROW = "0 0.5 0.5 0.5 0.5\n"


def plain(*rows, **files):
    """One image in images/ with these rows, in data.yaml's form."""
    return {"data.yaml": f"train: images\n{NAMES}", "images/a.png": "", "labels/a.txt": "\n".join(rows), **files}


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
    "count of text": ("names: [a]\nnc: [[1]]", "data.yaml: nc is a list"),
    "long count": (f"nc: {'9' * 9999}", "data.yaml: nc is '999"),
    "table for train": ("names: [a]\ntrain: {x: [y]}", "data.yaml: train holds a table of keys; want a folder"),
    "list for path": ("names: [a]\npath: [x]\ntrain: images", "data.yaml: path is a list"),
    "keypoints": ("names: [a]\nkpt_shape: 17", "data.yaml: kpt_shape is not two numbers"),
    "splits": ("names: [a]\nsplits: train", "data.yaml: splits is not a list of names"),
    "reserved": ("names: [a]\nsplits: [names]", "data.yaml: splits lists 'names'"),
    "python": ("names: !!python/object/apply:os.system ['true']\nnc: x", "data.yaml: nc is 'x'"),
    "control": ('names: [a]\nval: images\ntrain: "x\\ny"', r"data.yaml: train: 'x\\ny' is not in"),
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
    assert "COCO, YOLO, CSV" in said or "there are images and no labels" in said


def test_voc_and_coco_folders_stay_what_they_are(yolo, voc_xml, write_voc, coco, write_coco):
    voc = write_voc(yolo({"labels/a.txt": ROW, "images/a.png": ""}), {"a": voc_xml([("cat", (1, 1, 5, 5))])})
    assert open_source(voc).form == "voc"
    box = {"id": 1, "image_id": 20, "category_id": 7, "bbox": [1, 2, 3, 4]}
    both = yolo(plain(ROW), voc.parent / "both")
    write_coco(both / "annotations" / "instances_train2017.json", coco([box]))
    assert open_source(both).form == "coco"
    label_studio = yolo({**plain(ROW), "notes.json": "{}"}, voc.parent / "studio")
    assert open_source(label_studio).form == "yolo"


def test_several_below_are_named(yolo, one_line):
    root = yolo({f"{k}/{name}": text for k in "xy" for name, text in plain(ROW).items()})
    (root / "x/labels/a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    assert "sets below: x (YOLO, 1), y (YOLO, 1); name one" in one_line(open_dataset, root)


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


def test_listing_the_splits_reads_no_label(yolo, monkeypatch):
    root = yolo({**plain(ROW), "data.yaml": f"train: images\nval: images\n{NAMES}"})
    monkeypatch.setattr(module, "_read_rows", None)
    assert available_splits(root) == ("train", "val")


# ---------------------------------------------------------------------------------------------- names that count from 1


def rows(*numbers: int) -> str:
    return "".join(f"{number} 0.5 0.5 0.5 0.5\n" for number in numbers)


def two_splits(train: str, val: str, names: str):
    return {"data.yaml": f"train: images/train\nval: images/val\n{names}\n", "images/train/a.png": "",
            "labels/train/a.txt": train, "images/val/b.png": "", "labels/val/b.txt": val}  # fmt: skip


def test_names_numbered_from_1_are_read_so(yolo, one_line, problems):
    root = yolo(two_splits(rows(2, 1), rows(1), "names: {1: cat, 2: dog}\nnc: 2"))
    data = open_dataset(root)
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == [1, 0]
    (root / "labels/val/b.txt").write_text(rows(0))
    message = one_line(open_dataset, root, "val")
    assert "b.txt:1: object 0: class 0, but data.yaml has 2 names, from 1 (cat, dog); correct the number" in message
    (root / "data.yaml").write_text("train: images/train\nnames: {1: cat, 3: dog}\n")
    assert "names has no class 2; want each number from 1 on" in one_line(open_dataset, root)
    (root / "data.yaml").write_text("train: images/train\nnames: {0: bird, 1: cat, 2: dog}\n")
    assert [open_dataset(root).class_names[i] for i in open_dataset(root).labels] == ["dog", "cat"]


def test_a_list_of_names_counts_from_1_where_the_labels_say_it(yolo, caplog):
    root = yolo(two_splits(rows(2), rows(1), "names: [cat, dog]"))
    for split, name in (("train", "dog"), ("val", "cat")):  # each alone would not say it
        caplog.clear()
        data = open_dataset(root, split)
        assert [data.class_names[i] for i in data.labels] == [name]
        (said,) = caplog.messages
        assert said.startswith(f"{root}/data.yaml: class numbers count from 1: 1 is read as 'cat' and 2 'dog'; say so")
    found = CollectErrors()
    open_source(root).read(None, found)
    assert found.counts == {"classes-from-1": 1}
    assert found.findings[0].severity == "warning"


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (rows(2, 1), rows(0), "class 2, but data.yaml has 2 names, from 0"),
        (rows(2), "", "if the numbers count from 1, say so in data.yaml"),
        (rows(2, 1), rows(3), "class 2, but data.yaml has 2 names, from 0"),
        (rows(1), rows(1), None),
        ("", "", None),
    ],
)
def test_what_may_mean_either_is_not_guessed(yolo, one_line, caplog, train, val, message):
    root = yolo(two_splits(train, val, "names: [cat, dog]"))
    if message is None:
        assert [open_dataset(root).class_names[i] for i in open_dataset(root).labels] in ([], ["dog"])
        assert not caplog.messages
    else:
        assert message in one_line(open_dataset, root)


def test_numbers_of_the_yaml_are_believed(yolo, one_line):
    root = yolo(two_splits(rows(2, 1), rows(1), "names: {0: cat, 1: dog}"))
    assert "has 2 names, from 0 (cat, dog)" in one_line(open_dataset, root)
    root = yolo({**two_splits(rows(1), rows(1), "nc: 1"), "classes.txt": "cat"})
    assert "has 1 name, from 0" in one_line(open_dataset, root)


def test_classes_txt_counts_from_1_too(yolo):
    root = yolo({"images/a.png": "", "labels/a.txt": rows(1), "classes.txt": "cat\n"})
    assert open_source(root).read().images[0].objects[0].name == "cat"


def test_one_folder_of_all_splits_is_found_under_another_name_of_the_data_set(yolo):
    files = {**plain(ROW), "data.yaml": f"train: ../cloned/images/\nval: ../cloned/images/\n{NAMES}"}
    found = CollectErrors()
    raw = open_source(yolo(files)).read(None, found)
    assert {split: len(members) for split, members in raw.splits.items()} == {"train": 1, "val": 1}
    assert found.counts["path-moved"] == 2
    # Of two different folders "images" may be either: it is neither, and splits are made.
    files["data.yaml"] = f"train: ../cloned/images/\nval: ../other/images/\n{NAMES}"
    found = CollectErrors()
    raw = open_source(yolo(files)).read(None, found)
    assert (raw.made, raw.class_names, len(raw.images)) == (True, ("cat", "dog"), 1)
    assert found.counts["path-moved"] == 1
    assert "no path of it is there ('../cloned/images/'); images is read, without splits" in found.findings[0].message


FOLDERS = {"valid/images/a.png": "", "valid/labels/a.txt": ROW, "train/images/b.png": "", "train/labels/b.txt": ROW}


@pytest.mark.parametrize("paths", ["train: x/y/imgs\nval: val/images\n", "train: /kaggle/in\nval: /kaggle/in/dev\n"])
def test_folders_called_after_a_split_are_read_where_the_path_of_it_is_not_there(yolo, paths):
    found = CollectErrors()
    raw = open_source(yolo({**FOLDERS, "data.yaml": paths + NAMES})).read(None, found)
    assert {split: [raw.images[i].ident for i in at] for split, at in raw.splits.items()} == {
        "train": ["b"],
        "val": ["a"],
    }
    assert [one.kind for one in found.findings] == ["path-moved"] * 2
    (val,) = (one.message for one in found.findings if one.message.startswith("val: "))
    assert "valid/images is read in its place" in val


def test_a_folder_that_another_split_has_is_not_taken_again(yolo, one_line):
    root = yolo({**FOLDERS, "data.yaml": f"train: valid/images\nval: gone\ntest: train/images\n{NAMES}"})
    assert "val: 'gone' is not in" in one_line(open_dataset, root, "val")


READ_ALL_THE_SAME = {
    "a key in from the margin": " path:\ntrain: images\nnames: [cat, dog]",
    "tabs": "train: images\nnames:\n\t0: cat\n\t1: dog\n",
    "tabs and blanks": "train: images\nnames:\n  - cat\n\t- dog\n",
    "no blank after a colon": "train:images\nnames: ['cat', 'dog']",
    "none after any colon": "train:images\nnc:2\nnames:['cat', 'dog']",
    "none after a number": "train: images\nnames:\n  0:cat\n  1:dog",
    "windows": 'train: "C:\\Users\\x\\images"\nnames: ["cat", "dog"]',
    "blanks of two widths": "train: images\nnames:\n    0: cat\n  1: dog",
}


@pytest.mark.parametrize("case", READ_ALL_THE_SAME)
def test_mistakes_of_people_who_write_yaml_by_hand_are_understood_and_said(yolo, case):
    found = CollectErrors()
    source = open_source(yolo({**plain("1 0.5 0.5 0.5 0.5"), "data.yaml": READ_ALL_THE_SAME[case]}))
    raw = source.read(None, found)
    assert (raw.class_names, raw.images[0].objects[0].name, [*raw.splits]) == (("cat", "dog"), "dog", ["train"])
    assert [(one.kind, one.severity) for one in found.findings] == [("yaml-amended", "warning")]
    assert "; read with " in found.findings[0].message


def test_the_names_count_where_nc_says_another_number(yolo):
    found = CollectErrors()
    raw = open_source(yolo({**plain(ROW), "data.yaml": f"train: images\nnc: 80\n{NAMES}"})).read(None, found)
    assert raw.class_names == ("cat", "dog")
    assert [one.message for one in found.findings] == ["nc is 80 but names has 2: the names count; correct one of them"]

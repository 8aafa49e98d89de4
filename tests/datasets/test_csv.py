"""CSV files of many tools, read as one."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors

FIXED = "file,xmin,ymin,xmax,ymax,class\n"


def shown(data):
    """Image id -> (class name, box) of its objects."""
    return {
        ident: [(data.class_names[k], box) for k, box in zip(data.labels_of(i), data.boxes_of(i).tolist(), strict=True)]
        for i, ident in enumerate(data.image_ids)
    }


def read(path, wanted=None):
    """What a reader that goes on gives, and its findings."""
    problems = CollectErrors()
    return open_source(path).read(wanted, problems), problems.findings


WANTED = {"a": [("cat", [1, 2, 10.5, 20]), ("dog", [0, 0, 64, 48])], "b": []}


FORMS = {
    "tensorflow": "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    "a.png,64,48,cat,1,2,10.5,20\na.png,64,48,dog,0,0,64,48\nb.png,64,48,,,,,\n",
    "fixed": FIXED + "a.png,1,2,10.5,20,cat\na.png,0,0,64,48,dog\nb.png,,,,,\n",
    "retinanet": "a.png,1,2,10.5,20,cat\na.png,0,0,64,48,dog\nb.png,,,,,\n",
    "retinanet, background first": "b.png,,,,,\na.png,1,2,10.5,20,cat\na.png,0,0,64,48,dog\n",
    "semicolons": "image;x1;y1;x2;y2;label\na.png;1;2;10.5;20;cat\na.png;0;0;64;48;dog\nb.png;;;;;\n",
    "tabs": "path\tx1\ty1\tx2\ty2\tclass_name\na.png\t1\t2\t10.5\t20\tcat\na.png\t0\t0\t64\t48\tdog\nb.png\t\t\t\t\t\n",
    "capitals, order and more": "score,XMax,YMax,LABEL, Image_Path ,XMin,YMin,note\n"
    '.5,10.5,20,cat,a.png,1,2,"x, y"\n.1,64,48,dog,a.png,0,0,\n,,,,b.png,,,\n',
    "mark": "\ufeff" + FIXED + "a.png,1,2,10.5,20,cat\na.png,0,0,64,48,dog\nb.png,,,,,\n",
    "windows": (FIXED + "a.png,1,2,10.5,20,cat\na.png,0,0,64,48,dog\nb.png,,,,,").replace("\n", "\r\n"),
    "old mac": (FIXED + "a.png,1,2,10.5,20,cat\na.png,0,0,64,48,dog\nb.png,,,,,").replace("\n", "\r"),
    "blanks": "\n\n" + FIXED + '\na.png, 1,2 ,10.5,20, cat \n \n"a.png","0","0","64","48","dog"\nb.png,,,, ,\n\n',
    "spellings": FIXED + "a.png,1,2,10.5,20,cat\n./a.png,0,0,64,48,dog\n b.png,,,,,\n",
    "an ending comma": FIXED + "a.png,1,2,10.5,20,cat,\na.png,0,0,64,48,dog,,\nb.png,,,,,\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(folder, form):
    root = folder({"train.csv": FORMS[form]})
    data = open_dataset(root)
    assert open_source(root).form == "csv"
    assert shown(data) == WANTED
    assert data.class_names == ("cat", "dog")
    assert data.sizes.tolist() == [[64, 48] if form == "tensorflow" else [0, 0]] * 2
    assert data.sample(list(data.image_ids).index("a")).boxes_px.tolist() == [[1, 2, 10.5, 20], [0, 0, 64, 48]]
    assert shown(open_dataset(root / "train.csv", "anything")) == WANTED


names = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0", exclude_categories=("Cs",)), max_size=12)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9).filter(str.strip)


sides = st.floats(0, 1000, width=32)


rows = st.lists(st.tuples(names, st.none() | st.tuples(sides, sides, sides, sides, texts)), min_size=1, max_size=8)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(rows, st.sampled_from(",;\t"), st.booleans())
def test_what_a_csv_writer_wrote_is_read(tmp_path_factory, rows, delimiter, mark):
    root = tmp_path_factory.mktemp("csv")
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["file", "xmin", "ymin", "xmax", "ymax", "class"])
    expected: dict[str, list] = {}
    for stem, obj in rows:
        objects = expected.setdefault(f"x{stem}.jpg", [])
        if obj is not None:
            objects.append((obj[4].strip(), tuple(obj[:4])))
        writer.writerow([f"x{stem}.jpg", *(obj or ("",) * 5)])
    for name in expected:
        (root / name).touch()
    (root / "train.csv").write_bytes(text.getvalue().encode("utf-8-sig" if mark else "utf-8"))
    raw, findings = read(root)
    assert not findings
    assert {Path(im.path).name: [(o.name, o.box) for o in im.objects] for im in raw.images} == expected
    assert raw.class_names == tuple(sorted({name for objects in expected.values() for name, _ in objects}))


def test_flags_are_read(folder):
    text = "file,xmin,ymin,xmax,ymax,class,difficult,iscrowd\n" + "".join(
        f"a.png,1,1,9,9,cat,{d},{c}\n" for d, c in (("1", "0"), ("", "1"), ("False", "TRUE"), ("0", "-1"))
    )
    data = open_dataset(folder({"train.csv": text}))
    assert data.difficult.tolist() == [True, False, False, False]
    assert data.crowd.tolist() == [False, True, True, False]


OPEN = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf\n"


CODES = "/m/01g317,Person\n/m/0k4j,Car\n"


@pytest.mark.parametrize("header", ["", "LabelName,DisplayName\n"])
@pytest.mark.parametrize("place", ["train", "images", "images/train", ""])
def test_openimages(folder, header, place):
    text = OPEN + "a,x,/m/0k4j,1,0.25,0.5,0,1,-1,0\na,x,/m/01g317,1,0,1,0.5,1,0,1\nb,x,/m/none,1,0,1,0,1,0,0\n"
    files = {"oidv6-train-annotations-bbox.csv": text, "class-descriptions-boxable.csv": header + CODES}
    files["validation-annotations-bbox.csv"] = OPEN + "c,x,/m/0k4j,1,0,0.5,0,1,0,0\n"
    other = place.replace("train", "validation")
    root = folder(files, [f"{place}/a.png".lstrip("/"), f"{place}/b.png".lstrip("/"), f"{other}/c.png".lstrip("/")])
    assert available_splits(root) == ("train", "validation")
    data = open_dataset(root)
    assert data.class_names == ("/m/none", "Car", "Person")
    assert shown(data) == {
        "a": [("Car", [16, 0, 32, 48]), ("Person", [0, 24, 64, 48])],
        "b": [("/m/none", [0, 0, 64, 48])],
    }
    assert data.crowd.tolist() == [False, True, False]
    assert data.sizes.tolist() == [[64, 48], [64, 48]]
    assert shown(open_dataset(root, "val")) == {"c": [("Car", [0, 0, 32, 48])]}
    assert all(image.relative for image in read(root)[0].images)


@pytest.mark.parametrize(
    ("table", "names", "image"),
    [
        ("train/boxes.csv", "class-descriptions-boxable.csv", "train/a.png"),
        ("annotations/train.csv", "Class-Descriptions.csv", "images/a.png"),
        ("labels/detections.csv", "metadata/classes.csv", "data/a.png"),  # FiftyOne's
        ("data/detections.csv", "data/classes.csv", "data/a.png"),
    ],
)
def test_openimages_names_of_classes_are_found_beside_or_above_and_said(folder, caplog, table, names, image):
    caplog.set_level("INFO")
    root = folder({table: OPEN + "a,x,/m/0k4j,1,0.25,0.5,0,1,-1,0\n", names: CODES}, [image])
    path = root / table if table.startswith("train") else root
    if path != root:  # what is above a named file's folder is not of the set
        names_there = path.parent / names
        names_there.write_text(CODES)
    assert open_source(path).read().class_names == ("Car",)
    assert f"{Path(table).name}: names of classes are those of " in caplog.text


def test_codes_of_classes_without_names_are_said(folder, caplog):
    caplog.set_level("INFO")
    root = folder({"train.csv": OPEN + "a,x,/m/0k4j,1,0,0.5,0,1,0,0\na,x,/m/1,1,0,0.5,0,1,0,0\n"})
    raw, findings = read(root)
    assert raw.class_names == ("/m/0k4j", "/m/1")
    assert [(f.kind, f.severity) for f in findings] == [("columns-assumed", "note")]
    assert "names of classes are codes (/m/0k4j, ...); put OpenImages' class-descriptions-boxable.csv beside" in str(
        findings[0]
    )
    assert open_dataset(root).class_names == raw.class_names  # a note stops nothing
    assert caplog.text.count("names of classes are codes") == 1


def test_a_file_in_utf_16_is_read_by_its_mark(folder):
    """As spreadsheets save "Unicode text"."""
    text = "file\txmin\tymin\txmax\tymax\tclass\r\na.png\t1\t2\t10\t20\t猫\r\na.png\t1\t2\tx\t20\t猫\r\n"
    root = folder({"train.csv": text.encode("utf-16")})
    for path in (root, root / "train.csv"):
        raw, findings = read(path)
        assert [(o.name, o.box, o.line) for o in raw.images[0].objects] == [("猫", (1, 2, 10, 20), 2)]
        assert [(f.kind, f.line) for f in findings] == [("annotation-malformed", 3)]
    assert open_source(root).line(str(root / "train.csv"), 1) == 3
    (root / "train.csv").write_bytes(text.encode("utf-16") + b"x")  # half a character
    assert len(read(root)[0].images) == 1


KAGGLE = {
    "wheat": 'image_id,width,height,bbox,source\na,64,48,"[1.0, 2.0, 9.5, 18.0]",x\na,64,48,"[0, 0, 64, 48]",x\n',
    "chests": "image_id,class_name,class_id,x_min,y_min,x_max,y_max\na,object,1,1,2,10.5,20\na,object,1,0,0,64,48\n",
    "with classes": 'image_name,bbox,class\na.png,"(1, 2, 9.5, 18)",object\na.png,"[0,0,64,48]",object\nb.png,,\n',
}


@pytest.mark.parametrize("name", KAGGLE)
def test_columns_as_kaggles_sets_have_them(folder, name):
    root = folder({"train.csv": KAGGLE[name]}, ["train/a.png", "train/b.png"])
    assert shown(open_dataset(root))["a"] == [("object", [1, 2, 10.5, 20]), ("object", [0, 0, 64, 48])]
    _, findings = read(root)
    assert [f.message.partition(";")[0] for f in findings] == (
        ["has no column of classes: all objects are of the class 'object'"] if name == "wheat" else [])  # fmt: skip


@pytest.mark.parametrize("text", ["[1, 2, 3]", "x", "[1, 2, 3, y]", "[1, 2, nan]"])
def test_a_bbox_that_is_none_is_said(folder, text):
    _, findings = read(folder({"train.csv": f'image_id,bbox,class\na,"{text}",cat\n'}))
    (found,) = findings
    assert (found.kind, found.line) == ("annotation-malformed", 2)
    assert f"xmin {text!r} is not a number; want pixels" in found.message


def test_all_boxes_of_an_image_in_one_cell(folder):
    """As in Kaggle's balloons, written by pandas."""
    boxes = "[{'xmin': 1, 'ymin': 2, 'xmax': 10, 'ymax': 20}, {'xmin': 3, 'ymin': 4.5, 'xmax': 6, 'ymax': 8}]"
    raw, _ = read(folder({"data.csv": f'fname,bbox,num\na.png,"{boxes}",2\nb.png,[],0\n'}))
    found = {image.ident: [(obj.name, obj.box) for obj in image.objects] for image in raw.images}
    assert found == {"a": [("object", (1, 2, 10, 20)), ("object", (3, 4.5, 6, 8))], "b": []}


@pytest.mark.parametrize(
    "box",
    [
        "[{'x': 1, 'y': 2}]",
        "[{'xmin': 1, 'ymin': 2, 'xmax': 'a', 'ymax': 4}]",
        "[{'xmin': 1, 'ymin': 2, 'xmax': 3, 'ymax': 4, 'class': 'dog'}]",
    ],
)
def test_a_cell_of_boxes_without_corners_is_said(folder, box):
    _, findings = read(folder({"data.csv": f'fname,bbox,class\na.png,"{box}",cat\n'}))
    assert [(found.kind, found.line) for found in findings] == [("annotation-malformed", 2)]


def test_assumed_columns_are_said(folder, caplog):
    caplog.set_level("INFO")
    root = folder({"train.csv": "a.png,1,2,10,20,cat\n"})
    assert [(f.kind, f.line) for f in read(root)[1]] == [("columns-assumed", 1)]
    open_dataset(root)
    (line,) = [text for text in caplog.messages if "header" in text]
    assert line.startswith(
        f"{root}/train.csv:1: has no header: its columns are taken for image, xmin, ymin, xmax, ymax"
    )


@pytest.mark.parametrize("place", ["", "annotations/", "data/", "labels/"])
def test_a_csv_beside_voc_is_said(folder, voc_xml, place):
    """As in the raccoon set of TensorFlow's tutorials."""
    root = folder({f"{place}train_labels.csv": CAT, "Annotations/a.xml": voc_xml([("cat", (2, 2, 8, 8))])})
    source = open_source(root)
    assert (source.form, source.unread) == (
        "voc", "read as Pascal VOC; the folder holds CSV labels too, which are not read")  # fmt: skip


def test_a_manifest_of_pages_is_no_coco_file(folder):
    """IIIF's, whose items have lists of annotations, next to the pages' boxes."""
    pages = {"@context": "http://iiif.io/api/presentation/3/context.json", "items": [{"annotations": [{}] * 40_000}]}
    assert open_source(folder({"labels.csv": CAT, "pages.json": json.dumps(pages)})).unread == ""


def test_a_header_like_openimages_with_pixels_is_pixels(folder):
    text = "ImageID,XMin,XMax,YMin,YMax,class\na,10,20,5,15,cat\nb,0,64,0,48,cat\n"
    assert shown(open_dataset(folder({"train.csv": text})))["a"] == [("cat", [10, 5, 20, 15])]


CAT, DOG = FIXED + "a.png,1,1,9,9,cat\n", FIXED + "b.png,1,1,9,9,dog\n"


@pytest.mark.parametrize("form", ["{}.csv", "annotations/{}.csv", "{}/_annotations.csv", "annotations/{}_labels.csv"])
@pytest.mark.parametrize("place", ["", "images/", "images/{}/", "{}/", "JPEGImages/"])
def test_files_are_splits_and_images_lie_in_the_known_places(folder, form, place, one_line):
    files = {form.format("train"): CAT, form.format("valid"): DOG}
    root = folder(files, [place.format("train") + "a.png", place.format("valid") + "b.png"])
    assert available_splits(root) == ("train", "valid")
    train, val = open_dataset(root), open_dataset(root, "val")
    assert shown(train) == {"a": [("cat", [1, 1, 9, 9])]}
    assert shown(val) == {"b": [("dog", [1, 1, 9, 9])]}
    assert train.class_names == val.class_names == ("cat", "dog")
    assert val.sample(0).labels.tolist() == [1]
    assert "no split 'test' (there are: train, valid)" in one_line(open_dataset, root, "test")
    raw, findings = read(root)
    assert not findings
    assert {split: [raw.images[i].ident for i in members] for split, members in raw.splits.items()} == {
        "train": ["a"],
        "valid": ["b"],
    }


def test_a_split_column_decides(folder, one_line):
    header = FIXED[:-1] + ",split\n"
    text = header + "a.png,1,1,9,9,cat,TRAIN\na.png,2,2,9,9,cat,train\nb.png,,,,,,Valid\nc.png,1,1,9,9,dog,my own\n"
    root = folder({"train.csv": text}, ["a.png", "b.png", "c.png"])
    for path in (root, root / "train.csv"):
        assert available_splits(path) == ("train", "valid", "my own")
        assert {s: list(shown(open_dataset(path, s))) for s in ("train", "val", "my own")} == {
            "train": ["a"],
            "val": ["b"],
            "my own": ["c"],
        }
        assert "no split 'test'" in one_line(open_dataset, path, "test")
    (root / "train.csv").write_text(text + "a.png,3,3,9,9,cat,test\nb.png,3,3,9,9,cat,\n")
    raw, findings = read(root)
    assert [(f.kind, f.line) for f in findings] == [("split-unusable", 6), ("split-unusable", 7)]
    assert "image a.png: is in split 'test' here, in 'train' in a row above" in str(findings[0])
    assert {s: len(members) for s, members in raw.splits.items()} == {"train": 1, "valid": 1, "my own": 1}
    (root / "train.csv").write_text(header + "a.png,1,1,9,9,cat,\nb.png,,,,,,\n")
    assert available_splits(root) == ("train",)
    assert list(open_dataset(root).image_ids) == ["a", "b"]


def test_images_of_a_split_column_may_lie_by_split(folder):
    text = FIXED[:-1] + ",split\na.png,1,1,9,9,cat,train\nb.png,1,1,9,9,cat,val\n"
    root = folder({"all.csv": text}, ["train/a.png", "val/b.png"])
    assert [Path(open_dataset(root, s).names[0]).parent.name for s in ("train", "val")] == ["train", "val"]


def test_one_file_without_splits_is_divided(folder, caplog):
    stems = [f"s{i}" for i in range(20)]
    root = folder({"labels.csv": FIXED + "".join(f"{s}.png,1,1,9,9,cat\n" for s in stems)}, [f"{s}.png" for s in stems])
    assert available_splits(root) == ("train", "val", "test", "trainval")
    with caplog.at_level("INFO", logger="singleshot.datasets"):
        parts = {split: list(open_dataset(root, split).image_ids) for split in ("train", "val", "test")}
    assert "train 16, val 2, test 2" in caplog.text
    assert sorted(stem for part in parts.values() for stem in part) == sorted(stems)
    assert open_source(root).read("val").made
    # The user may name the file: then it is one split.
    assert available_splits(root / "labels.csv") == ("labels",)
    assert len(open_dataset(root / "labels.csv", "train")) == 20


def test_two_files_for_one_split_are_told(folder, one_line):
    files = {"train.csv": CAT, "annotations/train.csv": DOG, "my_val.csv": CAT, "val.csv": DOG}
    root = folder(files)
    text = one_line(open_dataset, root)
    assert "several files for split 'train' (train.csv, annotations/train.csv)" in text
    assert shown(open_dataset(root, "annotations/train")) == {"b": [("dog", [1, 1, 9, 9])]}
    assert shown(open_dataset(root, "val")) == {"b": [("dog", [1, 1, 9, 9])]}
    assert set(available_splits(root)) == set(read(root)[0].splits)


def test_the_same_image_in_two_files_is_one_unless_they_differ(folder):
    both = FIXED + "x.png,,,,,\n" + CAT.partition("\n")[2] + DOG.partition("\n")[2]
    raw, _ = read(
        folder(
            {"train.csv": CAT, "trainval.csv": both, "val.csv": DOG.replace("9,9", "8,8")}, ["a.png", "b.png", "x.png"]
        )
    )
    assert raw.splits == {"train": [0], "trainval": [1, 0, 2], "val": [3]}
    assert [image.ident for image in raw.images] == ["a", "x", "b", "b"]


def test_images_of_one_name_in_two_folders_are_told_apart(folder):
    text = FIXED + "one/a.png,1,1,9,9,cat\ntwo\\a.png,2,2,9,9,cat\nb.png,,,,,\n"
    data = open_dataset(folder({"train.csv": text}, ["one/a.png", "two/a.png", "b.png"]))
    assert list(data.image_ids) == ["one/a", "two/a", "b"]
    assert data.ptr.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "zebra\ncat\n\ndog\n"),
        ("classes.csv", "cat,1\ndog,2\nzebra,0\n"),
        ("classes.csv", "name,id\nzebra,0\ncat,1\ndog,2"),
    ],
)
@pytest.mark.parametrize("place", ["", "annotations/"])
def test_a_list_of_classes_is_kept_to(folder, name, text, place, one_line):
    root = folder({f"{place}train.csv": CAT, f"{place}val.csv": DOG, place + name: text})
    assert open_dataset(root).class_names == open_dataset(root, "val").class_names == ("zebra", "cat", "dog")
    assert read(root)[0].declared
    (root / place / "val.csv").write_text(FIXED + "b.png,1,1,9,9,dgo\n")
    assert "val.csv:2: object 0: class 'dgo' is not in the list of classes (cat, dog, zebra)" in one_line(
        open_dataset, root, "val"
    )
    _, findings = read(root)
    assert [(f.kind, f.line) for f in findings] == [("class-unknown", 2)]


@pytest.mark.parametrize("text", ["", "\n", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["classes.txt", "classes.csv"])
def test_an_empty_list_of_classes_is_none(folder, text, name):
    assert open_dataset(folder({"train.csv": CAT, name: text})).class_names == ("cat",)


@pytest.mark.parametrize("text", ["cat\ncat\n", "cat,x\ncat,y", "cat,1\ndog,1\n", "cat\n,\n"])
def test_a_broken_list_of_classes_is_said(folder, text, one_line):
    name = "classes.csv" if "," in text else "classes.txt"
    root = folder({"train.csv": CAT, name: text})
    assert f"{name}: is no list of classes" in one_line(open_dataset, root)
    raw, findings = read(root)
    assert [f.kind for f in findings] == ["annotation-unreadable"]
    assert raw.class_names == ("cat",)


@pytest.mark.parametrize("name", ["classes.txt", "classes.csv"])
def test_a_list_of_classes_in_another_encoding_is_said_once(folder, name, one_line):
    root = folder({"train.csv": CAT, name: "dog,1\nh\xe4nd,2\n".encode("cp1252")})
    said = one_line(open_dataset, root)
    assert f"{name}:2: is not UTF-8 (byte 0xE4); save it as UTF-8" in said
    assert said.count(name) == 1
    assert [(f.kind, f.line) for f in read(root)[1]] == [("annotation-unreadable", 2)]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_bytes_make_it_fall(tmp_path, data):
    whole = (FORMS["capitals, order and more"] + FORMS["blanks"]).encode()
    text = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 4))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"\0", b"\r", b"nan", b"1e999", b",,", b"\xff"])
        )
    (tmp_path / "train.csv").write_bytes(text)
    (tmp_path / "a.png").touch()
    try:
        raw, findings = read(tmp_path / "train.csv")
    except Exception as error:
        assert type(error).__name__ == "DataError"
        assert "\n" not in str(error)
    else:
        assert all("\n" not in str(finding) for finding in findings)
        assert all(math.isnan(obj.area) for image in raw.images for obj in image.objects)


KAGGLE_FILES = {
    "SKU-110K's, without a header": ("annotations/annotations_train.csv", "a.png,16,12,48,36,cat,64,48\n"),
    "GTSDB's": ("gt.txt", "a.png;16;12;48;36;cat\n"),
    "numbers of classes": ("labels.csv", "frame,xmin,xmax,ymin,ymax,class_id\na.png,16,48,12,36,cat\n"),
    "corner and size": ("x.csv", "image_name,label_name,x1,y1,w,h\na.png,cat,16,12,32,24\n"),
    "corner and size as x and y": ("x.csv", "img_name,x,y,w,h,category\na.png,16,12,32,24,cat\n"),
    "MakeSense's, without a header": ("labels_my-project_2021-01-01.csv", "cat,16,12,32,24,a.png,64,48\n"),
    "MakeSense's": (
        "labels_my-project_2023-01-01.csv",
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n"
        "cat,16,12,32,24,a.png,64,48\n",
    ),
    "LISA's": (
        "annotations.csv",
        "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;Lower right corner Y;"
        "Occluded\na.png;cat;16;12;48;36;0\n",
    ),
    "GTSRB's": (
        "Train.csv",
        "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n64,48,16,12,48,36,cat,a.png\n",
    ),
    "VinDr's": (
        "train.csv",
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\na,cat,3,R1,16,12,48,36\nb,No finding,14,R1,,,,\n",
    ),
}


@pytest.mark.parametrize("case", KAGGLE_FILES)
def test_kaggles_files_are_read(folder, case):
    name, text = KAGGLE_FILES[case]
    found = CollectErrors()
    raw = open_source(folder({name: text})).read(None, found)
    assert [obj.box for image in raw.images for obj in image.objects] == [(16, 12, 48, 36)]
    assert raw.class_names == ("cat",)
    assert {one.kind for one in found.findings} <= {"columns-assumed"}
    if case.startswith("MakeSense's"):
        assert (raw.images[0].width, raw.images[0].height) == (64, 48)
        assert ["taken for class, left upper corner, width" in one.message for one in found.findings] == [
            True] * case.endswith("header")  # fmt: skip
    if case == "VinDr's":
        assert len(raw.images) == 2
        assert "1 row of 'No finding' without a box: read as images without objects" in found.findings[0].message


def test_boxes_alone_are_of_one_class_and_an_unknown_column_is_no_class(folder, one_line):
    root = folder({"data/train_boxes (1).csv": "image,xmin,ymin,xmax,ymax\na.png,16,12,48,36\n"})
    raw = open_source(root).read()
    assert (raw.class_names, list(raw.splits)) == (("object",), ["train"])
    (root / "data/train_boxes (1).csv").write_text("image,xmin,ymin,xmax,ymax,species\na.png,16,12,48,36,cat\n")
    assert "starts with 'image,xmin,ymin,xmax,ymax,species'; want a header like" in one_line(open_source, root)


def test_x_and_y_with_width_and_height_may_be_a_centre_and_are_not_guessed(folder, one_line):
    root = folder({"x.csv": "image;label;x;y;width;height\na.png;cat;32;24;32;24\n"})
    said = one_line(open_source, root)
    assert "x.csv has x, y, width and height, where x and y may be a box's corner or its centre; call them xmin" in said


def test_a_file_of_all_images_beside_those_of_the_splits_is_no_split(folder) -> None:
    head = "filename,xmin,ymin,xmax,ymax,class\n"
    a, b = "a.png,1,2,3,4,cat\n", "b.png,1,2,3,4,dog\n"
    files = {"data/cats.csv": head + a + b, "data/train_cats.csv": head + a, "data/test_cats.csv": head + b}
    root = folder(files)
    assert {*open_source(root).splits} == {"train", "test"}
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert ({split: len(at) for split, at in raw.splits.items()}, raw.class_names) == (
        {"train": 1, "test": 1},
        ("cat", "dog"),
    )
    assert [(one.kind, one.file) for one in found.findings] == [("labels-unread", f"{root}/data/cats.csv")]
    assert len(open_source(root / "data/cats.csv").read().images) == 2
    # Of other images it is one.
    (root / "data/cats.csv").write_text(head + "c.png,1,2,3,4,cat\n")
    assert "cats" in open_source(root).splits


@pytest.mark.parametrize("header", ["id,class,x1,y1,x2,y2", "name,class,xmin,ymin,xmax,ymax", "foto,label,x1,y1,x2,y2"])
def test_the_column_of_images_is_known_by_what_it_holds(folder, header) -> None:
    root = folder({"a.csv": f"{header}\n\na.png,cat,1,2,3,4\nb.png,dog,1,2,3,4\n"})
    raw = open_source(root).read()
    assert [(image.ident, image.objects[0].name, image.objects[0].box) for image in raw.images] == [
        ("a", "cat", (1, 2, 3, 4)),
        ("b", "dog", (1, 2, 3, 4)),
    ]


def test_of_two_columns_that_hold_images_none_is_taken(folder, one_line) -> None:
    root = folder({"a.csv": "one,two,class,xmin,ymin,xmax,ymax\na.png,b.png,cat,1,2,3,4\n"})
    assert "starts with 'one,two,class" in one_line(open_source, root)


def test_files_of_one_split_that_differ_in_their_paths_alone_are_one_split(folder) -> None:
    files = {"train.csv": "C:\\me\\a.png,1,2,3,4,cat\n", "train_co.csv": "/content/a.png,1,2,3,4,cat\n"}
    files |= {"validation.csv": "C:\\me\\b.png,1,2,3,4,cat\n", "validation_co.csv": "/content/b.png,1,2,3,4,cat\n"}
    root, found = folder(files), CollectErrors()
    assert {*open_source(root).read(None, found).splits} == {"train", "validation"}
    assert found.counts["labels-repeated"] == 2
    assert [len(open_dataset(root, split)) for split in ("train", "val")] == [1, 1]
    (root / "train_co.csv").write_text("/content/a.png,1,2,3,5,cat\n")
    assert {*open_source(root).read(None, CollectErrors()).splits} == {"train", "train_co", "validation"}

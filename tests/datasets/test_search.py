"""Which set of a folder, or of the folders below it, is read: one with labelled images, and what else lies there is
said."""

from __future__ import annotations

import json

import pytest

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.checks import check_source
from singleshot.datasets.tree import EnoughError, open_tree
from singleshot.errors import DataError

SIZE = "<size><width>64</width><height>48</height><depth>3</depth></size>"
BOX = "<bndbox><xmin>17</xmin><ymin>13</ymin><xmax>48</xmax><ymax>36</ymax></bndbox>"
VOC = f"<annotation>{SIZE}<object><name>cat</name>{BOX}</object></annotation>"
EMPTY_VOC = f"<annotation>{SIZE}</annotation>"
YOLO = "0 0.5 0.5 0.5 0.5\n"
YAML = "train: train/images\nnames: [cat]\n"
CSV = "filename,xmin,ymin,xmax,ymax,class\na.png,16,12,48,36,cat\n"
CVAT = (
    '<annotations><image id="0" name="old.png"><box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/></image></annotations>'
)
README = {"README.md": "x", "LICENSE": "x"}


def coco(name="a.png"):
    note = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [16, 12, 32, 24]}
    images = [{"id": 1, "file_name": name, "width": 64, "height": 48}]
    return json.dumps({"images": images, "annotations": [note], "categories": [{"id": 1, "name": "cat"}]})


ONE_BELOW = {
    "the folders of TensorFlow's tutorial": (
        {"images/train/a.xml": VOC, "images/test/b.xml": VOC, "train.record": b"\x10\0\0"},
        ["images/train/a.png", "images/test/b.png"], "voc", "images",
    ),
    "COCO of splits": (
        {"dataset/train/_annotations.coco.json": coco(), "dataset/val/_annotations.coco.json": coco("b.png")},
        ["dataset/train/a.png", "dataset/val/b.png"], "coco", "dataset",
    ),
    "three below": ({"x/y/data/a.txt": YOLO}, ["x/y/data/a.png"], "yolo", "x/y/data"),
    "lower case": ({"pets/annotations/a.xml": VOC}, ["pets/images/a.png"], "voc", "pets"),
    "an empty set beside it": (
        {"images/a.xml": EMPTY_VOC, "sets/one/labels/a.txt": YOLO}, ["images/a.png", "sets/one/images/a.png"],
        "yolo", "sets/one",
    ),
    "a set without its images beside it": (
        {"dataset/annotations.csv": CSV, "dataset/annotations.xml": CVAT}, ["dataset/images/a.png"], "csv", "dataset",
    ),
    "labels of others deeper": (
        {"dataset/train.json": coco(), "parts/me/x.json": '{"shapes": [], "imagePath": "x.png"}'},
        ["dataset/train/a.png"], "coco", "dataset",
    ),
    "a broken yaml above it": (
        {"data.yaml": "train: /train/images\nnames: [cat]", "datasets/data.yaml": YAML,
         "datasets/train/labels/a.txt": YOLO},
        ["datasets/train/images/a.png"], "yolo", "datasets",
    ),
}  # fmt: skip


LABEL_STUDIO = json.dumps({"categories": [{"id": 0, "name": "cat"}], "info": {"contributor": "Label Studio"}})
WEB = (
    "<annotation><filename>a.png</filename><object><name>cat</name><deleted>0</deleted><polygon>"
    + "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((16, 12), (48, 20), (20, 36)))
    + "</polygon></object><object><name>old</name><deleted>1</deleted></object></annotation>"
)
BY_CONTENT = {
    "Label Studio's YOLO": (
        {"notes.json": LABEL_STUDIO, "classes.txt": "cat\n", "data/train/labels/a.txt": YOLO},
        ["data/train/images/a.png"], "yolo",
    ),
    "persons of COCO": ({"annotations/person_keypoints_train2017.json": coco()}, ["train2017/a.png"], "coco"),
    "YOLO in Annotations": ({"Annotations/a.txt": YOLO, "obj.names": "cat\n"}, ["Images/a.png"], "yolo"),
    "YOLO in annotations": ({"annotations/x/a.txt": YOLO, "obj.names": "cat\n"}, ["images/x/a.png"], "yolo"),
    "LabelMe's web tool": ({"Annotations/a.xml": WEB}, ["Images/a.png"], "voc"),
    "a path with a folder too many": (
        {"data.yaml": "train: ./plates/images/train\nnames: [cat]\n", "labels/train/a.txt": YOLO},
        ["images/train/a.png"], "yolo",
    ),
    "a path with a folder too few": (
        {"data.yaml": "train: ../train/images\nnames: [cat]\n", "plates-1/train/labels/a.txt": YOLO},
        ["plates-1/train/images/a.png"], "yolo",
    ),
    "JSON without COCO's lists": (
        {"train.json": '{"categories": [{"id": 1}]}', "labels/a.txt": YOLO, "classes.txt": "cat\n"}, ["images/a.png"],
        "yolo",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BY_CONTENT)
def test_the_content_decides_and_not_the_name(folder, case) -> None:
    files, images, form = BY_CONTENT[case]
    source = open_source(folder({**README, **files}, images))
    assert source.form == form
    data = open_dataset(source.tree.root, source.splits[0])
    assert (data.class_names, data.boxes_px.tolist()) == (("cat",), [[16, 12, 48, 36]])


def test_a_path_that_was_moved_is_said_and_no_split_becomes_another(folder, problems, one_line) -> None:
    yaml = "train: ./plates/images/train\nval: more/images/train\nnames: [cat]\n"
    root = folder({"data.yaml": yaml, "labels/train/a.txt": YOLO}, ["images/train/a.png"])
    (moved, broken) = problems({})[1]
    assert (moved.kind, broken.kind) == ("path-moved", "split-unusable")
    assert "'./plates/images/train' is not there; images/train is read in its place" in moved.message
    (root / "data.yaml").write_text("train: plates/images\nnames: [cat]\n")
    assert {*open_source(root).read().splits} == {"train"}
    (root / "data.yaml").write_text("val: plates/images\nnames: [cat]\n")
    assert "'plates/images' is not in" in one_line(open_source(root).read)


@pytest.mark.parametrize("case", ONE_BELOW)
def test_the_only_set_below_is_read_and_said(folder, case, caplog) -> None:
    files, images, form, place = ONE_BELOW[case]
    root = folder({**README, **files}, images)
    with caplog.at_level("INFO"):
        source = open_source(root)
    assert (source.form, source.tree.root) == (form, f"{root}/{place}")
    assert f"{root}: the set is {place} (" in caplog.text
    assert {obj.name for image in source.read().images for obj in image.objects} in ({"cat"}, {"class 0"})


def test_several_below_are_listed_by_form_folder_and_number(folder, one_line) -> None:
    more = CSV.replace("16,", "30,")
    files = {"images/train/a.xml": VOC, "images/train/b.xml": VOC, "more/train.csv": more, "old/x.xml": EMPTY_VOC}
    root = folder({**README, **files}, ["images/train/a.png", "images/train/b.png", "more/a.png", "old/x.png"])
    said = one_line(open_source, root)
    assert said == (
        f"{root}: sets below: images (Pascal VOC, 2), more (CSV, 1); name one, or join them with"
        " `singleshot data convert`"
    )
    many = folder({f"s{i:02d}/train.csv": CSV for i in range(12)}, [f"s{i:02d}/a.png" for i in range(12)])
    assert "and 6 more; name one" in one_line(open_source, many)


JOINED = {
    "a word before or after": ("Training_Images/x.csv", "Test_Images/x.csv"),
    "one deeper": ("a/train_data/export/x.csv", "a/test_data/x.csv"),
    "words that are not apart": ("TrainImages/x.csv", "TestImages/x.csv"),
    "the splits themselves": ("train/labels.csv", "test/labels.csv"),
    "a shared word of a split above": ("test_bench/train_set/x.csv", "test_bench/test_set/x.csv"),
}


@pytest.mark.parametrize("case", JOINED)
def test_sets_called_after_splits_are_one_set(folder, caplog, case) -> None:
    train, test = JOINED[case]
    files = {train: CSV, test: CSV.replace("cat", "dog")}
    images = [name.rpartition("/")[0] + "/a.png" for name in files]
    root = folder({**README, **files}, images)
    with caplog.at_level("INFO"):
        source = open_source(root)
        raw = source.read()
    places = [name.rpartition("/")[0] for name in files]
    assert f"{root}: the set is {places[0]} as train and {places[1]} as test (CSV, 2)" in caplog.text
    assert "split by hash" not in caplog.text
    assert (source.splits, raw.class_names, raw.made) == (("train", "test"), ("cat", "dog"), False)
    assert [(raw.images[0].objects[0].name, raw.images[1].objects[0].name), raw.splits] == [
        ("cat", "dog"), {"train": [0], "test": [1]},
    ]  # fmt: skip
    assert raw.images[0].ident != raw.images[1].ident
    (only,) = source.read("test").images
    assert only.path == f"{root}/{images[1]}"
    assert len(open_dataset(root, "train").boxes_px) == 1
    assert "labels-unread" not in check_source(source, workers=1).counts


JOINED_FORMS = {
    "voc": {"{}/a.xml": VOC},
    "coco": {"{}/instances.json": coco()},
    "yolo": {"{}/labels/a.txt": YOLO, "{}/classes.txt": "cat\n"},
    "cvat": {"{}/annotations.xml": CVAT.replace("old.png", "a.png")},
    "labelme": {
        "{}/a.json": json.dumps({"shapes": [{"label": "cat", "points": [[1, 2], [9, 8]], "shape_type": "rectangle"}]})
    },
}


@pytest.mark.parametrize("form", JOINED_FORMS)
def test_every_form_is_joined(folder, form) -> None:
    places = ("train_set", "validation_set", "test_set")
    files = {name.format(place): text for name, text in JOINED_FORMS[form].items() for place in places}
    inner = "images/a.png" if form == "yolo" else "a.png"
    root = folder({**README, **files}, [f"{place}/{inner}" for place in places])
    source = open_source(root)
    raw = source.read()
    assert (source.form, source.splits, raw.class_names) == (form, ("train", "test", "validation"), ("cat",))
    for split, place in zip(("train", "val", "test"), places, strict=True):
        data = open_dataset(root, split)
        assert (len(data), data.class_names, len(data.boxes_px)) == (1, ("cat",), 1)
        assert source.read(split).images[0].path == f"{root}/{place}/{inner}"
    kinds = check_source(source, workers=1).counts
    assert not {"labels-unread", "image-unlabelled", "image-unused", "label-without-image"} & set(kinds)


def test_sets_that_are_not_all_splits_stay_apart(folder, one_line) -> None:
    for others in (
        ["train_a/x.csv", "train_b/x.csv"],
        ["val_a/x.csv", "test_a/x.csv"],
        ["train_a/x.csv", "cats/x.csv"],
    ):
        root = folder(
            {others[0]: CSV, others[1]: CSV.replace("cat", "dog")}, [name.replace("x.csv", "a.png") for name in others]
        )
        assert "sets below: " in one_line(open_source, root)
        for name in others:
            (root / name).unlink()
    root = folder({"train_a/x.csv": CSV, "test_a/x.xml": VOC}, ["train_a/a.png", "test_a/x.png"])
    assert "sets below: " in one_line(open_source, root)


def test_what_comes_with_a_program_counts_where_nothing_else_is(folder) -> None:
    files = {"tool/sample_data/x.csv": CSV, "mine/x.csv": CSV}
    root = folder(files, ["tool/sample_data/a.png", "mine/a.png"])
    source = open_source(root)
    (found,) = (one for one in check_source(source, workers=1).findings if one.kind == "labels-unread")
    assert source.tree.root == f"{root}/mine"
    assert "also there and not read: tool/sample_data (CSV, 1)" in found.message
    (root / "mine/x.csv").unlink()
    assert open_source(root).tree.root == f"{root}/tool/sample_data"


def test_labels_of_another_form_next_to_those_that_were_read_are_said(folder) -> None:
    files = {"images/a.txt": YOLO, "images/a.xml": VOC, "classes.txt": "cat\n"}
    (found,) = (
        one
        for one in check_source(open_source(folder(files, ["images/a.png"])), workers=1).findings
        if one.kind == "labels-unread"
    )
    assert "also there and not read: images (Pascal VOC, 1)" in found.message


def test_code_and_hidden_folders_are_passed_over(folder) -> None:
    files = {"set/train.csv": CSV, ".cache/x/train.csv": CSV, "venv/lib/a.xml": VOC, "node_modules/y/train.csv": CSV}
    root = folder(files, ["set/a.png", "venv/lib/a.png", "node_modules/y/a.png", ".cache/x/a.png"])
    assert open_source(root).tree.root == f"{root}/set"


def test_an_empty_set_alone_is_read(folder) -> None:
    source = open_source(folder({"one/a.xml": EMPTY_VOC, **README}, ["one/a.png"]))
    assert (source.form, check_source(source, workers=1).counts.get("nothing-labelled")) == ("voc", 1)


def test_a_broken_set_is_not_hidden_by_its_parts(folder, one_line) -> None:
    files = {"data.yaml": "train: train/images\nnames: [cat]\nnc: two\n", "train/labels/a.txt": YOLO}
    root = folder(files, ["train/images/a.png"])
    assert "nc is 'two'" in one_line(open_source(root).read)


def test_sets_that_are_not_read_are_said(folder) -> None:
    files = {"Annotations/a.xml": VOC, "idenprof/train/a.xml": VOC, "more/b/train.csv": CSV}
    root = folder(files, ["JPEGImages/a.png", "idenprof/train/a.png", "more/b/a.png"])
    (found,) = (one for one in check_source(open_source(root), workers=1).findings if one.kind == "labels-unread")
    assert "also there and not read: idenprof (Pascal VOC, 1), more/b (CSV, 1)" in found.message


def test_labels_beside_the_images_of_a_csv_are_said(folder) -> None:
    files = {"annotations/train.csv": CSV, "images/train/a.xml": VOC}
    (found,) = (
        one
        for one in check_source(open_source(folder(files, ["images/train/a.png"])), workers=1).findings
        if one.kind == "labels-unread"
    )
    assert "read as CSV; also there and not read: images (Pascal VOC, 1)" in found.message


def test_what_was_passed_over_is_said(folder) -> None:
    files, images, *_ = ONE_BELOW["an empty set beside it"]
    root = folder(files, images)
    (found,) = (one for one in check_source(open_source(root), workers=1).findings if one.kind == "labels-unread")
    assert f"read as YOLO; also there and not read: images (Pascal VOC, 0) in {root}" in found.message


def test_forms_before_the_one_that_is_read_are_said(folder) -> None:
    files, images, *_ = ONE_BELOW["a set without its images beside it"]
    assert "the folder holds CVAT labels too" in open_source(folder(files, images)).unread


CREATEML = json.dumps(
    [
        {
            "image": "a.png",
            "annotations": [{"label": "cat", "coordinates": {"x": 32, "y": 24, "width": 32, "height": 24}}],
        }
    ]
)


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("labels.csv", CSV, "holds CSV labels too"),
        ("annotations.csv", "image;label;x;y;width;height\na.png;cat;32;24;32;24\n", "CSV (annotations.csv) labels"),
    ],
)
@pytest.mark.parametrize(
    ("form", "files"),
    [("createml", {"x.json": CREATEML}), ("cvat", {"x.xml": CVAT.replace("old", "a")}), ("voc", {"a.xml": VOC})],
)
def test_a_table_is_a_copy_of_other_labels_and_said(folder, form, files, name, table, said) -> None:
    source = open_source(folder({**files, name: table}, ["a.png"]))
    assert source.form == form
    assert f"read as {source.format.about}; the folder holds" in source.unread
    assert said in source.unread


def test_a_few_labels_of_one_form_do_not_stand_in_for_many_of_another(folder) -> None:
    images = [f"{k}.png" for k in range(5)]
    files = {f"{k}.txt": YOLO for k in range(5)} | {"0.xml": VOC, "1.xml": VOC}
    source = open_source(folder({**files, "classes.txt": "cat"}, images))
    assert source.form == "yolo"
    assert "Pascal VOC labels too" in source.unread
    assert open_source(folder({**files, "2.xml": VOC}, images)).form == "voc"


def test_a_stray_label_of_another_form_hides_no_set_below(folder) -> None:
    images = [f"images/train/{k}.png" for k in range(12)]
    files = {f"images/train/{k}.xml": VOC for k in range(11)} | {"images/train/11.txt": YOLO}
    source = open_source(folder({**files, "images/train/classes.txt": "cat"}, images))
    assert (source.form, len(source.read().images)) == ("voc", 11)


def test_a_tree_that_is_limited_reads_no_more(folder) -> None:
    tree = open_tree(folder({"a.txt": "12345", "b.txt": "1"})).limited(2, 6)
    assert (tree.read("a.txt", 9, "x"), tree.read("b.txt", 9, "x")) == (b"12345", b"1")
    for limits in ((0, 99), (9, 4)):
        with pytest.raises(EnoughError):
            open_tree(folder({})).limited(*limits).read("a.txt", 99, "x")
    with pytest.raises(EnoughError), open_tree(folder({})).limited(9, 4).open("a.txt", 99, "x"):
        pass


def test_csv_files_of_several_sets_are_not_read_as_one(folder, one_line) -> None:
    head = "filename,xmin,ymin,xmax,ymax,class\n"
    files = {
        "data/train.csv": f"{head}a.png,1,2,3,4,cat\n",
        "data/test.csv": f"{head}b.png,1,2,3,4,cat\n",
        "data/train_parts.csv": f"{head}c.png,1,2,3,4,ear\n",
        "data/test_parts.csv": f"{head}d.png,1,2,3,4,tail\n",
    }
    root = folder(files, ["img/a.png", "img/b.png", "more/c.png", "more/d.png"])
    said = one_line(open_source(root).read)
    assert (
        "CSV files of several sets: data/test.csv and data/train.csv share no image or class with data/test_p" in said
    )
    assert len(open_source(root / "data/train_parts.csv").read().images) == 1
    # What shares a class or an image is one set in several files, and so are those of one name but for numbers.
    (root / "data/test_parts.csv").write_text(f"{head}d.png,1,2,3,4,cat\n")
    assert len(open_source(root).read().images) == 4
    (root / "data/test_parts.csv").write_text(f"{head}b.png,1,2,3,4,tail\n")
    assert len(open_source(root).read().images) == 4
    for name in ("train", "test"):
        (root / f"data/{name}_parts.csv").rename(root / f"data/{name}_2.csv")
    assert len(open_source(root).read().images) == 4


def test_label_files_of_several_sets_are_not_read_as_one(folder, one_line) -> None:
    def listed(image, label):
        box = {"label": label, "coordinates": {"x": 9, "y": 9, "width": 4, "height": 4}}
        return json.dumps([{"image": image, "annotations": [box]}])

    files = {"train_a.json": listed("a.png", "cat"), "train_parts.json": listed("b.png", "ear")}
    root = folder(files)
    assert "Create ML files of several sets: train_a.json share no" in one_line(open_source(root).read)
    (root / "train_parts.json").write_text(listed("b.png", "cat"))
    assert len(open_source(root).read().images) == 2


def test_of_copies_of_a_set_one_is_read(folder) -> None:
    other = VOC.replace("17</xmin>", "16</xmin>")
    files = {"b/Annotations/a.xml": VOC, "b/ImageSets/Main/train.txt": "a\n", "a/a.xml": VOC, "a/b.xml": other}
    images = ["b/JPEGImages/a.png", "a/a.png", "a/b.png"]
    root = folder({**README, **files}, images)
    source = open_source(root)
    assert source.tree.root == f"{root}/a"  # it has what b has, and more
    assert "b (Pascal VOC, 1)" in source.unread_beside(source.read())
    (root / "a/b.xml").unlink()
    assert open_source(root).tree.root == f"{root}/b"  # of the same two the one with splits
    (root / "a/a.png").write_bytes((root / "a/b.png").read_bytes() + b"more")
    with pytest.raises(DataError, match="sets below: a "):  # the labels of other images
        open_source(root)
    (root / "a/a.png").write_bytes((root / "a/b.png").read_bytes())
    (root / "a/a.xml").write_text(other)
    with pytest.raises(DataError, match="sets below: a "):
        open_source(root)

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import voc as module
from singleshot.datasets.readers.voc import parse_annotation
from singleshot.errors import DataError

INT = st.integers


@pytest.fixture
def voc(tmp_path, voc_xml, write_voc):
    """voc(objects, **xml): opens a folder with one image `a` (64 x 48) holding these objects."""

    def make(objects, clip_boxes=False, class_names=None, **xml):
        write_voc(tmp_path, {"a": voc_xml(objects, **xml)}, {"train": ["a"]})
        return open_dataset(tmp_path, "train", class_names, clip_boxes)

    return make


@st.composite
def pixel_boxes(draw):
    """(xmin, ymin, xmax, ymax) 1-based inclusive within 64 x 48."""
    x, y = sorted(draw(st.tuples(INT(1, 64), INT(1, 64)))), sorted(draw(st.tuples(INT(1, 48), INT(1, 48))))
    return x[0], y[0], x[1], y[1]


objects = st.lists(st.tuples(st.sampled_from(["cat", "dog", "bird"]), pixel_boxes(), st.booleans()), max_size=4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(objects, min_size=1, max_size=4).filter(any))
def test_boxes_cover_exactly_the_annotated_pixels(tmp_path_factory, voc_xml, images):
    root = tmp_path_factory.mktemp("voc")
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for i, objects in enumerate(images):
        xml = voc_xml([(name, box, int(difficult)) for name, box, difficult in objects])
        (root / "Annotations" / f"{i}.xml").write_text(xml)
        (root / "JPEGImages" / f"{i}.JPG").touch()
    order = list(range(len(images)))[::-1]
    (root / "ImageSets" / "Main" / "val.txt").write_text("\n".join(map(str, order)))
    data = open_dataset(root, "val")
    assert list(data.image_ids) == [str(i) for i in order]
    assert data.class_names == tuple(sorted({name for objects in images for name, _, _ in objects}))
    assert data.sizes.tolist() == [[64, 48]] * len(images)
    for at, i in enumerate(order):
        truth = data.truth(at)
        assert [data.class_names[label] for label in truth.labels] == [name for name, _, _ in images[i]]
        assert truth.difficult.tolist() == [difficult for _, _, difficult in images[i]]
        assert not truth.crowd.any()
        for box, area, (_, (x0, y0, x1, y1), _) in zip(truth.boxes, truth.area, images[i], strict=True):
            # 1-based pixel (x, y) is the unit square from (x - 1, y - 1).
            mask = np.zeros((48, 64), bool)
            mask[y0 - 1 : y1, x0 - 1 : x1] = True
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert area == mask.sum()


def test_array_types_and_lengths(voc):
    data = voc([("cat", (1, 1, 5, 5)), ("dog", (2, 2, 2, 2), 1)])
    types = ("sizes int32", "ptr int64", "boxes_px float32", "labels int64", "difficult bool", "crowd bool")
    for name, dtype in (t.split() for t in (*types, "area float32")):
        assert getattr(data, name).dtype == dtype, name
    assert data.ptr.tolist() == [0, 2]
    assert data.boxes_px.tolist() == [[0, 0, 5, 5], [1, 1, 2, 2]]
    assert data.difficult.tolist() == [False, True]
    assert data.sample(0).image.shape == (48, 64, 3)


def test_an_image_without_objects_stays(tmp_path, voc_xml, write_voc):
    xmls = {"a": voc_xml([]), "b": voc_xml([("cat", (1, 1, 5, 5))])}
    data = open_dataset(write_voc(tmp_path, xmls, {"train": ["a", "b"]}))
    assert data.ptr.tolist() == [0, 0, 1]
    assert data.sample(0).boxes_px.shape == (0, 4)


def test_parts_of_an_object_are_not_objects(voc):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    whole = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    data = voc([f"<object><name>person</name>{part}{whole}</object>"])
    assert data.class_names == ("person",)
    assert data.boxes_px.tolist() == [[2, 3, 9, 9]]


def test_turned_boxes_of_rolabelimg_are_read_by_what_surrounds_them(tmp_path, voc_xml, write_voc, one_line):
    def turned(angle, x=30):
        numbers = f"<cx>{x}</cx><cy>20</cy><w>20</w><h>10</h><angle>{angle}</angle>"
        return f"<object><type>robndbox</type><name>cat</name><robndbox>{numbers}</robndbox></object>"

    quarter, outside = turned(math.pi / 2), turned(math.pi / 2, 62)
    root = write_voc(tmp_path, {"a": voc_xml([turned(0), quarter, outside])}, {"train": ["a"]})
    np.testing.assert_allclose(open_dataset(root).boxes_px, [[20, 15, 40, 25], [25, 10, 35, 30], [57, 10, 64, 30]])
    write_voc(tmp_path, {"a": voc_xml([turned("x")])})
    assert "object 0 (cat): its <robndbox> has angle 'x'; want a number" in one_line(open_dataset, root)


def test_list_lines_may_hold_flags_and_names_may_hold_spaces(tmp_path, voc_xml, write_voc):
    xml = voc_xml([("cat", (1, 1, 5, 5))])
    lines = ["a  1", "b -1", "c d", "e 1", "", "f\t1"]
    root = write_voc(tmp_path, dict.fromkeys(["a", "b", "c d", "e 1", "f"], xml), {"train": lines})
    assert list(open_dataset(root).image_ids) == ["a", "b", "c d", "e 1", "f"]


def test_the_devkits_lists_per_class_are_not_splits(tmp_path, voc_xml, write_voc):
    splits = {name: ["a"] for name in ("train", "val", "aeroplane_train", "train_val", "my_train")}
    root = write_voc(tmp_path, {"a": voc_xml([("cat", (1, 1, 5, 5))])}, splits)
    assert available_splits(root) == ("my_train", "train", "val")


def test_lists_of_other_classes_are_known_by_their_flags(folder, voc_xml):
    lists = {"train": "a\n", "val": "b\n", "bad": "a.png\nJPEGImages/b\n", "green cat_train": "a.png -1\nb.png  1\n"}
    lists |= {"egg_val": "b 0\n", "own_train": "a\n", "egg_test": "a 1\n"}
    files = {f"ImageSets/Main/{name}.txt": text for name, text in lists.items()}
    xml = voc_xml([("cat", (1, 1, 5, 5))])
    root = folder(
        {**files, "Annotations/a.xml": xml, "Annotations/b.xml": xml}, ["JPEGImages/a.png", "JPEGImages/b.png"]
    )
    splits = open_source(root).read(None, CollectErrors()).splits
    # Without a list "test" the third is one of that name.
    assert {name: len(at) for name, at in splits.items()} == {
        "bad": 2,
        "egg_test": 1,
        "own_train": 1,
        "train": 1,
        "val": 1,
    }


def test_lists_of_plain_names_are_of_a_class_where_all_their_images_have_it(folder, voc_xml):
    boxes = [("cola can", (1, 1, 5, 5)), ("dog", (1, 1, 5, 5))]
    labels = {f"Annotations/{stem}.xml": voc_xml(boxes[: 1 + (stem == "b")]) for stem in "abc"}
    lists = {"trainval": "a\nb\n", "test": "c\n", "cola can": "a\nb\nc\n", "cola can_trainval": "a\n", "dog": "a\nb\n"}
    files = {f"ImageSets/Main/{name}.txt": text for name, text in lists.items()}
    root = folder({**files, **labels}, [f"JPEGImages/{stem}.png" for stem in "abc"])
    assert available_splits(root) == ("dog", "test", "trainval")  # a is in the list and has no dog
    found = CollectErrors()
    assert set(open_source(root).read(None, found).splits) == {"dog", "test", "trainval"}
    assert [one.kind for one in found.findings] == ["split-left-out"] * 2
    assert "split 'cola can_trainval' lists images of the class 'cola can' and is no split" in str(found.findings[1])
    for name in ("trainval", "test"):
        (root / f"ImageSets/Main/{name}.txt").unlink()
    assert "cola can" in available_splits(root)  # there is no other split


@pytest.mark.parametrize("place", ["Main", "ImageSets", ""])
def test_lists_of_usual_names_may_lie_elsewhere_where_they_name_annotations(folder, voc_xml, place):
    def put(name, text):
        (root / place).mkdir(exist_ok=True)
        (root / place / name).write_text(text)

    xml = voc_xml([("cat", (1, 1, 5, 5))])
    labels = {f"Annotations/{stem}.xml": xml for stem in "abcd"}
    root = folder(labels, [f"JPEGImages/{stem}.png" for stem in "abcd"])
    put("train.txt", "/home/x/JPEGImages/a.png\nAnnotations/b.xml\n")
    put("val.txt", "JPEGImages\\c.png\n")
    put("notes.txt", "d\n")
    raw = open_source(root).read()
    assert {s: [raw.images[i].ident for i in at] for s, at in raw.splits.items()} == {"train": ["a", "b"], "val": ["c"]}
    put("val.txt", "JPEGImages/c.png 1,2,3,4,0\n")  # another form's
    assert open_source(root).read().made


def test_classes_are_those_of_all_splits(tmp_path, voc_xml, write_voc):
    xmls = {s: voc_xml([(name, (1, 1, 5, 5))]) for s, name in (("a", "dog"), ("b", "cat"), ("unlisted", "axe"))}
    root = write_voc(tmp_path, xmls, {"train": ["a"], "val": ["b"]})
    assert open_dataset(root, "train").class_names == open_dataset(root, "val").class_names == ("cat", "dog")


def test_given_classes_are_looked_up_by_name(voc, one_line):
    data = voc([("cat", (1, 1, 5, 5))], class_names=["dog", "cat"])
    assert data.class_names == ("dog", "cat")
    assert data.labels.tolist() == [1]
    text = one_line(voc, [("dog", (1, 1, 5, 5)), ("cat", (1, 1, 5, 5))], class_names=["dog", "Cat"])
    assert "a.xml: object 1 (cat): class 'cat'" in text
    assert "did you mean 'Cat'" in text


def test_without_lists_the_split_is_80_10_10_and_said(tmp_path, voc_xml, write_voc, caplog):
    xml = voc_xml([("cat", (1, 1, 5, 5))])
    root = write_voc(tmp_path, {f"s{i}": xml for i in range(20)})
    with caplog.at_level(logging.INFO, logger="singleshot.datasets.readers.voc"):
        parts = {split: list(open_dataset(root, split).image_ids) for split in ("train", "val", "test")}
    assert "train 16, val 2, test 2" in caplog.text
    assert [len(part) for part in parts.values()] == [16, 2, 2]
    assert sorted(name for part in parts.values() for name in part) == sorted(f"s{i}" for i in range(20))
    assert sorted(parts["train"] + parts["val"]) == list(open_dataset(root, "trainval").image_ids)
    # By the names alone: of the twenty, sha256sum is least for these two.
    assert parts["val"] == ["s7", "s8"]
    assert available_splits(root) == ("train", "val", "test", "trainval")


BAD_OBJECTS = {
    "no name": ((None, (1, 1, 5, 5)), r"object 1: has no <name>"),
    "blank name": ((" ", (1, 1, 5, 5)), r"object 1: has no <name>"),
    "no box": (("dog", None), r"object 1 \(dog\): has no <bndbox>"),
    "no side": ("<object><name>dog</name><bndbox><xmin>1</xmin></bndbox></object>", r"\(dog\): .* no <ymin>"),
    "text": (("dog", (1, "two", 5, 5)), r"object 1 \(dog\): ymin 'two' is not a number"),
    "nan": (("dog", (1, "nan", 5, 5)), r"object 1 \(dog\): box xmin 1 ymin nan xmax 5 ymax 5 is not a place"),
    "inf": (("dog", (1, 1, "inf", 5)), r"\(dog\): box .* is not a place"),
    "huge": (("dog", (1, 1, "1e30", 5)), r"\(dog\): box .* is not a place"),
    "turned": (("dog", (6, 1, 5, 5)), r"\(dog\): box xmin 6 ymin 1 xmax 5 ymax 5 has no area"),
    "right": (("dog", (1, 1, 66.5, 5)), r"\(dog\): box .* lies outside the image of 64 x 48 pixels"),
    "left": (("dog", (-1.5, 1, 5, 5)), r"\(dog\): box .* lies outside"),
    "below": (("dog", (1, 1, 5, 51)), r"\(dog\): box .* lies outside"),
    "just past": (("dog", (66, 1, 66, 5)), r"\(dog\): box .* lies outside"),
    "difficult": (("dog", (1, 1, 5, 5), "very"), r"\(dog\): difficult 'very'; want 0 or 1"),
}


@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_bad_objects_are_refused_with_their_place(voc, case):
    obj, message = BAD_OBJECTS[case]
    with pytest.raises(DataError, match=r"Annotations/a\.xml: " + ".*" * (not message.startswith("o")) + message):
        voc([("cat", (1, 1, 5, 5)), obj])


def test_a_control_character_in_a_name_keeps_the_message_on_one_line(voc, one_line):
    assert r"(do\ng)" in one_line(voc, [("do\ng", (6, 1, 5, 5))])


def test_up_to_two_pixels_outside_are_clipped_silently(voc, caplog):
    data = voc([("cat", (0, -1, 66, 50)), ("cat", (63.5, 1, 65, 2))])
    assert data.boxes_px.tolist() == [[0, 0, 64, 48], [62.5, 0, 64, 2]]
    assert not caplog.records


def test_clip_boxes_cuts_and_drops_and_counts(voc, caplog, one_line):
    objects = [(1, 1, 100, 5), (70, 1, 90, 5), (9, 9, 8, 8), (1, 1, 66, 5)]
    data = voc([("cat", box) for box in objects], clip_boxes=True)
    assert data.boxes_px.tolist() == [[0, 0, 64, 5], [0, 0, 64, 5]]
    assert data.labels.tolist() == [0, 0]
    assert "1 boxes cut to their image, 2 dropped" in caplog.text
    assert "is not a place" in one_line(voc, [("cat", (1, 1, "nan", 5))], clip_boxes=True)


@pytest.mark.parametrize("size", [None, (0, 0), ("", ""), (64, 0)])
def test_a_missing_size_is_found_out_at_reading(voc, size, one_line):
    data = voc([("cat", (1, 1, 64, 48))], size=size)
    assert data.sizes.tolist() == [[0, 0]]
    assert data.sample(0).boxes_px.tolist() == [[0, 0, 64, 48]]
    wrong = voc([("cat", (1, 1, 90, 48))], size=size)
    assert "a.png: object 0 (cat): box [0, 0, 90, 48] lies outside" in one_line(wrong.sample, 0)


@pytest.mark.parametrize("size", [("wide", 48), (-64, 48), (64, 1e9), ("nan", 48), (64.5, 48)])
def test_a_senseless_size_is_refused(voc, size, one_line):
    assert "a.xml: size " in one_line(voc, [("cat", (1, 1, 5, 5))], size=size)


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation><filename>&b;</filename></annotation>'
LEAK = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation><object>", r"a\.xml: is not XML \(.*line 1"),
        ("", r"a\.xml: is not XML"),
        (BOMB, r"a\.xml: is not plain XML \("),
        (LEAK, r"a\.xml: is not plain XML \("),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', r"a\.xml: is not plain XML"),
        ("<html/>", r"a\.xml: starts with <html>; want a VOC <annotation>"),
    ],
)
def test_what_is_no_annotation_is_refused(tmp_path, write_voc, xml, message, one_line):
    root = write_voc(tmp_path, {"a": xml}, {"train": ["a"]})
    with pytest.raises(DataError, match=message):
        open_dataset(root)
    one_line(open_dataset, root)


def test_a_large_xml_is_refused(tmp_path, voc_xml, write_voc, one_line):
    root = write_voc(tmp_path, {"a": voc_xml([]) + " " * module.MAX_XML_BYTES}, {"train": ["a"]})
    assert "a.xml: larger than 16 MB" in one_line(open_dataset, root)


def test_missing_files_and_splits_are_named(tmp_path, voc_xml, write_voc, one_line):
    xmls = dict.fromkeys(["a", "b"], voc_xml([("cat", (1, 1, 5, 5))]))
    splits = {"train": ["a", "b"], "gone": ["a", "c", "d"], "none": [], "twice": ["a", "b"]}
    root = write_voc(tmp_path, xmls, splits)
    text = one_line(open_dataset, root, "gone")
    assert "split 'gone' names 'c' but there is no Annotations/c.xml (2 of 3 missing)" in text
    assert "no split 'val' (there are: gone, train, twice)" in one_line(open_dataset, root, "val")
    assert "split 'none' has no images" in one_line(open_dataset, root, "none")
    (root / "JPEGImages" / "b.png").unlink()
    text = one_line(open_dataset, root)
    assert "names 'b' but JPEGImages has no such image (1 of 2 missing)" in text
    (root / "ImageSets" / "Main" / "twice.txt").write_text("a\na\n")  # counts once
    assert len(open_dataset(root, "twice")) == 1


def test_nothing_labelled_is_said(tmp_path, voc_xml, write_voc, one_line):
    root = write_voc(tmp_path, {"a": voc_xml([])}, {"train": ["a"]})
    assert "no annotation has an object" in one_line(open_dataset, root)
    assert open_dataset(root, class_names=["cat"]).ptr.tolist() == [0, 0]


def test_aliases_of_val_and_no_other_guess(tmp_path, voc_xml, write_voc, one_line):
    xml = voc_xml([("cat", (1, 1, 5, 5))])
    root = write_voc(tmp_path, {"a": xml, "b": xml}, {"valid": ["a"], "test": ["b"]})
    assert list(open_dataset(root, "val").image_ids) == ["a"]
    assert "no split 'train'" in one_line(open_dataset, root, "train")


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".webp", ".TIF"])
def test_images_are_found_by_any_ending(tmp_path, voc_xml, write_voc, suffix):
    root = write_voc(tmp_path, {"a": voc_xml([("cat", (1, 1, 5, 5))])}, {"train": ["a"]})
    (root / "JPEGImages" / "a.png").rename(root / "JPEGImages" / f"a{suffix}")
    assert Path(open_dataset(root).names[0]).name == f"a{suffix}"


def test_the_annotations_filename_decides_or_stands_in(tmp_path, voc_xml, write_voc):
    objects = [("cat", (1, 1, 5, 5))]
    xmls = {"a": voc_xml(objects, filename="a.png"), "b": voc_xml(objects, filename="other.png")}
    root = write_voc(tmp_path, xmls, {"train": ["a", "b"]})
    (root / "JPEGImages" / "a.jpg").touch()
    (root / "JPEGImages" / "b.png").rename(root / "JPEGImages" / "other.png")
    assert [Path(name).name for name in open_dataset(root).names] == ["a.png", "other.png"]


def test_an_annotation_does_not_take_another_ones_image(tmp_path, voc_xml, write_voc, one_line):
    xml = voc_xml([("cat", (1, 1, 5, 5))], filename="a.png")
    root = write_voc(tmp_path, {"a": xml, "b": xml}, {"train": ["a", "b"]})
    (root / "JPEGImages" / "b.png").unlink()
    assert "names 'b' but JPEGImages has no such image" in one_line(open_dataset, root)


@pytest.mark.parametrize("filename", ["../../secret.png", "/etc/passwd", "x/../../../secret.png", "C:\\x.png", ""])
def test_no_filename_leaves_the_folder(tmp_path, voc_xml, write_voc, filename, one_line):
    xml = voc_xml([("cat", (1, 1, 5, 5))], filename=filename)
    root = write_voc(tmp_path / "set", {"a": xml}, {"train": ["a"]})
    (root / "JPEGImages" / "a.png").rename(tmp_path / "secret.png")
    text = one_line(open_dataset, root)
    assert "leaves the data set's folder" in text or "no such image" in text


@pytest.mark.parametrize("stem", ["../secret", "/etc/passwd", "../Annotations/a"])
def test_no_line_of_a_list_leaves_the_folder(tmp_path, voc_xml, write_voc, stem, one_line):
    root = write_voc(tmp_path, {"a": voc_xml([("cat", (1, 1, 5, 5))])}, {"train": [stem]})
    (tmp_path / "secret.xml").write_text(voc_xml([]))
    assert "there is no Annotations/" in one_line(open_dataset, root)


@pytest.mark.parametrize("place", ["JPEGImages/a.png", "Annotations/a.xml", "JPEGImages", "ImageSets/Main"])
def test_links_that_leave_the_folder_are_refused(tmp_path, voc_xml, write_voc, place, one_line):
    root = write_voc(tmp_path / "set", {"a": voc_xml([("cat", (1, 1, 5, 5))])}, {"train": ["a"]})
    (root / place).rename(tmp_path / "outside")
    (root / place).symlink_to(tmp_path / "outside")
    assert "a link that leads out of" in one_line(open_dataset, root)


def test_links_within_the_folder_and_to_it_are_fine(tmp_path, voc_xml, write_voc):
    root = write_voc(tmp_path / "set", {"a": voc_xml([("cat", (1, 1, 5, 5))])}, {"train": ["a"]})
    (root / "JPEGImages" / "a.png").rename(root / "kept.png")
    (root / "JPEGImages" / "a.png").symlink_to("../kept.png")
    (tmp_path / "link").symlink_to(root)
    assert open_dataset(tmp_path / "link").sample(0).image.shape == (48, 64, 3)


def test_bccd_agrees_with_golden_coordinates(shared, golden):
    data = open_dataset(shared / "data" / "bccd", "test", class_names=["RBC", "WBC", "Platelets"])
    vectors = np.load(golden / "eval_inputs.npz", allow_pickle=False)
    ids = json.loads((golden / "eval_image_ids.json").read_text())
    order = {name: i for i, name in enumerate(data.image_ids)}
    assert sorted(order) == sorted(ids)
    at = np.array([order[name] for name in ids])[vectors["gt_image"]]
    got = np.repeat(np.arange(len(data)), np.diff(data.ptr))
    # Both sides in one order: golden rows are 1-based inclusive and count classes from 1.
    raw = np.maximum(vectors["gt_box_xyxy_px"] - [1, 1, 0, 0], 0)
    want = np.column_stack([at, vectors["gt_label"] - 1, raw])
    have = np.column_stack([got, data.labels, data.boxes_px])
    np.testing.assert_array_equal(have[np.lexsort(have.T[::-1])], want[np.lexsort(want.T[::-1])])


def test_real_folders_have_their_counts(shared):
    bccd = {split: open_dataset(shared / "data" / "bccd", split) for split in ("train", "val", "test")}
    assert [len(data) for data in bccd.values()] == [205, 87, 72]
    assert sum(len(data.labels) for data in bccd.values()) == 4888
    assert {data.class_names for data in bccd.values()} == {("Platelets", "RBC", "WBC")}
    voc07 = {split: open_dataset(shared / "data" / "voc07", split) for split in ("train", "val")}
    assert [len(data) for data in voc07.values()] == [3432, 505]
    assert [len(data.class_names) for data in voc07.values()] == [20, 20]
    assert voc07["train"].difficult.any()
    for data in (*bccd.values(), *voc07.values()):
        assert (data.boxes_px[:, 2:] > data.boxes_px[:, :2]).all()
        for i in range(0, len(data), len(data) // 5):
            height, width = data.sample(i).image.shape[:2]
            assert data.sizes[i].tolist() == [width, height]


def test_missing_images_of_a_folder_without_lists_are_those_of_annotations(tmp_path, voc_xml, write_image):
    for stem in "abc":
        (tmp_path / f"{stem}.xml").write_text(voc_xml([("cat", (1, 1, 5, 5))]))
    write_image(tmp_path / "a.png", 64, 48)
    problems = CollectErrors()
    open_source(tmp_path).read(None, problems)
    assert [(Path(f.file).name, f.kind) for f in problems.findings] == [(f"{s}.xml", "image-missing") for s in "bc"]
    assert f"image 'b' is missing (2 of 3 are not below {tmp_path})" in problems.findings[0].message


def test_folders_of_images_are_splits_where_nothing_else_says_them(folder, voc_xml):
    places = {"a": "train", "b": "train", "c": "val"}
    files = {f"Annotations/{stem}.xml": voc_xml([("cat", (1, 1, 9, 9))]) for stem in places}
    pictures = [f"images/{split}/{stem}.png" for stem, split in places.items()]
    source = open_source(folder(files, pictures))
    raw = source.read()
    assert {split: [raw.images[i].ident for i in members] for split, members in raw.splits.items()} == {
        "train": ["a", "b"],
        "val": ["c"],
    }
    assert not raw.made
    assert source.splits == ("train", "val")


@pytest.mark.parametrize(
    ("more", "splits"),
    [
        ({"Annotations/d.xml": "", "images/d.png": None}, 4),  # one in neither
        ({"images/val/a.png": None}, 4),  # one in both
        ({"ImageSets/Main/train.txt": "a\n", "ImageSets/Main/val.txt": "b\n", "ImageSets/Main/test.txt": "c\n"}, 3),
    ],
)
def test_folders_of_images_are_no_splits_otherwise(folder, voc_xml, more, splits):
    xml = voc_xml([("cat", (1, 1, 9, 9))])
    files = {f"Annotations/{stem}.xml": xml for stem in "abc"}
    files |= {name: text or xml for name, text in more.items() if text is not None}
    pictures = ["images/train/a.png", "images/train/b.png", "images/val/c.png"]
    source = open_source(folder(files, [*pictures, *(name for name, text in more.items() if text is None)]))
    assert len(source.splits) == splits


def test_annotations_that_were_copied_into_folders_of_splits_are_read_there(folder, voc_xml):
    xml = voc_xml([("cat", (1, 1, 5, 5))])
    names = ["a", "b", "images/train/a", "images/test/b"]
    root = folder({f"{name}.xml": xml for name in names}, [f"{name}.png" for name in names])
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert {s: [raw.images[i].path for i in at] for s, at in raw.splits.items()} == {
        "train": [f"{root}/images/train/a.png"],
        "test": [f"{root}/images/test/b.png"],
    }
    assert [(one.kind, one.message[:13]) for one in found.findings] == [("labels-unread", "2 annotations")]
    (root / "c.xml").write_text(xml)  # one that they do not have
    assert open_source(root).read(None, CollectErrors()).made


def test_folders_of_images_are_splits_though_a_few_images_are_missing(folder, voc_xml):
    xml = voc_xml([("cat", (1, 1, 5, 5))])
    stems = [f"{k:02}" for k in range(20)]
    images = [f"images/{'val' if k < 5 else 'train'}/{stem}.png" for k, stem in enumerate(stems[:-1])]
    root, found = folder({f"annotations/{stem}.xml": xml for stem in stems}, images), CollectErrors()
    raw = open_source(root).read(None, found)
    assert {split: len(at) for split, at in raw.splits.items()} == {"val": 5, "train": 14}
    assert [one.kind for one in found.findings] == ["image-missing"]
    (root / images[-1]).unlink()
    assert open_source(root).read(None, CollectErrors()).made


def test_a_few_labels_in_their_own_folder_do_not_stand_in_for_many_beside_the_images(folder, voc_xml):
    xml = voc_xml([("cat", (1, 1, 5, 5))])
    files = {"annotations/a.xml": xml, **{f"images/{stem}.xml": xml for stem in "bcd"}}
    root = folder(files, [f"images/{stem}.png" for stem in "abcd"])
    assert {image.ident for image in open_source(root).read().images} == {"b", "c", "d"}
    (root / "images/d.xml").unlink()
    assert [image.ident for image in open_source(root).read().images] == ["a"]


def test_of_parts_that_are_there_twice_the_first_counts():
    text = (
        b"<annotation><size><depth>3</depth></size><size><width>64</width><height>48</height><width>9</width></size>"
        b"<object><name>cat</name><name>dog</name><deleted>0</deleted>"
        b"<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax><xmin>5</xmin></bndbox></object>"
        b"<object><name>cat</name><deleted>1</deleted></object>"
        b"<object><name>cow</name><bndbox><xmin>1.5</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object>"
        b"</annotation>"
    )
    found = parse_annotation(text, "a.xml")
    assert (found.width, found.height) == (64, 48)
    assert [(obj.name, obj.box, obj.number) for obj in found.objects] == [
        ("cat", (1.0, 2.0, 9.0, 8.0), 0),
        ("cow", (0.5, 2.0, 9.0, 8.0), 2),
    ]

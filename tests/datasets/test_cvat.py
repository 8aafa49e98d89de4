from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import RAISE_ERRORS, CollectErrors
from singleshot.datasets.readers import cvat
from singleshot.datasets.readers.shapes import surround_ellipse, surround_rotated_box
from singleshot.datasets.tree import open_tree
from singleshot.errors import DataError

MADE = ("train", "val", "test", "trainval")
BOX = '<box label="cat" occluded="0" xtl="1.5" ytl="2" xbr="11" ybr="12.25" z_order="0"></box>'


def image(name="a.png", body=BOX, more='width="64" height="48"'):
    return f'  <image id="0" name="{name}" {more}>\n{body}\n  </image>\n'


def xml(*images, labels=(), head='<?xml version="1.0" encoding="utf-8"?>\n'):
    said = "".join(f"<label><name>{name}</name><color>#fff</color>{more}</label>" for name, more in labels)
    meta = f"<meta><task><id>1</id><name>task</name><labels>{said}</labels></task></meta>"
    return f"{head}<annotations>\n<version>1.1</version>{meta}\n{''.join(images)}</annotations>\n"


@pytest.fixture
def read(folder):
    """read(body of an image): its objects and the findings."""

    def make(body, **more):
        found = CollectErrors()
        raw = open_source(folder({"annotations.xml": xml(image(body=body, **more))})).read(None, found)
        return raw.images[0].objects, found.findings

    return make


# ---------------------------------------------------------------------------------------------- shapes


def test_the_shared_case(shared):
    raw = open_source(shared / "cases/cvat-images-xml").read()
    assert raw.form == "cvat"
    assert raw.class_names == ("cat",)
    assert raw.declared
    assert [(Path(im.path).name, im.width, im.height) for im in raw.images] == [("a.jpg", 64, 48), ("b.jpg", 64, 48)]
    assert [[(o.name, o.box) for o in im.objects] for im in raw.images] == [[("cat", (9, 7.5, 40, 36.25))], []]


SHAPES = {
    "box": (BOX, (1.5, 2, 11, 12.25)),
    "box of half a turn": ('<box label="cat" xtl="1" ytl="2" xbr="11" ybr="6" rotation="180.0"/>', (1, 2, 11, 6)),
    "box of a quarter": ('<box label="cat" xtl="10" ytl="10" xbr="20" ybr="14" rotation="90"/>', (13, 7, 17, 17)),
    "box turned out of the image": (
        '<box label="cat" xtl="0" ytl="10" xbr="10" ybr="30" rotation="90"/>',
        (0, 15, 15, 25),
    ),
    "polygon": ('<polygon label="cat" points="5.0,1;9,8.5;2,6"/>', (2, 1, 9, 8.5)),
    "polyline": ('<polyline label="cat" points="5,1;9,8"></polyline>', (5, 1, 9, 8)),
    "ellipse": ('<ellipse label="cat" cx="20" cy="20" rx="5" ry="3"/>', (15, 17, 25, 23)),
    "turned ellipse": ('<ellipse label="cat" cx="20" cy="20" rx="5" ry="3" rotation="270"/>', (17, 15, 23, 25)),
    "mask": ('<mask label="cat" rle="1, 2, 3" left="4" top="5" width="6" height="7"/>', (4, 5, 10, 12)),
    "cuboid": (
        "<cuboid label='cat' "
        + " ".join(
            f'x{c}{k}="{x}" y{c}{k}="{y}"'
            for c, k, x, y in (
                ("tl", 1, 5, 6),
                ("bl", 1, 5, 20),
                ("tr", 1, 9, 6),
                ("br", 1, 9, 21),
                ("tl", 2, 7, 4),
                ("bl", 2, 7, 18),
                ("tr", 2, 12, 4),
                ("br", 2, 12, 18),
            )
        )
        + "/>",
        (5, 4, 12, 21),
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes_become_boxes(read, case):
    body, box = SHAPES[case]
    objects, found = read(body)
    assert [f.kind for f in found] == ["shapes-cut"] * ("out of the image" in case)
    np.testing.assert_allclose(objects[0].box, box, atol=1e-9)
    assert (objects[0].name, objects[0].line) == ("cat", 5)


@given(*[st.floats(-50, 50)] * 2, *[st.floats(0.5, 40)] * 2, st.floats(-720, 720))
def test_turned_shapes_against_their_points(x, y, width, height, degrees):
    turn = math.radians(degrees)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    corners = np.array([(a * width / 2, b * height / 2) for a in (-1, 1) for b in (-1, 1)]) @ matrix.T
    box = surround_rotated_box((x - width / 2, y - height / 2, x + width / 2, y + height / 2), degrees)
    np.testing.assert_allclose(box, np.concatenate([corners.min(0), corners.max(0)]) + np.tile([x, y], 2), atol=1e-9)
    angles = np.linspace(0, 2 * math.pi, 2001)
    edge = np.stack([width * np.cos(angles), height * np.sin(angles)], 1) @ matrix.T
    round_box = surround_ellipse(x, y, width, height, degrees)
    np.testing.assert_allclose(round_box, np.concatenate([edge.min(0), edge.max(0)]) + np.tile([x, y], 2), atol=1e-3)


def test_what_is_no_angle_makes_a_box_that_is_none() -> None:
    for box in (surround_ellipse(1, 2, 3, 4, math.inf), surround_rotated_box((1, 2, 3, 4), math.degrees(1e308))):
        assert all(map(math.isnan, box))


BAD_SHAPES = {
    "other": ('<hexagon label="cat"/>', "<hexagon> is no known shape; want box, polygon"),
    "no label": ('<box xtl="1" ytl="2" xbr="3" ybr="4"/>', "box 1: has no label; say what it is"),
    "blank label": ('<box label=" " xtl="1" ytl="2" xbr="3" ybr="4"/>', "box 1: has no label"),
    "no side": ('<box label="cat" xtl="1" ytl="2" xbr="3"/>', "box 1 (cat): has no ybr; add it"),
    "text": ('<box label="cat" xtl="1" ytl="2" xbr="3" ybr="1_0"/>', "ybr '1_0' is not a number"),
    "rotation": ('<box label="cat" xtl="1" ytl="2" xbr="3" ybr="4" rotation="inf"/>', "rotation 'inf'; want degrees"),
    "two points": ('<polygon label="cat" points="1,2;3,4"/>', "has 2 points; want at least 3"),
    "no points": ('<polygon label="cat" points=""/>', "has 0 points; want at least 3"),
    "points missing": ('<polyline label="cat"/>', "has 0 points; want at least 2"),
    "three numbers": ('<polygon label="cat" points="1,2,3;4,5;6,7"/>', "point '1,2,3'; want x,y;x,y;..."),
    "mask": ('<mask label="cat" rle="1" left="1" top="x" width="2" height="3"/>', "top 'x' is not a number"),
    "flag": (f'{BOX[:-6]}<attribute name="difficult">very</attribute></box>', "difficult 'very'; want true or false"),
    "nan": ('<box label="cat" xtl="nan" ytl="2" xbr="3" ybr="4"/>', "box [nan, 2, 3, 4] is not a place"),
    "endless": ('<ellipse label="cat" cx="9" cy="9" rx="1e999" ry="3" rotation="45"/>', "is not a place"),
    "flat": ('<box label="cat" xtl="3" ytl="2" xbr="3" ybr="4"/>', "has no area"),
    "outside": ('<box label="cat" xtl="3" ytl="2" xbr="99" ybr="4"/>', "lies outside the image of 64 x 48"),
    "all outside": ('<box label="cat" xtl="80" ytl="2" xbr="99" ybr="4" rotation="7"/>', "lies outside the image"),
}


@pytest.mark.parametrize("case", BAD_SHAPES)
def test_bad_shapes_are_refused_with_their_line(folder, one_line, case):
    body, message = BAD_SHAPES[case]
    root = folder({"annotations.xml": xml(image(body=f"{BOX}\n{body}"))})
    said = one_line(open_dataset, root)
    assert "annotations.xml:6: a.png: " in said
    assert message in said


def test_bad_shapes_are_all_reported_and_the_others_read(read):
    bodies = [BAD_SHAPES["no side"][0], BOX, BAD_SHAPES["no label"][0], BOX.replace("cat", "dog")]
    objects, found = read("\n".join(bodies))
    assert [(f.kind, f.line, f.number) for f in found] == [
        ("annotation-malformed", 5, 0),
        ("annotation-malformed", 7, 2),
    ]
    assert [(o.name, o.line, o.number) for o in objects] == [("cat", 6, 1), ("dog", 8, 3)]


def test_points_are_passed_over_and_counted(read):
    points = '<points label="cat" points="1,2;3,4"/>\n<skeleton label="cat"><points label="x"/></skeleton>'
    objects, found = read(f"{points}\n{BOX}")
    assert len(objects) == 1
    assert [(f.kind, f.message) for f in found] == [
        ("shapes-passed-over", "1 points, 1 skeleton: no objects with a box, passed over")
    ]


def test_difficult_and_crowd_are_attributes(read):
    def with_attributes(*pairs):
        inner = "".join(f'<attribute name="{name}">{text}</attribute>' for name, text in pairs)
        return f"{BOX[:-6]}{inner}</box>"

    pairs = (
        [("Difficult", "true"), ("colour", "very red")],
        [("is_crowd", "1")],
        [("difficult", "False"), ("crowd", "")],
    )
    objects, found = read("\n".join(with_attributes(*one) for one in pairs))
    assert not found
    assert [(o.difficult, o.crowd) for o in objects] == [(True, False), (False, True), (False, False)]


def test_tags_of_whole_images_are_passed_over_and_said(read, caplog):
    objects, found = read(f'<tag label="night" source="manual"></tag>{BOX}')
    assert not found
    assert len(objects) == 1
    assert "1 tag of whole images passed over" in caplog.text


# ---------------------------------------------------------------------------------------------- classes


def test_classes_are_those_of_the_labels_in_their_order(folder):
    parent = "<type>points</type><parent>dog</parent>"
    labels = [("dog", ""), ("axe", "<type>rectangle</type><attribute><name>x</name></attribute>"),
              ("nose", parent), ("night", "<type>tag</type>"), (" cat ", "<type>any</type>")]  # fmt: skip
    root = folder({"annotations.xml": xml(image(), image("b.png", BOX.replace("cat", "new")), labels=labels)})
    assert open_source(root).read().class_names == ("dog", "axe", "cat", "new")
    (root / "annotations.xml").write_text(xml(image(), image("b.png", BOX.replace("cat", "axe"))))
    raw = open_source(root).read()
    assert (raw.class_names, raw.declared) == (("axe", "cat"), False)


# ---------------------------------------------------------------------------------------------- splits


def subset(name, split):
    return image(name, more=f'subset="{split}" width="64" height="48"')


def test_subsets_are_splits(folder):
    root = folder(
        {"annotations.xml": xml(subset("a.png", "Train"), subset("b.png", "Validation"), image("c.png"))},
        ["images/Train/a.png", "images/Validation/b.png", "images/c.png"],
    )
    assert available_splits(root) == ("train", "validation", "default")
    raw = open_source(root).read()
    assert raw.splits == {"train": [0], "validation": [1], "default": [2]}
    assert not raw.made
    assert [Path(name).name for name in open_dataset(root, "val").names] == ["b.png"]


@pytest.mark.parametrize("name", ["default", "batch 1", ""])
def test_other_subsets_are_none(folder, name):
    root = folder({"annotations.xml": xml(subset("a.png", name), subset("b.png", name))})
    assert available_splits(root) == MADE
    assert open_source(root).read().made


def test_images_of_other_splits_need_not_be_there(folder):
    root = folder({"annotations.xml": xml(subset("a.png", "train"), subset("gone.png", "test"))})
    assert len(open_dataset(root, "train")) == 1
    with pytest.raises(
        DataError, match=r"annotations\.xml:7: image 1 \(gone\.png\): image 'gone\.png' is missing; add"
    ):
        open_dataset(root, "test")


def test_folders_of_splits(folder):
    root = folder(
        {"train/annotations.xml": xml(image()), "val/annotations.xml": xml(image(body=""))},
        ["train/images/a.png", "val/images/a.png"],
    )
    assert available_splits(root) == ("train", "val")
    raw = open_source(root).read()
    assert [image.ident for image in raw.images] == ["train/images/a", "val/images/a"]
    assert [len(image.objects) for image in raw.images] == [1, 0]


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("label", "picture", "name"),
    [
        ("annotations.xml", "a.png", "a.png"),
        ("annotations.xml", "images/a.png", "a.png"),
        ("annotations.xml", "deep/er/a.png", "C:\\data\\a.png"),
        ("annotations.xml", "images/sub/a.png", "sub/a.png"),
        ("annotations/annotations.xml", "images/a.png", "a.png"),
        ("cats/annotations.xml", "images/a.png", "a.png"),
        ("cats/annotations.xml", "cats/images/a.png", "a.png"),
        ("my export.XML", "a.png", "a.png"),
    ],
)
def test_where_file_and_images_may_lie(folder, label, picture, name):
    root = folder({label: xml(image(name))}, [picture])
    source = open_source(root)
    assert source.form == "cvat"
    assert [Path(im.path).relative_to(root).as_posix() for im in source.read().images] == [picture]


def test_a_named_file_is_one_split(folder):
    root = folder({"annotations/annotations.xml": xml(image())}, ["images/a.png"])
    source = open_source(root / "annotations/annotations.xml")
    assert source.form == "cvat"
    assert source.splits == ("annotations",)
    assert source.read("val").splits == {"val": [0]}


HEADS = {
    "no declaration": (b"<annotations><version>1.1", True),
    "comment": (b'<?xml version="1.0"?>\n<!-- made by <annotation> -->\n<annotations>', True),
    "mark": (b"\xef\xbb\xbf<?xml version='1.0'?><annotations/>", True),
    "utf-16": ("<annotations>".encode("utf-16"), True),
    "voc": (b"<annotation><folder>", False),
    "later": (b"<x><annotations>", False),
    "nothing": (b"", False),
}


@pytest.mark.parametrize("case", HEADS)
def test_it_is_known_by_its_root(case):
    head, want = HEADS[case]
    assert cvat.is_one(head) == want


def test_other_files_beside_are_passed_over(folder):
    files = {
        "annotations.xml": xml(image()),
        "._annotations.xml": b"\0\5\x16\7",
        "pom.xml": "<project/>",
        "x.json": "{}",
    }
    assert [Path(im.path).name for im in open_source(folder(files)).read().images] == ["a.png"]


def test_utf_16_is_read(folder):
    text = xml(image(body=BOX.replace("cat", "猫")), head='<?xml version="1.0" encoding="utf-16"?>\n')
    assert open_source(folder({"annotations.xml": text.encode("utf-16")})).read().class_names == ("猫",)


ENTITY = '<!DOCTYPE a [<!ENTITY x "y">]>\n'
BAD_FILES = {
    "video": (xml('<track id="0" label="cat"><box frame="0"/></track>'),
              'is "CVAT for video" (it has <track>); export it as "CVAT for images 1.1"'),
    "cut": (xml(image())[:-20], "is not XML (unclosed token"),
    "entities": (xml(image(), head=""), None),
    "depth": (xml("<x>" * 100_000), "holds elements within elements without end"),
    "latin": (xml(image()).replace("cat", "\xe4").encode("latin-1"), "is not XML (not well-formed"),
    "coding": (xml(image(), head='<?xml version="1.0" encoding="none"?>'), "is not XML that can be read (unknown"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(folder, one_line, case):
    text, message = BAD_FILES[case]
    if message is None:
        text, message = text.replace("</meta>", "</meta>&x;"), "is not XML (undefined entity"
    root = folder({"annotations.xml": text})
    assert f"annotations.xml: {message}" in one_line(open_dataset, root)
    found = CollectErrors()
    open_source(root).read(None, found)
    assert [f.kind for f in found.findings] == ["annotation-unreadable"]


def test_a_document_type_ends_the_reading(folder, one_line):
    root = folder({"annotations.xml": ENTITY + xml(image(), head="")})
    source = open_source(root / "annotations.xml")
    assert "annotations.xml: is not plain XML (it has a document type)" in one_line(source.read)


BAD_IMAGES = {
    "no name": ('<image id="1" width="64" height="48">', "image 1: has no name; export it again"),
    "width": ('<image id="1" name="b.png" width="6.5" height="48">', "image 1 (b.png): width '6.5'; want"),
    "height": ('<image id="1" name="b.png" width="64" height="-1">', "height '-1'; want the image's height in whole"),
    "out": ('<image id="1" name="../../b2.png" width="64" height="48">', "leaves the data set's folder"),
    "missing": ('<image id="1" name="c.png" width="64" height="48">', "image 'c.png' is missing; add the file"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_are_refused_with_their_line(folder, one_line, case):
    tag, message = BAD_IMAGES[case]
    root = folder({"annotations.xml": xml(image(), f"{tag}\n{BOX}</image>")})
    said = one_line(open_dataset, root)
    assert "annotations.xml:7: image 1" in said
    assert message in said
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert [f.line for f in found.findings] == [7]
    assert [len(im.objects) for im in raw.images] == [1] + [1] * (case in ("width", "height"))


def test_nothing_outside_is_opened(folder, tmp_path, write_image, one_line):
    write_image(tmp_path / "secret.png", 64, 48)
    root = folder({"annotations.xml": xml(image("secret.png"))}, [])
    (root / "secret.png").symlink_to(tmp_path / "secret.png")
    assert "a link that leads out of" in one_line(open_dataset, root)


def test_a_folder_that_leads_out_is_said_when_it_is_needed(folder, tmp_path, one_line):
    (tmp_path / "away").mkdir()
    root = folder({"annotations.xml": xml(image())})
    (root / "more").symlink_to(tmp_path / "away")
    (tmp_path / "away" / "x.txt").touch()
    assert cvat.FORM.sniff(open_tree(root))
    assert len(cvat.FORM.read(open_tree(root), "", None, RAISE_ERRORS).images) == 1
    (root / "train").symlink_to(tmp_path / "away")
    assert cvat.FORM.sniff(open_tree(root))
    said = one_line(cvat.FORM.read, open_tree(root), "", None, RAISE_ERRORS)
    assert "train: a link that leads out of" in said


def test_long_texts_take_no_time(folder):
    long = "&amp;" * 300_000
    text = xml(image(), labels=[(long, "")]).replace("a.png", "/".join("a" * 20_000) + "/a.png")
    raw = open_source(folder({"annotations.xml": text})).read()
    assert Path(raw.images[0].path).name == "a.png"
    assert len(raw.class_names[0]) < 20_000


def test_no_size_is_found_out_at_reading(folder):
    data = open_dataset(folder({"annotations.xml": xml(image(more=""))}))
    assert data.sizes.tolist() == [[0, 0]]
    assert data.sample(0).boxes_px.tolist() == [[1.5, 2, 11, 12.25]]

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import via

RECT = {"name": "rect", "x": 1, "y": 2, "width": 10, "height": 12.5}
HEADER = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"


def region(shape=None, **attributes):
    return {"shape_attributes": RECT if shape is None else shape, "region_attributes": attributes or {"class": "cat"}}


def entry(name="a.png", *regions):
    return {"filename": name, "size": 123, "regions": list(regions), "file_attributes": {}}


def plain(*entries):
    return {f"{one['filename']}{one['size']}": one for one in entries}


def project(*entries):
    return {"_via_settings": {"ui": {}}, "_via_img_metadata": plain(*entries), "_via_attributes": {"region": {}}}


def table(*entries, header=HEADER):
    """The same as VIA's CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header.split(","))
    for one in entries:
        if not one["regions"]:
            writer.writerow([one["filename"], 123, "{}", 0, 0, "{}", "{}"])
        for k, obj in enumerate(one["regions"]):
            cells = [json.dumps(obj[key]) for key in ("shape_attributes", "region_attributes")]
            writer.writerow([one["filename"], 123, "{}", len(one["regions"]), k, *cells])
    return text.getvalue()


WAYS = {
    "project": ("via_project.json", lambda *entries: json.dumps(project(*entries))),
    "list": ("via.json", lambda *entries: json.dumps({"_via_img_metadata": list(entries)})),
    "JSON": ("via_region_data.json", lambda *entries: json.dumps(plain(*entries), indent=1)),
    "CSV": ("via_region_data.csv", table),
    "CSV of VIA 1": ("via_region_data.csv", lambda *entries: table(*entries, header=f"#{HEADER}")),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_export_says_the_same(folder, way):
    name, write = WAYS[way]
    images = [entry("a.png", region(), region({**RECT, "x": 20}, **{"class": " dog "})), entry("b.png")]
    source = open_source(folder({name: write(*images)}))
    assert source.form == "via"
    raw = source.read()
    assert (raw.class_names, raw.made) == (("cat", "dog"), True)
    assert [[(o.name, o.box, o.number) for o in im.objects] for im in raw.images] == [
        [("cat", (1, 2, 11, 14.5), 0), ("dog", (20, 2, 30, 14.5), 1)],
        [],
    ]
    assert [o.line for o in raw.images[0].objects] == ([2, 3] if "CSV" in way else [None, None])
    assert open_dataset(source.tree.root, "trainval").sample(0).boxes_px[0].tolist() == [1, 2, 11, 14.5]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_texts_with_a_mark_are_read_by_it(folder, way, encoding):
    name, write = WAYS[way]
    text = write(entry("a.png", region(**{"class": "猫"}))).encode(encoding)
    assert open_source(folder({name: text})).read().class_names == ("猫",)


def test_regions_of_via_1_are_in_braces(folder):
    one = entry("a.png", region())
    one["regions"] = {"0": one["regions"][0], "1": region(**{"class": "dog"})}
    raw = open_source(folder({"x.json": json.dumps(plain(one))})).read()
    assert [o.name for o in raw.images[0].objects] == ["cat", "dog"]


SHAPES = {
    "rect": (RECT, (1, 2, 11, 14.5)),
    "texts": ({"name": "rect", "x": "1", "y": "2", "width": "10", "height": "12.5"}, (1, 2, 11, 14.5)),
    "polygon": ({"name": "polygon", "all_points_x": [5, 9, 2], "all_points_y": [1, 8.5, 6]}, (2, 1, 9, 8.5)),
    "polyline": ({"name": "polyline", "all_points_x": [5, 9], "all_points_y": [1, 8]}, (5, 1, 9, 8)),
    "circle": ({"name": "circle", "cx": 20, "cy": 20, "r": 5}, (15, 15, 25, 25)),
    "ellipse": ({"name": "ellipse", "cx": 20, "cy": 20, "rx": 5, "ry": 3}, (15, 17, 25, 23)),
    "turned ellipse": (
        {"name": "ellipse", "cx": 20, "cy": 20, "rx": 5, "ry": 3, "theta": math.pi / 2},
        (17, 15, 23, 25),
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes_become_boxes(folder, case):
    shape, box = SHAPES[case]
    raw = open_source(folder({"x.json": json.dumps(plain(entry("a.png", region(shape))))})).read()
    np.testing.assert_allclose(raw.images[0].objects[0].box, box, atol=1e-9)


# ---------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("attributes", "want"),
    [
        ([{"fruit": "apple"}], "apple"),
        ([{"shapes": "apple"}], "apple"),  # as LabelMe calls its list
        ([{"colour": "red", "Label": "apple"}], "apple"),
        ([{"type": "round", "name": "apple"}], "apple"),
        ([{"name": "x", "class": "apple"}], "apple"),
        ([{"fruit": {"apple": True, "pear": False}}], "apple"),
        ([{"class": 7}], "7"),
        ([{}], "object"),
    ],
)
def test_which_attribute_is_the_class(folder, attributes, want):
    regions = [{"shape_attributes": RECT, "region_attributes": one} for one in attributes]
    raw = open_source(folder({"x.json": json.dumps(plain(entry("a.png", *regions)))})).read()
    assert raw.class_names == (want,)


def test_a_class_that_nobody_wrote_is_said(folder, caplog):
    one = {"shape_attributes": RECT, "region_attributes": {}}
    open_source(folder({"x.json": json.dumps(plain(entry("a.png", one)))})).read()
    assert "x.json: names no class, all its objects are of the class 'object'" in caplog.text


def test_several_attributes_of_which_none_is_the_class(folder, one_line):
    root = folder({"x.json": json.dumps(plain(entry("a.png", region(fruit="apple", colour="red"))))})
    said = one_line(open_source(root).read)
    assert "x.json: regions have several attributes (fruit, colour); call the one that is the class 'class'" in said


def test_attributes_that_always_agree_are_one(folder, caplog):
    both = region(inseto="kudzu", insect=" kudzu ")
    one = region(insect="moth")
    with caplog.at_level("INFO"):
        raw = open_source(folder({"x.json": json.dumps(plain(entry("a.png", both, one)))})).read()
    assert [obj.name for obj in raw.images[0].objects] == ["kudzu", "moth"]
    assert "the attributes inseto, insect always agree" in caplog.text


def test_attributes_of_different_regions_or_values_are_not_one(folder, one_line):
    apart = folder({"x.json": json.dumps(plain(entry("a.png", region(a="x"), region(b="x"))))})
    assert "several attributes (a, b)" in one_line(open_source(apart).read)
    (apart / "x.json").write_text(json.dumps(plain(entry("a.png", region(a="x", b="x"), region(a="x", b="y")))))
    assert "the class 'class' (one region has a 'x', b 'y')" in one_line(open_source(apart).read)


def test_points_are_passed_over_and_counted(folder):
    point = region({"name": "point", "cx": 1, "cy": 2})
    for content in (
        json.dumps(plain(entry("a.png", region(), point, point))),
        json.dumps(project3(mark(2, 1, 2, 3, 4), mark(1, 5, 5), mark(1, 6, 6))),
    ):
        found = CollectErrors()
        raw = open_source(folder({"x.json": content})).read(None, found)
        assert [(f.kind, f.message) for f in found.findings] == [
            ("shapes-passed-over", "2 point: no objects with a box, passed over")
        ]
        assert len(raw.images[0].objects) == 1


# ---------------------------------------------------------------------------------------------- splits, files


def test_folders_are_splits(folder):
    name = "via_region_data.json"
    root = folder(
        {
            f"train/{name}": json.dumps(plain(entry("a.png", region()))),
            f"val/{name}": json.dumps(plain(entry("a.png"))),
        },
        ["train/a.png", "val/a.png"],
    )
    assert available_splits(root) == ("train", "val")
    raw = open_source(root).read()
    assert raw.splits == {"train": [0], "val": [1]}
    assert [Path(im.path).relative_to(root).as_posix() for im in raw.images] == ["train/a.png", "val/a.png"]


HEADS = {
    "project": (json.dumps(project()), True),
    "plain": (json.dumps(plain(entry())), True),
    "csv": (table(), True),
    "csv with a mark": ("\ufeff" + table(), True),
    "labelme": ('{"shapes": [], "filename": "regions", "regions": []}', False),
    "coco": ('{"images": [], "annotations": [], "categories": []}', False),
    "csv of boxes": ("filename,xmin,ymin,xmax,ymax,class\n", False),
    "nothing": ("", False),
}


@pytest.mark.parametrize("case", HEADS)
def test_it_is_known_by_its_keys(case):
    text, want = HEADS[case]
    assert via.is_one(text.encode()) == want


# ---------------------------------------------------------------------------------------------- VIA 3


def project3(*marks, options=None, **more):
    """A project of VIA 3 with the views 1 (a.png), 2 (b.png) and 3 (a video)."""
    files = {"1": {"fid": "1", "fname": "a.png", "type": 2, "loc": 1, "src": "a.png"}, "2": {"fid": 2, "src": "b.png"},
             "3": {"fid": "3", "fname": "x.mp4", "type": 4}}  # fmt: skip
    views = {"1": {"fid_list": ["1"]}, "2": {"fid_list": [2]}, "3": {"fid_list": ["3"]}, "4": {"fid_list": []}}
    head = {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.2", "vid_list": ["1", "2", "3"]}
    attribute = {"1": {"aname": "class", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": options or {}}}
    metadata = {f"1_{k}": mark for k, mark in enumerate(marks)}
    return {
        "project": head,
        "config": {},
        "attribute": attribute,
        "file": files,
        "metadata": metadata,
        "view": views,
        **more,
    }


def mark(*xy, vid="1", label="cat", z=()):
    return {"vid": vid, "flg": 0, "z": list(z), "xy": list(xy), "av": {"1": label}}


SHAPES_3 = {
    "rect": ((2, 1, 2, 10, 12.5), (1, 2, 11, 14.5)),
    "circle": ((3, 20, 20, 5), (15, 15, 25, 25)),
    "ellipse": ((4, 20, 20, 5, 3), (15, 17, 25, 23)),
    "line": ((5, 1, 2, 3, 9), (1, 2, 3, 9)),
    "polygon": ((7, 5, 1, 9, 8.5, 2, 6), (2, 1, 9, 8.5)),
    "outermost points": ((8, 5, 1, 9, 4, 5, 8, 2, 3), (2, 1, 9, 8)),
}


@pytest.mark.parametrize("case", SHAPES_3)
def test_shapes_of_via_3(folder, case):
    xy, box = SHAPES_3[case]
    source = open_source(folder({"via_project.json": json.dumps(project3(mark(*xy)))}))
    assert source.form == "via"
    raw = source.read()
    assert [[(o.name, o.box) for o in im.objects] for im in raw.images] == [[("cat", box)], []]


def test_choices_of_via_3_by_their_text_and_marks_that_are_no_regions(folder, caplog):
    marks = [mark(2, 1, 2, 3, 4, label="0"), mark(label="whole file"), mark(2, 1, 2, 3, 4, vid="3"),
             mark(2, 1, 2, 3, 4, z=[1.5]), mark(2, 5, 6, 7, 8, vid="2", label="1")]  # fmt: skip
    root = folder({"x.json": json.dumps(project3(*marks, options={"0": "cat", "1": "dog"}))})
    raw = open_source(root).read()
    assert [[(o.name, o.box) for o in im.objects] for im in raw.images] == [
        [("cat", (1, 2, 4, 6))],
        [("dog", (5, 6, 12, 14))],
    ]
    assert "marks that are no region of an image are passed over: 3" in caplog.text


BAD_3 = {
    "short": (mark(2, 1, 2, 3), "height is missing; want a number of pixels"),
    "odd": (mark(7, 1, 2, 3, 4, 5), "has 3 numbers in all_points_x, 2 in all_points_y"),
    "shape": (mark(9, 1, 2), "its shape is 'shape 9'; want rect"),
    "large shape": (mark(10**400, 1, 2), "its shape is 'an unknown shape'"),
    "text": ({**mark(), "xy": "x"}, "shape_attributes is 'x'"),
    "no values": ({**mark(2, 1, 2, 3, 4), "av": 7}, "attribute class is missing; say what it is"),
}


@pytest.mark.parametrize("case", BAD_3)
def test_bad_regions_of_via_3(folder, one_line, case):
    obj, message = BAD_3[case]
    root = folder({"x.json": json.dumps(project3(mark(2, 1, 2, 3, 4), obj))})
    said = one_line(open_source(root).read)
    assert "x.json: a.png: region 1" in said
    assert message in said


@pytest.mark.parametrize("key", ["attribute", "file", "view", "metadata"])
@pytest.mark.parametrize("value", [None, 7, [1], {"1": None}, {"1": {}}, {"1": {"fid_list": [[1]], "vid": [1]}}])
def test_a_spoilt_project_of_via_3_ends_in_findings(folder, key, value):
    found = CollectErrors()
    content = project3(mark(2, 1, 2, 3, 4), **{key: value})
    open_source(folder({"x.json": json.dumps(content)})).read(None, found)


# ---------------------------------------------------------------------------------------------- mistakes


BAD = {
    "kind": (region({"name": "hexagon"}), "its shape is 'hexagon'; want rect, polygon"),
    "kind of lists": (region({"name": [["x"]]}), "its shape is a list"),
    "no kind": (region({"x": 1}), "its shape is missing"),
    "no x": (region({"name": "rect", "y": 1, "width": 2, "height": 3}), "x is missing; want a number of pixels"),
    "text": (region({**RECT, "width": "wide"}), "width is 'wide'"),
    "truth": (region({**RECT, "height": True}), "height is True"),
    "theta": (region({"name": "ellipse", "cx": 1, "cy": 2, "rx": 3, "ry": 4, "theta": math.inf}), "theta is inf"),
    "one list": (region({"name": "polygon", "all_points_x": [1, 2, 3]}), "all_points_y is no list of numbers"),
    "two lists": (
        region({"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1]}),
        "has 3 numbers in all_points_x, 1 in all_points_y",
    ),
    "two corners": (
        region({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}),
        "a polygon with 2 points; want at least 3",
    ),
    "no class": (region(other="x"), "attribute class is missing; say what it is"),
    "blank class": (region(**{"class": " "}), "attribute class is ' '"),
    "two boxes ticked": (region(**{"class": {"a": True, "b": True}}), "attribute class is braces"),
    "attributes of text": ({"shape_attributes": RECT, "region_attributes": "x"}, "attribute class is 'x'"),
    "shape of text": ({"shape_attributes": "x", "region_attributes": {"class": "cat"}}, "shape_attributes is 'x'"),
    "nan": (region({**RECT, "x": math.nan}), "box [nan, 2, nan, 14.5] is not a place"),
    "beyond": (region({**RECT, "x": 10**400}), "is not a place"),
    "flat": (region({**RECT, "width": 0}), "has no area"),
    "half a character": (region(**{"class": "\ud800"}), "attribute class is '"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("way", ["JSON", "CSV"])
def test_bad_regions_are_refused_by_their_place(folder, one_line, way, case):
    obj, message = BAD[case]
    name, write = WAYS[way]
    root = folder({name: write(entry("a.png", region(), obj))})
    said = one_line(open_dataset, root, "trainval")
    assert "a.png: region 1" in said
    assert message in said
    assert (f"{name}:3: " in said) == (way == "CSV")


def test_a_region_that_is_none(folder, one_line):
    root = folder({"x.json": json.dumps(plain(entry("a.png", region(), 7)))})
    assert "x.json: a.png: region 1 (cat): shape" not in one_line(open_source(root).read)
    assert "x.json: a.png: region 1: shape_attributes is 7; want" in one_line(open_source(root).read)


BAD_IMAGES = {
    "no braces": ("a.png", "image 1: is 'a.png'; want an image in braces"),
    "no name": ({"regions": []}, "image 1: filename is missing; want the name of a file"),
    "blank": (entry(" "), "image 1: filename is ' '"),
    "regions of text": ({"filename": "b.png", "regions": "x"}, "image 1 (b.png): regions is 'x'; want a list"),
    "missing": (entry("gone.png"), "image 1 (gone.png): image 'gone.png' is missing"),
    "address": (entry("https://host/gone.png"), "leaves the data set's folder"),
    "out": (entry("../gone.png"), "leaves the data set's folder"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_are_refused_by_their_place(folder, one_line, case):
    item, message = BAD_IMAGES[case]
    root = folder({"x.json": json.dumps({"_via_img_metadata": [entry("a.png", region()), item]})})
    assert message in one_line(open_source(root).read)
    found = CollectErrors()
    assert len(open_source(root).read(None, found).images) == 1
    assert len(found.findings) == 1


def test_an_address_means_the_image_of_its_last_part(folder):
    root = folder({"x.json": json.dumps(plain(entry("https://host/pictures/a.png", region())))}, ["images/a.png"])
    assert [Path(im.path).name for im in open_source(root).read().images] == ["a.png"]


def test_lines_of_regions(folder, findings):
    text = json.dumps(plain(entry("a.png", region(), region({**RECT, "x": 60}))), indent=1)
    root = folder({"x.json": text})
    (found,) = findings(root)["box-outside"]
    starts = [at for at, line in enumerate(text.splitlines(), 1) if '"shape_attributes"' in line]
    assert (found.number, found.line) == (1, starts[1])
    assert via.line_of(text.encode(), 2) is None


def test_difficult_and_crowd_are_attributes_beside_the_class(folder, one_line):
    regions = [region(kind="cat", difficult="1"), region(kind="dog", IsCrowd={"yes": True, "no": False}),
               region(kind="cat", difficult="false", crowd="")]  # fmt: skip
    raw = open_source(folder({"x.json": json.dumps(plain(entry("a.png", *regions)))})).read()
    assert [(o.name, o.difficult, o.crowd) for o in raw.images[0].objects] == [
        ("cat", True, False), ("dog", False, True), ("cat", False, False)]  # fmt: skip
    root = folder({"x.json": json.dumps(plain(entry("a.png", region(kind="cat", difficult="very"))))})
    assert "region 0 (cat): difficult 'very'; want true or false" in one_line(open_source(root).read)
    alone = region(difficult="easy")  # the only attribute is the class, whatever it is called
    raw = open_source(folder({"x.json": json.dumps(plain(entry("a.png", alone)))})).read()
    assert [(o.name, o.difficult) for o in raw.images[0].objects] == [("easy", False)]


def test_a_class_called_as_a_key_of_another_form_changes_nothing(folder):
    text = json.dumps(plain(entry("a.png", region(**{"class": "shapes"}))))
    assert open_source(folder({"x.json": text})).read().class_names == ("shapes",)


BAD_FILES = {
    "cut": ("x.json", json.dumps(project(entry()))[:-5], "is not JSON: "),
    "depth": ("x.json", '{"_via_img_metadata": ' + "[" * 200_000, "is not JSON"),
    "number": ("x.json", '{"_via_img_metadata": 7}', "_via_img_metadata is 7; want VIA's images in braces"),
    "latin": (
        "x.csv",
        table(entry("a.png", region())).encode() + b"\xe4.png,1,{},0,0,{},{}\n",
        ":3: is not UTF-8",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(folder, one_line, case):
    name, text, message = BAD_FILES[case]
    root = folder({name: text})
    said = one_line(open_source(root).read)
    assert f"{name}{'' if message.startswith(':') else ': '}{message}" in said
    assert said.count(name) == 1
    found = CollectErrors()
    open_source(root).read(None, found)
    assert [f.kind for f in found.findings] == ["annotation-unreadable"]


BAD_ROWS = {
    "short": ("b.png,1", "x.csv:3: has 2 columns; want 7"),
    "no name": (" ,1,{},1,0,{},{}", "x.csv:3: filename ' '; want the name of a file"),
    "quotes": ('b.png,1,"{}"x,1,0,{},{}', "x.csv:3: is not CSV ("),
    "no JSON": ("b.png,1,{},1,0,{x},{}", "x.csv:3: b.png: region 0: shape_attributes is '{x}'"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_refused_with_their_line(folder, one_line, case):
    row, message = BAD_ROWS[case]
    root = folder({"x.csv": table(entry("a.png", region())) + row + "\n"})
    assert message in one_line(open_source(root).read)
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert [f.line for f in found.findings] == [3]
    assert len(raw.images[0].objects) == 1


def test_many_attributes_take_no_time(folder, one_line):
    regions = [region(**{f"k{i}": "x"}) for i in range(30_000)]
    root = folder({"x.json": json.dumps(plain(entry("a.png", *regions)))})
    assert "regions have several attributes (k0, k1, " in one_line(open_source(root).read)

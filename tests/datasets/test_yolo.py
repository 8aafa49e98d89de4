from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import yolo as module

NAMES = "names: [cat, dog]\n"


ROW = "0 0.5 0.5 0.5 0.5\n"


def plain(*rows, **files):
    """One image in images/ with these rows, in data.yaml's form."""
    return {"data.yaml": f"train: images\n{NAMES}", "images/a.png": "", "labels/a.txt": "\n".join(rows), **files}


@pytest.fixture
def opened(yolo):
    def make(*rows, clip_boxes=False, **files):
        return open_dataset(yolo(plain(*rows, **files)), clip_boxes=clip_boxes)

    return make


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
    "six": ("0 0.5 0.5 0.5 0.5 1.9", "object 1: 6 numbers; want"),
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


def test_polygons_over_the_edge_are_cut_and_counted(yolo, one_line):
    turned = "0 0.9 0.4 1.1 0.5 0.9 0.6 0.7 0.5"
    root = yolo({"images/a.png": "", "labels/a.txt": f"{turned}\n{turned}\n0 0.5 0.5 0.2 0.2", "classes.txt": "cat"})
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert [obj.box[2] for obj in raw.images[0].objects] == [1, 1, 0.6]
    assert [(f.kind, f.message[:33]) for f in found.findings] == [("shapes-cut", "2 polygons or turned boxes reach ")]
    assert open_dataset(root, "trainval").boxes_px[0].tolist() == pytest.approx([44.8, 19.2, 64, 28.8])
    (root / "labels/a.txt").write_text("0 1.2 1.2 1.3 1.2 1.3 1.4 1.2 1.4")
    said = one_line(open_dataset, root, "trainval")
    assert "points from x 1.2, y 1.2 to x 1.3, y 1.4 lies outside" in said
    (root / "labels/a.txt").write_text("0 0.95 0.5 0.3 0.2")
    assert "box 0.95 0.5 0.3 0.2 (centre, width, height) lies outside" in one_line(open_dataset, root, "trainval")

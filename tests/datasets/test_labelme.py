from __future__ import annotations

import json
import math
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import labelme as module
from singleshot.errors import DataError

MADE = ("train", "val", "test", "trainval")
BOX = {"id": 1, "image_id": 20, "category_id": 7, "bbox": [1, 2, 3, 4]}


def shape(points=((1, 2), (11, 12)), kind="rectangle", label="cat", **more):
    return {"label": label, "points": [list(p) for p in points], "shape_type": kind, "flags": {}, **more}


def label(*shapes, **more):
    """A label file as LabelMe writes it, of a.png (64 x 48)."""
    content = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": "a.png", "imageData": "AAAA"}
    return {**content, "imageHeight": 48, "imageWidth": 64, **more}


@pytest.fixture
def folder(tmp_path, write_image):
    """folder({name: content}): images (64 x 48, content unused) and label files, dicts as JSON."""

    def make(files, root=tmp_path / "set"):
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".json":
                data = content if isinstance(content, bytes) else json.dumps(content, indent=1).encode()
                path.write_bytes(data)
            elif path.suffix == ".txt":
                path.write_text(content)
            else:
                write_image(path, 64, 48)
        return root

    return make


@pytest.fixture
def read(folder):
    """read(shapes..., **content): the only image and the findings."""

    def make(*shapes, **more):
        found = CollectErrors()
        raw = open_source(folder({"a.png": "", "a.json": label(*shapes, **more)})).read(None, found)
        return raw, found.findings

    return make


# ---------------------------------------------------------------------------------------------- shapes


def test_an_image_with_its_objects(folder):
    shapes = [shape(label="dog"), shape(((30, 40), (20, 10)), label=" cat ")]
    data = open_dataset(folder({"a.png": "", "a.json": label(*shapes)}))
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == [1, 0]
    assert data.boxes_px.tolist() == [[1, 2, 11, 12], [20, 10, 30, 40]]
    assert data.sizes.tolist() == [[64, 48]]
    assert list(data.image_ids) == ["a"]
    assert not data.difficult.any()
    assert data.sample(0).image.shape == (48, 64, 3)


SHAPES = {
    "rectangle of four": (shape(((1, 2), (9, 2), (9, 7), (1, 7))), (1, 2, 9, 7)),
    "polygon": (shape(((5, 1), (9, 8), (2, 6)), "polygon"), (2, 1, 9, 8)),
    "no kind": (shape(((5, 1), (9, 8), (2, 6)), None), (2, 1, 9, 8)),
    "rotation": (shape(((5, 0), (10, 5), (5, 10), (0, 5)), "rotation"), (0, 0, 10, 10)),
    "linestrip": (shape(((5, 1), (9, 8), (6, 2)), "linestrip"), (5, 1, 9, 8)),
    "circle": (shape(((20, 20), (23, 24)), "circle"), (15, 15, 25, 25)),
    "mask, its last pixel inside": (shape(((3, 4), (9, 9)), "mask", mask="iVBOR"), (3, 4, 10, 10)),
    "outline of a mask": (shape(((3, 4), (9, 9), (5, 5)), "mask"), (3, 4, 9, 9)),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes_become_boxes(read, case):
    obj, box = SHAPES[case]
    raw, found = read(obj)
    assert not found
    assert raw.images[0].objects[0].box == box


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.floats(0, 64), st.floats(0, 48)), min_size=3, max_size=9))
def test_a_polygon_against_numpy(points):
    box = module._box(shape(points, "polygon"), pytest.fail)
    assert box is not None
    assert box == (*np.min(points, axis=0).tolist(), *np.max(points, axis=0).tolist())


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0, 2 * math.pi), st.floats(0.5, 40))
def test_a_circle_by_any_point_of_its_edge(x, y, angle, radius):
    edge = (x + radius * math.cos(angle), y + radius * math.sin(angle))
    box = module._box(shape(((x, y), edge), "circle"), pytest.fail)
    np.testing.assert_allclose(box, (x - radius, y - radius, x + radius, y + radius), atol=1e-9)


BAD_SHAPES = {
    "other": (shape(kind="hexagon"), "(cat): shape_type is 'hexagon'; want rectangle"),
    "kind of lists": (shape(kind=[["x"]]), "(cat): shape_type is a list"),
    "one corner": (shape(((1, 2),)), "(cat): a rectangle with 1 point; want at least 2"),
    "two corners": (shape(kind="polygon"), "(cat): a polygon with 2 points; want at least 3"),
    "no points": (shape((), "polygon"), "(cat): a polygon with 0 points"),
    "circle of three": (shape(((1, 2), (3, 4), (5, 6)), "circle"), "(cat): a circle with 3 points"),
    "text": (shape(((1, "2"), (3, 4))), "(cat): its points are not pairs of numbers"),
    "truth": (shape(((1, True), (3, 4))), "(cat): its points are not pairs"),
    "three numbers": (shape(((1, 2, 3), (3, 4, 5))), "(cat): its points are not pairs"),
    "points missing": ({"label": "cat", "shape_type": "rectangle"}, "(cat): its points are not pairs"),
    "no label": (shape(label=None), "object 1: label is missing; say what it is"),
    "blank label": (shape(label=" "), "object 1: label is ' '; say"),
    "label of lists": (shape(label=[[["x"]]]), "object 1: label is a list"),
    "half a character": (shape(label="\ud800"), "label is '"),
    "no shape": ([1, [2]], "object 1: is a list; want a shape in braces"),
    "null": (None, "object 1: is missing; want a shape"),
    "difficult": (shape(difficult="very"), "(cat): difficult is 'very'; want true or false"),
    "flags": (shape(flags={"crowd": 2}), "(cat): crowd is 2; want"),
    "flag of lists": (shape(flags={"crowd": {"x": []}}), "(cat): crowd is braces"),
    "list of flags": (shape(flags=["crowd"]), "(cat): flags is a list"),
    "nan": (shape(((1, math.nan), (3, 4))), "(cat): box [nan, nan, nan, nan] is not a place"),
    "endless": (shape(((1, 2), (math.inf, 4))), "(cat): box [1, 2, inf, 4] is not a place"),
    "beyond": (shape(((1, 2), (10**400, 4))), "is not a place"),
    "flat": (shape(((1, 2), (1, 9))), "(cat): box [1, 2, 1, 9] has no area"),
    "outside": (shape(((1, 2), (99, 9))), "lies outside the image of 64 x 48 pixels"),
}


@pytest.mark.parametrize("case", BAD_SHAPES)
def test_bad_shapes_are_refused(folder, one_line, case):
    obj, message = BAD_SHAPES[case]
    root = folder({"a.png": "", "a.json": label(shape(), obj)})
    said = one_line(open_dataset, root)
    assert "a.json: object 1" in said
    assert message in said


def test_bad_shapes_are_all_reported_with_their_numbers(read):
    raw, found = read(shape(kind="hexagon"), shape(), shape(label=""), shape(label="dog"))
    assert [(f.kind, f.number) for f in found] == [("annotation-malformed", 0), ("annotation-malformed", 2)]
    assert [(o.name, o.number) for o in raw.images[0].objects] == [("cat", 1), ("dog", 3)]


def test_what_is_no_object_is_passed_over_and_counted(read):
    points = [shape(((1, 2),), "point"), shape(((1, 2), (3, 4)), "points"), shape(kind="line")]
    others = [shape(kind="linestrip"), shape(label="__ignore__"), shape(label="_background_")]
    raw, found = read(*points, shape(), *others)
    assert len(raw.images[0].objects) == 1
    assert raw.class_names == ("cat",)
    (finding,) = found
    assert (finding.kind, finding.severity) == ("shapes-passed-over", "note")
    assert finding.message.startswith("1 point, 1 points, 2 line, 1 __ignore__, 1 _background_: no objects")


def test_shapes_of_one_label_and_group_are_one_object(read):
    parts = [shape(((1, 2), (5, 6)), group_id=0), shape(((20, 30), (25, 40)), group_id=0, flags={"difficult": True})]
    others = [shape(group_id=1), shape(group_id=None), shape(label="dog", group_id=0)]
    raw, found = read(*parts, *others)
    objects = raw.images[0].objects
    assert [obj.name for obj in objects] == ["cat", "cat", "cat", "dog"]
    assert (objects[0].box, objects[0].difficult, objects[0].number) == ((1, 2, 25, 40), True, 0)
    assert [f.kind for f in found] == ["shapes-joined"]


def test_a_group_of_all_shapes_of_a_label_is_no_object_in_parts(read):
    teeth = [shape(((x, 2), (x + 1, 6)), group_id=1) for x in range(7)]
    raw, found = read(*teeth, shape(), shape(label="dog", group_id=1))
    assert len(raw.images[0].objects) == 9
    assert found[0].message.startswith("7 shapes are in groups of more than 6, nearly all of their label")
    # Dashes of one road mark among those of others.
    raw, _ = read(*teeth, *(shape(group_id=group) for group in (2, 2, 3, 3)))
    assert len(raw.images[0].objects) == 3


@pytest.mark.parametrize(
    ("more", "want"),
    [
        ({}, (False, False)),
        ({"difficult": True}, (True, False)),
        ({"difficult": False, "flags": {"difficult": True, "other": "x"}}, (True, False)),
        ({"flags": {"crowd": 1}, "difficult": 0}, (False, True)),
        ({"flags": None, "difficult": None}, (False, False)),
    ],
)
def test_difficult_and_crowd(read, more, want):
    raw, found = read(shape(**more))
    assert not found
    assert (raw.images[0].objects[0].difficult, raw.images[0].objects[0].crowd) == want


@pytest.mark.parametrize("value", ["64", -1, 64.5, 10**7, [64], math.nan, True])
def test_a_senseless_size_is_refused(folder, one_line, value):
    root = folder({"a.png": "", "a.json": label(shape(), imageWidth=value)})
    assert "a.json: imageWidth is " in one_line(open_dataset, root)


def test_a_missing_size_is_found_out_at_reading(folder):
    data = open_dataset(folder({"a.png": "", "a.json": label(shape(), imageWidth=None)}))
    assert data.sizes.tolist() == [[0, 0]]
    assert data.sample(0).boxes_px.tolist() == [[1, 2, 11, 12]]


def test_line_of_a_shape():
    content = label(shape(), shape(label='"shapes": ['), shape(label="dog"))
    text = json.dumps(content, indent=1)
    lines = [module.line_of(text.encode(), k) for k in range(4)]
    assert lines[3] is None
    assert all(text.splitlines()[line - 1].strip() == "{" for line in lines[:3])
    assert "dog" in "".join(text.splitlines()[lines[2] :])
    assert "dog" not in "".join(text.splitlines()[lines[1] : lines[2]])
    assert module.line_of(b"{", 0) is None
    assert module.line_of(b'{"shapes": [' + b"[" * 100_000, 1) is None


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("told", ["a.png", r"..\imgs\a.png", "/home/me/a.png", "../../etc/a.png", "", None, 7,
                                  "x\0.png", "..", "gone.png", "https://host/a.png"])  # fmt: skip
def test_of_image_path_only_the_last_name_counts(folder, told):
    root = folder({"a.png": "", "a.json": label(shape(), imagePath=told)})
    assert [Path(name).name for name in open_dataset(root).names] == ["a.png"]


def test_image_path_decides_or_stands_in(folder, one_line):
    files = {"a.png": "", "a.jpg": "", "a.json": label(shape(), imagePath="a.jpg"),
             "b.json": label(shape(), imagePath="other.png"), "other.png": ""}  # fmt: skip
    root = folder(files)
    raw = open_source(root).read()
    assert [(Path(image.path).name, image.ident) for image in raw.images] == [("a.jpg", "a"), ("other.png", "b")]
    # A copy of an image with the copy of its JSON: its imagePath is still the first one's.
    folder({"c.png": "", "c.json": label(shape(), imagePath="a.jpg")})
    assert [Path(image.path).name for image in open_source(root).read().images] == ["a.jpg", "other.png", "c.png"]
    folder({"d.json": label(shape(), imagePath="other.png")})
    assert "d.json: other.png is labelled by b.json already" in one_line(open_source(root).read)


def test_a_label_without_its_image_is_reported(folder, one_line):
    found = CollectErrors()
    root = folder({"a.png": "", "a.json": label(shape()), "gone.json": label(shape(), imagePath="gone.png")})
    raw = open_source(root).read(None, found)
    assert [Path(image.path).name for image in raw.images] == ["a.png"]
    assert [(f.kind, Path(f.file).name) for f in found.findings] == [("image-missing", "gone.json")]
    assert "gone.json: neither its imagePath nor an image called gone" in one_line(open_dataset, root)


def test_images_without_labels_and_other_files_are_left_out(folder):
    root = folder({"a.png": "", "a.json": label(), "b.png": "", "settings.json": {"x": 1}, "labels.txt": "cat\n"})
    raw = open_source(root).read()
    assert [Path(image.path).name for image in raw.images] == ["a.png"]
    assert raw.images[0].objects == []
    assert open_dataset(root, class_names=["cat"]).ptr.tolist() == [0, 0]


BAD_FILES = {
    "cut": (b'{"shapes": [', "is not JSON: "),
    "empty": (b"", "is not JSON"),
    "latin": (b'{"shapes": [], "imagePath": "\xe4"}', "is not JSON that can be read"),
    "depth": (b'{"shapes": ' + b"[" * 200_000, "is not JSON that can be read"),
    "digits": (b'{"shapes": [' + b"9" * 5000 + b"]}", "is not JSON that can be read"),
    "a list": (b"[1]", 'has no list "shapes"'),
    "shapes of text": (b'{"shapes": "x"}', 'has no list "shapes"'),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(folder, one_line, case):
    data, message = BAD_FILES[case]
    root = folder({"a.png": "", "a.json": label(shape()), "b.png": "", "b.json": data})
    said = one_line(open_dataset, root)
    assert f"b.json: {message}" in said
    found = CollectErrors()
    assert len(open_source(root).read(None, found).images) == 1
    assert [f.kind for f in found.findings] == ["annotation-unreadable"]


def test_a_large_file_is_refused(folder, monkeypatch, one_line):
    root = folder({"a.png": "", "a.json": label(shape(), imageData="A" * 2**20)})
    assert len(open_dataset(root)) == 1
    monkeypatch.setattr(module, "MAX_JSON_BYTES", 2**20)
    assert "a.json: larger than 1 MB" in one_line(open_dataset, root)


# ---------------------------------------------------------------------------------------------- splits, telling


def test_folders_that_are_splits(folder):
    files = {"train/a.png": "", "train/a.json": label(shape(label="dog")),
             "valid/a.png": "", "valid/a.json": label(shape()), "notes/a.txt": "x"}  # fmt: skip
    root = folder(files)
    assert available_splits(root) == ("train", "valid")
    train, val = open_dataset(root), open_dataset(root, "val")
    assert train.class_names == val.class_names == ("cat", "dog")
    assert [train.labels.tolist(), val.labels.tolist()] == [[1], [0]]
    raw = open_source(root).read()
    assert raw.splits == {"train": [0], "valid": [1]}
    assert not raw.made
    with pytest.raises(DataError, match="no split 'test'"):
        open_dataset(root, "test")


def test_folders_of_splits_may_have_folders_of_parts(folder):
    parts = ("train/0/a", "train/1/a", "train/1/more/b", "val/c")
    files = {f"{name}.json": label(shape(), imagePath=f"{name[-1]}.png") for name in parts}
    root = folder({**files, **{f"{name}.png": "" for name in parts}, "train/notes/x.txt": "x"})
    raw = open_source(root).read()
    assert raw.splits == {"train": [0, 1, 2], "val": [3]}
    assert [image.ident for image in raw.images] == ["0/a", "1/a", "1/more/b", "c"]
    assert [image.path for image in raw.images] == [str(root / f"{name}.png") for name in parts]
    (root / "train/d.json").write_text(json.dumps(label(shape(), imagePath="d.png")))
    (root / "val/c.png").rename(root / "train/d.png")
    (root / "val/c.json").unlink()
    raw = open_source(root).read()  # and pairs of its own, without another split
    assert {name: len(at) for name, at in raw.splits.items()} == {"train": 4}


def test_without_splits_they_are_made(folder):
    names = [f"p {i} 猫" for i in range(20)]
    files = {f"{n}.JPG": "" for n in names} | {f"{n}.json": label(shape(), imagePath=f"{n}.JPG") for n in names}
    root = folder(files)
    assert available_splits(root) == MADE
    parts = {split: list(open_dataset(root, split).names) for split in MADE}
    assert [len(part) for part in parts.values()] == [16, 2, 2, 18]
    raw = open_source(root).read()
    assert raw.made
    assert {split: [raw.images[i].path for i in at] for split, at in raw.splits.items()} == parts


@pytest.mark.parametrize("key", ["shapes", "imageData"])
def test_one_file_is_enough_to_tell(folder, monkeypatch, key):
    first = label(shape())
    content = {key: first.pop(key), **first}
    content["imageData"] = "A" * 200_000
    root = folder({f"{n}.png": "" for n in range(50)} | {f"{n}.json": content for n in range(50)})
    calls = []
    whole = module.read_limited
    monkeypatch.setattr(module, "read_limited", lambda *args, **more: (calls.append(args), whole(*args, **more))[1])
    assert open_source(root).form == "labelme"
    assert len(calls) == 1


@pytest.mark.parametrize(
    "files",
    [
        {"a.png": "", "a.json": {"x": 1}},
        {"a.png": "", "a.json": b"no"},
        {"x/a.json": label()},
    ],
)
def test_what_is_no_labelme_folder(folder, one_line, files):
    said = one_line(open_dataset, folder(files))
    assert "no data set of a known form" in said
    assert "LabelMe" in said


def test_one_below_is_found_and_several_are_named(folder, one_line):
    root = folder({"x/a.png": "", "x/a.json": label(shape())})
    assert len(open_dataset(root)) == 1
    folder({"y/a.png": "", "y/a.json": label(shape(label="dog"))})
    assert "sets below: x (LabelMe, 1), y (LabelMe, 1); name one" in one_line(open_dataset, root)


def test_a_coco_file_among_labelled_images_is_coco(folder, coco):
    root = folder({"a.png": "", "b.png": "", "a.json": label(shape()), "train.json": coco([BOX])})
    assert open_source(root).form == "coco"
    assert available_splits(root) == ("train",)


@pytest.mark.parametrize("place", ["train/a.png", "train/a.json", "train"])
def test_links_that_leave_the_folder_are_refused(folder, tmp_path, one_line, place):
    root = folder({"train/a.png": "", "train/a.json": label(shape())})
    (root / place).rename(tmp_path / "outside")
    (root / place).symlink_to(tmp_path / "outside")
    assert "a link that leads out of" in one_line(open_dataset, root)


def test_a_remote_folder_is_read_the_same_way(folder):
    import fsspec

    root = folder({"it's ü.png": "", "it's ü.json": label(shape(), imagePath=r"C:\x\it's ü.png")})
    place = f"/labelme-{uuid.uuid4().hex}"
    for path in root.iterdir():
        fsspec.filesystem("memory").pipe(f"{place}/{path.name}", path.read_bytes())
    assert available_splits(f"memory:/{place}") == MADE
    data = open_dataset(f"memory:/{place}")
    assert data.boxes_px.tolist() == [[1, 2, 11, 12]]
    assert data.sample(0).image.shape == (48, 64, 3)


def isat(*objects):
    """A label file as ISAT writes it, of a.png."""
    info = {"description": "ISAT", "folder": "/x", "name": "a.png", "width": 64, "height": 48, "depth": 3, "note": ""}
    return {"info": info, "objects": list(objects)}


def isat_object(points, category="cat", group="", crowd=False):
    more = {"area": 1.0, "layer": 1.0, "bbox": [0, 0, 1, 1], "iscrowd": crowd, "note": ""}
    return {"category": category, "group": group, "segmentation": points, **more}


@pytest.mark.parametrize("place", ["", "annotations/"])
def test_isats_files_are_read(folder, place):
    square = [[16, 12], [48, 12], [48, 36]]
    parts = [isat_object([[1, 2], [5, 2], [5, 9]], "dog", 3), isat_object([[9, 2], [20, 2], [20, 9]], "dog", 3, True)]
    nothing = isat_object(square, "__background__")
    root = folder({"a.png": "", f"{place}a.json": isat(isat_object(square), nothing, *parts)})
    source, found = open_source(root), CollectErrors()
    (image,) = source.read(None, found).images
    assert (image.width, image.height) == (64, 48)
    assert [(obj.name, tuple(obj.box), obj.crowd) for obj in image.objects] == [
        ("cat", (16, 12, 48, 36), False),
        ("dog", (1, 2, 20, 9), True),
    ]
    assert source.line(image.file, 1) == (root / f"{place}a.json").read_text().split("__background__")[0].count("\n")


@pytest.mark.parametrize(
    ("objects", "said"),
    [([7], "is 7; want a shape in braces"), ([isat_object("x")], "its points are not pairs"),
     ([isat_object([[1, 2]] * 3, None)], "label is missing"), ([isat_object([[1, 2]] * 3, crowd="x")], "crowd is 'x'")],
)  # fmt: skip
def test_a_broken_object_of_isats_is_said(folder, objects, said):
    found = CollectErrors()
    open_source(folder({"a.png": "", "a.json": isat(*objects)})).read(None, found)
    assert said in found.findings[0].message

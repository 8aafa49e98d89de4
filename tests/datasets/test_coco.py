from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers.coco import MAX_JSON_BYTES, read_ids
from singleshot.errors import DataError
from singleshot.images import decode as image_module


def note(box, **changes):
    return {"id": 5, "image_id": 20, "category_id": 3, "bbox": box, "iscrowd": 0, **changes}


@pytest.fixture
def opened(tmp_path, coco, write_coco):
    """opened(annotations, clip_boxes=..., class_names=..., **changes of the JSON): the data set."""

    def make(annotations=(), clip_boxes=False, class_names=None, **changes):
        path = write_coco(tmp_path / "train.json", coco(annotations, **changes))
        return open_dataset(path, class_names=class_names, clip_boxes=clip_boxes)

    return make


def test_ids_become_labels_in_id_order_and_images_keep_the_files_order(opened):
    items = [note([1, 2, 3, 4], image_id=10, category_id=7), note([0.5, 0.25, 10, 20]), note([1, 1, 1, 1], area=0.5)]
    data = opened(items)
    assert data.class_names == ("dog", "cat")
    assert list(data.image_ids) == ["20", "10"]
    assert data.ptr.tolist() == [0, 2, 3]
    assert data.labels.tolist() == [0, 0, 1]
    assert data.boxes_px.tolist() == [[0.5, 0.25, 10.5, 20.25], [1, 1, 2, 2], [1, 2, 4, 6]]
    assert data.area.tolist() == [200, 0.5, 12]
    assert not data.difficult.any()
    types = ("sizes int32", "ptr int64", "boxes_px float32", "labels int64", "difficult bool", "crowd bool")
    for name, dtype in (t.split() for t in (*types, "area float32")):
        assert getattr(data, name).dtype == dtype, name


def test_no_annotations_at_all_is_a_data_set(opened):
    data = opened()
    assert (len(data), data.ptr.tolist(), data.boxes_px.shape) == (2, [0, 0, 0], (0, 4))
    assert data.sample(1).boxes_px.shape == (0, 4)


@given(st.lists(st.integers(0, 2**40), unique=True, min_size=1, max_size=6), st.data())
def test_contiguous_labels_against_sorting(tmp_path_factory, ids, data):
    folder = tmp_path_factory.mktemp("coco")
    (folder / "x.jpg").touch()
    chosen = data.draw(st.lists(st.sampled_from(ids), max_size=6))
    content = {
        "images": [{"id": "text id", "file_name": "./x.jpg", "width": 9, "height": 9}],
        "categories": [{"id": i, "name": f"n{i}"} for i in ids],
        "annotations": [{"image_id": "text id", "category_id": i, "bbox": [0, 0, 1, 1]} for i in chosen],
    }
    (folder / "x.json").write_text(json.dumps(content))
    found = open_dataset(folder / "x.json")
    assert [found.class_names[label] for label in found.labels] == [f"n{i}" for i in chosen]
    assert found.class_names == tuple(f"n{i}" for i in sorted(ids))


def test_given_classes_are_looked_up_by_name(opened, one_line):
    items = [note([1, 1, 2, 2])]
    assert opened(items, class_names=["x", "cat", "dog"]).labels.tolist() == [2]
    assert opened(items, class_names=["dog"]).class_names == ("dog",)  # no cat is annotated
    text = one_line(opened, items, class_names=["cat", "dogs"])
    assert "train.json: annotation 0 (id 5, dog): class 'dog'" in text
    assert "did you mean 'dogs'" in text


BAD_NOTES = {
    "image": (note([1, 1, 2, 2], image_id=99), r"annotation 0 \(id 5\): image_id 99 is not in images"),
    "image kind": (note([1, 1, 2, 2], image_id=[20]), r"annotation 0 \(id 5\): image_id \[20\]"),
    "category": (note([1, 1, 2, 2], category_id=1), r"annotation 0 \(id 5\): category_id 1 is not in categories"),
    "category kind": (
        note([1, 1, 2, 2], category_id="third"),
        r"annotation 0 \(id 5\): category_id 'third' is not",
    ),
    "no box": ({"id": 5, "image_id": 20, "category_id": 3}, r"annotation 0 \(id 5, dog\): bbox None; want the four"),
    "three": (note([1, 1, 2]), r"annotation 0 \(id 5, dog\): bbox \[1, 1, 2\]; want the four numbers"),
    "text": (note([1, 1, "2px", 2]), r"annotation 0 \(id 5, dog\): bbox .*; want the four numbers"),
    "true": (note([1, 1, True, 2]), r"annotation 0 \(id 5, dog\): bbox .*; want the four numbers"),
    "nan": (note([1, 1, float("nan"), 2]), r"annotation 0 \(id 5, dog\): bbox .*; want the four numbers"),
    "inf": (note([1, 1, float("inf"), 2]), r"annotation 0 \(id 5, dog\): bbox .* is not a place"),
    "huge": (note([1, 1, 10**400, 2]), r"annotation 0 \(id 5, dog\): bbox .* is not a place"),
    "flat": (
        note([1, 1, 0, 2]),
        r"annotation 0 \(id 5, dog\): bbox \[1, 1, 0, 2\] .* has no area",
    ),
    "turned": (note([9, 9, -2, 2]), r"annotation 0 \(id 5, dog\): .* has no area"),
    "tiny": (note([9, 9, 1e-12, 2]), r"annotation 0 \(id 5, dog\): .*"),
    "outside": (note([60, 9, 6.5, 2]), r"annotation 0 \(id 5, dog\): .* lies outside the image of 64 x 48 pixels"),
    "left": (note([-2.5, 9, 9, 2]), r"annotation 0 \(id 5, dog\): .* lies outside"),
    "crowd": (note([1, 1, 2, 2], iscrowd=2), r"annotation 0 \(id 5, dog\): iscrowd 2; want 0 or 1"),
    "area": (note([1, 1, 2, 2], area=-1), r"annotation 0 \(id 5, dog\): area -1; want"),
    "area kind": (note([1, 1, 2, 2], area="4 px"), r"annotation 0 \(id 5, dog\): area '4 px'; want"),
    "no object": (17, r"annotation 0: is of type int; want an object in braces"),
}


@pytest.mark.parametrize("case", BAD_NOTES)
def test_bad_annotations_are_refused_with_their_place(opened, case, one_line):
    item, message = BAD_NOTES[case]
    with pytest.raises(DataError, match=r"train\.json: " + message):
        opened([item])
    one_line(opened, [item])


def test_numbers_as_texts_and_ids_as_fractions_are_read(opened):
    item = note(["1", "1.5", "2", "2"], area="4", image_id="20", category_id=3.0, iscrowd=None)
    same = note([1, 1.5, 2, 2], area=4)
    assert opened([item]).boxes_px.tolist() == opened([same]).boxes_px.tolist()
    assert opened([item]).labels.tolist() == opened([same]).labels.tolist()


def test_a_polygon_without_a_box_is_surrounded(opened):
    bare = {"id": 5, "image_id": 20, "category_id": 3, "segmentation": [[1, 2, 9, 4, 3, 8], [2, 1, 3, 1, 3, 2]]}
    assert opened([bare]).boxes_px.tolist() == [[1, 1, 9, 8]]


IMAGE = {"id": 20, "file_name": "a.png", "width": 64, "height": 48}
CAT = {"id": 7, "name": "cat"}
BAD_LISTS = {
    "image twice": ({"images": [IMAGE, IMAGE]}, r"image 1: id 20 is image 0's already"),
    "image id": ({"images": [{**IMAGE, "id": 1.5}]}, r"image 0: id 1.5; want"),
    "no image id": ({"images": [{"file_name": "a.png"}]}, r"image 0: id None; want"),
    "no name": ({"images": [{"id": 20}]}, r"image 0 \(id 20\): file_name None; want a name"),
    "surrogate": ({"images": [{"id": 20, "file_name": "\ud800.png"}]}, r"image 0 \(id 20\): file_name"),
    "side": ({"images": [{**IMAGE, "width": "64px"}]}, r"image 0 \(a\.png\): width '64px'; want"),
    "minus": ({"images": [{**IMAGE, "height": -1}]}, r"image 0 \(a\.png\): height -1; want"),
    "no images": ({"images": []}, r"list of images is empty"),
    "no classes": ({"categories": []}, r"list of categories is empty"),
    "class twice": ({"categories": [CAT, {"id": 7, "name": "x"}]}, r"category 1 \(x\): id 7 is 'cat' already"),
    "class id": ({"categories": [{"id": "7th", "name": "cat"}]}, r"category 0: id '7th'; want a whole number"),
    "class name": ({"categories": [{"id": 7, "name": ""}]}, r"category 0 \(id 7\): name ''; want a name"),
    "not COCO": ({"images": None, "categories": 3}, r"is not COCO: no list images, categories \(it holds images, ann"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_bad_images_and_categories_are_refused(opened, case, one_line):
    changes, message = BAD_LISTS[case]
    with pytest.raises(DataError, match=r"train\.json: .*" + message):
        opened(**changes)
    one_line(opened, **changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [],\n "x" 3}', r"x\.json: is not JSON: .* at line 2 column 6"),
        ("", r"x\.json: is not JSON: .* at line 1 column 1"),
        ("[1]", r"x\.json: holds a list; want a COCO object with images, annotations, categories"),
        ("[" * 100_000, r"x\.json: is not JSON"),
        ("1" * 10_000, r"x\.json: is not JSON that can be read"),
        ("{}", r"is not COCO: no list images, annotations, categories \(it holds nothing\)"),
        ('"\udcff"', r"x\.json: is not JSON that can be read"),
    ],
)
def test_what_is_no_coco_json_is_refused(tmp_path, text, message, one_line):
    (tmp_path / "x.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "x.json")
    one_line(open_dataset, tmp_path / "x.json")


def test_a_json_beyond_the_limit_is_refused(tmp_path, monkeypatch, coco, write_coco, one_line):
    assert MAX_JSON_BYTES == 2 * 2**30
    monkeypatch.setattr("singleshot.datasets.readers.coco.MAX_JSON_BYTES", 2**20)
    path = write_coco(tmp_path / "train.json", coco(info="x" * 2**20))
    assert "train.json: larger than 1 MB" in one_line(open_dataset, path)
    assert image_module.MAX_FILE_BYTES == 256 * 2**20


def test_one_file_under_two_ids_is_said(tmp_path, coco, write_coco, caplog):
    images = [{"id": ident, "file_name": "a.png", "width": 64, "height": 48} for ident in (3, 17)]
    path = write_coco(tmp_path / "train.json", coco([note([1, 2, 3, 4], image_id=17)], images=images))
    assert len(open_dataset(path)) == 2
    assert "1 image is listed twice: a.png is 3 and 17; join" in caplog.text
    problems = CollectErrors()
    open_source(path).read(None, problems)
    assert [one.kind for one in problems.findings] == ["image-listed-twice"]


def test_ids_are_kept(tmp_path, coco, write_coco):
    content = coco([note([1, 2, 3, 4])])
    ids = open_dataset(write_coco(tmp_path / "train.json", content)).ids
    assert ids == ({"dog": 3, "cat": 7}, True)
    content["categories"][0]["id"] = 99
    content["annotations"] = []
    write_coco(tmp_path / "val.json", content)
    assert open_source(tmp_path).read(None).ids is None  # a class with two ids
    assert open_dataset(tmp_path, "train").ids == ids


def test_a_byte_order_mark_is_no_harm(tmp_path, coco, write_coco):
    path = write_coco(tmp_path / "train.json", coco())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(open_dataset(path)) == 2


def test_clipping_silent_to_two_pixels_then_by_request(opened, caplog):
    assert opened([note([-2, -1, 68, 51])]).boxes_px.tolist() == [[0, 0, 64, 48]]
    assert not caplog.records
    items = [note([60, 40, 20, 20]), note([70, 1, 5, 5]), note([5, 5, 0, 5]), note([1, 1, 2, 2], iscrowd=1)]
    data = opened(items, clip_boxes=True)
    assert data.boxes_px.tolist() == [[60, 40, 64, 48], [1, 1, 3, 3]]
    assert data.crowd.tolist() == [False, True]
    assert data.area.tolist() == [32, 4]
    assert "1 boxes cut to their image, 2 dropped" in caplog.text


# ---------------------------------------------------------------------------------------------- layouts

LAYOUTS = {
    "split.json, images/": ("train.json", "images"),
    "split.json, images/split": ("train.json", "images/train"),
    "split.json, beside": ("train.json", "."),
    "split.json, split/": ("train.json", "train"),
    "annotations/split.json": ("annotations/train.json", "images"),
    "the COCO download": ("annotations/instances_train2017.json", "train2017"),
    "the COCO download, images/": ("annotations/instances_train2017.json", "images/train2017"),
    "another year": ("annotations/instances_train2014.json", "train2014"),
    "no year in the JSON": ("annotations/instances_train.json", "train2017"),
    "in annotations": ("annotations/train.json", "annotations"),
    "exported": ("train/_annotations.coco.json", "train"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, coco, write_coco, layout):
    file, images = LAYOUTS[layout]
    write_coco(tmp_path / file, coco([note([1, 1, 2, 2])]), tmp_path / images)
    data = open_dataset(tmp_path, "train")
    assert [Path(name) for name in data.names] == [tmp_path / images / "a.png", tmp_path / images / "b.png"]
    assert available_splits(tmp_path) == ("train",)
    assert list(open_dataset(tmp_path / file, "whatever").names) == list(data.names)


def test_file_names_may_hold_folders(tmp_path, coco, write_coco):
    images = [{"id": 1, "file_name": "images/x/a.png"}, {"id": 2, "file_name": "./images//x/b.png"}]
    path = write_coco(tmp_path / "train.json", coco(images=images), tmp_path / "images" / "x")
    assert [Path(name) for name in open_dataset(path).names] == [tmp_path / f"images/x/{n}.png" for n in "ab"]


def test_splits_with_years_tasks_and_aliases(tmp_path, coco, write_coco, one_line):
    for name in ("instances_train2017", "instances_val2017", "person_keypoints_val2017", "captions_val2017"):
        write_coco(tmp_path / "annotations" / f"{name}.json", coco(), tmp_path / "images")
    assert available_splits(tmp_path) == ("train", "val")
    assert open_dataset(tmp_path, "val").source.endswith("instances_val2017.json (val)")
    assert open_dataset(tmp_path, "val2017").source.endswith("instances_val2017.json (val)")
    assert open_dataset(tmp_path, "validation").source.endswith("instances_val2017.json (val)")
    assert "no split 'test' (there are: train, val)" in one_line(open_dataset, tmp_path, "test")
    write_coco(tmp_path / "annotations" / "instances_train2014.json", coco(), tmp_path / "images")
    text = one_line(open_dataset, tmp_path, "train")
    assert "several files for split 'train' (annotations/instances_train2014.json, annotations/inst" in text
    assert open_dataset(tmp_path, "train2014").source.endswith("instances_train2014.json (train)")


def test_missing_images_are_counted_and_the_first_named(tmp_path, coco, write_coco, one_line):
    path = write_coco(tmp_path / "train.json", coco(), tmp_path / "images")
    (tmp_path / "images" / "a.png").unlink()
    text = one_line(open_dataset, path)
    assert f"train.json: image 'a.png' is missing (1 of 2 are not in {tmp_path}/images)" in text
    (tmp_path / "images" / "b.png").unlink()
    assert f"image 'a.png' is missing (2 of 2 are not below {tmp_path})" in one_line(open_dataset, path)


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "x/../../a.png", "\\\\host\\a.png", "a\0.png"])
def test_no_file_name_leaves_the_folder(tmp_path, coco, write_coco, name, one_line):
    path = write_coco(tmp_path / "set" / "train.json", coco(images=[{"id": 1, "file_name": name}]), tmp_path)
    text = one_line(open_dataset, path)
    assert "train.json: image" in text
    assert "leaves the data set's folder" in text


@pytest.mark.parametrize("place", ["images/a.png", "images", "train.json"])
def test_links_that_leave_the_folder_are_refused(tmp_path, coco, write_coco, place, one_line):
    path = write_coco(tmp_path / "set" / "train.json", coco(), tmp_path / "set" / "images")
    (tmp_path / "set" / place).rename(tmp_path / "outside")
    (tmp_path / "set" / place).symlink_to(tmp_path / "outside")
    assert path.exists()
    assert "a link that leads out of" in one_line(open_dataset, tmp_path / "set")


def test_deeppcb_has_its_counts_and_numbers(shared):
    folder = shared / "data" / "deeppcb"
    assert sorted(available_splits(folder)) == ["test", "train"]
    for split, count in (("train", 1000), ("test", 500)):
        data = open_dataset(folder, split)
        raw = json.loads((folder / f"{split}.json").read_text())
        assert (len(data), len(data.class_names)) == (count, 6)
        assert len(data.labels) == len(raw["annotations"])
        xywh = np.array([a["bbox"] for a in raw["annotations"]], np.float64)
        total = np.clip(np.column_stack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]), 0, 640).sum(axis=0)
        np.testing.assert_allclose(data.boxes_px.sum(axis=0, dtype=np.float64), total)
        names = {c["id"]: c["name"] for c in raw["categories"]}
        per_class = [sum(names[a["category_id"]] == n for a in raw["annotations"]) for n in data.class_names]
        assert np.bincount(data.labels).tolist() == per_class
        assert data.sample(0).image.shape == (640, 640, 3)


def test_a_file_in_utf_16_is_read_by_its_mark(folder):
    note = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    images, categories = [{"id": 1, "file_name": "a.png"}], [{"id": 1, "name": "猫"}]
    text = json.dumps({"images": images, "annotations": [note], "categories": categories}, ensure_ascii=False)
    root = folder({"train.json": text.encode("utf-16")})
    for path in (root, root / "train.json"):
        assert open_dataset(path).class_names == ("猫",)


def test_key_points_alone_are_passed_over(tmp_path, coco, write_coco):
    points = {key: value for key, value in note([1, 2, 3, 4]).items() if key != "bbox"} | {"keypoints": [1, 2, 2]}
    path = write_coco(tmp_path / "train.json", coco([note([1, 2, 3, 4]), points, {**points, "bbox": []}]))
    problems = CollectErrors()
    raw = open_source(path).read(None, problems)
    assert sum(len(image.objects) for image in raw.images) == 1
    assert [(f.kind, f.message[:12]) for f in problems.findings] == [("shapes-passed-over", "2 keypoints:")]


def test_two_files_of_one_name_and_split_are_read_once(tmp_path, coco, write_coco):
    content = coco([note([1, 2, 3, 4]), note([1, 2, 3, 4], id=6, image_id=10)])
    write_coco(tmp_path / "annotations" / "train.json", content, tmp_path / "train")
    write_coco(tmp_path / "train" / "_annotations.coco.json", content)
    problems = CollectErrors()
    raw = open_source(tmp_path).read(None, problems)
    assert {name: len(members) for name, members in raw.splits.items()} == {"train": 2}
    assert dict(problems.counts) == {"labels-repeated": 1}
    assert len(open_dataset(tmp_path, "train")) == 2


def test_the_file_next_to_one_of_val_is_the_one_to_train_on(tmp_path, coco, write_coco):
    content = coco([note([1, 2, 3, 4])])
    for split, name in (("train", "instances_default"), ("val", "val_instances_default")):
        content["images"][0]["file_name"] = f"{split}/a.png"
        content["images"][1]["file_name"] = f"{split}/b.png"
        write_coco(tmp_path / "annotations" / f"{name}.json", content, tmp_path / "images" / split)
    assert sorted(open_source(tmp_path).splits) == ["train", "val"]
    assert "/val/" in open_dataset(tmp_path, "val").names[0]


@pytest.mark.parametrize(("root", "classes"), [("cat", ("cat",)), ("animals", ("cat",))])
def test_a_root_of_categories_may_be_called_as_one_of_them(opened, root, classes):
    categories = [{"id": 0, "name": root, "supercategory": "none"}, {"id": 3, "name": "cat", "supercategory": root}]
    assert opened([note([1, 2, 3, 4])], categories=categories).class_names == classes


def test_two_categories_of_one_name_are_one_class(tmp_path, coco, write_coco, one_line):
    notes = [note([1, 2, 3, 4]), note([5, 2, 3, 4], id=6, category_id=1)]
    content = coco(notes, categories=[{"id": number, "name": name} for number, name in ((1, "cat"), (3, "cat"))])
    path = write_coco(tmp_path / "annotations" / "instances_train.json", content, tmp_path / "train")
    found = CollectErrors()
    raw = open_source(tmp_path).read(None, found)
    assert (raw.class_names, raw.ids) == (("cat",), None)
    assert [obj.name for image in raw.images for obj in image.objects] == ["cat", "cat"]
    (finding,) = found.findings
    assert (finding.kind, finding.file, "'cat' (1, 3)" in finding.message) == ("class-doubled", str(path), True)
    assert "'cat'" in one_line(read_ids, str(path))


@pytest.mark.parametrize("folder", ["train_masks", "SegmentationClass", "gt"])
def test_copies_of_an_image_and_its_mask_do_not_hide_it(tmp_path, coco, write_coco, write_image, one_line, folder):
    write_coco(tmp_path / "annotations" / "instances.json", coco([note([1, 2, 3, 4])]), tmp_path / "data" / "photos")
    for name in ("a.png", "b.png"):
        (tmp_path / "copies").mkdir(exist_ok=True)
        (tmp_path / "copies" / name).write_bytes((tmp_path / "data" / "photos" / name).read_bytes())
        write_image(tmp_path / "data" / folder / name, 32, 48)
    raw = open_source(tmp_path).read(None)
    assert {image.path.removeprefix(f"{tmp_path}/") for image in raw.images} == {"copies/a.png", "copies/b.png"}
    write_image(tmp_path / "copies" / "a.png", 32, 24)
    assert "'a.png' fits 3 images" in one_line(open_source(tmp_path).read)

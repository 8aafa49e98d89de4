from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleshot.datasets import Dataset, open_dataset
from singleshot.datasets.dataset import unknown_class
from singleshot.datasets.packed_strings import StringTable, ragged_rows
from singleshot.errors import DataError

names = st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.just("\udc80x"), max_size=8)


@given(names, st.data())
def test_string_table_is_the_list_that_it_was_made_from(strings, data):
    table = StringTable.from_iterable(iter(strings))
    assert list(table) == strings
    assert len(table) == len(strings)
    assert table.data.dtype == np.uint8
    assert table.offsets.dtype == np.int64
    for i in range(-len(strings), len(strings)):
        assert table[i] == strings[i]
    for i in (len(strings), -len(strings) - 1):
        with pytest.raises(IndexError):
            table[i]
    chosen = data.draw(st.lists(st.integers(0, len(strings) - 1)) if strings else st.just([]))
    assert list(table.take(chosen)) == [strings[i] for i in chosen]
    with pytest.raises(IndexError):
        table.take([len(strings)])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.data())
def test_ragged_rows_against_a_loop(counts, data):
    ptr = np.cumsum([0, *counts])
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=6))
    rows, new = ragged_rows(ptr, np.array(chosen, np.int64))
    want = [list(range(ptr[i], ptr[i + 1])) for i in chosen]
    assert rows.tolist() == [row for rows_of in want for row in rows_of]
    assert [rows[new[k] : new[k + 1]].tolist() for k in range(len(chosen))] == want


@pytest.fixture
def data(tmp_path, coco, write_coco) -> Dataset:
    annotations = [
        {"id": 1, "image_id": 10, "category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 0},
        {"id": 2, "image_id": 20, "category_id": 3, "bbox": [5, 6, 7, 8], "iscrowd": 0},
        {"id": 3, "image_id": 10, "category_id": 3, "bbox": [0, 0, 64, 48], "iscrowd": 1},
    ]
    return open_dataset(write_coco(tmp_path / "train.json", coco(annotations)))


def test_slices_and_truth_belong_to_their_image(data):
    assert data.class_names == ("dog", "cat")
    assert [data.labels_of(i).tolist() for i in range(2)] == [[0], [1, 0]]
    assert data.boxes_of(1).tolist() == [[1, 2, 4, 6], [0, 0, 64, 48]]
    assert data.truth(1).crowd.tolist() == [False, True]
    assert data.truth(1).difficult.tolist() == [False, False]
    truth = data.truth(1)
    assert truth.area.tolist() == [12, 3072]
    assert truth.crowd.tolist() == [False, True]
    assert data.boxes_of(-1).tolist() == data.boxes_of(1).tolist()
    for broken in (2, -3):
        with pytest.raises(IndexError):
            data.truth(broken)


def test_sample_leaves_crowds_out_and_shares_no_memory(data):
    sample = data.sample(1)
    assert sample.image.shape == (48, 64, 3)
    assert sample.boxes_px.tolist() == [[1, 2, 4, 6]]
    assert (sample.boxes_px.dtype, sample.labels.dtype, sample.difficult.dtype) == ("float32", "int64", "bool")
    assert sample.name == data.names[1]
    sample.boxes_px[:] = 0
    sample.labels[:] = 9
    assert data.boxes_of(1)[0].tolist() == [1, 2, 4, 6]
    assert data.labels_of(1).tolist() == [1, 0]


def test_subset_keeps_each_image_with_its_objects(data):
    assert list(data.subset([1, 0, 1]).image_ids) == ["10", "20", "10"]
    turned = data.subset(np.array([1, 0]))
    for new, old in ((0, 1), (1, 0)):
        assert turned.names[new] == data.names[old]
        for a, b in zip(turned.truth(new), data.truth(old), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(data.subset(np.array([False, True]))) == 1
    empty = data.subset([])
    assert (len(empty), len(empty.labels), empty.ptr.tolist()) == (0, 0, [0])
    with pytest.raises(IndexError):
        data.subset([2])


def test_an_unknown_class_is_named_with_the_nearest_whatever_its_capitals():
    assert "'dog', which is not among the 2 wanted (cat, Dogs); did you mean 'Dogs'?" in unknown_class(
        "dog", ["cat", "Dogs"]
    )


def test_sample_says_when_the_image_is_not_the_annotated_one(data, write_image):
    write_image(Path(data.names[0]), 48, 64)
    with pytest.raises(DataError, match=r"a\.png: image is 48 x 64 pixels, its annotation says 64 x 48; an EXIF"):
        data.sample(0)


def test_sample_names_a_broken_image(data, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: empty file"):
        data.sample(0)


def test_exif_rotation_is_applied_and_explained(tmp_path, coco, write_coco):
    content = coco()
    content["images"] = [{"id": 1, "file_name": "r.jpg", "width": 64, "height": 48}]
    ok, jpg = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))
    assert ok
    # APP1 with one IFD entry: orientation (0x0112), SHORT, 6 = turn by 90 degrees.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    marked = jpg.tobytes()[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpg.tobytes()[2:]
    path = write_coco(tmp_path / "train.json", content)
    (tmp_path / "r.jpg").write_bytes(marked)
    with pytest.raises(DataError, match=r"48 x 64 pixels, its annotation says 64 x 48; an EXIF rotation"):
        open_dataset(path).sample(0)


def test_unknown_size_is_checked_against_the_image_when_it_is_read(tmp_path, coco, write_coco):
    boxes = [[60, 40, 5.5, 5], [1, 1, 2, 2], [60, 0, 40, 48], [64, 48, 100, 100]]
    items = [{"id": k, "image_id": 20, "category_id": 3, "bbox": box} for k, box in enumerate(boxes)]
    content = coco(items)
    for image in content["images"]:
        del image["width"]
    path = write_coco(tmp_path / "train.json", content)
    data = open_dataset(path)
    assert data.sizes.tolist() == [[0, 0], [0, 0]]
    with pytest.raises(DataError, match=r"a\.png: object 2 \(dog\): box \[60, 0, 100, 48\] lies outside .* 64 x 48"):
        data.sample(0)
    clipped = open_dataset(path, clip_boxes=True).sample(0)
    assert clipped.boxes_px.tolist() == [[60, 40, 64, 45], [1, 1, 3, 3], [60, 0, 64, 48]]
    assert len(clipped.labels) == len(clipped.difficult) == 3

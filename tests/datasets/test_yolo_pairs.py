"""YOLO labels in a folder that is not called as usual, next to that of their images."""

from __future__ import annotations

import pytest

from singleshot.datasets import open_source
from singleshot.errors import DataError

ROW = "0 0.5 0.5 0.5 0.5\n"
IMAGES = ["photos/a.png", "photos/b.png", "photos/c.png"]
LABELS = {"boxes/a.txt": ROW, "boxes/b.txt": ROW}


def test_they_are_found_by_their_names(folder):
    raw = open_source(folder({**LABELS, "classes.txt": "cat", "notes/a.txt": "about a"}, IMAGES)).read()
    objects = {image.path.rpartition("/")[2]: len(image.objects) for image in raw.images}
    assert objects == {"a.png": 1, "b.png": 1, "c.png": 0}
    assert raw.class_names == ("cat",)


def test_folders_called_after_splits_are_splits(folder):
    files = {"train_labels/a.txt": ROW, "val_labels/b.txt": ROW}
    source = open_source(folder(files, ["train_pictures/a.png", "val_pictures/b.png"]))
    assert sorted(source.splits) == ["train", "val"]
    assert [len(source.read(split).images) for split in ("train", "val")] == [1, 1]


@pytest.mark.parametrize(
    "files",
    [
        {"boxes/a.txt": ROW},  # of one of three
        {**LABELS, "more/a.txt": ROW, "more/b.txt": ROW},  # of two folders
        {"boxes/a.txt": "seen twice\n", "boxes/b.txt": "1 2 3\n"},
        {**LABELS, "photos/c.txt": "no rows"},
    ],
)
def test_what_is_no_pair_is_not_read(folder, files):
    with pytest.raises(DataError, match="no data set"):
        open_source(folder(files, IMAGES))


def test_they_are_named_next_to_other_labels(folder):
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    box = "<bndbox><xmin>17</xmin><ymin>13</ymin><xmax>48</xmax><ymax>36</ymax></bndbox>"
    xml = f"<annotation>{size}<object><name>cat</name>{box}</object></annotation>"
    files = {f"Annotations/{name}.xml": xml for name in "abc"}
    source = open_source(folder({**LABELS, **files}, IMAGES))
    assert source.form == "voc"
    assert "the folder holds YOLO labels too" in source.unread

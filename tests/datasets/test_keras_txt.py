"""keras-yolo3's text files: a line for each image, its path and its boxes."""

from __future__ import annotations

import time

import pytest

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import keras_txt


def test_roboflows_export_is_read_and_a_stray_set_without_objects_does_not_win(folder) -> None:
    files = {
        "train/_annotations.txt": "a b.png 16,12,48,36,0 1,2,9,9,1\nc.png\n", "train/_classes.txt": "cat\ndog",
        "valid/_annotations.txt": "v.png 16,12,48,36,1\n", "valid/_classes.txt": "cat\ndog\n",
        "test/x.txt": "7 0.5 0.5 0.5 0.5\n", "test/classes.txt": "cat\n",
    }  # fmt: skip
    root = folder(files, ["train/a b.png", "train/c.png", "valid/v.png", "test/x.png"])
    source = open_source(root)
    assert (source.form, sorted(source.splits)) == ("keras-txt", ["train", "valid"])
    data = open_dataset(root)
    assert (data.class_names, data.labels.tolist()) == (("cat", "dog"), [0, 1])
    assert data.boxes_px.tolist() == [[16, 12, 48, 36], [1, 2, 9, 9]]
    assert len(data) == 2
    assert open_dataset(root, "val").labels.tolist() == [1]
    assert "YOLO labels too" in source.unread


def test_numbers_alone_and_paths_of_another_machine(folder) -> None:
    root = folder({"train.txt": "/home/me/p/a.png 1,2,3,4,0\n\nb.png 1.5,2,3,4,2\r\n"}, ["p/a.png", "p/b.png"])
    raw = open_source(root).read()
    assert [[(o.name, o.box, o.line) for o in image.objects] for image in raw.images] == [
        [("class 0", (1, 2, 3, 4), 1)],
        [("class 2", (1.5, 2, 3, 4), 3)],
    ]


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("b.png 1,2,x,4,0", "annotation-malformed", "object 1: '1,2,x,4,0' holds what is no number"),
        ("b.png 1,2,3,4,0.5", "annotation-malformed", "object 1: the class is 0.5; want a whole number"),
        ("b.png 1,2,3,4,nan", "annotation-malformed", "object 1: the class is nan; want a whole number"),
        ("b.png 1,2,3,4,5", "class-unknown", "object 1: class 5 of 1 names in _classes.txt"),
        ("words alone", "annotation-malformed", "image words alone: want the path of an image"),
        ("b.png 1,2,3", "annotation-malformed", "image b.png 1,2,3: want the path of an image"),
        ("gone.png 1,2,3,4,0", "image-missing", "image 'gone.png' is missing"),
    ],
)
def test_mistakes_are_said_with_their_line(folder, line, kind, said) -> None:
    root = folder({"_annotations.txt": f"a.png 1,2,3,4,0\n{line}\n", "_classes.txt": "cat\n"})
    found = CollectErrors()
    open_source(root).read(None, found)
    (finding,) = found.findings
    assert (finding.kind, finding.line) == (kind, 2)
    assert said in str(finding)


def test_what_is_none_and_what_takes_long() -> None:
    for head in (b"", b"a.png\nb.png\n", b"0 0.5 0.5 0.1 0.1\n", b"notes 1,2,3,4,0\n", b"a.png 1,2,3,4\n"):
        assert not keras_txt.is_one(head)
    started = time.perf_counter()
    assert keras_txt.is_one(b"a.png" + b" 1,2,3,4,0" * 20_000 + b"\n")
    assert not keras_txt.is_one(b"a " * 100_000 + b"\n")
    assert time.perf_counter() - started < 5


def test_a_list_of_classes_with_a_name_twice(folder, one_line) -> None:
    root = folder({"_annotations.txt": "a.png 1,2,3,4,0\n", "_classes.txt": "cat\ncat\n"})
    assert "_classes.txt: want each class once, one name a line" in one_line(open_source(root).read)

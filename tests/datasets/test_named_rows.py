"""Text files of rows of a class and corners (mAP, OIDv4), and BBox-Label-Tool's; images are 64 x 48."""

from __future__ import annotations

import pytest

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import named_rows

ROWS = "cat 40 30 60 46\nwine glass 2.5 3 20 30 difficult\n"


def test_rows_of_map_with_images_that_tell_corners(folder) -> None:
    root = folder(
        {"ground-truth/a.txt": ROWS, "ground-truth/b.txt": ""}, ["images-optional/a.png", "images-optional/b.png"]
    )
    source = open_source(root)
    assert source.form == "named-rows"
    raw = source.read()
    assert raw.class_names == ("cat", "wine glass")
    assert [(obj.name, obj.box, obj.difficult, obj.line) for obj in raw.images[0].objects] == [
        ("cat", (40, 30, 60, 46), False, 1),
        ("wine glass", (2.5, 3, 20, 30), True, 2),
    ]
    assert [len(image.objects) for image in raw.images] == [2, 0]


def test_oidv4s_folders_of_classes_in_splits(folder) -> None:
    files = {f"Dataset/{split}/{name}/Label/{i}.txt": f"{name} 40 30 60 46" for i, (split, name) in enumerate(
        (split, name) for split in ("train", "test") for name in ("Apple", "Wine glass"))}  # fmt: skip
    root = folder(files, [name.replace("Label/", "").replace(".txt", ".png") for name in files])
    assert open_source(root).form == "named-rows"
    data = open_dataset(root)
    assert (len(data), data.class_names, data.labels.tolist()) == (2, ("Apple", "Wine glass"), [0, 1])
    assert open_dataset(root, "test").boxes_px.tolist() == [[40, 30, 60, 46]] * 2


@pytest.mark.parametrize(
    ("rows", "form"),
    [
        (("0 0 20 10", "40 30 24 18", "50 2 14 12", "44 28 19 18", "0 28 12 20"), "corner-size-rows"),
        (("10 5 20 10", "52 39 24 18", "57 8 14 12", "53.5 37 19 18", "6 38 12 20"), "centre-size-rows"),
    ],
)
def test_sizes_are_read_where_the_images_tell(folder, rows, form) -> None:
    files = {f"labels/{k}.txt": f"wine glass {row}\n" for k, row in enumerate(rows)}
    source = open_source(folder(files, [f"images/{k}.png" for k in range(len(rows))]))
    raw = source.read()
    assert (source.form, raw.class_names) == (form, ("wine glass",))
    boxes = [(0, 0, 20, 10), (40, 30, 64, 48), (50, 2, 64, 14), (44, 28, 63, 46), (0, 28, 12, 48)]
    assert [image.objects[0].box for image in sorted(raw.images)] == boxes


@pytest.mark.parametrize(
    "rows",
    [
        "cat 2 3 20 30\n",  # a corner and a size would lie in the image too
        "cat 2 3 20 30\n" * 20 + "cat 40 30 60 46\n",  # one in 21 tells: a slip of the hand would
        "cat 40 30 20 10\n",  # a corner and a size
        "cat 400 300 600 460\n",  # out of the image
    ],
)
def test_what_may_be_something_else_is_refused_in_a_line(folder, one_line, rows) -> None:
    root = folder({"labels/a.txt": rows}, ["images/a.png"])
    assert "labels/a.txt is rows of class x" in one_line(open_source, root)


def test_bbox_label_tools_with_classes_and_without(folder, caplog) -> None:
    root = folder(
        {"Labels/a.txt": "2\n20 30 40 40 cat\n1 2 3 4 dog\n", "Labels/b.txt": "0\n"}, ["Images/a.png", "Images/b.png"]
    )
    raw = open_source(root).read()
    assert (raw.form, raw.class_names) == ("counted-rows", ("cat", "dog"))
    assert [[(obj.box, obj.line) for obj in image.objects] for image in raw.images] == [
        [((20, 30, 40, 40), 2), ((1, 2, 3, 4), 3)],
        [],
    ]
    (root / "Labels/a.txt").write_text("1\r\n20 30 40 40\r\n")
    raw = open_source(root).read()
    assert raw.class_names == ("object",)
    assert "names no class, all its objects are of the class 'object'" in caplog.text


def test_folders_that_may_be_classes_are_refused(folder, one_line) -> None:
    files = {"Labels/001/a.txt": "1\n20 30 40 40\n", "Labels/002/b.txt": "1\n20 30 40 40\n"}
    root = folder(files, ["Images/001/a.png", "Images/002/b.png"])
    assert "is BBox-Label-Tool's form" in one_line(open_source, root)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"labels/a.txt": ROWS, "labels/b.txt": "cat 1 2 3\n"},
            "object 0: 'cat 1 2 3': want class left top right bottom",
        ),
        ({"labels/a.txt": ROWS, "labels/b.txt": "cat 1 2 x 3\n"}, "want class left top right bottom"),
        ({"labels/a.txt": "1\n9 9 20 30\n", "labels/b.txt": "3\n9 9 20 30\n"}, "starts with '3' and has 1 rows"),
        ({"labels/a.txt": "1\n9 9 20 30\n", "labels/b.txt": "1\n9 9 20\n"}, "'9 9 20': want left top right bottom"),
    ],
)
def test_mistakes_are_reported(folder, files, message) -> None:
    found = CollectErrors()
    open_source(folder(files, ["images/a.png", "images/b.png"])).read(None, found)
    (finding,) = found.findings
    assert finding.kind == "annotation-malformed"
    assert message in str(finding)


def test_what_is_none() -> None:
    for head in (b"", b"0 0.5 0.5 0.1 0.1\n", b"cat 0.9 1 2 3 4\n", b"cat,1,2,3,4\n", b"2\n1 2 3 4\n", b"1\n1 2 3\n"):
        assert not named_rows.is_named(head)
        assert not named_rows.is_counted(head)
    assert named_rows.is_counted(b"1000\n" + b"1 2 3 4\n" * 600)
    assert not named_rows.is_named(b"a " * 100_000)

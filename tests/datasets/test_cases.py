"""Folders as people have them, and others of the same kinds: each is read as its makers meant it, or one line says why
not."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.checks import check_source
from singleshot.errors import DataError

MADE = {"train", "val", "test", "trainval"}


def read(path: Path):
    return open_source(path).read()


# Folder -> form, images, splits (None: made here) with their images.
CASES = {
    "voc-beside-images": ("voc", 4, None),
    "voc-split-folders": ("voc", 4, {"train": 2, "valid": 1, "test": 1}),
    "voc-images-lower-case": ("voc", 4, None),
    "voc-default-split": ("voc", 4, None),
    "voc-macos-files": ("voc", 4, None),
    "coco-macos-files": ("coco", 4, None),
    "coco-capital-splits": ("coco", 4, {"train": 2, "validation": 2}),
    "yolo-with-stray-json": ("yolo", 4, None),
    "coco-backslash": ("coco", 4, None),
    "coco-percent-quoted": ("coco", 4, None),
    "coco-decomposed-names": ("coco", 2, {"train": 2}),
    "labelme-annotations-folder": ("labelme", 4, None),
    "coco-root-category": ("coco", 3, {"train": 2, "valid": 1}),
    "jfif/yolo": ("yolo", 4, None),
    "jfif/voc": ("voc", 4, None),
    "own-yolo-results/set": ("yolo", 1, None),
    "class-names-utf16": ("yolo", 4, None),
    "coco-polygons-no-boxes": ("coco", 2, {"train": 2}),
    "cvat-images-xml": ("cvat", 2, None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_handed_folder_is_read_as_what_it_is(shared: Path, case: str) -> None:
    form, count, splits = CASES[case]
    raw = read(shared / "cases" / case)
    assert (raw.form, len(raw.images), raw.made) == (form, count, splits is None)
    assert {name: len(members) for name, members in raw.splits.items()} == splits or set(raw.splits) == MADE
    assert all(Path(image.path).is_file() for image in raw.images)
    assert any(image.objects for image in raw.images)
    result = check_source(open_source(shared / "cases" / case))
    assert not result.severity("error"), [str(finding) for finding in result.findings]
    assert available_splits(shared / "cases" / case)


def test_what_is_left_out_or_wrong_is_said(shared: Path, caplog, one_line) -> None:
    cases = shared / "cases"
    with caplog.at_level("INFO"):
        raw = read(cases / "coco-root-category")
        read(cases / "voc-default-split")
    assert raw.class_names == ("carp", "pike")
    assert "category fishes is left out" in caplog.text
    assert "default.txt is no split" in caplog.text
    assert "classes.txt:1: is not UTF-8" in one_line(open_dataset, cases / "class-names-utf16/cp1252")
    assert read(cases / "class-names-utf16").class_names == ("cat", "dog")
    assert "parts of the image" in one_line(open_dataset, cases / "coco-boxes-as-parts")
    result = check_source(open_source(cases / "coco-boxes-as-parts"))
    assert result.counts["boxes-in-parts"] == 1


# ---------------------------------------------------------------------------------------------- others of the kinds


@pytest.fixture
def voc(tmp_path: Path, voc_xml, write_image):
    """Write {image or xml: None, or for an XML the file name in it}."""

    def write(files: dict[str, str | None]) -> Path:
        for name, inner in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.lower().endswith(".xml"):
                path.write_text(voc_xml([("cat", (2, 3, 9, 12))], (16, 16), inner or f"{path.stem}.png"))
            else:
                write_image(path, 16, 16)
        return tmp_path

    return write


LAYOUTS = {
    "labels and data": ({"labels/a.xml": None, "data/a.png": None}, None),
    "annotations and img, sub-folders": ({"annotations/x/a.xml": None, "img/x/a.png": None}, None),
    "another name": ({"boxes/a.xml": None, "pics/a.png": None}, None),
    "the same name in two splits": (
        {"train/a.xml": None, "train/a.png": None, "valid/a.xml": None, "valid/a.png": None},
        {"train": 1, "valid": 1},
    ),
    "each split a VOC set": (
        {"Train/Annotations/a.xml": None, "Train/JPEGImages/a.png": None, "TEST/Annotations/b.xml": None,
         "TEST/JPEGImages/b.png": None},
        {"train": 1, "test": 1},
    ),
    "splits below the annotations": (
        {"Annotations/train/a.xml": None, "images/train/a.png": None, "Annotations/val/a.xml": None,
         "images/val/a.png": None},
        {"train": 1, "val": 1},
    ),
    "named by the path of another machine": ({"a.xml": r"C:\me\b%20c.png", "photos/b c.png": None}, None),
    "capitals": ({"Annotations/A.XML": "a.PNG", "JPEGImages/A.png": None}, None),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_voc_in_any_layout(voc, layout: str) -> None:
    files, splits = LAYOUTS[layout]
    root = voc(files)
    raw = read(root)
    assert raw.form == "voc"
    assert {str(Path(image.path).relative_to(root)) for image in raw.images} == {
        name for name in files if not name.lower().endswith(".xml")
    }
    assert Counter(len(image.objects) for image in raw.images) == {1: len(raw.images)}
    assert len({image.ident for image in raw.images}) == len(raw.images)
    if splits is not None:
        assert {name: len(members) for name, members in raw.splits.items()} == splits


def test_sets_in_several_folders_are_named(voc, one_line) -> None:
    root = voc({"before/a.xml": None, "before/a.png": None, "after/a.xml": None, "after/a.png": None})
    (root / "after/a.png").write_bytes(b"another image")
    assert "sets below: after (Pascal VOC, 1), before (Pascal VOC, 1); name one" in one_line(open_dataset, root)


@pytest.fixture
def coco_of(tmp_path: Path, write_image):
    def write(images: list[str], names: list[str], box=(1, 2, 3, 4), count: int = 1, size: int = 16, **more) -> Path:
        for name in images:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / name, size, size)
        content = {
            "images": [{"id": i, "file_name": name, "width": size, "height": size} for i, name in enumerate(names)],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [
                {"id": k, "image_id": k % len(names), "category_id": 1, "bbox": list(box), **more} for k in range(count)
            ],
        }
        (tmp_path / "train.json").write_text(json.dumps(content))
        return tmp_path

    return write


@pytest.mark.parametrize(
    "written",
    ["C:\\data\\pics\\a b.png", "/home/me/pics/a%20b.png", "../../pics/a b.png", "PICS/A B.PNG",
     "https://example.org/pics/a%20b.png?size=3", "a b.png", "./a b.png"],
)  # fmt: skip
def test_an_image_is_found_by_the_end_of_its_path(coco_of, written: str) -> None:
    root = coco_of(["pics/a b.png", "other/c.png"], [written])
    (image,) = read(root).images
    assert Path(image.path) == root / "pics/a b.png"


def test_the_longest_end_decides_and_several_are_said(coco_of, write_image, one_line) -> None:
    root = coco_of(["x/one/a.png", "x/two/a.png"], ["old/two/a.png"])
    (image,) = read(root).images
    assert Path(image.path) == root / "x/two/a.png"
    coco_of(["x/one/a.png"], ["old/a.png"])
    assert Path(read(root).images[0].path) == root / "x/one/a.png"  # the same picture
    write_image(root / "x/two/a.png", 32, 24)
    assert "fits 2 images" in one_line(open_dataset, root)


def test_letters_of_another_unicode_form_are_the_same(coco_of) -> None:
    name = unicodedata.normalize("NFD", "pics/müll.png")
    (image,) = read(coco_of([name], ["müll.png"])).images
    assert image.path.endswith(name)


def test_nothing_outside_is_found(coco_of, tmp_path: Path, write_image, one_line) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside.png"
    write_image(outside, 16, 16)
    for name in (f"../{outside.name}", str(outside)):
        assert "leaves the data set's folder" in one_line(open_dataset, coco_of(["a.png"], [name]))
    (tmp_path / "link.png").symlink_to(outside)
    assert "a link that leads out" in one_line(open_dataset, coco_of(["a.png"], ["old/link.png"]))


@pytest.mark.parametrize("stray", ['{"title": "x"}', "[]", '[{"annotations": []}]', '"text"', '{"shapes": []}'])
def test_a_stray_json_decides_nothing(tmp_path: Path, write_image, stray: str) -> None:
    for folder in ("images", "labels", "annotations"):
        (tmp_path / folder).mkdir()
    write_image(tmp_path / "images/a.png", 16, 16)
    (tmp_path / "labels/a.txt").write_text("0 .5 .5 .2 .2\n")
    for name in ("train.json", "meta.json", "annotations/instances_train.json"):
        (tmp_path / name).write_text(stray)
    assert open_source(tmp_path).form == "yolo"


def test_a_broken_coco_file_is_still_named(tmp_path: Path, one_line) -> None:
    (tmp_path / "train.json").write_text('{"images": [')
    assert "train.json: is not JSON" in one_line(open_dataset, tmp_path)
    (tmp_path / "train.json").write_text("{{")
    assert "train.json: is not JSON" in one_line(open_dataset, tmp_path)


SUSPICIOUS = {
    "percent": ({"box": (10.5, 20.5, 50.25, 40.5), "size": 400}, "percent"),
    "corners": ({"box": (4, 5, 14, 15), "area": 100}, "second corner"),
    "corners that leave the image": ({"box": (9, 9, 12, 12)}, "second corner"),
}


@pytest.mark.parametrize("case", SUSPICIOUS)
def test_what_is_plausible_but_wrong_is_said(coco_of, caplog, case: str) -> None:
    changes, words = SUSPICIOUS[case]
    root = coco_of(["a.png"], ["a.png"], count=12, **changes)
    (found,) = (f for f in check_source(open_source(root)).findings if f.kind == "boxes-suspicious")
    assert words in found.message
    open_dataset(root, "train", clip_boxes=True)
    assert words in caplog.text


@pytest.mark.parametrize("changes", [{"box": (4, 5, 3, 9)}, {"box": (1, 2, 3.5, 4)}, {"box": (0, 0, 1, 1)}])
def test_right_boxes_are_not_suspected(coco_of, changes) -> None:
    root = coco_of(["a.png"], ["a.png"], count=12, **changes)
    assert not {"boxes-suspicious", "boxes-in-parts"} & set(check_source(open_source(root)).counts)


def test_labels_of_another_form_in_the_folder_are_said(voc, caplog) -> None:
    root = voc({"Annotations/a.xml": None, "JPEGImages/a.png": None, "images/a.png": None})
    assert "labels-unread" not in check_source(open_source(root)).counts
    (root / "labels").mkdir()
    (root / "labels/a.txt").write_text("0 .5 .5 .2 .2\n")
    (root / "train.csv").write_text("file,xmin,ymin,xmax,ymax,class\na.png,1,2,3,4,cat\n")
    (found,) = (f for f in check_source(open_source(root)).findings if f.kind == "labels-unread")
    assert "read as Pascal VOC; the folder holds YOLO and CSV labels too" in found.message
    with caplog.at_level("INFO"):
        open_dataset(root)
    assert "YOLO and CSV" in caplog.text


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".dib", ".mpo"])
def test_every_ending_is_read_and_detected_in(tmp_path: Path, suffix: str) -> None:
    from singleshot.runtime.sources import open_sources

    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    kind = ".bmp" if suffix == ".dib" else ".jpg"
    data = cv2.imencode(kind, np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    (tmp_path / f"images/a{suffix}").write_bytes(data)
    (tmp_path / "images/._a.jpg").write_bytes(b"\0\5\26\7")
    (tmp_path / "labels/a.txt").write_text("0 .5 .5 .2 .2\n")
    assert len(read(tmp_path).images) == 1
    assert [frame.error for frame in open_sources([str(tmp_path / "images")])] == [None]


@pytest.mark.parametrize(
    ("data", "says"), [(b"\xff\xfec\0a\0t\0", None), (b"\xef\xbb\xbfcat\n", None), (b"c\xe4t\n", "is not UTF-8")]
)
def test_class_names_by_their_mark(tmp_path: Path, write_image, data: bytes, says: str | None) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    write_image(tmp_path / "images/a.png", 9, 9)
    (tmp_path / "labels/a.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "classes.txt").write_bytes(data)
    if says is None:
        assert read(tmp_path).class_names == ("cat",)
    else:
        with pytest.raises(DataError, match=says):
            open_dataset(tmp_path)


def test_results_of_detect_are_no_second_form(tmp_path: Path, write_image) -> None:
    write_image(tmp_path / "a.png", 16, 16)
    found = {"box": [1, 2, 9, 8], "score": 0.5, "label": 0, "name": "cat"}
    images = [{"image": "photos/a.png", "width": 16, "height": 16, "detections": [found]}]
    content = {"model": "m", "classes": ["cat"], "images": images, "complete": True}
    (tmp_path / "results.json").write_text(json.dumps(content))
    for path in (tmp_path, tmp_path / "results.json"):
        source = open_source(path)
        assert (source.form, source.unread) == ("results", "")
        (image,) = source.read().images
        assert [obj.box for obj in image.objects] == [(1, 2, 9, 8)]
    assert not check_source(open_source(tmp_path)).severity("error")

"""For each kind of finding: what `data check --fix` makes of it, and what `data check` says of the copy. Nothing that
would teach something wrong comes out as sound."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.cli.data_convert import convert
from singleshot.datasets import open_source
from singleshot.datasets.checks import CheckResult, check_source, duplicates
from singleshot.datasets.checks import images as check_images
from singleshot.datasets.checks.left_out import FILE
from singleshot.datasets.checks.repair import Repaired, repair
from singleshot.datasets.findings import KINDS, CollectErrors
from singleshot.errors import DataError

SIDE = 240
NAMES = [f"{k}.png" for k in range(6)]
GOOD = [20, 30, 50, 40]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    def spread(work, items, *_, **__):
        yield from enumerate(map(work, items))

    for module in (check_images, duplicates):
        monkeypatch.setattr(module, "spread", spread)


def picture(path: Path, seed: int, side: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (side // 8, side // 8, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


@pytest.fixture
def coco_set(tmp_path):
    """coco_set({image: its bboxes}, **what is other): six images with one box each where nothing else is said."""

    def make(boxes=None, size=SIDE, **annotation) -> Path:
        root = tmp_path / "set"
        images, annotations = [], []
        for k, name in enumerate(NAMES):
            picture(root / name, k)
            images.append({"id": k, "file_name": name, "width": size, "height": SIDE})
            for box in (boxes or {}).get(k, [GOOD]):
                more = annotation if k == 0 else {}
                row = {"id": len(annotations), "image_id": k, "category_id": 1, "bbox": box, "iscrowd": 0}
                annotations.append({**row, **more})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
        (root / "train.json").write_text(json.dumps(content))
        return root

    return make


@pytest.fixture
def yolo_set(tmp_path):
    """yolo_set({image: lines}): six images with one row each where nothing else is said."""

    def make(rows=None) -> Path:
        root = tmp_path / "set"
        for k, name in enumerate(NAMES):
            picture(root / "images" / "train" / name, k)
            path = root / "labels" / "train" / f"{k}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((rows or {}).get(k, b"0 0.5 0.5 0.25 0.25\n"))
        (root / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
        return root

    return make


def fixed(root: Path) -> tuple[CheckResult, Repaired, CheckResult]:
    """Of the set, what was done, and of the copy."""
    result = check_source(open_source(root))
    out = root.parent / "fixed"
    done = repair(result, out)
    return result, done, check_source(open_source(out))


def stems(result: CheckResult) -> list[str]:
    return sorted(Path(image.path).stem for image in result.raw.images)


# ---------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize(
    ("kind", "box"),
    [
        ("box-outside", [200, 30, 100, 40]),
        ("box-outside", [-90, 30, 120, 40]),
        ("box-outside", [SIDE + 5, 30, 50, 40]),
        ("box-not-finite", [1e9, 30, 50, 40]),
    ],
)
def test_an_image_with_a_box_that_says_no_place_goes_as_a_whole(coco_set, kind, box):
    result, done, again = fixed(coco_set({2: [GOOD, box]}))
    assert result.counts == {kind: 1}
    assert again.counts == {}
    assert stems(again) == ["0", "1", "3", "4", "5"]
    (left_out,) = done.actions["images left out, since not all of their objects are known"]
    assert "2.png" in left_out


@pytest.mark.parametrize(
    ("kind", "box", "boxes"),
    [
        ("box-without-area", [100, 30, 0, 40], [[20, 30, 70, 70]]),
        ("box-without-area", [100, 30, 0, 0], [[20, 30, 70, 70]]),
        ("box-outside", [200, 30, 60, 40], [[20, 30, 70, 70], [200, 30, 240, 70]]),
        ("box-duplicated", GOOD, [[20, 30, 70, 70]]),
        ("box-duplicated", [20.5, 30, 50, 40.5], [[20, 30, 70, 70]]),
    ],
)
def test_boxes_that_can_be_put_right(coco_set, kind, box, boxes):
    result, _, again = fixed(coco_set({2: [GOOD, box]}))
    assert result.counts == {kind: 1}
    assert again.counts == {}
    (image,) = (image for image in again.raw.images if Path(image.path).stem == "2")
    assert [list(obj.box) for obj in image.objects] == boxes


@pytest.mark.parametrize(
    ("box", "sides"),
    [
        ([100, 30, -50, 40], [50, 30, 100, 70]),
        ([100, 90, 50, -40], [100, 50, 150, 90]),
        ([100, 90, -50, -40], [50, 50, 100, 90]),
    ],
)
def test_corners_in_the_wrong_order_are_swapped(coco_set, box, sides):
    result, done, again = fixed(coco_set({2: [GOOD, box]}))
    assert result.counts == {"box-without-area": 1}
    assert "has no area: its corners are in the wrong order" in result.findings[0].message
    assert (again.counts, done.left) == ({}, [])
    assert done.counts == {"corners in the wrong order swapped": 1}
    (image,) = (image for image in again.raw.images if Path(image.path).stem == "2")
    assert [list(obj.box) for obj in image.objects] == [[20, 30, 70, 70], sides]


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("names", [("train", "val"), ("train", "test"), ("val", "test"), ("training", "testing"),
                                   ("training", "validate"), ("Train", "Val"), ("eval", "Testing")])  # fmt: skip
def test_a_picture_in_two_splits_stays_in_the_earlier_one(tmp_path, write_voc, voc_xml, names, near):
    box = ("cat", [4, 4, 40, 40])
    stems_of = {names[0]: ["0", "1"], names[1]: ["2", "3"], "more" if "rain" in names[0] else "train": ["4", "5"]}
    xmls = {str(k): voc_xml([box], filename=f"{k}.png") for k in range(6)}
    root = write_voc(tmp_path / "set", xmls, stems_of)
    for k in range(6):
        coarse = np.random.default_rng(k).integers(0, 255, (6, 8, 3), np.uint8)
        cv2.imwrite(str(root / "JPEGImages" / f"{k}.png"), cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC))
    first, second = (root / "JPEGImages" / f"{stems_of[name][0]}.png" for name in names)
    if near:
        cv2.imwrite(str(second), np.minimum(cv2.imread(str(first)).astype(np.int16) + 3, 255).astype(np.uint8))
    else:
        second.write_bytes(first.read_bytes())
    result, done, again = fixed(root)
    assert result.counts == {"image-in-two-splits": 1}
    assert again.counts == {}
    assert done.splits == {name: 2 - (name == names[1]) for name in stems_of}


@pytest.mark.parametrize("box", [[100, 30, -150, 40], [100, 90, 50, -140]])
def test_a_box_whose_corners_lie_outside_in_order_is_dropped_with_a_warning(coco_set, box):
    result, done, again = fixed(coco_set({2: [GOOD, box]}))
    assert result.counts == {"box-without-area": 1}
    assert again.counts == {"labels-left-out": 1}
    assert stems(again) == [Path(name).stem for name in NAMES]
    assert "was dropped, so that its object is missing here" in again.findings[0].message
    assert len(done.left) == 1


# ---------------------------------------------------------------------------------------------- entries


@pytest.mark.parametrize(
    "rows", [b"0 0.5 0.5 0.25 0.25\n0 0.5 what 0.2 0.2\n", b"7 0.5 0.5 0.2 0.2\n", b"\xff\xfe\x00"]
)
def test_an_image_with_an_unreadable_row_goes_as_a_whole(yolo_set, rows):
    result, done, again = fixed(yolo_set({2: rows}))
    assert result.severity("error") >= 1
    assert again.severity("error") == 0
    assert stems(again) == ["0", "1", "3", "4", "5"]
    assert done.left == []


def test_with_a_list_of_classes_others_are_taken_out_on_purpose(yolo_set):
    root = yolo_set({2: b"0 0.5 0.5 0.25 0.25\n1 0.5 0.5 0.2 0.2\n"})
    (root / "data.yaml").write_text("train: images/train\nnames: [cat, dog]\n")
    result = check_source(open_source(root), class_names=["cat"])
    repair(result, root.parent / "fixed")
    assert stems(check_source(open_source(root.parent / "fixed"))) == [Path(name).stem for name in NAMES]


def test_voc_files_with_broken_entries(tmp_path, voc_xml, write_voc):
    cat = ("cat", (10, 10, 60, 60))
    xmls = {f"{k}": voc_xml([cat], size=(SIDE, SIDE)) for k in range(4)}
    xmls["1"] = voc_xml([cat, ("dog", None)], size=(SIDE, SIDE))
    xmls["2"] = "<annotation><broken"
    root = write_voc(tmp_path / "set", xmls, {"train": list(xmls)})
    for k in range(4):
        picture(root / "JPEGImages" / f"{k}.png", k)
    _, done, again = fixed(root)
    assert stems(again) == ["0", "3"]
    assert again.counts == {}
    assert done.left == []


def test_a_file_of_many_images_leaves_a_warning(coco_set):
    result, done, again = fixed(coco_set(bbox=[1, 2, "three", 4]))
    assert result.counts == {"annotation-malformed": 1, "image-without-objects": 1}
    assert again.severity("error") == 0
    (finding,) = (one for one in again.findings if one.kind == "labels-left-out")
    assert finding.severity == "warning"
    assert finding.file.endswith(FILE)
    assert "1 entry could not be used, and what they label is missing here (first: " in finding.message
    assert "train.json:1: annotation 0 (id 0, cat)" in finding.message
    assert finding.message.endswith("; see to it, then remove this file")
    assert len(done.left) == 1
    copy = Path(finding.file).parent
    convert([str(copy)], copy.parent / "again", "yolo", quiet=True)
    assert check_source(open_source(copy.parent / "again")).counts["labels-left-out"] == 1
    Path(finding.file).unlink()
    assert check_source(open_source(Path(finding.file).parent)).counts == {"image-without-objects": 1}


def test_a_list_of_what_was_left_out_may_hold_anything(coco_set):
    root = coco_set()
    for content in (b"", b"{", b"[" * 100_000, b'{"left_out": 3}', b'{"left_out": [3, "a\\nb"]}', b"\xff"):
        (root / FILE).write_bytes(content)
        findings = check_source(open_source(root)).findings
        assert [finding.kind for finding in findings] == ["labels-left-out"]
        assert "\n" not in str(findings[0])


# ---------------------------------------------------------------------------------------------- what boxes mean


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_boxes_in_parts_are_multiplied(coco_set, tmp_path, write_voc, form):
    if form == "coco":
        root = coco_set({k: [[0.1, 0.2, 0.25, 0.5]] for k in range(6)})
    else:
        xml = (
            f"<annotation><size><width>{SIDE}</width><height>{SIDE}</height></size><object><name>cat</name><bndbox>"
            "<xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.35</xmax><ymax>0.7</ymax></bndbox></object></annotation>"
        )
        root = write_voc(tmp_path / "set", {f"{k}": xml for k in range(6)}, {"train": [f"{k}" for k in range(6)]})
        for k in range(6):
            picture(root / "JPEGImages" / f"{k}.png", k)
    result, _, again = fixed(root)
    assert result.counts.get("boxes-in-parts") == 1
    assert again.counts == {}
    for image in again.raw.images:
        assert np.allclose(image.objects[0].box, (24, 48, 84, 168), atol=1e-3)


def test_percent_keeps_its_warning(coco_set):
    result, done, again = fixed(coco_set({k: [[10.5, 20.5, 35.5, 40.5], [50.5, 30.5, 40, 40.5]] for k in range(6)}))
    assert result.counts == {"boxes-suspicious": 1}
    assert again.counts == {"boxes-suspicious": 1, "labels-left-out": 1}
    assert "if they are percent" in done.left[0]


def test_corners_keep_their_warning_whatever_is_cut(coco_set):
    corners = [[10, 20, 200, 210], [100, 90, 235, 200], [5, 6, 90, 80]]
    result, done, again = fixed(coco_set({k: corners if k < 4 else [[5, 6, 90, 80]] for k in range(6)}))
    assert result.counts["boxes-suspicious"] == 1
    assert again.severity("error") == 0
    assert again.counts["labels-left-out"] == 1
    assert "they look like a second corner" in done.left[0]


# ---------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_images_of_samples_that_are_not_read_stay(coco_set, yolo_set, tiff, form):
    root = {"coco": coco_set, "yolo": yolo_set}[form]()
    next(root.rglob("2.png")).write_bytes(tiff(np.zeros((SIDE, SIDE), np.float32)))
    result, done, again = fixed(root)
    assert done.form == form
    assert result.counts == again.counts == {"image-unread": 1}
    assert stems(again) == [Path(name).stem for name in NAMES]
    assert len(done.left) == 1
    assert "2.png: a float32 TIFF" in done.left[0]
    assert not done.actions


REASONS = {
    "image-missing": "6 labelled images are not there; put them where the labels name them",
    "image-corrupt": "6 images do not decode; fetch them again",
    "size-mismatch": "6 images are of another size than their labels say",
    "box-outside": "6 boxes lie outside their images",
}


@pytest.mark.parametrize("kind", REASONS)
def test_why_nothing_would_be_left(coco_set, one_line, kind):
    boxes = {k: [[SIDE + 5, 30, 50, 40]] for k in range(6)} if kind == "box-outside" else None
    root = coco_set(boxes, size=SIDE // 2 if kind == "size-mismatch" else SIDE)
    for name in NAMES:
        if kind == "image-missing":
            (root / name).unlink()
        elif kind == "image-corrupt":
            (root / name).write_bytes((root / name).read_bytes()[:-40])
    result = check_source(open_source(root))
    assert result.counts[kind] == 6
    said = one_line(repair, result, root.parent / "fixed")
    assert f"nothing usable would be left: {REASONS[kind]}" in said
    assert "label" not in said.replace("labelled", "").replace("labels", "")
    assert not (root.parent / "fixed").exists()


def test_every_kind_that_is_called_fixable_is_looked_at_here_or_in_test_repair():
    here = "".join(Path(__file__).with_name(name).read_text() for name in ("test_repair.py", Path(__file__).name))
    said = {"annotation-unreadable", "class-unknown", "class-misspelt", "split-unusable", "image-in-two-splits"}
    assert {kind for kind, about in KINDS.items() if about.fixable and kind not in here} <= said


def test_nothing_is_left_without_objects(coco_set):
    with pytest.raises(DataError, match="no image has an object; label some"):
        repair(check_source(open_source(coco_set({k: [] for k in range(6)}))), coco_set().parent / "fixed")


def test_counts_are_those_of_all_findings(coco_set, tmp_path, monkeypatch):
    from singleshot.datasets import checks

    monkeypatch.setattr(checks, "CollectErrors", functools.partial(CollectErrors, 2))
    result = check_source(open_source(coco_set({2: [GOOD, *[[1, 2, "x", 4]] * 5]})), workers=1)
    done = repair(result, tmp_path / "out")
    assert done.counts["unreadable entries of label files left out"] == 5
    assert len(done.actions["unreadable entries of label files left out"]) == 2


def test_pointers_of_git_lfs_are_named_once(voc, findings):
    root = voc({stem: [("cat", (5, 5, 20, 20))] for stem in "abc"})
    for stem in "ab":
        (root / "JPEGImages" / f"{stem}.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    (found,) = findings(root)["image-pointer"]
    assert "2 of 3 images are Git LFS pointers" in found.message
    assert found.message.endswith("git lfs pull")


def test_an_archive_beside_labels_without_images_is_named(coco_set, findings):
    path = coco_set({2: [GOOD]})
    root = path if path.is_dir() else path.parent
    (root / "pictures.zip").write_bytes(b"PK")
    assert "archive-packed" not in findings(root)
    next(root.rglob("2.*g")).unlink()
    found = findings(root)
    assert [Path(one.file).name for one in found["archive-packed"]] == ["pictures.zip"]

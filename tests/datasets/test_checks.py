"""Every kind of finding from a data set that has exactly it, and none from one that has nothing."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.build_dataset import build_dataset
from singleshot.datasets.checks import check_source, with_lines
from singleshot.datasets.checks.labels import check_boxes, duplicated_boxes, tabulate
from singleshot.datasets.findings import KINDS, CollectErrors, Finding
from singleshot.datasets.formats import FORMATS
from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.errors import DataError

BOX = (5, 5, 30, 30)


def scene(seed: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture unlike those of other seeds."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def test_a_sound_set_has_no_findings(voc):
    objects = [("cat", BOX), ("dog", (1, 1, 64, 40))]
    root = voc({"a": objects, "b": objects, "c": objects}, {"train": ["a"], "val": ["b"], "test": ["c"],
                                                        "trainval": ["a", "b"]})  # fmt: skip
    result = check_source(open_source(root), workers=2)
    assert result.findings == []
    assert (result.images, result.objects, result.classes) == (3, 6, {"cat": 3, "dog": 3})
    assert result.splits == {"test": 1, "train": 1, "trainval": 2, "val": 1}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".gif", ".tif"])
def test_files_cut_short_are_corrupt_as_training_says(tmp_path, voc, suffix, findings, kinds):
    root = voc({"a": [("cat", BOX)], "b": [("cat", BOX)]})
    (root / "JPEGImages" / "a.png").unlink()
    whole = cv2.imencode(suffix, scene(7))[1].tobytes()
    path = root / "JPEGImages" / f"a{suffix}"
    path.write_bytes(whole)
    assert kinds(root) == {}
    path.write_bytes(whole[: len(whole) * 2 // 3])
    found = findings(root)
    assert list(found) == ["image-corrupt"]
    assert found["image-corrupt"][0].file == str(path)
    with pytest.raises(DataError):
        open_dataset(root).sample(0)


def test_damage_in_the_middle_is_told_in_the_decoders_words(voc, findings):
    root = voc({"a": [("cat", BOX)], "b": [("cat", BOX)], "c": [("cat", BOX)]})
    jpg = bytearray(cv2.imencode(".jpg", scene(1))[1].tobytes())
    jpg[len(jpg) * 2 // 3 : len(jpg) * 2 // 3 + 10] = b"\xff" * 10
    tif = bytearray(cv2.imencode(".tif", scene(2))[1].tobytes())
    tif[len(tif) // 2 : len(tif) // 2 + 20] = b"\xff" * 20
    for stem, suffix, data in (("a", ".jpg", jpg), ("b", ".tif", tif)):
        (root / "JPEGImages" / f"{stem}.png").unlink()
        (root / "JPEGImages" / f"{stem}{suffix}").write_bytes(bytes(data))
    found = findings(root)
    assert list(found) == ["image-damaged"]
    messages = [finding.message for finding in found["image-damaged"]]
    assert len(messages) == 2
    assert "Corrupt JPEG data" in messages[0]
    assert "TIFF_Error" not in messages[1]
    assert "code" in messages[1]
    assert open_dataset(root).sample(0).image.shape == (48, 64, 3)  # training takes it: a warning


def test_warnings_about_metadata_are_no_damage(voc, kinds):
    root = voc({"a": [("cat", BOX)], "b": [("cat", BOX)]})
    data = cv2.imencode(".png", scene(3))[1].tobytes()
    chunk = b"eXIf" + b"MM\0*" + bytes(20)
    bad = data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk) ^ 1) + data[33:]
    (root / "JPEGImages" / "a.png").write_bytes(bad)
    assert kinds(root) == {}


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5x", 13, b"IHDR", 60000, 60000) + b"IEND"]
)
def test_no_image_and_a_bomb_are_corrupt(voc, data, kinds):
    root = voc({"a": [("cat", BOX)], "b": [("cat", BOX)]})
    (root / "JPEGImages" / "a.png").write_bytes(data)
    assert kinds(root) == {"image-corrupt": 1}


def test_missing_images_and_links_to_nothing(voc, kinds):
    root = voc({stem: [("cat", BOX)] for stem in "abc"})
    (root / "JPEGImages" / "a.png").unlink()
    (root / "JPEGImages" / "b.png").unlink()
    (root / "JPEGImages" / "b.png").symlink_to("nowhere.png")
    assert kinds(root) == {"image-missing": 2}


def turned_jpeg(seed: int, orientation: int) -> bytes:
    data = cv2.imencode(".jpg", scene(seed))[1].tobytes()
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def test_sizes_and_exif_turns(voc, findings):
    objects = [("cat", BOX)]
    objects = dict.fromkeys(["turned", "explained", "other", "swapped"], objects)
    sizes = {"turned": (48, 64), "explained": (64, 48), "other": (640, 640), "swapped": (48, 64)}
    root = voc(objects, sizes=sizes)
    for k, stem in enumerate(["turned", "explained"]):
        (root / "JPEGImages" / f"{stem}.png").write_bytes(turned_jpeg(k, 6))
    found = findings(root)
    assert list(found) == ["size-mismatch", "exif-rotation"]
    said = {Path(finding.file).stem: finding.message for finding in found["size-mismatch"]}
    assert sorted(said) == ["explained", "other", "swapped"]
    assert "EXIF orientation 6 turns it by a quarter" in said["explained"]
    assert "EXIF" not in said["other"] + said["swapped"]
    assert [Path(finding.file).stem for finding in found["exif-rotation"]] == ["turned"]
    # Exactly those are refused by training.
    data = open_dataset(root)
    for i, stem in enumerate(data.image_ids):
        if stem == "turned":
            data.sample(i)
        else:
            with pytest.raises(DataError, match="its annotation says"):
                data.sample(i)


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        (("nan", 1, 5, 5), "box-not-finite"),
        (("-inf", 1, 5, 5), "box-not-finite"),
        ((1, 1, "1e9", 5), "box-not-finite"),
        ((20, 5, 10, 30), "box-without-area"),
        ((50, 10, 70, 30), "box-outside"),
        ((66, 10, 66, 30), "box-outside"),  # within the two pixels, but nothing of it in the image
        ((50, 10, 66, 30), None),
        ((-1, 10, 30, 30), None),
        ((1, 1, 64, 48), "box-huge"),
        ((1, 1, 64, 47), None),
    ],
)
@pytest.mark.parametrize("sized", [True, False])
def test_boxes_are_judged_as_training_judges_them(voc, box, kind, sized, findings):
    root = voc({"a": [("cat", BOX), ("cat", box)], "b": [("cat", BOX)]}, sizes={} if sized else {"a": None})
    found = findings(root)
    assert list(found) == ([kind] if kind else [])
    refused = False
    try:
        open_dataset(root).sample(0)
    except DataError:
        refused = True
    assert refused == (kind is not None and KINDS[kind].severity == "error")
    for finding in (f for all_of_kind in found.values() for f in all_of_kind):
        assert (finding.number, finding.line) == (1, 1)
        assert finding.file.endswith("a.xml")


@given(
    st.lists(
        st.tuples(*[st.one_of(st.integers(-6, 72), st.floats(-5, 70), st.sampled_from([np.nan, np.inf, 2e6]))] * 4),
        min_size=1, max_size=6,
    ),
    st.booleans(),
)  # fmt: skip
def test_errors_about_boxes_are_those_of_training(boxes, relative):
    """No more and no fewer: a set has an error about a box exactly where `build_dataset` refuses it."""
    written = [tuple(v / s for v, s in zip(box, (64, 48, 64, 48), strict=True)) if relative else box for box in boxes]
    objects = [RawObject("cat", tuple(map(float, box)), number=k) for k, box in enumerate(written)]
    raw = RawSet("voc", "set", ("cat",), [RawImage("a.png", "a", 64, 48, objects, "a.xml", relative)], {"train": [0]})
    problems = CollectErrors()
    table = tabulate(raw, np.array([[64, 48]], np.int32))
    check_boxes(table, problems)
    errors = [finding for finding in problems.findings if finding.severity == "error"]
    assert len(errors) == table.bad.sum()
    try:
        build_dataset(raw, "train")
        refused = False
    except DataError:
        refused = True
    assert refused == bool(errors)


def test_tiny_is_what_is_small_once_resized(tmp_path, voc_xml, write_voc, findings):
    boxes = [(10, 10, 14, 60), (10, 10, 16, 60), (10, 10, 60, 13), (10, 10, 60, 15)]
    xml = voc_xml([("cat", box) for box in boxes], size=(480, 360))
    root = write_voc(tmp_path, {"a": xml}, {"train": ["a"]})
    cv2.imwrite(str(root / "JPEGImages" / "a.png"), scene(0, 480, 360))
    found = findings(root)
    assert list(found) == ["box-tiny"]
    assert [f.number for f in found["box-tiny"]] == [0, 2]
    assert "is 3.3 x 45.3 px once the image is 320 x 320" in found["box-tiny"][0].message
    assert "or train on tiles (--tile N) or at a larger --size" in found["box-tiny"][0].message


def test_many_boxes_on_one_place_are_compared_in_no_time(voc):
    """5,000 of them are a million pairs; each is found once, and named with the first of those near it."""
    root = voc({"a": [("cat", BOX)] * 5000})
    raw = open_source(root).read(None, CollectErrors())
    table = tabulate(raw, np.array([[64, 48]]))
    started = time.process_time()
    again = duplicated_boxes(table)
    assert time.process_time() - started < 1  # in Python, pair by pair, it took two or more
    assert list(again) == list(range(1, 5000))
    assert again[1] == again[2] == 0


def test_duplicated_boxes_want_one_class_and_one_image(voc, findings):
    pair = [("cat", (5, 5, 45, 45)), ("cat", (5, 5, 45, 45))]
    root = voc({
        "a": [*pair, ("cat", (5, 5, 45, 46))],
        "b": [("cat", (5, 5, 45, 45)), ("dog", (5, 5, 45, 45)), ("cat", (8, 5, 48, 45))],
    })  # fmt: skip
    found = findings(root)
    assert list(found) == ["box-duplicated"]
    assert [(Path(f.file).stem, f.number) for f in found["box-duplicated"]] == [("a", 1), ("a", 2)]


def test_lines_of_objects_are_found(tmp_path, voc_xml, write_voc, findings):
    xml = voc_xml([("cat", BOX), ("cat", (9, 9, 3, 3))]).replace("<object>", "\n<object>")
    root = write_voc(tmp_path, {"a": xml}, {"train": ["a"]})
    (finding,) = findings(root)["box-without-area"]
    assert str(finding).startswith(f"{root / 'Annotations' / 'a.xml'}:3: object 1 (cat): box xmin 9")


def test_lines_cost_bounded_work(tmp_path):
    (tmp_path / "a.json").write_text('{"annotations": [\n{},\n{},\n{}]}')
    found = with_lines(
        FORMATS["coco"], [Finding("box-outside", str(tmp_path / "a.json"), "", number=2)] * 5, most_bytes=100
    )
    assert [f.line for f in found] == [4, 4, 4, None, None]

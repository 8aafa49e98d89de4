"""Every kind of finding from a data set that has exactly it, and none from one that has nothing."""

from __future__ import annotations

import json
import os
import signal
import struct
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
from singleshot.datasets.checks.duplicates import differences, same_picture
from singleshot.datasets.checks.images import look_at
from singleshot.datasets.checks.labels import base_splits, check_boxes, edits, misspelt_classes, tabulate
from singleshot.datasets.checks.prefetch import looking_ahead
from singleshot.datasets.checks.process_pool import MAX_DEATHS, Died, said, spread
from singleshot.datasets.findings import KINDS, CollectErrors, Finding
from singleshot.datasets.formats import FORMATS
from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.errors import DataError

BOX = (5, 5, 30, 30)


def scene(seed: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture unlike those of other seeds."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def voc(tmp_path, voc_xml, write_voc):
    """voc({stem: objects}, {split: stems}, sizes={stem: (w, h)}): a VOC folder of pictures that differ."""

    def make(objects, splits=None, sizes=None):
        xmls = {stem: voc_xml(objects, size=(sizes or {}).get(stem, (64, 48))) for stem, objects in objects.items()}
        root = write_voc(tmp_path / "set", xmls, splits or {"train": list(objects)})
        for k, stem in enumerate(objects):
            cv2.imwrite(str(root / "JPEGImages" / f"{stem}.png"), scene(k))
        return root

    return make


def kinds(root: Path, **options) -> dict[str, int]:
    return check_source(open_source(root), workers=2, **options).counts


def findings(root: Path, **options) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in check_source(open_source(root), workers=2, **options).findings:
        found.setdefault(finding.kind, []).append(finding)
    return found


# ---------------------------------------------------------------------------------------------- nothing wrong


def test_a_sound_set_has_no_findings(voc):
    objects = [("cat", BOX), ("dog", (1, 1, 64, 40))]
    root = voc({"a": objects, "b": objects, "c": objects}, {"train": ["a"], "val": ["b"], "test": ["c"],
                                                        "trainval": ["a", "b"]})  # fmt: skip
    result = check_source(open_source(root), workers=2)
    assert result.findings == []
    assert (result.images, result.objects, result.classes) == (3, 6, {"cat": 3, "dog": 3})
    assert result.splits == {"test": 1, "train": 1, "trainval": 2, "val": 1}


# ---------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".gif", ".tif"])
def test_files_cut_short_are_corrupt_as_training_says(tmp_path, voc, suffix):
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


def test_damage_in_the_middle_is_told_in_the_decoders_words(voc):
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


def test_warnings_about_metadata_are_no_damage(voc):
    root = voc({"a": [("cat", BOX)], "b": [("cat", BOX)]})
    data = cv2.imencode(".png", scene(3))[1].tobytes()
    chunk = b"eXIf" + b"MM\0*" + bytes(20)
    bad = data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk) ^ 1) + data[33:]
    (root / "JPEGImages" / "a.png").write_bytes(bad)
    assert kinds(root) == {}


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5x", 13, b"IHDR", 60000, 60000) + b"IEND"]
)
def test_no_image_and_a_bomb_are_corrupt(voc, data):
    root = voc({"a": [("cat", BOX)], "b": [("cat", BOX)]})
    (root / "JPEGImages" / "a.png").write_bytes(data)
    assert kinds(root) == {"image-corrupt": 1}


def test_missing_images_and_links_to_nothing(voc):
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


def test_sizes_and_exif_turns(voc):
    objects = [("cat", BOX)]
    objects = dict.fromkeys(["turned", "explained", "other", "swapped"], objects)
    sizes = {"turned": (48, 64), "explained": (64, 48), "other": (640, 480), "swapped": (48, 64)}
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


# ---------------------------------------------------------------------------------------------- boxes


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
def test_boxes_are_judged_as_training_judges_them(voc, box, kind, sized):
    root = voc({"a": [("cat", BOX), ("cat", box)], "b": [("cat", BOX)]}, sizes={} if sized else {"a": None})
    found = findings(root)
    assert list(found) == ([kind] if kind else [])
    refused = False
    try:
        open_dataset(root).sample(0)
    except DataError:
        refused = True
    assert refused == (kind is not None and KINDS[kind][0] == "error")
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


def test_tiny_is_what_is_small_once_resized(tmp_path, voc_xml, write_voc):
    boxes = [(10, 10, 15, 60), (10, 10, 17, 60), (10, 10, 60, 13), (10, 10, 60, 15)]
    xml = voc_xml([("cat", box) for box in boxes], size=(480, 360))
    root = write_voc(tmp_path, {"a": xml}, {"train": ["a"]})
    cv2.imwrite(str(root / "JPEGImages" / "a.png"), scene(0, 480, 360))
    found = findings(root)
    assert list(found) == ["box-tiny"]
    assert [f.number for f in found["box-tiny"]] == [0, 2]
    assert "is 3.8 x 42.5 px once the image is 300 x 300" in found["box-tiny"][0].message


def test_duplicated_boxes_want_one_class_and_one_image(voc):
    pair = [("cat", (5, 5, 45, 45)), ("cat", (5, 5, 45, 45))]
    root = voc({
        "a": [*pair, ("cat", (5, 5, 45, 46))],
        "b": [("cat", (5, 5, 45, 45)), ("dog", (5, 5, 45, 45)), ("cat", (8, 5, 48, 45))],
    })  # fmt: skip
    found = findings(root)
    assert list(found) == ["box-duplicated"]
    assert [(Path(f.file).stem, f.number) for f in found["box-duplicated"]] == [("a", 1), ("a", 2)]


def test_lines_of_objects_are_found(tmp_path, voc_xml, write_voc):
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


# ---------------------------------------------------------------------------------------------- classes and splits


def test_classes_that_are_not_wanted(voc):
    root = voc({"a": [("cat", BOX), ("tree", (1, 1, 20, 20))], "b": [("cat", BOX)]})
    found = findings(root, class_names=["cat", "trees", "cow"])
    assert [f.item for f in found["class-unknown"]] == ["object 1 (tree)"]
    assert "did you mean 'trees'?" in found["class-unknown"][0].message
    assert sorted(found) == ["class-absent", "class-unknown"]
    assert sorted(f.message.split("'")[1] for f in found["class-absent"]) == ["cow", "trees"]


@pytest.mark.parametrize(
    ("counts", "want"),
    [
        ({"cat": 50, "Cat": 20}, {"Cat": "cat"}),
        ({"traffic light": 9, "traffic_light": 3, "trafficlight": 1},
         {"traffic_light": "traffic light", "trafficlight": "traffic light"}),
        ({"person": 90, "persons": 40}, {"persons": "person"}),
        ({"person": 90, "perosn": 1}, {"perosn": "person"}),
        ({"aeroplane": 200, "airplane": 2}, {"airplane": "aeroplane"}),
        ({"RBC": 4155, "WBC": 3}, {}),
        ({"cat": 500, "car": 1, "cow": 1}, {}),
        ({"horse": 500, "house": 40}, {}),
        ({"class 1": 500, "class 2": 1}, {}),
        ({"type a": 500, "type b": 1}, {}),
        ({"helmet": 500, "no helmet": 1}, {}),
        ({"correct mask": 500, "incorrect mask": 1}, {}),
        ({"a": 500, "A": 1}, {}),
        ({"person": 2, "perosn": 1}, {}),
    ],
)  # fmt: skip
def test_misspelt_classes(counts, want):
    assert misspelt_classes(counts) == want
    assert misspelt_classes(counts, right=list(counts)) == {}


@pytest.mark.parametrize(
    ("a", "b", "n"),
    [("person", "perosn", 1), ("cat", "cat", 0), ("cat", "cart", 1), ("abcd", "badc", 2), ("kitten", "sitting", 3),
     ("dog", "elephant", 3)],
)  # fmt: skip
def test_edits_are_counted(a, b, n):
    assert edits(a, b, 2) == n == edits(b, a, 2)


def test_misspelt_class_is_told_where_it_stands(voc):
    root = voc({"a": [("kitten", BOX)], "b": [("kitten", BOX)], "c": [("Kitten", BOX)]})
    (finding,) = findings(root)["class-misspelt"]
    assert finding.file.endswith("c.xml")
    assert "'Kitten' has 1 object, 'kitten' has 2" in finding.message


def test_a_class_that_a_split_lacks(voc):
    both = [("cat", BOX), ("dog", (1, 1, 20, 20))]
    objects = {"a": both, "b": [("cat", BOX)], "c": both, "d": []}
    splits = {"train": ["a"], "val": ["b"], "test": ["c"], "trainval": ["a", "b"], "tiny": ["d"]}
    found = findings(voc(objects, splits))
    assert [f.message for f in found["class-absent"]] == [
        "split 'val' has no object of class 'dog' (1 in test, 1 in train)"
    ]
    assert sorted(found) == ["class-absent", "image-without-objects"]


@pytest.mark.parametrize(
    ("splits", "base"),
    [
        ({"train": [0, 1], "val": [2], "trainval": [0, 1, 2]}, ["train", "val"]),
        ({"train": [0, 1], "val": [0, 1]}, ["train", "val"]),
        ({"train": [0, 1, 2], "val": [2]}, ["train", "val"]),
        ({"train": [0], "val": [1], "test": [2], "everything": [0, 1, 2]}, ["train", "val", "test"]),
        ({"trainval": [0, 1]}, ["trainval"]),
    ],
)
def test_splits_that_join_others_are_known(splits, base):
    assert list(base_splits(splits)) == base


def test_nothing_labelled_and_empty_splits(voc):
    assert kinds(voc({"a": [], "b": []})) == {"nothing-labelled": 1}
    root = voc({"a": [("cat", BOX)], "b": []}, {"train": ["a", "b"], "none": []})
    assert kinds(root) == {"split-unusable": 1, "image-without-objects": 1}


def test_images_that_nobody_mentions(voc):
    root = voc({"a": [("cat", BOX)], "b": [("cat", BOX)], "c": [("cat", BOX)]}, {"train": ["a", "b"]})
    cv2.imwrite(str(root / "JPEGImages" / "stray.png"), scene(9))
    (root / "JPEGImages" / "notes.txt").write_text("no image")
    (root / "Annotations" / "b.xml").write_text("<broken")
    found = findings(root)
    assert {kind: [Path(f.file).name for f in of_kind] for kind, of_kind in found.items()} == {
        "annotation-unreadable": ["b.xml"],
        "image-unlabelled": ["stray.png"],
        "image-unused": ["c.png"],
    }
    assert kinds(root, split="train") == {"annotation-unreadable": 1}


# ---------------------------------------------------------------------------------------------- duplicates


def copies(image: np.ndarray) -> dict[str, np.ndarray]:
    again = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    return {
        "encoded": again,
        "half": cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA),
        "brighter": cv2.convertScaleAbs(image, alpha=0.8, beta=30),
    }


@pytest.mark.parametrize("how", ["encoded", "half", "brighter"])
def test_near_copies_across_splits(voc, how):
    objects = {stem: [("cat", (5, 5, 20, 20))] for stem in "abcd"}
    root = voc(objects, {"train": ["a", "b"], "val": ["c", "d"]}, sizes=dict.fromkeys("abcd"))
    image = scene(50, 160, 120)
    cv2.imwrite(str(root / "JPEGImages" / "a.png"), image)
    cv2.imwrite(str(root / "JPEGImages" / "c.png"), copies(image)[how])
    found = findings(root)
    assert list(found) == ["image-in-two-splits"]
    (finding,) = found["image-in-two-splits"]
    assert Path(finding.file).name == "c.png"
    assert "in val: nearly the same picture as" in finding.message
    assert "a.png in train" in finding.message


def test_exact_copies_by_bytes_and_pixels(voc):
    objects = {stem: [("cat", BOX)] for stem in "abcdef"}
    splits = {"train": ["a", "b", "f"], "val": ["c", "d"], "test": ["e"], "trainval": ["a", "b", "c", "d", "f"]}
    root = voc(objects, splits)
    images = root / "JPEGImages"
    (images / "c.png").write_bytes((images / "a.png").read_bytes())
    cv2.imwrite(str(images / "e.png"), cv2.imread(str(images / "a.png")), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    (images / "f.png").write_bytes((images / "b.png").read_bytes())
    found = findings(root)
    said = {(f.kind, Path(f.file).name): f.message for of_kind in found.values() for f in of_kind}
    assert sorted(said) == [("image-duplicated", "f.png"), ("image-in-two-splits", "c.png"),
                            ("image-in-two-splits", "e.png")]  # fmt: skip
    assert "in val: the same bytes as" in said["image-in-two-splits", "c.png"]
    assert "in test: the same pixels as" in said["image-in-two-splits", "e.png"]


def test_pairs_that_are_too_many_are_counted(voc, monkeypatch):
    from singleshot.datasets.checks import duplicates

    monkeypatch.setattr(duplicates, "_MAX_CONFIRMED", 2)
    root = voc({stem: [("cat", BOX)] for stem in "abcd"}, {"train": ["a", "b", "c"], "val": ["d"]})
    for k, stem in enumerate("abcd"):
        image = cv2.GaussianBlur(scene(0), (0, 0), 0.4 + k / 20)
        cv2.imwrite(str(root / "JPEGImages" / f"{stem}.png"), image)
    found = findings(root)
    assert len(found["image-in-two-splits"]) == 2  # those across splits come first
    (note,) = found["image-duplicated"]
    assert note.message.startswith("4 more pairs of images look alike")


def test_looking_ahead_changes_nothing(voc):
    root = voc({f"a{k}": [("cat", (1, 1, 2 + k % 40, 20))] for k in range(40)})
    (root / "JPEGImages" / "a3.png").write_bytes(b"")
    (root.parent / "out.png").write_bytes((root / "JPEGImages" / "a5.png").read_bytes())
    (root / "JPEGImages" / "stray.png").write_bytes((root / "JPEGImages" / "a4.png").read_bytes())
    source = open_source(root)
    slow = check_source(source, workers=2).to_dict()
    with looking_ahead(source, 2, least=1) as early:
        pass
    assert set(early) <= {str(path) for path in (root / "JPEGImages").iterdir()}
    fast = check_source(source, workers=2, prefetch_least=1).to_dict()
    assert {**slow, "seconds": 0} == {**fast, "seconds": 0}
    assert slow["counts"]["image-unlabelled"] == slow["counts"]["image-corrupt"] == 1


def test_looking_ahead_ends_with_its_context(voc, monkeypatch):
    import multiprocessing

    from singleshot.datasets.checks import prefetch as ahead

    root = voc({f"a{k}": [("cat", BOX)] for k in range(20)})
    with pytest.raises(KeyboardInterrupt), looking_ahead(open_source(root), 2, least=1):
        raise KeyboardInterrupt
    assert multiprocessing.active_children() == []
    real = ahead.look

    def die(path):
        if path.endswith("a7.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path)

    monkeypatch.setattr(ahead, "look", die)
    assert check_source(open_source(root), workers=2, prefetch_least=1).findings == []


def test_equal_grey_is_not_equal(tmp_path):
    """Two colours that decode to one grey are two pictures."""
    grey = np.full((20, 30, 3), 76, np.uint8)
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 2] = 255
    assert cv2.cvtColor(red, cv2.COLOR_BGR2GRAY)[0, 0] == 76
    from singleshot.datasets.checks.duplicates import exact_groups

    paths = []
    for name, image in (("grey", grey), ("red", red), ("red2", red)):
        paths.append(str(tmp_path / f"{name}.bmp"))
        cv2.imwrite(paths[-1], image)
    assert exact_groups(look_at(paths, 1), 1) == [[1, 2]]


def test_one_list_naming_what_another_has(voc):
    objects = {stem: [("cat", BOX)] for stem in "abc"}
    root = voc(objects, {"train": ["a", "b"], "val": ["b", "c"]})
    (finding,) = findings(root)["image-in-two-splits"]
    assert finding.message.startswith("is listed in train and in val")
    root = voc(objects, {"train": ["a", "b"], "val": ["c"], "fold1": ["a", "c"], "fold2": ["b", "c"]})
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("a\nb\nc\n")
    assert kinds(root) == {}


def test_a_board_with_one_more_flaw_is_another_picture():
    board = np.full((640, 640), 255, np.uint8)
    for x in range(20, 640, 60):
        board[:, x : x + 20] = 0
    flawed = board.copy()
    flawed[300:312, 80:100] = 255  # a wire is open
    assert not same_picture(board, flawed)
    noisy = cv2.imdecode(cv2.imencode(".jpg", board, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_GRAYSCALE)
    assert same_picture(board, noisy)
    assert same_picture(board, cv2.resize(board, (320, 320), interpolation=cv2.INTER_AREA))
    assert differences(board, np.full_like(board, 7))[0] == np.inf


# ---------------------------------------------------------------------------------------------- processes


def _double(item: int) -> int:
    if item == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 17:
        os.write(2, b"libpng error: words")
        return len(said())
    return 2 * item


def _die_once(path: str) -> str:
    marker = Path(path)
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "fine"


def _die(item: int) -> int:
    os._exit(3)


def _fail(item: int) -> int:
    raise ZeroDivisionError("ours")


def test_a_process_that_dies_takes_one_item_with_it():
    results = dict(spread(_double, range(100), workers=2))
    assert sorted(results) == list(range(100))
    assert str(results[13]) == "ended by SIGKILL, as the system does when memory is full"
    assert results[17] == 19
    assert {i: r for i, r in results.items() if i not in (13, 17)} == {
        i: 2 * i for i in range(100) if i not in (13, 17)
    }


def test_a_process_that_was_ended_by_chance_costs_nothing(tmp_path):
    assert dict(spread(_die_once, [str(tmp_path / "marker")], workers=1)) == {0: "fine"}


def test_processes_that_always_die_end_in_a_sentence():
    assert dict(spread(_die, range(3), workers=1)) == {i: Died(3) for i in range(3)}
    with pytest.raises(DataError, match="processes died while reading images"):
        list(spread(_die, range(MAX_DEATHS), workers=2))


def test_our_own_mistake_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="ZeroDivisionError: ours"):
        list(spread(_fail, range(3), workers=2))
    assert list(spread(_fail, [], workers=2)) == []


def test_a_decoder_that_dies_is_a_finding(voc, monkeypatch):
    from singleshot.datasets.checks import images as pictures

    root = voc({stem: [("cat", BOX)] for stem in "abc"})
    real = pictures.look

    def look(path):
        if path.endswith("b.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path)

    monkeypatch.setattr(pictures, "look", look)
    (finding,) = findings(root)["image-corrupt"]
    assert Path(finding.file).name == "b.png"
    assert "died, twice (ended by SIGKILL" in finding.message


# ---------------------------------------------------------------------------------------------- other forms, real data


def test_coco_and_remote_sets(tmp_path, coco, write_coco):
    fsspec = pytest.importorskip("fsspec")
    rows = [
        {"id": 1, "image_id": 20, "category_id": 7, "bbox": [5, 5, 20, 20]},
        {"id": 2, "image_id": 10, "category_id": 7, "bbox": [50, 5, 40, 20]},
    ]
    path = write_coco(tmp_path / "set" / "train.json", coco(rows))
    path.write_text(json.dumps(json.loads(path.read_text()), indent=0))
    for k, name in enumerate(("a.png", "b.png")):
        cv2.imwrite(str(path.parent / name), scene(k))
    cv2.imwrite(str(path.parent / "stray name.png"), scene(5))
    local = findings(path.parent)
    assert sorted(local) == ["box-outside", "class-absent", "image-unlabelled"]
    line = local["box-outside"][0].line
    assert path.read_text().splitlines()[line - 1 : line + 1] == ["{", '"id": 2,']
    memory = fsspec.filesystem("memory")
    memory.put(str(path.parent), "/checked", recursive=True)
    try:
        far = findings("memory://checked")
        assert {k: [f.message for f in v] for k, v in far.items()} == {
            k: [f.message for f in v] for k, v in local.items()
        }
        assert far["image-unlabelled"][0].file == "memory://checked/stray name.png"
    finally:
        memory.rm("/checked", recursive=True)


@pytest.mark.parametrize(
    ("name", "want"),
    [("bccd", {"box-tiny": 2}), ("deeppcb", {}), pytest.param("voc07", {"box-tiny": 2, "box-huge": 57})],
)
def test_real_sets_have_their_known_findings_and_no_false_ones(shared, name, want):
    assert kinds(shared / "data" / name) == want

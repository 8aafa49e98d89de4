"""Embedded scenes: what the pictures promise, measured on the written folder and on the painted pixels."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from singleshot.errors import ConfigError, DataError
from singleshot.scenes import scenes
from singleshot.scenes.layout import Item, lay_out
from singleshot.scenes.painting import draw_object
from singleshot.scenes.scenes import MARKER, SCENE_CLASSES, SPLITS, make_scene, render_scene, write_scenes
from singleshot.scenes.shapes import CROSS_ARM, LEAF_WIDTH, STAR_WAIST, make_patch, pose_matrix

# label x0 y0 x1 y1 difficult of train pictures 0 to 2 of seed 0.
PINNED = [
    (2, 110, 146, 243, 306, 0),
    (1, 144, 48, 192, 132, 1),
    (2, 65, 6, 137, 82, 0),
    (0, 196, 23, 270, 97, 0),
    (1, 28, 197, 62, 255, 0),
    (2, 145, 49, 189, 93, 0),
    (1, 69, 221, 93, 260, 0),
    (1, 30, 10, 64, 30, 0),
    (2, 69, 111, 160, 217, 0),
    (1, 88, 157, 142, 227, 0),
    (2, 245, 82, 283, 115, 0),
    (2, 41, 38, 238, 228, 0),
    (0, 177, 54, 247, 123, 0),
    (3, 309, 128, 352, 186, 0),
    (0, 282, 157, 326, 196, 0),
    (1, 52, 29, 80, 66, 0),
    (2, 245, 8, 278, 41, 0),
]
COUNTS = {"train": 12, "val": 4, "test": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "deep" / "voc"
    write_scenes(path, seed=3, **COUNTS)
    return path


@pytest.fixture(scope="module")
def pictures() -> list:
    return [make_scene(0, "train", i) for i in range(120)]


@pytest.fixture(scope="module")
def objects(pictures: list) -> list:
    return [(image, found) for image, all_found in pictures for found in all_found]


def contents(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_voc(root: Path, stem: str) -> tuple[ElementTree.Element, list[tuple[str, int, list[int]]]]:
    tree = ElementTree.parse(root / "Annotations" / f"{stem}.xml").getroot()
    rows = []
    for node in tree.findall("object"):
        box = [int(node.findtext(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax")]
        rows.append((node.findtext("name"), int(node.findtext("difficult")), box))
    return tree, rows


def test_lists_name_every_file_once_and_the_counts_are_as_asked(folder: Path) -> None:
    lists = {p.stem: p.read_text().split() for p in (folder / "ImageSets" / "Main").glob("*.txt")}
    assert {split: len(lists[split]) for split in SPLITS} == COUNTS
    assert lists["trainval"] == lists["train"] + lists["val"]
    everything = sorted(lists["train"] + lists["val"] + lists["test"])
    assert len(set(everything)) == len(everything) == sum(COUNTS.values())
    assert sorted(p.stem for p in (folder / "JPEGImages").iterdir()) == everything
    assert sorted(p.stem for p in (folder / "Annotations").iterdir()) == everything


def test_annotations_are_voc_and_agree_with_the_pictures(folder: Path) -> None:
    for split in SPLITS:
        for i in range(COUNTS[split]):
            stem = f"{split}_{i:05d}"
            image = cv2.imread(str(folder / "JPEGImages" / f"{stem}.jpg"))
            tree, rows = read_voc(folder, stem)
            height, width = image.shape[:2]
            assert (tree.findtext("size/width"), tree.findtext("size/height")) == (str(width), str(height))
            assert tree.findtext("filename") == f"{stem}.jpg"
            painted, found = make_scene(3, split, i)
            want = [
                (SCENE_CLASSES[o.label], int(o.difficult), [o.box_px[0] + 1, o.box_px[1] + 1, *o.box_px[2:]])
                for o in found
            ]
            assert rows == want
            assert all(1 <= b[0] <= b[2] <= width and 1 <= b[1] <= b[3] <= height for _, _, b in rows)
            # JPEG at quality 92 is near the painted RGB picture; swapped channels would not be.
            assert np.abs(image[..., ::-1].astype(int) - painted).mean() < 6


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "again", seed=3, **COUNTS)
    assert contents(tmp_path / "again") == contents(folder)
    write_scenes(tmp_path / "other", seed=4, **COUNTS)
    assert read_voc(tmp_path / "other", "train_00000")[1] != read_voc(folder, "train_00000")[1]


def test_more_pictures_do_not_change_the_earlier_ones(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "few", seed=3, train=3, val=0, test=2)
    few, many = contents(tmp_path / "few"), contents(folder)
    shared = [name for name in few if name.startswith(("JPEGImages", "Annotations"))]
    assert len(shared) == 10
    assert all(few[name] == many[name] for name in shared)


def test_annotations_of_the_first_scenes_are_pinned() -> None:
    # Written down on Linux x86-64, numpy 2.4: another machine or release must give the same boxes.
    rows = [(o.label, *map(int, o.box_px), int(o.difficult)) for i in range(3) for o in make_scene(0, "train", i)[1]]
    assert rows == PINNED


def test_boxes_come_from_the_layouts_generator_alone() -> None:
    for seed in range(8):
        _, found = render_scene(np.random.default_rng(seed), 320, 240)
        items = lay_out(np.random.default_rng(seed).spawn(2)[0], 320, 240)
        assert [(o.label, o.truncated, o.pose.tolist()) for o in found] == [
            (item.label, item.truncated, (item.patch.pose + np.array([[0, 0, item.left], [0, 0, item.top]])).tolist())
            for item in items
        ]
        assert [o.box_px for o in found] == [
            (columns.start, rows.start, columns.stop, rows.stop)
            for rows, columns in (item.window for item in items if not item.truncated)
        ] or any(item.truncated for item in items)


def test_a_tenth_of_the_pictures_is_empty_and_they_differ(pictures: list) -> None:
    empty = [image for image, found in pictures if not found]
    assert len(empty) == len(pictures) // 10
    assert len({image.tobytes() for image in empty}) == len(empty)
    shapes = {image.shape[:2] for image, _ in pictures}
    assert any(h > w for h, w in shapes)
    assert any(w > h for h, w in shapes)


def test_sizes_run_from_4_to_70_percent(objects: list) -> None:
    sides = np.array([[o.box_px[2] - o.box_px[0], o.box_px[3] - o.box_px[1]] for _, o in objects])
    share = sides.max(axis=1) / [max(image.shape[:2]) for image, _ in objects]
    assert 0.035 < share.min() < 0.05
    assert 0.6 < share.max() < 0.72
    # Small ones are common, large ones are there.
    assert np.mean(share < 0.12) > 0.2
    assert np.mean(share > 0.3) > 0.1
    whole = [not o.truncated for _, o in objects]
    assert sides[whole].min() >= 9


def test_all_classes_are_about_as_frequent_and_colour_alone_does_not_tell_them(objects: list) -> None:
    labels = np.array([o.label for _, o in objects])
    shares = np.bincount(labels, minlength=4) / len(labels)
    assert len(shares) == len(SCENE_CLASSES) == 4
    assert shares.min() > 0.15
    colours = []
    for image, o in objects:
        x0, y0, x1, y1 = map(int, o.box_px)
        colours.append(image[y0:y1, x0:x1].reshape(-1, 3).mean(axis=0))
    # One mean colour per class, leaving one out, does better than chance (.25) and far from well.
    colours = np.array(colours)
    right = 0
    for i, colour in enumerate(colours):
        keep = np.arange(len(colours)) != i
        centres = np.stack([colours[keep & (labels == c)].mean(axis=0) for c in range(4)])
        right += int(np.argmin(((centres - colour) ** 2).sum(axis=1)) == labels[i])
    assert 0.3 < right / len(colours) < 0.8


def test_overlaps_are_there_and_limited(pictures: list) -> None:
    touching = 0
    for _, found in pictures:
        for i, a in enumerate(found):
            assert a.difficult or a.hidden <= 0.6
            assert a.hidden <= 0.85
            for b in found[i + 1 :]:
                inner = np.minimum(a.box_px[2:], b.box_px[2:]) - np.maximum(a.box_px[:2], b.box_px[:2])
                touching += bool((inner > 0).all())
    assert touching > 20


def test_difficult_objects_are_there_now_and_then(objects: list) -> None:
    share = np.mean([o.difficult for _, o in objects])
    assert 0.02 < share < 0.1
    assert any(o.hidden > 0.6 for _, o in objects)  # buried ones
    assert any(o.difficult and o.hidden < 0.3 for _, o in objects)  # faint ones
    assert any(o.truncated for _, o in objects)


def polygon(name: str) -> np.ndarray:
    """float [K, 2]: the outline of a shape in its unit coordinates."""
    if name == "ring":
        angle = np.arange(96) * (2.0 * np.pi / 96)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if name == "star":
        angle, radius = np.arange(10) * (np.pi / 5.0), np.where(np.arange(10) % 2 == 0, 1.0, STAR_WAIST)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    if name == "cross":
        quarter = np.array([[1.0, -CROSS_ARM], [1.0, CROSS_ARM], [CROSS_ARM, CROSS_ARM]])
        return np.concatenate([quarter @ np.linalg.matrix_power([[0, 1], [-1, 0]], k) for k in range(4)])
    x = np.linspace(-1.0, 1.0, 49)
    half = LEAF_WIDTH * (1.0 - x * x) * (1.0 - 0.35 * x)
    return np.concatenate([np.stack([x, half], axis=1), np.stack([x, -half], axis=1)[::-1]])


def test_boxes_are_tight_around_the_polygon(objects: list) -> None:
    """The polygon, rasterised by OpenCV, against the box from the shape's own field."""
    for image, o in objects:
        canvas = np.zeros(image.shape[:2], np.uint8)
        outline_px = polygon(SCENE_CLASSES[o.label]) @ o.pose[:, :2].T + o.pose[:, 2]
        cv2.fillPoly(canvas, [np.round((outline_px - 0.5) * 256).astype(np.int32)], 255, cv2.LINE_AA, shift=8)
        rows, columns = np.flatnonzero(canvas.max(axis=1) > 127), np.flatnonzero(canvas.max(axis=0) > 127)
        drawn = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(drawn - o.box_px).max() <= 2, (SCENE_CLASSES[o.label], drawn, o.box_px)


@pytest.mark.parametrize("name", SCENE_CLASSES)
def test_a_painted_object_changes_its_box_and_nothing_else(name: str) -> None:
    rng = np.random.default_rng(7)
    for side in (14.0, 33.0, 150.0):
        matrix = pose_matrix(0.4, 0.8, rng.uniform(0, 6))
        patch = make_patch(name, matrix, side, 10.0, 4)
        canvas = np.full((200, 220, 3), 128.0, np.float32)
        draw_object(np.random.default_rng(0), canvas, Item(0, patch, 21, 12, 220, 200), 0.3)
        changed = np.abs(canvas - 128.0).max(axis=2) > 1.0
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        h, w = patch.coverage.shape
        assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (21, 12, 21 + w, 12 + h)
        assert max(h, w) == pytest.approx(side, abs=2)


def test_render_scene_is_pure_and_takes_any_frame() -> None:
    for width, height in ((64, 64), (320, 240), (90, 500)):
        first, found = render_scene(np.random.default_rng(5), width, height)
        again, found_again = render_scene(np.random.default_rng(5), width, height)
        assert first.shape == (height, width, 3)
        assert first.dtype == np.uint8
        assert np.array_equal(first, again)
        assert [o.box_px for o in found] == [o.box_px for o in found_again]
    assert render_scene(np.random.default_rng(5), 320, 240, empty=True)[1] == []


def test_a_finished_folder_is_kept(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_scenes(folder, seed=3, **COUNTS)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds other scenes already"):
        write_scenes(folder, seed=9, **COUNTS)
    theirs = tmp_path / "line\nbreak"
    theirs.mkdir()
    (theirs / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="holds something else already") as caught:
        write_scenes(theirs, **COUNTS)
    assert "\n" not in str(caught.value)
    (theirs / MARKER).write_text("{broken")
    with pytest.raises(DataError, match="holds something else already"):
        write_scenes(theirs, **COUNTS)
    taken = tmp_path / "taken"
    taken.write_text("a file")
    with pytest.raises(DataError, match="holds something else already"):
        write_scenes(taken, **COUNTS)
    assert (theirs / "holiday.jpg").read_bytes() == b"x"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["line\nbreak", "taken"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_scenes(tmp_path / "empty", train=1, test=0, val=0)
    assert json.loads((tmp_path / "empty" / MARKER).read_text())["train"] == 1


def test_nothing_is_left_when_writing_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(seed: int, split: str, index: int) -> None:
        if index == 2:
            raise KeyboardInterrupt
        return make_scene(seed, split, index)

    monkeypatch.setattr(scenes, "make_scene", broken)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "voc", **COUNTS)
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_that_comes_later_keeps_the_first_ones_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "voc"

    def finished_meanwhile(seed: int, split: str, index: int) -> tuple:
        if not target.exists():
            shutil.copytree(folder, target)
        return make_scene(seed, split, index)

    monkeypatch.setattr(scenes, "make_scene", finished_meanwhile)
    write_scenes(target, seed=3, **COUNTS)
    assert contents(target) == contents(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["voc"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write there"):
        write_scenes(tmp_path / "file" / "voc", train=1, test=0, val=0)


@pytest.mark.parametrize("counts", [{"train": -1}, {"seed": -1}, {"train": 0, "test": 0, "val": 0}])
def test_bad_counts_are_refused(tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="want 0 or more"):
        write_scenes(tmp_path / "voc", **counts)
    assert list(tmp_path.iterdir()) == []

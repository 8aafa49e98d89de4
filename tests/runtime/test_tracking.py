"""Numbers of objects in videos: they stay while objects move, cross and hide, and begin anew in each video."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.errors import ConfigError, MissingExtraError
from singleshot.inputs import InputSpec
from singleshot.records import ImageDetections
from singleshot.runtime import Detections, Detector, Frame
from singleshot.runtime.drawing import draw_detections, track_colour
from singleshot.runtime.tracking import ObjectTracker, distances

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WIDTH, HEIGHT, FRAMES = 160, 120, 24


def place(colour: tuple[int, int, int], i: int) -> tuple[int, int, int, int] | None:
    """Where a shape is in frame i: red and green cross each other, blue stands still and is hidden for six frames."""
    if colour == RED:
        return 5 + 5 * i, 30, 25 + 5 * i, 50
    if colour == GREEN:
        return 135 - 5 * i, 38, 155 - 5 * i, 58
    return None if 8 <= i < 14 else (70, 90, 90, 110)


def shapes(i: int) -> np.ndarray:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for colour in (BLUE, GREEN, RED):
        box = place(colour, i)
        if box is not None:
            image[box[1] : box[3], box[0] : box[2]] = colour
    return image


class ColourEngine:
    """One object of one class around all of each pure colour, in an order that changes from call to call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: np.ndarray) -> list[ImageDetections]:
        found = []
        for image in images:
            self.calls += 1
            boxes = []
            for channel in np.roll([0, 1, 2], self.calls):
                others = np.delete(image, channel, axis=2).max(axis=2).astype(int)
                ys, xs = np.nonzero(image[:, :, channel].astype(int) - others > 128)
                if len(xs):
                    boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            rows = np.array(boxes, np.float32).reshape(-1, 4) / image.shape[0]
            scores = np.linspace(0.9, 0.8, len(rows), dtype=np.float32)
            found.append(ImageDetections(rows, scores, np.zeros(len(rows), np.int64)))
        return found


@pytest.fixture
def detector() -> Detector:
    return Detector(ColourEngine(), InputSpec(size=320, mean=(0.0, 0.0, 0.0)), ("shape",))


@pytest.fixture
def shapes_clip(tmp_path: Path) -> Path:
    path = tmp_path / "shapes.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (WIDTH, HEIGHT))
    for i in range(FRAMES):
        writer.write(shapes(i)[:, :, ::-1].copy())
    writer.release()
    return path


def colour_at(box: list[float], i: int) -> tuple[int, int, int]:
    """The shape that a box of frame i is around."""
    middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2

    def apart(colour: tuple[int, int, int]) -> float:
        there = place(colour, i)
        return (
            1e9
            if there is None
            else float(np.abs(middle - [(there[0] + there[2]) / 2, (there[1] + there[3]) / 2]).sum())
        )

    return min((RED, GREEN, BLUE), key=apart)


def numbers_by_colour(rows: list[tuple[list[float], int, int]]) -> dict[tuple[int, int, int], set[int]]:
    """(box, frame, number) of all objects -> the numbers of each shape."""
    found: dict[tuple[int, int, int], set[int]] = {RED: set(), GREEN: set(), BLUE: set()}
    for box, i, number in rows:
        found[colour_at(box, i)].add(number)
    return found


def test_numbers_stay_with_their_shapes_and_begin_anew_with_each_video(run, shapes_clip, tmp_path):
    (tmp_path / "again.avi").write_bytes(shapes_clip.read_bytes())
    result = run("shapes.avi", "again.avi", "--track", "--out", "found")
    assert result.exit_code == 0, result.output
    images = json.loads(Path("found/results.json").read_text())["images"]
    assert len(images) == 2 * FRAMES
    for video in (images[:FRAMES], images[FRAMES:]):
        rows = [(one["box"], i, one["track_id"]) for i, image in enumerate(video) for one in image["detections"]]
        numbers = numbers_by_colour(rows)
        assert all(len(of_one) == 1 for of_one in numbers.values()), numbers
        assert set.union(*numbers.values()) == {1, 2, 3}
        assert sum(len(image["detections"]) for image in video) == 3 * FRAMES - 6
    assert len(list(Path("found/pictures").iterdir())) == 2


def test_numbers_are_in_csv_and_coco_and_refused_where_there_is_no_place(run, shapes_clip, tmp_path):
    run("shapes.avi", "--track", "--limit", "2", "--no-draw", "--format", "csv", "--out", "rows")
    with Path("rows/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["track_id"] for row in rows) == ["1", "1", "2", "2", "3", "3"]
    run("shapes.avi", "--track", "--limit", "2", "--no-draw", "--format", "coco", "--out", "coco")
    assert sorted(row["track_id"] for row in json.loads(Path("coco/results.json").read_text())) == [1, 1, 2, 2, 3, 3]
    for form in ("voc", "yolo"):
        with pytest.raises(
            ConfigError, match=f"^--track: goes with --format json, coco, coco-labels or csv; {form} has no place"
        ):
            run("shapes.avi", "--track", "--format", form)
    run("shapes.avi", "--limit", "1", "--no-draw", "--format", "csv", "--out", "plain")
    assert "track_id" not in Path("plain/results.csv").read_text()


def test_labels_of_tracked_objects_are_read_back(run, shapes_clip, tmp_path):
    from singleshot.datasets import open_dataset

    for form in ("json", "coco", "csv"):
        run("shapes.avi", "--track", "--limit", "1", "--no-draw", "--format", form, "--out", form)
        cv2.imwrite(str(tmp_path / form / "shapes.avi#000000.png"), shapes(0))
        text = next(iter(Path(form).glob("results.*")))
        info = [path for path in (Path(form) / "image_info.json", text) if path.exists()]
        for path in info:
            path.write_text(path.read_text().replace("shapes.avi#000000", "shapes.avi#000000.png"))
        assert len(open_dataset(form).boxes_px) == 3


def test_what_is_no_video_is_refused_by_its_name(run, save, shapes_clip, tmp_path):
    save(tmp_path / "in/a.png")
    for source in ("in", "in/*.png", "in/a.png"):
        with pytest.raises(ConfigError, match=r"^--track: in/a.png: no video; objects are tracked in videos and live"):
            run("shapes.avi", source, "--track", "--out", "found")
    (tmp_path / "list.txt").write_text("shapes.avi\nin/a.png\n")
    with pytest.raises(ConfigError, match=r"^in/a.png: a still image; objects are tracked in videos and live sources$"):
        run("list.txt", "--track", "--out", "found")
    with pytest.raises(ConfigError, match=r"^--track: not on a cluster"):
        run("in", "--track", "--cluster", "local", "--out", "found")


def test_a_resumed_run_has_the_numbers_of_one_that_was_not_stopped(run, detector, shapes_clip, tmp_path, monkeypatch):
    (tmp_path / "more.avi").write_bytes(shapes_clip.read_bytes())
    command = ("shapes.avi", "more.avi", "--track", "--no-draw", "--format", "csv", "--batch", "1", "--out")
    call = ColourEngine.__call__

    def stopped(self, images):
        if self.calls == FRAMES + 5:
            raise KeyboardInterrupt
        return call(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(ColourEngine, "__call__", stopped)
        assert run(*command, "found").exit_code == 130
    detector.engine.calls = FRAMES
    assert run(*command, "found", "--resume").exit_code == 0
    detector.engine.calls = 0
    run(*command, "whole")
    assert Path("found/results.csv").read_bytes() == Path("whole/results.csv").read_bytes()
    assert len(Path("whole/results.csv").read_text().splitlines()) == 1 + 2 * (3 * FRAMES - 6)


def test_without_the_package_the_extra_is_named(run, detector, shapes_clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "norfair", None)
    with pytest.raises(MissingExtraError, match=r"^tracking needs norfair: pip install 'singleshot\[track\]'$"):
        detector.stream("shapes.avi", track=True)


def test_in_python_arrays_are_the_frames_of_one_video(detector):
    rows = [
        (box.tolist(), i, int(number))
        for i, found in enumerate(detector.stream((shapes(i) for i in range(FRAMES)), track=True))
        for box, number in zip(found.detections.boxes, found.detections.track_ids, strict=True)
    ]
    assert sorted(map(len, numbers_by_colour(rows).values())) == [1, 1, 1]
    first = next(iter(detector.stream([shapes(0)]))).detections
    assert first.track_ids is None
    assert "track_id" not in first.to_dict()["detections"][0]


def detections(boxes: list[list[float]], names: tuple[str, ...] = ()) -> Detections:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    names = names or ("car",) * len(rows)
    return Detections(rows, np.ones(len(rows), np.float32), np.zeros(len(rows), np.int64), names, "a", 640, 480)


def frame(i: int, time: float | None = None, source: str = "a.mp4", fps: float | None = 10.0) -> Frame:
    return Frame(f"{source}#{i}", None, kind="video", source=source, frame=i, time=time, fps=fps)


def test_frames_that_were_dropped_count_as_time():
    """A box that moves by 4 pixels a frame and is next seen ten frames later, where another one stands meanwhile."""

    def number(times: list[float | None]) -> list[int]:
        tracker = ObjectTracker()
        seen = [
            tracker.update(frame(i, time), detections([[4 * i, 10, 4 * i + 20, 30]])).track_ids[0]
            for i, time in enumerate(times[:10])
        ]
        later = tracker.update(frame(10, times[10]), detections([[76, 10, 96, 30]])).track_ids[0]
        return [*map(int, seen), int(later)]

    assert number([i / 10 for i in range(10)] + [1.9]) == [1] * 11  # 36 + 4 * 10: where it should be by then
    assert number([i / 10 for i in range(10)] + [1.0])[-1] == 2  # forty pixels in one frame: not the same
    assert number([i / 10 for i in range(10)] + [4.0])[-1] == 2  # out of sight for three seconds
    assert number([None] * 11)[-1] == 2


def test_another_source_and_a_video_that_is_opened_again_begin_at_one():
    tracker = ObjectTracker()
    box = detections([[10, 10, 30, 30]])
    places = [frame(0, 0.0), frame(1, 0.1), frame(5, 0.5, "b.mp4"), frame(6, 0.6, "b.mp4"), frame(0, 0.0, "b.mp4")]
    for one in places:
        assert tracker.update(one, box).track_ids.tolist() == [1]
    assert tracker.update(frame(1, 0.1, "b.mp4"), detections([[400, 10, 430, 30]])).track_ids.tolist() == [2]
    assert tracker.update(frame(2, 0.2, "b.mp4"), detections([])).track_ids.tolist() == []


def test_a_class_is_never_taken_for_another():
    tracker = ObjectTracker()
    box = [[10, 10, 60, 60]]
    assert tracker.update(frame(0, 0.0), detections(box, ("car",))).track_ids.tolist() == [1]
    assert tracker.update(frame(1, 0.1), detections(box, ("bus",))).track_ids.tolist() == [2]
    both = tracker.update(frame(2, 0.2), detections(box * 2, ("bus", "car")))
    assert both.track_ids.tolist() == [2, 1]
    assert both[[1]].track_ids.tolist() == [1]
    assert both.to_pandas()["track_id"].tolist() == [2, 1]


def test_distances_by_a_slow_loop():
    def slow(a, b):
        b = [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])]
        wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(0, wide) * max(0, high)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
        diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
        x, y = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
        return 1 - shared / union + (x * x + y * y) / diagonal

    random = np.random.default_rng(0)
    first = random.uniform(0, 50, (7, 4)) + np.array([0, 0, 51, 51])
    other = random.uniform(0, 100, (5, 4))  # corners in any order
    expected = np.array([[slow(a, b) for b in other] for a in first])
    np.testing.assert_allclose(distances(first, other), expected, rtol=1e-9)
    square = np.array([[0.0, 0, 10, 10]])
    assert distances(square, square + np.array([10, 0, 10, 0])) == pytest.approx(1.2)  # the gate: two that touch
    assert np.isfinite(distances(np.zeros((1, 4)), np.zeros((1, 4)))).all()


def test_tracked_objects_are_drawn_in_colours_of_their_own():
    from dataclasses import replace

    boxes = detections([[100, 100, 200, 200], [300, 100, 400, 200]])
    canvas = np.zeros((480, 640, 3), np.uint8)
    drawn = draw_detections(canvas, replace(boxes, track_ids=np.array([1, 2])))
    assert tuple(drawn[150, 101]) == track_colour(1)
    assert tuple(drawn[150, 301]) == track_colour(2)
    assert len({track_colour(number) for number in range(1, 30)}) == 29
    plain = draw_detections(canvas, boxes)
    assert tuple(plain[150, 101]) == tuple(plain[150, 301])

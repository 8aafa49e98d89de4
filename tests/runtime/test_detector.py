"""Boxes come back in original pixels, in order, in bounded memory, and mistakes are said in one line."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import numpy as np
import pytest

from singleshot.errors import ConfigError, DataError
from singleshot.inputs import InputSpec
from singleshot.records import ImageDetections
from singleshot.runtime import Detector, Frame, open_sources
from singleshot.thresholds import Thresholds


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(641, 313, (100, 50, 320, 200)), (97, 503, (10, 400, 90, 500)), (300, 300, (0, 0, 300, 300))],
)
def test_boxes_return_to_original_pixels(engine, picture, resize, width, height, box):
    spec = InputSpec(size=300, resize=resize, mean=(0.0, 0.0, 0.0))
    result = Detector(engine, spec, ("a", "b")).detect(picture(width, height, box))
    # One pixel of the square is this many of the original, and the edge is found within it.
    tolerance = max(width, height) / 300 + 1
    assert len(result) == 1
    assert np.abs(result.boxes[0] - box).max() <= tolerance
    assert (result.width, result.height, result.names) == (width, height, ("a",))
    assert result.boxes.dtype == np.float32


def test_boxes_are_clipped_and_those_in_the_bars_dropped(picture):
    def engine(images):
        boxes = np.array([[-0.5, -0.5, 1.5, 1.5], [0.2, 0.0, 0.4, 0.2]], np.float32)
        return [ImageDetections(boxes, np.array([0.9, 0.8]), np.array([0, 0])) for _ in images]

    # 400 x 200 letterboxed: the upper and lower quarter of the square are bars, where the second box lies.
    spec = InputSpec(size=320, resize="letterbox")
    result = Detector(engine, spec, ("a",)).detect(picture(400, 200, (0, 0, 1, 1)))
    assert result.boxes.tolist() == [[0, 0, 400, 200]]


def test_threshold_and_most_detections(engine, picture):
    image = picture(100, 100, (20, 20, 60, 60))
    spec = InputSpec()
    detector = Detector(engine, spec, ("a", "b"), score_min=0.1)
    assert detector.detect(image).names == ("a", "b")
    assert detector.detect(image, score_min=0.5).names == ("a",)
    assert len(detector.detect(image, score_min=1.0)) == 0
    assert Detector(engine, spec, ("a", "b"), 0.1, max_detections=1).detect(image).names == ("a",)
    with pytest.raises(ConfigError, match="want a number from 0 to 1"):
        detector.detect(image, score_min=1.5)


def test_classes_are_chosen_renamed_and_joined(engine, picture):
    image, spec, names = picture(100, 100, (20, 20, 60, 60)), InputSpec(), ("a", "b", "c")
    weak = Detector(engine, spec, names, 0.1, max_detections=1, classes="c,b")
    found = weak.detect(image)  # b is weaker than a, which does not take its place
    assert (weak.class_names, found.names, found.labels.tolist()) == (("c", "b"), ("b",), [1])
    both = Detector(engine, spec, names, 0.1, classes=["a,b=thing"]).detect(image)
    assert (both.names, both.scores.tolist()) == (("thing",), [np.float32(0.9)])  # one box: the other lies over it
    apart = Detector(engine, spec, names, 0.1, classes={"one": ["b"], "two": ["a"]}).detect(image, tile=80)
    assert apart.names == ("two", "one")
    with pytest.raises(ConfigError, match=r"no class of the model, which has a, b, c"):
        Detector(engine, spec, names, classes="d")


def test_what_the_file_itself_may_have_left_out_is_said(engine, picture, caplog):
    image, names = picture(100, 100, (20, 20, 60, 60)), ("a", "b")
    for keep, classes, warned in ((2, "b", True), (3, "b", False), (2, "b,a", False)):
        caplog.clear()
        detector = Detector(engine, InputSpec(), names, 0.1, classes=classes, thresholds=Thresholds(keep=keep))
        for _ in range(2):
            detector.detect(image)
        assert [r.getMessage()[:44] for r in caplog.records] == [
            "the model file gives the 2 best boxes of all"
        ] * warned


def test_lists_paths_and_grey_arrays(detector, picture, save, tmp_path):
    image = picture(160, 120, (40, 30, 100, 90))
    alpha = np.dstack([image, np.full((120, 160), 7, np.uint8)])
    path = save(tmp_path / "a.png")
    results = detector.detect([image, image[:, :, 0], image[:, :, :1], alpha, path, str(path), image[:, ::-1]])
    assert [len(one) for one in results] == [1] * 7
    for one in results[:6]:
        assert one.boxes.tolist() == results[0].boxes.tolist()
    assert results[5].image == str(path)
    assert results[6].boxes[0, 0] == pytest.approx(60, abs=1.5)  # a mirrored view, not contiguous
    assert detector.detect([]) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32.*want uint8.*multiply by 255"),
        (np.zeros((4, 4, 5), np.uint8), r"shape \[4, 4, 5\]"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \[0, 4, 3\]"),
        (None, "type NoneType: want a path"),
        ("no/such.jpg", "no/such.jpg"),
        (".", "a folder"),
    ],
)
def test_unusable_sources(detector, source, message):
    with pytest.raises(DataError, match=message) as caught:
        detector.detect(source)
    assert "\n" not in str(caught.value)


def test_stream_keeps_order_and_passes_errors_on(detector, engine, picture):
    broken = DataError("b: broken")
    frames = [
        Frame(str(i), None, i, error=broken) if i % 5 == 2 else Frame(str(i), picture(50, 40, (i, 5, i + 9, 20)), i)
        for i in range(23)
    ]
    results = list(detector.stream(iter(frames), batch_size=4))
    assert [found.frame.name for found in results] == [str(i) for i in range(23)]
    assert [i for i, found in enumerate(results) if found.detections is None] == [2, 7, 12, 17, 22]
    assert all(abs(found.detections.boxes[0, 0] - i) < 1 for i, found in enumerate(results) if found.detections)
    assert engine.batches == [4, 4, 4, 4, 2]


def test_memory_does_not_grow_with_the_number_of_images(engine, picture):
    detector = Detector(engine, InputSpec(size=32), ("a", "b"))
    alive: set[int] = set()
    most = 0

    def frames():
        nonlocal most
        for i in range(2000):
            image = picture(32, 32, (8, 8, 24, 24))
            alive.add(i)
            weakref.finalize(image, alive.discard, i)
            most = max(most, len(alive))
            yield Frame(str(i), image, i)
            del image

    count = 0
    gc.disable()  # nothing may rely on the cycle collector
    try:
        for _ in detector.stream(frames(), batch_size=8):
            count += 1
    finally:
        gc.enable()
    assert count == 2000
    assert most <= 4 * 8 + 4


def test_many_errors_in_a_row_do_not_wait_for_a_full_batch(detector):
    made = 0

    def frames():
        nonlocal made
        for i in range(10_000):
            made = i
            yield Frame(str(i), None, i, error=DataError("x"))

    stream = detector.stream(frames(), batch_size=4)
    next(stream)
    assert made < 100
    stream.close()


def test_live_frames_come_at_once(detector, picture):
    go = threading.Event()

    def camera():
        yield Frame("0", picture(20, 20, (5, 5, 9, 9)), kind="camera")
        assert go.wait(10), "the first frame never came: the batch waited to fill"
        yield Frame("1", picture(20, 20, (5, 5, 9, 9)), kind="camera")

    stream = detector.stream(camera(), batch_size=8)
    assert next(stream).frame.name == "0"
    go.set()
    assert [found.frame.name for found in stream] == ["1"]


def test_leaving_early_stops_the_thread_and_closes_the_frames(detector, picture):
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield Frame("x", picture(20, 20, (5, 5, 9, 9)))
        finally:
            closed.set()

    stream = detector.stream(endless(), batch_size=2)
    next(stream)
    stream.close()
    assert closed.wait(2)
    deadline = time.monotonic() + 2
    while any(thread.name == "singleshot-read" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_failing_source_raises_after_what_came_before(detector, picture):
    def frames():
        yield Frame("good", picture(20, 20, (5, 5, 9, 9)))
        raise DataError("the disk is gone")

    stream = detector.stream(frames(), batch_size=8)
    assert next(stream).frame.name == "good"
    with pytest.raises(DataError, match="the disk is gone"):
        next(stream)


def test_video_round_trip(detector, clip, tmp_path):
    path = clip(tmp_path / "moving.avi")
    results = list(detector.stream(open_sources([str(path)]), batch_size=5))
    assert len(results) == 12
    for i, found in enumerate(results):
        assert found.frame.frame == i
        assert found.detections.image.endswith(f"moving.avi#{i:06d}")
        assert np.abs(found.detections.boxes[0] - (20 + 5 * i, 30, 60 + 5 * i, 90)).max() < 3

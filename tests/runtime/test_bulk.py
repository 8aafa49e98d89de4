"""Streams of many images: several readers, one order, bounded memory, and failures at every place."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest

from singleshot.errors import DataError
from singleshot.images import decode
from singleshot.images.decode import read_encoded
from singleshot.inputs import InputSpec
from singleshot.records import ImageDetections
from singleshot.runtime import Detector, Frame, open_sources
from singleshot.runtime.background_worker import BackgroundWorker
from singleshot.runtime.batching import ALONE
from singleshot.runtime.decoding import ReadPlan, decode_frame, reduction
from singleshot.runtime.engines.table import suited_batch
from singleshot.runtime.prefetch import Prefetcher
from singleshot.runtime.preparing import Prepared, prepare


class BrokenError(Exception):
    pass


def no_threads_left() -> None:
    deadline = time.monotonic() + 3
    while [t for t in threading.enumerate() if t.name in ("singleshot-read", "singleshot-write")]:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.005)


def numbered(count: int, fail_at: int | None = None):
    for i in range(count):
        if i == fail_at:
            raise BrokenError(f"source at {i}")
        yield Frame(str(i), np.full((8, 8, 3), i % 256, np.uint8), i)


def test_order_holds_however_long_each_takes():
    def slow(frame, reserve):
        time.sleep(0.004 * ((frame.index * 7) % 5))
        return Prepared(frame)

    reader = Prefetcher(numbered(60), slow, ahead=9, threads=6)
    names = []
    while (item := reader.get()).frame is not None:
        names.append(item.frame.name)
    assert names == [str(i) for i in range(60)]
    assert reader.get().frame is None
    reader.close()
    no_threads_left()


@pytest.mark.parametrize("ahead", [1, 2, 5])
@pytest.mark.parametrize("where", ["source", "make"])
@pytest.mark.parametrize("fail_at", [0, 1, 7, 19])
def test_a_failure_comes_after_all_that_came_before_it(ahead, where, fail_at):
    def make(frame, reserve):
        if where == "make" and frame.index == fail_at:
            raise BrokenError("make")
        return Prepared(frame)

    reader = Prefetcher(numbered(20, fail_at if where == "source" else None), make, ahead, threads=3)
    for i in range(fail_at):
        assert reader.get().frame.index == i
    assert isinstance(reader.get().failure, BrokenError)
    reader.close()
    no_threads_left()


def test_readers_ask_no_further_than_they_may():
    asked = 0

    def frames():
        nonlocal asked
        for i in range(1000):
            asked = i + 1
            yield Frame(str(i), None, i)

    reader = Prefetcher(frames(), lambda frame, reserve: Prepared(frame), ahead=7, threads=4)
    for i in range(50):
        assert reader.get().frame.index == i
        time.sleep(0.001)
        assert asked <= i + 1 + 7
    reader.close()
    no_threads_left()


def test_bytes_are_bounded_and_one_large_image_still_passes():
    most, alive, lock = 0, 0, threading.Lock()

    def make(frame, reserve):
        nonlocal most, alive
        size = 1000 if frame.index == 5 else 30
        reserve(size)
        with lock:
            alive += size
            most = max(most, alive)
        return Prepared(frame, held=size)

    reader = Prefetcher(numbered(40), make, ahead=20, threads=4, held_bytes=100)
    for i in range(40):
        item = reader.get()
        assert item.frame.index == i
        time.sleep(0.002)
        with lock:
            alive -= item.held
        reader.release(item.held)
    assert most <= 1000 + 100 + 30
    reader.close()
    no_threads_left()


class CountingEngine:
    """One box per image whose place is the image's own grey value; fails at the k-th image."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.seen, self.fail_at, self.batches = 0, fail_at, []

    def __call__(self, images: np.ndarray) -> list[ImageDetections]:
        self.batches.append(len(images))
        results = []
        for image in images:
            if self.seen == self.fail_at:
                raise BrokenError(f"engine at {self.seen}")
            self.seen += 1
            x = float(image[0, 0, 0]) / 512
            results.append(
                ImageDetections(np.array([[x, 0, x + 0.25, 1]]), np.array([0.9], np.float32), np.zeros(1, np.int64))
            )
        return results


def detector(engine) -> Detector:
    return Detector(engine, InputSpec(size=32), ("thing",))


@pytest.mark.parametrize("batch", [None, 1, 3, 8])
def test_property_everything_before_a_failure_comes_once_and_in_order(batch):
    rng = np.random.default_rng(batch or 0)
    for _ in range(25):
        count, kind = int(rng.integers(1, 70)), rng.choice(["engine", "source", "leave", "none"])
        k = int(rng.integers(0, count))
        engine = CountingEngine(k if kind == "engine" else None)
        frames = numbered(count, k if kind == "source" else None)
        stream = detector(engine).stream(frames, batch, keep_images=bool(rng.integers(2)))
        got = []
        try:
            for found in stream:
                assert found.detections.boxes[0, 0] == pytest.approx(8 * (found.frame.index % 256) / 512)
                got.append(found.frame.index)
                if kind == "leave" and len(got) > k:
                    break
            failed = False
        except BrokenError:
            failed = True
        stream.close()
        assert failed == (kind in ("engine", "source"))
        assert got == list(range(len(got)))
        expected = {"engine": range(max(0, k - (batch or 8) + 1), k + 1), "source": [k], "leave": [k + 1]}
        assert len(got) in expected.get(kind, [count])
    no_threads_left()


def test_automatic_batches_start_with_one_image_and_grow(monkeypatch):
    engine = CountingEngine()
    list(detector(engine).stream(numbered(ALONE)))
    assert engine.batches == [1] * ALONE
    engine = CountingEngine()
    list(detector(engine).stream(numbered(ALONE + 20)))
    assert engine.batches == [1] * ALONE + [8, 8, 4]
    engine = CountingEngine()
    live = (Frame(str(i), np.zeros((8, 8, 3), np.uint8), i, kind="camera") for i in range(40))
    list(detector(engine).stream(live))
    assert engine.batches == [1] * 40


def test_batches_that_suit():
    engine = CountingEngine()
    assert [suited_batch(engine), detector(engine).batch_size] == [8, 8]
    engine.name = "onnxruntime"
    assert suited_batch(engine) == 4
    engine.device = "cuda:0"
    assert suited_batch(engine) == 32
    assert Detector(engine, InputSpec(), ("a",), batch_size=3).batch_size == 3


def photo(path, width: int, height: int, rotate: int | None = None):
    """A smooth picture as JPEG with one bright ellipse, EXIF orientation if asked for."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([40 + 30 * np.sin(x / 97), 50 + 30 * np.cos(y / 83), 45 + 0 * x], axis=-1)
    inside = ((x - 0.31 * width) / (0.2 * width)) ** 2 + ((y - 0.6 * height) / (0.25 * height)) ** 2 < 1
    image[inside] = 250
    data = cv2.imencode(".jpg", image.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    if rotate is not None:
        block = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, rotate, 0, 0, 0, 0, 0, 0])
        data = data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", [(1600, 1200), (1601, 1207), (2403, 1799)])
@pytest.mark.parametrize("rotate", [None, 3, 6, 8])
def test_reduced_decoding_gives_boxes_within_a_pixel(tmp_path, engine, resize, size, rotate):
    path = photo(tmp_path / "a.jpg", *size, rotate)
    spec = InputSpec(size=150, resize=resize, mean=(0.0, 0.0, 0.0))
    finder = Detector(engine, spec, ("bright", "weak"))
    whole = finder.detect(path)
    (found,) = finder.stream(open_sources([path], decode=False), keep_images=False)
    (kept,) = finder.stream(open_sources([path], decode=False))
    assert found.frame.image is None
    assert kept.detections.boxes.tolist() == whole.boxes.tolist()
    assert (found.detections.width, found.detections.height) == (whole.width, whole.height)
    encoded = read_encoded(path)
    odd = rotate is not None and size != (1600, 1200)
    r = reduction(encoded, spec)
    assert (r > 1) != odd, r
    pixel = max(size) / 150  # one of the square, in pixels of the image
    assert np.abs(found.detections.boxes - whole.boxes).max() <= 1.01 * pixel
    assert np.abs(found.detections.scores - whole.scores).max() <= 0.02


@pytest.mark.parametrize("size", [(1600, 1200), (1601, 1207), (2405, 1803)])
def test_a_reduced_image_lies_where_the_whole_one_does(tmp_path, size):
    """Measured by correlation, to a tenth of a pixel of the square; numbers that 8 does not divide would move it."""
    path = photo(tmp_path / "a.jpg", *size)
    plan = ReadPlan(InputSpec(size=100), keep=False)
    frame = Frame(path, None, path=path)
    whole, part = (prepare(decode_frame(frame, one), one) for one in (plan, plan._replace(reduce=True)))
    assert (part.width, part.height) == size == (whole.width, whole.height)
    scale = part.place.scale_x / whole.place.scale_x, part.place.scale_y / whole.place.scale_y
    grey = [np.float32(cv2.cvtColor(one.square, cv2.COLOR_RGB2GRAY)) for one in (whole, part)]
    (dx, dy), _ = cv2.phaseCorrelate(*grey)
    assert abs(dx) < 0.1 * scale[0] + abs(scale[0] - 1) * 100
    assert abs(dy) < 0.1 * scale[1] + abs(scale[1] - 1) * 100
    # The edge of the bright ellipse, at half its height, taken back to pixels of the original.
    edges = []
    for one in (whole, part):
        row = one.square[60, :, 0].astype(float)
        k = int(np.flatnonzero(row > 150)[0])
        edges.append((k - (row[k] - 150) / (row[k] - row[k - 1]) + 0.5 - one.place.shift_x) / one.place.scale_x)
    assert abs(edges[0] - edges[1]) < 0.35 / whole.place.scale_x


def test_reduction_keeps_twice_the_pixels_of_the_square(tmp_path):
    spec = InputSpec(size=100)
    reduced = {w: reduction(read_encoded(photo(tmp_path / "a.jpg", w, 2000)), spec) for w in (390, 400, 799, 800, 1600)}
    assert reduced == {390: 1, 400: 2, 799: 2, 800: 4, 1600: 8}
    wide = InputSpec(size=100, resize="letterbox")  # 400 x 2000 becomes 20 x 100
    assert reduction(read_encoded(photo(tmp_path / "a.jpg", 400, 2000)), wide) == 8
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2000, 2000, 3), np.uint8))
    assert reduction(read_encoded(str(tmp_path / "a.png")), spec) == 1


def test_a_large_photo_is_never_decoded_whole_without_pictures(tmp_path, engine, monkeypatch):
    from singleshot.images import decode as images

    sizes = []
    decode = images._decode
    monkeypatch.setattr(images, "_decode", lambda *a: (sizes.append((r := decode(*a)).shape[:2]), r)[1])
    path = photo(tmp_path / "a.jpg", 4000, 3000)
    (found,) = Detector(engine, InputSpec(size=300), ("a", "b")).stream(
        open_sources([path], decode=False), keep_images=False
    )
    assert found.detections.width == 4000
    assert sizes == [(750, 1000)]


def test_unreadable_files_among_many_are_frames_with_an_error(save, tmp_path, engine):
    for i in range(30):
        save(tmp_path / f"in/{i:03}.jpg", ".jpg")
    (tmp_path / "in/007.jpg").write_bytes(b"junk")
    (tmp_path / "in/011.jpg").write_bytes((tmp_path / "in/012.jpg").read_bytes()[:400])
    (tmp_path / "in/013.jpg").unlink()
    frames = open_sources([str(tmp_path / "in")], decode=False)
    first = next(frames)
    (tmp_path / "in/029.jpg").unlink()  # gone after the folder was listed
    results = list(Detector(engine, InputSpec(), ("a", "b")).stream(frames, keep_images=False))
    bad = {found.frame.name[-7:-4]: str(found.frame.error) for found in results if found.detections is None}
    assert sorted(bad) == ["007", "011", "029"]
    assert all("\n" not in said and ".jpg: " in said for said in bad.values())
    assert (first.path, len(results)) == (first.name, 28)


@pytest.mark.parametrize(
    "raised",
    [ZeroDivisionError(), MemoryError(), cv2.error("bad"), ValueError("x\ny"), RecursionError(), OSError(5, "I/O")],
    ids=lambda error: type(error).__name__,
)
def test_whatever_an_image_raises_the_run_goes_on(save, tmp_path, engine, monkeypatch, raised):
    paths = [save(tmp_path / f"{i}.png") for i in range(3)]
    read = decode.read_encoded

    def broken(path, *rest):
        if path.endswith("1.png"):
            raise raised
        return read(path, *rest)

    monkeypatch.setattr(decode, "read_encoded", broken)
    detector = Detector(engine, InputSpec(), ("a", "b"))
    found = list(detector.stream(open_sources([str(path) for path in paths], decode=False)))
    assert [one.detections is not None for one in found] == [True, False, True]
    message = str(found[1].frame.error)
    assert message.startswith(f"{paths[1]}: ")
    assert "\n" not in message
    assert found[1].frame.error.__cause__ is raised
    with pytest.raises(DataError, match=r"1\.png"):
        detector.detect(str(paths[1]))


def test_the_same_boxes_by_every_way(save, tmp_path, detector):
    paths = [str(save(tmp_path / f"{i}.jpg", ".jpg")) for i in range(20)]
    one = [detector.detect(path).boxes.tolist() for path in paths]
    for found in (
        [d.boxes.tolist() for d in detector.detect(paths)],
        [f.detections.boxes.tolist() for f in detector.stream(open_sources(paths))],
        [f.detections.boxes.tolist() for f in detector.stream(open_sources(paths, decode=False), keep_images=False)],
    ):
        assert found == one
    with pytest.raises(DataError, match="none"):
        detector.detect([paths[0], str(tmp_path / "none.jpg")])


def test_background_works_in_order_and_waits_at_the_end():
    done = []
    work = BackgroundWorker(lambda item: (time.sleep(0.001), done.append(item)), most=3)
    for i in range(30):
        work.put(i)
        assert i - len(done) <= 3 + 2
    work.finish()
    assert done == list(range(30))
    work.stop()
    no_threads_left()


@pytest.mark.parametrize("most", [1, 2, 10])
@pytest.mark.parametrize("fail_at", [0, 1, 5, 29])
def test_background_failures_reach_whoever_puts(most, fail_at):
    done = []

    def work(item):
        if item == fail_at:
            raise BrokenError(str(item))
        done.append(item)

    background = BackgroundWorker(work, most=most)
    with pytest.raises(BrokenError, match=str(fail_at)):
        for i in range(30):
            background.put(i)
        background.finish()
    background.put(31)  # neither waits nor works
    background.finish()
    background.stop()
    assert done == list(range(fail_at))
    no_threads_left()


def test_background_holds_few_bytes_and_stops_at_once():
    go, held = threading.Event(), []
    background = BackgroundWorker(lambda item: go.wait(5), most=100, most_bytes=100, weigh=lambda item: item)

    def feed():
        for size in (30, 30, 30, 500):
            background.put(size)
            held.append(size)

    feeder = threading.Thread(target=feed)
    feeder.start()
    time.sleep(0.2)
    assert held == [30, 30, 30]
    go.set()
    feeder.join(5)
    assert held == [30, 30, 30, 500]  # alone, it may be larger
    background.stop()
    no_threads_left()

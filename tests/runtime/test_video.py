"""Videos in and out: times, rotation, broken ones, live ones, and files that browsers play."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import odd_videos
from singleshot.cli.detect import RunPrinter
from singleshot.errors import ConfigError, DataError
from singleshot.runtime import Detections, open_sources, picture_writer
from singleshot.runtime.picture_writer import PictureWriter
from singleshot.runtime.prefetch import Prefetcher
from singleshot.runtime.preparing import Prepared
from singleshot.runtime.sources import Frame
from singleshot.runtime.video_reader import LiveReader, VideoReader
from singleshot.runtime.video_writer import CODECS, VideoFile, usable_codec

CASES = {case.name: case for case in odd_videos.CASES}


@pytest.fixture
def made(tmp_path):
    def make(name: str) -> Path:
        assert odd_videos.encode(CASES[name], tmp_path / name)
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", ["browser.webm", "uneven.webm", "ntsc.mkv", "phone.mov", "odd.avi"])
def test_a_drawn_video_shows_every_frame_upright_and_in_its_time(made, tmp_path, name):
    case = CASES[name]
    times, error = odd_videos.draw(made(name), tmp_path / "drawn")
    truth = case.times or [number / case.rate for number in range(odd_videos.COUNT)]
    assert error == ""
    assert times == pytest.approx(truth, abs=0.002)
    (drawn,) = (tmp_path / "drawn").iterdir()
    first, rate, (width, height), upright = odd_videos.shown(drawn)
    assert [number for _, number in first] == list(range(odd_videos.COUNT))
    assert all(abs(when - truth[number]) < 1 / rate for when, number in first)
    assert upright
    assert (height > width) == case.rotated
    if not case.times:
        assert rate == pytest.approx(case.rate, rel=1e-3)


@pytest.mark.parametrize("name", ["cut.avi", "cut.webm"])
def test_a_video_that_breaks_off_says_where(made, name):
    *good, last = open_sources([str(made(name))])
    assert all(frame.error is None for frame in good)
    assert f"broke off after frame {len(good) - 1}, at " in str(last.error)
    assert last.frame == len(good)


def test_a_video_of_two_pixels_is_drawn(made, tmp_path):
    times, error = odd_videos.draw(made("tiny.avi"), tmp_path / "drawn")
    assert (len(times), error) == (odd_videos.COUNT, "")
    assert len(list((tmp_path / "drawn").iterdir())) == 1


def test_times_are_in_the_results(made):
    (_, frame, *_) = open_sources([str(made("ntsc.mkv"))])
    assert frame.time == pytest.approx(0.033, abs=0.001)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ()
    assert Detections(*nothing, "a", 9, 9, 1.23456).to_dict()["time"] == 1.235
    assert "time" not in Detections(*nothing, "a", 9, 9).to_dict()


def test_times_that_a_file_does_not_have_go_on_from_those_before():
    class Capture:
        def __init__(self, times):
            self.times, self.at = times, -1

        def set(self, name, value): ...

        def get(self, name):
            known = {cv2.CAP_PROP_FPS: 10.0, cv2.CAP_PROP_FRAME_COUNT: -1.0}
            return known[name] if name in known else self.times[self.at]

        def read(self):
            self.at += 1
            return self.at < len(self.times), np.zeros((2, 2, 3), np.uint8)

    reader = VideoReader(Capture([0.0, 100.0, 0.0, 90.0, 500.0]), None)
    assert not reader.is_recorded
    assert [seconds for seconds, _ in reader] == pytest.approx([0, 0.1, 0.2, 0.3, 0.5])


class Camera:
    """Gives a frame with its number every 5 ms, 60 of them."""

    def __init__(self) -> None:
        self.number, self.released = 0, threading.Event()

    def get(self, name: int) -> float:
        return 200.0 if name == cv2.CAP_PROP_FPS else -1.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.005)
        self.number += 1
        return self.number <= 60, np.full((4, 4, 3), self.number, np.uint8)

    def release(self) -> None:
        self.released.set()


def test_a_live_source_gives_its_newest_frame():
    camera = Camera()
    seen, times = [], []
    for seconds, image in LiveReader(camera):
        late = camera.number - int(image[0, 0, 0])
        assert late <= 3
        seen.append(int(image[0, 0, 0]))
        times.append(seconds)
        time.sleep(0.05)
    assert seen == sorted(set(seen))
    assert 3 <= len(seen) < 30
    assert times == sorted(times)
    assert camera.released.wait(1)


def test_a_live_source_that_is_no_longer_wanted_is_released():
    camera = Camera()
    frames = iter(LiveReader(camera))
    next(frames)
    frames.close()
    assert camera.released.wait(1)


@pytest.mark.parametrize(("kind", "ahead"), [("camera", 1), ("video", 6)])
def test_of_a_live_source_no_more_than_one_frame_waits(kind, ahead):
    asked = []

    def frames():
        for i in range(20):
            asked.append(i)
            yield Frame(str(i), np.zeros((2, 2, 3), np.uint8), kind=kind)

    reader = Prefetcher(frames(), lambda frame, reserve: Prepared(frame), ahead=6)
    for taken in range(1, 4):
        reader.get()
        time.sleep(0.05)
        assert len(asked) <= taken + ahead
    reader.close()


def test_gaps_are_filled_and_a_clock_that_jumps_is_not(tmp_path):
    codec = usable_codec(32, 32, 10.0)
    video = VideoFile(tmp_path / f"a{codec.suffix}", codec, 10.0, 32, 32)
    for seconds in (5.0, 5.1, 5.5, 5.52, 9000.0, 9000.1):
        video.add(np.zeros((32, 32, 3), np.uint8), seconds)
    video.close()
    assert len(list(open_sources([str(tmp_path / f"a{codec.suffix}")]))) == 6 + 2


def test_without_an_encoder_and_on_a_full_disk(tmp_path, monkeypatch):
    frame = Frame("a#0", np.zeros((40, 40, 3), np.uint8), kind="video", source="a.avi", frame=0, time=0.0, fps=10.0)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ()
    found = Detections(*nothing, "a#0", 40, 40)
    with monkeypatch.context() as patch:
        patch.setattr(picture_writer, "usable_codec", lambda *_: None)
        with pytest.raises(ConfigError, match=r"^a.avi: no video encoder in this OpenCV; use --no-draw"):
            PictureWriter(tmp_path).add(frame, found)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    writer = PictureWriter(tmp_path / "out")
    writer.add(frame, found)
    with pytest.raises(OSError, match="No space left on device"):
        writer.close()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_video_that_was_not_written_whole_is_not_left(tmp_path, monkeypatch):
    codec = usable_codec(32, 32, 10.0)
    video = VideoFile(tmp_path / f"a{codec.suffix}", codec, 10.0, 32, 32)
    for i in range(40):
        video.add(np.zeros((32, 32, 3), np.uint8), i / 10)
    monkeypatch.setattr("singleshot.runtime.video_writer._count", lambda _: 10)
    with pytest.raises(OSError, match="10 of 40 frames of a video were written; is the disk full"):
        video.close()


def test_browsers_play_what_is_written(tmp_path):
    """H.264 or VP8 with colours at half the resolution, in a container that they know."""
    codec = usable_codec(64, 48, 25.0)
    assert codec in CODECS[:2]
    path = tmp_path / f"a{codec.suffix}"
    video = VideoFile(path, codec, 25.0, 64, 48)
    for _ in range(5):
        video.add(np.full((48, 64, 3), 99, np.uint8), None)
    video.close()
    data = path.read_bytes()
    if codec.suffix == ".webm":
        assert b"\x42\x82\x84webm" in data[:64]  # EBML's DocType
        assert b"V_VP8" in data[:1000]
    else:
        assert b"avc1" in data
        assert b"moov" in data
    capture = cv2.VideoCapture(str(path))
    assert int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)).to_bytes(4, "little") == b"I420"


@pytest.mark.parametrize("options", [(), ("--quiet",), ("--json",)])
def test_a_bar_in_place_of_lines_on_a_terminal_alone(run, clip, tmp_path, monkeypatch, options):
    """Standard error as a terminal; the bar is all that may use it."""
    moved = []
    monkeypatch.setattr(RunPrinter, "_move_bar", lambda self, frame, line: moved.append((frame.frame, frame.total)))
    clip(tmp_path / "clip.avi", frames=25)
    monkeypatch.setattr(sys.modules[RunPrinter.__module__], "sys", Terminal())
    result = run("clip.avi", "--no-draw", *options)
    assert result.exit_code == 0
    assert moved == ([] if options else [(i, 25) for i in range(25)])
    assert "#000003:" not in result.stdout


class Terminal:
    """The module sys, its standard error a terminal."""

    def __getattr__(self, name: str):
        if name != "stderr":
            return getattr(sys, name)
        return type("Stream", (), {"isatty": lambda _: True, "write": sys.stderr.write, "flush": sys.stderr.flush})()


def test_the_bar_is_drawn(monkeypatch):
    import io

    from rich.console import Console

    text = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda stderr: Console(file=text, force_terminal=True, width=100))
    with RunPrinter() as printer:
        for i in range(3):
            frame = Frame("a[b].mp4", None, kind="video", source="a[b].mp4", frame=i, total=3)
            printer._move_bar(frame, "1 images, 2 objects, 0 skipped")
        printer._bar.refresh()
        printer.skip(DataError("x.png: broken"))
        printer._move_bar(Frame("a.png", None), "2 images, 3 objects, 1 skipped")
    assert "a[b].mp4 3/3, 1 images" in text.getvalue()
    assert "skipped: x.png: broken" in text.getvalue()

"""What Python code may hand over, alone and mixed; and that nothing in it ends a run of many."""

from __future__ import annotations

import http.server
import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from singleshot.errors import ConfigError, DataError, MissingExtraError
from singleshot.runtime import Frame, open_sources
from singleshot.runtime.python_sources import as_rgb


@pytest.fixture
def image(picture) -> np.ndarray:
    return picture(160, 120, (40, 30, 100, 90))


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def test_images_of_every_kind_give_the_same(detector, image, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(image))
    pillow = Image.fromarray(image)
    alpha = np.dstack([image, np.full((120, 160), 7, np.uint8)])
    wanted = detector.detect(image).boxes.tolist()
    deep = Image.frombytes("I;16", (160, 120), (image[..., 0].astype(np.uint16) * 257).tobytes())
    with path.open("rb") as file:
        sources = [png(image), bytearray(png(image)), memoryview(png(image)), io.BytesIO(png(image)), file, pillow,
                   pillow.convert("L"), pillow.convert("RGBA"), pillow.convert("P"), pillow.convert("1"), deep,
                   alpha, alpha[..., :2], image[..., 0], str(path), path]  # fmt: skip
        found = detector.detect(sources)
    assert [one.boxes.tolist() for one in found] == [wanted] * len(sources)
    assert found[0].image == "image 0"
    assert found[4].image == str(path)
    for make in (lambda: png(image), lambda: io.BytesIO(png(image)), lambda: pillow):
        assert detector.detect(make()).boxes.tolist() == wanted
        (one,) = detector.stream(make())
        assert one.detections.boxes.tolist() == wanted


def test_draw_takes_what_detect_takes(detector, image, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(image))
    found = detector.detect(image)
    wanted = found.draw(image)
    for source in (path, str(path), png(image), io.BytesIO(png(image)), Image.fromarray(image)):
        assert np.array_equal(found.draw(source), wanted)
    for source, says in (
        ("none.jpg", "none.jpg: no such"),
        (image / 255.0, "float64"),
        (3, "type int"),
        (b"x", "not an"),
    ):
        with pytest.raises(DataError, match=says):
            found.draw(source)


def test_a_detector_says_what_it_is(detector):
    said = repr(detector)
    assert said.startswith(f"<Detector: {len(detector.class_names)} class") and "scores from" in said


def test_bgr_is_turned_round(image):
    image[..., 0] = 9
    alpha = np.dstack([image[..., ::-1], image[..., :1]])
    assert np.array_equal(as_rgb(image[..., ::-1], "x", bgr=True), image)
    assert np.array_equal(as_rgb(alpha, "x", bgr=True), image)
    assert np.array_equal(as_rgb(image[..., 0], "x", bgr=True), np.repeat(image[..., :1], 3, axis=2))


def test_bgr_reaches_detect_and_stream(detector, engine, image, monkeypatch):
    seen = []
    monkeypatch.setattr(
        type(engine), "__call__", lambda self, images: seen.append(images[0, 0, 0].tolist()) or _none(images)
    )
    image[:] = (200, 100, 50)
    detector.detect(image, bgr=True)
    detector.detect([image], bgr=True)
    list(detector.stream([image], bgr=True))
    list(detector.stream(image))
    assert seen == [[50, 100, 200]] * 3 + [[200, 100, 50]]


def _none(images):
    from singleshot.records import ImageDetections

    return [ImageDetections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))] * len(images)


def test_stream_takes_what_the_command_line_takes(detector, save, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in/a.png")
    save(tmp_path / "in/b.png")
    clip(tmp_path / "clip.avi", frames=3)
    (tmp_path / "in/list.txt").write_text("a.png\nin/b.png\n\n")
    names = [found.frame.name for found in detector.stream(["in", "in/*.png", "clip.avi", "in/list.txt"])]
    assert names == [
        *["in/a.png", "in/b.png"] * 2, "clip.avi#000000", "clip.avi#000001", "clip.avi#000002", "in/a.png", "in/b.png"
    ]  # fmt: skip
    assert len(list(detector.stream(tmp_path / "in"))) == 2
    assert len(list(detector.stream("clip.avi"))) == 3
    with pytest.raises(DataError, match="no such file"):
        detector.stream("nothing.png")


def test_kinds_mix_and_are_counted(detector, image, save, clip, tmp_path):
    save(tmp_path / "a.png")
    clip(tmp_path / "clip.avi", frames=2)
    frame = Frame("mine", image, index=70)
    mixed = [image, str(tmp_path / "a.png"), str(tmp_path / "clip.avi"), frame, Image.fromarray(image), png(image)]
    found = list(detector.stream(mixed))
    assert [one.frame.index for one in found] == [0, 1, 2, 3, 70, 4, 5]
    assert all(one.detections is not None for one in found)


def test_an_address_of_an_image_is_read_as_a_file(detector, image, serve):
    data = png(image)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if "there" in self.path else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *words):
            pass

    address = serve(Handler)
    found = list(detector.stream([f"{address}/there.png?token=secret", f"{address}/gone.png?token=secret"]))
    assert len(found[0].detections) == 1
    assert found[1].frame.error is not None
    assert "secret" not in f"{found[0].frame.name} {found[1].frame.error}"


class Unreadable(io.BytesIO):
    """An open file whose disk is gone."""

    def read(self, *_):
        raise OSError(5, "Input/output error")


UNUSABLE = [
    None, 3.5, object(), {"a": 1}, "no/such.jpg", "*.nothing", "nope://x", "a\0b", 98, b"", b"junk",
    io.StringIO("text"),
    Unreadable(), np.zeros((3, 3), np.float32), np.zeros((0, 3, 3), np.uint8), np.zeros((3, 3, 7), np.uint8),
    Image.new("F", (4, 4)), Image.new("I", (4, 4)),
]  # fmt: skip


def test_no_unusable_source_ends_a_run(detector, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cut_short = io.BytesIO(png(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))[:3000])
    sources = [image, *(source for bad in [*UNUSABLE, Image.open(cut_short)] for source in (bad, image))]
    found = list(detector.stream(sources))
    assert len(found) == len(sources)
    for number, one in enumerate(found):
        assert (one.detections is None) == (number % 2 == 1), sources[number]
        assert number % 2 == 0 or "\n" not in str(one.frame.error)


RAISED = [
    *(DataError("named"), ConfigError("named"), MissingExtraError("named"), cv2.error("OpenCV"), struct.error("short")),
    *(OSError(5, "broken"), PermissionError(13, "no"), FileNotFoundError(2, "gone"), EOFError(), BufferError()),
    *(MemoryError(), RecursionError("deep"), ValueError("odd"), TypeError("odd"), KeyError("odd"), IndexError(1)),
    *(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), AssertionError(), ZeroDivisionError(), RuntimeError("native")),
    *(StopIteration(), Exception()),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["decode.read_encoded", "decode.Encoded.decode", "decode.read_limited"])
def test_whatever_an_image_file_raises_is_its_own(detector, save, tmp_path, monkeypatch, where, error):
    import importlib

    for name in "abc":
        save(tmp_path / f"{name}.png")
    module, _, rest = where.partition(".")
    owner = importlib.import_module(f"singleshot.images.{module}")
    *classes, function = rest.split(".")
    for name in classes:
        owner = getattr(owner, name)
    usual = getattr(owner, function)

    def fails(first, *others, **options):
        if "b.png" in str(getattr(first, "name", first)):
            raise error
        return usual(first, *others, **options)

    monkeypatch.setattr(owner, function, fails)
    found = list(detector.stream(tmp_path))
    assert [one.detections is not None for one in found] == [True, False, True]
    assert "b.png" in str(found[1].frame.error) or "named" in str(found[1].frame.error)


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_source_raises_is_its_own(save, clip, tmp_path, monkeypatch, error):
    save(tmp_path / "a.png")
    clip(tmp_path / "clip.avi", frames=2)
    monkeypatch.setattr("singleshot.runtime.sources._video_frames", _raising(error))
    frames = list(open_sources([str(tmp_path / "clip.avi"), str(tmp_path / "a.png")]))
    assert [frame.error is None for frame in frames] == [False, True]


def _raising(error):
    def raises(*_):
        raise error
        yield

    return raises


def test_a_folder_that_goes_while_it_is_read_ends_nothing(save, tmp_path):
    save(tmp_path / "in/a.png")
    save(tmp_path / "b.png")
    frames = open_sources([str(tmp_path / "in"), str(tmp_path / "b.png")])
    (tmp_path / "in/a.png").unlink()
    (tmp_path / "in").rmdir()
    first, second = list(frames)
    assert "cannot be read" in str(first.error)
    assert second.error is None


@pytest.mark.parametrize("sides", [(1, 1), (1, 30000), (30000, 1), (2, 40000)])
@pytest.mark.parametrize("tile", [None, 640])
def test_extreme_sides_end_nothing(detector, sides, tile):
    found = list(detector.stream([np.zeros((*sides, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)], tile=tile))
    assert found[1].detections is not None

"""Every kind of source, told apart without a flag, and what is said when there is nothing to read."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from singleshot.errors import DataError
from singleshot.runtime import open_sources
from singleshot.runtime.names import OutputNames, safe_stem
from singleshot.runtime.sources import _without_secrets


def names(frames):
    return [Path(frame.name).name for frame in frames]


def test_folder_sorted_images_only(save, tmp_path):
    for name in ("b.png", "a.PNG", "sub/c.png", ".hidden.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    frames = list(open_sources([str(tmp_path)]))
    assert names(frames) == ["a.PNG", "b.png"]
    assert [frame.index for frame in frames] == [0, 1]
    assert all(frame.image.shape == (120, 160, 3) and frame.error is None for frame in frames)


def test_glob_and_order_of_sources(save, tmp_path):
    for name in ("b.png", "a.png", "deep/er/c.png", "[odd].png"):
        save(tmp_path / name)
    frames = list(open_sources([str(tmp_path / "deep/**/*.png"), str(tmp_path / "*.png")]))
    assert names(frames) == ["c.png", "[odd].png", "a.png", "b.png"]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    # An existing file whose name looks like a pattern is that file.
    assert names(open_sources([str(tmp_path / "[odd].png")])) == ["[odd].png"]


@pytest.mark.parametrize("name", ["with space.png", "new\nline.png", "狗 ñ.png", "no-suffix", "7"])
def test_names_of_every_kind(save, tmp_path, monkeypatch, name):
    save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (frame,) = open_sources([name])
    assert frame.name == name
    assert frame.image is not None


def test_unreadable_image_among_good_ones(save, tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "b\n.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    (tmp_path / "c.png").write_bytes(b"")
    save(tmp_path / "d.png")
    frames = list(open_sources([str(tmp_path)]))
    assert [frame.image is None for frame in frames] == [False, True, True, False]
    for frame in frames[1:3]:
        assert isinstance(frame.error, DataError)
        assert "\n" not in str(frame.error)
        assert ".png" in str(frame.error)


def test_video_by_suffix_and_by_content(clip, tmp_path):
    clip(tmp_path / "clip.mp4", frames=6)
    clip(tmp_path / "clip.avi", frames=4).rename(tmp_path / "clip-without-suffix")
    frames = list(open_sources([str(tmp_path / "clip.mp4"), str(tmp_path / "clip-without-suffix")]))
    assert [frame.kind for frame in frames] == ["video"] * 10
    assert [frame.frame for frame in frames] == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert frames[0].fps == pytest.approx(10)
    assert frames[3].name.endswith("clip.mp4#000003")


def test_broken_video_is_an_error_frame(clip, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    whole = clip(tmp_path / "cut.avi", frames=12).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    empty, *cut = open_sources([str(tmp_path / "empty.mp4"), str(tmp_path / "cut.avi")])
    assert "empty.mp4" in str(empty.error)
    assert cut[0].image is not None
    assert cut[-1].image is None
    assert "broke off" in str(cut[-1].error)


def test_standard_input_image(save, tmp_path):
    data = save(tmp_path / "a.jpg", ".jpg").read_bytes()
    (frame,) = open_sources(["-"], stdin=io.BufferedReader(io.BytesIO(data)))
    assert (frame.name, frame.kind, frame.image.shape) == ("stdin", "stdin", (120, 160, 3))
    (frame,) = open_sources(["-"], stdin=io.BufferedReader(io.BytesIO(data[: len(data) // 2])))
    assert "standard input" in str(frame.error)


@pytest.mark.parametrize("end", ["\n", "\0", "\r\n"])
def test_standard_input_list_of_paths(save, clip, tmp_path, end):
    paths = [save(tmp_path / "BMW 1.png"), tmp_path / "gone.png", clip(tmp_path / "v.avi", frames=2)]
    if end == "\0":
        paths.append(save(tmp_path / "new\nline.png"))
    listing = end.join([*map(str, paths), ""]).encode()
    frames = list(open_sources(["-"], stdin=io.BufferedReader(io.BytesIO(listing))))
    expected = ["BMW 1.png", "gone.png", "v.avi#000000", "v.avi#000001"]
    assert names(frames) == expected + (["new\nline.png"] if end == "\0" else [])
    assert "gone.png" in str(frames[1].error)
    # The last line may lack its end.
    frames = list(open_sources(["-"], stdin=io.BufferedReader(io.BytesIO(str(paths[0]).encode()))))
    assert [frame.error for frame in frames] == [None]


def test_long_list_on_standard_input_is_read_as_it_comes(save, tmp_path):
    path = str(save(tmp_path / "a.png")).encode()
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as stream, os.fdopen(write_end, "wb", buffering=0) as feed:
        feed.write(path + b"\n")
        frames = open_sources(["-"], stdin=stream)
        assert next(frames).image is not None  # while the list is still open
        feed.write(path + b"\n" + path)
        assert next(frames).image is not None
        feed.close()
        assert next(frames).image is not None
        assert next(frames, None) is None


@pytest.mark.parametrize("data", [b"", b"\n \n", bytes(range(1, 9)) * 40_000])
def test_standard_input_that_is_nothing(data):
    frames = list(open_sources(["-"], stdin=io.BufferedReader(io.BytesIO(data))))
    assert frames[-1].error is not None
    assert "\n" not in str(frames[-1].error)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("photo.jpeg", r"no such file or folder; did you mean photo.jpg\?"),
        ("nowhere/photo.jpg", "there is no folder nowhere"),
        ("*.gif", r"\*.gif: no image or video matches"),
        ("*.txt", r"matches notes.txt, not an image"),
        ("empty", "empty: no image in this folder"),
        ("videos", r"videos are left out \(1\), give them as files"),
        ("nested", r"nested/\*\*/\*.jpg"),
        ("ftp://host/a.jpg", "unknown kind of address"),
        ("nul\0byte", "nul.x00byte: no"),
        ("x" * 5000, "xxx: no|not a usable path"),
    ],
)
def test_nothing_to_read_says_what_was_looked_for(save, tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "photo.jpg", ".jpg")
    save(tmp_path / "nested/in/a.png")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").write_bytes(b"x")
    with pytest.raises(DataError, match=message) as caught:
        open_sources(["photo.jpg", source])  # at once, not when the first frame is asked for
    assert "\n" not in str(caught.value)


def test_what_a_folder_of_images_has_besides_is_said(save, tmp_path, caplog):
    caplog.set_level("INFO")
    save(tmp_path / "a.png")
    assert len(list(open_sources([str(tmp_path)]))) == 1
    (tmp_path / ".hidden").mkdir()
    assert len(list(open_sources([str(tmp_path)]))) == 1
    assert caplog.messages == []
    save(tmp_path / "more/b.png")
    assert len(list(open_sources([str(tmp_path)]))) == 1
    assert caplog.messages == [f"{tmp_path}: subfolders are not entered, for them use '{tmp_path}/**/*.jpg'"]


def test_no_source_at_all():
    with pytest.raises(DataError, match="no source given"):
        open_sources([])


def test_absent_camera_is_an_error_frame():
    (frame,) = open_sources(["97"])
    assert (frame.name, frame.kind) == ("camera-97", "camera")
    assert "camera" in str(frame.error)


def test_passwords_do_not_reach_names():
    assert _without_secrets("rtsp://me:secret@host:554/live?token=1#x") == "rtsp://host:554/live"


def test_reading_is_lazy(save, tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png")
    frames = open_sources([str(tmp_path)])
    next(frames)
    (tmp_path / "2.png").write_bytes(b"changed")
    assert [frame.error is None for frame in frames] == [True, False]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("../../etc/passwd", "passwd"),
        ("a/b/..", "image"),
        ("/", "image"),
        ("C:\\x\\evil.png", "evil"),
        ("clip.mp4#000012", "clip.mp4#000012"),
        ("rtsp://host/live", "live"),
        ("new\nline\x1b[31m.jpg", "new_line_[31m"),
        (".hidden.jpg", "hidden"),
        ("..jpg", "image"),
        ("con.png", "_con"),
        ("狗.jpg", "狗"),
        ("v1.2 final", "v1.2 final"),
    ],
)
def test_safe_stem(name, stem):
    assert safe_stem(name) == stem


@pytest.mark.parametrize("name", ["x" * 500, "狗" * 300, "bad\udcff.jpg", "a" * 119 + "é" * 9])
def test_safe_stem_can_be_written(tmp_path, name):
    path = tmp_path / (safe_stem(name) + "-123.json")
    path.write_text("x")
    assert path.parent == tmp_path


def test_collisions_get_a_number(tmp_path):
    folder = OutputNames(tmp_path)
    made = []
    for _ in range(4):
        path = folder.free("any/where/a.jpg", ".txt")
        path.write_text("x")
        made.append(path.name)
    assert made == ["a.txt", "a-2.txt", "a-3.txt", "a-4.txt"]
    assert OutputNames(tmp_path).free("a.png", ".txt").name == "a-5.txt"
    assert OutputNames(tmp_path).free("a.png", ".xml").name == "a.xml"


def test_frames_are_rgb(tmp_path):
    import cv2

    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    (frame,) = open_sources([str(tmp_path / "red.png")])
    assert frame.image[0, 0].tolist() == [255, 0, 0]

"""`singleshot detect` with a fake model: files, exit codes, what is said where."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from singleshot.errors import ConfigError, DataError
from singleshot.runtime.video_writer import usable_codec

SRC = Path(__file__).resolve().parents[2] / "src"


def files(folder="."):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_folder_to_results_and_pictures(run, save, tmp_path):
    save(tmp_path / "in/a.png")
    save(tmp_path / "in/b.jpg", ".jpg")
    result = run("in")
    assert result.exit_code == 0
    assert files("detections") == ["pictures/a.png", "pictures/b.jpg", "results.json"]
    read = json.loads(Path("detections/results.json").read_text())
    assert [one["image"] for one in read["images"]] == ["in/a.png", "in/b.jpg"]
    assert read["images"][0]["detections"][0]["box"] == pytest.approx([40, 30, 100, 90], abs=1)
    assert "in/a.png: 1 bright thing" in result.stdout
    assert "2 images, 2 objects" in result.stdout
    assert "results: detections/results.json" in result.stdout
    run("in", "--quiet", "--no-draw")  # the first results stay
    assert files("detections-2") == ["results.json"]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("coco", ["image_info.json", "results.json"]),
        ("coco-labels", ["annotations/instances_default.json"]),
        ("csv", ["results.csv"]),
        ("voc", ["annotations/a.xml"]),
        ("yolo", ["classes.txt", "labels/a.txt"]),
    ],
)
def test_formats(run, save, tmp_path, form, expected):
    save(tmp_path / "a.png")
    result = run("a.png", "--format", form, "--out", "found", "--no-draw", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert files("found") == expected


def test_json_alone_on_standard_output(run, save, tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"junk")
    result = run("*.png", "--json", "--score-min", "0.1")
    assert result.exit_code == 3
    read = json.loads(result.stdout)
    assert [one["name"] for one in read["images"][0]["detections"]] == ["bright thing", "weak thing"]
    assert files() == ["a.png", "b.png"]
    assert "skipped: b.png" in result.stderr


def test_skipped_inputs_are_named_in_one_line_each(run, save, tmp_path):
    save(tmp_path / "in/1.png")
    (tmp_path / "in/2\n.png").write_bytes(b"junk")
    save(tmp_path / "in/3.png")
    (tmp_path / "in/4.png").write_bytes(b"")
    result = run("in", "--out", "found")
    assert result.exit_code == 3
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["skipped"] * 2
    assert "2 images, 2 objects" in result.stdout
    assert "2 skipped" in result.stdout
    assert len(json.loads(Path("found/results.json").read_text())["images"]) == 2


def test_nothing_usable(run, tmp_path):
    (tmp_path / "a.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"^a\.png"):
        run("a.png")
    (tmp_path / "b.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="none of the 2 inputs"):
        run("*.png")
    assert files() == ["a.png", "b.png"]  # and no results folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--score-min", "2"], "--score-min 2.0: want a number from 0 to 1"),
        (["--batch", "0"], "--batch 0: want 1 to 4096, or auto"),
        (["--batch", "many"], "--batch many"),
        (["--tile", "8"], "--tile 8: want 32 to"),
        (["--tile", "300:2"], "--tile overlap 2.0"),
        (["--tile", "big"], "--tile 'big': want pixels a side"),
        (["--tiles-only"], "--tiles-only: of what size"),
        (["--limit", "0"], "--limit 0"),
        (["--out", "results.json"], "want a folder"),
        (["--out", "in"], "is not empty"),
        (["--out", "in/a.png"], "want a folder"),
    ],
)
def test_wrong_options(run, save, tmp_path, options, message):
    save(tmp_path / "in/a.png")
    with pytest.raises(ConfigError, match=message):
        run("in", *options)
    assert files() == ["in/a.png"]


def test_video_limit_and_batch(run, clip, engine, tmp_path):
    clip(tmp_path / "clip.avi", frames=12)
    result = run("clip.avi", "--limit", "7", "--batch", "3", "--format", "csv")
    assert result.exit_code == 0
    assert engine.batches == [3, 3, 1]
    codec = usable_codec(160, 120, 10.0)
    assert files("detections") == [f"pictures/clip{codec.suffix}", "results.csv"]
    assert f"pictures: detections/pictures (videos: {codec.title})" in result.stdout
    with Path("detections/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"clip.avi#{i:06d}" for i in range(7)]


def test_files_among_many_that_are_no_images(run, save, tmp_path):
    """Every one is named; those around them are all there, in order."""
    names = []
    for i in range(300):
        path = tmp_path / f"in/{i:03}.jpg"
        if i % 60 == 17:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"not an image " * i)
        else:
            names.append(str(save(path, ".jpg").relative_to(tmp_path)))
    result = run("in", "--no-draw", "--out", "found")
    assert result.exit_code == 3
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [
        f"in/{i:03}.jpg" for i in range(17, 300, 60)
    ]
    read = json.loads(Path("found/results.json").read_text())
    assert [one["image"] for one in read["images"]] == names


def test_tiles(run, picture, engine, tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), picture(700, 500, (350, 200, 420, 260)))
    assert run("a.png", "--tile", "300:0.2", "--no-draw", "--out", "found").exit_code == 0
    assert engine.batches == [1 + 3 * 2]
    (found,) = json.loads(Path("found/results.json").read_text())["images"][0]["detections"]
    assert found["box"] == pytest.approx([350, 200, 420, 260], abs=2)


@pytest.mark.parametrize("draw", ["--draw", "--no-draw"])
@pytest.mark.parametrize("k", [0, 1, 12])
def test_a_writer_that_fails_ends_the_run_and_what_is_finished_is_kept(run, save, tmp_path, monkeypatch, draw, k):
    from singleshot.runtime.result_files import JsonWriter

    count = 0
    add = JsonWriter.add

    def failing(self, detections):
        nonlocal count
        if count == k:
            raise OSError(28, "No space left on device")
        count += 1
        add(self, detections)

    monkeypatch.setattr(JsonWriter, "add", failing)
    for i in range(40):
        save(tmp_path / f"in/{i:03}.png")
    with pytest.raises(ConfigError, match=r"^--out found: cannot write there \(No space left on device\); what is"):
        run("in", "--out", "found", draw)
    assert count == k
    read = json.loads((tmp_path / "found/results.json").read_text())
    assert (len(read["images"]), read["complete"]) == (k, False)
    assert not list(tmp_path.rglob(".part-*"))


def test_an_engine_that_fails_ends_the_run(run, save, tmp_path, engine, monkeypatch):
    call = type(engine).__call__

    def failing(self, images):
        if len(self.batches) == 5:
            raise RuntimeError("the network is gone")
        return call(self, images)

    monkeypatch.setattr(type(engine), "__call__", failing)
    for i in range(40):
        save(tmp_path / f"in/{i:03}.png")
    with pytest.raises(RuntimeError, match="the network is gone"):
        run("in", "--out", "found")
    read = json.loads((tmp_path / "found/results.json").read_text())
    assert (len(read["images"]), read["complete"]) == (5, False)


def test_standard_input(run, save, tmp_path):
    data = save(tmp_path / "a.png").read_bytes()
    assert len(json.loads(run("-", "--json", stdin=data).stdout)["images"]) == 1
    assert len(json.loads(run("-", "--json", stdin=b"a.png\na.png\n").stdout)["images"]) == 2


def test_many_images_are_not_listed_one_by_one(run, save, tmp_path):
    for i in range(130):
        save(tmp_path / f"in/{i:03d}.png")
    result = run("in", "--no-draw")
    assert result.stdout.count(".png:") == 20
    assert "100 images, 100 objects" in result.stdout


SCRIPT = """
import sys, time, numpy as np, typer, singleshot.api.load
from singleshot.inputs import InputSpec
from singleshot.records import ImageDetections
from singleshot.runtime import Detector
def engine(images):
    time.sleep({pause})
    return [ImageDetections(np.array([[.1, .1, .5, .5]]), np.array([.9]), np.array([0])) for _ in images]
singleshot.api.load.load = lambda path, device=None, **options: Detector(engine, InputSpec(), ("thing",))
from singleshot.cli.detect import detect
app = typer.Typer()
app.command()(detect)
app()
"""


def start(tmp_path, *arguments, pause, **pipes):
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    command = [sys.executable, "-c", SCRIPT.format(pause=pause), "m", *arguments]
    return subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)


def test_ctrl_c_while_many_wait_to_be_written(save, tmp_path):
    """The network is fast and drawing is slow: what was found is written before the end."""
    for i in range(300):
        save(tmp_path / f"in/{i:03d}.png")
    process = start(tmp_path, "in", pause=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    read = json.loads((tmp_path / "detections/results.json").read_text())
    assert (process.returncode, read["complete"]) in ((130, False), (0, True)), errors
    assert len(list((tmp_path / "detections/pictures").iterdir())) == len(read["images"])
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    ("source", "number"), [("in", signal.SIGINT), ("-", signal.SIGINT), ("in", signal.SIGTERM), ("in", signal.SIGHUP)]
)
def test_a_signal_keeps_what_is_finished(save, tmp_path, source, number):
    for i in range(200):
        save(tmp_path / f"in/{i:03d}.png")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start(tmp_path, source, "--batch", "1", pause=0.05, **pipes)
    if source == "-":  # the list stays open: the reading thread waits in it when we interrupt
        process.stdin.write(b"in/000.png\nin/001.png\nin/002.png\n")
        process.stdin.flush()
    for _ in range(3):
        process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert b"Fatal" not in errors
    assert b"Traceback" not in errors
    read = json.loads((tmp_path / "detections/results.json").read_text())
    assert 3 <= len(read["images"]) < 200
    assert read["complete"] is False
    assert not list(tmp_path.rglob(".part-*"))


def test_reader_that_leaves(save, tmp_path):
    for i in range(100):
        save(tmp_path / f"in/{i:03d}.png")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start(tmp_path, "in", "--json", "--out", "found", "--no-draw", pause=0.05, **pipes)
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=20) == 141, errors
    assert b"Traceback" not in errors
    assert json.loads((tmp_path / "found/results.json").read_text())["complete"] is False


def test_the_runtime_half_does_not_import_torch():
    code = "import sys, singleshot.cli.detect, singleshot.runtime.result_files, singleshot.runtime.picture_writer"
    check = "; import singleshot.images.decode; assert not {'torch', 'pydantic', 'matplotlib'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    subprocess.run([sys.executable, "-c", code + check], env=environment, check=True)


def test_io_is_not_closed_by_json(found):
    from singleshot.runtime.result_files import JsonWriter

    stream = io.StringIO()
    with JsonWriter(stream, "m", ("cat", "dog")) as writer:
        writer.add(found())
    assert not stream.closed

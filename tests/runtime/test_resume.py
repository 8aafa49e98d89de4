"""A run that was stopped, and resumed, leaves what one leaves that was never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from singleshot.errors import ConfigError, DataError
from singleshot.files import RowFile
from singleshot.runtime import open_sources
from singleshot.runtime.journal import UNFINISHED

FORMS = ("json", "coco", "coco-labels", "voc", "yolo", "csv")
OPTIONS = ("--crop", "--score-min", "0.1")


def content(folder: Path) -> dict[str, bytes]:
    """Bytes by path; of a video its frames, since each WebM file has a random number of its own."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): frames_of(path) or path.read_bytes() for path in paths}


def frames_of(path: Path) -> bytes:
    frames = [] if path.suffix not in (".webm", ".mp4") else list(open_sources([str(path)]))
    return b"".join(frame.image.tobytes() for frame in frames)


@pytest.fixture
def sources(save, clip, tmp_path) -> list[str]:
    """A folder of images, one of them broken and two of the same stem, a video, and a folder again."""
    for i in range(6):
        save(tmp_path / f"in/{i}.png")
    save(tmp_path / "in/3.jpg", ".jpg")
    (tmp_path / "in/0.png").write_bytes(b"broken")
    clip(tmp_path / "clip.avi", frames=5)
    for i in range(4):
        save(tmp_path / f"more/{i}.png")
    return ["in", "clip.avi", "more"]


@pytest.fixture
def stop_at(engine, monkeypatch):
    """stop_at(k): the network breaks at its k-th batch from now, None: never."""
    call = type(engine).__call__

    def set_limit(k: int | None):
        engine.batches.clear()

        def limited(self, images):
            if len(self.batches) == k:
                raise KeyboardInterrupt if k % 2 else RuntimeError("the network is gone")
            return call(self, images)

        monkeypatch.setattr(type(engine), "__call__", limited)

    return set_limit


@pytest.mark.parametrize(
    ("form", "stops"),
    [*((form, (9,)) for form in FORMS), ("json", (1,)), ("json", (3, 2)), ("csv", (8,)), ("voc", (14,))],
)
def test_stopped_and_resumed_is_as_never_stopped(run, sources, stop_at, form, stops):
    options = (*sources, "--format", form, *OPTIONS, "--batch", "1")
    assert run(*options, "--out", "whole").exit_code == 3
    resume: tuple[str, ...] = ()
    for k in stops:
        stop_at(k)
        if k % 2:
            assert run(*options, "--out", "found", *resume).exit_code == 130
        else:
            with pytest.raises(RuntimeError, match="gone"):
                run(*options, "--out", "found", *resume)
        with pytest.raises(ConfigError, match="go on with the run that was stopped there: --resume"):
            run(*options, "--out", "found")
        left = content(Path("found"))
        assert json.loads(left[UNFINISHED].split(b"\n")[0])["complete"] is False
        if form == "json":
            assert json.loads(left["results.json"])["complete"] is False
        resume = ("--resume",)
    stop_at(None)
    result = run(*options, "--out", "found", "--resume")
    assert result.exit_code == 3
    assert "15 images, 30 objects" in result.stdout
    assert content(Path("found")) == content(Path("whole"))


def test_finished_images_are_not_looked_at_again(run, sources, stop_at, engine):
    stop_at(13)  # six images, a video of five, and two of the last folder
    run(*sources, "--batch", "1", "--no-draw")
    stop_at(None)
    result = run(*sources, "--batch", "1", "--no-draw", "--resume", "--json", "--out", "detections")
    assert len(engine.batches) == 2
    read = json.loads(result.stdout)
    assert (len(read["images"]), read["complete"]) == (15, True)
    assert json.loads(Path("detections/results.json").read_text()) == read


def test_a_video_that_was_not_finished_is_begun_anew(run, sources, stop_at, engine):
    stop_at(9)  # in its fourth frame
    run(*sources, "--batch", "1", "--crop")
    assert len(list(Path("detections/crops").rglob("clip*"))) == 3
    stop_at(None)
    run(*sources, "--batch", "1", "--crop", "--resume")  # the folder is found
    assert len(engine.batches) == 5 + 4
    assert len(list(Path("detections/crops").rglob("clip*"))) == 5
    assert [path.stem for path in Path("detections/pictures").glob("clip*")] == ["clip"]


def test_files_of_an_image_that_was_only_begun_are_made_anew(run, sources, stop_at):
    """As a process leaves it that was killed: pictures without their image's row, and half a row."""
    stop_at(5)
    run(*sources, "--batch", "1", "--out", "found")
    journal = Path("found", UNFINISHED)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b'"image"' in lines[-1]
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    stop_at(None)
    run(*sources, "--batch", "1", "--out", "found", "--resume")
    run(*sources, "--batch", "1", "--out", "whole")
    assert content(Path("found")) == content(Path("whole"))


def test_a_process_that_is_killed_can_be_resumed(save, tmp_path):
    from tests.runtime.test_command import start

    for i in range(40):
        save(tmp_path / f"in/{i:02d}.png")
    process = start(tmp_path, "in", "--batch", "1", pause=0.02, stdout=subprocess.PIPE)
    for _ in range(5):
        process.stdout.readline()
    process.kill()
    process.communicate()
    done = start(tmp_path, "in", "--batch", "1", "--resume", pause=0, stdout=subprocess.PIPE)
    out, _ = done.communicate(timeout=30)
    assert done.returncode == 0
    assert b"40 images, 40 objects" in out
    assert b"of the images from before" in out
    assert len(json.loads((tmp_path / "detections/results.json").read_text())["images"]) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("in", "--score-min", "0.2"), r"--resume: --score-min was 0.1 .* and is 0.2 now"),
        (("in", "more", "--score-min", "0.1"), r"--resume: SOURCE was \[\"in\"\]"),
        (("in", "--score-min", "0.1", "--format", "csv"), "--resume: --format was"),
        (("in", "--score-min", "0.1", "--no-draw"), "--resume: --draw was true"),
        (("in", "--score-min", "0.1", "--out", "other"), "--resume: other holds no run that was stopped"),
        (("in", "--score-min", "0.1", "--out", "whole"), "--resume: whole holds no run that was stopped"),
        (("-", "--score-min", "0.1"), "--resume: - cannot be read once more"),
        (("rtsp://a/b", "--score-min", "0.1"), "--resume: rtsp://a/b cannot be read once more"),
    ],
)
def test_another_run_is_refused_by_the_name_of_what_differs(run, sources, stop_at, change, message):
    run("in", "--out", "whole")
    stop_at(3)
    run("in", "--score-min", "0.1", "--batch", "auto")
    before = content(Path("detections"))
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        run(*change, "--resume")
    assert "\n" not in str(caught.value)
    assert content(Path("detections")) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: Path("m.onnx").write_bytes(b"other"), "--resume: m.onnx has changed"),
        (lambda: Path("in/1.png").unlink(), "in/2.png comes where in/1.png came"),
        (lambda: Path("in/1.png").write_bytes(b"x"), "in/1.png has changed"),
        (lambda: Path("in/1.0.png").write_bytes(b"x"), "in/1.0.png comes where in/1.png came"),
    ],
)
def test_changed_files_are_refused_by_name(run, sources, stop_at, change, message):
    Path("m.onnx").write_bytes(b"model")
    stop_at(3)
    run("in", "--out", "found")
    change()
    stop_at(None)
    with pytest.raises((ConfigError, DataError), match=message):
        run("in", "--out", "found", "--resume")


def test_sources_that_end_too_soon_are_refused(run, sources, stop_at):
    stop_at(5)
    run("in", "more", "--out", "found", "--batch", "1")
    for path in Path("in").iterdir():
        if path.name > "2":
            path.unlink()
    for path in Path("more").iterdir():
        path.unlink()
    Path("more/x.txt").write_text("")
    with pytest.raises(DataError):
        run("in", "more", "--out", "found", "--resume")


def test_a_journal_from_elsewhere_removes_nothing_outside(run, sources, stop_at, tmp_path):
    stop_at(3)
    run("in", "--out", "found")
    keep = tmp_path / "keep.txt"
    keep.write_text("mine")
    with Path("found", UNFINISHED).open("a") as file:
        file.write(json.dumps({"file": "../keep.txt"}) + "\n" + json.dumps({"file": str(keep)}) + "\n")
    stop_at(None)
    assert run("in", "--out", "found", "--resume").exit_code == 3
    assert keep.read_text() == "mine"


def test_limit_counts_what_is_finished(run, sources, stop_at):
    stop_at(3)
    run("in", "--limit", "6", "--out", "found")
    stop_at(None)
    run("in", "--limit", "6", "--out", "found", "--resume")
    assert len(json.loads(Path("found/results.json").read_text())["images"]) == 5  # and the broken one


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot allocate")
@pytest.mark.parametrize("form", ["json", "coco", "csv"])
def test_a_full_disk_leaves_valid_results(form, tmp_path):
    """A limit on the size of files stands for the disk; results of 300 objects each outgrow it."""
    script = """
import resource, sys
import numpy as np
from pathlib import Path
from singleshot.api.detect import DetectOptions, write_results
from singleshot.api.detect_results import Results
from singleshot.runtime import Detections, Frame
from singleshot.runtime.detector import Found
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
rng = np.random.default_rng(0)
def stream():
    for i in range(2000):
        boxes = rng.uniform(0, 99, (300, 4)).astype(np.float32)
        found = Detections(boxes, np.full(300, .5), np.zeros(300, int), ("a",) * 300, f"{i}.jpg", 99, 99)
        yield Found(Frame(f"{i}.jpg", np.zeros((9, 9, 3), np.uint8), source=f"{i}.jpg"), found)
write_results(stream(), Results(DetectOptions("m", ("x",), "found", sys.argv[1], draw=False), ("a",)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, form], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "cannot write there (File too large); what is finished is kept" in done.stderr
    assert not list(tmp_path.rglob(".part-*"))
    rows = [json.loads(line) for line in (tmp_path / "found" / UNFINISHED).read_text().splitlines()]
    finished = [row["image"] for row in rows if "image" in row]
    assert len(finished) > 5
    if form == "json":
        read = json.loads((tmp_path / "found/results.json").read_text())
        assert read["complete"] is False
        assert [one["image"] for one in read["images"]][: len(finished)] == finished
        assert all(len(one["detections"]) == 300 for one in read["images"])
    elif form == "coco":
        assert len(json.loads((tmp_path / "found/results.json").read_text())) % 300 == 0
    elif form == "csv":
        assert len((tmp_path / "found/results.csv").read_text().splitlines()) % 300 == 1


def test_rows_that_have_no_room_leave_no_trace(tmp_path):
    class Full:
        """A disk of 100 bytes."""

        def __init__(self, file) -> None:
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data) -> int:
            room = 100 - self.file.tell()
            if room <= 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data[:room])

    with (tmp_path / "a").open("wb", buffering=0) as file:
        rows = RowFile(Full(file), held=0, reserve=0)
        rows.write(b"x" * 60)
        with pytest.raises(OSError, match="No space"):
            rows.write(b"y" * 60)
    assert (tmp_path / "a").read_bytes() == b"x" * 60


def test_a_second_process_is_refused(tmp_path):
    from singleshot.runtime.journal import Finished, Journal

    head = {"options": {}, "files": {}}
    journal = Journal(tmp_path, head)
    with pytest.raises(ConfigError, match="another process writes"):
        Finished(tmp_path, head)
    journal.close(complete=False)
    assert Finished(tmp_path, head).inputs == 0
    (tmp_path / UNFINISHED).write_bytes(b"[]\n")
    with pytest.raises(ConfigError, match="is not that of a run"):
        Finished(tmp_path, head)


def test_boxes_come_back_bit_for_bit(found, tmp_path):
    from singleshot.runtime.journal import Finished, Journal
    from singleshot.runtime.sources import Frame

    one = found("a\udcff.jpg")
    one.boxes[:] = np.random.default_rng(0).uniform(0, 4000, (2, 4)).astype(np.float32)
    journal = Journal(tmp_path, {"options": {}, "files": {}})
    journal.done(Frame("a", None, source="a"), one)
    journal.done(Frame("b", None, source="b"), None)
    journal.close(complete=False)
    back, skipped = Finished(tmp_path, {"options": {}, "files": {}}).results(("cat", "dog"))
    assert skipped is None
    assert (back.boxes == one.boxes).all()
    assert back.to_dict() == one.to_dict()
    assert (back.names, back.boxes.dtype, back.scores.dtype) == (one.names, one.boxes.dtype, one.scores.dtype)

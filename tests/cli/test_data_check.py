"""`singleshot data check` as a user calls it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def spoiled(scenes: Path, tmp_path: Path) -> Path:
    """Drawn scenes; one image is cut short, and one box is on its head."""
    root = tmp_path / "set"
    shutil.copytree(scenes, root)
    train = (root / "ImageSets" / "Main" / "train.txt").read_text().split()
    image = next((root / "JPEGImages").glob(f"{train[0]}.*"))
    image.write_bytes(image.read_bytes()[:-100])
    label = root / "Annotations" / f"{train[1]}.xml"
    text = label.read_text()
    assert "<xmax>" in text
    head, _, tail = text.partition("<xmax>")
    label.write_text(f"{head}<xmax>0{tail[tail.index('<') :]}")
    return root


def test_a_sound_set_ends_with_0(run, scenes):
    done = run("data", "check", scenes)
    assert done.returncode == 0, done.stderr
    assert "0 errors, 0 warnings" in done.stdout or "nothing wrong was found" in done.stdout
    assert "64 images" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_what_breaks_training_ends_with_2_and_is_fixed(run, spoiled, tmp_path):
    done = run("data", "check", spoiled)
    assert done.returncode == 2
    assert done.stderr == ""
    assert "error image-corrupt: an image that does not decode (1)" in done.stdout
    assert "error box-without-area" in done.stdout
    assert f"data check {spoiled} --fix --out set-fixed" in done.stdout
    done = run("data", "check", spoiled, "--fix", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fixed: corrupt images left out (1)" in done.stdout
    assert "written: set-fixed (voc form, 63 images" in done.stdout
    assert run("data", "check", tmp_path / "set-fixed").returncode == 0


def test_archives_and_folders_of_links_are_taken(run, scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    packed = shutil.make_archive(str(tmp_path / "set"), "zip", scenes)
    done = run("data", "check", packed)
    assert done.returncode == 0, done.stderr
    assert "64 images" in done.stdout
    (tmp_path / "links").mkdir()
    for folder in scenes.iterdir():
        (tmp_path / "links" / folder.name).symlink_to(folder)
    done = run("data", "check", tmp_path / "links")
    assert done.returncode == 2
    assert "--follow-links" in done.stderr
    assert run("data", "check", tmp_path / "links", "--follow-links").returncode == 0
    done = run("data", "convert", tmp_path / "links", tmp_path / "out", "--to", "coco", "--follow-links")
    assert done.returncode == 0, done.stderr
    assert run("data", "info", tmp_path / "out").returncode == 0


def test_json_is_one_object(run, spoiled, tmp_path):
    done = run("data", "check", spoiled, "--json")
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert report["errors"] == 2
    assert report["counts"]["image-corrupt"] == report["counts"]["box-without-area"] == 1
    assert report["images"] == 64
    assert report["fixed"] is None
    (box,) = (f for f in report["findings"] if f["kind"] == "box-without-area")
    assert box["line"] > 1
    assert Path(box["file"]).suffix == ".xml"
    done = run("data", "check", spoiled, "--json", "--fix", "--out", tmp_path / "new")
    assert json.loads(done.stdout)["fixed"]["images"] == 63


def test_few_lines_for_many_findings(run, spoiled):
    images = sorted((spoiled / "JPEGImages").iterdir())[:6]
    for image in images:
        image.write_bytes(b"")
    done = run("data", "check", spoiled, "--most", 2, "--quiet")
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if "image-corrupt" in line)
    assert lines[at + 3].startswith("  ... and ")
    assert "images," not in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["DATA", "--out", "x"], "--out says where --fix writes"),
        (["DATA", "--fix", "--out", "DATA"], "is there already"),
        (["DATA", "--classes", ", ,"], "names no class"),
        (["DATA", "--classes", "lists/none.txt"], "no such file"),
        (["DATA", "--split", "other"], "no split 'other'"),
    ],
)
def test_mistakes_are_one_line(refused, scenes, words, message):
    assert message in refused("data", "check", *[scenes if word == "DATA" else word for word in words])


def test_classes_that_train_would_join_are_right(run, scenes):
    done = run("data", "check", scenes, "--classes", "ring,star=round", "--classes", "cross,leaf")
    assert done.returncode == 0, done.stdout
    assert "class-" not in done.stdout


def test_classes_from_a_file(run, scenes, tmp_path):
    report = json.loads(run("data", "check", scenes, "--json").stdout)
    names = list(report["classes"])
    (tmp_path / "names.txt").write_text("\n".join(names[1:]) + "\n")
    done = run("data", "check", scenes, "--classes", tmp_path / "names.txt")
    assert done.returncode == 2
    assert (
        f"class-unknown: a class that the list of classes does not have ({report['classes'][names[0]]})" in done.stdout
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_all_processes_at_once(tmp_path, scenes):
    # Many links to the same images: long enough to be stopped.
    root = tmp_path / "set"
    shutil.copytree(scenes, root)
    stems = (root / "ImageSets" / "Main" / "train.txt").read_text().split()
    image = next((root / "JPEGImages").glob(f"{stems[0]}.*"))
    label = root / "Annotations" / f"{stems[0]}.xml"
    names = [f"copy{k}" for k in range(4000)]
    for name in names:
        os.link(image, image.with_name(f"{name}{image.suffix}"))
        os.link(label, label.with_name(f"{name}.xml"))
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(names))
    command = [sys.executable, "-m", "singleshot", "data", "check", str(root)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while not (children.exists() and children.read_text().split()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    workers = [int(pid) for pid in children.read_text().split()]
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert err == "singleshot: stopped\n"
    time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_copy_that_still_has_what_stops_a_training_is_exit_code_3(run, tmp_path, write_voc, voc_xml, tiff):
    root = write_voc(
        tmp_path / "set", {stem: voc_xml([("cat", (1, 1, 30, 30))]) for stem in "ab"}, {"train": ["a", "b"]}
    )
    (root / "JPEGImages" / "a.png").write_bytes(tiff(np.zeros((48, 64), np.float32)))
    done = run("data", "check", root, "--fix", "--out", tmp_path / "fixed")
    assert done.returncode == 3
    assert "error image-unread" in done.stdout
    assert "not fixed: " in done.stdout
    assert (tmp_path / "fixed" / "JPEGImages" / "a.png").is_file()

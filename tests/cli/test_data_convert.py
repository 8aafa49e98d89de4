"""`singleshot data convert`, run for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from singleshot.datasets import available_splits, open_dataset
from singleshot.scenes.scenes import write_scenes


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("convert") / "scenes"
    write_scenes(folder, train=6, test=2, val=2)
    return folder


def test_help_shows_an_example(run) -> None:
    done = run("data", "convert", "--help")
    assert done.returncode == 0
    assert "Example: singleshot data convert" in " ".join(done.stdout.replace("│", " ").split())


def test_there_and_back(data: Path, run, tmp_path: Path) -> None:
    last = data
    for form in ("coco", "csv", "cvat", "labelme", "yolo", "voc"):
        done = run("data", "convert", last, tmp_path / form, "--to", form, "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["images"], report["to"], report["out"]) == (10, form, str(tmp_path / form))
        assert report["splits"]["train"] == 6
        last = tmp_path / form
    assert set(available_splits(last)) == set(available_splits(data))
    old, new = open_dataset(data, "train"), open_dataset(last, "train")
    assert new.class_names == old.class_names
    assert new.labels.tolist() == old.labels.tolist()
    assert abs(new.boxes_px - old.boxes_px).max() < 1e-3


def test_what_is_said(data: Path, run, tmp_path: Path) -> None:
    done = run("data", "convert", data, tmp_path / "b", "--to", "yolo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'b'}: YOLO, 10 images (")
    assert "train 6" in done.stdout
    assert "converted from voc in" in done.stderr
    done = run("data", "convert", data, tmp_path / "c", "--to", "yolo", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")


def test_several_sets_are_written_as_one(data: Path, run, tmp_path: Path) -> None:
    write_scenes(tmp_path / "more", train=3, test=1, val=1, seed=1)
    done = run("data", "convert", tmp_path / "more", tmp_path / "as coco", "--to", "coco")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "joined"
    done = run("data", "convert", data, tmp_path / "as coco", out, "--to", "yolo", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["data"], report["from"]) == ([str(data), str(tmp_path / "as coco")], "voc and coco")
    assert report["splits"] == {"train": 9, "val": 3, "test": 3, "trainval": 12}
    parts = [open_dataset(folder, "train") for folder in (data, tmp_path / "more", out)]
    assert len(parts[0]) + len(parts[1]) == len(parts[2]) == 9
    assert sum(len(part.labels) for part in parts[:2]) == len(parts[2].labels)

    for place in (out / "new", data / "new"):
        done = run("data", "convert", data, out, place, "--to", "coco")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert ": lies in the data set " in done.stderr
    done = run("data", "convert", data, data, tmp_path / "twice", "--to", "coco")
    assert done.returncode == 2
    assert "sets that are joined have different images" in done.stderr
    assert not (tmp_path / "twice").exists()


def test_a_seed_makes_the_splits_anew(data: Path, run, tmp_path: Path) -> None:
    members = {}
    for seed in (1, 1, 2):
        out = tmp_path / f"{seed}-{len(members)}"
        done = run("data", "convert", data, out, "--to", "voc", "--split-seed", seed, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["splits"] == {"train": 8, "val": 1, "test": 1, "trainval": 9}
        lists = {path.name: path.read_text() for path in (out / "ImageSets" / "Main").iterdir()}
        members.setdefault(seed, []).append(lists)
    assert members[1][0] == members[1][1]
    assert members[1][0] != members[2][0]


def test_mistakes(data: Path, refused, tmp_path: Path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    assert "want one of voc, coco, yolo, csv" in refused("data", "convert", data, tmp_path / "b", "--to", "tfrecord")
    assert "--to" in refused("data", "convert", data, tmp_path / "b")
    assert "no such file or folder" in refused("data", "convert", tmp_path / "none", tmp_path / "b", "--to", "csv")
    assert "lies in the data set" in refused("data", "convert", data, data / "Annotations" / "b", "--to", "csv")
    assert "lies in the data set" in refused("data", "convert", data, data, "--to", "csv")
    assert "holds the data set" in refused("data", "convert", data, data.parent, "--to", "csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert "is there already" in refused("data", "convert", data, tmp_path / "full", "--to", "csv")
    assert "is there already" in refused("data", "convert", data, tmp_path / "full" / "mine", "--to", "csv")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
    # By way of a link as well.
    (tmp_path / "link").symlink_to(data)
    assert "lies in the data set" in refused("data", "convert", data, tmp_path / "link" / "b", "--to", "csv")
    assert not (data / "b").exists()


def test_a_named_file_may_lie_beside_what_it_becomes(data: Path, run, tmp_path: Path) -> None:
    run("data", "convert", data, tmp_path / "a", "--to", "coco")
    done = run("data", "convert", "annotations/instances_val.json", "val-csv", "--to", "csv", cwd=tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a" / "val-csv" / "val.csv").is_file()


def test_an_unusable_box_leaves_nothing(data: Path, run, refused, tmp_path: Path) -> None:
    run("data", "convert", data, tmp_path / "a", "--to", "csv")
    table = tmp_path / "a" / "val.csv"
    lines = table.read_text().splitlines()
    cells = lines[1].split(",")
    table.write_text("\n".join([lines[0], ",".join([*cells[:3], "nan", *cells[4:]]), *lines[2:]]))
    line = refused("data", "convert", tmp_path / "a", tmp_path / "b", "--to", "coco")
    assert "val.csv:2: " in line
    assert "data check --fix" in line
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_leaves_nothing(data: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    write_many(data, many, 3000)
    command = [sys.executable, "-m", "singleshot", "data", "convert", str(many), str(tmp_path / "out"), "--to", "voc"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    until = time.monotonic() + 60
    while process.poll() is None and not list(tmp_path.glob(".part-*")) and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert b"Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["many"]


def write_many(data: Path, out: Path, count: int) -> None:
    """One image of `data` as many."""
    (out / "Annotations").mkdir(parents=True)
    (out / "JPEGImages").mkdir()
    image = next(iter(sorted((data / "JPEGImages").iterdir())))
    xml = (data / "Annotations" / f"{image.stem}.xml").read_text()
    for i in range(count):
        (out / "Annotations" / f"{i}.xml").write_text(xml)
        os.link(image, out / "JPEGImages" / f"{i}{image.suffix}")


def test_what_data_check_calls_an_error_is_refused_or_cut(run, refused, tmp_path: Path, voc_xml, write_voc) -> None:
    xmls = {"a": voc_xml([("cat", (40, 1, 90, 40))]), "b": voc_xml([("cat", (1, 1, 20, 20))])}
    data = write_voc(tmp_path / "set", xmls, {"train": ["a", "b"]})
    said = refused("data", "convert", data, tmp_path / "b", "--to", "coco")
    assert "a.xml" in said
    assert "or give --clip-boxes" in said
    assert "data check --fix" in said
    assert not (tmp_path / "b").exists()
    done = run("data", "convert", data, tmp_path / "b", "--to", "coco", "--clip-boxes")
    assert done.returncode == 0, done.stderr
    assert "1 boxes cut to their image, 0 dropped" in done.stderr
    assert run("data", "check", tmp_path / "b").returncode == 0

"""`singleshot train`, run for real."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import singleshot
from singleshot.api.train_options import TrainOptions, resolve
from singleshot.cli.train import _data_to_evaluate
from singleshot.files import locked_folder
from singleshot.weights.checkpoint import read_info


def test_a_run_folder_holds_what_the_help_says(trained: Path) -> None:
    names = {p.name for p in trained.iterdir()}
    assert {"best.safetensors", "last.safetensors", "resume.safetensors", "log.csv", "run.json"} <= names
    assert any(n.startswith("events.out.tfevents") for n in names)
    with (trained / "log.csv").open() as file:
        assert [r["epoch"] for r in csv.DictReader(file)] == ["0", "1"]
    assert not [n for n in names if n.startswith(".part")]


def test_tensorboard_files_hold_scalars_and_pictures(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained))
    events.Reload()
    assert {"train/loss", "train/lr", "val/map50", "val/loss_confidence"} <= set(events.Tags()["scalars"])
    assert "val/0" in events.Tags()["images"]


def test_the_model_loads_from_python(trained: Path, scenes: Path) -> None:
    detector = singleshot.load(str(trained / "best.safetensors"), device="cpu")
    found = detector.detect(str(next((scenes / "JPEGImages").iterdir())), score_min=0.05)
    assert len(found.boxes) == len(found.scores) == len(found.labels) == len(found.names)
    assert set(found.names) <= {"cross", "leaf", "ring", "star"}


def test_json_and_quiet_and_resume(scenes: Path, trained: Path, run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    done = run("train", "--resume", "--out", folder, "--epochs", 3, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["epochs"], result["steps"], result["interrupted"]) == (3, 18, False)
    assert done.stderr == ""
    with (folder / "log.csv").open() as file:
        assert [r["epoch"] for r in csv.DictReader(file)] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "how", ["ctrl-c", *(pytest.param(one, marks=pytest.mark.slow) for one in ("kill", "closed terminal"))]
)
def test_a_signal_saves_and_says_how_to_go_on(how: str, few: Path, run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "singleshot", "train", str(few), "--model", "ssd320-mini", "--backbone-weights",
               "none", "--epochs", "500", "--batch", "8", "--size", "128", "--out", str(folder)]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        for _ in range(600):
            if (folder / "log.csv").exists() and len((folder / "log.csv").read_text().splitlines()) > 1:
                break
            time.sleep(0.1)
        if how == "ctrl-c":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the loader's processes too
        elif how == "kill":
            os.kill(process.pid, signal.SIGTERM)
        else:
            os.killpg(process.pid, signal.SIGHUP)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"singleshot train --resume --out {folder}" in out
    epochs = int(re.search(r"after (\d+) epochs?", out)[1])
    again = run("train", "--resume", "--out", folder, "--epochs", epochs + 1)
    assert again.returncode == 0, again.stderr


def test_an_image_that_turns_out_broken_costs_no_step(few: Path, run, tmp_path: Path) -> None:
    """Its header is right, its pixels are not there: only decoding finds out."""
    data = Path(shutil.copytree(few, tmp_path / "data"))
    words = "--backbone-weights", "none", "--batch", 8, "--workers", 1, "--no-tensorboard", "--cache", "none"
    done = run("train", data, *words, "--size", 128, "--epochs", 1, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    stem = (data / "ImageSets" / "Main" / "train.txt").read_text().split()[0]
    image = next((data / "JPEGImages").glob(f"{stem}.*"))
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 3])
    done = run("train", "--resume", "--out", tmp_path / "run", "--epochs", 2)
    assert f"{image} ({len(whole)} bytes then, {len(whole) // 3} bytes now)" in done.stderr
    done = run("train", "--resume", "--out", tmp_path / "run", "--epochs", 2, "--accept-changes")
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert str(image) in line
    found = re.search(r"saved after step (\d+); go on with: (.+)$", line)
    assert found is not None
    assert int(found[1]) >= 2
    image.write_bytes(whole)
    done = run(*shlex.split(found[2])[1:], "--accept-changes")
    assert done.returncode == 0, done.stderr
    assert "trained after 2 epochs" in done.stdout
    image.write_bytes(whole[: len(whole) // 3])
    done = run("train", *shlex.split(found[2])[2:], "--accept-changes", "--skip-broken", "--epochs", 3)
    assert done.returncode == 3, done.stderr
    assert "not read and skipped: 1 image" in done.stderr
    assert str(image) in done.stderr


def test_start_from_a_checkpoint_with_other_classes(model: Path, shared: Path, run, tmp_path: Path) -> None:
    done = run("train", shared / "data" / "bccd", "--start", model, "--time", "1s", "--val-split", "none",
               "--out", tmp_path / "run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kept none; new: Platelets, RBC, WBC; left out: cross, leaf, ring, star" in done.stderr
    assert "3 of 3 classes new" in done.stderr


def test_a_class_is_its_name(shared: Path, run, tmp_path: Path) -> None:
    """before has bus and car, after auto and bus: as many classes, and each label stands for another."""
    before, after = (shared / "cases" / "class-renamed" / name for name in ("before", "after"))
    words = "--epochs", 1, "--batch", 2, "--workers", 0, "--val-split", "none", "--no-tensorboard"
    done = run("train", before, "--backbone-weights", "none", "--size", 128, *words, "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    files = {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    done = run("train", after, "--resume", "--out", tmp_path / "a", "--epochs", 2)
    line = done.stderr.splitlines()[-1]  # before it: how splits were made
    assert done.returncode == 2
    assert "the run has bus, car; the data has auto, bus" in line
    start = re.search(r"--start (\S+)", line)
    assert start is not None
    assert Path(start[1]).is_file()
    assert {path: path.read_bytes() for path in (tmp_path / "a").iterdir()} == files
    done = run("train", after, "--start", start[1], *words, "--out", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert "its classes by name: kept bus; new: auto; left out: car" in done.stderr


def test_validation_without_objects_measures_nothing_and_says_so(shared: Path, run, tmp_path: Path) -> None:
    data, out = shared / "cases" / "val-without-objects", tmp_path / "run"
    done = run("train", data, "--backbone-weights", "none", "--size", 128, "--epochs", 2, "--batch", 2, "--workers", 0,
               "--no-tensorboard", "--json", "--out", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("nothing to measure on val") == 1
    assert "mAP50" not in done.stderr
    result = json.loads(done.stdout)
    assert result["val_map50"] is None
    assert result["best"] == str(out / "best.safetensors")
    with (out / "log.csv").open() as file:
        assert [row["val_map50"] for row in csv.DictReader(file)] == ["", ""]
    best, last = (read_info(out / name) for name in ("best.safetensors", "last.safetensors"))
    assert best == last
    assert best.metrics == {}
    assert best.training["epochs"] == 2


def test_rules_for_the_input_travel_in_the_model(few: Path, run, tmp_path: Path) -> None:
    done = run("train", few, "--model", "ssd320-mini", "--backbone-weights", "none", "--size", 128, "--epochs", 1,
               "--batch", 16, "--resize", "letterbox", "--sixteen-bit", "stretch", "--val-split", "none",
               "--out", tmp_path / "run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    spec = singleshot.load(str(tmp_path / "run" / "best.safetensors")).input_spec
    assert (spec.resize, spec.sixteen_bit) == ("letterbox", "stretch")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["/no/such/folder"], "/no/such/folder"),
        ([], "which data?"),
        (["DATA", "--model", "ssd301"], "want one of ssd300-vgg16"),
        (["DATA", "--recipe", "scrach"], "did you mean scratch"),
        (["DATA", "--time", "soon"], "want a time such as"),
        (["DATA", "--time", "5m", "--epochs", "3"], "exclude each other"),
        (["DATA", "--split", "training"], "training"),
        (["DATA", "--val-split", "dev"], "dev"),
        (["DATA", "--val-split", "60%"], "--val-split 60%: want more than 0% and at most 50%"),
        (["DATA", "--val-split", "0%"], "--val-split 0%"),
        (["DATA", "--device", "cuda:99"], "--device cuda:99"),
        (["DATA", "--precision", "float16"], "--precision float16"),
        (["DATA", "--lr", "-3"], "--lr -3"),
        (["DATA", "--resize", "crop"], "want one of stretch, letterbox"),
        (["DATA", "--sixteen-bit", "crop"], "want one of scale, stretch"),
        (["DATA", "--backbone-weights", "/no/such/file.pth"], "no such file"),
        (["DATA", "--start", "/no/such/model.safetensors"], "no such file"),
        (["--resume"], "which run?"),
        (["--resume", "--out", "/no/such/run"], "no run.json there"),
        (["DATA", "--time", "5m", "--val-every", "3"], "exclude each other"),
        (["DATA", "--val-split", "none", "--val-every", "3"], "there is no validation"),
        (["DATA", "--start", "x", "--backbone-weights", "none"], "exclude each other"),
    ],
    ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else "",
)
def test_a_mistake_is_one_line_and_writes_nothing(
    words: list[str], says: str, scenes: Path, refused, tmp_path: Path
) -> None:
    filled = [str(scenes) if w == "DATA" else w for w in words]
    if filled[:1] != ["--resume"]:
        filled += ["--out", str(tmp_path / "run")]
        if "--backbone-weights" not in filled and "--start" not in filled:
            filled += ["--backbone-weights", "none"]
    assert says in refused("train", *filled)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--epoch", 3], "No such option"),
        (["train", "x", "--epochs", "many"], "--epochs"),
        (["train", "x", "--batch", 0], "--batch"),
        (["trian"], "No such command"),
        (["eval"], "MODEL"),
    ],
    ids=lambda v: " ".join(map(str, v))[:40] if isinstance(v, list) else "",
)
def test_an_impossible_option_is_one_line(words: list, says: str, refused) -> None:
    line = refused(*words)
    assert says.lower() in line.lower()
    assert "--help" in line


def test_no_command_shows_the_help(run) -> None:
    done = run()
    assert "train" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def broken_copy(data: Path, to: Path, change) -> Path:
    shutil.copytree(data, to)
    change(to)
    return to


def edit_xml(old: str, new: str):
    def change(folder: Path) -> None:
        for path in sorted((folder / "Annotations").glob("train*.xml")) or sorted((folder / "Annotations").iterdir()):
            text = path.read_text()
            if re.search(old, text):
                path.write_text(re.sub(old, new, text, count=1))
                return
        raise AssertionError("nothing to change")

    return change


def spoil_image(content: bytes):
    def change(folder: Path) -> None:
        stem = (folder / "ImageSets" / "Main" / "train.txt").read_text().split()[0]
        next((folder / "JPEGImages").glob(f"{stem}.*")).write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (edit_xml(r"<xmax>\d+</xmax>", "<xmax>0</xmax>"), "object 0"),
        (edit_xml(r"<xmax>\d+</xmax>", "<xmax>9999</xmax>"), "outside"),
        (edit_xml("</annotation>", ""), "is not XML"),
        (spoil_image(b""), "empty"),
        (spoil_image(b"\xff\xd8\xff not a picture"), "JPEGImages"),
        (lambda f: (f / "ImageSets/Main/train.txt").write_text("nobody\n"), "nobody"),
        (lambda f: [shutil.rmtree(f / d) for d in ("Annotations", "JPEGImages", "ImageSets")], "empty folder"),
    ],
    ids=["no-area", "outside", "cut-xml", "empty-image", "corrupt-image", "missing-image", "empty-folder"],
)
def test_broken_data_is_one_line_that_names_the_file(change, says: str, few: Path, refused, tmp_path: Path) -> None:
    data = broken_copy(few, tmp_path / "data", change)
    (data / "scenes.json").unlink()
    line = refused("train", data, "--model", "ssd320-mini", "--recipe", "scratch", "--epochs", 1, "--batch", 8,
                   "--out", tmp_path / "run")  # fmt: skip
    assert says in line
    assert str(data) in line


def test_a_run_that_is_over_says_so(trained: Path, refused) -> None:
    files = {path: path.read_bytes() for path in trained.iterdir()}
    assert "this run is over, 2 of 2 epochs" in refused("train", "--resume", "--out", trained)
    assert "this run is over, 2 of 1 epochs" in refused("train", "--resume", "--out", trained, "--epochs", 1)
    line = refused("train", "--resume", "--out", trained, "--time", "1s")
    assert re.search(r"trained for \d+ s already, which --time 1s leaves nothing of; go on with a longer --time", line)
    assert {path: path.read_bytes() for path in trained.iterdir()} == files


@pytest.mark.parametrize("words", [["--resume", "auto"], ["--resume=auto"]])
def test_resume_auto_leaves_a_run_that_is_over(trained: Path, scenes: Path, run, words: list[str]) -> None:
    files = {path: path.read_bytes() for path in trained.iterdir()}
    done = run("train", scenes, *words, "--out", trained, "--epochs", 2, "--batch", 8)
    assert done.returncode == 0, done.stderr
    assert "this run is over, nothing is left to do" in done.stderr
    assert {path: path.read_bytes() for path in trained.iterdir()} == files


def test_one_run_one_folder(trained: Path, run) -> None:
    with locked_folder(trained):
        done = run("train", "--resume", "--out", trained, "--epochs", 3)
        assert done.returncode == 2
        (line,) = (one for one in done.stderr.splitlines() if one.startswith("singleshot: "))
        assert f"{trained}: is being trained into; wait for it" in line
        assert f"process {os.getpid()} on " in line


def test_a_run_without_a_state_starts_again(trained: Path, scenes: Path, few: Path, run, tmp_path: Path) -> None:
    """Killed before the first state was there, which leaves run.json and perhaps half a file."""
    folder = tmp_path / "run"
    folder.mkdir()
    said = (trained / "run.json").read_text()
    assert str(scenes) in said
    (folder / "run.json").write_text(said.replace(str(scenes), str(few)))
    (folder / ".part-x.safetensors").write_bytes(b"half")
    done = run("train", "--resume", "--out", folder, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert "no state to go on from, so the run starts again" in done.stderr
    assert {"best.safetensors", "resume.safetensors"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob(".part*"))


def test_the_last_lines_name_what_exists(shared: Path, run, tmp_path: Path) -> None:
    """No test split in this data: the hint names another that is there."""
    done = run("train", shared / "cases" / "val-without-objects", "--backbone-weights", "none", "--epochs", 1, "--size",
               128, "--batch", 2, "--workers", 0, "--no-tensorboard", "--out", tmp_path / "a run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    evaluate = next(line for line in done.stdout.splitlines() if line.startswith("evaluate: singleshot "))
    words = shlex.split(evaluate.removeprefix("evaluate: singleshot "))
    assert words[-2:] == ["--split", "val"]
    assert run(*words).returncode == 0


@pytest.mark.parametrize(
    ("there", "val_split", "wanted"),
    [
        (("train",), "25%", "OTHER_DATA"),
        (("train",), "none", "OTHER_DATA"),
        (("train", "val"), "25%", "{} --split val"),
        (("train", "val"), "none", "{} --split val"),
    ],
)
def test_the_last_lines_name_no_data_that_were_trained_on(
    scenes: Path, tmp_path: Path, there, val_split, wanted
) -> None:
    """Of a share that is held out nobody can name the images."""
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    for path in (data / "ImageSets" / "Main").iterdir():
        if path.stem not in there:
            path.unlink()
    options = resolve(TrainOptions(str(data), val_split=val_split, out=str(tmp_path / "run")))
    assert _data_to_evaluate(options) == wanted.format(options.data)


@pytest.mark.parametrize("out", ["file/run", "n" * 300, "ro/run"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_built(
    out: str, scenes: Path, refused, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder = Path("/proc/self") if out == "ro/run" else tmp_path / out
    line = refused("train", scenes, "--start", "/no/such/model.safetensors", "--out", folder / "run")
    assert "cannot write there" in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_is_never_overwritten(trained: Path, scenes: Path, refused) -> None:
    before = (trained / "best.safetensors").read_bytes()
    assert "is there already" in refused("train", scenes, "--backbone-weights", "none", "--out", trained)
    assert (trained / "best.safetensors").read_bytes() == before


def test_a_folder_without_a_run_is_not_said_to_be_one(scenes: Path, refused, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    line = refused("train", scenes, "--backbone-weights", "none", "--out", tmp_path)
    assert line.endswith("is there already; give another --out, or remove it")


def test_no_network_means_training_from_nothing_with_a_line(few: Path, run, monkeypatch, tmp_path: Path) -> None:
    """auto is the default: it must not fail where nothing can be downloaded."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    done = run("train", few, "--time", "1s", "--batch", 4, "--model", "ssdlite320-mobilenetv2", "--size", 160,
               "--val-split", "none", "--out", tmp_path / "run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "training from scratch" in done.stderr

"""`singleshot.train` and the run that it gives."""

from __future__ import annotations

import csv
import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import singleshot
from singleshot.api.options import duration_words, parse_bytes, parse_duration
from singleshot.api.report import report
from singleshot.api.train import TrainOptions, prepare, resolve
from singleshot.api.train_data import open_sets
from singleshot.datasets import Dataset, open_dataset, open_source
from singleshot.datasets.sources import Source
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.errors import CheckpointError, ConfigError, DataError, SingleshotError
from singleshot.metrics.operating_points import operating_points
from singleshot.training.reports import Reporter
from singleshot.weights.checkpoint import read_info


def test_a_run_knows_its_files_and_figures(run: singleshot.Run, scenes: Path) -> None:
    assert (run.epochs, run.steps, run.interrupted) == (2, 4, False)
    assert run.last == run.folder / "last.safetensors"
    assert run.last.is_file()
    assert run.best == run.folder / "best.safetensors"
    assert read_info(run.best).metrics["val_map50"] == pytest.approx(run.metrics["val_map50"], abs=1e-6)
    assert read_info(run.best).training["data"] == f"{scenes.name} (train)"  # not where it lies
    with (run.folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(row["epoch"]) for row in run.history] == ["0", "1"]
    assert float(rows[1]["loss"]) == run.history[1]["loss"]
    assert json.loads(json.dumps(run.to_dict()))["best"] == str(run.best)
    assert not list(run.folder.glob("events*"))


def test_who_watches_hears_of_the_start(run: singleshot.Run, started: list) -> None:
    (start,) = started
    assert (start.model, start.images, start.val_images, start.classes) == ("singleshot-n", 8, 4, 4)
    assert (start.initial, start.batch, start.length, start.folder) == ("from scratch", 4, "2 epochs", run.folder)


def test_it_loads_as_a_detector(run: singleshot.Run, scenes: Path) -> None:
    detector = run.load("cpu")
    assert isinstance(detector, singleshot.Detector)
    found = detector.detect(next((scenes / "JPEGImages").iterdir()), score_min=0.0)
    assert isinstance(found, singleshot.Detections)
    assert set(found.names) <= {"cross", "leaf", "ring", "star"}


def test_a_model_shows_what_was_best_in_its_validation(scenes: Path, tmp_path: Path) -> None:
    # At full rate from the first step on, so that it finds something however the processor rounds.
    recipe = tmp_path / "quick.toml"
    rates = "lr = 2e-3\nbase_batch = 4\nwarmup = 0.0\nwarmup_steps = 0\nema = 0.9\n"
    recipe.write_text(f'optimizer = "adamw"\naugment = "light"\n{rates}')
    options = {"epochs": 5, "size": "160", "batch": 4, "backbone_weights": "none", "workers": 0, "tensorboard": False}
    run = singleshot.train(scenes, out=tmp_path / "run", recipe=str(recipe), device="cpu", **options)
    curves = singleshot.evaluate(run.best, scenes, split="val", device="cpu").curves
    best = operating_points(curves).best
    assert best is not None
    assert read_info(run.best).thresholds.show_min == min(max(best, 0.1), 0.6)
    assert run.load("cpu").score_min == read_info(run.best).thresholds.show_min


def test_resume_goes_on_with_the_options_it_was_started_with(run: singleshot.Run, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    again = singleshot.train(out=folder, resume=True, epochs=3, workers=0, tensorboard=False)
    assert (again.folder, again.epochs, again.steps) == (folder, 3, 6)
    assert len(again.history) == 3
    with pytest.raises(ConfigError, match="--batch cannot change"):
        singleshot.train(out=folder, resume=True, batch=2)
    (folder / "run.json").write_text('{"options": {"data": "x"}}')
    with pytest.raises(CheckpointError, match="cannot be read"):
        singleshot.train(out=folder, resume=True)


def test_mistakes_raise_and_write_nothing(scenes: Path, tmp_path: Path) -> None:
    for error, message, options in (
        (ConfigError, "which data", {"data": ""}),
        (DataError, "no/such", {"data": "/no/such/folder"}),
        (ConfigError, "want one of ssd300-vgg16", {"model": "ssd301"}),
        (ConfigError, "exclude each other", {"time": "5m", "epochs": 3}),
        (ConfigError, "--epochs 0: want 1 to", {"epochs": 0}),
        (ConfigError, "--batch 5000", {"batch": 5000}),
        (ConfigError, "--time 'soon'", {"time": "soon"}),
    ):
        with pytest.raises(error, match=message):
            singleshot.train(**{"data": scenes, "out": tmp_path / "run", "backbone_weights": "none", **options})
    assert list(tmp_path.iterdir()) == []


def test_options_come_back_from_plain_values() -> None:
    options = TrainOptions.of({"data": Path("data"), "time": 60, "compile_": True, "quiet": True})
    assert (options.data, options.compile) == ("data", True)
    assert TrainOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    with pytest.raises(ConfigError, match="did you mean epochs"):
        TrainOptions.from_dict({"epoch": 3})
    assert resolve(options) == options


def test_the_function_takes_what_the_record_holds() -> None:
    parameters = inspect.signature(singleshot.train).parameters
    defaults = {name: p.default for name, p in parameters.items() if name != "on_start"}
    assert defaults == TrainOptions().to_dict()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("1.5h", 5400), (7, 7)])
def test_durations(text, seconds) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "words"), [("20m", "20m"), ("1h30m", "1h30m"), ("3", "3 s"), (2.5, "2.5 s")])
def test_the_unit_of_plain_seconds_is_said(text, words) -> None:
    assert duration_words(text) == words


@pytest.mark.parametrize(("text", "count"), [("500M", 500 * 2**20), ("64 KiB", 65536), (20000, 20000), ("1T", 2**40)])
def test_sizes(text, count) -> None:
    assert parse_bytes(text, "--cache-size") == count


def test_an_error_in_training_saves_and_leaves_its_details(scenes: Path, tmp_path: Path) -> None:
    class Broken(Reporter):
        def on_epoch(self, row) -> None:
            raise ZeroDivisionError("a reporter")

    folder = tmp_path / "run"
    with pytest.raises(SingleshotError) as caught:
        singleshot.train(scenes, out=folder, epochs=2, batch=4, size=128, backbone_weights="none", workers=0,
                         tensorboard=False, on_start=lambda _: [Broken()])  # fmt: skip
    assert str(caught.value) == (
        f"ZeroDivisionError: a reporter; saved after step 2; go on with: singleshot train --resume --out {folder}"
        f" (details: {folder / 'error.txt'})"
    )
    assert "on_epoch" in (folder / "error.txt").read_text()
    again = singleshot.train(out=folder, resume=True, workers=0, tensorboard=False)
    assert (again.epochs, again.steps, len(again.history)) == (2, 4, 2)


@pytest.mark.parametrize(
    ("model", "weights", "recipe", "why"),
    [
        ("ssd320-lite0", None, "finetune-small", "pretrained, with batch normalisation, and few images"),
        ("ssd320-lite0", "none", "scratch", "not pretrained"),
        ("ssd320-mini", None, "scratch", "there are no weights for it"),
    ],
)
def test_the_recipe_follows_from_the_weights(
    model: str, weights: str | None, recipe: str, why: str, scenes: Path, tmp_path: Path
) -> None:
    options = TrainOptions(str(scenes), model, str(tmp_path / "run"), backbone_weights=weights, workers=0)
    trainer, decided, _ = prepare(resolve(options))
    assert decided.recipe == recipe, why
    frozen = [p for p in trainer.model.parameters() if not p.requires_grad]
    assert bool(frozen) == (recipe == "finetune-small")


def test_a_backbone_from_scratch_is_not_frozen(scenes: Path, tmp_path: Path) -> None:
    options = TrainOptions(str(scenes), "ssd320-mini", str(tmp_path / "run"), "finetune", workers=0)
    with pytest.raises(ConfigError, match="from scratch"):
        prepare(resolve(options))
    trainer, _, _ = prepare(resolve(replace(options, freeze=0)))
    assert all(p.requires_grad for p in trainer.model.parameters())


@pytest.mark.parametrize("share", ["25%", "25 %", " 25.0%", "025%"])
def test_a_share_is_one_however_it_is_written(share: str) -> None:
    assert resolve(TrainOptions.of({"data": "x", "val_split": share})).val_split == "25%"


@pytest.mark.parametrize(
    "share", [0.1, 10, "0.1", ".1", "10%%", "1e1%", "10,5%", "%", "-10%", "0.0000001%", "0%", "51%", "100%", "\u0665%"]
)
def test_what_is_no_share_is_refused(share: object) -> None:
    with pytest.raises(ConfigError, match=r"--val-split [^:]*: want"):
        resolve(TrainOptions.of({"data": "x", "val_split": share}))


def test_of_one_image_none_can_be_held_out(scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(scenes, root)
    listed = root / "ImageSets" / "Main" / "train.txt"
    listed.write_text(listed.read_text().split()[0])
    with pytest.raises(ConfigError, match="has one image, so that none can be held out"):
        prepare(resolve(TrainOptions.of({"data": root, "out": tmp_path / "x", "val_split": "25%"})))


def test_shards_without_validation_are_not_offered_what_they_refuse(scenes: Path, tmp_path: Path, caplog) -> None:
    shutil.copytree(scenes, tmp_path / "set")
    for name in ("val", "test", "trainval"):
        (tmp_path / "set" / "ImageSets" / "Main" / f"{name}.txt").unlink(missing_ok=True)
    write_shards(read_contents(open_source(tmp_path / "set")), tmp_path / "shards")
    for data, offered in ((tmp_path / "set", True), (tmp_path / "shards", False)):
        options = TrainOptions.of({"data": data})
        assert open_sets(options)[1] is None
        assert "training without validation" in caplog.text
        assert ("--val-split 10%" in caplog.text) == offered
        caplog.clear()
    with pytest.raises(ConfigError, match=r"--val-split 10%: .* is shards"):
        open_sets(replace(options, val_split="10%"))


def test_labels_of_which_a_part_is_held_out_are_read_once(scenes: Path, monkeypatch, caplog) -> None:
    reads = []
    read = Source.read
    monkeypatch.setattr(Source, "read", lambda self, *args: reads.append(args) or read(self, *args))
    caplog.set_level("INFO")
    train_set, val_set = open_sets(TrainOptions.of({"data": scenes, "val_split": "25%", "classes": ["ring", "star"]}))
    assert reads == [("train",)]
    assert "held out to validate on: 2 of 8 images" in caplog.text
    assert val_set is not None
    assert train_set.class_names == val_set.class_names == ("ring", "star")
    # Each image has the labels that it has in the whole.
    whole, _ = open_sets(TrainOptions.of({"data": scenes, "val_split": "none", "classes": ["ring", "star"]}))
    found, want = ([boxes_by_name(one) for one in sets] for sets in ((train_set, val_set), (whole,)))
    assert {**found[0], **found[1]} == want[0]
    assert not found[0].keys() & found[1].keys()


def boxes_by_name(data: Dataset) -> dict[str, list[list[float]]]:
    return {name: data.boxes_px[slice(*data.ptr[i : i + 2])].tolist() for i, name in enumerate(data.names)}


def test_a_part_of_the_training_images_is_held_out_to_validate_on(scenes: Path, tmp_path: Path) -> None:
    options = {"model": "singleshot-n", "size": 96, "backbone_weights": "none", "batch": 4, "workers": 0}
    options |= {"tensorboard": False, "epochs": 2}
    run = singleshot.train(scenes, out=tmp_path / "run", val_split="25%", **options)
    assert run.best is not None
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    assert all(row["val_map50"] for row in rows)
    whole = singleshot.train(scenes, out=tmp_path / "whole", val_split="none", **options)
    assert (run.steps, whole.steps) == (2, 4)  # whole batches of 6 and of 8 images
    trainer, _, _ = prepare(resolve(TrainOptions.of({"data": scenes, "out": tmp_path / "x", "val_split": "25%"})))
    names = set(trainer.train_set.names), set(trainer.val_set.names)
    assert [len(one) for one in names] == [6, 2]
    assert not names[0] & names[1]
    assert names[0] | names[1] == set(open_dataset(scenes, "train").names)
    assert trainer.settings.val_split == "25%"
    # It goes on with the same images, and a report on them wants a split by name.
    singleshot.train(resume=True, out=tmp_path / "run", epochs=3)
    with pytest.raises(ConfigError, match="25% of its own images held out; give a split with --split"):
        report(tmp_path / "run")

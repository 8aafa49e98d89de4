"""Whatever ends a training, the last whole step is saved, and one line says what happened."""

from __future__ import annotations

import csv
import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from singleshot.datasets import open_dataset
from singleshot.errors import DataError, SingleshotError
from singleshot.training import checkpoints, loop
from singleshot.training.failures import TrainingStoppedError, describe
from singleshot.training.recipes import load_recipe
from singleshot.training.reports import CsvReporter, Reporter
from singleshot.training.state import read_about
from singleshot.weights.checkpoint import read_info

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def make(scenes: Path, tiny_ssd):
    """make(out, epochs, ...): a trainer on the scenes, three steps an epoch; the rest is of its settings."""

    def make(out: Path, epochs: int = 3, **options) -> loop.Trainer:
        out.mkdir(exist_ok=True)
        data = open_dataset(scenes, "train")
        settings = loop.Settings(out=out, epochs=epochs, batch=8, precision="float32", workers=0, pictures=0)
        model = tiny_ssd(len(data.class_names))
        sets = data, open_dataset(scenes, "val"), load_recipe("scratch")
        trainer = loop.Trainer(model, *sets, replace(settings, **options))
        trainer.reporters.append(CsvReporter(out / "log.csv", []))
        return trainer

    return make


def fail_in_step(trainer: loop.Trainer, step: int, error: BaseException) -> None:
    forward, steps = trainer.stepper.forward, iter(range(10**6))

    def failing(images):
        if next(steps) == step:
            raise error
        return forward(images)

    trainer.stepper.forward = failing


def gone_on(make, out: Path, straight: loop.Trainer) -> loop.Trainer:
    """Resume, train to the end, and compare with a training that nothing happened to."""
    again = make(out)
    again.resume()
    again.run()
    for key, value in straight.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key
    assert [row["val_map50"] for row in again.progress.history] == [
        row["val_map50"] for row in straight.progress.history
    ]
    return again


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("mat1 and\nmat2"), r"RuntimeError: mat1 and\\nmat2"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "a process that loads images died or hung",
        ),
        (FULL, "the disk is full"),
        (DataError("a.jpg: cut"), "^a.jpg: cut$"),
    ],
)
def test_any_error_saves_the_last_whole_step(make, tmp_path: Path, error: Exception, says: str) -> None:
    trainer = make(tmp_path / "run")
    fail_in_step(trainer, 4, error)
    with pytest.raises(SingleshotError, match=says) as caught:
        trainer.run()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, DataError) or caught.value.__cause__ is error
    assert trainer.saved_step == 4
    progress = read_about(tmp_path / "run" / loop.STATE).progress
    assert (progress.step, progress.epoch, progress.batch, progress.finished) == (4, 1, 1, "")
    with (tmp_path / "run" / "log.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1


def test_weights_that_are_half_updated_are_not_saved(make, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run")
    average, calls = trainer.stepper.average, iter(range(10**6))
    update = average.update

    def failing() -> None:
        if next(calls) == 4:
            raise RuntimeError("in the middle")
        update()

    average.update = failing
    with pytest.raises(TrainingStoppedError):
        trainer.run()
    assert trainer.saved_step == 3  # at the end of the first epoch
    assert read_about(tmp_path / "run" / loop.STATE).progress.step == 3


def test_a_full_disk_keeps_what_was_saved_before(make, tmp_path: Path, monkeypatch) -> None:
    trainer = make(tmp_path / "run")
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)  # after each step
    save, calls = checkpoints.save_state, iter(range(10**6))

    def full_after_the_first_step(*args) -> None:
        if next(calls) >= 2:  # one before the first step
            raise FULL
        save(*args)

    monkeypatch.setattr(checkpoints, "save_state", full_after_the_first_step)
    with pytest.raises(TrainingStoppedError, match="the disk is full"):
        trainer.run()
    assert trainer.saved_step == 1
    assert trainer.weights_step == 2
    assert read_info(tmp_path / "run" / loop.LAST).training["steps"] == 2  # weights alone take less room
    assert read_about(tmp_path / "run" / loop.STATE).progress.step == 1
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".part")]


def test_a_validation_that_fails_costs_no_epoch_and_is_made_up_for(make, tmp_path: Path, monkeypatch) -> None:
    straight = make(tmp_path / "straight")
    straight.run()
    for epochs in (1, 3):  # also the last one, after which no step is left
        out = tmp_path / f"run{epochs}"
        trainer = make(out)
        validate, calls = trainer._validate, iter(range(10**6))

        def failing(validate=validate, calls=calls, epochs=epochs):
            if next(calls) == epochs - 1:
                raise RuntimeError("validation")
            return validate()

        trainer._validate = failing
        monkeypatch.setattr(trainer, "_rescue", lambda: None)  # as if it had been killed
        monkeypatch.setattr(loop, "_SAVE_BEFORE_VALIDATION", 0.0)
        with pytest.raises(TrainingStoppedError, match="validation"):
            trainer.run()
        saved = read_about(out / loop.STATE).progress
        assert (saved.epoch, saved.batch, len(saved.history)) == (epochs, 0, epochs - 1)
        assert saved.pending["epoch"] == epochs - 1
        again = gone_on(make, out, straight)
        assert again.over


def test_the_state_is_saved_by_the_clock_inside_an_epoch(make, tmp_path: Path, monkeypatch) -> None:
    straight = make(tmp_path / "straight")
    straight.run()
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    trainer = make(tmp_path / "run")
    monkeypatch.setattr(trainer, "_rescue", lambda: None)
    fail_in_step(trainer, 5, RuntimeError("killed"))
    with pytest.raises(TrainingStoppedError):
        trainer.run()
    assert read_about(tmp_path / "run" / loop.STATE).progress.step == 5
    gone_on(make, tmp_path / "run", straight)


def test_what_cannot_be_closed_does_not_hide_what_happened(make, tmp_path: Path, caplog) -> None:
    class Broken(Reporter):
        def close(self) -> None:
            raise FULL

    trainer = make(tmp_path / "run", epochs=1)
    trainer.reporters.insert(0, Broken())
    trainer.run()
    assert "closing Broken: the disk is full" in caplog.text
    assert trainer.reporters[1]._file.closed


def test_words_for_people() -> None:
    assert describe(ValueError("x" * 5000)).startswith("ValueError: xxx")
    assert len(describe(ValueError("x" * 5000))) < 400
    assert describe(RuntimeError("I/O error: No space left on device (os error 28)")).startswith("the disk is full")

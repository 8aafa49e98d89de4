"""The loop: it learns, stops well, goes on bit for bit, and says which files broke it."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from singleshot.datasets import open_dataset
from singleshot.errors import CheckpointError, ConfigError
from singleshot.training import loop
from singleshot.training.recipes import load_recipe
from singleshot.training.reports import CsvReporter, PlainReporter
from singleshot.training.state import load_state, save_state
from singleshot.training.step import NonFiniteLossError
from singleshot.weights.checkpoint import load_into, read_info


@pytest.fixture
def make(scenes: Path, tiny_ssd):
    """make(out, epochs, seed, recipe, ...): a trainer on the scenes; what else is given is of its settings."""

    def make(out: Path, epochs: int = 2, seed: int = 0, recipe=None, **options):
        out.mkdir(exist_ok=True)
        data = open_dataset(scenes, "train")
        options = {"workers": 0, "pictures": 0, **options}
        settings = loop.Settings(out=out, epochs=epochs, batch=8, seed=seed, precision="float32", **options)
        model = tiny_ssd(len(data.class_names), seed)
        return loop.Trainer(model, data, open_dataset(scenes, "val"), recipe or load_recipe("scratch"), settings)

    return make


def weights(trainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.model.state_dict().items()}


def assert_same(a, b) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_the_loss_falls_and_the_files_are_there(make, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run", epochs=25)
    trainer.reporters.append(CsvReporter(tmp_path / "run" / "log.csv", []))
    result = trainer.run()
    assert (result.epochs, result.steps, result.interrupted) == (25, 75, False)
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["epoch"]) for r in rows] == list(range(25))
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert all(0 <= float(r["val_map50"]) <= 1 for r in rows)
    info = read_info(tmp_path / "run" / loop.BEST)
    assert info.metrics["val_map50"] == pytest.approx(result.best_map, abs=1e-6)
    assert info.class_names == ("cross", "leaf", "ring", "star")
    assert info.training["recipe"]["optimizer"] == "adamw"


def test_best_holds_the_averaged_weights_that_were_validated(make, tmp_path: Path) -> None:
    from singleshot.evaluation.validate import validate
    from singleshot.loading.loader import EvalLoader
    from singleshot.thresholds import Thresholds

    trainer = make(tmp_path / "run", epochs=3)
    result = trainer.run()
    model = make(tmp_path / "other").model
    load_into(model, tmp_path / "run" / loop.BEST)
    data = trainer.val_set
    again = validate(model.eval(), data, EvalLoader(data, model.input_spec, 4, 0), Thresholds(), torch.device("cpu"))
    assert again.evaluation.mean_ap == pytest.approx(result.best_map, abs=1e-6)


def test_losses_of_validation_take_no_negatives_from_regions(make, tmp_path: Path) -> None:
    from singleshot.evaluation.validate import validate
    from singleshot.loading.loader import EvalLoader
    from singleshot.thresholds import Thresholds

    trainer = make(tmp_path / "run")
    model, objective, device = trainer.model.eval(), trainer.stepper.objective, torch.device("cpu")
    data = trainer.val_set
    first = np.zeros(len(data.labels), bool)
    first[data.ptr[:-1]] = True
    crowded = replace(data, crowd=first)
    (batch,) = (one.batch for one in EvalLoader(crowded, model.input_spec, 8, 0))
    assert (batch.ignored[..., 2] > 0).any(dim=1).all()
    found = validate(model, crowded, EvalLoader(crowded, model.input_spec, 8, 0), Thresholds(), device, objective)
    with torch.no_grad():
        raw = model(batch.images)
        want, other = (objective(raw, batch.boxes, batch.labels, ignored) for ignored in (batch.ignored, None))
    assert found.confidence == pytest.approx(float(want.confidence), rel=1e-5)
    assert float(want.confidence) != pytest.approx(float(other.confidence), rel=1e-3)


class StopAfter:
    """Presses Ctrl-C in the middle of an epoch."""

    def __init__(self, trainer, steps: int) -> None:
        self.trainer, self.steps, self.step = trainer, steps, trainer.stepper.__call__
        trainer.stepper = self
        self.inner = self.step.__self__

    def __getattr__(self, name: str):
        return getattr(self.__dict__["inner"], name)

    def __call__(self, batch, factor, phase):
        if self.steps == 0:
            raise KeyboardInterrupt
        self.steps -= 1
        return self.inner(batch, factor, phase)


@pytest.fixture(scope="module")
def straight(trainer_of, tmp_path_factory) -> loop.Trainer:
    """Three epochs that nothing stopped."""
    trainer = trainer_of(tmp_path_factory.mktemp("runs") / "straight", epochs=3)
    trainer.run()
    return trainer


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_stopped_training_goes_on_bit_for_bit(make, straight: loop.Trainer, tmp_path: Path, stop: int) -> None:
    first = make(tmp_path / "broken", epochs=3)
    inner = first.stepper
    StopAfter(first, stop)
    result = first.run()
    first.stepper = inner
    assert result.interrupted
    assert result.steps == stop
    second = make(tmp_path / "broken", epochs=3, seed=0)
    for parameter in second.model.parameters():  # nothing but the file may bring the weights back
        torch.nn.init.zeros_(parameter)
    second.resume()
    assert second.progress.step == stop
    assert second.run().steps == straight.progress.step
    assert_same(weights(straight), weights(second))
    assert_same(straight.stepper.average.state, second.stepper.average.state)


def test_the_same_seed_gives_the_same_weights_whatever_the_workers(make, tmp_path: Path) -> None:
    a, b = make(tmp_path / "a"), make(tmp_path / "b", workers=2)
    others = set(multiprocessing.active_children())
    a.run(), b.run()
    assert set(multiprocessing.active_children()) <= others  # those that validated have ended, too
    assert_same(weights(a), weights(b))
    c = make(tmp_path / "c", seed=1)
    c.run()
    assert any(not torch.equal(v, weights(c)[k]) for k, v in weights(a).items())


def test_a_budget_of_time_is_kept_and_annealed(make, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run", epochs=10**6, seconds=4.0)
    rows: list[dict] = []

    class Listen(PlainReporter):
        def on_epoch(self, row) -> None:
            rows.append(dict(row))

    trainer.reporters.append(Listen())
    result = trainer.run()
    assert 3.0 < result.seconds < 6.0
    assert rows[-1]["lr"] < 0.1 * max(r["lr"] for r in rows)
    assert rows[-1]["val_map50"] is not None


def by_its_own_clock(trainer, step: float, validation: float, pictures: float = 0.0) -> None:
    """Have the trainer's clock advance by so many seconds with each step, validation and drawing."""
    passed = [0.0]
    forward, validate = trainer.stepper.forward, trainer.evaluator._validate

    def after(seconds: float, work):
        def timed(given):
            passed[0] += seconds
            return work(given)

        return timed

    class Drawing(PlainReporter):
        wants_pictures = True

        def on_pictures(self, step, drawn) -> None:
            passed[0] += pictures

    trainer._clock.now = lambda: passed[0]
    trainer.stepper.forward, trainer.evaluator._validate = after(step, forward), after(validation, validate)
    if pictures:
        trainer.reporters.append(Drawing())


def test_time_for_the_first_validation_is_kept_where_an_epoch_is_longer_than_the_budget(make, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run", epochs=10**6, seconds=10.0)
    by_its_own_clock(trainer, step=3.5, validation=2.5)  # three steps an epoch; 8 images in each, and to validate on
    result = trainer.run()
    assert (result.steps, result.seconds) == (2, 9.5)


def test_a_validation_that_makes_a_training_late_is_named(make, tmp_path: Path, caplog) -> None:
    trainer = make(tmp_path / "run", epochs=10**6, seconds=10.0)
    by_its_own_clock(trainer, step=4.0, validation=20.0)
    assert trainer.run().seconds == 28.0  # half of the budget is for training
    late = "the last validation took 20 s, more than was left: fewer images to validate on end in time"
    assert caplog.messages.count(late) == 1


@pytest.mark.parametrize("val_every", [1, 2], ids=["validated", "not yet validated"])
def test_an_epoch_for_which_no_time_was_left_is_none(make, tmp_path: Path, val_every: int) -> None:
    """The last batch of the epoch before takes it: there is a row with what is measured after it, or none."""
    trainer = make(tmp_path / "run", epochs=10**6, seconds=10.0)
    by_its_own_clock(trainer, step=1.0, validation=1.0)
    trainer.evaluator.is_due = lambda done, epoch: done >= 1.0 or epoch % val_every == 0
    epoch = trainer.loader.epoch

    def late(number: int, first: int = 0):
        if number == 1:  # its workers start slowly
            trainer._clock.now = lambda: 10.5
        return epoch(number, first)

    trainer.loader.epoch = late
    out = io.StringIO()
    trainer.reporters += [CsvReporter(tmp_path / "log.csv", []), PlainReporter(out)]
    result = trainer.run()
    assert (result.epochs, result.steps) == (1, 3)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"], bool(row["loss"]), bool(row["val_map50"])) for row in rows] == (
        [("0", "3", True, True)] if val_every == 1 else [("0", "3", True, False), ("0", "3", False, True)]
    )
    assert "nan" not in out.getvalue() + (tmp_path / "log.csv").read_text()


def test_the_time_of_pictures_counts_as_that_of_the_validation(make, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run", epochs=1, pictures=1)
    by_its_own_clock(trainer, step=1.0, validation=2.0, pictures=5.0)
    trainer.run()
    assert trainer.evaluator.seconds == trainer.budget.reserve == 7.0


def test_drawn_validation_images_are_reduced(make, tmp_path: Path, monkeypatch) -> None:
    from singleshot.training import evaluator

    trainer = make(tmp_path / "run", pictures=2)
    height, width = trainer.val_set.sample(0).image.shape[:2]
    score = trainer.evaluator()
    drawn = []
    monkeypatch.setattr(evaluator, "draw_detections", lambda image, found: drawn.append((image, found)) or image)
    trainer.evaluator.pictures(score._replace(show_min=0.0))
    monkeypatch.setattr(evaluator, "MOST_PICTURE", max(height, width) // 2)
    trainer.evaluator.pictures(score._replace(show_min=0.0))
    (whole, found), (half, reduced) = drawn[0], drawn[2]
    assert whole.shape[:2] == (height, width)
    assert max(half.shape[:2]) == max(height, width) // 2 == max(reduced.width, reduced.height)
    np.testing.assert_allclose(reduced.boxes, found.boxes / 2, rtol=1e-5)


def test_the_rate_in_the_log_is_the_recipes_where_the_backbone_has_a_part_of_it(make, tmp_path: Path) -> None:
    recipe = load_recipe("scratch").model_copy(update={"backbone_lr_factor": 0.03, "base_batch": 8, "warmup": 0.0})
    trainer = make(tmp_path / "run", epochs=1, recipe=recipe)
    trainer.run()
    at_the_third = recipe.final_lr + (1 - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * 2 / 3))  # of three steps
    assert trainer.progress.history[0]["lr"] == pytest.approx(recipe.lr * at_the_third)


def test_a_loss_that_is_not_finite_names_the_files_and_saves(make, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run")
    steps = iter(range(100))
    forward = trainer.stepper.forward

    def poisoned(images):
        raw = forward(images)
        return raw._replace(logits=raw.logits * math.nan) if next(steps) == 4 else raw

    trainer.stepper.forward = poisoned
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.run()
    assert "the loss became nan" in str(caught.value)
    batch = next(iter(trainer.loader.epoch(1, 1)))
    assert all(name in str(caught.value) for name in batch.names)
    again = make(tmp_path / "run")
    progress = load_state(tmp_path / "run" / loop.STATE, again.stepper)
    assert (progress.step, progress.epoch, progress.batch) == (4, 1, 1)
    assert all(v.isfinite().all() for v in again.model.state_dict().values())


def on_fewer_images(make, out: Path, images: int, **options):
    trainer = make(out, **options)
    data = trainer.train_set.subset(range(images))
    return loop.Trainer(trainer.model, data, trainer.val_set, trainer.recipe, trainer.settings)


def test_a_run_goes_on_with_other_images_says_so_and_counts_epochs(make, tmp_path: Path, caplog) -> None:
    first = make(tmp_path / "run", epochs=3)
    StopAfter(first, 5)  # two of the three batches of the second epoch
    first.run()
    second = on_fewer_images(make, tmp_path / "run", 16, epochs=3)
    second.resume(accept_changes=True)
    assert "going on with changes: train: 24 images then, 16 now" in caplog.text
    assert (second.progress.epoch, second.progress.batch) == (1, 2)  # it has two batches an epoch: this one only ends
    assert second.done == pytest.approx(2 / 3)
    result = second.run()
    assert (result.epochs, result.steps) == (3, 7)


@pytest.mark.parametrize("val", ["other", "none"])
def test_the_best_of_another_validation_does_not_count(make, tmp_path: Path, caplog, val: str) -> None:
    first = make(tmp_path / "run", epochs=1)
    first.run()
    state = load_state(tmp_path / "run" / loop.STATE, first.stepper)
    state.best = 2.0  # what no later validation could reach
    first.checkpoints.save(state)
    second = make(tmp_path / "run", epochs=2)
    data = second.val_set.subset([0, 1, 2]) if val == "other" else None
    second = loop.Trainer(second.model, second.train_set, data, second.recipe, second.settings)
    second.resume(accept_changes=True)
    assert "validation is another" in caplog.text
    best = second.run().best_map
    assert best is None if val == "none" else 0 <= best <= 1
    assert read_info(tmp_path / "run" / loop.BEST).training["epochs"] == 2


def test_other_classes_than_the_runs_are_refused_also_where_the_state_does_not_name_them(make, tmp_path: Path) -> None:
    first = make(tmp_path / "run", epochs=1)
    first.run()
    other = make(tmp_path / "run", epochs=2)
    renamed = replace(other.train_set, class_names=("cross", "leaf", "ring", "sun"))
    other = loop.Trainer(other.model, renamed, None, other.recipe, other.settings)
    says = "the run has cross, leaf, ring, star; the data has cross, leaf, ring, sun"
    with pytest.raises(ConfigError, match=says):
        other.resume()
    save_state(tmp_path / "run" / loop.STATE, first.stepper, first.progress)  # as it was before it named its data
    with pytest.raises(ConfigError, match=says):
        other.resume()


def test_resume_without_a_state_says_so(make, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run")
    with pytest.raises(CheckpointError, match="no such file"):
        trainer.resume()


def test_a_state_of_another_model_is_refused(make, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run", epochs=1)
    trainer.run()
    other = make(tmp_path / "run")
    other.stepper.model = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="do not fit"):
        other.resume()


def test_training_without_validation_and_without_objects(make, scenes: Path, tmp_path: Path) -> None:
    data = open_dataset(scenes, "train")
    empty = data.subset([i for i in range(len(data)) if len(data.boxes_of(i)) == 0])
    assert len(empty) >= 1
    trainer = make(tmp_path / "run", epochs=2)
    quiet = loop.Trainer(trainer.model, empty, None, replace_recipe(min_negatives=0), trainer.settings)
    result = quiet.run()
    assert result.best_map is None
    assert (tmp_path / "run" / loop.BEST).exists()


def without_objects(data):
    return data.subset([i for i in range(len(data)) if len(data.boxes_of(i)) == 0][:1])


def test_nothing_to_measure_is_none_and_best_is_last_also_after_a_resume(make, tmp_path: Path, caplog) -> None:
    first = make(tmp_path / "run", epochs=2)
    first = loop.Trainer(first.model, first.train_set, without_objects(first.train_set), first.recipe, first.settings)
    StopAfter(first, 4)
    result = first.run()
    assert result.best_map is None
    assert [row["val_map50"] for row in first.progress.history] == [None]
    assert caplog.text.count("nothing to measure on val") == 1
    second = make(tmp_path / "run", epochs=2)
    second = loop.Trainer(second.model, second.train_set, first.val_set, second.recipe, second.settings)
    second.resume()
    second.run()
    best, last = (load_file(tmp_path / "run" / name) for name in (loop.BEST, loop.LAST))
    assert_same(best, last)
    assert read_info(tmp_path / "run" / loop.BEST).training["steps"] == 6


def replace_recipe(**changes):
    return load_recipe("scratch").model_copy(update=changes)


def test_update_ratios_are_reported_per_layer(make, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run", epochs=2, update_ratios=True, report_seconds=0.0)
    seen: dict[str, float] = {}

    class Listen(PlainReporter):
        def on_step(self, values) -> None:
            seen.update(values)

        def on_epoch(self, row) -> None:
            pass

    trainer.reporters.append(Listen())
    trainer.run()
    ratios = [v for k, v in seen.items() if k.startswith("update_ratio/")]
    assert len(ratios) == sum(p.ndim > 1 for p in trainer.model.parameters())
    assert all(0 < v < 1 for v in ratios)


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        loop.Settings(out=Path("x"), epochs=1, batch=1).epochs = 2  # type: ignore[misc]
    assert replace(loop.Settings(out=Path("x"), epochs=1, batch=1), epochs=2).epochs == 2


def test_what_a_start_reaches_is_the_first_best_and_a_training_that_ruins_it_does_not_replace_it(
    make, tmp_path: Path
) -> None:
    first = make(tmp_path / "first", epochs=12)
    reached = first.run().best_map
    assert reached is not None and reached > 0
    wild = load_recipe("scratch").model_copy(update={"lr": 10.0, "clip_norm": 0.0, "optimizer": "sgd", "ema": 0.0})
    second = make(tmp_path / "second", epochs=1, recipe=wild, validate_start=True)
    load_into(second.model, tmp_path / "first" / loop.BEST)
    start = weights(second)
    with contextlib.suppress(NonFiniteLossError):  # ruined as thoroughly as can be
        second.run()
    info = read_info(tmp_path / "second" / loop.BEST)
    assert info.metrics["val_map50"] == pytest.approx(reached, abs=1e-6)
    assert_same(load_file(tmp_path / "second" / loop.BEST), start)


def test_the_speed_of_an_epoch_is_that_of_its_steps(make, tmp_path: Path, monkeypatch) -> None:
    slow = 1.5
    trainer = make(tmp_path / "run", epochs=2)
    validate = trainer._validate
    monkeypatch.setattr(trainer, "_validate", lambda: (time.sleep(slow), validate())[1])
    trainer.run()
    first, second = trainer.progress.history
    assert first["val_map50"] is not None
    assert second["images_per_second"] > trainer.settings.batch * len(trainer.loader) / slow  # without validation's


def test_an_epoch_that_the_time_cut_is_reported_as_a_part(make, tmp_path: Path, monkeypatch) -> None:
    rows: list[dict] = []
    trainer = make(tmp_path / "run", epochs=2)
    reporter = PlainReporter(io.StringIO())
    monkeypatch.setattr(reporter, "on_epoch", rows.append)
    trainer.reporters.append(reporter)
    cut = len(trainer.loader) + 1  # steps
    monkeypatch.setattr(type(trainer), "done", property(lambda self: min(self.progress.step / cut, 1.0)))
    trainer.run()
    assert [(row["epoch"], row["whole"]) for row in rows] == [(0, True), (1, False)]

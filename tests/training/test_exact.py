"""A training that is stopped, however and wherever, ends with the bytes of one that was not."""

from __future__ import annotations

import csv
import functools
import signal
from pathlib import Path

import pytest

from singleshot.errors import CheckpointError
from singleshot.training import checkpoints, clock, loop
from singleshot.training.failures import TrainingStoppedError
from singleshot.training.recipes import Recipe
from singleshot.training.state import read_about

FILES = (loop.BEST, loop.LAST, loop.STATE)
EPOCHS = 3  # of three steps


def some(quick: list, every: list) -> list:
    """Cases of which the quick ones run always, the others with make test-slow."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in every]


@pytest.fixture(scope="module")
def make(trainer_of):
    """As trainer_of, of EPOCHS and with a validation after every second of them."""
    return functools.partial(trainer_of, epochs=EPOCHS, val_every=2)


@pytest.fixture(scope="module")
def straight(make, tmp_path_factory) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    make(folder).run()
    return folder


def log_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / loop.LOG).open(newline="") as file:
        return [clock.without_clock(row) for row in csv.DictReader(file)]


def assert_equal_runs(a: Path, b: Path) -> None:
    for name in FILES:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert log_rows(a) == log_rows(b)


class KilledError(BaseException):
    """As SIGKILL: nothing is caught, nothing is saved."""


def killed() -> None:
    raise KilledError


@pytest.mark.parametrize("step", some([0, 5], list(range(9))))
def test_killed_in_any_step(make, straight: Path, tmp_path: Path, monkeypatch, step: int, before_step) -> None:
    """States are saved after every second step here: the second half of the work is done twice."""
    out = tmp_path / "run"
    trainer = make(out)
    save, due = trainer._save, iter(range(10**6))
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    trainer._save = lambda: save() if next(due) % 2 == 0 else None
    before_step(trainer, step, killed)
    with pytest.raises(KilledError):
        trainer.run()
    monkeypatch.undo()
    make(out, seed=9).run()  # nothing but the state may bring the weights back
    assert_equal_runs(out, straight)


@pytest.mark.parametrize("step", some([2], [0, 1, 2, 4, 8]))
def test_one_signal_saves_and_says_that_it_was_heard(
    make, straight: Path, tmp_path: Path, capfd, step: int, before_step
) -> None:
    out = tmp_path / "run"
    trainer = make(out)
    before_step(trainer, step, lambda: signal.raise_signal(signal.SIGINT))
    assert trainer.run().interrupted
    assert "stopping after this step" in capfd.readouterr().err
    assert read_about(out / loop.STATE).progress.step == step + 1
    make(out, seed=9).run()
    assert_equal_runs(out, straight)


@pytest.mark.parametrize("step", some([5], [1, 3, 5]))
def test_repeated_images_and_rules_by_predictions_go_on_exactly(make, tmp_path: Path, step: int, before_step) -> None:
    recipe = Recipe(
        **{"sampling": "repeat", "repeat_threshold": 1.0, "matching": "simota", "loss": "quality-focal", "ema": 0.9}
    )
    whole, out = make(tmp_path / "whole", recipe=recipe), tmp_path / "run"
    assert len(whole.loader) > 3  # of the 24 images as they are
    whole.run()
    trainer = make(out, recipe=recipe)
    before_step(trainer, step, lambda: signal.raise_signal(signal.SIGINT))
    assert trainer.run().interrupted
    make(out, seed=9, recipe=recipe).run()
    assert_equal_runs(out, tmp_path / "whole")


@pytest.mark.parametrize("step", some([4], [0, 4]))
def test_two_signals_stop_at_once_and_save_nothing(
    make, straight: Path, tmp_path: Path, step: int, before_step
) -> None:
    out = tmp_path / "run"
    trainer = make(out)

    def twice() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    before_step(trainer, step, twice)
    with pytest.raises(TrainingStoppedError, match="stopped at once") as caught:
        trainer.run()
    assert caught.value.exit_code == 130  # as after one: the input is not what is wrong
    assert read_about(out / loop.STATE).progress.step == (0 if step == 0 else 3)
    make(out, seed=9).run()
    assert_equal_runs(out, straight)


_WRITES = [(name, call) for name in ("save_state", "save_checkpoint", "write_seconds") for call in (0, 1, 3)]


@pytest.mark.parametrize("write", some([("save_state", 1), ("save_checkpoint", 3)], _WRITES), ids=str)
def test_killed_in_a_write(make, straight: Path, tmp_path: Path, monkeypatch, write: tuple[str, int]) -> None:
    """Before, between and after the files of a state."""
    name, call = write
    out = tmp_path / "run"
    trainer = make(out)
    real, calls = getattr(checkpoints, name), iter(range(10**6))
    monkeypatch.setattr(checkpoints, name, lambda *args: killed() if next(calls) == call else real(*args))
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    with pytest.raises(KilledError):
        trainer.run()
    monkeypatch.undo()
    make(out).run()
    assert_equal_runs(out, straight)


def test_killed_after_the_last_step(make, straight: Path, tmp_path: Path, monkeypatch) -> None:
    """The state of the last step is there, the end of its epoch is not: the run is not over."""
    out = tmp_path / "run"
    trainer = make(out)
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    finish, calls = trainer._finish_epoch, iter(range(10**6))
    trainer._finish_epoch = lambda: killed() if next(calls) == EPOCHS - 1 else finish()
    with pytest.raises(KilledError):
        trainer.run()
    monkeypatch.undo()
    again = make(out)
    assert not again.over
    again.run()
    assert make(out).over
    assert_equal_runs(out, straight)


def test_killed_in_validation(make, straight: Path, tmp_path: Path) -> None:
    for after_best in (False, True):
        out = tmp_path / f"run{after_best}"
        trainer = make(out)
        if after_best:  # the best is written, the state does not know of it
            save_best = trainer.checkpoints.save_best
            trainer.checkpoints.save_best = lambda progress, save_best=save_best: (save_best(progress), killed())
        else:
            trainer.evaluator.__class__ = type("Killed", (type(trainer.evaluator),), {"__call__": lambda *_: killed()})
        with pytest.raises(KilledError):
            trainer.run()
        make(out).run()
        assert_equal_runs(out, straight)


def test_without_validation(make, tmp_path: Path, before_step) -> None:
    make(tmp_path / "straight", val=False).run()
    trainer = make(tmp_path / "run", val=False)
    before_step(trainer, 4, killed)
    with pytest.raises(KilledError):
        trainer.run()
    make(tmp_path / "run", val=False, seed=9).run()
    assert_equal_runs(tmp_path / "run", tmp_path / "straight")


@pytest.mark.parametrize("damage", some(["flipped"], ["missing", "cut", "flipped"]))
def test_a_damaged_state_is_replaced_by_the_one_before(
    make, straight: Path, tmp_path: Path, monkeypatch, caplog, damage: str, before_step
) -> None:
    out = tmp_path / "run"
    trainer = make(out)
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    before_step(trainer, 5, killed)
    with pytest.raises(KilledError):
        trainer.run()
    monkeypatch.undo()
    state = out / loop.STATE
    whole = state.read_bytes()
    if damage == "missing":
        state.unlink()
    else:
        state.write_bytes(whole[:5000] if damage == "cut" else whole[:-9] + bytes([whole[-9] ^ 64]) + whole[-8:])
    make(out, seed=9).run()
    assert "going on from the state before it, of step 4" in caplog.text
    assert_equal_runs(out, straight)


def test_two_damaged_states_are_refused(make, tmp_path: Path) -> None:
    out = tmp_path / "run"
    make(out).run()
    (out / loop.STATE).write_bytes(b"x" * 100)
    (out / checkpoints.BEFORE).write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match=loop.STATE):
        make(out)


def test_the_times_of_the_first_part_stay_in_the_log(make, tmp_path: Path, before_step) -> None:
    out = tmp_path / "run"
    trainer = make(out)
    before_step(trainer, 7, lambda: signal.raise_signal(signal.SIGINT))
    trainer.run()
    with (out / loop.LOG).open(newline="") as file:
        first = list(csv.DictReader(file))
    seconds = trainer.seconds
    again = make(out)
    assert 0 < again.progress.seconds <= seconds
    assert again.run().seconds > again.progress.history[0]["seconds"] > 0
    with (out / loop.LOG).open(newline="") as file:
        assert list(csv.DictReader(file))[: len(first)] == first


@pytest.mark.parametrize("content", ["", "[]", '{"seconds": "x"}', '{"seconds": NaN}', '{"seconds": -1}', "[" * 10**5])
def test_a_clock_that_cannot_be_read_is_not_known(tmp_path: Path, content: str) -> None:
    (tmp_path / clock.CLOCK).write_text(content)
    assert clock.read_seconds(tmp_path) is None
    row = {"epoch": 0, "step": 3, "loss": 1.0}
    (tmp_path / loop.LOG).write_text(content)
    assert clock.with_clock([row], tmp_path / loop.LOG) == [{**row, "seconds": None, "images_per_second": None}]


@pytest.mark.parametrize("what", some(["worse"], ["missing", "worse"]))
def test_a_best_that_is_not_this_runs_starts_anew(
    make, straight: Path, tmp_path: Path, caplog, what: str, before_step
) -> None:
    out = tmp_path / "run"
    trainer = make(out)
    before_step(trainer, 7, lambda: signal.raise_signal(signal.SIGINT))
    trainer.run()
    assert trainer.progress.best > 0
    if what == "missing":
        (out / loop.BEST).unlink()
    else:
        (out / loop.LAST).replace(out / loop.BEST)
        trainer.checkpoints._save_weights(loop.BEST, trainer.progress, 0.0)
    again = make(out)
    assert again.progress.best < 0
    assert "best" in caplog.text
    again.run()
    assert (out / loop.BEST).is_file()


def test_a_start_that_is_stopped_in_its_validation_goes_on_exactly(make, tmp_path: Path) -> None:
    make(tmp_path / "straight", validate_start=True).run()
    trainer = make(tmp_path / "stopped", validate_start=True)
    assert trainer.evaluator is not None
    trainer.evaluator = _Stopping(trainer.evaluator)
    assert trainer.run().interrupted
    assert not (tmp_path / "stopped" / loop.BEST).exists()
    make(tmp_path / "stopped", validate_start=True).run()
    for name in FILES:
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name
    assert log_rows(tmp_path / "stopped") == log_rows(tmp_path / "straight")


class _Stopping:
    """An evaluator in whose first validation somebody presses Ctrl-C."""

    def __init__(self, evaluator) -> None:
        self._evaluator = evaluator

    def __getattr__(self, name: str):
        return getattr(self._evaluator, name)

    def __call__(self, on_image=None):
        raise KeyboardInterrupt

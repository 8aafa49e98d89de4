"""What a training reports: rows of the CSV file, scalars of TensorBoard, lines on a terminal."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from singleshot.text_table import format_rate
from singleshot.training.clock import without_clock
from singleshot.training.reports import (
    COLUMNS,
    CsvReporter,
    LiveReporter,
    PlainReporter,
    Reporter,
    TensorBoardReporter,
    console_reporter,
)

STEP = {
    "epoch": 0,
    "step": 7,
    "seconds": 3.5,
    "progress": 0.25,
    "lr": 0.001,
    "last_map": None,
    "seconds_left": 3725.0,
    "loss": 5.25,
    "loss_location": 2.0,
    "loss_confidence": 3.25,
    "images_per_second": 12.34,
}
ROW = {
    **STEP,
    "val_loss_location": 1.5,
    "val_loss_confidence": 2.5,
    "val_map50": 0.125,
    "last_map": 0.125,
    "best": True,
}


def test_the_csv_file_has_a_row_for_each_epoch_and_keeps_those_before_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("what a broken run left\n")
    history = [dict.fromkeys(COLUMNS, 1), dict.fromkeys(COLUMNS)]
    reporter = CsvReporter(path, history)
    reporter.on_epoch(ROW)
    with path.open() as file:  # there at once, for whoever watches
        rows = list(csv.DictReader(file))
    reporter.close()
    assert list(rows[0]) == list(COLUMNS)
    assert [row["val_map50"] for row in rows] == ["1", "", "0.125"]
    assert {key: float(rows[2][key]) for key in COLUMNS} == {key: ROW[key] for key in COLUMNS}


def test_scalars_and_pictures_for_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reporter = TensorBoardReporter(tmp_path)
    assert reporter.wants_pictures
    reporter.on_step({**STEP, "update_ratio/head": 0.001})
    reporter.on_epoch(ROW)
    reporter.on_epoch({**ROW, "step": 9, "val_map50": None})
    reporter.on_pictures(7, [np.zeros((8, 9, 3), np.uint8)])
    reporter.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found["train/loss"] == [(7, 5.25)]
    assert found["val/map50"] == [(7, 0.125)]
    assert found["val/loss_location"] == [(7, 1.5), (9, 1.5)]
    assert found["update_ratio/head"] == [(7, pytest.approx(0.001))]
    (image,) = events.Images("val/0")
    assert (image.width, image.height, image.step) == (9, 8, 7)


def test_lines_for_a_log_file() -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream, interval=0.0)
    reporter.on_step(STEP)
    reporter.on_epoch(ROW)
    first, second = stream.getvalue().splitlines()
    assert first == " 25%  epoch 1  loss 5.250 (loc 2.000 conf 3.250)  12.3 img/s  1:02:05 left"
    assert second.startswith(" 25%  epoch 1 done  loss 5.250")
    assert second.endswith("mAP50 0.1250  1:02:05 left  best so far")


def test_a_line_has_the_map_of_the_epochs_after_which_it_was_measured_alone() -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream, interval=0.0)
    reporter.on_step({**STEP, "last_map": 0.125})
    reporter.on_epoch({**ROW, "val_map50": None, "best": False})
    reporter.on_epoch({**ROW, "whole": True})
    first, second, third = stream.getvalue().splitlines()
    assert "mAP50" not in first + second
    assert "epoch 1 done" in third and "mAP50 0.1250" in third


def test_an_epoch_whose_end_comes_after_a_resume_has_no_speed() -> None:
    """A state holds no clock times."""
    row = without_clock(ROW)
    stream = io.StringIO()
    PlainReporter(stream).on_epoch(row)
    live = LiveReporter()
    live.on_epoch(row)
    live.close()
    assert "conf 3.250)  mAP50 0.1250" in stream.getvalue()


def test_an_epoch_that_the_time_cut_is_not_done() -> None:
    stream = io.StringIO()
    PlainReporter(stream).on_epoch({**ROW, "epoch": 9, "whole": False})
    assert "epoch 10 in part  loss" in stream.getvalue()


def test_a_long_epoch_says_something_now_and_then_only() -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream, interval=1e9)
    for _ in range(5):
        reporter.on_step(STEP)
    assert stream.getvalue() == ""


def test_a_bar_on_a_terminal_has_a_line_for_each_validation(capsys) -> None:
    reporter = LiveReporter()
    reporter.on_step(STEP)
    reporter.on_epoch(ROW)
    reporter.on_epoch({**ROW, "epoch": 1, "val_map50": None})
    reporter.close()
    lines = capsys.readouterr().err
    assert "mAP50 0.1250" in lines
    assert "best so far" in lines


def test_which_reporter_suits_standard_error(capsys) -> None:
    assert console_reporter(quiet=True) == []
    (reporter,) = console_reporter()
    assert isinstance(reporter, PlainReporter)  # pytest's is no terminal


def test_a_reporter_may_care_for_nothing() -> None:
    reporter = Reporter()
    assert not reporter.wants_pictures
    reporter.on_step(STEP)
    reporter.on_epoch(ROW)
    reporter.on_pictures(0, [])
    reporter.close()


def test_a_line_says_what_was_measured_alone() -> None:
    out = io.StringIO()
    nothing = dict.fromkeys(("loss", "loss_location", "loss_confidence", "images_per_second"))
    PlainReporter(out).on_epoch({**ROW, **nothing, "progress": 1.0})  # of an epoch that had no step, but a validation
    assert out.getvalue() == "100%  epoch 1 done  mAP50 0.1250  1:02:05 left  best so far\n"


@pytest.mark.parametrize(
    ("rate", "words"), [(12.34, "12.3"), (0.0205, "0.021"), (0.7, "0.7"), (1.0, "1.0"), (0, "0.0")]
)
def test_a_slow_rate_is_not_none(rate: float, words: str) -> None:
    assert format_rate(rate) == words

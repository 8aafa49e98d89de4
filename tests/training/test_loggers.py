"""`--log`: MLflow, Weights & Biases (offline) and a user's own class hear of a training."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

import singleshot
from singleshot.errors import ConfigError
from singleshot.training.loggers import Guarded, open_loggers

ABOUT = {"options": {"epochs": 2, "lr": None, "classes": None}, "recipe": {"optimizer": "adamw"}}


class Diary(singleshot.Reporter):
    """A user's own: keeps what it hears."""

    heard: list[tuple[str, object]] = []  # noqa: RUF012 (one for all, as a test reads it)
    wants_pictures = True

    def on_start(self, folder, settings) -> None:
        self.heard.append(("start", settings))

    def on_step(self, values) -> None:
        self.heard.append(("step", values["step"]))

    def on_epoch(self, row) -> None:
        self.heard.append(("epoch", row["val_map50"]))

    def on_pictures(self, step, pictures) -> None:
        self.heard.append(("pictures", len(pictures)))

    def on_end(self, interrupted) -> None:
        self.heard.append(("end", interrupted))

    def close(self) -> None:
        self.heard.append(("close", None))


class Broken(Diary):
    """Fails at the end of the first epoch."""

    def on_epoch(self, row) -> None:
        raise ConnectionError("no way to\nthe server")


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlflow").as_uri())
    yield mlflow
    mlflow.set_tracking_uri(None)


def test_a_class_of_the_users_hears_all_of_a_training_in_order(trainer_of, tmp_path: Path) -> None:
    Diary.heard.clear()
    trainer = trainer_of(tmp_path / "run", epochs=2, pictures=1, report_seconds=0.0)
    trainer.reporters += open_loggers([f"{__name__}:Diary"])
    trainer.run(ABOUT)
    kinds = [kind for kind, _ in Diary.heard]
    assert Diary.heard[0] == ("start", ABOUT)
    assert kinds[-2:] == ["end", "close"]
    assert kinds.count("epoch") == 2 and "pictures" in kinds and "step" in kinds
    assert Diary.heard[-2] == ("end", False)


def test_a_logger_that_fails_is_left_out_in_one_line_and_closed(trainer_of, tmp_path: Path, caplog) -> None:
    Diary.heard.clear()
    trainer = trainer_of(tmp_path / "run", epochs=2)
    trainer.reporters += open_loggers([f"{__name__}:Broken"])
    assert trainer.run(ABOUT).epochs == 2
    lines = [record.getMessage() for record in caplog.records if "Broken" in record.getMessage()]
    assert len(lines) == 1 and "ConnectionError" in lines[0] and "\n" not in lines[0]
    kinds = [kind for kind, _ in Diary.heard]
    assert "end" not in kinds and kinds[-1] == "close"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tensorbord", "want mlflow, wandb"),
        ("../x.py:Diary", "want mlflow, wandb"),
        ("no_such_module:Diary", "no_such_module"),
        ("singleshot:NoSuch", "NoSuch"),
        ("pathlib:Path", "singleshot.Reporter"),
    ],
)
def test_a_name_that_is_none_is_one_line(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        open_loggers([name])
    assert "\n" not in str(caught.value)


def test_a_logger_that_cannot_begin_ends_the_training_before_its_first_step(trainer_of, tmp_path: Path) -> None:
    class NoLogin(singleshot.Reporter):
        def on_start(self, folder, settings) -> None:
            raise PermissionError("log in first")

    trainer = trainer_of(tmp_path / "run", epochs=1)
    trainer.reporters.append(Guarded(NoLogin(), "mine"))
    with pytest.raises(ConfigError, match="--log mine: PermissionError: log in first"):
        trainer.run(ABOUT)
    assert trainer.progress.step == 0


def test_mlflow_holds_settings_scalars_and_pictures_and_a_resumed_run_is_the_same_one(
    mlflow, trainer_of, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    for epochs in (1, 2):
        trainer = trainer_of(folder, epochs=epochs, pictures=1)
        trainer.reporters += open_loggers(["mlflow"])
        trainer.run({**ABOUT, "options": {"epochs": epochs}})
    runs = mlflow.search_runs(output_format="list")
    assert len(runs) == 1
    run = runs[0]
    assert run.info.run_id == (folder / "mlflow-run.txt").read_text().strip()
    assert (run.info.run_name, run.info.status, run.data.params) == ("run", "FINISHED", {"epochs": "1"})
    assert {"train/loss", "train/lr", "val/map50"} <= set(run.data.metrics)
    client = mlflow.MlflowClient()
    assert [round(m.value, 6) for m in client.get_metric_history(run.info.run_id, "val/map50")] == [
        round(row["val_map50"], 6) for row in trainer.progress.history
    ]
    names = [file.path for file in client.list_artifacts(run.info.run_id)]
    assert "settings.json" in names and "val" in names


def test_a_foreign_run_id_is_refused(mlflow, tmp_path: Path) -> None:
    (tmp_path / "mlflow-run.txt").write_text("../../etc/passwd\n")
    (logger,) = open_loggers(["mlflow"])
    with pytest.raises(ConfigError, match=r"mlflow-run\.txt"):
        logger.on_start(tmp_path, ABOUT)


def test_wandb_offline_keeps_its_files_and_its_id_in_the_run_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    (logger,) = open_loggers(["wandb"])
    logger.on_start(tmp_path, ABOUT)
    logger.on_step({"step": 3, "loss": 1.5, "lr": 0.1})
    logger.on_pictures(3, [np.zeros((8, 8, 3), np.uint8)])
    logger.on_epoch({"step": 4, "loss": 1.25, "val_map50": 0.5})
    logger.on_end(False)
    logger.close()
    run_id = (tmp_path / "wandb-run.txt").read_text().strip()
    (kept,) = tmp_path.glob(f"wandb/offline-run-*-{run_id}")
    (log,) = kept.glob("*.wandb")
    ends = time.monotonic() + 30  # its own process writes the file, at times after `finish` came back
    while b"val/map50" not in (content := log.read_bytes()) and time.monotonic() < ends:
        time.sleep(0.05)
    assert b"val/map50" in content and b"train/loss" in content and b"adamw" in content
    assert len(list(kept.glob("files/media/images/**/*.png"))) == 1


def test_what_ran_is_kept_without_its_loggers(tmp_path: Path) -> None:
    from singleshot.api.train import TrainOptions

    options = TrainOptions.of({"data": str(tmp_path), "log": ["mlflow"]})
    assert options.log == ("mlflow",)
    assert "log" not in json.dumps(options.kept())  # a run folder of somebody else names no code to import

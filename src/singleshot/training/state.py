"""The state of a training, so that a killed one goes on where it stopped, bit for bit: safetensors, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from singleshot.errors import CheckpointError, printable
from singleshot.files import atomic_write
from singleshot.training.data_summary import DataSummary, read_summaries
from singleshot.training.step import Stepper
from singleshot.weights.checkpoint import check_state, read_metadata, read_tensors

KEY = "singleshot-training"


@dataclass
class Progress:
    """Where a training is: the next batch to train on is `batch` of `epoch`.

    best: highest validation mAP50, below 0 before there is one; measurable: False where validation found no object to
    measure on; pending: the row of an epoch that is trained, whose end (validation, reports) is still to come;
    finished: the length, in words, of a training that reached its end.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    last_map: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    measurable: bool = True
    pending: dict[str, Any] | None = None
    finished: str = ""


@dataclass(frozen=True)
class SavedAbout:
    """What a state says besides its tensors. data: what was trained and validated on, by split; empty in states from
    before it was kept."""

    progress: Progress
    updates: int
    scaler: dict[str, Any]
    data: dict[str, DataSummary]


def save_state(path: Path, stepper: Stepper, progress: Progress, data: Mapping[str, DataSummary] | None = None) -> None:
    """Weights, average, optimizer and scaler; the progress and `data`, by split, as JSON in the metadata."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in stepper.model.state_dict().items()}
    if stepper.average is not None:
        tensors |= {f"average.{k}": v for k, v in stepper.average.state.items()}
    for index, slots in stepper.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(v) for name, v in slots.items() if v is not None}
    about = {
        "progress": asdict(progress),
        "updates": stepper.average.updates if stepper.average is not None else 0,
        "scaler": stepper.scaler.state_dict(),
        "data": {split: summary.to_dict() for split, summary in (data or {}).items()},
    }
    tensors = {key: value.detach().contiguous().cpu() for key, value in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(about)})


def read_about(path: Path) -> SavedAbout:
    """What a saved state says besides its tensors, which are not read. Raises CheckpointError."""
    return _about(read_metadata(path), printable(path))


def _about(metadata: Mapping[str, str], where: str) -> SavedAbout:
    if KEY not in metadata:
        raise CheckpointError(f"{where}: not the state of a training; --resume wants a folder that train wrote")
    try:
        values = json.loads(metadata[KEY])
        progress = Progress(**values["progress"])
        return SavedAbout(progress, int(values["updates"]), values["scaler"], read_summaries(values.get("data", {})))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = printable(f"{type(error).__name__}: {error}", 100)
        raise CheckpointError(f"{where}: its description cannot be read ({reason})") from error


def load_state(path: Path, stepper: Stepper) -> Progress:
    """Put a saved state back. Raises CheckpointError."""
    tensors, metadata = read_tensors(path)
    where = printable(path)
    about = _about(metadata, where)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    model_state = part("model.")
    check_state(model_state, stepper.model.state_dict(), where)
    stepper.model.load_state_dict(model_state)
    if stepper.average is not None:
        average = part("average.")
        check_state(average, stepper.average.state, where)
        stepper.average.load(average, about.updates)
    slots: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in stepper.optimizer.param_groups for p in group["params"]]
    for key, value in part("optimizer.").items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        # Fused optimizers walk memory: a moment must lie in it as its (channels-last) parameter does.
        own = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        slots.setdefault(int(index), {})[name] = own
    whole = stepper.optimizer.state_dict()
    stepper.optimizer.load_state_dict({"state": slots, "param_groups": whole["param_groups"]})
    if about.scaler:
        stepper.scaler.load_state_dict(about.scaler)
    return about.progress

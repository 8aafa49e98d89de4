"""The state of a training, so that a killed one goes on where it stopped, bit for bit: safetensors, no pickle.

It holds no clock time (see `clock`): two runs of the same training, stopped or not, end with the same bytes.
"""

from __future__ import annotations

import hashlib
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
from singleshot.training.clock import without_clock
from singleshot.training.data_summary import DataSummary, read_summaries
from singleshot.training.step import Stepper
from singleshot.weights.checkpoint import check_state, read_metadata, read_tensors

KEY = "singleshot-training"


@dataclass
class Progress:
    """Where a training is: the next batch to train on is `batch` of `epoch`.

    seconds: spent training, not part of the state; best: highest validation mAP50, below 0 before there is one;
    measurable: False where validation found no object to measure on; pending: the row of an epoch that is trained,
    whose end (validation, reports) is still to come; lr: of the last step; losses, counted: sums of the epoch's losses
    so far and over how many steps; finished: the length, in words, of a training that reached its end.
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
    lr: float = 0.0
    losses: list[float] = field(default_factory=list)
    counted: int = 0
    finished: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values of what the state holds: all but the clock's."""
        values = asdict(self)
        del values["seconds"]
        values["history"] = [without_clock(row) for row in self.history]
        values["pending"] = None if self.pending is None else without_clock(self.pending)
        return values


@dataclass(frozen=True)
class SavedAbout:
    """What a state says besides its tensors. data: what was trained and validated on, by split; empty in states from
    before it was kept."""

    progress: Progress
    updates: int
    scaler: dict[str, Any]
    data: dict[str, DataSummary]


@dataclass(frozen=True)
class SavedState:
    """A state that was read whole: its tensors by name, and what it says besides."""

    tensors: dict[str, Tensor]
    about: SavedAbout
    where: str


def save_state(
    path: Path,
    stepper: Stepper,
    progress: Progress,
    data: Mapping[str, DataSummary] | None = None,
    before: Path | None = None,
) -> None:
    """Weights, average, optimizer, scaler and random generators; the progress and `data`, by split, as JSON in the
    metadata, with a checksum over everything. before: where the state goes that is there already."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in stepper.model.state_dict().items()}
    if stepper.average is not None:
        tensors |= {f"average.{k}": v for k, v in stepper.average.state.items()}
    for index, slots in stepper.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(v) for name, v in slots.items() if v is not None}
    tensors["random.cpu"] = torch.get_rng_state()
    if stepper.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(stepper.device)
    about = {
        "progress": progress.to_dict(),
        "updates": stepper.average.updates if stepper.average is not None else 0,
        "scaler": stepper.scaler.state_dict(),
        "data": {split: summary.to_dict() for split, summary in (data or {}).items()},
    }
    tensors = {key: value.detach().contiguous().cpu() for key, value in tensors.items()}
    text = json.dumps({**about, "checksum": _checksum(about, tensors)})
    with atomic_write(path, durable=True, before=before) as temporary:
        save_file(tensors, temporary, metadata={KEY: text})


def _checksum(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the description without its checksum and every tensor with its name, number format and shape."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_about(path: Path) -> SavedAbout:
    """What a saved state says besides its tensors, which are not read. Raises CheckpointError."""
    return _about(read_metadata(path), printable(path))[0]


def _about(metadata: Mapping[str, str], where: str) -> tuple[SavedAbout, dict[str, Any]]:
    """What the metadata say, also as they say it."""
    if KEY not in metadata:
        raise CheckpointError(f"{where}: not the state of a training; --resume wants a folder that train wrote")
    try:
        values = json.loads(metadata[KEY])
        progress = Progress(**values["progress"])
        data = read_summaries(values.get("data", {}))
        return SavedAbout(progress, int(values["updates"]), values["scaler"], data), values
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = printable(f"{type(error).__name__}: {error}", 100)
        raise CheckpointError(f"{where}: its description cannot be read ({reason})") from error


def read_state(path: Path) -> SavedState:
    """Read a saved state and look whether it is whole. Raises CheckpointError."""
    tensors, metadata = read_tensors(path)
    where = printable(path)
    about, values = _about(metadata, where)
    kept = values.pop("checksum", None)  # none in states from before there was one
    if kept is not None and kept != _checksum(values, tensors):
        raise CheckpointError(f"{where}: damaged, its checksum is another")
    return SavedState(tensors, about, where)


def put_state(saved: SavedState, stepper: Stepper) -> Progress:
    """Put a state that was read back where it came from. Raises CheckpointError for that of another model."""
    tensors, about, where = saved.tensors, saved.about, saved.where

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
    if "random.cpu" in tensors:
        torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and stepper.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], stepper.device)
    return about.progress


def load_state(path: Path, stepper: Stepper) -> Progress:
    """Put a saved state back. Raises CheckpointError."""
    return put_state(read_state(path), stepper)

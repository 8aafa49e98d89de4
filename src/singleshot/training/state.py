"""The state of a training, so that a killed one goes on where it stopped, bit for bit: safetensors, no pickle.

It holds no clock time (see `clock`): two runs of the same training, stopped or not, end with the same bytes.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from singleshot.errors import CheckpointError, printable
from singleshot.files import atomic_write
from singleshot.training.clock import without_clock
from singleshot.training.distributed import Message, World
from singleshot.training.fingerprint import Fingerprint
from singleshot.training.optimizers import SLOTS
from singleshot.training.step import Stepper
from singleshot.weights.checkpoint import check_state, checksum_of, read_metadata, read_tensors

log = logging.getLogger(__name__)

KEY = "singleshot-training"
_MOST_SKIPPED, _SKIPPED_SHOWN = 1000, 8
_MOST = 2**53  # of a count that a file may name
_KINDS: dict[str, tuple[type, ...]] = {
    "finished": (str,), "best_checksum": (str,), "measurable": (bool,), "history": (list,), "losses": (list,),
    "skipped": (list,), "pending": (dict, type(None)),
}  # fmt: skip


@dataclass
class Progress:
    """Where a training is: the next batch to train on is `batch` of `epoch`.

    seconds: spent training, not part of the state; best: highest validation mAP50, below 0 before there is one;
    show_min: the score from which the model shows a detection, by the last validation, None before there is one;
    measurable: False where validation found no object to measure on; pending: the row of an epoch that is trained,
    whose end (validation, reports) is still to come; lr: of the last step; losses, counted: sums of the epoch's losses
    so far and over how many steps; finished: the length, in words, of a training that reached its end; best_checksum:
    of the tensors of best.safetensors; parts: in how many a batch is trained where memory has no room for it at once;
    skipped: what was said of images that could not be read.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    last_map: float | None = None
    show_min: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    measurable: bool = True
    pending: dict[str, Any] | None = None
    lr: float = 0.0
    losses: list[float] = field(default_factory=list)
    counted: int = 0
    finished: str = ""
    best_checksum: str = ""
    parts: int = 1
    skipped: list[str] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        """Inverse of `to_dict`, of a file that may say anything. Raises ValueError or TypeError."""
        found = cls(**values)
        for name, least in (("epoch", 0), ("batch", 0), ("step", 0), ("counted", 0), ("parts", 1)):
            value = getattr(found, name)
            if type(value) is not int or not least <= value <= _MOST:
                raise ValueError(f"{name} {value!r}: want a whole number from {least} on")
        for name, kind in _KINDS.items():
            if not isinstance(getattr(found, name), kind):
                raise ValueError(f"{name}: want {' or '.join(one.__name__ for one in kind)}")
        numbers = [found.seconds, found.best, found.lr, found.last_map or 0.0, found.show_min or 0.0, *found.losses]
        if not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
            raise ValueError("best, lr, last_map, show_min or losses: want finite numbers")
        rows = found.history if found.pending is None else [*found.history, found.pending]
        if not all(isinstance(row, dict) and {"epoch", "step"} <= row.keys() for row in rows):
            raise ValueError("history: want rows with epoch and step")
        return found

    def note_skipped(self, messages: Sequence[str]) -> None:
        """Count images that could not be read, each once; the log says so of the first few."""
        for message in messages:
            if message not in self.skipped and len(self.skipped) < _MOST_SKIPPED:
                self.skipped.append(message)
                if len(self.skipped) <= _SKIPPED_SHOWN:
                    log.warning("skipped: %s", message)

    def to_dict(self) -> dict[str, Any]:
        """Plain values of what the state holds: all but the clock's."""
        values = asdict(self)
        del values["seconds"]
        values["history"] = [without_clock(row) for row in self.history]
        values["pending"] = None if self.pending is None else without_clock(self.pending)
        return values


@dataclass(frozen=True)
class SavedAbout:
    """What a state says besides its tensors. fingerprint: what decided its bits, without the files."""

    progress: Progress
    updates: int
    scaler: dict[str, Any]
    fingerprint: Fingerprint


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
    fingerprint: Fingerprint | None = None,
    before: Path | None = None,
) -> None:
    """Weights, average, optimizer, scaler and random generators; the progress and the fingerprint as JSON in the
    metadata, with a checksum over everything. before: where the state goes that is there already."""
    about, tensors = _state_of(stepper, progress, fingerprint or Fingerprint())
    text = json.dumps({**about, "checksum": _checksum(about, tensors)})
    with atomic_write(path, durable=True, before=before) as temporary:
        save_file(tensors, temporary, metadata={KEY: text})


def _state_of(
    stepper: Stepper, progress: Progress, fingerprint: Fingerprint
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a state says, and its tensors."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in stepper.model.state_dict().items()}
    if stepper.average is not None:
        tensors |= {f"average.{k}": v for k, v in stepper.average.state.items()}
    names: dict[Any, str] = {parameter: name for name, parameter in stepper.model.named_parameters()}
    for parameter, slots in stepper.optimizer.state.items():
        key = f"optimizer.{names[parameter]}"
        tensors |= {f"{key}.{name}": torch.as_tensor(v) for name, v in slots.items() if v is not None}
    tensors["random.cpu"] = torch.get_rng_state()
    if stepper.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(stepper.device)
    about = {
        "progress": progress.to_dict(),
        "updates": stepper.average.updates if stepper.average is not None else 0,
        "scaler": stepper.scaler.state_dict(),
        **fingerprint.to_dict(),
    }
    tensors |= fingerprint.tensors()
    return about, {key: value.detach().contiguous().cpu() for key, value in tensors.items()}


def share_state(world: World, stepper: Stepper, fingerprint: Fingerprint, load: Callable[[], Progress]) -> Progress:
    """The progress of the first process, which has the state that `load` puts back; the others take it over, with the
    number of threads. Raises as `load` does, in the others OtherProcessError."""

    loaded: list[Progress] = []

    def state() -> Message:
        loaded.append(progress := load())
        about, tensors = _state_of(stepper, progress, fingerprint)
        return Message({**about, "seconds": progress.seconds, "threads": torch.get_num_threads()}, tensors)

    values, tensors = world.from_first(state)
    if not loaded:
        loaded.append(progress := Progress.from_dict({**values["progress"], "seconds": values["seconds"]}))
        about = SavedAbout(progress, int(values["updates"]), values["scaler"], fingerprint)
        put_state(SavedState(tensors, about, "the state of process 0"), stepper)
        for split, files in fingerprint.files.items():
            files.checksums[:] = tensors[f"files.{split}.checksums"].numpy()
        torch.set_num_threads(int(values["threads"]))
    return loaded[0]


def _checksum(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the description without its checksum and every tensor."""
    return checksum_of(tensors, json.dumps(about, sort_keys=True))


def read_about(path: Path) -> SavedAbout:
    """What a saved state says besides its tensors, which are not read. Raises CheckpointError."""
    return _about(read_metadata(path), printable(path))[0]


def _about(metadata: Mapping[str, str], where: str) -> tuple[SavedAbout, dict[str, Any]]:
    """What the metadata say, also as they say it."""
    if KEY not in metadata:
        raise CheckpointError(f"{where}: not the state of a training; --resume wants a folder that train wrote")
    try:
        values = json.loads(metadata[KEY])
        progress = Progress.from_dict(values["progress"])
        fingerprint = Fingerprint.from_dict(values)
        return SavedAbout(progress, int(values["updates"]), values["scaler"], fingerprint), values
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = printable(f"{type(error).__name__}: {error}", 100)
        raise CheckpointError(f"{where}: its description cannot be read ({reason})") from error


def read_state(path: Path) -> SavedState:
    """Read a saved state and look whether it is whole. Raises CheckpointError."""
    tensors, metadata = read_tensors(path)
    where = printable(path)
    about, values = _about(metadata, where)
    if values.pop("checksum", None) != _checksum(values, tensors):
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
        # Of a recipe that had none it starts with the weights as they are.
        average = part("average.") or model_state
        check_state(average, stepper.average.state, where)
        stepper.average.load(average, about.updates)
    _put_slots(part("optimizer."), stepper, where)
    if about.scaler:
        stepper.scaler.load_state_dict(about.scaler)
    if "random.cpu" in tensors:
        torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and stepper.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], stepper.device)
    return about.progress


def _put_slots(saved: Mapping[str, Tensor], stepper: Stepper, where: str) -> None:
    """The optimizer's moments, each to the parameter of its name; those of another kind of optimizer start anew."""
    parameters = dict(stepper.model.named_parameters())
    numbers = {p: i for i, p in enumerate(p for group in stepper.optimizer.param_groups for p in group["params"])}
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.items():
        owner, _, name = key.rpartition(".")
        if owner not in parameters:
            raise CheckpointError(f"{where}: moments of {printable(owner, 60)!r}, which its model does not have")
        like = parameters[owner]
        if name not in SLOTS[type(stepper.optimizer)] or like not in numbers:  # it may be frozen now
            continue
        # Fused optimizers walk memory: a moment must lie in it as its (channels-last) parameter does.
        own = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        slots.setdefault(numbers[like], {})[name] = own
    whole = stepper.optimizer.state_dict()
    stepper.optimizer.load_state_dict({"state": slots, "param_groups": whole["param_groups"]})


def load_state(path: Path, stepper: Stepper) -> Progress:
    """Put a saved state back. Raises CheckpointError."""
    return put_state(read_state(path), stepper)

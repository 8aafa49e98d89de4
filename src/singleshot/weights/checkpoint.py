"""The checkpoint: one safetensors file that knows everything about itself.

Its tensors are the model's state; the metadata key "singleshot" holds its ModelInfo as JSON. Nothing in it is ever
executed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.files import atomic_write
from singleshot.model_info import KEY, ModelInfo
from singleshot.models import SSD, build
from singleshot.models.graph import build_graph
from singleshot.models.graph_spec import Graph
from singleshot.presets import MODELS

__all__ = [
    "KEY",
    "ModelInfo",
    "build_model",
    "check_state",
    "checksum_of",
    "load_checkpoint",
    "load_into",
    "read_info",
    "read_metadata",
    "read_tensors",
    "save_checkpoint",
]


def build_model(info: ModelInfo, num_classes: int | None = None) -> SSD:
    """The described model without its weights, for its own or for another number of classes. Raises ConfigError."""
    count = len(info.class_names) if num_classes is None else num_classes
    if info.graph is None:
        model = build(info.model, count, info.priors, info.input_spec)
    else:
        model = build_graph(Graph.from_dict(info.graph), count, info.priors, info.input_spec, info.model)
    model.pretrained = info.pretrained
    return model


def save_checkpoint(path: str | Path, state: Mapping[str, Tensor], info: ModelInfo, before: Path | None = None) -> None:
    """Write the file whole or not at all, also where the power fails.

    state: the model's state_dict or an average of several; before: where the file goes that is there already.
    """
    tensors = {key: value.detach().contiguous().cpu() for key, value in state.items()}
    with atomic_write(path, durable=True, before=before) as temporary:
        save_file(tensors, temporary, metadata={KEY: info.to_json()})


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """The safetensors file, open. Raises CheckpointError that names what is wrong with it."""
    path, where = Path(path), printable(path)
    if not path.exists():
        hint = (
            "; a network's name is for train --model, a file of it comes from training" if str(path) in MODELS else ""
        )
        raise CheckpointError(f"{where}: no such file{hint}")
    if path.is_dir():
        if (path / "best.safetensors").is_file():
            raise CheckpointError(f"{where}: is a folder; give {where}/best.safetensors")
        raise CheckpointError(f"{where}: is a folder; want a model file, and after it the images or the data")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        reason = printable(error, 120)
        raise CheckpointError(
            f"{where}: not a safetensors file ({reason}); want a model that singleshot wrote"
        ) from error


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file. Raises CheckpointError."""
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, without reading its tensors. Raises CheckpointError."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def read_info(path: str | Path) -> ModelInfo:
    """The checkpoint's description, without reading its tensors. Raises CheckpointError."""
    return _info(read_metadata(path), printable(path))


def _info(metadata: Mapping[str, str], where: str) -> ModelInfo:
    if KEY not in metadata:
        raise CheckpointError(f"{where}: a safetensors file, but not a model of singleshot's (it has no description)")
    return ModelInfo.from_json(metadata[KEY], where)


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> tuple[SSD, ModelInfo]:
    """The model, in eval mode, and its description. Raises CheckpointError."""
    tensors, metadata = read_tensors(path)
    where = printable(path)
    info = _info(metadata, where)
    if info.model not in MODELS and info.graph is None:
        raise CheckpointError(
            f"{where}: model {printable(info.model)!r} is not one of {', '.join(MODELS)};"
            " build it in Python and use singleshot.weights.checkpoint.load_into(model, path)"
        )
    try:
        with torch.device("meta"):
            shapes = build_model(info).state_dict()
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error
    check_state(tensors, shapes, where)
    model = build_model(info)
    model.load_state_dict(tensors)
    return model.to(device).eval(), info


def load_into(model: SSD, path: str | Path) -> ModelInfo:
    """Load a checkpoint's tensors into a model built by hand, strictly; its description. Raises CheckpointError."""
    tensors, metadata = read_tensors(path)
    info = _info(metadata, printable(path))
    check_state(tensors, model.state_dict(), printable(path))
    model.load_state_dict(tensors)
    model.pretrained = info.pretrained
    return info


def checksum_of(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """SHA-256 over a text and every tensor with its name, number format and shape."""
    digest = hashlib.sha256(about.encode())
    for key in sorted(tensors):
        value = tensors[key].detach().contiguous().cpu()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_state(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError unless both have the same names and shapes; the line names the first few that differ."""
    problems = []
    for word, names in (
        ("missing", [k for k in wanted if k not in tensors]),
        ("unexpected", [k for k in tensors if k not in wanted]),
        ("misshapen", [k for k in wanted if k in tensors and tensors[k].shape != wanted[k].shape]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{len(names)} {word}: {printable(', '.join(names[:3]))}{more}")
    if problems:
        raise CheckpointError(f"{where}: its tensors do not fit its model ({'; '.join(problems)})")

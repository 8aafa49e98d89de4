"""The checkpoint: one safetensors file that knows everything about itself.

ForeignState are the model's state; the metadata key "singleshot" holds JSON with the preset, classes, priors, input
rule, thresholds and the figures it reached. Nothing in it is ever executed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from singleshot._version import __version__
from singleshot.errors import CheckpointError, ConfigError, SingleshotError, printable
from singleshot.files import atomic_write
from singleshot.inputs import InputSpec
from singleshot.model_info import FORMAT, KEY, are_names, refuse_newer
from singleshot.models import SSD, build
from singleshot.models.graph import GraphNet, build_graph
from singleshot.models.graph_spec import Graph
from singleshot.presets import MODELS
from singleshot.priors import PriorSpec
from singleshot.thresholds import Thresholds


@dataclass(frozen=True)
class ModelInfo:
    """What a checkpoint says of itself beside its tensors."""

    model: str
    class_names: tuple[str, ...]
    priors: PriorSpec
    input_spec: InputSpec
    thresholds: Thresholds = field(default_factory=Thresholds)
    metrics: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__
    graph: Graph | None = None

    @classmethod
    def of(cls, model: SSD, class_names: tuple[str, ...], **rest: Any) -> ModelInfo:
        graph = model.backbone.graph if isinstance(model.backbone, GraphNet) else None
        return cls(model.name, tuple(class_names), model.prior_spec, model.input_spec, graph=graph, **rest)

    def build(self, num_classes: int | None = None) -> SSD:
        """The model without its weights, for its own or for another number of classes. Raises ConfigError."""
        count = len(self.class_names) if num_classes is None else num_classes
        if self.graph is None:
            return build(self.model, count, self.priors, self.input_spec)
        return build_graph(self.graph, count, self.priors, self.input_spec, self.model)

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "version": self.version,
                "model": self.model,
                "classes": list(self.class_names),
                "priors": self.priors.to_dict(),
                "input": self.input_spec.to_dict(),
                "thresholds": asdict(self.thresholds),
                "metrics": dict(self.metrics),
                "training": dict(self.training),
                **({} if self.graph is None else {"graph": self.graph.to_dict()}),
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str, where: str) -> ModelInfo:
        """Raises CheckpointError naming `where` and the field that is wrong."""
        try:
            values = json.loads(text)
            refuse_newer(values, where)
            names = values["classes"]
            if not are_names(names):
                raise CheckpointError(f"{where}: classes is not a list of names")
            return cls(
                model=str(values["model"]),
                class_names=tuple(names),
                priors=PriorSpec.from_dict(values["priors"]),
                input_spec=InputSpec.from_dict(values["input"]),
                thresholds=Thresholds(**values["thresholds"]),
                metrics=values.get("metrics", {}),
                training=values.get("training", {}),
                version=str(values["version"]),
                graph=Graph.from_dict(values["graph"]) if values.get("graph") else None,
            )
        except SingleshotError as error:
            message = str(error)
            raise CheckpointError(message if message.startswith(where) else f"{where}: {message}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = printable(f"{type(error).__name__}: {error}")
            raise CheckpointError(f"{where}: its description cannot be read ({reason})") from error


def save_checkpoint(path: str | Path, state: Mapping[str, Tensor], info: ModelInfo) -> None:
    """Write the file whole or not at all. state: the model's state_dict or an average of several."""
    tensors = {key: value.detach().contiguous().cpu() for key, value in state.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: info.to_json()})


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """The safetensors file, open; CheckpointError says what is wrong with it."""
    path, where = Path(path), printable(path)
    if not path.exists():
        raise CheckpointError(f"{where}: no such file")
    if path.is_dir():
        raise CheckpointError(f"{where}: is a folder, want a model file such as {where}/best.safetensors")
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


def read_info(path: str | Path) -> ModelInfo:
    """What the checkpoint says of itself, without reading its tensors. Raises CheckpointError."""
    with _opened(path) as file:
        metadata = dict(file.metadata() or {})
    return _info(metadata, printable(path))


def _info(metadata: Mapping[str, str], where: str) -> ModelInfo:
    if KEY not in metadata:
        raise CheckpointError(f"{where}: a safetensors file, but not a model of singleshot's (it has no description)")
    return ModelInfo.from_json(metadata[KEY], where)


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> tuple[SSD, ModelInfo]:
    """The model, in eval mode, and what the file says of it. Raises CheckpointError."""
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
            shapes = info.build().state_dict()
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error
    check_state(tensors, shapes, where)
    model = info.build()
    model.load_state_dict(tensors)
    return model.to(device).eval(), info


def load_into(model: SSD, path: str | Path) -> ModelInfo:
    """Load a checkpoint's tensors into a model built by hand, strictly. Raises CheckpointError."""
    tensors, metadata = read_tensors(path)
    info = _info(metadata, printable(path))
    check_state(tensors, model.state_dict(), printable(path))
    model.load_state_dict(tensors)
    return info


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

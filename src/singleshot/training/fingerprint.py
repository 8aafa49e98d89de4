"""What decides the bits of a training: its data, recipe, seed and versions, so that going on with others is noticed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from singleshot._version import __version__
from singleshot.datasets.dataset import Dataset
from singleshot.errors import printable
from singleshot.loading.shard_stream import ShardStream
from singleshot.tiling import NONE
from singleshot.training.data_files import DataFiles
from singleshot.training.data_summary import DataSummary, check_class_names, read_summaries
from singleshot.training.recipes import Recipe
from singleshot.training.settings import Settings

log = logging.getLogger(__name__)

_SHOWN = 6  # differences in a message
_RECIPE = "recipe "
THREADS = "threads"  # which a run that goes on takes over: sums are put together by them
PROCESSES = "processes"  # which may change: the batches stay, sums are put together otherwise


@dataclass(frozen=True)
class Fingerprint:
    """data: what each split is, by "train" and "val"; values: plain values by their names in messages; files: of each
    split, kept as tensors. Empty where a state is older than they are."""

    data: Mapping[str, DataSummary] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, DataFiles] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        train_set: Dataset | ShardStream,
        val_set: Dataset | None,
        recipe: Recipe,
        settings: Settings,
        dtype: torch.dtype,
    ) -> Fingerprint:
        """Of a training that is about to start or to go on; dtype: that its precision comes to here."""
        sets = {"train": train_set} | ({} if val_set is None else {"val": val_set})
        values = {
            "seed": settings.seed,
            "batch": settings.batch,
            "precision": str(dtype).removeprefix("torch."),
            THREADS: torch.get_num_threads() if settings.device.type == "cpu" else None,
            "split": settings.split,
            "val split": settings.val_split if val_set is not None else None,
            "tile": NONE if settings.tiling is None else settings.tiling.text,
            **_flat(recipe.to_dict()),
            **_versions(),
        }
        if settings.world is not None:
            values[PROCESSES] = settings.world.size
        return cls(
            {split: DataSummary.of(one) for split, one in sets.items()},
            values,
            {split: DataFiles.of(one, settings.skip_broken) for split, one in sets.items()},
        )

    @property
    def streamed(self) -> bool:
        """Whether the images to train on come from shards."""
        files = self.files.get("train")
        return files is not None and len(files.names) != len(files.checksums)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `tensors` has the rest."""
        return {"data": {split: one.to_dict() for split, one in self.data.items()}, "run": dict(self.values)}

    def shared(self, device: str) -> dict[str, Any]:
        """What processes that train together must have in common."""
        return {"device": device, **self.to_dict()["data"], **self.values, THREADS: None}

    def tensors(self) -> dict[str, Tensor]:
        """What a state keeps of the files."""
        return {f"files.{s}.{name}": v for s, one in self.files.items() for name, v in one.tensors().items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fingerprint:
        """Of what a state says, without its files. Raises KeyError, TypeError, ValueError or AttributeError."""
        return cls(read_summaries(values.get("data", {})), dict(values.get("run", {})))

    def differences(self, now: Fingerprint, tensors: Mapping[str, Tensor], folder: Path) -> list[str]:
        """What `now` has other than this one, whose state has those tensors, in words; `now` takes over the checksums
        of files that are the same.

        Raises ConfigError for other classes, which a run cannot change.
        """
        found = []
        if "train" in self.data:
            check_class_names(self.data["train"].class_names, now.data["train"].class_names, folder)
        for split in ("train", "val") if self.data else ():
            then, there = self.data.get(split), now.data.get(split)
            if then is None or there is None:
                if then is not there:
                    counts = [f"{one.images} images" if one is not None else "none" for one in (then, there)]
                    found.append(f"{split}: {counts[0]} then, {counts[1]} now")
                continue
            changes = then.changes(there) or self._file_changes(split, now, tensors)
            found += [f"{split}: {changes}"] if changes else []
        then_values = {**_flat(Recipe.model_validate({}).to_dict()), **self.values} if self.values else {}
        for name, value in now.values.items():
            if name in then_values and then_values[name] != value and name not in (THREADS, PROCESSES):
                found.append(f"{name}: {_shown(then_values[name])} then, {_shown(value)} now")
        return found

    def _file_changes(self, split: str, now: Fingerprint, tensors: Mapping[str, Tensor]) -> str:
        prefix = f"files.{split}."
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        then = DataFiles.from_tensors(now.files[split].names, own)
        if then is None:
            return ""
        changes = then.changes(now.files[split])
        if changes.unread and not changes.words:
            log.warning(
                "%s: %d files have another time of change, the same size, and were not read yet: their bytes cannot be"
                " compared",
                split,
                changes.unread,
            )
        return changes.words


def in_words(differences: list[str]) -> str:
    """The differences on one line."""
    more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    return "; ".join(differences[:_SHOWN]) + more


def _flat(values: Mapping[str, Any], prefix: str = _RECIPE) -> dict[str, Any]:
    """Nested plain values by their dotted keys, as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(values)).items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _versions() -> dict[str, str]:
    versions = {"singleshot": __version__, "torch": torch.__version__, "torchvision": metadata.version("torchvision")}
    versions |= {"numpy": np.__version__, "OpenCV": cv2.__version__}
    return {f"version of {name}": str(version) for name, version in versions.items()}


def _shown(value: Any) -> str:
    return "none" if value is None else printable(value, 60)

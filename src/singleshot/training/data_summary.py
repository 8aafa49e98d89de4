"""What a run was trained on, so that going on with other data is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from singleshot.datasets.dataset import Dataset
from singleshot.errors import ConfigError, printable
from singleshot.loading.shard_stream import ShardStream

_SHOWN = 20  # class names in a message
_DIGESTS = ("image names", "image sizes", "boxes or labels")


@dataclass(frozen=True)
class DataSummary:
    """One split: its class names by label, how many images and objects (None for shards, which are not read ahead) and
    digests of which they are: of the images' ids, their sizes, the boxes and labels (of the tars for shards)."""

    class_names: tuple[str, ...]
    images: int
    objects: int | None
    digest: str

    @classmethod
    def of(cls, data: Dataset | ShardStream) -> DataSummary:
        """Of an opened split. Where the folder lies plays no part: a data set may be moved."""
        if isinstance(data, ShardStream):
            tars = [f"{Path(path).name}\0{count}\0" for path, count in zip(data.paths, data.counts, strict=True)]
            return cls(data.class_names, len(data), None, _digest("".join(tars).encode("utf-8", "surrogateescape")))
        ids, objects = data.image_ids, (data.ptr, data.boxes_px, data.labels, data.difficult, data.crowd)
        digests = _digest(ids.data, ids.offsets), _digest(data.sizes), _digest(*objects)
        return cls(data.class_names, len(data), len(data.labels), " ".join(digests))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataSummary:
        """Inverse of `to_dict`. Raises KeyError, TypeError or ValueError for anything else."""
        names, objects = values["class_names"], values["objects"]
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError("its class names are not a list of names")
        return cls(
            tuple(names), int(values["images"]), None if objects is None else int(objects), str(values["digest"])
        )

    def changes(self, now: DataSummary) -> str:
        """What `now` has other than this one, in words; "" where nothing is."""
        counts = (("images", self.images, now.images), ("objects", self.objects, now.objects))
        parts = [f"{then} {what} then, {there} now" for what, then, there in counts if then != there]
        if not parts and self.digest != now.digest:
            then, there = self.digest.split(), now.digest.split()
            kinds = _DIGESTS if len(then) == len(there) == len(_DIGESTS) else ("images",)
            others = [(kind, a, b) for kind, a, b in zip(kinds, then, there, strict=False) if a != b]
            parts = [f"other {kind} (digest {a[:8]} then, {b[:8]} now)" for kind, a, b in others]
        return ", ".join(parts)


def _digest(*parts: np.ndarray | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
    return digest.hexdigest()


def check_class_names(run: Sequence[str], data: Sequence[str], folder: Path) -> None:
    """Raise ConfigError unless the data has the classes of the run in `folder`, in its order: outputs go by it."""
    if tuple(run) == tuple(data):
        return
    only_run, only_data = [n for n in run if n not in set(data)], [n for n in data if n not in set(run)]
    if len(run) <= _SHOWN and len(data) <= _SHOWN:
        said = f"the run has {_names(run)}; the data has {_names(data)}"
        said += "" if only_run or only_data else ", the same in another order"
    elif only_run or only_data:
        said = f"only the run has {_names(only_run)}; only the data has {_names(only_data)}"
    else:
        first, (ours, theirs) = next(
            (i, pair) for i, pair in enumerate(zip(run, data, strict=False)) if len(set(pair)) > 1
        )
        said = (
            f"the same in another order: class {first} is {_names([ours])} in the run, {_names([theirs])} in the data"
        )
    last = folder / "last.safetensors"
    remedy = "start a new run"
    if last.is_file():
        remedy += f" that takes over what it knows by name: --start {printable(last)} with another --out"
    raise ConfigError(f"{printable(folder)}: a run cannot change its classes: {said}; {remedy}")


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name, 40) for name in names[:_SHOWN]) + more if names else "none"


def read_summaries(values: Mapping[str, Mapping[str, Any]]) -> dict[str, DataSummary]:
    """Summaries by split from plain values. Raises KeyError, TypeError, ValueError or AttributeError for others."""
    return {str(split): DataSummary.from_dict(one) for split, one in values.items()}

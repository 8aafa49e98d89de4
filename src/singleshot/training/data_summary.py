"""What a run was trained on, so that going on with other data is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from singleshot.datasets.dataset import Dataset
from singleshot.errors import ConfigError, printable
from singleshot.loading.shard_stream import ShardStream

_SHOWN = 20  # class names in a message


@dataclass(frozen=True)
class DataSummary:
    """One split: its class names by label, how many images and objects (None for shards, which are not read ahead) and
    a digest of which they are (of the tars for shards)."""

    class_names: tuple[str, ...]
    images: int
    objects: int | None
    digest: str

    @classmethod
    def of(cls, data: Dataset | ShardStream) -> DataSummary:
        """Of an opened split. Where the folder lies plays no part: a data set may be moved."""
        digest = hashlib.sha256()
        if isinstance(data, ShardStream):
            for path, count in zip(data.paths, data.counts, strict=True):
                digest.update(f"{Path(path).name}\0{count}\0".encode("utf-8", "surrogateescape"))
            return cls(data.class_names, len(data), None, digest.hexdigest())
        ids = data.image_ids
        for array in (ids.data, ids.offsets, data.ptr, data.boxes_px, data.labels, data.difficult, data.crowd):
            digest.update(array.tobytes())
        return cls(data.class_names, len(data), len(data.labels), digest.hexdigest())

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
        parts = [f"{there} {what} now, {then} then" for what, then, there in counts if then != there]
        if not parts and self.digest != now.digest:
            parts = ["as many images and objects, but not the same ones"]
        return ", ".join(parts)


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

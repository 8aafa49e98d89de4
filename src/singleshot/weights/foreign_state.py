"""The arrays of a foreign checkpoint by name, and an account of which of them were used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from singleshot.errors import CheckpointError, printable

MAX_NAMES = 100_000


class ForeignState(Mapping[str, Tensor]):
    """name -> float32 tensor (whole numbers stay int64). `take` is how importers read, so that nothing is forgotten:
    `finish` raises CheckpointError when something was missing, or is left over.

    where: what messages call the file; kind: "pytorch", "keras", "tensorflow", "caffe", "graphdef", "tflite",
    "openvino" or "onnx", or "" for a dict that was given; structure: the network, of those formats that describe one;
    groups: the names of Keras' layers, those without weights too; given_size, given_priors: side of the input and
    default boxes that the user says, None for the source's own.
    """

    def __init__(self, values: Mapping[str, Any], where: str, kind: str = "", structure: Any = None) -> None:
        if len(values) > MAX_NAMES:
            raise CheckpointError(f"{where}: {len(values)} names (at most {MAX_NAMES} are read)")
        self.where, self.kind, self.structure = where, kind, structure
        self.groups: tuple[str, ...] = ()
        self._values = dict(values)
        self._taken: set[str] = set()
        self._missing: list[str] = []
        self._misshapen: list[str] = []
        self.given_size: int | None = None
        self.given_priors: str | None = None

    def __getitem__(self, key: str) -> Tensor:
        return self._tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def shape(self, key: str) -> tuple[int, ...]:
        """Without converting it; () where there is no such name, which counts as missing."""
        if key not in self._values:
            self._missing.append(key)
            return ()
        return tuple(self._values[key].shape)

    def without_prefix(self, prefix: str) -> ForeignState:
        """The same with that prefix taken off the names that have it."""
        return self.renamed(lambda key: key.removeprefix(prefix))

    def renamed(self, rule: Callable[[str], str]) -> ForeignState:
        """The same under the names that the rule makes of its own."""
        values = {rule(key): value for key, value in self._values.items()}
        same = ForeignState(values, self.where, self.kind, self.structure)
        same.given_size, same.given_priors = self.given_size, self.given_priors
        return same

    def take_size(self, usual: int) -> int:
        """Side of the input, for importers whose layers depend on it: what the user says, else the usual one."""
        return usual if self.given_size is None else self.given_size

    @property
    def fitting(self) -> float:
        """Share of the names that `take` found, of the right shape, in all that were asked for or are there."""
        wrong = {text.partition(" is ")[0] for text in self._misshapen}
        every = {*self._values, *self._missing}
        return len(self._taken - wrong) / len(every) if every else 0.0

    def _tensor(self, key: str) -> Tensor:
        value = self._values[key]
        if not isinstance(value, Tensor):
            value = torch.from_numpy(np.array(value, order="C"))  # a copy: files may be mapped read-only
        if value.is_quantized:
            value = value.dequantize()
        return value.float() if value.is_floating_point() else value

    def take(self, key: str, *shape: int | None) -> Tensor:
        """The tensor; zeros where it is missing or has another shape (None: any size), which `finish` will say."""
        wanted = tuple(1 if n is None else n for n in shape)
        if key not in self._values:
            self._missing.append(key)
            return torch.zeros(wanted)
        self._taken.add(key)
        value = self._tensor(key)
        fits = len(value.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, value.shape, strict=True))
        if shape and not fits:
            want = "x".join("any" if n is None else str(n) for n in shape)
            self._misshapen.append(f"{key} is {'x'.join(map(str, value.shape))}, want {want}")
            return torch.zeros(wanted)
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{self.where}: {printable(key, 80)} holds NaN or infinity; the file is damaged")
        return value

    def ignore(self, *keys: str) -> None:
        """Names that are known and not needed (counters, priors, optimizer state)."""
        self._taken.update(key for key in keys if key in self._values)

    def missing(self, key: str) -> None:
        """Note something that should be there."""
        self._missing.append(key)

    def finish(self, layout: str) -> None:
        """Raise CheckpointError unless everything was there and everything was used. layout: what it was taken for."""
        left = [key for key in self._values if key not in self._taken]
        problems = [
            f"{len(names)} {word}: {printable(', '.join(names[:3]), 160)}" + (" ..." if len(names) > 3 else "")
            for word, names in (("missing", self._missing), ("misshapen", self._misshapen), ("unexpected", left))
            if names
        ]
        if problems:
            raise CheckpointError(f"{self.where}: looks like {layout}, but does not fit ({'; '.join(problems)})")

"""What training code wraps around a state dict: taken off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from singleshot.errors import CheckpointError, printable

# In the order of preference: where a file holds a model and its running average, the model is what is asked for.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "net_state_dict",
    "model_state",
    "weights",
    "weight",
    "params",
    "state",
    "module",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema",
)
MAX_VALUES = 2**30  # in all tensors together: 4 GB as float32
_DEPTH, _PLAIN_DEPTH, _PLAIN_ITEMS = 3, 6, 20_000


def unwrap(values: Mapping[Any, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(name -> tensor or array, plain values that stand with them).

    Up to three wrappers are opened, "module." (DataParallel) and "_orig_mod." (torch.compile) removed, all that is no
    array left out. The second dict has "meta" always: mmdet keeps class names in it. Raises CheckpointError.
    """
    plain: dict[str, Any] = {"meta": {}}
    for _ in range(_DEPTH):
        inner = next((key for key in WRAPPERS if isinstance(values.get(key), Mapping)), None)
        if inner is None:
            break
        plain |= _plain_entries(values)
        values = values[inner]
    plain |= _plain_entries(values)
    arrays = {key: value for key, value in values.items() if isinstance(key, str) and _is_array(value)}
    if not arrays:
        names = printable(", ".join(map(str, list(values)[:3])), 80)
        raise CheckpointError(f"{where}: holds no tensors by name (it has {names or 'nothing'})")
    for key, value in arrays.items():
        _check(value, f"{where}: {printable(key, 80)}")
    if sum(_count(value) for value in arrays.values()) > MAX_VALUES:
        raise CheckpointError(f"{where}: more than {MAX_VALUES} values (the most that is read)")
    return _short_names(arrays), plain


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray, np.number))


def _count(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else int(value.size)


def _check(value: Any, what: str) -> None:
    if not isinstance(value, Tensor):
        if value.dtype.kind not in "biuf":
            raise CheckpointError(f"{what} holds {value.dtype.name}, want numbers")
        return
    if value.layout is not torch.strided or value.device.type == "meta" or value.is_complex() or value.is_nested:
        raise CheckpointError(f"{what} is no plain tensor of numbers ({printable(value.dtype)}, {value.layout})")
    # A few bytes repeated without end by strides of 0.
    if value.numel() > 2**20 and value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise CheckpointError(f"{what} is larger than what is stored of it; the file is damaged")


def _short_names(arrays: dict[str, Any]) -> dict[str, Any]:
    arrays = {key.replace("_orig_mod.", ""): _detached(value) for key, value in arrays.items()}
    # torch.optim.swa_utils.AveragedModel has a counter next to the "module." that it averages.
    while all(key.startswith("module.") or key == "n_averaged" for key in arrays):
        if set(arrays) == {"n_averaged"}:
            break
        arrays = {key.removeprefix("module."): value for key, value in arrays.items() if key != "n_averaged"}
    return arrays


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _plain_entries(values: Mapping[Any, Any]) -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        if isinstance(key, str) and not _is_array(value) and key not in WRAPPERS and _is_plain(value):
            found[key] = value
    return found


def _is_plain(value: Any) -> bool:
    """Whether it is made of text, numbers, lists and dicts alone, and not too many of them."""
    layer, items = [value], 0
    for _ in range(_PLAIN_DEPTH):
        inner: list[Any] = []
        for item in layer:
            if isinstance(item, Mapping):
                inner += [*item.keys(), *item.values()]
            elif isinstance(item, (list, tuple, set)):
                inner += item
            elif not (item is None or isinstance(item, (str, int, float, bool))):
                return False
            if len(inner) > _PLAIN_ITEMS:
                return False
        items += len(layer)
        if items > _PLAIN_ITEMS:
            return False
        if not inner:
            return True
        layer = inner
    return False

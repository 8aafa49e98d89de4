"""A detector's confidence outputs taken over for other classes: rows go by the name of their class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from singleshot.errors import printable
from singleshot.model_info import ModelInfo
from singleshot.weights.checkpoint import build_model
from singleshot.weights.class_names import plain_name

# How probable a new class starts, as a part of what the background was there.
NEW_PRIOR = 0.01


class ClassMatch(NamedTuple):
    """How the classes of a checkpoint meet those of a data set, by name.

    pairs: (old label, new label) of each class that both have; kept, new, left_out: names, in the new order, the last
    in the old; renamed: new name -> old name, where they are not the same letter by letter.
    """

    pairs: tuple[tuple[int, int], ...]
    kept: tuple[str, ...]
    new: tuple[str, ...]
    left_out: tuple[str, ...]
    renamed: Mapping[str, str] = MappingProxyType({})


def match_classes(
    old: Sequence[str], new: Sequence[str], members: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> ClassMatch:
    """Classes of the same name, whatever their positions; of a name that comes twice the first counts.

    A class that has no other of exactly its name meets one that differs in letter case, spaces, "-" and "_" alone, or
    by what VOC and COCO call the same objects, where there is one such class on both sides. members: what new classes
    that are renamed or joined are called in the data; one that has met no other meets the first of these that is free.
    """
    labels = {name: label for label, name in reversed(list(enumerate(old)))}
    free_old = _single_by_plain_name(name for name in labels if name not in set(new))
    free_new = _single_by_plain_name(name for name in dict.fromkeys(new) if name not in labels)
    renamed = {name: free_old[plain] for plain, name in free_new.items() if plain in free_old}
    found = {name: name for name in new if name in labels} | renamed
    for name in (one for one in members if one in new and one not in found):
        free = [member for member in members[name] if member in labels and member not in found.values()]
        if free:
            found[name] = renamed[name] = free[0]
    return ClassMatch(
        tuple((labels[found[name]], label) for label, name in enumerate(new) if name in found),
        tuple(name for name in new if name in found),
        tuple(name for name in new if name not in found),
        tuple(name for name in old if name not in set(found.values())),
        renamed,
    )


def _single_by_plain_name(names: Iterable[str]) -> dict[str, str]:
    """plain name -> name, of those that share it with no other."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(plain_name(name), []).append(name)
    return {plain: group[0] for plain, group in groups.items() if len(group) == 1}


def describe_match(match: ClassMatch) -> str:
    """ "kept a, b; new: c; left out: d", with a few names of each kind."""
    kept = [f"{name} (its {match.renamed[name]})" if name in match.renamed else name for name in match.kept]
    parts = [f"kept {_few(kept)}", f"new: {_few(match.new)}"]
    return "; ".join([*parts, f"left out: {_few(match.left_out)}"] if match.left_out else parts)


def _few(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(printable(name, 40) for name in names[:most]) + more if names else "none"


def boxes_by_class_tensor(info: ModelInfo) -> dict[str, int]:
    """The tensors that depend on the number of classes, and how many boxes each predicts for: its first axis has
    boxes * (classes + 1) rows, box after box, the background first (see `models.heads.Head`)."""
    count = len(info.class_names)
    with torch.device("meta"):
        own = build_model(info, count).state_dict()
        other = build_model(info, count - 1 if count > 1 else count + 1).state_dict()
    return {key: abs(len(v) - len(other[key])) for key, v in own.items() if v.shape != other[key].shape}


def take_over(
    old: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    boxes: Mapping[str, int],
    match: ClassMatch,
    activation: str = "softmax",
    new_from_background: bool = True,
) -> dict[str, Tensor]:
    """The state of a network for other classes.

    Args:
        old: State of the network that is started from.
        fresh: State of a new one for the classes that are wanted.
        boxes: What `boxes_by_class_tensor` gave of the old one.
        match: Its classes against those wanted.
        activation: What the old network's scores are made by. A sigmoid looks at each class alone; for the softmax of
            the new one the background's output becomes 0, which gives e^x / (1 + e^x + ...): the same score wherever
            one class stands out.
        new_from_background: Whether rows of a new class start from the background's: not in a network of sigmoids.

    Returns:
        What does not depend on the classes from `old`; of what does, the rows of the background and of each class
        that is kept from `old`. Rows of a new class are the background's, by a softmax NEW_PRIOR as probable: so
        Cermelli et al. (CVPR 2020, section 3.3) start classes that were background before, there in equal parts; the
        low prior (focal loss, Lin et al. 2017, section 4.1) leaves the scores of those that are kept as they are.
        Otherwise, and where no class is kept, they are those of `fresh`, and in the latter case the background's too,
        which was learned against others.
    """
    pairs = [(0, 0), *((a + 1, b + 1) for a, b in match.pairs)] if match.pairs else []
    columns_old, columns_new = [a for a, _ in pairs], [b for _, b in pairs]
    state = {}
    for key, value in fresh.items():
        if key not in boxes:
            state[key] = old[key]
            continue
        by_box = value.clone().reshape(boxes[key], -1, *value.shape[1:])
        by_box[:, columns_new] = old[key].reshape(boxes[key], -1, *value.shape[1:])[:, columns_old].to(by_box)
        if pairs and activation == "sigmoid":
            by_box[:, 0] = 0
        if pairs and new_from_background and key.rpartition(".")[0] + ".bias" in boxes:
            prior = math.log(NEW_PRIOR) if value.dim() == 1 else 0.0
            for row in set(range(1, by_box.shape[1])) - set(columns_new):
                by_box[:, row] = by_box[:, 0] + prior
        state[key] = by_box.flatten(0, 1)
    return state

"""Checkpoints of other projects: recognised from the file, converted, checked.

An importer knows one layout: a few names that tell it (`signature`), and how to make a model of its tensors. The file
formats are in `readers`, the layouts in `importers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.models import SSD
from singleshot.thresholds import Thresholds
from singleshot.weights.tensors import Tensors


class Foreign(NamedTuple):
    """An imported model. source: what it was, in words; class_names: None where neither the file nor habit tells;
    notes: what a user should know of the conversion."""

    model: SSD
    source: str
    class_names: tuple[str, ...] | None
    thresholds: Thresholds
    notes: tuple[str, ...] = ()


class Importer(NamedTuple):
    """name: as `--source` takes it; about: for people; signature: names of tensors that are there in every such
    checkpoint and, together, in no other; convert: raises CheckpointError; kind: of the file (see Tensors), "" for
    any that holds tensors by name; matches: for formats that describe their network, in place of the signature."""

    name: str
    about: str
    signature: tuple[str, ...]
    convert: Callable[[Tensors], Foreign]
    kind: str = ""
    matches: Callable[[Tensors], bool] | None = None

    def fits(self, tensors: Tensors) -> float:
        """Share of the signature that is there, 0 for a file of another kind; 1 for a match."""
        if self.kind and tensors.kind and self.kind != tensors.kind:
            return 0.0
        if self.matches is not None:
            return float(self.matches(tensors))
        return sum(name in tensors for name in self.signature) / len(self.signature)


def importers() -> Sequence[Importer]:
    """All of them; of two that match, the one with the longer signature is taken."""
    from singleshot.weights.importers import IMPORTERS

    return IMPORTERS


def import_checkpoint(
    path_or_state_dict: str | Path | Mapping[str, Any], source: str = "auto", num_classes: int | None = None
) -> SSD:
    """A model of ours from another project's checkpoint: a file, or a dict of name -> tensor or array.

    source: "auto", or the name of an importer; num_classes: real classes, checked when given. The model is in eval
    mode, takes RGB 0..255 and holds its own priors and normalisation, as every model here. Raises CheckpointError
    or ConfigError with one line that says what was found and what is missing.
    """
    return import_foreign(path_or_state_dict, source, num_classes).model


def import_foreign(
    path_or_state_dict: str | Path | Mapping[str, Any],
    source: str = "auto",
    num_classes: int | None = None,
    beside: str | Path | None = None,
) -> Foreign:
    """As `import_checkpoint`, with what else the file says. beside: Caffe's prototxt, where it is not found by name."""
    if isinstance(path_or_state_dict, Mapping):
        from singleshot.weights.readers.wrappers import unwrap

        values, structure = unwrap(path_or_state_dict, "state dict")
        tensors = Tensors(values, "state dict", structure=structure)
    else:
        from singleshot.weights.readers.any_file import read_foreign

        tensors = read_foreign(path_or_state_dict, beside)
    importer = _pick(tensors, source)
    try:
        foreign = importer.convert(tensors)
    except ConfigError as error:  # layers, heads and priors that do not fit together
        raise CheckpointError(f"{tensors.where}: looks like {importer.about}, but does not fit ({error})") from error
    if num_classes is not None and foreign.model.num_classes != num_classes:
        raise CheckpointError(
            f"{tensors.where}: {foreign.source} with {foreign.model.num_classes} classes, not {num_classes}"
        )
    return foreign


def _pick(tensors: Tensors, source: str) -> Importer:
    known = importers()
    if source != "auto":
        named = [i for i in known if i.name == source] or [i for i in known if i.name.startswith(f"{source}-")]
        if named:  # "torchvision" for whichever of torchvision's fits best
            return max(named, key=lambda i: i.fits(tensors))
        raise ConfigError(f"source {printable(source, 60)!r}: want auto or one of {', '.join(i.name for i in known)}")
    fits = [(importer.fits(tensors), len(importer.signature), importer) for importer in known]
    best, _, importer = max(fits, key=lambda row: row[:2])
    if best == 1.0:
        return importer
    names = printable(", ".join(list(tensors)[:3]), 120)
    if best == 0.0 or not importer.signature:
        raise CheckpointError(
            f"{tensors.where}: no layout that is known (it holds {len(tensors)} tensors: {names} ...)"
        )
    missing = [name for name in importer.signature if name not in tensors]
    raise CheckpointError(
        f"{tensors.where}: no layout that is known; nearest is {importer.name} ({importer.about}), but"
        f" {printable(', '.join(missing[:3]), 120)} {'is' if len(missing) == 1 else 'are'} missing"
        f" (it holds {len(tensors)} tensors: {names} ...)"
    )


def classes_of(columns: int, where: str, label_shift: int = 1) -> int:
    """Real classes of a confidence output with so many columns, background (label_shift) left out."""
    if columns - label_shift < 1:
        raise CheckpointError(
            f"{where}: confidence outputs of {columns} columns: want background and one class at least"
        )
    return columns - label_shift

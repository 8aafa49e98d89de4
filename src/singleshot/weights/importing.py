"""Checkpoints of other projects: recognised from the file, converted, checked.

The file formats are in `readers`, the layouts in `importers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.models import SSD
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers import IMPORTERS


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
    companion: str | Path | None = None,
) -> ImportedModel:
    """As `import_checkpoint`, with what else the file says.

    companion: Caffe's prototxt, OpenVINO's .bin or a label map, where it is not found by name. Raises as
    `import_checkpoint`.
    """
    if isinstance(path_or_state_dict, Mapping):
        from singleshot.weights.readers.wrappers import unwrap

        values, structure = unwrap(path_or_state_dict, "state dict")
        tensors = ForeignState(values, "state dict", structure=structure)
    else:
        from singleshot.weights.readers.sniff import read_foreign

        tensors = read_foreign(path_or_state_dict, companion)
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


def _pick(tensors: ForeignState, source: str) -> Importer:
    known = IMPORTERS
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

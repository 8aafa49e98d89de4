"""Checkpoints of other projects: recognised from the file, converted, checked.

The file formats are in `readers`, the layouts in `importers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.models import SSD
from singleshot.pretrained import PretrainedWeights
from singleshot.weights.class_lists import read_class_list, with_found_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.import_settings import ImportSettings, Numbers, apply_settings
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers import IMPORTERS
from singleshot.weights.other_layouts import other_layout
from singleshot.weights.readers.tf_companions import Companions

# Kinds of files that hold weights and no network.
_WEIGHTS_ALONE = ("", "pytorch", "keras", "tensorflow")
# Those next to which the only companion that there may be is a class list.
_LIST_ALONE = (*_WEIGHTS_ALONE, "tflite")
_MAX_PREFIXES = 50  # tried
# From which a layout is worth naming: the share of its signature that is there, or of all names that it has a use for.
_NEAR_SIGNATURE, _NEAR_NAMES = 0.8, 0.5


def import_checkpoint(
    path_or_state_dict: str | Path | Mapping[str, Any],
    source: str = "auto",
    num_classes: int | None = None,
    *,
    size: int | None = None,
    priors: str | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    colour_order: str | None = None,
) -> SSD:
    """A model of ours from another project's checkpoint: a file, or a dict of name -> tensor or array.

    The model is in eval mode, takes RGB 0..255 and holds its own priors and normalisation, as every model here.

    Args:
        path_or_state_dict: The checkpoint.
        source: "auto", or the name of an importer.
        num_classes: Real classes, checked when given.
        size: Side of the input in pixels, where the file does not say; None for the source's own.
        priors: Its default boxes, likewise: a table's name, or a JSON file of one.
        mean: Of values 0..255, in place of the source's: one number, or R, G, B.
        std: Likewise.
        colour_order: What the network's first layer takes, in place of the source's: "rgb" or "bgr".

    Raises:
        CheckpointError: With one line that says what was found and what is missing.
        ConfigError: An option is wrong, or the file itself says what it would.
    """
    settings = ImportSettings(size, priors, mean, std, colour_order)
    return import_foreign(path_or_state_dict, source, num_classes, settings=settings).model


def import_foreign(
    path_or_state_dict: str | Path | Mapping[str, Any],
    source: str = "auto",
    num_classes: int | None = None,
    companion: str | Path | None = None,
    settings: ImportSettings | None = None,
) -> ImportedModel:
    """As `import_checkpoint`, with what else the file and the class list next to it say.

    companion: Caffe's prototxt, OpenVINO's .bin or a label map, where it is not found by name. Raises as
    `import_checkpoint`.
    """
    settings = settings or ImportSettings()
    settings.check()
    if isinstance(path_or_state_dict, Mapping):
        from singleshot.weights.readers.wrappers import unwrap

        values, structure = unwrap(path_or_state_dict, "state dict")
        tensors = ForeignState(values, "state dict", structure=structure)
    else:
        from singleshot.weights.readers.sniff import read_foreign

        tensors = read_foreign(path_or_state_dict, companion)
    importer, tensors, prefix = _pick(tensors, source)
    tensors.given_size, tensors.given_priors = settings.size, settings.priors
    try:
        foreign = importer.convert(tensors)
    except ConfigError as error:  # layers, heads and priors that do not fit together
        raise CheckpointError(f"{tensors.where}: looks like {importer.about}, but does not fit ({error})") from error
    if num_classes is not None and foreign.model.num_classes != num_classes:
        raise CheckpointError(
            f"{tensors.where}: {foreign.source} with {foreign.model.num_classes} classes, not {num_classes}"
        )
    named = "a state dict" if isinstance(path_or_state_dict, Mapping) else Path(path_or_state_dict).name
    pretrained = foreign.model.pretrained or PretrainedWeights(foreign.source, named)
    foreign = apply_settings(foreign, settings, tensors.kind not in _WEIGHTS_ALONE)
    foreign.model.pretrained = pretrained
    if prefix:
        foreign = foreign._replace(notes=(*foreign.notes, f"prefix {prefix} of its names left out"))
    if companion is not None and tensors.kind in _LIST_ALONE and not isinstance(tensors.structure, Companions):
        names = read_class_list(companion, foreign.model.num_classes, "--beside")
        return foreign._replace(class_names=names, names_given=True)
    given = isinstance(tensors.structure, Companions) and tensors.structure.given
    if isinstance(path_or_state_dict, Mapping) or given:
        return foreign._replace(names_given=given)
    return with_found_names(foreign, Path(path_or_state_dict))


def _pick(tensors: ForeignState, source: str) -> tuple[Importer, ForeignState, str]:
    """The importer, the tensors by the names that it knows, and the prefix that was taken off them."""
    known = _candidates(source)
    best = max(known, key=lambda i: (i.fits(tensors), len(i.signature)))
    if best.fits(tensors) == 1.0:
        return best, tensors, ""
    for prefix in _prefixes(tensors, known):
        shorter = tensors.without_prefix(prefix)
        found = [i for i in known if i.fits(shorter) == 1.0 and len(shorter) == len(tensors)]
        if found:
            return max(found, key=lambda i: len(i.signature)), shorter, prefix
    if source != "auto":
        return best, tensors, ""
    raise _unknown(tensors, best)


def _candidates(source: str) -> Sequence[Importer]:
    """All importers, or those of that name. Raises ConfigError."""
    known = IMPORTERS
    if source == "auto":
        return known
    # "torchvision" for whichever of torchvision's fits best
    named = [i for i in known if i.name == source] or [i for i in known if i.name.startswith(f"{source}-")]
    if named:
        return named
    raise ConfigError(f"source {printable(source, 60)!r}: want auto or one of {', '.join(i.name for i in known)}")


def _prefixes(tensors: ForeignState, known: Sequence[Importer]) -> list[str]:
    """What names may begin with before those that an importer knows, shortest first: model., net.module., ..."""
    one = next(iter(tensors), "")
    starts = {one[: i + 1] for i, character in enumerate(one) if character in "./"}
    found = {start for start in starts if all(name.startswith(start) for name in tensors)}
    for first in {importer.signature[0] for importer in known if importer.signature}:
        ends = tuple(f"{separator}{first}" for separator in "./")
        found |= {name.removesuffix(first) for name in tensors if name.endswith(ends)}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))[:_MAX_PREFIXES]


def _unknown(tensors: ForeignState, nearest: Importer) -> CheckpointError:
    """For names that no importer knows; the nearest layout only where it is near."""
    names = printable(", ".join(list(tensors)[:3]), 120)
    holds = f"it holds {len(tensors)} tensors: {names} ..."
    missing = [name for name in nearest.signature if name not in tensors]
    fits = nearest.fits(tensors)
    if other := other_layout(name.removeprefix("module.") for name in tensors):
        return CheckpointError(f"{tensors.where}: {other}")
    near = fits >= _NEAR_SIGNATURE or (fits > 0 and _explained(tensors, nearest) >= _NEAR_NAMES)
    if not near or not missing:
        own = "" if tensors.kind == "caffe" else "; an SSD that is not among them is read when it is exported to ONNX"
        return CheckpointError(
            f"{tensors.where}: no layout that is known ({holds}; known: singleshot import --list{own})"
        )
    return CheckpointError(
        f"{tensors.where}: no layout that is known; nearest is {nearest.name} ({nearest.about}), but"
        f" {printable(', '.join(missing[:3]), 120)} {'is' if len(missing) == 1 else 'are'} missing ({holds})"
    )


def _explained(tensors: ForeignState, importer: Importer) -> float:
    """Share of the tensors, by name and shape, that the layout has a use for."""
    copy = tensors.without_prefix("")
    try:
        importer.convert(copy)
    except Exception:  # a network of zeros for what is missing need not fit together
        return copy.fitting
    return copy.fitting

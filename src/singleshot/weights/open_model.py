"""Opening a model, ours or another project's, for whoever only wants to use it."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from singleshot.errors import printable
from singleshot.model_info import KEY, ModelInfo
from singleshot.models import SSD
from singleshot.weights.checkpoint import load_checkpoint
from singleshot.weights.class_names import coco_ids, numbered_names
from singleshot.weights.imported_model import ImportedModel
from singleshot.weights.importing import import_foreign

log = logging.getLogger(__name__)


def open_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[SSD, ModelInfo]:
    """The model, in eval mode, and its description; another project's checkpoint is converted on the way.

    Raises CheckpointError or ConfigError.
    """
    if is_ours(path):
        return load_checkpoint(path, device)
    imported = import_foreign(path)
    names, known = names_of(imported)
    log.info("%s: %s, converted; `singleshot import` writes it down", printable(path), imported.source)
    if imported.names_note:
        log.info("%s: %s", printable(path), imported.names_note)
    if not known:
        log.warning("%s: does not name its classes; `singleshot import --classes` does", printable(path))
    return imported.model.to(device), info_of(imported, names)


def is_ours(path: str | Path) -> bool:
    """Whether it is a checkpoint that singleshot wrote, or nothing that can be read at all."""
    path = Path(path)
    if not path.is_file():
        return not _is_prefix(path)
    try:
        with safe_open(path, framework="pt") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return path.suffix == ".safetensors"


def _is_prefix(path: Path) -> bool:
    """TensorFlow calls a checkpoint by what its files' names have in common."""
    return bool(path.name) and path.with_name(path.name + ".index").is_file()


def names_of(imported: ImportedModel) -> tuple[tuple[str, ...], bool]:
    """Class names, numbered where nobody knows them, and whether they are known."""
    if imported.class_names is not None:
        return imported.class_names, True
    return numbered_names(imported.model.num_classes), False


def info_of(imported: ImportedModel, class_names: tuple[str, ...]) -> ModelInfo:
    """The description of an imported model for our checkpoint."""
    training = {"imported": imported.source, "notes": list(imported.notes)}
    ids = coco_ids(class_names)
    return ModelInfo.of(imported.model, class_names, imported.thresholds, training=training, category_ids=ids)

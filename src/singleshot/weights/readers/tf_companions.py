"""What lies with a model of TensorFlow's Object Detection API and says more of it: pipeline.config, a label map."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from singleshot.errors import CheckpointError, printable
from singleshot.weights.readers.graphdef import GraphDef
from singleshot.weights.readers.protobuf import parse_text
from singleshot.weights.readers.reading import read_bytes

MAX_BYTES = 2**20
_MAX_FILES = 32  # looked into for a label map


class Companions(NamedTuple):
    """What lies with a model's file and describes it; each None where there is none.

    Attributes:
        graph: the file itself, where it is one.
        config: a TrainEvalPipelineConfig, with the API's defaults.
        labels: number of a class (from 1) -> its name.
        given: whether the user named the label map.
        label_file: its name, "" where there is none.
    """

    graph: GraphDef | None = None
    config: Any = None
    labels: dict[int, str] | None = None
    given: bool = False
    label_file: str = ""


def find_companions(path: Path, companion: str | Path | None, graph: GraphDef | None = None) -> Companions:
    """path: of the model; companion: a label map or a pipeline.config that the user names.

    Otherwise pipeline.config in the model's folder, and the label map there if there is just one. Raises
    CheckpointError for a file that cannot be read, or is neither.
    """
    found = Companions(graph)
    if companion is not None:
        text = _text(Path(companion))
        if _is_config(text):
            found = found._replace(config=_parse_config(Path(companion), text))
        elif is_label_map(text):
            labels = parse_labels(Path(companion), text)
            found = found._replace(labels=labels, given=True, label_file=Path(companion).name)
        else:
            raise CheckpointError(
                f"{printable(companion)}: neither a label map (item {{ id: 1 ... }}) nor a pipeline.config;"
                " a plain list of names goes to --classes"
            )
    folder = path.parent
    if (
        folder.resolve().name == "checkpoint" and not (folder / "pipeline.config").is_file()
    ):  # as TensorFlow 2's models are packed
        folder = folder.resolve().parent
    config = folder / "pipeline.config"
    if found.config is None and config.is_file():
        found = found._replace(config=_parse_config(config, _text(config)))
    if found.labels is None:
        maps = [(file, text) for file in _candidates(folder) if is_label_map(text := _text(file))]
        if len(maps) == 1:
            found = found._replace(labels=parse_labels(*maps[0]), label_file=maps[0][0].name)
    return found


def companions_of_variables(names: Iterable[str], path: Path, companion: str | Path | None) -> Companions | None:
    """The same for a checkpoint, when its names are this API's; None for those of other projects."""
    starts = ("FeatureExtractor/", "model/_feature_extractor/")
    return find_companions(path, companion) if any(name.startswith(starts) for name in names) else None


def _candidates(folder: Path) -> list[Path]:
    """Small .pbtxt files; graphs in text form end so as well, and are larger."""
    try:
        files = sorted(folder.glob("*.pbtxt"))[:_MAX_FILES]
        return [file for file in files if file.is_file() and file.stat().st_size <= MAX_BYTES]
    except OSError:
        return []


def _text(path: Path) -> str:
    return read_bytes(path, printable(path), MAX_BYTES).decode("utf-8-sig", errors="replace")


def is_label_map(text: str) -> bool:
    """Whether a text is a label map of the Object Detection API (.pbtxt)."""
    return re.search(r"^\s*item\s*:?\s*[{<]", text, re.MULTILINE) is not None


def _is_config(text: str) -> bool:
    return re.search(r"^\s*model\s*:?\s*[{<]", text, re.MULTILINE) is not None


def _parse_config(path: Path, text: str) -> Any:
    return parse_text("object_detection.TrainEvalPipelineConfig", text, printable(path))


def parse_labels(path: Path, text: str) -> dict[int, str]:
    """protos/string_int_label_map.proto: the name for people, else the other one."""
    labels: dict[int, str] = {}
    for item in parse_text("object_detection.StringIntLabelMap", text, printable(path)).item:
        if item.id in labels:
            raise CheckpointError(f"{printable(path)}: two items with id {item.id}")
        labels[item.id] = item.display_name or item.name
    return labels

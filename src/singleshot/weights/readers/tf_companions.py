"""What lies beside a model of TensorFlow's Object Detection API and says more of it: pipeline.config, a label map."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from singleshot.errors import CheckpointError, printable
from singleshot.weights.readers.graphdef import GraphDef
from singleshot.weights.readers.protobuf import messages, parse_text

MAX_BYTES = 2**20
_MAX_FILES = 32  # looked into for a label map

# object_detection/protos/*.proto with their defaults; the text form has no use for the numbers.
_RAW: dict[str, Sequence[tuple[Any, ...]] | dict[str, int]] = {
    "Activation": {"NONE": 0, "RELU": 1, "RELU_6": 2, "SWISH": 3},
    "ScoreConverter": {"IDENTITY": 0, "SIGMOID": 1, "SOFTMAX": 2},
    "BatchNorm": (("epsilon", "float", 0.001),),
    "Hyperparams": (("activation", "Activation", "RELU"), ("batch_norm", "BatchNorm")),
    "FixedShape": (("height", "int32", 300), ("width", "int32", 300)),
    "KeepAspect": (("min_dimension", "int32", 600),),
    "Resizer": (("keep_aspect_ratio_resizer", "KeepAspect"), ("fixed_shape_resizer", "FixedShape")),
    "BoxCoder": (("y_scale", "float", 10), ("x_scale", "float", 10), ("height_scale", "float", 5),
                 ("width_scale", "float", 5)),
    "AnyBoxCoder": (("faster_rcnn_box_coder", "BoxCoder"),),
    "SsdAnchors": (
        ("num_layers", "int32", 6), ("min_scale", "float", 0.2), ("max_scale", "float", 0.95),
        ("scales", "float", ...), ("aspect_ratios", "float", ...), ("interpolated_scale_aspect_ratio", "float", 1),
        ("reduce_boxes_in_lowest_layer", "bool", True), ("base_anchor_height", "float", 1),
        ("base_anchor_width", "float", 1), ("height_stride", "int32", ...), ("width_stride", "int32", ...),
        ("height_offset", "int32", ...), ("width_offset", "int32", ...),
    ),
    "Multiscale": (("min_level", "int32", 3),),
    "Anchors": (("ssd_anchor_generator", "SsdAnchors"), ("multiscale_anchor_generator", "Multiscale")),
    "ConvPredictor": (("conv_hyperparams", "Hyperparams"), ("kernel_size", "int32", 1)),
    "Predictor": (("convolutional_box_predictor", "ConvPredictor"),),
    "Extractor": (
        ("type", "string"), ("conv_hyperparams", "Hyperparams"), ("pad_to_multiple", "int32", 1),
        ("use_explicit_padding", "bool", False), ("override_base_feature_extractor_hyperparams", "bool", False),
    ),
    "Suppression": (
        ("score_threshold", "float", 0), ("iou_threshold", "float", 0.6), ("max_detections_per_class", "int32", 100),
        ("max_total_detections", "int32", 100), ("use_class_agnostic_nms", "bool", False),
    ),
    "PostProcessing": (
        ("batch_non_max_suppression", "Suppression"), ("score_converter", "ScoreConverter", "IDENTITY"),
        ("logit_scale", "float", 1),
    ),
    "Ssd": (
        ("num_classes", "int32"), ("image_resizer", "Resizer"), ("feature_extractor", "Extractor"),
        ("box_coder", "AnyBoxCoder"), ("box_predictor", "Predictor"), ("anchor_generator", "Anchors"),
        ("post_processing", "PostProcessing"),
    ),
    "FasterRcnn": (("num_classes", "int32"),),
    "Model": (("ssd", "Ssd"), ("faster_rcnn", "FasterRcnn")),
    "Pipeline": (("model", "Model"),),
    "Item": (("name", "string"), ("id", "int32"), ("display_name", "string")),
    "LabelMap": (("item", "Item", ...),),
}  # fmt: skip


class Companions(NamedTuple):
    """Each None where there is none. graph: the file itself, where it is one; config: a Pipeline message, with the
    API's defaults; labels: number of a class (from 1) -> its name; given: whether the user named the label map."""

    graph: GraphDef | None = None
    config: Any = None
    labels: dict[int, str] | None = None
    given: bool = False


@cache
def _message(name: str) -> Any:
    """Rows are (name, type), with a default; ... in its place for a list."""
    table: dict[str, Any] = {}
    for key, rows in _RAW.items():
        if isinstance(rows, dict):
            table[key] = rows
            continue
        table[key] = [
            (row[0], i, row[1], "repeated") if row[2:] == (...,) else (row[0], i, row[1], "optional", *row[2:])
            for i, row in enumerate(rows, start=1)
        ]
    return messages("singleshot.detection", table)[name]


def find_companions(path: Path, beside: str | Path | None, graph: GraphDef | None = None) -> Companions:
    """path: of the model; beside: a label map or a pipeline.config that the user names.

    Otherwise pipeline.config in the model's folder, and the label map there if there is just one. Raises
    CheckpointError for a file that cannot be read, or is neither.
    """
    found = Companions(graph)
    if beside is not None:
        text = _text(Path(beside))
        if _is_config(text):
            found = found._replace(config=_parse_config(Path(beside), text))
        elif _is_label_map(text):
            found = found._replace(labels=_parse_labels(Path(beside), text), given=True)
        else:
            raise CheckpointError(
                f"{printable(beside)}: neither a label map (item {{ id: 1 ... }}) nor a pipeline.config"
            )
    folder = path.parent
    config = folder / "pipeline.config"
    if found.config is None and config.is_file():
        found = found._replace(config=_parse_config(config, _text(config)))
    if found.labels is None:
        maps = [(file, text) for file in _candidates(folder) if _is_label_map(text := _text(file))]
        if len(maps) == 1:
            found = found._replace(labels=_parse_labels(*maps[0]))
    return found


def companions_of_variables(names: Iterable[str], path: Path, beside: str | Path | None) -> Companions | None:
    """The same for a checkpoint, when its names are this API's; None for those of other projects."""
    return find_companions(path, beside) if any(name.startswith("FeatureExtractor/") for name in names) else None


def _candidates(folder: Path) -> list[Path]:
    """Small .pbtxt files; graphs in text form end so as well, and are larger."""
    try:
        files = sorted(folder.glob("*.pbtxt"))[:_MAX_FILES]
        return [file for file in files if file.is_file() and file.stat().st_size <= MAX_BYTES]
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{printable(path)}: cannot be read ({printable(error, 80)})") from error
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"{printable(path)}: larger than {MAX_BYTES // 2**20} MB, too large for a label map")
    return data.decode("utf-8-sig", errors="replace")


def _is_label_map(text: str) -> bool:
    return re.search(r"^\s*item\s*:?\s*[{<]", text, re.MULTILINE) is not None


def _is_config(text: str) -> bool:
    return re.search(r"^\s*model\s*:?\s*[{<]", text, re.MULTILINE) is not None


def _parse_config(path: Path, text: str) -> Any:
    return parse_text(_message("Pipeline"), text, printable(path))


def _parse_labels(path: Path, text: str) -> dict[int, str]:
    """protos/string_int_label_map.proto: the name for people, else the other one."""
    labels: dict[int, str] = {}
    for item in parse_text(_message("LabelMap"), text, printable(path)).item:
        if item.id in labels:
            raise CheckpointError(f"{printable(path)}: two items with id {item.id}")
        labels[item.id] = item.display_name or item.name
    return labels

"""TensorFlow Lite's own metadata of a detector: what its tensors mean and where the class names are.

tensorflow/lite/support/metadata/metadata_schema.fbs, whose field numbers these are; content as TensorFlow's own writer
for object detectors has it, so that the Task Library and MediaPipe find boxes, classes, scores and names.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

LABELS = "labelmap.txt"
NAME = "TFLITE_METADATA"
_FEATURE, _IMAGE, _BOXES = 1, 2, 3  # enum ContentProperties
_NORMALIZATION = 1  # enum ProcessUnitOptions
_VALUE_LABELS = 3  # enum AssociatedFileType: TENSOR_VALUE_LABELS

_Field = tuple[int, str, Any]  # number, kind of flatbuffers' PrependXSlot, value


def with_labels(network: bytes, names: Sequence[str]) -> bytes:
    """A network with a zip archive behind it, in which the label file has one line for each class."""
    stored = io.BytesIO(network)
    with zipfile.ZipFile(stored, "a", zipfile.ZIP_STORED) as archive:
        entry = zipfile.ZipInfo(LABELS)  # of 1980: the same model gives the same file
        archive.writestr(entry, "\n".join(" ".join(name.split()) for name in names) + "\n")
    return stored.getvalue()


def detector_metadata(name: str, version: str, channels: int) -> bytes:
    """Of an image as bytes in, and boxes, classes, scores and their number out."""
    import flatbuffers

    b = flatbuffers.Builder(1024)

    def table(*fields: _Field) -> int:
        b.StartObject(1 + max((number for number, _, _ in fields), default=0))
        for number, kind, value in fields:
            getattr(b, f"Prepend{kind}Slot")(number, value, 0)
        return int(b.EndObject())

    def offset(number: int, value: int) -> _Field:
        return number, "UOffsetTRelative", value

    def text(number: int, value: str) -> _Field:
        return offset(number, b.CreateString(value))

    files = _vector(b, [table(text(0, LABELS), text(1, "class names"), (2, "Int8", _VALUE_LABELS))])
    scale = table(offset(0, _floats(b, [0.0])), offset(1, _floats(b, [1.0])))
    units = _vector(b, [table((0, "Uint8", _NORMALIZATION), offset(1, scale))])
    limits = table(offset(0, _floats(b, [255.0])), offset(1, _floats(b, [0.0])))
    colours = table((0, "Int8", 1 if channels == 3 else 2))  # RGB or GRAYSCALE
    content = table((0, "Uint8", _IMAGE), offset(1, colours))
    image = table(
        text(0, "image"), text(1, "image to find objects in"), offset(3, content), offset(4, units), offset(5, limits)
    )
    outputs = [_output(b, table, text, offset, *row, files) for row in _OUTPUTS]
    group = table(text(0, "detection_result"), offset(1, _vector(b, [b.CreateString(row[0]) for row in _OUTPUTS])))
    graph = table(offset(2, _vector(b, [image])), offset(3, _vector(b, outputs)), offset(8, _vector(b, [group])))
    about = "singleshot: boxes, classes and scores of the objects in an image"
    root = table(text(0, name), text(1, about), text(2, version), offset(3, _vector(b, [graph])), text(7, "1.2.0"))
    b.Finish(root, b"M001")
    return bytes(b.Output())


_OUTPUTS = (
    ("location", "boxes: top, left, bottom, right, 0 to 1", _BOXES),
    ("category", "positions of the boxes' classes in the label file", _FEATURE),
    ("score", "scores of the boxes", _FEATURE),
    ("number of detections", "how many of the boxes are found ones", _FEATURE),
)


def _output(
    b: Any, table: Callable[..., int], text: Any, offset: Any, name: str, about: str, kind: int, files: int
) -> int:
    if kind == _BOXES:  # index of left, top, right, bottom; type BOUNDARIES; coordinates RATIO
        properties = table(offset(0, _integers(b, [1, 0, 3, 2])), (1, "Int8", 1), (2, "Int8", 0))
    else:
        properties = table()
    fields = [(0, "Uint8", kind), offset(1, properties)]
    if name != "number of detections":
        fields.append(offset(2, table((0, "Int32", 2), (1, "Int32", 2))))  # of the second dimension
    content = table(*fields)
    named = [offset(6, files)] if name == "category" else []
    return table(text(0, name), text(1, about), offset(3, content), *named)


def _vector(b: Any, offsets: Sequence[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for one in reversed(offsets):
        b.PrependUOffsetTRelative(one)
    return int(b.EndVector())


def _floats(b: Any, values: Sequence[float]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependFloat32(value)
    return int(b.EndVector())


def _integers(b: Any, values: Sequence[int]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependUint32(value)
    return int(b.EndVector())

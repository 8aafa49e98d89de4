"""Caffe's .caffemodel (a NetParameter in binary) and its prototxt (the same message as text)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.readers.protobuf import MAX_BINARY, MAX_TEXT, message_class, parse_binary, parse_text
from singleshot.weights.readers.reading import read_bytes

MAX_NET_LAYERS = 5_000
MAX_BLOBS = 64  # of one layer
_RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}
# Types of V1LayerParameter that are not simply the same word in capitals.
_V1_NAMES = {"RELU": "ReLU", "LRN": "LRN", "HDF5_DATA": "HDF5Data"}


class CaffeNet(NamedTuple):
    """A network as its file describes it, before any phase is chosen.

    where: the file; name: the network's own; layers: LayerParameter messages without blobs, in running order; inputs:
    (name, shape) of the deprecated `input` fields; transforms: TransformationParameter messages that say how images are
    prepared, of this file and, after them, of the caffemodel.
    """

    where: str
    name: str
    layers: tuple[Any, ...]
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    transforms: tuple[Any, ...]


def looks_like_caffe(path: Path, first: bytes) -> bool:
    """Whether a file may be one: there is no magic, so by its name, or by how a NetParameter begins.

    first: some bytes of its beginning. A TensorFlow graph begins with field 1 as well, but has it again and again.
    """
    if path.suffix == ".caffemodel" or _is_prototxt(path):
        return True
    at, named = 0, False
    while at + 2 < len(first):
        tag, length = first[at], first[at + 1]
        if tag == 0x0A and not named and length < 128:  # name
            named, at = True, at + 2 + length
        elif tag in (0x1A, 0x22, 0x42) and length < 128:  # input, input_dim, input_shape
            at += 2 + length
        elif tag in (0x20, 0x28, 0x38) and length < 128:  # input_dim and two switches
            at += 2
        else:
            return (tag, length) == (0xA2, 0x06) or (tag == 0x12 and _is_v1(first[at:]))
    return False


def _is_prototxt(path: Path) -> bool:
    return path.name.lower().endswith((".prototxt", ".prototxt.txt"))


def _is_v1(first: bytes) -> bool:
    """Whether `layers`, field 2 of a NetParameter, holds what a V1LayerParameter begins with: bottom, top or name."""
    start = next((i for i, byte in enumerate(first[1:11], 2) if byte < 128), 0)
    return start + 1 < len(first) and first[start] in (0x12, 0x1A, 0x22) and 0 < first[start + 1] < 128


def read_caffe(path: Path, companion: str | Path | None = None) -> ForeignState:
    """Blobs as "layer[0]", "layer[1]"; structure: a CaffeNet, or None where neither prototxt nor file describes one.

    companion: the prototxt, if it is neither called as the caffemodel is nor the only one in its folder.
    """
    where = printable(path)
    if _is_prototxt(path):
        raise CheckpointError(f"{where}: describes a network without its weights; name the .caffemodel")
    data = read_bytes(path, where, MAX_BINARY)
    net = parse_binary("caffe.NetParameter", data, where)
    del data
    values = dict(_blobs(net, where))
    if not values:
        raise CheckpointError(f"{where}: a Caffe network of {len(net.layer) + len(net.layers)} layers without weights")
    own = _net(net, where)
    text = find_prototxt(path, companion)
    described: CaffeNet | None = own
    if text is not None:
        described = read_prototxt(text)
        described = described._replace(transforms=described.transforms + own.transforms)
    elif not any(layer.bottom for layer in own.layers):
        described = None
    return ForeignState(values, where, "caffe", described)


def find_prototxt(path: Path, companion: str | Path | None = None) -> Path | None:
    """The prototxt that belongs to a caffemodel; None where none does, or several may.

    Taken is `companion`, the one of its name, the only one with "deploy" in its name, or the only one in the folder.
    """
    if companion is not None:
        return Path(companion)
    for ending in (".prototxt", ".prototxt.txt"):
        if path.with_suffix(ending).is_file():
            return path.with_suffix(ending)
    try:
        every = sorted(p for p in path.parent.iterdir() if _is_prototxt(p))
    except OSError:
        return None  # a folder that cannot be listed: as if there were none
    found = [p for p in every if "solver" not in p.name and "label" not in p.name]
    deploy = [p for p in found if "deploy" in p.name.lower()]
    for candidates in (deploy, found):
        if len(candidates) == 1:
            return candidates[0]
    return None


def read_prototxt(path: Path) -> CaffeNet:
    """Raises CheckpointError for what is not text, is no network, or is too large."""
    where = printable(path)
    return parse_prototxt(read_bytes(path, where, MAX_TEXT), where)


def parse_prototxt(text: str | bytes, where: str) -> CaffeNet:
    """The network that a prototxt's text describes."""
    net = _net(parse_text("caffe.NetParameter", text, where), where)
    if not net.layers:
        raise CheckpointError(f"{where}: describes no network (it has no layers)")
    return net


def _net(net: Any, where: str) -> CaffeNet:
    if len(net.layer) + len(net.layers) > MAX_NET_LAYERS:
        raise CheckpointError(f"{where}: {len(net.layer) + len(net.layers)} layers (at most {MAX_NET_LAYERS} are read)")
    if any(layer.HasField("layer") for layer in net.layers):
        raise CheckpointError(f"{where}: a network in Caffe's format of 2013; upgrade it with upgrade_net_proto_binary")
    layers = tuple(net.layer) or tuple(map(_upgraded, net.layers))
    for layer in layers:
        layer.ClearField("blobs")
    shapes = [tuple(shape.dim) for shape in net.input_shape]
    dims = tuple(net.input_dim)
    shapes = shapes or [dims[i : i + 4] for i in range(0, len(dims), 4)]
    shapes += [()] * (len(net.input) - len(shapes))
    transforms = tuple(layer.transform_param for layer in layers if layer.HasField("transform_param"))
    return CaffeNet(where, net.name, layers, tuple(zip(net.input, shapes, strict=False)), transforms)


def _upgraded(old: Any) -> Any:
    """A V1LayerParameter as LayerParameter, blobs left out. The fields that both have are called the same."""
    new = message_class("caffe.LayerParameter")(name=old.name, type=_v1_type(old))
    for field, value in old.ListFields():
        if field.name in ("bottom", "top", "include", "exclude"):
            getattr(new, field.name).extend(value)
        elif field.name.endswith("_param"):
            getattr(new, field.name).CopyFrom(value)
    return new


def _v1_type(old: Any) -> str:
    """The type of a V1LayerParameter as newer files call it: CONVOLUTION -> Convolution."""
    word: str = old.LayerType.Name(old.type)
    return _V1_NAMES.get(word, word.title().replace("_", ""))


def _blobs(net: Any, where: str) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of all blobs; CheckpointError when a name is there twice or a shape is not that of the data."""
    seen = set()
    rows = [(layer, layer.type) for layer in net.layer] or [(layer, _v1_type(layer)) for layer in net.layers]
    for layer, kind in rows:
        if not layer.blobs:
            continue
        if layer.name in seen or len(layer.blobs) > MAX_BLOBS:
            raise CheckpointError(f"{where}: layer {printable(layer.name, 80)} is there twice or has too many blobs")
        seen.add(layer.name)
        for i, blob in enumerate(layer.blobs):
            key = f"{layer.name}[{i}]"
            yield key, _array(blob, i > 0 or kind != "Convolution", f"{where}: {printable(key, 80)}")


def _array(blob: Any, vector: bool, where: str) -> np.ndarray:
    """Values of a blob, float32. vector: of old files' (1, 1, 1, n) only n is meant, as for every bias."""
    old = any(blob.HasField(part) for part in ("num", "channels", "height", "width"))
    shape = (blob.num, blob.channels, blob.height, blob.width) if old else tuple(blob.shape.dim)
    if blob.double_data:
        with np.errstate(over="ignore"):  # infinity is refused where it is used
            values = np.array(blob.double_data, np.float32)
    elif blob.raw_data:
        values = _raw(blob, where)
    else:
        values = np.array(blob.data, np.float32)
    if any(n < 0 for n in shape) or math.prod(shape) != len(values):
        raise CheckpointError(f"{where}: {len(values)} values in the shape {printable(shape, 80)}; the file is damaged")
    return values.reshape(shape[-1:] if old and vector and shape[:3] == (1, 1, 1) else shape)


def _raw(blob: Any, where: str) -> np.ndarray:
    kind = _RAW_TYPES.get(blob.raw_data_type)
    if kind is None or len(blob.raw_data) % np.dtype(kind).itemsize:
        raise CheckpointError(f"{where}: values of a type that is not known; the file is damaged")
    return np.frombuffer(blob.raw_data, kind).astype(np.float32)

"""OpenVINO's intermediate representation: layers and edges in an .xml file, numbers in the .bin next to it.

Versions 10 and 11 keep weights in layers of their own (Const); in those before 10 a layer has its weights as blobs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.extras import needs
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.readers.reading import read_bytes

MAX_XML, MAX_BIN = 8 * 2**20, 2 * 2**30  # a parsed element takes 50 times its bytes
MAX_NODES, MAX_INPUTS, MAX_DIMS = 20_000, 1_000, 8
_TYPES = {"f16": "<f2", "f32": "<f4", "f64": "<f8", "u8": "u1", "i8": "i1", "boolean": "u1"} | {
    f"{sign}{bits}": f"<{sign}{bits // 8}" for sign in "iu" for bits in (16, 32, 64)
}
_PRECISIONS = {"FP16": "<f2", "FP32": "<f4", "I32": "<i4", "I64": "<i8", "U8": "u1", "I8": "i1"}


class BadAttributeError(ValueError):
    """An attribute of a layer that is not what it should be; whoever knows the file says which."""


class Node(NamedTuple):
    """One layer. Its methods read attributes, and raise BadAttributeError.

    Attributes:
        name: the file's own.
        kind: its type, as of version 10: Convolution, Const, ..
        attributes: of its `data`, as texts.
        takes: (node, output) that each input comes from, in order of ports; node -1 for one that is not connected.
        shapes: what the file says of its outputs; -1 for a side that is open.
        blobs: part ("weights", "biases", "value", ..) -> name in the ForeignState.
    """

    name: str
    kind: str
    attributes: Mapping[str, str]
    takes: tuple[tuple[int, int], ...]
    shapes: tuple[tuple[int, ...], ...]
    blobs: Mapping[str, str]

    def __str__(self) -> str:
        return f"layer {printable(self.name, 60)} of type {printable(self.kind, 40)}"

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; the default where there is none."""
        text = self.attributes.get(key)
        if text is None and default is not None:
            return default
        found = self.numbers(key)
        if len(found) != 1:
            raise BadAttributeError(f"{self} has {key} {printable(text, 40)}: want a number")
        return found[0]

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number."""
        found = self.number(key, default)
        if found != int(found):
            raise BadAttributeError(f"{self} has {key} {found:g}: want a whole number")
        return int(found)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Finite numbers with commas between them; () where there are none."""
        text = self.attributes.get(key, "")
        try:
            found = tuple(float(n) for n in text.split(",") if n.strip())
        except ValueError as error:
            raise BadAttributeError(f"{self} has {key} {printable(text, 40)}: want numbers") from error
        if not all(map(math.isfinite, found)):
            raise BadAttributeError(f"{self} has {key} {printable(text, 40)}: want finite numbers")
        return found

    def flag(self, key: str, default: bool = False) -> bool:
        """Yes or no, as words or as 1 and 0."""
        text = self.attributes.get(key, str(default)).strip().lower()
        if text not in ("1", "0", "true", "false"):
            raise BadAttributeError(f"{self} has {key} {printable(text, 40)}: want true or false")
        return text in ("1", "true")


class IrNetwork(NamedTuple):
    """A network in running order. version: of the format; means: (mean, scale) of each channel as files before version
    10 may have it, to be done before the network; about: what the file says of itself, by group and name
    ("model_info/labels", ..)."""

    name: str
    version: int
    nodes: tuple[Node, ...]
    means: tuple[tuple[float, float], ...]
    about: Mapping[str, str]


def looks_like_ir(first: bytes) -> bool:
    """Whether a file's first bytes are those of an IR's .xml."""
    return re.match(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?<net[\s>]", first) is not None


def read_ir(path: Path, companion: str | Path | None = None) -> ForeignState:
    """Constants by the names of their layers; structure: an IrNetwork. companion: the .bin, where it has another name.

    Raises CheckpointError.
    """
    where, weights = printable(path), Path(companion) if companion is not None else path.with_suffix(".bin")
    root = _parse(read_bytes(path, where, MAX_XML), where)
    if companion is None and not weights.is_file():
        raise CheckpointError(
            f"{where}: an OpenVINO network without its weights; put {printable(weights.name)} next to it"
        )
    data = read_bytes(weights, printable(weights), MAX_BIN)
    reader = _Reader(root, data, where, printable(weights))
    network = reader.network()
    return ForeignState(reader.values, where, "openvino", network)


def _parse(data: bytes, where: str) -> Any:
    with needs("train", "reading OpenVINO networks"):
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import ParseError, fromstring
    try:
        root = fromstring(data, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{where}: is not plain XML ({printable(error, 80)})") from error
    if root.tag != "net" or root.find("layers") is None:
        raise CheckpointError(f"{where}: starts with <{printable(root.tag, 40)}>; want OpenVINO's <net> with <layers>")
    return root


class _Reader:
    """Goes through the layers of a file; `values` fills with the arrays of those that hold numbers."""

    def __init__(self, root: Any, data: bytes, where: str, weights: str) -> None:
        self.root, self.data, self.where, self.weights = root, data, where, weights
        self.values: dict[str, np.ndarray] = {}

    def network(self) -> IrNetwork:
        elements = list(self.root.find("layers"))
        if len(elements) > MAX_NODES:
            raise CheckpointError(f"{self.where}: {len(elements)} layers (at most {MAX_NODES} are read)")
        version = _whole(self.root.get("version", "0"), "version", self.where)
        by_id = {element.get("id", ""): element for element in elements}
        if len(by_id) != len(elements):
            raise CheckpointError(f"{self.where}: two layers have the same id; the file is damaged")
        edges = self._edges(by_id)
        order = _in_running_order(by_id, edges, self.where)
        number = {name: i for i, name in enumerate(order)}
        nodes = tuple(self._node(by_id[name], edges[name], by_id, number) for name in order)
        about = {
            f"{group.tag}/{element.tag}": element.get("value", "")
            for part in ("rt_info", "meta_data")
            for group in self.root.iterfind(f"{part}/*")
            for element in group
        }
        return IrNetwork(self.root.get("name", ""), version, nodes, tuple(self._means()), about)

    def _edges(self, by_id: Mapping[str, Any]) -> dict[str, dict[str, tuple[str, str]]]:
        """Layer -> its input port -> the layer and the output port that it comes from."""
        found: dict[str, dict[str, tuple[str, str]]] = {name: {} for name in by_id}
        for edge in self.root.iterfind("edges/edge"):
            source, target = edge.get("from-layer", ""), edge.get("to-layer", "")
            if source not in by_id or target not in by_id:
                raise CheckpointError(
                    f"{self.where}: an edge from or to a layer that is not there; the file is damaged"
                )
            found[target][edge.get("to-port", "")] = source, edge.get("from-port", "")
        return found

    def _node(
        self, element: Any, edges: Mapping[str, tuple[str, str]], by_id: Mapping[str, Any], number: Mapping[str, int]
    ) -> Node:
        takes = []
        for port in _ports(element, "input"):
            source, output = edges.get(port.get("id", ""), ("", ""))
            ports = [p.get("id") for p in _ports(by_id[source], "output")] if source else []
            takes.append((number[source], ports.index(output)) if output in ports else (-1, 0))
        if len(takes) > MAX_INPUTS:
            raise CheckpointError(f"{self.where}: a layer with {len(takes)} inputs (at most {MAX_INPUTS})")
        shapes = tuple(self._shape(port) for port in _ports(element, "output"))
        data = element.find("data")
        attributes = dict(data.attrib) if data is not None else {}
        kind, name = element.get("type", ""), element.get("name", "")
        return Node(name, kind, attributes, tuple(takes), shapes, self._blobs(element, attributes, shapes))

    def _shape(self, port: Any) -> tuple[int, ...]:
        dims = [_whole(dim.text or "", "a dimension", self.where) for dim in port.iterfind("dim")]
        if len(dims) > MAX_DIMS:
            raise CheckpointError(f"{self.where}: a shape of {len(dims)} dimensions (at most {MAX_DIMS})")
        return tuple(dims)

    def _blobs(
        self, element: Any, attributes: Mapping[str, str], shapes: tuple[tuple[int, ...], ...]
    ) -> dict[str, str]:
        """Names of a layer's arrays, which are noted in `values`."""
        kind, name, found = element.get("type", ""), element.get("name", ""), {}
        if kind == "Const" and "offset" in attributes:
            dtype = _TYPES.get(attributes.get("element_type", ""))
            if dtype is None:
                what = printable(attributes.get("element_type", ""), 40)
                raise CheckpointError(
                    f"{self.where}: {printable(name, 80)} holds numbers of type {what}, not known here"
                )
            text = attributes.get("shape", "")
            dims = tuple(_whole(n, "a dimension", self.where) for n in text.split(",") if n.strip())
            found["value"] = self._add(name, dtype, dims, attributes)
        dtype = _PRECISIONS.get(element.get("precision", "FP32"), "")
        for blob in element.iterfind("blobs/*"):
            own = _PRECISIONS.get(blob.get("precision", ""), dtype)
            if own:
                shape = shapes[0] if kind == "Const" and shapes else None
                found["value" if kind == "Const" else blob.tag] = self._add(f"{name}[{blob.tag}]", own, shape, blob)
        return found

    def _add(self, name: str, dtype: str, shape: tuple[int, ...] | None, place: Any) -> str:
        """Note an array of that shape, None for a flat one; its name, with a number where it is taken."""
        offset, size = (_whole(place.get(key, ""), key, self.where) for key in ("offset", "size"))
        if not 0 <= offset <= offset + size <= len(self.data):
            reason = f"{size} bytes at {offset}, but {self.weights} has {len(self.data)}"
            raise CheckpointError(f"{self.where}: {printable(name, 80)} is {reason}; one of the two is cut off")
        item = np.dtype(dtype).itemsize
        shape = (size // item,) if shape is None else shape
        if min(shape, default=1) < 0 or math.prod(shape) * item != size:
            what = f"{size} bytes in the shape {printable(shape, 80)} of {dtype.strip('<')}"
            raise CheckpointError(f"{self.where}: {printable(name, 80)} has {what}; the file is damaged")
        values = np.frombuffer(self.data, dtype, math.prod(shape), offset).reshape(shape)
        wanted, n = name, 1
        while name in self.values:
            name, n = f"{wanted}#{n}", n + 1
        self.values[name] = values
        return name

    def _means(self) -> Iterator[tuple[float, float]]:
        for channel in self.root.iterfind("pre-process/channel"):
            mean, scale = channel.find("mean"), channel.find("scale")
            if mean is not None and mean.get("value") is None:
                raise CheckpointError(f"{self.where}: subtracts an image of means, which is not done here")
            values = [0.0 if mean is None else mean.get("value"), 1.0 if scale is None else scale.get("value")]
            try:
                yield float(values[0] or "nan"), float(values[1] or "nan")
            except ValueError as error:
                raise CheckpointError(f"{self.where}: pre-process of {printable(values, 60)}, want numbers") from error


def _ports(element: Any, which: str) -> list[Any]:
    """Ports of one side in order of their numbers."""
    found = list(element.iterfind(f"{which}/port"))
    return sorted(found, key=lambda port: (len(port.get("id", "")), port.get("id", "")))


def _in_running_order(
    by_id: Mapping[str, Any], edges: Mapping[str, Mapping[str, tuple[str, str]]], where: str
) -> list[str]:
    """Each layer after those that it takes from; the file's order where it does not matter."""
    waiting = {name: len({source for source, _ in edges[name].values()}) for name in by_id}
    takers: dict[str, list[str]] = {name: [] for name in by_id}
    for name in by_id:
        for source in dict.fromkeys(source for source, _ in edges[name].values()):
            takers[source].append(name)
    order = [name for name, count in waiting.items() if not count]
    for name in order:  # grows on the way
        for taker in takers[name]:
            waiting[taker] -= 1
            if not waiting[taker]:
                order.append(taker)
    if len(order) != len(by_id):
        raise CheckpointError(f"{where}: its layers take from each other in a circle; the file is damaged")
    return order


def _whole(text: str, what: str, where: str) -> int:
    """A whole number of a file, of a few digits."""
    if not re.fullmatch(r"\s*-?[0-9]{1,15}\s*", text):
        raise CheckpointError(f"{where}: {what} {printable(text, 40)!r}: want a whole number")
    return int(text)

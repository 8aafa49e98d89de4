"""How an OpenVINO network wants its image: the input, and what is done to every pixel before its first convolution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.inputs import CHANNELS, InputSpec
from singleshot.weights.importers.fused_graph import IMAGE_OP, Shape
from singleshot.weights.importers.openvino_constants import Constants
from singleshot.weights.importers.openvino_graph import IrGraph, IrOp
from singleshot.weights.readers.openvino_ir import IrNetwork, Node

_INPUTS = ("Parameter", "Input")
_LOOKS = ("ShapeOf", "PriorBox", "PriorBoxClustered")  # take no pixels
_RESIZE = {"": "stretch", "standard": "stretch", "fit_to_window_letterbox": "letterbox"}


class ImageInput(NamedTuple):
    """nodes: those that give the image, prepared or not; spec: with which it is prepared; notes: for the user."""

    nodes: frozenset[int]
    shape: Shape
    spec: InputSpec
    notes: tuple[str, ...]


class _Pixels:
    """value * factor + shift per channel, in the order that the network has at that point."""

    def __init__(self, channels: int) -> None:
        self.factor, self.shift, self.turned = np.ones(channels), np.zeros(channels), False

    def then(self, factor: np.ndarray, shift: np.ndarray) -> None:
        """The same and after it another factor and shift."""
        self.factor, self.shift = self.factor * factor, self.shift * factor + shift

    def turn(self) -> None:
        """Blue and red change places."""
        self.factor, self.shift, self.turned = self.factor[::-1], self.shift[::-1], not self.turned


def read_image(network: IrNetwork, constants: Constants, where: str) -> ImageInput:
    """Raises CheckpointError unless there is one image, of one or three channels and fixed sides."""
    inputs = [i for i, node in enumerate(network.nodes) if node.kind in _INPUTS]
    images = [i for i in inputs if network.nodes[i].shapes and len(network.nodes[i].shapes[0]) == 4]
    if len(images) != 1:
        raise CheckpointError(f"{where}: {len(images)} inputs of four dimensions, want one image")
    dims = network.nodes[images[0]].shapes[0]
    last = dims[3] in CHANNELS and dims[1] not in CHANNELS
    shape = Shape(dims[3], dims[1], dims[2]) if last else Shape(dims[1], dims[2], dims[3])
    if dims[0] not in (1, -1) or shape.channels not in CHANNELS or min(shape) < 1:
        raise CheckpointError(
            f"{where}: input {printable(dims, 60)}, want one image of 3 channels, or 1, and fixed sides (--size, where"
            " an ONNX file leaves them open)"
        )
    pixels, notes = _Pixels(shape.channels), []
    resize, order = _described(network, pixels, where)
    if network.means:
        if len(network.means) != shape.channels or not all(np.isfinite(row).all() and row[1] for row in network.means):
            raise CheckpointError(f"{where}: pre-process with means {printable(network.means, 80)}")
        mean, scale = (np.array(part) for part in zip(*network.means, strict=True))
        pixels.then(1 / scale, -mean / scale)
    nodes = _absorbed(network, constants, images[0], shape, last, pixels, where)
    if order is None:
        order = "bgr"
        if shape.channels == 3:
            notes.append("the file does not say in which order colours come: blue first, as in Open Model Zoo")
    if pixels.turned:
        order = {"bgr": "rgb", "rgb": "bgr"}[order]
    mean, std = 0.0 - pixels.shift / pixels.factor, 1 / pixels.factor
    if order == "bgr":
        mean, std = mean[::-1], std[::-1]
    mean3, std3 = (tuple(round(float(v), 6) for v in part) for part in (mean, std))
    colours = "rgb" if shape.channels == 1 else order
    channels, height, width = shape
    spec = InputSpec(None, resize, colours, mean3, std3, height=height, width=width, channels=channels)
    return ImageInput(frozenset(nodes), shape, spec, tuple(notes))


def _described(network: IrNetwork, pixels: _Pixels, where: str) -> tuple[str, str | None]:
    """Resize rule and colour order as Model API's description in the file says; its means and scales into `pixels`."""
    about = {key: network.about.get(f"model_info/{key}", "").strip() for key in ("mean_values", "scale_values")}
    inside = network.about.get("model_info/embedded_processing", "").lower() in ("true", "yes", "1")
    resize = network.about.get("model_info/resize_type", "").strip()
    if resize not in _RESIZE:
        raise CheckpointError(
            f"{where}: resize_type {printable(resize, 40)}, want one of {', '.join(filter(None, _RESIZE))}"
        )
    swapped = network.about.get("model_info/reverse_input_channels", "").lower()
    values = []
    for key, text in about.items():
        try:
            row = [float(v) for v in text.replace("[", " ").replace("]", " ").replace(",", " ").split()]
        except ValueError as error:
            raise CheckpointError(f"{where}: {key} {printable(text, 40)}, want numbers") from error
        if len(row) not in (0, 1, len(pixels.factor)) or not np.isfinite(row).all():
            raise CheckpointError(f"{where}: {key} {printable(text, 40)}, want one number or {len(pixels.factor)}")
        values.append(np.array(row or [float(key == "scale_values")]))
    if not inside:
        if not values[1].all():
            raise CheckpointError(f"{where}: scale_values of 0")
        pixels.then(1 / values[1], -values[0] / values[1])
    return _RESIZE[resize], ("rgb" if swapped in ("true", "yes", "1") and not inside else "bgr") if swapped else None


def _absorbed(
    network: IrNetwork, constants: Constants, start: int, shape: Shape, last: bool, pixels: _Pixels, where: str
) -> set[int]:
    """Nodes after the input that only prepare pixels, the input among them; what they do goes into `pixels`."""
    takers: dict[int, list[int]] = {}
    for i, node in enumerate(network.nodes):
        for source in dict.fromkeys(source for source, _ in node.takes):
            takers.setdefault(source, []).append(i)
    found, current, turned = {start}, start, not last
    graph = IrGraph([], {IMAGE_OP: 1}, shape, constants, constants.tensors)
    while True:
        after = [i for i in takers.get(current, ()) if network.nodes[i].kind not in _LOOKS]
        if len(after) != 1:
            break
        node = network.nodes[after[0]]
        if node.kind == "Transpose" and not turned:
            if tuple(int(n) for n in constants.input(node, 1).reshape(-1)) != (0, 3, 1, 2):
                raise CheckpointError(f"{where}: {node} of the image, want order 0 3 1 2")
            turned = True
        elif node.kind == "Split" and _reversed_by(network, constants, after[0], takers):
            pixels.turn()
            found.add(after[0])
            after = takers[after[0]]
        elif node.kind == "Gather" and _is_reversal(node, constants, turned):
            pixels.turn()
        elif node.kind != "Convert":
            affine = graph.affine_of(IrOp(node, (IMAGE_OP,)), shape.channels) if turned else None
            if affine is None or not bool((affine[0] > 0).all()):
                break
            pixels.then(affine[0].numpy(), affine[1].numpy())
        found.add(after[0])
        current = after[0]
    if not turned:
        raise CheckpointError(f"{where}: its image has channels last, and no Transpose behind it")
    return found


def _is_reversal(node: Node, constants: Constants, turned: bool) -> bool:
    """Whether a Gather changes the order of three channels to the opposite."""
    axis = int(constants.input(node, 2).reshape(-1)[0])
    order = [int(n) for n in constants.input(node, 1).reshape(-1)]
    return axis % 4 == (1 if turned else 3) and order == [2, 1, 0]


def _reversed_by(network: IrNetwork, constants: Constants, split: int, takers: dict[int, list[int]]) -> bool:
    """Whether a Split's three channels are put together again by one Concat, the last one first."""
    after = takers.get(split, [])
    axis = int(constants.input(network.nodes[split], 1).reshape(-1)[0])
    if len(after) != 1 or network.nodes[after[0]].kind != "Concat" or axis % 4 != 1:
        return False
    joined = network.nodes[after[0]]
    return joined.takes == ((split, 2), (split, 1), (split, 0)) and joined.whole("axis") % 4 == 1

"""How an OpenVINO network wants its image: the input, and what is done to every pixel before its first convolution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.inputs import CHANNELS, InputSpec
from singleshot.weights.importers.fused_graph import IMAGE_OP, Shape
from singleshot.weights.importers.graph_tail import MAX_NUMBERS, Tail
from singleshot.weights.importers.openvino_constants import Constants
from singleshot.weights.importers.openvino_graph import IrGraph, IrOp
from singleshot.weights.importers.openvino_patterns import resized_sides
from singleshot.weights.readers.openvino_ir import IrNetwork, Node

_INPUTS = ("Parameter", "Input")
_LOOKS = ("ShapeOf", "PriorBox", "PriorBoxClustered")  # take no pixels
_LAID_OUT = (
    "Split",
    "VariadicSplit",
    "Squeeze",
    "Unsqueeze",
    "Gather",
    "Pad",
    "Concat",
    "Reshape",
    "Slice",
    "StridedSlice",
)
_MAX_SIDE = 2048  # that an image is resized to within the network
_RESIZE = {"": "stretch", "standard": "stretch", "fit_to_window_letterbox": "letterbox"}


class ImageInput(NamedTuple):
    """nodes: those that give the image, prepared or not, with the shape of what each gives; spec: with which it is
    prepared; notes: for the user."""

    nodes: Mapping[int, tuple[int, ...]]
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
    shapes = {i: network.nodes[i].shapes[0] for i in inputs if network.nodes[i].shapes}
    images = [i for i, dims in shapes.items() if len(dims) == 4]
    if not images:  # one image without a batch, as torchvision's detectors take them
        images = [i for i, dims in shapes.items() if len(dims) == 3 and dims[0] in CHANNELS]
    if len(images) != 1:
        raise CheckpointError(f"{where}: {len(images)} inputs of four dimensions, want one image")
    alone = len(shapes[images[0]]) == 3
    dims = (1, *shapes[images[0]]) if alone else shapes[images[0]]
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
    begin = None if last else (dims[alone:] if dims[0] == 1 else (1, *shape))
    nodes, shape = _absorbed(network, constants, images[0], shape, begin, pixels, where)
    if order is None:
        order = "bgr"
        if shape.channels == 3:
            notes.append("the file does not say in which order colours come: blue first, as in Open Model Zoo")
    if pixels.turned:
        order = {"bgr": "rgb", "rgb": "bgr"}[order]
    mean, std = 0.0 - pixels.shift / pixels.factor, 1 / pixels.factor
    if order == "bgr":
        mean, std = mean[::-1], std[::-1]
    mean3, std3 = (tuple(float(f"{v:.8g}") for v in part) for part in (mean, std))
    colours = "rgb" if shape.channels == 1 else order
    channels, height, width = shape
    spec = InputSpec(None, resize, colours, mean3, std3, height=height, width=width, channels=channels)
    return ImageInput(nodes, shape, spec, tuple(notes))


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
    network: IrNetwork,
    constants: Constants,
    start: int,
    shape: Shape,
    dims: tuple[int, ...] | None,
    pixels: _Pixels,
    where: str,
) -> tuple[dict[int, tuple[int, ...]], Shape]:
    """Nodes after the input that only prepare pixels, the input among them, and the shape of what they give; what they
    do goes into `pixels`.

    dims: of the image as it comes in; None where its channels come last.
    """
    takers: dict[int, list[int]] = {}
    for i, node in enumerate(network.nodes):
        for source in dict.fromkeys(source for source, _ in node.takes):
            takers.setdefault(source, []).append(i)
    found: dict[int, tuple[int, ...]] = {start: dims or ()}
    current, turned = start, dims is not None
    graph = IrGraph([], {IMAGE_OP: 1}, shape, constants, constants.tensors)
    # A number for each place of the image, which shows what moves it.
    given = {} if dims is None or math.prod(dims) > MAX_NUMBERS else {start: _numbered(dims)}
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
            found[after[0]] = ()
            after = takers[after[0]]
        elif node.kind == "Gather" and _is_reversal(node, constants, turned):
            pixels.turn()
        elif node.kind == "Interpolate" and turned and given:
            sides = resized_sides(network.nodes, constants, node, shape[1:], dict.fromkeys(found, shape))
            if sides.size != 2 or not all(1 <= n <= _MAX_SIDE and n == round(n) for n in sides):
                break
            shape = Shape(shape.channels, *(round(n) for n in sides))
            given = {after[0]: _numbered((1, *shape))}
        elif node.kind in _LAID_OUT and given:
            same = _laid_out(network, constants, after[0], given, shape)
            if same is None:
                break
            given[after[0]] = same
        elif node.kind != "Convert" and not _is_rounding(node, constants):
            affine = graph.affine_of(IrOp(node, (IMAGE_OP,)), shape.channels) if turned else None
            if affine is None or not bool((affine[0] > 0).all()):
                break
            pixels.then(affine[0].numpy(), affine[1].numpy())
        if given and after[0] not in given:
            given[after[0]] = given[current]
        found[after[0]] = given[after[0]].shape if given else ()
        current = after[0]
    if not turned:
        raise CheckpointError(f"{where}: its image has channels last, and no Transpose behind it")
    return found, shape


def _numbered(dims: tuple[int, ...]) -> np.ndarray:
    return np.arange(math.prod(dims), dtype=np.float64).reshape(dims)


def _laid_out(
    network: IrNetwork, constants: Constants, i: int, given: dict[int, np.ndarray], shape: Shape
) -> np.ndarray | None:
    """The numbers of the image behind a node that leaves them as they are and where they are; None behind others.

    given: the image's numbers behind the nodes before.
    """
    shapes = dict.fromkeys(given, shape)
    try:
        found = Tail(network.nodes, constants, [(i, 0)], shapes, shapes).run(given)[i, 0]
    except CheckpointError:
        return None
    first = next(iter(given.values()))
    return found if found.size == first.size and np.array_equal(found.reshape(-1), first.reshape(-1)) else None


def _is_rounding(node: Node, constants: Constants) -> bool:
    """Whether a FakeQuantize leaves pixels as they are, but for rounding: 256 steps or more, 0 to 255 among them."""
    if node.kind != "FakeQuantize" or len(node.takes) != 5 or node.whole("levels", 0) < 256:
        return False
    low, high, out_low, out_high = (constants.input(node, k).reshape(-1) for k in range(1, 5))
    same = np.array_equal(low, out_low) and np.array_equal(high, out_high)
    return same and bool((low <= 0).all() and (high >= 254).all())


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

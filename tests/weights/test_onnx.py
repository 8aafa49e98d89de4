"""SSDs of ONNX's own operations, run by ONNX Runtime: boxes decoded inside, in the ways that exporters write it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from singleshot.boxes import decode
from singleshot.errors import CheckpointError
from singleshot.prior_boxes import from_shapes, prior_table
from singleshot.prior_tables import prior_spec
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importers.known_boxes import known_boxes
from singleshot.weights.importing import import_foreign

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

SIDES, GRIDS = (48, 64), ((12, 16), (6, 8))
SHAPES = (((9.0, 7.0), (12.5, 20.0), (15.0, 15.0)), ((30.0, 24.0), (20.0, 40.0)))
COLUMNS = 3


class Builder:
    """Nodes and constants; every method gives the name of what it made."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def const(self, values: Any) -> str:
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        self.constants.append(numpy_helper.from_array(array, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"n{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names if outputs > 1 else names[0]

    def conv(self, x: str, inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> str:
        scale = np.sqrt(3 * groups / (inputs * 9))
        weight = self.const(self.random.uniform(-1, 1, (outputs, inputs // groups, 3, 3)) * scale)
        bias = self.const(self.random.uniform(-0.1, 0.1, outputs))
        return self.add("Conv", x, weight, bias, strides=[stride] * 2, pads=[1] * 4, group=groups, kernel_shape=[3, 3])

    def norm(self, x: str, channels: int) -> str:
        parts = [self.const(self.random.uniform(0.5, 1, channels)) for _ in range(4)]
        return self.add("BatchNormalization", x, *parts, epsilon=1e-3)

    def side(self, x: str, axis: int) -> str:
        """A side of a map, as exporters compute shapes."""
        found = self.add("Gather", self.add("Shape", x), self.const(np.array(axis)), axis=0)
        return self.add("Unsqueeze", found, self.const(np.array([0])))

    def trunk(self) -> list[tuple[str, int]]:
        """Two maps with their channels, of the layers that are known."""
        x = self.add("Div", self.add("Sub", "image", self.const(127.0)), self.const(64.0))
        x = self.add("Relu", self.norm(self.conv(x, 3, 8, 2), 8))
        x = self.add("Clip", self.norm(self.conv(x, 8, 8, 2, groups=8), 8), self.const(0.0), self.const(6.0))
        x = self.add("LeakyRelu", self.conv(x, 8, 8), alpha=0.1)
        gate = self.add("Sigmoid", self.conv(self.add("GlobalAveragePool", x), 8, 8))
        first = self.add("Mul", x, gate)
        pooled = self.add("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2])
        around = self.const(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
        mean = self.add("AveragePool", self.add("Pad", first, around), kernel_shape=[4, 4], strides=[2, 2])
        second = self.add("Concat", self.add("HardSwish", self.conv(pooled, 8, 8)), mean, axis=1)
        scales = self.const(np.array([1.0, 1.0, 2.0, 2.0]))
        up = self.add("Resize", self.conv(second, 16, 8), "", scales, mode="nearest")
        return [(self.add("Add", first, up), 8), (self.add("Neg", second), 16)]

    def heads(self, columns: int, box_major: bool = False) -> str:
        """One of the two outputs of all maps: [1, P, columns], cell by cell or all cells of a box at a time."""
        parts = []
        for (x, channels), shapes in zip(self.maps, SHAPES, strict=True):
            y = self.conv(x, channels, len(shapes) * columns)
            if box_major:
                parts.append(self.add("Reshape", y, self.const(np.array([1, columns, -1]))))
            else:
                y = self.add("Transpose", y, perm=[0, 2, 3, 1])
                shape = self.add("Concat", self.side(y, 0), self.const(np.array([-1, columns])), axis=0)
                parts.append(self.add("Reshape", y, shape))
        joined = self.add("Concat", *parts, axis=2 if box_major else 1)
        return self.add("Transpose", joined, perm=[0, 2, 1]) if box_major else joined

    def decoded(self, loc: str, priors: np.ndarray, form: str) -> str:
        """torch's [x0 y0 x1 y1] or TensorFlow's [y0 x0 y1 x1] of ty tx th tw, and centres and sizes in pixels."""
        if form == "tf":
            ty, tx, th, tw = self.add("Split", loc, outputs=4, axis=2)
            x, y, w, h = (self.const(priors[None, :, k : k + 1]) for k in range(4))
            cy = self.add("Add", self.add("Mul", self.add("Div", ty, self.const(10.0)), h), y)
            cx = self.add("Add", self.add("Mul", self.add("Div", tx, self.const(10.0)), w), x)
            height = self.add("Mul", self.add("Exp", self.add("Div", th, self.const(5.0))), h)
            width = self.add("Mul", self.add("Exp", self.add("Div", tw, self.const(5.0))), w)
            half_h, half_w = (self.add("Div", side, self.const(2.0)) for side in (height, width))
            corners = [self.add(o, c, d) for o in ("Sub", "Add") for c, d in ((cy, half_h), (cx, half_w))]
            return self.add("Concat", *corners, axis=2)
        centres, sizes = (self.const(priors[None, :, k : k + 2]) for k in (0, 2))
        first, last = (self.cut(loc, k, k + 2) for k in (0, 2))
        moved = self.add("Mul", self.add("Mul", first, self.const(0.1)), sizes)
        centre = self.add("Add", moved, centres)
        size = self.add("Mul", self.add("Exp", self.add("Mul", last, self.const(0.2))), sizes)
        if form == "pixels":
            return self.add("Concat", centre, size, axis=2)
        half = self.add("Div", size, self.const(2.0))
        boxes = self.add("Concat", self.add("Sub", centre, half), self.add("Add", centre, half), axis=2)
        return self.add("Clip", boxes, self.const(0.0), self.const(1.0)) if form == "clipped" else boxes

    def cut(self, x: str, start: int, end: int) -> str:
        places = [self.const(np.array([n])) for n in (start, end, 2)]
        return self.add("Slice", x, *places)

    def save(self, path: Path, outputs: list[str], opset: int = 14) -> Path:
        image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, *SIDES])
        ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", [image], ends, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        path.write_bytes(model.SerializeToString())
        return path


def box_by_box(priors: np.ndarray) -> np.ndarray:
    """Rows of ours, cell by cell, as all cells of a map's first box, then of its second."""
    parts, start = [], 0
    for (rows, columns), shapes in zip(GRIDS, SHAPES, strict=True):
        count = rows * columns * len(shapes)
        parts.append(priors[start : start + count].reshape(rows * columns, len(shapes), -1))
        parts[-1] = parts[-1].swapaxes(0, 1).reshape(count, -1)
        start += count
    return np.concatenate(parts)


def network(path: Path, form: str, activation: str = "Softmax", end: str = "outputs") -> Path:
    """end: "outputs", or "nms" for NonMaxSuppression of all columns but the first."""
    b = Builder()
    b.maps = b.trunk()
    priors = prior_table(from_shapes(SIDES, GRIDS, SHAPES))
    box_major = form == "box-major"
    loc = b.heads(4, box_major)
    priors = box_by_box(priors) if box_major else priors
    boxes = b.decoded(loc, priors * np.array([64, 48] * 2) if form == "pixels" else priors, form)
    logits = b.heads(COLUMNS, box_major)
    scores = b.add("Softmax", logits, axis=2) if activation == "Softmax" else b.add("Sigmoid", logits)
    outputs = [scores, boxes]
    if end == "nms":
        real = b.add("Transpose", b.cut(scores, 1, COLUMNS), perm=[0, 2, 1])
        limits = [b.const(np.array([50])), b.const(np.array([0.6])), b.const(np.array([0.25]))]
        outputs += [b.add("Cast", b.add("NonMaxSuppression", boxes, real, *limits), to=1)]
    return b.save(path, outputs)


def agree(path: Path, foreign: Any, form: str) -> np.ndarray:
    """Boxes and scores are those of ONNX Runtime; its third output, where there is one."""
    pixels = np.random.default_rng(3).integers(0, 256, (3, *SIDES)).astype(np.float32)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scores, boxes, *rest = session.run(None, {"image": pixels[None]})
    with torch.inference_mode():
        raw = foreign.model(torch.from_numpy(pixels)[None])
    own = raw.logits.softmax(-1) if foreign.thresholds.activation == "softmax" else raw.logits.sigmoid()
    own_boxes = decode(raw.offsets[0], foreign.model.priors, foreign.model.prior_spec.variances).numpy()
    if form == "tf":
        boxes = boxes[..., [1, 0, 3, 2]]
    if form == "pixels":
        boxes = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], axis=-1)
        boxes = boxes / np.array([64, 48] * 2)
    if form == "clipped":
        own_boxes = own_boxes.clip(0, 1)
    theirs = np.concatenate([boxes[0], scores[0][:, -own.shape[-1] :]], axis=1)
    ours = np.concatenate([own_boxes, own[0].numpy()], axis=1)
    ours = box_by_box(ours) if form == "box-major" else ours
    assert np.abs(theirs - ours).max() < 1e-4
    assert scores.std() > 0.05
    return rest[0] if rest else np.zeros(0)


@pytest.mark.parametrize("form", ["torch", "tf", "pixels", "clipped", "box-major"])
def test_boxes_and_scores_are_those_of_the_runtime(form, tmp_path):
    path = network(tmp_path / "net.onnx", form)
    foreign = import_foreign(path)
    agree(path, foreign, form)
    spec = foreign.model.input_spec
    assert (spec.sides, spec.colour_order) == (SIDES, "rgb")
    assert (set(spec.mean), set(spec.std)) == ({127.0}, {64.0})
    assert (foreign.model.num_classes, foreign.thresholds.clip) == (2, form == "clipped")
    assert "red first" in " ".join(foreign.notes)


@pytest.mark.parametrize("activation", ["Softmax", "Sigmoid"])
def test_suppression_says_classes_and_thresholds(activation, tmp_path):
    path = network(tmp_path / "net.onnx", "tf", activation, "nms")
    foreign = import_foreign(path)
    chosen = agree(path, foreign, "tf")
    rule = foreign.thresholds
    assert (rule.score_min, rule.nms_iou, rule.keep_per_class) == (0.25, 0.6, 50)
    assert (foreign.model.num_classes, rule.activation) == (2, activation.lower())
    assert len(chosen) > 5


@pytest.mark.parametrize("raw", ["", "two outputs", "one output", "points"])
def test_default_boxes_that_are_known_say_how_pixels_come(raw, tmp_path):
    """UltraFace's, whose files hold no mean; each of its heads sees a map of one number here."""
    spec = prior_spec("ultraface320")
    b = Builder()
    parts: dict[int, list[str]] = {4: [], 2: []}
    x, channels = "image", 3
    for stride, boxes in zip((8, 2, 2, 2), spec.per_cell, strict=True):
        weight = b.const(b.random.uniform(-0.02, 0.02, (4, channels, stride, stride)))
        wanted = spec.grids[len(parts[4])][0]
        rows = {30: 240, 15: 30, 8: 15, 4: 8}[wanted]
        pads = [0, 0, wanted * stride - rows, 0]
        x, channels = b.add("Conv", x, weight, strides=[stride] * 2, pads=pads, kernel_shape=[stride] * 2), 4
        for columns in (4, 2):
            y = b.add("Transpose", b.conv(x, 4, boxes * columns), perm=[0, 2, 3, 1])
            parts[columns].append(b.add("Reshape", y, b.const(np.array([1, -1, columns]))))
    offsets = b.add("Concat", *parts[4], axis=1)
    boxes = offsets if raw else b.decoded(offsets, prior_table(spec), "torch")
    logits = b.add("Concat", *parts[2], axis=1)
    outputs = [b.add("Softmax", logits, axis=2), boxes]
    if raw in ("one output", "points"):  # the softmax is left to the project's code
        points = [b.add("Concat", boxes, boxes, b.cut(boxes, 0, 2), axis=2)] if raw == "points" else []
        outputs = [b.add("Concat", boxes, logits, *points, axis=2)]
    path = b.save(tmp_path / "version-RFB-320.onnx", outputs)
    model = onnx.load(path)
    sides = model.graph.input[0].type.tensor_type.shape.dim[2:]
    for side, value in zip(sides, (240, 320), strict=True):
        side.dim_value = value
    onnx.save(model, path)
    foreign = import_foreign(path)
    assert foreign.class_names == ("face",)
    if raw == "points":  # another project's, with as many boxes, whose networks give points of faces as well
        assert "assumed to be biubug6/Face-Detector-1MB" in " ".join(foreign.notes)
        return
    assert (set(foreign.model.input_spec.mean), set(foreign.model.input_spec.std)) == ({127.0}, {128.0})
    assert foreign.model.prior_spec == spec
    assert foreign.thresholds.nms_iou == 0.3
    assert "Ultra-Light" in " ".join(foreign.notes)
    assert ("assumed to be Linzaer" in " ".join(foreign.notes)) == bool(raw)
    assert foreign.thresholds.activation == "softmax"


def _raw(b: Builder) -> list[str]:
    return [b.add("Softmax", b.heads(COLUMNS), axis=2), b.heads(4)]


def _linear(b: Builder) -> list[str]:
    priors = b.const(prior_table(from_shapes(SIDES, GRIDS, SHAPES)))
    return [b.add("Softmax", b.heads(COLUMNS), axis=2), b.add("Add", b.heads(4), priors)]


def _wrong_axis(b: Builder) -> list[str]:
    boxes = b.decoded(b.heads(4), prior_table(from_shapes(SIDES, GRIDS, SHAPES)), "torch")
    return [b.add("Softmax", b.heads(COLUMNS), axis=1), boxes]


def _centreness(b: Builder) -> list[str]:
    """ATSS's scores: of the classes, times how near the middle of an object a cell is."""
    boxes = b.decoded(b.heads(4), prior_table(from_shapes(SIDES, GRIDS, SHAPES)), "torch")
    scores, middle = (b.add("Sigmoid", b.heads(columns)) for columns in (COLUMNS, 1))
    return [b.add("Sqrt", b.add("Mul", scores, middle)), boxes]


def _classifier(b: Builder) -> list[str]:
    return [b.add("Softmax", b.add("Flatten", b.heads(COLUMNS)), axis=1)]


def _unknown(b: Builder) -> list[str]:
    scores, boxes = _raw(b)
    return [scores, b.add("Round", boxes)]


def _together(b: Builder) -> list[str]:
    return [b.heads(16)]


@pytest.mark.parametrize(
    ("ends", "match"),
    [
        (_together, "boxes and scores in one output of 16 columns"),
        (_raw, "offsets as they are, and its default boxes are not in the file: give --priors"),
        (_linear, "in another way than an SSD's"),
        (_wrong_axis, "softmax goes over something other"),
        (_centreness, "products of two outputs, class and centreness, as ATSS's"),
        (_classifier, "1 outputs of scores and 0 of boxes"),
        (_unknown, "type Round stands between its maps and its boxes"),
    ],
)
def test_what_is_no_ssd_is_refused(ends, match, tmp_path):
    b = Builder()
    b.maps = b.trunk()
    path = b.save(tmp_path / "net.onnx", ends(b))
    with pytest.raises(CheckpointError, match=match) as caught:
        import_foreign(path)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused_in_one_line(tmp_path):
    path = network(tmp_path / "net.onnx", "torch")
    data = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(40):
        changed = bytearray(data)
        for place in random.integers(0, len(data), 12):
            changed[place] = random.integers(0, 256)
        path.write_bytes(bytes(changed[: random.integers(len(data) // 2, len(data) + 1)]))
        try:
            import_foreign(path)
        except CheckpointError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["Reshape", "Conv", "Transpose", "Concat", "Slice", "Shape", "Clip", "Resize"])
def test_nodes_without_their_inputs_are_refused(kind, tmp_path):
    path = network(tmp_path / "net.onnx", "clipped")
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == kind:
            del node.input[:]
    onnx.save(model, path)
    with pytest.raises(CheckpointError) as caught:
        import_foreign(path)
    assert "\n" not in str(caught.value)


def test_arrays_may_lie_in_a_file_next_to_it(tmp_path):
    """As PyTorch's exporter writes them by now (onnx/docs/ExternalData.md)."""
    whole = network(tmp_path / "whole.onnx", "corners")
    wanted = import_foreign(whole).model.state_dict()
    path = tmp_path / "parts.onnx"
    onnx.save(onnx.load(whole), path, save_as_external_data=True, location="parts.data", size_threshold=0)
    data = tmp_path / "parts.data"
    assert data.is_file()
    found = import_foreign(path).model.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in wanted.items())
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"parts\.data ends before its numbers; the file is damaged"):
        import_foreign(path)
    data.unlink()
    with pytest.raises(CheckpointError, match=r"lies in parts\.data: want that file next to it"):
        import_foreign(path)


@pytest.mark.parametrize(
    ("key", "value"), [("location", "../parts.data"), ("location", ""), ("location", "a\0b"), ("offset", "-8")]
)
def test_arrays_are_not_looked_for_elsewhere(key, value, tmp_path):
    path = tmp_path / "folder" / "parts.onnx"
    path.parent.mkdir()
    model = onnx.load(network(tmp_path / "whole.onnx", "corners"))
    onnx.save(model, path, save_as_external_data=True, location="parts.data", size_threshold=0)
    (tmp_path / "parts.data").write_bytes((path.parent / "parts.data").read_bytes())
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = value if entry.key == key else entry.value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="which is not next to the file"):
        import_foreign(path)


def test_mediapipes_detectors_are_named(tmp_path):
    """Also with one output for each of two maps, as some convert it."""
    shapes = {"boxes1": (1, 512, 16), "boxes2": (1, 384, 16), "scores1": (1, 512, 1), "scores2": (1, 384, 1)}
    given = [helper.make_tensor_value_info(f"in_{name}", 1, shape) for name, shape in shapes.items()]
    ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()]
    nodes = [helper.make_node("Relu", [f"in_{name}"], [name]) for name in shapes]
    path = tmp_path / "face.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "face", given, ends)), path)
    with pytest.raises(CheckpointError, match=r"MediaPipe's face detector, 896 default boxes: .* linear"):
        import_foreign(path)


def test_our_own_export_is_named(tmp_path):
    path = network(tmp_path / "net.onnx", "torch")
    model = onnx.load(path)
    model.producer_name = "singleshot"
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=r"exported.*: to train on .* give the checkpoint"):
        import_foreign(path)


def test_sides_that_are_open_are_asked_for(tmp_path):
    """And default boxes that are not in the file are the user's."""
    b = Builder()
    b.maps = b.trunk()
    path = b.save(tmp_path / "net.onnx", _raw(b))
    model = onnx.load(path)
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_param = "side"
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=r"fixed sides \(--size"):
        import_foreign(path)
    grids = ((16, 16), (8, 8))
    priors = tmp_path / "priors.json"
    priors.write_text(json.dumps(from_shapes((64, 64), grids, SHAPES).to_dict()))
    foreign = import_foreign(path, settings=ImportSettings(size=64, priors=str(priors)))
    assert foreign.model.prior_spec.grids == grids
    assert foreign.model.input_spec.sides == (64, 64)
    pixels = np.random.default_rng(3).integers(0, 256, (1, 3, 64, 64)).astype(np.float32)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scores, offsets = session.run(None, {"image": pixels})
    with torch.inference_mode():
        found = foreign.model(torch.from_numpy(pixels))
    assert np.abs(found.offsets.numpy() - offsets).max() < 1e-4
    assert np.abs(found.logits.softmax(-1).numpy() - scores).max() < 1e-4


def test_large_numbers_take_no_memory(tmp_path):
    """Sides that a file claims, and arrays that would become large by broadcasting."""
    path = network(tmp_path / "net.onnx", "torch")
    model = onnx.load(path)
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = 4096
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match="at most 20000000 are read"):
        import_foreign(path)
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = 2**30
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match="want 32 to 4096 pixels"):
        import_foreign(path)
    b = Builder()
    b.maps = b.trunk()
    scores, boxes = _raw(b)
    wide = b.add("Add", b.add("Reshape", boxes, b.const(np.array([-1, 1]))), b.const(np.zeros((1, 2**14))))
    path = b.save(tmp_path / "wide.onnx", [scores, b.add("Reshape", wide, b.const(np.array([1, -1, 4])))])
    with pytest.raises(CheckpointError, match="more than 20000000 numbers"):
        import_foreign(path)


def _length(b: Builder, x: str, how: str) -> str:
    """Of each cell over channels, [1, 1, H, W]."""
    if how == "ReduceL2":  # torch.nn.functional.normalize
        length = b.add("Clip", b.add("ReduceL2", x, axes=[1], keepdims=1), b.const(1e-12))
        return b.add("Expand", length, b.add("Shape", x))
    square = b.add("Mul", x, x) if how == "product" else b.add("Pow", x, b.const(2.0))
    total = b.add("ReduceSum", square, b.const(np.array([1])), keepdims=1)
    return b.add("Add", b.add("Sqrt", total), b.const(1e-10))


@pytest.mark.parametrize("how", ["ReduceL2", "power", "product"])
@pytest.mark.parametrize("corners", ["align_corners", "half_pixel", "pytorch_half_pixel"])
def test_lengths_that_are_written_out_and_linear_enlarging(how, corners, tmp_path):
    b = Builder()
    (first, channels), second = b.trunk()
    scale = b.const(b.random.uniform(1, 3, (1, channels, 1, 1)))
    spread = b.add("Expand", scale, b.add("Shape", first))
    unit = b.add("Mul", spread, b.add("Div", first, _length(b, first, how)))
    scales = b.const(np.array([1.0, 1.0, 2.0, 2.0]))
    up = b.add("Resize", b.conv(second[0], 16, 8), "", scales, mode="linear", coordinate_transformation_mode=corners)
    b.maps = [(b.add("Add", unit, up), channels), second]
    boxes = b.decoded(b.heads(4), prior_table(from_shapes(SIDES, GRIDS, SHAPES)), "torch")
    path = b.save(tmp_path / "net.onnx", [b.add("Softmax", b.heads(COLUMNS), axis=2), boxes])
    foreign = import_foreign(path)
    agree(path, foreign, "torch")
    kinds = {layer.kind for layer in foreign.model.backbone.graph.layers}
    assert {"l2norm", "upsample"} <= kinds


@pytest.mark.parametrize("batch", [True, False])
def test_an_export_of_torchvision(batch, tmp_path):
    """Its network resizes and pads the image, makes its default boxes, and sorts before it suppresses, which lies in a
    branch."""
    torch.manual_seed(0)
    theirs = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    image = torch.rand(3, 200, 280)
    path = tmp_path / "lite.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = (image[None],) if batch else ([image],)
        torch.onnx.export(theirs, given, path, opset_version=17 if batch else 11, dynamo=False)
    foreign = import_foreign(path)
    known = import_foreign(theirs.state_dict())
    assert foreign.model.prior_spec == known.model.prior_spec
    assert foreign.model.input_spec == known.model.input_spec
    assert foreign.thresholds == known.thresholds
    pixels = torch.randint(0, 256, (1, 3, 320, 320)).float()
    with torch.inference_mode():
        ours, wanted = foreign.model(pixels), known.model(pixels)
    assert (ours.offsets - wanted.offsets).abs().max() < 1e-5
    assert (ours.logits - wanted.logits).abs().max() < 1e-5
    assert "divided by 255" in " ".join(foreign.notes)


def test_known_default_boxes_are_those_of_the_same_size():
    """UltraFace's of 320 pixels, at 640, are its own of 640: these are named."""
    spec = prior_spec("ultraface640")
    assert [known.table for known in known_boxes(spec.grids, spec.per_cell, (480, 640))][:1] == ["ultraface640"]


def test_known_default_boxes_at_another_size(tmp_path):
    """UltraFace's of an image of 640 x 320, whose project a network without points of faces is of."""
    grids = ((40, 80), (20, 40), (10, 20), (5, 10))
    sizes = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
    shapes = [tuple((float(s), float(s)) for s in own) for own in sizes]
    spec = from_shapes((320, 640), grids, shapes, clip="center")
    b = Builder()
    parts: dict[int, list[str]] = {4: [], 2: []}
    x, channels = "image", 3
    for stride, own in zip((8, 2, 2, 2), sizes, strict=True):
        weight = b.const(b.random.uniform(-0.02, 0.02, (4, channels, stride, stride)))
        x, channels = b.add("Conv", x, weight, strides=[stride] * 2, kernel_shape=[stride] * 2), 4
        for columns in (4, 2):
            y = b.add("Transpose", b.conv(x, 4, len(own) * columns), perm=[0, 2, 3, 1])
            parts[columns].append(b.add("Reshape", y, b.const(np.array([1, -1, columns]))))
    boxes = b.decoded(b.add("Concat", *parts[4], axis=1), prior_table(spec), "torch")
    path = b.save(tmp_path / "net.onnx", [b.add("Softmax", b.add("Concat", *parts[2], axis=1), axis=2), boxes])
    model = onnx.load(path)
    for side, value in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (320, 640), strict=True):
        side.dim_value = value
    onnx.save(model, path)
    foreign = import_foreign(path)
    assert (set(foreign.model.input_spec.mean), foreign.model.input_spec.colour_order) == ({127.0}, "rgb")
    assert torch.equal(foreign.model.priors, torch.from_numpy(prior_table(spec)).float())
    assert "Linzaer" in " ".join(foreign.notes)

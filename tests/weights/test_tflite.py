from __future__ import annotations

import io
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import torch
from flatbuffers import flexbuffers
from hypothesis import given, settings
from hypothesis import strategies as st

from singleshot.conventions import DETECTION as RULES
from singleshot.errors import CheckpointError, ConfigError, MissingExtraError
from singleshot.postprocess import to_detections
from singleshot.prior_boxes import prior_table
from singleshot.prior_tables import PRIORS
from singleshot.priors import PriorSpec, make_priors
from singleshot.records import RawOutput
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importing import import_checkpoint, import_foreign
from singleshot.weights.readers.tflite import read_tflite

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

DETECTION = {
    "max_detections": 10,
    "max_classes_per_detection": 1,
    "nms_score_threshold": 0.05,
    "nms_iou_threshold": 0.5,
    "num_classes": 4,
    "y_scale": 10.0,
    "x_scale": 10.0,
    "h_scale": 5.0,
    "w_scale": 5.0,
}
QUANTUM = 1 / 128  # of quantised anchors
BUILTIN, OPTIONS = schema.BuiltinOperator, schema.BuiltinOptions


class Writer:
    """A network of TensorFlow Lite's, operator by operator."""

    def __init__(self) -> None:
        self.graph, self.model = schema.SubGraphT(), schema.ModelT()
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []
        self.model.operatorCodes, self.model.buffers, self.model.version = [], [schema.BufferT()], 3
        self.model.subgraphs = [self.graph]

    def tensor(self, name: str, shape: tuple[int, ...], data: np.ndarray | None = None, dtype: int = 0) -> int:
        one = schema.TensorT()
        one.name, one.shape, one.type, one.buffer = name, np.array(shape, np.int32), dtype, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            one.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(one)
        return len(self.graph.tensors) - 1

    def op(self, kind: str, inputs: list[int], outputs: list[int], union: str = "", custom: dict | None = None, **told):
        code, one = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(BUILTIN, kind, BUILTIN.CUSTOM)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.customCode, code.version = (kind if code.builtinCode == BUILTIN.CUSTOM else None), 1
        self.model.operatorCodes.append(code)
        one.opcodeIndex, one.inputs, one.outputs = len(self.model.operatorCodes) - 1, inputs, outputs
        if union:
            one.builtinOptions, one.builtinOptionsType = getattr(schema, f"{union}T")(), getattr(OPTIONS, union)
            for key, value in told.items():
                setattr(one.builtinOptions, key, value)
        if custom is not None:
            one.customOptions = np.frombuffer(bytes(flexbuffers.Dumps(custom)), np.uint8)
        self.graph.operators.append(one)

    def write(self, path: Path) -> Path:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(builder.Output())
        return path


class Tiny(Writer):
    """An SSD of two maps with every kind of layer that such networks have: 48 pixels, 4 classes and background."""

    def __init__(
        self, half: bool = False, anchors: np.ndarray | None = None, activation: str = "LOGISTIC", enlarge: str = ""
    ) -> None:
        super().__init__()
        self.half, self.rng = half, np.random.default_rng(0)
        x = self.tensor("image", (1, 48, 48, 3))
        self.graph.inputs = [x]
        x = self.conv("first", x, (1, 24, 24, 8), 3, stride=2, fused=3)
        depth = self.conv("depth", x, (1, 24, 24, 8), 3, fused=3, depthwise=True)
        add = self.tensor("add", (1, 24, 24, 8))
        self.op("ADD", [x, depth], [add], "AddOptions", fusedActivationFunction=0)
        swish = self.tensor("swish", (1, 24, 24, 8))
        self.op("HARD_SWISH", [add], [swish])
        padded = self.tensor("padded", (1, 26, 26, 8))
        amounts = self.tensor("amounts", (4, 2), np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32), 2)
        self.op("PAD", [swish, amounts], [padded], "PadOptions")
        one = self.conv("one", padded, (1, 12, 12, 12), 3, stride=2, fused=1, same=False)
        pool = self.tensor("pool", (1, 6, 6, 12))
        pooling = {"padding": 0, "strideW": 2, "strideH": 2, "filterWidth": 3, "filterHeight": 3}
        self.op("MAX_POOL_2D", [one], [pool], "Pool2DOptions", **pooling)
        mean, gate = self.tensor("mean", (1, 1, 1, 12)), self.tensor("gate", (1, 1, 1, 12))
        axes = self.tensor("axes", (2,), np.array([1, 2], np.int32), 2)
        self.op("REDUCE_MAX" if enlarge == "STACK" else "MEAN", [pool, axes], [mean], "ReducerOptions", keepDims=True)
        self.op("LOGISTIC", [mean], [gate])
        two = self.tensor("two", (1, 6, 6, 12))
        self.op("MUL", [pool, gate], [two], "MulOptions", fusedActivationFunction=0)
        if enlarge:
            one = self.pyramid(one, two, enlarge)
        boxes, scores = [], []
        for i, (x, side, kernel) in enumerate(((one, 12, 3), (two, 6, 1))):
            for values, rows in ((4, boxes), (5, scores)):
                y = self.conv(f"head{i}/{values}", x, (1, side, side, 2 * values), kernel)
                flat = self.tensor(f"flat{i}/{values}", (1, side * side * 2, values))
                shape = self.tensor(f"shape{i}/{values}", (3,), np.array([1, -1, values], np.int32), 2)
                self.op("RESHAPE", [y, shape], [flat])
                rows.append(flat)
        whole = [self.tensor(name, (1, 360, n)) for name, n in (("boxes", 4), ("logits", 5), ("scores", 5))]
        self.op("CONCATENATION", boxes, whole[:1], "ConcatenationOptions", axis=1)
        self.op("CONCATENATION", scores, whole[1:2], "ConcatenationOptions", axis=1)
        self.op(activation, whole[1:2], whole[2:])
        anchors = tiny_anchors() if anchors is None else anchors
        quantised = anchors.dtype == np.uint8
        index = self.tensor("anchors", anchors.shape, anchors, 3 if quantised else 0)
        if quantised:
            self.graph.tensors[index].quantization = schema.QuantizationParametersT()
            self.graph.tensors[index].quantization.scale, self.graph.tensors[index].quantization.zeroPoint = (
                [QUANTUM],
                [0],
            )
        self.detection([whole[0], whole[2], index])

    def pyramid(self, one: int, two: int, enlarge: str) -> int:
        """The smaller map, twice as large, added to the larger one."""
        up, joined = self.tensor("up", (1, 12, 12, 12)), self.tensor("joined", (1, 12, 12, 12))
        if enlarge == "RESIZE_NEAREST_NEIGHBOR":
            size = self.tensor("size", (2,), np.array([12, 12], np.int32), 2)
            self.op(enlarge, [two, size], [up], "ResizeNearestNeighborOptions", alignCorners=False)
        elif enlarge == "STACK":  # as MnasFPN's graphs have it: both axes at once
            last = two
            for i, form in enumerate(((1, 6, 1, 6, 1, 12), (1, 6, 6, 12), (1, 6, 6, 2, 12), (1, 6, 2, 6, 2, 12), 0)):
                out = self.tensor(f"form{i}", form) if form else up
                if i in (2, 3):
                    self.op("PACK", [last, last], [out], "PackOptions", axis=5 - i, valuesCount=2)
                else:
                    shape = np.array(form or (1, 12, 12, 12), np.int32)
                    self.op("RESHAPE", [last, self.tensor(f"up/shape{i}", shape.shape, shape, 2)], [out])
                last = out
        elif enlarge == "SPREAD":  # as MnasFPN's later graphs have it: times ones, two for each cell
            wide, spread = self.tensor("wide", (1, 6, 1, 6, 1, 12)), self.tensor("spread", (1, 6, 2, 6, 2, 12))
            ones = self.tensor("ones", (1, 1, 2, 1, 2, 1), np.ones((1, 1, 2, 1, 2, 1), np.float32))
            for x, y, form in ((two, wide, (1, 6, 1, 6, 1, 12)), (spread, up, (1, 12, 12, 12))):
                shape = np.array(form, np.int32)
                self.op("RESHAPE", [x, self.tensor(f"up/shape{y}", shape.shape, shape, 2)], [y])
                if y == wide:
                    self.op("MUL", [wide, ones], [spread], "MulOptions", fusedActivationFunction=0)
        elif enlarge in ("int16", "uint8"):  # a RESHAPE copies whole numbers, which count otherwise behind it
            steps = (
                [(2e-4, 0), (3e-4, 0), (1.5e-4, 0)] if enlarge == "int16" else [(0.02, 100), (0.03, 90), (0.015, 90)]
            )
            forms = ((1, 6, 6, 12), (1, 6, 6, 12), (1, 6, 6, 2, 12), (1, 6, 2, 6, 2, 12), (1, 12, 12, 12))
            last = two
            for i, form in enumerate(forms):
                out = self.tensor(f"form{i}", form, dtype={"int16": 7, "uint8": 3}[enlarge])
                scale, zero = steps[(0, 1, 1, 1, 2)[i]]
                one_of = schema.QuantizationParametersT()
                one_of.scale, one_of.zeroPoint = [scale], [zero]
                self.graph.tensors[out].quantization = one_of
                if i in (2, 3):
                    self.op("PACK", [last, last], [out], "PackOptions", axis=5 - i, valuesCount=2)
                elif i:
                    shape = np.array(form, np.int32)
                    self.op("RESHAPE", [last, self.tensor(f"up/shape{i}", shape.shape, shape, 2)], [out])
                else:
                    self.op("QUANTIZE", [last], [out])
                last = out
            self.op("DEQUANTIZE", [last], [up])
        else:  # utils/ops.py, nearest_neighbor_upsampling
            forms = (1, 6, 6, 2, 12), (1, 6, 12, 12), (1, 6, 2, 12, 12), (1, 12, 12, 12)
            last = two
            for i, form in enumerate(forms):
                out = up if i == 3 else self.tensor(f"form{i}", form)
                if i % 2:
                    shape = self.tensor(f"up/shape{i}", (4,), np.array(form, np.int32), 2)
                    self.op("RESHAPE", [last, shape], [out])
                else:
                    self.op("PACK", [last, last], [out], "PackOptions", axis=3 - i // 2, valuesCount=2)
                last = out
        self.op("ADD", [one, up], [joined], "AddOptions", fusedActivationFunction=0)
        return joined

    def conv(
        self, name: str, x: int, shape: tuple[int, ...], kernel: int, stride=1, fused=0, same=True, depthwise=False
    ):
        inner, outputs = self.graph.tensors[x].shape[3], shape[3]
        form = (1, kernel, kernel, outputs) if depthwise else (outputs, kernel, kernel, inner)
        values = self.rng.normal(0, 1.5 / np.sqrt(kernel**2 * (1 if depthwise else inner)), form).astype(np.float32)
        if self.half:
            stored = self.tensor(f"{name}/half", form, values.astype(np.float16), 1)
            weight = self.tensor(f"{name}/weight", form)
            self.op("DEQUANTIZE", [stored], [weight])
        else:
            weight = self.tensor(f"{name}/weight", form, values)
        bias = self.tensor(f"{name}/bias", (outputs,), self.rng.normal(0, 0.3, outputs).astype(np.float32))
        y = self.tensor(name, shape)
        told = {"padding": 0 if same else 1, "strideW": stride, "strideH": stride, "fusedActivationFunction": fused}
        if depthwise:
            self.op("DEPTHWISE_CONV_2D", [x, weight, bias], [y], "DepthwiseConv2DOptions", depthMultiplier=1, **told)
        else:
            self.op("CONV_2D", [x, weight, bias], [y], "Conv2DOptions", **told)
        return y

    def detection(self, inputs: list[int], **told: Any) -> None:
        outputs = [self.tensor(f"found{i}", shape) for i, shape in enumerate(((1, 10, 4), (1, 10), (1, 10), (1,)))]
        self.op("TFLite_Detection_PostProcess", inputs, outputs, custom={**DETECTION, **told})
        self.graph.outputs = outputs


def tiny_anchors() -> np.ndarray:
    """y x h w of two maps of 12 and 6 cells, two shapes each."""
    shapes = (((7.0, 9.0), (11.0, 5.0)), ((20.0, 20.0), (30.0, 15.0)))
    spec = PriorSpec(image_size=48, maps=(12, 6), min_sizes=(), max_sizes=(), ratios=(), shapes=shapes)
    return make_priors(spec).numpy()[:, [1, 0, 3, 2]].copy()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return Tiny().write(tmp_path_factory.mktemp("tflite") / "tiny.tflite")


@pytest.fixture(scope="session")
def detector(shared: Path) -> Path:
    return shared / "weights" / "coco_ssd_mobilenet_v1_quant_detect.tflite"


def raw_of(model: torch.nn.Module, image: np.ndarray) -> RawOutput:
    with torch.inference_mode():
        return model(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0))


# ------------------------------------------------------------------------------------------- networks made here


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("enlarge", ["", "PACK", "STACK", "SPREAD", "RESIZE_NEAREST_NEIGHBOR"])
def test_a_float_network_gives_the_outputs_of_litert(tmp_path, half, enlarge, litert):
    path = Tiny(half, enlarge=enlarge).write(tmp_path / "tiny.tflite")
    foreign = import_foreign(path)
    assert foreign.class_names is None
    assert "float" in foreign.source
    assert any("normalised" in note for note in foreign.notes)
    image = np.random.default_rng(1).integers(0, 256, (48, 48, 3), np.uint8)
    wanted = litert(path, {"image": (image[None] / 127.5 - 1).astype(np.float32)})
    raw = raw_of(foreign.model, image)
    assert np.abs(raw.offsets[0].numpy() - wanted["boxes"][0][:, [1, 0, 3, 2]]).max() < 1e-4
    assert np.abs(raw.logits[0].numpy() - wanted["logits"][0]).max() < 1e-4
    assert np.abs(foreign.model.priors.numpy() - tiny_anchors()[:, [1, 0, 3, 2]]).max() < 1e-6


@pytest.mark.parametrize(("enlarge", "most"), [("int16", 5e-3), ("uint8", 0.15)])
def test_what_a_reshape_counts_otherwise_changes(tmp_path, enlarge, most, litert):
    """LiteRT copies the whole numbers, whatever these stand for before and behind it."""
    path = Tiny(enlarge=enlarge).write(tmp_path / "tiny.tflite")
    image = np.random.default_rng(1).integers(0, 256, (48, 48, 3), np.uint8)
    wanted = litert(path, {"image": (image[None] / 127.5 - 1).astype(np.float32)})
    raw = raw_of(import_checkpoint(path), image)
    assert np.abs(raw.offsets[0].numpy() - wanted["boxes"][0][:, [1, 0, 3, 2]]).max() < most
    assert np.abs(raw.logits[0].numpy() - wanted["logits"][0]).max() < most


def test_ranges_that_were_not_measured_are_named(tmp_path):
    """toco's --default_ranges_min=0 --default_ranges_max=255."""
    tiny = Tiny()
    for one in tiny.graph.tensors:
        if one.name in ("head0/5", "head1/5"):
            one.type, one.quantization = 3, schema.QuantizationParametersT()
            one.quantization.scale, one.quantization.zeroPoint = [1.0], [0]
    notes = import_foreign(tiny.write(tmp_path / "tiny.tflite")).notes
    assert any("all scores are 0.5 at least" in note for note in notes)
    assert not any("at least" in note for note in import_foreign(Tiny().write(tmp_path / "plain.tflite")).notes)


def test_a_tensor_may_have_no_name_of_its_own_first(tmp_path):
    """A converter joins the names of all that a tensor was made of, and the first of them may be none."""
    tiny = Tiny()
    for one in tiny.graph.tensors:
        one.name = one.name if one.buffer or one.name == "image" else f";{one.name}"
    named = import_checkpoint(Tiny().write(tmp_path / "tiny.tflite"))
    nameless = import_checkpoint(tiny.write(tmp_path / "nameless.tflite"))
    image = np.random.default_rng(1).integers(0, 256, (48, 48, 3), np.uint8)
    assert torch.equal(raw_of(nameless, image).logits, raw_of(named, image).logits)


def test_maps_may_begin_at_places_of_their_own(tmp_path):
    """multiscale_grid_anchor_generator.py: half a step in, or not at all where the stride does not divide the image."""
    anchors = tiny_anchors()
    anchors[288:, :2] -= 0.5 / 6
    model = import_checkpoint(Tiny(anchors=anchors).write(tmp_path / "tiny.tflite"))
    assert np.abs(model.priors.numpy() - anchors[:, [1, 0, 3, 2]]).max() < 1e-6
    assert model.prior_spec.centres == (((0.5, 0.5),) * 2, ((0.0, 0.0),) * 2)


def test_quantised_anchors_may_be_a_step_away_here_and_there(tmp_path):
    """40 x 40 cells of a public FPN-lite: 5 of 17,000 anchors are rounded to the other side of half a step."""
    steps = np.round(tiny_anchors() / QUANTUM).astype(np.uint8)
    steps[7, 3] += 1
    foreign = import_foreign(Tiny(anchors=steps).write(tmp_path / "tiny.tflite"))
    assert "1 of its 360 anchors are rounded otherwise, by 0.38 px" in foreign.notes
    off = np.abs(foreign.model.priors.numpy() - steps[:, [1, 0, 3, 2]] * QUANTUM)
    assert (off > 1e-6).sum() == 1
    steps[7, 3] += 1
    with pytest.raises(CheckpointError, match="do not lie on a grid"):
        import_checkpoint(Tiny(anchors=steps).write(tmp_path / "odd.tflite"))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("regular", [False, True], ids=["fast", "regular"])
def test_both_kinds_of_nms_find_what_the_operator_finds(tmp_path, regular, activation, litert):
    """Under a softmax the background is often a box's best class, and wins none here."""
    writer, rng = Tiny(), np.random.default_rng(2)
    writer.graph.operators, inputs = [], [writer.tensor(n, (1, 360, k)) for n, k in (("b", 4), ("s", 5))]
    writer.graph.inputs = inputs
    anchors = writer.tensor("a", (360, 4), tiny_anchors())
    writer.detection([*inputs, anchors], use_regular_nms=regular, detections_per_class=3)
    path = writer.write(tmp_path / "nms.tflite")
    boxes = rng.normal(0, 1, (1, 360, 4)).astype(np.float32)
    scores = rng.uniform(0, 1, (1, 360, 5)).astype(np.float32)
    logits = torch.logit(torch.from_numpy(scores))
    if activation == "softmax":
        logits[..., 0] += 2
        scores = logits.softmax(-1).numpy()
        assert 0.3 < (scores.argmax(-1) == 0).mean() < 0.7
    wanted = litert(path, {"b": boxes, "s": scores})["found"]
    raw = RawOutput(torch.from_numpy(boxes[:, :, [1, 0, 3, 2]].copy()), logits)
    priors = torch.from_numpy(tiny_anchors()[:, [1, 0, 3, 2]].copy())
    thresholds = replace(import_foreign(_with_nms(tmp_path, regular)).thresholds, activation=activation)
    assert thresholds.class_agnostic != regular
    assert thresholds.keep_per_class == (3 if regular else None)
    assert thresholds.first_column == 1
    found = to_detections(raw, priors, **thresholds.for_postprocess())[0]
    assert len(found.scores) == wanted[3][0] == 10
    assert np.abs(found.boxes.numpy() - wanted[0][0][:, [1, 0, 3, 2]]).max() < 1e-4
    assert np.array_equal(found.labels.numpy(), wanted[1][0].astype(int))
    assert np.abs(found.scores.numpy() - wanted[2][0]).max() < 1e-5


def _with_nms(folder: Path, regular: bool) -> Path:
    writer = Tiny()
    inputs = list(writer.graph.operators.pop().inputs)
    writer.detection(inputs, use_regular_nms=regular, detections_per_class=3)
    return writer.write(folder / "whole.tflite")


def test_names_come_from_the_archive_behind_the_network(tiny, tmp_path):
    for lines in (["cat", "dog", "???", "owl"], ["???", "cat", "dog", "???", "owl"]):
        stored = io.BytesIO()
        with zipfile.ZipFile(stored, "w") as archive:
            archive.writestr("labelmap.txt", "\n".join(lines))
        (tmp_path / "named.tflite").write_bytes(tiny.read_bytes() + stored.getvalue())
        assert import_foreign(tmp_path / "named.tflite").class_names == ("cat", "dog", "unused 3", "owl")


@pytest.mark.parametrize("text", ["0 cat\n1 dog\n3 owl\n", "cat\ndog\n???\nowl\n", "BACKGROUND\ncat\ndog\nn/a\nowl"])
def test_names_come_from_the_list_next_to_the_network(tiny, tmp_path, text):
    (tmp_path / "labelmap.txt").write_text(text)
    (tmp_path / "detect.tflite").write_bytes(tiny.read_bytes())
    foreign = import_foreign(tmp_path / "detect.tflite")
    assert foreign.class_names == ("cat", "dog", "unused 3", "owl")
    assert foreign.names_note.startswith("class names from labelmap.txt next to it")


def test_the_user_says_how_pixels_are_prepared_where_the_file_does_not(tiny):
    spec = import_foreign(tiny, settings=ImportSettings(mean=0, std=(255, 255, 255))).model.input_spec
    assert (spec.mean, spec.std) == ((0.0,) * 3, (255.0,) * 3)


@pytest.mark.parametrize("options", [{"size": 300}, {"priors": "ssd300-voc"}])
def test_what_the_file_says_cannot_be_said_again(tiny, options):
    with pytest.raises(ConfigError, match=r"the file says its own .*; leave it out"):
        import_checkpoint(tiny, **options)


def test_the_pixels_of_a_quantised_network_are_its_own(detector):
    with pytest.raises(
        ConfigError, match=r"--mean 0: the file says its own \(TensorFlow Lite SSD, quantised \(uint8\)"
    ):
        import_checkpoint(detector, mean=0)


def test_a_network_of_the_edge_tpu_is_named(tmp_path):
    writer = Tiny()
    image, boxes, scores = writer.graph.inputs[0], *list(writer.graph.operators[-1].inputs)[:2]
    detection = writer.graph.operators[-1]
    writer.graph.operators = []
    writer.op("edgetpu-custom-op", [image], [boxes, scores], custom={"version": 1, "code": "x" * 70_000})
    writer.graph.operators.append(detection)
    with pytest.raises(CheckpointError, match=r"compiled for the Edge TPU.*edgetpu_compiler") as caught:
        import_checkpoint(writer.write(tmp_path / "ssd_edgetpu.tflite"))
    assert one_line(caught)


# ------------------------------------------------------------------------------------------- what is refused


def one_line(error: pytest.ExceptionInfo) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 600


def test_unknown_operators_are_named(tmp_path):
    writer = Tiny()
    codes = [code for code in writer.model.operatorCodes if code.builtinCode == BUILTIN.HARD_SWISH]
    codes[0].builtinCode = codes[0].deprecatedBuiltinCode = BUILTIN.RESIZE_BILINEAR
    with pytest.raises(CheckpointError, match=r"cannot be imported: RESIZE_BILINEAR \(1\)") as caught:
        import_checkpoint(writer.write(tmp_path / "odd.tflite"))
    assert one_line(caught)


@pytest.mark.parametrize(
    ("values", "classes", "said"),
    [
        (16, 1, "MediaPipe's face detector, 896 default boxes: .* linear in its offsets.* that are read: ultraface"),
        (18, 1, "MediaPipe's palm detector, .* import --list names"),
        (4, 3, "boxes and scores of 896 default boxes, which are in its project's code"),
        (7, 3, "not an SSD detector.*; want a .tflite that ends in TFLite_Detection_PostProcess$"),
    ],
)
def test_a_detector_without_the_operator_is_named(tmp_path, values, classes, said):
    writer = Tiny()
    writer.graph.operators.pop()
    writer.graph.outputs = [writer.tensor("values", (1, 896, values)), writer.tensor("found", (1, 896, classes))]
    weight = next(t for t in writer.graph.tensors if t.name == "one/weight")
    weight.sparsity = schema.SparsityParametersT()  # as MediaPipe's full-range detector has them
    with pytest.raises(CheckpointError, match=said) as caught:
        import_checkpoint(writer.write(tmp_path / "raw.tflite"))
    assert one_line(caught)


def test_a_yolo_is_named(tmp_path):
    writer = Tiny()
    writer.graph.operators.pop()
    writer.graph.outputs = [writer.tensor("all", (1, 12, 2100))]
    with pytest.raises(CheckpointError, match=r"not an SSD detector: .* 1x12x2100, as YOLOs do$") as caught:
        import_checkpoint(writer.write(tmp_path / "yolo.tflite"))
    assert one_line(caught)


def test_sparse_weights_are_named_where_they_are_needed(tmp_path):
    writer = Tiny()
    weight = next(t for t in writer.graph.tensors if t.name == "one/weight")
    weight.sparsity = schema.SparsityParametersT()
    with pytest.raises(CheckpointError, match="one/weight is stored as a sparse one, which is not read"):
        import_checkpoint(writer.write(tmp_path / "sparse.tflite"))


@pytest.mark.parametrize(
    ("enlarge", "change", "said"),
    [
        ("PACK", {"axis": 1}, "PACK that is not the enlarging of a map"),
        ("RESIZE_NEAREST_NEIGHBOR", {"alignCorners": True}, "with align_corners"),
    ],
)
def test_other_ways_to_enlarge_a_map_are_refused(tmp_path, enlarge, change, said):
    writer = Tiny(enlarge=enlarge)
    for op in writer.graph.operators:
        if op.builtinOptionsType in (OPTIONS.PackOptions, OPTIONS.ResizeNearestNeighborOptions):
            vars(op.builtinOptions).update(change)
    with pytest.raises(CheckpointError, match=said) as caught:
        import_checkpoint(writer.write(tmp_path / "odd.tflite"))
    assert one_line(caught)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a[::-1].copy(), "do not lie on a grid"),
        (lambda a: a[:-1], "359 anchors for 360 boxes"),
        (lambda a: a * np.float32(np.nan), "NaN"),
    ],
    ids=["mixed", "fewer", "nan"],
)
def test_anchors_that_cannot_be_are_refused(tmp_path, change, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        import_checkpoint(Tiny(anchors=change(tiny_anchors())).write(tmp_path / "odd.tflite"))
    assert one_line(caught)


def test_scores_without_an_activation_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither LOGISTIC nor SOFTMAX|scores come from RELU"):
        import_checkpoint(Tiny(activation="RELU").write(tmp_path / "odd.tflite"))


def test_a_file_cut_short_is_refused(detector, tiny, tmp_path):
    path = tmp_path / "cut.tflite"
    for source, parts in ((detector, (0.001, 0.5, 0.999)), (tiny, tuple(np.linspace(0.002, 0.98, 40)))):
        data = source.read_bytes()
        for part in parts:
            path.write_bytes(data[: int(len(data) * part)])
            with pytest.raises(CheckpointError) as caught:
                import_checkpoint(path)
            assert one_line(caught)


def test_flatbuffers_is_asked_for_where_it_is_missing(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(MissingExtraError, match=r"singleshot\[train\]"):
        read_tflite(tiny)


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_file_ends_in_one_line_or_a_model(tiny, tmp_path_factory, data):
    _damaged(tiny, tmp_path_factory, data, import_checkpoint)


@settings(max_examples=25)
@given(st.data())
def test_the_published_file_damaged_in_its_tables(detector, tmp_path_factory, data):
    _damaged(detector, tmp_path_factory, data, read_tflite)


def _damaged(source: Path, folders: Any, data: Any, read: Callable[[Path], object]) -> None:
    """Four bytes are others: anywhere in a small file, among the tables of the large one, which are at its ends."""
    stored = bytearray(source.read_bytes())
    tail = min(36_000, len(stored))
    at = data.draw(st.integers(0, 199) | st.integers(len(stored) - tail, len(stored) - 4))
    stored[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4) | st.just(b"\xff\xff\xff\xff"))
    path = folders.mktemp("damaged") / "damaged.tflite"
    path.write_bytes(stored)
    tracemalloc.start()
    started = time.perf_counter()
    try:
        read(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 700
    finally:
        spent, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        path.unlink()
    assert spent < 2  # tracing makes it several times slower
    assert peak < 20 * len(stored) + 2**24


# -------------------------------------------------------------------------- without the operator that decodes

MAPS, BOXES, COLUMNS = (19, 10, 5, 3, 2, 1), (3, 6, 6, 6, 6, 6), 4


class Raw(Writer):
    """An SSD of six maps that ends in boxes and logits, or scores, of all of them."""

    conv, half = Tiny.conv, False

    def __init__(self, active: bool, per_cell: tuple[int, ...] = BOXES) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)
        x = self.tensor("image", (1, 300, 300, 3))
        self.graph.inputs, boxes, scores = [x], [], []
        for i, (side, count, stride) in enumerate(zip(MAPS, per_cell, (16, 2, 2, 2, 2, 2), strict=True)):
            x = self.conv(f"map{i}", x, (1, side, side, 4), 3, stride=stride, fused=3)
            for values, rows in ((4, boxes), (COLUMNS, scores)):
                y = self.conv(f"head{i}/{values}/{len(rows)}", x, (1, side, side, count * values), 1)
                flat = self.tensor(f"flat{i}/{len(rows)}", (1, side * side * count, values))
                self.op("RESHAPE", [y, self.tensor(f"shape{i}", (3,), np.array([1, -1, values], np.int32), 2)], [flat])
                rows.append(flat)
        total = sum(side**2 * count for side, count in zip(MAPS, per_cell, strict=True))
        whole = [self.tensor(name, (1, total, n)) for name, n in (("boxes", 4), ("logits", COLUMNS))]
        self.op("CONCATENATION", boxes, whole[:1], "ConcatenationOptions", axis=1)
        self.op("CONCATENATION", scores, whole[1:], "ConcatenationOptions", axis=1)
        self.graph.outputs = whole
        if active:
            self.graph.outputs = [whole[0], self.tensor("scores", (1, total, COLUMNS))]
            self.op("LOGISTIC", whole[1:], self.graph.outputs[1:])


@pytest.mark.parametrize("active", [False, True])
def test_the_apis_sample_boxes_are_assumed(tmp_path, active, litert):
    path = Raw(active).write(tmp_path / "ssd.tflite")
    foreign = import_foreign(path)
    assert "assumed to be the Object Detection API's samples'" in " ".join(foreign.notes)
    assert np.abs(foreign.model.priors.numpy() - prior_table(PRIORS["ssd300-tf"])).max() < 1e-4  # a third as .3333
    assert foreign.thresholds == RULES["tf-object-detection"]
    image = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
    wanted = litert(path, {"image": (image[None] / 127.5 - 1).astype(np.float32)})
    raw = raw_of(foreign.model, image)
    assert np.abs(raw.offsets[0].numpy() - wanted["boxes"][0][:, [1, 0, 3, 2]]).max() < 1e-4
    scores = raw.logits[0].sigmoid().numpy() if active else raw.logits[0].numpy()
    assert np.abs(scores - wanted["scores" if active else "logits"][0]).max() < 1e-4
    assert torch.isfinite(raw.logits).all()


class RawFaces(Raw):
    """The maps and boxes of Ultra-Light's at 320 x 240, and a convolution with dilation as TensorFlow 1 writes it."""

    def __init__(self) -> None:
        Writer.__init__(self)
        self.rng = np.random.default_rng(0)
        x = self.tensor("image", (1, 240, 320, 3))
        self.graph.inputs, boxes, scores = [x], [], []
        for i, (rows, columns, count) in enumerate(((30, 40, 3), (15, 20, 2), (8, 10, 2), (4, 5, 3))):
            x = self.conv(f"map{i}", x, (1, rows, columns, 4), 3, stride=2 if i else 8, fused=1)
            x = self.dilated(x, rows, columns) if i == 1 else x
            for values, parts in ((4, boxes), (2, scores)):
                y = self.conv(f"head{i}/{values}", x, (1, rows, columns, count * values), 1)
                flat = self.tensor(f"flat{i}/{values}", (1, 1, values))  # as a converter leaves an open batch
                self.op("RESHAPE", [y, self.tensor(f"shape{i}", (3,), np.array([1, -1, values], np.int32), 2)], [flat])
                parts.append(flat)
        ends = [self.tensor(name, (1, 1, n)) for name, n in (("boxes", 4), ("logits", 2), ("scores", 2))]
        self.op("CONCATENATION", boxes, ends[:1], "ConcatenationOptions", axis=1)
        self.op("CONCATENATION", scores, ends[1:2], "ConcatenationOptions", axis=1)
        self.op("SOFTMAX", ends[1:2], ends[2:], "SoftmaxOptions", beta=1.0)
        self.graph.outputs = [ends[0], ends[2]]

    def dilated(self, x: int, rows: int, columns: int) -> int:
        steps = self.tensor("steps", (2,), np.array([2, 2], np.int32), 2)
        around = self.tensor("around", (4, 2), np.array([[0, 0], [2, 2], [2, 2], [0, 0]], np.int32), 2)
        pads = self.tensor("pads", (2, 2), np.array([[0, 1], [0, 0]], np.int32), 2)
        padded = self.tensor("padded", (1, rows + 4, columns + 4, 4))
        self.op("PAD", [x, around], [padded], "PadOptions")
        spread = self.tensor("spread", (4, (rows + 5) // 2, (columns + 4) // 2, 4))
        self.op("SPACE_TO_BATCH_ND", [padded, steps, pads], [spread], "SpaceToBatchNDOptions")
        y = self.conv("within", spread, (4, (rows + 1) // 2, columns // 2, 4), 3, same=False)
        whole = self.tensor("whole", (1, rows, columns, 4))
        self.op("BATCH_TO_SPACE_ND", [y, steps, pads], [whole], "BatchToSpaceNDOptions")
        return whole


def test_boxes_of_a_known_project_are_assumed(tmp_path, litert):
    path = RawFaces().write(tmp_path / "faces.tflite")
    foreign = import_foreign(path)
    assert foreign.class_names == ("face",)
    assert "assumed to be Linzaer/Ultra-Light" in foreign.notes[0]
    assert foreign.model.prior_spec == PRIORS["ultraface320"]
    image = np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)
    wanted = litert(path, {"image": ((image[None] - 127.0) / 128).astype(np.float32)})
    raw = raw_of(foreign.model, image)
    assert np.abs(raw.offsets[0].numpy() - wanted["boxes"][0]).max() < 1e-4
    assert np.abs(raw.logits[0].softmax(-1).numpy() - wanted["scores"][0]).max() < 1e-4


def test_other_numbers_of_boxes_are_named(tmp_path):
    path = Raw(True, (5,) * 6).write(tmp_path / "ssd.tflite")
    with pytest.raises(CheckpointError, match="boxes and scores of 2500 default boxes, which are in"):
        import_foreign(path)

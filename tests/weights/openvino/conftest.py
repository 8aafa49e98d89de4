"""SSDs built of OpenVINO's own operations, written as IR and run by OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from singleshot.postprocess import to_detections
from singleshot.weights.importing import import_foreign

ov = pytest.importorskip("openvino")
op = pytest.importorskip("openvino.opset8")

HEIGHT, WIDTH = 40, 72
DETECTION = {
    "background_label_id": 0,
    "top_k": 400,
    "keep_top_k": [200],
    "nms_threshold": 0.45,
    "confidence_threshold": 0.2,
    "code_type": "caffe.PriorBoxParameter.CENTER_SIZE",
    "normalized": True,
}
PRIOR = {
    "min_size": [10.9],
    "max_size": [20.7],
    "aspect_ratio": [2.0],
    "flip": True,
    "clip": False,
    "step": 4.0,
    "offset": 0.5,
    "variance": [0.1, 0.1, 0.2, 0.2],
    "scale_all_sizes": True,
}
CLUSTERED = {
    "width": [12.5, 30.0],
    "height": [8.0, 25.25],
    "clip": False,
    "step": 8.0,
    "offset": 0.5,
    "variance": [0.1, 0.1, 0.2, 0.2],
}


class Builder:
    """Layers with random weights that keep values near 1."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)

    def const(self, *shape: int, scale: float = 1.0, low: float = -1.0) -> Any:
        return op.constant((self.random.uniform(low, 1, shape) * scale).astype(np.float32))

    def conv(self, x: Any, outputs: int, kernel: int = 3, stride: int = 1, bias: bool = True, groups: int = 1) -> Any:
        inputs = x.shape[1] // groups
        scale = np.sqrt(3 / (inputs * kernel**2))
        window = [[stride] * 2, [kernel // 2] * 2, [kernel // 2] * 2, [1, 1]]
        if groups > 1:
            weight = self.const(groups, outputs // groups, inputs, kernel, kernel, scale=scale)
            y = op.group_convolution(x, weight, *window)
        else:
            y = op.convolution(x, self.const(outputs, inputs, kernel, kernel, scale=scale), *window)
        return op.add(y, self.const(1, outputs, 1, 1, scale=0.1)) if bias else y

    def image(self, channels: int = 3) -> tuple[Any, Any]:
        """The input, and it less a mean, times a scale."""
        image = op.parameter([1, channels, HEIGHT, WIDTH], np.float32, name="data")
        mean = op.constant(np.array([-104, -117, -123][:channels], np.float32).reshape(1, channels, 1, 1))
        return image, op.multiply(op.add(image, mean), op.constant(np.array([[[[0.017]]]], np.float32)))

    def flat(self, x: Any) -> Any:
        turned = op.transpose(x, op.constant(np.array([0, 2, 3, 1])))
        return op.reshape(turned, op.constant(np.array([0, -1])), special_zero=True)


def sides(x: Any) -> Any:
    ends = (op.constant(np.array([n])) for n in (2, 4, 1))
    return op.strided_slice(op.shape_of(x), *ends, [0], [0])


def prior_box(kind: str, feature: Any, image: Any, attributes: dict[str, Any]) -> Any:
    layer = op.prior_box if kind == "PriorBox" else op.prior_box_clustered
    return op.unsqueeze(layer(sides(feature), sides(image), attributes), op.constant(np.array([0])))


def _end(builder: Builder, image: Any, maps: list[Any], **changes: Any) -> Any:
    """Heads and DetectionOutput. changes: classes, activation, boxes, loc_classes, priors, prior, clustered, or an
    attribute of DetectionOutput."""
    classes, activation = changes.pop("classes", 3), changes.pop("activation", "softmax")
    own = changes.pop("loc_classes", 1)
    prior, clustered = PRIOR | changes.pop("prior", {}), CLUSTERED | changes.pop("clustered", {})
    tables = [prior_box("PriorBox", maps[0], image, prior), prior_box("PriorBoxClustered", maps[1], image, clustered)]
    cells = [m.shape[2] * m.shape[3] for m in maps]
    boxes = [t.shape[2] // 4 // n for t, n in zip(tables, cells, strict=True)]
    locations = [builder.flat(builder.conv(m, 4 * own * n)) for m, n in zip(maps, boxes, strict=True)]
    logits = [builder.flat(builder.conv(m, classes * n)) for m, n in zip(maps, boxes, strict=True)]
    scores = op.concat(logits, 1)
    rows = op.reshape(scores, op.constant(np.array([0, -1, classes])), special_zero=True)
    rows = op.softmax(rows, 2) if activation == "softmax" else op.sigmoid(rows)
    scores = op.reshape(rows, op.constant(np.array([0, -1])), special_zero=True)
    table = op.concat(tables, 2)
    if changes.pop("folded", False):
        model = ov.Model([table], [image], "priors")
        values = next(iter(ov.compile_model(model, "CPU")([np.zeros(image.shape, np.float32)]).values()))
        table = op.constant(values[:, :1] if changes.get("variance_encoded_in_target") else values)
    extra = changes.pop("extra", False)
    attributes = DETECTION | changes
    more = {"aux_class_preds": scores, "aux_box_preds": op.concat(locations, 1)} if extra else {}
    return op.detection_output(op.concat(locations, 1), scores, table, attributes, **more)


@pytest.fixture
def ir(tmp_path: Path) -> SimpleNamespace:
    """builder(): layers; end(...): heads and DetectionOutput; small(**changes): a network of two maps;
    save(end, image), save_all(ends, image): its files; agree(path): scores and detections are OpenVINO's; the imported
    model, their labels and ours."""

    def small(channels: int = 3, seed: int = 0, **changes: Any) -> Path:
        builder = Builder(seed)
        image, x = builder.image(channels)
        first = op.relu(builder.conv(op.relu(builder.conv(x, 8, stride=2)), 8, stride=2))
        second = op.relu(builder.conv(first, 12, stride=2))
        half = changes.pop("half", False)
        return save(_end(builder, image, [first, second], **changes), image, half)

    def save(end: Any, image: Any, half: bool = False) -> Path:
        return save_all([end], image, half)

    def save_all(ends: list[Any], image: Any, half: bool = False) -> Path:
        path = tmp_path / "net.xml"
        outputs = [end if isinstance(end, ov.Output) else end.output(0) for end in ends]
        ov.save_model(ov.Model(outputs, [image], "net"), str(path), compress_to_fp16=half)
        return path

    return SimpleNamespace(
        builder=Builder,
        end=_end,
        small=small,
        save=save,
        save_all=save_all,
        agree=agree,
        run=run,
        op=op,
        ov=ov,
        sides=(HEIGHT, WIDTH),
        prior_box=prior_box,
        detection=DETECTION,
    )


def run(path: Path, pixels: np.ndarray) -> list[np.ndarray]:
    """Detections, offsets and scores that OpenVINO computes of one image; quantised layers in float, too, since without
    VNNI its sums of 8 bits overflow."""
    network = ov.Core().read_model(str(path))
    end = next(node for node in network.get_ops() if node.get_type_name() == "DetectionOutput")
    network.add_outputs([end.input(0).get_source_output(), end.input(1).get_source_output()])
    compiled = ov.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"})
    found = compiled(pixels[None])
    return [np.array(found[i]) for i in range(3)]


def agree(
    path: Path, tolerance: float = 1e-4, final: bool = True, turn: Callable[[np.ndarray], np.ndarray] | None = None
) -> Any:
    """turn: what the file takes of [C, H, W] in our network's order; final: detections are compared, too."""
    foreign = import_foreign(path)
    model, spec = foreign.model, foreign.model.input_spec
    image = np.random.default_rng(7).integers(0, 256, spec.shape).astype(np.float32)
    turned = image[..., ::-1] if spec.colour_order == "bgr" else image  # the file takes blue first
    detections, _, scores = run(path, (turn or np.float32)(turned.transpose(2, 0, 1)))
    with torch.inference_mode():
        raw = model(torch.from_numpy(image).permute(2, 0, 1)[None])
    own = raw.logits.softmax(-1) if foreign.thresholds.activation == "softmax" else raw.logits.sigmoid()
    assert abs(np.sort(scores.ravel())[-50:] - np.sort(own.numpy().ravel())[-50:]).max() < tolerance
    rule = foreign.thresholds.for_postprocess()
    found = to_detections(raw, model.priors, variances=model.prior_spec.variances, **rule)[0]
    rows = detections.reshape(-1, 7)
    rows = rows[: np.argmax(rows[:, 0] < 0)] if (rows[:, 0] < 0).any() else rows
    rows = rows[rows[:, 0] >= 0]
    rows = rows[np.argsort(-rows[:, 2], kind="stable")]
    if not final:
        return foreign, None, None
    assert len(rows) == len(found.scores) > 5
    assert abs(rows[:, 2] - found.scores.numpy()).max() < tolerance
    assert abs(rows[:, 3:] - found.boxes.numpy()).max() < tolerance
    return foreign, rows[:, 1].astype(int), found.labels.numpy()

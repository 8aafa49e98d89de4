"""Files before version 10, which OpenVINO itself no longer reads: held to the same network of its operations now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from singleshot.errors import CheckpointError
from singleshot.weights.importing import import_foreign

PRIORS = 'width="9.5,20" height="12,8.5" clip="0" flip="1" step="4.0" offset="0.5" variance="0.1,0.1,0.2,0.2"'
END = (
    'num_classes="3" background_label_id="0" top_k="400" keep_top_k="200" nms_threshold="0.45" eta="1.0" '
    'confidence_threshold="0.2" code_type="caffe.PriorBoxParameter.CENTER_SIZE" share_location="1" normalized="1" '
    'variance_encoded_in_target="0" input_height="-1" input_width="-1" visualize="False"'
)


class OldFile:
    """Layers in the order in which they run, with blobs of half precision."""

    def __init__(self) -> None:
        self.layers: list[str] = []
        self.edges: list[str] = []
        self.data = b""
        self.shapes: list[tuple[int, ...]] = []

    def layer(
        self, kind: str, shape: tuple[int, ...], takes: tuple[int, ...], data: str = "", **blobs: np.ndarray
    ) -> int:
        """Index of the layer; takes: indices of others."""
        number = len(self.layers)
        rows = ""
        for part, values in blobs.items():
            raw = values.astype(np.float16).tobytes()
            rows += f'<{part} offset="{len(self.data)}" size="{len(raw)}"/>'
            self.data += raw
        ports = "".join(f'<port id="{k}">{_dims(self.shapes[t])}</port>' for k, t in enumerate(takes))
        output = f'<output><port id="{len(takes)}">{_dims(shape)}</port></output>'
        body = f"<data {data}/>" if data else ""
        body += f"<input>{ports}</input>" if takes else ""
        body += output + (f"<blobs>{rows}</blobs>" if rows else "")
        self.layers.append(
            f'<layer id="{number}" name="{kind.lower()}{number}" precision="FP16" type="{kind}">{body}</layer>'
        )
        for port, taken in enumerate(takes):
            source = self.layers[taken].count("<port") - 1
            edge = f'from-layer="{taken}" from-port="{source}" to-layer="{number}" to-port="{port}"'
            self.edges.append(f"<edge {edge}/>")
        self.shapes.append(shape)
        return number

    def write(self, path: Path, version: int) -> Path:
        layers, edges = "".join(self.layers), "".join(self.edges)
        about = '<meta_data><cli_parameters><model_name value="face-detection-x"/></cli_parameters></meta_data>'
        inside = f"<layers>{layers}</layers><edges>{edges}</edges>{about}"
        text = f'<net batch="1" name="old" version="{version}">{inside}</net>'
        path.write_text(f'<?xml version="1.0" ?>\n{text}')
        path.with_suffix(".bin").write_bytes(self.data)
        return path


def _dims(shape: tuple[int, ...]) -> str:
    return "".join(f"<dim>{n}</dim>" for n in shape)


@pytest.fixture
def arrays() -> dict[str, Any]:
    random = np.random.default_rng(5)

    def values(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (random.uniform(-1, 1, shape) * scale).astype(np.float16).astype(np.float32)

    return {
        "factor": np.full(3, 0.0175, np.float16).astype(np.float32),
        "shift": values(3),
        "first": values(8, 3, 3, 3, scale=0.5),
        "bias": values(8),
        "depthwise": values(8, 1, 3, 3),
        "slopes": np.abs(values(8)),
        "norm": np.abs(values(8, scale=6)),
        "loc": values(8, 8, 3, 3, scale=0.3),
        "conf": values(6, 8, 1, 1),
    }


def old_file(a: dict[str, Any], oldest: bool) -> OldFile:
    file = OldFile()
    window = 'kernel="3,3" strides="2,2" dilations="1,1" pads_begin="1,1" pads_end="1,1" group="1" output="8"'
    if oldest:  # as version 2 has it: across and down by themselves
        window = 'kernel-x="3" kernel-y="3" stride-x="2" stride-y="2" dilation-x="1" dilation-y="1" pad-x="1" pad-y="1"'
        window += ' group="1" output="8"'
    image = file.layer("Input", (1, 3, 40, 72), ())
    x = file.layer("ScaleShift", (1, 3, 40, 72), (image,), weights=a["factor"], biases=a["shift"])
    x = file.layer("Convolution", (1, 8, 20, 36), (x,), window, weights=a["first"], biases=a["bias"])
    x = file.layer("ReLU", (1, 8, 20, 36), (x,), 'negative_slope="0.25"')
    pool = 'kernel="3,3" strides="2,2" pads_begin="0,0" pads_end="0,0" pool-method="max" rounding_type="ceil"'
    x = file.layer("Pooling", (1, 8, 10, 18), (x,), pool)
    deep = 'kernel="3,3" strides="1,1" dilations="1,1" pads_begin="1,1" pads_end="1,1" group="8" output="8"'
    y = file.layer("Convolution", (1, 8, 10, 18), (x,), deep, weights=a["depthwise"])
    y = file.layer("PReLU", (1, 8, 10, 18), (y,), 'channel_shared="0"', weights=a["slopes"])
    y = file.layer("Power", (1, 8, 10, 18), (y,), 'power="1" scale="0.5" shift="0.125"')
    x = file.layer("Eltwise", (1, 8, 10, 18), (x, y), 'operation="sum" coeff=""')
    norm = 'across_spatial="0" channel_shared="0" eps="0.00000000010"'
    x = file.layer("Normalize", (1, 8, 10, 18), (x,), norm, weights=a["norm"])
    flat = []
    for part, kernel in (("loc", 3), ("conf", 1)):
        pad, outputs = kernel // 2, len(a[part])
        window = (
            f'kernel="{kernel},{kernel}" strides="1,1" dilations="1,1" pads_begin="{pad},{pad}" pads_end="{pad},{pad}"'
        )
        head = file.layer(
            "Convolution", (1, outputs, 10, 18), (x,), f'{window} group="1" output="{outputs}"', weights=a[part]
        )
        head = file.layer("Permute", (1, 10, 18, outputs), (head,), 'order="0,2,3,1"')
        flat.append(file.layer("Flatten", (1, outputs * 180), (head,), 'axis="1"'))
    rows = file.layer("Reshape", (1, 360, 3), (flat[1],), 'axis="0" dim="0,-1,3" num_axes="-1"')
    rows = file.layer("SoftMax", (1, 360, 3), (rows,), 'axis="2"')
    scores = file.layer("Flatten", (1, 1080), (rows,), 'axis="1"')
    priors = file.layer("PriorBoxClustered", (1, 2, 1440), (x, image), PRIORS)
    file.layer("DetectionOutput", (1, 1, 200, 7), (flat[0], scores, priors), END)
    return file


def as_now(a: dict[str, Any], ir: Any) -> Path:
    """The same network of OpenVINO's operations."""
    op = ir.op

    def c(values: np.ndarray, *shape: int) -> Any:
        return op.constant(values.reshape(shape) if shape else values)

    image = op.parameter([1, 3, 40, 72], np.float32, name="data")
    x = op.add(op.multiply(image, c(a["factor"], 1, 3, 1, 1)), c(a["shift"], 1, 3, 1, 1))
    x = op.add(op.convolution(x, c(a["first"]), [2, 2], [1, 1], [1, 1], [1, 1]), c(a["bias"], 1, 8, 1, 1))
    x = op.prelu(x, op.constant(np.array([0.25], np.float32)))
    x = op.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [3, 3], "ceil", "explicit").output(0)
    y = op.group_convolution(x, c(a["depthwise"], 8, 1, 1, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1])
    y = op.prelu(y, c(a["slopes"]))
    y = op.add(op.multiply(y, c(np.float32([0.5]), 1, 1, 1, 1)), c(np.float32([0.125]), 1, 1, 1, 1))
    x = op.normalize_l2(op.add(x, y), op.constant(np.array([1])), 1e-10, "add")
    x = op.multiply(x, c(a["norm"], 1, 8, 1, 1))
    flat = ir.builder().flat
    loc = flat(op.convolution(x, c(a["loc"]), [1, 1], [1, 1], [1, 1], [1, 1]))
    conf = flat(op.convolution(x, c(a["conf"]), [1, 1], [0, 0], [0, 0], [1, 1]))
    rows = op.softmax(op.reshape(conf, op.constant(np.array([0, -1, 3])), special_zero=True), 2)
    scores = op.reshape(rows, op.constant(np.array([0, -1])), special_zero=True)
    table = ir.prior_box(
        "PriorBoxClustered",
        x,
        image,
        {
            "width": [9.5, 20.0],
            "height": [12.0, 8.5],
            "clip": False,
            "step": 4.0,
            "offset": 0.5,
            "variance": [0.1, 0.1, 0.2, 0.2],
        },
    )
    return ir.save(op.detection_output(loc, scores, table, ir.detection), image)


@pytest.mark.parametrize("version", [2, 4, 7])
def test_files_before_version_10(version, arrays, ir, tmp_path):
    now = as_now(arrays, ir)
    wanted, *_ = ir.agree(now)
    old = import_foreign(old_file(arrays, version == 2).write(tmp_path / "old.xml", version))
    assert old.source == f"OpenVINO network face-detection-x, IR version {version}"
    images = torch.rand(1, 3, 40, 72) * 255
    with torch.inference_mode():
        a, b = old.model(images), wanted.model(images)
    assert (a.offsets - b.offsets).abs().max() < 1e-4
    assert (a.logits - b.logits).abs().max() < 1e-4
    assert torch.equal(old.model.priors, wanted.model.priors)
    assert old.thresholds == wanted.thresholds
    assert np.allclose(old.model.input_spec.mean, wanted.model.input_spec.mean, atol=1e-3)


def test_default_boxes_as_numbers(arrays, tmp_path):
    """As TensorFlow's networks were converted: the boxes are a constant, whose shape is changed by a layer without a
    second input, and DetectionOutput does not say that they are parts of the image."""
    whole = import_foreign(old_file(arrays, False).write(tmp_path / "whole.xml", 3))
    boxes = whole.model.priors.double().numpy()
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1).reshape(-1)
    table = np.stack([corners, np.tile([0.1, 0.1, 0.2, 0.2], 360)])[None]
    file = old_file(arrays, False)
    file.layers, file.edges = (
        file.layers[:-2],
        file.edges[:-5],
    )  # PriorBoxClustered takes two, DetectionOutput three
    file.shapes = file.shapes[:-2]
    ends = len(file.layers)  # behind the two that DetectionOutput takes
    constant = file.layer("Const", (1, 2, 1440), (), custom=table)
    constant = file.layer("Reshape", (1, 2, 1440), (constant,), 'axis="0" dim="1,2,-1" num_axes="-1"')
    location = next(i for i, layer in enumerate(file.layers) if 'type="Flatten"' in layer)
    end = END.replace('normalized="1" ', "")
    file.layer("DetectionOutput", (1, 1, 200, 7), (location, ends - 1, constant), end)
    found = import_foreign(file.write(tmp_path / "old.xml", 3))
    assert np.abs(found.model.priors.numpy() - boxes).max() < 1e-3  # half precision
    assert found.model.prior_spec.maps == whole.model.prior_spec.maps
    assert found.thresholds == whole.thresholds


def test_means_of_a_pre_process(arrays, tmp_path):
    path = old_file(arrays, True).write(tmp_path / "old.xml", 2)
    text = path.read_text()
    rows = "".join(f'<channel id="{i}"><mean value="{v}"/></channel>' for i, v in enumerate((10, 20, 30)))
    path.write_text(text.replace("<layers>", f'<pre-process mean-precision="FP32">{rows}</pre-process><layers>'))
    plain = import_foreign(old_file(arrays, True).write(tmp_path / "plain.xml", 2)).model.input_spec
    spec = import_foreign(path).model.input_spec
    assert np.allclose(np.subtract(spec.mean, plain.mean), (30, 20, 10), atol=1e-3)
    path.write_text(path.read_text().replace('<mean value="10"/>', '<mean offset="0" size="12"/>'))
    with pytest.raises(CheckpointError, match="an image of means, which is not done here"):
        import_foreign(path)


def test_blobs_that_do_not_fit(arrays, tmp_path):
    path = old_file(arrays, False).write(tmp_path / "old.xml", 4)
    text = path.read_text()
    path.write_text(text.replace('output="8"', 'output="9"', 1))
    with pytest.raises(CheckpointError, match=r"has 216 weights, want 9 x 3 x 3 x 3"):
        import_foreign(path)
    path.write_text(text.replace('operation="sum"', 'operation="max"', 1))
    with pytest.raises(CheckpointError, match=r"eltwise.* is known as sum and product"):
        import_foreign(path)

"""Caffe networks as lists of rows: written as prototxt and caffemodel, and computed layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

Row = tuple[str, str, list[str], str, dict[str, Any]]  # name, type, bottoms, top, parameters
Arrays = Mapping[str, np.ndarray]
INPUT = 'name: "net" input: "data" input_shape {{ dim: 1 dim: 3 dim: {side} dim: {side} }}\n'


@pytest.fixture(scope="session")
def caffe(tables: SimpleNamespace) -> SimpleNamespace:
    """text(rows, side): a prototxt; model(arrays, rows, ...): bytes of a caffemodel; both(folder, ...): files of them;
    weights(rows): random ones that fit; compute(rows, arrays, image): all blobs; head(...), end(...): rows of an SSD's
    last layers; vgg(...), mobilenet(...): rows of whole networks."""
    return SimpleNamespace(
        text=_text,
        model=_model(tables),
        both=_both(_model(tables)),
        weights=_weights,
        compute=_compute,
        head=_head,
        end=_end,
        vgg=_vgg,
        mobilenet=_mobilenet,
        conv=_conv,
        relu=_relu,
        norm=_norm,
    )


# -------------------------------------------------------------------------------------------------- files


def _value(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{key} {{ {_values(value)} }}"
    if isinstance(value, list):
        return " ".join(_value(key, v) for v in value)
    return f"{key}: {str(value).lower() if isinstance(value, bool) else value}"


def _values(values: Mapping[str, Any]) -> str:
    return " ".join(_value(key, value) for key, value in values.items())


def _text(rows: Sequence[Row], side: int | None = 300) -> str:
    lines = [] if side is None else [INPUT.format(side=side)]
    for name, kind, bottoms, top, parameters in rows:
        takes = " ".join(f'bottom: "{b}"' for b in bottoms)
        lines.append(
            f'layer {{\n  name: "{name}" type: "{kind}"\n  {takes} top: "{top}"\n  {_values(parameters)}\n}}\n'
        )
    return "".join(lines)


def _model(tables: SimpleNamespace) -> Callable[..., bytes]:
    number, message = tables.number, tables.message

    def floats(values: np.ndarray, how: str) -> bytes:
        if how == "double":
            return message(8, values.astype("<f8").tobytes())
        if how == "half":
            return number(10, 2) + message(12, values.astype("<f2").tobytes())
        if how == "unpacked":
            return b"".join(b"\x2d" + v.tobytes() for v in values.astype("<f4").ravel())
        return message(5, values.astype("<f4").tobytes())

    def shape(values: np.ndarray, how: str) -> bytes:
        if how == "old":
            four = (1,) * (4 - values.ndim) + values.shape
            return b"".join(number(i, n) for i, n in enumerate(four, 1))
        return message(7, b"".join(number(1, n) for n in values.shape))

    def write(arrays: Arrays, rows: Sequence[Row] = (), how: str = "float", v1: dict[str, int] | None = None) -> bytes:
        """how: "float", "double", "half", "unpacked", or "old" for (num, channels, height, width); v1: types by number,
        for layers as they were before LayerParameter."""
        kinds = {row[0]: row[1] for row in rows}
        layers: dict[str, list[np.ndarray]] = {}
        for key, values in arrays.items():
            layers.setdefault(key.rpartition("[")[0], []).append(values)
        data = message(1, b"net")
        for name, blobs in layers.items():
            contents = [shape(b, how) + floats(b, how) for b in blobs]
            kind = kinds.get(name, "Convolution")
            if v1 is None:
                layer = message(1, name.encode()) + message(2, kind.encode())
                data += message(100, layer + b"".join(message(7, c) for c in contents))
            else:
                layer = message(4, name.encode()) + number(5, v1.get(kind, 0))
                data += message(2, layer + b"".join(message(6, c) for c in contents))
        return data

    return write


def _both(model: Callable[..., bytes]) -> Callable[..., Path]:
    def write(folder: Path, arrays: Arrays, rows: Sequence[Row], side: int = 300, how: str = "float") -> Path:
        (folder / "net.prototxt").write_text(_text(rows, side))
        (folder / "net.caffemodel").write_bytes(model(arrays, rows, how))
        return folder / "net.caffemodel"

    return write


# -------------------------------------------------------------------------------------------------- networks


def _conv(name: str, bottom: str, outputs: int, kernel: int, stride: int = 1, pad: int = 0, **more: Any) -> Row:
    parameters = {"num_output": outputs, "kernel_size": kernel, "stride": stride, "pad": pad, **more}
    return name, "Convolution", [bottom], name, {"convolution_param": parameters}


def _relu(name: str, blob: str) -> Row:
    return name, "ReLU", [blob], blob, {}


def _norm(name: str, blob: str) -> list[Row]:
    """BatchNorm and Scale in place."""
    scale = {"scale_param": {"bias_term": True}}
    return [(f"{name}/bn", "BatchNorm", [blob], blob, {}), (f"{name}/scale", "Scale", [blob], blob, scale)]


def _head(source: str, priors: dict[str, Any], boxes: int, columns: int, kernel: int = 3, name: str = "") -> list[Row]:
    name, rows = name or source, []
    for which, outputs in (("loc", 4), ("conf", columns)):
        head = f"{name}_mbox_{which}"
        rows += [
            _conv(head, source, boxes * outputs, kernel, pad=kernel // 2),
            (f"{head}_perm", "Permute", [head], f"{head}_perm", {"permute_param": {"order": [0, 2, 3, 1]}}),
            (f"{head}_flat", "Flatten", [f"{head}_perm"], f"{head}_flat", {"flatten_param": {"axis": 1}}),
        ]
    prior = f"{name}_mbox_priorbox"
    return [*rows, (prior, "PriorBox", [source, "data"], prior, {"prior_box_param": priors})]


def _end(sources: Sequence[str], columns: int, **more: Any) -> list[Row]:
    axis = {"concat_param": {"axis": 1}}
    rows: list[Row] = [
        (f"mbox_{w}", "Concat", [f"{s}_mbox_{w}_flat" for s in sources], f"mbox_{w}", axis) for w in ("loc", "conf")
    ]
    priors = [f"{s}_mbox_priorbox" for s in sources]
    shape = {"reshape_param": {"shape": {"dim": [0, -1, columns]}}}
    output = {
        "num_classes": columns,
        "code_type": "CENTER_SIZE",
        "keep_top_k": 200,
        "confidence_threshold": 0.01,
        "nms_param": {"nms_threshold": 0.45, "top_k": 400},
        **more,
    }
    return [
        *rows,
        ("mbox_priorbox", "Concat", priors, "mbox_priorbox", {"concat_param": {"axis": 2}}),
        ("mbox_conf_reshape", "Reshape", ["mbox_conf"], "mbox_conf_reshape", shape),
        ("mbox_conf_softmax", "Softmax", ["mbox_conf_reshape"], "mbox_conf_softmax", {"softmax_param": {"axis": 2}}),
        ("mbox_conf_flatten", "Flatten", ["mbox_conf_softmax"], "mbox_conf_flatten", {"flatten_param": {"axis": 1}}),
        (
            "detection_out",
            "DetectionOutput",
            ["mbox_loc", "mbox_conf_flatten", "mbox_priorbox"],
            "detection_out",
            {"detection_output_param": output},
        ),
    ]


def _vgg(sizes: Sequence[float], columns: int = 21) -> list[Row]:
    """SSD300 for seven sizes, SSD512 for eight (examples/ssd/ssd_pascal.py)."""
    rows, x = [], "data"
    for stage, (count, outputs) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for i in range(1, count + 1):
            name = f"conv{stage}_{i}"
            rows += [_conv(name, x, outputs, 3, pad=1), _relu(f"relu{stage}_{i}", name)]
            x = name
        pool = (
            {"pool": "MAX", "kernel_size": 2, "stride": 2} if stage < 5 else {"kernel_size": 3, "stride": 1, "pad": 1}
        )
        rows.append((f"pool{stage}", "Pooling", [x], f"pool{stage}", {"pooling_param": pool}))
        x = f"pool{stage}"
    rows += [
        _conv("fc6", x, 1024, 3, pad=6, dilation=6),
        _relu("relu6", "fc6"),
        ("drop6", "Dropout", ["fc6"], "fc6", {}),
    ]
    rows += [_conv("fc7", "fc6", 1024, 1), _relu("relu7", "fc7")]
    large = len(sizes) == 8
    last = [(2, 3, 1), (2, 3, 1), (2, 3, 1), (1, 4, 1)] if large else [(2, 3, 1), (1, 3, 0), (1, 3, 0)]
    sources, x = ["conv4_3_norm", "fc7"], "fc7"
    for i, (narrow, wide, (stride, kernel, pad)) in enumerate(
        [(256, 512, (2, 3, 1)), *((128, 256, row) for row in last)], 6
    ):
        rows += [_conv(f"conv{i}_1", x, narrow, 1), _relu(f"conv{i}_1_relu", f"conv{i}_1")]
        x = f"conv{i}_2"
        rows += [_conv(x, f"conv{i}_1", wide, kernel, stride, pad), _relu(f"{x}_relu", x)]
        sources.append(x)
    norm = {"norm_param": {"across_spatial": False, "channel_shared": False, "scale_filler": {"value": 20}}}
    rows.append(("conv4_3_norm", "Normalize", ["conv4_3"], "conv4_3_norm", norm))
    steps = [8, 16, 32, 64, 128, 256, 512] if large else [8, 16, 32, 64, 100, 300]
    three = range(1, 5 if large else 4)
    for i, (source, step) in enumerate(zip(sources, steps, strict=True)):
        priors = {
            "min_size": sizes[i],
            "max_size": sizes[i + 1],
            "aspect_ratio": [2, 3] if i in three else [2],
            "flip": True,
            "clip": False,
            "variance": [0.1, 0.1, 0.2, 0.2],
            "step": step,
            "offset": 0.5,
        }
        rows += _head(source, priors, 6 if i in three else 4, columns)
    return rows + _end(sources, columns)


def _mobilenet(norms: bool, columns: int = 21, thin: int = 1) -> list[Row]:
    """chuanqi305/MobileNet-SSD; thin: part of the channels that is left."""
    rows: list[Row] = []

    def layer(name: str, bottom: str, outputs: int, kernel: int, stride: int = 1, **more: Any) -> None:
        nonlocal rows
        rows.append(_conv(name, bottom, outputs, kernel, stride, kernel // 2, bias_term=not norms, **more))
        rows += [*(_norm(name, name) if norms else []), _relu(f"{name}/relu", name)]

    widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    layer("conv0", "data", widths[0] // thin, 3, 2)
    x = "conv0"
    for i in range(1, 14):
        layer(f"conv{i}/dw", x, widths[i - 1] // thin, 3, 2 if i in (2, 4, 6, 12) else 1, group=widths[i - 1] // thin)
        layer(f"conv{i}", f"conv{i}/dw", widths[i] // thin, 1)
        x = f"conv{i}"
    for i, (narrow, wide) in enumerate(((256, 512), (128, 256), (128, 256), (64, 128)), 14):
        layer(f"conv{i}_1", x, narrow // thin, 1)
        layer(f"conv{i}_2", f"conv{i}_1", wide // thin, 3, 2)
        x = f"conv{i}_2"
    sources = ["conv11", "conv13", "conv14_2", "conv15_2", "conv16_2", "conv17_2"]
    sizes = [60, 105, 150, 195, 240, 285, 300]
    for i, source in enumerate(sources):
        more = {"max_size": sizes[i + 1]} if i else {}
        priors = {
            "min_size": sizes[i],
            **more,
            "aspect_ratio": [2.0, 3.0] if i else [2.0],
            "variance": [0.1, 0.1, 0.2, 0.2],
        }
        rows += _head(source, priors, 6 if i else 3, columns, 1)
    return rows + _end(sources, columns, confidence_threshold=0.25, keep_top_k=100)


# -------------------------------------------------------------------------------------------------- computing


def _weights(rows: Sequence[Row], seed: int = 0, channels: int = 3) -> dict[str, np.ndarray]:
    """Blobs for all layers that have some, small enough for values to stay near 1. channels: of the image."""
    random = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    widths, image = {"data": channels}, channels

    def put(name: str, i: int, values: np.ndarray) -> None:
        arrays[f"{name}[{i}]"] = values.astype(np.float32)

    for name, kind, bottoms, top, parameters in rows:
        channels = widths.get(bottoms[0], 0)
        widths[top] = channels
        if kind == "Convolution":
            p = parameters["convolution_param"]
            outputs = widths[top] = p["num_output"]
            high, wide = p.get("kernel_h", p.get("kernel_size")), p.get("kernel_w", p.get("kernel_size"))
            shape = (outputs, channels // p.get("group", 1), high, wide)
            sees_pixels = 1 / 60 if channels == image else 1.0
            put(name, 0, random.uniform(-1, 1, shape) * np.sqrt(6 / np.prod(shape[1:])) * sees_pixels)
            if p.get("bias_term", True):
                put(name, 1, random.uniform(-0.1, 0.1, outputs))
        elif kind == "BatchNorm":
            put(name, 0, random.uniform(-50, 50, channels))
            put(name, 1, random.uniform(500, 1500, channels))
            put(name, 2, np.array([1000.0]))
        elif kind == "Scale":
            put(name, 0, random.uniform(0.7, 1.3, channels))
            put(name, 1, random.uniform(-0.1, 0.1, channels))
        elif kind in ("Normalize", "PReLU"):
            put(name, 0, random.uniform(0.1, 2, channels))
        elif kind == "Concat":
            widths[top] = sum(widths[b] for b in bottoms)
    return arrays


def _compute(rows: Sequence[Row], arrays: Arrays, image: Tensor) -> dict[str, Tensor]:
    """Every blob, by name, as Caffe computes them: image [3, S, S] prepared and in BGR."""
    maps: dict[str, Tensor] = {"data": image[None].double()}
    blobs = {key: torch.from_numpy(np.array(value)).double() for key, value in arrays.items()}
    for name, kind, bottoms, top, parameters in rows:
        if kind in ("PriorBox", "DetectionOutput") or top == "mbox_priorbox":
            continue
        x = [maps[b] for b in bottoms]
        p = next(iter(parameters.values()), {})
        maps[top] = _LAYERS[kind](x, p, lambda i, name=name: blobs[f"{name}[{i}]"])
    return maps


def _column(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _convolve(x: list[Tensor], p: dict[str, Any], blob: Callable[[int], Tensor]) -> Tensor:
    bias = blob(1) if p.get("bias_term", True) else None
    pad = (p.get("pad_h", p.get("pad", 0)), p.get("pad_w", p.get("pad", 0)))
    return F.conv2d(x[0], blob(0), bias, p.get("stride", 1), pad, p.get("dilation", 1), p.get("group", 1))


def _pool(x: list[Tensor], p: dict[str, Any], _: Any) -> Tensor:
    """Window by window; those of the last row and column may reach beyond the map."""
    kernel, stride, pad = p["kernel_size"], p.get("stride", 1), p.get("pad", 0)
    average = p.get("pool") == "AVE"
    side = x[0].shape[-1]
    count = -(-(side + 2 * pad - kernel) // stride) + 1
    count -= bool(pad and (count - 1) * stride >= side + pad)
    rows = []
    for i in range(count):
        for j in range(count):
            (a, b), (c, d) = ((n * stride - pad, min(n * stride - pad + kernel, side + pad)) for n in (i, j))
            window = x[0][:, :, max(a, 0) : b, max(c, 0) : d]
            rows.append(window.sum((2, 3)) / ((b - a) * (d - c)) if average else window.amax((2, 3)))
    return torch.stack(rows, -1).reshape(*x[0].shape[:2], count, count)


_LAYERS: dict[str, Callable[..., Tensor]] = {
    "Convolution": _convolve,
    "Pooling": _pool,
    "BatchNorm": lambda x, p, b: (x[0] - _column(b(0) / b(2))) / (_column(b(1) / b(2)) + p.get("eps", 1e-5)).sqrt(),
    "Scale": lambda x, p, b: x[0] * _column(b(0)) + _column(b(1)),
    "ReLU": lambda x, p, b: torch.where(x[0] > 0, x[0], x[0] * p.get("negative_slope", 0)),
    "PReLU": lambda x, p, b: torch.where(x[0] > 0, x[0], x[0] * _column(b(0))),
    "Power": lambda x, p, b: x[0] * p.get("scale", 1) + p.get("shift", 0),
    "Dropout": lambda x, p, b: x[0],
    "Normalize": lambda x, p, b: x[0] / x[0].square().sum(1, keepdim=True).add(1e-10).sqrt() * _column(b(0)),
    "Eltwise": lambda x, p, b: sum(v * c for v, c in zip(x, p.get("coeff", [1] * len(x)), strict=True)),
    "Concat": lambda x, p, b: torch.cat(x, p.get("axis", 1)),
    "Permute": lambda x, p, b: x[0].permute(*p["order"]),
    "Flatten": lambda x, p, b: x[0].flatten(1),
    "Reshape": lambda x, p, b: x[0].reshape(len(x[0]), *p["shape"]["dim"][1:]),
    "Softmax": lambda x, p, b: x[0].softmax(p["axis"]),
    "Sigmoid": lambda x, p, b: x[0].sigmoid(),
}

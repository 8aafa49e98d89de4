"""Exporting a model: the files, proof that they give the same boxes, and how fast they run here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from singleshot.deploy.engines import FORMATS, engines_for
from singleshot.deploy.onnx_file import attach_postprocess, description
from singleshot.deploy.onnx_network import network_model, network_program, silent, tail_model
from singleshot.deploy.onnx_opset import DETECTIONS_FROM, OPSETS, fix_batch, to_opset
from singleshot.deploy.parity import (
    EXACT,
    HALF,
    Agreement,
    Limits,
    RawEngine,
    compare_engines,
    compare_raw_engines,
    refuse_unless_good,
)
from singleshot.deploy.tflite_file import QuantisedTFLite, tflite_file
from singleshot.errors import ConfigError, printable
from singleshot.evaluation.torch_engine import TorchEngine
from singleshot.extras import require
from singleshot.files import atomic_write
from singleshot.models import SSD
from singleshot.runtime.engines.results import padded
from singleshot.timing import time_in_turns
from singleshot.weights.checkpoint import ModelInfo

if TYPE_CHECKING:
    import onnx

# Name of the description in a torch.export archive.
DESCRIPTION = "singleshot.json"
_CHUNK = 4  # images in one run of the check, so that a batch is checked as well
_TIMED_RUNS, _WARM_RUNS = 5, 1  # a glance; `bench` measures


class Speed(NamedTuple):
    """Milliseconds for one image, median of several runs, network and post-processing."""

    engine: str
    milliseconds: float


class Row(NamedTuple):
    """One engine: bytes of the file that it runs, its speed, and how it agrees with PyTorch (None: not compared)."""

    speed: Speed
    size: int | None
    agreement: Agreement | None


class Exported(NamedTuple):
    """files: what was written, the main one first; rows: PyTorch, then every engine here."""

    files: tuple[Path, ...]
    rows: tuple[Row, ...]


class Form(NamedTuple):
    """How to export.

    to: a key of FORMATS; raw: offsets and logits without decoding; tensorrt_compatible: without branches; half: weights
    in 16 bits (OpenVINO); opset: of ONNX, None for the newest that is written; batch: images that the file takes at a
    time, None for any number.
    """

    to: str = "onnx"
    raw: bool = False
    tensorrt_compatible: bool = False
    half: bool = False
    opset: int | None = None
    batch: int | None = None

    def check(self) -> None:
        """Raise ConfigError for what cannot go together."""
        if self.to not in FORMATS:
            raise ConfigError(f"--to {printable(self.to, 40)}: want one of {', '.join(FORMATS)}")
        if self.half and self.to != "openvino":
            raise ConfigError("--half: goes with --to openvino; other engines take the precision when they run")
        if self.tensorrt_compatible and self.to != "onnx":
            raise ConfigError("--tensorrt: goes with --to onnx")
        if self.to == "tflite" and self.batch not in (None, 1):
            raise ConfigError("--to tflite: its operator for detections takes one image, so --batch can be 1 alone")
        if self.opset is not None:
            self._check_opset(self.opset)

    def _check_opset(self, opset: int) -> None:
        if self.to != "onnx":
            raise ConfigError("--opset: goes with --to onnx")
        if opset not in OPSETS:
            raise ConfigError(f"--opset {opset}: want {OPSETS[0]} to {OPSETS[-1]}")
        if opset < DETECTIONS_FROM and not self.raw:
            raise ConfigError(f"--opset {opset}: decoding and NMS want {DETECTIONS_FROM} or more; add --raw")


DETECTOR = Form()


class Quantised(NamedTuple):
    """A network in int8, with raw outputs, and what the description says of it."""

    network: onnx.ModelProto
    about: Mapping[str, Any]


def need_onnx(what: str) -> None:
    """Raise MissingExtraError unless the packages that write ONNX are there."""
    require("export", what, "onnx", "onnxscript")


# ------------------------------------------------------------------------------------------------------------ check


class Check(NamedTuple):
    """How a file is checked. images: uint8 [N, H, W, C]; exact: whether the file must give the model's boxes (a
    quantised one need not)."""

    images: np.ndarray
    exact: bool = True


def check_file(
    model: SSD, info: ModelInfo, path: Path, form: Form, check: Check, what: str, size: int | None = None
) -> tuple[Row, ...]:
    """Run an exported file by every engine here, and the model by PyTorch on the same images.

    Args:
        model, info: What was exported.
        path: The file.
        form: As what it was exported.
        check: On which images, and how.
        what: How messages call the file.
        size: Bytes of the whole export; None: those of the file.

    Returns:
        A row for PyTorch, then one for each engine.

    Raises:
        ConfigError: The file gives other results than the model.
        MissingExtraError: No engine that runs it is installed.
    """
    images, batch = check.images, form.batch or 1
    limits = HALF if form.half else EXACT
    some = np.concatenate([images] * (batch // len(images) + 1))[:batch]
    engines: Mapping[str, Any] = (
        {"torch.export": _Archive(path, form.batch)} if form.to == "torch" else engines_for(path)
    )
    found = _agreements(model, info, engines, images, form.raw, limits) if check.exact else {}
    for name, agreement in found.items():
        refuse_unless_good(agreement, f"{what} by {name}", limits)
    rows = [Row(_time("pytorch", _torch_runner(model, info, form.raw), some), None, None)]
    for name, engine in engines.items():
        speed = _time(name, engine.outputs if form.raw else engine, some)
        rows.append(Row(speed, size or path.stat().st_size, found.get(name)))
    return tuple(rows)


def _agreements(
    model: SSD, info: ModelInfo, engines: Mapping[str, Any], images: np.ndarray, raw: bool, limits: Limits
) -> dict[str, Agreement]:
    found = dict.fromkeys(engines, Agreement())
    raw_engines = {name: _raw_outputs(engine) for name, engine in engines.items()}
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        if raw:
            more = compare_raw_engines(model, info, raw_engines, chunk)
        else:
            more = compare_engines(model, info, engines, chunk, limits)
        found = {name: agreement.plus(more[name]) for name, agreement in found.items()}
    return found


def _raw_outputs(engine: Any) -> RawEngine:
    def outputs(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = engine.outputs(some)
        return found["offsets"], found["logits"]

    return outputs


def _time(name: str, engine: Callable[[np.ndarray], object], images: np.ndarray) -> Speed:
    """Median milliseconds of one image when given those of uint8 [B, H, W, C] together."""
    taken = time_in_turns({name: lambda: engine(images)}, _TIMED_RUNS, _WARM_RUNS)[name]
    return Speed(name, 1000 * float(np.median(taken)) / len(images))


def _torch_runner(model: SSD, info: ModelInfo, raw: bool) -> Callable[[np.ndarray], object]:
    if not raw:
        return TorchEngine(model, info.thresholds, torch.device("cpu"))

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(images).permute(0, 3, 1, 2))

    return run


class _Archive:
    """A torch.export archive, read back as its user would."""

    def __init__(self, path: Path, batch: int | None = None) -> None:
        self._batch = batch
        extra = {DESCRIPTION: ""}
        with silent():
            self._module = torch.export.load(str(path), extra_files=extra).module()
        self.description = extra[DESCRIPTION]

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Offsets and logits by name."""
        rows = self._batch or len(images)
        with torch.inference_mode():
            chunks = [padded(images[start : start + rows], rows) for start in range(0, len(images), rows)]
            parts = zip(*(self._module(torch.from_numpy(chunk)) for chunk in chunks), strict=True)
            found = [torch.cat(part).numpy()[: len(images)] for part in parts]
        return dict(zip(("offsets", "logits"), found, strict=True))


# ------------------------------------------------------------------------------------------------------------ files


def export_model(
    model: SSD,
    info: ModelInfo,
    out: Path,
    images: np.ndarray,
    form: Form = DETECTOR,
    quantised: Quantised | QuantisedTFLite | None = None,
) -> Exported:
    """Write a model for other engines, checked before it gets its name.

    Args:
        model, info: What to export.
        out: The file; with OpenVINO's form its weights are written next to it, as .bin.
        images: uint8 [N, H, W, C] to check it on.
        form: As what to write it.
        quantised: The network to write instead of the model's own, whose results have been accepted.

    Raises:
        ConfigError: The file gives other results than the model, or cannot be written; then nothing is.
        MissingExtraError: A package is missing.
    """
    form.check()
    check, what = Check(images, exact=quantised is None), printable(out)
    if form.to == "torch":
        with atomic_write(out) as temporary:
            _save_archive(model, info, temporary, form.batch)
            return Exported((out,), check_file(model, info, temporary, form._replace(raw=True), check, what))
    need_onnx(f"{what}: exporting")
    if form.to == "tflite":
        require("litert", f"{what}: --to tflite", "ai_edge_litert")
        with atomic_write(out) as temporary:
            found = quantised if isinstance(quantised, QuantisedTFLite) else QuantisedTFLite(tail_model(model))
            temporary.write_bytes(tflite_file(found, model, info, form.raw))
            return Exported((out,), check_file(model, info, temporary, form, check, what))
    if form.to == "openvino":
        require("export", f"{what}: --to openvino", "openvino")
    network, about = quantised if isinstance(quantised, Quantised) else Quantised(network_model(model), {})
    precision = "int8" if quantised is not None else "float16" if form.half else "float32"
    proto = attach_postprocess(network, model, info, form.raw, form.tensorrt_compatible, precision, about)
    if form.opset is not None:
        to_opset(proto, form.opset)
    if form.batch is not None:
        fix_batch(proto, form.batch)
    if form.to == "onnx":
        with atomic_write(out) as temporary:
            temporary.write_bytes(proto.SerializeToString())
            return Exported((out,), check_file(model, info, temporary, form, check, what))
    weights = out.with_suffix(".bin")
    with _pair_of_files(out, weights) as temporary:
        _save_openvino(proto, description(info, form.raw, precision, about), temporary, form.half)
        size = temporary.stat().st_size + temporary.with_suffix(".bin").stat().st_size
        return Exported((out, weights), check_file(model, info, temporary, form, check, what, size))


def _save_archive(model: SSD, info: ModelInfo, path: Path, batch: int | None) -> None:
    written = description(info, True)
    with silent():
        torch.export.save(network_program(model, batch), str(path), extra_files={DESCRIPTION: written})
    if json.loads(_Archive(path).description) != json.loads(written):
        raise ConfigError(f"{printable(path)}: PyTorch did not keep the description; nothing was written")


def _save_openvino(proto: onnx.ModelProto, about: str, path: Path, half: bool) -> None:
    """path.xml and path.bin from an ONNX model. Whatever OpenVINO has of the ONNX file on the way is not needed."""
    import openvino

    from singleshot.runtime.engines.openvino import RT_INFO, shared_core

    onnx_file = path.with_suffix(".onnx")
    onnx_file.write_bytes(proto.SerializeToString())
    converted = shared_core().read_model(str(onnx_file))
    converted.set_rt_info(about, RT_INFO)
    openvino.save_model(converted, str(path), compress_to_fp16=half)
    onnx_file.unlink()


@contextmanager
def _pair_of_files(main: Path, other: Path) -> Iterator[Path]:
    """A path with the name of `main` in a new folder next to it; on success both files move, `main` last."""
    try:
        main.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".part-", dir=main.parent)
    except OSError as error:
        raise ConfigError(f"{printable(main)}: cannot write there ({error.strerror}); give another --out") from error
    with folder as name:
        yield Path(name, main.name)
        for path in (other, main):
            Path(name, path.name).replace(path)

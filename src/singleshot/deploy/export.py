"""Exporting a model: the files, proof that they give the same boxes, and how fast they run here."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from singleshot.deploy.onnx_file import attach_postprocess, description
from singleshot.deploy.onnx_network import network_model, network_program, silent
from singleshot.deploy.parity import EXACT, HALF, Agreement, Engine, Limits, compare, compare_raw, refuse_unless_good
from singleshot.errors import ConfigError, MissingExtraError, printable
from singleshot.evaluation.torch_engine import TorchEngine
from singleshot.files import atomic_write
from singleshot.inputs import to_square
from singleshot.models import SSD
from singleshot.runtime.engines.table import EngineOptions, engines_of, is_exported, is_installed, open_engine
from singleshot.weights.checkpoint import ModelInfo

# What can be written, and the suffix of its main file.
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
# Name of the description in a torch.export archive.
DESCRIPTION = "singleshot.json"
_EXTRA = "pip install 'singleshot[export]'"
_CHUNK = 4  # images in one run of the check, so that a batch is checked as well


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
    """How to export. to: a key of FORMATS; raw: offsets and logits without decoding; plain: for TensorRT; half: weights
    in 16 bits (OpenVINO)."""

    to: str = "onnx"
    raw: bool = False
    plain: bool = False
    half: bool = False

    def check(self) -> None:
        """Raise ConfigError for what cannot go together."""
        if self.to not in FORMATS:
            raise ConfigError(f"--to {printable(self.to, 40)}: want one of {', '.join(FORMATS)}")
        if self.half and self.to != "openvino":
            raise ConfigError("--half: goes with --to openvino; other engines take the precision when they run")
        if self.plain and self.to != "onnx":
            raise ConfigError("--tensorrt: goes with --to onnx")


DETECTOR = Form()


class Quantised(NamedTuple):
    """A network in int8 (onnx.ModelProto, raw outputs) and what the description says of it."""

    network: Any
    about: Mapping[str, Any]


def need_onnx(what: str) -> None:
    """Raise MissingExtraError unless the packages that write ONNX are there."""
    for name in ("onnx", "onnxscript"):
        if not _there(name):
            raise MissingExtraError(f"{what} needs onnx and onnxscript: {_EXTRA}")


def _there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def write_onnx(model: SSD, info: ModelInfo, path: Path, raw: bool = False) -> Any:
    """Write the one file, whole or not at all, without checking it; returns the onnx.ModelProto."""
    need_onnx(f"{printable(path)}: exporting")
    proto = attach_postprocess(network_model(model), model, info, raw)
    with atomic_write(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return proto


def squares(pictures: Sequence[np.ndarray], model: SSD) -> np.ndarray:
    """uint8 RGB images of any size -> uint8 [N, S, S, 3] as the model sees them."""
    return np.stack([to_square(picture, model.input_spec)[0] for picture in pictures])


# ---------------------------------------------------------------------------------------------------------- engines


def engines_for(path: Path, threads: int | None = None, first: bool = False) -> dict[str, Any]:
    """Every engine that is installed and runs that file, by name; or the first one. Raises CheckpointError,
    MissingExtraError."""
    names = [name for name in engines_of(path) if is_exported(path) and is_installed(name)]
    if not names:
        raise MissingExtraError(f"{printable(path)}: no engine to check it with: {_EXTRA}")
    options = EngineOptions(device="cpu", threads=threads)
    return {name: open_engine(name, path, options) for name in names[: 1 if first else None]}


def time_engine(name: str, engine: Callable[[np.ndarray], Any], images: np.ndarray, rounds: int = 9) -> Speed:
    """Median milliseconds of one image when given those of uint8 [B, S, S, 3] together."""
    engine(images)
    engine(images)
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        engine(images)
        taken.append(time.perf_counter() - start)
    return Speed(name, 1000 * float(np.median(taken)) / len(images))


def _agreement(model: SSD, info: ModelInfo, engine: Any, images: np.ndarray, raw: bool, limits: Limits) -> Agreement:
    def raw_outputs(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = engine.outputs(some)
        return found["offsets"], found["logits"]

    total = Agreement()
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        if raw:
            total = total.plus(compare_raw(model, info, raw_outputs, chunk))
        else:
            total = total.plus(compare(model, info, engine, chunk, limits))
    return total


def _torch_runner(model: SSD, info: ModelInfo, raw: bool) -> Engine | Callable[[np.ndarray], Any]:
    if not raw:
        return TorchEngine(model, info.thresholds, torch.device("cpu"))

    def run(images: np.ndarray) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(images).permute(0, 3, 1, 2))

    return run


def check_file(
    model: SSD, info: ModelInfo, path: Path, images: np.ndarray, form: Form, what: str, batch: int = 1,
    exact: bool = True, size: int | None = None,
) -> tuple[Row, ...]:  # fmt: skip
    """Run an exported file by every engine here, beside PyTorch. Raises ConfigError where it gives other results.

    images: uint8 [N, S, S, 3]; what: to call the file in messages; batch: images in a run that is timed; exact: whether
    it must give the model's boxes (a quantised one need not); size: bytes, of the file's own if None.
    """
    limits = HALF if form.half else EXACT
    some = np.concatenate([images] * (batch // len(images) + 1))[:batch]
    rows = []
    engines: dict[str, Any] = {"torch.export": _Archive(path)} if form.to == "torch" else engines_for(path)
    for name, engine in engines.items():
        found = _agreement(model, info, engine, images, form.raw, limits) if exact else None
        if found is not None:
            refuse_unless_good(found, f"{what} by {name}", limits)
        run = engine.outputs if form.raw else engine
        rows.append(Row(time_engine(name, run, some), size or path.stat().st_size, found))
    return (Row(time_engine("pytorch", _torch_runner(model, info, form.raw), some), None, None), *rows)


class _Archive:
    """A torch.export archive, read back as its user would."""

    def __init__(self, path: Path) -> None:
        extra = {DESCRIPTION: ""}
        with silent():
            self._module = torch.export.load(str(path), extra_files=extra).module()
        self.description = extra[DESCRIPTION]

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Offsets and logits by name."""
        with torch.inference_mode():
            found = self._module(torch.from_numpy(np.ascontiguousarray(images)))
        return dict(zip(("offsets", "logits"), (values.numpy() for values in found), strict=True))


# ------------------------------------------------------------------------------------------------------------ files


def export_model(
    model: SSD, info: ModelInfo, out: Path, images: np.ndarray, form: Form = DETECTOR,
    batch: int = 1, quantised: Quantised | None = None,
) -> Exported:  # fmt: skip
    """Write a model for other engines, checked on images uint8 [N, S, S, 3] before it gets its name.

    quantised: the network to write instead of the model's own, whose results have been accepted. Raises ConfigError
    when the file gives other results than the model, and MissingExtraError; then nothing is written.
    """
    form.check()
    what, exact = printable(out), quantised is None
    if form.to == "torch":
        with atomic_write(out) as temporary:
            _save_archive(model, info, temporary)
            rows = check_file(model, info, temporary, images, form._replace(raw=True), what, batch)
        return Exported((out,), rows)
    need_onnx(f"{what}: exporting")
    if form.to == "openvino" and not _there("openvino"):
        raise MissingExtraError(f"{what}: --to openvino needs openvino: {_EXTRA}")
    network = network_model(model) if quantised is None else quantised.network
    precision = "int8" if quantised is not None else "float16" if form.half else "float32"
    about = {} if quantised is None else quantised.about
    proto = attach_postprocess(network, model, info, form.raw, form.plain, precision, about)
    if form.to == "onnx":
        with atomic_write(out) as temporary:
            temporary.write_bytes(proto.SerializeToString())
            rows = check_file(model, info, temporary, images, form, what, batch, exact)
        return Exported((out,), rows)
    weights = out.with_suffix(".bin")
    with _pair_of_files(out, weights) as temporary:
        _save_openvino(proto, description(info, form.raw, precision, about), temporary, form.half)
        size = temporary.stat().st_size + temporary.with_suffix(".bin").stat().st_size
        rows = check_file(model, info, temporary, images, form, what, batch, exact, size)
    return Exported((out, weights), rows)


def _save_archive(model: SSD, info: ModelInfo, path: Path) -> None:
    with silent():
        torch.export.save(network_program(model), str(path), extra_files={DESCRIPTION: description(info, True)})
    said = _Archive(path).description
    if json.loads(said) != json.loads(description(info, True)):
        raise ConfigError(f"{printable(path)}: PyTorch did not keep the description; nothing was written")


def _save_openvino(proto: Any, said: str, path: Path, half: bool) -> None:
    """path.xml and path.bin from an ONNX model. Whatever OpenVINO has of the ONNX file on the way is not needed."""
    import openvino

    from singleshot.runtime.engines.openvino import RT_INFO, shared_core

    onnx_file = path.with_suffix(".onnx")
    onnx_file.write_bytes(proto.SerializeToString())
    converted = shared_core().read_model(str(onnx_file))
    converted.set_rt_info(said, RT_INFO)
    openvino.save_model(converted, str(path), compress_to_fp16=half)
    onnx_file.unlink()


@contextmanager
def _pair_of_files(main: Path, other: Path) -> Iterator[Path]:
    """A path in a folder of its own beside `main`, with the same name; on success both files move, `main` last."""
    folder = main.parent / f".part-{secrets.token_hex(16)}"
    try:
        try:
            main.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        except OSError as error:
            said = f"{printable(main)}: cannot write there ({error.strerror}); give another --out"
            raise ConfigError(said) from error
        yield folder / main.name
        for path in (other, main):
            os.replace(folder / path.name, path)  # noqa: PTH105
    finally:
        shutil.rmtree(folder, ignore_errors=True)

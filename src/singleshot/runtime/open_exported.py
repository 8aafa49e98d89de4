"""Opening an exported file: its description, its engine, and the Detector around both."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from singleshot.errors import CheckpointError, ConfigError, MissingExtraError, printable
from singleshot.inputs import InputSpec
from singleshot.model_info import EXPORTED as DESCRIBES
from singleshot.model_info import ModelInfo, read_input
from singleshot.records import ImageDetections
from singleshot.runtime import engine_choice
from singleshot.runtime.detector import Detector
from singleshot.runtime.engines.results import DETECTIONS, RAW, Decode, Outputs, detections_of
from singleshot.runtime.model_file import onnx_description
from singleshot.runtime.postprocess_numpy import RawDecoder

EXPORTED = (".onnx", ".xml")
ENGINES = ("openvino", "onnxruntime", "torch", "auto")
_MODULES = {"openvino": "openvino", "onnxruntime": "onnxruntime"}
_GPU = ("cuda", "tensorrt")
_MAX_JSON = 1 << 26


class FileEngine(Protocol):
    """An engine that was made from a file."""

    name: str
    decode: Decode
    precision: str
    input_shape: tuple[int | None, ...]
    input_type: str
    output_names: tuple[str, ...]

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]: ...

    def __call__(self, images: np.ndarray) -> list[ImageDetections]: ...


def is_exported(path: str | Path) -> bool:
    """Whether its name says that it is for the runtime half: ONNX or OpenVINO."""
    return Path(path).suffix.lower() in EXPORTED


def open_exported(
    path: str | Path,
    device: str | None = None,
    engine: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    batch: int | None = None,
    input_spec: InputSpec | dict[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    cache: str | Path | None = None,
) -> Detector:
    """A Detector that runs an ONNX file or an OpenVINO model (.xml); the options are those of singleshot.load.

    Raises CheckpointError, ConfigError, MissingExtraError.
    """
    path = Path(path)
    check_options(engine, threads, batch)
    if engine == "torch":
        raise ConfigError(f"engine torch: {printable(path)} is an exported file; torch runs checkpoints (.safetensors)")
    if not path.is_file():
        raise CheckpointError(f"{printable(path)}: {'is a folder' if path.is_dir() else 'no such file'}")
    text = onnx_description(path) if path.suffix.lower() == ".onnx" else None
    options = {"threads": threads, "precision": precision, "batch": batch or 1, "cache": cache}
    made = _make(path, device, engine, options)
    if path.suffix.lower() == ".xml":
        text = getattr(made, "description", None)
    info = _info(path, text, input_spec, class_names)
    _check_doors(made, info, path)
    made.decode = _decoder(info, path)
    return Detector(made, info.input_spec, info.class_names, score_min=info.thresholds.show_min, batch_size=batch)


def check_options(engine: str | None, threads: int | None, batch: int | None) -> None:
    """Raise ConfigError for an option that is out of range."""
    if engine is not None and engine not in ENGINES:
        raise ConfigError(f"engine {printable(engine, 40)!r}: want one of {', '.join(ENGINES)}")
    if threads is not None and not 1 <= threads <= 1024:
        raise ConfigError(f"threads {threads}: want 1 to 1024")
    if batch is not None and not 1 <= batch <= 4096:
        raise ConfigError(f"batch {batch}: want 1 to 4096")


def _make(path: Path, device: str | None, engine: str | None, options: dict[str, Any]) -> FileEngine:
    """The engine that is asked for, or the default one for the device."""
    kind = str(device).partition(":")[0] if device not in (None, "auto") else None
    if path.suffix.lower() == ".xml":
        if engine == "onnxruntime" or kind in _GPU:
            raise ConfigError(f"{printable(path)}: only OpenVINO runs this format; for onnxruntime export to .onnx")
        return make_engine("openvino", path, device, options)
    if kind in _GPU and engine in (None, "auto"):
        return make_engine("onnxruntime", path, device, options)
    there = tuple(name for name in _MODULES if _installed(name))
    if engine in (None, "auto") and not there:
        raise MissingExtraError(f"{printable(path)}: no engine to run it: pip install openvino (or onnxruntime)")
    if engine == "auto" and len(there) > 1:
        return _fastest(there, path, device, options)
    return make_engine(engine if engine in _MODULES else there[0], path, device, options)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(_MODULES[name]) is not None
    except (ImportError, ValueError):
        return False


def make_engine(name: str, path: Path, device: str | None, options: dict[str, Any]) -> FileEngine:
    """One engine by name; its package is imported here."""
    if name == "openvino":
        from singleshot.runtime.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(path, device=device, **options)
    from singleshot.runtime.engines.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path, options["threads"], device, options["precision"])


def _fastest(names: tuple[str, ...], path: Path, device: str | None, options: dict[str, Any]) -> FileEngine:
    """The engine that was fastest when it was measured, now or earlier, of those that can run it so at all."""
    kept = {key: value for key, value in options.items() if key != "cache"}
    key = engine_choice.choice_key(path, device=device, **kept)
    known = engine_choice.remembered(key, names)
    if known is not None:
        return make_engine(known, path, device, options)
    engines: dict[str, FileEngine] = {}
    failure: Exception | None = None
    for name in names:
        try:
            engines[name] = make_engine(name, path, device, options)
        except (ConfigError, CheckpointError, MissingExtraError) as error:
            failure = failure or error
    if not engines:
        assert failure is not None
        raise failure
    some = next(iter(engines.values()))
    shape = [options["batch"], *(side or 300 for side in some.input_shape[1:])]
    if len(engines) == 1 or len(shape) != 4 or some.input_type != "u8":
        return some  # what may be wrong with it is told when its doors are checked
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    seconds = engine_choice.measure({name: engine.outputs for name, engine in engines.items()}, images)
    best = min(seconds, key=lambda name: seconds[name])
    engine_choice.remember(key, best, seconds)
    return engines[best]


def _info(
    path: Path, text: str | None, input_spec: InputSpec | dict[str, Any] | None, class_names: Sequence[str] | None
) -> ModelInfo:
    """The file's own description, the one in a JSON file beside it, or what the options say, which change either."""
    beside = path.with_suffix(".json")
    where = printable(path)
    if text is None and beside.is_file():
        where = printable(beside)
        try:
            text = beside.read_text(encoding="utf-8") if beside.stat().st_size <= _MAX_JSON else ""
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{where}: cannot be read ({printable(error, 80)})") from error
        if not _is_description(text):
            text = None  # somebody else's JSON
    spec = None if input_spec is None else _input_of(input_spec)
    if text is None:
        if spec is None or class_names is None:
            raise CheckpointError(
                f"{printable(path)}: has no description of singleshot's; give"
                " load(..., input_spec=InputSpec(size=...), class_names=[...]),"
                f" put its description into {printable(beside.name)}, or export it with `singleshot export`"
            )
        return ModelInfo(_names_of(class_names), spec, outputs="detections")
    info = ModelInfo.from_json(text, where, DESCRIBES)
    return replace(
        info,
        input_spec=spec or info.input_spec,
        class_names=info.class_names if class_names is None else _names_of(class_names),
    )


def _is_description(text: str) -> bool:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"format", "classes", "input"} <= set(values)


def _input_of(given: InputSpec | dict[str, Any]) -> InputSpec:
    if isinstance(given, InputSpec):
        return given
    try:
        return read_input(given)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"input_spec: {printable(error, 100)}; want an InputSpec or its to_dict()") from error


def _names_of(given: Sequence[str]) -> tuple[str, ...]:
    names = tuple(given) if not isinstance(given, str) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"class_names {printable(given, 60)}: want a list of names, in the order of the labels")
    return names


def _check_doors(engine: FileEngine, info: ModelInfo, path: Path) -> None:
    """Raise CheckpointError where the file takes or gives something else than its description says."""
    where, size = printable(path), info.input_spec.size
    shape = engine.input_shape
    fits = len(shape) == 4 and all(side in (None, want) for side, want in zip(shape[1:], (size, size, 3), strict=True))
    if engine.input_type != "u8" or not fits:
        sides = ", ".join("?" if side is None else str(side) for side in shape)
        raise CheckpointError(
            f"{where}: takes {printable(engine.input_type, 40)} [{sides}], want uint8 images [N, {size}, {size}, 3];"
            " export it with `singleshot export`"
        )
    wanted = RAW if info.raw else DETECTIONS
    missing = [name for name in wanted if name not in engine.output_names]
    if missing:
        there = printable(", ".join(engine.output_names), 100)
        raise CheckpointError(f"{where}: its outputs are {there}, without {', '.join(missing)}")


def _decoder(info: ModelInfo, path: Path) -> Decode:
    """What makes records of the file's outputs; a label without a name is the file's mistake or class_names'."""
    classes = len(info.class_names)
    wrong = f"{printable(path)}: finds class {{}}, but {classes} classes have a name; give class_names for all of them"
    if not info.raw:

        def decode(outputs: Outputs) -> list[ImageDetections]:
            records = detections_of(outputs)
            for record in records:
                if len(record.labels) and not 0 <= int(record.labels.min()) <= int(record.labels.max()) < classes:
                    raise CheckpointError(wrong.format(int(record.labels.max())))
            return records

        return decode
    rules = RawDecoder(info.priors, info.thresholds)
    priors = info.priors.count

    def decode_raw(outputs: Outputs) -> list[ImageDetections]:
        offsets, logits = (outputs[name] for name in RAW)
        if offsets.shape[1:] != (priors, 4) or logits.shape[1:] != (priors, classes + 1):
            raise CheckpointError(
                f"{printable(path)}: gives offsets {list(offsets.shape)} and logits {list(logits.shape)}, want"
                f" [N, {priors}, 4] and [N, {priors}, {classes + 1}]"
            )
        return rules(offsets, logits)

    return decode_raw

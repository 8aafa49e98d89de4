"""A model file becomes a Detector: its engine, its description, and that both agree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from singleshot.class_selection import Classes, select_classes
from singleshot.errors import CheckpointError, ConfigError, MissingExtraError, printable
from singleshot.inputs import InputSpec
from singleshot.model_info import EXPORTED, ModelInfo, read_input, read_names
from singleshot.records import ImageDetections
from singleshot.runtime import engine_choice
from singleshot.runtime.detector import Detector
from singleshot.runtime.engines.results import DETECTIONS, RAW, Decode, Outputs, detections_of
from singleshot.runtime.engines.table import (
    AS_USUAL,
    ENGINES,
    Engine,
    EngineOptions,
    FileEngine,
    SelectiveEngine,
    engine_choices,
    engines_of,
    is_exported,
    is_installed,
    open_engine,
)
from singleshot.runtime.model_file import onnx_description
from singleshot.runtime.postprocess_numpy import RawDecoder
from singleshot.thresholds import NO_CAP

_MAX_JSON = 1 << 26


def open_detector(
    path: str | Path,
    engine: str | None = None,
    options: EngineOptions = AS_USUAL,
    input_spec: InputSpec | Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    classes: Classes | None = None,
) -> Detector:
    """A Detector that runs a model file.

    Args:
        path: A checkpoint or an exported file.
        engine: A name of the table of engines, "auto" for the one that was fastest here when it was measured, or None
            for the usual one.
        options: How it is to be run.
        input_spec: In place of the description of an exported file: how an image becomes its input.
        class_names: Likewise, what its labels mean.
        classes: Find these only; see `Detector`.

    Raises:
        CheckpointError: The file cannot be used.
        ConfigError: An option is wrong, or does not go with the file.
        MissingExtraError: A package is not installed.
    """
    path = Path(path)
    given = classes
    _check_options(path, engine, options)
    spec = None if input_spec is None else _input_of(input_spec)
    names = None if class_names is None else _names_of(class_names)
    if not is_exported(path):
        if spec is not None or names is not None:
            raise ConfigError(
                f"{printable(path)}: input_spec and class_names are for ONNX files; a checkpoint has its own"
            )
    elif options.rule is not None:
        raise ConfigError(
            f"rule {printable(options.rule, 40)}: {printable(path)} has its rule built in; give the checkpoint"
        )
    candidates = _candidates(path, engine, options.device)
    if is_exported(path) and not path.is_file():
        raise CheckpointError(f"{printable(path)}: {'is a folder' if path.is_dir() else 'no such file'}")
    text = onnx_description(path) if path.suffix.lower() == ".onnx" else None
    opened = _open_fastest(candidates, path, options)
    info = getattr(opened, "info", None) or _described(path, text or getattr(opened, "description", None), spec, names)
    info = replace(info, input_spec=spec or info.input_spec, class_names=names or info.class_names)
    wanted = None
    if classes is not None:
        selection = select_classes(classes, info.class_names, printable(path))
        classes = selection.to_dict()
        labels = selection.labels_of(info.class_names)
        wanted = tuple(old for old, new in enumerate(labels) if new >= 0)
    # Boxes of other classes are left out before the limits on their number, but where NMS is inside the file.
    thresholds = info.thresholds
    if isinstance(opened, FileEngine):
        _check_doors(opened, info, path)
        opened.decode = _decoder(info, path, wanted)
    elif isinstance(opened, SelectiveEngine):
        opened.wanted = wanted
    if not isinstance(opened, FileEngine) or info.raw:
        thresholds = replace(thresholds, keep=NO_CAP)
    detector = Detector(
        opened,
        info.input_spec,
        info.class_names,
        score_min=thresholds.show_min,
        batch_size=options.batch,
        classes=classes,
        thresholds=thresholds,
    )
    chosen = engine if engine != "auto" else str(getattr(opened, "name", engine))
    detector.reopen = partial(_reopened, path.absolute(), chosen, options, input_spec, class_names, given)
    detector.info = info
    detector.tiling = info.tiling
    detector.learnt = info.selection if names is None else None
    if set(detector.class_names) <= set(info.category_ids or ()):
        detector.category_ids = info.category_ids
    return detector


def _reopened(path: Path, *how: Any) -> Engine:
    """The engine of a detector that was opened so, in another process."""
    return open_detector(path, *how).engine


def _check_options(path: Path, engine: str | None, options: EngineOptions) -> None:
    """Raise ConfigError for an option that is out of range, or an engine that does not run the file."""
    if engine is not None and engine not in engine_choices():
        raise ConfigError(f"engine {printable(engine, 40)!r}: want one of {', '.join(engine_choices())}")
    fitting = engines_of(path)
    if engine is not None and engine not in ("auto", *fitting):
        raise ConfigError(
            f"engine {engine}: {engine} runs {ENGINES[engine].runs}; {printable(path)} is for {', '.join(fitting)}"
            " (`singleshot export` makes what other engines run)"
        )
    for name, value, most in (("threads", options.threads, 1024), ("batch", options.batch, 4096)):
        if value is not None and not 1 <= value <= most:
            raise ConfigError(f"{name} {value}: want 1 to {most}")


def _candidates(path: Path, engine: str | None, device: str | None) -> tuple[str, ...]:
    """Names of the engines to choose from: the one that is asked for, or the usual one, or all for "auto"."""
    if engine not in (None, "auto"):
        return (str(engine),)
    names = engines_of(path)
    if device not in (None, "auto"):
        kind = str(device).partition(":")[0]
        names = tuple(name for name in names if kind in ENGINES[name].devices) or names
    there = tuple(name for name in names if is_installed(name))
    if not there and len(names) > 1:
        ways = " or ".join(ENGINES[name].install for name in names)
        raise MissingExtraError(f"{printable(path)}: no engine to run it: {ways}")
    names = there or names
    return names if engine == "auto" else names[:1]


def _open_fastest(names: tuple[str, ...], path: Path, options: EngineOptions) -> Engine:
    """The engine that was fastest when it was measured, now or earlier, of those that can run the file so at all."""
    if len(names) == 1:
        return open_engine(names[0], path, options)
    key = engine_choice.choice_key(path, names, options)
    known = engine_choice.remembered(key, names)
    if known is not None:
        return open_engine(known, path, options)
    engines: dict[str, FileEngine] = {}
    failure: Exception | None = None
    for name in names:
        try:
            opened = open_engine(name, path, options)
        except (ConfigError, CheckpointError, MissingExtraError) as error:
            failure = failure or error
            continue
        assert isinstance(opened, FileEngine)
        engines[name] = opened
    if not engines:
        assert failure is not None
        raise failure
    some = next(iter(engines.values()))
    shape = [options.batch or 1, *(side or 300 for side in some.input_shape[1:])]
    if len(engines) == 1 or len(shape) != 4 or some.input_type != "u8":
        return some  # what may be wrong with it comes out when its doors are checked
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    seconds = engine_choice.measure({name: one.outputs for name, one in engines.items()}, images)
    best = min(seconds, key=lambda name: seconds[name])
    engine_choice.remember(key, best, seconds)
    return engines[best]


def _described(path: Path, text: str | None, spec: InputSpec | None, names: tuple[str, ...] | None) -> ModelInfo:
    """From the file's own description, that in a JSON file of the same name, or what the caller gives."""
    where, companion = path, path.with_suffix(".json")
    if text is None and companion.is_file():
        where = companion
        try:
            text = companion.read_text(encoding="utf-8") if companion.stat().st_size <= _MAX_JSON else ""
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{printable(where)}: cannot be read ({printable(error, 80)})") from error
        if not _is_description(text):
            text = None  # somebody else's JSON
    if text is not None:
        return ModelInfo.from_json(text, printable(where), EXPORTED)
    if spec is None or names is None:
        raise CheckpointError(
            f"{printable(path)}: has no description of singleshot's; give"
            " load(..., input_spec=InputSpec(size=...), class_names=[...]),"
            f" put its description into {printable(companion.name)}, or export it with `singleshot export`;"
            " another project's SSD becomes a checkpoint with `singleshot import`"
        )
    return ModelInfo(names, spec, outputs="detections")


def _is_description(text: str) -> bool:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"format", "classes", "input"} <= set(values)


def _input_of(given: InputSpec | Mapping[str, Any]) -> InputSpec:
    if isinstance(given, InputSpec):
        return given
    try:
        return read_input(given)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"input_spec: {printable(error, 100)}; want an InputSpec or its to_dict()") from error


def _names_of(given: Sequence[str]) -> tuple[str, ...]:
    try:
        return read_names(given if isinstance(given, str) else tuple(given))
    except (ConfigError, TypeError) as error:
        message = f"class_names {printable(given, 60)}: want a list of names, in the order of the labels"
        raise ConfigError(message) from error


def _check_doors(engine: FileEngine, info: ModelInfo, path: Path) -> None:
    """Raise CheckpointError where the file takes or gives something else than its description names."""
    where, wanted = printable(path), info.input_spec.shape
    shape = engine.input_shape
    fits = len(shape) == 4 and all(side in (None, want) for side, want in zip(shape[1:], wanted, strict=True))
    if engine.input_type != "u8" or not fits:
        sides = ", ".join("?" if side is None else str(side) for side in shape)
        raise CheckpointError(
            f"{where}: takes {printable(engine.input_type, 40)} [{sides}], want uint8 images"
            f" [N, {', '.join(map(str, wanted))}]; export it with `singleshot export`"
        )
    missing = [name for name in (RAW if info.raw else DETECTIONS) if name not in engine.output_names]
    if missing:
        there = printable(", ".join(engine.output_names), 100)
        raise CheckpointError(f"{where}: its outputs are {there}, without {', '.join(missing)}")


def _decoder(info: ModelInfo, path: Path, wanted: tuple[int, ...] | None) -> Decode:
    """What makes records of the file's outputs, of raw ones for the wanted labels (None: all); a label without a name
    is the file's mistake or class_names'."""
    classes, where = len(info.class_names), printable(path)
    if not info.raw:

        def decode(outputs: Outputs) -> list[ImageDetections]:
            records = detections_of(outputs)
            for record in records:
                if len(record.labels) and not 0 <= int(record.labels.min()) <= int(record.labels.max()) < classes:
                    raise CheckpointError(
                        f"{where}: finds class {int(record.labels.max())}, but {classes} classes have a name; give"
                        " class_names for all of them"
                    )
            return records

        return decode
    rules, priors = RawDecoder(info.priors, info.thresholds, wanted), info.priors.count

    def decode_raw(outputs: Outputs) -> list[ImageDetections]:
        offsets, logits = (outputs[name] for name in RAW)
        if offsets.shape[1:] != (priors, 4) or logits.shape[1:] != (priors, classes + 1):
            raise CheckpointError(
                f"{where}: gives offsets {list(offsets.shape)} and logits {list(logits.shape)}, want"
                f" [N, {priors}, 4] and [N, {priors}, {classes + 1}]"
            )
        return rules(offsets, logits)

    return decode_raw

"""The candidates of `bench`: every engine and precision that runs here, and torchvision's own detectors."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from singleshot.bench.model_files import EXTRAS, Model
from singleshot.bench.race import TASKS, Candidate, Cell
from singleshot.errors import ConfigError, MissingExtraError, printable

ENGINES = ("torch", "onnxruntime", "openvino")
PRECISIONS = ("float32", "bfloat16", "float16", "int8", "int8-bfloat16")


def known(names: Sequence[str], all_names: Sequence[str], option: str) -> tuple[str, ...]:
    """The names, each once; ConfigError that lists all of them, the nearest one first, for one that is unknown."""
    for name in names:
        if name not in all_names:
            near = difflib.get_close_matches(name, all_names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{option} {printable(name, 40)!r}: want some of {','.join(all_names)}{hint}")
    if not names:
        raise ConfigError(f"{option}: want some of {','.join(all_names)}")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class BenchOptions:
    """What the user asked for; None: whatever is here. device: auto (CPU, and CUDA where there is one), cpu, cuda."""

    engines: tuple[str, ...] | None = None
    precisions: tuple[str, ...] | None = None
    device: str = "auto"
    batches: tuple[int, ...] = (1, 8)
    threads: int | None = None


def candidates_of(model: Model, options: BenchOptions) -> tuple[list[Candidate], list[str]]:
    """Every engine, device and precision that is asked for and that runs here, and what was left out and why.

    Raises ConfigError, MissingExtraError where something was asked for by name that is not here.
    """
    found: list[Candidate] = []
    notes: list[str] = []
    for engine in options.engines or ENGINES:
        if importlib.util.find_spec(engine) is None:
            if options.engines is not None:
                raise MissingExtraError(f"--engines {engine}: is not installed: {EXTRAS[engine]}")
            notes.append(f"{engine} is not installed: {EXTRAS[engine]}")
            continue
        if engine == "torch" and model.checkpoint is None:
            if options.engines == ("torch",):
                raise ConfigError(f"--engines torch: {printable(model.name)} is an exported file; give the checkpoint")
            continue
        found += [one for device in _devices(engine, options.device) for one in _of(engine, device, model, options)]
    _check_found(found, model, options)
    return found, notes


def _check_found(found: list[Candidate], model: Model, options: BenchOptions) -> None:
    for precision in options.precisions or ():
        if any(one.precision == precision for one in found):
            continue
        if precision.startswith("int8") and model.int8 is None:
            raise ConfigError(
                f"--precisions {precision}: there is no int8 file; make one with `singleshot export --int8 DATA` and"
                " give it with --int8 FILE"
            )
        raise ConfigError(f"--precisions {precision}: no engine that is asked for computes in it with this model here")
    if not found:
        raise ConfigError(f"{printable(model.name)}: no engine here runs it on device {options.device}")


def _devices(engine: str, wanted: str) -> list[str]:
    there = ["cpu", *(["cuda"] if _has_cuda(engine) else [])]
    if wanted == "auto":
        return there
    return [wanted] if wanted in there else []


def _has_cuda(engine: str) -> bool:
    if engine == "torch":
        import torch

        return torch.cuda.is_available()
    if engine == "onnxruntime":
        import onnxruntime

        return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return False


def _of(engine: str, device: str, model: Model, options: BenchOptions) -> list[Candidate]:
    """The candidates of one engine on one device."""
    made = []
    for precision, variant in _kinds(engine, device, options.precisions):
        if options.precisions is not None and precision not in options.precisions:
            continue
        file = model.int8 if precision.startswith("int8") else model.plain
        if engine != "torch" and (file is None or (engine == "onnxruntime" and file.path.suffix.lower() != ".onnx")):
            continue
        words = [engine, *([device] if device != "cpu" else []), precision, *([variant] if variant else [])]
        path, network = (model.checkpoint, model.checkpoint) if engine == "torch" else (file.path, file.network)  # type: ignore[union-attr]
        tasks = [task for task in TASKS if task != "network" or network is not None]
        cells: list[Cell] = [(task, batch) for batch in options.batches for task in tasks]
        made.append(Candidate(
            " ".join(words), engine, precision, str(path), None if network is None else str(network), device, variant,
            options.threads, model.classes, tuple(cells),
        ))  # fmt: skip
    return made


def _kinds(engine: str, device: str, asked: tuple[str, ...] | None) -> list[tuple[str, str]]:
    """Precisions and variants that an engine has on a device."""
    if engine == "torch":
        if device == "cuda":
            return [("float32", ""), ("float16", ""), ("bfloat16", ""), ("float16", "graphs"), ("bfloat16", "graphs"),
                    ("float16", "compile")]  # fmt: skip
        from singleshot.devices import has_bfloat16

        # Emulated it is slower than float32: measured only for who asks.
        there = has_bfloat16() or (asked is not None and "bfloat16" in asked)
        return [("float32", ""), *([("bfloat16", "")] if there else [])]
    if engine == "onnxruntime":
        return [("float32", "")] if device == "cuda" else [("float32", ""), ("int8", "")]
    from singleshot.runtime.engines.openvino import shared_core

    has = shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    kinds = ["float32", *(["bfloat16"] if "BF16" in has else []), *(["float16"] if "FP16" in has else []), "int8"]
    return [(kind, "") for kind in [*kinds, *(["int8-bfloat16"] if "BF16" in has else [])]]


def peers(model: Model, options: BenchOptions, with_rcnn: bool = True) -> list[Candidate]:
    """torchvision's detectors, end to end; on CPUs an image at a time, since batches gain nothing there."""
    if importlib.util.find_spec("torchvision") is None:
        raise MissingExtraError(f"--versus torchvision: is not installed: {EXTRAS['torch']}")
    from singleshot.bench.torch_candidates import RCNN_BUILDERS, SSD_BUILDERS

    made = []
    for device in _devices("torch", options.device):
        batches = options.batches if device == "cuda" else (1,)
        precisions = ("float32", "float16") if device == "cuda" else ("float32",)
        for builder in (*SSD_BUILDERS, *(RCNN_BUILDERS if with_rcnn else ())):
            for precision in precisions:
                words = ["torchvision", *([device] if device != "cpu" else []), builder]
                words += [precision] if precision != "float32" else []
                cells = tuple((task, batch) for batch in batches for task in ("memory", "files"))
                made.append(Candidate(
                    " ".join(words), "torchvision", precision, builder, None, device, "", options.threads,
                    model.classes, cells,
                ))  # fmt: skip
    return made

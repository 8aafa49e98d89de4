"""The candidates of `bench`: every engine and precision that runs here, and torchvision's SSDs."""

from __future__ import annotations

from pathlib import Path

from singleshot.bench.model_files import Model
from singleshot.bench.options import ENGINES, BenchOptions
from singleshot.bench.records import KINDS, Candidate, Task
from singleshot.errors import ConfigError, MissingExtraError, printable
from singleshot.extras import require
from singleshot.runtime.engines.table import ENGINES as TABLE
from singleshot.runtime.engines.table import engine_module, is_installed

TORCHVISION_SSDS = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
# What a candidate's process imports to run it.
_RUNNERS = {
    "torch": "singleshot.bench.torch_runners:checkpoint_runner",
    "torchvision": "singleshot.bench.torch_runners:torchvision_runner",
}
_FILE_RUNNER = "singleshot.bench.runners:file_runner"


def candidates_of(model: Model, options: BenchOptions) -> tuple[list[Candidate], list[str]]:
    """Every engine, device and precision that is asked for and that runs here, and what was left out and why.

    Raises:
        ConfigError: A precision, a device or torch was asked for by name and cannot be had with this model here.
        MissingExtraError: An engine was asked for by name that is not installed.
    """
    found: list[Candidate] = []
    notes: list[str] = []
    for engine in options.engines or ENGINES:
        if engine == "torch" and model.checkpoint is None:
            if options.engines == ("torch",):
                raise ConfigError(f"--engines torch: {printable(model.name)} is an exported file; give the checkpoint")
        elif is_installed(engine):
            found += [
                one for device in devices_of(engine, options.device) for one in _of(engine, device, model, options)
            ]
        elif options.engines is not None:
            raise MissingExtraError(f"--engines {engine}: is not installed: {TABLE[engine].install}")
        else:
            notes.append(f"{engine} is not installed: {TABLE[engine].install}")
    for precision in options.precisions or ():
        _check_found(precision, found, model)
    if not found:
        raise ConfigError(f"{printable(model.name)}: no engine here runs it on device {options.device}")
    return found, notes


def _check_found(precision: str, found: list[Candidate], model: Model) -> None:
    if any(one.precision == precision for one in found):
        return
    if precision.startswith("int8") and model.int8 is None:
        raise ConfigError(
            f"--precisions {precision}: there is no int8 file; make one with `singleshot export --int8 DATA` and"
            " give it with --int8 FILE"
        )
    raise ConfigError(f"--precisions {precision}: no engine that is asked for computes in it with this model here")


def devices_of(engine: str, wanted: str) -> list[str]:
    """Those of cpu and cuda that the engine has here; wanted: auto for both."""
    return [device for device in engine_module(engine).devices_here() if wanted in ("auto", device)]


def _precisions_of(engine: str, device: str, asked: tuple[str, ...] | None) -> list[str]:
    """Those that an engine has on a device, or those of them that are asked for."""
    there = engine_module(engine).precisions_here(device)
    if engine == "torch" and device == "cpu" and asked is not None and "bfloat16" not in there:
        there = [*there, "bfloat16"]  # emulated, slower than float32: measured only for who asks
    return [precision for precision in there if asked is None or precision in asked]


def _of(engine: str, device: str, model: Model, options: BenchOptions) -> list[Candidate]:
    """The candidates of one engine on one device."""
    made = []
    for precision in _precisions_of(engine, device, options.precisions):
        path, network = _files(engine, precision, model)
        if path is None:
            continue
        kinds = [kind for kind in KINDS if kind != "network" or network is not None]
        made.append(
            Candidate(
                " ".join([engine, *([device] if device != "cpu" else []), precision]),
                engine,
                precision,
                str(path),
                _RUNNERS.get(engine, _FILE_RUNNER),
                None if network is None else str(network),
                device,
                options.threads,
                tasks=tuple(Task(kind, batch) for batch in options.batches for kind in kinds),
            )
        )
    return made


def _files(engine: str, precision: str, model: Model) -> tuple[Path | None, Path | None]:
    """The file that an engine runs in a precision, None where there is none, and the one of the network alone."""
    if engine == "torch":
        return model.checkpoint, model.checkpoint
    file = model.int8 if precision.startswith("int8") else model.floating
    if file is None or file.path.suffix.lower() not in TABLE[engine].files:
        return None, None
    return file.path, file.network


def peers(model: Model, options: BenchOptions) -> list[Candidate]:
    """torchvision's SSDs, with as many classes as the model. Raises MissingExtraError."""
    require("train", "--versus torchvision", "torchvision")
    return [one for builder in TORCHVISION_SSDS for one in torchvision_candidates(builder, model.classes, options)]


def torchvision_candidates(
    builder: str, classes: int, options: BenchOptions, runner: str = _RUNNERS["torchvision"]
) -> list[Candidate]:
    """One of torchvision's detectors, end to end; on CPUs an image at a time, since batches gain nothing there."""
    made = []
    for device in devices_of("torch", options.device):
        batches = options.batches if device == "cuda" else (1,)
        for precision in ("float32", "float16") if device == "cuda" else ("float32",):
            words = ["torchvision", *([device] if device != "cpu" else []), builder]
            words += [precision] if precision != "float32" else []
            tasks = tuple(Task(kind, batch) for batch in batches for kind in ("memory", "files"))
            made.append(
                Candidate(
                    " ".join(words),
                    "torchvision",
                    precision,
                    builder,
                    runner,
                    device=device,
                    threads=options.threads,
                    classes=classes,
                    tasks=tasks,
                )
            )
    return made

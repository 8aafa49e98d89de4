"""A benchmark from a model's name to its report: files, candidates, race, start-up."""

from __future__ import annotations

import contextlib
import platform
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from singleshot.bench.candidates import candidates_of, peers
from singleshot.bench.images import find_images
from singleshot.bench.model_files import Model, find_model, refuse_absent
from singleshot.bench.options import BenchOptions
from singleshot.bench.race import probe, race, ratios, steps, summary
from singleshot.bench.records import Candidate, Measured, Task
from singleshot.devices import cores, processor_name

_STARTS = 3  # fresh processes of each candidate, at most
_PEER_NOTE = (
    "torchvision has random weights too, since nothing is downloaded; its SSDs have as many candidates for NMS as a"
    " trained one"
)
Progress = Callable[[int], AbstractContextManager[Callable[[], None]]]


def run_bench(
    model: str,
    options: BenchOptions,
    extra: Callable[[Model], list[Candidate]] = lambda model: [],
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda total: contextlib.nullcontext(lambda: None),
) -> dict[str, Any]:
    """Measure a model by every engine and precision that is asked for and runs here.

    Args:
        model: A checkpoint, an exported file, or a preset's name.
        options: What is measured, and how.
        extra: Gives further candidates; those of engine "torchvision" are compared with as peers.
        say: Gets a line for each note.
        progress: Of the number of turns, gives a context whose value is called after each.

    Returns:
        The report, for JSON.

    Raises:
        CheckpointError: The model is not there or cannot be read.
        ConfigError: An option cannot be met.
        DataError: There are no images.
        MissingExtraError: A package is missing.
    """
    refuse_absent(model)
    with tempfile.TemporaryDirectory(prefix="singleshot-bench-") as folder:
        images = find_images(options.images, Path(folder, "images"))
        found = find_model(model, Path(folder), images, options)
        candidates, notes = candidates_of(found, options)
        notes = [*found.notes, *notes]
        if options.versus is not None:
            candidates += peers(found, options)
            notes.append(_PEER_NOTE)
        candidates += extra(found)
        if images.skipped:
            notes.append(f"{images.skipped} images that cannot be read are left out")
        for note in notes:
            say(note)
        with progress(steps(candidates, options.rounds) + len(candidates)) as advance:
            results = race(candidates, images.paths, options.rounds, on_step=advance)
            for result in results:
                peer = result.candidate.engine == "torchvision"
                probe(result, images.paths, 1 if peer else min(options.rounds, _STARTS))
                advance()
    return {
        "model": found.name,
        "about": found.about,
        "machine": machine(),
        "pictures": images.about,
        "rounds": options.rounds,
        "threads": options.threads,
        "batches": list(options.batches),
        "notes": notes,
        "candidates": [summary(result) for result in results],
        "times_faster_than": _compared(results, options.batches[0]),
    }


def _compared(results: list[Measured], batch: int) -> dict[str, dict[str, dict[str, float]]]:
    """By peer and kind of task the ratios of all others, at that batch; the peer's own, where it has another."""
    compared = {}
    for peer in (result.candidate for result in results if result.candidate.engine == "torchvision"):
        batches = [task.batch for task in peer.tasks]
        own = batch if batch in batches else batches[0]
        compared[peer.name] = {
            kind: ratios(results, peer.name, Task(kind, batch), Task(kind, own)) for kind in ("memory", "files")
        }
    return compared


def machine() -> dict[str, Any]:
    """The hardware and the versions that figures belong to."""
    versions = {"python": platform.python_version()}
    for name in ("singleshot", "torch", "torchvision", "onnxruntime", "onnxruntime-gpu", "openvino"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    gpu = None
    if "torch" in sys.modules:
        import torch

        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": processor_name(), "cores": cores(), "gpu": gpu, "versions": versions}

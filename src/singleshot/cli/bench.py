"""`singleshot bench`: how fast a model is here, by every engine and precision that this machine has."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleshot.cli.common import JsonOption, QuietOption, is_free, progress_bar
from singleshot.errors import ConfigError, printable

if TYPE_CHECKING:
    from singleshot.bench.candidates import BenchOptions
    from singleshot.bench.model_files import Model, Pictures
    from singleshot.bench.race import Candidate, Measured

_HEADS = {"network": "network", "detect": "+ boxes", "memory": "from memory", "files": "from files"}
_PEERS = ("torchvision",)
_PEER_HEADS = {
    "torchvision ssd300_vgg16": "ssd300_vgg16",
    "torchvision ssdlite320_mobilenet_v3_large": "ssdlite320",
    "torchvision fasterrcnn_resnet50_fpn": "rcnn_resnet50",
    "torchvision fasterrcnn_mobilenet_v3_large_320_fpn": "rcnn_mobile320",
}
_DEVICES = ("auto", "cpu", "cuda")
_STARTS = 3  # fresh processes of each candidate, at most


def bench(
    model: Annotated[
        str,
        typer.Argument(help="A checkpoint, an exported .onnx or .xml file, or a preset's name for random weights."),
    ],
    images: Annotated[
        str | None, typer.Option("--images", help="Folder of images. Default: drawn scenes of 640x480 as JPEG.")
    ] = None,
    engines: Annotated[
        str | None, typer.Option(help="Of torch,onnxruntime,openvino. Default: all that are installed.")
    ] = None,
    precisions: Annotated[
        str | None,
        typer.Option(help="Of float32,bfloat16,float16,int8,int8-bfloat16. Default: all that run here."),
    ] = None,
    int8: Annotated[
        str | None, typer.Option("--int8", metavar="FILE", help="The same model quantised, measured besides.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Images per call, such as 1,8,32.")] = "1,8",
    threads: Annotated[int | None, typer.Option(help="Threads of every engine. Default: all cores.")] = None,
    rounds: Annotated[int, typer.Option(help="Turns of every candidate; the medians are told.")] = 5,
    versus: Annotated[str | None, typer.Option(help="torchvision: its SSDs and Faster R-CNNs in the same run.")] = None,
    classes: Annotated[int, typer.Option(help="Number of classes when MODEL is a preset's name.")] = 20,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto for both where both are.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder for bench.json and bench.png; must be new or empty.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a model's speed, memory and start-up by every engine and precision that runs here.

    Example: singleshot bench best.safetensors --versus torchvision --out speed

    Four things are measured: the network alone; with decoding and NMS; from an image in memory to boxes in its pixels;
    the same from image files. Every candidate is a process of its own and they take turns, so that a machine that
    drifts hits all alike. int8 needs --int8 FILE, or a MODEL that is quantised; a preset named with --precisions int8
    is quantised on the way.
    """
    from singleshot.bench.candidates import BenchOptions
    from singleshot.bench.race import check_numbers

    batches = _numbers(batch)
    check_numbers(batches, rounds, threads)
    options = BenchOptions(*_named(engines, precisions), _one_of(device, _DEVICES, "--device"), batches, threads)
    _one_of(versus, (None, *_PEERS), "--versus")
    if not 1 <= classes <= 10_000:
        raise ConfigError(f"--classes {classes}: want 1 to 10000")
    if out is not None and not is_free(out):
        raise ConfigError(f"--out {printable(out)}: is there already; give a new or empty folder")
    report = run_bench(
        model, images=images, options=options, int8=int8, rounds=rounds, versus=versus, classes=classes, quiet=quiet
    )
    if out is not None:
        _write(report, out)
    print(json.dumps(report) if as_json else table(report))
    if out is not None and not as_json:
        print(f"written: {printable(out)}")
    if not any(one["tasks"] for one in report["candidates"] if one["engine"] != "torchvision"):
        raise ConfigError(f"{printable(model)}: nothing could be measured; {_first_failure(report)}")


def run_bench(
    model: str,
    *,
    images: str | None,
    options: BenchOptions,
    int8: str | None = None,
    rounds: int = 5,
    versus: str | None = None,
    classes: int = 20,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure and give everything as plain values."""
    from singleshot.bench.candidates import candidates_of, peers
    from singleshot.bench.model_files import find_model, find_pictures
    from singleshot.bench.race import probe, race, steps

    with tempfile.TemporaryDirectory(prefix="singleshot-bench-") as folder:
        place = Path(folder)
        pictures = find_pictures(images, place / "pictures")
        quantised = any(one.startswith("int8") for one in options.precisions or ())
        found = find_model(model, place, pictures, classes, int8, quantised)
        candidates, notes = candidates_of(found, options)
        if versus is not None:
            candidates += peers(found, options)
            notes.append(
                "torchvision has random weights too, since nothing is downloaded; its SSDs have as many candidates for"
                " NMS as a trained one, its Faster R-CNNs hardly any, which is to their advantage"
            )
        notes = [*found.notes, *notes]
        if pictures.skipped:
            notes.append(f"{pictures.skipped} images that cannot be read are left out")
        if not quiet:
            for note in notes:
                print(f"singleshot: {note}", file=sys.stderr)
        starts = min(rounds, _STARTS)
        with progress_bar(steps(candidates, rounds) + len(candidates), "turns", quiet) as advance:
            results = race(candidates, pictures.paths, rounds, on_step=advance)
            for result in results:
                probe(result, pictures.paths, 1 if result.candidate.engine == "torchvision" else starts)
                advance()
        return _report(found, pictures, options, rounds, results, notes)


def _report(
    model: Model, pictures: Pictures, options: BenchOptions, rounds: int, results: list[Measured], notes: list[str]
) -> dict[str, Any]:
    from singleshot.bench.race import ratios, summary

    batch = options.batches[0]
    compared = {}
    for one in (result.candidate for result in results if result.candidate.engine == "torchvision"):
        other = _batch_of(one, batch)
        compared[one.name] = {
            task: ratios(results, one.name, (task, batch), (task, other)) for task in ("memory", "files")
        }
    return {
        "model": model.name, "about": model.about, "machine": machine(), "pictures": pictures.about, "rounds": rounds,
        "threads": options.threads, "batches": list(options.batches), "notes": notes,
        "candidates": [summary(result) for result in results], "times_faster_than": compared,
    }  # fmt: skip


def _batch_of(candidate: Candidate, batch: int) -> int:
    """The batch that a peer is compared at: the same where it has it."""
    batches = [own for _, own in candidate.cells]
    return batch if batch in batches else batches[0]


def machine() -> dict[str, Any]:
    """The hardware and the versions that figures belong to."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from singleshot.devices import cores, processor_name

    versions = {"python": platform.python_version()}
    for name in ("singleshot", "torch", "torchvision", "onnxruntime", "onnxruntime-gpu", "openvino"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    gpu = None
    if "torch" in sys.modules:
        import torch

        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": processor_name(), "cores": cores(), "gpu": gpu, "versions": versions}


# ------------------------------------------------------------------------------------------------ options


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",") if part.strip()}))
    except ValueError as error:
        raise ConfigError(f"--batch {printable(text, 60)!r}: want numbers, such as 1,8") from error


def _named(engines: str | None, precisions: str | None) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    from singleshot.bench.candidates import ENGINES, PRECISIONS, known

    def names(text: str | None, all_names: tuple[str, ...], option: str) -> tuple[str, ...] | None:
        if text is None:
            return None
        return known([part.strip() for part in text.split(",") if part.strip()], all_names, option)

    return names(engines, ENGINES, "--engines"), names(precisions, PRECISIONS, "--precisions")


def _one_of(value: Any, values: tuple[Any, ...], option: str) -> Any:
    if value not in values:
        raise ConfigError(f"{option} {printable(value, 40)!r}: want {' or '.join(str(v) for v in values if v)}")
    return value


# ------------------------------------------------------------------------------------------------ results


def table(report: dict[str, Any]) -> str:
    """For people: latency at the smallest batch, the best rates, what failed, the ratios."""
    chip = report["machine"]
    parts = [f"{chip['cores']} x {chip['processor']}", *([chip["gpu"]] if chip["gpu"] else [])]
    lines = [
        f"{printable(report['model'])}: {printable(report['about'])}",
        f"{', '.join(parts)}; {printable(report['pictures'])}; {report['rounds']} rounds",
    ]
    lines += _latency(report) + _rates(report) + _compared(report) + _failures(report)
    return "\n".join(lines)


def _latency(report: dict[str, Any]) -> list[str]:
    batch = str(report["batches"][0])
    rows = []
    for one in report["candidates"]:
        cells = [one["tasks"].get(task, {}).get(batch) for task in _HEADS]
        if any(cells):
            rows.append([one["name"], *(_percentiles(cell) for cell in cells)])
    title = f"ms, batch {batch}: median / 90 % / 99 %"
    return ["", *_columns([[title, *_HEADS.values()], *rows])] if rows else []


def _percentiles(cell: dict[str, float] | None) -> str:
    return "-" if cell is None else " / ".join(_short(cell[key]) for key in ("p50_ms", "p90_ms", "p99_ms"))


def _short(value: float) -> str:
    """Three digits, none of them after hundreds."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


def _rates(report: dict[str, Any]) -> list[str]:
    rows = []
    for one in report["candidates"]:
        if not one["tasks"]:
            continue
        cells = []
        for task in _HEADS:
            best = one["best_batch"].get(task)
            rate = None if best is None else one["tasks"][task][str(best)]["images_per_s"]
            cells.append("-" if rate is None else f"{_short(rate)} ({best})")
        start = "-" if one["start_s"] is None else f"{one['start_s']:.2f} s"
        peak = "-" if one["peak_mb"] is None else f"{one['peak_mb']:.0f} MB"
        rows.append([one["name"], *cells, start, peak])
    title = "images/s (at the best batch)"
    return ["", *_columns([[title, *_HEADS.values(), "start", "memory"], *rows])] if rows else []


def _compared(report: dict[str, Any]) -> list[str]:
    peers = report["times_faster_than"]
    names = [one["name"] for one in report["candidates"] if one["engine"] != "torchvision"]
    lines: list[str] = []
    for task in ("memory", "files"):
        shown = {peer: ratios[task] for peer, ratios in peers.items() if ratios[task]}
        rows = [[name, *(_short(by[name]) if name in by else "-" for by in shown.values())] for name in names]
        if shown:
            title = f"times torchvision's, {_HEADS[task]}, batch {report['batches'][0]}"
            heads = [_PEER_HEADS.get(peer, peer) for peer in shown]
            lines += ["", *_columns([[title, *heads], *rows])]
    return lines


def _failures(report: dict[str, Any]) -> list[str]:
    lines = [
        f"{one['name']}: {'' if where == 'all' else where + ': '}{why}"
        for one in report["candidates"]
        for where, why in one["failures"].items()
    ]
    return ["", "not measured", *lines] if lines else []


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _first_failure(report: dict[str, Any]) -> str:
    return next((f"{one['name']}: {why}" for one in report["candidates"] for why in one["failures"].values()), "")


def _write(report: dict[str, Any], out: Path) -> None:
    """bench.json and bench.png, both or neither."""
    from singleshot.bench.picture import draw_bench
    from singleshot.files import atomic_folder

    with atomic_folder(out) as temporary:
        (temporary / "bench.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
        if any(one["tasks"] for one in report["candidates"]):
            draw_bench(report, temporary / "bench.png")

"""`singleshot bench`: how fast a model is here, by every engine and precision that this machine has."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from singleshot.bench.options import ENGINES, PRECISIONS, BenchOptions
from singleshot.cli.common import JsonOption, QuietOption, is_free, progress_bar
from singleshot.errors import ConfigError, printable
from singleshot.text_table import align_columns

_HEADS = {"network": "network", "detect": "+ boxes", "memory": "from memory", "files": "from files"}
_PEER_HEADS = {"torchvision ssd300_vgg16": "ssd300_vgg16", "torchvision ssdlite320_mobilenet_v3_large": "ssdlite320"}


def bench(
    model: Annotated[
        str, typer.Argument(help="A checkpoint, an exported .onnx or .xml file, or a preset's name for random weights.")
    ],
    images: Annotated[
        str | None, typer.Option("--images", help="Folder of images. Default: drawn scenes of 640x480 as JPEG.")
    ] = None,
    engines: Annotated[
        str | None, typer.Option(help=f"Of {','.join(ENGINES)}. Default: all that are installed.")
    ] = None,
    precisions: Annotated[
        str | None, typer.Option(help=f"Of {','.join(PRECISIONS)}. Default: all that run here.")
    ] = None,
    int8: Annotated[
        str | None, typer.Option("--int8", metavar="FILE", help="The same model quantised, measured besides.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Images per call, such as 1,8,32.")] = "1,8",
    threads: Annotated[int | None, typer.Option(help="Threads of every engine. Default: all cores.")] = None,
    rounds: Annotated[int, typer.Option(help="Turns of every candidate; the medians are shown.")] = 5,
    versus: Annotated[str | None, typer.Option(help="torchvision: its SSDs in the same run.")] = None,
    classes: Annotated[int, typer.Option(help="Number of classes when MODEL is a preset's name.")] = 20,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto for both where both are.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder for bench.json and bench.png; must be new or empty.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a model's speed, memory and start-up by every engine and precision that runs here.

    Example: singleshot bench best.safetensors --versus torchvision --out speed

    Four tasks are measured: the network alone; with decoding and NMS; from an image in memory to boxes in its pixels;
    the same from image files. Every candidate is a process of its own and they take turns, so that a machine that
    drifts hits all alike. int8 needs --int8 FILE, or a MODEL that is quantised; a preset named with --precisions int8
    is quantised on the way.
    """
    options = BenchOptions(
        engines=_names(engines),
        precisions=_names(precisions),
        device=device,
        batches=_numbers(batch),
        threads=threads,
        images=images,
        int8=int8,
        rounds=rounds,
        versus=versus,
        classes=classes,
    )
    from singleshot.bench.chart import need_chart
    from singleshot.bench.run import run_bench

    if out is not None:
        if not is_free(out):
            raise ConfigError(f"--out {printable(out)}: is there already; give a new or empty folder")
        need_chart()

    def say(note: str) -> None:
        if not quiet:
            print(f"singleshot: {note}", file=sys.stderr)

    report = run_bench(model, options, say=say, progress=lambda total: progress_bar(total, "turns", quiet))
    if out is not None:
        _write(report, out)
    print(json.dumps(report) if as_json else table(report))
    if out is not None and not as_json:
        print(f"written: {printable(out)}")
    if not any(one["tasks"] for one in report["candidates"] if one["engine"] != "torchvision"):
        raise ConfigError(f"{printable(model)}: nothing could be measured; {_first_failure(report)}")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",") if part.strip()}))
    except ValueError as error:
        raise ConfigError(f"--batch {printable(text, 60)!r}: want numbers, such as 1,8") from error


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


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
        cells = [one["tasks"].get(kind, {}).get(batch) for kind in _HEADS]
        if any(cells):
            rows.append([one["name"], *(_percentiles(cell) for cell in cells)])
    title = f"ms, batch {batch}: median / 90 % / 99 %"
    return ["", *align_columns([[title, *_HEADS.values()], *rows])] if rows else []


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
        for kind in _HEADS:
            best = one["best_batch"].get(kind)
            rate = None if best is None else one["tasks"][kind][str(best)]["images_per_s"]
            cells.append("-" if rate is None else f"{_short(rate)} ({best})")
        start = "-" if one["start_s"] is None else f"{one['start_s']:.2f} s"
        peak = "-" if one["peak_mb"] is None else f"{one['peak_mb']:.0f} MB"
        rows.append([one["name"], *cells, start, peak])
    title = "images/s (at the best batch)"
    return ["", *align_columns([[title, *_HEADS.values(), "start", "memory"], *rows])] if rows else []


def _compared(report: dict[str, Any]) -> list[str]:
    peers = report["times_faster_than"]
    names = [one["name"] for one in report["candidates"] if one["engine"] != "torchvision"]
    lines: list[str] = []
    for kind in ("memory", "files"):
        shown = {peer: ratios[kind] for peer, ratios in peers.items() if ratios[kind]}
        rows = [[name, *(_short(by[name]) if name in by else "-" for by in shown.values())] for name in names]
        if shown:
            title = f"times torchvision's, {_HEADS[kind]}, batch {report['batches'][0]}"
            heads = [_PEER_HEADS.get(peer, peer) for peer in shown]
            lines += ["", *align_columns([[title, *heads], *rows])]
    return lines


def _failures(report: dict[str, Any]) -> list[str]:
    lines = [
        f"{one['name']}: {'' if where == 'all' else where + ': '}{why}"
        for one in report["candidates"]
        for where, why in one["failures"].items()
    ]
    return ["", "not measured", *lines] if lines else []


def _first_failure(report: dict[str, Any]) -> str:
    return next((f"{one['name']}: {why}" for one in report["candidates"] for why in one["failures"].values()), "")


def _write(report: dict[str, Any], out: Path) -> None:
    """bench.json and bench.png, both or neither."""
    from singleshot.bench.chart import draw_bench
    from singleshot.files import atomic_folder

    with atomic_folder(out) as temporary:
        (temporary / "bench.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
        if any(one["tasks"] for one in report["candidates"]):
            draw_bench(report, temporary / "bench.png")

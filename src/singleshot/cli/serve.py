"""`singleshot serve`: an HTTP service."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from singleshot.cli.common import (
    DeviceOption,
    EngineOption,
    NoTileOption,
    PrecisionOption,
    QuietOption,
    ThreadsOption,
    TileOption,
    one_tile,
)
from singleshot.errors import ConfigError, printable
from singleshot.extras import require

API_KEY = "SINGLESHOT_API_KEY"


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL", help="Exported files (or checkpoints), or NAME=FILE. The first is the default."
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all, which is not the default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for one that is free.")] = 8000,
    workers: Annotated[int, typer.Option(help="Processes that detect.")] = 1,
    api_key_file: Annotated[
        Path | None, typer.Option(help=f"A file with the key that requests must bring. Or in {API_KEY}.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A web page's origin that may read answers (CORS). May be repeated.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that requests may call this service by. Default: this machine's on loopback, else any."
        ),
    ] = None,
    score_min: Annotated[float | None, typer.Option(help="Lowest score, 0 to 1. Default: the model's own.")] = None,
    tile: TileOption = None,
    no_tile: NoTileOption = False,
    max_mb: Annotated[int, typer.Option(help="MB of a request's body.")] = 32,
    max_pixels: Annotated[int, typer.Option(help="Pixels of an image.")] = 50_000_000,
    max_images: Annotated[int, typer.Option(help="Images in a request.")] = 32,
    queue: Annotated[int, typer.Option(help="Images that may wait; more are refused with 503.")] = 64,
    max_wait: Annotated[float, typer.Option(help="Seconds that an answer may take; more is refused.")] = 0.6,
    batch: Annotated[int, typer.Option(help="Images in a run of the network.")] = 8,
    batch_wait: Annotated[float, typer.Option(help="Milliseconds to wait for requests that are arriving.")] = 2.0,
    body_seconds: Annotated[float, typer.Option(help="For a request's body to arrive.")] = 10.0,
    request_seconds: Annotated[float, typer.Option(help="From a body to its answer.")] = 30.0,
    device: DeviceOption = "auto",
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for compiled networks, to start faster.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Detect over HTTP.

    Example: singleshot serve best.onnx

    Ends with Ctrl-C or SIGTERM, after what it has taken is answered. A model file that is written anew is taken over.
    """
    require("serve", "serve", "fastapi", "uvicorn", "prometheus_client", "python_multipart")

    from singleshot.serve.logs import log_as_json
    from singleshot.serve.options import ServeOptions
    from singleshot.serve.server import serve as run

    options = ServeOptions(
        models=tuple(models),
        host=host,
        port=port,
        workers=workers,
        api_key=_api_key(api_key_file),
        allow_origins=tuple(allow_origin or ()),
        allow_hosts=tuple(allow_host) if allow_host else None,
        max_mb=max_mb,
        max_pixels=max_pixels,
        max_images=max_images,
        queue=queue,
        max_wait=max_wait,
        batch=batch,
        batch_wait=batch_wait,
        body_seconds=body_seconds,
        request_seconds=request_seconds,
        engine=engine,
        device=None if device == "auto" else device,
        threads=threads,
        precision=precision,
        cache=None if cache is None else str(cache),
        score_min=score_min,
        tile=one_tile(tile, no_tile),
    )
    log_as_json(quiet)

    def ready(address: str) -> None:
        if not options.is_loopback and options.api_key is None:
            print(f"singleshot: anybody who reaches {printable(host)} may use this: no API key is set", file=sys.stderr)
        print(f"serving {', '.join(models)} at {address}", flush=True)

    run(options, ready)


def _api_key(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(API_KEY) or None
    try:
        return path.read_text().strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{printable(path)}: no API key can be read ({printable(error, 80)})") from error

"""`singleshot label`: a page on this machine to correct labels."""

from __future__ import annotations

from typing import Annotated

import typer

from singleshot.cli.common import DeviceOption, EngineOption, PrecisionOption, QuietOption, ThreadsOption, count_of
from singleshot.extras import require


def label_command(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data set in VOC, COCO or YOLO form: folder or file.")],
    model: Annotated[
        str | None, typer.Option("--model", help="A checkpoint or an exported file, whose detections are proposed.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="voc or yolo: images without labels start as a new set of that form."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--classes",
            metavar="A,B|FILE",
            help="Of a new set (a file has one a line); of one that is there: more classes.",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="Copy the set into this new folder, and label there.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's are not safe.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0 for one that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    device: DeviceOption = "auto",
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    quiet: QuietOption = False,
) -> None:
    """See and correct the labels of a data set in a page; saved in place, in the set's own form.

    Example: singleshot label my-data --model best.safetensors

    Each label file is copied to .singleshot-label/backups/ in the set's folder before its first change. Ends with
    Ctrl-C.
    """
    require("serve", "label", "fastapi", "uvicorn", "prometheus_client", "python_multipart")

    from singleshot.api.label import LabelOptions, open_labels
    from singleshot.serve.label_server import label_options, serve_labels
    from singleshot.serve.logs import log_as_json

    serving = label_options(host, port)
    labels = open_labels(
        LabelOptions(data, model, form, tuple(classes or ()), out, None if device == "auto" else device, engine,
                     threads, precision)
    )  # fmt: skip
    log_as_json(quiet=True)

    def ready(address: str) -> None:
        if not quiet:
            print(f"{count_of(len(labels.store.images), 'image')}, {labels.form}; Ctrl-C ends it")
        print(f"labelling at {address}", flush=True)
        if browser:
            import webbrowser

            webbrowser.open(address)

    serve_labels(labels.form, labels.store, labels.views, serving, ready)

"""`singleshot import`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from singleshot.cli.common import JsonOption, QuietOption
from singleshot.errors import ConfigError, printable

if TYPE_CHECKING:
    from singleshot.api.import_checkpoint import Imported

_SHOWN = 20  # detections that are listed


def import_command(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Another project's model file; a TensorFlow checkpoint also by its prefix.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: its name, with .safetensors, in this folder.")
    ] = None,
    source: Annotated[str, typer.Option(help="Whose it is, instead of recognising it: a name of --list.")] = "auto",
    show_list: Annotated[bool, typer.Option("--list", help="List what is recognised, and stop.")] = False,
    beside: Annotated[
        Path | None,
        typer.Option(help="Caffe's prototxt, OpenVINO's .bin, or a class list, where it is not found by its name."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names, separated by commas, or a file of them; numbered for class 1, class 2, ... Default: its own,"
            " or those of the labels.txt and the like next to it."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of its input, where the file does not say. Default: the source's.")
    ] = None,
    priors: Annotated[
        str | None, typer.Option(help="Its default boxes, likewise: a table of priors show, or a JSON file of one.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean of its pixels (0..255): one number, or R,G,B. Default: the source's.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="What they are divided by: one number, or R,G,B. Default: the source's.")
    ] = None,
    colour_order: Annotated[
        str | None, typer.Option(help="What its first layer takes, rgb or bgr. Default: the source's.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="A photo to try the converted model on. Default: a drawn scene.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Where the photo with its detections goes. Default: next to the model.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert an SSD checkpoint of another project to one file of ours, and try it on a picture.

    Example: singleshot import ssd300_mAP_77.43.pth --image photo.jpg

    Example: singleshot import mb1-ssd-Epoch-99.pth --size 512 --classes labels.txt

    Caffe, Keras, OpenVINO, TensorFlow, TensorFlow Lite and PyTorch files are recognised by what they hold; of these
    only PyTorch needs to be installed, and no code in a file is run.
    """
    if show_list:
        from singleshot.importable import importable

        rows = [{"name": name, "about": row.about} for name, row in importable().items()]
        print(json.dumps(rows) if as_json else "\n".join(f"{row['name']:<24} {row['about']}" for row in rows))
        return
    if checkpoint is None:
        raise ConfigError("import: want a checkpoint file; singleshot import --list says which are known")
    from singleshot.api.import_checkpoint import ImportOptions, run_import

    options = ImportOptions.of({**locals(), "companion": beside, "class_names": classes})
    done = run_import(options, _ask_names if sys.stdin.isatty() else None)
    if as_json:
        print(json.dumps(done.to_dict()))
        return
    if not quiet:
        _print_model(done)
    _print_found(done, "a drawn scene" if image is None else printable(image))
    print(f"written: {printable(done.path)}" + (f", {printable(done.picture)}" if done.picture is not None else ""))
    if not quiet:
        print(f"read back: raw outputs differ by {done.difference:g} at most", file=sys.stderr)


def _ask_names(count: int) -> str:
    return str(
        typer.prompt(f"Names of its {count} classes, in the order of its outputs, separated by commas (or numbered)")
    )


def _print_model(done: Imported) -> None:
    """What it was, and what it became."""
    info = done.info
    spec, priors, rule, names = info.input_spec, info.priors, info.thresholds, info.class_names
    mean, std, variances = (" ".join(f"{v:g}" for v in row) for row in (spec.mean, spec.std, priors.variances[:2]))
    maps = " ".join(str(high) if high == wide else f"{high}x{wide}" for high, wide in priors.grids)
    few = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    print(f"{printable(done.checkpoint)}: {printable(done.source)}")
    size = f"{spec.height} x {spec.width}" + ("" if spec.height == spec.width else " (height x width)")
    colours = spec.colour_order.upper() if spec.channels == 3 else "grey"
    print(f"  input   {size}, {spec.resize}, {colours}, mean {mean}, std {std}")
    print(f"  priors  {priors.count} on maps of {maps}, clip {priors.clip}, variances {variances}")
    print(f"  detect  {rule.summary()}")
    print(f"  classes {len(names)}: {printable(few)}")
    for note in done.notes:
        print(f"  note    {printable(note, 300)}")


def _print_found(done: Imported, picture: str) -> None:
    """What it finds on the picture."""
    found = done.found
    print(f"on {picture}: {len(found)} objects of score {done.info.thresholds.show_min:g} and more")
    rows = list(zip(found.names, found.scores, found.boxes, strict=True))
    for name, score, box in rows[:_SHOWN]:
        print(f"  {score:.3f}  {printable(name, 40):<20} {' '.join(f'{v:.0f}' for v in box)}")
    if len(rows) > _SHOWN:
        print(f"  and {len(rows) - _SHOWN} more")

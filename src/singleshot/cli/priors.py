"""`singleshot priors`."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from singleshot.api.options import DEFAULT_MODEL
from singleshot.cli.common import (
    ClassesOption,
    FollowLinksOption,
    JsonOption,
    LabelScoreOption,
    QuietOption,
    progress_bar,
)
from singleshot.errors import printable
from singleshot.text_table import align_columns

if TYPE_CHECKING:
    from singleshot.api.fit_priors import PriorFit
    from singleshot.datasets.statistics import Part
    from singleshot.prior_boxes import PriorSpec

_CLASSES = 24  # that are listed

priors_app = typer.Typer(help="Default boxes: what the models look for.", no_args_is_help=True)


@priors_app.callback()
def _group() -> None:
    """Default boxes: what the models look for."""


@priors_app.command()
def show(
    name: Annotated[
        str | None,
        typer.Argument(help="A table of default boxes, a model, or a JSON file of a table; without it, all there are."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the models with their default boxes, or one table in full.

    Example: singleshot priors show ssd300-voc
    """
    from singleshot.presets import MODELS
    from singleshot.prior_files import read_priors
    from singleshot.prior_tables import PRIORS, SOURCES, prior_spec

    if name is None:
        rows = {
            key: {"about": m.about, "priors": m.priors, "count": PRIORS[m.priors].count, "input": m.input_spec.size}
            for key, m in MODELS.items()
        }
        if as_json:
            print(json.dumps({"models": rows, "tables": list(PRIORS), "sources": SOURCES}))
            return
        print("models")
        for key, row in rows.items():
            print(f"{key:<28} {row['input']} px  {row['count']:>6} priors ({row['priors']})  {row['about']}")
        print("\ntables")
        for key, source in SOURCES.items():
            print(f"{key:<28} {PRIORS[key].image_size} px  {PRIORS[key].count:>6} priors  {source}")
        return
    if name in MODELS and name not in PRIORS:
        name = MODELS[name].priors
    spec = prior_spec(name) if name in PRIORS else read_priors(name)
    source = SOURCES.get(name, "this file")
    if as_json:
        print(json.dumps({"name": name, "source": source, "count": spec.count, **spec.to_dict()}))
        return
    words = f"{spec.count} priors on an input of {spec.image_size} px, clip {spec.clip}, order {spec.order}"
    print(f"{printable(name)}: {words}")
    print(f"  from {source}")
    print("\n".join(shape_lines(spec)))


@priors_app.command()
def fit(
    data: Annotated[str, typer.Argument(help="Folder, file or address in any form that data check reads.")],
    model: Annotated[str, typer.Option(help="For which network. See: priors show.")] = DEFAULT_MODEL,
    split: Annotated[str, typer.Option(help="Split to fit to; all are measured.")] = "train",
    max_priors: Annotated[
        int | None, typer.Option(min=1, help="The most priors that there may be. Default: as many as the model has.")
    ] = None,
    iou_min: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="IoU from which a prior matches: the recipe's iou_min.")
    ] = 0.5,
    size: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Of the input, as train is to have it: 512, or 288x512 (height x width)."),
    ] = None,
    resize: Annotated[
        str | None, typer.Option(help="stretch or letterbox, as train is to have it. Default: the model's, stretch.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="The same seed gives the same priors.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="FILE.json for train --priors; a picture goes next to it, FILE.png.")
    ] = None,
    classes: ClassesOption = None,
    score_min: LabelScoreOption = None,
    follow_links: FollowLinksOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fit a model's default boxes to a data set: sizes and ratios that match as many of its objects as can be.

    Prints which objects a prior matches (IoU of --iou-min and more) before and after, by split, class and size.

    Example: singleshot priors fit path/to/data --out priors.json
    """
    from singleshot.api.fit_priors import FitPriorsOptions, run_fit

    options = FitPriorsOptions.of({**locals(), "classes": classes or None})
    found = run_fit(options, functools.partial(progress_bar, quiet=quiet))
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        print("\n".join(fit_lines(found)))
    if out is not None and not quiet:
        print(f"written: {printable(out)}, {printable(out.with_suffix('.png'))}", file=sys.stderr)
        given = [word for name, value in (("--size", size), ("--resize", resize)) if value for word in (name, value)]
        words = ["singleshot", "train", data, "--model", model, *given]
        print(f"train:   {shlex.join([*words, '--priors', str(out)])}", file=sys.stderr)


def shape_lines(spec: PriorSpec) -> list[str]:
    """Each map with the boxes of its cells, in pixels; centres in cells where they are not the middle."""
    from singleshot.prior_boxes import cell_shapes

    lines = []
    for i, ((high, wide), boxes) in enumerate(zip(spec.grids, spec.per_cell, strict=True)):
        shapes = [f"{w:.1f}x{h:.1f}" for w, h in cell_shapes(spec, i)]
        if spec.centres is not None:
            shapes = [f"{shape} at {x:.2f},{y:.2f}" for shape, (x, y) in zip(shapes, spec.centres[i], strict=True)]
        lines.append(
            f"  {high:>3} x {wide:<3} cells, step {spec.step(i)[0]:.4g} px, {boxes} a cell: {', '.join(shapes)}"
        )
    return lines


def fit_lines(found: PriorFit) -> list[str]:
    """What was fitted and what it changed, as text."""
    from singleshot.datasets.statistics import SIDES

    first = found.splits[0]
    most = found.options.max_priors or found.old.count
    px = first.before.input_px
    rows = [["", "objects", "matched before", "after", "mean IoU before", "after"]]
    rows += [_row(f"split {one.name}", one.before.all, one.after.all) for one in found.splits]
    classes = sorted(zip(first.before.classes, first.after.classes, strict=True), key=lambda pair: -pair[0].objects)
    rows += [_row(f"class {before.name}", before, after) for before, after in classes[:_CLASSES] if before.objects]
    sizes = zip(first.before.sizes, first.after.sizes, strict=True)
    rows += [_row(f"{before.name} (COCO)", before, after) for before, after in sizes if before.objects]
    sides = zip(first.before.sides, first.after.sides, SIDES, [*SIDES[1:], px], strict=True)
    for before, after, low, high in sides:
        if before.objects:
            part = f"{low / px:.1%} to {high / px:.1%} of the input"
            rows.append(_row(f"side {before.name} px, {part}", before, after))
    more = [f"... {len(classes) - _CLASSES} classes more (--json)"] if len(classes) > _CLASSES else []
    return [
        f"{printable(found.source)}, fitted to {printable(first.name)}; {found.options.model}, input "
        f"{found.input_spec.size_text}, {found.input_spec.resize}, a prior matches from IoU {found.options.iou_min:g}",
        f"{found.old.count} priors before, {found.table.count} after (at most {most}); classes and sizes are those of "
        f"{printable(first.name)}",
        "",
        *align_columns(rows),
        *more,
        "",
        *shape_lines(found.table),
    ]


def _row(name: str, before: Part, after: Part) -> list[str]:
    matched = ["-" if part.matched is None else f"{part.matched:.1%}" for part in (before, after)]
    mean = ["-" if part.mean_iou is None else f"{part.mean_iou:.3f}" for part in (before, after)]
    return [printable(name, 48), str(before.objects), *matched, *mean]

"""`singleshot explain`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from singleshot.api.options import GRADIENTS
from singleshot.cli.common import DeviceOption, FollowLinksOption, JsonOption, QuietOption, RuleOption, count_of
from singleshot.errors import printable

if TYPE_CHECKING:
    from singleshot.report.explanation import ExplainedDetection, ExplainedObject, Explanation


def explain_command(
    model: Annotated[str, typer.Argument(help="A checkpoint, such as best.safetensors, or a file of export --raw.")],
    image: Annotated[str, typer.Argument(help="An image file.")],
    labels: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="The labelled data set that the image is of: why its objects were missed."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A picture to write, .png or .jpg.")] = None,
    score_min: Annotated[
        float | None, typer.Option(help="Lowest score to show, 0 to 1. Default: the model's own, as in detect.")
    ] = None,
    rule: RuleOption = None,
    gradients: Annotated[
        int,
        typer.Option(
            min=0, help="For how many detections, best first, the receptive field is measured by gradient: slow."
        ),
    ] = GRADIENTS,
    device: DeviceOption = "auto",
    follow_links: FollowLinksOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say where each detection in an image comes from: feature map, cell, default box, offset, what NMS removed, what
    the cell can see.

    With --labels also which default boxes training gives each object, which it mines as hard negatives, and why an
    object was missed. Each cause is tried: what had to be different is changed, and the object must then appear.

    Example: singleshot explain runs/train-1/best.safetensors photo.jpg --labels path/to/data --out why.png
    """
    from singleshot.api.explain import ExplainOptions, run_explanation

    done = run_explanation(ExplainOptions.of(locals()))
    if as_json:
        print(json.dumps(done.to_dict()))
    else:
        print("\n".join(explanation_lines(done)))
    if out is not None and not quiet:
        print(f"written: {printable(out)}", file=sys.stderr)


def explanation_lines(done: Explanation) -> list[str]:
    """As text."""
    found = done.found
    lines = [f"{printable(found.image)}: {found.width} x {found.height} pixels, {printable(found.summary(), 400)}"]
    for number, one in enumerate(done.detections, start=1):
        lines += _detection_lines(done, one, number)
    if done.objects is not None:
        missed = [(number, one) for number, one in enumerate(done.objects, start=1) if one.detection is None]
        lines += ["", f"{len(missed)} of {count_of(len(done.objects), 'object')} missed"]
        for number, object_ in missed:
            lines += _missed_lines(object_, number)
    if done.negatives_mined is not None:
        lines += ["", f"training mines {count_of(done.negatives_mined, 'default box', 'default boxes')} here as hard"
                      f" negatives (matching {done.rules['matching']}, IoU {done.rules['iou_min']:g}, loss"
                      f" {done.rules['loss']}: of {done.rules['of']})"]  # fmt: skip
    return [*lines, *(f"note: {note}" for note in done.notes)]


def _detection_lines(done: Explanation, one: ExplainedDetection, number: int) -> list[str]:
    box = ", ".join(f"{value:.0f}" for value in one.box)
    on = "" if done.objects is None else "; on no object" if one.object is None else f"; object {one.object + 1}"
    lines = [f"{number:>3}. {printable(one.name, 60)} {one.score:.3f} at {box}{on}"]
    if one.origin is None:
        return lines
    origin, place = one.origin, one.origin.place
    rows, columns = done.maps[place.map]
    x0, y0, x1, y1 = origin.arrow
    size = f"{place.box[2] - place.box[0]:.0f} x {place.box[3] - place.box[1]:.0f}"
    lines.append(
        f"     map {place.map} ({rows} x {columns}), row {place.row}, column {place.column}, default box {place.shape}"
        f" of {size} px, moved by {x1 - x0:+.1f}, {y1 - y0:+.1f} px"
    )
    best = sorted(origin.scores.items(), key=lambda item: -item[1])[:3]
    scores = ", ".join(f"{printable(name, 40)} {score:.3f}" for name, score in best)
    weaker = f"; best {origin.runners_up[0].score:.3f}" if origin.runners_up else ""
    lines.append(f"     scores {scores}; NMS removed {origin.removed}{weaker}")
    width, height = done.found.width, done.found.height
    seen = [
        f"{box[2] - box[0]:.0f} x {box[3] - box[1]:.0f} px by {word}"
        + (", all of the image" if box[0] <= 0 and box[1] <= 0 and box[2] >= width and box[3] >= height else "")
        for word, box in (("its layers", origin.field), ("gradient", origin.gradient))
        if box is not None
    ]
    return [*lines, f"     sees {', '.join(seen)}"] if seen else lines


def _missed_lines(one: ExplainedObject, number: int) -> list[str]:
    box = ", ".join(f"{value:.0f}" for value in one.box)
    hard = " (difficult)" if one.difficult else ""
    lines = [f"  object {number}: {printable(one.name, 60)} at {box}{hard}"]
    if one.best is not None:
        lines.append(f"     best default box IoU {one.best.iou:.2f}; training gives it {len(one.matched)}")
    return [*lines, *(f"     {reason}" for reason in one.reasons())]

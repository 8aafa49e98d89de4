"""An evaluation as a plain-text table."""

from __future__ import annotations

import math

from singleshot.errors import printable
from singleshot.metrics.error_analysis import KINDS, ErrorAnalysis
from singleshot.metrics.evaluation import ClassResult, Evaluation, mean_known
from singleshot.text_table import align_columns

_COUNTS = ("objects", "found")
_BEST = ("precision", "recall", "F1", "score")


def format_table(evaluation: Evaluation) -> str:
    """One row per class, then the mean over the classes that have ground truth; COCO's 12 figures below, if any.

    precision, recall, F1 and score are those of the point with the greatest F1. A dash stands for what is not defined.
    """
    from rich.cells import cell_len

    coco = evaluation.metric == "coco"
    head = ("class", "AP", *(("AP50",) if coco else ()), *_COUNTS, *_BEST)
    rows = [_cells(printable(one.name, 60), one, coco) for one in evaluation.per_class]
    lines = align_columns([head, *rows, _mean_cells(evaluation, coco)])
    rule = max(map(cell_len, lines))
    body = [lines[0], "-" * rule, *lines[1:-1], "-" * rule, lines[-1]]
    if evaluation.stats:
        body += ["", "  ".join(f"{name} {_rate(value)}" for name, value in evaluation.stats.items())]
    return "\n".join(body)


def format_errors(errors: ErrorAnalysis) -> str:
    """What correcting each kind of error would add to AP and how many there are; then how many objects of each size
    were found."""
    head = (f"errors at IoU {errors.iou_min:g}", *KINDS)
    gains = (
        "AP without them",
        *(f"+{gain:.3f}" if (gain := errors.gains[kind]) is not None else "-" for kind in KINDS),
    )
    lines = align_columns([head, gains, ("how many", *(str(errors.counts[kind]) for kind in KINDS))])
    sizes = [f"{one.name} {one.found} of {one.objects}" for one in errors.by_size if one.objects]
    return "\n".join([*lines, f"objects found: {', '.join(sizes)}"] if sizes else lines)


def _cells(name: str, one: ClassResult, coco: bool) -> tuple[str, ...]:
    rates = (one.precision, one.recall, one.f1, one.score)
    ap50 = (_rate(one.ap50),) if coco else ()
    return (name, _rate(one.ap), *ap50, str(one.truths), str(one.detections), *map(_rate, rates))


def _mean_cells(evaluation: Evaluation, coco: bool) -> tuple[str, ...]:
    every = evaluation.per_class
    ap50 = (_rate(evaluation.stats.get("AP50")),) if coco else ()
    counts = (str(evaluation.measured_truths), str(sum(one.detections for one in every)))
    rates = [mean_known([getattr(one, key) for one in every]) for key in ("precision", "recall", "f1")]
    # Classes have different best scores; their mean would be a threshold that gives none of these figures.
    return ("mean", _rate(evaluation.mean_ap), *ap50, *counts, *map(_rate, rates), "")


def _rate(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"

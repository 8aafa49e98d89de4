"""The sections about how a model did on labelled images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from markupsafe import Markup

from singleshot.datasets.dataset import Dataset
from singleshot.errors import printable
from singleshot.metrics import ClassResult, Curve, ErrorAnalysis, Evaluation
from singleshot.metrics.coco import COCO_STATS, coco_average_precision
from singleshot.metrics.confusion import Confusion, confusion_matrix
from singleshot.metrics.error_analysis import KINDS
from singleshot.metrics.evaluation import mean_known
from singleshot.metrics.label_errors import LABEL_KINDS, LabelSuspect, find_label_errors
from singleshot.metrics.operating_points import OperatingPoints, operating_points
from singleshot.report.error_examples import error_examples, page_pictures, suspect_examples
from singleshot.report.html import (
    NONE,
    NOT_MEASURED,
    Section,
    cell,
    charts,
    details,
    facts,
    gallery,
    number,
    paragraph,
    table,
)
from singleshot.report.svg import Line, Mark, line_chart, unit_axis

_SHOWN = 6  # errors of each kind that are drawn
_SUSPECTS = 12
_LINES = 24  # classes with a curve of their own
_MATRIX = 30  # classes of the confusion matrix
_ROWS = 400  # classes in the table


@dataclass(frozen=True)
class Measured:
    """A model's evaluation on a data set, with its errors analysed. evaluation: a row per class, of those that were not
    measured too; dataset: whose classes are those that were; about: what was evaluated, in words."""

    evaluation: Evaluation
    errors: ErrorAnalysis
    dataset: Dataset
    about: str

    @cached_property
    def points(self) -> OperatingPoints:
        """Figures against the score threshold, by the evaluation's rows."""
        return operating_points(self.evaluation.curves)

    @cached_property
    def coco(self) -> dict[str, float]:
        """COCO's 12 figures."""
        if self.evaluation.stats:
            return self.evaluation.stats
        return coco_average_precision(self.errors.found, self.errors.truth, len(self.dataset.class_names)).stats

    @cached_property
    def confusion(self) -> Confusion | None:
        """At the best threshold; None where there is none."""
        if self.points.best is None:
            return None
        classes = len(self.dataset.class_names)
        return confusion_matrix(self.errors.found, self.errors.truth, classes, self.points.best)

    @cached_property
    def suspects(self) -> list[LabelSuspect]:
        """Suspected label errors, most suspect first."""
        return find_label_errors(self.errors.found, self.errors.truth)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that a comparison of runs needs."""
        points = self.points
        curves = {"threshold": points.thresholds, "precision": points.mean_precision, "recall": points.mean_recall,
                  "f1": points.mean_f1}  # fmt: skip
        return {
            "about": self.about,
            **self.evaluation.to_dict(),
            "coco": {name: None if math.isnan(value) else value for name, value in self.coco.items()},
            "score_threshold": points.best,
            "mean_curves": {name: [_plain(value) for value in values.tolist()] for name, values in curves.items()},
            "label_suspects": len(self.suspects),
        }


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)


def evaluation_sections(measured: Measured) -> list[Section]:
    """All of them, in order."""
    makers = (class_section, curves_section, confusion_section, size_section, errors_section, suspects_section)
    return [make(measured) for make in makers]


def headline(measured: Measured) -> list[tuple[str, str]]:
    """The figures that stand at the top."""
    stats, metric = measured.coco, measured.evaluation.metric
    pairs = [("mAP50", number(stats["AP50"] if metric == "coco" else measured.evaluation.mean_ap))]
    pairs.append(("AP .5:.95", number(stats["AP"])))
    pairs.append(("best score threshold", number(measured.points.best)))
    return pairs


def class_section(measured: Measured) -> Section:
    """A row per class."""
    evaluation = measured.evaluation
    coco = evaluation.metric == "coco"
    head = ("class", "AP", *(("AP50",) if coco else ()), "objects", "detections", "precision", "recall", "F1", "score")
    rows = []
    for one in _most_objects(evaluation.per_class):
        rates = (one.precision, one.recall, one.f1, one.score)
        ap50 = (cell(one.ap50),) if coco else ()
        rows.append((printable(one.name, 60), cell(one.ap), *ap50, one.truths, one.detections, *map(cell, rates)))
    every = evaluation.per_class
    means = [cell(mean_known([getattr(one, key) for one in every])) for key in ("precision", "recall", "f1")]
    ap50 = (cell(measured.coco["AP50"]),) if coco else ()
    counts = evaluation.measured_truths, sum(one.detections for one in every)
    foot = ("mean", cell(evaluation.mean_ap), *ap50, *counts, *means, "")
    note = (
        f"The {_ROWS} classes with the most objects; eval.json has all {len(every)}. " if len(every) > _ROWS else ""
    ) + (
        f"Average precision by metric {evaluation.metric} on {measured.about}. Precision, recall and F1 are those at "
        "the score that is best for the class alone. A dash: no objects to measure on."
    )
    return Section("classes", "Classes", table(head, rows, foot), note)


def _most_objects(results: Sequence[ClassResult]) -> list[ClassResult]:
    """As many as the table takes, in their order."""
    chosen = sorted(range(len(results)), key=lambda i: -results[i].truths)[:_ROWS]
    return [results[i] for i in sorted(chosen)]


def curves_section(measured: Measured) -> Section:
    """Precision against recall, and all three against the score threshold."""
    points, evaluation = measured.points, measured.evaluation
    order = sorted(range(len(evaluation.curves)), key=lambda i: -evaluation.curves[i].truths)
    shown = sorted(i for i in order[:_LINES] if evaluation.curves[i].truths)
    names = [printable(evaluation.per_class[i].name, 40) for i in shown]
    recall_lines = [_recall_line(name, evaluation.curves[i]) for name, i in zip(names, shown, strict=True)]
    parts = [("Precision and recall", line_chart(recall_lines, unit_axis("recall"), unit_axis("precision")))]
    mark = None if points.best is None else Mark(points.best, f"best {points.best:.3f}")
    for title, values, mean in (
        ("F1", points.f1, points.mean_f1),
        ("Precision", points.precision, points.mean_precision),
        ("Recall", points.recall, points.mean_recall),
    ):
        lines = [Line(name, points.thresholds, values[i]) for name, i in zip(names, shown, strict=True)]
        if len(lines) > 1:
            lines.append(Line("mean of all classes", points.thresholds, mean, strong=True))
        parts.append((f"{title} and score threshold", line_chart(lines, unit_axis("score threshold"),
                                                                unit_axis(title), mark)))  # fmt: skip
    note = _threshold_words(points)
    if len(order) > len(shown) and len(shown) == _LINES:
        note += f" Lines are drawn for the {_LINES} classes with the most objects; the mean is over all."
    return Section("curves", "Precision, recall and the score threshold", charts(parts), note)


def _threshold_words(points: OperatingPoints) -> str:
    if points.best is None:
        return "No threshold is best: nothing was found that is right, or there was nothing to find."
    at = int(np.searchsorted(points.thresholds, points.best - 1e-9))
    figures = (values[at] for values in (points.mean_f1, points.mean_precision, points.mean_recall))
    f1, precision, recall = (f"{value:.3f}" for value in figures)
    return (
        f"Keep detections that score {points.best:.3f} or more (--score-min {points.best:.3f}): the mean F1 of all "
        f"classes is greatest there, {f1}, with precision {precision} and recall {recall}. Take a higher one where "
        "false alarms cost more than misses, a lower one where misses do. Average precision is measured over all "
        "scores and does not depend on it."
    )


def _recall_line(name: str, curve: Curve) -> Line:
    recall, precision = curve.recall, curve.precision
    start = precision[:1]
    return Line(name, np.concatenate((np.zeros(len(start)), recall)), np.concatenate((start, precision)))


def confusion_section(measured: Measured) -> Section:
    """The confusion matrix."""
    title, confusion = "Confusion matrix", measured.confusion
    if confusion is None:
        return Section("confusion", title, paragraph(NOT_MEASURED))
    counts, names = confusion.counts, measured.dataset.class_names
    # Those with the most objects that were not found as what they are, and detections that are wrong.
    errors = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    shown = sorted(np.argsort(-errors[:-1], kind="stable")[:_MATRIX].tolist())
    places = [*shown, len(names)]
    words = [*(printable(names[i], 24) for i in shown)]
    square = Markup('<td class="heat" style="--share:{}%">{}</td>')
    rows = []
    for i, word in zip(places, [*words, "background"], strict=True):
        total = max(int(counts[i].sum()), 1)
        cells = Markup("").join(square.format(f"{100 * counts[i, j] / total:.0f}", counts[i, j] or "") for j in places)
        rows.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(word, cells))
    head = Markup("").join(
        Markup('<th scope="col">{}</th>').format(one) for one in ("label \\ found", *words, "missed")
    )
    body = Markup('<div class="wide"><table class="matrix"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>')
    note = (
        f"Rows: what is labelled; columns: as what it was found, at score {confusion.score_min:.3f} and IoU "
        f"{confusion.iou_min:g}. Last column: objects that nothing was found on; last row: detections on nothing."
    )
    if len(shown) < len(names):
        note += f" The {len(shown)} of {len(names)} classes with the most errors."
    return Section("confusion", title, body.format(head, Markup("").join(rows)), note)


def size_section(measured: Measured) -> Section:
    """AP and recall by size of object."""
    stats = measured.coco
    names = {"s": "small, under 32 px", "m": "medium, 32 to 96 px", "l": "large, over 96 px"}
    rows = [(name, number(stats[f"AP{key}"]), number(stats[f"AR{key}"])) for key, name in names.items()]
    parts = table(("objects, side in pixels of the image", "AP .5:.95", "recall .5:.95"), rows)
    found = [
        (
            one.name,
            one.objects,
            one.found,
            number(one.found / one.objects if one.objects else None),
            one.errors["missed"],
        )
        for one in measured.errors.by_size
    ]
    head = ("objects, side", "objects", "found at IoU 0.5", "share", "missed altogether")
    body = parts + table(head, found)
    rest = details("COCO's 12 figures", facts((name, number(stats[name])) for name in COCO_STATS))
    return Section("sizes", "Size of objects", body + rest, "The side is that of a square as large as the box.")


def errors_section(measured: Measured) -> Section:
    """What each kind of error costs, and the worst of each."""
    errors, examples = measured.errors, error_examples(measured.errors)
    rows = [
        (kind, words, errors.counts[kind], NONE if (gain := errors.gains[kind]) is None else f"+{gain:.3f}")
        for kind, words in KINDS.items()
    ]
    body = table(("kind", "a detection", "how many", "AP50 without them"), rows, texts=True)
    for kind, words in KINDS.items():
        some = examples[kind][:_SHOWN]
        if some:
            title = Markup("<h3>{} <small>{}, {} of {}</small></h3>").format(
                kind, words, len(some), len(examples[kind])
            )
            body += title + gallery(page_pictures(some, errors, measured.dataset))
    note = (
        "Kinds as in TIDE, counted over all detections from the lowest score on. Pictures: the false positives with "
        "the highest scores, the largest missed objects. Green: the label concerned; orange: the detection; light "
        "blue: other labels."
    )
    return Section("errors", "Errors", body, note)


def suspects_section(measured: Measured) -> Section:
    """Labels that the model contradicts."""
    suspects = measured.suspects
    counts = {kind: sum(one.kind == kind for one in suspects) for kind in LABEL_KINDS}
    rows = [(kind, words, counts[kind]) for kind, words in LABEL_KINDS.items()]
    body = table(("kind", "sign", "how many"), rows, texts=True)
    some = suspect_examples(measured.errors, suspects[:_SUSPECTS])
    if some:
        body += gallery(page_pictures(some, measured.errors, measured.dataset, kinds=True))
    note = (
        "Where the model and the labels contradict each other so clearly that the label may be wrong; look before you "
        "change one. singleshot eval MODEL DATA --errors FOLDER lists all of them, of the training images with "
        "--split train."
    )
    return Section("labels", "Suspected label errors", body, note)

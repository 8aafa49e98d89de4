"""Some errors of an evaluation explained: why objects were missed, and which default box false positives come from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from markupsafe import Markup

from singleshot.datasets.dataset import Dataset
from singleshot.errors import DataError
from singleshot.metrics.error_analysis import ErrorAnalysis
from singleshot.records import ImageTruth
from singleshot.report.error_examples import Example, encode_jpeg, error_examples, short_name
from singleshot.report.explain_picture import ExplainedPart, draw_detection, draw_missed
from singleshot.report.explanation import Explanation
from singleshot.report.html import Picture, Section, gallery

MISSED, WRONG = 6, 3  # pictures
_LOOKED_AT = 3  # errors at most for each picture: an object that was missed at no score may still be found by detect
_WRONG_KINDS = ("background", "location", "class", "both", "duplicate")

# An image and what is labelled in it, under the model's labels -> its explanation.
Explain = Callable[[np.ndarray, ImageTruth], Explanation]


def explained_section(
    errors: ErrorAnalysis, dataset: Dataset, model_classes: Sequence[str], explain: Explain
) -> Section | None:
    """None where there is nothing to explain.

    Args:
        errors: Of an evaluation.
        dataset: Its images.
        model_classes: The model's classes by its labels.
        explain: Called for one image after another.
    """
    examples = error_examples(errors)
    wrong = [one for kind in _WRONG_KINDS for one in examples[kind][:1]]
    groups = [
        ("Why it was missed", _pictures(examples["missed"], MISSED, errors, dataset, model_classes, explain)),
        ("Where it comes from", _pictures(wrong, WRONG, errors, dataset, model_classes, explain)),
    ]
    if not any(pictures for _, pictures in groups):
        return None
    body = Markup("")
    for title, pictures in groups:
        if pictures:
            body += Markup("<h3>{}</h3>").format(title) + gallery(pictures)
    note = (
        "Of the largest missed objects and of the first false positive of each kind. Dashed: the default box; arrow: "
        "its offset; green: the label; violet: what NMS removed. Each cause was tried: with it gone, the object "
        "appears. "
        "singleshot explain MODEL IMAGE --labels DATA explains any image."
    )
    return Section("explain", "Errors explained", body, note)


def _pictures(
    examples: Sequence[Example],
    count: int,
    errors: ErrorAnalysis,
    dataset: Dataset,
    model_classes: Sequence[str],
    explain: Explain,
) -> list[Picture]:
    pictures = []
    for one, part in _parts(examples[: count * _LOOKED_AT], errors, dataset, model_classes, explain):
        pictures.append(Picture(encode_jpeg(part.canvas), (*part.lines, short_name(dataset.names[one.image]))))
        if len(pictures) == count:
            break
    return pictures


def _parts(
    examples: Iterable[Example], errors: ErrorAnalysis, dataset: Dataset, model_classes: Sequence[str], explain: Explain
) -> Iterator[tuple[Example, ExplainedPart]]:
    """What can be explained of the examples; an image that cannot be read any more is passed over."""
    known: dict[int, tuple[Explanation, list[int]]] = {}
    for one in examples:
        with contextlib.suppress(DataError):
            if one.image not in known:
                truth, rows = _truth(one.image, errors, dataset.class_names, model_classes)
                known[one.image] = explain(dataset.sample(one.image).image, truth), rows
            explanation, rows = known[one.image]
            part = _part(one, errors, explanation, rows)
            if part is not None:
                yield one, part


def _truth(
    image: int, errors: ErrorAnalysis, names: Sequence[str], model_classes: Sequence[str]
) -> tuple[ImageTruth, list[int]]:
    """The objects of an image whose class the model has, and their rows among all of the evaluation."""
    own = {name: label for label, name in enumerate(model_classes)}
    rows = [
        row for row in np.flatnonzero(errors.truth.image == image).tolist() if names[errors.truth.labels[row]] in own
    ]
    labels = np.array([own[names[errors.truth.labels[row]]] for row in rows], np.int64)
    return ImageTruth(errors.truth.boxes[rows].astype(np.float32), labels, None), rows


def _part(one: Example, errors: ErrorAnalysis, explanation: Explanation, rows: list[int]) -> ExplainedPart | None:
    """None where the model as it detects does not make this error, or the explanation has nothing on it."""
    if one.found < 0:
        if one.truth not in rows or explanation.objects is None:
            return None
        number = rows.index(one.truth)
        explained = explanation.objects[number]
        return draw_missed(explanation, number) if explained.detection is None and explained.causes else None
    box = errors.found.boxes[one.found]
    for row, detection in enumerate(explanation.detections):
        if detection.origin is not None and np.abs(np.array(detection.box) - box).max() < 0.5:
            return draw_detection(explanation, row)
    return None

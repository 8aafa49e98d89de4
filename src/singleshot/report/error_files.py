"""The errors of an evaluation as files: lists of all, pictures of the worst."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from singleshot.datasets.dataset import Dataset
from singleshot.errors import ConfigError, printable
from singleshot.files import atomic_folder
from singleshot.metrics.error_analysis import ErrorAnalysis
from singleshot.metrics.label_errors import find_label_errors
from singleshot.report.error_examples import Example, draw_examples, error_examples, suspect_examples

PICTURES = 50  # of each kind
_SIDE = 480
ERRORS, SUSPECTS = "errors.csv", "label_errors.csv"
_COLUMNS = (
    "kind", "image", "picture", "suspicion", "found", "score", "found_x0", "found_y0", "found_x1", "found_y1", "label",
    "label_x0", "label_y0", "label_x1", "label_y1", "iou",
)  # fmt: skip


def write_errors(folder: Path, errors: ErrorAnalysis, dataset: Dataset) -> None:
    """errors.csv and label_errors.csv with all, worst first, boxes in pixels; a folder of pictures for each kind.

    Raises ConfigError for a folder that holds something, or cannot be written.
    """
    suspects = suspect_examples(errors, find_label_errors(errors.found, errors.truth))
    kinds = error_examples(errors)
    with atomic_folder(folder) as place:
        rows = [row for kind, examples in kinds.items() for row in _rows(place, kind, examples, errors, dataset)]
        _write_list(place / ERRORS, rows)
        _write_list(place / SUSPECTS, _rows(place, "label-errors", suspects, errors, dataset))


def _rows(
    place: Path, name: str, examples: Sequence[Example], errors: ErrorAnalysis, dataset: Dataset
) -> list[dict[str, object]]:
    """A row for each example; the first of them as pictures in the folder `name`."""
    pictures: list[str] = []
    for k, (_, jpeg) in enumerate(draw_examples(examples[:PICTURES], errors, dataset, _SIDE)):
        picture = f"{name}/{k + 1:03}.jpg" if jpeg is not None else ""
        if jpeg is not None:
            (place / name).mkdir(exist_ok=True)
            (place / picture).write_bytes(jpeg)
        pictures.append(picture)
    pictures += [""] * (len(examples) - len(pictures))
    return [_row(one, picture, errors, dataset) for one, picture in zip(examples, pictures, strict=True)]


def _row(one: Example, picture: str, errors: ErrorAnalysis, dataset: Dataset) -> dict[str, object]:
    row: dict[str, object] = {"kind": one.kind, "image": dataset.names[one.image], "picture": picture}
    if one.rank is not None:
        row["suspicion"] = f"{one.rank:.3f}"
    for what, flat, at in (("found", errors.found, one.found), ("label", errors.truth, one.truth)):
        if at >= 0:
            row[what] = dataset.class_names[flat.labels[at]]
            row |= {
                f"{what}_{side}": f"{v:.1f}" for side, v in zip(("x0", "y0", "x1", "y1"), flat.boxes[at], strict=True)
            }
    if one.found >= 0:
        row["score"] = f"{errors.found.scores[one.found]:.3f}"
    if one.iou is not None:
        row["iou"] = f"{one.iou:.3f}"
    return row


def _write_list(path: Path, rows: Sequence[dict[str, object]]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, _COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise ConfigError(f"{printable(path)}: cannot write there ({error.strerror}); give another --errors") from error

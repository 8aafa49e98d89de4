"""Runs next to each other: their figures, their curves, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from singleshot.errors import printable
from singleshot.report.html import NONE, Section, cell, charts, paragraph, table, words_of
from singleshot.report.run_files import RunFiles, column, figure
from singleshot.report.svg import Axis, Line, line_chart, unit_axis

_CLASSES = 200  # rows of the table


def compare_sections(runs: Sequence[RunFiles]) -> list[Section]:
    """All sections, in order."""
    names = run_names(runs)
    return [
        _figures(runs, names),
        _courses(runs, names),
        _thresholds(runs, names),
        _classes(runs, names),
        _settings(runs, names),
    ]


def run_names(runs: Sequence[RunFiles]) -> list[str]:
    """What each is called: the end of its folder's path that no other one has."""
    paths = [PurePath(run.folder.resolve()).parts for run in runs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            break
    return [printable(name, 60) for name in names]


def _figures(runs: Sequence[RunFiles], names: Sequence[str]) -> Section:
    rows = []
    for run, name in zip(runs, names, strict=True):
        last, evaluation, about, coco = _last(run), run.evaluation or {}, _part(run, "run"), _part(run, "coco")
        figures = (run.best_map, coco.get("AP50"), coco.get("AP"), evaluation.get("score_threshold"))
        counts = (
            (last.get("epoch"), 0),
            (last.get("seconds"), 0),
            (about.get("parameters"), 0),
            (about.get("gflops"), 2),
        )
        cells = (*(cell(figure(one)) for one in figures), *(cell(figure(one), digits) for one, digits in counts))
        rows.append((name, *cells, printable(evaluation.get("about") or NONE)))
    head = ("run", "best val mAP50", "AP50", "AP .5:.95", "score threshold", "epochs", "seconds", "parameters",
            "GFLOPs", "evaluated on")  # fmt: skip
    note = (
        "Best val mAP50: the highest of the training's log. AP50 and AP .5:.95 by COCO's rules, of each run's last "
        "evaluation in its folder, which is its validation or what eval wrote there since. A dash: not measured."
    )
    return Section("figures", "Figures", table(head, rows), note)


def _last(run: RunFiles) -> Mapping[str, float | None]:
    """The last row of the log, its epoch counted from 1."""
    if not run.history:
        return {}
    row = run.history[-1]
    return {**row, "epoch": None if (epoch := row.get("epoch")) is None else epoch + 1}


def _part(run: RunFiles, name: str) -> Mapping[str, Any]:
    """A part of the evaluation that is a mapping."""
    value = (run.evaluation or {}).get(name)
    return value if isinstance(value, dict) else {}


def _courses(runs: Sequence[RunFiles], names: Sequence[str]) -> Section:
    parts = []
    for title, of, high in (
        ("mAP50 on validation", "val_map50", 1.0),
        ("Training loss", "loss", None),
        ("Localisation loss on validation", "val_loss_location", None),
        ("Confidence loss on validation", "val_loss_confidence", None),
        ("Learning rate", "lr", None),
    ):
        for against in ("epoch", "seconds") if of == "val_map50" else ("epoch",):
            lines = [
                Line(name, column(run.history, against) + (against == "epoch"), column(run.history, of))
                for name, run in zip(names, runs, strict=True)
            ]
            chart = line_chart(lines, Axis(against, whole=True), Axis(title.split(" on ")[0], 0.0, high))
            parts.append((title if against == "epoch" else f"{title} against time", chart))
    return Section("course", "Training", charts(parts))


def _thresholds(runs: Sequence[RunFiles], names: Sequence[str]) -> Section:
    parts = []
    for title, y in (("F1", "f1"), ("Precision", "precision"), ("Recall", "recall")):
        lines = [Line(name, _curve(run, "threshold"), _curve(run, y)) for name, run in zip(names, runs, strict=True)]
        lines = [line if len(line.x) == len(line.y) else Line(line.name, np.zeros(0), np.zeros(0)) for line in lines]
        parts.append(
            (f"{title} and score threshold", line_chart(lines, unit_axis("score threshold"), unit_axis(title)))
        )
    return Section("thresholds", "Score threshold", charts(parts), "Means over all classes.")


def _curve(run: RunFiles, name: str) -> np.ndarray:
    values = _part(run, "mean_curves").get(name)
    listed = values if isinstance(values, list) else []
    return np.array([np.nan if (value := figure(one)) is None else value for one in listed[:2000]], float)


def _classes(runs: Sequence[RunFiles], names: Sequence[str]) -> Section:
    """AP of each class in each run, by name."""
    by_run = []
    for run in runs:
        rows = (run.evaluation or {}).get("per_class")
        listed = [one for one in rows if isinstance(one, dict)] if isinstance(rows, list) else []
        by_run.append({str(one.get("name")): figure(one.get("ap")) for one in listed})
    every = list(dict.fromkeys(name for one in by_run for name in one))
    if not every:
        return Section("classes", "Classes", paragraph("not measured"))
    rows = [(printable(name, 60), *(cell(one.get(name)) for one in by_run)) for name in every[:_CLASSES]]
    metrics = {str((run.evaluation or {}).get("metric")) for run in runs if run.evaluation}
    note = f"AP by metric {', '.join(sorted(metrics))}, on what the first table says."
    if len(every) > _CLASSES:
        note += f" The first {_CLASSES} of {len(every)} classes."
    return Section("classes", "Classes", table(("class", *names), rows), note)


def _settings(runs: Sequence[RunFiles], names: Sequence[str]) -> Section:
    """Only what differs."""
    flat = [{**_flat("", run.options), **_flat("recipe: ", run.recipe)} for run in runs]
    every = dict.fromkeys(name for one in flat for name in one)
    rows = [
        (name, *(one.get(name, NONE) for one in flat))
        for name in every
        if len({one[name] for one in flat if name in one}) > 1
    ]
    if not rows:
        return Section("settings", "Settings that differ", paragraph("None: the same options and recipe."))
    return Section("settings", "Settings that differ", table(("setting", *names), rows))


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        label = f"{prefix}{str(name).replace('_', ' ')}"
        found |= _flat(f"{label} ", value) if isinstance(value, dict) else {label: printable(words_of(value), 120)}
    return found

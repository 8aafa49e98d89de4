"""The sections about a training: its course, what the network saw, its data, settings, size and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from singleshot.datasets.dataset import Dataset
from singleshot.errors import printable
from singleshot.records import SeenImage
from singleshot.report.error_examples import IGNORED, TRUTH, draw_box, encode_jpeg
from singleshot.report.html import (
    NOT_MEASURED,
    Picture,
    Section,
    charts,
    details,
    facts,
    gallery,
    paragraph,
    table,
    words_of,
)
from singleshot.report.run_files import column
from singleshot.report.svg import Axis, Line, bar_chart, line_chart

_BARS = 30
Row = Mapping[str, float | None]
# What is known of a model and how it ran: name -> what it is called, and how its value is written.
FACTS = {
    "network": ("network", "{}"),
    "input": ("input", "{}"),
    "channels": ("channels", "{}"),
    "default_boxes": ("default boxes", "{:,}"),
    "parameters": ("parameters", "{:,}"),
    "gflops": ("GFLOPs for an image", "{:.2f}"),
    "file_mb": ("file, MB", "{:.1f}"),
    "epochs": ("epochs", "{}"),
    "steps": ("steps", "{}"),
    "seconds": ("seconds of training", "{:.0f}"),
    "train_images_per_second": ("images per second in training", "{:.1f}"),
    "images_per_second": ("images per second, reading included", "{:.1f}"),
    "engine": ("engine", "{}"),
    "device": ("device", "{}"),
    "precision": ("precision", "{}"),
    "machine": ("machine", "{}"),
}


def course_section(history: Sequence[Row]) -> Section:
    """Losses, mAP50, learning rate and speed by epoch."""
    if not history:
        return Section("course", "Training", paragraph(NOT_MEASURED))
    epochs = np.array([(row.get("epoch") or 0) + 1 for row in history], float)

    def line(name: str, of: str) -> Line:
        return Line(name, epochs, column(history, of))

    x = Axis("epoch", whole=True)
    total = column(history, "val_loss_location") + column(history, "val_loss_confidence")
    losses = [line("training", "loss"), Line("validation", epochs, total)]
    parts = [("Loss", line_chart(losses, x, Axis("loss", 0.0)))]
    for title, of in (("Localisation loss", "loss_location"), ("Confidence loss", "loss_confidence")):
        parts.append((title, line_chart([line("training", of), line("validation", f"val_{of}")], x,
                                        Axis("loss", 0.0))))  # fmt: skip
    parts.append(("mAP50 on validation", line_chart([line("mAP50", "val_map50")], x, Axis("mAP50", 0.0, 1.0))))
    parts.append(("Learning rate", line_chart([line("learning rate", "lr")], x, Axis("learning rate", 0.0))))
    parts.append(("Speed", line_chart([line("images per second", "images_per_second")], x,
                                      Axis("images per second", 0.0))))  # fmt: skip
    note = (
        "One point for each epoch; validation where there was one. Losses of validation are on its images unaugmented."
    )
    return Section("course", "Training", charts(parts), note)


def batch_section(images: Sequence[SeenImage], names: Sequence[str]) -> Section | None:
    """A training batch, augmented; None where it is not at hand."""
    if not images:
        return None
    pictures = []
    for one in images:
        picture = np.repeat(one.image, 3, axis=2) if one.image.shape[2] == 1 else one.image
        canvas = np.ascontiguousarray(picture).copy()
        ignored = one.boxes[:0] if one.ignored is None else one.ignored
        for boxes, colour in ((ignored, IGNORED), (one.boxes, TRUTH)):
            for box in boxes:
                draw_box(canvas, box * np.tile(canvas.shape[1::-1], 2), colour, 2)
        counts = {name: int((one.labels == i).sum()) for i, name in enumerate(names)}
        words = ", ".join(f"{count} {printable(name, 30)}" for name, count in counts.items() if count)
        more = (f"{len(ignored)} ignored region{'s' * (len(ignored) > 1)}",) if len(ignored) else ()
        pictures.append(Picture(encode_jpeg(canvas), (words or "no object", *more)))
    note = "Images of the first batch as the network saw them: augmented, at its input's size, with their labels."
    if any(one.ignored is not None and len(one.ignored) for one in images):
        note += " Grey: crowds and regions without labels; what is found in them is neither right nor wrong."
    return Section("batch", "A training batch", gallery(pictures), note)


def data_section(splits: Mapping[str, Dataset | None]) -> Section:
    """Classes, images and sizes of each split; None for one that is not read ahead."""
    body = Markup("")
    for name, data in splits.items():
        body += Markup("<h3>{}</h3>").format(name)
        body += paragraph(NOT_MEASURED + ": shards are read as a stream") if data is None else _split(data)
    return Section("data", "Data", body)


def _split(data: Dataset) -> Markup:
    names = data.class_names
    counted = ~data.crowd  # a region without labels is a crowd of each class
    objects = np.bincount(data.labels[counted], minlength=len(names))
    per_image, total = np.bincount(data.image_of[counted], minlength=len(data)), int(counted.sum())
    boxes_px = data.boxes_px[counted]
    sides = np.sqrt(np.maximum(boxes_px[:, 2:] - boxes_px[:, :2], 0).prod(axis=1))
    known = data.sizes[(data.sizes > 0).all(axis=1)]
    pairs: list[tuple[str, object]] = [
        ("images", len(data)),
        ("without objects", int((per_image == 0).sum())),
        ("objects without crowds", total),
        ("difficult", int(data.difficult.sum())),
        ("crowd", int(data.crowd.sum())),
        ("objects per image", _spread(per_image)),
        ("side of objects, px", _spread(sides)),
        ("images' width, px", _spread(known[:, 0])),
        ("images' height, px", _spread(known[:, 1])),
    ]
    order = np.argsort(-objects, kind="stable")[:_BARS].tolist()
    words = [f"{objects[i]} ({objects[i] / max(total, 1):.1%})" for i in order]
    bars = bar_chart([printable(names[i], 40) for i in order], [float(objects[i]) for i in order], words)
    more = paragraph(f"The {_BARS} most common of {len(names)} classes.") if len(names) > _BARS else ""
    return facts(pairs) + bars + more


def _spread(values: np.ndarray) -> str:
    """Least, median and most."""
    if not len(values):
        return NOT_MEASURED
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return f"{low:.0f} to {high:.0f}, median {middle:.0f}" if high > low else f"{low:.0f}"


def settings_section(settings: Mapping[str, Any], recipe: Mapping[str, Any], command: str) -> Section:
    """Options and recipe, and a command that has them."""
    body = Markup("<pre>{}</pre>").format(command) if command else Markup("")
    body += facts((name.replace("_", " "), words_of(value)) for name, value in settings.items())
    if recipe:
        flat = {**recipe, **{f"augment {k}": v for k, v in dict(recipe.get("augment") or {}).items()}}
        flat.pop("augment", None)
        rows = ((name.replace("_", " "), words_of(value)) for name, value in flat.items())
        body += details("Recipe", facts(rows))
    return Section("settings", "Settings", body)


def model_section(about: Mapping[str, Any], versions: Mapping[str, str]) -> Section:
    """Size and speed of the model, and what it ran with. about: by the names in FACTS, None for what is not known."""
    pairs = [(label, NOT_MEASURED if about[name] is None else form.format(about[name]))
             for name, (label, form) in FACTS.items() if name in about]  # fmt: skip
    note = paragraph("A product and a sum are two operations; those of convolutions and matrix products are counted.")
    return Section(
        "model",
        "Model, speed and versions",
        facts(pairs) + note + table(("package", "version"), versions.items(), texts=True),
    )


def pictures_section(anchor: str, title: str, pictures: Sequence[Picture], note: str = "") -> Section:
    """Pictures of any kind, such as explanations of detections."""
    return Section(anchor, title, gallery(pictures), note)

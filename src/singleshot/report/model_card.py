"""The card of a model: what its file and its run say of it, as a hub of models shows it. Nothing is made up."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

import yaml

from singleshot.errors import printable
from singleshot.model_info import ModelInfo
from singleshot.report.run_files import RunFiles, figure

_METRICS = {"voc": "mAP50", "voc07": "mAP50 (11 points)", "coco": "mAP50-95"}
_MOST_CLASSES = 100  # rows of the table


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of.

    Attributes:
        repo: OWNER/NAME of the model.
        file: The model's file in it.
        info: Its description.
        run: Of its training, None where that is not at hand.
        evaluation: What eval.json says of this very file, None where it was not evaluated.
        licence: As the hub spells it, None where nobody said one.
    """

    repo: str
    file: str
    info: ModelInfo
    run: RunFiles | None = None
    evaluation: Mapping[str, Any] | None = None
    licence: str | None = None


def model_card(facts: CardFacts) -> str:
    """Markdown under a head of YAML; what is not known is left out."""
    head: dict[str, Any] = {} if facts.licence is None else {"license": facts.licence}
    head |= {
        "library_name": "singleshot",
        "pipeline_tag": "object-detection",
        "tags": ["object-detection", "ssd", "singleshot"],
    }
    results = _results(facts)
    if results:
        head["model-index"] = [{"name": facts.repo.partition("/")[2], "results": results}]
    rows = [f"| {name} | {_escaped(value)} |" for name, value in _rows(facts) if value not in (None, "")]
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {_escaped(facts.repo.partition('/')[2])}",
        "",
        f"An SSD object detector for {_count(len(facts.info.class_names))}, made with singleshot.",
        "",
        "| | |",
        "|---|---|",
        *rows,
        "",
        *_measured(facts),
        *_classes(facts),
        "## Use",
        "",
        "```python",
        "import singleshot  # pip install 'singleshot[hub]'",
        "",
        f'detector = singleshot.load("hf://{facts.repo}/{facts.file}")',
        'found = detector.detect("photo.jpg")',
        "print(found.names, found.scores, found.boxes)",
        "```",
        "",
    ]
    return "\n".join(lines)


def _rows(facts: CardFacts) -> list[tuple[str, object]]:
    info, training = facts.info, facts.info.training
    options: Mapping[str, Any] = {} if facts.run is None else facts.run.options
    said = options.get("data") or str(training.get("data") or "").rpartition(" (")[0]
    data = data_name(str(said)) if said else None
    split = options.get("split")
    epochs, steps = training.get("epochs"), training.get("steps")
    return [
        ("Network", info.model),
        ("Input", f"{info.input_spec.size_text}, {info.input_spec.resize}"),
        ("Precision of the file", info.precision),
        ("Data", data if data is None or not split else f"{data} ({split})"),
        ("Recipe", options.get("recipe")),
        ("Seed", training.get("seed", options.get("seed"))),
        ("Trained for", None if epochs is None else f"{epochs} epochs" + ("" if steps is None else f", {steps} steps")),
        ("Images per step", training.get("batch")),
        ("Tiles", None if info.tiling is None else info.tiling.words),
        ("Started from", None if info.pretrained is None else info.pretrained.in_words),
        ("Imported from", training.get("imported")),
        ("Made by", f"singleshot {info.version}" if info.version else None),
    ]


def _measured(facts: CardFacts) -> list[str]:
    """What was measured, and on what; no section where nothing was."""
    found, known = facts.evaluation, figure(facts.info.metrics.get("val_map50"))
    if found is None or figure(found.get("mean_ap")) is None:
        if known is None:
            return []
        of = "" if facts.info.outputs is None else " of the checkpoint that it was exported from"
        return ["## Measured", "", f"mAP50{of} in the validation of its training: {known:.4f}.", ""]
    name = _METRICS.get(str(found.get("metric")), "mAP")
    where = f"{data_name(str(found.get('data') or ''))} ({found.get('split')})"
    images = f", {found['images']} images" if isinstance(found.get("images"), int) else ""
    lines = [f"{name} on {_escaped(where)}{images}: {figure(found['mean_ap']):.4f}.", ""]
    rows = [one for one in found.get("per_class") or () if isinstance(one, dict) and figure(one.get("ap")) is not None]
    if rows:
        lines += ["| class | AP | objects |", "|---|---|---|"]
        lines += [
            f"| {_escaped(one.get('name'))} | {figure(one['ap']):.4f} | {_escaped(one.get('truths', ''))} |"
            for one in rows[:_MOST_CLASSES]
        ]
        lines.append("")
    return ["## Measured", "", *lines]


def _results(facts: CardFacts) -> list[dict[str, Any]]:
    """The hub's own form of what was measured."""
    found = facts.evaluation
    if found is not None and figure(found.get("mean_ap")) is not None:
        name, value = _METRICS.get(str(found.get("metric")), "mAP"), figure(found["mean_ap"])
        data, split = data_name(str(found.get("data") or "")), str(found.get("split"))
        dataset = {"name": printable(data), "type": printable(data), "split": printable(split)}
        metric = {"type": "map", "name": name, "value": value}
        return [{"task": {"type": "object-detection"}, "dataset": dataset, "metrics": [metric]}]
    return []


def _classes(facts: CardFacts) -> list[str]:
    names = facts.info.class_names
    shown = ", ".join(_escaped(name) for name in names[:_MOST_CLASSES])
    more = f" and {len(names) - _MOST_CLASSES} more" if len(names) > _MOST_CLASSES else ""
    return ["## Classes", "", f"{shown}{more}", ""]


def data_name(data: str) -> str:
    """What a data set is called: the last part of its path or address, without what leads there."""
    path = urlsplit(data).path if "://" in data else data
    return PurePath(path).name or "data"


def _count(classes: int) -> str:
    return "one class" if classes == 1 else f"{classes} classes"


def _escaped(value: object) -> str:
    """Text from strangers as Markdown shows it, in a table too."""
    text = html.escape(printable(value, 200), quote=False)
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", text)

"""singleshot: an SSD (Single Shot MultiBox Detector) toolkit.

run = singleshot.train("path/to/data", time="20m", out="runs/mine")
print(singleshot.evaluate(run.best, "path/to/data").mean_ap)
detector = singleshot.load(singleshot.export(run.best))
found = detector.detect("photo.jpg")
print(found.names, found.scores, found.boxes)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from singleshot._version import __version__

if TYPE_CHECKING:
    from singleshot.api.evaluate import evaluate
    from singleshot.api.explain import explain
    from singleshot.api.export import export
    from singleshot.api.fit_priors import fit_priors
    from singleshot.api.import_checkpoint import import_checkpoint
    from singleshot.api.load import load
    from singleshot.api.train import Run, train
    from singleshot.metrics import Evaluation
    from singleshot.runtime import Detections, Detector
    from singleshot.tiling import Tiling
    from singleshot.training.reports import Reporter

__all__ = [
    "Detections",
    "Detector",
    "Evaluation",
    "Reporter",
    "Run",
    "Tiling",
    "__version__",
    "evaluate",
    "explain",
    "export",
    "fit_priors",
    "import_checkpoint",
    "load",
    "train",
]

# Where each public name lives: importing singleshot imports none of it.
_HOMES = {
    "Detections": "singleshot.runtime",
    "Detector": "singleshot.runtime",
    "Evaluation": "singleshot.metrics",
    "Reporter": "singleshot.training.reports",
    "Run": "singleshot.api.train",
    "Tiling": "singleshot.tiling",
    "evaluate": "singleshot.api.evaluate",
    "explain": "singleshot.api.explain",
    "export": "singleshot.api.export",
    "fit_priors": "singleshot.api.fit_priors",
    "import_checkpoint": "singleshot.api.import_checkpoint",
    "load": "singleshot.api.load",
    "train": "singleshot.api.train",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'singleshot' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

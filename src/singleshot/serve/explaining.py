"""Where the detections of a worker's model come from, as far as its file and what is installed here allow."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from singleshot.serve.wire import ImageRefusedError

if TYPE_CHECKING:
    from singleshot.runtime.detector import Detector

# By name, as the table of engines has PyTorch's: this half never imports torch itself.
_EXPLAINER = ("singleshot.api.explain", "Explainer")
_DIGITS, _ROW_DIGITS = 6, 3  # of scores, of pixels, as in answers of detection


class ModelExplainer:
    """Explains images by a detector that goes on detecting.

    reason: why it cannot, in a line; None where it can. receptive_fields: whether it knows what a cell sees.

    Args:
        name: What the service calls the model.
        detector: Which stays as it is.
    """

    def __init__(self, name: str, detector: Detector) -> None:
        self._name, self._detector = name, detector
        self.reason = _obstacle(detector)
        self.receptive_fields = self.reason is None and hasattr(detector.engine, "model")
        self._lock = threading.Lock()
        self._explainer: Any = None
        if self.receptive_fields and "torch" in sys.modules:
            self._open().prepare()  # now, while nothing else runs in the network

    def describe(self) -> dict[str, Any]:
        """What `GET /v1/models` says of it."""
        available = self.reason is None
        return {"available": available, "receptive_fields": self.receptive_fields, "reason": self.reason}

    def explain(self, data: bytes, name: str, score_min: float | None) -> bytes:
        """JSON of the detections in the bytes of an image file, and where each comes from.

        Raises DataError, ConfigError, and ImageRefusedError where this model cannot be explained.
        """
        if self.reason is not None:
            raise ImageRefusedError(422, "not_explained", f"model {self._name}: {self.reason}")
        done = self._open().explain(data, score_min=score_min, gradients=0)
        values = replace(done.found, image=name).to_dict()
        for one, explained in zip(values["detections"], done.detections, strict=True):
            one["origin"] = _plain(asdict(explained.origin))
        return json.dumps({**values, "maps": done.maps, "notes": done.notes}).encode()

    def _open(self) -> Any:
        with self._lock:  # two batches may come at once
            if self._explainer is None:
                module, name = _EXPLAINER
                self._explainer = getattr(importlib.import_module(module), name).of(self._detector, self._name)
            return self._explainer


def _obstacle(detector: Detector) -> str | None:
    """Why a model cannot be explained here, if it cannot."""
    if not hasattr(detector.engine, "trace") and (detector.info is None or not detector.info.raw):
        return "its file gives boxes alone; to explain them, serve the checkpoint or a file of `export --raw`"
    if importlib.util.find_spec("torch") is None:
        return "explaining needs PyTorch where the service runs: pip install 'singleshot[train]'"
    return None


def _plain(value: Any) -> Any:
    """For JSON, rounded: what stands in rows of numbers are pixels or offsets, what stands alone are scores and IoU."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [round(one, _ROW_DIGITS) if isinstance(one, float) else _plain(one) for one in value]
    return round(value, _DIGITS) if isinstance(value, float) else value

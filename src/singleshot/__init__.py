"""singleshot: an SSD (Single Shot MultiBox Detector) toolkit.

detector = singleshot.load("best.safetensors")
found = detector.detect("photo.jpg")
print(found.names, found.scores, found.boxes)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from singleshot.runtime.detector import Detector


def load(path: str, device: str | None = None) -> Detector:
    """A detector from a model file.

    path: a `.safetensors` checkpoint, or one of another project that `singleshot import` knows; device: "cpu", "cuda" or None for whatever is there. Raises CheckpointError,
    or MissingExtraError when PyTorch is not installed.
    """
    from singleshot.errors import MissingExtraError

    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: running a checkpoint needs PyTorch: pip install 'singleshot[train]'"
        ) from error
    from singleshot.deploy.torch_engine import load_detector

    return load_detector(path, device)

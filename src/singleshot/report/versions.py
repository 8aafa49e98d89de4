"""With which releases, on which machine."""

from __future__ import annotations

import importlib.metadata
import platform

from singleshot._version import __version__
from singleshot.devices import cores, processor_name

_PACKAGES = (
    "torch", "torchvision", "numpy", "opencv-python-headless", "faster-coco-eval", "openvino", "onnxruntime",
    "ai-edge-litert",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Of singleshot, Python and what is installed of the packages that compute."""
    found = {"singleshot": __version__, "Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Processor, cores and system, in words."""
    return f"{cores()} x {processor_name()}, {platform.system()} {platform.machine()}"

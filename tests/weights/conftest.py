"""Foreign checkpoints made from the layouts and the documented fill beside the golden vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def layout(golden: Path) -> Callable[[str], dict[str, Any]]:
    """`layout("amdegroot_vgg300")`: what layout_amdegroot_vgg300.json holds."""
    return lambda name: json.loads((golden / f"layout_{name}.json").read_text())


@pytest.fixture(scope="session")
def filled(layout, golden_inputs: ModuleType) -> Callable[[str], Arrays]:
    """`filled("amdegroot_vgg300")`: name -> array of that checkpoint, as the golden networks were filled."""

    def fill(name: str) -> Arrays:
        told = layout(name)
        # Keras and TensorFlow keep kernels as [kh, kw, in, out].
        last = "[kh,kw,in,out]" in told.get("input", "") or name.startswith(("keras", "balancap", "ljanyst"))
        arrays = {}
        for key, shape, _, kind in told["layout"]:
            four = len(shape) == 4
            fan_in = int(np.prod(shape[:3] if last else shape[1:])) if four else 1
            sees_image = four and shape[2 if last else 1] == 3
            arrays[key] = golden_inputs.fill(
                key, tuple(shape), kind, fan_in, told["in3"] if sees_image else 1.0, told.get("gain", 1.0)
            )
        return arrays

    return fill


@pytest.fixture(scope="session")
def state(filled) -> Callable[[str], dict[str, torch.Tensor]]:
    """As `filled`, for PyTorch's sources."""
    return lambda name: {key: torch.from_numpy(value.copy()) for key, value in filled(name).items()}


@pytest.fixture(scope="session")
def outputs(golden_inputs: ModuleType) -> Callable[[torch.nn.Module], tuple[np.ndarray, np.ndarray]]:
    """`outputs(model)`: offsets [P, 4] and logits [P, C + 1] for the golden image, as float64."""

    def run(model: Any) -> tuple[np.ndarray, np.ndarray]:
        image = golden_inputs.image(model.input_spec.size)
        with torch.inference_mode():
            raw = model.eval()(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0))
        return raw.offsets[0].double().numpy(), raw.logits[0].double().numpy()

    return run


@pytest.fixture(scope="session")
def agrees(golden: Path, outputs) -> Callable[..., None]:
    """`agrees(model, "amdegroot_vgg300")`: raw outputs are those of the source, 400 priors each to
    `tolerance`, and all of them by mean and spread. order: rows of the source's
    priors in ours, where they are not the same."""

    def check(model: Any, name: str, tolerance: float = 1e-4, order: np.ndarray | None = None) -> None:
        wanted = np.load(golden / f"net_{name}.npz")
        offsets, logits = outputs(model)
        if order is not None:
            offsets, logits = offsets[order], logits[order]
        rows = wanted["prior_idx"]
        assert np.abs(offsets[rows] - wanted["loc"]).max() < tolerance
        assert np.abs(logits[rows] - wanted["conf_logits"]).max() < tolerance
        assert np.allclose([offsets.mean(), offsets.std()], wanted["loc_mean_std"], atol=1e-3)

    return check

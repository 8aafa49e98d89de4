"""Networks that nothing was trained with, exported once for all tests of the folder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from singleshot.inputs import to_square
from singleshot.models import MODELS, SSD, build
from singleshot.pretrained import PretrainedWeights
from singleshot.scenes.scenes import make_scene
from singleshot.thresholds import Thresholds
from singleshot.weights.checkpoint import ModelInfo

CLASSES = ("cross", "leaf", "ring")
WEIGHTS = PretrainedWeights("a backbone", "a package 1.0", "Apache-2.0")


class Net(NamedTuple):
    """A model, what is known of it, its network as ONNX (not to be changed), and pictures uint8 [N, S, S, 3]."""

    model: SSD
    info: ModelInfo
    network: Any
    images: np.ndarray

    def file(self, rules: Thresholds, path: Path, tensorrt_compatible: bool = False) -> ModelInfo:
        """Write the exported file under other thresholds."""
        from singleshot.deploy.onnx_file import attach_postprocess

        info = ModelInfo.of(self.model, CLASSES, thresholds=rules)
        proto = attach_postprocess(
            copy.deepcopy(self.network), self.model, info, tensorrt_compatible=tensorrt_compatible
        )
        path.write_bytes(proto.SerializeToString())
        return info


def _net(name: str, count: int, side: int) -> Net:
    pytest.importorskip("onnxscript")
    from singleshot.deploy.onnx_network import network_model

    torch.manual_seed(1)
    model = build(name, len(CLASSES), input_spec=replace(MODELS[name].input_spec, height=side, width=side)).eval()
    model.pretrained = WEIGHTS
    images = np.stack([to_square(make_scene(0, "test", i)[0], model.input_spec)[0] for i in range(count)])
    return Net(model, ModelInfo.of(model, CLASSES), network_model(model), images)


@pytest.fixture(scope="session")
def mini() -> Net:
    return _net("ssd320-mini", 3, 160)


@pytest.fixture(scope="session")
def mobile() -> Net:
    return _net("ssd300-mobilenetv2", 2, 160)


@pytest.fixture(scope="session")
def engines() -> Callable[[Path], dict[str, Any]]:
    """Both engines on a file, one thread each."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    from singleshot.deploy.engines import engines_for

    def make(path: Path) -> dict[str, Any]:
        made = engines_for(path, threads=1)
        assert list(made) == (["openvino", "onnxruntime"] if path.suffix == ".onnx" else ["openvino"])
        return made

    return make

"""A new engine is its module and one row: it is offered by name, loaded, detects, and errors name it."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import singleshot
from singleshot.errors import ConfigError, MissingExtraError
from singleshot.runtime.engines.table import (
    AS_USUAL,
    ENGINES,
    EngineRow,
    engine_choices,
    engines_of,
    is_exported,
    open_engine,
)

# The first of the two things that are written for an engine: its module.
MODULE = '''
"""Runs .toy files, which hold a description and the grey value from which a pixel counts as bright."""

import json

import numpy as np

from singleshot.model_info import EXPORTED, ModelInfo
from singleshot.records import ImageDetections


class ToyEngine:
    name = "toy"

    def __init__(self, path, options):
        values = json.loads(path.read_text())
        self.info = ModelInfo.from_json(json.dumps(values["about"]), str(path), EXPORTED)
        self.bright, self.options = values["bright"], options

    def __call__(self, images):
        found = []
        for image in images:
            ys, xs = np.nonzero(image.min(axis=2) >= self.bright)
            boxes = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32) / len(image)
            found.append(ImageDetections(boxes, np.array([0.9], np.float32), np.array([0])))
        return found
'''

# The second: its row.
ROW = EngineRow(
    opener="toy_engine:ToyEngine",
    package="toy_engine",
    title="Toy",
    install="pip install toy",
    runs="toys (.toy)",
    files=(".toy",),
    devices=("cpu",),
    precisions=("float32",),
    batch=5,
)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file for the new engine, which is in the table."""
    (tmp_path / "toy_engine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ENGINES, "toy", ROW)
    monkeypatch.delitem(sys.modules, "toy_engine", raising=False)
    about = {"format": 1, "classes": ["bright thing"], "input": {"size": 64}, "thresholds": {}, "outputs": "detections"}
    path = tmp_path / "model.toy"
    path.write_text(json.dumps({"about": about, "bright": 100}))
    return path


def test_a_new_engine_is_loaded_and_detects(toy: Path) -> None:
    assert engine_choices() == ("openvino", "onnxruntime", "litert", "torch", "toy", "auto")
    assert engines_of(toy) == ("toy",)
    assert is_exported(toy)
    image = np.zeros((128, 128, 3), np.uint8)
    image[20:60, 40:120] = 200
    for engine in (None, "toy", "auto"):
        detector = singleshot.load(toy, engine=engine, threads=3)
        assert detector.engine.options.threads == 3
        assert detector.batch_size == 5
        found = detector.detect([image, image])
        assert [one.names for one in found] == [("bright thing",)] * 2
        assert found[0].boxes.tolist() == [[40, 20, 120, 60]]


def test_errors_list_a_new_engine(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="want one of openvino, onnxruntime, litert, torch, toy, auto"):
        singleshot.load(toy, engine="toi")
    with pytest.raises(ConfigError, match=r"openvino runs exported files .*model\.toy is for toy"):
        singleshot.load(toy, engine="openvino")
    with pytest.raises(ConfigError, match="precision bfloat16: want one of float32, fastest"):
        singleshot.load(toy, precision="bfloat16")
    monkeypatch.setitem(sys.modules, "toy_engine", None)
    with pytest.raises(MissingExtraError, match="needs Toy: pip install toy"):
        singleshot.load(toy)


def test_the_command_line_offers_a_new_engine(toy: Path) -> None:
    from singleshot.cli import common

    fresh = runpy.run_path(common.__file__)  # the module as a new process has it
    assert "openvino, onnxruntime, litert, torch, toy, or auto" in get_args(fresh["EngineOption"])[1].help


@pytest.mark.parametrize("name", ENGINES)
def test_rows_hold(name: str) -> None:
    row = ENGINES[name]
    pytest.importorskip(row.package)
    module, _, opener = row.opener.partition(":")
    assert callable(getattr(importlib.import_module(module), opener))
    assert "float32" in row.precisions
    assert "cpu" in row.devices
    with pytest.raises(ConfigError, match="precision int3: want one of float32"):
        open_engine(name, "m", AS_USUAL._replace(precision="int3"))


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("m.onnx", ("openvino", "onnxruntime")),
        ("M.ONNX", ("openvino", "onnxruntime")),
        ("m.xml", ("openvino",)),
        ("m.safetensors", ("torch",)),
        ("model.ckpt-300", ("torch",)),
    ],
)
def test_engines_of_a_file(path: str, names: tuple[str, ...]) -> None:
    assert engines_of(path) == names
    assert is_exported(path) == (names != ("torch",))

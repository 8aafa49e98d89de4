"""Training in tiles by the use cases: the model file keeps them, and whoever takes it follows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import singleshot
from singleshot.errors import CheckpointError, ConfigError
from singleshot.model_info import EXPORTED, ModelInfo
from singleshot.tiling import Tiling
from singleshot.weights.checkpoint import read_info

FAST = {"batch": 16, "workers": 0, "tensorboard": False, "precision": "float32", "epochs": 1}
SCRATCH = {**FAST, "backbone_weights": "none", "size": (64, 96)}
TILING = Tiling(240, overlap=0.1, whole=False)


@pytest.fixture(scope="module")
def tiled(scenes: Path, tmp_path_factory) -> singleshot.Run:
    out = tmp_path_factory.mktemp("runs") / "tiled"
    return singleshot.train(scenes, out=out, tile="240:0.1", fit_priors=True, **SCRATCH)


def test_evaluation_takes_the_models_own_tiles(tiled: singleshot.Run, scenes: Path, caplog) -> None:
    assert read_info(tiled.last).tiling == TILING
    caplog.set_level("INFO", logger="singleshot")
    found = singleshot.evaluate(tiled.best, scenes, split="val")
    assert found.mean_ap == pytest.approx(tiled.metrics["val_map50"], abs=1e-5)
    assert "looks at tiles of 240 px, as it was trained; --tile N or --no-tile for others" in caplog.text
    asked = singleshot.evaluate(tiled.best, scenes, split="val", tile="240:0.1")
    assert [one.detections for one in asked.per_class] == [one.detections for one in found.per_class]
    for other in ({"tile": False}, {"tile": 150}, {"tiles_only": False}):
        whole = singleshot.evaluate(tiled.best, scenes, split="val", **other)
        assert [one.detections for one in whole.per_class] != [one.detections for one in found.per_class]


@pytest.mark.parametrize("export", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["checkpoint", "exported"])
def test_detection_takes_them_too(export: bool, tiled: singleshot.Run, tmp_path: Path) -> None:
    path = singleshot.export(tiled.last, out=tmp_path / "m.onnx") if export else tiled.last
    image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    detector = singleshot.load(path, device="cpu")
    assert detector.tiling == TILING
    sizes: list[int] = []
    engine = detector.engine
    detector.engine = lambda squares: sizes.append(len(squares)) or engine(squares)
    for tile in (None, 240, TILING, False, "none", Tiling(240, 0.1)):
        detector.detect(image, tile=tile)
    tiles, usual = (len(replace(TILING, overlap=one).windows(400, 300, shape=(64, 96))) for one in (0.1, 0.25))
    assert sizes == [tiles, usual, tiles, 1, 1, tiles + 1]


def test_the_description_of_an_exported_file_keeps_them(tiled: singleshot.Run) -> None:
    info = read_info(tiled.last).exported(raw=False)
    assert ModelInfo.from_json(info.to_json(), "m.onnx", EXPORTED).tiling == TILING
    for broken in ({"side": "240", "overlap": 0.1, "whole": True}, {"side": 9, "overlap": 0.1, "whole": True}, {}, 7):
        with pytest.raises(CheckpointError, match=r"m\.onnx: "):
            ModelInfo.from_json(json.dumps({**info.to_dict(), "tiling": broken}), "m.onnx", EXPORTED)


def test_a_run_keeps_its_tiles(tiled: singleshot.Run, scenes: Path, tmp_path: Path, caplog) -> None:
    assert json.loads((tiled.folder / "run.json").read_text())["options"]["tile"] == "240:0.1"
    for changed, has in ((240, "240:0.1"), (False, "240:0.1")):
        with pytest.raises(ConfigError, match=f"--tile cannot change in a run .it has {has}"):
            singleshot.train(out=tiled.folder, resume=True, tile=changed)
    caplog.set_level("INFO", logger="singleshot")
    started = singleshot.train(scenes, out=tmp_path / "next", start=tiled.best, val_split="none", **FAST)
    assert read_info(started.last).tiling == TILING
    assert "was trained on tiles of 240 px, and so is this run; --no-tile for whole images" in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tile": 200, "size": "auto"}, "--size auto goes by whole pictures, and --tile by parts"),
        ({"tile": "wide"}, "--tile 'wide': want pixels a side"),
        ({"tile": 8}, "--tile 8: want 32 to 100000"),
        ({"tile": "200:1.5"}, "--tile overlap 1.5: want a number from 0 to 0.9"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], says: str, scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        singleshot.train(scenes, out=tmp_path / "run", **{**SCRATCH, **options})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_tiles_do_not_suit_is_said(scenes: Path, tmp_path: Path, caplog) -> None:
    from singleshot.api.train_tiles import check_tiles
    from singleshot.datasets import open_dataset

    data = open_dataset(scenes, "train")
    check_tiles(Tiling(5000), data, 64)
    assert "no image is larger than a tile of 5000 x 5000 px, so --tile cuts nothing" in caplog.text
    check_tiles(Tiling(40), data, (32, 64))
    larger = int(((data.boxes_px[:, 2:] - data.boxes_px[:, :2]) > (40, 20)).any(axis=1).sum())
    assert larger
    assert f"{larger} of {len(data.labels)} objects are larger than a tile of 40 x 20 px" in caplog.text

"""COCO's numbers of classes and images, from the data through the checkpoint into the results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import singleshot
from singleshot.api.coco_ids import ids_like, ids_of_sources
from singleshot.errors import CheckpointError, ConfigError
from singleshot.model_info import ModelInfo
from singleshot.weights.checkpoint import read_info
from singleshot.weights.class_names import COCO, VOC, coco_by_number, coco_ids

CATEGORIES = {"person": 1, "dog": 18}


@pytest.fixture
def data(tmp_path: Path, write_image) -> Path:
    """Two images, in folders, with ids that are not in their names."""
    root = tmp_path / "data"
    names = ["deep/7.png", "8.png"]
    for name in names:
        write_image(root / "images" / name, 64, 48)
    content = {
        "images": [{"id": 500 + i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": 500 + i, "category_id": ident, "bbox": [4, 4, 30, 20], "area": 600, "iscrowd": 0}
            for i, ident in enumerate(CATEGORIES.values())
        ],
        "categories": [{"id": ident, "name": name} for name, ident in CATEGORIES.items()],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return root


def test_a_model_keeps_the_ids_of_the_data_that_it_was_trained_on(data: Path, tmp_path: Path) -> None:
    run = singleshot.train(
        data, out=tmp_path / "run", epochs=1, batch=2, size=64, workers=0, backbone_weights="none", tensorboard=False
    )
    info = read_info(run.last)
    assert info.category_ids == CATEGORIES
    assert ModelInfo.from_json(info.to_json(), "m").category_ids == CATEGORIES
    assert info.exported(raw=False).category_ids == CATEGORIES
    assert run.load().category_ids == CATEGORIES


def test_images_are_called_as_the_data_set_around_them_does(data: Path, tmp_path: Path, write_image) -> None:
    images = data / "images"
    write_image(tmp_path / "31.png", 64, 48)
    for source in (data, images, images / "8.png"):
        ids = ids_of_sources([str(source)], ("dog", "person"), None)
        assert ids.categories == CATEGORIES
        assert ids.image_of(str(images / "8.png")) == 501
        assert ids.image_of(str(images / "deep" / ".." / "8.png")) == 501
        assert ids.image_of(str(tmp_path / "31.png")) == 31
    assert ids_of_sources([str(data)], ("dog",), {"dog": 5}).categories == {"dog": 5}  # the model's own come first
    assert ids_of_sources([str(data)], ("cat", "dog"), None).categories == {"cat": 1, "dog": 2}
    for source in ("0", "rtsp://host/stream", tmp_path / "none", tmp_path / "*.png", tmp_path / "31.png"):
        ids = ids_of_sources([str(source)], ("dog",), None)
        assert (ids.categories, ids.image_of(str(tmp_path / "31.png"))) == ({"dog": 1}, 31)
    with pytest.raises(ConfigError, match="no category 'cat'"):
        ids_like(like(data), ("dog", "cat"))
    assert ids_like(like(data), ("dog",)).image_of("elsewhere/deep/7.png") == 500


def like(data: Path) -> str:
    return str(data / "annotations" / "instances_train2017.json")


def test_coco_s_own_numbers_are_known() -> None:
    assert coco_ids(VOC) is None
    assert coco_ids(COCO[:5]) is None
    for names in (COCO, coco_by_number()):
        ids = coco_ids(names)
        assert ids is not None
        assert (ids["person"], ids["stop sign"], ids["toothbrush"]) == (1, 13, 90)


@pytest.mark.parametrize("ids", [{"a": "1"}, {"a": True}, {"a": 1.5}, [1], "x"])
def test_ids_that_are_no_numbers_are_refused(ids: object) -> None:
    few = {"format": 1, "version": "", "model": "", "classes": ["a"], "input": {"size": 64}, "thresholds": {}}
    with pytest.raises(CheckpointError, match="cannot be read"):
        ModelInfo.from_json(json.dumps({**few, "category_ids": ids}), "m", ("classes",))

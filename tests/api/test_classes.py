"""--classes: trained on, evaluated and detected are some classes, in an order, under other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import singleshot
from singleshot.api.detect import DetectOptions, run_detection
from singleshot.api.evaluate import EvaluateOptions, run_evaluation
from singleshot.api.train import TrainOptions, prepare, resolve
from singleshot.class_selection import ClassSelection
from singleshot.datasets import open_dataset
from singleshot.datasets.sources import open_source
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.errors import CheckpointError, ConfigError, DataError
from singleshot.loading.shard_stream import ShardStream
from singleshot.model_info import ModelInfo
from singleshot.weights.checkpoint import read_info

PLAIN: dict[str, Any] = {
    "epochs": 1,
    "batch": 4,
    "size": 128,
    "backbone_weights": "none",
    "workers": 0,
    "tensorboard": False,
}
GROUPS = {"shape": ["ring", "star"], "leaf": ["leaf"]}


@pytest.fixture(scope="module")
def mapped(scenes: Path, tmp_path_factory) -> singleshot.Run:
    return singleshot.train(
        scenes, out=tmp_path_factory.mktemp("runs") / "mapped", classes=["ring,star=shape", "leaf"], **PLAIN
    )


def test_only_these_are_learnt_and_the_mapping_stands_in_the_run(mapped: singleshot.Run) -> None:
    assert json.loads((mapped.folder / "run.json").read_text())["options"]["classes"] == GROUPS
    info = read_info(mapped.last)
    assert info.class_names == ("shape", "leaf")
    assert info.selection is not None
    assert info.selection.to_dict() == GROUPS
    assert info.exported(raw=True).selection == info.selection


def test_what_is_left_out_is_said_with_counts(scenes: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", "singleshot")
    options = TrainOptions.of({"data": scenes, "out": tmp_path / "run", "classes": "leaf", **PLAIN})
    trainer, _, _ = prepare(resolve(options))
    whole = open_dataset(scenes, "train")
    left = int((whole.labels != whole.class_names.index("leaf")).sum())
    assert len(trainer.train_set) == 8
    assert len(trainer.train_set.labels) == len(whole.labels) - left
    assert f"left out: {left} objects (" in caplog.text
    empty = sum(not len(trainer.train_set.labels_of(i)) for i in range(8))
    assert f"{empty} of 8 images have none of these classes and are background" in caplog.text
    assert trainer.val_set.class_names == ("leaf",)


def test_shards_in_a_stream(scenes: Path, tmp_path: Path, caplog) -> None:
    write_shards(read_contents(open_source(scenes)), tmp_path / "shards")
    caplog.set_level("INFO", "singleshot")
    options = {"data": tmp_path / "shards", "out": tmp_path / "run", "classes": ["leaf", "ring,star=shape"], **PLAIN}
    trainer, decided, _ = prepare(resolve(TrainOptions.of(options)))
    assert isinstance(trainer.train_set, ShardStream)
    assert decided.classes == {"leaf": ["leaf"], "shape": ["ring", "star"]}
    assert "left out, uncounted since shards are read in a stream: cross" in caplog.text
    whole = open_dataset(scenes, "train")
    wanted = [{"leaf": 0, "ring": 1, "star": 1}.get(name, -1) for name in whole.class_names]
    batches = list(trainer.loader.epoch(0))
    found = sorted(label for batch in batches for label in batch.labels.flatten().tolist() if label >= 0)
    assert found  # augmentation drops some objects, and adds none of another class
    assert set(found) <= {0, 1}
    assert len(found) <= sum(wanted[label] >= 0 for label in whole.labels.tolist())


def test_evaluation_applies_the_mapping_by_itself(mapped: singleshot.Run, scenes: Path, caplog) -> None:
    caplog.set_level("INFO", "singleshot")
    done = run_evaluation(EvaluateOptions.of({"model": mapped.last, "data": scenes, "split": "val"}))
    assert "measured as shape (ring, star), leaf" in caplog.text
    assert "not a class of the model, so not measured (objects): cross" in caplog.text
    rows = {row["name"]: row for row in done.to_dict()["per_class"]}
    assert list(rows) == ["shape", "leaf", "cross"]
    whole = open_dataset(scenes, "val")
    counts = dict(
        zip(whole.class_names, np.bincount(whole.labels[~whole.difficult], minlength=4).tolist(), strict=True)
    )
    assert rows["shape"]["truths"] == counts["ring"] + counts["star"]
    assert (rows["cross"]["truths"], rows["cross"]["ap"]) == (counts["cross"], None)
    assert done.to_dict()["not_in_model"] == ["cross"]


def test_a_class_measured_alone_has_the_figure_that_it_has_among_all(run: singleshot.Run, scenes: Path) -> None:
    every = singleshot.evaluate(run.last, scenes, split="val")
    some = singleshot.evaluate(run.last, scenes, split="val", classes="star,cross")
    assert [row.name for row in some.per_class] == ["star", "cross"]
    figures = {row.name: row for row in every.per_class}
    assert [row.ap for row in some.per_class] == [figures["star"].ap, figures["cross"].ap]
    assert some.mean_ap == pytest.approx((figures["star"].ap + figures["cross"].ap) / 2)


@pytest.mark.parametrize("form", ["json", "coco", "voc", "yolo", "csv"])
def test_every_form_of_results_has_them_alone(form: str, run: singleshot.Run, scenes: Path, tmp_path: Path) -> None:
    image = str(next((scenes / "JPEGImages").iterdir()))
    options = {"model": run.last, "sources": (image,), "out": tmp_path, "form": form, "score_min": 0.03}
    run_detection(DetectOptions.of({**options, "classes": ["star", "ring,cross=other"], "draw": False}))
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert not [name for name in ("leaf", "ring", "cross") if name in written]
    if form == "coco":
        results = json.loads((tmp_path / "results.json").read_text())
        assert {row["category_id"] for row in results} == {1, 2}
    assert "other" in written
    if form == "yolo":
        assert (tmp_path / "classes.txt").read_text() == "star\nother\n"


def test_a_run_goes_on_with_its_own_classes_alone(mapped: singleshot.Run, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(mapped.folder, tmp_path / "run")
    options = {"out": str(folder), "resume": True, "workers": 0, "tensorboard": False, "epochs": 2}
    assert resolve(TrainOptions.of({**options, "classes": ["ring,star=shape", "leaf"]})).classes == GROUPS
    for other in (["leaf", "ring,star=shape"], ["ring=shape", "leaf"], "leaf"):
        with pytest.raises(ConfigError, match="--classes cannot change in a run"):
            resolve(TrainOptions.of({**options, "classes": other}))
    again = singleshot.train(**options)
    assert again.epochs == 2
    assert read_info(again.last).selection == read_info(mapped.last).selection


def test_a_checkpoint_keeps_its_heads_by_name(mapped: singleshot.Run, scenes: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", "singleshot")
    options = {"data": scenes, "out": tmp_path / "run", "start": mapped.last, "classes": "cross,leaf", **PLAIN}
    del options["backbone_weights"]
    prepare(resolve(TrainOptions.of(options)))
    assert "kept leaf; new: cross; left out: shape" in caplog.text


def test_flags_stay_and_what_is_left_out_may_be_broken(tmp_path: Path, write_voc, voc_xml) -> None:
    objects = [
        ("cat", (1, 1, 9, 9), 1),
        ("dog", (1, 1, 9, 9), 0),
        ("dog", (50, 50, 20, 900), 0),
        ("cat", (3, 3, 9, 9), 0),
    ]
    write_voc(tmp_path, {"a": voc_xml(objects), "b": voc_xml([("dog", (1, 1, 9, 9))])}, {"train": ["a", "b"]})
    whole = ClassSelection.from_dict({"animal": ["cat"]})
    dataset = open_dataset(tmp_path, "train", selection=whole)
    assert (dataset.class_names, dict(dataset.left_out)) == (("animal",), {"dog": 3})
    assert dataset.difficult.tolist() == [True, False]
    assert [len(dataset.labels_of(i)) for i in range(2)] == [2, 0]
    with pytest.raises(DataError, match=r"object 2 .dog.*has no area"):
        open_dataset(tmp_path, "train", selection=ClassSelection.from_dict({"animal": ["dog"]}))


def test_a_model_file_whose_mapping_is_not_its_own_is_refused(mapped: singleshot.Run) -> None:
    good = read_info(mapped.last).to_dict()
    for members in (
        {"shape": ["ring"]},
        {"leaf": ["leaf"], "shape": ["ring"]},
        {"shape": "ring", "leaf": ["leaf"]},
        [],
        3,
    ):
        with pytest.raises(CheckpointError, match=r"m: .*class"):
            ModelInfo.from_json(json.dumps({**good, "class_members": members}), "m")


def test_an_int8_file_is_calibrated_on_the_classes_that_were_learnt(mapped: singleshot.Run, scenes: Path) -> None:
    from singleshot.deploy.int8 import open_calibration

    for dataset in open_calibration(str(scenes), read_info(mapped.last)):
        assert dataset.class_names == ("shape", "leaf")
        assert "cross" in dataset.left_out

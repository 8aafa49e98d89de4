"""The public names; evaluate, export, import and detect from Python."""

from __future__ import annotations

import inspect
import io
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import singleshot
from singleshot.api.detect import DetectOptions, Listener, run_detection
from singleshot.api.evaluate import EvaluateOptions, run_evaluation
from singleshot.api.export import ExportOptions
from singleshot.api.import_checkpoint import ImportOptions
from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.writing import write_dataset
from singleshot.errors import ConfigError, DataError


def test_public_names_are_what_they_say() -> None:
    assert set(singleshot.__all__) <= set(dir(singleshot))
    for name in ("train", "evaluate", "export", "import_checkpoint", "load"):
        assert inspect.isfunction(getattr(singleshot, name))
    for name in ("Detector", "Detections", "Tiling", "Run", "Evaluation"):
        assert inspect.isclass(getattr(singleshot, name))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        singleshot.trian  # noqa: B018
    # A module of that name would take the function's place as soon as it is imported.
    assert not {module.name for module in pkgutil.iter_modules(singleshot.__path__)} & set(singleshot.__all__)


def test_importing_takes_nothing_with_it() -> None:
    code = (
        "import sys, time; start = time.process_time(); import singleshot; taken = time.process_time() - start;"
        "assert not {'numpy', 'cv2', 'torch', 'typer'} & set(sys.modules);"
        "print(taken)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.1


@pytest.mark.parametrize(
    ("function", "record", "given"),
    [
        (singleshot.evaluate, EvaluateOptions, {"model": "m", "data": "d"}),
        (singleshot.export, ExportOptions, {"model": "m"}),
        (singleshot.import_checkpoint, ImportOptions, {"checkpoint": "c"}),
    ],
)
def test_functions_take_what_their_records_hold(function, record, given) -> None:
    parameters = inspect.signature(function).parameters
    names = [name for name in parameters if name not in ("progress", "on_line")]
    assert {name: given.get(name, parameters[name].default) for name in names} == record(**given).to_dict()


@pytest.fixture(scope="module")
def exported(run: singleshot.Run, tmp_path_factory) -> Path:
    for package in ("onnx", "onnxscript", "openvino"):
        pytest.importorskip(package)
    return singleshot.export(run.best, out=tmp_path_factory.mktemp("exported") / "model.onnx")


def test_a_checkpoint_and_its_exported_file_have_the_same_figures(run, exported: Path, scenes: Path, tmp_path) -> None:
    torch_s = singleshot.evaluate(run.best, scenes, out=tmp_path / "report", device="cpu")
    assert isinstance(torch_s, singleshot.Evaluation)
    assert (torch_s.images, torch_s.metric) == (4, "voc")
    assert json.loads((tmp_path / "report" / "eval.json").read_text())["split"] == "test"
    engine_s = singleshot.evaluate(exported, scenes, workers=0, batch=3)
    assert engine_s.mean_ap == pytest.approx(torch_s.mean_ap, abs=5e-4)


def test_the_figure_of_the_training_is_what_evaluate_finds(run: singleshot.Run, scenes: Path) -> None:
    calls = []

    class Progress:
        def __init__(self, total: int, what: str) -> None:
            calls.append((total, what))

        def __enter__(self):
            return lambda: calls.append("image")

        def __exit__(self, *error: object) -> None:
            calls.append("end")

    options = EvaluateOptions(str(run.best), str(scenes), split="val", device="cpu")
    done = run_evaluation(options, Progress)
    assert done.evaluation.mean_ap == pytest.approx(run.metrics["val_map50"], abs=1e-4)
    assert calls == [(4, "images"), *["image"] * 4, "end"]
    assert done.to_dict()["images"] == 4


def test_what_was_evaluated_is_saved(run: singleshot.Run, scenes: Path, tmp_path: Path) -> None:
    """As JSON, and of COCO data as its results with its ids, which a model that was trained on it has too."""
    from pycocotools.coco import COCO

    done = singleshot.evaluate(run.best, scenes, save=tmp_path / "plain", device="cpu")
    content = json.loads((tmp_path / "plain" / "results.json").read_text())
    assert [one["image"] for one in content["images"]] == list(open_dataset(scenes, "test").names)
    write_dataset(open_source(scenes).read(None), tmp_path / "coco", "coco")
    file = tmp_path / "coco/annotations/instances_test.json"
    truth = json.loads(file.read_text())
    for one in truth["categories"]:
        one["id"] *= 10
    for one in truth["annotations"]:
        one["category_id"] *= 10
    file.write_text(json.dumps(truth))
    again = singleshot.evaluate(run.best, tmp_path / "coco", save=tmp_path / "found", device="cpu")
    assert again.mean_ap == pytest.approx(done.mean_ap, abs=1e-6)
    results = COCO(str(file)).loadRes(str(tmp_path / "found" / "results.json"))
    assert set(results.getCatIds()) == {10, 20, 30, 40}
    assert len(results.getAnnIds()) == sum(len(one["detections"]) for one in content["images"])
    with pytest.raises(ConfigError, match="is not empty"):
        singleshot.evaluate(run.best, scenes, save=tmp_path / "found")
    with pytest.raises(ConfigError, match="goes with --save"):
        singleshot.evaluate(run.best, scenes, form="csv")
    with pytest.raises(ConfigError, match="want one of json"):
        singleshot.evaluate(run.best, scenes, save=tmp_path / "x", form="xml")


def test_evaluating_refuses_what_does_not_fit(run: singleshot.Run, exported: Path, scenes: Path) -> None:
    with pytest.raises(ConfigError, match="want one of voc07"):
        singleshot.evaluate(run.best, scenes, metric="map")
    with pytest.raises(ConfigError, match="has them built in"):
        singleshot.evaluate(exported, scenes, rule="caffe")
    with pytest.raises(ConfigError, match="for exported files"):
        singleshot.evaluate(run.best, scenes, threads=2)
    with pytest.raises(DataError, match="testing"):
        singleshot.evaluate(exported, scenes, split="testing")


def test_export_refuses_before_it_reads() -> None:
    for options, message in (
        ({"to": "tensorrt"}, "want one of onnx"),
        ({"half": True}, "goes with --to openvino"),
        ({"out": "model.pth"}, "ends in .onnx"),
        ({"int8": "data", "tensorrt": True}, "its own quantisation"),
    ):
        with pytest.raises(ConfigError, match=message):
            singleshot.export("none.safetensors", **options)


def test_a_state_dict_becomes_a_file_of_ours(tmp_path: Path) -> None:
    import torch
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    theirs = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(ConfigError, match="does not name its 2 classes"):
        singleshot.import_checkpoint(tmp_path / "theirs.pth", out=tmp_path / "ours.safetensors")
    done = singleshot.import_checkpoint(
        tmp_path / "theirs.pth", out=tmp_path / "ours.safetensors", class_names=["cat", "dog"]
    )
    assert done.path == tmp_path / "ours.safetensors"
    assert (done.info.class_names, done.difference, done.picture) == (("cat", "dog"), 0.0, None)
    assert done.load("cpu").class_names == ("cat", "dog")
    with pytest.raises(ConfigError, match="is there already"):
        singleshot.import_checkpoint(tmp_path / "theirs.pth", out=done.path, class_names="cat,dog")


def test_detection_tells_its_listener_and_writes_to_a_stream(run: singleshot.Run, scenes: Path, tmp_path: Path) -> None:
    images = sorted((scenes / "JPEGImages").iterdir())[:2]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    seen: list[object] = []
    listener = Listener(lambda found, counts: seen.append(tuple(counts)), lambda error: seen.append(str(error)))
    stream = io.StringIO()
    sources = (str(images[0]), str(bad), str(images[1]))
    options = DetectOptions(str(run.best), sources, str(tmp_path / "found"), score_min=0.0, device="cpu")
    done = run_detection(options, stream, listener)
    assert (done.counts.images, done.counts.skipped, done.interrupted) == (2, 1, False)
    assert [one[0] if isinstance(one, tuple) else "bad.jpg" in one for one in seen] == [1, True, 2]
    assert done.results == tmp_path / "found" / "results.json"
    assert len(list((done.pictures or tmp_path / "none").iterdir())) == 2
    assert json.loads(stream.getvalue())["images"] == json.loads(done.results.read_text())["images"]
    with pytest.raises(ConfigError, match="is not empty"):
        run_detection(options)
    with pytest.raises(DataError, match=r"bad\.jpg"):
        run_detection(DetectOptions(str(run.best), (str(bad),), device="cpu"))


def test_a_rule_is_for_checkpoints(run: singleshot.Run, exported: Path) -> None:
    with pytest.raises(ConfigError, match="give the checkpoint"):
        singleshot.load(exported, rule="caffe")
    with pytest.raises(ConfigError, match="want one of caffe"):
        singleshot.load("not-even-there.pth", rule="yolo")
    image = np.full((40, 60, 3), 128, np.uint8)
    assert len(singleshot.load(run.best, "cpu", rule="chuanqi305").detect(image, score_min=0.0)) <= 100

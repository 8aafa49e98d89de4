"""`singleshot detect` with a real model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def pictures(scenes: Path) -> list[Path]:
    return sorted((scenes / "JPEGImages").iterdir())[:5]


def test_the_same_image_gives_the_same_boxes_as_in_python_and_in_eval(model, pictures, scenes, run, tmp_path) -> None:
    import numpy as np
    import torch

    import singleshot
    from singleshot.datasets import open_dataset
    from singleshot.evaluation.engine_loop import evaluate_engine, read_batches
    from singleshot.evaluation.torch_engine import TorchEngine
    from singleshot.weights.checkpoint import load_checkpoint

    done = run("detect", model, *pictures, "--score-min", 0.05, "--json")
    assert done.returncode == 0, done.stderr
    images = json.loads(done.stdout)["images"]
    detector = singleshot.load(str(model), device="cpu")
    network, info = load_checkpoint(model)
    data = open_dataset(scenes, "trainval") if (scenes / "ImageSets/Main/trainval.txt").exists() else None
    assert data is not None
    engine = TorchEngine(network, info.thresholds, torch.device("cpu"))

    def of_squares(batch):
        return engine(batch.images)

    for path, image in zip(pictures, images, strict=True):
        alone = detector.detect(str(path), score_min=0.05)
        assert len(image["detections"]) == len(alone)
        for row, box, score in zip(image["detections"], alone.boxes, alone.scores, strict=True):
            assert row["box"] == pytest.approx(box.tolist(), abs=0.1)
            assert row["score"] == pytest.approx(float(score), abs=1e-4)
        places = [i for i in range(len(data)) if data.names[i] == str(path)]
        if not places:
            continue
        one = data.subset(places)
        batches = read_batches(one, network.input_spec, 1)
        (found,) = evaluate_engine(of_squares, batches, one, network.input_spec.size).detections
        shown = found.scores >= 0.05
        np.testing.assert_allclose(found.boxes[shown][: len(alone)], alone.boxes, atol=0.05)


def test_lists_streams_and_batches_of_any_size_give_the_same_boxes(model, pictures) -> None:
    import singleshot
    from singleshot.runtime import open_sources

    detector = singleshot.load(str(model), device="cpu")
    alone = [detector.detect(str(path), score_min=0.05) for path in pictures]
    paths = [str(path) for path in pictures]
    ways = [detector.detect(paths, 0.05, batch_size=3), detector.detect(paths, 0.05)]
    for batch, decode, keep in ((None, True, True), (2, False, True), (5, False, False)):
        frames = open_sources(paths, decode=decode)
        ways.append([f.detections for f in detector.stream(frames, batch, 0.05, keep_images=keep)])
    for way in ways:
        for one, other in zip(alone, way, strict=True):
            assert one.names == other.names
            assert other.boxes == pytest.approx(one.boxes, abs=0.05)
            assert other.scores == pytest.approx(one.scores, abs=1e-4)


def test_tiles_and_batches_of_the_command(model, pictures, run, tmp_path) -> None:
    done = run("detect", model, pictures[0], "--tile", "200:0.3", "--batch", "auto", "--json", "--score-min", 0.05)
    assert done.returncode == 0, done.stderr
    (image,) = json.loads(done.stdout)["images"]
    for row in image["detections"]:
        x0, y0, x1, y1 = row["box"]
        assert 0 <= x0 < x1 <= image["width"]
        assert 0 <= y0 < y1 <= image["height"]
    assert run("detect", model, *pictures, "--batch", 2, "--json").returncode == 0
    assert run("detect", model, pictures[0], "--tile", 200, "--tiles-only", "--json").returncode == 0


def test_another_codebase_s_rule(model, pictures, run, refused) -> None:
    def boxes(*options) -> list:
        done = run("detect", model, pictures[0], "--score-min", 0.02, "--json", *options)
        assert done.returncode == 0, done.stderr
        (image,) = json.loads(done.stdout)["images"]
        return [(row["box"], row["score"]) for row in image["detections"]]

    caffe, own = boxes("--rule", "caffe"), boxes()
    assert [score for _, score in own] == [score for _, score in caffe]
    assert own != caffe  # which has no box voting
    # .25, and of each class the 100 best that NMS sees: the same boxes from the top, and none that ours lacks.
    predicted, strong = boxes("--rule", "chuanqi305"), [row for row in caffe if row[1] > 0.25]
    assert predicted[:50] == strong[:50]
    assert 0 < len(predicted) <= 100
    assert all(row in strong for row in predicted)
    assert "want one of caffe, " in refused("detect", model, pictures[0], "--rule", "yolo")
    assert "give the checkpoint" in refused("detect", "model.onnx", pictures[0], "--rule", "caffe")


@pytest.mark.parametrize("form", ["json", "coco", "voc", "yolo", "csv"])
def test_every_form_is_written(form: str, model, pictures, run, tmp_path) -> None:
    out = tmp_path / "found"
    done = run("detect", model, *pictures, "--format", form, "--score-min", 0.05, "--out", out)
    assert done.returncode == 0, done.stderr
    assert len(list((out / "pictures").iterdir())) == 5
    assert [p for p in out.rglob("*") if p.is_file() and p.parent.name != "pictures"]


def test_how_pictures_are_drawn_and_objects_cut_out(model, pictures, run, refused, tmp_path) -> None:
    words = ("detect", model, pictures[0], "--score-min", 0.3)
    drawn = {}
    for name, options in (("usual", ()), ("bare", ("--no-labels", "--line-width", 1)), ("names", ("--no-scores",))):
        done = run(*words, *options, "--out", tmp_path / name, "--json", "--crop")
        assert done.returncode == 0, done.stderr
        drawn[name] = (tmp_path / name / "pictures" / pictures[0].name).read_bytes()
        found = json.loads(done.stdout)["images"][0]["detections"]
        crops = sorted((tmp_path / name / "crops").rglob("*.jpg"))
        assert len(crops) == len(found) > 0
        assert {path.parent.name for path in crops} == {one["name"] for one in found}
    assert len(set(drawn.values())) == 3
    x0, y0, x1, y1 = found[0]["box"]
    first = cv2.imread(str(tmp_path / "names" / "crops" / found[0]["name"] / pictures[0].name))
    assert first.shape[:2] == (int(np.ceil(y1)) - int(y0), int(np.ceil(x1)) - int(x0))
    for option in (("--line-width", 3), ("--no-labels",), ("--no-scores",)):
        assert f"{option[0]}: no pictures are drawn" in refused(*words, *option, "--no-draw", "--out", tmp_path / "x")
    assert "--line-width" in refused(*words, "--line-width", 0)


def test_one_unreadable_image_is_reported_and_skipped(model, pictures, run, tmp_path) -> None:
    bad = tmp_path / "bad one.jpg"
    bad.write_bytes(pictures[0].read_bytes()[:500])
    done = run("detect", model, pictures[0], bad, pictures[1], "--json")
    assert done.returncode == 3
    assert "bad one.jpg" in done.stderr
    assert "Traceback" not in done.stderr
    images = json.loads(done.stdout)["images"]
    assert sum("error" not in image or image["error"] is None for image in images) == 2


def test_standard_input(model, pictures, run) -> None:
    done = run("detect", model, "-", "--json", "--score-min", 0.05, stdin=pictures[0].read_bytes())
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["images"]) == 1


def test_mistakes(model, pictures, refused, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    assert "nothing.jpg" in refused("detect", model, "nothing.jpg", cwd=tmp_path)
    assert "empty" in refused("detect", model, tmp_path / "empty")
    assert "no such file" in refused("detect", "none.safetensors", pictures[0])
    assert "--tile 5: want 32" in refused("detect", model, pictures[0], "--tile", "5")
    text = tmp_path / "note.txt"
    text.write_text("hello")
    assert "not a checkpoint that is known" in refused("detect", text, pictures[0])


@pytest.mark.parametrize("form", ["voc", "csv", "yolo", "json", "coco"])
def test_what_detect_wrote_is_read_back_as_labels(run, model, scenes, tmp_path, form) -> None:
    photos = sorted((scenes / "JPEGImages").iterdir())[:3]
    done = run("detect", model, *photos, "--format", form, "--out", tmp_path / "found", "--json", "--score-min", 0.3)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    rows = printed if form == "coco" else [row for one in printed["images"] for row in one["detections"]]
    count = len(rows)
    images = tmp_path / "found" / "images"
    images.mkdir(exist_ok=True)
    for photo in photos:
        shutil.copy(photo, images)
    assert (tmp_path / "found" / "pictures").is_dir()  # the drawn ones, which are none to learn from
    done = run("data", "check", tmp_path / "found", "--json")
    report = json.loads(done.stdout)
    assert (report["images"], report["objects"]) == (3, count), done.stdout
    assert not [one for one in report["findings"] if one["severity"] == "error" and one["kind"] != "box-outside"]
    assert "image-unlabelled" not in {one["kind"] for one in report["findings"]}
    scores = [row["score"] for row in rows]
    least = sorted(scores)[len(scores) // 2] - 1e-5
    done = run("data", "info", tmp_path / "found", "--score-min", least, "--json")
    assert json.loads(done.stdout)["total"]["objects"] == sum(score >= least for score in scores), done.stderr


def test_results_of_images_in_a_coco_set_have_its_ids(run, model, scenes, tmp_path) -> None:
    from pycocotools.coco import COCO

    assert run("data", "convert", scenes, tmp_path / "coco", "--to", "coco").returncode == 0
    file = tmp_path / "coco" / "annotations" / "instances_test.json"
    truth = json.loads(file.read_text())
    for image in truth["images"]:
        image["id"] += 5000
    for row in truth["annotations"]:
        row["image_id"] += 5000
    file.write_text(json.dumps(truth))
    words = ("detect", model, tmp_path / "coco" / "images", "--format", "coco", "--score-min", 0.3, "--no-draw")
    done = run(*words, "--out", tmp_path / "found")
    assert done.returncode == 0, done.stderr
    assert "image ids are those of this COCO data set" in done.stderr
    every = json.loads((tmp_path / "found" / "results.json").read_text())
    test = [row for row in every if row["image_id"] > 5000]
    assert {row["image_id"] for row in test} <= {image["id"] for image in truth["images"]}
    assert 0 < len(test) < len(every)
    assert COCO(str(file)).loadRes(test).getAnnIds()
    info = COCO(str(tmp_path / "found" / "image_info.json"))  # which stands for a data set where there is none
    assert len(info.loadRes(every).getAnnIds()) == len(every)


def test_ids_of_a_coco_set_are_those_that_its_tools_take(run, refused, model, scenes, tmp_path) -> None:
    """Ids with gaps, image ids that are not in the names; pycocotools takes the results."""
    from pycocotools.coco import COCO

    photos = sorted((scenes / "JPEGImages").iterdir())[:3]
    names = {"cross": 18, "leaf": 1, "ring": 44, "star": 7}
    truth = {
        "images": [
            {"id": 139 + i, "file_name": photo.name, "width": 9, "height": 9} for i, photo in enumerate(photos[:2])
        ],
        "categories": [{"id": ident, "name": name} for name, ident in names.items()],
        "annotations": [{"id": 1, "image_id": 139, "category_id": 1, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0}],
    }
    like = tmp_path / "instances_val.json"
    like.write_text(json.dumps(truth))
    words = ("detect", model, *photos, "--format", "coco", "--score-min", 0.3, "--no-draw")
    done = run(*words, "--like", like, "--out", tmp_path / "found", "--json")
    assert done.returncode == 3, done.stderr  # the third image is not in the set
    assert f"{photos[2].name}: no image, or several, of that name" in done.stderr
    results = COCO(str(like)).loadRes(str(tmp_path / "found/results.json"))
    assert json.loads(done.stdout) == json.loads((tmp_path / "found/results.json").read_text())
    plain = run("detect", model, *photos[:2], "--score-min", 0.3, "--json")
    for i, one in enumerate(json.loads(plain.stdout)["images"]):
        mine = results.loadAnns(results.getAnnIds(imgIds=[139 + i]))
        assert [row["category_id"] for row in mine] == [names[row["name"]] for row in one["detections"]]
    assert "want json or coco" in refused("detect", model, photos[0], "--format", "csv", "--json")
    assert "goes with --format coco" in refused("detect", model, photos[0], "--like", like)
    truth["categories"].pop()
    like.write_text(json.dumps(truth))
    assert "has no category 'star'" in refused(*words, "--like", like, "--out", tmp_path / "other")

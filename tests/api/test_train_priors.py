"""Training with default boxes that are not the model's own: fitted to the data, or of a file."""

from __future__ import annotations

import json
import logging
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest

import singleshot
from singleshot.api.train import TrainOptions, prepare, resolve
from singleshot.datasets import open_source
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.errors import ConfigError, DataError
from singleshot.models.zoo import usual_priors
from singleshot.prior_boxes import cell_shapes, from_shapes
from singleshot.prior_files import read_priors, write_priors
from singleshot.prior_tables import PRIORS
from singleshot.scenes.scenes import write_scenes
from singleshot.weights.checkpoint import load_checkpoint, read_info

QUICK = {"batch": 4, "workers": 0, "tensorboard": False}


@pytest.fixture(scope="module")
def thin(tmp_path_factory) -> Path:
    """Drawn scenes, five times as wide: with objects enough to fit boxes to unasked, which `scenes` has not."""
    folder = tmp_path_factory.mktemp("data") / "thin"
    write_scenes(folder, train=16, test=4, val=4)
    for path in (folder / "Annotations").iterdir():
        tree = ElementTree.parse(path)
        for tag in ("width", "xmin", "xmax"):
            for node in tree.iter(tag):
                value = float(node.text or "")
                node.text = str(5 * value if tag == "width" else 5 * (value - 1) + 1)
        tree.write(path)
    for path in (folder / "JPEGImages").iterdir():
        image = cv2.imread(str(path))
        cv2.imwrite(str(path), cv2.resize(image, (5 * image.shape[1], image.shape[0])))
    return folder


@pytest.fixture(scope="module")
def fitted(scenes: Path, tmp_path_factory) -> singleshot.Run:
    return singleshot.train(
        scenes,
        out=tmp_path_factory.mktemp("runs") / "fitted",
        epochs=1,
        backbone_weights="none",
        fit_priors=True,
        **QUICK,
    )


def options_of(data: Path | str, out: Path, **more) -> TrainOptions:
    return resolve(TrainOptions.of({"data": data, "out": out, "workers": 0, "tensorboard": False, **more}))


def test_the_run_and_its_model_have_what_priors_fit_finds(fitted, scenes):
    found = singleshot.fit_priors(scenes)
    assert found.table != PRIORS["ssdlite320-fine"]
    assert read_priors(str(fitted.folder / "priors.json")) == found.table
    assert {read_info(path).prior_spec for path in (fitted.best, fitted.last)} == {found.table}
    assert found.splits[0].after.all.mean_iou > found.splits[0].before.all.mean_iou


def test_a_run_that_goes_on_keeps_its_default_boxes(fitted, thin, tmp_path):
    folder = Path(shutil.copytree(fitted.folder, tmp_path / "run"))
    own = read_priors(str(folder / "priors.json"))
    again = {"resume": True, "epochs": 2, "accept_changes": True}  # of the data
    for same in ({}, {"fit_priors": True}, {"priors": folder / "priors.json"}):
        trainer, _, _ = prepare(options_of(thin, folder, **again, **same))
        assert trainer.model.prior_spec == own
    (folder / "last.safetensors").unlink()  # there is the state alone
    assert prepare(options_of(thin, folder, **again))[0].model.prior_spec == own
    with pytest.raises(ConfigError, match="--priors ssdlite320-fine: are not the default boxes of this run"):
        options_of(thin, folder, **again, priors="ssdlite320-fine")
    assert singleshot.train(out=folder, workers=0, tensorboard=False, **again).epochs == 2
    assert read_info(folder / "last.safetensors").prior_spec == own


def test_a_run_without_them_does_not_begin_to_fit(run, tmp_path):
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    with pytest.raises(ConfigError, match="--fit-priors cannot change in a run \\(it has its model's own"):
        options_of("", folder, resume=True, epochs=3, fit_priors=True)
    saved = json.loads((folder / "run.json").read_text())
    del saved["options"]["priors"], saved["options"]["fit_priors"]  # as older versions wrote it
    (folder / "run.json").write_text(json.dumps(saved))
    trainer, _, _ = prepare(options_of("", folder, resume=True, epochs=3))
    assert trainer.model.prior_spec == PRIORS["ssdlite320-fine"]


@pytest.mark.slow
def test_export_gives_the_same_boxes(fitted, scenes, tmp_path):
    images = sorted(map(str, (scenes / "JPEGImages").iterdir()))[:3]
    want = singleshot.load(fitted.best, device="cpu").detect(images, score_min=0.02)
    assert sum(len(one.boxes) for one in want) > 20
    path = singleshot.export(fitted.best, out=tmp_path / "model.onnx")
    for engine in ("onnxruntime", "openvino"):
        found = singleshot.load(path, engine=engine).detect(images, score_min=0.02)
        for one, other in zip(want, found, strict=True):
            np.testing.assert_allclose(one.boxes, other.boxes, atol=0.05)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
            assert one.names == other.names


def test_other_projects_do_not_take_them(fitted, tmp_path):
    with pytest.raises(ConfigError, match="torchvision takes SSD300 on VGG16 alone"):
        singleshot.export(fitted.best, out=tmp_path / "model.pth", to="torchvision")


def test_a_start_from_a_checkpoint_keeps_what_is_not_relative_to_its_boxes(run, thin, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    old, _ = load_checkpoint(run.last)
    table = singleshot.fit_priors(thin).table
    trainer, _, _ = prepare(options_of(thin, tmp_path / "a", start=run.last, fit_priors=True))
    model = trainer.model
    assert model.prior_spec == table
    assert "the outputs of its maps of 40, 20, " in caplog.text
    for key, value in old.state_dict().items():
        if not key.startswith("heads"):
            assert (model.state_dict()[key] == value).all(), key
    # The first map alone has other boxes.
    fine = PRIORS["ssdlite320-fine"]
    shapes = [tuple(cell_shapes(fine, i)) for i in range(len(fine.maps))]
    write_priors(tmp_path / "p.json", from_shapes(320, fine.maps, [shapes[0][:2], *shapes[1:]]), "mine", "a test")
    trainer, _, _ = prepare(options_of(thin, tmp_path / "b", start=run.last, priors=tmp_path / "p.json"))
    now = trainer.model.state_dict()
    kept = {
        key for key, value in old.state_dict().items() if now[key].shape == value.shape and (now[key] == value).all()
    }
    assert {key for key in now if key.startswith("heads.0.")} == now.keys() - kept


def test_shards_are_fitted_to_as_the_data_they_are_made_of(scenes, tmp_path):
    write_shards(read_contents(open_source(scenes)), tmp_path / "shards")
    trainer, _, _ = prepare(options_of(tmp_path / "shards", tmp_path / "run", fit_priors=True, backbone_weights="none"))
    assert trainer.model.prior_spec == singleshot.fit_priors(scenes).table


def test_default_boxes_are_fitted_unless_something_speaks_against_it(scenes, thin, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    plain = {"backbone_weights": "none", "model": "ssdlite320-mobilenetv2", "val_split": "none", "resize": "letterbox"}

    def prepared(data: Path | str, **more) -> tuple[bool, bool | None, list[str]]:
        """Whether the boxes are the model's own, what run.json will say, and the lines about it."""
        caplog.clear()
        trainer, options, _ = prepare(options_of(data, tmp_path / "run", **{**plain, **more}))
        own = trainer.model.prior_spec == PRIORS["ssdlite320"]
        return own, options.fit_priors, [line for line in caplog.messages if "default box" in line]

    is_own, fitted, (line,) = prepared(thin)
    assert (is_own, fitted) == (False, True)
    assert "default boxes fitted" in line
    assert "--no-fit-priors keeps" in line
    is_own, fitted, (line,) = prepared(thin, fit_priors=True)
    assert (is_own, fitted, "--no-fit-priors" in line) == (False, True, False)
    write_shards(read_contents(open_source(thin)), tmp_path / "shards")
    against = [(thin, {"fit_priors": False}, False), (thin, {"priors": "ssdlite320"}, None), (scenes, {}, None),
               (thin, {"recipe": "paper"}, None), (tmp_path / "shards", {}, None)]  # fmt: skip
    for data, more, kept in against:
        is_own, fitted, lines = prepared(data, **more)
        assert (is_own, fitted) == (True, kept), (data, more)
        assert ["are matched by no default box" in line for line in lines] == [True] * ("shards" not in str(data))
        advised = not more.keys() & {"fit_priors", "priors"}  # what was chosen is not advised against
        assert ["--fit-priors fits them" in line for line in lines] == [advised] * len(lines)
        assert ["of ssdlite320 (" in line for line in lines] == ["priors" in more] * len(lines)


def test_a_run_that_was_fitted_unasked_goes_on_with_its_boxes(thin, tmp_path):
    out = {"out": tmp_path / "run", "workers": 0, "tensorboard": False}
    singleshot.train(
        thin, model="ssdlite320-mobilenetv2", size=128, resize="letterbox", backbone_weights="none", epochs=1, **out
    )
    own = read_priors(str(tmp_path / "run" / "priors.json"))
    assert own != usual_priors("ssdlite320-mobilenetv2", (128, 128))
    assert prepare(options_of("", tmp_path / "run", resume=True, epochs=2))[0].model.prior_spec == own
    with pytest.raises(ConfigError, match="--no-fit-priors cannot change in a run"):
        options_of("", tmp_path / "run", resume=True, epochs=2, fit_priors=False)
    for kept in ("resume.safetensors", "last.safetensors", "best.safetensors"):
        (tmp_path / "run" / kept).unlink(missing_ok=True)  # it starts again, with the boxes that it had
    assert prepare(options_of("", tmp_path / "run", resume=True, epochs=2))[0].model.prior_spec == own


def test_what_a_start_has_outputs_for_is_not_fitted_unasked(run, thin, tmp_path, caplog):
    trainer, options, _ = prepare(options_of(thin, tmp_path / "a", start=run.last, resize="letterbox"))
    assert trainer.model.prior_spec == read_info(run.last).prior_spec
    assert options.fit_priors is None
    assert "--fit-priors fits them" in caplog.text


def test_the_resize_rule_decides_how_boxes_look(thin):
    stretched, boxed = (singleshot.fit_priors(thin, resize=rule) for rule in ("stretch", "letterbox"))
    assert stretched.table != boxed.table
    widths = [
        np.median((one.boxes[:, 2] - one.boxes[:, 0]) / (one.boxes[:, 3] - one.boxes[:, 1]))
        for one in (stretched, boxed)
    ]
    assert widths[1] > 4 * widths[0]
    assert boxed.splits[0].before.all.matched < 0.5
    assert boxed.splits[0].after.all.matched > 0.9


def test_some_of_the_classes(scenes, tmp_path):
    found = singleshot.fit_priors(scenes, classes="star,ring")
    assert [part.name for part in found.splits[0].after.classes] == ["star", "ring"]
    trainer, _, _ = prepare(
        options_of(scenes, tmp_path / "run", classes="star,ring", fit_priors=True, backbone_weights="none")
    )
    assert trainer.model.prior_spec == found.table


def test_the_recipes_iou_min_counts(scenes, tmp_path):
    (tmp_path / "mine.toml").write_text("iou_min = 0.35\n")
    more = {"recipe": tmp_path / "mine.toml", "fit_priors": True, "backbone_weights": "none"}
    trainer, _, _ = prepare(options_of(scenes, tmp_path / "run", **more))
    assert trainer.model.prior_spec == singleshot.fit_priors(scenes, iou_min=0.35).table


@pytest.fixture
def spots(tmp_path: Path, write_image) -> Path:
    """A CSV of objects of 5 x 5 pixels, which says no image's size."""
    folder, lines = tmp_path / "spots", ["file,xmin,ymin,xmax,ymax,class"]
    for i in range(12):
        write_image(folder / f"{i}.jpg", 160, 160)
        lines += [f"{i}.jpg,{x},{x},{x + 5},{x + 5},spot" for x in range(0, 150, 15)]
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def test_boxes_are_fitted_unasked_where_labels_do_not_say_the_sizes_of_images(spots: Path, tmp_path: Path):
    trainer, options, _ = prepare(options_of(spots, tmp_path / "run", backbone_weights="none", epochs=1))
    assert options.fit_priors
    assert trainer.model.prior_spec != PRIORS["ssdlite320-fine"]


@pytest.mark.parametrize("more", [{}, {"cache": "ram"}, {"tile": 100}, {"size": "auto"}, {"fit_priors": True}], ids=str)
def test_an_image_that_cannot_be_measured_is_one_that_cannot_be_read(spots: Path, tmp_path: Path, more: dict):
    names = open_source(str(spots)).read("train").splits["train"]
    broken = spots / f"{names[0]}.jpg"
    broken.write_bytes(b"\xff\xd8 and nothing more")
    given = {"backbone_weights": "none", "epochs": 1, **more}
    with pytest.raises(DataError, match=broken.name):
        prepare(options_of(spots, tmp_path / "strict", **given))
    run = singleshot.train(spots, out=tmp_path / "run", skip_broken=True, **given, **QUICK)
    assert len(run.skipped) == 1
    assert broken.name in run.skipped[0]

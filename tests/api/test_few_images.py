"""Sets of one or two images, without objects, or without those of a class: trained on as far as can be, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from singleshot.api.train import prepare
from singleshot.api.train_options import TrainOptions, resolve
from singleshot.cli.train import _data_to_evaluate
from singleshot.datasets import open_source
from singleshot.errors import DataError, TooFewImagesError
from singleshot.training.loop import Trainer


def prepared(data: Path, out: Path, **more: object) -> Trainer:
    values = {
        "data": str(data),
        "out": str(out),
        "model": "ssd320-mini",
        "backbone_weights": "none",
        "size": 96,
        **more,
    }
    return prepare(resolve(TrainOptions(**values)))[0]  # type: ignore[arg-type]


def yolo(folder: Path, rows: list[str], write_image, names: str = "nut\nbolt\n") -> Path:
    """An image for each text of labels."""
    (folder / "labels").mkdir(parents=True)
    (folder / "classes.txt").write_text(names)
    for i, text in enumerate(rows):
        write_image(folder / "images" / f"p{i}.png", 64, 48)
        (folder / "labels" / f"p{i}.txt").write_text(text)
    return folder


@pytest.fixture(params=["yolo", "voc"])
def one_image(request, tmp_path: Path, write_image, write_voc, voc_xml) -> Path:
    """A set of one image and without splits."""
    if request.param == "yolo":
        return yolo(tmp_path / "data", ["0 .5 .5 .5 .5\n"], write_image, "nut\n")
    root = write_voc(tmp_path / "data", {"a": voc_xml([("nut", (9, 9, 40, 40))], size=(64, 48))}, {})
    write_image(root / "JPEGImages" / "a.png", 64, 48)
    return root


def test_one_image_trains_without_validation(one_image: Path, tmp_path: Path, caplog) -> None:
    trainer = prepared(one_image, tmp_path / "run")
    assert (len(trainer.train_set), trainer.val_set) == (1, None)
    assert "too few images to make a split 'val' of some of them: training without validation" in caplog.text
    source = open_source(one_image)
    for split in ("val", "test"):  # it would be made, were there more images
        assert split in source.splits
        with pytest.raises(TooFewImagesError, match=f"a split '{split}' of some of them; label more, or name another"):
            source.read(split)
    assert _data_to_evaluate(TrainOptions(data=str(one_image)), validated=False) == "OTHER_DATA"


def test_the_split_to_evaluate_on_is_named_where_there_is_one(tmp_path: Path, write_image) -> None:
    data = yolo(tmp_path / "data", ["0 .5 .5 .5 .5\n"] * 3, write_image)
    want = f"{data} --split test"
    assert [_data_to_evaluate(TrainOptions(data=str(data)), validated) for validated in (True, False)] == [want] * 2


def test_images_without_any_object_are_refused_as_data_check_does(tmp_path: Path, write_image) -> None:
    data = yolo(tmp_path / "data", [""] * 4, write_image)
    with pytest.raises(DataError, match=r"images and no object in any of them: .*; label some before training"):
        prepared(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_of_which_nothing_can_be_learnt_is_named(tmp_path: Path, write_image, caplog) -> None:
    prepared(yolo(tmp_path / "data", ["0 .5 .5 .5 .5\n"] * 4, write_image), tmp_path / "run")
    (line,) = [line for line in caplog.messages if "learnt" in line]
    assert line.endswith("(train): no object of bolt: nothing of it can be learnt")

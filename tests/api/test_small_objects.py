"""What `data info` and `train` advise for small objects: concrete values, which the commands that they name take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from singleshot.api.train import prepare
from singleshot.api.train_options import TrainOptions, resolve
from singleshot.cli.data_info import collect, format_info
from singleshot.tiling import Tiling

BOX = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def voc(folder: Path, width: int, height: int, side: int, write_image, images: int = 3) -> Path:
    """Images with four objects of that side each."""
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for i in range(images):
        write_image(folder / "JPEGImages" / f"{i}.jpg", width, height)
        objects = "".join(BOX.format("nut", x + 1, x + 1, x + side, x + side) for x in range(0, 4 * 9, 9))
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        (folder / "Annotations" / f"{i}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (folder / "ImageSets/Main/train.txt").write_text("".join(f"{i}\n" for i in range(images)))
    return folder


def advice_of(folder: Path) -> str:
    found, _ = collect(str(folder), "ssd320-mini", None, quiet=True)
    text = " ".join(format_info(found, str(folder)).split())
    return text[text.index("Half of the objects are under") :] if "Half of the objects are under" in text else ""


def test_values_for_the_data(tmp_path: Path, write_image) -> None:
    text = advice_of(voc(tmp_path / "data", 800, 600, 20, write_image))
    assert "under 2.9% of the side of their image, 9 px of 320" in text  # sqrt(20/800 * 20/600)
    assert "train --size 544x736, 3.9 times the time per image" in text  # 4 to 3, 640 * 640 but for the rounding
    size, tile = re.search(r"--size (\w+)", text), re.search(r"--tile (\d+), objects at (\d+)%", text)
    assert size and tile
    side = int(tile[1])
    assert 20 / side == pytest.approx(int(tile[2]) / 100, abs=0.006)
    assert 0.1 < 20 / side <= 0.15
    count = len(Tiling(side, whole=False).windows(800, 600))
    assert f"{count} times the time per image" in text
    resolve(TrainOptions(data="x", size=size[1], tile=tile[1]))


def test_nothing_where_objects_are_large_or_no_way_is_left(tmp_path: Path, write_image) -> None:
    assert advice_of(voc(tmp_path / "large", 100, 100, 40, write_image)) == ""
    small = advice_of(voc(tmp_path / "few pixels", 150, 150, 10, write_image))
    assert "--size" not in small
    assert "--tile 96" in small  # three tiles of 64 would be 2 px too few of a median object


@pytest.mark.parametrize(("more", "said"), [({}, True), ({"size": "512"}, False), ({"tile": "128"}, False)], ids=str)
def test_train_names_them_unless_it_was_given_them(
    tmp_path: Path, write_image, caplog, more: dict[str, str], said: bool
) -> None:
    data = voc(tmp_path / "data", 800, 600, 20, write_image, images=6)
    options = {"data": data, "out": tmp_path / "run", "epochs": 1, "workers": 0, "tensorboard": False}
    with caplog.at_level("INFO"):
        prepare(resolve(TrainOptions.of({**options, "backbone_weights": "none", "val_split": "none", **more})))
    lines = [line for line in caplog.messages if "half of the objects are under 2.9%" in line]
    assert len(lines) == said
    for line in lines:
        assert "Try: --size 544x736" in line
        assert re.search(r"--tile (\d+), objects at (\d+)%", line)


def test_the_size_has_the_shape_of_the_images(tmp_path: Path, write_image, caplog) -> None:
    """A square would squeeze pictures of a camera, and `--size auto` takes their shape."""
    data = voc(tmp_path / "data", 1920, 1080, 40, write_image, images=6)
    text = advice_of(data)
    assert "train --size 480x864, 4.0 times the time per image" in text  # 480 * 864 to 320 * 320
    options = {"data": data, "out": tmp_path / "run", "epochs": 1, "backbone_weights": "none", "val_split": "none"}
    with caplog.at_level("INFO"):
        prepare(resolve(TrainOptions.of(options)))
        assert "Try: --size 480x864, 4.0 times the time per image" in caplog.text
        prepare(resolve(TrainOptions.of({**options, "size": "auto"})))
    height, width = map(int, re.search(r"size auto: (\d+)x(\d+) \(height x width\)", caplog.text).groups())
    assert width / height == pytest.approx(864 / 480, rel=0.1)


def test_the_advice_for_panoramas_is_an_input_of_their_shape(tmp_path: Path, write_image) -> None:
    def advice(width: int, height: int) -> str:
        data = voc(tmp_path / f"{width}", width, height, 60, write_image)
        found, _ = collect(str(data), "ssd320-mini", None, quiet=True)
        return " ".join(format_info(found, str(data)).split())

    shape = "or an input of the images' own shape (train --size auto) would match them."
    assert shape in advice(150, 1200)
    assert shape not in advice(600, 600)

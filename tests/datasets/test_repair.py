"""A copy that `data check --fix` wrote has no errors, opens for training, and the original is as it was."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.checks import check_source
from singleshot.datasets.checks.repair import repair
from singleshot.datasets.findings import CollectErrors
from singleshot.errors import ConfigError, DataError
from singleshot.images.orientation import orientation

BOX = (5, 5, 30, 30)


def scene(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return cv2.resize(noise, (64, 48), interpolation=cv2.INTER_CUBIC)


def turned_jpeg(seed: int) -> bytes:
    data = cv2.imencode(".jpg", scene(seed))[1].tobytes()
    body = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def state(root: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def broken(tmp_path, voc_xml, write_voc) -> Path:
    """A VOC folder with one of everything that can be wrong."""
    cat = ("cat", BOX)
    objects = {
        "plain": [cat, ("dog", (1, 1, 20, 20))],
        "clipped": [cat, ("cat", (50, 10, 70, 40))],
        "boxes": [cat, ("cat", (50, 10, 90, 40)), ("cat", (9, 9, 3, 3)), ("cat", ("nan", 1, 2, 3)),
                  ("cat", (70, 70, 90, 90))],
        "twice": [cat, cat, ("Cat", BOX)],
        "named": [("Cats", (8, 8, 40, 40)), ("dog", None)],
        "turned": [("cat", (1, 1, 64, 20))],
        "sized": [cat],
        "corrupt": [cat],
        "missing": [cat],
        "unsized": [cat],
        "copied": [cat],
        "val": [cat, ("dog", (1, 1, 20, 20))],
        "test": [("dog", BOX)],
    }  # fmt: skip
    sizes = {"sized": (640, 640), "unsized": None}
    xmls = {stem: voc_xml(objects, size=sizes.get(stem, (64, 48))) for stem, objects in objects.items()}
    train = [stem for stem in objects if stem not in ("copied", "val", "test")]
    splits = {"train": train, "val": ["copied", "val"], "test": ["test"], "trainval": [*train, "copied", "val"]}
    root = write_voc(tmp_path / "set", {**xmls, "xml": "<broken"}, {**splits, "train": [*train, "xml", "gone"]})
    images = root / "JPEGImages"
    for k, stem in enumerate(objects):
        cv2.imwrite(str(images / f"{stem}.png"), scene(k))
    (images / "turned.png").write_bytes(turned_jpeg(77))
    (images / "corrupt.png").write_bytes((images / "corrupt.png").read_bytes()[:-40])
    (images / "missing.png").unlink()
    (images / "copied.png").write_bytes((images / "plain.png").read_bytes())
    return root


def test_everything_at_once(tmp_path, broken):
    before = state(broken)
    result = check_source(open_source(broken), workers=2)
    assert result.severity("error") > 8
    done = repair(result, tmp_path / "out")
    assert state(broken) == before
    again = check_source(open_source(tmp_path / "out"), workers=2)
    assert again.severity("error") == 0, again.findings
    assert set(again.counts) <= {"class-absent", "exif-rotation", "image-without-objects"}
    # "boxes" and "named" have objects of which nobody knows where, or what, they are.
    assert again.splits == done.splits == {"train": 5, "val": 1, "test": 1, "trainval": 6}
    assert again.classes == {"cat": 7, "dog": 3}
    assert done.left == []
    counts = {action: len(objects) for action, objects in done.actions.items()}
    assert counts == {
        "unreadable entries of label files left out": 2,
        "unusable entries of split lists left out": 1,
        "labels without an image left out": 1,
        "misspelt classes renamed": 2,
        "boxes that lie mostly outside their image, or nowhere": 3,
        "corners in the wrong order swapped": 1,
        "boxes clipped to their image": 1,
        "duplicated boxes dropped": 2,
        "images left out, since not all of their objects are known": 2,
        "EXIF turns taken out, so that labels fit": 1,
        "images of another size than their labels left out": 1,
        "corrupt images left out": 1,
        "copies of training images taken out of val": 1,
    }
    for split, images in done.splits.items():
        data = open_dataset(tmp_path / "out", split)
        assert len(data) == images
        for i in range(images):
            data.sample(i)


def test_boxes_that_were_right_stay_as_they_were(tmp_path, broken):
    repair(check_source(open_source(broken), workers=2), tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    boxes = {name: data.boxes_of(i).tolist() for i, name in enumerate(data.image_ids)}
    assert boxes["plain"] == [[4, 4, 30, 30], [0, 0, 20, 20]]
    assert boxes["clipped"] == [[4, 4, 30, 30], [49, 9, 64, 40]]
    assert not {"boxes", "named"} & set(boxes)
    assert boxes["twice"] == [[4, 4, 30, 30]]
    assert boxes["turned"] == [[0, 0, 64, 20]]
    turned = next(Path(name) for name in data.names if "turned" in name)
    assert orientation(turned.read_bytes()) == 1
    assert open_dataset(tmp_path / "out").sample(list(data.image_ids).index("turned")).image.shape == (48, 64, 3)
    plain = next(Path(name) for name in data.names if "plain" in name)
    assert plain.read_bytes() == (broken / "JPEGImages" / "plain.png").read_bytes()


@pytest.mark.parametrize("form", ["coco", "yolo", "csv"])
def test_other_forms_keep_theirs(tmp_path, broken, form):
    from singleshot.datasets.writing import write_dataset

    # A broken set in another form: what the writer takes, with a box outside and a copy across splits.
    raw = open_source(broken).read("val", CollectErrors())
    images = [image._replace(width=64, height=48) for image in raw.images]
    images[0] = images[0]._replace(objects=[obj._replace(box=(40.0, 5.0, 75.0, 30.0)) for obj in images[0].objects])
    other = [image._replace(path=image.path.replace("val.png", "test.png"), ident="extra") for image in images[1:]]
    raw = raw._replace(images=[*images, *other], splits={"train": [0], "val": [1, 2]})
    write_dataset(raw, tmp_path / "in", form)
    (corrupt,) = (p for p in (tmp_path / "in").rglob("*.png") if p.stem == "test")
    source = open_source(tmp_path / "in")
    assert source.form == form
    first = check_source(source, workers=2)
    assert first.counts.get("box-outside") == 1, first.findings
    corrupt.write_bytes(corrupt.read_bytes()[:-30])
    result = check_source(source, workers=2)
    assert result.counts.get("image-corrupt") == 1
    done = repair(result, tmp_path / "out")
    assert done.form == form
    again = check_source(open_source(tmp_path / "out"), workers=2)
    assert again.severity("error") == 0, again.findings
    assert again.splits == {"train": 1, "val": 1}
    assert len(open_dataset(tmp_path / "out", "val").sample(0).labels) == 2


def test_wanted_classes(tmp_path, voc_xml, write_voc):
    xml = voc_xml([("kitten", BOX), ("Kitten", (1, 1, 20, 20)), ("tree", (20, 20, 60, 40))])
    root = write_voc(tmp_path / "set", {"a": xml}, {"train": ["a"]})
    result = check_source(open_source(root), class_names=["Kitten"], workers=1)
    done = repair(result, tmp_path / "out")
    assert {action: len(objects) for action, objects in done.actions.items()} == {
        "misspelt classes renamed": 1,
        "objects of unknown classes left out": 1,
    }
    data = open_dataset(tmp_path / "out", class_names=["Kitten"])
    assert data.labels.tolist() == [0, 0]


def test_nothing_is_written_where_something_is_or_nothing_is_left(tmp_path, voc_xml, write_voc):
    root = write_voc(tmp_path / "set", {"a": voc_xml([("cat", BOX)])}, {"train": ["a"]})
    result = check_source(open_source(root), workers=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigError, match="is there already"):
        repair(result, tmp_path / "out")
    (root / "JPEGImages" / "a.png").write_bytes(b"none")
    with pytest.raises(DataError, match="nothing usable would be left"):
        repair(check_source(open_source(root), workers=1), tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "set"]

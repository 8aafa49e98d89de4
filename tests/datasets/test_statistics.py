"""The numbers of a data set, counted by hand, and its picture."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections import Counter

import cv2
import numpy as np
import pytest
import torch

from singleshot.boxes import iou, to_corners
from singleshot.datasets import open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.datasets.statistics import POINTS, compared_rows, describe, tabulate, to_measure
from singleshot.errors import ConfigError, MissingExtraError
from singleshot.models import MODELS
from singleshot.priors import PRIORS, make_priors
from singleshot.report.data_picture import coverage, draw_info
from singleshot.scenes.scenes import write_scenes


def thing(name, x0, y0, x1, y1, **more):
    return RawObject(name, (x0, y0, x1, y1), **more)


def image(path, objects, size=(200, 100), relative=False):
    return RawImage(path, path, *size, list(objects), f"{path}.xml", relative)


def raw_set(images, splits=None, names=("cat", "dog", "owl"), made=False):
    return RawSet("voc", "here", names, list(images), splits or {"train": list(range(len(images)))}, made)


@pytest.fixture
def small():
    """Four images of 200 x 100, the last one in both splits."""
    images = [
        image("a", [thing("cat", 0, 0, 100, 50), thing("cat", 10, 10, 30, 20, difficult=True)]),
        image("b", [thing("dog", 0, 0, 20, 20), thing("cat", 0, 0, 200, 100, crowd=True)]),
        image("c", []),
        image("d", [thing("cat", 50, 0, 150, 100)]),
    ]
    return raw_set(images, {"train": [0, 1, 3], "val": [2, 3]})


def numbers(raw, model="ssd320-mini", **more):
    return describe(raw, tabulate(raw), model, **more)


def test_counts(small):
    info = numbers(small)
    assert [tuple(vars(split).values()) for split in (*info.splits, info.total)] == [
        ("train", 3, 0, 5, 1, 1),
        ("val", 2, 1, 1, 0, 0),
        ("all", 4, 1, 5, 1, 1),
    ]
    assert [tuple(vars(one).values()) for one in info.classes] == [
        ("cat", 4, 3, 0.8),
        ("dog", 1, 1, 0.2),
        ("owl", 0, 0, 0.0),
    ]
    assert info.imbalance == 4
    assert (info.image_sizes, info.distinct_sizes, info.unmeasured) == (((200, 100, 4),), 1, 0)
    assert info.problems == {}


def test_sizes_without_crowd(small):
    info = numbers(small)
    widths, heights = [100, 20, 20, 100], [50, 10, 20, 100]
    assert info.quantiles["width"] == tuple(np.quantile(widths, POINTS))
    assert info.quantiles["square_width"] == pytest.approx(np.quantile(widths, POINTS) / 200 * 320)
    assert info.quantiles["square_height"] == pytest.approx(np.quantile(heights, POINTS) / 100 * 320)
    assert info.quantiles["aspect"][0] == 1
    assert info.quantiles["aspect"][-1] == 2
    assert info.quantiles["objects_per_image"][-1] == 2
    # Sides 70.7, 14.1, 20 and 100 px.
    assert info.coco == {"small": 0.5, "medium": 0.25, "large": 0.25}


def test_matched_objects_equal_the_whole_table():
    rng = np.random.default_rng(3)
    images = []
    for i in range(40):
        low = rng.random((5, 2)) * 150
        boxes = np.concatenate((low, low + rng.uniform(3, 150, (5, 2))), axis=1)
        things = [thing(f"c{k % 2}", *box, difficult=k == 4) for k, box in enumerate(boxes.tolist())]
        images.append(image(f"i{i}", things, size=(320, 300)))
    raw = raw_set(images, names=("c0", "c1"))
    info = numbers(raw, "ssd300-vgg16")
    objects = [o for im in images for o in im.objects]
    boxes = torch.tensor([o.box for o in objects]) / torch.tensor([320, 300, 320, 300])
    plain = torch.tensor([not o.difficult for o in objects])
    first = torch.tensor([o.name == "c0" for o in objects])
    assert {name for cover in info.covers for name in cover.models} == set(MODELS)
    for cover in info.covers:
        best = iou(boxes, to_corners(make_priors(PRIORS[cover.priors]))).amax(dim=1)
        hit = best >= 0.5
        assert cover.all.objects == 160
        assert cover.all.matched == pytest.approx(hit[plain].float().mean().item())
        assert cover.all.mean_iou == pytest.approx(best[plain].mean().item(), abs=1e-5)
        assert cover.difficult.matched == pytest.approx(hit[~plain].float().mean().item())
        assert cover.classes[0].matched == pytest.approx(hit[plain & first].float().mean().item())
        assert sum(cover.unmatched.values()) == (~hit[plain]).sum()
        for parts in (cover.sizes, cover.sides, cover.classes):
            assert sum(part.objects for part in parts) == 160
    shares = [cover.all.matched for cover in info.covers]
    assert shares == sorted(shares, reverse=True)
    assert info.chosen.models == ("ssd300-vgg16", "ssd300-vgg16-bn")


def test_bad_boxes_are_counted_and_left_out():
    bad = [
        thing("cat", math.nan, 0, 5, 5),
        thing("cat", 5, 5, 5, 9),
        thing("cat", 150, 50, 300, 80),
        thing("cat", 500, 50, 600, 80),
    ]
    raw = raw_set([image("a", [*bad, thing("cat", 0, 0, 50, 50)])])
    info = numbers(raw, problems=Counter({"annotation-malformed": 3, "image-unlabelled": 9}))
    assert info.problems == {"box-not-finite": 1, "box-without-area": 1, "box-outside": 2, "annotation-malformed": 3}
    assert info.total.objects == 2
    assert info.quantiles["width"][-1] == 50  # cut to the image


def test_unknown_sizes_are_measured(tmp_path, tiff):
    for name in ("a.png", "b.png"):
        assert cv2.imwrite(str(tmp_path / name), np.zeros((60, 120, 3), np.uint8))
    (tmp_path / "c.png").write_bytes(b"no image")
    (tmp_path / "d.tif").write_bytes(tiff(np.zeros((60, 120), np.float32)))
    images = [
        image(str(tmp_path / "a.png"), [thing("cat", 0.25, 0.5, 0.75, 1.0)], size=(0, 0), relative=True),
        image(str(tmp_path / "b.png"), [thing("cat", 30, 30, 90, 60)], size=(0, 0)),
        image(str(tmp_path / "c.png"), [thing("cat", 0.1, 0.1, 0.9, 0.9)], size=(0, 0), relative=True),
        image("never opened", [thing("cat", 0.25, 0.5, 0.75, 1.0)], size=(120, 60), relative=True),
        image(str(tmp_path / "d.tif"), [], size=(0, 0)),
    ]
    raw, seen = raw_set(images), []
    assert to_measure(raw) == 4
    table = tabulate(raw, lambda: seen.append(1))
    info = describe(raw, table, "ssd320-mini")
    assert len(seen) == 4
    assert info.unmeasured == 2
    assert info.problems == {"image-corrupt": 1, "image-unread": 1}
    assert info.total.objects == 4
    assert info.chosen.all.objects == 3
    assert set(info.quantiles["width"]) == {60}
    assert set(info.quantiles["square_height"]) == {160}
    assert table.placed.tolist() == [True, True, False, True]


def test_a_sample_of_many(small):
    raw = raw_set([image(f"i{k}", [thing("cat", k, 0, k + 30, 60)]) for k in range(50)])
    table = tabulate(raw)
    rows = compared_rows(table, 10)
    assert len(set(rows.tolist())) == 10
    assert (rows == compared_rows(table, 10)).all()
    info = describe(raw, table, "ssd320-mini", most=10)
    assert (info.compared, info.comparable, info.chosen.all.objects) == (10, 50, 10)
    assert info.total.objects == 50


def test_nothing_at_all(tmp_path):
    for raw in (raw_set([image("a", [])]), raw_set([], {"train": []}, names=())):
        info = numbers(raw)
        assert info.imbalance is None
        assert info.chosen.all.matched is None
        assert all(one.share is None for one in info.classes)
        assert "width" not in info.quantiles
        json.dumps(info.to_dict(), allow_nan=False)
        draw_info(info, tabulate(raw), tmp_path / "empty.png")


def test_unknown_model(small):
    with pytest.raises(ConfigError, match="ssd320-mini") as caught:
        numbers(small, "ssd999")
    assert "\n" not in str(caught.value)


def test_json_holds_no_nan(small):
    text = json.dumps(numbers(small).to_dict(), allow_nan=False)
    assert json.loads(text)["covers"][0]["all"]["objects"] == 3


@pytest.mark.parametrize(("name", "images", "objects"), [("bccd", 364, 4888), ("deeppcb", 1500, 10013)])
def test_real_data(shared, name, images, objects):
    if not (shared / "data" / name).is_dir():
        pytest.skip(f"no {name}")
    raw = open_source(shared / "data" / name).read(None, CollectErrors())
    info = numbers(raw)
    assert (info.total.images, info.total.objects) == (images, objects)
    assert 0.8 < info.chosen.all.matched < 1


# ---------------------------------------------------------------------------------------------- picture


def test_coverage_equals_a_loop():
    rng = np.random.default_rng(0)
    corner = np.sort(rng.random((30, 2, 2)), axis=1)
    boxes = corner.reshape(30, 4)
    centres = (np.arange(16) + 0.5) / 16
    want = np.array([[sum(b[0] <= x < b[2] and b[1] <= y < b[3] for b in boxes) for x in centres] for y in centres])
    assert (coverage(boxes, 16) == want).all()
    assert coverage(np.array([[0.0, 0, 1, 1]]), 8).min() == 1


def test_the_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    write_scenes(tmp_path / "scenes", train=20, test=4, val=4)
    raw = open_source(tmp_path / "scenes").read(None, CollectErrors())
    path = tmp_path / "out" / "scenes.png"
    draw_info(numbers(raw), tabulate(raw), path)
    picture = cv2.imread(str(path))
    assert picture.shape[0] > 700
    assert picture.shape[1] > 1000
    # The bars' blue (tab10's first, 1f77b4): class counts and matched objects.
    assert (picture == (0xB4, 0x77, 0x1F)).all(-1).sum() > 5000
    assert [p.name for p in path.parent.iterdir()] == ["scenes.png"]


def test_hostile_names(tmp_path):
    raw = raw_set([image("a", [thing(n, 0, 0, 60, 60) for n in ("$\\frac$", "_x", "血小板", "")])], names=())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_info(numbers(raw), tabulate(raw), tmp_path / "names.png")


def test_its_absence_names_the_extra(tmp_path, monkeypatch, small):
    info, table = numbers(small), tabulate(small)
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'singleshot\[report\]'"):
        draw_info(info, table, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())

"""Regions in which nothing is a negative, from the labels on disk to a batch: where their pixels go, and with no part
in what is drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from singleshot.class_selection import ClassGroup, ClassSelection
from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.encoded_image import EncodedImage
from singleshot.datasets.tiles import TiledSamples
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.datasets.writing import write_dataset
from singleshot.inputs import InputSpec
from singleshot.loading.augment import Augmenter
from singleshot.loading.augment_spec import AUGMENTS, AugmentSpec
from singleshot.loading.cache import PixelCache
from singleshot.loading.geometry import make_crop
from singleshot.loading.loader import EvalLoader, TrainLoader
from singleshot.loading.shard_stream import open_stream
from singleshot.matching import match
from singleshot.prior_boxes import sized_for
from singleshot.priors import make_priors
from singleshot.records import Batch, Sample
from singleshot.tiling import Tiling, clip_regions

SPEC = InputSpec(size=32)
MOSAIC = AugmentSpec(mosaic_p=1.0, mirror_p=0.5, flip_vertical_p=0.5, zoom=(0.7, 1.4))
ZOOM = AugmentSpec(zoom=(0.5, 2.5), shift=0.4, aspect=1.3, mirror_p=0.5, flip_vertical_p=0.5)
SPECS = {**AUGMENTS, "zoom": ZOOM, "mosaic": MOSAIC}


def slow_parts(regions: np.ndarray, window: tuple[int, int, int, int]) -> list[list[float]]:
    parts = []
    for x0, y0, x1, y1 in regions.tolist():
        part = [max(x0, window[0]), max(y0, window[1]), min(x1, window[2]), min(y1, window[3])]
        if part[2] > part[0] and part[3] > part[1]:
            parts.append(part)
    return parts


def random_regions(rng: np.random.Generator, count: int, width: int, height: int) -> np.ndarray:
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * (width, height)
    return corners.reshape(count, 4).round(2).astype(np.float32)


def test_what_a_window_shows_of_regions_is_that_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    lost = cut = 0
    for _ in range(300):
        regions = random_regions(rng, int(rng.integers(0, 6)), 100, 70)
        x0, y0 = int(rng.integers(0, 90)), int(rng.integers(0, 60))
        window = x0, y0, x0 + int(rng.integers(1, 60)), y0 + int(rng.integers(1, 60))
        found = clip_regions(regions, window)
        want = slow_parts(regions, window)
        assert found.dtype == np.float32
        assert found.tolist() == want
        lost += len(regions) - len(found)
        cut += sum(part not in regions.tolist() for part in want)
    assert lost > 100 and cut > 100


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_a_crop_keeps_any_part_of_a_region_where_its_pixels_go(resize: str) -> None:
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(300):
        height, width = rng.integers(40, 200, 2).tolist()
        x0, y0 = rng.uniform(-width, width * 0.8), rng.uniform(-height, height * 0.8)
        window = x0, y0, x0 + rng.uniform(0.05, 2.5) * width, y0 + rng.uniform(0.05, 2.5) * height
        flips = [bool(one) for one in rng.random(2) < 0.5]
        crop = make_crop(window, height, width, (64, 96), resize, *flips)
        regions = random_regions(rng, 4, width, height)
        found = crop.regions(regions)
        assert found.dtype == np.float32
        want = slow_parts(regions, crop.roi) if crop.visible else []
        assert len(found) == len(want)
        for ours, (a, b, c, d) in zip(found.tolist(), want, strict=True):
            place = crop.place
            x = [(v * place.scale_x + place.shift_x) / 96 for v in (a, c)]
            y = [(v * place.scale_y + place.shift_y) / 64 for v in (b, d)]
            x = [1 - v for v in x[::-1]] if flips[0] else x
            y = [1 - v for v in y[::-1]] if flips[1] else y
            assert ours == pytest.approx([x[0], y[0], x[1], y[1]], abs=1e-5)
            seen += 1
    assert seen > 300


def picture(rng: np.random.Generator) -> EncodedImage:
    """A dark picture with three dark objects and a bright region over a fourth of it, somewhere."""
    height, width = rng.integers(80, 200, 2).tolist()
    image = rng.integers(0, 40, (height, width, 3), dtype=np.uint8)
    x0, y0 = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
    region = [x0, y0, x0 + width // 2, y0 + height // 2]
    image[region[1] : region[3], region[0] : region[2]] = 230
    corner = rng.uniform(0, 0.6, (3, 2)) * (width, height)
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (3, 2)) * (width, height)], 1).astype(np.float32)
    ignored = np.array([region], np.float32)
    return EncodedImage.of(Sample(image, boxes, np.arange(3), np.zeros(3, bool), "one.png", ignored_px=ignored))


@pytest.mark.parametrize("tiling", [None, Tiling(60)], ids=["whole", "tiles"])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("name", SPECS)
def test_regions_lie_on_their_pixels_and_change_nothing_else(name: str, resize: str, tiling: Tiling | None) -> None:
    rng = np.random.default_rng(2)
    spec = InputSpec(size=96, resize=resize)
    augmenter, unchanged = (
        Augmenter(one, spec, tiling) for one in (SPECS[name], replace(SPECS[name], photometric=0.0))
    )
    inside = outside = 0
    for seed in range(40):
        pictures = [picture(rng) for _ in range(4)]
        without = [one._replace(ignored_px=None) for one in pictures]
        (image, boxes, labels), plain = (
            augmenter(some[0], np.random.default_rng(seed), lambda k, some=some: some[1 : 1 + k])
            for some in (pictures, without)
        )
        assert image.tobytes() == plain.image.tobytes()
        assert boxes[labels >= 0].tobytes() == plain.boxes.tobytes()
        assert labels[labels >= 0].tolist() == plain.labels.tolist()
        image, boxes, labels = unchanged(pictures[0], rng, lambda k, some=pictures: some[1 : 1 + k])
        assert ((boxes >= 0) & (boxes <= 1)).all()
        regions = boxes[labels == -1]
        # Other pixels are dark, or the grey of what lies outside an image.
        bright = image.mean(axis=2) > 170
        within, around = _pixels_in(regions, 3), _pixels_in(regions, -3)
        assert bright[within].all()
        assert not bright[~around].any()
        inside, outside = inside + int(within.sum()), outside + int((~around).sum())
    assert min(inside, outside) > 10_000


def _pixels_in(regions: np.ndarray, margin: int) -> np.ndarray:
    """bool [96, 96]: the pixels in any region that is drawn smaller by a margin."""
    mask = np.zeros((96, 96), bool)
    for x0, y0, x1, y1 in np.round(regions * 96).astype(int).tolist():
        mask[max(y0 + margin, 0) : max(y1 - margin, 0), max(x0 + margin, 0) : max(x1 - margin, 0)] = True
    return mask


# ---------------------------------------------------------------------------------------------- from disk to targets

REST = "2.85 2.63 12.34 0.47 1.49 69.44 -1.56"
CAR = f"Car 0.00 0 -1.57 4.0 4.0 20.0 20.0 {REST}\n"
VAN = f"Van 0.00 0 -1.57 40.0 4.0 60.0 20.0 {REST}\n"
DONT_CARE = "DontCare -1 -1 -10 32.0 0.0 80.0 48.0 -1 -1 -1 -1000 -1000 -1000 -10\n"  # of images 64 wide
KITTI_REGIONS = {"a.png": [[0.5, 0.0, 1.0, 1.0]], "b.png": []}
COCO_REGIONS = {"a.png": [[0.5, 0.0, 1.0, 0.5], [0.0, 0.5, 0.25, 1.0]], "b.png": []}


@pytest.fixture(scope="module")
def kitti(tmp_path_factory, write_image) -> Path:
    """Two images of 64 x 48 and two classes; the right half of the first is ignored."""
    root = tmp_path_factory.mktemp("kitti")
    (root / "label_2").mkdir()
    (root / "label_2/a.txt").write_text(CAR + DONT_CARE)
    (root / "label_2/b.txt").write_text(CAR + VAN)
    for name in "ab":
        write_image(root / f"image_2/{name}.png", 64, 48)
    return root


@pytest.fixture(scope="module")
def coco(tmp_path_factory, write_image) -> Path:
    """The same with two crowds in the first image, one of them listed for both classes."""
    root = tmp_path_factory.mktemp("coco")
    boxes = [("a", 0, [4, 4, 16, 16], 0), ("a", 1, [32, 0, 32, 24], 1), ("a", 0, [32, 0, 32, 24], 1),
             ("a", 0, [0, 24, 16, 24], 1), ("b", 1, [40, 4, 20, 16], 0)]  # fmt: skip
    annotations = [
        {"id": k, "image_id": "ab".index(image), "category_id": kind, "bbox": box, "iscrowd": crowd}
        for k, (image, kind, box, crowd) in enumerate(boxes)
    ]
    images = [{"id": i, "file_name": f"{name}.png", "width": 64, "height": 48} for i, name in enumerate("ab")]
    categories = [{"id": 0, "name": "Car"}, {"id": 1, "name": "Van"}]
    for name in "ab":
        write_image(root / f"train/{name}.png", 64, 48)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "train.json").write_text(json.dumps(content))
    return root


def regions_of(batch: Batch) -> dict[str, list[list[float]]]:
    """By the name of the image's file, sorted."""
    found = {}
    for name, rows in zip(batch.names, batch.ignored, strict=True):
        found[name.rpartition("/")[2]] = sorted(row for row in rows.tolist() if row[2] > row[0])
    return found


def check_targets(batch: Batch, regions: dict[str, list[list[float]]]) -> None:
    """By a table of 4 x 4 cells without overlaps, a quarter of the input each way."""
    spec = sized_for([4], SPEC.size)
    priors = make_priors(spec).clone()
    priors[:, 2:] = 0.25
    targets = match(priors, batch.boxes, batch.labels, ignored=batch.ignored)
    for name, labels in zip(batch.names, targets.labels, strict=True):
        mine = regions[name.rpartition("/")[2]]
        for (x, y, _, _), label in zip(priors.tolist(), labels.tolist(), strict=True):
            lies_in = any(x0 < x < x1 and y0 < y < y1 for x0, y0, x1, y1 in mine)
            assert (label == -1) == (lies_in and label <= 0)


@pytest.mark.parametrize("form", ["kitti", "coco"])
@pytest.mark.parametrize("way", ["folder", "workers", "cache", "again", "shards", "eval", "written"])
def test_crowds_and_regions_reach_the_targets(form: str, way: str, request, tmp_path: Path) -> None:
    root: Path = request.getfixturevalue(form)
    want = KITTI_REGIONS if form == "kitti" else COCO_REGIONS
    if way == "shards":
        write_shards(read_contents(open_source(root)), tmp_path / "shards")
        split = open_source(root).splits[0]
        data = open_stream(tmp_path / "shards", split)
    elif way == "written":
        write_dataset(open_source(root).read(), tmp_path / "voc", "voc")
        data = open_dataset(tmp_path / "voc", open_source(tmp_path / "voc").splits[0])
    else:
        data = open_dataset(root, open_source(root).splits[0])
    if way == "eval":
        loader = EvalLoader(data, SPEC, 2, workers=0)
        (batch,) = (one.batch for one in loader)
    else:
        pictures = PixelCache(data, 32, 1 << 24) if way in ("cache", "again") else data
        loader = TrainLoader(pictures, AUGMENTS["none"], SPEC, 2, workers=1 if way == "workers" else 0)
        (batch,) = loader.epoch(0)
        if way == "again":  # from the pixels that were kept
            assert pictures.filled == 2
            (batch,) = loader.epoch(1)
    loader.close()
    assert batch.ignored.dtype == torch.float32
    if way != "shards":
        assert regions_of(batch) == {name: sorted(regions) for name, regions in want.items()}
    else:
        named = {Path(name).name: regions for name, regions in regions_of(batch).items()}
        assert sorted(named.values()) == sorted(sorted(regions) for regions in want.values())
        want = named
    check_targets(batch, want)
    assert (batch.labels >= 0).sum() == (3 if form == "kitti" else 2)


def test_a_crowd_of_a_class_that_is_left_out_is_no_region(kitti: Path, coco: Path, tmp_path: Path) -> None:
    """The other class is labelled there. A region without a class stays one."""
    vans = ClassSelection((ClassGroup("van", ("Van",)),))
    for root, want in ((coco, [[32, 0, 64, 24]]), (kitti, [[32, 0, 64, 48]])):
        split = open_source(root).splits[0]
        data = open_dataset(root, split, selection=vans)
        assert data.sample(0).ignored_px.tolist() == want
        write_shards(read_contents(open_source(root)), tmp_path / root.name)
        stream = replace(open_stream(tmp_path / root.name, split), class_names=("van",), selection=vans)
        (batch,) = TrainLoader(stream, AUGMENTS["none"], SPEC, 2, workers=0).epoch(0)
        shown = [(np.array(want) / (64, 48, 64, 48)).tolist(), []]
        assert sorted(regions_of(batch).values()) == sorted(shown)


def test_without_regions_a_batch_has_none(kitti: Path) -> None:
    data = open_dataset(kitti, "trainval").subset([1])
    (batch,) = TrainLoader(data, AUGMENTS["none"], SPEC, 1, workers=0).epoch(0)
    assert batch.ignored is None


def test_images_of_unknown_size_have_theirs_too(coco: Path) -> None:
    data = open_dataset(coco, "train")
    unknown = replace(data, sizes=np.zeros_like(data.sizes))
    for i in range(2):
        a, b = data.sample(i).ignored_px, unknown.sample(i).ignored_px
        assert (a is None and b is None) or a.tolist() == b.tolist()


def test_tiles_have_the_parts_of_regions_that_lie_in_them(coco: Path) -> None:
    data = open_dataset(coco, "train")
    tiles = TiledSamples(data, Tiling(32, overlap=0.0), 32)
    regions = data.sample(0).ignored_px
    seen = 0
    for k in np.flatnonzero(tiles.image_of == 0).tolist():
        window = tiles.windows(0)[k]
        x0, y0, _, _ = window
        want = [[a - x0, b - y0, c - x0, d - y0] for a, b, c, d in slow_parts(regions, window)]
        assert tiles.sample(k).ignored_px.tolist() == want
        seen += len(want)
    assert seen > 3
    assert all(tiles.sample(k).ignored_px is None for k in np.flatnonzero(tiles.image_of == 1).tolist())
    batches = list(EvalLoader(data, SPEC, 4, workers=0, tiling=Tiling(32, overlap=0.0)))
    assert sum(int((one.batch.ignored[..., 2] > 0).sum()) for one in batches if one.batch.ignored is not None) == seen

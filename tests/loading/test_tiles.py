"""Training on tiles: windows of an image at the scale at which detection in tiles shows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from singleshot.datasets import open_dataset
from singleshot.datasets.encoded_image import EncodedImage
from singleshot.inputs import InputSpec
from singleshot.loading.augment import Augmenter
from singleshot.loading.augment_spec import AUGMENTS, AugmentSpec
from singleshot.loading.cache import PixelCache
from singleshot.loading.geometry import WITH_OBJECT, draw_tile
from singleshot.loading.loader import TrainLoader
from singleshot.records import Sample
from singleshot.scenes.scenes import write_scenes
from singleshot.tiling import Tiling, parts_in_tiles
from singleshot.training.build import tiles_to_cover

WIDE = InputSpec(height=48, width=80)
TILING = Tiling(120)  # 72 x 120 pixels of the image in that input
LIGHT = AugmentSpec(mirror_p=0.5, flip_vertical_p=0.5, zoom=(0.7, 1.4), shift=0.2, aspect=1.2, photometric=0.3)


def picture(rng: np.random.Generator) -> EncodedImage:
    """A dark image with one bright square, larger than a tile or smaller."""
    height, width = rng.integers(60, 400, 2).tolist()
    side = int(rng.integers(12, 40))
    image = rng.integers(0, 40, (height, width, 3), dtype=np.uint8)
    x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
    image[y : y + side, x : x + side] = 250
    boxes_px = np.array([[x, y, x + side, y + side]], np.float32)
    return EncodedImage.of(Sample(image, boxes_px, np.zeros(1, np.int64), np.zeros(1, bool), "one.png"))


@pytest.mark.parametrize(("width", "height"), [(400, 300), (100, 300), (50, 40)])
def test_a_tile_lies_in_the_image_and_most_have_an_object_whole(width: int, height: int) -> None:
    rng, boxes = np.random.default_rng(0), np.array([[3.4, 2, 20, 18.5], [30, 20, 49, 39.0]], np.float32)
    seen, whole = np.zeros((height, width), bool), 0
    for _ in range(600):
        x0, y0, x1, y1 = (int(v) for v in draw_tile(height, width, boxes, (72, 120), rng))
        assert (x1 - x0, y1 - y0) == (min(120, width), min(72, height))
        seen[y0:y1, x0:x1] = True
        whole += ((boxes[:, :2] >= (x0, y0)) & (boxes[:, 2:] <= (x1, y1))).all(axis=1).any()
    assert seen.mean() > 0.95  # the background too
    assert whole > 600 * WITH_OBJECT - 30
    assert whole < 560 or (width, height) == (50, 40)  # where everything is one tile


def test_an_object_larger_than_a_tile_is_shown_in_parts_alone() -> None:
    boxes, sizes = np.array([[10.0, 5, 310, 290]]).repeat(200, axis=0), np.array([[400, 300]]).repeat(200, axis=0)
    parts, windows = parts_in_tiles(boxes, sizes, (72, 120), np.random.default_rng(0))
    assert (windows == (120, 72)).all()
    assert (parts == (0, 0, 120, 72)).all()
    small, _ = parts_in_tiles(boxes / 10, sizes, (72, 120), np.random.default_rng(0))
    np.testing.assert_allclose(small[:, 2:] - small[:, :2], (boxes / 10)[:, 2:] - (boxes / 10)[:, :2])
    assert len(np.unique(small[:, 0])) > 1


@pytest.mark.parametrize("drawn", [AugmentSpec(), LIGHT, AUGMENTS["caffe"], AugmentSpec(mosaic_p=1.0)], ids=str)
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_every_box_lies_on_its_object(drawn: AugmentSpec, resize: str) -> None:
    rng = np.random.default_rng(1)
    augmenter = Augmenter(drawn, InputSpec(height=48, width=80, resize=resize), TILING)
    seen = 0
    for _ in range(60):
        pictures = [picture(rng) for _ in range(4)]
        image, boxes, _ = augmenter(pictures[0], rng, lambda k, p=pictures: p[1 : 1 + k])
        for x0, y0, x1, y1 in boxes * (80, 48, 80, 48):
            if min(x1 - x0, y1 - y0) < 6:
                continue
            inside = image[int(y0) + 2 : int(y1) - 1, int(x0) + 2 : int(x1) - 1]
            assert np.median(inside) > 90
            seen += 1
    assert seen > 20


def test_a_tile_without_augmentation_is_a_part_of_the_image_at_its_own_scale() -> None:
    rng = np.random.default_rng(0)
    one = picture(rng)
    image, boxes, _ = Augmenter(AugmentSpec(), InputSpec(size=32), Tiling(32))(one, np.random.default_rng(0))
    x0, y0, x1, y1 = (int(v) for v in _window_of(one))
    assert (image == one.pixels(1)[y0:y1, x0:x1]).all()
    np.testing.assert_allclose(boxes * 32, (one.boxes_px - (x0, y0, x0, y0)).clip(0, 32)[: len(boxes)], atol=1e-4)


def _window_of(one: EncodedImage) -> tuple[float, float, float, float]:
    """What is drawn first of all, after the two flips."""
    rng = np.random.default_rng(0)
    rng.random(2)
    return draw_tile(one.height, one.width, one.boxes_px, (32, 32), rng)


def test_an_epoch_covers_the_data_and_can_be_taken_up_in_the_middle(tmp_path) -> None:
    write_scenes(tmp_path / "scenes", train=4, test=1, val=1)
    data = open_dataset(tmp_path / "scenes", "train")
    repeats = tiles_to_cover(data.sizes, TILING, WIDE.sides)
    want = [-(-w // 120) * -(-h // 72) for w, h in data.sizes.tolist()]
    assert repeats.tolist() == want
    loaders = [
        TrainLoader(pictures, LIGHT, WIDE, 4, seed, workers=0, repeats=repeats, tiling=TILING)
        for pictures, seed in ((data, 3), (data, 3), (data, 4))
    ]
    assert len(loaders[0]) == sum(want) // 4
    all_of, rest, other = list(loaders[0].epoch(1)), list(loaders[1].epoch(1, 2)), list(loaders[2].epoch(1))
    assert all(
        torch.equal(a.images, b.images) and torch.equal(a.boxes, b.boxes) for a, b in zip(all_of[2:], rest, strict=True)
    )
    assert not all(torch.equal(a.images, b.images) for a, b in zip(all_of, other, strict=True))
    shown = torch.cat([batch.indices for batch in all_of]).bincount(minlength=4)
    assert (shown - torch.tensor(want)).abs().max() <= 4


def test_the_cache_keeps_what_a_tile_needs(tmp_path) -> None:
    write_scenes(tmp_path / "scenes", train=2, test=1, val=1)
    data = open_dataset(tmp_path / "scenes", "train")
    width, height = data.sizes[0].tolist()
    assert PixelCache(data, (height // 8, width // 8), 1 << 24).picture(0).reductions == (4,)
    tile = height // 2, width // 2
    assert PixelCache(data, (height // 8, width // 8), 1 << 24, tile=tile).picture(0).reductions == (2,)
    folders = [PixelCache(data, 32, 1 << 24, tmp_path / "kept", one).path for one in (None, (64, 64), (65, 64))]
    assert len(set(folders)) == 3

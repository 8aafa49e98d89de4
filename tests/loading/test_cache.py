"""Pixels from the cache are those of the file, in every process, within the bound."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.datasets import open_dataset
from singleshot.datasets.dataset import Dataset
from singleshot.errors import ConfigError, DataError
from singleshot.inputs import InputSpec
from singleshot.loading.augment_spec import AUGMENTS
from singleshot.loading.cache import PixelCache, pick_cache
from singleshot.loading.loader import TrainLoader
from singleshot.scenes.scenes import write_scenes

SPEC = InputSpec(size=64)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("cache") / "scenes"
    write_scenes(folder, train=12, test=1, val=1)
    return open_dataset(folder, "train")


def batches(pictures, workers: int, epochs: int = 2) -> list[np.ndarray]:
    loader = TrainLoader(pictures, AUGMENTS["caffe"], SPEC, 4, 7, workers)
    try:
        return [batch.images.numpy().copy() for e in range(epochs) for batch in loader.epoch(e)]
    finally:
        loader.close()


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_what_is_cached(scenes, tmp_path, where, workers):
    folder = tmp_path if where == "file" else None
    # Nothing has a place, half has, all has: decoded at the same reduction in every case.
    runs = []
    for most in (0, 900_000, 1 << 30):
        cache = PixelCache(scenes, SPEC.size, most, folder and folder / str(most))
        runs.append(batches(cache, workers))
        assert cache.filled == cache.images
        assert cache.bytes <= most
    assert 0 < PixelCache(scenes, SPEC.size, 900_000).images < len(scenes)
    assert cache.images == len(scenes)
    for run in runs[1:]:
        assert all((a == b).all() for a, b in zip(runs[0], run, strict=True))
    assert all((a == b).all() for a, b in zip(runs[0], batches(cache, workers), strict=True))  # all from the cache


def test_small_images_are_cached_as_they_are(scenes):
    cache = PixelCache(scenes, 300, 1 << 30)
    for i in range(len(scenes)):
        first, again = (cache.picture(i) for _ in range(2))
        assert first.reductions == (1,)
        assert (first.pixels(1) == scenes.sample(i).image).all()
        assert (cache.picture(i).pixels(1) == scenes.sample(i).image).all()
        assert (again.boxes_px == scenes.sample(i).boxes_px).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_large_images_are_kept_reduced_and_boxes_fit(tmp_path, voc_xml, write_voc, suffix):
    xml = voc_xml([("dot", (401, 201, 600, 500))], size=(1003, 801), filename="a.png")
    write_voc(tmp_path, {"a": xml}, {"train": ["a"]})
    image = np.zeros((801, 1003, 3), np.uint8)
    image[200:500, 400:600] = 255
    (tmp_path / "JPEGImages" / "a.png").unlink()
    assert cv2.imwrite(str(tmp_path / "JPEGImages" / f"a{suffix}"), image)
    data = open_dataset(tmp_path)
    cache = PixelCache(data, 64, 1 << 30)
    picture = cache.picture(0)
    assert picture.reductions == (4,)
    pixels = picture.pixels(4)
    assert pixels.shape == (201, 251, 3)
    assert cache.bytes < 200_000
    assert (pixels[52:123, 102:148] > 250).all()
    assert (cache.picture(0).pixels(4) == pixels).all()


def test_a_file_is_used_again_unless_the_run_was_killed_or_an_image_changed(scenes, tmp_path):
    first = PixelCache(scenes, 64, 1 << 30, tmp_path)
    for i in range(len(scenes)):
        first.picture(i).pixels(1)
    killed = PixelCache(scenes, 64, 1 << 30, tmp_path)
    assert killed.filled == 0  # `first` was never closed
    for i in range(len(scenes)):
        killed.picture(i).pixels(1)
    killed.close()
    again = PixelCache(scenes, 64, 1 << 30, tmp_path)
    assert again.filled == len(scenes)
    again.close()
    path = Path(scenes.names[0])
    path.write_bytes(path.read_bytes())
    assert PixelCache(scenes, 64, 1 << 30, tmp_path).filled == 0


def test_mistakes(scenes, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="no cache can be kept there"):
        PixelCache(scenes, 64, 1 << 30, tmp_path / "file" / "x")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(ConfigError, match="--cache-size"):
        PixelCache(scenes, 64, 1 << 30, tmp_path / "full")
    assert not list(tmp_path.rglob("*.cache"))


def test_a_broken_image_is_named(tmp_path, voc_xml, write_voc):
    write_voc(tmp_path, {"a": voc_xml([("cat", (1, 1, 20, 20))])}, {"train": ["a"]})
    path = tmp_path / "JPEGImages" / "a.png"
    path.write_bytes(path.read_bytes()[:-30])
    cache = PixelCache(open_dataset(tmp_path), 64, 1 << 20)
    with pytest.raises(DataError, match=r"a\.png: damaged"):
        cache.picture(0).pixels(1)
    assert cache.filled == 0


def test_auto_takes_memory_only_where_everything_fits(scenes, monkeypatch):
    needed = PixelCache(scenes, 64, 1 << 30).bytes
    monkeypatch.setattr("singleshot.loading.cache.free_memory", lambda: 3 * needed)
    assert pick_cache(scenes, 64, needed) == "ram"
    assert pick_cache(scenes, 64, needed // 2) == "none"
    monkeypatch.setattr("singleshot.loading.cache.free_memory", lambda: needed)
    assert pick_cache(scenes, 64, needed) == "none"

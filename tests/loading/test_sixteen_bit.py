"""The rule for 16-bit pictures is the model's, on every way from a file to its input."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.dataset import Dataset, read_as
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.deploy.check_images import PreprocessedImages
from singleshot.evaluation.engine_loop import read_batches
from singleshot.inputs import InputSpec, to_square
from singleshot.loading.augment_spec import AugmentSpec
from singleshot.loading.cache import PixelCache
from singleshot.loading.few_greys import warn_of_few_greys
from singleshot.loading.loader import EvalLoader, TrainLoader
from singleshot.loading.shard_stream import open_stream
from singleshot.runtime import Detector, open_sources
from singleshot.tiling import Tiling

SIDE = 64
SPEC = InputSpec(size=SIDE, sixteen_bit="stretch")
PLAIN = InputSpec(size=SIDE)


def thermal(seed: int, side: int = SIDE) -> np.ndarray:
    """uint16 [side, side]: a warm patch in a narrow range, as thermal cameras give it."""
    values = np.random.default_rng(seed).integers(7400, 7500, (side, side)).astype(np.uint16)
    values[10:30, 20:50] += 600
    return values


def square(samples: np.ndarray) -> np.ndarray:
    """What the network is to see of it, by hand."""
    low, high = float(samples.min()), float(samples.max())
    grey = np.rint((samples - low) * (255 / (high - low))).astype(np.uint8)
    return to_square(np.dstack([grey] * 3), SPEC)[0]


@pytest.fixture
def data(tmp_path: Path, voc_xml, write_voc) -> Path:
    xmls = {stem: voc_xml([("cat", (21, 11, 50, 30))], size=(SIDE, SIDE)) for stem in "abcd"}
    root = write_voc(tmp_path / "set", xmls, {"train": list("abcd")})
    for k, stem in enumerate("abcd"):
        suffix = ".tif" if k % 2 else ".png"
        (root / "JPEGImages" / f"{stem}.png").unlink()
        assert cv2.imwrite(str(root / "JPEGImages" / f"{stem}{suffix}"), thermal(k))
    return root


def opened(data: Path) -> Dataset:
    return open_dataset(data, "train")


@pytest.mark.parametrize("source", ["folder", "ram", "file", "shards"])
@pytest.mark.parametrize("spec", [SPEC, PLAIN])
def test_training(data: Path, tmp_path: Path, source: str, spec: InputSpec) -> None:
    found = read_as(opened(data), spec.sixteen_bit)
    if source == "shards":
        write_shards(read_contents(open_source(data)), tmp_path / "shards")
        found = open_stream(tmp_path / "shards")
    elif source != "folder":
        found = PixelCache(found, SIDE, 1 << 30, tmp_path / "cache" if source == "file" else None)
    loader = TrainLoader(found, AugmentSpec(), spec, 4, workers=0)
    for _ in range(2):  # the second time from the cache
        (batch,) = loader.epoch(0)
        images = batch.images.permute(0, 2, 3, 1).numpy()
        if spec is SPEC:
            assert {image.tobytes() for image in images} == {square(thermal(k)).tobytes() for k in range(4)}
        else:
            assert images.max() <= 8100 // 256
    loader.close()


def test_a_cache_file_of_one_rule_does_not_serve_the_other(data: Path, tmp_path: Path) -> None:
    paths = {PixelCache(read_as(opened(data), rule), SIDE, 1 << 30, tmp_path).path for rule in ("scale", "stretch")}
    assert len(paths) == 2


def test_evaluation_and_calibration(data: Path) -> None:
    dataset = opened(data)
    (seen,) = EvalLoader(dataset, SPEC, 4, workers=0)
    (batch,) = read_batches(dataset, SPEC, 4)
    for k in range(4):
        want = square(thermal(k))
        assert (seen.batch.images[k].permute(1, 2, 0).numpy() == want).all()
        assert (batch.images[k] == want).all()
        model = type("Model", (), {"input_spec": SPEC})
        assert (PreprocessedImages(dataset, model)[k].square == want).all()  # type: ignore[arg-type]


class Recorder:
    """An engine that keeps what it is shown and finds nothing."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __call__(self, images):
        from singleshot.records import ImageDetections

        self.seen += list(images)
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        return [ImageDetections(*nothing) for _ in images]


def test_detection(data: Path) -> None:
    engine = Recorder()
    detector = Detector(engine, SPEC, ("cat",))
    folder = data / "JPEGImages"
    detector.detect(folder / "a.png")
    with (folder / "a.png").open("rb") as file:
        piped = io.BytesIO(file.read())
    list(detector.stream(open_sources(["-"], piped, decode=False, sixteen_bit=SPEC.sixteen_bit)))
    list(detector.stream(open_sources([str(folder / "a.png")], decode=False), keep_images=False))
    list(detector.stream(open_sources([str(folder / "a.png")], sixteen_bit=SPEC.sixteen_bit)))
    assert len(engine.seen) == 4
    assert all((image == square(thermal(0))).all() for image in engine.seen)


def test_a_picture_is_stretched_before_it_is_cut_into_tiles(tmp_path: Path) -> None:
    large = thermal(5, 2 * SIDE)
    cv2.imwrite(str(tmp_path / "a.png"), large)
    engine = Recorder()
    Detector(engine, SPEC, ("cat",)).detect(tmp_path / "a.png", tile=Tiling(SIDE, overlap=0.0, whole=False))
    low, high = int(large.min()), int(large.max())
    whole = np.rint((large.astype(float) - low) * (255 / (high - low))).astype(np.uint8)
    assert len(engine.seen) == 4
    assert (engine.seen[0][..., 0] == whole[:SIDE, :SIDE]).all()


def test_a_training_that_would_see_next_to_nothing_of_some_images_is_told_so(data: Path, caplog) -> None:
    """Of two cameras one has 12 bits: its images are black to the training, however many others there are."""
    paths = sorted((data / "JPEGImages").iterdir())
    for path in paths[1:]:
        cv2.imwrite(str(path), np.full((SIDE, SIDE), 90, np.uint8))
    warn_of_few_greys(opened(data))
    (line,) = caplog.messages
    assert "some of its images have 16 bits, of which 8 keep 3 grey values; give --sixteen-bit stretch" in line


def test_a_training_that_would_see_next_to_nothing_is_told_so(data: Path, tmp_path: Path, caplog) -> None:
    write_shards(read_contents(open_source(data)), tmp_path / "shards")
    for images in (opened(data), open_stream(tmp_path / "shards")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            warn_of_few_greys(images)
        (said,) = caplog.messages
        assert said.endswith("of which 8 keep 3 grey values; give --sixteen-bit stretch, or convert them")
    caplog.clear()
    for path in sorted((data / "JPEGImages").iterdir())[:2]:  # half of them are as they should be
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE)).astype(np.uint16))
    warn_of_few_greys(opened(data))
    assert not caplog.messages

"""A training in tiles: how long an epoch is, and what a run that goes on may not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from singleshot.errors import ConfigError
from singleshot.tiling import Tiling
from singleshot.training import loop
from singleshot.training.build import build_parts
from singleshot.training.recipes import load_recipe

TILING = Tiling(200, overlap=0.1, whole=False)


@pytest.fixture(scope="module")
def trained(trainer_of, tmp_path_factory) -> loop.Trainer:
    trainer = trainer_of(tmp_path_factory.mktemp("tiles"), tiling=TILING, epochs=1, batch=40, val=False)
    trainer.run()
    return trainer


def test_an_epoch_has_as_many_samples_as_tiles_cover_the_images(trained: loop.Trainer) -> None:
    covering = sum(-(-w // 200) * -(-h // 200) for w, h in trained.train_set.sizes.tolist())
    assert len(trained.loader) == covering // 40 > len(trained.train_set) // 40


def test_going_on_with_other_tiles_is_refused(trained: loop.Trainer, trainer_of) -> None:
    for other, words in (
        (Tiling(100, 0.1, whole=False), "tile: 200:0.1 then, 100:0.1 now"),
        (None, "tile: 200:0.1 then, none now"),
    ):
        with pytest.raises(ConfigError, match=words):
            trainer_of(trained.settings.out, tiling=other, epochs=2, batch=40, val=False)


def test_shards_are_refused_in_a_line(tmp_path: Path, scenes: Path, tiny_ssd) -> None:
    from singleshot.datasets import open_source
    from singleshot.datasets.writers.shards import read_contents, write_shards
    from singleshot.loading.shard_stream import open_stream

    write_shards(read_contents(open_source(scenes)), tmp_path / "shards")
    stream = open_stream(tmp_path / "shards")
    settings = loop.Settings(out=tmp_path, epochs=1, batch=4, precision="float32", workers=0, tiling=TILING)
    with pytest.raises(ConfigError, match=r"--tile: .*shards, whose images are not measured") as caught:
        build_parts(tiny_ssd(len(stream.class_names)), stream, None, load_recipe("scratch"), settings)
    assert "\n" not in str(caught.value)

"""Shards to stream, and loaders that are closed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from singleshot.datasets import open_source
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.inputs import InputSpec
from singleshot.loading.augment_spec import AUGMENTS, AugmentSpec
from singleshot.loading.loader import TrainLoader
from singleshot.loading.shard_stream import open_stream
from singleshot.records import Batch

SPEC = InputSpec(size=32)
COUNT = 96  # images of the shards, 12 of 8


@pytest.fixture(scope="session")
def plain(tmp_path_factory, write_image) -> Path:
    """A folder with COUNT images of different sizes; image i has i % 5 objects, the fourth of which is a crowd."""
    root = tmp_path_factory.mktemp("plain")
    images, annotations = [], []
    for i in range(COUNT):
        name = f"{i:03d}.{'jpg' if i % 2 else 'png'}"
        write_image(root / "train" / name, 40 + i, 30)
        images.append({"id": i, "file_name": name, "width": 40 + i, "height": 30})
        for k in range(i % 5):
            one = {"id": len(annotations), "image_id": i, "category_id": k % 2, "bbox": [k, k + 1, 12, 13]}
            annotations.append(one | {"iscrowd": int(k == 3), "difficult": int(k == 2)})
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "train.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def shards(tmp_path_factory, plain) -> Path:
    out = tmp_path_factory.mktemp("packed") / "shards"
    write_shards(read_contents(open_source(plain)), out, per_shard=8)
    return out


@pytest.fixture
def copy(shards, tmp_path) -> Path:
    """The shards, to be spoilt."""
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def loader(shards) -> Iterator[object]:
    """Makes loaders and ends their workers."""
    made: list[TrainLoader] = []

    def make(path=None, batch: int = 4, workers: int = 0, seed: int = 5, spec="caffe", **more) -> TrainLoader:
        stream = open_stream(path or shards, class_names=more.pop("class_names", None))
        stream = replace(stream, buffer_samples=more.pop("buffer", stream.buffer_samples))
        spec = spec if isinstance(spec, AugmentSpec) else AUGMENTS[spec]
        made.append(TrainLoader(stream, spec, SPEC, batch, seed, workers, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def all_same() -> Callable[[list[Batch], list[Batch]], bool]:
    """all_same(a, b): whether the batches have the same names, images, boxes, labels and indices, bit for bit."""

    def same(a: Batch, b: Batch) -> bool:
        return a.names == b.names and all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))

    return lambda a, b: len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="session")
def equal_but_for_names(all_same) -> Callable[[list[Batch], list[Batch]], bool]:
    return lambda a, b: all_same([one._replace(names=()) for one in a], [one._replace(names=()) for one in b])


@pytest.fixture(scope="session")
def seen() -> Callable[[Iterable[Batch]], list[int]]:
    """seen(batches): positions in the data set of all their images, in order."""
    return lambda batches: torch.cat([batch.indices for batch in batches]).tolist()

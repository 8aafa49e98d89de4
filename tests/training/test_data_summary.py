"""What a run was trained on: noticed when it changes, and a class is its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from singleshot.datasets import open_dataset
from singleshot.errors import ConfigError
from singleshot.loading.shard_stream import ShardStream
from singleshot.training.data_summary import DataSummary, check_class_names, read_summaries


def test_a_summary_goes_there_and_back_and_says_what_changed(scenes: Path) -> None:
    data = open_dataset(scenes, "train")
    one = DataSummary.of(data)
    assert read_summaries({"train": one.to_dict()}) == {"train": one}
    assert one.changes(DataSummary.of(open_dataset(scenes, "train"))) == ""
    fewer = DataSummary.of(data.subset(range(5)))
    assert one.changes(fewer).startswith("24 images then, 5 now, ")
    words = one.changes(DataSummary.of(data.subset([1, 0, *range(2, 24)])))
    assert [part.partition(" (")[0] for part in words.split("), ")] == [
        "other image names",
        "other image sizes",
        "other boxes or labels",
    ]


def test_a_crowd_that_is_drawn_otherwise_is_noticed(scenes: Path) -> None:
    data = open_dataset(scenes, "train")
    crowd = np.arange(len(data.crowd)) == 3
    moved = data.boxes_px + crowd[:, None].astype(np.float32)
    then = DataSummary.of(replace(data, crowd=crowd))
    for now in (data, replace(data, crowd=crowd, boxes_px=moved)):
        assert then.changes(DataSummary.of(now)).startswith("other boxes or labels (")


def test_shards_are_known_by_their_names_wherever_they_lie() -> None:
    def stream(folder: str, *counts: int) -> DataSummary:
        paths = tuple(f"{folder}/{i}.tar" for i in range(len(counts)))
        return DataSummary.of(ShardStream("s", ("a",), ("a",), paths, counts))

    assert stream("/x", 3, 4) == stream("/y", 3, 4)
    assert stream("/x", 3, 4).objects is None
    assert stream("/x", 3, 4).changes(stream("/x", 3, 4, 5)) == "7 images then, 12 now"


@pytest.mark.parametrize(
    "values", [{"train": {}}, {"train": 3}, {"train": {"class_names": "ab", "images": 1, "objects": 1, "digest": ""}}]
)
def test_what_is_no_summary_is_refused(values) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_summaries(values)


def test_classes_are_compared_by_name_and_order(tmp_path: Path) -> None:
    check_class_names(["a", "b"], ("a", "b"), tmp_path)
    with pytest.raises(ConfigError, match=r"the run has bus, car; the data has auto, bus; start a new run$"):
        check_class_names(("bus", "car"), ("auto", "bus"), tmp_path)
    (tmp_path / "last.safetensors").touch()
    with pytest.raises(ConfigError, match=r"the run has a, b; the data has b, a, the same in another order; .*--start"):
        check_class_names(("a", "b"), ("b", "a"), tmp_path)
    many = [f"c{i}" for i in range(80)]
    with pytest.raises(ConfigError, match="only the run has c50; only the data has new"):
        check_class_names(many, ["new" if n == "c50" else n for n in many], tmp_path)
    with pytest.raises(ConfigError, match="another order: class 0 is c0 in the run, c79 in the data"):
        check_class_names(many, many[::-1], tmp_path)

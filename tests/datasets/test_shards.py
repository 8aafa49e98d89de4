"""Shards hold what the data set held, other tools read them, and no tar can do harm."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.errors import ConfigError, DataError

NAMES = ["a.png", "b c.jpg", "d.e.png", "sub/ü.png", "f.png", "g.jpg", "h.png"]


def write(data: Path, out: Path, splits: tuple[str, ...] = (), clip_boxes: bool = False, **options):
    return write_shards(read_contents(open_source(data), splits, clip_boxes), out, **options)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]


def test_everything_survives(coco_set, shards, by_id):
    assert available_splits(shards) == ("train", "val")
    for split in ("train", "val"):
        before, after = open_dataset(coco_set, split), open_dataset(shards, split)
        assert after.class_names == before.class_names == ("cat", "dog", "crowd", "never")
        assert by_id(after) == by_id(before)
        assert list(after.image_ids) != list(before.image_ids) or split == "val"
        assert {before.truth(i).crowd.any() for i in range(len(before))} == ({True, False} if split == "train" else {0})
    assert open_source(shards).read(None).declared
    assert open_dataset(shards, "val", class_names=["dog", "cat", "crowd"]).labels_of(0).tolist() in ([], [1])


def test_samples_without_told_sizes_are_measured(tmp_path, voc_xml, write_voc):
    xml = voc_xml([("cat", (1, 1, 64, 48), 1), ("dog", (3, 3, 66, 20))], size=None)
    write(write_voc(tmp_path / "voc", {"a": xml, "b": xml}, {"train": ["a", "b"]}), tmp_path / "out")
    after = open_dataset(tmp_path / "out")
    assert after.sizes.tolist() == [[64, 48]] * 2
    assert after.boxes_of(0).tolist() == [[0, 0, 64, 48], [2, 2, 64, 20]]  # two pixels outside are cut
    assert after.truth(0).difficult.tolist() == [True, False]


@pytest.mark.parametrize("name", ["bccd", "deeppcb"])
def test_real_data(shared, tmp_path, name):
    write(shared / "data" / name, tmp_path / "out", ("test",), shard_bytes=10**6)
    before, after = open_dataset(shared / "data" / name, "test"), open_dataset(tmp_path / "out", "test")
    place = {ident: i for i, ident in enumerate(before.image_ids)}
    before = before.subset([place[ident] for ident in after.image_ids])
    for key in ("boxes_px", "labels", "difficult", "crowd", "area", "ptr", "sizes"):
        assert np.array_equal(getattr(before, key), getattr(after, key)), key
    assert np.array_equal(before.sample(7).image, after.sample(7).image)


def test_webdataset_reads_them(coco_set, shards):
    import webdataset

    tars = sorted(map(str, shards.glob("train-*.tar")))
    files = {path.relative_to(coco_set).as_posix(): path.read_bytes() for path in coco_set.rglob("*.*")}
    found = list(webdataset.WebDataset(tars, shardshuffle=False))
    truth = open_dataset(coco_set, "train")
    ids = list(truth.image_ids)
    assert len(found) == len({sample["__key__"] for sample in found}) == len(NAMES)
    for sample in found:
        label = json.loads(sample["json"])
        (ending,) = {"jpg", "png"} & set(sample)
        assert sample[ending] == files.pop(label["file"])
        rows = truth.truth(ids.index(label["id"]))
        assert np.array_equal(np.array(label["boxes"], np.float32).reshape(-1, 4), rows.boxes)
        assert label["names"] == [truth.class_names[c] for c in label["classes"]]
        for key, wanted in (("classes", rows.labels), ("difficult", rows.difficult), ("crowd", rows.crowd)):
            assert label[key] == wanted.astype(int).tolist()
        assert np.array_equal(np.array(label["area"], np.float32), rows.area)
    decoded = next(iter(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8").to_tuple("jpg;png", "json")))
    assert decoded[0].shape == (decoded[1]["height"], decoded[1]["width"], 3)


def test_the_same_bytes_again_and_nothing_of_this_machine(coco_set, shards, tmp_path, by_id):
    write(coco_set, tmp_path / "again", per_shard=3)
    write(coco_set, tmp_path / "other", per_shard=3, seed=1)
    names = names_in(shards)
    assert names == ["shards.json", *(f"train-00000{i}.tar" for i in range(3)), "val-000000.tar"]
    for name in names:
        assert (shards / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert str(tmp_path).encode() not in (shards / name).read_bytes()
    assert (shards / names[1]).read_bytes() != (tmp_path / "other" / names[1]).read_bytes()
    assert by_id(open_dataset(shards)) == by_id(open_dataset(tmp_path / "other"))
    with tarfile.open(shards / names[1]) as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o644)
            assert re.fullmatch(r"0000000\d\d-[A-Za-z0-9_-]+\.(jpg|png|json)", info.name)


def test_the_index_is_true(shards):
    index = json.loads((shards / "shards.json").read_text())
    for listed in index["splits"].values():
        for shard in listed:
            data = (shards / shard["name"]).read_bytes()
            assert shard["bytes"] == len(data)
            assert shard["sha256"] == hashlib.sha256(data).hexdigest()
            labels = [json.loads(text) for name, text in members(shards / shard["name"]) if name.endswith(".json")]
            assert shard["samples"] == len(labels)
            assert shard["objects"] == sum(len(label["boxes"]) for label in labels)


@pytest.mark.parametrize("limit", [1, 20_480, 30_720, 10**9])
def test_shards_are_no_larger_than_said(coco_set, tmp_path, limit):
    written = write(coco_set, tmp_path / "out", ("train",), shard_bytes=limit)
    (listed,) = written.splits.values()
    for shard in listed:
        assert shard["bytes"] <= limit or shard["samples"] == 1
    assert sum(shard["samples"] for shard in listed) == written.images == 7
    assert len(listed) == {1: 7, 10**9: 1}.get(limit, len(listed))


def test_trainval_is_left_out_unless_asked_for(tmp_path, voc_xml, write_voc):
    xml = voc_xml([("cat", (1, 1, 9, 9))])
    lists = {"train": ["a"], "val": ["b"], "trainval": ["a", "b"]}
    root = write_voc(tmp_path / "voc", {"a": xml, "b": xml}, lists)
    assert list(write(root, tmp_path / "1").splits) == ["train", "val"]
    assert list(write(root, tmp_path / "2", ("trainval", "val", "val")).splits) == ["trainval", "val"]
    assert len(open_dataset(tmp_path / "2", "trainval")) == 2


def test_what_training_would_refuse_names_the_check(tmp_path, voc_xml, write_voc, one_line):
    xml = voc_xml([("cat", (1, 1, 90, 40)), ("cat", (1, 1, 9, 9))])
    root = write_voc(tmp_path / "voc", {"a": xml}, {"train": ["a"]})
    line = one_line(write, root, tmp_path / "out")
    assert "object 0 (cat)" in line
    assert "singleshot data check" in line
    assert names_in(tmp_path) == ["voc"]
    write(root, tmp_path / "out", clip_boxes=True)
    assert open_dataset(tmp_path / "out").boxes_of(0).tolist() == [[0, 0, 64, 40], [0, 0, 9, 9]]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b"no image"), "not an image"),
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: cv2.imwrite(str(path), np.zeros((9, 9, 3), np.uint8)), "image is 9 x 9 pixels"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
    ],
)
def test_a_broken_image_leaves_nothing_behind(coco_set, tmp_path, one_line, spoil, said):
    contents = read_contents(open_source(coco_set))
    spoil(coco_set / "train" / "f.png")
    assert said in one_line(write_shards, contents, tmp_path / "out")
    assert names_in(tmp_path) == ["data"]


def test_a_folder_that_is_there_is_kept(coco_set, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigError, match="is there already"):
        write(coco_set, tmp_path / "out")
    with pytest.raises(DataError, match="no split 'dev'"):
        write(coco_set, tmp_path / "new", ("dev",))
    assert names_in(tmp_path) == ["data", "out"]


def test_a_folder_of_shards_wins_over_what_else_lies_in_it(shards, voc_xml, write_voc):
    write_voc(shards, {"a": voc_xml([("cat", (1, 1, 5, 5))])})
    assert open_source(shards).form == "shards"

"""Shards hold what the data set held, other tools read them, and no tar can do harm."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.errors import ConfigError, DataError
from singleshot.storage import read_limited

NAMES = ["a.png", "b c.jpg", "d.e.png", "sub/ü.png", "f.png", "g.jpg", "h.png"]


@pytest.fixture
def coco_set(tmp_path, write_image):
    """A folder with train (7 images) and val (2): crowds, difficult objects, told areas, an image without objects."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for split, names in (("train", NAMES), ("val", ["v.png", "w.png"])):
        images, annotations = [], []
        for i, name in enumerate(names):
            width, height = 40 + 3 * i, 30 + i
            write_image(root / split / name, width, height)
            images.append({"id": 100 - i, "file_name": name, "width": width, "height": height})
            for k in range(i % 4):
                x, y, w, h = (rng.random(4) * [20, 15, 18, 13] + [0, 0, 1, 1]).tolist()
                one = {"id": len(annotations), "image_id": 100 - i, "category_id": 3 + k, "bbox": [x, y, w, h]}
                more = {"iscrowd": int(k == 2), "difficult": int(k == 1)} | ({"area": w * h / 3} if k else {})
                annotations.append(one | more)
        categories = [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}, {"id": 5, "name": "crowd"},
                      {"id": 9, "name": "never"}]  # fmt: skip
        root.joinpath(f"{split}.json").write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": categories})
        )
    return root


@pytest.fixture
def shards(tmp_path, coco_set) -> Path:
    write(coco_set, tmp_path / "shards", per_shard=3)
    return tmp_path / "shards"


def write(data: Path, out: Path, splits: tuple[str, ...] = (), clip_boxes: bool = False, **options):
    return write_shards(read_contents(open_source(data), splits, clip_boxes), out, **options)


def by_id(dataset) -> dict:
    """Everything that a data set says of each image, whatever their order."""
    return {
        dataset.image_ids[i]: [dataset.sizes[i].tolist(), dataset.sample(i).image.tolist()]
        + [None if part is None else part.tolist() for part in dataset.truth(i)]
        for i in range(len(dataset))
    }


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]


def test_everything_survives(coco_set, shards):
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
    assert after.difficult_of(0).tolist() == [True, False]


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


def test_the_same_bytes_again_and_nothing_of_this_machine(coco_set, shards, tmp_path):
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


# ---------------------------------------------------------------------------------------------- tars that lie


def label_of(**changes) -> bytes:
    label = {"file": "x.png", "id": "x", "width": 8, "height": 6, "boxes": [[1, 1, 4, 4]], "classes": [0],
             "names": ["cat"], "difficult": [0], "crowd": [0], "area": [9]}  # fmt: skip
    return json.dumps(label | changes).encode()


PNG = cv2.imencode(".png", np.zeros((6, 8, 3), np.uint8))[1].tobytes()
GOOD = [("k.png", PNG), ("k.json", label_of())]


def tar_of(entries) -> bytes:
    """entries: (name, data) or (name, data, changes of the header)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data, *changes in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in (changes[0] if changes else {}).items():
                setattr(info, key, value)
            block = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
            tar.fileobj.write(block + data + bytes(-len(data) % 512))
            tar.offset += len(block) + len(data) + -len(data) % 512
    return buffer.getvalue()


@pytest.fixture
def folder_of(tmp_path):
    """folder_of(tar bytes, samples=, objects=): a folder of shards with this one tar as its train split."""

    def make(tar: bytes, samples: int = 1, objects: int = 1) -> Path:
        (tmp_path / "train-000000.tar").write_bytes(tar)
        shard = {"name": "train-000000.tar", "samples": samples, "objects": objects, "bytes": max(1, len(tar))}
        index = {"version": 1, "class_names": ["cat", "dog"], "declared": True, "splits": {"train": [shard]}}
        (tmp_path / "shards.json").write_text(json.dumps(index))
        return tmp_path

    return make


def test_a_tar_by_hand_is_read(folder_of):
    dataset = open_dataset(folder_of(tar_of(GOOD)))
    assert dataset.sample(0).image.shape == (6, 8, 3)
    assert open_dataset(folder_of(tar_of(GOOD[::-1]))).boxes_px.tolist() == [[1, 1, 4, 4]]


OTHER = [("other.png", PNG), ("other.json", label_of(id="y"))]
BAD_MEMBERS = {
    "a link": ([("l.png", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}), *OTHER], "l.png", "is a link"),
    "a hard link": ([("l.png", b"", {"type": tarfile.LNKTYPE, "linkname": "k.png"}), *OTHER], "l.png", "is a link"),
    "a folder": ([("d", b"", {"type": tarfile.DIRTYPE}), *OTHER], "d", "a folder"),
    "an extended header": ([("p", b"30 size=99999999999999999999\n", {"type": b"x"}), *OTHER], "p", "plain files"),
    "a name that climbs": ([("../evil.json", b"{}"), *OTHER], "../evil.json", "no name of a member"),
    "a name with a folder": ([("a/b.json", b"{}"), *OTHER], "a/b.json", "no name of a member"),
    "an absolute name": ([("/etc/x.json", b"{}"), *OTHER], "/etc/x.json", "no name of a member"),
    "an unpickled ending": ([("k.pyd", b"cos\nsystem\n"), *OTHER], "k.pyd", "no name of a member"),
    "a line end": ([("k\n.json", b"{}"), *OTHER], "k\\n.json", "no name of a member"),
    "an empty image": ([("z.png", b""), *OTHER], "z.png", "has 0 bytes"),
    "labels too large": ([("z.json", b" " * (4 * 2**20 + 1)), *OTHER], "z.json", "has 4194305 bytes"),
    "an image alone": ([("z.png", PNG), *OTHER], "z", "without z.json"),
    "an image alone at the end": ([*OTHER, ("z.png", PNG)], "z", "without z.json"),
    "labels alone": ([("z.json", label_of()), *OTHER], "z", "labels without an image"),
    "two images": ([("other.jpg", PNG), *OTHER], "other", "without other.json"),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_a_bad_member_is_named_and_the_rest_is_read(folder_of, one_line, case):
    entries, item, said = BAD_MEMBERS[case]
    root = folder_of(tar_of(entries))
    line = one_line(open_dataset, root)
    assert line.startswith(f"{root}/train-000000.tar: {item}: ")
    assert said in line
    problems = CollectErrors()
    raw = open_source(root).read(None, problems)
    assert [image.ident for image in raw.images] == ["y"]
    (finding,) = problems.findings
    assert finding.kind == ("image-missing" if case == "labels alone" else "annotation-malformed")
    assert str(finding) == line


BAD_LABELS = {
    "no JSON": (b"{", "is not JSON"),
    "no text": (b"\xff\xfe\xfd", "is not JSON"),
    "nested without end": (b"[" * 200_000, "is not JSON"),
    "a number without end": (b'{"width": ' + b"9" * 10_000 + b"}", "is not JSON"),
    "a list": (b"[]", "holds a list"),
    "no id": (label_of(id=None), "id None"),
    "an id that no table holds": (label_of(id="\ud834"), "want a text"),
    "no width": (label_of(width="8"), "width '8'"),
    "width as truth": (label_of(width=True), "width True"),
    "a giant": (label_of(height=10**9), "height 1000000000"),
    "few classes": (label_of(classes=[]), "0 classes for 1 boxes"),
    "a class too many": (label_of(classes=[2]), "classes 2 cannot be used"),
    "a class below": (label_of(classes=[-1]), "classes -1 cannot be used"),
    "another name": (label_of(names=["dog"]), "class 0 is 'cat'"),
    "three numbers": (label_of(boxes=[[1, 2, 3]]), "boxes [1, 2, 3] cannot be used"),
    "not a number": (label_of(boxes=[[math.nan, 2, 3, 4]]), "boxes [nan"),
    "words": (label_of(boxes=[["1", 2, 3, 4]]), "boxes ['1'"),
    "boxes as one": (label_of(boxes="abcd"), "boxes 'abcd'; want a list"),
    "a flag of 2": (label_of(crowd=[2]), "crowd 2"),
    "area below 0": (label_of(area=[-1]), "area -1"),
    "area without end": (label_of(area=[math.inf]), "area inf"),
    "area of 10**400": (label_of(area=[10**400]), "area 1000"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels_are_named_and_the_rest_is_read(folder_of, one_line, case):
    label, said = BAD_LABELS[case]
    root = folder_of(tar_of([("k.png", PNG), ("k.json", label), *OTHER]), samples=2)
    line = one_line(open_dataset, root)
    assert line.startswith(f"{root}/train-000000.tar: k.json: ")
    assert said in line
    problems = CollectErrors()
    assert [image.ident for image in open_source(root).read("train", problems).images] == ["y"]
    assert dict(problems.counts) == {"annotation-malformed": 1}


def test_boxes_are_judged_as_everywhere(folder_of, one_line):
    for box, said in (([1, 1, 1, 4], "has no area"), ([1, 1, 40, 4], "outside"), ([1, 1, math.inf, 4], "not a place")):
        root = folder_of(tar_of([("k.png", PNG), ("k.json", label_of(boxes=[box]))]))
        line = one_line(open_dataset, root)
        assert line.startswith(f"{root}/train-000000.tar/k.json: object 0 (cat): box ")
        assert said in line


BAD_TARS = {
    "empty": (b"", "ends at byte 0"),
    "cut in an image": (tar_of(GOOD)[:600], "ends at byte"),
    "cut in labels": (tar_of(GOOD)[:1600], "ends at byte"),
    "without its end": (tar_of(GOOD)[: -(-len(PNG) // 512) * 512 + 512 * 3], "ends at byte 2048"),
    "no tar": (b"no tar at all " * 1000, "no header of a tar member at byte 0"),
    "compressed": (b"\x1f\x8b\x08\0" * 300, "no header"),
    "a size beyond everything": (tar_of([("k.png", b"", {"size": 2**62})]), "which cannot be"),
    "a negative size": (tar_of([("k.png", b"", {"size": -(2**40)})]), "which cannot be"),
    "a size beyond the tar": (tar_of([("k.png", PNG, {"size": 2**27})]), "ends at byte"),
    "a longer long name": (tar_of([("././@LongLink", b"x", {"type": b"L", "size": 2**33})]), "is a link"),
}


@pytest.mark.parametrize("case", BAD_TARS)
def test_a_damaged_tar_is_named(folder_of, one_line, case):
    tar, said = BAD_TARS[case]
    root = folder_of(tar)
    line = one_line(open_dataset, root)
    assert line.startswith(f"{root}/train-000000.tar: ")
    assert said in line
    problems = CollectErrors()
    raw = open_source(root).read(None, problems)
    assert problems.counts["annotation-unreadable"] == 1
    assert len(raw.images) == len(raw.splits["train"]) == (case == "without its end")


@pytest.mark.parametrize(
    ("samples", "objects", "said"),
    [(2, 1, "holds 1 samples, but shards.json says 2"), (1, 5, "holds 1 objects, but shards.json says 5")],
)
def test_counts_must_agree(folder_of, one_line, samples, objects, said):
    assert said in one_line(open_dataset, folder_of(tar_of(GOOD), samples, objects))


def test_the_same_key_twice(folder_of, one_line):
    assert "k: is there twice" in one_line(open_dataset, folder_of(tar_of([*GOOD, *OTHER, *GOOD]), 3, 3))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_ends_in_findings_or_one_line(shards, data):
    path = shards / "train-000000.tar"
    whole = path.read_bytes()
    spoilt = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        # Mostly headers and labels, where there is something to believe.
        spoilt[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        path.write_bytes(bytes(spoilt[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))]))
        problems = CollectErrors()
        raw = open_source(shards).read(None, problems)
        for image in raw.images:
            try:
                read_limited(image.path, 10**6, "image")
            except DataError as error:
                assert "\n" not in str(error)
        assert all("\n" not in str(finding) for finding in problems.findings)
        assert len(raw.images) == 9 or problems.findings
    finally:
        path.write_bytes(whole)


# ---------------------------------------------------------------------------------------------- shards.json


def changed(**changes):
    shard = {"name": "train-000000.tar", "samples": 1, "objects": 1, "bytes": 1} | changes
    return {"version": 1, "class_names": ["cat", "dog"], "splits": {"train": [shard]}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 10**5, "is not JSON"),
        ([], "holds a list"),
        ({}, "version None; want 1"),
        ({"version": 2}, "version 2; want 1"),
        ({"version": 1, "class_names": [1], "splits": {}}, "class_names [1]"),
        ({"version": 1, "class_names": ["a", "a"], "splits": {}}, "each name once"),
        ({"version": 1, "class_names": ["a"], "splits": []}, "splits []"),
        ({"version": 1, "class_names": ["a"], "splits": {"train": 5}}, "want a list of shards"),
        (changed(name="../x.tar"), "leaves the folder"),
        (changed(name="/etc/x.tar"), "leaves the folder"),
        (changed(name="https://host/x.tar"), "leaves the folder"),
        (changed(name="pipe:touch x #.tar"), "leaves the folder"),
        (changed(name="a\0.tar"), "leaves the folder"),
        (changed(name=5), "name 5"),
        (changed(samples=0), "samples 0; want 1 or more"),
        (changed(samples=10**12), "samples 1000000000000"),
        (changed(objects=-1), "objects -1"),
        (changed(bytes="many"), "bytes 'many'"),
        (changed(name="gone.tar"), "gone.tar: is not there"),
    ],
)
def test_a_wrong_index_is_one_line(folder_of, one_line, content, said):
    root = folder_of(tar_of(GOOD))
    (root / "shards.json").write_text(content if isinstance(content, str) else json.dumps(content))
    line = one_line(open_dataset, root)
    assert said in line
    assert line.startswith(f"{root}/shards.json: ")
    problems = CollectErrors()
    assert open_source(root).read(None, problems).images == []
    assert dict(problems.counts) == {"annotation-unreadable": 1}


def test_a_shard_twice_in_a_split(folder_of, one_line):
    root = folder_of(tar_of(GOOD))
    index = json.loads((root / "shards.json").read_text())
    index["splits"]["train"] *= 2
    (root / "shards.json").write_text(json.dumps(index))
    assert "names a shard twice" in one_line(open_dataset, root)


def test_a_link_out_of_the_folder_is_refused(folder_of, one_line, tmp_path):
    root = folder_of(tar_of(GOOD)).rename(tmp_path.parent / f"{tmp_path.name}-moved")
    outside = root.parent / f"{root.name}.tar"
    (root / "train-000000.tar").rename(outside)
    (root / "train-000000.tar").symlink_to(outside)
    assert "a link that leads out" in one_line(open_dataset, root)


# ---------------------------------------------------------------------------------------------- bytes in a tar


class Ranges(SimpleHTTPRequestHandler):
    """Also answers requests for a part of a file, which http.server alone does not."""

    def log_message(self, *_: object) -> None:
        pass

    def send_head(self):
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None:
            return super().send_head()
        data = Path(self.translate_path(self.path)).read_bytes()[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return io.BytesIO(data)


class Whole(Ranges):
    send_head = SimpleHTTPRequestHandler.send_head


@pytest.fixture
def serve():
    """serve(folder, handler): its address."""
    servers = []

    def start(folder: Path, handler=Ranges) -> str:
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_part_of_a_tar_is_read(tmp_path, one_line):
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(range(100)))
    assert read_limited(f"{path}#10+5", 100, "image") == bytes(range(10, 15))
    assert read_limited(f"{path}#10+5", 100, "image", most=2) == bytes(range(10, 12))
    assert read_limited(f"{path}#90+50", 100, "image") == bytes(range(90, 100))
    assert read_limited(f"{path}#990+50", 100, "image") == b""
    assert "larger than" in one_line(read_limited, f"{path}#0+50", 20, "image")
    assert "no such image file" in one_line(read_limited, f"{tmp_path}/b.tar#0+50", 20, "image")
    assert "no such image file" in one_line(read_limited, f"{path}#-1+50", 20, "image")


def test_a_file_of_such_a_name_is_itself(tmp_path):
    (tmp_path / "a.tar").symlink_to("/etc/passwd")
    (tmp_path / "a.tar#0+9").write_bytes(b"itself")
    assert read_limited(tmp_path / "a.tar#0+9", 100, "image") == b"itself"


def test_shards_on_a_web_server(coco_set, shards, serve):
    address = serve(shards)
    for split in ("train", "val"):
        assert by_id(open_dataset(address, split)) == by_id(open_dataset(shards, split))


def test_a_server_without_ranges_is_told(shards, serve, one_line):
    dataset = open_dataset(serve(shards, Whole))
    line = one_line(dataset.sample, 0)
    assert "cannot send a part of a file" in line


def test_shards_in_memory(shards):
    system = fsspec.filesystem("memory")
    try:
        for path in shards.iterdir():
            system.pipe_file(f"/packed/{path.name}", path.read_bytes())
        assert by_id(open_dataset("memory://packed", "train")) == by_id(open_dataset(shards, "train"))
    finally:
        system.rm("/packed", recursive=True)


def test_from_a_web_server_to_shards(coco_set, shards, serve, tmp_path):
    write(serve(coco_set), tmp_path / "out", per_shard=3)
    for path in shards.iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()

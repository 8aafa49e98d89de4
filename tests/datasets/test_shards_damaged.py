"""Shards that somebody else made: damaged tars, labels and indexes end in findings."""

from __future__ import annotations

import io
import json
import math
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.errors import DataError
from singleshot.storage import read_limited


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

"""A new form of data sets is one file and one row: here JSON lines, read, checked, repaired and written.

The functions below are the whole of what such a file holds; FORMATS is the table with its row.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from singleshot.datasets import open_source
from singleshot.datasets.build_dataset import build_dataset
from singleshot.datasets.checks import check_source
from singleshot.datasets.checks.repair import repair
from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.formats import FORMATS, Format, Writer
from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.datasets.tree import Tree
from singleshot.datasets.writers.common import WritePlan, make_write_plan
from singleshot.datasets.writing import write_dataset
from singleshot.errors import DataError

MAX_BYTES = 64 * 2**20


def sniff(tree: Tree) -> bool:
    return bool(tree.files("", (".jsonl",)))


def splits(tree: Tree, file: str) -> tuple[str, ...]:
    return tuple(name.removesuffix(".jsonl") for name in ([file] if file else tree.files("", (".jsonl",))))


def read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
    images: list[RawImage] = []
    members: dict[str, list[int]] = {}
    for split in splits(tree, file) if wanted is None else (wanted,):
        name, start = f"{split}.jsonl", len(images)
        for line, text in enumerate(tree.read(name, MAX_BYTES, "annotation").decode().splitlines(), 1):
            try:
                item = json.loads(text)
                objects = [
                    RawObject(o["class"], tuple(map(float, o["box"])), number=k, line=line)
                    for k, o in enumerate(item["objects"])
                ]
                found = tree.find("images", item["file"])
            except (ValueError, KeyError, TypeError) as error:
                problems.add("annotation-malformed", tree.path(name), f"cannot be used ({error})", line=line)
                continue
            if found is None:
                problems.add("image-missing", tree.path(name), f"no image {item['file']}; add it", line=line)
                continue
            images.append(RawImage(tree.path(found), found, 0, 0, objects, tree.path(name)))
        members[split] = list(range(start, len(images)))
    return RawSet("lines", tree.root, tuple(sorted({o.name for im in images for o in im.objects})), images, members)


def place(plan: WritePlan, i: int) -> str:
    return f"images/{plan.names[i]}"


def write(plan: WritePlan, folder: Path) -> None:
    for split, members in plan.splits.items():
        items = (
            {"file": plan.names[i], "objects": [{"class": o.name, "box": o.box} for o in plan.images[i].objects]}
            for i in members
        )
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))


WITH_LINES = {
    **FORMATS,
    "lines": Format(
        "JSON lines",
        sniff,
        splits,
        read,
        suffixes=(".jsonl",),
        writer=Writer(make_write_plan, place, write),
    ),
}


@pytest.fixture
def folder(tmp_path, write_image) -> Path:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "set" / "images" / name, 64, 48)
    rows = [
        {
            "file": "a.png",
            "objects": [{"class": "cat", "box": [1, 2, 30, 40]}, {"class": "dog", "box": [5, 5, 90, 20]}],
        },
        {"file": "gone.png", "objects": []},
        {
            "file": "b.png",
            "objects": [{"class": "cat", "box": [0, 0, 10, 10]}, {"class": "cat", "box": [3, 3, 20, 20]}],
        },
    ]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "set" / "train.jsonl").write_text(text + "{broken\n")
    return tmp_path / "set"


def test_it_is_found_by_its_row_and_by_it_alone(folder: Path, one_line) -> None:
    for path in (folder, folder / "train.jsonl"):
        source = open_source(path, WITH_LINES)
        assert (source.form, source.splits) == ("lines", ("train",))
    (folder.parent / "none").mkdir()
    said = one_line(open_source, folder.parent / "none", WITH_LINES)
    assert "LabelMe or JSON lines (see docs: Data)" in said
    assert "JSON lines" not in one_line(open_source, folder.parent / "none")
    with pytest.raises(DataError, match="no data set of a known form"):
        open_source(folder)


def test_it_is_checked_with_places(folder: Path) -> None:
    result = check_source(open_source(folder, WITH_LINES), workers=1)
    found = {(f.kind, f.line) for f in result.findings}
    assert {("image-missing", 2), ("annotation-malformed", 4), ("box-outside", 1)} <= found
    assert (result.images, result.objects) == (2, 4)


def test_it_is_repaired_and_written_and_trains(folder: Path, tmp_path: Path) -> None:
    result = check_source(open_source(folder, WITH_LINES), workers=1)
    done = repair(result, tmp_path / "fixed", formats=WITH_LINES)
    assert (done.form, done.images, done.objects) == ("lines", 2, 4)
    raw = open_source(tmp_path / "fixed", WITH_LINES).read()
    assert build_dataset(raw, "train").boxes_px.tolist()[1] == [5, 5, 64, 20]


@pytest.mark.parametrize("form", ["voc", "coco", "csv", "yolo"])
def test_it_is_converted_to_the_others_and_from_them(folder: Path, tmp_path: Path, form: str) -> None:
    repair(check_source(open_source(folder, WITH_LINES), workers=1), tmp_path / "fixed", formats=WITH_LINES)
    raw = open_source(tmp_path / "fixed", WITH_LINES).read()
    write_dataset(raw, tmp_path / "other", form)
    write_dataset(open_source(tmp_path / "other").read(), tmp_path / "again", "lines", formats=WITH_LINES)
    again = open_source(tmp_path / "again", WITH_LINES).read()
    assert [[(o.name, *map(round, o.box)) for o in image.objects] for image in again.images] == [
        [(o.name, *map(round, o.box)) for o in image.objects] for image in raw.images
    ]

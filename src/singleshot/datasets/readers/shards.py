"""Shards as an ordinary data set: tars are scanned for their labels, images stay in them until they are asked for.

Boxes are continuous pixels already. An image's path is that of its tar and its place in it, tar#OFFSET+LENGTH. Remote
tars are read whole for this; `data.stream` trains without it.
"""

from __future__ import annotations

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.datasets.shard_index import AGAIN, INDEX, Index, Label, Shard, find_shard, parse_label, read_index
from singleshot.datasets.shard_tar import read_samples
from singleshot.datasets.splits import resolve_split
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError


def sniff(tree: Tree) -> bool:
    """Whether it is a folder with shards.json."""
    return tree.names().get(INDEX) is False


def splits(tree: Tree, file: str = "") -> tuple[str, ...]:
    """Names of the splits; DataError where shards.json cannot be read."""
    return tuple(read_index(tree, file).splits)


def read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
    """Read the labels of the split `wanted`, or of all. Raises DataError for a split that is not there."""
    path = tree.path(INDEX)
    try:
        index = read_index(tree, file)
    except DataError as error:
        problems.add_unreadable(path, error)
        return RawSet("shards", tree.root, (), [], {})
    chosen = tuple(index.splits) if wanted is None else (resolve_split(wanted, index.splits, tree.root),)
    images: list[RawImage] = []
    positions = {}
    for split in chosen:
        start = len(images)
        for shard in index.splits[split]:
            try:
                place = find_shard(tree, shard, file)
            except DataError as error:
                problems.add("annotation-unreadable", path, str(error))
            else:
                images += _read_shard(place, shard, index, problems)
        positions[split] = list(range(start, len(images)))
    return RawSet("shards", tree.root, index.class_names, images, positions, declared=index.declared)


def _read_shard(path: str, shard: Shard, index: Index, problems: RaiseErrors) -> list[RawImage]:
    images: list[RawImage] = []
    samples, seen = 0, set()
    for packed in read_samples(path, problems, with_images=False, expected=shard):
        samples += 1
        name = f"{packed.key}.json"
        if packed.key in seen:
            problems.add("annotation-malformed", path, f"is there twice; {AGAIN}", packed.key)
            continue
        seen.add(packed.key)
        try:
            label = parse_label(packed.label, index.class_names)
        except DataError as error:
            problems.add("annotation-malformed", path, str(error), name)
            continue
        objects = _objects(label, index.class_names)
        images.append(RawImage(packed.path, label.ident, label.width, label.height, objects, f"{path}/{name}"))
    found = sum(len(image.objects) for image in images)
    if samples != shard.samples:
        message = f"holds {samples} samples, but {INDEX} says {shard.samples}; fetch it again, or {AGAIN}"
        problems.add("annotation-malformed", path, message)
    elif len(images) == samples and found != shard.objects:
        message = f"holds {found} objects, but {INDEX} says {shard.objects}; fetch it again, or {AGAIN}"
        problems.add("annotation-malformed", path, message)
    return images


def _objects(label: Label, class_names: tuple[str, ...]) -> list[RawObject]:
    columns = zip(label.classes, label.boxes, label.difficult, label.crowd, label.area, strict=True)
    return [
        RawObject(class_names[kind], box, difficult, crowd, area, number)
        for number, (kind, box, difficult, crowd, area) in enumerate(columns)
    ]

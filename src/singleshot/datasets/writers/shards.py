"""Writing a data set as WebDataset shards: tars of image files with their labels, for training in a stream.

OUT/<split>-000000.tar, ... hold for each image KEY.jpg (or its own ending; the file's bytes) and KEY.json; what is in
which tar stands in OUT/shards.json. Training reads a tar from its start to its end, so images are shuffled here. The
same data and seed give the same bytes. tarfile alone does this: what `webdataset`, which can read the result, brings
along (shell commands as addresses, unpickling by ending) has no place here.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from singleshot.datasets.box_rules import clean_boxes
from singleshot.datasets.build_dataset import build_dataset
from singleshot.datasets.dataset import Dataset
from singleshot.datasets.shard_index import INDEX, VERSION, is_text
from singleshot.datasets.shard_tar import MAX_LABEL_BYTES
from singleshot.datasets.sources import Source
from singleshot.datasets.splits import resolve_split
from singleshot.errors import ConfigError, DataError, printable
from singleshot.files import atomic_folder
from singleshot.images.decode import MAX_FILE_BYTES, upright_size
from singleshot.images.headers import ending_of
from singleshot.storage import is_remote, read_limited

SHARD_BYTES = 500 * 2**20
_BLOCK = tarfile.BLOCKSIZE
# What takes time is waiting for the disk or the network; this many images are held at most.
_THREADS, _AHEAD = 4, 8
_STEM = 60  # characters of an image's name in its key: a tar header holds 100


class Contents(NamedTuple):
    """What is to be written: a data set's folder, its classes, and each of its splits."""

    root: str
    class_names: tuple[str, ...]
    declared: bool
    splits: dict[str, Dataset]


class WrittenShards(NamedTuple):
    """What was written: totals, and for each split its shards as shards.json lists them."""

    images: int
    objects: int
    size: int
    splits: dict[str, list[dict[str, Any]]]


def read_contents(source: Source, splits: Sequence[str] = (), clip_boxes: bool = False) -> Contents:
    """Read and check a data set: the named splits, or all of them, but for trainval beside train and val.

    Raises DataError for whatever a training would refuse; with clip_boxes boxes are cut or dropped as there.
    """
    root = source.tree.root
    with _checkable():
        raw = source.read(None)
    if splits:
        names = [resolve_split(split, raw.splits, root) for split in splits]
    else:
        names = [name for name in raw.splits if name != "trainval" or not {"train", "val"} <= set(raw.splits)]
    with _checkable():
        found = {name: build_dataset(raw, name, clip_boxes=clip_boxes) for name in dict.fromkeys(names)}
    if not any(map(len, found.values())):
        raise DataError(f"{printable(root)}: no image in {', '.join(map(printable, found)) or 'any split'}")
    return Contents(root, raw.class_names, raw.declared, found)


@contextlib.contextmanager
def _checkable() -> Iterator[None]:
    """One mistake stops this; the message says what shows all of them."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error} (singleshot data check lists everything of the kind)") from error


def write_shards(
    contents: Contents,
    out: Path,
    shard_bytes: int = SHARD_BYTES,
    per_shard: int | None = None,
    seed: int = 0,
    on_image: Callable[[], None] | None = None,
) -> WrittenShards:
    """Write the splits as shards of at most shard_bytes bytes (or one image), or of per_shard images each.

    The folder appears once it is complete. `on_image` is called after each image. Raises ConfigError where something
    is there already or cannot be written, DataError for an image that cannot be used: its header is read, and its size
    compared with the annotation.
    """
    if shard_bytes < 1 or (per_shard is not None and per_shard < 1) or seed < 0:
        raise ConfigError(f"shards of {shard_bytes} bytes or {per_shard} images, seed {seed}: want 1 or more, seed 0")
    bad = [name for name in contents.class_names if not is_text(name)]
    if bad:
        raise DataError(f"{printable(contents.root)}: class {printable(repr(bad[0]))} cannot be written; rename it")
    listed: dict[str, list[dict[str, Any]]] = {}
    prefixes = _prefixes(list(contents.splits))
    with atomic_folder(out) as folder:
        try:
            for split, dataset in contents.splits.items():
                order = np.random.default_rng(seed).permutation(len(dataset))
                tars = _Tars(folder, prefixes[split], shard_bytes, per_shard)
                with tars:
                    for at, packed in enumerate(_packed(dataset, order, contents.root)):
                        tars.add(f"{at:09d}-{packed.stem}", packed)
                        if on_image is not None:
                            on_image()
                listed[split] = tars.listed
            index = {
                "version": VERSION,
                "class_names": list(contents.class_names),
                "declared": contents.declared,
                "splits": listed,
            }
            (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="ascii")
        except OSError as error:  # those of reading are DataErrors
            raise ConfigError(f"{printable(out)}: cannot write there ({error.strerror}); give another") from error
    shards = [shard for split in listed.values() for shard in split]
    images, objects, size = (sum(shard[key] for shard in shards) for key in ("samples", "objects", "bytes"))
    return WrittenShards(images, objects, size, listed)


def _prefixes(splits: list[str]) -> dict[str, str]:
    """What the names of a split's tars start with; capitals alone make no difference on some disks."""
    taken: set[str] = set()
    found = {}
    for split in splits:
        stem = free = re.sub(r"[^A-Za-z0-9_-]+", "_", split)[:100]
        number = 1
        while free.casefold() in taken:
            number += 1
            free = f"{stem}_{number}"
        taken.add(free.casefold())
        found[split] = free
    return found


class _Packed(NamedTuple):
    """One image ready to be written: its bytes, their ending, its labels, its objects."""

    stem: str
    ending: str
    image: bytes
    label: bytes
    objects: int


def _packed(dataset: Dataset, order: np.ndarray, root: str) -> Iterator[_Packed]:
    """The images in this order, some of them read ahead."""
    waiting: deque[Future[_Packed]] = deque()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for i in order.tolist():
            if len(waiting) == _AHEAD:
                yield waiting.popleft().result()
            waiting.append(pool.submit(_pack, dataset, i, root))
        while waiting:
            yield waiting.popleft().result()
    finally:
        # After Ctrl-C or an error those that are waiting are not read.
        pool.shutdown(cancel_futures=True)


def _pack(dataset: Dataset, i: int, root: str) -> _Packed:
    path = dataset.names[i]
    data = read_limited(path, MAX_FILE_BYTES, "image")
    width, height = upright_size(data, path)
    dataset.objects(i, width, height)  # raises where image and annotation do not fit
    truth = dataset.truth(i)
    size = np.tile(np.array([width, height], np.float64), (len(truth.boxes), 1))
    cleaned = clean_boxes(truth.boxes.astype(np.float64), size, True, str)
    keep = cleaned.keep
    assert truth.difficult is not None
    assert truth.crowd is not None
    assert truth.area is not None
    labels = truth.labels[keep].tolist()
    file = _relative(path, root)
    label = {
        "file": file,
        "id": dataset.image_ids[i],
        "width": width,
        "height": height,
        "boxes": [_numbers(box) for box in cleaned.boxes[keep]],
        "classes": labels,
        "names": [dataset.class_names[label] for label in labels],
        "difficult": truth.difficult[keep].astype(int).tolist(),
        "crowd": truth.crowd[keep].astype(int).tolist(),
        "area": _numbers(np.nan_to_num(truth.area[keep])),
    }
    text = json.dumps(label, separators=(",", ":")).encode("ascii")
    if len(text) > MAX_LABEL_BYTES:
        raise DataError(f"{printable(path)}: {len(labels)} objects (a shard holds {MAX_LABEL_BYTES} bytes of labels)")
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(file).stem)[:_STEM]
    return _Packed(stem, ending_of(data), data, text, len(labels))


def _numbers(values: np.ndarray) -> list[float]:
    """float32 [n] as the shortest decimals that are the same float32 again."""
    return [float(str(value)) for value in values]


def _relative(path: str, root: str) -> str:
    """The image's name in its data set: other people's folders are nobody's business."""
    if is_remote(path):
        name = path.removeprefix(root).lstrip("/") or path
        return unquote(name) if path.lower().startswith("http") else name
    try:
        return Path(path).relative_to(root).as_posix()
    except ValueError:
        return Path(path).name


class _Tars:
    """The tars of a split, one after the other. Their headers hold names and sizes, nothing of time or user."""

    def __init__(self, folder: Path, prefix: str, shard_bytes: int, per_shard: int | None) -> None:
        self._folder, self._prefix, self._bytes, self._samples = folder, prefix, shard_bytes, per_shard
        self.listed: list[dict[str, Any]] = []
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> _Tars:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
        elif self._tar is not None and self._tar.fileobj is not None:
            self._tar.fileobj.close()

    def add(self, key: str, packed: _Packed) -> None:
        """Write one sample, into the next tar where this one is full."""
        members = ((f"{key}.{packed.ending}", packed.image), (f"{key}.json", packed.label))
        if self._tar is not None:
            # Each member has a header; two empty blocks end a tar, and its length is a multiple of 20 blocks.
            size = self._tar.offset + sum(_BLOCK + _padded(len(data), _BLOCK) for _, data in members) + 2 * _BLOCK
            full = _padded(size, tarfile.RECORDSIZE) > self._bytes
            if self.listed[-1]["samples"] >= self._samples if self._samples else full:
                self._finish()
        if self._tar is None:
            name = f"{self._prefix}-{len(self.listed):06d}.tar"
            self._tar = tarfile.open(self._folder / name, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self.listed.append({"name": name, "samples": 0, "objects": 0, "bytes": 0, "sha256": ""})
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
        self.listed[-1]["samples"] += 1
        self.listed[-1]["objects"] += packed.objects

    def _finish(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None
            shard = self.listed[-1]
            with (self._folder / shard["name"]).open("rb") as file:
                shard["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
                shard["bytes"] = file.tell()


def _padded(size: int, block: int) -> int:
    return -(-size // block) * block

"""A bulk detection in its folder: what is asked, which images are in which part, what is finished. No Ray here.

    job.json            what was asked, how many parts and images; written once all inputs are listed
    inputs/000000.json  the images of a part
    failures/000000.json  of a finished part: its counts, and address and reason of each image without a result
    tries/000000.json   of a part that was begun: how often, and which images ended their process
    part-000000.jsonl   (or .parquet) the results of a finished part
    failures.jsonl, summary.json   at the end

A part is finished when its results are there under their name, which they get whole and last. Whoever does a part twice
writes the same file again. So every image has one result or one failure, whatever was killed on the way.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from singleshot.cluster.addresses import Input
from singleshot.errors import ConfigError, DataError, printable
from singleshot.extras import needs
from singleshot.files import atomic_write, is_free
from singleshot.remote_file import filesystem, is_remote, reason_of
from singleshot.storage import read_limited

FORMS = ("jsonl", "parquet")
MAX_IMAGES = 20_000_000  # of which a digest each is held while they are listed
_JOB, _SUMMARY, _FAILURES = "job.json", "summary.json", "failures.jsonl"
_MOST_BYTES = 2**30


class Folder:
    """A folder of results, on a disk that all machines share or behind an address; files appear whole."""

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/") if is_remote(place) else str(Path(place).absolute())

    def path(self, name: str) -> str:
        """Where a file is."""
        return f"{self.place}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all. Raises ConfigError where it cannot be."""
        path = self.path(name)
        try:
            if is_remote(path):
                system, inside = filesystem(path)
                system.pipe_file(inside, data)  # an object appears when all of it is there
                return
            with atomic_write(path, durable=True) as temporary:
                temporary.write_bytes(data)
        except (OSError, DataError) as error:
            raise ConfigError(
                f"{printable(path)}: cannot be written ({reason_of(error)}); give another --out"
            ) from error

    def read(self, name: str) -> Any:
        """The JSON in a file. Raises DataError."""
        data = read_limited(self.path(name), _MOST_BYTES, "job")
        try:
            return json.loads(data)
        except ValueError as error:
            raise DataError(f"{printable(self.path(name))}: is not JSON ({printable(error, 80)})") from error

    def names(self, folder: str = "") -> set[str]:
        """Names of what lies in it or in a folder below; none where that is not there."""
        place = self.path(folder).rstrip("/")
        if is_remote(place):
            system, inside = filesystem(place)
            system.invalidate_cache()
            if not system.exists(inside):
                return set()
            return {str(name).rstrip("/").rpartition("/")[2] for name in system.ls(inside, detail=False)}
        return {path.name for path in Path(place).iterdir()} if Path(place).is_dir() else set()

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        path = self.path(name)
        if is_remote(path):
            system, inside = filesystem(path)
            system.invalidate_cache()
            return bool(system.exists(inside))
        return Path(path).exists()

    def is_new(self) -> bool:
        """Whether it holds nothing yet."""
        return not self.names() if is_remote(self.place) else is_free(Path(self.place))


class PartCounts(NamedTuple):
    """Of finished parts: images with a result, objects in them, images without."""

    images: int = 0
    objects: int = 0
    failures: int = 0

    def __add__(self, other: object) -> PartCounts:
        assert isinstance(other, PartCounts)
        return PartCounts(self.images + other.images, self.objects + other.objects, self.failures + other.failures)


class Tries(NamedTuple):
    """Of a part: how often it was begun; blamed: the images, by their places, at which a process ended, once for each
    time; at: the image that is read now, where they are read one by one."""

    begun: int = 0
    blamed: tuple[int, ...] = ()
    at: int | None = None


class Job:
    """A bulk detection whose inputs are listed. form: of FORMS; parts, images: how many there are; repeated: how many
    addresses were given more than once, and are read once."""

    def __init__(self, folder: Folder, values: Mapping[str, Any]) -> None:
        self.folder = folder
        self.asked: Mapping[str, Any] = values["asked"]
        self.form = str(self.asked["form"])
        self.parts, self.images, self.repeated = int(values["parts"]), int(values["images"]), int(values["repeated"])

    @classmethod
    def open(cls, folder: Folder, asked: Mapping[str, Any], inputs: Iterable[Input], block: int) -> Job:
        """The job in the folder, which goes on; or a new one, of parts of `block` images.

        Raises ConfigError for a folder that holds something else, or a job that was asked for otherwise; DataError for
        no image at all.
        """
        asked = json.loads(json.dumps(asked))  # as it reads again
        if _JOB in folder.names():
            job = cls(folder, folder.read(_JOB))
            job._check_asked(asked)
            return job
        if not folder.is_new() and not folder.names() <= {"inputs"}:  # a listing that was stopped begins again
            raise ConfigError(f"--out {printable(folder.place)}: is not empty, and no job of --cluster; give another")
        counts = _write_inputs(folder, inputs, block)
        values = {"asked": asked, **counts}
        folder.write(_JOB, json.dumps(values, indent=1).encode())
        return cls(folder, values)

    def _check_asked(self, asked: Mapping[str, Any]) -> None:
        for name in {*asked, *self.asked}:
            if asked.get(name) != self.asked.get(name):
                there, now = (printable(one.get(name), 80) for one in (self.asked, asked))
                raise ConfigError(
                    f"--out {printable(self.folder.place)}: was begun with {name.replace('_', ' ')} {there}, now {now};"
                    " give the same to go on, or another --out"
                )

    def result_name(self, part: int) -> str:
        """The file of a part's results."""
        return f"part-{part:06d}.{self.form}"

    def unfinished(self) -> list[int]:
        """The parts that are still to be done."""
        there = self.folder.names()
        return [part for part in range(self.parts) if self.result_name(part) not in there]

    def is_finished(self, part: int) -> bool:
        """Whether the results of one part are there."""
        return self.folder.has(self.result_name(part))

    def inputs(self, part: int) -> list[Input]:
        """The images of a part."""
        return [Input(path, name) for path, name in self.folder.read(f"inputs/{part:06d}.json")]

    def begin(self, part: int) -> Tries:
        """Note that a part is begun; gives what became of it before."""
        name = f"tries/{part:06d}.json"
        tries = Tries(**self.folder.read(name)) if self.folder.has(name) else Tries()
        blamed = (*tries.blamed, tries.at) if tries.at is not None else tuple(tries.blamed)
        self.note(part, Tries(tries.begun + 1, blamed))
        return Tries(tries.begun, blamed)

    def note(self, part: int, tries: Tries) -> None:
        """Keep it."""
        self.folder.write(f"tries/{part:06d}.json", json.dumps(tries._asdict()).encode())

    def finish(self, part: int, rows: list[dict[str, Any]], failures: list[dict[str, str]]) -> PartCounts:
        """Write a part: `rows` are those of `Detections.to_dict`, failures have an image and a reason."""
        counts = PartCounts(len(rows), sum(len(row["detections"]) for row in rows), len(failures))
        about = {**counts._asdict(), "list": failures}
        self.folder.write(f"failures/{part:06d}.json", json.dumps(about).encode())
        data = _parquet(rows) if self.form == "parquet" else "".join(json.dumps(row) + "\n" for row in rows).encode()
        self.folder.write(self.result_name(part), data)
        return counts

    def counts_of(self, part: int) -> PartCounts:
        """Of a finished part."""
        about = self.folder.read(f"failures/{part:06d}.json")
        return PartCounts(about["images"], about["objects"], about["failures"])

    def end(self) -> PartCounts:
        """Once no part is unfinished: all failures in one file, and the sums."""
        total, lines = PartCounts(), []
        for part in range(self.parts):
            about = self.folder.read(f"failures/{part:06d}.json")
            total += PartCounts(about["images"], about["objects"], about["failures"])
            lines += [json.dumps(one) + "\n" for one in about["list"]]
        self.folder.write(_FAILURES, "".join(lines).encode())
        summary = {**total._asdict(), "parts": self.parts, "repeated": self.repeated, "complete": True}
        self.folder.write(_SUMMARY, json.dumps(summary, indent=1).encode())
        return total


def _write_inputs(folder: Folder, inputs: Iterable[Input], block: int) -> dict[str, int]:
    counts = {"parts": 0, "images": 0, "repeated": 0}
    once = _once(inputs, counts)
    while some := list(islice(once, block)):
        folder.write(f"inputs/{counts['parts']:06d}.json", json.dumps(some).encode())
        counts["parts"] += 1
        counts["images"] += len(some)
    if not counts["images"]:
        raise DataError("the sources gave no image at all")
    return counts


def _once(inputs: Iterable[Input], counts: dict[str, int]) -> Iterator[Input]:
    """Each path once; rows without one as they are."""
    seen: set[bytes] = set()
    for one in inputs:
        if one.path:
            key = hashlib.blake2b(one.path.encode("utf-8", "surrogateescape"), digest_size=16).digest()
            if key in seen:
                counts["repeated"] += 1
                continue
            seen.add(key)
            if len(seen) > MAX_IMAGES:
                raise DataError(f"more than {MAX_IMAGES} images; give them in several runs, each with its own --out")
        yield one


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    """A row of each image: image, width, height, and lists of boxes, scores, labels and names."""
    with needs("ray", "Parquet"):
        import pyarrow as pa
        from pyarrow import parquet
    schema = pa.schema([
        ("image", pa.string()), ("width", pa.int32()), ("height", pa.int32()),
        ("boxes", pa.list_(pa.list_(pa.float64(), 4))), ("scores", pa.list_(pa.float64())),
        ("labels", pa.list_(pa.int32())), ("names", pa.list_(pa.string())),
    ])  # fmt: skip
    found = [row["detections"] for row in rows]
    columns = {key: [row[key] for row in rows] for key in ("image", "width", "height")}
    columns["image"] = [name.encode("utf-8", "replace").decode() for name in columns["image"]]
    for key, one in (("boxes", "box"), ("scores", "score"), ("labels", "label"), ("names", "name")):
        columns[key] = [[item[one] for item in items] for items in found]
    file = io.BytesIO()
    parquet.write_table(pa.table(columns, schema=schema), file)
    return file.getvalue()

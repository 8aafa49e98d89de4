"""What a run of detection has finished, kept on the disk row by row, so that one that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from singleshot.errors import ConfigError, DataError, printable
from singleshot.files import RowFile, hold_file
from singleshot.runtime.detections import Detections
from singleshot.runtime.sources import Frame

UNFINISHED = "unfinished.jsonl"
_LONGEST_ROW = 64 * 2**20  # bytes: a file from elsewhere must not fill the memory


class Journal:
    """The rows of a run: one for each file that is begun, then one for the image that it belongs to.

    The file is in the folder of results as long as they are not complete. Its first row is the `head` with
    `"complete": false`; each row is on its way to the disk before the next image is worked on.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any]) -> None:
        self._folder, self._path = folder, folder / UNFINISHED
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)
        _hold(self._file, self._path)
        self._rows = RowFile(self._file, held=0, reserve=0)
        if self._file.tell() == 0:
            self._write({"complete": False, **head})

    def _write(self, row: Mapping[str, Any]) -> None:
        self._rows.write(json.dumps(row).encode() + b"\n")

    def begun(self, path: Path) -> None:
        """A file is about to be written, which counts once the row of its image is there."""
        self._write({"file": path.relative_to(self._folder).as_posix()})

    def done(self, frame: Frame, detections: Detections | None) -> None:
        """All that belongs to a frame is written; None: it was skipped."""
        row: dict[str, Any] = {"source": frame.source, "frame": frame.frame, "stamp": _stamp(frame.source)}
        if detections is not None:
            row |= {"image": detections.image, "size": [detections.width, detections.height], "time": detections.time}
            row |= {key: getattr(detections, key).tolist() for key in ("boxes", "scores", "labels")}
            if detections.track_ids is not None:
                row["track_ids"] = detections.track_ids.tolist()
        self._write(row)

    def close(self, complete: bool) -> None:
        """complete: the results are, and the journal goes."""
        self._file.close()
        if complete:
            self._path.unlink(missing_ok=True)


class Finished:
    """What the run before had finished, read from its journal; what it had begun only is removed.

    A video counts as one piece: one that was not finished is begun anew. inputs: how many frames have a row.

    Raises ConfigError where there is no such run, or it had other options, another model or other files.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any]) -> None:
        self._path = folder / UNFINISHED
        if not self._path.is_file():
            raise ConfigError(
                f"--resume: {printable(folder)} holds no run that was stopped (want {UNFINISHED} in it); leave out "
                "--resume, or give the --out of that run"
            )
        with self._path.open("r+b") as file:
            _hold(file, self._path)
            _check_head(_parsed(file.readline(_LONGEST_ROW)) or {}, json.loads(json.dumps(head)))
            self.inputs, self._end, begun = _find_end(file)
            for name in begun:
                path = folder / name
                if path.resolve().is_relative_to(folder.resolve()):  # nothing outside, whatever the file says
                    path.unlink(missing_ok=True)
            file.truncate(self._end)
        self._items = (row for row in self._read() if _begins(row))

    def _read(self) -> Iterator[dict[str, Any]]:
        with self._path.open("rb") as file:
            file.readline()
            while file.tell() < self._end:
                row = _parsed(file.readline(_LONGEST_ROW))
                if row is not None and "source" in row:
                    yield row

    def results(self, class_names: Sequence[str]) -> Iterator[Detections | None]:
        """The results in order, None for an input that was skipped."""
        for row in self._read():
            if "image" not in row:
                yield None
                continue
            labels = np.array(row["labels"], np.int64)
            boxes = np.array(row["boxes"], np.float32).reshape(-1, 4)
            names = tuple(class_names[label] for label in labels)
            scores = np.array(row["scores"], np.float32)
            width, height = row["size"]
            tracks = np.array(row["track_ids"], np.int64) if "track_ids" in row else None
            image, time = row["image"], row["time"]
            yield Detections(boxes, scores, labels, names, image, width, height, time, track_ids=tracks)

    def takes(self, source: str) -> bool:
        """Whether the next file of the sources is finished; they must come as they did. Raises DataError."""
        row = next(self._items, None)
        if row is None:
            return False
        if row["source"] != source:
            self._refuse(f"{printable(source)} comes where {printable(row['source'])} came")
        if row["stamp"] != _stamp(source):
            self._refuse(f"{printable(source)} has changed")
        return True

    def check_all_taken(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """The frames, whose sources must not end before what is finished does. Raises DataError."""
        yield from frames
        row = next(self._items, None)
        if row is not None:
            self._refuse(f"{printable(row['source'])} is not there any more")

    def _refuse(self, what: str) -> NoReturn:
        raise DataError(
            f"--resume: the sources are others than in the run that was stopped: {what}; give another --out"
        )


class _End(NamedTuple):
    """inputs: finished; offset: bytes of the journal that count; begun: files that belong to nothing before it."""

    inputs: int
    offset: int
    begun: list[str]


def _find_end(file: BinaryIO) -> _End:
    """Read on in a journal to where it breaks off, or to where its last video begins when it ends within that."""
    done = in_video = _End(0, file.tell(), [])  # after the last row, and before the video that it belongs to
    files: list[str] = []  # begun since the last row
    last: dict[str, Any] | None = None
    while (row := _parsed(file.readline(_LONGEST_ROW))) is not None:
        if "file" in row:
            files.append(str(row["file"]))
            continue
        if _begins(row):
            in_video = _End(done.inputs, done.offset, [])
        in_video.begun.extend(files)
        files, last = [], row
        done = _End(done.inputs + 1, file.tell(), [])
    if last is not None and last["frame"] is not None:
        return in_video._replace(begun=in_video.begun + files)
    return done._replace(begun=files)


def _begins(row: Mapping[str, Any]) -> bool:
    """Whether it is an image's, or the first of a video."""
    return row["frame"] in (None, 0)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The row of a whole line; None at the end, or where the line was not written to its end."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _stamp(path: str) -> list[int] | None:
    """What changes with a file's content: its size, and when it was written."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a name that is no path at all must not raise ValueError on the way
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def digest(path: str | None) -> str | None:
    """SHA-256 of a file; None where it is none."""
    if path is None or not Path(path).is_file():
        return None
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_head(there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse another run's journal, by the name of the first option or file that differs."""
    before = there.get("options")
    if not isinstance(before, dict) or not isinstance(there.get("files"), dict):
        raise ConfigError(f"--resume: {UNFINISHED} in --out is not that of a run that was stopped; give another --out")
    for name, value in now["options"].items():
        if before.get(name) != value:
            was, given = (json.dumps(one, ensure_ascii=False) for one in (before.get(name), value))
            raise ConfigError(
                f"--resume: {_OPTIONS.get(name) or '--' + name.replace('_', '-')} was {printable(was, 100)} in the run "
                f"that was stopped and is {printable(given, 100)} now; give what it had, or another --out"
            )
    for name, value in now["files"].items():
        if there["files"].get(name) != value:
            raise ConfigError(f"--resume: {printable(name)} has changed since that run was stopped; give another --out")


_OPTIONS = {"model": "MODEL", "sources": "SOURCE", "form": "--format"}


def _hold(file: BinaryIO, path: Path) -> None:
    """Keep other processes from going on with the same run, until the file is closed. On Windows nothing is held."""
    try:
        hold_file(file)
    except OSError as error:
        raise ConfigError(f"{printable(path)}: another process writes results there; give another --out") from error

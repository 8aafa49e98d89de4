"""Runs cases of the corpus in this one process; tests start it, and so may you, to replay a case by its number:

    python tests/datasets/fuzz/driver.py --case 1234 --keep FOLDER     # leaves the data set in FOLDER
    python tests/datasets/fuzz/driver.py --case 1200:1300

Each case gives a line of JSON on standard output. A case passes when everything that is done with the data set gives a
result, findings, or a SingleshotError of one line; within 5 s and 1 GB; when nothing changed outside the folders that
were given for results; and when nothing that lies outside the data set's folder shows up anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
from bases import SECRET_CLASS, SECRET_SIZE, SECRET_TEXT, secrets
from corpus import Case, make_case, write_case

from singleshot.cli import data_check, data_info
from singleshot.datasets import Dataset, Source, open_dataset, open_source
from singleshot.datasets.checks import CheckResult, check_source, duplicates
from singleshot.datasets.checks import images as pictures
from singleshot.datasets.checks.repair import repair
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.formats import written_formats
from singleshot.datasets.raw import RawSet
from singleshot.datasets.statistics import presets
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.datasets.writing import write_dataset
from singleshot.errors import SingleshotError
from singleshot.storage import part_of

SECONDS, HANG_SECONDS, MEGABYTES = 5.0, 60.0, 1024
# Told sizes of images outside; a mutation may say the same size by chance, but not in this form.
_SECRETS = (SECRET_TEXT, SECRET_CLASS, f"is {SECRET_SIZE[0]} x {SECRET_SIZE[1]}", "root:x:0")
_MOST_TEXT = 4000


def serial_spread(work: Callable[[Any], Any], items: Any, *_: Any, **__: Any) -> Iterator[tuple[int, Any]]:
    """In place of the pool of processes: three forks for each case would take longer than all else."""
    for i, item in enumerate(items):
        yield i, work(item)


class Trial:
    """One case: its folders, and what went wrong."""

    def __init__(self, case: Case, work: Path) -> None:
        self.case, self.work = case, work
        self.data, self.out = work / "data", work / "out"
        self.faults: list[str] = []
        self.outcomes: list[str] = []

    def fault(self, step: str, said: str) -> None:
        self.faults.append(f"{step}: {said}")

    def attempt(self, step: str, call: Callable[[], Any]) -> Any:
        """The result; None after an error, which must be of the allowed kind."""
        try:
            result = call()
        except SingleshotError as error:
            self.outcomes.append(f"{step}: refused")
            self.look(step, str(error), one_line=True)
            return None
        except BaseException:
            self.fault(step, traceback.format_exc())
            return None
        self.outcomes.append(f"{step}: done")
        return result

    def look(self, step: str, text: str, one_line: bool = False) -> None:
        """A text that the user would see."""
        if one_line and ("\n" in text or "\r" in text or not text.strip() or len(text) > _MOST_TEXT):
            self.fault(step, f"not one short line: {text[:300]!r} ({len(text)} characters)")
        if "Traceback" in text:
            self.fault(step, f"a traceback: {text[:300]!r}")
        for secret in _SECRETS:
            if secret in text:
                self.fault(step, f"shows {secret!r}, which lies outside: {text[:600]!r}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            self.fault(step, f"cannot be printed: {error}")


# ---------------------------------------------------------------------------------------------- what is done


def try_everything(trial: Trial) -> None:
    case, path = trial.case, trial.data
    if case.named and (path / case.named).is_file():
        path = path / case.named
    source = trial.attempt("open", lambda: open_source(path))
    if source is None:
        return
    problems = CollectErrors()
    raw = trial.attempt("read", lambda: source.read(None, problems))
    for finding in problems.findings[:200]:
        trial.look("read", str(finding), one_line=True)
    for split in (trial.attempt("splits", lambda: source.splits) or ())[:5]:
        dataset = trial.attempt("dataset", lambda split=split: open_dataset(path, split, clip_boxes=case.turn % 3 == 0))
        if dataset is not None:
            try_dataset(trial, dataset)
    result = trial.attempt("check", lambda: check_source(source, workers=1))
    if result is not None:
        show(trial, result)
    if raw is not None:
        look_inside(trial, raw)
    for key, every, call in (
        ("info", 5, lambda: data_info.format_info(data_info.collect(str(path), "ssd300-vgg16", None, True)[0], str(path))),
        ("convert", 4, lambda: raw and convert(trial, raw)),
        ("strict", 3, lambda: raw and convert_strictly(trial, raw)),
        ("shard", 7, lambda: shard(trial, source)),
        ("repair", 6, lambda: result and repair(result, trial.out / "repaired")),
    ):  # fmt: skip
        if case.turn % every == 0:
            done = trial.attempt(key, call)
            trial.look(key, done if isinstance(done, str) else "")


def try_dataset(trial: Trial, dataset: Dataset) -> None:
    for i in range(min(len(dataset), 6)):
        sample = trial.attempt("sample", lambda i=i: dataset.sample(i))
        if sample is not None and sample.image.shape[1::-1] == SECRET_SIZE:
            trial.fault("sample", f"an image from outside: {dataset.names[i]}")
        if trial.case.turn % 3 == 0:
            trial.attempt("picture", lambda i=i: draw(dataset, i))


def draw(dataset: Dataset, i: int) -> None:
    """As training reads an image, in all the sizes that it may ask for."""
    picture = dataset.picture(i)
    for reduce in picture.reductions:
        found, wanted = picture.pixels(reduce).shape[:2], (-(-picture.height // reduce), -(-picture.width // reduce))
        if found != wanted:
            raise AssertionError(f"{picture.name}: {found} pixels by {reduce}, want {wanted}")


def show(trial: Trial, result: CheckResult) -> None:
    """As the command prints it."""
    held = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(held):
        trial.attempt("print", lambda: data_check._print_findings(result, 10, quiet=False))
    held.flush()
    trial.look("print", held.buffer.getvalue().decode())  # type: ignore[attr-defined]
    trial.look("json", trial.attempt("json", lambda: json.dumps(result.to_dict())) or "")


def look_inside(trial: Trial, raw: RawSet) -> None:
    """No image, and no class, may come from outside."""
    inside = os.path.realpath(trial.data) + os.sep
    for image in raw.images:
        part = part_of(image.path)
        if not os.path.realpath(image.path if part is None else part.file).startswith(inside):
            trial.fault("read", f"an image from outside: {image.path!r}")
    trial.look("classes", " ".join(raw.class_names).encode("utf-8", "replace").decode())


def convert(trial: Trial, raw: RawSet) -> None:
    form = list(written_formats())[trial.case.turn // 4 % len(written_formats())]
    out = trial.out / "converted"
    write_dataset(raw, out, form)
    look_at_output(trial, out)
    again = open_source(out).read(None, CollectErrors())
    if any(image.width * image.height == SECRET_SIZE[0] * SECRET_SIZE[1] for image in again.images):
        trial.fault("convert", "an image from outside")


def convert_strictly(trial: Trial, raw: RawSet) -> None:
    """As the command does: what it writes has no error."""
    form = list(written_formats())[trial.case.number // 3 % len(written_formats())]
    out = trial.out / "strictly"
    write_dataset(raw, out, form, strict=True, clip_boxes=trial.case.number % 2 == 0)
    look_at_output(trial, out)
    found = check_source(open_source(out), workers=1)
    if found.severity("error"):
        trial.fault("strict", f"{form}: {[str(one) for one in found.findings if one.severity == 'error'][:3]}")


def shard(trial: Trial, source: Source) -> None:
    write_shards(read_contents(source, clip_boxes=True), trial.out / "shards")
    look_at_output(trial, trial.out / "shards")


def look_at_output(trial: Trial, folder: Path) -> None:
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                trial.fault("output", f"no plain file: {path!r}")
            elif path.is_file() and any(s.encode() in path.read_bytes() for s in (SECRET_TEXT, SECRET_CLASS)):
                trial.fault("output", f"holds what lies outside: {path!r}")


# ---------------------------------------------------------------------------------------------- the frame


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """Every name in a folder with what a write would change."""
    found = {}
    todo = [str(folder)]
    while todo:
        for entry in os.scandir(todo.pop()):
            told = entry.stat(follow_symlinks=False)
            found[entry.path] = (told.st_mode, told.st_size, told.st_mtime_ns, told.st_ino)
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
    return found


def run_case(case: Case, work: Path) -> dict[str, Any]:
    """work: a folder for this case alone, with `outside` and `temporary` in it already."""
    trial = Trial(case, work)
    write_case(case, trial.data, work / "outside")
    trial.out.mkdir()
    before = snapshot(work)
    wall, cpu = time.perf_counter(), time.process_time()
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=sys.__stderr__)
    try_everything(trial)
    faulthandler.cancel_dump_traceback_later()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # Of a machine with more to do than this, only the processor's time says something.
    if min(wall, cpu) > SECONDS or wall > HANG_SECONDS / 2:
        trial.fault("time", f"{wall:.1f} s, {cpu:.1f} s of the processor")
    after = snapshot(work)
    free = (str(trial.out), str(work / "temporary"))  # a temporary file may come there and go
    for name in sorted(set(before) | set(after)):
        if before.get(name) != after.get(name) and name not in free and not name.startswith(free[0] + os.sep):
            trial.fault("write", f"{name!r} was {before.get(name)}, is {after.get(name)}")
    left = [path.name for path in trial.out.iterdir() if path.name.startswith(".part-")]
    if left:
        trial.fault("write", f"left behind: {left}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if memory > MEGABYTES:
        trial.fault("memory", f"{memory} MB")
    return {"case": case.number, "form": case.form, "about": case.about, "faults": trial.faults, "seconds": round(cpu, 3),
            "megabytes": memory, "outcomes": trial.outcomes}  # fmt: skip


def prepare(work: Path) -> None:
    (work / "outside").mkdir(parents=True)
    (work / "temporary").mkdir()
    for name, data in secrets().items():
        (work / "outside" / name).write_bytes(data)
    tempfile.tempdir = str(work / "temporary")
    os.chdir(work / "outside")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", required=True, help="a number, or FIRST:END")
    parser.add_argument("--keep", type=Path, help="a folder that is left there, for one case")
    arguments = parser.parse_args()
    first, _, end = arguments.case.partition(":")
    numbers = range(int(first), int(end or int(first) + 1))
    warnings.simplefilter("error", RuntimeWarning)
    pictures.spread = duplicates.spread = serial_spread  # type: ignore[assignment]
    cv2.setNumThreads(0)
    presets()  # imports what costs seconds
    # What decoders print is looked at there; the traceback of a crash goes to the real one.
    sys.__stderr__ = sys.stderr = os.fdopen(os.dup(2), "w")
    faulthandler.enable(sys.stderr)
    os.dup2(os.open(tempfile.mkstemp()[1], os.O_RDWR), 2)
    root = (arguments.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))).resolve()
    work = root / "work"
    try:
        prepare(work)
        for number in numbers:
            print(json.dumps({"start": number}), flush=True)
            case = make_case(number)
            print(json.dumps(run_case(case, work)), flush=True)
            if arguments.keep is None:
                shutil.rmtree(work / "data", ignore_errors=True)
                shutil.rmtree(work / "out", ignore_errors=True)
    finally:
        os.chdir("/")
        if arguments.keep is None:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()

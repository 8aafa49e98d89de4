"""Measuring engines side by side: a process for each, turns in rounds, medians.

A candidate is a process of its own, so that none profits or suffers from another's settings, threads or memory. In
every round every candidate has its turn at every task, one after another, so that a drifting machine hits all alike;
what is said about two of them is the median over the rounds of their ratio in the same round.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import numpy as np

from singleshot.errors import ConfigError, printable

# network: raw outputs alone; detect: with decoding and NMS; memory: an image in memory to boxes in its pixels;
# files: the same from image files.
TASKS = ("network", "detect", "memory", "files")
ANSWER_S = 600.0  # a candidate that says nothing for so long has failed
_WARM_CALLS = 2
Cell = tuple[str, int]  # task and batch


@dataclass(frozen=True)
class Candidate:
    """What a process measures.

    engine: torch, onnxruntime, openvino or torchvision; file: the model (of torchvision: the name of its builder);
    network: a file with raw outputs for the task "network" (None: not measured; torch needs none); threads: None for
    the engine's own default; variant: "", "graphs" or "compile" (torch on CUDA), "untrained" (torchvision); classes: of
    torchvision's model.
    """

    name: str
    engine: str
    precision: str
    file: str
    network: str | None = None
    device: str = "cpu"
    variant: str = ""
    threads: int | None = None
    classes: int = 0
    cells: tuple[Cell, ...] = ()


@dataclass
class Measured:
    """What came of a candidate. seconds: by cell, for each round those of every call; images: of one call by cell;
    failures: by cell why it could not be measured, under None why the candidate could not run at all; start_s and
    peak_mb: see `probe`."""

    candidate: Candidate
    seconds: dict[Cell, list[list[float]]] = field(default_factory=dict)
    images: dict[Cell, int] = field(default_factory=dict)
    failures: dict[Cell | None, str] = field(default_factory=dict)
    start_s: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)


class CandidateError(Exception):
    """A candidate could not do what it was asked; the reason in one line."""


class Worker:
    """A candidate's process. Use as a context manager: leaving it ends the process, whatever it is doing."""

    def __init__(self, candidate: Candidate, pictures: Sequence[str]) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        environment = dict(os.environ)
        if candidate.threads is not None:
            environment["OMP_NUM_THREADS"] = str(candidate.threads)
        # A session of its own: Ctrl-C reaches the command alone, which then ends all workers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "singleshot.bench.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._said, text=True, encoding="utf-8", env=environment, start_new_session=True,
        )  # fmt: skip
        self._job = {**asdict(candidate), "pictures": list(pictures)}

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._said.close()

    def start(self, only_first: bool = False) -> dict[str, Any]:
        """Load the model; with only_first it detects once and no more. Raises CandidateError."""
        return self.ask({**self._job, "only_first": only_first})

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer. Raises CandidateError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        patience = threading.Timer(ANSWER_S, self._process.kill)
        patience.start()
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:  # it is gone
            line = ""
        finally:
            patience.cancel()
        if not line:
            raise CandidateError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise CandidateError(printable(answer["failed"], 300))
        return answer

    def _last_words(self) -> str:
        self._process.kill()
        code = self._process.wait()
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 4000))
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        why = f", {printable(lines[-1], 160)}" if lines else ""
        return f"its process ended or was ended after {ANSWER_S:.0f} s (code {code}{why})"


def race(
    candidates: Sequence[Candidate],
    pictures: Sequence[str],
    rounds: int,
    turn_s: float = 0.3,
    on_step: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """All candidates in turns of about turn_s seconds; one that fails is reported, the others go on.

    pictures: paths of image files. Calls on_step after every turn, `steps` times at most.
    """
    results = [Measured(candidate) for candidate in candidates]
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for result in results:
            worker = stack.enter_context(Worker(result.candidate, pictures))
            try:
                worker.start()
                workers[result.candidate.name] = worker
            except CandidateError as failure:
                result.failures[None] = str(failure)
        for number in range(rounds + 1):
            for cell in cells_of(candidates):
                for result in results:
                    if cell in result.candidate.cells:
                        _turn(workers.get(result.candidate.name), result, cell, 0.0 if number == 0 else turn_s)
                        on_step()
    return results


def steps(candidates: Sequence[Candidate], rounds: int) -> int:
    """How many turns a race has."""
    return (rounds + 1) * sum(len(candidate.cells) for candidate in candidates)


def cells_of(candidates: Sequence[Candidate]) -> list[Cell]:
    """Every task and batch that some candidate measures, batch by batch."""
    cells = {cell for candidate in candidates for cell in candidate.cells}
    return sorted(cells, key=lambda cell: (cell[1], TASKS.index(cell[0])))


def _turn(worker: Worker | None, result: Measured, cell: Cell, seconds: float) -> None:
    """One turn; without seconds it prepares, and its times do not count."""
    if worker is None or None in result.failures or cell in result.failures:
        return
    task, batch = cell
    try:
        answer = worker.ask({"task": task, "batch": batch, "seconds": seconds, "calls": _WARM_CALLS})
    except CandidateError as failure:
        result.failures[cell] = str(failure)
        result.seconds.pop(cell, None)
        return
    result.images[cell] = int(answer["images"])
    if seconds:
        result.seconds.setdefault(cell, []).append([float(value) for value in answer["seconds"]])


def probe(result: Measured, pictures: Sequence[str], times: int = 1) -> None:
    """Fresh processes that do nothing but detect in image files, one at a time: seconds from their start, imports and
    loading included, to the first detection, and the most memory that they ever had, in MB."""
    for _ in range(times):
        if None in result.failures:
            return
        started = time.perf_counter()
        with Worker(result.candidate, pictures) as worker:
            try:
                worker.start(only_first=True)
                taken = time.perf_counter() - started
                peak = worker.ask({"peak": True})["peak_mb"]
            except CandidateError as failure:
                result.failures[None] = str(failure)
                return
        result.start_s.append(taken)
        if peak is not None:
            result.peak_mb.append(float(peak))


def ratios(results: Sequence[Measured], peer: str, cell: Cell, peer_cell: Cell | None = None) -> dict[str, float]:
    """By name, how many times the peer's images per second every candidate does: medians of each round's ratio."""
    rates = {result.candidate.name: dict(_rates(result, cell)) for result in results}
    theirs = next((r for r in results if r.candidate.name == peer), None)
    if theirs is None:
        return {}
    base = dict(_rates(theirs, peer_cell or cell))
    found = {}
    for name, own in rates.items():
        pairs = [own[turn] / base[turn] for turn in own if turn in base]
        if pairs and name != peer:
            found[name] = statistics.median(pairs)
    return found


def _rates(result: Measured, cell: Cell) -> Iterator[tuple[int, float]]:
    """Images per second of every round."""
    for turn, calls in enumerate(result.seconds.get(cell, [])):
        yield turn, result.images[cell] / statistics.median(calls)


def cell_summary(result: Measured, cell: Cell) -> dict[str, float] | None:
    """Percentiles of a call's milliseconds over all rounds, and images per second, the median of the rounds."""
    rounds = result.seconds.get(cell)
    if not rounds:
        return None
    calls = np.array([value for part in rounds for value in part]) * 1000
    p50, p90, p99 = np.percentile(calls, (50, 90, 99)).tolist()
    rate = statistics.median(rate for _, rate in _rates(result, cell))
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "images_per_s": rate, "calls": len(calls),
            "images_per_call": result.images[cell]}  # fmt: skip


def summary(result: Measured) -> dict[str, Any]:
    """Everything about a candidate as plain values; `tasks` by task and batch, `best_batch` by task."""
    tasks: dict[str, dict[str, Any]] = {}
    for task, batch in result.candidate.cells:
        found = cell_summary(result, (task, batch))
        if found is not None:
            tasks.setdefault(task, {})[str(batch)] = found
    best = {task: int(max(by, key=lambda key: by[key]["images_per_s"])) for task, by in tasks.items()}
    candidate = result.candidate
    failures = {"all" if cell is None else f"{cell[0]}, batch {cell[1]}": why for cell, why in result.failures.items()}
    return {
        "name": candidate.name, "engine": candidate.engine, "precision": candidate.precision,
        "device": candidate.device, "variant": candidate.variant, "tasks": tasks, "best_batch": best,
        "start_s": statistics.median(result.start_s) if result.start_s else None,
        "peak_mb": statistics.median(result.peak_mb) if result.peak_mb else None, "failures": failures,
    }  # fmt: skip


def check_numbers(batches: Sequence[int], rounds: int, threads: int | None) -> None:
    """Raise ConfigError for one that is out of range."""
    if not batches or any(not 1 <= batch <= 1024 for batch in batches):
        raise ConfigError(f"--batch {','.join(map(str, batches))}: want numbers from 1 to 1024, such as 1,8")
    if not 1 <= rounds <= 1000:
        raise ConfigError(f"--rounds {rounds}: want 1 to 1000")
    if threads is not None and not 1 <= threads <= 1024:
        raise ConfigError(f"--threads {threads}: want 1 to 1024")

"""Measuring engines side by side: a process for each, turns in rounds, medians.

A candidate is a process of its own, so that none profits or suffers from another's settings, threads or memory. In
every round every candidate has its turn at every task, one after another, so that a drifting machine hits all alike;
two of them are compared by the median over the rounds of their ratio in the same round.
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
from typing import IO, Any

import numpy as np

from singleshot.bench.records import KINDS, Candidate, Job, Measured, Task
from singleshot.errors import printable

ANSWER_S = 600.0  # a candidate that answers nothing for so long has failed
_WARM_CALLS = 2


class CandidateError(Exception):
    """A candidate could not do what it was asked; the reason in one line."""


class Worker:
    """A candidate's process. Use as a context manager: leaving it ends the process, whatever it is doing."""

    def __init__(self, candidate: Candidate, images: Sequence[str]) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        environment = dict(os.environ)
        if candidate.threads is not None:
            environment["OMP_NUM_THREADS"] = str(candidate.threads)
        # A session of its own: Ctrl-C reaches the command alone, which then ends all workers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "singleshot.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,
        )
        self._candidate, self._images = candidate, list(images)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._log.close()

    def start(self, only_first: bool = False) -> None:
        """Load the model; with only_first it detects once and no more. Raises CandidateError."""
        self.ask(Job(self._candidate, self._images, only_first).to_dict())

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer: to {} the most memory that it had, else to the arguments of a turn. Raises CandidateError."""
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
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 4000))
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        why = f", {printable(lines[-1], 160)}" if lines else ""
        return f"its process ended or was ended after {ANSWER_S:.0f} s (code {code}{why})"


def race(
    candidates: Sequence[Candidate],
    images: Sequence[str],
    rounds: int,
    turn_s: float = 0.3,
    on_step: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """All candidates in turns; one that fails is reported, the others go on.

    Args:
        candidates: What is measured, each under a name of its own.
        images: Paths of image files.
        rounds: How many turns of each count; one more prepares.
        turn_s: About how many seconds a turn takes.
        on_step: Called after every turn, `steps` times.
    """
    results = [Measured(candidate) for candidate in candidates]
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for result in results:
            worker = stack.enter_context(Worker(result.candidate, images))
            try:
                worker.start()
                workers[result.candidate.name] = worker
            except CandidateError as failure:
                result.failures[None] = str(failure)
        for number in range(rounds + 1):
            for task in tasks_of(candidates):
                for result in results:
                    if task in result.candidate.tasks:
                        _turn(workers.get(result.candidate.name), result, task, 0.0 if number == 0 else turn_s)
                        on_step()
    return results


def steps(candidates: Sequence[Candidate], rounds: int) -> int:
    """How many turns a race has."""
    return (rounds + 1) * sum(len(candidate.tasks) for candidate in candidates)


def tasks_of(candidates: Sequence[Candidate]) -> list[Task]:
    """Every task that some candidate has, batch by batch."""
    tasks = {task for candidate in candidates for task in candidate.tasks}
    return sorted(tasks, key=lambda task: (task.batch, KINDS.index(task.kind)))


def _turn(worker: Worker | None, result: Measured, task: Task, seconds: float) -> None:
    """One turn; without seconds it prepares, and its times do not count."""
    if worker is None or None in result.failures or task in result.failures:
        return
    try:
        answer = worker.ask({"task": task, "seconds": seconds, "calls": _WARM_CALLS})
    except CandidateError as failure:
        result.failures[task] = str(failure)
        result.seconds.pop(task, None)
        return
    result.images[task] = int(answer["images"])
    if seconds:
        result.seconds.setdefault(task, []).append([float(value) for value in answer["seconds"]])


def probe(result: Measured, images: Sequence[str], times: int = 1) -> None:
    """Add start-up and memory to a candidate's figures, from processes that only detect in image files, one at a time.

    `start_s` are seconds from the start of the process, imports and loading included, to the first detection; `peak_mb`
    is the most memory that it ever had.
    """
    for _ in range(times):
        if None in result.failures:
            return
        started = time.perf_counter()
        with Worker(result.candidate, images) as worker:
            try:
                worker.start(only_first=True)
                taken = time.perf_counter() - started
                peak = worker.ask({})["peak_mb"]
            except CandidateError as failure:
                result.failures[None] = str(failure)
                return
        result.start_s.append(taken)
        if peak is not None:
            result.peak_mb.append(float(peak))


def ratios(results: Sequence[Measured], peer: str, task: Task, peer_task: Task | None = None) -> dict[str, float]:
    """By name, how many times the peer's images per second every candidate does: medians of each round's ratio.

    peer_task: what the peer does meanwhile, if it is something else.
    """
    theirs = next((result for result in results if result.candidate.name == peer), None)
    base = {} if theirs is None else dict(_rates(theirs, peer_task or task))
    found = {}
    for result in results:
        pairs = [rate / base[turn] for turn, rate in _rates(result, task) if turn in base]
        if pairs and result is not theirs:
            found[result.candidate.name] = statistics.median(pairs)
    return found


def _rates(result: Measured, task: Task) -> Iterator[tuple[int, float]]:
    """Images per second of every round."""
    for turn, calls in enumerate(result.seconds.get(task, [])):
        yield turn, result.images[task] / statistics.median(calls)


def task_summary(result: Measured, task: Task) -> dict[str, float] | None:
    """Percentiles of a call's milliseconds over all rounds, and images per second, the median of the rounds; None where
    it was not measured."""
    rounds = result.seconds.get(task)
    if not rounds:
        return None
    calls = np.array([value for part in rounds for value in part]) * 1000
    names = ("p50_ms", "p90_ms", "p99_ms")
    return {
        **dict(zip(names, np.percentile(calls, (50, 90, 99)).tolist(), strict=True)),
        "images_per_s": statistics.median(rate for _, rate in _rates(result, task)),
        "calls": len(calls),
        "images_per_call": result.images[task],
    }


def summary(result: Measured) -> dict[str, Any]:
    """Everything about a candidate for JSON; `tasks` by kind and batch, `best_batch` by kind."""
    tasks: dict[str, dict[str, Any]] = {}
    candidate = result.candidate
    for task in candidate.tasks:
        found = task_summary(result, task)
        if found is not None:
            tasks.setdefault(task.kind, {})[str(task.batch)] = found
    return {
        **{name: getattr(candidate, name) for name in ("name", "engine", "precision", "device")},
        "tasks": tasks,
        "best_batch": {kind: int(max(by, key=lambda key: by[key]["images_per_s"])) for kind, by in tasks.items()},
        "start_s": statistics.median(result.start_s) if result.start_s else None,
        "peak_mb": statistics.median(result.peak_mb) if result.peak_mb else None,
        "failures": {
            "all" if task is None else f"{task.kind}, batch {task.batch}": why for task, why in result.failures.items()
        },
    }

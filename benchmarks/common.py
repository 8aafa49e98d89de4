"""What the benchmarks share: medians of interleaved runs, so that a drifting machine hits both sides alike."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from singleshot.devices import cores, processor_name
from singleshot.timing import seconds_of, time_in_turns


def machine() -> str:
    """Processor, cores and versions, for the head of a result."""
    name = f"{cores()} x {processor_name()}"
    if torch.cuda.is_available():
        name += f", {torch.cuda.get_device_name()}"
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"


def command(*words: object) -> dict[str, Any]:
    """What a command of singleshot prints as JSON. Raises RuntimeError with its last line where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "singleshot", *map(str, words), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def folder_name(name: str) -> str:
    """Letters, digits, dots and dashes of a row's name, for its files."""
    return re.sub(r"[^a-z0-9.-]+", "_", name.lower()).strip("_")


def race(candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of every candidate in every round; each round runs all of them in turn."""
    return time_in_turns(candidates, rounds, warmup, wait)


def race_processes(names: list[str], rounds: int, arguments: list[str]) -> dict[str, list[float]]:
    """The same with a process for each candidate, so that none profits or suffers from another's settings.

    The calling script is started again with `--candidate NAME`; there it must call `serve`.
    """
    command = [sys.executable, sys.argv[0], *arguments, "--candidate"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    processes: dict[str, subprocess.Popen[str]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    try:
        for name in names:
            processes[name] = subprocess.Popen([*command, name], **pipes)  # type: ignore[call-overload]
            assert processes[name].stdout.readline() == "ready\n", name  # type: ignore[union-attr]
        for _ in range(rounds):
            for name, process in processes.items():
                process.stdin.write("go\n")  # type: ignore[union-attr]
                seconds[name].append(float(process.stdout.readline()))  # type: ignore[union-attr]
    finally:
        for process in processes.values():
            process.kill()
    return seconds


def serve(run: Callable[[], object], warmup: int = 3, steps: int = 1) -> None:
    """The candidate's side of `race_processes`: one turn is `steps` runs, more than a loader can have ready."""
    for _ in range(warmup):
        run()
    wait()
    print("ready", flush=True)

    def turn() -> None:
        for _ in range(steps):
            run()

    for _ in sys.stdin:
        print(seconds_of(turn, wait) / steps, flush=True)


def wait() -> None:
    """Let the accelerator finish."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """How many times faster `fast` is: the median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def resident_mb() -> float:
    """Memory of this process and its children in MB, shared pages counted by share.

    Without mapped files: how much of a library's pages falls to a process depends on who else has it open.
    """
    pids = [os.getpid()]
    pids += [int(p) for p in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1])
    return total / 1024


def tell(title: str, result: Mapping[str, object]) -> None:
    """Print the result as text and, with --json, as one JSON line."""
    if "--json" in sys.argv:
        print(json.dumps({"title": title, "machine": machine(), **result}))
        return
    print(f"{title}\n{machine()}")
    for key, value in result.items():
        print(f"  {key:<58} {value:.4g}" if isinstance(value, float) else f"  {key:<58} {value}")

"""What can be asked of a benchmark. Imports nothing heavy: the command's help speaks of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from singleshot.errors import ConfigError, did_you_mean, printable
from singleshot.runtime.engines.table import ENGINES as TABLE

ENGINES = ("torch", *sorted(name for name, row in TABLE.items() if row.files))
PRECISIONS = ("float32", "bfloat16", "float16", "int8", "int8-bfloat16")
DEVICES = ("auto", "cpu", "cuda")
PEERS = ("torchvision",)


@dataclass(frozen=True)
class BenchOptions:
    """What the user asked for; checked when it is made.

    engines, precisions: None for whatever is here; device: auto (the CPU, and CUDA where there is one), cpu, cuda;
    batches: images in a call; threads: of every engine, None for all cores; images: an image, a folder or a pattern,
    None for drawn scenes; int8: a file of the same model, quantised; rounds: turns of every candidate; versus: None or
    one of PEERS; classes: of a preset.

    Raises:
        ConfigError: One of them is unknown or out of range.
    """

    engines: tuple[str, ...] | None = None
    precisions: tuple[str, ...] | None = None
    device: str = "auto"
    batches: tuple[int, ...] = (1, 8)
    threads: int | None = None
    images: str | None = None
    int8: str | None = None
    rounds: int = 5
    versus: str | None = None
    classes: int = 20

    def __post_init__(self) -> None:
        _check_names("--engines", self.engines, ENGINES)
        _check_names("--precisions", self.precisions, PRECISIONS)
        _check_names("--device", (self.device,), DEVICES)
        _check_names("--versus", None if self.versus is None else (self.versus,), PEERS)
        _check_numbers("--batch", self.batches, 1024, "numbers from 1 to 1024, such as 1,8")
        _check_numbers("--rounds", (self.rounds,), 1000, "1 to 1000")
        _check_numbers("--threads", (1 if self.threads is None else self.threads,), 1024, "1 to 1024")
        _check_numbers("--classes", (self.classes,), 10_000, "1 to 10000")


def _check_names(option: str, names: Sequence[str] | None, known: Sequence[str]) -> None:
    for name in names or ():
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"{option} {printable(name, 40)!r}: want some of {','.join(known)}{hint}")
    if names is not None and not names:
        raise ConfigError(f"{option}: want some of {','.join(known)}")


def _check_numbers(option: str, numbers: Sequence[int], most: int, wanted: str) -> None:
    if not numbers or any(not 1 <= number <= most for number in numbers):
        raise ConfigError(f"{option} {','.join(map(str, numbers))}: want {wanted}")

"""What is measured, and what came of it. Imports nothing heavy: a candidate's process starts with this."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

KINDS = ("network", "detect", "memory", "files")


class Task(NamedTuple):
    """What a candidate is asked to do.

    kind: "network" for raw outputs alone, "detect" with decoding and NMS, "memory" from an image in memory to boxes in
    its pixels, "files" the same from image files; batch: images in a call.
    """

    kind: str
    batch: int


@dataclass(frozen=True)
class Candidate:
    """What a process measures.

    engine: torch, an engine of exported files, or torchvision; file: the model (of torchvision: the name of its
    builder); runner: what makes it run, a function of a Job, as "module:function" or "path/of/file.py:function";
    network: a file with raw outputs for the kind "network" (None: not measured); threads: None for the engine's own
    default; classes: of torchvision's model.
    """

    name: str
    engine: str
    precision: str
    file: str
    runner: str
    network: str | None = None
    device: str = "cpu"
    threads: int | None = None
    classes: int = 0
    tasks: tuple[Task, ...] = ()


class Job(NamedTuple):
    """What a candidate's process is started with. images: paths of files; only_first: it detects once and no more."""

    candidate: Candidate
    images: list[str]
    only_first: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "candidate": asdict(self.candidate)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Job:
        """From what `to_dict` gave, tuples having become lists."""
        candidate = Candidate(**{**values["candidate"], "tasks": tuple(Task(*t) for t in values["candidate"]["tasks"])})
        return cls(candidate, values["images"], values["only_first"])


@dataclass
class Measured:
    """What came of a candidate.

    seconds: by task, for each round those of every call; images: of one call by task; failures: by task why it could
    not be measured, under None why the candidate could not run at all; start_s and peak_mb: see `race.probe`.
    """

    candidate: Candidate
    seconds: dict[Task, list[list[float]]] = field(default_factory=dict)
    images: dict[Task, int] = field(default_factory=dict)
    failures: dict[Task | None, str] = field(default_factory=dict)
    start_s: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)

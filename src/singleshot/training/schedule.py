"""How the learning rate changes, as a pure function of how far the training is."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MOST_EXPECTED = 0.5  # part of a budget of time that is kept for a validation of which no time is known yet
_LATE = 0.1  # part of a budget by which a training may be late without a word


def lr_factor(
    progress: float,
    schedule: str,
    warmup: float = 0.0,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    final: float = 0.0,
) -> float:
    """Factor on the learning rate at `progress` (0 at the first step, 1 at the end).

    During `warmup` it rises in a line from a tenth; after it "step" multiplies by gamma at each milestone and
    "cosine" falls from 1 to `final`.
    """
    progress = min(max(progress, 0.0), 1.0)
    rise = 1.0 if progress >= warmup else 0.1 + 0.9 * progress / warmup
    if schedule == "step":
        return rise * gamma ** sum(progress >= m for m in milestones)
    rest = (progress - warmup) / (1.0 - warmup) if progress > warmup else 0.0
    return rise * (final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * rest)))


class Budget:
    """How far a training is: by steps, or by seconds where a wall-clock budget is given.

    total_steps: of the whole training (None with a wall-clock budget); seconds: the budget; reserve: seconds that are
    kept back for the last validation.
    """

    def __init__(self, total_steps: int | None, seconds: float | None = None) -> None:
        assert (total_steps is None) != (seconds is None), "steps or seconds, one of the two"
        self.total_steps, self.seconds = total_steps, seconds
        self.reserve = self._furthest = 0.0

    def furthest(self, progress: float) -> float:
        """The greatest progress that was asked about: what falls with it never rises again where less time has to be
        kept back than was expected."""
        self._furthest = max(self._furthest, progress)
        return self._furthest

    def progress(self, step: int, seconds: float) -> float:
        """0..1 after so many steps and seconds; 1 means that no further step should start."""
        if self.seconds is not None:
            return min(1.0, seconds / max(self.seconds - self.reserve, 1e-9))
        assert self.total_steps is not None
        return min(1.0, step / max(self.total_steps, 1))

    def expect(self, seconds: float) -> None:
        """Keep time back for a validation that may take so long, before the first one shows how long it takes: an epoch
        may be longer than the whole budget. Half of the budget at least is for training."""
        if self.seconds is not None:
            self.reserve = min(seconds, _MOST_EXPECTED * self.seconds)

    def is_late(self, seconds: float, spent: float) -> bool:
        """Whether `seconds` are well past the budget of time for a validation that took the last `spent` of them."""
        late = seconds - self.seconds if self.seconds is not None else 0.0
        return self.seconds is not None and late > _LATE * self.seconds and spent > late / 2

    def seconds_left(self, progress: float, seconds: float) -> float | None:
        """What is still to come after `seconds`; None where it is too early to tell."""
        if self.seconds is not None:
            return self.seconds - seconds
        return seconds * (1 - progress) / progress if progress > 0.005 else None

    def warmup(self, part: float, steps: int) -> float:
        """Warm-up as a part of the training, but no longer than that number of steps where they are counted."""
        return part if self.total_steps is None else min(part, steps / max(self.total_steps, 1))

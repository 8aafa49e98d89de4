"""A training by several processes, as torchrun starts them: its options, and what the first of them does alone."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from singleshot.api.train_options import TrainOptions, resolve
from singleshot.devices import pick_device, read_launch
from singleshot.extras import needs

if TYPE_CHECKING:
    from singleshot.training.distributed import World

T = TypeVar("T")


@contextlib.contextmanager
def together(given: TrainOptions) -> Iterator[tuple[TrainOptions, World | None]]:
    """The options of a run, as `resolve` gives them, and the processes that train it while entered; None for one alone.

    Raises as `resolve`, and ConfigError where the processes do not meet or one has no device of its own.
    """
    launch = read_launch()
    if launch.size == 1:
        yield resolve(given), None
        return
    with needs("train", "training"):
        from singleshot.training.distributed import joined

    device = pick_device(given.device, launch)
    with joined(launch, device) as world:
        values = on_first(world, lambda: resolve(given).to_dict())
        yield replace(TrainOptions.from_dict(values), device=str(device)), world


def on_first(world: World | None, make: Callable[[], T]) -> T:
    """What `make` gives in the first process, plain values; raises as `World.meet` does."""
    if world is None:
        return make()
    from singleshot.training.distributed import Message

    value: T = world.from_first(lambda: Message(make(), {})).values
    return value


def on_each(world: World | None, make: Callable[[], T]) -> T:
    """What `make` gives here; raises as `World.meet` does where it fails in any process."""
    return make() if world is None else world.each(make)


def go_on(folder: Path, world: World | None) -> str:
    """The command that goes on with a run, as it was started."""
    processes = 1 if world is None else world.local_size
    start = "singleshot" if processes == 1 else f"torchrun --nproc-per-node {processes} -m singleshot"
    return f"{start} train --resume --out {shlex.quote(str(folder))}"

"""Several processes that train together, as torchrun starts them: what they agree on, and what they gather.

Tensors of a step go by the backend of the device (gloo or NCCL), on the cores of one machine by `local_exchange`; what
the processes agree on goes by gloo in a group of its own, so that a process that fails between two steps still reaches
the others. Messages are JSON and plain tensors: nothing that comes from the network is unpickled.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from singleshot.devices import Launch
from singleshot.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MissingExtraError,
    OtherProcessError,
    printable,
)
from singleshot.losses import SharedBatch
from singleshot.training import local_exchange
from singleshot.training.failures import TrainingStoppedError, describe

# Longer than a loader's worker may hang before it is replaced (`loading.workers`), which the others wait for.
PATIENCE_SECONDS = 900.0
_BUCKET_BYTES = 25 << 20  # of gradients that are summed at once, as PyTorch's DistributedDataParallel
_TEXT = "json"
_KINDS = {kind.__name__: kind for kind in (CheckpointError, ConfigError, DataError, MissingExtraError)}

T = TypeVar("T")


class Message(NamedTuple):
    """Plain values and tensors by name."""

    values: Any
    tensors: dict[str, Tensor]


class LostProcessError(TrainingStoppedError):
    """Another process ended without a word, or cannot be reached."""


class World:
    """The processes that train together: this is `rank` of `size`, on `device`.

    seconds: the first process' clock when they last agreed; ended: whether all know that the training ends; lost:
    whether one cannot be reached any more, or failed in the middle of a step, where the others wait for it.
    """

    def __init__(self, launch: Launch, device: torch.device, control: Any) -> None:
        self.rank, self.size, self.local_size = launch.rank, launch.size, launch.local_size
        self.device, self.control = device, control
        self.now: Callable[[], float] = time.monotonic
        self.asked_to_stop: Callable[[], bool] = lambda: False
        self.seconds, self.ended, self.lost = 0.0, False, False
        self.local: local_exchange.LocalExchange | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def words(self) -> str:
        """Which one this is."""
        return f"process {self.rank} of {self.size} ({socket.gethostname()})"

    # --------------------------------------------------------------------------------------------- agreement

    def meet(self, error: Exception | None = None, notes: Sequence[str] = ()) -> list[str]:
        """Every process comes here between two steps; gives the notes of all.

        Args:
            error: What ended this one.
            notes: What is to be counted.

        Raises:
            KeyboardInterrupt: One was asked to stop.
            SingleshotError: One has failed: in the first process what it says, in the others OtherProcessError.
            LostProcessError: One cannot be reached.
        """
        clock = int(self.now() * 1e9)
        own = torch.tensor([self.asked_to_stop(), error is not None, bool(notes), clock], dtype=torch.int64)
        stops, errors, noted, clocks = torch.stack(self._gather(own)).unbind(1)
        self.seconds = int(clocks[0]) / 1e9
        if errors.any():
            self._raise(error)
        if stops.any():
            self.ended = True
            raise KeyboardInterrupt
        if noted.any():
            return [note for message in self.gather(list(notes)) for note in message.values]
        return []

    def each(self, make: Callable[[], T]) -> T:
        """What `make` gives here, once every process has it. Raises as `meet` does where one of them fails."""
        try:
            made = make()
        except Exception as error:
            self.meet(error)
            raise
        self.meet()
        return made

    def from_first(self, make: Callable[[], Message]) -> Message:
        """What `make` gives in the first process. Raises as `meet` does where it fails."""
        mine = self.each(lambda: make() if self.leads else Message(None, {}))
        return self.gather(*mine)[0]

    def _raise(self, own: Exception | None) -> None:
        self.ended = True
        values = None if own is None else [type(own).__name__, describe(own), bool(getattr(own, "elsewhere", False))]
        found = [(rank, *one.values) for rank, one in enumerate(self.gather(values)) if one.values is not None]
        rank, name, text, _ = min(found, key=lambda one: one[-1])  # the first that has the fault itself
        if self.leads:
            if own is not None and rank == 0:
                raise own
            kind = _KINDS.get(name, TrainingStoppedError)
            raise kind(f"process {rank} of {self.size}: {text}") from own
        raise OtherProcessError(text) from own

    def same(self, about: Mapping[str, Any]) -> None:
        """Raise as `meet` does where a process has another device, data, recipe or version than the first one."""
        messages = self.gather(dict(about))
        first = messages[0].values
        for rank, message in enumerate(messages):
            for name in sorted(first.keys() | message.values.keys()):
                there, here = (printable(one.get(name), 80) for one in (message.values, first))
                if there != here:
                    error = ConfigError(f"process {rank} is not as process 0: {name}: {there} there, {here} here")
                    self.meet(error if rank == self.rank else None)

    # --------------------------------------------------------------------------------------------- messages

    def gather(self, values: Any = None, tensors: Mapping[str, Tensor] | None = None) -> list[Message]:
        """The messages of all processes, this one's among them, by rank."""
        text = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
        own = {key: value.detach().contiguous().cpu() for key, value in (tensors or {}).items()}
        data = torch.frombuffer(bytearray(save({**own, _TEXT: text})), dtype=torch.uint8)
        lengths = [int(one) for one in self._gather(torch.tensor([len(data)]))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(data)] = data
        messages = []
        for length, one in zip(lengths, self._gather(padded), strict=True):
            found = load(one[:length].numpy().tobytes())
            messages.append(Message(json.loads(found.pop(_TEXT).numpy().tobytes()), found))
        return messages

    def values(self, own: Any) -> list[Any]:
        """Plain values of all processes, by rank."""
        return [message.values for message in self.gather(own)]

    def _gather(self, own: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with self.reached():
            dist.all_gather(parts, own, group=self.control)
        return parts

    def indices(self, indices: Tensor, checksums: Tensor) -> tuple[Tensor, Tensor]:
        """Of the whole batch, from those of this process' part."""
        rows = torch.cat(self._gather(torch.stack([indices, checksums], dim=1)))
        return rows[:, 0], rows[:, 1]

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """What PyTorch says of a process that is gone becomes LostProcessError."""
        try:
            yield
        except RuntimeError as error:
            if not _is_of_connection(error):
                raise
            self.lost = True
            reason = _reason(error)
            raise LostProcessError(f"{self.words}: another process ended or cannot be reached ({reason})") from error

    # --------------------------------------------------------------------------------------------- tensors of a step

    def share(self, batch: int) -> int:
        """Images of a batch for each process. Raises ConfigError where they do not divide."""
        if batch % self.size:
            raise ConfigError(
                f"a batch of {batch} images does not divide among {self.size} processes; want a multiple of"
                f" {self.size}: --batch {-(-batch // self.size) * self.size}"
            )
        return batch // self.size

    def shared(self, images: int) -> SharedBatch:
        """The batch of which this process has that many images."""
        return SharedBatch(self._rows, slice(self.rank * images, (self.rank + 1) * images))

    def _rows(self, own: Tensor) -> Tensor:
        return self.each_of(own).flatten(0, 1)

    def each_of(self, own: Tensor) -> Tensor:
        """[...] -> [size, ...], those of all processes by rank: the same bits in each of them."""
        local = self._local_for(own)
        if local is not None and own.nbytes <= local_exchange.MOST_BYTES:
            return torch.from_numpy(local.exchange(own.detach().numpy()))
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        return torch.stack(parts)

    def sum(self, value: Tensor) -> Tensor:
        """Over all processes."""
        return self.each_of(value).sum(dim=0)

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Over all processes, in place.

        In buckets whose order is that of the parameters: DistributedDataParallel makes its own anew after the first
        step, by which sums over three and more processes round otherwise, and a resumed run would end with other bits.
        """
        work = []
        for bucket in _buckets([one.grad for one in parameters if one.grad is not None]):
            flat = torch.cat([one.reshape(-1) for one in bucket])
            work.append((flat, bucket, self._start_sum(flat)))
        for flat, bucket, handle in work:
            if handle is not None:
                handle.wait()
            parts = torch.split(flat, [one.numel() for one in bucket])
            torch._foreach_copy_(bucket, [part.view(one.shape) for part, one in zip(parts, bucket, strict=True)])

    def _start_sum(self, flat: Tensor) -> dist.Work | None:
        """Over all processes, in place; None where it is done."""
        local = self._local_for(flat)
        if local is None:
            return dist.all_reduce(flat, async_op=True)
        local.add_up(flat.numpy())
        return None

    def _local_for(self, value: Tensor) -> local_exchange.LocalExchange | None:
        return None if value.dtype is torch.bfloat16 else self.local  # numpy has no such numbers


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Of one number format each, and of so many bytes at most where one alone has not more."""
    bucket: list[Tensor] = []
    for one in gradients:
        held = sum(other.numel() * other.element_size() for other in bucket)
        full = held + one.numel() * one.element_size() > _BUCKET_BYTES
        if bucket and (full or bucket[0].dtype is not one.dtype):
            yield bucket
            bucket = []
        bucket.append(one)
    if bucket:
        yield bucket


def _is_of_connection(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "nccl", "connection", "timed out waiting", "socket")
    )


def _reason(error: Exception) -> str:
    """On one line, without the place in PyTorch's sources that comes first."""
    return printable(re.sub(r"^\[\S+:\d+\] ", "", str(error).partition("\n")[0]), 160)


@contextlib.contextmanager
def joined(launch: Launch, device: torch.device) -> Iterator[World]:
    """Meet the other processes, and part from them at the end: only the first one logs.

    Raises ConfigError where they do not meet, LostProcessError where one is lost at once.
    """
    if dist.is_initialized():
        raise ConfigError(
            "torch.distributed is initialised already; a training joins its processes itself: leave it out"
        )
    patience = datetime.timedelta(seconds=PATIENCE_SECONDS)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
        control = dist.new_group(backend="gloo", timeout=patience)
    except (RuntimeError, ValueError) as error:
        who = f"process {launch.rank} of {launch.size}"
        raise ConfigError(f"{who}: does not reach the others ({_reason(error)})") from error
    world = World(launch, device, control)
    ours = logging.getLogger("singleshot")
    level = ours.level
    if not world.leads:
        ours.setLevel(logging.CRITICAL + 1)
    done = False
    try:
        # Where no LOCAL_WORLD_SIZE is there, each knows of those up to its own LOCAL_RANK alone.
        if device.type == "cpu" and max(world.values(launch.local_size)) == launch.size:
            world.local = local_exchange.connect(world.rank, world.size, world.values, PATIENCE_SECONDS)
        yield world
        done = True
    finally:
        ours.setLevel(level)
        _part(world, done)


def _part(world: World, done: bool) -> None:
    """Wait for the first process, which may still have to save: torchrun ends all as soon as one has ended."""
    agreed = not world.lost and (done or world.ended)  # else what still waits for it would be waited for
    if agreed:
        with contextlib.suppress(RuntimeError):  # whoever is gone is not waited for
            dist.barrier(group=world.control)
    if world.local is not None:
        world.local.close()
    if world.lost:
        return
    dist.destroy_process_group()

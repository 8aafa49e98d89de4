"""What ended a training against its will, in words for people."""

from __future__ import annotations

import errno

import torch

from singleshot.errors import SingleshotError, printable

_FULL = (errno.ENOSPC, errno.EDQUOT)


class TrainingStoppedError(SingleshotError):
    """A training that could not go on, for a reason that is none of its input; its cause is chained."""


class StoppedAtOnceError(TrainingStoppedError):
    """A signal ended a training in the middle of what it did; the state that was saved last is kept."""

    exit_code = 130


def describe(error: BaseException) -> str:
    """One line: what happened, and what to do where that is known."""
    text = str(error)
    if isinstance(error, SingleshotError):
        return text
    if (isinstance(error, OSError) and error.errno in _FULL) or "No space left on device" in text:
        return "the disk is full (no space left); make room"
    if is_out_of_memory(error):
        return "out of memory; give a smaller --batch, fewer --workers or --cache none"
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return (
            "a process that loads images died or hung again and again, as where memory runs out"
            f" ({printable(text.splitlines()[0], 120)}); give fewer --workers or a smaller --batch"
        )
    return f"{type(error).__name__}: {printable(text, 300)}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the processor's or an accelerator's."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
    )

"""What an importer is, and what it gives.

An importer knows one layout: a few names that identify it (its signature), and how to make a model of its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from singleshot.errors import CheckpointError
from singleshot.importable import importable
from singleshot.models import SSD
from singleshot.prior_boxes import PriorSpec
from singleshot.thresholds import Thresholds
from singleshot.weights.foreign_state import ForeignState

Grids = Sequence[tuple[int, int]]  # rows and columns of each map


class SizedPriors(NamedTuple):
    """How a source makes default boxes for an input of any size. make: size of the input, rows and columns of each map
    -> the boxes; about: whose rule it is; sides: height and width of the input by its size, None for a square."""

    make: Callable[[int, Grids], PriorSpec]
    about: str
    sides: Callable[[int], tuple[int, int]] | None = None


def square_sides(grids: Grids) -> tuple[int, ...]:
    """The side of each map of a square input."""
    return tuple(columns for _, columns in grids)


class ImportedModel(NamedTuple):
    """An imported model.

    Attributes:
        model: with its weights, in eval mode.
        source: what it was, in words.
        class_names: None where neither the file nor habit tells.
        thresholds: how its outputs become detections.
        notes: what a user should know of the conversion.
        fixed: what the file itself says, so that the user cannot: "size", "priors", "mean", "std". None for size and
            priors of a kind of file that describes its network, and nothing of one that holds weights alone.
        sized_priors: the source's rule for other sizes of the input; None for boxes that grow with the input.
        names_note: where the class names come from, or why none of the lists next to the file was taken.
        names_given: whether they come from a file that the user named.
    """

    model: SSD
    source: str
    class_names: tuple[str, ...] | None
    thresholds: Thresholds
    notes: tuple[str, ...] = ()
    fixed: tuple[str, ...] | None = None
    sized_priors: SizedPriors | None = None
    names_note: str = ""
    names_given: bool = False


class Importer(NamedTuple):
    """name: as `--source` takes it, a key of `importable`; convert: raises CheckpointError; kind: of the file (see
    ForeignState), "" for any that holds tensors by name; matches: for formats that describe their network, in place of
    the signature; more: names besides those of the table."""

    name: str
    convert: Callable[[ForeignState], ImportedModel]
    kind: str = "pytorch"
    matches: Callable[[ForeignState], bool] | None = None
    more: tuple[str, ...] = ()

    @property
    def signature(self) -> tuple[str, ...]:
        """Names of tensors that identify its checkpoints."""
        return importable()[self.name].signature + self.more

    @property
    def about(self) -> str:
        """What it imports, for people."""
        return importable()[self.name].about

    def fits(self, tensors: ForeignState) -> float:
        """Share of the signature that is there, 0 for a file of another kind; 1 for a match."""
        if self.kind and tensors.kind and self.kind != tensors.kind:
            return 0.0
        if self.matches is not None:
            return float(self.matches(tensors))
        return sum(name in tensors for name in self.signature) / len(self.signature)


def classes_of(columns: int, where: str, label_shift: int = 1) -> int:
    """Real classes of a confidence output with so many columns, background (label_shift) left out."""
    if columns - label_shift < 1:
        raise CheckpointError(
            f"{where}: confidence outputs of {columns} columns: want background and one class at least"
        )
    return columns - label_shift

"""Default boxes of known projects, found by the maps and the boxes of a cell, for files that do not have their own."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from singleshot.conventions import CONVENTIONS
from singleshot.conventions_faces import FACES
from singleshot.errors import CheckpointError
from singleshot.inputs import InputSpec
from singleshot.prior_boxes import PriorSpec, height_width
from singleshot.prior_files import read_priors
from singleshot.prior_tables import prior_spec
from singleshot.thresholds import Thresholds
from singleshot.weights.importers.faces import face_names

# Conventions of faces with five points, of which an output has ten columns.
_WITH_POINTS = ("retinaface", "face1mb", "blazeface-zineos")


class KnownBoxes(NamedTuple):
    """A project whose default boxes a network has, and how that prepares images. name: of its convention; table: the
    boxes' name."""

    name: str
    project: str
    table: str
    priors: PriorSpec
    input: InputSpec
    thresholds: Thresholds | None


def known_boxes(
    grids: tuple[tuple[int, int], ...], per_cell: tuple[int, ...], image: tuple[int, int], points: bool = False
) -> list[KnownBoxes]:
    """Projects with as many boxes in a cell on the same maps, each input once.

    Args:
        grids: rows and columns of the maps.
        per_cell: boxes of a cell of each.
        image: height and width in pixels.
        points: whether the network finds points of a face as well; projects with or without them come first.
    """
    found: list[KnownBoxes] = []
    for name, convention in CONVENTIONS.items():
        own_size = {network: convention.prior_spec(network).image == image for network in convention.priors}
        for network, named in sorted(convention.priors.items(), key=lambda row: not own_size[row[0]]):
            spec = convention.prior_spec(network)
            own = convention.inputs.get(network) or convention.inputs.get(network.partition("-")[0])
            if own is None or spec.order != "location":
                continue
            if name in FACES:
                spec = _some_maps(_of_size(spec, image, grids), grids, per_cell)
                own = replace(own, height=image[0], width=image[1])
            if (spec.grids, spec.per_cell, spec.image) != (grids, per_cell, image):
                continue
            if all((own, spec) != (other.input, other.priors) for other in found):
                lite = [key for key in convention.detection if key.endswith("-lite") and network.startswith("ssdlite")]
                rule = convention.detection.get(next(iter([*lite, *convention.detection]), ""))
                found.append(KnownBoxes(name, convention.project, named, spec, own, rule))
    return sorted(found, key=lambda known: (known.name in _WITH_POINTS) != points)


def _some_maps(spec: PriorSpec, grids: tuple[tuple[int, int], ...], per_cell: tuple[int, ...]) -> PriorSpec:
    """The default boxes of those of its maps that a smaller network has, where it has them all."""
    rows = list(zip(spec.grids, spec.per_cell, strict=True))
    wanted = list(zip(grids, per_cell, strict=True))
    if len(wanted) >= len(rows) or not spec.shapes or not all(row in rows for row in wanted):
        return spec
    kept = [rows.index(row) for row in wanted]
    steps = None if spec.steps is None else tuple(spec.steps[i] for i in kept)
    return replace(spec, maps=grids, shapes=tuple(spec.shapes[i] for i in kept), steps=steps)


def _of_size(spec: PriorSpec, image: tuple[int, int], grids: tuple[tuple[int, int], ...]) -> PriorSpec:
    """Faces' default boxes are so many pixels, whatever the size of the image."""
    if len(spec.grids) != len(grids) or (
        spec.steps is None and any(spec.image[1] % across for _, across in spec.grids)
    ):
        return spec
    # Without steps they are those of the maps: how large these are follows from the strides.
    steps = [spec.step(i) if spec.steps else (spec.image[1] // n,) * 2 for i, (_, n) in enumerate(spec.grids)]
    made = tuple(tuple(-(-side // step) for side, step in zip(image, both, strict=True)) for both in steps)
    return replace(spec, image_size=height_width(image), maps=grids) if made == grids else spec


def assumed_boxes(known: list[KnownBoxes], given: str | None, where: str) -> tuple[list[KnownBoxes], PriorSpec]:
    """Whose default boxes a network has that gives offsets as they are, and the boxes. given: what the user says they
    are. Raises CheckpointError where nothing says it."""
    if given is not None:
        table = read_priors(given)
        return [k for k in known if k.table == given or k.priors == table], table
    if not known:
        raise CheckpointError(
            f"{where}: its boxes are offsets as they are, and its default boxes are not in the file: give --priors,"
            " or the checkpoint that it was converted from"
        )
    return known, known[0].priors


def boxes_note(known: list[KnownBoxes], given: str | None) -> list[str]:
    """The note on default boxes that are assumed. given: what the user says they are."""
    if given is not None:
        return []
    # Those that --priors takes as they are.
    others = dict.fromkeys(k.table for k in known[1:] if k.priors == prior_spec(k.table) != known[0].priors)
    more = f"; --priors {' or '.join(others)} for other ones of as many" if others else ""
    return [f"the file has no default boxes: assumed to be {known[0].project}'s ({known[0].table}){more}"]


def names_by_project(known: list[KnownBoxes], num_classes: int) -> tuple[tuple[str, ...] | None, list[str]]:
    """The names of classes where the project with a network's boxes finds faces, else None; and the note on them."""
    names = face_names(num_classes) if known and known[0].name in FACES else None
    return names, ["its class is taken to be a face, since the file does not say (--classes)"] if names else []

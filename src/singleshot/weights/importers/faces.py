"""What the importers of face detectors share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from singleshot.conventions_faces import FACE
from singleshot.errors import CheckpointError
from singleshot.inputs import InputSpec
from singleshot.models import SSD
from singleshot.prior_boxes import PriorSpec
from singleshot.prior_files import read_priors
from singleshot.thresholds import Thresholds
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import Grids, ImportedModel, SizedPriors, square_sides
from singleshot.weights.importers.batch_statistics import mean_pixel
from singleshot.weights.importers.mobilenet_blocks import add_head
from singleshot.weights.importers.torch_blocks import TorchBuilder

_BLUER = 5.0  # of 255: more than grey pictures are


def face_names(num_classes: int) -> tuple[str, ...] | None:
    """ "face" for one class; other counts are somebody's own training."""
    return FACE if num_classes == len(FACE) else None


def add_heads(net: TorchBuilder, maps: list[str], names: tuple[str, str], priors: PriorSpec, num_classes: int) -> None:
    """A head on each map. names: of the convolutions of location and of confidence, with the map's number as {}."""
    for i, (x, boxes) in enumerate(zip(maps, priors.per_cell, strict=True)):
        location, confidence = (name.format(i) for name in names)
        add_head(net, x, location, confidence, boxes, num_classes + 1)


def own_or_given(
    tensors: ForeignState, priors: PriorSpec, spec: InputSpec, project: str, biases: Sequence[str]
) -> tuple[PriorSpec, InputSpec]:
    """The default boxes and the input: the project's, or of the boxes that the user gives for a changed copy.

    Args:
        tensors: of the checkpoint.
        priors: the project's.
        spec: its input.
        project: for the message.
        biases: of the convolutions of location, by name.

    Raises:
        CheckpointError: The heads have other numbers of boxes in a cell than these.
    """
    counts = tuple(shape[0] // 4 if (shape := tensors.shape(name)) else 0 for name in biases)
    given = None if tensors.given_priors is None else read_priors(tensors.given_priors)
    if given is not None and given.per_cell == counts != priors.per_cell:
        return given, replace(spec, height=given.image[0], width=given.image[1])
    if 0 not in counts and counts != priors.per_cell:
        have, want = (", ".join(map(str, row)) for row in (counts, priors.per_cell))
        raise CheckpointError(
            f"{tensors.where}: {project} with {have} boxes in a cell of its maps, not {want}: a changed copy; give its"
            " default boxes with --priors FILE (a JSON file such as `singleshot priors show NAME --json` prints)"
        )
    return priors, spec


def face_model(model: SSD, source: str, thresholds: Thresholds, notes: tuple[str, ...] = ()) -> ImportedModel:
    """A detector of faces as it is imported."""
    named = (
        () if model.num_classes > 1 else ("its class is taken to be a face, since the weights do not say (--classes)",)
    )
    return ImportedModel(
        model,
        source,
        face_names(model.num_classes),
        thresholds,
        (*notes, *named),
        sized_priors=_same_pixels(model.prior_spec),
    )


def without_landmarks(tensors: ForeignState, prefix: str) -> tuple[str, ...]:
    """Leave out the head of key points, whose names begin so; -> the note on it."""
    landmarks = [key for key in tensors if key.startswith(prefix)]
    tensors.ignore(*landmarks)
    return ("its landmarks of a face are left out: boxes and scores alone",) if landmarks else ()


def seen_colours(tensors: ForeignState, spec: InputSpec, conv: str, norm: str) -> tuple[InputSpec, tuple[str, ...]]:
    """The input in the order of colours that the statistics of the first layers speak for, and a note where that is
    not the source's: copies of these detectors take the same means off other colours (bubbliiiing/retinaface-pytorch).

    Photos are redder than blue: 15 to 20 of 255 in ImageNet and WIDER FACE. Where the pixels that the network has seen
    would be bluer than red, the colours came in the other order.

    Args:
        tensors: of the checkpoint.
        spec: the source's input, of three channels.
        conv: name of the first convolution.
        norm: name of the batch normalisation behind it.
    """
    pixel = mean_pixel(tensors, conv, norm)
    if pixel is None:
        return spec, ()
    order = slice(None, None, -1 if spec.colour_order == "bgr" else 1)
    red, _, blue = (m + s * x for m, s, x in zip(spec.mean, spec.std, pixel[order], strict=True))
    if blue - red < _BLUER:
        return spec, ()
    other = "rgb" if spec.colour_order == "bgr" else "bgr"
    words = {"rgb": "red first", "bgr": "blue first"}
    turned = replace(spec, colour_order=other, mean=spec.mean[::-1], std=spec.std[::-1])
    note = (
        f"colours are taken to come {words[other]}, not {words[spec.colour_order]} as the source's: what its first"
        f" layer has seen would be bluer than photos are (--colour-order {spec.colour_order}"
        f" --mean {','.join(f'{m:g}' for m in spec.mean)})"
    )
    return turned, (note,)


def _same_pixels(priors: PriorSpec) -> SizedPriors:
    """Their rule for other inputs: anchors and steps are so many pixels, whatever the size of the image."""

    def make(size: int, grids: Grids) -> PriorSpec:
        return replace(priors, image_size=size, maps=square_sides(grids))

    return SizedPriors(make, "its own, of the same sizes in pixels")

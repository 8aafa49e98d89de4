"""What `data check` calls an error is not written by `data convert`: it is refused, or cut where that was asked for."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from singleshot.datasets.box_rules import validate_boxes
from singleshot.datasets.raw import EDGE_PX, RawImage
from singleshot.datasets.writers.common import WritePlan
from singleshot.errors import DataError, printable
from singleshot.images.decode import verify_image

logger = logging.getLogger(__name__)

FIX = "or let singleshot data check --fix write a repaired copy first"
CUT = "or give --clip-boxes, which cuts such boxes and drops those of which nothing is left"
# Forms round differently: no box is written that another reading may find a hair too far out, or too thin.
_HAIR_PX = 1e-6


def refuse_image(image: RawImage, data: bytes) -> tuple[int, int]:
    """Width and height of the file. Raises DataError where it does not decode or is not of the annotated size."""
    width, height = verify_image(data, image.path)
    if image.width and image.height and (image.width, image.height) != (width, height):
        raise DataError(
            f"{printable(image.file)}: says {image.width} x {image.height} pixels, but {printable(image.path)} is "
            f"{width} x {height}; correct it, {FIX}"
        )
    return width, height


def usable_boxes(plan: WritePlan, clip: bool) -> WritePlan:
    """The plan, whose boxes are in pixels, with boxes that a training takes; clip: others are cut or dropped.

    Raises DataError for the first that is not one, and where no object is left.
    """
    owners = [(image, obj) for image in plan.images for obj in image.objects]
    boxes = np.array([obj.box for _, obj in owners], np.float64).reshape(-1, 4)
    sizes = np.array([(image.width, image.height) for image, _ in owners], np.int64).reshape(-1, 2)
    judged = validate_boxes(boxes, sizes)
    thin = (judged.inside[:, 2:].astype(np.float64) - judged.inside[:, :2] < _HAIR_PX).any(axis=1)
    nothing = judged.degenerate | judged.empty | thin
    bad = judged.outside | nothing
    if bad.any() and not clip:
        j = int(np.argmax(bad))
        image, obj = owners[j]
        no_area = judged.degenerate[j] or not judged.outside[j]
        fault = "has no area" if no_area else f"lies outside the image of {image.width} x {image.height} pixels"
        where = f"{plan.notation.where(image, obj)}: {plan.notation.box(obj.box)}"
        raise DataError(f"{where} {fault}; correct it, {CUT}, {FIX}")
    high = np.tile(sizes, 2)
    beyond = np.maximum(-boxes, boxes - high).max(axis=1, initial=-np.inf)
    cut = bad | (beyond > EDGE_PX - _HAIR_PX)
    kept, at = [], 0
    for image in plan.images:
        objects = []
        for j, obj in enumerate(image.objects, at):
            if not nothing[j]:
                box = tuple(judged.inside[j].tolist())
                objects.append(obj._replace(box=box, area=float("nan")) if cut[j] else obj)
        at += len(image.objects)
        kept.append(image._replace(objects=objects))
    if bad.any():
        dropped = int(nothing.sum())
        logger.warning(
            "%s: %d boxes cut to their image, %d dropped", printable(plan.source), bad.sum() - dropped, dropped
        )
    if not any(image.objects for image in kept):
        raise DataError(f"{printable(plan.source)}: no image has an object; label some before it is converted")
    return replace(plan, images=kept)

"""From raw outputs and labels to an Explanation: indices become places, normalised boxes become pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from singleshot.boxes import decode, iou, to_corners
from singleshot.errors import printable
from singleshot.explaining import Place, RunnersUp, Scene, cut, places_of, runners_up
from singleshot.inputs import InputSpec, Placement, boxes_to_square
from singleshot.missed import CAUSES, Cause, Objects, Outcome, holders, outcomes
from singleshot.model_info import ModelInfo
from singleshot.models.receptive_field import Cell
from singleshot.postprocess import Traced, probabilities, trace_candidates
from singleshot.prior_boxes import PriorSpec
from singleshot.records import ImageTruth, Targets
from singleshot.report.explanation import (
    Corners,
    ExplainedDetection,
    ExplainedObject,
    Explanation,
    HardNegative,
    MatchedPrior,
    Origin,
    PriorPlace,
    RunnerUp,
    WhyMissed,
)
from singleshot.runtime.detections import Detections

RUNNERS_UP, NEGATIVES = 10, 50  # that are listed, of those that there are

# For cells of feature maps: their theoretical fields and those by gradient, in pixels of the input.
Fields = Callable[[Sequence[Cell]], list[tuple[Corners | None, Corners | None]]]


class ImagePlace(NamedTuple):
    """Where an image of width x height pixels lies in the network's input."""

    spec: InputSpec
    place: Placement
    width: int
    height: int

    def to_pixels(self, boxes: Tensor | np.ndarray) -> list[Corners]:
        """Boxes normalised to the input -> pixels of the image, not cut to it."""
        height, width = self.spec.sides
        return self.from_input(np.asarray(boxes, np.float64).reshape(-1, 4) * np.array([width, height] * 2))

    def from_input(self, boxes: np.ndarray) -> list[Corners]:
        """The same from pixels of the input."""
        scale = np.array([self.place.scale_x, self.place.scale_y] * 2)
        shift = np.array([self.place.shift_x, self.place.shift_y] * 2)
        return [tuple(row) for row in ((boxes - shift) / scale).tolist()]

    @property
    def window(self) -> Tensor:
        """The image's own part of the input, x0 y0 x1 y1 in 0..1."""
        box = boxes_to_square(np.array([[0, 0, self.width, self.height]], np.float64), self.place, self.spec.sides)
        return torch.from_numpy(box[0])


class Source(NamedTuple):
    """What an image is explained from.

    model: the file's name; pixels: the image; spec: the default boxes; class_names: by label; scene: raw outputs and
    rules; kept: the detections with their priors that are shown, normalised and not cut; found: the same in pixels.
    """

    model: str
    pixels: np.ndarray
    spec: PriorSpec
    class_names: tuple[str, ...]
    image: ImagePlace
    scene: Scene
    kept: Traced
    found: Detections

    @property
    def shown(self) -> Traced:
        """`kept` cut to the image."""
        return self.kept._replace(boxes=cut(self.kept.boxes, self.scene.window))


class Labels(NamedTuple):
    """What is labelled: objects in pixels; targets: what training makes of them; negatives: [P], mined, None where none
    are; prior_iou: from which a prior matches; rules: see Explanation."""

    truth: ImageTruth
    targets: Targets
    negatives: Tensor | None
    prior_iou: float
    rules: Mapping[str, Any]


def explain_image(
    source: Source, labels: Labels | None = None, fields: Fields | None = None, notes: Sequence[str] = ()
) -> Explanation:
    """Everything about one image; fields: receptive fields of cells, where they can be had."""
    scene, kept = source.scene, source.kept
    places = _Places(source)
    owner: dict[int, int] = {}
    objects = negatives = None
    if labels is not None:
        boxes = boxes_to_square(labels.truth.boxes, source.image.place, source.image.spec.sides)
        there = Objects(torch.from_numpy(boxes), torch.from_numpy(np.asarray(labels.truth.labels, np.int64)))
        found = outcomes(scene, source.shown, there, labels.prior_iou)
        objects = _objects(source, labels, there, found, places)
        owner = {one.detection: g for g, one in enumerate(found) if one.detection is not None}
        negatives = _negatives(source, labels, there, places)
    (candidates,) = trace_candidates(scene.raw, scene.priors, scene.variances, scene.rules)
    origins = _origins(source, runners_up(candidates, kept, scene.rules), places, fields)
    return Explanation(
        model=source.model,
        pixels=source.pixels,
        found=source.found,
        input=source.image.spec.to_dict(),
        thresholds={**asdict(scene.rules), "show_min": scene.show_min},
        maps=source.spec.grids,
        rules={} if labels is None else labels.rules,
        detections=explained_detections(source.found, owner, origins),
        objects=objects,
        negatives=None if negatives is None else negatives[0],
        negatives_mined=None if negatives is None else negatives[1],
        notes=tuple(notes),
    )


def explain_boxes(
    model: str,
    info: ModelInfo,
    pixels: np.ndarray,
    found: Detections,
    truth: ImageTruth | None,
    score_min: float,
    notes: Sequence[str] = (),
) -> Explanation:
    """What can be said of an image by a file that has decoding and NMS inside; notes: what else is to be noted."""
    objects, owner = None, {}
    if truth is not None:
        boxes, own = torch.from_numpy(truth.boxes), torch.from_numpy(found.boxes)
        labels = torch.from_numpy(found.labels)
        shown = Traced(own, torch.from_numpy(found.scores), labels, labels)
        has = holders(shown, Objects(boxes, torch.from_numpy(truth.labels)))
        owner = {row: g for g, row in enumerate(has) if row is not None}
        difficult = np.zeros(len(has), bool) if truth.difficult is None else truth.difficult
        overlaps = iou(boxes, own)
        objects = tuple(
            ExplainedObject(info.class_names[label], label, tuple(box), bool(hard), None, (), row,
                            None if row is None else float(overlaps[g, row]), (), None)
            for g, (label, box, hard, row) in enumerate(
                zip(truth.labels.tolist(), truth.boxes.tolist(), difficult, has, strict=True))
        )  # fmt: skip
    note = (
        f"{printable(model)}: gives boxes alone, so which default box each came from, what NMS removed and why"
        " an object was missed cannot be said; give the checkpoint, or a file of `export --raw`"
    )
    thresholds = {**asdict(info.thresholds), "show_min": score_min}
    rows = explained_detections(found, owner, None)
    maps = () if info.prior_spec is None else info.prior_spec.grids
    spec = info.input_spec.to_dict()
    return Explanation(model, pixels, found, spec, thresholds, maps, {}, rows, objects, None, None, (*notes, note))


def explained_detections(
    found: Detections, owner: Mapping[int, int], origins: Sequence[Origin] | None
) -> tuple[ExplainedDetection, ...]:
    """Row by row; owner: the object of each row that has one; origins: None where they are not known."""
    rows = zip(found.names, found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    return tuple(
        ExplainedDetection(name, label, score, tuple(box), owner.get(row), None if origins is None else origins[row])
        for row, (name, label, score, box) in enumerate(rows)
    )


class _Places:
    """PriorPlaces by number, each made once."""

    def __init__(self, source: Source) -> None:
        self._source, self._known = source, dict[int, PriorPlace]()
        self._steps = [source.spec.step(number) for number in range(len(source.spec.maps))]

    def __call__(self, priors: Sequence[int]) -> list[PriorPlace]:
        new = [prior for prior in dict.fromkeys(priors) if prior not in self._known]
        if new:
            image, spec = self._source.image, self._source.spec
            places = places_of(spec, new)
            boxes = image.to_pixels(to_corners(self._source.scene.priors[new]))
            cells = image.from_input(np.array([_cell(place, *self._steps[place.map]) for place in places]))
            for prior, place, box, cell in zip(new, places, boxes, cells, strict=True):
                self._known[prior] = PriorPlace(prior, *place, box, cell)
        return [self._known[prior] for prior in priors]


def _cell(place: Place, down: float, across: float) -> Corners:
    """What a cell covers, in pixels of the input, whose map has such steps."""
    x, y = place.column * across, place.row * down
    return x, y, x + across, y + down


def _origins(source: Source, removed: RunnersUp, places: _Places, fields: Fields | None) -> list[Origin]:
    scene, kept, image = source.scene, source.kept, source.image
    priors = kept.priors.tolist()
    scores = probabilities(scene.raw.logits[0, kept.priors], scene.rules.activation).tolist()
    offsets = scene.raw.offsets[0, kept.priors].tolist()
    boxes = np.array(image.to_pixels(kept.boxes)).reshape(-1, 4)
    by = removed.by.numpy()
    chosen = [np.flatnonzero(by == row) for row in range(len(priors))]
    listed = np.concatenate([np.zeros(0, np.int64), *(rows[:RUNNERS_UP] for rows in chosen)])
    places([*priors, *removed.removed.priors[listed].tolist()])
    own, weaker = places(priors), _runners_up(source, removed, listed, places)
    cells = [Cell(place.map, place.row, place.column) for place in own]
    seen = fields(cells) if fields is not None else [(None, None)] * len(cells)
    origins, start = [], 0
    for row, place in enumerate(own):
        count = min(len(chosen[row]), RUNNERS_UP)
        centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in (place.box, boxes[row].tolist())]
        background = scores[row][0] if scene.rules.activation == "softmax" else None
        theory, gradient = (None if box is None else image.from_input(np.array([box]))[0] for box in seen[row])
        origins.append(
            Origin(
                place=place,
                offsets=tuple(offsets[row]),
                arrow=(*centres[0], *centres[1]),
                scores=dict(zip(source.class_names, scores[row][1:], strict=True)),
                background=background,
                runners_up=tuple(weaker[start : start + count]),
                removed=len(chosen[row]),
                field=theory,
                gradient=gradient,
            )
        )
        start += count
    return origins


def _runners_up(source: Source, removed: RunnersUp, rows: np.ndarray, places: _Places) -> list[RunnerUp]:
    one = removed.removed
    return [
        RunnerUp(place, box, score, overlap)
        for place, box, score, overlap in zip(
            places(one.priors[rows].tolist()),
            source.image.to_pixels(one.boxes[rows]),
            one.scores[rows].tolist(),
            removed.iou[rows].tolist(),
            strict=True,
        )
    ]


def _objects(
    source: Source, labels: Labels, there: Objects, found: list[Outcome], places: _Places
) -> tuple[ExplainedObject, ...]:
    scene = source.scene
    overlaps = iou(there.boxes, to_corners(scene.priors)).numpy()
    best_of = overlaps.argmax(axis=1).tolist() if len(overlaps) else []
    matched = _owners(scene, labels.targets, there)
    places([*best_of, *(prior for mine in matched.values() for prior in mine)])
    truth = labels.truth
    difficult = np.zeros(len(truth.labels), bool) if truth.difficult is None else truth.difficult
    own = iou(source.shown.boxes, there.boxes)
    rows = []
    for g, outcome in enumerate(found):
        mine = matched.get(g, [])
        best = best_of[g]
        listed = sorted({best, *mine}, key=lambda prior: -float(overlaps[g, prior]))
        by_number = {
            prior: MatchedPrior(place, float(overlaps[g, prior]))
            for prior, place in zip(listed, places(listed), strict=True)
        }
        row = outcome.detection
        rows.append(
            ExplainedObject(
                name=source.class_names[int(truth.labels[g])],
                label=int(truth.labels[g]),
                box=tuple(np.asarray(truth.boxes[g], np.float64).tolist()),
                difficult=bool(difficult[g]),
                best=by_number[best],
                matched=tuple(by_number[prior] for prior in listed if prior in set(mine)),
                detection=row,
                iou=None if row is None else float(own[row, g]),
                causes=tuple(_why(source, cause) for cause in outcome.causes),
                appears=_proof(scene, outcome),
            )
        )
    return tuple(rows)


def _proof(scene: Scene, outcome: Outcome) -> dict[str, float | int | None] | None:
    if outcome.proof is None:
        return None
    score, overlap, prior = outcome.proof
    return {"score": score, "iou": overlap, "prior": prior if prior < len(scene.priors) else None}


def _owners(scene: Scene, targets: Targets, there: Objects) -> dict[int, list[int]]:
    """The priors that training gives each object, from the box that each is to predict."""
    priors = (targets.labels > 0).nonzero().squeeze(1)
    boxes = decode(targets.offsets[priors], scene.priors[priors], scene.variances)
    overlaps = torch.where(targets.labels[priors].unsqueeze(1) == there.labels + 1, iou(boxes, there.boxes), -1.0)
    owners: dict[int, list[int]] = {}
    if len(priors):
        for prior, g in zip(priors.tolist(), overlaps.argmax(dim=1).tolist(), strict=True):
            owners.setdefault(g, []).append(prior)
    return owners


def _why(source: Source, cause: Cause) -> WhyMissed:
    """A cause in words, with its figures and what was tried."""
    detail, reason, tried = dict(cause.detail), "", ""
    if "label" in detail:
        detail["name"] = source.class_names[detail.pop("label")]
    name = printable(detail.get("name", ""), 40)
    if cause.kind == "no-prior":
        reason, tried = f": IoU {detail['iou']:.2f} at best", "one of its own shape added"
    elif cause.kind == "location":
        reason, tried = f": IoU {detail['iou']:.2f}", "the box put right"
    elif cause.kind == "wrong-class":
        reason, tried = f": {name} {detail['score']:.2f}", "the scores of the two classes exchanged"
    elif cause.kind == "low-score":
        least = max(source.scene.rules.score_min, source.scene.show_min)
        wanted = f" where {least:.3f} is wanted" if detail["score"] < least else ""  # else the background had more
        reason, tried = f": {detail['score']:.3f}{wanted}", "the threshold lowered to that"
    elif cause.kind == "limits":
        reason = f": {', '.join(f'{limit} {value}' for limit, value in detail.items()) or 'several at once'}"
        tried = "lifted"
    elif cause.kind == "nms":
        if detail:
            rows = (source.kept.priors == detail["prior"]).nonzero().flatten().tolist()
            detail["detection"] = rows[0] if rows else None
            reason = f" for {name}, IoU {detail['iou']:.2f}"
        tried = "switched off"
    elif cause.kind == "box-voting":
        tried = "switched off"
    why = f"{CAUSES[cause.kind]}{reason}" + (f" (tried: {tried})" if tried else "")
    return WhyMissed(cause.kind, why, dict(cause.change), detail)


def _negatives(
    source: Source, labels: Labels, there: Objects, places: _Places
) -> tuple[tuple[HardNegative, ...], int] | None:
    """The hardest, and how many there are; None where none are mined."""
    if labels.negatives is None:
        return None
    priors = labels.negatives.nonzero().squeeze(1)
    background = probabilities(source.scene.raw.logits[0, priors], source.scene.rules.activation)[:, 0]
    order = background.argsort(stable=True)[:NEGATIVES]
    chosen = priors[order]
    overlaps = iou(to_corners(source.scene.priors[chosen]), there.boxes)
    best = overlaps.max(dim=1).values.tolist() if len(there.boxes) else [0.0] * len(chosen)
    rows = zip(places(chosen.tolist()), background[order].tolist(), best, strict=True)
    return tuple(HardNegative(*row) for row in rows), len(priors)

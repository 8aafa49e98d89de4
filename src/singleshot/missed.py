"""Why an object was not found: causes, each of them tried.

A cause is what had to be different for the object to appear. It is not guessed from figures: the change is made (a
prior added, a threshold lowered, suppression switched off), the detections are computed again by the same functions,
and only if the object then has a detection is the cause taken. Single changes are tried before several at once, so of
several causes none could be left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from singleshot.boxes import decode, encode, iou, to_centres, to_corners
from singleshot.counterfactuals import changed
from singleshot.explaining import Scene
from singleshot.postprocess import Traced
from singleshot.survivors import ClassSuppression, Predicted, predict
from singleshot.thresholds import NO_CAP, Thresholds

CAUSES = {
    "no-prior": "no default box overlaps it enough",
    "location": "the network's box lies too far off",
    "wrong-class": "taken for another class",
    "low-score": "its score is too low",
    "limits": "cut by the limits on the number of detections",
    "nms": "removed by non-maximum suppression",
    "box-voting": "box voting moved the box that had it",
    "unknown": "none of the changes that are tried makes it appear",
}
# What is tried, alone first and then together. Of causes that would each do, the one that the object came farthest by
# is taken: it was found and cut, found and removed, found as something else, near it, or hardly at all.
_TRIED = ("limits", "nms", "wrong-class", "location", "low-score")
_LIMITS: dict[str, Any] = {"per_class": NO_CAP, "candidates": None, "keep_per_class": None, "keep": NO_CAP}
# Two limits count what NMS leaves: without it they would count the duplicates.
_NO_NMS = {"nms_iou": 1.0, "keep": NO_CAP, "keep_per_class": None}
_NO_VOTING: dict[str, Any] = {"box_voting": None}
_NEAR = 0.1  # IoU from which a detection is near an object (TIDE, section 3.1)


class Objects(NamedTuple):
    """boxes [G, 4] corner form normalised to the input, labels [G]."""

    boxes: Tensor
    labels: Tensor


class Cause(NamedTuple):
    """Why an object was not found.

    kind: a key of CAUSES; change: what its counterfactual changes, as `changed` takes it; detail: figures that go with
    it: the IoU of the best prior ("no-prior") or box ("location"), the score ("low-score"), the other class's label and
    score ("wrong-class"), prior, label and IoU of the detection that removed it ("nms").
    """

    kind: str
    change: Mapping[str, Any]
    detail: Mapping[str, Any]


class Proof(NamedTuple):
    """The detection of the object once every change is made: its score, IoU with the object, and prior."""

    score: float
    iou: float
    prior: int


class Outcome(NamedTuple):
    """What became of one object.

    detection: the row of the shown detections that has it, None where it was missed; causes: in the order in which they
    work, each change on top of those before it; proof: None where it was found, or where the cause is "unknown".
    """

    detection: int | None
    causes: tuple[Cause, ...] = ()
    proof: Proof | None = None


def holders(found: Traced, objects: Objects, iou_min: float = 0.5) -> list[int | None]:
    """The detection that has each object, or None: VOC's rule (VOCevaldet.m). Each detection claims the object of its
    class that it overlaps most, from `iou_min` on; the best one that claims an object has it."""
    if not len(found.scores) or not len(objects.labels):
        return [None] * len(objects.labels)
    overlaps = _of_class(iou(found.boxes, objects.boxes), found.labels, objects.labels)
    best, owner = overlaps.max(dim=1)
    claims = (owner.unsqueeze(1) == torch.arange(len(objects.labels))) & (best >= iou_min).unsqueeze(1)
    first = claims.byte().argmax(dim=0).tolist()
    return [row if has else None for row, has in zip(first, claims.any(dim=0).tolist(), strict=True)]


def _of_class(overlaps: Tensor, labels: Tensor, of: Tensor) -> Tensor:
    """The table, -1 where classes differ."""
    return torch.where(labels.unsqueeze(1) == of, overlaps, -1.0)


def outcomes(scene: Scene, found: Traced, objects: Objects, prior_iou: float, iou_min: float = 0.5) -> list[Outcome]:
    """What became of each object.

    Args:
        scene: What the detections came from; on a CPU.
        found: Those that are shown (`Scene.visible`).
        objects: What there is in the image.
        prior_iou: The IoU from which a prior matches an object, as the model was trained.
        iou_min: The IoU from which a detection has an object.
    """
    has = holders(found, objects, iou_min)
    if None not in has:
        return [Outcome(row) for row in has]
    if scene.rules.box_voting is not None:
        plain = changed(scene, _NO_VOTING)
        shown = plain.visible(plain.trace())
        causes = outcomes(plain, shown, objects, prior_iou, iou_min)
        return [
            Outcome(row) if row is not None else _unvoted(causes[g], shown, objects.boxes[[g]])
            for g, row in enumerate(has)
        ]
    search = _Search(scene, found, objects, (prior_iou, iou_min), {row for row in has if row is not None})
    return [Outcome(row) if row is not None else search.explain(g) for g, row in enumerate(has)]


def _unvoted(plain: Outcome, shown: Traced, box: Tensor) -> Outcome:
    """The outcome of a missed object [1, 4], from that without box voting, which is switched off with the first change:
    then boxes are those of single default boxes. shown: the detections without it."""
    if plain.detection is not None:
        row = plain.detection
        overlap = float(iou(shown.boxes[[row]], box))
        proof = Proof(float(shown.scores[row]), overlap, int(shown.priors[row]))
        return Outcome(None, (Cause("box-voting", _NO_VOTING, {}),), proof)
    first, *rest = plain.causes
    if first.kind == "unknown":
        return plain
    return plain._replace(causes=(first._replace(change={**_NO_VOTING, **first.change}), *rest))


class _Search:
    """Looks for the fewest changes with which a missed object appears. used: rows of `found` that have an object."""

    def __init__(
        self, scene: Scene, found: Traced, objects: Objects, least: tuple[float, float], used: set[int]
    ) -> None:
        self._scene, self._objects = scene, objects
        self._prior_iou, self._iou_min = least
        self._priors = iou(objects.boxes, to_corners(scene.priors))
        self._predicted = predict(scene, *objects, self._iou_min)
        free = [row for row in range(len(found.scores)) if row not in used]
        self._false = Traced(*(values[free] for values in found))
        self._shown: dict[str, tuple[Traced, list[int | None]]] = {}
        self._classes: dict[tuple[int, Thresholds], ClassSuppression] = {}
        self._kept: Traced | None = None  # what is found down to that score, without thresholds
        self._depth = 1.0

    def explain(self, g: int) -> Outcome:
        """The causes of one missed object."""
        scene, first = self._scene, self._without_box(g)
        if first is not None:
            scene = changed(scene, first.change)
        predicted = self._predicted if first is None else predict(scene, *self._objects, self._iou_min)
        for kinds in _subsets(can_move=first is None):
            if first is None and not kinds:
                continue
            for lifted in self._lifts(kinds):
                done = self._try(scene, predicted, g, kinds, lifted)
                if done is not None:
                    causes = done.causes if first is None else (first, *done.causes)
                    return done._replace(causes=causes)
        return Outcome(None, (Cause("unknown", {}, {}),))

    def _lifts(self, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
        """Which limits are lifted: none, or the last one alone, which it mostly is and by which little more is looked
        at, and then all."""
        if "limits" not in kinds:
            return [{}]
        return [_LIMITS] if "nms" in kinds or self._scene.rules.keep == NO_CAP else [{"keep": NO_CAP}, _LIMITS]

    def _try(
        self, scene: Scene, predicted: Predicted, g: int, kinds: tuple[str, ...], lifted: Mapping[str, Any]
    ) -> Outcome | None:
        """The outcome with these changes; None where one of them does not apply, or the object does not appear."""
        if set(kinds) <= {"limits", "nms"} and not self._reached(scene, predicted, g):
            return None
        causes: dict[str, Cause] = {}
        low, shared = "low-score" in kinds, (*kinds, *lifted)
        for kind in kinds[:-1] if low else kinds:
            cause = Cause(kind, lifted, {}) if kind == "limits" else self._cause(scene, predicted, g, kind, low)
            if cause is None:
                return None
            scene, causes[kind] = changed(scene, cause.change), cause
        if low:
            lowered = self._lowered(scene, predicted, g, shared)
            if lowered is None:
                return None
            causes["low-score"], proof = lowered
            scene = changed(scene, causes["low-score"].change)
        else:
            held = self._held(scene, predicted, g, shared if scene.raw is self._scene.raw else None)
            if held is None:
                return None
            proof = held
        if "limits" in kinds:
            causes["limits"] = self._one_limit(g, kinds, lifted, scene, predicted)
        if "nms" in kinds:
            causes["nms"] = self._removed_by(scene, causes, proof.prior, int(self._objects.labels[g]))
        return Outcome(None, tuple(causes[kind] for kind in CAUSES if kind in causes), proof)

    def _reached(self, scene: Scene, predicted: Predicted, g: int) -> bool:
        """Whether a box that would claim the object has a score that is shown, without which lifting limits and
        switching NMS off bring nothing."""
        scores = predicted.scores[:, self._objects.labels[g] + 1]
        return bool((predicted.claims[g] & (scores >= scene.show_min)).any())

    def _cause(self, scene: Scene, predicted: Predicted, g: int, kind: str, low: bool) -> Cause | None:
        if kind == "nms":
            return Cause(kind, _NO_NMS, {})
        if kind == "wrong-class":
            return self._wrong_class(scene, predicted, g, low)
        return self._moved(g)

    def _without_box(self, g: int) -> Cause | None:
        """Where no box of the network could have the object: the prior that is missing, or the box that is off."""
        if bool(self._predicted.claims[g].any()):
            return None
        label = self._objects.labels[g]
        best, prior = self._priors[g].max(dim=0)
        if float(best) < self._prior_iou:
            shape = to_centres(self._objects.boxes[g]).tolist()
            return Cause("no-prior", {"add_prior": shape, "logits_of": int(prior)}, {"iou": float(best)})
        moved = self._moved(g)
        if moved is not None:
            return moved
        fits = self._priors[g] >= self._prior_iou
        return self._move(g, int(torch.where(fits, self._predicted.scores[:, label + 1], -1.0).argmax()))

    def _moved(self, g: int) -> Cause | None:
        """A detection of its class that is near it and has no object."""
        overlaps = _of_class(iou(self._false.boxes, self._objects.boxes), self._false.labels, self._objects.labels)
        near = (overlaps.argmax(dim=1) == g) & (overlaps[:, g] >= _NEAR) & (overlaps[:, g] < self._iou_min)
        rows = near.nonzero().squeeze(1)
        return self._move(g, int(self._false.priors[rows[0]])) if len(rows) else None

    def _move(self, g: int, prior: int) -> Cause:
        offsets = encode(self._objects.boxes[g], self._scene.priors[prior], self._scene.variances)
        detail = {"iou": float(self._predicted.overlaps[g, prior])}
        return Cause("location", {"prior": prior, "offsets": offsets.tolist()}, detail)

    def _wrong_class(self, scene: Scene, predicted: Predicted, g: int, low: bool) -> Cause | None:
        """The prior whose box is on this object rather than on another, and that is surest of another class."""
        label = int(self._objects.labels[g])
        other = predicted.scores[:, 1:].clone()
        right = other[:, label].clone()
        other[:, label] = -1.0
        score, winner = other.max(dim=1)
        score = torch.where(predicted.own[g] & (score > right), score, -1.0)
        best, prior = score.max(dim=0)
        if float(best) < (0.0 if low else scene.show_min):
            return None
        taken = int(winner[prior])
        detail = {"label": taken, "score": float(best)}
        return Cause("wrong-class", {"prior": int(prior), "swap": [label, taken]}, detail)

    def _lowered(
        self, scene: Scene, predicted: Predicted, g: int, shared: tuple[str, ...]
    ) -> tuple[Cause, Proof] | None:
        """The highest thresholds with which it appears, and the detection that then has it."""
        lowest: dict[str, Any] = {"score_min": 0.0, "show_min": 0.0}
        if scene.rules.first_column == 0:  # where the background is likelier, no threshold brings the class
            lowest["background_competes"] = False
        low = changed(scene, lowest)
        # What is weaker changes no detection: one look without thresholds, unless no limit holds, is enough for all.
        if scene.raw is self._scene.raw and "per_class" not in shared:
            held = self._held(low, predicted, g, shared)
        else:
            held = self._deeper(low, predicted, g)
        if held is None:
            return None
        return Cause("low-score", lowest | _down_to(scene, held.score), {"score": held.score}), held

    def _deeper(self, scene: Scene, predicted: Predicted, g: int) -> Proof | None:
        """The detection that has the object, looked for from ever lower scores of its boxes on."""
        if predicted.raw is not scene.raw:
            predicted = predict(scene, *self._objects, self._iou_min)
        if ClassSuppression.is_local(scene.rules):
            # The best survivor in its class; if it is not among those that are kept, no weaker one is.
            certain, best = self._survivor(scene, predicted, g)
            if certain and (best is None or scene.rules.keep == NO_CAP):
                return best
            if certain and best is not None:
                return self._held(scene._replace(show_min=best.score), predicted, g, None)
        scores = predicted.scores[predicted.claims[g], self._objects.labels[g] + 1]
        ordered = scores.sort(descending=True).values.tolist()
        for count in dict.fromkeys(min(count, len(ordered)) for count in (1, 4, 16, 64, len(ordered))):
            if count and ordered[count - 1] > 0.0:
                held = self._held(scene._replace(show_min=ordered[count - 1]), predicted, g, None)
                if held is not None:
                    return held
        return None

    def _survivor(self, scene: Scene, predicted: Predicted, g: int) -> tuple[bool, Proof | None]:
        """Whether it is certain, and the detection that has the object where `ClassSuppression.is_local` and `keep` is
        not looked at. predicted: of this scene's raw outputs."""
        label = int(self._objects.labels[g])
        scores = predicted.scores[:, label + 1]
        mine = (predicted.claims[g] & (scores >= scene.show_min)).nonzero().squeeze(1)
        if not len(mine):
            return True, None
        key = label, replace(scene.rules, keep=NO_CAP)
        suppression = self._classes.get(key) if scene.raw is self._scene.raw else None
        if suppression is None:
            suppression = ClassSuppression(predicted.boxes, scores, scene.rules)
            if scene.raw is self._scene.raw:
                self._classes[key] = suppression
        for prior in mine[scores[mine].argsort(descending=True, stable=True)].tolist():
            if suppression.keeps(prior):
                proof = Proof(float(scores[prior]), float(predicted.overlaps[g, prior]), prior)
                return not suppression.tied, proof
        return not suppression.tied, None

    def _held(self, scene: Scene, predicted: Predicted, g: int, shared: tuple[str, ...] | None) -> Proof | None:
        """The detection that has the object in a scene. shared: changes that are the same for every object, under which
        what is found is kept."""
        rules, label = scene.rules, int(self._objects.labels[g])
        # Where no limit counts boxes of several classes, those of others change nothing and need not be looked at.
        apart = rules.keep == NO_CAP and rules.candidates is None and not rules.class_agnostic
        if predicted.raw is scene.raw and ClassSuppression.is_local(rules):
            certain, best = self._survivor(scene, predicted, g)
            if certain and (best is None or apart):
                return best
            kept = self._among_kept(scene, best, label) if certain and best is not None else None
            if kept is not None:
                return best if kept else None
        key = None if shared is None else "+".join([*shared, str(label)] if apart else shared)
        if key is None or key not in self._shown:
            found = scene.visible(scene.trace([label] if apart else None))
            result = found, holders(found, self._objects, self._iou_min)
            if key is not None:
                self._shown[key] = result
        else:
            result = self._shown[key]
        found, row = result[0], result[1][g]
        if row is None:
            return None
        return Proof(float(found.scores[row]), self._overlap(found.boxes[row], g), int(found.priors[row]))

    def _among_kept(self, scene: Scene, best: Proof, label: int) -> bool | None:
        """Whether a survivor in its class is among the `keep` best of all, by rules of which limits before NMS may be
        lifted: that brings more survivors and takes none away. None where it is not known without another look."""
        own, rules = self._scene.rules, scene.rules
        alike = replace(rules, score_min=own.score_min, show_min=own.show_min, per_class=own.per_class) == own
        if scene.raw is not self._scene.raw or not alike:
            return None
        if best.score < self._depth or self._kept is None:
            self._depth = best.score / 2  # so that the next object may be among them too
            low = changed(self._scene, {"score_min": 0.0, "show_min": self._depth})
            self._kept = low.trace()
        kept = self._kept
        if len(kept.scores) == own.keep and float(kept.scores[-1]) > best.score:
            return False
        if rules.per_class != own.per_class:
            return None
        return bool(((kept.priors == best.prior) & (kept.labels == label)).any())

    def _overlap(self, box: Tensor, g: int) -> float:
        return float(iou(box.unsqueeze(0), self._objects.boxes[[g]]))

    def _one_limit(
        self, g: int, kinds: tuple[str, ...], lifted: Mapping[str, Any], scene: Scene, predicted: Predicted
    ) -> Cause:
        """The one limit that has to be lifted, where one is enough. "keep" alone was tried before the others."""
        rules, held = self._scene.rules, _NO_NMS if "nms" in kinds else {"keep": NO_CAP}
        for name, value in lifted.items():
            if len(lifted) > 1 and (name in held or getattr(rules, name) == value):
                continue
            one = scene._replace(rules=replace(scene.rules, **_limits_of(rules, kinds) | {name: value}))
            if len(lifted) == 1 or self._held(one, predicted, g, None) is not None:
                return Cause("limits", {name: value}, {name: getattr(rules, name)})
        return Cause("limits", lifted, {})

    def _removed_by(self, scene: Scene, causes: Mapping[str, Cause], prior: int, label: int) -> Cause:
        """The detection that removes this one as long as nothing is changed in NMS."""
        rules = self._scene.rules
        before = scene._replace(rules=replace(scene.rules, nms_iou=rules.nms_iou, keep=NO_CAP))
        kept = before.trace(None if rules.class_agnostic else [label])
        boxes = decode(scene.raw.offsets[0, [prior]].float(), scene.priors[[prior]], scene.variances)
        overlaps = iou(kept.boxes, boxes.clamp(0.0, 1.0) if rules.clip else boxes).squeeze(1)
        clash = overlaps > rules.nms_iou
        if not rules.class_agnostic:
            clash &= kept.labels == label
        rows = clash.nonzero().squeeze(1)
        if not len(rows):
            return causes["nms"]
        row = int(rows[0])
        by = {"prior": int(kept.priors[row]), "label": int(kept.labels[row]), "iou": float(overlaps[row])}
        return causes["nms"]._replace(detail=by)


def _limits_of(rules: Thresholds, kinds: tuple[str, ...]) -> dict[str, Any]:
    """The limits as they were, but for those that NMS off has lifted."""
    return {name: getattr(rules, name) for name in _LIMITS if not ("nms" in kinds and name in _NO_NMS)}


def _down_to(scene: Scene, score: float) -> dict[str, float]:
    """Thresholds with which that score is shown, where they are higher."""
    least = torch.nextafter(torch.tensor(score), torch.tensor(0.0)).item()
    return {"score_min": min(least, scene.rules.score_min), "show_min": min(score, scene.show_min)}


def _subsets(can_move: bool) -> Iterator[tuple[str, ...]]:
    """Of what is tried, none first and all last; what sets the score lowest comes last in each."""
    kinds = [kind for kind in _TRIED if can_move or kind != "location"]
    for count in range(len(kinds) + 1):
        yield from combinations(kinds, count)

"""Raw outputs of an exported file -> detections, without torch: the rules of postprocess.to_detections in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from singleshot.prior_boxes import PriorSpec, prior_table
from singleshot.records import ImageDetections
from singleshot.thresholds import NO_CAP, VOTE_LEAST, VOTE_REACH, VOTE_SHARE, Thresholds


class RawDecoder:
    """Callable: offsets [N, P, 4] and logits [N, P, C + 1] -> one ImageDetections per image.

    wanted: as in postprocess.to_detections.
    """

    def __init__(self, spec: PriorSpec, rules: Thresholds, wanted: Sequence[int] | None = None) -> None:
        self._priors, self._variances, self._rules, self._wanted = prior_table(spec), spec.variances, rules, wanted

    def __call__(self, offsets: np.ndarray, logits: np.ndarray) -> list[ImageDetections]:
        return [self.trace(*image)[0] for image in zip(offsets, logits, strict=True)]

    def trace(self, offsets: np.ndarray, logits: np.ndarray) -> tuple[ImageDetections, np.ndarray]:
        """Detections of one image, offsets [P, 4] and logits [P, C + 1], and the prior [N] that each came from."""
        rules, wanted = self._rules, self._wanted
        apart = None if rules.class_agnostic else wanted
        scores, priors, labels = candidates(probabilities(logits, rules.activation), rules, apart)
        boxes = decode(offsets[priors], self._priors[priors], self._variances)
        if rules.clip:
            boxes = boxes.clip(0.0, 1.0)
        if wanted is None or not rules.class_agnostic:
            kept = suppress(boxes, labels, rules)
        else:  # boxes of other classes suppress those that are wanted, but do not count
            kept = suppress(boxes, labels, replace(rules, keep=NO_CAP))
            kept = kept[np.isin(labels[kept], wanted)][: rules.keep]
        found = boxes[kept] if rules.box_voting is None else vote(boxes, scores, labels, kept, rules)
        return ImageDetections(found, scores[kept], labels[kept]), priors[kept]


def probabilities(logits: np.ndarray, activation: str) -> np.ndarray:
    """logits [.., C + 1], background first -> float32 scores of the same shape."""
    logits = logits.astype(np.float32, copy=False)
    if activation == "sigmoid":
        with np.errstate(over="ignore"):  # exp of a large number is infinite, and 1 over that 0, as it should be
            scores: np.ndarray = 1 / (1 + np.exp(-logits))
            return scores
    powers: np.ndarray = np.exp(logits - logits.max(axis=-1, keepdims=True))
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


def candidates(
    scores: np.ndarray, rules: Thresholds, wanted: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores [P, C + 1] -> (scores, priors, 0-based classes) of what enters NMS, best first; wanted: None for all."""
    if rules.one_class_per_prior:
        first = rules.first_column
        winners = scores[:, first:].argmax(axis=1) + first
        best = scores[np.arange(len(scores)), winners]
        chosen = (winners > 0) & (best > rules.score_min)
        if wanted is not None:
            chosen &= np.isin(winners - 1, wanted)
        priors = np.flatnonzero(chosen)
        values, labels = best[priors], winners[priors] - 1
    else:
        classes = np.arange(scores.shape[1] - 1) if wanted is None else np.array(wanted, np.int64)
        values, priors, columns = _of_each_class(scores[:, 1:] if wanted is None else scores[:, classes + 1], rules)
        labels = classes[columns]
    order = np.argsort(-values, kind="stable")[: rules.candidates]
    return values[order], priors[order], labels[order].astype(np.int64)


def _of_each_class(scores: np.ndarray, rules: Thresholds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `per_class` best of every class of scores [P, C]."""
    over = scores > rules.score_min  # a NaN is not
    for label in np.flatnonzero(over.sum(axis=0) > rules.per_class):
        rows = np.flatnonzero(over[:, label])
        weakest = np.argsort(-scores[rows, label], kind="stable")[rules.per_class :]
        over[rows[weakest], label] = False
    priors, labels = np.nonzero(over)
    return scores[priors, labels], priors, labels


def decode(offsets: np.ndarray, priors_cxcywh: np.ndarray, variances: tuple[float, float]) -> np.ndarray:
    """Offsets [M, 4] -> corner boxes float32 [M, 4] (boxes.decode)."""
    offsets = offsets.astype(np.float32, copy=False)
    prior_centre, prior_size = priors_cxcywh[:, :2], priors_cxcywh[:, 2:]
    centre = prior_centre + offsets[:, :2] * np.float32(variances[0]) * prior_size
    with np.errstate(over="ignore"):
        half = prior_size * np.exp(offsets[:, 2:] * np.float32(variances[1])) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def suppress(boxes: np.ndarray, labels: np.ndarray, rules: Thresholds) -> np.ndarray:
    """Greedy NMS over boxes [M, 4], best first -> rows that stay, best first."""
    alive = np.ones(len(boxes), bool)
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    of_class: dict[int, int] = {}
    kept: list[int] = []
    for row in range(len(boxes)):
        if not alive[row]:
            continue
        kept.append(row)
        if len(kept) == rules.keep:
            break
        rest = slice(row + 1, None)
        low, high = np.maximum(boxes[rest, :2], boxes[row, :2]), np.minimum(boxes[rest, 2:], boxes[row, 2:])
        overlap = (high - low).clip(min=0).prod(axis=1)
        union = np.maximum(areas[rest] + areas[row] - overlap, np.finfo(np.float32).tiny)
        dropped = overlap / union > rules.nms_iou
        if not rules.class_agnostic:
            own = labels[rest] == labels[row]
            label = int(labels[row])
            of_class[label] = of_class.get(label, 0) + 1
            dropped = own if of_class[label] == rules.keep_per_class else dropped & own
        alive[rest] &= ~dropped
    return np.array(kept, np.int64)


def vote(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, kept: np.ndarray, rules: Thresholds) -> np.ndarray:
    """Boxes float32 [N, 4] of the kept rows after the vote of all [M] that entered NMS (box_voting.vote)."""
    assert rules.box_voting is not None
    reach = boxes.clip(-VOTE_REACH, VOTE_REACH)
    voted: np.ndarray = boxes[kept]
    areas = (reach[:, 2:] - reach[:, :2]).clip(min=0).prod(axis=1)
    for row, of in enumerate(kept):
        low, high = np.maximum(reach[:, :2], reach[of, :2]), np.minimum(reach[:, 2:], reach[of, 2:])
        overlap = (high - low).clip(min=0).prod(axis=1)
        union = np.maximum(areas + areas[of] - overlap, np.finfo(np.float32).tiny)
        weights = (overlap / union - np.float32(rules.box_voting)).clip(min=0)
        least = max(np.float32(VOTE_LEAST), np.float32(VOTE_SHARE) * scores[of])
        weights *= (scores - least).clip(min=0)
        if not rules.class_agnostic:
            weights *= labels == labels[of]
        mine = min(least, scores[of]) * np.float32(1 - rules.box_voting)
        voted[row] = (weights @ reach + mine * reach[of]) / (weights.sum() + mine)
    return voted

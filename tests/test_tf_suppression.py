"""The detection rules of TensorFlow's kernels and of ssd_keras' fast decoder, one box at a time, against our three
forms: torch, numpy, and the operators of an exported file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from singleshot.conventions import DETECTION
from singleshot.datasets import open_dataset
from singleshot.inputs import to_square
from singleshot.postprocess import to_detections
from singleshot.priors import from_shapes, make_priors, prior_table
from singleshot.records import RawOutput
from singleshot.runtime.postprocess_numpy import RawDecoder, decode, probabilities
from singleshot.thresholds import Thresholds
from singleshot.weights.importing import import_checkpoint

SPEC = from_shapes(64, (5, 3), [((20.0, 20.0), (28.0, 14.0)), ((40.0, 40.0), (30.0, 50.0))])
CLASSES = 4
# (score, 0-based class, prior), best first.
Rows = list[tuple[float, int, int]]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    if area_a <= 0 or area_b <= 0:
        return 0.0
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    return float(common / (area_a + area_b - common))


def select(boxes: np.ndarray, scores: list[float], ok: Callable[[float], bool], iou_max: float, most: int) -> list[int]:
    """NonMaxSuppressionSingleClassHelper, and tf.image.non_max_suppression: priors that stay, best first."""
    kept: list[int] = []
    for i in sorted((i for i, score in enumerate(scores) if ok(score)), key=lambda i: -scores[i]):
        if len(kept) == most:
            break
        if all(overlap(boxes[i], boxes[j]) <= iou_max for j in kept):
            kept.append(i)
    return kept


def tflite_fast(scores: np.ndarray, boxes: np.ndarray, rules: Thresholds) -> Rows:
    """detection_postprocess.cc, NonMaxSuppressionMultiClassFastHelper, one class for each box."""
    label_offset, num_classes = 1, scores.shape[1] - 1
    classes = [max(range(num_classes), key=lambda c, row=row: row[c + label_offset]) for row in scores]
    best = [float(row[c + label_offset]) for row, c in zip(scores, classes, strict=True)]
    kept = select(boxes, best, lambda s: s >= rules.score_min, rules.nms_iou, rules.keep)
    return [(best[i], classes[i], i) for i in kept]


def tflite_regular(scores: np.ndarray, boxes: np.ndarray, rules: Thresholds) -> Rows:
    """detection_postprocess.cc, NonMaxSuppressionMultiClassRegularHelper: detections_per_class, then max_detections."""
    assert rules.keep_per_class is not None
    merged: Rows = []
    for c in range(scores.shape[1] - 1):
        column = scores[:, c + 1].tolist()
        kept = select(
            boxes, column, lambda s: s >= rules.score_min, rules.nms_iou, min(rules.keep_per_class, rules.keep)
        )
        merged = sorted([*merged, *((column[i], c, i) for i in kept)], key=lambda row: -row[0])[: rules.keep]
    return merged


def tf_multiclass(scores: np.ndarray, boxes: np.ndarray, rules: Thresholds) -> Rows:
    """core/post_processing.py, multiclass_non_max_suppression: max_size_per_class of each class leave NMS."""
    assert rules.keep_per_class is not None
    joined: Rows = []
    for c in range(scores.shape[1] - 1):
        column = scores[:, c + 1].tolist()
        kept = select(
            boxes, column, lambda s: s > rules.score_min, rules.nms_iou, min(rules.keep_per_class, len(boxes))
        )
        joined += [(column[i], c, i) for i in kept]
    return sorted(joined, key=lambda row: -row[0])[: rules.keep]


def tf_class_agnostic(scores: np.ndarray, boxes: np.ndarray, rules: Thresholds) -> Rows:
    """core/post_processing.py, class_agnostic_non_max_suppression: background was cut off after the softmax."""
    real = scores[:, 1:]
    best = real.max(axis=1).tolist()
    kept = select(boxes, best, lambda s: s > rules.score_min, rules.nms_iou, rules.keep)
    return [(best[i], int(real[i].argmax()), i) for i in kept]


def ssd_keras_fast(scores: np.ndarray, boxes: np.ndarray, rules: Thresholds) -> Rows:
    """ssd_output_decoder.py, decode_detections_fast: background may be the best class, and such boxes are removed."""
    classes, best = scores.argmax(axis=1), scores.max(axis=1).tolist()
    alive = [best[i] if classes[i] != 0 else -1.0 for i in range(len(boxes))]
    kept = select(boxes, alive, lambda s: s > rules.score_min, rules.nms_iou, rules.keep)
    return [(best[i], int(classes[i]) - 1, i) for i in kept]


AGNOSTIC = replace(
    DETECTION["tf-object-detection"],
    class_agnostic=True,
    background_competes=False,
    keep_per_class=None,
    activation="softmax",
)
RULES: dict[str, tuple[Callable[..., Rows], Thresholds]] = {
    "tflite fast": (tflite_fast, replace(DETECTION["tflite"], score_min=0.2)),
    "tflite fast, softmax": (tflite_fast, replace(DETECTION["tflite"], activation="softmax", keep=50)),
    "tflite regular": (tflite_regular, replace(DETECTION["tflite-regular"], keep_per_class=3)),
    "tflite regular, softmax": (
        tflite_regular,
        replace(DETECTION["tflite-regular"], activation="softmax", keep=40, keep_per_class=7),
    ),
    "tf multiclass": (tf_multiclass, replace(DETECTION["tf-object-detection"], keep_per_class=5, keep=12)),
    "tf multiclass, all": (tf_multiclass, replace(DETECTION["tf-object-detection"], score_min=0.3)),
    "tf class-agnostic": (tf_class_agnostic, AGNOSTIC),
    "ssd_keras-fast": (ssd_keras_fast, replace(DETECTION["ssd_keras-fast"], score_min=0.3)),
}


def outputs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    offsets = rng.normal(0, 1, (2, SPEC.count, 4)).astype(np.float32)
    return offsets, rng.normal(0, 2, (2, SPEC.count, CLASSES + 1)).astype(np.float32)


def literal(rule: Callable[..., Rows], offsets: np.ndarray, logits: np.ndarray, rules: Thresholds) -> list[Any]:
    """[(boxes, scores, labels)] of each image."""
    found = []
    for one, image in zip(offsets, logits, strict=True):
        boxes = decode(one, prior_table(SPEC), SPEC.variances)
        rows = rule(probabilities(image, rules.activation), boxes, rules)
        scores, labels, priors = zip(*rows, strict=True)
        found.append((boxes[list(priors)], np.array(scores), np.array(labels)))
    return found


def exported(offsets: np.ndarray, logits: np.ndarray, rules: Thresholds) -> list[Any]:
    """What the operators behind an exported network find."""
    runtime = pytest.importorskip("onnxruntime")
    from singleshot.deploy.onnx_post import decode_model, select_model

    models = decode_model(prior_table(SPEC), SPEC.variances, CLASSES, rules), select_model(SPEC.count, CLASSES, rules)
    feeds = {"offsets": offsets, "logits": logits}
    for model in models:
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        feeds = dict(zip(names, session.run(names, feeds), strict=True))
    rows = zip(*(feeds[name] for name in ("boxes", "scores", "labels", "counts")), strict=True)
    return [(boxes[:n], scores[:n], labels[:n]) for boxes, scores, labels, n in rows]


def agree(found: Any, wanted: Any) -> None:
    for (boxes, scores, labels), (their_boxes, their_scores, their_labels) in zip(found, wanted, strict=True):
        assert np.asarray(labels).tolist() == their_labels.tolist()
        np.testing.assert_allclose(scores, their_scores, atol=1e-6)
        np.testing.assert_allclose(boxes, their_boxes, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rule", "rules"), RULES.values(), ids=RULES)
def test_all_three_forms_do_what_the_source_does(rule: Callable[..., Rows], rules: Thresholds, seed: int) -> None:
    offsets, logits = outputs(seed)
    wanted = literal(rule, offsets, logits, rules)
    raw = RawOutput(torch.from_numpy(offsets), torch.from_numpy(logits))
    priors = make_priors(SPEC)
    agree(to_detections(raw, priors, variances=SPEC.variances, **rules.for_postprocess()), wanted)
    agree([(f.boxes, f.scores, f.labels) for f in RawDecoder(SPEC, rules)(offsets, logits)], wanted)
    agree(exported(offsets, logits, rules), wanted)


def test_whether_the_background_competes_changes_the_answer() -> None:
    """Else the test above would not have seen it."""
    offsets, logits = outputs(0)
    raw, priors = RawOutput(torch.from_numpy(offsets), torch.from_numpy(logits)), make_priors(SPEC)
    rules = replace(DETECTION["tflite"], activation="softmax", keep=1000, score_min=0.2)
    counts = [
        [len(f.scores) for f in to_detections(raw, priors, **replace(rules, background_competes=b).for_postprocess())]
        for b in (False, True)
    ]
    assert all(a > b for a, b in zip(*counts, strict=True))


def test_a_limit_of_each_class_after_nms_is_none_before_it() -> None:
    """Two candidates of a class that overlap: before NMS a limit of two leaves one, after it two."""
    priors = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.31, 0.3, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]])
    logits = torch.tensor([[[0.0, 3.0], [0.0, 2.0], [0.0, 1.0]]])
    raw = RawOutput(torch.zeros(1, 3, 4), logits)
    assert len(to_detections(raw, priors, per_class=2)[0].scores) == 1
    assert len(to_detections(raw, priors, keep_per_class=2)[0].scores) == 2


@pytest.mark.parametrize("name", ["tflite", "tflite-regular"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_on_outputs_of_the_published_detector(name: str, activation: str, shared: Path) -> None:
    """A photo through the quantised COCO SSD, whose boxes and scores are those of LiteRT but for rounding."""
    model = import_checkpoint(shared / "weights" / "coco_ssd_mobilenet_v1_quant_detect.tflite")
    photo = to_square(open_dataset(shared / "data" / "voc07", "val").sample(0).image, model.input_spec)[0]
    with torch.inference_mode():
        raw = model(torch.from_numpy(photo).permute(2, 0, 1).unsqueeze(0))
    rules = replace(DETECTION[name], activation=activation, score_min=0.05, keep=100)
    spec = model.prior_spec
    found = to_detections(raw, model.priors, variances=spec.variances, **rules.for_postprocess())
    boxes = decode(raw.offsets[0].numpy(), prior_table(spec), spec.variances)
    scores = probabilities(raw.logits[0].numpy(), activation)
    rule = tflite_fast if rules.class_agnostic else tflite_regular
    their_scores, labels, priors = zip(*rule(scores, boxes, rules), strict=True)
    assert len(labels) > 10
    agree(found, [(boxes[list(priors)], np.array(their_scores), np.array(labels))])

"""The numpy form of decoding and NMS finds what postprocess.to_detections finds."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from singleshot.conventions import DETECTION
from singleshot.errors import ConfigError
from singleshot.postprocess import to_detections
from singleshot.priors import from_shapes, make_priors
from singleshot.records import RawOutput
from singleshot.runtime.postprocess_numpy import RawDecoder
from singleshot.thresholds import NO_CAP, Thresholds

SPEC = from_shapes(64, (6, 3), [((20.0, 20.0), (28.0, 14.0)), ((40.0, 40.0),)])


def raw_output(seed: int, classes: int, images: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and logits whose scores are all different."""
    rng = np.random.default_rng(seed)
    offsets = rng.normal(0, 1, (images, SPEC.count, 4)).astype(np.float32)
    logits = rng.normal(0, 2, (images, SPEC.count, classes + 1)).astype(np.float32)
    return offsets, logits


def both(offsets: np.ndarray, logits: np.ndarray, rules: Thresholds, classes: list[int] | None = None):
    options = asdict(rules)
    del options["show_min"]
    raw = RawOutput(torch.from_numpy(offsets), torch.from_numpy(logits))
    wanted = to_detections(raw, make_priors(SPEC), variances=SPEC.variances, wanted=classes, **options)
    return zip(RawDecoder(SPEC, rules, classes)(offsets, logits), wanted, strict=True)


def check(offsets: np.ndarray, logits: np.ndarray, rules: Thresholds, classes: list[int] | None = None) -> int:
    total = 0
    for found, wanted in both(offsets, logits, rules, classes):
        assert found.boxes.dtype == found.scores.dtype == np.float32
        assert found.labels.tolist() == wanted.labels.tolist()
        np.testing.assert_allclose(found.scores, wanted.scores.numpy(), atol=1e-6)
        np.testing.assert_allclose(found.boxes, wanted.boxes.numpy(), atol=1e-5)
        total += len(found.scores)
    return total


RULES = st.builds(
    Thresholds,
    score_min=st.sampled_from([0.0, 0.01, 0.2, 0.6]),
    nms_iou=st.sampled_from([0.1, 0.45, 0.8, 1.0]),
    per_class=st.sampled_from([1, 7, 400]),
    keep=st.sampled_from([1, 10, 10**6]),
    class_agnostic=st.booleans(),
    activation=st.sampled_from(["softmax", "sigmoid"]),
    clip=st.booleans(),
    candidates=st.sampled_from([None, 5, 50]),
    keep_per_class=st.sampled_from([None, 1, 4]),
    best_class=st.booleans(),
    box_voting=st.sampled_from([None, 0.0, 0.5]),
)


@given(seed=st.integers(0, 10**6), classes=st.integers(1, 5), rules=RULES)
def test_as_to_detections(seed: int, classes: int, rules: Thresholds) -> None:
    check(*raw_output(seed, classes), rules)


@given(seed=st.integers(0, 10**6), rules=RULES, classes=st.sets(st.integers(0, 4), min_size=1))
def test_wanted_classes_are_not_pushed_out_by_others(seed: int, rules: Thresholds, classes: set[int]) -> None:
    """Those of all classes without the caps that span classes, cut to the wanted ones, and then to the caps."""
    offsets, logits = raw_output(seed, 5)
    check(offsets, logits, rules, sorted(classes))
    if rules.candidates is not None:
        return
    whole = RawDecoder(SPEC, replace(rules, keep=NO_CAP))(offsets, logits)
    for (found, _), every in zip(both(offsets, logits, rules, sorted(classes)), whole, strict=True):
        rows = np.flatnonzero(np.isin(every.labels, sorted(classes)))[: rules.keep]
        assert found.labels.tolist() == every.labels[rows].tolist()
        np.testing.assert_array_equal(found.scores, every.scores[rows])
        rounding = 0.0 if rules.box_voting is None else 1e-6  # of sums over other numbers of boxes
        np.testing.assert_allclose(found.boxes, every.boxes[rows], rtol=rounding, atol=rounding)


@pytest.mark.parametrize("rule", DETECTION)
def test_as_every_codebase(rule: str) -> None:
    assert check(*raw_output(3, 4), DETECTION[rule]) > 0


def test_a_broken_network_finds_nothing() -> None:
    offsets, logits = raw_output(0, 2)
    for rules in (
        Thresholds(),
        Thresholds(best_class=True),
        Thresholds(class_agnostic=True),
        Thresholds(activation="sigmoid"),
    ):
        assert [len(found.scores) for found in RawDecoder(SPEC, rules)(offsets, logits * np.nan)] == [0, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nms_iou": 1.5}, "nms_iou: 1.5"),
        ({"keep": 0}, "keep: 0"),
        ({"keep_per_class": 2.5}, "keep_per_class: 2.5"),
        ({"activation": "relu"}, "activation relu"),
        ({"soft_nms": True}, "unknown key soft_nms"),
    ],
)
def test_wrong_rules(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Thresholds.from_dict(values)

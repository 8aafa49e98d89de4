"""One description for both kinds of model file: what version 0.1 wrote reads and writes the same."""

from __future__ import annotations

import json

import pytest

from singleshot.errors import CheckpointError
from singleshot.inputs import InputSpec
from singleshot.model_info import CHECKPOINT, EXPORTED, ModelInfo
from singleshot.thresholds import Thresholds

# As version 0.1.0 wrote them, before there was one record for both.
INPUT = {"size": 320, "resize": "stretch", "colour_order": "rgb", "mean": [123.675, 116.28, 103.53], "std": [1.0] * 3}
PRIORS = {
    "image_size": 320,
    "maps": [2, 1],
    "min_sizes": [19.2, 44.8],
    "max_sizes": [44.8, 83.2],
    "ratios": [[2.0], [2.0, 3.0]],
    "steps": None,
    "offset": 0.5,
    "clip": "none",
    "truncate": False,
    "variances": [0.1, 0.2],
    "two_squares": True,
    "shapes": None,
    "order": "location",
    "rounding": 0.0,
}
THRESHOLDS = {
    "score_min": 0.01,
    "nms_iou": 0.45,
    "per_class": 400,
    "keep": 50,
    "class_agnostic": False,
    "activation": "softmax",
    "show_min": 0.4,
    "clip": False,
    "candidates": None,
    "keep_per_class": None,
    "best_class": False,
}
NEW = {"background_competes": True}  # files of before meant so without saying it
BOTH = {
    "format": 1,
    "version": "0.1.0",
    "model": "ssd320-mini",
    "classes": ["cat", "naïve 猫"],
    "priors": PRIORS,
    "input": INPUT,
    "thresholds": THRESHOLDS,
    "metrics": {"val_map50": 0.5},
}
FILES = {
    "checkpoint": ({**BOTH, "training": {"seed": 1}}, CHECKPOINT),
    "of an imported network": ({**BOTH, "training": {}, "graph": {"layers": [], "heads": []}}, CHECKPOINT),
    "detections": ({**BOTH, "outputs": "detections", "precision": "float32"}, EXPORTED),
    "raw": ({**BOTH, "outputs": "raw", "precision": "float32"}, EXPORTED),
    "int8": (
        {**BOTH, "outputs": "detections", "precision": "int8", "quantisation": {"float_layers": ["a"]}},
        EXPORTED,
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_before_read_and_write_the_same_but_for_what_is_new(name: str) -> None:
    values, wanted = FILES[name]
    info = ModelInfo.from_json(json.dumps(values), "m", wanted)
    assert json.loads(info.to_json()) == {**values, "thresholds": {**THRESHOLDS, **NEW}}
    assert ModelInfo.from_json(info.to_json(), "m", wanted) == info
    assert info.class_names == ("cat", "naïve 猫")
    assert info.thresholds == Thresholds(keep=50)
    assert info.priors.count == 4 * 4 + 6
    assert info.raw == (name == "raw")
    assert "猫" in info.to_json()


def test_a_checkpoint_s_description_becomes_that_of_its_export() -> None:
    info = ModelInfo.from_dict(FILES["of an imported network"][0])
    made = info.exported(raw=False, precision="int8", more={"quantisation": {"float_layers": ["a"]}})
    assert json.loads(made.to_json()) == {**FILES["int8"][0], "thresholds": {**THRESHOLDS, **NEW}}
    assert made.graph is None


def test_a_description_written_by_hand_needs_little() -> None:
    few = {"format": 1, "classes": ["a"], "input": {"size": 64}, "thresholds": {}, "outputs": "detections"}
    info = ModelInfo.from_json(json.dumps(few), "m", EXPORTED)
    assert (info.class_names, info.input_spec, info.version) == (("a",), InputSpec(64), "")
    with pytest.raises(CheckpointError, match="no priors"):
        _ = info.priors
    with pytest.raises(CheckpointError, match=r"m: its description cannot be read \(KeyError: 'version'\)$"):
        ModelInfo.from_json(json.dumps(few), "m")


def test_the_rule_for_16_bits_stands_in_both_kinds_of_file_and_a_file_without_it_means_scale() -> None:
    for values, wanted in FILES.values():
        info = ModelInfo.from_json(json.dumps(values), "x", wanted)
        assert info.input_spec.sixteen_bit == "scale"
        stretched = {**values, "input": {**INPUT, "sixteen_bit": "stretch"}}
        info = ModelInfo.from_json(json.dumps(stretched), "x", wanted)
        assert info.input_spec.sixteen_bit == "stretch"
        assert info.to_dict()["input"] == stretched["input"]
    with pytest.raises(CheckpointError, match="want one of scale, stretch"):
        ModelInfo.from_json(json.dumps({**BOTH, "input": {**INPUT, "sixteen_bit": 1}}), "x")

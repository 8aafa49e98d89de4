from __future__ import annotations

import resource

import numpy as np
import pytest

from singleshot.errors import CheckpointError
from singleshot.weights.importing import import_checkpoint, import_foreign


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        import_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"code_type": "caffe.PriorBoxParameter.CORNER"}, "code_type CORNER .*, want CENTER_SIZE"),
        ({"share_location": False, "loc_classes": 3}, "boxes of its own for each of 2 classes"),
        ({"background_label_id": 2, "decrease_label_id": True}, "decrease_label_id with background 2"),
        ({"extra": True, "classes": 2}, r"takes 5 inputs; refined boxes \(RefineDet\)"),
        ({"prior": {"fixed_size": [8.0], "density": [2.0]}}, "fixed sizes and others, want one kind"),
        (
            {"prior": {"min_size": [], "max_size": [], "aspect_ratio": [], "fixed_size": [8.0]}},
            "1 fixed sizes of densities",
        ),
        ({"prior": {"clip": True}}, "another clip on each map"),
        ({"prior": {"offset": 0.25}}, "another offset on each map"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_model_here_can_do(changes, match, ir):
    refused(ir.small(**changes), match)


CHANGES = [
    ('normalized="true"', 'normalized="false"', r"priors in pixels \(normalized: false\)"),
    ('type="ReLU"', 'type="GRN"', r"of type GRN cannot be imported"),
    ('type="SoftMax"', 'type="LogSoftmax"', "LogSoftmax.*, want Transpose of order 0 2 3 1"),
    ('type="DetectionOutput"', 'type="Proposal"', "not an SSD: no DetectionOutput in its .* layers; it ends in"),
    ('type="DetectionOutput"', 'type="NonMaxSuppression"', "its scores have shape .*; want the checkpoint that"),
    ('strides="2, 2"', 'strides="2, x"', "has strides 2, x: want two numbers"),
    ('strides="2, 2"', 'strides="0, 0"', "stride .0, 0."),
    ('strides="2, 2"', 'strides="1, 1"', "is for a map of .10, 18. and an image of"),
    ('pads_begin="1, 1"', 'pads_begin="-1, 1"', "groups, padded"),
    ('top_k="400"', 'top_k="4e9"', None),
    ('nms_threshold="', 'nms_threshold="7', "threshold nms_iou"),
    ('confidence_threshold="', 'confidence_threshold="nan"  other="', "want finite numbers"),
    ('background_label_id="0"', 'background_label_id="9"', "3 classes with background 9"),
    ('share_location="true"', 'share_location="perhaps"', "want true or false"),
    ('step="4"', 'step="5"', None),
    ('variance="0.1, 0.1, 0.2, 0.2"', 'variance="0.1, 0.1"', "want one or four numbers"),
    ('min_size="', 'min_size="-', "sizes or ratios that are not positive"),
    ('element_type="f32" shape="1, 3', 'element_type="f8" shape="1, 3', "numbers of type f8, not known here"),
    ('offset="0"', 'offset="99999999"', "bytes at 99999999, but .* one of the two is cut off"),
    ('offset="0"', 'offset="-8"', "one of the two is cut off"),
    ('size="12"', 'size="16"', "the file is damaged"),
    ('shape="1,3,40,72"', 'shape="1,3,40,72"', None),
    ("<dim>3</dim>", "<dim>4</dim>", "input .1, 4, 40, 72., want one image of 3 channels, or 1"),
    ("<dim>40</dim>", "<dim>-1</dim>", "want one image of 3 channels, or 1, and fixed sides"),
    ("<dim>40</dim>", "<dim>9999999999999999</dim>", "a dimension .* want a whole number"),
    ('<edge from-layer="0" ', '<edge from-layer="999" ', "a layer that is not there"),
    ('<layer id="1" ', '<layer id="0" ', "two layers have the same id"),
    ("<net ", "<annotation ", "an XML file, not a model"),
    (
        '<?xml version="1.0"?>',
        '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "aaaa">]>',
        "an OpenVINO network that is not plain XML",
    ),
    ("<layers>", "<!DOCTYPE net><layers>", "is not plain XML"),
    ("</layers>", "", "is not plain XML"),
]


@pytest.mark.parametrize(("old", "new", "match"), CHANGES, ids=lambda value: str(value)[:40])
def test_changed_files(old, new, match, ir):
    path = ir.small()
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    if match is None:
        assert import_checkpoint(path).num_classes == 2
    else:
        refused(path, match)


def test_a_circle_of_layers(ir):
    path = ir.small()
    text = path.read_text()
    last = text.rindex("<edge ")
    path.write_text(text[:last] + '<edge from-layer="6" from-port="2" to-layer="3" to-port="0" />' + text[last:])
    text = path.read_text().replace('<edge from-layer="0" from-port="0" to-layer="3" to-port="0" />', "")
    path.write_text(text)
    refused(path, "from each other in a circle|takes something that is no map")


def test_weights_that_are_missing_or_cut(ir):
    path = ir.small()
    weights = path.with_suffix(".bin")
    data = weights.read_bytes()
    for end in (0, 10, len(data) // 2, len(data) - 1):
        weights.write_bytes(data[:end])
        refused(path, "one of the two is cut off")
    other = path.with_name("other.bin")
    weights.rename(other)
    refused(path, r"without its weights; put net\.bin next to it")
    other.write_bytes(data)
    assert import_foreign(path, companion=other).model.num_classes == 2
    weights.write_bytes(data)
    refused(weights, r"the weights of an OpenVINO model, which net.xml describes; name that")


def test_weights_that_are_no_numbers(ir):
    path = ir.small()
    weights = path.with_suffix(".bin")
    data = np.frombuffer(weights.read_bytes(), np.uint8).copy()
    data[2000:2004] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
    weights.write_bytes(data.tobytes())
    refused(path, "NaN or infinity|numbers")


def test_changed_bytes_are_refused_or_do_no_harm(ir):
    path = ir.small()
    text = bytearray(path.read_bytes())
    random = np.random.default_rng(0)
    for _ in range(40):
        spoilt = text.copy()
        for at in random.integers(0, len(text), 3):
            spoilt[at] = random.integers(32, 127)
        path.write_bytes(spoilt)
        try:
            import_checkpoint(path)
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_bombs_take_no_memory(ir):
    path = ir.small()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path.write_text("<net><layers>" + "<layer/>" * (2**20 + 1) + "</layers></net>")
    refused(path, "larger than 8 MB")
    path.write_text("<net><layers>" + "<layer/>" * 50_000 + "</layers></net>")
    refused(path, "50000 layers")
    path.write_text("<net>" + "<a>" * 50_000)
    refused(path, "is not plain XML")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes

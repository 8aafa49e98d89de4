from __future__ import annotations

import numpy as np
import pytest
import torch

from singleshot.boxes import to_corners


def test_layers_give_what_openvino_computes(ir):
    op, builder = ir.op, ir.builder(1)
    image, x = builder.image()
    x = op.prelu(builder.conv(x, 8, stride=2), builder.const(8, low=0, scale=0.4))
    x = op.clamp(builder.conv(x, 8, groups=8), 0.0, 6.0)
    x = op.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [3, 3], "ceil", "explicit").output(0)
    branch = op.elu(builder.conv(x, 8), 0.7)
    x = op.add(op.swish(builder.conv(x, 8, bias=False)), branch)
    x = op.concat([op.hswish(builder.conv(x, 4)), op.multiply(x, op.sigmoid(builder.conv(x, 8)))], 1)
    mean = op.reduce_mean(x, op.constant(np.array([2, 3])), keep_dims=True)
    x = op.multiply(x, op.hsigmoid(builder.conv(mean, 12, 1)))
    x = op.subtract(op.clamp(x, -2.0, 1.5), builder.const(1, 12, 1, 1))
    normed = op.multiply(
        op.normalize_l2(x, op.constant(np.array([1])), 1e-10, "add"), builder.const(1, 12, 1, 1, scale=8)
    )
    pooled = op.avg_pool(x, [2, 2], [1, 1], [1, 1], [3, 3], False, "floor", "explicit")
    norms = [builder.const(12, low=0.5) for _ in range(4)]
    pooled = op.batch_norm_inference(pooled, *norms, 1e-3)
    foreign, *labels = ir.agree(ir.save(ir.end(builder, image, [normed, pooled]), image))
    spec = foreign.model.input_spec
    assert (spec.sides, spec.colour_order) == (ir.sides, "bgr")
    assert spec.mean == pytest.approx((123, 117, 104), abs=1e-3)
    assert spec.std == pytest.approx((1 / 0.017,) * 3, rel=1e-5)
    assert np.array_equal(labels[0] - 1, labels[1])
    assert "blue first" in foreign.notes[0]


def test_half_precision(ir):
    foreign, *_ = ir.agree(ir.small(half=True))
    assert foreign.model.num_classes == 2
    assert foreign.source == "OpenVINO network net, IR version 11"


CHANGES = {
    "variances in the targets": {"variance_encoded_in_target": True, "folded": True},
    "clipped before NMS": {"clip_before_nms": True},
    "background last": {"background_label_id": 2},
    "no background": {"background_label_id": -1},
    "MXNet's NMS": {"decrease_label_id": True, "top_k": 60},
    "few candidates": {"top_k": 12},
    "few kept": {"keep_top_k": [20]},
    "no limits": {"top_k": -1, "keep_top_k": [-1], "confidence_threshold": 0.35},
    "a box of the only class": {"classes": 2, "loc_classes": 2, "share_location": False, "confidence_threshold": 0.5},
    "sigmoid": {"activation": "sigmoid", "confidence_threshold": 0.6},
    "variances of their own": {"prior": {"variance": [0.1, 0.15, 0.2, 0.25]}, "clustered": {"variance": [0.3]}},
    "steps of the maps": {"prior": {"step": 0.0}, "clustered": {"step": 0.0}},
    "steps of one axis": {"clustered": {"step": 0.0, "step_w": 9.0, "step_h": 8.0}},
    "several centres in a cell": {
        "prior": {
            "min_size": [],
            "max_size": [],
            "aspect_ratio": [],
            "fixed_size": [5.0, 4.0, 16.0],
            "density": [2.0, 1.0, 1.0],
        },
        "clustered": {"clip": True},
    },
    "clipped priors": {"prior": {"clip": True}, "clustered": {"clip": True}},
    "another offset": {"prior": {"offset": 0.25}, "clustered": {"offset": 0.25}},
    "several sizes": {"prior": {"min_size": [9.0, 20.0], "max_size": [14.0, 30.0], "aspect_ratio": [2.0, 3.0, 0.5]}},
    "ratios as they are": {"prior": {"flip": False, "aspect_ratio": [0.4, 1.0, 3.0]}},
    "sizes as parts": {
        "prior": {"scale_all_sizes": False, "min_size": [0.2, 0.4], "max_size": [], "step": 0.1, "aspect_ratio": [2.0]}
    },
    "squares last": {"prior": {"min_max_aspect_ratios_order": False}},
    "priors as constants": {"folded": True},
    "clipped priors as constants": {"folded": True, "prior": {"clip": True}, "clustered": {"clip": True}},
    "steps of the maps as constants": {"folded": True, "prior": {"step": 0.0}, "clustered": {"step": 0.0}},
    "grey": {"channels": 1},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_detections_are_those_of_openvino(changes, ir):
    foreign, theirs, ours = ir.agree(ir.small(**changes))
    background = changes.get("background_label_id", 0)
    shift = 1 if background == 0 and not changes.get("decrease_label_id") else 0
    assert np.array_equal(theirs - shift, ours)
    spec = foreign.model.input_spec
    assert spec.channels == changes.get("channels", 3)
    assert foreign.model.num_classes == changes.get("classes", 3) - (background >= 0)


@pytest.mark.parametrize("rounded", [False, True])
def test_channels_last_and_red_first(rounded, ir):
    """As a graph has it that swaps colours itself, and takes its pixels as they lie in memory; in 8 bits it may round
    them to the whole numbers that they are."""
    op, builder = ir.op, ir.builder(3)
    image = op.parameter([1, *ir.sides, 3], np.uint8, name="data")
    x = op.convert(image, np.float32)
    if rounded:
        x = op.fake_quantize(x, *(op.constant(np.array(n, np.float32)) for n in (0, 255, 0, 255)), 256)
    x = op.transpose(x, op.constant(np.array([0, 3, 1, 2])))
    x = op.gather(x, op.constant(np.array([2, 1, 0])), op.constant(1))
    x = op.divide(op.subtract(x, builder.const(1, 3, 1, 1, scale=90, low=0)), op.constant(np.array(60, np.float32)))
    first = op.relu(builder.conv(x, 8, stride=4))
    end = ir.end(builder, x, [first, op.relu(builder.conv(first, 8, stride=2))])
    path = ir.save(end, image)

    # The network gets blue first, as the file wants it, though ours names what it sees, red first.
    foreign, *_ = ir.agree(path, turn=lambda pixels: pixels[::-1].transpose(1, 2, 0).astype(np.uint8))
    assert foreign.model.input_spec.colour_order == "rgb"


def test_eight_bits_are_limited_not_rounded(ir):
    """Weights of 8 bits with a scale for each output; ranges of maps, in which rounding changes scores by little."""
    op, builder = ir.op, ir.builder(4)
    image, x = builder.image()

    def quantised(x, low, high, levels=256):
        ends = [op.constant(np.array(v, np.float32)) for v in (low, high, low, high)]
        return op.fake_quantize(x, *ends, levels)

    weight = op.constant(builder.random.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8))
    weight = op.multiply(op.convert(weight, np.float32), builder.const(8, 1, 1, 1, scale=0.003, low=0.5))
    x = op.convolution(quantised(x, -1.5, 2.0), weight, [4, 4], [1, 1], [1, 1], [1, 1])
    first = quantised(op.relu(x), 0.0, 0.9)
    ranges = builder.random.uniform(0.5, 1, (1, 8, 1, 1))
    second = quantised(op.relu(builder.conv(first, 8, stride=2)), ranges * 0, ranges)
    weights = quantised(builder.const(12, 8, 3, 3, scale=0.2), -0.1, 0.1, 255)
    second = op.relu(op.convolution(second, weights, [1, 1], [1, 1], [1, 1], [1, 1]))
    foreign, *_ = ir.agree(
        ir.save(ir.end(builder, image, [first, second], confidence_threshold=0.34), image), 1e-2, final=False
    )
    assert "quantised: 3 maps are limited" in foreign.notes[-1]


def test_priors_that_constants_are(ir):
    """The spec that is found in constants is that of the layers they come from."""
    from singleshot.weights.importing import import_foreign

    layers = import_foreign(ir.small(prior={"clip": True}, clustered={"clip": True})).model
    constants = import_foreign(ir.small(prior={"clip": True}, clustered={"clip": True}, folded=True)).model
    assert torch.allclose(to_corners(layers.priors), to_corners(constants.priors), atol=1e-5)


def test_detect_and_export_take_the_file_itself(ir, tmp_path):
    import singleshot

    path = ir.small(confidence_threshold=0.5, half=True)
    picture = np.random.default_rng(0).integers(0, 256, (80, 144, 3), np.uint8)
    own = singleshot.load(path).detect(picture)
    exported = singleshot.export(path, out=tmp_path / "net.onnx")
    other = singleshot.load(exported).detect(picture)
    assert len(own.scores) == len(other.scores) > 5
    assert abs(own.boxes - other.boxes).max() < 0.05
    assert abs(own.scores - other.scores).max() < 1e-4

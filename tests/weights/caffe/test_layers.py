"""Layers that the known networks do not have, or not so, against the layer by layer computation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from singleshot.boxes import to_corners
from singleshot.errors import CheckpointError, ConfigError
from singleshot.inputs import IMAGENET_MEAN, IMAGENET_STD
from singleshot.weights.checkpoint import ModelInfo
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importing import import_foreign
from singleshot.weights.readers.protobuf import message_class

SIDE = 64
PRIORS = {"min_size": [10.7], "max_size": [20.2], "aspect_ratio": [2], "variance": [0.1, 0.1, 0.2, 0.2]}


@pytest.fixture
def agree(caffe, golden_inputs, tmp_path):
    """`agree(rows, columns)`: imports what the rows describe, holds outputs to those computed; the ImportedModel."""

    def check(rows, columns=3, how="float", mean=(104.0, 117.0, 123.0), scale=1.0, first=0, arrays=None, head=""):
        arrays = arrays or caffe.weights(rows)
        path = caffe.both(tmp_path, arrays, rows, SIDE, how)
        text = path.with_suffix(".prototxt")
        text.write_text(head + text.read_text())
        if how == "half":
            arrays = {key: values.astype(np.float16) for key, values in arrays.items()}
        foreign = import_foreign(path)
        image = torch.from_numpy(golden_inputs.image(SIDE)).permute(2, 0, 1)
        with torch.inference_mode():
            raw = foreign.model(image[None])
        prepared = (image.flip(0).double() - torch.tensor(mean).double().view(3, 1, 1)) * scale
        blobs = caffe.compute(rows, arrays, prepared)
        wanted = blobs["mbox_conf"].reshape(-1, columns)
        order = [first, *(c for c in range(columns) if c != first)]
        assert raw.offsets.shape[1] == len(foreign.model.priors)
        assert (raw.offsets[0] - blobs["mbox_loc"].reshape(-1, 4)).abs().max() < 1e-4
        assert (raw.logits[0] - wanted[:, order]).abs().max() < 1e-4
        assert wanted.std() > 0.05
        return foreign

    return check


def ending(caffe, source, columns=3, priors=PRIORS, boxes=4, **more):
    return [*caffe.head(source, priors, boxes, columns), *caffe.end([source], columns, **more)]


def trunk(caffe):
    """A map of 16 channels and 16 x 16 cells, values on both sides of zero and near 1."""
    return [caffe.conv("c1", "data", 8, 3, 4, 1), *caffe.norm("c1", "c1"), caffe.conv("c2", "c1", 16, 3, 1, 1)]


def face_like(caffe):
    """OpenCV's res10_300x300_ssd in small: a norm on the image, sums with norms behind them, a last ReLU that gives
    another blob, a dilated block, conv4_3_norm on a blob that is also used elsewhere."""
    scale = {"scale_param": {"bias_term": True}}
    rows = [
        ("data_bn", "BatchNorm", ["data"], "data_bn", {}),
        ("data_scale", "Scale", ["data_bn"], "data_bn", scale),
        caffe.conv("conv1_h", "data_bn", 8, 7, 2, 3),
        *caffe.norm("conv1_h", "conv1_h"),
        caffe.relu("conv1_relu", "conv1_h"),
        ("pool", "Pooling", ["conv1_h"], "pool", {"pooling_param": {"kernel_size": 3, "stride": 2}}),
        caffe.conv("layer_64_1_conv1_h", "pool", 8, 3, 1, 1, bias_term=False),
        *caffe.norm("layer_64_1_conv1_h", "layer_64_1_conv1_h"),
        caffe.relu("layer_64_1_relu", "layer_64_1_conv1_h"),
        caffe.conv("b", "layer_64_1_conv1_h", 8, 3, 1, 1, bias_term=False),
        ("sum1", "Eltwise", ["b", "pool"], "sum1", {}),
        ("bn1", "BatchNorm", ["sum1"], "bn1", {"batch_norm_param": {"eps": 0.001}}),
        ("scale1", "Scale", ["bn1"], "bn1", scale),
        caffe.relu("relu1", "bn1"),
        caffe.conv("c", "bn1", 16, 3, 2, 1, bias_term=False),
        *caffe.norm("c", "c"),
        caffe.relu("relu2", "c"),
        caffe.conv("d", "c", 16, 3, 1, 2, dilation=2, bias_term=False),
        caffe.conv("expand", "bn1", 16, 1, 2, bias_term=False),
        ("sum2", "Eltwise", ["d", "expand"], "sum2", {"eltwise_param": {"operation": "SUM"}}),
        *caffe.norm("last", "sum2"),
        ("last_relu", "ReLU", ["sum2"], "fc7", {}),
        (
            "conv4_3_norm",
            "Normalize",
            ["bn1"],
            "conv4_3_norm",
            {"norm_param": {"across_spatial": False, "channel_shared": False}},
        ),
    ]
    for name, size in (("conv4_3_norm", 8), ("fc7", 16)):
        rows += caffe.head(name, {**PRIORS, "min_size": [size], "max_size": [2 * size], "step": size // 2}, 4, 2)
    return [*rows, *caffe.end(["conv4_3_norm", "fc7"], 2, confidence_threshold=0.2, clip=1)]


def test_a_network_like_the_face_detector(caffe, agree):
    foreign = agree(face_like(caffe), 2)
    assert foreign.class_names == ("face",)
    assert foreign.source == "Caffe face detector on ResNet-10 (OpenCV)"
    assert (foreign.thresholds.score_min, foreign.thresholds.clip) == (0.2, True)
    assert foreign.model.input_spec.mean == (123.0, 117.0, 104.0)
    kinds = [layer.kind for layer in foreign.model.backbone.graph.layers]
    # The image's norm and those behind the two sums are layers; all others are in their convolutions.
    assert (kinds.count("scale"), kinds.count("norm"), kinds.count("conv"), kinds.count("add")) == (3, 0, 6, 2)


def test_the_network_goes_through_our_own_checkpoint(caffe, agree, tmp_path):
    from singleshot.weights.checkpoint import load_checkpoint, save_checkpoint

    foreign = agree(face_like(caffe), 2)
    path = tmp_path / "face.safetensors"
    save_checkpoint(path, foreign.model.state_dict(), ModelInfo.of(foreign.model, foreign.class_names))
    again, _ = load_checkpoint(path)
    images = torch.rand(1, 3, SIDE, SIDE) * 255
    with torch.inference_mode():
        assert torch.equal(again(images).logits, foreign.model(images).logits)


@pytest.mark.parametrize("how", ["double", "half", "unpacked", "old"])
def test_weights_in_other_forms(how, caffe, agree):
    agree([*trunk(caffe), *ending(caffe, "c2")], how=how)


def test_layers_as_they_were_before_layerparameter(caffe, tmp_path):
    rows = [caffe.conv("c1", "data", 8, 3, 4, 1), caffe.relu("r", "c1"), *ending(caffe, "c1")]
    arrays = caffe.weights(rows)
    path = tmp_path / "net.bin"
    path.write_bytes(caffe.model(arrays, rows, "old", {"Convolution": 4, "ReLU": 18}))
    text = tmp_path / "elsewhere.txt"
    text.write_text(caffe.text(rows, SIDE))
    assert import_foreign(path, companion=text).model.num_classes == 2
    with pytest.raises(CheckpointError, match="without their network; put the prototxt next to"):
        import_foreign(path)
    old = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 64 input_dim: 64\n' + (
        'layers { name: "c1" type: CONVOLUTION bottom: "data" top: "c1"'
        " convolution_param { num_output: 8 kernel_size: 3 stride: 4 pad: 1 } }\n"
        'layers { name: "r" type: RELU bottom: "c1" top: "c1" }\n'
    )
    text.write_text(old)
    with pytest.raises(CheckpointError, match="no SSD; it has no layer of type DetectionOutput"):
        import_foreign(path, companion=text)


LAYERS = {
    "prelu": ("PReLU", {}),
    "leaky": ("ReLU", {"relu_param": {"negative_slope": 0.1}}),
    "power": ("Power", {"power_param": {"scale": -0.5, "shift": 0.25}}),
    "lone scale": ("Scale", {"scale_param": {"bias_term": True}}),
    "average": ("Pooling", {"pooling_param": {"pool": "AVE", "kernel_size": 3, "stride": 2}}),
    "padded average": ("Pooling", {"pooling_param": {"pool": "AVE", "kernel_size": 3, "stride": 2, "pad": 1}}),
    "odd pooling": ("Pooling", {"pooling_param": {"kernel_size": 3, "stride": 3}}),
    "padded pooling": ("Pooling", {"pooling_param": {"kernel_size": 2, "stride": 2, "pad": 1}}),
    "groups": ("Convolution", {"convolution_param": {"num_output": 16, "kernel_size": 3, "pad": 1, "group": 4}}),
    "oblong": (
        "Convolution",
        {"convolution_param": {"num_output": 16, "kernel_h": 3, "kernel_w": 5, "pad_h": 1, "pad_w": 2}},
    ),
}


@pytest.mark.parametrize("name", list(LAYERS))
def test_one_layer_more(name, caffe, agree):
    kind, parameters = LAYERS[name]
    agree([*trunk(caffe), caffe.relu("r", "c1"), ("more", kind, ["c2"], "more", parameters), *ending(caffe, "more")])


def test_maps_joined_and_weighed(caffe, agree):
    weighed = {"eltwise_param": {"operation": "SUM", "coeff": [0.5, -2]}}
    agree(
        [
            *trunk(caffe),
            ("a", "ReLU", ["c2"], "a", {}),
            ("sum", "Eltwise", ["a", "c2"], "sum", weighed),
            ("all", "Concat", ["sum", "c2", "a"], "all", {}),
            *ending(caffe, "all"),
        ]
    )


def test_heads_that_ours_are_not(caffe, agree):
    """Kernel 5; 1 beside 3; a norm behind the convolution; one that is a ReLU's output."""
    rows = [*trunk(caffe), caffe.relu("r", "c2")]
    heads = ending(caffe, "c2")
    loc, conf = (next(i for i, row in enumerate(heads) if row[0] == f"c2_mbox_{w}") for w in ("loc", "conf"))
    five = [*heads]
    five[loc] = caffe.conv("c2_mbox_loc", "c2", 16, 5, 1, 2)
    agree([*rows, *five])
    one = [*heads]
    one[loc] = caffe.conv("c2_mbox_loc", "c2", 16, 1, bias_term=False)
    agree([*rows, *one])
    agree([*rows, *heads[: conf + 1], *caffe.norm("c2_mbox_conf", "c2_mbox_conf"), *heads[conf + 1 :]])
    agree([*rows, *heads[: loc + 1], caffe.relu("last", "c2_mbox_loc"), *heads[loc + 1 :]])


def test_background_elsewhere_and_sigmoid(caffe, agree):
    foreign = agree([*trunk(caffe), *ending(caffe, "c2", background_label_id=2)], first=2)
    assert foreign.thresholds.activation == "softmax"
    heads = [(row[0], "Sigmoid", *row[2:4], {}) if row[1] == "Softmax" else row for row in ending(caffe, "c2")]
    assert agree([*trunk(caffe), *heads]).thresholds.activation == "sigmoid"


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("step", [0, 5])
def test_priors_are_those_of_the_layer(clip, step, caffe, agree):
    """Two sizes with their own larger ones, ratios not turned, against a loop over cells."""
    more = {"step": step} if step else {}
    priors = {
        "min_size": [10.9, 30.2],
        "max_size": [20.9, 40.7],
        "aspect_ratio": [1.0, 3.0, 0.4, 3.0],
        "flip": False,
        "clip": clip,
        "variance": [0.1, 0.1, 0.2, 0.2],
        "offset": 0.25,
        **more,
    }
    model = agree([*trunk(caffe), *ending(caffe, "c2", priors=priors, boxes=8)]).model
    wanted = []
    for y, x in itertools.product(range(16), range(16)):
        cx, cy = ((n + 0.25) * (step or 4) for n in (x, y))
        for low, high in ((10, 20), (30, 40)):
            sides = [(low, low), (math.sqrt(low * high),) * 2]
            sides += [(low * math.sqrt(r), low / math.sqrt(r)) for r in (3, 0.4)]
            wanted += [(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2) for w, h in sides]
    boxes = np.array(wanted) / SIDE
    boxes = boxes.clip(0, 1) if clip else boxes
    assert np.abs(to_corners(model.priors).numpy() - boxes).max() < 1e-6


def test_how_images_are_prepared_is_taken_from_the_prototxt(caffe, agree):
    data = 'layer { name: "d" type: "Data" top: "x" transform_param { mean_value: 10 mean_value: 20 mean_value: 30'
    rows = [*trunk(caffe), *ending(caffe, "c2")]
    foreign = agree(rows, head=data + " scale: 0.5 } }\n", mean=(10.0, 20.0, 30.0), scale=0.5)
    assert (foreign.model.input_spec.mean, foreign.model.input_spec.std) == ((30.0, 20.0, 10.0), (2.0,) * 3)
    assert "assumed" not in " ".join(foreign.notes)
    assert "BGR minus 104, 117, 123 is assumed" in agree(rows).notes[0]


def test_the_network_inside_a_caffemodel(caffe, tables, agree, tmp_path):
    """As Net::ToProto writes it, bottoms, tops, parameters and blobs in one, and Splits where a blob is used twice."""
    from singleshot.weights.readers.protobuf import parse_text

    rows = [*trunk(caffe), ("split", "Split", ["c2"], "c2_split", {}), *ending(caffe, "c2")]
    rows = [(*r[:2], ["c2_split" if b == "c2" and r[0].startswith("c2_") else b for b in r[2]], *r[3:]) for r in rows]
    arrays = {key: value for key, value in caffe.weights(rows).items() if not key.startswith("c2_")}
    arrays |= {key: v for key, v in caffe.weights([*trunk(caffe), *ending(caffe, "c2")]).items() if key not in arrays}
    net = parse_text("caffe.NetParameter", caffe.text(rows, SIDE), "test")
    for layer in net.layer:
        for i in range(3):
            values = arrays.get(f"{layer.name}[{i}]")
            if values is not None:
                layer.blobs.add(data=values.ravel(), shape={"dim": values.shape})
    path = tmp_path / "snapshot_iter_10.caffemodel"
    path.write_bytes(net.SerializeToString())
    foreign = import_foreign(path)
    wanted = agree([*trunk(caffe), *ending(caffe, "c2")], arrays=arrays)
    images = torch.rand(1, 3, SIDE, SIDE) * 255
    with torch.inference_mode():
        assert torch.equal(foreign.model(images).logits, wanted.model(images).logits)


# ------------------------------------------------------------------------------------------- what the user says


@pytest.fixture
def small(caffe, tmp_path):
    rows = [*trunk(caffe), *ending(caffe, "c2")]
    return caffe.both(tmp_path, caffe.weights(rows), rows, SIDE)


def test_the_mean_of_the_training_in_place_of_what_is_assumed(small):
    settings = ImportSettings(mean=IMAGENET_MEAN, std=IMAGENET_STD, colour_order="rgb")
    usual, foreign = import_foreign(small), import_foreign(small, settings=settings)
    spec = foreign.model.input_spec
    assert (spec.mean, spec.std, spec.colour_order) == (IMAGENET_MEAN, IMAGENET_STD, "rgb")
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, SIDE, SIDE)).astype(np.float32))
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in (IMAGENET_MEAN, IMAGENET_STD))
    caffe_mean = torch.tensor([123.0, 117.0, 104.0]).view(3, 1, 1)
    with torch.inference_mode():
        # What the first layer sees, given to the usual model as pixels that it makes the same of.
        wanted = usual.model(((image - mean) / std).flip(1) + caffe_mean)
        got = foreign.model(image)
    assert wanted.logits.std() > 0.05
    assert (wanted.logits - got.logits).abs().max() < 1e-4


@pytest.mark.parametrize("options", [{"size": 128}, {"priors": "ssd300-voc"}])
def test_what_the_prototxt_says_is_not_said_again(small, options):
    with pytest.raises(ConfigError, match="the file says its own"):
        import_foreign(small, settings=ImportSettings(**options))


def test_names_come_from_a_label_map(small):
    rows = [
        f'item {{ name: "n{i}" label: {i} display_name: "{name}" }}'
        for i, name in enumerate(["none_of_the_above", "cat", "dog"])
    ]
    (small.parent / "labelmap_own.prototxt").write_text("\n".join(rows))
    foreign = import_foreign(small)
    assert foreign.class_names == ("cat", "dog")
    assert foreign.names_note == "class names from labelmap_own.prototxt next to it, its background left out"


def test_faceboxes_own_priorbox(caffe, agree):
    """Its three sizes make 21 boxes in a cell, which the prototxt does not say, all of them a pixel smaller: as its
    prior_box_layer.cpp goes through them."""
    table = {"clip": False, "variance": [0.1, 0.1, 0.2, 0.2], "offset": 0.5}
    rows = [
        *trunk(caffe),
        caffe.conv("c3", "c2", 8, 3, 2, 1),
        *caffe.head("c2", {**table, "min_size": [32, 64, 128], "step": 32}, 21, 2),
        *caffe.head("c3", {**table, "min_size": [256], "step": 64}, 1, 2),
        *caffe.end(["c2", "c3"], 2),
    ]
    foreign = agree(rows, 2)
    wanted = []
    for cells, step, sizes in ((16, 32, (32, 64, 128)), (8, 64, (256,))):
        for row in range(cells):
            for column in range(cells):
                x, y = (column + 0.5) * step, (row + 0.5) * step
                for size in sizes:
                    places, apart = {32: (range(-2, 2), 8), 64: (range(-1, 1), 16)}.get(size, (range(1), 0))
                    wanted += [(x + i * apart, y + j * apart, size - 1, size - 1) for j in places for i in places]
    assert np.allclose(foreign.model.priors.numpy() * SIDE, wanted, atol=1e-3)
    assert "sfzhang15/FaceBoxes" in " ".join(foreign.notes)


def test_a_classifiers_weights_are_named(tmp_path):
    net = message_class("caffe.NetParameter")()
    layer = net.layer.add(name="conv1", type="Convolution", bottom=["data"], top=["conv1"])
    layer.blobs.add(data=[0.5] * 12).shape.dim.extend([4, 3, 1, 1])
    net.layer.add(name="loss", type="SoftmaxWithLoss", bottom=["conv1"], top=["loss"])
    path = tmp_path / "net.caffemodel"
    path.write_bytes(net.SerializeToString())
    with pytest.raises(CheckpointError, match=r"a classifier, not of an SSD: .* ends in loss of type SoftmaxWithLoss"):
        import_foreign(path)

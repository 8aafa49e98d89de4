from __future__ import annotations

import numpy as np
import pytest
import torch

from singleshot.boxes import to_corners
from singleshot.errors import CheckpointError
from singleshot.priors import PRIORS
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importing import import_checkpoint, import_foreign

VOC_300 = [30, 60, 111, 162, 213, 264, 315]
VOC_512 = [35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6]


@pytest.fixture(scope="session")
def vgg_arrays(filled):
    return filled("caffe_ssd300_voc")


@pytest.fixture(scope="session")
def ssd300(caffe, vgg_arrays, tmp_path_factory):
    return caffe.both(tmp_path_factory.mktemp("ssd300"), vgg_arrays, caffe.vgg(VOC_300))


@pytest.fixture(scope="session")
def foreign300(ssd300):
    return import_foreign(ssd300)


@pytest.fixture(scope="session")
def wide512(caffe):
    """Weights of SSD512, four classes."""
    return caffe.weights(caffe.vgg(VOC_512, 5))


def image_bgr(golden_inputs, side, mean, scale):
    pixels = torch.from_numpy(golden_inputs.image(side)).permute(2, 0, 1).double()
    return (pixels.flip(0) - torch.tensor(mean).view(3, 1, 1).double()) * scale


# -------------------------------------------------------------------------------------------------- SSD on VGG16


def test_ssd300_gives_the_outputs_and_priors_of_caffe(ssd300, foreign300, agrees, golden):
    foreign = foreign300
    agrees(foreign.model, "caffe_ssd300_voc_by_opencv_dnn")
    assert foreign.model.name == "ssd300-vgg16"
    assert foreign.model.prior_spec == PRIORS["ssd300-voc"]
    corners = to_corners(foreign.model.priors).numpy()
    assert np.abs(corners - np.load(golden / "priors_caffe.npz")["voc300_corner_noclip"]).max() < 1e-6
    assert foreign.class_names is not None
    assert foreign.class_names[14] == "person"
    spec = foreign.model.input_spec
    assert (spec.colour_order, spec.mean, spec.std) == ("bgr", (123.0, 117.0, 104.0), (1.0, 1.0, 1.0))
    wanted = (0.01, 0.45, 400, 200, "softmax")
    assert (
        foreign.thresholds.for_postprocess().items()
        >= {
            "score_min": wanted[0],
            "nms_iou": wanted[1],
            "per_class": wanted[2],
            "keep": wanted[3],
            "activation": wanted[4],
        }.items()
    )
    assert foreign.notes == (f"network taken from {ssd300.with_suffix('.prototxt')}",)


@pytest.mark.parametrize("form", ["dict", "caffemodel alone"])
def test_ssd300_by_its_names_alone_is_the_same(form, caffe, vgg_arrays, foreign300, tmp_path):
    given = vgg_arrays
    if form != "dict":
        given = tmp_path / "any name.caffemodel"
        given.write_bytes(caffe.model(vgg_arrays))
    model, wanted = import_checkpoint(given), foreign300.model
    state = wanted.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert (model.prior_spec, model.input_spec) == (wanted.prior_spec, wanted.input_spec)


@pytest.mark.slow
def test_ssd512_by_its_names_and_by_its_prototxt(caffe, wide512, golden, tmp_path):
    named = import_foreign(wide512)
    assert named.model.name == "ssd512-vgg16"
    assert (named.model.num_classes, named.class_names) == (4, None)
    assert "as those for VOC" in named.notes[0]
    wanted = np.load(golden / "priors_caffe.npz")["voc512_corner_noclip"]
    described = import_foreign(caffe.both(tmp_path, wide512, caffe.vgg(VOC_512, 5), 512))
    assert described.model.name == "ssd512-vgg16"
    for foreign in (named, described):
        assert np.abs(to_corners(foreign.model.priors).numpy() - wanted).max() < 1e-6
    state = described.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in named.model.state_dict().items())


def test_coco_tables_are_taken_for_80_classes(wide512):
    changed = dict(wide512)
    for key, values in wide512.items():
        if "mbox_conf" in key:
            changed[key] = np.zeros((len(values) // 5 * 81, *values.shape[1:]), np.float32)
    foreign = import_foreign(changed)
    assert foreign.model.prior_spec == PRIORS["ssd512-coco"]
    assert foreign.class_names is not None
    assert foreign.class_names[0] == "person"


# -------------------------------------------------------------------------------------------------- MobileNet-SSD


def test_mobilenet_ssd_of_chuanqi305(caffe, filled, golden, golden_inputs, outputs, tmp_path):
    arrays = filled("caffe_mobilenet_ssd_chuanqi305")
    rows = caffe.mobilenet(norms=False)
    described = import_foreign(caffe.both(tmp_path, arrays, rows))
    named = import_foreign(arrays)
    blobs = caffe.compute(rows, arrays, image_bgr(golden_inputs, 300, (127.5,) * 3, 0.007843))
    wanted = np.load(golden / "priors_caffe_mobilenet_ssd_chuanqi305.npz")["corner_noclip"]
    for foreign in (described, named):
        offsets, logits = outputs(foreign.model)
        assert np.abs(offsets - blobs["mbox_loc"].reshape(-1, 4).numpy()).max() < 1e-4
        assert np.abs(logits - blobs["mbox_conf"].reshape(-1, 21).numpy()).max() < 1e-4
        assert np.abs(to_corners(foreign.model.priors).numpy() - wanted).max() < 1e-6
        assert foreign.source == "Caffe MobileNet-SSD (chuanqi305/MobileNet-SSD)"
        assert (foreign.thresholds.score_min, foreign.thresholds.keep) == (0.25, 100)
        assert foreign.model.input_spec.mean == (127.5,) * 3
        assert foreign.model.input_spec.std == pytest.approx((127.5,) * 3, rel=1e-4)


DATA = """layer { name: "data" type: "AnnotatedData" top: "data" top: "label" include { phase: TRAIN }
  transform_param { scale: 0.007843 mean_value: 127.5 mean_value: 127.5 mean_value: 127.5
    resize_param { prob: 1 resize_mode: WARP height: 300 width: 300 interp_mode: LINEAR }
    emit_constraint { emit_type: CENTER } distort_param { brightness_prob: 0.5 } }
  data_param { source: "trainval_lmdb/" batch_size: 24 backend: LMDB } }
"""
LOSS = """layer { name: "mbox_loss" type: "MultiBoxLoss" bottom: "mbox_loc" bottom: "mbox_conf" bottom: "mbox_priorbox"
  bottom: "label" top: "mbox_loss" include { phase: TRAIN } propagate_down: true loss_param { normalization: VALID }
  multibox_loss_param { loc_loss_type: SMOOTH_L1 num_classes: 4 share_location: true code_type: CENTER_SIZE } }
"""


def test_mobilenet_ssd_as_it_is_trained(caffe, golden_inputs, outputs, tmp_path):
    rows = caffe.mobilenet(norms=True, columns=4, thin=8)
    arrays = caffe.weights(rows)
    blobs = caffe.compute(rows, arrays, image_bgr(golden_inputs, 300, (127.5,) * 3, 0.007843))
    first = next(i for i, row in enumerate(rows) if row[0] == "mbox_conf_reshape")
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffe.model(arrays, rows))
    (tmp_path / "train.prototxt").write_text(DATA + caffe.text(rows[:first], None) + LOSS)
    (tmp_path / "solver_train.prototxt").write_text('train_net: "train.prototxt" base_lr: 0.0005')
    for given in (path, arrays):
        foreign = import_foreign(given)
        offsets, logits = outputs(foreign.model)
        assert np.abs(offsets - blobs["mbox_loc"].reshape(-1, 4).numpy()).max() < 1e-4
        assert np.abs(logits - blobs["mbox_conf"].reshape(-1, 4).numpy()).max() < 1e-4
        assert foreign.model.num_classes == 3
        # 34 convolutions, each with its normalisation taken in, and their ReLUs.
        assert [layer.kind for layer in foreign.model.backbone.graph.layers] == ["conv", "relu"] * 35


# -------------------------------------------------------------------------------------------------- bad weights


def test_what_is_missing_left_over_or_misshapen_is_named(caffe, vgg_arrays, tmp_path):
    path = tmp_path / "x.caffemodel"
    less = {key: value for key, value in vgg_arrays.items() if key != "conv5_2[0]"}
    for given, message in (
        (less, r"1 missing: conv5_2\[0\]"),
        ({**vgg_arrays, "fc8[0]": vgg_arrays["fc7[1]"]}, r"1 unexpected: fc8\[0\]"),
        ({**vgg_arrays, "fc6[1]": vgg_arrays["fc6[1]"][:3]}, r"1 misshapen: fc6\[1\] is 3, want 1024"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            import_checkpoint(given)
        assert "\n" not in str(caught.value)
    path.write_bytes(caffe.model({key: value for key, value in vgg_arrays.items() if key.startswith("conv4")}))
    with pytest.raises(CheckpointError, match="missing"):
        import_checkpoint(path)


def test_a_prototxt_that_does_not_fit_is_refused(caffe, tmp_path):
    rows = caffe.mobilenet(norms=False, columns=4, thin=8)
    arrays = caffe.weights(rows)
    path = caffe.both(tmp_path, arrays, rows)
    text = path.with_suffix(".prototxt")

    def refused(match, rows, arrays=arrays):
        text.write_text(caffe.text(rows))
        path.write_bytes(caffe.model(arrays, rows))
        with pytest.raises(CheckpointError, match=match) as caught:
            import_checkpoint(path)
        assert "\n" not in str(caught.value)

    refused(r"conv0 of type Convolution does not fit: conv0\[0\] is 4x3x3x3, want 32x3x3x3", caffe.mobilenet(False, 4))
    refused(r"conv0/bn of type BatchNorm has no weights in this file", caffe.mobilenet(True, 4, 8))
    refused(r"unexpected: conv99\[0\]", rows, {**arrays, "conv99[0]": arrays["conv0[0]"]})
    odd = [("odd", "Correlation", ["conv5"], "conv5", {}) if row[0] == "conv5/relu" else row for row in rows]
    refused("layer odd of type Correlation is not known", odd)
    refused(
        "takes nowhere, which no layer before it makes",
        [(*row[:2], ["nowhere"], *row[3:]) if row[0] == "conv3" else row for row in rows],
    )
    huge = [caffe.conv("conv0", "data", 4_000_000_000, 3) if row[0] == "conv0" else row for row in rows]
    refused("conv0 of type Convolution has 4000000000 outputs", huge)
    refused("no layer of type DetectionOutput or MultiBoxLoss", rows[:-1])
    seven = {"detection_output_param": {"num_classes": 7, "code_type": "CENTER_SIZE"}}
    refused(r"conv11_mbox_conf of type Convolution gives 12x19x19, want 3 x 7 x", [*rows[:-1], (*rows[-1][:4], seven)])


def test_the_user_says_what_weights_alone_do_not(vgg_arrays):
    spec = import_foreign(vgg_arrays, settings=ImportSettings(size=320)).model.input_spec
    assert (spec.size, spec.mean, spec.colour_order) == (320, (123.0, 117.0, 104.0), "bgr")


def test_default_boxes_of_a_known_project_are_assumed(caffe, tmp_path):
    """Ultra-Light's Caffe files, which end in boxes and scores, with few channels."""
    rows, source, ends = [], "data", {"loc": [], "conf": []}
    for i, boxes in enumerate((3, 2, 2, 3)):
        rows += [caffe.conv(f"c{i}", source, 4, 3, stride=2 if i else 8, pad=1), caffe.relu(f"r{i}", f"c{i}")]
        source = f"c{i}"
        for part, columns in (("loc", 4), ("conf", 2)):
            head, shape = f"{source}_{part}", {"reshape_param": {"shape": {"dim": [1, -1, columns]}}}
            rows += [
                caffe.conv(head, source, boxes * columns, 1),
                (f"{head}_perm", "Permute", [head], f"{head}_perm", {"permute_param": {"order": [0, 2, 3, 1]}}),
                (f"{head}_rows", "Reshape", [f"{head}_perm"], f"{head}_rows", shape),
            ]
            ends[part].append(f"{head}_rows")
    rows += [(part, "Concat", parts, part, {"concat_param": {"axis": 1}}) for part, parts in ends.items()]
    rows.append(("scores", "Softmax", ["conf"], "scores", {"softmax_param": {"axis": 2}}))
    arrays = caffe.weights(rows)
    path = caffe.both(tmp_path, arrays, rows, 240)
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(prototxt.read_text().replace("dim: 240 dim: 240", "dim: 240 dim: 320"))
    foreign = import_foreign(path)
    assert foreign.model.prior_spec == PRIORS["ultraface320"]
    assert foreign.class_names == ("face",)
    assert "assumed to be Linzaer/Ultra-Light" in foreign.notes[0]
    image = torch.randint(0, 256, (3, 240, 320), generator=torch.Generator().manual_seed(0))
    blobs = caffe.compute(rows, arrays, (image.double() - 127) / 128)
    with torch.inference_mode():
        raw = foreign.model(image[None].to(torch.uint8))
    assert np.abs(raw.offsets[0].double().numpy() - blobs["loc"][0].numpy()).max() < 1e-4
    assert np.abs(raw.logits[0].double().softmax(-1).numpy() - blobs["scores"][0].numpy()).max() < 1e-4

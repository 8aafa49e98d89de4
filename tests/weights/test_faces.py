"""Face detectors in PyTorch, and sgrvinod's SSD300, against vectors that their own code computed."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from singleshot.conventions import DETECTION
from singleshot.errors import CheckpointError, ConfigError
from singleshot.models.graph_layers import make_layer
from singleshot.models.graph_spec import Layer
from singleshot.prior_boxes import from_shapes
from singleshot.prior_tables import PRIORS
from singleshot.priors import PriorSpec, prior_table
from singleshot.weights.checkpoint import load_checkpoint, save_checkpoint
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importing import import_foreign
from singleshot.weights.open_model import info_of

# layout -> (importer, height, width, real classes, detection rule)
SOURCES = {
    "ultraface_rfb": ("ultraface-rfb-320", 240, 320, 1, "ultraface"),
    "ultraface_slim": ("ultraface-slim-320", 240, 320, 1, "ultraface"),
    "faceboxes": ("faceboxes", 1024, 1024, 1, "faceboxes"),
    "retinaface_mobilenet": ("retinaface-mobilenet", 640, 640, 1, "retinaface"),
    "retinaface_resnet50": ("retinaface-resnet50", 840, 840, 1, "retinaface"),
    "s3fd": ("s3fd", 640, 640, 1, "s3fd"),
    "sgrvinod": ("sgrvinod", 300, 300, 20, "sgrvinod"),
}
ULTRA_SIZES = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))  # fd_config.py, min_boxes
SMALL = ("ultraface_rfb", "ultraface_slim", "faceboxes", "retinaface_mobilenet")
# Of 22 million weights and more.
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in SOURCES if name not in SMALL]


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_gives_the_outputs_priors_and_settings_of_its_source(name, state, agrees, golden):
    _, height, width, classes, rule = SOURCES[name]
    foreign = import_foreign(state(name))
    model = foreign.model
    agrees(model, name)
    wanted = np.load(golden / f"priors_{name}.npz")
    assert len(model.priors) == wanted["count"]
    assert np.abs(model.priors.numpy()[wanted["prior_idx"]] - wanted["cxcywh"]).max() < 1e-6
    assert np.allclose(model.priors.double().numpy().sum(0), wanted["total"], rtol=1e-6)
    assert (model.input_spec.sides, model.num_classes) == ((height, width), classes)
    assert foreign.thresholds == DETECTION[rule]
    assert foreign.class_names is not None
    assert foreign.class_names[0] == ("face" if classes == 1 else "aeroplane")


def test_rules_and_inputs_are_those_that_the_sources_name():
    rows = {
        "ultraface": (0.01, 0.3, 1500, 750, 0.6),
        "faceboxes": (0.05, 0.3, 5000, 750, 0.5),
        "retinaface": (0.02, 0.4, 5000, 750, 0.6),
        "s3fd": (0.05, 0.3, 5000, 750, 0.6),
    }
    for name, (score_min, nms_iou, into, out, shown) in rows.items():
        rule = DETECTION[name]
        assert (rule.score_min, rule.nms_iou, rule.per_class, rule.show_min) == (score_min, nms_iou, into, shown)
        assert out == (rule.keep_per_class or rule.keep)


def test_densified_anchors_are_those_of_a_slow_loop():
    rows = []
    for side, step, sizes in ((32, 32, (32, 64, 128)), (16, 64, (256,)), (8, 128, (512,))):
        for i, j in product(range(side), range(side)):
            for size in sizes:
                dense = {32: (0, 0.25, 0.5, 0.75), 64: (0, 0.5)}.get(size, (0.5,))
                rows += [((j + x) * step, (i + y) * step, size, size) for y in dense for x in dense]
    assert np.abs(prior_table(PRIORS["faceboxes1024"]) - np.array(rows) / 1024).max() < 1e-7


def test_a_table_with_centres_survives_json_and_others_stay_as_they_were():
    spec = PRIORS["faceboxes1024"]
    assert PriorSpec.from_dict(spec.to_dict()) == spec
    assert "centres" not in PRIORS["retinaface640"].to_dict()
    nan = ((float("nan"),) * 2,)
    for centres in (spec.centres[:2], (((0.5, 2.0),) * 21, *spec.centres[1:]), (nan * 21, *spec.centres[1:])):
        with pytest.raises(ConfigError, match="priors: centres: want"):
            replace(spec, centres=centres)
    with pytest.raises(ConfigError, match="centres without shapes"):
        replace(PRIORS["ssd300-voc"], centres=spec.centres)


def test_the_other_size_is_asked_for_and_a_file_says_so(state):
    tensors = state("ultraface_slim")
    model = import_foreign(tensors, "ultraface-slim-640").model
    assert model.input_spec.sides == (480, 640)
    with torch.inference_mode():
        raw = model(torch.zeros(1, 3, 480, 640, dtype=torch.uint8))
    assert raw.offsets.shape[1] == len(model.priors) == 17640
    assert "--source ultraface-slim-640" in import_foreign(tensors).notes[0]
    assert "--source ultraface-slim-320" in import_foreign(tensors, "ultraface-slim-640").notes[0]


def test_a_file_of_ours_keeps_a_model_that_is_not_square(state, tmp_path):
    foreign = import_foreign(state("ultraface_rfb"))
    save_checkpoint(tmp_path / "m.safetensors", foreign.model.state_dict(), info_of(foreign, ("face",)))
    model, info = load_checkpoint(tmp_path / "m.safetensors")
    image = torch.arange(240 * 320 * 3, dtype=torch.int64).remainder(251).to(torch.uint8).view(1, 3, 240, 320)
    with torch.inference_mode():
        assert torch.equal(model(image).logits, foreign.model(image).logits)
    assert info.input_spec.sides == (240, 320)


def test_landmarks_are_left_out_and_said(state):
    tensors = state("retinaface_mobilenet")
    assert "landmarks" in import_foreign(tensors).notes[0]
    without = {key: value for key, value in tensors.items() if not key.startswith("LandmarkHead.")}
    assert not any("landmarks" in note for note in import_foreign(without).notes)


@pytest.mark.parametrize("kind", ["rfb", "slim"])
def test_ultra_light_with_landmarks_under_other_names(kind, state, agrees):
    """biubug6/Face-Detector-1MB-with-landmark: the same network, other names, anchors and normalisation."""
    names = {"extras.0.": "conv14.", "regression_headers.": "loc.", "classification_headers.": "conf."}
    tensors = {}
    for key, value in state(f"ultraface_{kind}").items():
        start = next((name for name in names if key.startswith(name)), "")
        number, _, rest = key.removeprefix("base_net.").partition(".")
        tensors[f"{names[start]}{key.removeprefix(start)}" if start else f"conv{int(number) + 1}.{rest}"] = value
    tensors |= {"landm.3.weight": torch.zeros(30, 256, 3, 3), "landm.3.bias": torch.zeros(30)}
    foreign = import_foreign(tensors, settings=ImportSettings(mean=127, std=128, colour_order="rgb"))
    agrees(foreign.model, f"ultraface_{kind}")
    assert foreign.source.startswith("biubug6/Face-Detector-1MB-with-landmark")
    assert foreign.model.prior_spec == PRIORS["face1mb320"]
    assert "landmarks" in foreign.notes[0]


def _with_statistics(tensors, slope):
    """RetinaFace's depthwise layers with the means that batch normalisation would have seen behind such a ReLU."""
    rows = [(stage, i) for stage, blocks in ((1, range(1, 6)), (2, range(6)), (3, range(2))) for i in blocks]
    norm, generator = "body.stage1.0.1", torch.Generator().manual_seed(0)
    for stage, i in rows:
        block = f"body.stage{stage}.{i}"
        drawn = torch.randn(4000, len(tensors[f"{norm}.bias"]), generator=generator)
        seen = torch.nn.functional.leaky_relu(drawn * tensors[f"{norm}.weight"] + tensors[f"{norm}.bias"], slope)
        tensors[f"{block}.1.running_mean"] = seen.mean(0) * tensors[f"{block}.0.weight"].sum((1, 2, 3))
        norm = f"{block}.4"
    return tensors


@pytest.mark.parametrize(
    ("slope", "source", "table"),
    [
        (0.1, "biubug6/Pytorch_Retinaface", "retinaface640"),
        (0.0, "biubug6/Face-Detector-1MB-with-landmark", "face1mb-mobilenet640"),
    ],
)
def test_statistics_say_which_relu_it_is(slope, source, table, state):
    """Two projects with the same names: leaky ReLUs and anchors from 16, or ReLUs and anchors from 10."""
    foreign = import_foreign(_with_statistics(state("retinaface_mobilenet"), slope))
    assert foreign.source.startswith(source)
    assert foreign.model.prior_spec == PRIORS[table]
    kinds = {layer.kind for layer in foreign.model.backbone.graph.layers}
    assert ("leakyrelu" in kinds) == (slope > 0)


def test_a_single_class_is_said_to_be_assumed(state):
    assert any("taken to be a face" in note for note in import_foreign(state("faceboxes")).notes)


def test_other_classes_than_faces_have_no_names(state):
    tensors = state("ultraface_slim")
    for i, boxes in enumerate((3, 2, 2, 3)):
        last = f"classification_headers.{i}" + ("" if i == 3 else ".2")
        for part in ("weight", "bias"):
            rows = tensors[f"{last}.{part}"].unflatten(0, (boxes, 2))
            tensors[f"{last}.{part}"] = torch.cat([rows, rows[:, :1]], dim=1).flatten(0, 1)
    foreign = import_foreign(tensors)
    assert (foreign.model.num_classes, foreign.class_names) == (2, None)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("ultraface_rfb", "base_net.7.branch2.3.conv.weight"),
        ("ultraface_slim", "extras.0.0.weight"),
        ("faceboxes", "inception2.branch3x3_2.conv.weight"),
        ("retinaface_mobilenet", "ssh2.conv5X5_2.0.weight"),
    ],
)
def test_what_does_not_fit_is_named(name, key, state, says_what_does_not_fit):
    says_what_does_not_fit(state(name), key)


def test_new_layers_compute_what_they_say():
    x = torch.tensor([-2.0, 3.0, 1.0, -4.0]).view(1, 4, 1, 1)

    def run(kind, *maps, **options):
        return make_layer(Layer("a", kind, ("image",), options))(*maps)

    assert run("crelu", x).flatten().tolist() == [0, 3, 1, 0, 2, 0, 0, 4]
    assert run("leakyrelu", x, slope=0.5).flatten().tolist() == [-1, 3, 1, -2]
    assert run("maxout", x, first=3).flatten().tolist() == [3, -4]
    grid = torch.arange(4.0).view(1, 1, 2, 2)
    assert run("enlarge", grid, torch.zeros(1, 7, 3, 4)).tolist() == [[[[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]]]
    with pytest.raises(ConfigError, match="first channels"):
        run("maxout", x, first=0)


def test_a_training_state_with_its_weights_under_weight_is_read(state):
    tensors = state("faceboxes")
    foreign = import_foreign({"epoch": 3, "weight": {f"module.{key}": value for key, value in tensors.items()}})
    assert foreign.source == "zisianw/FaceBoxes.PyTorch"


def test_a_whole_model_of_the_tutorial_is_refused_with_what_to_do(tmp_path):
    class SSD300(torch.nn.Module):
        pass

    SSD300.__qualname__ = "SSD300"
    globals()["SSD300"] = SSD300
    torch.save({"epoch": 1, "model": SSD300(), "optimizer": None}, tmp_path / "checkpoint_ssd300.pth.tar")
    with pytest.raises(CheckpointError, match=r"SSD300.*nothing was run.*torch\.save\(model\.state_dict\(\)"):
        import_foreign(tmp_path / "checkpoint_ssd300.pth.tar")


def test_ultraface_keeps_its_proportions_at_another_size(state):
    """vision/ssd/config/fd_config.py: 128 x 96, of 16, 8, 4 and 2 cells across."""
    tensors = state("ultraface_slim")
    model = import_foreign(tensors, settings=ImportSettings(size=128)).model
    assert model.input_spec.sides == (96, 128)
    rows = []
    for (high, wide), sizes in zip(((12, 16), (6, 8), (3, 4), (2, 2)), ULTRA_SIZES, strict=True):
        for y, x, size in product(range(high), range(wide), sizes):
            rows.append([(x + 0.5) / wide, (y + 0.5) / high, size / 128, size / 96])
    assert np.abs(model.priors.numpy() - np.clip(rows, 0, 1)).max() < 1e-6
    usual, image = import_foreign(tensors).model, torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8)
    kept = model.state_dict()
    assert all(torch.equal(value, kept[key]) for key, value in usual.state_dict().items() if key in kept)
    assert model(image).offsets.shape == (1, len(rows), 4)


@pytest.mark.parametrize(
    ("name", "location", "confidence"),
    [
        ("faceboxes", "loc.0", "conf.0"),
        ("retinaface_mobilenet", "BboxHead.0.conv1x1", "ClassHead.0.conv1x1"),
    ],
)
def test_a_copy_with_other_boxes_is_read_with_them(name, location, confidence, state, tmp_path):
    """Such as phantranggg/HumanBoxes: one box of 1 : 2.81 in a cell of each map."""
    tensors = state(name)
    usual = import_foreign(tensors).model.prior_spec
    for part, columns in ((location, 4), (confidence, 2)):
        tensors |= {f"{part}.{p}": tensors[f"{part}.{p}"][: 3 * columns] for p in ("weight", "bias")}
        if name == "retinaface_mobilenet":  # three boxes of two
            tensors |= {f"{part}.{p}": torch.cat([tensors[f"{part}.{p}"][:columns]] * 3) for p in ("weight", "bias")}
    counts = ", ".join(map(str, (3, *usual.per_cell[1:])))
    with pytest.raises(CheckpointError, match=rf"with {counts} boxes in a cell of its maps, not .* --priors FILE"):
        import_foreign(tensors)
    shapes = (((32.0, 90.0),) * 3, *(((128.0, 360.0),) * n for n in usual.per_cell[1:]))
    given = from_shapes(256, (256 // 32, 4, 2) if name == "faceboxes" else (32, 16, 8), shapes)
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(given.to_dict()))
    model = import_foreign(tensors, settings=ImportSettings(priors=str(path))).model
    assert (model.prior_spec, model.input_spec.sides) == (given, (256, 256))
    head = model.state_dict()["heads.0.location.weight"]
    assert torch.equal(head, tensors[f"{location}.weight"])

from __future__ import annotations

import numpy as np
import pytest

from singleshot.conventions import DETECTION
from singleshot.errors import CheckpointError
from singleshot.thresholds import NO_CAP
from singleshot.weights.importing import import_checkpoint, import_foreign


@pytest.fixture(scope="module")
def arrays(filled):
    return filled("balancap_vgg300")


@pytest.fixture(scope="module")
def foreign(arrays):
    return import_foreign(arrays)


@pytest.fixture(scope="module")
def training(arrays):
    """What a training with Adam and moving averages puts beside the weights."""
    extra = {"global_step": np.array(9, np.int64), "beta1_power": np.array(0.9, np.float32)}
    for name in ("ssd_300_vgg/conv1/conv1_1/weights", "ssd_300_vgg/block4_box/L2Normalization/gamma"):
        for slot in ("Adam", "Adam_1", "Momentum", "RMSProp", "ExponentialMovingAverage"):
            extra[f"{name}/{slot}"] = np.full_like(arrays[name], 7.0)
    return extra


def same(model, other):
    return all(bool((value == other.state_dict()[key]).all()) for key, value in model.state_dict().items())


def test_gives_the_outputs_and_priors_of_the_source(foreign, agrees, golden):
    agrees(foreign.model, "balancap_vgg300")
    priors = np.load(golden / "priors_balancap.npz")["vgg300_cxcywh_noclip"]
    assert np.abs(foreign.model.priors.numpy() - priors).max() < 1e-6
    assert foreign.class_names is not None
    assert len(foreign.class_names) == foreign.model.num_classes == 20
    assert len(foreign.notes) == 1
    assert "input 300 x 300 and default boxes ssd300-balancap" in foreign.notes[0]
    assert foreign.thresholds == DETECTION["balancap"]
    assert (foreign.thresholds.keep_per_class, foreign.thresholds.keep) == (200, NO_CAP)


@pytest.mark.slow
def test_ssd512_by_its_seventh_map(filled, golden, outputs):
    model = import_checkpoint(filled("balancap_vgg512"), num_classes=20)
    priors = np.load(golden / "priors_balancap.npz")["vgg512_cxcywh_noclip"]
    assert np.abs(model.priors.numpy() - priors).max() < 1e-6
    offsets, logits = outputs(model)
    # The published mean and spread of this network's outputs, of which there are no others.
    assert np.allclose([offsets.mean(), offsets.std()], [-0.248, 1.636], atol=1e-3)
    assert np.allclose([logits.mean(), logits.std()], [-0.063, 1.739], atol=1e-3)


def test_from_a_file_with_optimizer_and_averages(tmp_path, arrays, training, foreign, bundle_writer):
    bundle_writer(tmp_path / "model.ckpt-120000", arrays | training)
    read = import_foreign(tmp_path / "model.ckpt-120000")
    assert same(read.model, foreign.model)
    assert len(read.notes) == 2
    assert "moving averages" in read.notes[0]


@pytest.mark.parametrize("scope", ["", "tower/my_detector/"])
def test_under_another_scope(arrays, foreign, scope):
    moved = {key.replace("ssd_300_vgg/", scope): value for key, value in arrays.items()}
    assert same(import_checkpoint(moved), foreign.model)


def test_another_number_of_classes(arrays):
    changed = dict(arrays)
    for key, value in arrays.items():
        if "/conv_cls/" in key:
            boxes = value.shape[-1] // 21
            changed[key] = value.reshape(*value.shape[:-1], boxes, 21)[..., :4].reshape(*value.shape[:-1], -1)
    foreign = import_foreign(changed)
    assert foreign.model.num_classes == 3
    assert foreign.class_names is None


def test_what_is_missing_left_over_or_misshapen_is_named(arrays):
    key = "ssd_300_vgg/conv5/conv5_2/biases"
    for changed, match in (
        ({k: v for k, v in arrays.items() if k != key}, f"1 missing: {key}"),
        (arrays | {key: arrays[key][:7]}, f"1 misshapen: {key} is 7, want 512"),
        (arrays | {"ssd_300_vgg/conv5/surplus": arrays[key]}, "1 unexpected: ssd_300_vgg/conv5/surplus"),
        (arrays | {key: np.full(512, np.nan, np.float32)}, "NaN or infinity"),
    ):
        with pytest.raises(CheckpointError, match=match) as caught:
            import_checkpoint(changed)
        assert "\n" not in str(caught.value)


def test_classification_weights_alone_are_no_model(arrays, tmp_path, bundle_writer):
    bundle_writer(tmp_path / "vgg_16.ckpt", {k: v for k, v in arrays.items() if "box" not in k})
    with pytest.raises(CheckpointError, match="no layout that is known"):
        import_checkpoint(tmp_path / "vgg_16.ckpt")
    with pytest.raises(CheckpointError, match="has no outputs"):
        import_checkpoint(tmp_path / "vgg_16.ckpt", source="balancap")

from __future__ import annotations

import numpy as np
import pytest
import torch

from singleshot.conventions import DETECTION
from singleshot.errors import CheckpointError
from singleshot.thresholds import NO_CAP
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importing import _pick, import_checkpoint, import_foreign


def test_gives_the_outputs_and_priors_of_the_source(state, agrees, golden):
    foreign = import_foreign(state("amdegroot_vgg300"))
    agrees(foreign.model, "amdegroot_vgg300")
    assert np.abs(foreign.model.priors.numpy() - np.load(golden / "priors_amdegroot.npz")["voc300_clip"]).max() < 1e-6
    assert foreign.class_names is not None
    assert len(foreign.class_names) == foreign.model.num_classes == 20
    assert "amdegroot" in foreign.source
    assert foreign.thresholds == DETECTION["amdegroot"]
    assert (foreign.thresholds.per_class, foreign.thresholds.keep) == (200, NO_CAP)


def test_what_is_missing_left_over_or_misshapen_is_named(state):
    tensors = state("amdegroot_vgg300")
    less = {key: value for key, value in tensors.items() if key != "vgg.5.weight"}
    with pytest.raises(CheckpointError, match=r"1 missing: vgg\.5\.weight") as caught:
        import_checkpoint(less)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="1 unexpected: surplus"):
        import_checkpoint({**tensors, "surplus": tensors["vgg.0.bias"]})
    with pytest.raises(CheckpointError, match=r"1 misshapen: vgg\.0\.bias is 3, want 64"):
        import_checkpoint({**tensors, "vgg.0.bias": tensors["vgg.0.bias"][:3]})


def test_the_number_of_classes_is_checked_when_given(state):
    assert import_checkpoint(state("amdegroot_vgg300"), num_classes=20).num_classes == 20
    with pytest.raises(CheckpointError, match="with 20 classes, not 3"):
        import_checkpoint(state("amdegroot_vgg300"), num_classes=3)


def test_an_unknown_layout_is_refused_with_the_nearest(state):
    tensors = state("amdegroot_vgg300")
    with pytest.raises(CheckpointError, match=r"nearest is amdegroot .* conf\.5\.bias is missing"):
        import_checkpoint({key: value for key, value in tensors.items() if key != "conf.5.bias"})
    with pytest.raises(CheckpointError, match="no layout that is known"):
        import_checkpoint({"weight": tensors["vgg.0.weight"]})


@pytest.fixture
def named():
    """`named(prefix)`: nothing but the names of such a checkpoint."""
    names = [f"vgg.{i}.weight" for i in range(34)] + ["vgg.33.bias", "L2Norm.weight", "extras.0.weight"]
    names += ["extras.7.bias", "loc.0.weight", "conf.5.bias"]
    return lambda prefix: {f"{prefix}{name}": torch.zeros(1) for name in names}


@pytest.mark.parametrize("prefix", ["model.", "net.", "ssd.", "detector.model.", "student/", "_forward_module.model."])
@pytest.mark.parametrize("source", ["auto", "amdegroot"])
def test_a_prefix_of_all_names_goes(named, prefix, source):
    importer, tensors, found = _pick(ForeignState(named(prefix), "file"), source)
    assert (importer.name, found, list(tensors)) == ("amdegroot", prefix, list(named("")))
    assert _pick(ForeignState(named(""), "file"), source)[2] == ""


def test_what_has_no_prefix_is_left_over(named, state):
    tensors = {f"model.{key}": value for key, value in state("amdegroot_vgg300").items()}
    with pytest.raises(CheckpointError, match=r"1 unexpected: ema\.decay"):
        import_checkpoint({**tensors, "ema.decay": torch.zeros(1)})
    twice = named("model.") | {"vgg.0.weight": torch.zeros(1)}  # without the prefix a name is there twice
    with pytest.raises(CheckpointError, match="no layout that is known"):
        _pick(ForeignState(twice, "file"), "auto")


def test_the_nearest_layout_is_named_only_where_it_is_near(state):
    tensors = state("amdegroot_vgg300")
    near = {key.replace("loc.", "boxes."): value for key, value in tensors.items()}
    with pytest.raises(CheckpointError, match=r"nearest is amdegroot .* but loc\.0\.weight is missing"):
        import_checkpoint(near)
    far = {key: value for key, value in tensors.items() if key.startswith(("loc.0", "conf."))}
    far |= {f"backbone.{i}.weight": torch.zeros(3, 3) for i in range(60)}
    with pytest.raises(CheckpointError, match="no layout that is known") as caught:
        import_checkpoint(far)
    assert "nearest" not in str(caught.value)


def test_a_larger_input_has_larger_boxes(state):
    foreign = import_foreign(state("amdegroot_vgg300"), settings=ImportSettings(size=512))
    spec = foreign.model.prior_spec
    assert spec.maps == (64, 32, 16, 8, 6, 4)
    assert spec.steps == (8.0, 16.0, 32.0, 64.0, 512 / 6, 128.0)
    assert np.allclose(spec.min_sizes, np.array([30, 60, 111, 162, 213, 264]) * 512 / 300)
    assert "scaled from 300 px" in foreign.notes[-1]

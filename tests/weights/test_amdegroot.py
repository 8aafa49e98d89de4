from __future__ import annotations

import numpy as np
import pytest

from singleshot.conventions import DETECTION
from singleshot.errors import CheckpointError
from singleshot.thresholds import NO_CAP
from singleshot.weights.importing import import_checkpoint, import_foreign


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

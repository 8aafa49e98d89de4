"""torchvision's two SSDs against the golden vectors and against the installed torchvision itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection import ssdlite, ssdlite320_mobilenet_v3_large

from singleshot.errors import CheckpointError
from singleshot.postprocess import to_detections
from singleshot.weights.importing import import_checkpoint, import_foreign

LITE, VGG = "torchvision_ssdlite320", "torchvision_ssd300"


@pytest.fixture(scope="session")
def foreign(state):
    return {name: import_foreign(state(name)) for name in (LITE, VGG)}


@pytest.mark.parametrize(("name", "priors"), [(LITE, "ssdlite320_mnv3l_cxcywh"), (VGG, "ssd300_vgg16_cxcywh")])
def test_gives_the_outputs_and_priors_of_the_source(name, priors, foreign, agrees, golden):
    found = foreign[name]
    agrees(found.model, name)
    wanted = np.load(golden / "priors_torchvision.npz")[priors]
    assert np.abs(found.model.priors.numpy() - wanted).max() < 1e-6
    assert found.model.num_classes == len(found.class_names) == 20


def test_what_it_takes_for_granted_is_that_of_the_project(foreign):
    lite, vgg = foreign[LITE], foreign[VGG]
    assert (lite.model.input_spec.size, lite.model.input_spec.mean, lite.model.input_spec.std) == (
        320,
        (127.5,) * 3,
        (127.5,) * 3,
    )
    assert vgg.model.input_spec.mean == pytest.approx([0.48235 * 255, 0.45882 * 255, 0.40784 * 255])
    assert vgg.model.input_spec.std == (1.0, 1.0, 1.0)
    for found, values in ((vgg, (0.01, 0.45, 400, 200)), (lite, (0.001, 0.55, 300, 300))):
        t = found.thresholds
        assert (t.score_min, t.nms_iou, t.per_class, t.keep) == values
    norms = [module for module in lite.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.001, 0.03)}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """With weights and statistics of a network that has been trained: outputs differ from place to place."""
    g = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=g)
            module.running_var.uniform_(0.5, 1.5, generator=g)
        elif isinstance(module, torch.nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data.uniform_(-1.0, 1.0, generator=g).mul_((5 / fan_in) ** 0.5)
    return model.eval()


@pytest.mark.parametrize("reduced", [True, False])
def test_the_installed_model_gives_the_same(reduced, monkeypatch, golden_inputs, outputs):
    # The tail is as wide as MobileNetV3's own where training started from ImageNet.
    monkeypatch.setattr(
        ssdlite, "mobilenet_v3_large", lambda **rest: mobilenet_v3_large(**{**rest, "reduced_tail": reduced})
    )
    theirs = randomised(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91))
    found = import_foreign(theirs.state_dict())
    assert found.model.num_classes == 90
    assert found.class_names[:12] == (*found.class_names[:11], "unused 12")
    assert "90" in found.notes[0]
    image = torch.from_numpy(golden_inputs.image(320)).permute(2, 0, 1)
    with torch.inference_mode():
        images, _ = theirs.transform([image / 255])
        wanted, raw = theirs([image / 255])[0], found.model(image.unsqueeze(0))
        head = theirs.head(list(theirs.backbone(images.tensors).values()))
    offsets, logits = outputs(found.model)
    assert np.abs(offsets - head["bbox_regression"][0].numpy()).max() < 1e-4
    assert np.abs(logits - head["cls_logits"][0].numpy()).max() < 1e-4
    assert logits.std() > 0.1
    boxes, scores, labels = to_detections(raw, found.model.priors, **found.thresholds.for_postprocess())[0]
    assert len(scores) == len(wanted["scores"]) == 300
    assert torch.allclose(scores, wanted["scores"], atol=1e-4)
    # The best ones: lower down, scores that are equal but for rounding change places.
    assert torch.equal(labels[:20] + 1, wanted["labels"][:20])
    assert torch.allclose(boxes[:20] * 320, wanted["boxes"][:20], atol=0.01)


def test_the_project_can_be_named(state):
    assert import_checkpoint(state(LITE), source="torchvision").name == "ssdlite320-mobilenetv3"
    with pytest.raises(CheckpointError, match="not 3"):
        import_checkpoint(state(LITE), source="torchvision-ssdlite320", num_classes=3)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (VGG, "backbone.extra.0.7.3.weight"),
        (LITE, "backbone.features.0.4.block.2.fc1.weight"),
        (LITE, "backbone.features.1.0.3.1.running_var"),
        (LITE, "head.classification_head.module_list.2.1.weight"),
    ],
)
def test_what_is_missing_left_over_or_misshapen_is_refused(name, key, state, refuses_what_does_not_fit):
    refuses_what_does_not_fit(state(name), key, "backbone.extra.5.0.weight", "torchvision")

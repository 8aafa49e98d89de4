"""Detectors that are recognised by the names of their tensors and not imported."""

from __future__ import annotations

import pytest
import torch
import torchvision

from singleshot.errors import CheckpointError
from singleshot.weights import import_checkpoint
from singleshot.weights.importers import IMPORTERS
from singleshot.weights.other_layouts import other_layout


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["backbone1.0.weight", "classifier_8.bias", "regressor_8.weight"], "BlazeFace"),
        (["backbone.model0.conv2.conv1.weight", "head.head.0.conv1.conv1.weight"], "YuNet"),
        (["blk_0.0.0.weight", "blk_3.7.channelattention.fc1.weight", "cls_0.0.bias"], "TinySSD with attention"),
        (
            ["feature_extractor.inception1.branch1x1.conv.weight", "feature_extractor.conv4_2.norm.bias"],
            "yakhyo/faceboxes-pytorch has it, whose default boxes of 32 pixels stand on the diagonal",
        ),
        (["module.classifier_8.bias", "module.regressor_8.weight"], "BlazeFace"),
        (["body.stage1.0.0.weight", "bifpn.0.p1.weight", "BboxHead.0.conv1x1.weight"], "FeatherFace"),
        (["backbone.body.0.weight", "rpn.head.conv.weight", "roi_heads.box_head.fc6.weight"], "two-stage"),
        (["transformer.encoder.layers.0.norm1.bias", "class_embed.bias"], "DETR"),
        (["model.0.conv.weight", "model.2.cv2.conv.weight"], "YOLO"),
    ],
)
def test_what_it_is_and_what_to_do(names, what):
    with pytest.raises(CheckpointError, match=what) as caught:
        import_checkpoint({name: torch.zeros(1) for name in names})
    assert "; " in str(caught.value)


def test_torchvision_s_retinanet_is_named():
    with torch.device("meta"):
        names = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    assert "RetinaNet" in other_layout(names)


def test_no_layout_that_is_imported_is_named_so():
    assert not [importer.name for importer in IMPORTERS if other_layout(importer.signature)]

"""uvipen/SSD-pytorch's SSDLite: its modules written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual, mobilenet_v2

from singleshot.weights.importing import import_foreign

WIDTHS, MAPS, BOXES, CLASSES = (576, 1280, 512, 256, 256, 64), (19, 10, 5, 3, 2, 1), 6, 3


def separable(inputs: int, outputs: int) -> nn.Sequential:
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
    return nn.Sequential(depthwise, nn.BatchNorm2d(inputs), nn.ReLU6(), nn.Conv2d(inputs, outputs, 1))


class Theirs(nn.Module):
    """SSDLite of src/model.py: the layers, and `bbox_view`."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_extractor = nn.Module()
        self.feature_extractor.feature_extractor = mobilenet_v2(weights=None).features
        settings = ((1280, 512, 0.2), (512, 256, 0.25), (256, 256, 0.5), (256, 64, 0.25))
        self.additional_blocks = nn.ModuleList(
            InvertedResidual(a, b, stride=2, expand_ratio=ratio) for a, b, ratio in settings
        )
        self.loc, self.conf = (self.heads(BOXES * n) for n in (4, CLASSES + 1))

    @staticmethod
    def heads(outputs: int) -> nn.ModuleList:
        return nn.ModuleList([*(separable(w, outputs) for w in WIDTHS[:5]), nn.Conv2d(WIDTHS[5], outputs, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 4, P], [B, CLASSES + 1, P]"""
        maps = []
        for i, block in enumerate(self.feature_extractor.feature_extractor):
            if i == 14:
                maps.append(block.conv[0](x))
            x = block(x)
        maps.append(x)
        for block in self.additional_blocks:
            maps.append(block(maps[-1]))
        loc = [head(m).view(len(x), 4, -1) for head, m in zip(self.loc, maps, strict=True)]
        conf = [head(m).view(len(x), CLASSES + 1, -1) for head, m in zip(self.conf, maps, strict=True)]
        return torch.cat(loc, 2), torch.cat(conf, 2)


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(3)
    net = Theirs()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.6, 1.0)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.0)
    for head in (*net.loc, *net.conf):
        for module in head.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight, gain=2.0)
    return net.eval()


def test_gives_the_outputs_of_the_source(theirs, golden_inputs, outputs):
    foreign = import_foreign({"epoch": 3, "model_state_dict": theirs.state_dict()})
    image = torch.from_numpy(golden_inputs.image(300)).permute(2, 0, 1).float().unsqueeze(0) / 255
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    with torch.inference_mode():
        loc, conf = theirs((image - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    offsets, logits = outputs(foreign.model)
    order, start = [], 0  # ours cell by cell, theirs all cells of a box after those of the one before
    for side in MAPS:
        order.append(start + np.arange(side * side * BOXES).reshape(-1, BOXES).T.reshape(-1))
        start += side * side * BOXES
    rows = np.concatenate(order)
    assert np.abs(offsets[rows] - loc[0].T.numpy()).max() < 1e-4
    assert np.abs(logits[rows] - conf[0].T.numpy()).max() < 1e-4
    assert conf.std() > 0.05
    assert foreign.source == "uvipen/SSD-pytorch SSDLite on MobileNetV2"


def test_default_boxes_are_those_of_generate_dboxes(theirs):
    """utils.py, DefaultBoxes with the numbers of "ssdlite", as a loop."""
    sizes, steps = (60, 105, 150, 195, 240, 285, 330), (16, 32, 64, 100, 150, 300)
    wanted = []
    for i, side in enumerate(MAPS):
        low, high = sizes[i] / 300, sizes[i + 1] / 300
        cell = [(low, low), ((low * high) ** 0.5,) * 2]
        for ratio in (2**0.5, 3**0.5):
            cell += [(low * ratio, low / ratio), (low / ratio, low * ratio)]
        for y, x in np.ndindex(side, side):
            wanted += [((x + 0.5) * steps[i] / 300, (y + 0.5) * steps[i] / 300, w, h) for w, h in cell]
    model = import_foreign(theirs.state_dict()).model
    assert np.abs(model.priors.numpy() - np.clip(wanted, 0, 1)).max() < 1e-6


def test_what_is_missing_left_over_or_misshapen_is_refused(theirs, refuses_what_does_not_fit):
    refuses_what_does_not_fit(theirs.state_dict(), "additional_blocks.2.conv.1.0.weight", "loc.6.0.weight", "uvipen")

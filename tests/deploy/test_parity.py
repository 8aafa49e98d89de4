"""The parts of the proof: which prior a box comes from, and what is folded before a network is exported."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from singleshot.deploy.onnx_network import _folded
from singleshot.deploy.parity import EXACT, HALF, Limits, _nearest, _Truth
from singleshot.models.blocks import DepthwiseConv2d
from singleshot.records import ImageDetections

SIDES = torch.tensor([320.0, 200.0, 320.0, 200.0])


def farthest(truth: _Truth, box: np.ndarray, score: float, label: int, limits: Limits) -> list[float]:
    """By the loop: in units of the limits, how far each prior is."""
    found = []
    for prior in range(truth.boxes.shape[1]):
        own = truth.boxes[label, prior].numpy()
        reach = max(1.0, float(np.abs(own).max()))
        px = max(abs(float(own[k]) - float(box[k])) * float(SIDES[k]) for k in range(4)) / reach
        off = abs(score - float(truth.scores[prior, label]))
        worst = (px / limits.box_px, off / limits.score)
        found.append(float("inf") if np.isnan(worst).any() else max(worst))
    return found


@pytest.mark.parametrize("limits", [EXACT, HALF], ids=["exact", "half"])
def test_the_nearest_prior_is_that_of_a_loop(limits: Limits) -> None:
    """Boxes within the limits, beyond them in place or in score, twice there, and no numbers."""
    random = np.random.default_rng(5)
    corners = np.sort(random.random((60, 2, 2)), axis=1).reshape(60, 4).astype(np.float32)
    corners[7] *= 40.0  # beyond the input
    of_class = np.stack([corners, corners + np.float32(0.01), corners])
    scores = random.random((60, 3)).astype(np.float32)
    corners[20], of_class[:, 20], scores[20] = corners[19], of_class[:, 19], scores[19]
    kept = ImageDetections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    truth = _Truth(torch.from_numpy(of_class), torch.from_numpy(scores), kept, torch.from_numpy(corners))
    taken = random.integers(0, 60, 40)
    labels = random.integers(0, 3, 40)
    boxes = of_class[labels, taken] + random.choice([0, 1e-4, 0.02], (40, 1)).astype(np.float32)
    own = (scores[taken, labels] + random.choice([0, 5e-4, 0.05], 40)).astype(np.float32)
    boxes[3], own[4], boxes[5] = np.nan, np.nan, np.inf
    found = ImageDetections(boxes, own, labels)
    nearest, box_px, score = _nearest(truth, found, SIDES, limits)
    for k in range(40):
        worst = farthest(truth, boxes[k], float(own[k]), int(labels[k]), limits)
        assert worst[int(nearest[k])] == pytest.approx(min(worst), rel=1e-4)
        units = max(float(box_px[k]) / limits.box_px, float(score[k]) / limits.score)
        assert np.isnan(units) or not np.isfinite(min(worst)) or units == pytest.approx(min(worst), rel=1e-4)
    assert min(nearest.tolist()) >= 0
    assert sum(min(farthest(truth, boxes[k], float(own[k]), int(labels[k]), limits)) > 1 for k in range(40)) > 5


class Shared(nn.Module):
    """One convolution with a norm for each of two maps, as heads of a pyramid have, and two layers that do not follow
    one another."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(3, 3, 3, padding=1)
        self.large, self.small = nn.Sequential(conv, nn.BatchNorm2d(3)), nn.Sequential(conv, nn.BatchNorm2d(3))
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.stem = nn.Sequential(DepthwiseConv2d(3, 3, 3, groups=3, bias=False), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.norm(x) + self.conv(self.large(x) + self.small(x))


def test_norms_are_folded_where_they_follow_a_convolution_of_their_own() -> None:
    torch.manual_seed(0)
    door = Shared().eval()
    for norm in door.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                assert values is not None
                values.uniform_(0.5, 2.0)
    before = copy.deepcopy(door.state_dict())
    image = torch.randn(2, 3, 9, 8)
    folded = _folded(door)
    assert [name for name, one in folded.named_modules() if isinstance(one, nn.BatchNorm2d)] == [
        "large.1", "small.1", "norm",
    ]  # fmt: skip
    torch.testing.assert_close(folded(image), door(image))
    for name, values in door.state_dict().items():
        assert torch.equal(values, before[name])

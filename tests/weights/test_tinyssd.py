"""TinySSD of Dive into Deep Learning, and lxg2015's FaceBoxes: the same layers in plain torch, random weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from singleshot.conventions import DETECTION
from singleshot.errors import CheckpointError
from singleshot.prior_tables import PRIORS
from singleshot.priors import prior_table
from singleshot.weights.importing import import_foreign


def filled(net: nn.Module) -> nn.Module:
    """With weights and statistics that are all random and keep what passes of its size."""
    torch.manual_seed(5)
    for name, value in net.state_dict().items():
        if value.ndim == 4:
            nn.init.kaiming_normal_(value)
        elif "running_var" in name or name.endswith("weight"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(0, 0.2)
    return net.eval()


def flat(maps: list[Tensor], columns: int) -> Tensor:
    return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, columns) for m in maps], 1)


def pair(inputs: int, outputs: int) -> nn.Sequential:
    def unit(n: int) -> list[nn.Module]:
        return [nn.Conv2d(n, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(*unit(inputs), *unit(outputs), nn.MaxPool2d(2))


class Tiny(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        base = nn.Sequential(pair(3, 16), pair(16, 32), pair(32, 64))
        blocks = [base, pair(64, 128), pair(128, 128), pair(128, 128), nn.AdaptiveMaxPool2d(1)]
        for i, block in enumerate(blocks):
            width = 128 if i else 64
            setattr(self, f"blk_{i}", block)
            setattr(self, f"cls_{i}", nn.Conv2d(width, 4 * (classes + 1), 3, padding=1))
            setattr(self, f"bbox_{i}", nn.Conv2d(width, 16, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        boxes, scores = [], []
        for i in range(5):
            x = getattr(self, f"blk_{i}")(x)
            boxes.append(getattr(self, f"bbox_{i}")(x))
            scores.append(getattr(self, f"cls_{i}")(x))
        return boxes, scores


@pytest.mark.parametrize("classes", [1, 3])
def test_tiny_gives_the_outputs_of_its_network(classes: int) -> None:
    net, image = filled(Tiny(classes)), torch.randint(0, 256, (1, 3, 256, 256))
    foreign = import_foreign(net.state_dict())
    with torch.no_grad():
        (boxes, scores), raw = net(image.float()), foreign.model(image)
    torch.testing.assert_close(raw.offsets, flat(boxes, 4), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(raw.logits, flat(scores, classes + 1), rtol=1e-4, atol=1e-3)
    assert foreign.thresholds == DETECTION["d2l"]
    assert foreign.model.num_classes == classes


def test_its_boxes_are_those_of_a_slow_loop() -> None:
    rows = []
    sizes = ((0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961))
    for side, (small, large) in zip((32, 16, 8, 4, 1), sizes, strict=True):
        for i, j in product(range(side), range(side)):
            place = (j + 0.5) / side, (i + 0.5) / side
            rows += [(*place, small, small), (*place, large, large)]
            rows += [(*place, small * r**0.5, small / r**0.5) for r in (2.0, 0.5)]
    torch.testing.assert_close(
        torch.from_numpy(prior_table(PRIORS["tinyssd256"])).double(), torch.tensor(rows).double()
    )


class Unit(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def plain(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Of the first version."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)


class Inception(nn.Module):
    def __init__(self, unit: Callable[..., nn.Module]) -> None:
        super().__init__()
        shapes = ((128, 32, 1), (128, 32, 1), (128, 24, 1), (24, 32, 3), (128, 24, 1), (24, 32, 3), (32, 32, 3))
        for i, shape in enumerate(shapes, 1):
            setattr(self, f"conv{i}", unit(*shape))

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.max_pool2d(x, 3, 1, 1)
        last = self.conv7(self.conv6(self.conv5(x)))
        return torch.cat([self.conv1(x), self.conv2(pooled), self.conv4(self.conv3(x)), last], 1)


class Faces(nn.Module):
    def __init__(self, normalised: bool) -> None:
        super().__init__()
        unit = Unit if normalised else plain
        self.conv1, self.bn1 = nn.Conv2d(3, 24, 7, 4, 3), nn.BatchNorm2d(24) if normalised else nn.Identity()
        self.conv2, self.bn2 = nn.Conv2d(48, 64, 5, 2, 2), nn.BatchNorm2d(64) if normalised else nn.Identity()
        self.inception1, self.inception2, self.inception3 = (Inception(unit) for _ in range(3))
        self.conv3_1, self.conv3_2 = unit(128, 128, 1), unit(128, 256, 3, 2)
        self.conv4_1, self.conv4_2 = unit(256, 128, 1), unit(128, 256, 3, 2)
        self.multilbox = nn.Module()
        widths = ((128, 21), (256, 1), (256, 1))
        for name, columns in (("loc_layers", 4), ("conf_layers", 2)):
            heads = [nn.Conv2d(width, boxes * columns, 3, padding=1) for width, boxes in widths]
            setattr(self.multilbox, name, nn.ModuleList(heads))

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2)):
            x = norm(conv(x))
            x = nn.functional.max_pool2d(torch.cat([x, -x], 1).relu(), 3, 2, 1)
        maps = [self.inception3(self.inception2(self.inception1(x)))]
        maps.append(self.conv3_2(self.conv3_1(maps[-1])))
        maps.append(self.conv4_2(self.conv4_1(maps[-1])))
        ends = self.multilbox.loc_layers, self.multilbox.conf_layers
        return tuple([head(m) for head, m in zip(heads, maps, strict=True)] for heads in ends)


@pytest.mark.parametrize("normalised", [True, False])
def test_lxg2015_s_faceboxes_gives_the_outputs_of_its_network(normalised: bool) -> None:
    net = filled(Faces(normalised))
    model = import_foreign(net.state_dict()).model
    image = torch.randint(0, 256, (1, 3, 1024, 1024))
    with torch.no_grad():
        (boxes, scores), raw = net(image.flip(1).float() / 255), model(image)
    torch.testing.assert_close(raw.offsets, flat(boxes, 4), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(raw.logits, flat(scores, 2), rtol=1e-4, atol=1e-3)


def test_its_dense_boxes_go_column_by_column() -> None:
    rows = []
    for i, j in product(range(32), range(32)):
        for size, places in ((32, (-12, -4, 4, 12)), (64, (-8, 8)), (128, (0,))):
            rows += [(32 * j + 16 + x, 32 * i + 16 + y, size, size) for x in places for y in places]
    for side, step, size in ((16, 64, 256), (8, 128, 512)):
        rows += [((j + 0.5) * step, (i + 0.5) * step, size, size) for i in range(side) for j in range(side)]
    found = torch.from_numpy(prior_table(PRIORS["faceboxes1024-lxg2015"])).double()
    torch.testing.assert_close(found, torch.tensor(rows).double() / 1024)


def test_a_retinaface_with_more_boxes_in_a_cell_is_said_to_be_one() -> None:
    tensors = {
        **{
            name: torch.zeros(1) for name in ("body.stage1.0.0.weight", "body.stage3.1.3.weight", "fpn.merge2.0.weight")
        },
        "ssh3.conv7x7_3.0.weight": torch.zeros(1),
        **{f"{head}Head.{i}.conv1x1.bias": torch.zeros(24) for head in ("Bbox", "Class") for i in range(3)},
    }
    with pytest.raises(CheckpointError, match="Retinaface with 6, 6, 6 boxes in a cell of its maps, not 2, 2, 2"):
        import_foreign(tensors)

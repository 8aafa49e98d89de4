"""SSD300 on ResNets: the golden vectors of NVIDIA's, and the modules of both projects written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet

from singleshot.priors import PRIORS, make_priors
from singleshot.weights.importing import import_foreign

BOXES = (4, 6, 6, 6, 4, 4)
MAPS = (38, 19, 10, 5, 3, 1)


def box_by_box() -> np.ndarray:
    """Rows of ours in the order of theirs: all cells of a map's first box, then of its second."""
    order, start = [], 0
    for side, boxes in zip(MAPS, BOXES, strict=True):
        order.append(start + np.arange(side * side * boxes).reshape(side * side, boxes).T.reshape(-1))
        start += side * side * boxes
    return np.concatenate(order)


class Theirs(nn.Module):
    """ssd/model.py of NVIDIA's (norm), ssd300.py and base_model.py of MLPerf's: the layers and views of both."""

    def __init__(self, depth: int, classes: int, norm: bool) -> None:
        super().__init__()
        stages = list(getattr(resnet, f"resnet{depth}")(weights=None).children())[:7]
        first = stages[6][0]
        first.conv1.stride = first.conv2.stride = first.downsample[0].stride = (1, 1)
        if norm:
            self.feature_extractor = nn.Module()
            self.feature_extractor.feature_extractor = nn.Sequential(*stages)
        else:
            self.model = nn.Module()
            self.model.layer1, self.model.layer2 = nn.Sequential(*stages[:6]), nn.Sequential(stages[6])
        self.backbone = [nn.Sequential(*stages)]
        widths = (1024 if depth >= 50 else 256, 512, 512, 256, 256, 128 if depth == 18 else 256)
        blocks = []
        for i, narrow in enumerate((256, 256, 128, 128, 128)):
            rest = {"stride": 2, "padding": 1} if i < 3 else {}
            one = nn.Conv2d(widths[i], narrow, 1, bias=not norm)
            two = nn.Conv2d(narrow, widths[i + 1], 3, bias=not norm, **rest)
            norms = ([nn.BatchNorm2d(narrow)], [nn.BatchNorm2d(widths[i + 1])]) if norm else ([], [])
            blocks.append(nn.Sequential(one, *norms[0], nn.ReLU(), two, *norms[1], nn.ReLU()))
        self.additional_blocks = nn.ModuleList(blocks)
        self.loc = nn.ModuleList(nn.Conv2d(w, 4 * n, 3, padding=1) for w, n in zip(widths, BOXES, strict=True))
        self.conf = nn.ModuleList(
            nn.Conv2d(w, (classes + 1) * n, 3, padding=1) for w, n in zip(widths, BOXES, strict=True)
        )
        self.classes = classes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 4, P], [B, classes + 1, P]"""
        maps = [self.backbone[0](x)]
        for block in self.additional_blocks:
            maps.append(block(maps[-1]))
        loc = [head(m).view(len(x), 4, -1) for head, m in zip(self.loc, maps, strict=True)]
        conf = [head(m).view(len(x), self.classes + 1, -1) for head, m in zip(self.conf, maps, strict=True)]
        return torch.cat(loc, 2), torch.cat(conf, 2)


def compare(theirs: nn.Module, foreign, golden_inputs, outputs) -> None:
    image = torch.from_numpy(golden_inputs.image(300)).permute(2, 0, 1).float().unsqueeze(0) / 255
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    with torch.inference_mode():
        loc, conf = theirs.eval()((image - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    offsets, logits = outputs(foreign.model)
    order = box_by_box()
    assert np.abs(offsets[order] - loc[0].T.numpy()).max() < 1e-4
    assert np.abs(logits[order] - conf[0].T.numpy()).max() < 1e-4
    assert conf.std() > 0.05


@pytest.fixture(scope="session")
def resnet50(state):
    return import_foreign(state("nvidia_resnet50"))


def test_gives_the_outputs_of_the_source(resnet50, agrees):
    agrees(resnet50.model, "nvidia_resnet50", order=box_by_box())
    assert resnet50.source == "NVIDIA DeepLearningExamples SSD300 on ResNet50"
    assert len(resnet50.class_names) == resnet50.model.num_classes == 80


def test_priors_are_those_of_the_source_cell_by_cell(resnet50, golden):
    wanted = np.load(golden / "priors_nvidia.npz")["dboxes300_coco_cxcywh_anchormajor_clip"]
    assert np.abs(resnet50.model.priors.numpy()[box_by_box()] - wanted).max() < 1e-6
    spec = replace(PRIORS["ssd300-coco"], clip="center", order="box")
    assert np.abs(make_priors(spec).numpy() - wanted).max() < 1e-6


def test_thresholds_and_input_are_those_of_the_evaluation(resnet50):
    t = resnet50.thresholds
    assert (t.score_min, t.nms_iou, t.per_class, t.keep) == (0.05, 0.5, 200, 200)
    assert resnet50.model.input_spec.mean == pytest.approx([255 * m for m in (0.485, 0.456, 0.406)])
    assert resnet50.model.input_spec.std == pytest.approx([255 * s for s in (0.229, 0.224, 0.225)])


def test_mlperf_gives_what_its_modules_do(state, golden_inputs, outputs):
    tensors, theirs = state("mlperf_resnet34"), Theirs(34, 80, norm=False)
    theirs.load_state_dict(tensors)
    foreign = import_foreign({"model": {f"module.{key}": value for key, value in tensors.items()}})
    compare(theirs, foreign, golden_inputs, outputs)
    assert foreign.source == "MLPerf training SSD300 on ResNet34"


@pytest.mark.parametrize("depth", [18, 34, pytest.param(101, marks=pytest.mark.slow)])
def test_other_depths_are_told_by_their_shapes(depth, golden_inputs, outputs):
    torch.manual_seed(depth)
    theirs = Theirs(depth, 3, norm=True)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            # A third: the sum over 33 blocks stays within float32's precision of the tolerance.
            module.weight.data.uniform_(0.3, 0.4)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for head in (*theirs.loc, *theirs.conf):
        nn.init.xavier_uniform_(head.weight, gain=2.0)
    names = {0: "background", 1: "ant", 2: "bee", 3: "cow"}
    foreign = import_foreign({"model": theirs.state_dict(), "label_map": names, "epoch": 3})
    assert foreign.source.endswith(f"on ResNet{depth}")
    assert foreign.class_names == ("ant", "bee", "cow")
    if depth != 34:
        compare(theirs, foreign, golden_inputs, outputs)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("nvidia_resnet50", "feature_extractor.feature_extractor.5.0.downsample.1.bias"),
        ("nvidia_resnet50", "additional_blocks.2.3.weight"),
        ("mlperf_resnet34", "conf.3.weight"),
    ],
)
def test_what_is_missing_left_over_or_misshapen_is_refused(name, key, state, refuses_what_does_not_fit):
    refuses_what_does_not_fit(state(name), key, "additional_blocks.5.0.weight", "(NVIDIA|MLPerf)")

"""mmdetection's SSDs: the golden vectors, and its modules written out where there are none."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from singleshot.priors import PRIORS
from singleshot.weights.importing import import_checkpoint, import_foreign

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def image_of(golden_inputs, side: int, std: tuple[float, ...]) -> Tensor:
    image = torch.from_numpy(golden_inputs.image(side)).permute(2, 0, 1).float().unsqueeze(0)
    return (image - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def rows(maps: list[Tensor], columns: int) -> np.ndarray:
    flat = [m.permute(0, 2, 3, 1).reshape(-1, columns) for m in maps]
    return torch.cat(flat).detach().double().numpy()


class Vgg(nn.Module):
    """SSDVGG, SSDNeck and SSDHead in one: what each of their layers does, in the order of their forward."""

    def __init__(self, side: int, classes: int, old: bool = False) -> None:
        super().__init__()
        features, channels = [], 3
        for width, convs in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(convs):
                features += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            features.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        features[-1] = nn.MaxPool2d(3, 1, 1)
        features += [nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(), nn.Conv2d(1024, 1024, 1), nn.ReLU()]
        outputs = (512, 1024, 512, 256, 256, 256, 256)[: 6 if side == 300 else 7]
        strides, paddings = ((2, 2, 1, 1), (1, 1, 0, 0)) if side == 300 else ((2, 2, 2, 2, 1), (1, 1, 1, 1, 1))
        pairs = []
        for i, (stride, padding) in enumerate(zip(strides, paddings, strict=True)):
            kernel = 4 if side == 512 and i == 4 else 3
            narrow = outputs[i + 2] // 2
            first, second = nn.Conv2d(outputs[i + 1], narrow, 1), nn.Conv2d(narrow, outputs[i + 2], kernel, stride,
                                                                           padding)  # fmt: skip
            pairs.append((first, second))
        weight = nn.Module()
        weight.weight = nn.Parameter(torch.full((512,), 20.0))
        boxes = (4, 6, 6, 6, 4, 4) if side == 300 else (4, 6, 6, 6, 6, 4, 4)
        heads = {name: [nn.Conv2d(c, n * columns, 3, padding=1) for c, n in zip(outputs, boxes, strict=True)]
                 for name, columns in (("cls_convs", classes + 1), ("reg_convs", 4))}  # fmt: skip
        self.backbone, self.bbox_head = nn.Module(), nn.Module()
        self.backbone.features = nn.Sequential(*features)
        if old:
            self.backbone.extra = nn.ModuleList(conv for pair in pairs for conv in pair)
            self.backbone.l2_norm = weight
        else:
            self.neck = nn.Module()
            self.neck.l2_norm = weight
            self.neck.extra_layers = nn.ModuleList(
                nn.Sequential(*(nn.ModuleDict({"conv": conv}) for conv in pair)) for pair in pairs
            )
        for name, convs in heads.items():
            setattr(self.bbox_head, name, nn.ModuleList(convs if old else [nn.Sequential(conv) for conv in convs]))
        self.pairs, self.scale, self.heads, self.classes = [list(p) for p in pairs], [weight], heads, classes

    def forward(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        maps = []
        for i, layer in enumerate(self.backbone.features):
            x = layer(x)
            if i == 22:
                length = x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10
                maps.append(self.scale[0].weight.view(1, -1, 1, 1) * x / length)
        maps.append(x)
        for first, second in self.pairs:
            x = F.relu(second(F.relu(first(x))))
            maps.append(x)
        reg = [conv(m) for conv, m in zip(self.heads["reg_convs"], maps, strict=True)]
        cls = [conv(m) for conv, m in zip(self.heads["cls_convs"], maps, strict=True)]
        return rows(reg, 4), rows(cls, self.classes + 1)


class Unit(nn.Module):
    """ConvModule: convolution, normalisation and activation by name."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return F.relu6(y) if self.act else y


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        if expansion != 1:
            self.expand_conv = Unit(inputs, wide)
        self.depthwise_conv = Unit(wide, wide, 3, stride, wide)
        self.linear_conv = Unit(wide, outputs, act=False)
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand_conv(x) if hasattr(self, "expand_conv") else x
        y = self.linear_conv(self.depthwise_conv(y))
        return x + y if self.same else y


class Separable(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise_conv, self.pointwise_conv = Unit(inputs, inputs, 3, 2, inputs), Unit(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


class Lite(nn.Module):
    """SSDLite on MobileNetV2 (backbones/mobilenet_v2.py: expansion, channels, blocks, stride)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone, self.neck, self.bbox_head = nn.Module(), nn.Module(), nn.Module()
        self.backbone.conv1, channels = Unit(3, 32, 3, 2), 32
        table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                 (6, 320, 1, 1))  # fmt: skip
        for i, (expansion, outputs, blocks, stride) in enumerate(table, start=1):
            layers = []
            for b in range(blocks):
                layers.append(Residual(channels, outputs, stride if b == 0 else 1, expansion))
                channels = outputs
            setattr(self.backbone, f"layer{i}", nn.Sequential(*layers))
        self.backbone.conv2 = Unit(320, 1280)
        widths = (96, 1280, 512, 256, 256, 128)
        self.neck.extra_layers = nn.ModuleList(
            nn.Sequential(Unit(a, b // 2), Separable(b // 2, b)) for a, b in pairwise(widths[1:])
        )
        for name, columns in (("cls_convs", classes + 1), ("reg_convs", 4)):
            convs = (nn.Sequential(Unit(c, c, 3, 1, c), nn.Conv2d(c, 6 * columns, 1)) for c in widths)
            setattr(self.bbox_head, name, nn.ModuleList(convs))
        self.classes = classes

    def forward(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        x, maps = self.backbone.conv1(x), []
        for i in range(1, 8):
            x = getattr(self.backbone, f"layer{i}")(x)
            if i == 5:
                maps.append(x)
        maps.append(self.backbone.conv2(x))
        for extra in self.neck.extra_layers:
            maps.append(extra(maps[-1]))
        reg = [conv(m) for conv, m in zip(self.bbox_head.reg_convs, maps, strict=True)]
        cls = [conv(m) for conv, m in zip(self.bbox_head.cls_convs, maps, strict=True)]
        return rows(reg, 4), rows(cls, self.classes + 1)


def compare(theirs: nn.Module, foreign, image: Tensor, outputs) -> None:
    """Raw outputs agree, their last class being our first."""
    with torch.inference_mode():
        loc, conf = theirs.eval()(image)
    offsets, logits = outputs(foreign.model)
    assert np.abs(offsets - loc).max() < 1e-4
    assert np.abs(np.roll(logits, -1, axis=1) - conf).max() < 1e-4
    assert conf.std() > 0.05


def priors_px(model) -> np.ndarray:
    p = model.priors.double().numpy() * model.input_spec.size
    return np.concatenate([p[:, :2] - p[:, 2:] / 2, p[:, :2] + p[:, 2:] / 2], axis=1)


@pytest.fixture(scope="session")
def ssd300(state):
    return import_foreign(state("mmdet_ssd300"))


def test_ssd300_gives_the_outputs_and_priors_of_the_source(ssd300, outputs, golden):
    wanted = np.load(golden / "net_mmdet_ssd300.npz")
    offsets, logits = outputs(ssd300.model)
    at = wanted["prior_idx"]
    assert np.abs(offsets[at] - wanted["loc"]).max() < 1e-4
    # Background is their last column.
    assert np.abs(np.roll(logits, -1, axis=1)[at] - wanted["conf_logits"]).max() < 1e-4
    assert np.abs(priors_px(ssd300.model) - np.load(golden / "priors_mmdet_ssd300.npz")["xyxy_px"]).max() < 1e-4
    assert ssd300.class_names[0] == "person"
    assert ssd300.model.input_spec.mean == MEAN
    t = ssd300.thresholds
    assert (t.score_min, t.nms_iou, t.per_class, t.keep) == (0.02, 0.45, 1000, 200)


def randomised(model: nn.Module) -> nn.Module:
    """Weights that keep the size of what passes through, so that outputs differ from place to place."""
    g = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        if parameter.dim() == 4:
            fan_in = parameter[0].numel()
            size = (6 / fan_in) ** 0.5 / (60 if parameter.shape[1:] == (3, 3, 3) else 1)
            parameter.data.uniform_(-size, size, generator=g)
    return model


@pytest.fixture(scope="session")
def ssd512() -> nn.Module:
    return randomised(Vgg(512, 20))


@pytest.mark.slow
def test_ssd512_gives_what_its_modules_do(ssd512, layout, golden_inputs, outputs, golden):
    told = {key: shape for key, shape, *_ in layout("mmdet_ssd512")["layout"]}
    assert told.keys() == ssd512.state_dict().keys()
    foreign = import_foreign({"state_dict": ssd512.state_dict(), "meta": {"cfg": "basesize_ratio_range=(0.1, 0.9)"}})
    compare(ssd512, foreign, image_of(golden_inputs, 512, (1.0, 1.0, 1.0)), outputs)
    assert np.abs(priors_px(foreign.model) - np.load(golden / "priors_mmdet_ssd512.npz")["xyxy_px"]).max() < 1e-4


def test_ssdlite_gives_what_its_modules_do(state, golden_inputs, outputs, golden):
    tensors, theirs = state("mmdet_ssdlite_mnv2"), Lite(80)
    theirs.load_state_dict(tensors)
    foreign = import_foreign({"state_dict": tensors})
    compare(theirs, foreign, image_of(golden_inputs, 320, STD), outputs)
    assert foreign.model.input_spec.std == STD
    assert np.abs(priors_px(foreign.model) - np.load(golden / "priors_mmdet_ssdlite_mnv2.npz")["xyxy_px"]).max() < 1e-4


@pytest.fixture(scope="session")
def old() -> nn.Module:
    return randomised(Vgg(300, 2, old=True))


def test_names_before_the_neck_was_taken_out(old, golden_inputs, outputs):
    assert "backbone.extra.7.weight" in old.state_dict()
    meta = {"mmdet_version": "2.3.0", "CLASSES": ("cat", "dog"), "config": "basesize_ratio_range=(0.2, 0.9),"}
    foreign = import_foreign({"state_dict": old.state_dict(), "meta": meta})
    compare(old, foreign, image_of(golden_inputs, 300, (1.0, 1.0, 1.0)), outputs)
    assert foreign.class_names == ("cat", "dog")
    assert foreign.model.prior_spec == PRIORS["ssd300-voc"]


def test_before_2_0_background_was_the_first_class(old, outputs):
    new, legacy = (
        import_foreign({"state_dict": old.state_dict(), "meta": {"mmdet_version": version}})
        for version in ("2.0.0", "1.2.0")
    )
    assert np.allclose(np.roll(outputs(legacy.model)[1], 1, axis=1), outputs(new.model)[1], atol=1e-4)
    assert any("1.x" in note for note in legacy.notes)


def test_the_table_of_default_boxes_is_that_of_the_classes_or_the_config(old, ssd512):
    voc = import_foreign(Vgg(300, 20).state_dict())
    assert voc.model.prior_spec == PRIORS["ssd300-voc"]
    assert voc.class_names[0] == "aeroplane"
    # Their numbers of SSD512 are Caffe's, cut to whole pixels.
    assert import_foreign(ssd512.state_dict()).model.prior_spec == PRIORS["ssd512-voc"]
    assert import_checkpoint(old.state_dict()).prior_spec == PRIORS["ssd300-coco"]


@pytest.mark.parametrize(
    "told",
    [
        {"dataset_meta": {"classes": ("a", "b"), "palette": [(1, 2, 3)]}, "cfg": "mean=[1, 2.5, 3], std=[4, 5, 6]"},
        {"dataset_meta": {"CLASSES": ["a", "b"]}, "config": "dict(\n    mean = [1.0, 2.5, 3.],\n    std=[4, 5, 6],"},
    ],
)
def test_what_stands_beside_the_weights_is_used(old, told):
    foreign = import_foreign({"state_dict": old.state_dict(), "meta": told})
    assert foreign.class_names == ("a", "b")
    assert (foreign.model.input_spec.mean, foreign.model.input_spec.std) == ((1.0, 2.5, 3.0), (4.0, 5.0, 6.0))
    told = {**told, "CLASSES": ("only one",), "dataset_meta": 3, "config": ["x"], "cfg": 7}
    foreign = import_foreign({"state_dict": old.state_dict(), "meta": told})
    assert foreign.class_names is None
    assert foreign.model.input_spec.mean == MEAN


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("ssd300", "neck.extra_layers.2.0.conv.bias"),
        ("ssdlite_mnv2", "backbone.layer4.2.depthwise_conv.conv.weight"),
        ("ssdlite_mnv2", "bbox_head.reg_convs.1.1.weight"),
    ],
)
def test_what_is_missing_left_over_or_misshapen_is_refused(name, key, state, refuses_what_does_not_fit):
    refuses_what_does_not_fit(state(f"mmdet_{name}"), key, "neck.extra_layers.9.0.conv.weight", "mmdetection")

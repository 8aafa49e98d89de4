from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from singleshot.conventions import DETECTION
from singleshot.errors import CheckpointError
from singleshot.thresholds import NO_CAP
from singleshot.weights.importing import import_checkpoint, import_foreign

PRIORS = {
    "lufficc_vgg300": "voc300_clip",
    "lufficc_vgg512": "voc512_clip",
    "lufficc_mobilenetv2_320": "mobilenetv2_320_clip",
}


@pytest.mark.parametrize("name", PRIORS)
def test_gives_the_outputs_and_priors_of_the_source(name, state, agrees, golden):
    foreign = import_foreign({"model": state(name), "iteration": 120000})
    agrees(foreign.model, name)
    wanted = np.load(golden / "priors_lufficc.npz")[PRIORS[name]]
    assert np.abs(foreign.model.priors.numpy() - wanted).max() < 1e-6
    assert foreign.class_names is not None
    assert len(foreign.class_names) == foreign.model.num_classes == 20
    assert foreign.thresholds.keep == 100
    assert foreign.thresholds == DETECTION["lufficc"]
    assert foreign.thresholds.per_class == NO_CAP
    assert "lufficc" in foreign.source


def with_classes(tensors, boxes, num_classes):
    """The same checkpoint with confidence heads for another number of classes, filled with zeros."""
    new = dict(tensors)
    for key, value in tensors.items():
        if "cls_headers" in key and value.dim() and value.shape[0] % 21 == 0 and value.shape[0] // 21 in boxes:
            new[key] = torch.zeros(value.shape[0] // 21 * (num_classes + 1), *value.shape[1:])
    return new


@pytest.mark.parametrize(("name", "priors"), [("lufficc_vgg300", "coco300_clip"), ("lufficc_vgg512", "coco512_clip")])
def test_coco_has_its_own_priors(name, priors, state, golden):
    model = import_checkpoint(with_classes(state(name), (4, 6), 80))
    assert model.num_classes == 80
    assert np.abs(model.priors.numpy() - np.load(golden / "priors_lufficc.npz")[priors]).max() < 1e-6


def test_width_and_classes_are_those_of_the_weights(state):
    """A MobileNetV2 of half the width, which keeps its last layer and its extra layers."""
    narrow = {}
    tensors = with_classes(state("lufficc_mobilenetv2_320"), (6,), 3)
    for key, value in tensors.items():
        where = key.split(".")
        number = int(where[2]) if key.startswith("backbone.features.") else 99
        halves = [n // 2 if i < 2 and n > 3 else n for i, n in enumerate(value.shape)]
        if number == 18 and value.dim():
            halves[0] = value.shape[0]
        elif number == 99:
            halves = list(value.shape)
            if key.startswith("box_head") and "headers.0." in key:
                halves = [48 if n == 96 else n for n in value.shape]
        narrow[key] = value[tuple(slice(n) for n in halves)] if value.dim() else value
    model = import_checkpoint(narrow)
    with torch.inference_mode():
        raw = model(torch.zeros(1, 3, 320, 320))
    assert raw.logits.shape == (1, 3234, 4)
    assert narrow["backbone.features.13.conv.2.weight"].shape[0] == 48


@pytest.mark.parametrize("name", ["lufficc_vgg300", "lufficc_mobilenetv2_320"])
def test_what_does_not_fit_is_named(name, state, says_what_does_not_fit):
    tensors = state(name)
    key = next(key for key in tensors if "extras.1" in key and key.endswith("weight"))
    says_what_does_not_fit(tensors, key)


# -------------------------------------------------- mobilenetv3.py as modules with its names, which golden has not


class Gate(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Hardsigmoid())

    def forward(self, x):
        return x * self.fc(x.mean((2, 3)))[..., None, None]


class Block(nn.Module):
    def __init__(self, inputs, hidden, outputs, kernel, stride, gate, act):
        super().__init__()
        self.add = stride == 1 and inputs == outputs
        first = nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), act()
        second = (nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
                  nn.BatchNorm2d(hidden))  # fmt: skip
        excite = Gate(hidden, max(8, hidden // 32 * 8)) if gate else nn.Identity()
        last = nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        layers = (*second, act(), excite) if inputs == hidden else (*first, *second, excite, act())
        self.conv = nn.Sequential(*layers, *last)

    def forward(self, x):
        return x + self.conv(x) if self.add else self.conv(x)


class Backbone(nn.Module):
    ROWS = (
        (3, 16, 16, 0, 1), (3, 64, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2), (5, 120, 40, 1, 1),
        (5, 120, 40, 1, 1), (3, 240, 80, 0, 2), (3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1),
        (3, 480, 112, 1, 1), (3, 672, 112, 1, 1), (5, 672, 160, 1, 2), (5, 960, 160, 1, 1), (5, 960, 160, 1, 1),
    )  # fmt: skip

    def __init__(self):
        super().__init__()
        inputs = 16
        layers = [nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())]
        for i, (kernel, hidden, outputs, gate, stride) in enumerate(self.ROWS):
            layers.append(Block(inputs, hidden, outputs, kernel, stride, gate, nn.Hardswish if i >= 6 else nn.ReLU))
            inputs = outputs
        layers.append(nn.Sequential(nn.Conv2d(160, 960, 1, bias=False), nn.BatchNorm2d(960), nn.Hardswish()))
        self.features = nn.Sequential(*layers)
        rows = ((960, 192, 512), (512, 128, 256), (256, 128, 256), (256, 64, 64))
        self.extras = nn.ModuleList([Block(*row, 3, 2, True, nn.Hardswish) for row in rows])

    def forward(self, x):
        maps = [self.features[:13](x)]
        maps.append(self.features[13:](maps[0]))
        for layer in self.extras:
            maps.append(layer(maps[-1]))
        return maps


class Separable(nn.Module):
    def __init__(self, channels, outputs):
        super().__init__()
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.conv = nn.Sequential(depthwise, nn.BatchNorm2d(channels), nn.ReLU6(), nn.Conv2d(channels, outputs, 1))

    def forward(self, x):
        return self.conv(x)


class Reference(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        predictor = nn.Module()
        for name, columns in (("cls_headers", 6 * 21), ("reg_headers", 24)):
            heads = [Separable(channels, columns) for channels in (112, 960, 512, 256, 256)]
            predictor.add_module(name, nn.ModuleList([*heads, nn.Conv2d(64, columns, 1)]))
        self.box_head = nn.Module()
        self.box_head.predictor = predictor

    def forward(self, x):
        maps, heads = self.backbone(x), self.box_head.predictor
        return [
            torch.cat([h(m).permute(0, 2, 3, 1).reshape(-1, n) for h, m in zip(which, maps, strict=True)])
            for which, n in ((heads.reg_headers, 4), (heads.cls_headers, 21))
        ]


def test_mobilenet_v3_computes_what_its_source_does(golden_inputs, outputs):
    reference = Reference().eval()
    filled = {}
    for key, value in reference.state_dict().items():
        kinds = {"running_mean": "bn_mean", "running_var": "bn_var", "num_batches_tracked": "count", "bias": "bias"}
        kind = kinds.get(key.rpartition(".")[2], "bn_gamma" if value.dim() == 1 else "conv")
        fan_in = int(np.prod(value.shape[1:])) if value.dim() > 1 else 1
        first = 1 / 60 if value.shape[1:2] == (3,) else 1.0
        filled[key] = torch.from_numpy(golden_inputs.fill(key, tuple(value.shape), kind, fan_in, first))
    reference.load_state_dict(filled)
    foreign = import_foreign({"model": filled})
    assert foreign.source == "lufficc/SSD SSDLite320 on MobileNetV3"
    image = torch.from_numpy(golden_inputs.image(320)).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        wanted = reference(image - torch.tensor([123.0, 117.0, 104.0]).view(1, 3, 1, 1))
    for got, want in zip(outputs(foreign.model), wanted, strict=True):
        assert want.std() > 0.1
        assert np.abs(got - want.double().numpy()).max() < 1e-4
    # Its EfficientNet is not known, and is not taken for this one.
    with pytest.raises(CheckpointError, match="no layout that is known"):
        import_checkpoint(
            {"backbone._conv_stem.weight": torch.zeros(40, 3, 3, 3), "backbone._bn0.bias": torch.zeros(40)}
        )

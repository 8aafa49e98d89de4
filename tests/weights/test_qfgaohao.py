from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from singleshot.conventions import DETECTION
from singleshot.errors import ConfigError
from singleshot.prior_tables import prior_spec
from singleshot.thresholds import NO_CAP
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importing import import_checkpoint, import_foreign

# ------------------------------------------------- the source's networks, as modules with its names for everything


def conv_bn(inputs, outputs, kernel=3, stride=1, groups=1, activation=nn.ReLU):
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)]
    layers.append(nn.BatchNorm2d(outputs))
    return [*layers, activation()] if activation else layers


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride, ratio):
        super().__init__()
        hidden = round(inputs * ratio)
        first = [] if ratio == 1 else conv_bn(inputs, hidden, 1, activation=nn.ReLU6)
        second = conv_bn(hidden, hidden, 3, stride, hidden, nn.ReLU6)
        self.conv = nn.Sequential(*first, *second, *conv_bn(hidden, outputs, 1, activation=None))
        self.add = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.add else self.conv(x)


class Fire(nn.Module):
    def __init__(self, inputs, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1, self.expand3x3 = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x):
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def separable(inputs, outputs, stride=1, padding=1, norm=False):
    middle = [nn.BatchNorm2d(inputs), nn.ReLU6()] if norm else [nn.ReLU()]
    depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding, groups=inputs)
    return nn.Sequential(depthwise, *middle, nn.Conv2d(inputs, outputs, 1))


def v1_trunk():
    widths = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2),
              *[(512, 512, 1)] * 5, (512, 1024, 2), (1024, 1024, 1))  # fmt: skip
    blocks = [nn.Sequential(*conv_bn(a, a, 3, s, a), *conv_bn(a, b, 1)) for a, b, s in widths]
    return nn.Sequential(nn.Sequential(*conv_bn(3, 32, 3, 2)), *blocks)


def v2_trunk(width):
    inputs, blocks = int(32 * width), []
    blocks.append(nn.Sequential(*conv_bn(3, inputs, 3, 2, activation=nn.ReLU6)))
    for t, c, n, s in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                       (6, 320, 1, 1)):  # fmt: skip
        for i in range(n):
            blocks.append(Residual(inputs, int(c * width), s if i == 0 else 1, t))
            inputs = int(c * width)
    return nn.Sequential(*blocks, nn.Sequential(*conv_bn(inputs, 1280, 1, activation=nn.ReLU6)))


def squeeze_trunk():
    pool = nn.MaxPool2d(3, 2)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool, Fire(64, 16, 64), Fire(128, 16, 64), pool, Fire(128, 32, 128),
        Fire(256, 32, 128), pool, Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
    )  # fmt: skip


class GatedBlock(nn.Module):
    """vision/nn/mobilenetv3.py, Block and SeModule."""

    def __init__(self, kernel, inputs, wide, outputs, hard, gated, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        self.bn2, self.bn3 = nn.BatchNorm2d(wide), nn.BatchNorm2d(outputs)
        self.conv3 = nn.Conv2d(wide, outputs, 1, bias=False)
        self.act = nn.Hardswish() if hard else nn.ReLU()
        self.se, self.shortcut, self.stride = None, nn.Sequential(), stride
        if gated:
            few = outputs // 4
            pair = nn.Conv2d(outputs, few, 1, bias=False), nn.Conv2d(few, outputs, 1, bias=False)
            self.se = nn.Module()
            self.se.se = nn.Sequential(nn.AdaptiveAvgPool2d(1), pair[0], nn.BatchNorm2d(few), nn.ReLU(), pair[1],
                                       nn.BatchNorm2d(outputs), nn.Hardsigmoid())  # fmt: skip
        if stride == 1 and inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn3(self.conv3(self.act(self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))))
        y = y if self.se is None else y * self.se.se(y)
        return y + self.shortcut(x) if self.stride == 1 else y


V3_ROWS = {
    "large": [(3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 0, 1, 2),
              (5, 120, 40, 0, 1, 1), (5, 120, 40, 0, 1, 1), (3, 240, 80, 1, 0, 2), (3, 200, 80, 1, 0, 1),
              (3, 184, 80, 1, 0, 1), (3, 184, 80, 1, 0, 1), (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1),
              (5, 672, 160, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1)],
    "small": [(3, 16, 16, 0, 1, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2),
              (5, 240, 40, 1, 1, 1), (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1),
              (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1), (5, 576, 96, 1, 1, 1)],
}  # fmt: skip


def v3_trunk(kind):
    layers, inputs = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()], 16
    for kernel, wide, outputs, hard, gated, stride in V3_ROWS[kind]:
        layers.append(GatedBlock(kernel, inputs, wide, outputs, hard, gated, stride))
        inputs = outputs
    wide = {"large": 960, "small": 576}[kind]
    return nn.Sequential(*layers, nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish())


class Reference(nn.Module):
    def __init__(self, kind, columns=21, width=1.0):
        super().__init__()
        lite, self.kind = "lite" in kind, kind
        norm, v3 = kind[:3] in ("mb2", "mb3"), {"mb3-large-ssd-lite": "large", "mb3-small-ssd-lite": "small"}.get(kind)
        if kind == "sq-ssd-lite":
            self.base_net, steps = squeeze_trunk(), ((512, 256, 512, 2), (512, 256, 512, 1), (512, 128, 256, 1),
                                                     (256, 128, 256, 1), (256, 128, 256, 1))  # fmt: skip
            seen = [512]
        else:
            self.base_net = v3_trunk(v3) if v3 else v2_trunk(width) if norm else v1_trunk()
            steps = ((1024, 256, 512, 1), (512, 128, 256, 1), (256, 128, 256, 1), (256, 128, 256, 1))
            seen = [round(576 * width), 1280] if norm else [512, 1024]
        if norm:
            pairs = ((1280, 512, 0.2), (512, 256, 0.25), (256, 256, 0.5), (256, 64, 0.25))
            self.extras = nn.ModuleList([Residual(a, b, 2, t) for a, b, t in pairs])
            if v3:
                seen = {"large": [112, 960], "small": [48, 576]}[v3]
                rows = ((seen[1], 256, 512), (512, 128, 256), (256, 128, 256), (256, 64, 64))
                self.extras = nn.ModuleList([GatedBlock(3, a, m, b, True, False, 2) for a, m, b in rows])
        else:
            self.extras = nn.ModuleList([
                nn.Sequential(nn.Conv2d(a, m, 1), nn.ReLU(),
                              *([separable(m, b, 2, p)] if lite else [nn.Conv2d(m, b, 3, 2, p), nn.ReLU()]))
                for a, m, b, p in steps
            ])  # fmt: skip
        seen += [pair[1] for pair in pairs] if norm else [step[2] for step in steps]

        def heads(outputs):
            made = [separable(c, outputs, norm=norm) if lite else nn.Conv2d(c, outputs, 3, padding=1) for c in seen]
            return nn.ModuleList([*made[:-1], nn.Conv2d(seen[-1], outputs, 1) if lite else made[-1]])

        self.classification_headers, self.regression_headers = heads(6 * columns), heads(24)
        self.columns = columns

    def forward(self, x):
        maps = []
        for i, layer in enumerate(self.base_net):
            if self.kind == "mb2-ssd-lite" and i == 14:
                maps.append(layer.conv[:3](x))
            x = layer(x)
            seen = {"mb2-ssd-lite": (18,), "sq-ssd-lite": (11,), "mb3-large-ssd-lite": (14, 20),
                    "mb3-small-ssd-lite": (10, 16)}  # fmt: skip
            if i in seen.get(self.kind, (11, 13)):
                maps.append(x)
        for layer in self.extras:
            x = layer(x)
            maps.append(x)
        both = (self.regression_headers, 4), (self.classification_headers, self.columns)
        return [
            torch.cat([h(m).permute(0, 2, 3, 1).reshape(-1, n) for h, m in zip(heads, maps, strict=True)])
            for heads, n in both
        ]


@pytest.fixture(scope="module")
def source_network(golden_inputs):
    """`source_network(kind)`: the reference, filled, with outputs that neither vanish nor explode."""

    def make(kind, **options):
        model = Reference(kind, **options).eval()
        filled = {}
        for key, value in model.state_dict().items():
            kinds = {"running_mean": "bn_mean", "running_var": "bn_var", "num_batches_tracked": "count", "bias": "bias"}
            what = kinds.get(key.rpartition(".")[2], "conv" if value.dim() == 4 else "bn_gamma")
            fan_in = int(np.prod(value.shape[1:])) if value.dim() == 4 else 1
            filled[key] = torch.from_numpy(golden_inputs.fill(key, tuple(value.shape), what, fan_in))
        model.load_state_dict(filled)
        return model

    return make


# --------------------------------------------------------------------------------------------------------- tests


def test_vgg_gives_the_outputs_and_priors_of_the_source(state, agrees, golden):
    foreign = import_foreign(state("qfgaohao_vgg300"))
    agrees(foreign.model, "qfgaohao_vgg300")
    assert np.abs(foreign.model.priors.numpy() - np.load(golden / "priors_qfgaohao.npz")["vgg300_clip"]).max() < 1e-6
    assert foreign.model.input_spec.mean == (123.0, 117.0, 104.0)
    assert (foreign.thresholds.per_class, foreign.thresholds.nms_iou) == (200, 0.45)
    assert foreign.thresholds == DETECTION["qfgaohao"]
    assert foreign.thresholds.keep == NO_CAP
    assert foreign.class_names[0] == "aeroplane"
    assert len(foreign.class_names) == foreign.model.num_classes == 20


def agree(model, reference, golden_inputs, outputs):
    image = torch.from_numpy(golden_inputs.image(model.input_spec.size)).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        wanted = [rows.double().numpy() for rows in reference((image - 127) / 128)]
    for got, want in zip(outputs(model), wanted, strict=True):
        assert got.shape == want.shape
        assert want.std() > 0.1
        assert np.abs(got - want).max() < 1e-4 * max(1.0, want.std())


@pytest.mark.parametrize(
    "kind", ["mb1-ssd", "mb1-ssd-lite", "mb2-ssd-lite", "sq-ssd-lite", "mb3-large-ssd-lite", "mb3-small-ssd-lite"]
)
def test_small_networks_compute_what_their_source_does(kind, source_network, golden_inputs, outputs):
    reference = source_network(kind)
    foreign = import_foreign(reference.state_dict())
    assert foreign.source == f"qfgaohao/pytorch-ssd {kind}"
    agree(foreign.model, reference, golden_inputs, outputs)


def test_mb2_with_the_golden_fill_agrees_and_has_its_priors(state, golden, golden_inputs, outputs):
    tensors = state("qfgaohao_mb2lite")
    reference = Reference("mb2-ssd-lite").eval()
    assert set(reference.state_dict()) == set(tensors)
    reference.load_state_dict(tensors)
    model = import_checkpoint(tensors)
    agree(model, reference, golden_inputs, outputs)
    wanted = np.load(golden / "priors_qfgaohao.npz")["mb1_mb2_ssdlite300_clip"]
    assert np.abs(model.priors.numpy() - wanted).max() < 1e-6
    assert model.input_spec.std == (128.0, 128.0, 128.0)


def test_width_and_classes_are_those_of_the_weights(source_network, golden_inputs, outputs):
    reference = source_network("mb2-ssd-lite", columns=4, width=0.5)
    foreign = import_foreign(reference.state_dict())
    assert foreign.model.num_classes == 3
    assert foreign.class_names is None
    agree(foreign.model, reference, golden_inputs, outputs)


@pytest.mark.parametrize("kind", ["vgg16-ssd", "mb1-ssd", "mb2-ssd-lite", "sq-ssd-lite"])
def test_what_does_not_fit_is_named(kind, state, source_network, says_what_does_not_fit):
    tensors = state("qfgaohao_vgg300") if kind == "vgg16-ssd" else source_network(kind).state_dict()
    key = next(key for key in tensors if key.startswith("extras.1") and key.endswith("weight"))
    says_what_does_not_fit(tensors, key)


# ------------------------------------------------------------------------------------------------- another resolution


@pytest.fixture(scope="module")
def small(source_network):
    return source_network("mb2-ssd-lite", columns=4, width=0.25)


def priors_by_resolution(size, maps):
    """What dusty-nv/pytorch-ssd trains with at --resolution SIZE, box by box."""
    shares, rows = [(10, 20), (20, 37), (37, 54), (54, 71), (71, 88), (88, 105)], []
    for cells, (low, high) in zip(maps, shares, strict=True):
        step = -(-size // cells)
        small, between = low / 100, math.sqrt(low * high) / 100
        for row, column in itertools.product(range(cells), repeat=2):
            boxes = [(small, small), (between, between)]
            for root in (math.sqrt(2), math.sqrt(3)):
                boxes += [(small * root, small / root), (small / root, small * root)]
            rows += [((column + 0.5) * step / size, (row + 0.5) * step / size, w, h) for w, h in boxes]
    return np.array(rows).clip(0, 1)


@pytest.mark.parametrize(("kind", "size", "maps"), [
    ("mb1-ssd", 512, (32, 16, 8, 4, 2, 1)), ("mb2-ssd-lite", 400, (25, 13, 7, 4, 2, 1)),
])  # fmt: skip
def test_another_resolution_has_the_boxes_of_its_training(kind, size, maps, source_network, golden_inputs, outputs):
    reference = source_network(kind, columns=3, **({"width": 0.25} if kind == "mb2-ssd-lite" else {}))
    foreign = import_foreign(reference.state_dict(), settings=ImportSettings(size=size))
    assert foreign.model.input_spec.size == size
    assert foreign.model.prior_spec.maps == maps
    assert np.abs(foreign.model.priors.numpy() - priors_by_resolution(size, maps)).max() < 1e-6
    assert any(f"input {size} x {size} as given" in note and "dusty-nv" in note for note in foreign.notes)
    agree(foreign.model, reference, golden_inputs, outputs)


def test_the_usual_resolution_keeps_the_usual_table(small):
    state = small.state_dict()
    plain, given = import_foreign(state), import_foreign(state, settings=ImportSettings(size=300))
    assert plain.model.prior_spec == given.model.prior_spec == prior_spec("ssd300-mobilenet-qfgaohao")
    assert plain.notes[0].startswith("assumed: input 300 x 300 and default boxes ssd300-mobilenet-qfgaohao")
    assert not any(note.startswith("assumed") for note in given.notes)


def test_boxes_by_name_by_file_and_scaled(small, tmp_path):
    state = small.state_dict()

    def table(priors, size=None):
        return import_checkpoint(state, priors=str(priors), size=size).prior_spec

    lite = prior_spec("ssd320-mobilenet-lufficc")
    assert table("ssd320-mobilenet-lufficc") == lite
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"name": "mine", "count": lite.count, **replace(lite, variances=(0.2, 0.3)).to_dict()}))
    assert table(path) == replace(lite, variances=(0.2, 0.3))
    larger = table("ssd320-mobilenet-lufficc", 640)
    assert (larger.image_size, larger.maps) == (640, (40, 20, 10, 5, 3, 2))
    assert larger.min_sizes == tuple(2 * side for side in lite.min_sizes)
    assert larger.steps == (16.0, 32.0, 64.0, 128.0, 640 / 3, 320.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"priors": "ssd300-voc"}, "4 6 6 6 4 4 boxes a cell, but the heads of this network have 6 6 6 6 6 6"),
        ({"priors": "ssd512-voc"}, "for 7 maps, but this network has 6"),
        ({"priors": "ssd512-voc", "size": 300}, "for 7 maps, but this network has 6"),
        ({"priors": "ssd300-squeezenet-qfgaohao"}, "for maps of 17 x 17, .* but this network has 19 x 19"),
        ({"priors": "ssd300-nvidia"}, "its order is box"),
        ({"priors": "ssd300-mobil"}, "want one of"),
        ({"priors": "boxes.json"}, "boxes.json: no such priors file"),
        ({"priors": "BAD.json"}, "want a table as .* prints it"),
        ({"priors": "NONE.json"}, "entries, want one per map"),
        ({"priors": "TEXT.json"}, "want a table as .* prints it"),
        ({"size": 16}, "want 32 to 4096 pixels"),
        ({"mean": 0.5}, "--mean 127.5,127.5,127.5"),
        ({"std": (0.229, 0.224, 0.225)}, "--std 58.395,57.12,57.375"),
        ({"mean": (1.0, 2.0)}, "want one number, or 3"),
        ({"mean": (float("nan"),) * 3}, "want one number, or 3"),
        ({"std": 0.0}, "want three positive"),
        ({"colour_order": "gbr"}, "want one of rgb, bgr"),
    ],
)
def test_what_cannot_be_kept_to_is_refused(options, said, small, tmp_path):
    (tmp_path / "BAD.json").write_text("[" * 100_000)
    (tmp_path / "NONE.json").write_text(json.dumps({**prior_spec("ssd300-voc").to_dict(), "steps": [1.0]}))
    (tmp_path / "TEXT.json").write_text(json.dumps({**prior_spec("ssd300-voc").to_dict(), "steps": "abcdef"}))
    if options.get("priors", "").isupper() or "." in options.get("priors", ""):
        options = {**options, "priors": str(tmp_path / options["priors"])}
    with pytest.raises(ConfigError, match=said) as caught:
        import_checkpoint(small.state_dict(), **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_pixels_are_prepared_as_the_user_says(small):
    reference = small
    options = {"mean": (123.0, 117.0, 104.0), "std": 2.0, "colour_order": "bgr"}
    foreign = import_foreign(reference.state_dict(), settings=ImportSettings(**options))
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 300, 300)).astype(np.float32))
    seen = ((image - torch.tensor([123.0, 117.0, 104.0]).view(3, 1, 1)) / 2).flip(1)
    with torch.inference_mode():
        wanted = reference(seen)
        raw = foreign.model(image)
    assert wanted[0].std() > 0.1
    assert (raw.offsets[0] - wanted[0]).abs().max() < 1e-4 * max(1.0, float(wanted[0].std()))
    assert "as given: mean 123 117 104 in place of 127 127 127, std 2 2 2 in place of 128 128 128" in foreign.notes[-1]
    assert foreign.notes[-1].endswith("colour order BGR in place of RGB")

"""Exports back, loaded by torchvision itself and by amdegroot's layers written out; boxes and scores must agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large

from singleshot.boxes import decode
from singleshot.conventions import TORCHVISION
from singleshot.deploy.state_dicts import save_state_dict, to_amdegroot, to_torchvision
from singleshot.errors import ConfigError
from singleshot.inputs import InputSpec
from singleshot.models import SSD, build
from singleshot.priors import PRIORS, make_priors
from singleshot.weights.importing import import_checkpoint

CAFFE = (123.0, 117.0, 104.0)


def randomised(model: SSD) -> SSD:
    """As after a training: nothing zero, nothing equal, outputs that differ from place to place."""
    g = torch.Generator().manual_seed(11)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            size = (6 / module.weight[0].numel()) ** 0.5
            module.weight.data.uniform_(-size, size, generator=g)
            if module.bias is not None:
                module.bias.data.uniform_(-0.1, 0.1, generator=g)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2, generator=g)
            module.bias.data.uniform_(-0.1, 0.1, generator=g)
            module.running_mean.uniform_(-0.1, 0.1, generator=g)
            module.running_var.uniform_(0.5, 1.5, generator=g)
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    first.weight.data.mul_(torch.tensor(model.input_spec.std).mean() / 60)
    return model.eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randint(0, 256, (1, 3, 300, 300), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def found_by(model: SSD, image: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [P, 4] in corner form of 0..1, scores [P, C + 1]."""
    with torch.inference_mode():
        raw = model(image)
    boxes = decode(raw.offsets[0], model.priors, model.prior_spec.variances)
    assert raw.logits.std() > 0.05
    return boxes, raw.logits[0].softmax(-1)


def found_by_torchvision(state: dict[str, Tensor], classes: int, image: Tensor) -> tuple[Tensor, Tensor]:
    with torch.device("meta"):  # without values to begin with, which takes seconds
        theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=classes + 1).eval()
    theirs.load_state_dict(state, strict=True, assign=True)
    with torch.inference_mode():
        images, _ = theirs.transform([image[0] / 255])
        maps = list(theirs.backbone(images.tensors).values())
        head, anchors = theirs.head(maps), theirs.anchor_generator(images, maps)[0]
        boxes = theirs.box_coder.decode_single(head["bbox_regression"][0], anchors)
    return boxes / 300, head["cls_logits"][0].softmax(-1)


class Amdegroot(nn.Module):
    """ssd.py: the lists of layers that build_ssd makes, and its forward."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        layers, channels = [], 3
        for v in (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512):
            if isinstance(v, str):
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=v == "C"))
            else:
                layers += [nn.Conv2d(channels, v, 3, padding=1), nn.ReLU()]
                channels = v
        layers += [
            nn.MaxPool2d(3, 1, 1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.ReLU(),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(),
        ]
        self.vgg = nn.ModuleList(layers)
        self.L2Norm = nn.Module()
        self.L2Norm.weight = nn.Parameter(torch.zeros(512))
        table = (
            (1024, 256, 1, 0, 1),
            (256, 512, 2, 1, 3),
            (512, 128, 1, 0, 1),
            (128, 256, 2, 1, 3),
            (256, 128, 1, 0, 1),
            (128, 256, 1, 0, 3),
            (256, 128, 1, 0, 1),
            (128, 256, 1, 0, 3),
        )
        self.extras = nn.ModuleList(nn.Conv2d(a, b, k, s, p) for a, b, s, p, k in table)
        widths, boxes = (512, 1024, 512, 256, 256, 256), (4, 6, 6, 6, 4, 4)
        self.loc = nn.ModuleList(nn.Conv2d(w, n * 4, 3, padding=1) for w, n in zip(widths, boxes, strict=True))
        self.conf = nn.ModuleList(nn.Conv2d(w, n * columns, 3, padding=1) for w, n in zip(widths, boxes, strict=True))
        self.columns = columns

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = []
        for i, layer in enumerate(self.vgg):
            x = layer(x)
            if i == 22:
                length = x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10
                maps.append(self.L2Norm.weight.view(1, -1, 1, 1) * x / length)
        maps.append(x)
        for i, layer in enumerate(self.extras):
            x = F.relu(layer(x))
            if i % 2 == 1:
                maps.append(x)
        loc = [h(m).permute(0, 2, 3, 1).reshape(-1, 4) for h, m in zip(self.loc, maps, strict=True)]
        conf = [h(m).permute(0, 2, 3, 1).reshape(-1, self.columns) for h, m in zip(self.conf, maps, strict=True)]
        return torch.cat(loc), torch.cat(conf)


def found_by_amdegroot(
    state: dict[str, Tensor], classes: int, image: Tensor, clip: str = "none"
) -> tuple[Tensor, Tensor]:
    theirs = Amdegroot(classes + 1).eval()
    theirs.load_state_dict(state, strict=True)
    with torch.inference_mode():
        loc, conf = theirs(image - torch.tensor(CAFFE).view(1, 3, 1, 1))
    table = "ssd300-voc" if classes == 20 else "ssd300-coco"  # ssd.py: (coco, voc)[num_classes == 21]
    return decode(loc, make_priors(replace(PRIORS[table], clip=clip))), conf.softmax(-1)


def unclipped(model: SSD) -> dict[str, Tensor]:
    return to_amdegroot(model, clip=False)


EXPORTS = {"torchvision": (to_torchvision, found_by_torchvision), "amdegroot": (unclipped, found_by_amdegroot)}
CASES = {
    "the preset": ("ssd300-vgg16", 2, None, None),
    "batch norm": ("ssd300-vgg16-bn", 2, None, None),
    "bgr, std and variances": (
        "ssd300-vgg16",
        3,
        replace(PRIORS["ssd300-coco"], variances=(0.2, 0.1)),
        InputSpec(mean=CAFFE, std=(58.0, 57.0, 56.0), colour_order="bgr"),
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, image: Tensor) -> tuple[SSD, Tensor, Tensor]:
    """A network, the boxes and the scores that it finds."""
    name, classes, priors, spec = CASES[request.param]
    model = randomised(build(name, classes, priors, spec))
    return model, *found_by(model, image)


@pytest.mark.parametrize("target", EXPORTS)
def test_the_other_code_finds_the_same(target: str, case: tuple[SSD, Tensor, Tensor], image: Tensor) -> None:
    model, boxes, scores = case
    classes = model.num_classes
    export, run = EXPORTS[target]
    their_boxes, their_scores = run(export(model), classes, image)
    assert (scores - their_scores).abs().max() < 1e-4
    # Boxes of a trained model are near their priors; in these, exp() makes some as wide as thousands of images.
    near = (boxes[:, 2:] - boxes[:, :2]).amax(1) < 5
    assert near.float().mean() > 0.3
    assert (boxes - their_boxes)[near].abs().max() < 1e-3


def test_their_own_come_back_bit_by_bit() -> None:
    for export, theirs in (
        (to_torchvision, lambda: ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4)),
        (to_amdegroot, lambda: Amdegroot(4)),
        (to_amdegroot, lambda: Amdegroot(21)),
    ):
        with torch.device("meta"):
            shapes = theirs().state_dict()
        g = torch.Generator().manual_seed(3)
        state = {key: torch.rand(value.shape, generator=g) for key, value in shapes.items()}
        again = export(import_checkpoint(state))
        assert again.keys() == state.keys()
        assert all(torch.equal(again[key], state[key]) for key in state)


def test_ssdlite_goes_back_to_torchvision() -> None:
    theirs = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    state = theirs.state_dict()
    again = to_torchvision(import_checkpoint(state))
    assert all(torch.equal(again[key], state[key]) for key in state)
    theirs.load_state_dict(again, strict=True)
    model = import_checkpoint(state)
    model.input_spec = replace(model.input_spec, mean=(1.0, 2.0, 3.0))
    with pytest.raises(ConfigError, match="normalisation in its code"):
        to_torchvision(model)


def test_the_file_is_a_plain_state_dict(tmp_path) -> None:
    state = to_torchvision(build("ssd300-vgg16", 2))
    save_state_dict(tmp_path / "w.pth", state)
    read = torch.load(tmp_path / "w.pth", weights_only=True)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


IMAGENET = InputSpec(mean=(123.675, 116.28, 103.53))


@pytest.mark.parametrize(
    ("name", "priors", "spec", "says"),
    [
        ("ssd512-vgg16", None, None, "SSD300 on VGG16 alone"),
        ("ssd300-mobilenetv2", None, None, "SSD300 on VGG16 alone"),
        ("ssd300-vgg16", None, IMAGENET, "another colour"),
        ("ssd300-vgg16", None, InputSpec(mean=CAFFE, resize="letterbox"), "stretches images"),
        ("ssd300-vgg16", replace(PRIORS["ssd300-voc"], clip="corners"), None, "have other centres"),
        ("ssd300-vgg16", replace(PRIORS["ssd300-voc"], steps=None), None, "have other centres"),
        ("ssd300-vgg16", replace(PRIORS["ssd300-voc"], ratios=((2.0,),) * 6), None, "a cell"),
    ],
)
@pytest.mark.parametrize("export", [to_torchvision, to_amdegroot])
def test_what_cannot_be_folded_is_refused(export, name, priors, spec, says) -> None:
    with torch.device("meta"):
        model = build(name, 2, priors, spec)
    model.load_state_dict({key: torch.zeros(value.shape) for key, value in model.state_dict().items()}, assign=True)
    with pytest.raises(ConfigError, match=says) as caught:
        export(model)
    assert "\n" not in str(caught.value)


def test_clamped_centres_of_amdegroot_are_said(image) -> None:
    model = randomised(build("ssd300-vgg16", 20))
    with pytest.raises(ConfigError, match="on map 3, 114 have other centres"):
        to_amdegroot(model)
    # Sizes that are clamped, too, are folded: they are so in every cell.
    model = randomised(build("ssd300-vgg16", 20, replace(PRIORS["ssd300-voc"], clip="center", variances=(0.1, 0.1))))
    boxes, scores = found_by(model, image)
    their_boxes, their_scores = found_by_amdegroot(to_amdegroot(model), 20, image, "center")
    near = (boxes[:, 2:] - boxes[:, :2]).amax(1) < 5
    assert (boxes - their_boxes)[near].abs().max() < 1e-3
    assert (scores - their_scores).abs().max() < 1e-4


def test_torchvisions_own_table_and_mean_leave_the_weights_alone() -> None:
    model = build("ssd300-vgg16", 2, TORCHVISION.prior_spec("ssd300"), TORCHVISION.inputs["ssd300"])
    state = to_torchvision(model)
    assert torch.equal(state["backbone.features.0.weight"], model.backbone.layers.conv1_1.weight)
    assert torch.equal(state["head.regression_head.module_list.5.weight"], model.heads[5].location.weight)

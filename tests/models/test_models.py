"""The networks: published numbers of parameters and priors, shapes, colour handling, other backbones."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small, resnet18
from torchvision.models.feature_extraction import create_feature_extractor

from singleshot.errors import ConfigError
from singleshot.input_shape import as_grey
from singleshot.inputs import InputSpec
from singleshot.models import MODELS, build, build_on
from singleshot.models.blocks import DepthwiseConv2d, L2Norm, use_fast_depthwise
from singleshot.models.dry_run import priors_on, smallest_side
from singleshot.models.ssd import SSD
from singleshot.models.zoo import outline
from singleshot.priors import PRIORS, sized_for


def saved_numbers(model: nn.Module) -> int:
    return sum(v.numel() for k, v in model.state_dict().items() if "num_batches" not in k)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ssd300-vgg16", 26_285_486),  # amdegroot, Caffe, lufficc, torchvision at 20 classes
        ("ssd512-vgg16", 27_188_676),  # lufficc, ssd_keras
        ("ssd300-mobilenetv2", 6_242_596),  # bubbliiiing, running statistics included
        ("ssdlite320-mobilenetv2", 3_352_900),  # lufficc, the same
    ],
)
def test_as_many_numbers_as_the_public_model(name: str, count: int) -> None:
    with torch.device("meta"):
        assert saved_numbers(build(name, 20)) == count


@pytest.mark.parametrize("name", list(MODELS))
def test_every_map_has_the_priors_of_its_table(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 3).eval()
        maps = model.feature_maps(torch.zeros(1, 3, *model.input_spec.sides))
        raw = model.predict(maps)
    assert tuple(tuple(m.shape[-2:]) for m in maps) == model.prior_spec.grids
    assert raw.offsets.shape == (1, model.prior_spec.count, 4)
    assert raw.logits.shape == (1, model.prior_spec.count, 4)
    assert model.priors.shape == (model.prior_spec.count, 4)


@pytest.mark.parametrize("name", ["ssd300-vgg16-bn", "ssd512-vgg16-bn"])
def test_every_convolution_of_a_bn_form_is_normalised(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 3)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(convs) == len(norms)
    assert all(conv.bias is None for conv in convs)


def test_outputs_are_location_major_as_the_priors() -> None:
    """Only one cell's input is lit, so only the priors at that cell change."""
    model = build("ssdlite320-mobilenetv2", 2).eval()
    maps = [torch.zeros(1, c, s, s) for c, s in zip((96, 1280, 512, 256, 256, 64), model.prior_spec.maps, strict=True)]
    with torch.inference_mode():
        dark = model.predict(maps).offsets
        maps[1][0, :, 7, 2] = 3.0  # row 7, column 2 of the 10x10 map
        lit = model.predict(maps).offsets
    changed = (dark != lit).any(-1)[0]
    centres = model.priors[changed, :2] * 10
    assert changed.sum() == 9 * 6  # the cell and its neighbours: the predictor is 3x3
    assert centres.mean(0).tolist() == pytest.approx([2.5, 7.5], abs=1e-5)


def test_l2_norm_agrees_with_caffe(golden) -> None:
    import numpy as np

    z = np.load(golden / "l2norm_caffe.npz")
    layer = L2Norm(512, 20.0)
    np.testing.assert_allclose(layer(torch.tensor(z["x"])[None])[0].detach(), z["y"], atol=1e-5)


def test_l2_norm_stays_in_float32_under_autocast() -> None:
    layer, x = L2Norm(64), torch.randn(1, 64, 4, 4) * 300
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    torch.testing.assert_close(y, layer(x))
    assert layer(x.half()).isfinite().all()  # the squares of 300 overflow float16


@pytest.mark.parametrize("name", ["ssd300-mobilenetv2", "ssd320-mini"])
def test_uint8_and_float_images_give_the_same(name: str) -> None:
    model = build(name, 2).eval()
    size = model.input_spec.size
    images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(model(images).logits, model(images.float()).logits)


def test_a_bgr_model_sees_the_channels_swapped() -> None:
    spec = InputSpec(size=320, colour_order="bgr", mean=(123.0, 117.0, 104.0))
    torch.manual_seed(0)
    bgr = build("ssdlite320-mobilenetv2", 2, input_spec=spec).eval()
    rgb = build("ssdlite320-mobilenetv2", 2, input_spec=InputSpec(size=320, mean=(104.0, 117.0, 123.0))).eval()
    rgb.load_state_dict(bgr.state_dict())
    image = torch.randint(0, 256, (1, 3, 320, 320), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(bgr(image).logits, rgb(image.flip(1)).logits)


def test_raw_outputs_in_every_mode() -> None:
    model = build("ssdlite320-mobilenetv2", 2)
    image = torch.zeros(2, 3, 320, 320)
    assert type(model.train()(image)) is type(model.eval()(image))


@pytest.mark.parametrize("make", ["resnet", "mobilenetv3", "timm", "tensor"])
def test_any_backbone(make: str) -> None:
    if make == "resnet":
        backbone = create_feature_extractor(resnet18(weights=None), {"layer2": "a", "layer3": "b", "layer4": "c"})
    elif make == "mobilenetv3":
        backbone = create_feature_extractor(mobilenet_v3_small(weights=None).features, {"8": "a", "12": "b"})
    elif make == "timm":
        timm = pytest.importorskip("timm")
        backbone = timm.create_model("resnet10t", features_only=True, out_indices=(2, 3, 4), pretrained=False)
    else:
        backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 16, 1), nn.ReLU())
    model = build_on(backbone, 5, InputSpec(size=256))
    assert isinstance(model, SSD)
    raw = model.eval()(torch.zeros(1, 3, 256, 256))
    assert raw.offsets.shape[1] == len(model.priors) == model.prior_spec.count
    assert raw.logits.shape[2] == 6
    raw.logits.sum().backward()


def test_a_backbone_that_does_not_fit_says_why() -> None:
    with pytest.raises(ConfigError, match="want a square map"):
        build_on(nn.Sequential(nn.Flatten()), 2)
    same = nn.Conv2d(3, 8, 3, 16, 1)

    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [same(x), same(x)]

    with pytest.raises(ConfigError, match="each smaller"):
        build_on(Twice(), 2)
    with pytest.raises(ConfigError, match="feature maps"):
        build_on(nn.Conv2d(3, 8, 3, 16, 1), 2, priors=PRIORS["ssdlite320"])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_backbone_on_another_shape_of_input(channels: int) -> None:
    spec = InputSpec(height=96, width=256, channels=channels)
    model = build_on(nn.Sequential(nn.Conv2d(channels, 8, 3, 16, 1), nn.ReLU()), 2, spec, lite=False).eval()
    assert model.prior_spec.grids == ((6, 16), (3, 8), (2, 4), (1, 2), (1, 1))
    maps = model.feature_maps(torch.zeros(1, channels, 96, 256))
    assert tuple(tuple(m.shape[-2:]) for m in maps) == model.prior_spec.grids
    # Location-major in both directions: only the priors around a cell see it.
    with torch.inference_mode():
        dark = model.predict(maps).offsets
        maps[0] = maps[0].clone()
        maps[0][0, :, 4, 13] += 3.0
        changed = (dark != model.predict(maps).offsets).any(-1)[0]
    centres = model.priors[changed, :2] * torch.tensor([16, 6])
    assert changed.sum() == 9 * 6
    assert centres.mean(0).tolist() == pytest.approx([13.5, 4.5], abs=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_preset_on_other_shapes_of_input(name: str) -> None:
    """Default boxes for every output of one pass, whatever the shape."""
    own = MODELS[name].input_spec
    shapes = ((288, 288), (288, 512), (300, 260)) if "vgg" in name else ((256, 256), (192, 320), (160, 96))
    for sides, is_grey in zip(shapes, (False, False, True), strict=True):
        spec = replace(as_grey(own) if is_grey else own, height=sides[0], width=sides[1])
        with torch.device("meta"):
            model = build(name, 2, input_spec=spec).eval()
            maps = model.feature_maps(torch.zeros(1, spec.channels, *sides))
            raw = model.predict(maps)
        assert tuple(tuple(m.shape[-2:]) for m in maps) == model.prior_spec.grids
        assert raw.offsets.shape == (1, model.prior_spec.count, 4)
        assert model.prior_spec.image == sides
        assert model.prior_spec.per_cell == PRIORS[MODELS[name].priors].per_cell


def test_what_a_network_cannot_take_is_refused_with_what_it_can() -> None:
    spec = InputSpec(height=256, width=512)
    with pytest.raises(
        ConfigError, match=r"ssd300-vgg16: an input of 256 x 512 px .* want 257 px or more each"
    ) as caught:
        build("ssd300-vgg16", 2, input_spec=spec)
    assert "\n" not in str(caught.value)
    network = outline("ssd300-vgg16")
    assert priors_on(network, (257, 257), "it").grids[-1] == (1, 1)
    assert smallest_side(outline("ssd320-mini")) == 32
    with pytest.raises(ConfigError, match="larger than a gigabyte"):
        build("ssd300-vgg16", 2, input_spec=InputSpec(4096))
    with pytest.raises(ConfigError, match=r"maps of 24 x 40, .* cells, but priors for 40 x 40"):
        build("ssd320-mini", 2, PRIORS["ssdlite320-fine"], InputSpec(height=192, width=320))


@pytest.mark.parametrize("groups", [1, 24])
@pytest.mark.parametrize("sides", [(1, 1), (2, 1), (3, 1), (1, 2)])
def test_gradients_on_maps_of_one_column_are_those_of_float32(groups: int, sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(24, 24, 3, 2, 1, groups=groups, bias=False)).to(memory_format=torch.channels_last)
    use_fast_depthwise(layer)
    weight = layer[0].weight
    x = torch.randn(8, 24, *sides).to(memory_format=torch.channels_last)
    found = []
    for enabled in (False, True):
        dirty = [torch.full((size,), math.nan) for size in (5184, 2592, 1296, 432, 216) for _ in range(8)]
        del dirty  # what a layer leaves unwritten is NaN
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = layer(x)
        weight.grad = None
        y.float().square().sum().backward()
        found.append(weight.grad.clone())
        evaluated = layer.eval()(x)
        assert torch.allclose(y.float(), evaluated, atol=0.02 * float(evaluated.detach().abs().max()))
        layer.train()
    assert (found[0] - found[1]).abs().max() < 0.03 * found[0].abs().max()


def test_a_grey_oblong_model_is_saved_loaded_and_exported(tmp_path) -> None:
    import numpy as np

    from singleshot.weights.checkpoint import ModelInfo, load_checkpoint, save_checkpoint

    for channels in (3, 1):  # that of one channel is exported
        spec = InputSpec(height=192, width=320, channels=channels)
        grids = [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3), (1, 2), (1, 1)]
        model = build("ssd320-mini", 2, sized_for(grids, spec.sides), spec)
        save_checkpoint(tmp_path / "m.safetensors", model.state_dict(), ModelInfo.of(model, ("a", "b")))
        again, info = load_checkpoint(tmp_path / "m.safetensors")
        assert (again.input_spec, again.prior_spec) == (spec, model.prior_spec)
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from singleshot.deploy.onnx_file import detector_model

    proto = detector_model(again, info, raw=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.randint(0, 256, (2, *spec.shape), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = again(images.permute(0, 3, 1, 2))
    for a, b in zip(session.run(["offsets", "logits"], {"images": images.numpy()}), wanted, strict=True):
        assert np.abs(a - b.numpy()).max() < 1e-5 * float(b.abs().max())


@pytest.mark.parametrize(
    ("name", "classes", "says"),
    [("ssd301", 3, "ssd300-vgg16"), ("ssd300-vgg16", 0, "classes 0"), ("ssd320-mini", 10**9, "classes")],
)
def test_impossible_wishes_say_what_is_possible(name: str, classes: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build(name, classes)


@pytest.mark.parametrize("side", [38, 75])
@pytest.mark.parametrize("stride", [1, 2])
def test_quick_depthwise_gradients_are_those_of_the_plain_layer(side: int, stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(24, 24, 3, stride, 1, groups=24, bias=False)
    quick = DepthwiseConv2d(24, 24, 3, stride, 1, groups=24, bias=False)
    quick.load_state_dict(plain.state_dict())
    results = []
    for layer, dtype in ((plain, None), (quick, torch.bfloat16)):
        x = torch.randn(2, 24, side, side, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            y = layer(x)
        y.float().square().sum().backward()
        results.append((y.float(), x.grad, layer.weight.grad))
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() < 0.02 * a.abs().max()  # bfloat16 has 8 bits


def test_both_mobilenets_have_their_depthwise_layers_quickened() -> None:
    for name in ("ssd300-mobilenetv2", "ssdlite320-mobilenetv2"):
        model = build(name, 2)
        depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]
        # 17 in MobileNetV2, four in the extra layers; those of the lite heads have a bias and stay.
        assert sum(isinstance(m, DepthwiseConv2d) for m in depthwise) == 21

"""Frozen parts of a backbone: what stays, what moves, and at which rate."""

from __future__ import annotations

import pytest
import torch

from singleshot.errors import ConfigError
from singleshot.models import build
from singleshot.training.freezing import freeze_backbone
from singleshot.training.optimizers import make_optimizer, parameter_groups, set_lr
from singleshot.training.recipes import Recipe

PARTS = {"ssd320-mini": 4, "ssd320-lite0": 17, "ssdlite320-mobilenetv2": 19, "ssd300-vgg16-bn": 7}


def one_step(name: str, recipe: Recipe) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A model after a step of training, and its state before it."""
    torch.manual_seed(0)
    model = build(name, 2)
    freeze_backbone(model, recipe)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = make_optimizer(model, recipe, 1e-2)
    model.train()
    raw = model(torch.randint(0, 256, (2, 3, 320, 320), dtype=torch.uint8))
    (raw.offsets.square().mean() + raw.logits.square().mean()).backward()
    optimizer.step()
    return model, before


@pytest.mark.parametrize(("name", "parts"), [("ssd320-mini", 2), ("ssd320-lite0", 4)])
def test_what_is_frozen_stays_and_the_rest_moves(name: str, parts: int) -> None:
    model, before = one_step(name, Recipe(freeze=parts))
    all_parts = [part.module for part in model.backbone.parts()]
    for i, part in enumerate(all_parts):
        ids = {id(value) for value in part.state_dict(keep_vars=True).values()}
        keys = [key for key, value in model.state_dict(keep_vars=True).items() if id(value) in ids]
        assert keys
        stays = [torch.equal(before[key], model.state_dict()[key]) for key in keys]
        assert all(stays) if i < parts else not all(stays)
    assert not torch.equal(before["heads.0.location.bias"], model.state_dict()["heads.0.location.bias"])


def test_frozen_norms_keep_their_statistics_and_train_their_scales() -> None:
    model, before = one_step("ssd320-mini", Recipe(freeze_norms=True))
    after = model.state_dict()
    statistics = [key for key in before if "running_" in key]
    assert all(torch.equal(before[key], after[key]) for key in statistics if key.startswith("backbone."))
    assert not any(torch.equal(before[key], after[key]) for key in statistics if not key.startswith("backbone."))
    assert not torch.equal(before["backbone.stem.stage2.bn.weight"], after["backbone.stem.stage2.bn.weight"])


@pytest.mark.parametrize("name", PARTS)
def test_all_of_a_backbone_may_be_frozen_and_no_more(name: str) -> None:
    model = build(name, 2)
    freeze_backbone(model, Recipe(freeze=PARTS[name]))
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert all(parameter.requires_grad for parameter in model.heads.parameters())
    with pytest.raises(ConfigError, match=f"has {PARTS[name]} parts"):
        freeze_backbone(model, Recipe(freeze=PARTS[name] + 1))


@pytest.mark.parametrize("name", PARTS)
def test_strides_of_parts_are_those_of_their_maps(name: str) -> None:
    model = build(name, 2).eval()
    x = torch.zeros(1, 3, 64, 64)
    for part in model.backbone.parts():
        with torch.no_grad():
            x = part.module(x)
        assert x.shape[-1] == 64 // part.stride


@pytest.mark.parametrize(("stride", "frozen"), [(0, 0), (2, 2), (4, 4), (8, 6), (32, 17)])
def test_parts_may_be_frozen_by_their_stride(stride: int, frozen: int) -> None:
    model = build("ssd320-lite0", 2)
    freeze_backbone(model, Recipe(freeze_stride=stride))
    assert [not any(p.requires_grad for p in part.module.parameters()) for part in model.backbone.parts()] == [
        i < frozen for i in range(17)
    ]
    model = build("ssd320-lite0", 2)
    freeze_backbone(model, Recipe(freeze_stride=stride, freeze=0))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_backbone_without_parts_cannot_be_frozen_in_part(tiny_ssd) -> None:
    model = tiny_ssd()
    freeze_backbone(model, Recipe(freeze_norms=True, freeze_stride=8))
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ConfigError, match="no parts"):
        freeze_backbone(model, Recipe(freeze=1))


def test_the_backbone_learns_at_its_own_rate() -> None:
    model = build("ssd320-mini", 2)
    recipe = Recipe(optimizer="adamw", backbone_lr_factor=0.1, bias_lr_factor=2.0)
    optimizer = make_optimizer(model, recipe, 1.0)
    set_lr(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert {rates[id(p)] for p in model.backbone.parameters()} == {0.05}
    assert rates[id(model.heads[0].location.bias)] == 1.0
    assert rates[id(model.heads[0].location.weight)] == 0.5
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for group in parameter_groups(model, recipe.weight_decay, 2.0, recipe.decay_only):
        assert {decays[id(p)] for p in group["params"]} <= {group["weight_decay"]}

"""Recipes: their files, what is wrong in one in one line, and plain values."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from singleshot.errors import ConfigError
from singleshot.loading.augment_spec import AUGMENTS, AugmentSpec
from singleshot.training.recipes import MAX_BYTES, Recipe, load_recipe, recipe_names


def test_learning_rate_scales_with_the_batch() -> None:
    assert load_recipe("paper").learning_rate(8) == pytest.approx(1e-3 / 4)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_survives_its_dict(name: str) -> None:
    recipe = load_recipe(name)
    assert Recipe(**recipe.to_dict()) == recipe


def test_the_three_recipes_of_the_readme_exist() -> None:
    assert {"paper", "scratch", "finetune", "finetune-small", "finetune-sgd", "adapt", "extend"} <= set(recipe_names())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = -1", "lr: want greater than 0"),
        ("lr = 'x'", "lr"),
        ("epoch = 3", "epoch: no such key; did you mean epochs"),
        ("milestones = [0.9, 0.1]", "milestones must rise"),
        ("augment = 'wild'", "augment 'wild': want one of"),
        ("[augment]\nmirror_p = 7", "mirror_p"),
        ("[augment]\nspin = 7", "spin"),
        ("a = [", "not TOML"),
        ("optimizer = 'lion'", "optimizer"),
        ("matching = 'caffee'", r"matching 'caffee': want one of caffe, .*; did you mean caffe\?"),
        ("loss = 'per-batch'", r"loss 'per-batch': want one of caffe, .*; did you mean batch\?"),
        ("loss = 3", "loss: want a text"),
        ("label_smoothing = 1.0", "label_smoothing: want less than 1"),
        ("loss = 'focall'", r"loss 'focall': want one of caffe, .*; did you mean focal\?"),
        ("box_loss = 'iou'", r"box_loss 'iou': want one of smooth-l1, giou, diou, ciou"),
        ("matching = 'atss'\niou_min = 0.4", 'iou_min: says nothing with matching = "atss"; leave it out'),
        ("loss = 'focal'\nmin_negatives = 10", 'min_negatives: says nothing with loss = "focal"; leave it out'),
        ("loss = 'varifocal'\nlabel_smoothing = 0.1", 'label_smoothing: says nothing with loss = "varifocal"'),
        ("repeat_threshold = 0.1", 'repeat_threshold: says nothing with sampling = "uniform"'),
        ("class_weights = {leaf = 0}", "class_weights: want numbers above 0 and up to 1000, leaf has 0"),
        ("class_weights = {leaf = 'much'}", "class_weights.leaf: want a number"),
        ("sampling = 'all'", "sampling: want 'uniform' or 'repeat'"),
        ("decay_only = 'weights'", "decay_only: want 'convolutions', 'all-but-biases' or 'everything'"),
    ],
)
def test_a_wrong_recipe_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_does_not_exist_suggests_one() -> None:
    with pytest.raises(ConfigError, match="did you mean scratch"):
        load_recipe("scrach")


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_what_its_file_has(name: str) -> None:
    """Each key of the TOML, read by the standard library, is the field; what is not in it has the default."""
    text = (resources.files("singleshot.training") / "recipes" / f"{name}.toml").read_text()
    written, recipe = tomllib.loads(text), load_recipe(name)
    for key in Recipe.model_fields:
        value = getattr(recipe, key)
        if key not in written:
            assert value == getattr(Recipe(), key), key
        elif key != "augment":
            assert json.loads(json.dumps(value)) == written[key], key  # a tuple is a list there


def test_a_recipe_survives_json() -> None:
    recipe = load_recipe("scratch")
    assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_an_augmentation_is_a_preset_with_changes(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('lr = 0.01\n[augment]\npreset = "light"\nmirror_p = 0.25\nzoom = [0.5, 2.0]\n')
    recipe = load_recipe(str(path))
    light = AUGMENTS["light"].to_dict()
    assert recipe.augment == AugmentSpec(**{**light, "mirror_p": 0.25, "zoom": (0.5, 2.0)})
    assert recipe.lr == 0.01
    assert load_recipe("paper").augment == AUGMENTS["caffe"]


def test_a_name_that_is_none_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe 'scrach': want one of .*; did you mean scratch\?"):
        load_recipe("scrach")
    large = tmp_path / "large.toml"
    large.write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 1 MB"):
        load_recipe(str(large))


def test_rules_take_the_place_of_a_conventions_with_what_belongs_to_them() -> None:
    recipe = Recipe(**{"convention": "bubbliiiing", "loss": "focal", "matching": "atss"})
    assert (recipe.loss, recipe.matching, recipe.activation) == ("focal", "atss", "sigmoid")
    assert (recipe.iou_min, recipe.min_negatives) == (0.5, 0)  # of the convention's rules, which are not these
    assert Recipe(**{"convention": "bubbliiiing"}).activation == "softmax"
    with pytest.raises(ConfigError, match="min_negatives: says nothing"):
        Recipe(**{"convention": "bubbliiiing", "loss": "focal", "min_negatives": 3})

"""What is stated of the public codebases fits together, and importers read it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from singleshot.conventions import CONVENTIONS, DETECTION, data_of
from singleshot.errors import ConfigError
from singleshot.losses import LOSS_RULES
from singleshot.matching import RULES
from singleshot.prior_tables import PRIORS
from singleshot.training.recipes import Recipe

SOURCE = Path(__file__).resolve().parents[1] / "src" / "singleshot"


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_name_in_a_convention_is_one_of_the_package(name: str) -> None:
    convention = CONVENTIONS[name]
    for network, table in convention.priors.items():
        assert convention.prior_spec(network) == PRIORS[table]
    assert {convention.matching} <= {"", *RULES}
    assert {convention.loss} <= {"", *LOSS_RULES}
    assert convention.detection
    assert set(convention.sources) >= {"priors", "detection"}
    assert set(convention.sources) <= {"priors", "input", "offsets", "detection", "decay"}
    assert (convention.decay is None) == ("decay" not in convention.sources)
    assert Recipe(**convention.recipe()) == Recipe(convention=name)


def test_a_recipe_may_train_as_a_codebase_does() -> None:
    recipe = Recipe(convention="bubbliiiing", weight_decay=0.1)
    assert (recipe.matching, recipe.loss, recipe.decay_only) == ("fallback", "batch", "everything")
    assert (recipe.weight_decay, recipe.bias_lr_factor) == (0.1, 1.0)
    assert "convention" not in recipe.to_dict()
    assert Recipe(convention="caffe").weight_decay == Recipe().weight_decay
    with pytest.raises(ConfigError, match=r"convention 'lufic': want one of caffe, .*; did you mean lufficc\?"):
        Recipe(convention="lufic")


def test_inputs_have_the_side_of_their_tables() -> None:
    for convention in CONVENTIONS.values():
        for network, spec in convention.inputs.items():
            sides = {PRIORS[table].image for key, table in convention.priors.items() if key.startswith(network)}
            assert sides <= {spec.sides}, network


def test_every_table_of_another_codebase_is_in_a_convention() -> None:
    used = {table for convention in CONVENTIONS.values() for table in convention.priors.values()}
    ours = {"ssd300-paper", "ssd512-paper", "ssdlite320-fine"}
    box_major = {"ssd300-nvidia", "ssd1200-mlperf"}
    assert set(PRIORS) == used | ours | box_major


def test_a_detection_rule_belongs_to_one_codebase() -> None:
    assert len(DETECTION) == sum(len(convention.detection) for convention in CONVENTIONS.values())


def test_constants_stand_in_one_place() -> None:
    """ImageNet's mean and the layer numbers of VGG16 are written once."""
    for pattern in (r"123\.675", r"\(0, 2, 5, 7, 10, 12,", r"def \w*create_ssd_anchors|def ssd_boxes"):
        files = [p.name for p in SOURCE.rglob("*.py") if re.search(pattern, p.read_text())]
        assert len(files) == 1, (pattern, files)


def test_whose_boxes_a_file_has_that_does_not_say() -> None:
    assert [data_of(count) for count in (80, 20, 3)] == ["coco", "voc", "voc"]


def test_conventions_and_coverage_need_no_torch() -> None:
    code = (
        "import sys, singleshot.conventions, singleshot.prior_coverage as coverage;"
        "coverage.prior_grids(singleshot.conventions.CONVENTIONS['caffe'].prior_spec('ssd300-voc'));"
        "assert not {'torch', 'jaxtyping'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

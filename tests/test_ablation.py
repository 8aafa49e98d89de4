"""The table of benchmarks/ablation.py: its rows, their recipes, and what is made of results."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest

from singleshot.training.recipes import Recipe, load_recipe, recipe_names


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    return importlib.import_module("ablation")


@pytest.mark.parametrize("base", recipe_names())
def test_every_built_in_row_is_a_recipe_that_survives_its_file(ablation, base: str, tmp_path: Path) -> None:
    for row in ablation.read_rows(None):
        recipe = row.recipe(load_recipe(base))
        assert all(getattr(recipe, key) == value for key, value in row.keys.items())
        path = tmp_path / "r.toml"
        path.write_text(ablation.to_toml(recipe.to_dict()))
        assert load_recipe(str(path)) == recipe


def test_values_become_toml(ablation) -> None:
    values = {
        "a": 1e-05,
        "b": [0.5, 2],
        "c": True,
        "d": 'say "x"',
        "t": {"two words": 2.0, "deep": {"k": "v"}},
        "n": None,
    }
    read = tomllib.loads(ablation.to_toml(values))
    assert read == {key: value for key, value in values.items() if key != "n"}


def test_rows_of_a_file(ablation, tmp_path: Path) -> None:
    path = tmp_path / "rows.toml"
    path.write_text('[base]\n["atss, focal"]\nmatching = "atss"\nloss = "focal"\noptions = ["--batch", 4]\n')
    base, other = ablation.read_rows(path)
    assert (base.keys, other.options, other.folder) == ({}, ("--batch", "4"), "atss_focal")
    assert other.recipe(load_recipe("scratch")).min_negatives == 0  # of scratch's softmax
    assert other.recipe(Recipe()).matching == "atss"
    path.write_text("matching = 'atss'")
    with pytest.raises(SystemExit, match="want a table for each row"):
        ablation.read_rows(path)
    path.write_text("['a b']\n['a,b']")
    with pytest.raises(SystemExit, match="want names that differ"):
        ablation.read_rows(path)


def test_differences_are_to_the_first_row_of_the_same_seeds(ablation) -> None:
    rows = [ablation.Row(name, {}) for name in ("base", "new", "broken")]
    results = [
        ablation.Result("base", 0, 0.50, 0.8, 10.0, 80, 10),
        ablation.Result("new", 0, 0.56, 0.9, 12.0, 96, 12),
        ablation.Result("broken", 0, error="no memory"),
        ablation.Result("base", 1, 0.60, None, 10.0, 80, 10),
        ablation.Result("new", 1, 0.62, 0.7, 14.0, 112, 14),
        ablation.Result("new", 2, 0.90, 0.9, 13.0, 104, 13),
    ]
    base, new, broken = ablation.summarise(rows, results)
    assert new["ap_difference"] == pytest.approx((0.06 + 0.02) / 2)  # seed 2 has nothing to be compared with
    assert new["ap"] == pytest.approx((0.56 + 0.62 + 0.90) / 3)
    assert base["ap_spread"] == pytest.approx(0.0707, abs=1e-4)
    assert (base["map50"], base["ap_difference"]) == (0.8, 0.0)  # what was not measured is not 0
    assert (broken["ap"], broken["ap_difference"], broken["errors"]) == (None, None, ["no memory"])
    text = ablation.to_markdown([base, new, broken], "data")
    assert "| new | 3 | 0.6933 |" in text
    assert "| broken (failed: no memory) | 0 | - | - | - | - | - | - | - |" in text

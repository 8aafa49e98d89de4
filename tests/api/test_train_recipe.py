"""Which phases of progressive resizing a training keeps."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.api.train_options import TrainOptions
from singleshot.api.train_recipe import fit_phases
from singleshot.datasets import open_dataset
from singleshot.inputs import InputSpec
from singleshot.training.recipes import load_recipe


def folder_of(root: Path, side: float) -> Path:
    """Two images in YOLO form whose objects have that part of their side, all but one large one."""
    for n in range(2):
        cv2.imwrite(str(root / f"{n}.png"), np.full((200, 200, 3), 90, np.uint8))
        rows = [f"0 {0.1 + 0.04 * k} 0.5 {side} {side}" for k in range(10)]
        (root / f"{n}.txt").write_text("\n".join([*rows, "0 0.5 0.5 0.9 0.9"]))
    (root / "classes.txt").write_text("part\n")
    return root


@pytest.mark.parametrize(
    ("options", "side", "kept"),
    [
        ({"time": "10m", "recipe": "finetune"}, 0.08, True),  # 25 px of 320, 17 in the smaller input
        ({"time": "10m", "recipe": "finetune"}, 0.06, False),
        ({"epochs": 5, "recipe": "finetune"}, 0.08, False),
        ({"time": "10m", "recipe": "OWN"}, 0.06, True),
        ({"time": "10m", "recipe": "finetune", "tile": "100"}, 0.06, True),
    ],
)
def test_small_objects_are_not_made_smaller(options: dict, side: float, kept: bool, tmp_path: Path) -> None:
    data = folder_of(tmp_path, side)
    recipe = load_recipe("finetune")
    assert recipe.progressive
    given = TrainOptions.of({"data": str(data), **options})
    found = fit_phases(recipe, given, open_dataset(data, "train"), InputSpec(size=320))
    assert found == recipe if kept else found.progressive == ()
    assert found.model_copy(update={"progressive": recipe.progressive}) == recipe

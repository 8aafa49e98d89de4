"""What a training decides by its data alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.datasets import open_dataset
from singleshot.thresholds import Thresholds
from singleshot.training.build import MOST_KEPT, roomy


@pytest.mark.parametrize(
    ("counts", "limits"),
    [
        ((0, 3), (200, 400)),
        ((100, 0), (200, 400)),
        ((0, 101, 0), (300, 600)),
        ((40, 730), (1500, 3000)),
        ((2500,), (MOST_KEPT, MOST_KEPT)),
    ],
)
def test_limits_leave_room_for_the_fullest_image(
    counts: tuple[int, ...], limits: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "classes.txt").write_text("grain\n")
    for n, count in enumerate((*counts, 1, 1)):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.full((50, 50, 3), n, np.uint8))
        rows = [f"0 {(k % 60 + 1) / 62:.4f} {(k // 60 + 1) / 62:.4f} 0.01 0.01" for k in range(count)]
        (tmp_path / f"{n}.txt").write_text("\n".join(rows))
    (tmp_path / "train.txt").write_text("\n".join(f"{n}.png" for n in range(len(counts) + 2)))
    data = open_dataset(tmp_path, "train")
    assert len(data) == len(counts) + 2
    found = roomy(Thresholds(box_voting=0.5), data)
    assert (found.keep, found.per_class, found.box_voting) == (*limits, 0.5)

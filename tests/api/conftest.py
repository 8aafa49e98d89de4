"""Drawn scenes, and one short run for all tests of the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import singleshot
from singleshot.scenes.scenes import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, train=8, test=4, val=4)
    return folder


@pytest.fixture(scope="session")
def started() -> list:
    """What the run's on_start was called with."""
    return []


@pytest.fixture(scope="session")
def run(scenes: Path, started: list, tmp_path_factory) -> singleshot.Run:
    """Two epochs of two steps."""

    def on_start(values) -> list:
        started.append(values)
        return []

    return singleshot.train(
        scenes, out=tmp_path_factory.mktemp("runs") / "first", epochs=2, batch=4, backbone_weights="none", workers=0,
        tensorboard=False, on_start=on_start,
    )  # fmt: skip

"""A few small pictures to train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from singleshot.scenes.scenes import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, train=24, test=8, val=8)
    return folder

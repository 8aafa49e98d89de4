"""The models that come with the repository are those that their card describes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from singleshot.api.push import read_description

FOLDER = Path(__file__).parents[1] / "models"
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
FILES = sorted(path for path in FOLDER.iterdir() if path.name != "README.md")


def test_the_card_names_every_file_and_nothing_else() -> None:
    listed = dict(reversed(line.split("  ")) for line in CARD.splitlines() if re.match("[0-9a-f]{64}  ", line))
    assert listed == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_the_card_says_of_a_file_is_what_the_file_says(path: Path) -> None:
    assert path.stat().st_size <= 10_000_000
    part = next(part for part in CARD.split("\n## ") if part.startswith(f"{path.name}") or f", {path.name}\n" in part)
    info = read_description(path)
    assert f"| Classes | {', '.join(info.class_names)} |" in part
    assert f"| Network | `{info.model}`, " in part
    assert f"{info.input_spec.height} x {info.input_spec.width}" in part
    if info.training:  # a checkpoint's
        assert f"{info.training['epochs']} epochs of " in part
        assert f"seed {info.training['seed']}" in part
    assert "Licence of the data" in part

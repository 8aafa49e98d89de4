"""docs/variants.md has every variant that the package has."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from singleshot.conventions import DETECTION
from singleshot.losses import LOSS_RULES
from singleshot.matching import RULES
from singleshot.priors import PRIORS

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize(
    ("heading", "names"),
    [("Default boxes", PRIORS), ("Matching", RULES), ("Loss", LOSS_RULES), ("Detection", DETECTION)],
)
def test_every_name_has_its_row(heading: str, names: dict) -> None:
    section = (DOCS / "variants.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = {line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")}
    missing = [name for name in names if f"`{name}`" not in rows]
    assert not missing, f"{missing}: run python docs/variants.py, and write matching and loss rules in by hand"


def test_its_tables_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["variants.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(DOCS / "variants.py"), run_name="__main__")
    assert ended.value.code == 0


def test_its_pictures_are_there_and_small() -> None:
    text = (DOCS / "variants.md").read_text()
    pictures = sorted(DOCS.glob("variants-*.png"))
    assert len(pictures) == 5
    for path in pictures:
        assert f"({path.name})" in text
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert path.stat().st_size < 300_000

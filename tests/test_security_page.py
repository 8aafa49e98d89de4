"""docs/security.md names guards and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMED = sorted(set(re.findall(r"`((?:src|tests)/[^`]+)`", (ROOT / "docs" / "security.md").read_text())))


@pytest.mark.parametrize("name", NAMED)
def test_what_the_page_names_exists(name: str) -> None:
    path, _, item = name.partition("::")
    assert (ROOT / path).exists()
    assert not item or re.search(rf"^(def|class) {item}\b", (ROOT / path).read_text(), re.MULTILINE)

"""The site is built without a network, every page as HTML and as Markdown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_site_has_every_page_twice_and_an_index_for_programs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/build.py", "--out", tmp_path / "site"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"index", "reference", "contributing", "benchmarks"}
    index = (tmp_path / "site/llms.txt").read_text()
    for page in pages:
        assert (tmp_path / f"site/{page}.html").is_file(), page
        assert (tmp_path / f"site/{page}.md").is_file(), page
        assert f"({page}.md)" in index
    reference = (tmp_path / "site/reference.md").read_text()
    for name in ("singleshot.load", "singleshot.matching.match", "singleshot.losses.multibox_loss"):
        assert f"### {name}\n" in reference

"""The page as one HTML file: nothing in it is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from singleshot._version import __version__
from singleshot.extras import needs
from singleshot.files import atomic_write

if TYPE_CHECKING:
    from singleshot.report.html import Section

MAX_BYTES = 5_000_000
REPORT = "report.html"


def render_page(title: str, subtitle: str, figures: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """HTML of a page. figures: names and values at the top. Raises MissingExtraError without jinja2."""
    with needs("report", "the page"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
    environment = Environment(
        loader=PackageLoader("singleshot.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    template = environment.get_template("page.html")
    return template.render(title=title, subtitle=subtitle, figures=figures, sections=sections, version=__version__)


def write_page(path: Path, html: str) -> None:
    """Write a page whole or not at all; bytes that are no text, of a file's name, are replaced."""
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")

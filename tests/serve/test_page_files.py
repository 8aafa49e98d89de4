"""The page's files: what they are served as, and what stands in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from singleshot.serve.app import PAGE

FILES = {path.name: path.read_text() for path in sorted(PAGE.iterdir())}
SCRIPTS = [name for name in FILES if name.endswith(".js")]
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def test_every_file_is_served_as_what_it_is(served) -> None:
    client = served(api_key="a key of sixteen letters").client
    for name, text in FILES.items():
        answer = client.get(f"/{name}")
        assert (answer.status_code, answer.text) == (200, text)
        assert answer.headers["content-type"].partition(";")[0] == TYPES[Path(name).suffix]
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = client.get("/")
    assert page.text == FILES["index.html"]
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["permissions-policy"] == "camera=(self), microphone=(), geolocation=()"
    for address in ("/app.py", "/page/index.html", "/..%2fapp.py", "/%2e%2e/app.py"):
        assert client.get(address).status_code == 404


@pytest.mark.parametrize("name", FILES)
def test_no_file_leads_elsewhere_or_runs_text(name: str) -> None:
    text = FILES[name].replace("http://www.w3.org/2000/svg", "")  # the name of SVG's vocabulary
    assert not re.search(r"https?:|(?<=[\"'(])//|@import|wss?:/", text)
    assert not re.search(r"(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\s(style|on\w+)=[\"']|javascript:", text)
    for other in re.findall(r"(?:from |src=|href=)\"([^\"#]+)\"", text):
        assert other.removeprefix("./") in {*FILES, "docs"}


def test_scripts_use_elements_that_are_there() -> None:
    ids = re.findall(r'\sid="([^"]+)"', FILES["index.html"])
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'\bat(?:\.([a-z]\w*)|\["([\w-]+)"\])', FILES["page.js"]))
    assert len(used) > 30
    assert {dotted or bracketed for dotted, bracketed in used} <= set(ids)
    for target in re.findall(r'\s(?:for|aria-labelledby)="([^"]+)"', FILES["index.html"]):
        assert target in ids


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of "#rrggbb"."""
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_that_reading_needs(scheme: int) -> None:
    block = re.findall(r":root \{([^}]*--ground:[^}]*)\}", FILES["page.css"])[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(colours[one]), luminance(colours[other])))
        return (high + 0.05) / (low + 0.05)

    for text in ("text", "quiet", "accent"):  # WCAG 2.2, 1.4.3: 4.5 for text
        for ground in ("ground", "card", "well", "chosen") if text == "text" else ("ground", "card", "well"):
            assert contrast(text, ground) >= 4.5, (text, ground)
    assert contrast("on-accent", "accent") >= 4.5
    assert contrast("alarm", "alarm-ground") >= 4.5
    for ground in ("ground", "card"):  # 1.4.11: 3 for the outlines of controls
        assert contrast("field-line", ground) >= 3

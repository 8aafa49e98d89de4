"""The files of the page of `singleshot label`."""

from __future__ import annotations

import re
from typing import Any

import pytest

from singleshot.serve.app import PAGE
from singleshot.serve.label_app import LABEL_PAGE, SHARED_FILES

OWN = {path.name: path.read_text() for path in sorted(LABEL_PAGE.iterdir())}


@pytest.mark.parametrize("name", OWN)
def test_no_file_leads_elsewhere_or_runs_text(name: str) -> None:
    text = OWN[name]
    assert not re.search(r"https?:|(?<=[\"'(])//|@import|wss?:/", text)
    assert not re.search(r"(inner|outer)HTML *=|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\s(style|on\w+)=[\"']|javascript:", text)
    for other in re.findall(r"(?:from |src=|href=)\"([^\"#]+)\"", text):
        assert other.removeprefix("./") in {*OWN, *SHARED_FILES}


def test_scripts_use_elements_that_are_there() -> None:
    ids = re.findall(r'\sid="([^"]+)"', OWN["index.html"])
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'\bat(?:\.([a-z]\w*)|\["([\w-]+)"\])', OWN["label.js"]))
    assert len(used) > 20
    assert {dotted or bracketed for dotted, bracketed in used} <= set(ids)
    styled = set(re.findall(r"^#([\w-]+)", (PAGE / "page.css").read_text(), re.MULTILINE))
    assert not styled & set(ids) - {"results"}  # the other page's own elements
    keys = set(re.findall(r"<kbd>(\w)</kbd>", OWN["index.html"]))
    shortcuts: Any = re.search(r"const LETTERS = \{(.*?)\n\};", OWN["label.js"], re.DOTALL)
    assert {key.lower() for key in re.findall(r"(?:^|[\s,])(\w): ?(?=\(|\w)", shortcuts[1])} <= keys | {"1", "9"}

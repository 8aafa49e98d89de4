"""What the scripts that take pictures of pages share: the browser, and a small PNG."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright


@contextlib.contextmanager
def opened(address: str, height: int, out: Path) -> Iterator[Page]:
    """The page in a window 1180 pixels wide; as it is at the end, all of its height, it is written to `out`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": height}, color_scheme="light")
        page.goto(address)
        yield page
        screen = page.screenshot(full_page=True)
        browser.close()
    picture = Image.open(io.BytesIO(screen)).convert("RGB")  # with 256 colours it has a third of the bytes
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3).save(out, optimize=True)

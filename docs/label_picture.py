"""Takes the picture of the page for docs/label-page.png.

    singleshot label bccd --model best.safetensors --no-browser &
    python docs/label_picture.py ADDRESS [--out docs/label-page.png]

The set is BCCD (MIT), the model one that was trained on it; the browser is what `make test-page` wants.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="What singleshot label printed.")
    parser.add_argument("--out", type=Path, default=Path("docs/label-page.png"))
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 745}, color_scheme="light")
        page.goto(arguments.address)
        page.locator("#order:enabled").wait_for()
        suspect = page.locator("#suspects button").first
        while not suspect.is_visible():  # until the model has seen enough
            page.select_option("#order", "name")
            page.wait_for_timeout(500)
            page.select_option("#order", "suspect")
            page.wait_for_timeout(2000)
        suspect.click()
        suspect.blur()
        screen = page.screenshot()
        browser.close()
    picture = Image.open(io.BytesIO(screen)).convert("RGB")  # with 256 colours it has a third of the bytes
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()

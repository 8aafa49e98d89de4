"""Takes the picture of the service's page for docs/serve-page.png.

    singleshot serve best.onnx &
    python docs/serve_picture.py PHOTO [--url http://127.0.0.1:8000] [--score-min 0.5] [--out docs/serve-page.png]

The photo is BloodImage_00007.jpg of BCCD (MIT); the browser is what `make test-page` wants.
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
    parser.add_argument("photo", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--score-min", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("docs/serve-page.png"))
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 725}, color_scheme="light")
        page.goto(arguments.url)
        page.locator("#open:enabled").wait_for()
        page.set_input_files("#file", arguments.photo)
        page.locator("#rows tr").first.wait_for(state="attached")
        page.locator("#threshold").fill(str(arguments.score_min))
        page.locator("#threshold").blur()
        screen = page.screenshot()
        browser.close()
    picture = Image.open(io.BytesIO(screen)).convert("RGB")  # with 256 colours it has a third of the bytes
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()

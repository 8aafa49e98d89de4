"""Takes the picture of the service's page for docs/serve-page.png.

    singleshot serve bccd=runs/mine/best.safetensors &
    python docs/serve_picture.py PHOTO [--url http://127.0.0.1:8000] [--score-min 0.5] [--chosen WBC]
        [--out docs/serve-page.png]

A checkpoint, or a file of `export --raw`: the best detection of class --chosen shows where it comes from.
The photo is BloodImage_00007.jpg of BCCD (MIT); the browser is what `make test-page` wants.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from page_picture import opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--score-min", type=float, default=0.5)
    parser.add_argument("--chosen", default="WBC")
    parser.add_argument("--out", type=Path, default=Path("docs/serve-page.png"))
    arguments = parser.parse_args()
    with opened(arguments.url, 725, arguments.out) as page:
        page.locator("#open:enabled").wait_for()
        page.set_input_files("#file", arguments.photo)
        page.locator("#rows tr").first.wait_for(state="attached")
        page.locator("#threshold").fill(str(arguments.score_min))
        page.locator("#threshold").blur()
        page.locator("#rows button:visible", has_text=arguments.chosen).first.click()
        page.locator("#origin-all").wait_for(timeout=120_000)
        page.evaluate("document.activeElement.blur()")
        page.mouse.move(1, 1)


if __name__ == "__main__":
    main()

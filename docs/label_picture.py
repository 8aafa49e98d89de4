"""Takes the picture of the page for docs/label-page.png.

    singleshot label bccd --model best.safetensors --no-browser &
    python docs/label_picture.py ADDRESS [--out docs/label-page.png]

The set is BCCD (MIT), the model one that was trained on it; the browser is what `make test-page` wants.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from page_picture import opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="What singleshot label printed.")
    parser.add_argument("--out", type=Path, default=Path("docs/label-page.png"))
    arguments = parser.parse_args()
    with opened(arguments.address, 745, arguments.out) as page:
        page.locator("#order:enabled").wait_for()
        suspect = page.locator("#suspects button").first
        while not suspect.is_visible():  # until the model has seen enough
            page.select_option("#order", "name")
            page.wait_for_timeout(500)
            page.select_option("#order", "suspect")
            page.wait_for_timeout(2000)
        suspect.click()
        suspect.blur()


if __name__ == "__main__":
    main()

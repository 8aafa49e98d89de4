"""Draws what a model finds in sample photos that anyone may show: a row of pictures for docs/import.jpg.

    python docs/import_picture.py MODEL PHOTO... [--score-min 0.5] [--out docs/import.jpg]

The photos of the page are scikit-image's astronaut.png (NASA, public domain), chelsea.png (CC0, Stefan van der Walt)
and coffee.png (CC0, Rachel Michetti), which lie in the folder `skimage/data` of that package's wheel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

import singleshot
from singleshot.images.decode import read_image

HEIGHT = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--score-min", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("docs/import.jpg"))
    arguments = parser.parse_args()
    detector = singleshot.load(arguments.model)
    row = []
    for path in arguments.photos:
        image = read_image(path)
        width = round(image.shape[1] * HEIGHT / image.shape[0])
        photo = cv2.resize(image, (width, HEIGHT), interpolation=cv2.INTER_AREA)
        found = detector.detect(photo, arguments.score_min)
        print(
            Path(path).name,
            [(name, round(float(score), 2)) for name, score in zip(found.names, found.scores, strict=True)],
        )
        row += [found.draw(photo), np.full((HEIGHT, 6, 3), 255, np.uint8)]
    cv2.imwrite(str(arguments.out), np.hstack(row[:-1])[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()

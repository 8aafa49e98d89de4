"""How fast `data check` goes through a VOC folder, against OpenCV's decoder alone on the same files.

    python benchmarks/check.py path/to/VOC [--rounds 3] [--workers 2] [--json]

Decoder: the files are read and decoded in colour in as many processes, and nothing else is done.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import statistics
from pathlib import Path

import cv2
import numpy as np
from common import race, ratio, tell

from singleshot.datasets import open_source
from singleshot.datasets.checks import check_source
from singleshot.datasets.checks.images import look_at


def decode(path: str) -> None:
    image = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None, path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a VOC folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    source = open_source(options.data)
    paths = [image.path for image in source.read().images]
    cv2.setNumThreads(0)
    with mp.get_context("fork").Pool(options.workers) as pool:
        seconds = race(
            {
                "decoder": lambda: pool.map(decode, paths, chunksize=32),
                "pictures": lambda: look_at(paths, options.workers),
                "check": lambda: check_source(source, workers=options.workers),
            },
            options.rounds,
        )
    result: dict[str, object] = {"images": len(paths), "processes": options.workers}
    for name, about in (
        ("decoder", "the decoder alone"),
        ("pictures", "the pass over the images"),
        ("check", "the whole check"),
    ):
        result[f"{about}: images per second"] = len(paths) / statistics.median(seconds[name])
    result["the pass over the images, part of the decoder's rate"] = ratio(seconds, "decoder", "pictures")
    result["the whole check, part of the decoder's rate"] = ratio(seconds, "decoder", "check")
    tell("data check", result)


if __name__ == "__main__":
    main()

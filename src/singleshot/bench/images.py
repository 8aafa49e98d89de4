"""The image files that a benchmark detects in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from singleshot.errors import DataError, printable

_MOST = 64
_DRAWN, _WIDTH, _HEIGHT = 24, 640, 480


@dataclass(frozen=True)
class BenchImages:
    """Image files to detect in; about: one line for people; skipped: how many could not be read."""

    paths: tuple[str, ...]
    about: str
    skipped: int = 0


def find_images(source: str | None, folder: Path) -> BenchImages:
    """Up to 64 images of a folder or pattern, or drawn scenes of 640x480 as JPEG files in `folder`.

    Raises:
        DataError: There is none that can be read, or the source is a video.
    """
    if source is None:
        return BenchImages(_draw(folder), f"{_DRAWN} drawn scenes of {_WIDTH}x{_HEIGHT} as JPEG")
    from singleshot.runtime.sources import open_sources

    paths: list[str] = []
    sizes: list[tuple[int, int]] = []
    skipped = 0
    for frame in open_sources([source]):
        if frame.kind != "image":
            raise DataError(f"{printable(source)}: {frame.kind}, want a folder with images")
        if frame.image is None:
            skipped += 1
            continue
        paths.append(frame.source)
        sizes.append(frame.image.shape[:2])
        if len(paths) == _MOST:
            break
    if not paths:
        raise DataError(f"{printable(source)}: none of its {skipped} images can be read")
    height, width = np.median(np.array(sizes), axis=0).astype(int).tolist()
    return BenchImages(tuple(paths), f"{len(paths)} images of {printable(source)}, median {width}x{height}", skipped)


def _draw(folder: Path) -> tuple[str, ...]:
    from singleshot.scenes.scenes import render_scene

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(_DRAWN):
        image, _ = render_scene(np.random.default_rng(number), _WIDTH, _HEIGHT)
        path = folder / f"{number:02}.jpg"
        cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        paths.append(str(path))
    return tuple(paths)

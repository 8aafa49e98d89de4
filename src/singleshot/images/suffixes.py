"""Endings of image files: one list for data sets, detection and export."""

from __future__ import annotations

# It names more than is decoded, so that a format that is not is reported and not silently passed over.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif"),
    *(".avif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".pgm", ".ppm"),
)


def is_image(name: str) -> bool:
    """Whether the file name ends as those of images do."""
    return name.lower().endswith(IMAGE_SUFFIXES)

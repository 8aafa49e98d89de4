"""Formats that OpenCV does not read, by packages of extras; which one is missing for a file, in words."""

from __future__ import annotations

import functools
import importlib.util
import io
import re

import cv2
import numpy as np

# Ending -> the format's name, the package and the extra that brings it.
_EXTRAS = {"heic": ("HEIC", "pi_heif", "heif"), "jxl": ("JPEG XL", "imagecodecs", "jxl")}


def missing_decoder(ending: str) -> str:
    """What has to be installed for a format, in words; "" where all is there."""
    if ending == "avif" and not _has_avif():
        return "AVIF, which this OpenCV does not read: pip install -U opencv-python-headless"
    if ending in _EXTRAS:
        title, package, extra = _EXTRAS[ending]
        if not _is_installed(package):
            return f"{title}, which needs {package.replace('_', '-')}: pip install 'singleshot[{extra}]'"
    return ""


def is_extra(ending: str) -> bool:
    """Whether it is decoded by `decode_extra`, which turns it upright too."""
    return ending in _EXTRAS


def decode_extra(data: bytes, ending: str) -> np.ndarray | None:
    """uint8 RGB [H, W, 3], upright, of a file for which nothing is missing; None where it does not decode."""
    try:
        image = _decode_heif(data) if ending == "heic" else _decode_jpeg_xl(data)
    except MemoryError:
        raise
    except Exception:  # of the packages' own classes, RuntimeError, ValueError, EOFError and others
        return None
    return None if image is None else _as_rgb(image)


def _decode_heif(data: bytes) -> np.ndarray:
    import pi_heif

    image = pi_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
    return np.array(image)  # a copy: the pixels are gone with their owner


def _decode_jpeg_xl(data: bytes) -> np.ndarray:
    import imagecodecs

    image: np.ndarray = imagecodecs.jpegxl_decode(data, index=0)
    return image


def _as_rgb(image: np.ndarray) -> np.ndarray | None:
    """Of grey or colour, perhaps with alpha, in 8 or 16 bits, or in floats of 0 to 1."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    elif image.dtype.kind == "f":
        image = np.rint(np.nan_to_num(image).clip(0, 1) * 255).astype(np.uint8)
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        return None
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels <= 2:
        return cv2.cvtColor(np.ascontiguousarray(image.reshape(*image.shape[:2], -1)[..., 0]), cv2.COLOR_GRAY2RGB)
    return np.ascontiguousarray(image[..., :3])


@functools.cache
def _has_avif() -> bool:
    found = re.search(r"^\s*AVIF:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    return found is not None and found[1] not in ("NO", "OFF")


@functools.cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None

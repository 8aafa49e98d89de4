"""16-bit pictures with few grey values left, and pictures of samples that are not read: said, and kept by --fix."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from singleshot.datasets import open_source
from singleshot.datasets.checks import check_source

BOX = (5, 5, 30, 30)


def deep(seed: int, high: int) -> np.ndarray:
    """uint16 [48, 64], values from 0 to `high`; unlike that of another seed."""
    coarse = np.random.default_rng(seed).integers(0, high + 1, (6, 8)).astype(np.float32)
    return cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC).clip(0, high).astype(np.uint16)


@pytest.fixture
def replace_image(voc):
    def make(stems: str = "abcd"):
        return voc({stem: [("cat", BOX)] for stem in stems})

    return make


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_few_grey_values_are_said_once(replace_image, suffix):
    root = replace_image()
    for k, stem in enumerate("abc"):
        (root / "JPEGImages" / f"{stem}.png").unlink()
        cv2.imwrite(str(root / "JPEGImages" / f"{stem}{suffix}"), deep(k, 4095 if k < 2 else 65535))
    result = check_source(open_source(root), workers=1)
    assert result.counts == {"image-few-greys": 1}
    (finding,) = result.findings
    assert finding.severity == "warning"
    assert finding.file == str(root)
    assert "2 of 3 16-bit images keep 16 grey values in 8 bits (a" in finding.message
    assert "train with --sixteen-bit stretch" in finding.message


def test_dark_16_bit_pictures_are_not_all_the_same(replace_image):
    root = replace_image()
    for k, stem in enumerate("abcd"):  # in 8 bits all four are black but for noise
        cv2.imwrite(str(root / "JPEGImages" / f"{stem}.png"), deep(k, 500))
    result = check_source(open_source(root), workers=1)
    assert result.counts == {"image-few-greys": 1}
    cv2.imwrite(str(root / "JPEGImages" / "d.png"), deep(0, 500))
    assert check_source(open_source(root), workers=1).counts == {"image-few-greys": 1, "image-duplicated": 1}


@pytest.mark.parametrize("kind", ["float32", "int32", "complex64", "bands"])
def test_samples_that_are_not_read_have_a_finding_of_their_own(replace_image, tiff, kind):
    root = replace_image()
    samples = np.random.default_rng(0).random((48, 64, 6 if kind == "bands" else 1)) * 90
    (root / "JPEGImages" / "a.png").unlink()
    (root / "JPEGImages" / "a.tif").write_bytes(tiff(samples.astype("uint8" if kind == "bands" else kind)))
    result = check_source(open_source(root), workers=1)
    assert result.counts == {"image-unread": 1}
    (finding,) = result.findings
    assert finding.file.endswith("a.tif")
    assert finding.message.startswith(("a float32 TIFF;", "an int32 TIFF;", "a complex64 TIFF;", "a uint8 TIFF of 6"))
    assert "convert it, for example: gdal_translate" in finding.message


def test_their_labels_are_held_against_their_size(replace_image, tiff):
    root = replace_image()
    (root / "JPEGImages" / "a.png").unlink()
    (root / "JPEGImages" / "a.tif").write_bytes(tiff(np.zeros((40, 50), np.float32)))
    assert check_source(open_source(root), workers=1).counts == {"image-unread": 1, "size-mismatch": 1}

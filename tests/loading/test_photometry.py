"""The tables against a slow, literal version of Caffe's distortion, pixel by pixel in floats."""

from __future__ import annotations

import numpy as np
import pytest

from singleshot.loading.augment import HsvStep, Photometry, brightness_table, draw_photometry, gain_table


def saturated(value: float) -> int:
    return int(min(max(round(value), 0), 255))


def to_hsv(red: int, green: int, blue: int) -> tuple[int, int, int]:
    """OpenCV's 8-bit HSV as its manual defines it: H / 2, 255 S, 255 V."""
    value, low = max(red, green, blue), min(red, green, blue)
    span = value - low
    saturation = saturated(255 * span / value) if value else 0
    if span == 0:
        return 0, saturation, value
    if value == red:
        hue = 60 * (green - blue) / span
    elif value == green:
        hue = 120 + 60 * (blue - red) / span
    else:
        hue = 240 + 60 * (red - green) / span
    return round((hue % 360) / 2) % 180, saturation, value


def to_rgb(hue: float, saturation: int, value: int) -> tuple[int, int, int]:
    def channel(n: int) -> int:
        k = (n + hue / 30) % 6
        return saturated(value - value * saturation / 255 * max(0.0, min(k, 4 - k, 1.0)))

    return channel(5), channel(3), channel(1)


def slow_distort(pixel: tuple[int, ...], steps: list[tuple[str, float]]) -> tuple[int, ...]:
    for name, amount in steps:
        if name == "brightness":
            pixel = tuple(saturated(v + amount) for v in pixel)
        elif name == "contrast":
            pixel = tuple(saturated(v * amount) for v in pixel)
        elif name == "hsv":
            gain, turn = amount // 1000 / 1000, amount % 1000 - 500
            hue, saturation, value = to_hsv(*pixel)
            pixel = to_rgb(round(hue + turn) % 180, saturated(saturation * gain), value)
    return pixel


def pack(gain: float, turn: float) -> float:
    """Both HSV amounts in the one number that a step carries."""
    return round(gain * 1000) * 1000 + turn + 500


def test_single_tables_are_exact() -> None:
    levels = np.arange(256)
    for delta in (-32.0, -7.3, 0.5, 1.5, 31.9):
        assert brightness_table(delta).tolist() == [saturated(v + delta) for v in levels.tolist()]
    for gain in (0.5, 0.987, 1.5):
        assert gain_table(gain).tolist() == [saturated(v * gain) for v in levels.tolist()]


@pytest.mark.parametrize("contrast_last", [False, True])
def test_all_steps_against_the_literal_version(contrast_last: bool) -> None:
    rng = np.random.default_rng(contrast_last)
    differences = []
    for _ in range(40):
        image = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        delta, contrast = rng.uniform(-32, 32), rng.uniform(0.5, 1.5)
        gain, turn = round(rng.uniform(0.5, 1.5), 3), rng.uniform(-18, 18)
        bright, scale, hsv = brightness_table(delta), gain_table(contrast), HsvStep(gain, turn)
        steps = [("brightness", delta), ("contrast", contrast), ("hsv", pack(gain, turn))]
        if contrast_last:
            steps = [steps[0], steps[2], steps[1]]
            done = Photometry(bright, hsv, scale)(image)
        else:
            done = Photometry(scale[bright], hsv)(image)
        wanted = [slow_distort(tuple(pixel), steps) for pixel in image.reshape(-1, 3).tolist()]
        differences.append(np.abs(done.reshape(-1, 3).astype(int) - np.array(wanted)).ravel())
    all_differences = np.concatenate(differences)
    # A hue that falls between two of the 180 levels may go either way: one level is up to 8.5 grey levels.
    assert np.mean(all_differences <= 2) > 0.99
    assert all_differences.max() <= 14


def test_hue_goes_round_the_circle() -> None:
    red = np.full((1, 1, 3), (200, 10, 10), np.uint8)
    back = Photometry(hsv=HsvStep(1.0, -10.0))(red)[0, 0]
    ahead = Photometry(hsv=HsvStep(1.0, 10.0))(red)[0, 0]
    assert back[2] > 50  # towards magenta, not pinned at red
    assert back[1] <= 12
    assert ahead[1] > 50
    assert ahead[2] <= 12


def test_grey_stays_grey_and_strength_zero_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    grey = np.repeat(rng.integers(0, 256, (8, 8, 1), dtype=np.uint8), 3, axis=2)
    for _ in range(30):
        done = draw_photometry(rng)(grey)
        assert (done == done[..., :1]).all()
        assert (draw_photometry(rng, 0.0)(grey) == grey).all()


def test_the_given_image_is_not_written() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    before = image.copy()
    for _ in range(50):
        draw_photometry(rng)(image)
    assert (image == before).all()


def test_each_step_is_drawn_half_the_time_in_caffes_ranges() -> None:
    rng = np.random.default_rng(4)
    drawn = [draw_photometry(rng) for _ in range(4000)]
    some_hsv = np.mean([p.hsv is not None for p in drawn])
    assert some_hsv == pytest.approx(0.75, abs=0.03)
    # Contrast stands alone after the HSV steps: drawn, HSV drawn, and last.
    assert np.mean([p.after is not None for p in drawn]) == pytest.approx(0.5 * 0.75 * 0.5, abs=0.03)
    turns = np.array([p.hsv.turn for p in drawn if p.hsv is not None])
    assert (turns.min(), turns.max()) == (pytest.approx(-18, abs=0.1), pytest.approx(18, abs=0.1))
    assert np.mean(turns != 0) == pytest.approx(2 / 3, abs=0.05)
    gains = np.array([p.hsv.gain for p in drawn if p.hsv is not None])
    assert (gains.min(), gains.max()) == (pytest.approx(0.5, abs=0.01), pytest.approx(1.5, abs=0.01))
    # Brightness alone: what 128 becomes, where the HSV steps keep contrast apart.
    shifts = np.array([int(p.before[128]) - 128 for p in drawn if p.before is not None and p.after is not None])
    assert (shifts.min(), shifts.max()) == (-32, 32)


def test_same_generator_same_draw() -> None:
    image = np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    a, b = (draw_photometry(np.random.default_rng(6))(image) for _ in range(2))
    assert (a == b).all()

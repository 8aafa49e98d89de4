"""Boxes round masks that are written as lengths of runs, against the masks themselves."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleshot.datasets import open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers.run_lengths import surround_brush, surround_rle


def box_of(mask: np.ndarray):
    ys, xs = np.nonzero(mask)
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else None


def runs_of(values: np.ndarray) -> list[tuple[int, int]]:
    """(value, length) of equal neighbours."""
    ends = [*(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(int(values[end - 1]), end - start) for start, end in zip([0, *ends], ends, strict=False)]


def counts_of(mask: np.ndarray) -> list[int]:
    """COCO's counts: down the columns, the first run outside."""
    runs = runs_of(mask.ravel(order="F").astype(int))
    return [0] * runs[0][0] + [length for _, length in runs]


@st.composite
def masks(draw):
    height, width = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    seed, share = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 0.02, 0.2, 0.8, 1.0]))
    return np.random.default_rng(seed).random((height, width)) < share


@given(masks())
def test_cocos_counts_and_texts(mask):
    coder = pytest.importorskip("pycocotools.mask")
    packed = coder.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    for counts in (counts_of(mask), packed):
        found = surround_rle({"size": list(mask.shape), "counts": counts})
        assert found == (box_of(mask) or "its mask has no pixel; remove it")


def pack(values: np.ndarray, word: int, rng: np.random.Generator) -> list[int]:
    """The packing of @thi.ng/rle-pack, with runs and single values as they come."""
    sizes = [2, 4, 8, 13]
    bits = f"{len(values):032b}{word - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)

    def length(count: int) -> str:
        which = next(k for k, size in enumerate(sizes) if count <= 1 << size)
        return f"{which:02b}{count - 1:0{sizes[which]}b}"

    at = 0
    while at < len(values):
        same = next((k for k in range(at, len(values)) if values[k] != values[at]), len(values)) - at
        count = int(min(same if same > 1 else rng.integers(1, 9), len(values) - at, 1 << 13))
        bits += f"{int(same > 1)}{length(count)}"
        for value in values[at : at + 1 if same > 1 else at + count]:
            bits += f"{int(value):0{word}b}"
        at += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


@given(masks(), st.integers(0, 1000))
def test_brush_strokes(mask, seed):
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (*mask.shape, 4)) * (seed % 2)
    colours[..., 3] = mask * 255
    found = surround_brush(pack(colours.ravel(), 8, rng), mask.shape[1], mask.shape[0])
    assert found == (box_of(mask) or "a brush stroke without a pixel; remove it")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({}, "the size of its RLE is no height and width"),
        ({"size": [3, 2**40], "counts": [1]}, "the size of its RLE"),
        ({"size": [0, 3], "counts": [1]}, "the size of its RLE"),
        ({"size": [3, 3]}, "the counts of its RLE are missing; want the lengths of runs"),
        ({"size": [3, 3], "counts": [1, -1]}, "the counts of its RLE are a list; want"),
        ({"size": [3, 3], "counts": [1, "2"]}, "the counts of its RLE are a list; want"),
        ({"size": [3, 3], "counts": [5, 5]}, "of more pixels than 3 x 3"),
        ({"size": [9, 9], "counts": "~"}, "the counts of its RLE are '~'; want"),
        ({"size": [9, 9], "counts": "o" * 40}, "the counts of its RLE are 'oooo"),
        ({"size": [9, 9], "counts": "o"}, "the counts of its RLE are 'o'; want"),
        ({"size": [9, 9], "counts": ""}, "its mask has no pixel"),
        ({"size": [10**6, 10**6], "counts": [10**12 + 1]}, "of more pixels than 1000000 x 1000000"),
        ({"size": [9, 9], "counts": [0, 10**4000]}, "of more pixels than 9 x 9"),
    ],
)
def test_what_is_no_mask_is_said(mask, message):
    assert message in surround_rle(mask)


def test_a_mask_of_a_billion_pixels_costs_nothing():
    start = time.process_time()
    found = surround_rle({"size": [10**6, 10**6], "counts": [0, 10**12]})
    assert found == (0, 0, 10**6, 10**6)
    rng = np.random.default_rng(0)
    head = pack(np.zeros(4), 8, rng)
    assert "is no packed brush stroke of 1000000 x 1000000" in surround_brush(head, 10**6, 10**6)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "rle", [None, "x", [], [0] * 4, [300], [1.5], [-1], [0, 0, 0, 192] + [255] * 9, [0, 0, 0, 192]]
)
def test_what_is_no_brush_stroke_is_said(rle):
    assert "is no packed brush stroke of 8 x 6 pixels" in surround_brush(rle, 8, 6)


@pytest.fixture
def mask() -> np.ndarray:
    found = np.zeros((48, 64), bool)
    found[10:20, 5:30] = found[15:40, 8:12] = True
    return found


def test_coco_files_with_masks_alone(folder, mask):
    shape = {"counts": counts_of(mask), "size": [48, 64]}
    notes = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": shape},
             {"id": 2, "image_id": 1, "category_id": 1, "segmentation": {**shape, "size": [4, 4]}},
             {"id": 3, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": shape}]  # fmt: skip
    content = {"images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}], "annotations": notes,
               "categories": [{"id": 1, "name": "cat"}]}  # fmt: skip
    problems = CollectErrors()
    raw = open_source(folder({"train.json": json.dumps(content)})).read(None, problems)
    assert [o.box for o in raw.images[0].objects] == [(5, 10, 30, 40), (1, 2, 4, 6)]
    assert [str(f).partition("annotation 1 ")[2] for f in problems.findings] == [
        "(id 2, cat): the counts of its RLE are of more pixels than 4 x 4; write the mask again"
    ]


@pytest.mark.parametrize("is_flat", [False, True])
def test_label_studio_files_with_brush_strokes(folder, mask, is_flat):
    colours = np.zeros((48, 64, 4), int)
    colours[..., 3] = mask * 255
    size = {"original_width": 64, "original_height": 48}
    value = {"format": "rle", "rle": pack(colours.ravel(), 8, np.random.default_rng(0)), "brushlabels": ["cat"]}
    result = {"id": "r", "type": "brushlabels", **size, "value": value}
    task = {"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [result]}]}
    flat = {"image": "a.png", "annotation_id": 1, "label": [{**value, **size}]}
    raw = open_source(folder({"x.json": json.dumps([flat if is_flat else task])})).read()
    assert [(o.name, o.box) for o in raw.images[0].objects] == [("cat", (5, 10, 30, 40))]

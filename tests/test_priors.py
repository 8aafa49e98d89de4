"""Default boxes against the public implementations' own numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from singleshot.boxes import to_corners
from singleshot.errors import ConfigError
from singleshot.priors import (
    PRIORS,
    SOURCES,
    PriorSpec,
    caffe_cell,
    from_shapes,
    ljanyst_boxes,
    make_priors,
    prior_spec,
    sized_for,
    tf_object_detection,
    torchvision_boxes,
)


def priors_of(name: str) -> np.ndarray:
    return make_priors(PRIORS[name]).numpy()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ssd300-voc", 8732),
        ("ssd300-coco", 8732),
        ("ssd512-voc", 24564),
        ("ssd512-coco", 24564),
        ("ssd300-paper", 8732),
        ("ssd512-paper", 24564),
        ("ssd300-mobilenetv2", 3000),
        ("ssdlite320", 3234),
        ("ssd300-mobilenet-qfgaohao", 3000),
        ("ssd300-mobilenet-chuanqi305", 1917),
        ("ssd300-tf", 1917),
        ("ssd1200-mlperf", 15130),
    ],
)
def test_published_counts(name: str, count: int) -> None:
    assert PRIORS[name].count == count == len(priors_of(name))


def test_every_table_makes_its_count_and_has_a_source() -> None:
    assert set(SOURCES) == set(PRIORS)
    for name, spec in PRIORS.items():
        priors = make_priors(spec)
        assert priors.shape == (spec.count, 4), name
        assert torch.isfinite(priors).all(), name
        assert (priors[:, 2:] > 0).all(), name
        assert f"{spec.image[1]}" in name
        assert SOURCES[name]


# table, form of the stored array, file, array
GOLDEN = [
    ("ssd300-voc", "corner", "caffe", "voc300_corner_noclip"),
    ("ssd300-coco", "corner", "caffe", "coco300_corner_noclip"),
    ("ssd512-voc", "corner", "caffe", "voc512_corner_noclip"),
    ("ssd512-coco", "corner", "caffe", "coco512_corner_noclip"),
    ("ssd300-voc", "cxcywh", "amdegroot", "voc300_noclip"),
    ("ssd300-voc-amdegroot", "cxcywh", "amdegroot", "voc300_clip"),
    ("ssd300-coco-amdegroot", "cxcywh", "amdegroot", "coco300_clip"),
    ("ssd300-voc-amdegroot", "cxcywh", "lufficc", "voc300_clip"),
    ("ssd300-coco-amdegroot", "cxcywh", "lufficc", "coco300_clip"),
    ("ssd512-voc-lufficc", "cxcywh", "lufficc", "voc512_clip"),
    ("ssd512-coco-lufficc", "cxcywh", "lufficc", "coco512_clip"),
    ("ssd320-mobilenet-lufficc", "cxcywh", "lufficc", "mobilenetv2_320_clip"),
    ("ssd300-voc-amdegroot", "cxcywh", "qfgaohao", "vgg300_clip"),
    ("ssd300-mobilenet-qfgaohao", "cxcywh", "qfgaohao", "mb1_mb2_ssdlite300_clip"),
    ("ssd300-balancap", "cxcywh", "balancap", "vgg300_cxcywh_noclip"),
    ("ssd512-balancap", "cxcywh", "balancap", "vgg512_cxcywh_noclip"),
    ("ssd300-voc-bubbliiiing", "corner", "bubbliiiing", "vgg300_corner"),
    ("ssd300-coco-bubbliiiing", "corner", "bubbliiiing", "vgg300_coco_corner"),
    ("ssd300-mobilenetv2", "corner", "bubbliiiing", "mobilenetv2_300_corner"),
    ("ssd300-voc-keras", "cxcywh", "ssd_keras", "voc300_cxcywh_noclip"),
    ("ssd300-coco-keras", "cxcywh", "ssd_keras", "coco300_cxcywh_noclip"),
    ("ssd512-voc-keras", "cxcywh", "ssd_keras", "voc512_cxcywh_noclip"),
    ("ssd512-coco-keras", "cxcywh", "ssd_keras", "coco512_cxcywh_noclip"),
    ("ssd300-ljanyst", "cxcywh", "ljanyst", "vgg300_cxcywh_sizemajor"),
    ("ssd512-ljanyst", "cxcywh", "ljanyst", "vgg512_cxcywh_sizemajor"),
    ("ssd300-nvidia", "cxcywh", "nvidia", "dboxes300_coco_cxcywh_anchormajor_clip"),
    ("ssd300-torchvision", "cxcywh", "torchvision", "ssd300_vgg16_cxcywh"),
    ("ssd300-torchvision", "px", "torchvision", "ssd300_vgg16_xyxy_px"),
    ("ssdlite320", "cxcywh", "torchvision", "ssdlite320_mnv3l_cxcywh"),
    ("ssdlite320", "px", "torchvision", "ssdlite320_mnv3l_xyxy_px"),
    ("ssd300-voc-mmdet", "px", "mmdet_voc300", "xyxy_px"),
    ("ssd300-coco-mmdet", "px", "mmdet_ssd300", "xyxy_px"),
    ("ssd512-coco-mmdet", "px", "mmdet_ssd512", "xyxy_px"),
    ("ssdlite320-mmdet", "px", "mmdet_ssdlite_mnv2", "xyxy_px"),
    ("ssd300-mobilenet-chuanqi305", "corner", "caffe_mobilenet_ssd_chuanqi305", "corner_noclip"),
    ("ssd300-sgrvinod", "rows", "sgrvinod", "cxcywh"),
    ("ultraface320", "rows", "ultraface_rfb", "cxcywh"),
    ("ultraface320", "rows", "ultraface_slim", "cxcywh"),
    ("faceboxes1024", "rows", "faceboxes", "cxcywh"),
    ("retinaface640", "rows", "retinaface_mobilenet", "cxcywh"),
    ("retinaface840", "rows", "retinaface_resnet50", "cxcywh"),
    ("s3fd640", "rows", "s3fd", "cxcywh"),
]


@pytest.mark.parametrize(("name", "form", "file", "array"), GOLDEN)
def test_agrees_with(name: str, form: str, file: str, array: str, golden) -> None:
    vectors = np.load(golden / f"priors_{file}.npz")
    want, priors = vectors[array], make_priors(PRIORS[name])
    if form == "rows":  # some of them are stored
        assert len(priors) == vectors["count"]
        priors = priors[vectors["prior_idx"]]
    elif form != "cxcywh":
        priors = to_corners(priors)
    scale = PRIORS[name].image_size if form == "px" else 1
    np.testing.assert_allclose(priors * scale, want, atol=1e-6 * scale)


def test_every_file_of_priors_is_compared(golden) -> None:
    assert {path.stem for path in golden.glob("priors_*.npz")} == {f"priors_{file}" for _, _, file, _ in GOLDEN}


def test_caffe_layer_with_corner_clip(golden) -> None:
    want = np.load(golden / "priors_caffe.npz")["voc300_corner_clip"]
    spec = replace(PRIORS["ssd300-voc"], clip="corners")
    np.testing.assert_allclose(to_corners(make_priors(spec)), want, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "array"), [("ssd512-voc-lufficc", "voc512_noclip"), ("ssd320-mobilenet-lufficc", "mobilenetv2_320_noclip")]
)
def test_lufficc_without_its_clip(name: str, array: str, golden) -> None:
    want = np.load(golden / "priors_lufficc.npz")[array]
    np.testing.assert_allclose(make_priors(replace(PRIORS[name], clip="none")), want, atol=1e-6)


def test_priors_per_map_of_chuanqi305(golden) -> None:
    want = np.load(golden / "priors_caffe_mobilenet_ssd_chuanqi305.npz")["per_level"]
    spec = PRIORS["ssd300-mobilenet-chuanqi305"]
    assert [f * f * n for f, n in zip(spec.maps, spec.per_cell, strict=True)] == want.tolist()


@pytest.mark.parametrize("side", [300, 512])
def test_cells_and_grid_of_ljanyst(side: int, golden) -> None:
    peer, spec = np.load(golden / "priors_ljanyst.npz"), PRIORS[f"ssd{side}-ljanyst"]
    priors = make_priors(spec).double().numpy()
    x, y, level = peer[f"vgg{side}_xcell_ycell_map"].T
    cells = np.array(spec.maps)[level]
    np.testing.assert_allclose(priors[:, :2], np.stack([(x + 0.5) / cells, (y + 0.5) / cells], 1), atol=1e-6)
    if side == 300:
        grid = peer["vgg300_int1000_xminxmaxyminymax"]
        corners = to_corners(torch.tensor(priors)).numpy()[:, [0, 2, 1, 3]] * 1000
        # Cut towards zero; float32 may fall on the other side of a whole number.
        assert (np.abs(corners - grid) < 1.001).all()
        assert (np.trunc(corners) == grid).all(1).mean() > 0.97


@pytest.mark.parametrize("name", ["ssd300-nvidia", "ssd1200-mlperf"])
def test_location_major_twin_has_the_same_boxes_by_cell(name: str) -> None:
    spec, ours, twin, start = PRIORS[name], priors_of(name), priors_of(f"{name}-location"), 0
    for cells, boxes in zip(spec.maps, spec.per_cell, strict=True):
        rows = slice(start, start + cells * cells * boxes)
        by_box = ours[rows].reshape(boxes, cells * cells, 4)
        np.testing.assert_array_equal(twin[rows].reshape(cells * cells, boxes, 4), by_box.transpose(1, 0, 2))
        start = rows.stop


def test_mlperf_at_1200_pixels() -> None:
    # Sizes are those of 300 pixels times four; steps are whole pixels, so 1200 / 13 is 92.
    spec = PRIORS["ssd1200-mlperf"]
    assert [int(4 * s) for s in PRIORS["ssd300-coco"].min_sizes] == list(spec.min_sizes)
    assert [1200 // cells for cells in spec.maps] == list(spec.steps or ())


def test_tensorflow_anchors_by_a_loop() -> None:
    want = []
    scales = [0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0]
    for layer, cells in enumerate((19, 10, 5, 3, 2, 1)):
        scale, boxes = scales[layer], [(0.1, 1.0), (0.2, 2.0), (0.2, 0.5)]
        if layer:
            boxes = [(scale, r) for r in (1.0, 2.0, 0.5, 3.0, 1 / 3)] + [(math.sqrt(scale * scales[layer + 1]), 1.0)]
        for y in range(cells):
            for x in range(cells):
                want += [((x + 0.5) / cells, (y + 0.5) / cells, s * math.sqrt(r), s / math.sqrt(r)) for s, r in boxes]
    np.testing.assert_allclose(priors_of("ssd300-tf"), want, atol=1e-6)
    full = tf_object_detection((19, 10), reduce_lowest=False, interpolated_ratio=0.0, scales=(0.3, 0.6))
    assert full.per_cell == (5, 5)
    assert make_priors(full)[0].tolist() == pytest.approx([0.5 / 19, 0.5 / 19, 0.3, 0.3])


def test_tensorflow_anchors_are_those_in_a_published_model(shared) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    path = shared / "weights" / "coco_ssd_mobilenet_v1_quant_detect.tflite"
    if not path.is_file():
        pytest.skip("no model")
    model = interpreter.Interpreter(str(path))
    (anchors,) = [t for t in model.get_tensor_details() if t["name"] == "anchors"]
    scale, zero = anchors["quantization"]
    cycxhw = (model.get_tensor(anchors["index"]).astype(np.float64) - zero) * scale
    # Stored as bytes: half a step of them is the error.
    np.testing.assert_allclose(priors_of("ssd300-tf"), cycxhw[:, [1, 0, 3, 2]], atol=scale * 0.51)


def test_cell_of_caffes_parameters() -> None:
    root = math.sqrt(2)
    assert caffe_cell([30.9]) == ((30.0, 30.0),)
    assert caffe_cell([30.0], ratios=[1.0, 2.0, 2.0], flip=False) == ((30.0, 30.0), (30 * root, 30 / root))
    np.testing.assert_allclose(
        caffe_cell([30.0, 40.0], [60.0, 90.0], [2.0, 0.5]),
        [
            (30, 30),
            (42.42641, 42.42641),
            (42.42641, 21.21320),
            (21.21320, 42.42641),
            (40, 40),
            (60, 60),
            (56.56854, 28.28427),
            (28.28427, 56.56854),
        ],
        atol=1e-4,
    )
    voc = PRIORS["ssd512-voc"]
    cells = [caffe_cell([a], [b], r) for a, b, r in zip(voc.min_sizes, voc.max_sizes, voc.ratios, strict=True)]
    np.testing.assert_allclose(
        make_priors(from_shapes(512, voc.maps, cells, steps=voc.steps or ())), make_priors(voc), atol=1e-6
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: tf_object_detection((19, 10), scales=(0.2,)), "1 scales for 2 maps"),
        (lambda: torchvision_boxes(300, (19,), ((2.0,),), scales=(0.2,)), "1 scales for 1 maps"),
        (lambda: ljanyst_boxes(300, (19,), ((2.0,),), (0.2,)), "1 scales for 1 maps"),
        (lambda: caffe_cell([30.0], [60.0, 90.0]), "2 max sizes for 1 min sizes"),
    ],
)
def test_a_rule_says_what_does_not_fit(wrong, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        wrong()


def test_torchvisions_own_rule_gives_its_scales() -> None:
    spec = torchvision_boxes(320, (20, 10, 5), ((2.0,),) * 3, clip=False)
    assert spec.min_sizes == pytest.approx((48.0, 168.0, 288.0))
    assert spec.max_sizes == pytest.approx((168.0, 288.0, 320.0))
    assert spec.clip == "none"


@pytest.mark.parametrize("side", [300, 512])
def test_paper_formula_of_ljanyst(side: int, golden) -> None:
    size_major = np.load(golden / "priors_ljanyst.npz")[f"vgg{side}_cxcywh_sizemajor"]
    spec, ours, start = PRIORS[f"ssd{side}-paper"], priors_of(f"ssd{side}-paper"), 0
    for cells, boxes in zip(spec.maps, spec.per_cell, strict=True):
        count = cells * cells * boxes
        peer = size_major[start : start + count].reshape(boxes, cells, cells, 4).transpose(1, 2, 0, 3)
        order = [0, 3, 1, 2] if boxes == 4 else [0, 5, 1, 3, 2, 4]  # theirs: 1, ratios, 1/ratios, the larger square
        np.testing.assert_allclose(
            ours[start : start + count].reshape(cells, cells, boxes, 4), peer[:, :, order], atol=1e-6
        )
        start += count


def test_first_prior_and_shapes_of_the_facts() -> None:
    first = to_corners(make_priors(PRIORS["ssd300-voc"]))[0] * 300
    assert first.tolist() == pytest.approx([-11, -11, 19, 19], abs=1e-4)
    shapes = priors_of("ssd300-voc")[:4, 2:] * 300
    np.testing.assert_allclose(
        shapes, [(30, 30), (42.4264, 42.4264), (42.4264, 21.2132), (21.2132, 42.4264)], atol=1e-3
    )
    shapes = priors_of("ssd512-voc")[:3, 2:] * 512
    np.testing.assert_allclose(shapes, [(35, 35), (51.5752, 51.5752), (49.4975, 24.7487)], atol=1e-3)


def test_spec_survives_a_round_trip_through_plain_values() -> None:
    import json

    for spec in PRIORS.values():
        assert PriorSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("change", "says"),
    [({"maps": ((2, 3, 4),) * 6}, "whole number, or height and width"), ({"maps": ((0, 9),) * 6}, "positive sizes"),
     ({"min_sizes": (1.0,)}, "min_sizes has 1 entries"), ({"clip": "maybe"}, "clip 'maybe'"),
     ({"steps": (8.0,)}, "steps has 1 entries"), ({"ratios": ((1.0,),) * 6}, "ratios must be positive and not 1"),
     ({"maps": (0,) * 6}, "positive sizes"), ({"max_sizes": (1.0,) * 6}, "0 < min < max"),
     ({"maps": (100_000, 19, 10, 5, 3, 1)}, "at most"), ({"variances": (0.0, 0.2)}, "variances")],
)  # fmt: skip
def test_an_impossible_spec_says_what_is_wrong(change: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PriorSpec(**{**PRIORS["ssd300-voc"].__dict__, **change})


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(ConfigError, match="ssd300-voc, ssd300-coco"):
        prior_spec("ssd299")


def test_sized_for_any_maps() -> None:
    spec = sized_for((40, 20, 10, 5), 320)
    priors = make_priors(spec)
    assert len(priors) == spec.count == 6 * (1600 + 400 + 100 + 25)
    assert torch.isfinite(priors).all()
    assert priors[0].tolist() == pytest.approx([0.0125, 0.0125, 0.1, 0.1])


@pytest.mark.parametrize("order", ["location", "box"])
@pytest.mark.parametrize("clip", ["none", "corners", "center", "size"])
@pytest.mark.parametrize("steps", [None, (16.0, 32.0, 100.0)])
def test_maps_of_other_proportions_by_a_loop(order: str, clip: str, steps) -> None:
    maps, cells = ((9, 20), (5, 10), (2, 1)), (((30.0, 40.0), (50.0, 20.0)), ((90.0, 60.0),), ((300.0, 140.0),) * 3)
    spec = from_shapes((144, 320), maps, cells, steps or (), clip, order)
    rows = []
    for i, ((high, wide), shapes) in enumerate(zip(maps, cells, strict=True)):
        places = [(r, c) for r in range(high) for c in range(wide)]
        pairs = (
            [(p, s) for p in places for s in shapes]
            if order == "location"
            else [(p, s) for s in shapes for p in places]
        )
        for (row, column), (width, height) in pairs:
            step_x, step_y = (steps[i], steps[i]) if steps else (320 / wide, 144 / high)
            x, y, w, h = (column + 0.5) * step_x / 320, (row + 0.5) * step_y / 144, width / 320, height / 144
            if clip == "center":
                x, y, w, h = (min(max(v, 0.0), 1.0) for v in (x, y, w, h))
            elif clip == "size":
                w, h = min(w, 1.0), min(h, 1.0)
            elif clip == "corners":
                x0, x1, y0, y1 = (min(max(v, 0.0), 1.0) for v in (x - w / 2, x + w / 2, y - h / 2, y + h / 2))
                x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
            rows.append((x, y, w, h))
    assert spec.count == len(rows) == sum(spec.per_map)
    np.testing.assert_allclose(make_priors(spec), np.array(rows), atol=1e-6)
    assert PriorSpec.from_dict(spec.to_dict()) == spec


def test_a_square_is_one_number_however_it_is_given() -> None:
    spec = sized_for((20, (10, 10), 5), (320, 320))
    assert spec == sized_for((20, 10, 5), 320)
    assert (spec.maps, spec.image_size, spec.image, spec.grids[1]) == ((20, 10, 5), 320, (320, 320), (10, 10))
    wide = sized_for(((9, 20), (5, 10)), (144, 320))
    assert wide.min_sizes == sized_for((20, 10), 144).min_sizes  # in parts of the shorter side
    assert wide.grids == wide.maps == ((9, 20), (5, 10))

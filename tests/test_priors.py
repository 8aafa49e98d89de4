"""Default boxes against the public implementations' own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from singleshot.boxes import to_corners
from singleshot.errors import ConfigError
from singleshot.priors import PRIORS, PriorSpec, make_priors, prior_spec, sized_for


def priors_of(name: str) -> np.ndarray:
    return make_priors(PRIORS[name]).numpy()


@pytest.mark.parametrize(
    ("name", "count"),
    [("ssd300-voc", 8732), ("ssd300-coco", 8732), ("ssd512-voc", 24564), ("ssd512-coco", 24564),
     ("ssd300-paper", 8732), ("ssd512-paper", 24564), ("ssd300-mobilenetv2", 3000), ("ssdlite320", 3234)],
)  # fmt: skip
def test_published_counts(name: str, count: int) -> None:
    assert PRIORS[name].count == count == len(priors_of(name))


@pytest.mark.parametrize("name", ["ssd300-voc", "ssd300-coco", "ssd512-voc", "ssd512-coco"])
def test_caffe_layer(name: str, golden) -> None:
    want = np.load(golden / "priors_caffe.npz")[f"{name[7:]}{name[3:6]}_corner_noclip"]
    np.testing.assert_allclose(to_corners(make_priors(PRIORS[name])), want, atol=1e-6)


def test_caffe_layer_with_corner_clip(golden) -> None:
    want = np.load(golden / "priors_caffe.npz")["voc300_corner_clip"]
    spec = PriorSpec(**{**PRIORS["ssd300-voc"].__dict__, "clip": "corners"})
    np.testing.assert_allclose(to_corners(make_priors(spec)), want, atol=1e-6)


def test_centre_clip_of_amdegroot(golden) -> None:
    want = np.load(golden / "priors_amdegroot.npz")["voc300_clip"]
    spec = PriorSpec(**{**PRIORS["ssd300-voc"].__dict__, "clip": "center"})
    np.testing.assert_allclose(make_priors(spec), want, atol=1e-6)


def test_untruncated_sizes_of_lufficc(golden) -> None:
    want = np.load(golden / "priors_lufficc.npz")["voc512_noclip"]
    spec = PriorSpec(**{**PRIORS["ssd512-voc"].__dict__, "truncate": False,
                        "max_sizes": (76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.65)})  # fmt: skip
    np.testing.assert_allclose(make_priors(spec), want, atol=1e-6)


def test_mobilenetv2_of_bubbliiiing(golden) -> None:
    want = np.load(golden / "priors_bubbliiiing.npz")["mobilenetv2_300_corner"]
    np.testing.assert_allclose(to_corners(make_priors(PRIORS["ssd300-mobilenetv2"])), want, atol=1e-6)


def test_ssdlite_of_torchvision(golden) -> None:
    want = np.load(golden / "priors_torchvision.npz")["ssdlite320_mnv3l_cxcywh"]
    np.testing.assert_allclose(priors_of("ssdlite320"), want, atol=1e-6)


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
    [({"min_sizes": (1.0,)}, "min_sizes has 1 entries"), ({"clip": "maybe"}, "clip 'maybe'"),
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

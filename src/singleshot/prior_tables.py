"""The named tables of default boxes of the public implementations, each with its source. No torch here.

`singleshot.priors` is the door with torch; conventions.py says which codebase has which tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

from singleshot.errors import ConfigError
from singleshot.prior_boxes import (
    PriorSpec,
    anchor_shapes,
    caffe_cell,
    from_shapes,
    ljanyst_boxes,
    squares,
    tf_object_detection,
    torchvision_boxes,
)

_MAPS_300 = (38, 19, 10, 5, 3, 1)
_MAPS_512 = (64, 32, 16, 8, 4, 2, 1)
_MAPS_LITE = (20, 10, 5, 3, 2, 1)  # of 320 pixels
_MAPS_MOBILE = (19, 10, 5, 3, 2, 1)  # of 300 pixels, the first at stride 16
_STEPS_300 = (8.0, 16.0, 32.0, 64.0, 100.0, 300.0)
_STEPS_512 = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
_STEPS_LITE = (16.0, 32.0, 64.0, 107.0, 160.0, 320.0)
_STEPS_MOBILE = (16.0, 32.0, 64.0, 100.0, 150.0, 300.0)
_RATIOS_300 = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
_RATIOS_512 = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
_RATIOS_LITE = ((2.0, 3.0),) * 6

_VOC_300 = (30.0, 60.0, 111.0, 162.0, 213.0, 264.0, 315.0)
_COCO_300 = (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0)
_VOC_512 = (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6)
_COCO_512 = (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)
_MOBILE = (60.0, 105.0, 150.0, 195.0, 240.0, 285.0, 330.0)


def _vgg(
    side: int, sizes: tuple[float, ...], steps: bool = True, truncate: bool = False, clip: str = "none"
) -> PriorSpec:
    """The maps and ratios of SSD300 or SSD512 on VGG16; `steps`: Caffe's, rather than those of the maps."""
    maps, strides, ratios = (
        (_MAPS_300, _STEPS_300, _RATIOS_300) if side == 300 else (_MAPS_512, _STEPS_512, _RATIOS_512)
    )
    return PriorSpec(
        image_size=side,
        maps=maps,
        min_sizes=sizes[:-1],
        max_sizes=sizes[1:],
        ratios=ratios,
        steps=strides if steps else None,
        truncate=truncate,
        clip=clip,
    )


def _mobile(
    side: int, maps: tuple[int, ...], sizes: tuple[float, ...], steps: tuple[float, ...] | None, clip: str
) -> PriorSpec:
    """Six maps with ratios 2 and 3 on each, as the MobileNets have them."""
    return PriorSpec(
        image_size=side,
        maps=maps,
        min_sizes=sizes[:-1],
        max_sizes=sizes[1:],
        ratios=_RATIOS_LITE,
        steps=steps,
        clip=clip,
    )


def _aizoo(side: int, maps: tuple[int, ...]) -> PriorSpec:
    """utils/anchor_generator.py, generate_anchors: two squares, and ratios .62 and .42 of the first."""
    cells = [
        anchor_shapes(((small, 1.0), (large, 1.0), (small, 0.62), (small, 0.42)), side)
        for small, large in ((0.04, 0.056), (0.08, 0.11), (0.16, 0.22), (0.32, 0.45), (0.64, 0.72))
    ]
    return from_shapes(side, maps, cells)


def _ssd7_cell(scale: float, following: float) -> tuple[tuple[float, float], ...]:
    """keras_layer_AnchorBoxes.py: ratios .5, 1 (two boxes) and 2, in parts of the shorter side."""
    return anchor_shapes(((scale, 0.5), (scale, 1.0), (math.sqrt(scale * following), 1.0), (scale, 2.0)), 300)


def _sgrvinod_cell(low: float, between: float, ratios: tuple[float, ...]) -> list[tuple[float, float]]:
    """model.py, create_prior_boxes: (width, height) of a cell's boxes in parts of the side."""
    return [(low, low), (between, between), *((low * math.sqrt(r), low / math.sqrt(r)) for r in ratios)]


def _scales(side: int, *scales: float) -> tuple[float, ...]:
    return tuple(round(side * s, 6) for s in scales)


# NVIDIA DeepLearningExamples, PyTorch/Detection/SSD/ssd/utils.py dboxes300_coco, and MLPerf's ssd-v1 with the same
# numbers: all cells of a map's first box, then of its second; centre form clamped to 0..1.
_NVIDIA = replace(_vgg(300, _COCO_300, clip="center"), order="box")

# MLPerf inference, ssd_resnet34 of 1200 x 1200 (dboxes_R34_coco): sizes and steps cut to whole pixels.
_MLPERF_1200 = PriorSpec(
    image_size=1200,
    maps=(50, 25, 13, 7, 3, 3),
    min_sizes=(84.0, 180.0, 396.0, 612.0, 828.0, 1044.0),
    max_sizes=(180.0, 396.0, 612.0, 828.0, 1044.0, 1260.0),
    ratios=_RATIOS_300,
    steps=(24.0, 48.0, 92.0, 171.0, 400.0, 400.0),
    clip="center",
    order="box",
)

# chuanqi305/MobileNet-SSD, voc/MobileNetSSD_deploy.prototxt: min_size and max_size of each map's PriorBox; none of the
# first map, so three boxes there. No step, so the maps' own.
CHUANQI305_SIZES = (
    ((60.0,), ()),
    ((105.0,), (150.0,)),
    ((150.0,), (195.0,)),
    ((195.0,), (240.0,)),
    ((240.0,), (285.0,)),
    ((285.0,), (300.0,)),
)
_CHUANQI305 = from_shapes(
    300, _MAPS_MOBILE, [caffe_cell(low, high, [2.0, 3.0] if high else [2.0]) for low, high in CHUANQI305_SIZES]
)

# sgrvinod's tutorial: a third as .333, the last map's larger square of the whole side.
_SGRVINOD_SCALES = (0.1, 0.2, 0.375, 0.55, 0.725, 0.9)
_SGRVINOD = from_shapes(
    300,
    _MAPS_300,
    [
        tuple((w * 300, h * 300) for w, h in _sgrvinod_cell(low, between, ratios))
        for low, between, ratios in zip(
            _SGRVINOD_SCALES,
            [*(math.sqrt(a * b) for a, b in pairwise(_SGRVINOD_SCALES)), 1.0],
            [(2.0, 0.5), *[(2.0, 3.0, 0.5, 0.333)] * 3, (2.0, 0.5), (2.0, 0.5)],
            strict=True,
        )
    ],
    clip="center",
)

_ULTRAFACE_SIZES = squares((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))


def _faceboxes(sixteen: Iterable[tuple[float, float]], four: Iterable[tuple[float, float]]) -> PriorSpec:
    """FaceBoxes' (section 3.2), whose anchors of 32 and 64 pixels stand four and two times as densely as those of 128.
    sixteen, four: where those of 32 and 64 stand, in cells of 32 pixels."""
    spec = from_shapes(
        1024, (32, 16, 8), squares((32,) * 16 + (64,) * 4 + (128,), (256,), (512,)), steps=(32.0, 64.0, 128.0)
    )
    return replace(spec, centres=((*sixteen, *four, (0.5, 0.5)), ((0.5, 0.5),), ((0.5, 0.5),)))


# Row by row from the cell's corner.
_FACEBOXES = _faceboxes(
    [(x / 4, y / 4) for y in range(4) for x in range(4)], [(x / 2, y / 2) for y in range(2) for x in range(2)]
)
# lxg2015/faceboxes: of the larger squares one a cell, of the others by columns; centres -3 -1 1 3 eighths of 32 away.
_BY_COLUMNS = [(0.125 + x / 4, 0.125 + y / 4) for x in range(4) for y in range(4)]
_FACEBOXES_LXG = _faceboxes(_BY_COLUMNS, [(0.25 + x / 2, 0.25 + y / 2) for x in range(2) for y in range(2)])
# TropComplique/FaceBoxes-tensorflow: by columns; those of 64 pixels stand half a square away from the cell's centre.
_FACEBOXES_TF = replace(
    _faceboxes(_BY_COLUMNS, [(float(x), float(y)) for x in range(2) for y in range(2)]), clip="corners"
)
# d2l's multibox_prior with two sizes and the ratios 1, 2 and 1/2 of the first.
_TINY_SIZES = ((0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961))
_TINY = from_shapes(
    256,
    (32, 16, 8, 4, 1),
    tuple(
        tuple((256 * w, 256 * h) for w, h in ((s, s), (t, t), (s * 2**0.5, s * 0.5**0.5), (s * 0.5**0.5, s * 2**0.5)))
        for s, t in _TINY_SIZES
    ),
)
_RETINAFACE_SIZES, _RETINAFACE_STEPS = squares((16, 32), (64, 128), (256, 512)), (8.0, 16.0, 32.0)

# name: (where it comes from, the table)
_SSD7 = replace(
    from_shapes(
        (300, 480),
        ((37, 60), (18, 30), (9, 15), (4, 7)),
        [_ssd7_cell(*pair) for pair in pairwise((0.08, 0.16, 0.32, 0.64, 0.96))],
    ),
    variances=(1.0, 1.0),
)
_TABLES: dict[str, tuple[str, PriorSpec]] = {
    # Caffe truncates sizes to whole pixels, which only SSD512 notices (prior_box_layer.cpp:149,163).
    "ssd300-voc": (
        "Caffe examples/ssd/ssd_pascal.py:299-328, the paper's VOC models",
        _vgg(300, _VOC_300, truncate=True),
    ),
    "ssd300-coco": ("Caffe examples/ssd/ssd_coco.py:310-320", _vgg(300, _COCO_300, truncate=True)),
    "ssd512-voc": ("Caffe examples/ssd/ssd_pascal_512.py", _vgg(512, _VOC_512, truncate=True)),
    "ssd512-coco": ("Caffe examples/ssd/ssd_coco_512.py", _vgg(512, _COCO_512, truncate=True)),
    # s_min .2, s_max .9 over five maps, conv4_3 at .1 (300) or .07, .15 (512), centres (i + .5) / map.
    "ssd300-paper": (
        "the paper's section 2.2 as a formula",
        _vgg(300, _scales(300, 0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.075), steps=False),
    ),
    "ssd512-paper": (
        "the paper's section 2.2 as a formula",
        _vgg(512, _scales(512, 0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05), steps=False),
    ),
    # utils/anchors.py get_anchors with the backbone mobilenetv2: the VOC sizes on six other maps.
    "ssd300-mobilenetv2": (
        "bubbliiiing/ssd-pytorch utils/anchors.py, mobilenetv2",
        _mobile(300, _MAPS_MOBILE, _VOC_300, None, "corners"),
    ),
    "ssdlite320": (
        "torchvision ssdlite320_mobilenet_v3_large",
        torchvision_boxes(320, _MAPS_LITE, _RATIOS_LITE, min_ratio=0.2, max_ratio=0.95),
    ),
    # A map at stride 8 before those of SSDLite, with half-size boxes, for objects from a twentieth of the side.
    "ssdlite320-fine": (
        "ours, for small objects",
        PriorSpec(
            image_size=320,
            maps=(40, *_MAPS_LITE),
            min_sizes=_scales(320, 0.06, 0.14, 0.26, 0.41, 0.56, 0.71, 0.86),
            max_sizes=_scales(320, 0.14, 0.26, 0.41, 0.56, 0.71, 0.86, 1.01),
            ratios=_RATIOS_512,
        ),
    ),
    # layers/functions/prior_box.py and data/config.py; lufficc's PriorBox and qfgaohao's vgg_ssd_config agree.
    "ssd300-voc-amdegroot": (
        "amdegroot/ssd.pytorch data/config.py voc; lufficc and qfgaohao on VGG16",
        _vgg(300, _VOC_300, clip="center"),
    ),
    "ssd300-coco-amdegroot": (
        "amdegroot/ssd.pytorch data/config.py coco; lufficc on VGG16",
        _vgg(300, _COCO_300, clip="center"),
    ),
    "ssd512-voc-lufficc": (  # the last max of 537.65 is in the file; 537.6 was meant
        "lufficc/SSD configs/vgg_ssd512_voc0712.yaml",
        _vgg(512, (*_VOC_512[:-1], 537.65), clip="center"),
    ),
    "ssd512-coco-lufficc": (
        "lufficc/SSD configs/vgg_ssd512_coco_trainval35k.yaml",
        _vgg(512, _COCO_512, clip="center"),
    ),
    "ssd320-mobilenet-lufficc": (
        "lufficc/SSD configs/mobilenet_v2_ssd320_voc0712.yaml, and v3",
        _mobile(320, _MAPS_LITE, _MOBILE, _STEPS_LITE, "center"),
    ),
    "ssd300-mobilenet-qfgaohao": (
        "qfgaohao/pytorch-ssd vision/ssd/config/mobilenetv1_ssd_config.py, for mb1, mb2 and mb3 too",
        _mobile(300, _MAPS_MOBILE, _MOBILE, _STEPS_MOBILE, "center"),
    ),
    "ssd300-squeezenet-qfgaohao": (
        "qfgaohao/pytorch-ssd vision/ssd/config/squeezenet_ssd_config.py",
        _mobile(300, (17, *_MAPS_MOBILE[1:]), _MOBILE, _STEPS_MOBILE, "center"),
    ),
    # ssd_input_encoder.py with the scales of the training notebooks: no truncation, .37 of 300 rather than .375.
    "ssd300-voc-keras": ("pierluigiferrari/ssd_keras ssd300_training.ipynb, scales_pascal", _vgg(300, _VOC_300)),
    "ssd300-coco-keras": ("pierluigiferrari/ssd_keras ssd300_training.ipynb, scales_coco", _vgg(300, _COCO_300)),
    "ssd512-voc-keras": ("pierluigiferrari/ssd_keras models/keras_ssd512.py, Pascal", _vgg(512, _VOC_512)),
    "ssd512-coco-keras": ("pierluigiferrari/ssd_keras models/keras_ssd512.py, COCO", _vgg(512, _COCO_512)),
    # default_params.anchor_sizes: the COCO sizes, for models of VOC as well.
    "ssd300-balancap": ("balancap/SSD-Tensorflow nets/ssd_vgg_300.py, 21/45 for VOC too", _vgg(300, _COCO_300)),
    "ssd512-balancap": ("balancap/SSD-Tensorflow nets/ssd_vgg_512.py", _vgg(512, _COCO_512)),
    "ssd300-ljanyst": (
        "ljanyst/ssd-tensorflow ssdutils.py vgg300, size-major",
        ljanyst_boxes(300, _MAPS_300, _RATIOS_300, (0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.075)),
    ),
    "ssd512-ljanyst": (
        "ljanyst/ssd-tensorflow ssdutils.py vgg512, size-major",
        ljanyst_boxes(512, _MAPS_512, _RATIOS_512, (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05)),
    ),
    # Centres those of the maps, whatever Caffe's steps.
    "ssd300-voc-bubbliiiing": (
        "bubbliiiing/ssd-pytorch utils/anchors.py, vgg and resnet50",
        _vgg(300, _VOC_300, steps=False, clip="corners"),
    ),
    "ssd300-coco-bubbliiiing": (
        "bubbliiiing/ssd-pytorch utils/anchors.py with 21, 45, ..",
        _vgg(300, _COCO_300, steps=False, clip="corners"),
    ),
    "ssd300-nvidia": ("NVIDIA DeepLearningExamples and MLPerf dboxes300_coco, box-major", _NVIDIA),
    "ssd300-nvidia-location": ("the same boxes, location-major", replace(_NVIDIA, order="location")),
    "ssd1200-mlperf": ("MLPerf inference ssd_resnet34 dboxes_R34_coco, box-major", _MLPERF_1200),
    "ssd1200-mlperf-location": ("the same boxes, location-major", replace(_MLPERF_1200, order="location")),
    "ssd300-torchvision": (
        "torchvision ssd300_vgg16",
        torchvision_boxes(
            300, _MAPS_300, _RATIOS_300, scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), steps=_STEPS_300
        ),
    ),
    # SSDAnchorGenerator cuts sizes to whole pixels from basesize_ratio_range, which comes to Caffe's numbers.
    "ssd300-voc-mmdet": (
        "mmdetection SSDAnchorGenerator, basesize_ratio_range (.2, .9)",
        _vgg(300, _VOC_300, truncate=True),
    ),
    "ssd300-coco-mmdet": ("mmdetection configs/ssd/ssd300_coco.py", _vgg(300, _COCO_300, truncate=True)),
    "ssd512-voc-mmdet": ("mmdetection SSDAnchorGenerator, 512 pixels, (.15, .9)", _vgg(512, _VOC_512, truncate=True)),
    "ssd512-coco-mmdet": ("mmdetection configs/ssd/ssd512_coco.py", _vgg(512, _COCO_512, truncate=True)),
    "ssdlite320-mmdet": (
        "mmdetection configs/ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py",
        _mobile(320, _MAPS_LITE, (48.0, 100.0, 150.0, 202.0, 253.0, 304.0, 320.0), _STEPS_LITE, "none"),
    ),
    "ssd300-mobilenet-chuanqi305": ("chuanqi305/MobileNet-SSD voc/MobileNetSSD_deploy.prototxt", _CHUANQI305),
    "ssd300-tf": (
        "TensorFlow Object Detection API ssd_anchor_generator, 300 pixels",
        tf_object_detection(_MAPS_MOBILE, 300),
    ),
    "ssd320-tf": (
        "TensorFlow Object Detection API ssd_anchor_generator, 320 pixels",
        tf_object_detection(_MAPS_LITE, 320),
    ),
    "ssd480-keras-ssd7": ("pierluigiferrari/ssd_keras ssd7_training.ipynb, 480 x 300", _SSD7),
    "ssd260-aizoo": ("AIZOOTech/FaceMaskDetection keras_infer.py, 260 pixels", _aizoo(260, (33, 17, 9, 5, 3))),
    "ssd360-aizoo": ("the same, 360 pixels (pytorch_infer.py)", _aizoo(360, (45, 23, 12, 6, 4))),
    "ssd300-sgrvinod": ("sgrvinod/a-PyTorch-Tutorial-to-Object-Detection model.py", _SGRVINOD),
    "ultraface320": (
        "Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB vision/ssd/config/fd_config.py, 320 x 240",
        from_shapes((240, 320), ((30, 40), (15, 20), (8, 10), (4, 5)), _ULTRAFACE_SIZES, clip="center"),
    ),
    "ultraface640": (
        "the same, 640 x 480",
        from_shapes((480, 640), ((60, 80), (30, 40), (15, 20), (8, 10)), _ULTRAFACE_SIZES, clip="center"),
    ),
    "faceboxes1024": ("zisianw/FaceBoxes.PyTorch layers/functions/prior_box.py at 1024 pixels", _FACEBOXES),
    "faceboxes1024-lxg2015": ("lxg2015/faceboxes encoderl.py", _FACEBOXES_LXG),
    "faceboxes1024-tensorflow": ("TropComplique/FaceBoxes-tensorflow src/anchor_generator.py", _FACEBOXES_TF),
    "tinyssd256": ("d2l-ai/d2l-en chapter_computer-vision/ssd.md, 256 pixels", _TINY),
    "retinaface640": (
        "biubug6/Pytorch_Retinaface data/config.py, cfg_mnet",
        from_shapes(640, (80, 40, 20), _RETINAFACE_SIZES, _RETINAFACE_STEPS),
    ),
    "retinaface840": (
        "biubug6/Pytorch_Retinaface data/config.py, cfg_re50",
        from_shapes(840, (105, 53, 27), _RETINAFACE_SIZES, _RETINAFACE_STEPS),
    ),
    "face1mb320": (
        "biubug6/Face-Detector-1MB-with-landmark data/config.py, cfg_rfb and cfg_slim at 320 pixels",
        from_shapes(320, (40, 20, 10, 5), _ULTRAFACE_SIZES, (8.0, 16.0, 32.0, 64.0)),
    ),
    "face1mb-mobilenet640": (
        "the same, cfg_mnet at 640 pixels",
        from_shapes(640, (80, 40, 20), squares((10, 20), (32, 64), (128, 256)), _RETINAFACE_STEPS),
    ),
    "blazeface320-zineos": (
        "zineos/blazeface config/config.py, cfg_blaze at 320 pixels",
        from_shapes(320, (40, 20), squares((8, 11), (14, 19, 26, 38, 64, 149)), (8.0, 16.0)),
    ),
    "s3fd640": (
        "yxlijun/S3FD.pytorch data/config.py at 640 pixels",
        from_shapes(
            640,
            (160, 80, 40, 20, 10, 5),
            squares((16,), (32,), (64,), (128,), (256,), (512,)),
            steps=(4.0, 8.0, 16.0, 32.0, 64.0, 128.0),
        ),
    ),
}

PRIORS: dict[str, PriorSpec] = {name: spec for name, (_, spec) in _TABLES.items()}
SOURCES: dict[str, str] = {name: source for name, (source, _) in _TABLES.items()}


def prior_spec(name: str) -> PriorSpec:
    """The table of that name. Raises ConfigError that lists the names."""
    if name not in PRIORS:
        raise ConfigError(f"priors {name!r}: want one of {', '.join(PRIORS)}")
    return PRIORS[name]

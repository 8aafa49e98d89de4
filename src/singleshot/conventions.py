"""What each public codebase of SSD does, stated once: default boxes, offsets, input, detection, weight decay.

Importers take their constants from here, `--rule` its detection rules, docs/variants.md its tables. Every value is read
from the codebase's own files, which `Convention.sources` names; face detectors: conventions_faces.py. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from singleshot.convention_records import Convention, Offsets, WeightDecay
from singleshot.conventions_faces import FACES
from singleshot.errors import ConfigError, did_you_mean, printable
from singleshot.inputs import CAFFE_MEAN, IMAGENET_MEAN, IMAGENET_STD, InputSpec
from singleshot.thresholds import NO_CAP, Thresholds

_Entry = TypeVar("_Entry")
_ONE, _HALF = (1.0,) * 3, (127.5,) * 3
# What the sample configurations of TensorFlow's Object Detection API write for a third, and in which order.
TF_SAMPLE_RATIOS = (1.0, 2.0, 0.5, 3.0, 0.3333)
# models/ssd_resnet_v1_fpn_*feature_extractor.py, preprocess: slim's means for VGG and ResNet, RGB.
RESNET_MEAN = (123.68, 116.779, 103.939)
# mmdetection's SSDLite and torchvision's: eps and momentum of every batch normalisation.
LITE_NORM_EPS, LITE_NORM_MOMENTUM = 0.001, 0.03


def data_of(num_classes: int) -> str:
    """ "coco" for a model of COCO's 80 classes, else "voc": whose default boxes a file without a word on it has."""
    return "coco" if num_classes == 80 else "voc"


def _vgg_inputs(*networks: str, colour_order: str = "rgb") -> dict[str, InputSpec]:
    """Caffe's mean, for networks whose name begins with ssd and the side of their input."""
    return {name: InputSpec(int(name[3:6]), colour_order=colour_order, mean=CAFFE_MEAN) for name in networks}


def _imagenet(size: int, std: tuple[float, float, float] = IMAGENET_STD) -> InputSpec:
    return InputSpec(size, mean=IMAGENET_MEAN, std=std)


_EVERYTHING = WeightDecay(5e-4, "everything")

CAFFE = Convention(
    project="weiliu89/caffe, branch ssd",
    priors={name: name for name in ("ssd300-voc", "ssd300-coco", "ssd512-voc", "ssd512-coco")},
    inputs=_vgg_inputs("ssd300", "ssd512", colour_order="bgr"),
    detection={"caffe": Thresholds(score_min=0.01, nms_iou=0.45, per_class=400, keep=200)},
    matching="caffe",
    loss="caffe",
    decay=WeightDecay(5e-4, "all-but-biases", 2.0, "decay_mult 0 on biases"),
    sources={
        "priors": "examples/ssd/ssd_pascal.py, ssd_coco.py; prior_box_layer.cpp",
        "detection": "examples/ssd/ssd_pascal.py, det_out_param; detection_output_layer.cpp",
        "decay": "examples/ssd/ssd_pascal.py, solver_param; model_libs.py",
    },
)
CHUANQI305 = Convention(
    project="chuanqi305/MobileNet-SSD",
    priors={"ssd300": "ssd300-mobilenet-chuanqi305"},
    inputs={"ssd300": InputSpec(300, colour_order="bgr", mean=_HALF, std=(1 / 0.007843,) * 3)},
    detection={"chuanqi305": Thresholds(score_min=0.25, nms_iou=0.45, per_class=100, keep=100)},
    matching="caffe",
    loss="caffe",
    sources={
        "priors": "MobileNetSSD_deploy.prototxt",
        "input": "demo.py, preprocess",
        "detection": "MobileNetSSD_deploy.prototxt, detection_output_param",
    },
)
AMDEGROOT = Convention(
    project="amdegroot/ssd.pytorch",
    priors={"ssd300-voc": "ssd300-voc-amdegroot", "ssd300-coco": "ssd300-coco-amdegroot"},
    inputs=_vgg_inputs("ssd300"),
    # 200 of each class enter NMS; nothing is limited over classes (the last fill of Detect acts on a copy).
    detection={"amdegroot": Thresholds(score_min=0.01, nms_iou=0.45, per_class=200, keep=NO_CAP)},
    matching="forced",
    loss="caffe",
    decay=_EVERYTHING,
    sources={
        "priors": "data/config.py, layers/functions/prior_box.py",
        "detection": "ssd.py: Detect(num_classes, 0, 200, 0.01, 0.45); layers/functions/detection.py",
        "decay": "train.py",
    },
)
LUFFICC = Convention(
    project="lufficc/SSD",
    priors={
        "ssd300-voc": "ssd300-voc-amdegroot",
        "ssd300-coco": "ssd300-coco-amdegroot",
        "ssd512-voc": "ssd512-voc-lufficc",
        "ssd512-coco": "ssd512-coco-lufficc",
        "ssdlite320": "ssd320-mobilenet-lufficc",
    },
    inputs=_vgg_inputs("ssd300", "ssd512") | {"ssdlite320": InputSpec(320, mean=CAFFE_MEAN)},
    detection={"lufficc": Thresholds(score_min=0.01, nms_iou=0.45, per_class=NO_CAP, keep=100)},
    matching="forced",
    loss="caffe",
    decay=_EVERYTHING,
    sources={
        "priors": "configs/*.yaml",
        "detection": "ssd/config/defaults.py, TEST",
        "decay": "ssd/config/defaults.py, SOLVER",
    },
)
BUBBLIIIING = Convention(
    project="bubbliiiing/ssd-pytorch",
    priors={
        "ssd300-voc": "ssd300-voc-bubbliiiing",
        "ssd300-coco": "ssd300-coco-bubbliiiing",
        "ssd300-mobilenetv2": "ssd300-mobilenetv2",
    },
    # utils/utils.py preprocess_input: the means of B, G, R taken off R, G, B. ssd.py: letterbox_image False.
    inputs={"ssd300": InputSpec(300, mean=(104.0, 117.0, 123.0))},
    detection={
        "bubbliiiing": Thresholds(score_min=0.02, nms_iou=0.5, per_class=NO_CAP, keep=NO_CAP, clip=True, show_min=0.5),
        # ssd.py; decode_box's own default of .3 is never used.
        "bubbliiiing-predict": Thresholds(
            score_min=0.5, nms_iou=0.45, per_class=NO_CAP, keep=NO_CAP, clip=True, show_min=0.5
        ),
    },
    matching="fallback",
    loss="batch",
    decay=_EVERYTHING,
    sources={
        "priors": "utils/anchors.py",
        "input": "utils/utils.py, preprocess_input",
        "detection": "get_map.py; ssd.py",
        "decay": "train.py",
    },
)
QFGAOHAO = Convention(
    project="qfgaohao/pytorch-ssd",
    priors={
        "vgg16-ssd": "ssd300-voc-amdegroot",
        "mb1-ssd": "ssd300-mobilenet-qfgaohao",
        "sq-ssd-lite": "ssd300-squeezenet-qfgaohao",
    },
    inputs={
        "vgg16-ssd": InputSpec(300, mean=CAFFE_MEAN),
        "mb1-ssd": InputSpec(300, mean=(127.0,) * 3, std=(128.0,) * 3),
    },
    # candidate_size of each class before NMS; top_k of -1 after it.
    detection={"qfgaohao": Thresholds(score_min=0.01, nms_iou=0.45, per_class=200, keep=NO_CAP)},
    matching="forced",
    loss="caffe",
    decay=_EVERYTHING,
    sources={
        "priors": "vision/ssd/config/*.py; vision/utils/box_utils.py, generate_ssd_priors",
        "input": "vision/ssd/config/*.py",
        "detection": "vision/ssd/predictor.py",
        "decay": "train_ssd.py",
    },
)
SGRVINOD = Convention(
    project="sgrvinod/a-PyTorch-Tutorial-to-Object-Detection",
    priors={"ssd300": "ssd300-sgrvinod"},
    inputs={"ssd300": _imagenet(300)},
    detection={"sgrvinod": Thresholds(score_min=0.01, nms_iou=0.45, per_class=NO_CAP, keep=200)},
    matching="index",
    decay=WeightDecay(5e-4, "everything", 2.0),
    sources={
        "priors": "model.py, create_prior_boxes",
        "input": "datasets.py; utils.py, transform",
        "detection": "eval.py; model.py, detect_objects",
        "decay": "train.py",
    },
)
SSD_KERAS = Convention(
    project="pierluigiferrari/ssd_keras",
    priors={f"ssd{side}-{data}": f"ssd{side}-{data}-keras" for side in (300, 512) for data in ("voc", "coco")}
    | {"ssd7": "ssd480-keras-ssd7"},
    inputs=_vgg_inputs("ssd300", "ssd512", colour_order="bgr")
    | {"ssd7": InputSpec(height=300, width=480, mean=_HALF, std=_HALF)},
    detection={
        # nms_max_output_size 400 of the layer DecodeDetections: of each class, after NMS.
        "ssd_keras": Thresholds(score_min=0.01, nms_iou=0.45, per_class=NO_CAP, keep_per_class=400, keep=200),
        # decode_detections_fast: the background may be a prior's best class, and then the prior finds nothing.
        "ssd_keras-fast": Thresholds(score_min=0.5, nms_iou=0.45, keep=NO_CAP, class_agnostic=True),
    },
    matching="caffe",
    loss="batch-mean",
    decay=WeightDecay(
        1e-3, "convolutions", note="a term l2_reg * w² of the loss, without a half: its .0005 is .001 here"
    ),
    sources={
        "priors": "ssd300_training.ipynb; ssd7_training.ipynb; models/keras_ssd512.py; "
        "ssd_encoder_decoder/ssd_input_encoder.py",
        "detection": "ssd_encoder_decoder/ssd_output_decoder.py; keras_layers/keras_layer_DecodeDetections.py",
        "decay": "models/keras_ssd300.py, l2_regularization",
    },
)
BALANCAP = Convention(
    project="balancap/SSD-Tensorflow",
    priors={"ssd300": "ssd300-balancap", "ssd512": "ssd512-balancap"},
    inputs=_vgg_inputs("ssd300", "ssd512"),
    detection={
        # eval_ssd_network.py: select_top_k before NMS, keep_top_k of each class after it.
        "balancap": Thresholds(score_min=0.01, nms_iou=0.45, per_class=400, keep_per_class=200, keep=NO_CAP),
        "balancap-predict": Thresholds(
            score_min=0.5, nms_iou=0.45, per_class=NO_CAP, candidates=400, keep=NO_CAP, clip=True
        ),
    },
    matching="threshold",
    loss="batch-size",
    decay=WeightDecay(None, "convolutions", note="a term of the loss; its commands differ in the value"),
    sources={
        "priors": "nets/ssd_vgg_300.py, default_params",
        "input": "preprocessing/ssd_vgg_preprocessing.py",
        "detection": "eval_ssd_network.py; nets/np_methods.py, as the notebook calls it",
        "decay": "README.md",
    },
)
LJANYST = Convention(
    project="ljanyst/ssd-tensorflow",
    priors={"ssd300": "ssd300-ljanyst", "ssd512": "ssd512-ljanyst"},
    inputs={},  # the mean is inside the VGG16 file that it starts from
    # Its NMS rounds to a grid of 1000 x 1000.
    detection={
        "ljanyst": Thresholds(score_min=0.5, nms_iou=0.45, best_class=True, candidates=200, keep=200, clip=True)
    },
    matching="threshold-best",
    loss="per-image",
    decay=WeightDecay(5e-4, "convolutions", note="a term of the loss"),
    offsets=Offsets(background="last", note="factors of 10 and 5 in place of variances"),
    sources={
        "priors": "ssdutils.py",
        "detection": "train.py, infer.py; ssdutils.py, decode_boxes",
        "decay": "ssdvgg.py, build_optimizer",
    },
)
TORCHVISION = Convention(
    project="torchvision",
    priors={"ssd300": "ssd300-torchvision", "ssdlite320": "ssdlite320"},
    inputs={
        # ssd300_vgg16: image_mean of values in 0..1, image_std 1/255. ssdlite320: values of 0..1 become -1..1.
        "ssd300": InputSpec(300, mean=(0.48235 * 255, 0.45882 * 255, 0.40784 * 255), std=_ONE),
        "ssdlite320": InputSpec(320, mean=_HALF, std=_HALF),
    },
    detection={
        "torchvision": Thresholds(score_min=0.01, nms_iou=0.45, per_class=400, keep=200, clip=True),
        "torchvision-lite": Thresholds(score_min=0.001, nms_iou=0.55, per_class=300, keep=300, clip=True),
    },
    matching="index",
    loss="caffe",
    decay=WeightDecay(5e-4, "everything", note="ssdlite320: 4e-5"),
    offsets=Offsets(note="weights 10 10 5 5 in place of variances; log sizes at most log(1000 / 16)"),
    sources={
        "priors": "models/detection/anchor_utils.py, DefaultBoxGenerator",
        "input": "models/detection/ssd.py, ssdlite.py",
        "detection": "models/detection/ssd.py, ssdlite.py",
        "decay": "references/detection/README.md",
    },
)
MMDET = Convention(
    project="open-mmlab/mmdetection",
    priors={f"ssd{side}-{data}": f"ssd{side}-{data}-mmdet" for side in (300, 512) for data in ("voc", "coco")}
    | {"ssdlite320": "ssdlite320-mmdet"},
    inputs={"ssd300": _imagenet(300, _ONE), "ssd512": _imagenet(512, _ONE), "ssdlite320": _imagenet(320)},
    # Its nms_pre counts pairs of prior and class of each map; its decoder clips boxes (clip_border).
    detection={"mmdet": Thresholds(score_min=0.02, nms_iou=0.45, per_class=1000, keep=200, clip=True)},
    matching="index",
    loss="caffe",
    decay=WeightDecay(5e-4, "everything"),
    offsets=Offsets(background="last", note="log sizes are limited when decoded"),
    sources={
        "priors": "configs/ssd/*.py; SSDAnchorGenerator",
        "input": "configs/ssd/*.py, data_preprocessor",
        "detection": "configs/_base_/models/ssd300.py, test_cfg",
        "decay": "configs/ssd/ssd300_coco.py, optimizer",
    },
)
NVIDIA = Convention(
    project="NVIDIA DeepLearningExamples, PyTorch/Detection/SSD; MLPerf training, ssd-v1",
    # Theirs are written box by box, ours cell by cell, and an importer sorts the heads.
    priors={"ssd300": "ssd300-nvidia-location", "ssd1200": "ssd1200-mlperf-location"},
    inputs={"ssd300": _imagenet(300)},
    detection={
        "nvidia": Thresholds(score_min=0.05, nms_iou=0.45, per_class=200, keep=200),
        "nvidia-eval": Thresholds(score_min=0.05, nms_iou=0.5, per_class=200, keep=200),
    },
    matching="forced",
    loss="per-image",
    offsets=Offsets(note="written coordinate by coordinate for all boxes of a cell"),
    sources={
        "priors": "ssd/utils.py, dboxes300_coco",
        "detection": "ssd/utils.py, decode_batch, decode_single; ssd/evaluate.py calls it with .50",
    },
)
TF_OBJECT_DETECTION = Convention(
    project="TensorFlow Object Detection API",
    priors={"ssd300": "ssd300-tf", "ssd320": "ssd320-tf"},
    inputs={"ssd300": InputSpec(300, mean=_HALF, std=_HALF), "ssd320": InputSpec(320, mean=_HALF, std=_HALF)},
    detection={
        # max_detections_per_class counts after NMS. It clips after NMS.
        "tf-object-detection": Thresholds(
            score_min=1e-8, nms_iou=0.6, per_class=NO_CAP, keep_per_class=100, keep=100, activation="sigmoid"
        ),
        # TFLite_Detection_PostProcess as export_tflite_ssd_graph.py sets it: the best real class of each prior, NMS
        # across classes. With use_regular_nms: NMS in each class, the best detections_per_class of each after it.
        "tflite": Thresholds(
            score_min=1e-8,
            nms_iou=0.6,
            per_class=NO_CAP,
            keep=10,
            class_agnostic=True,
            activation="sigmoid",
            background_competes=False,
        ),
        "tflite-regular": Thresholds(
            score_min=1e-8, nms_iou=0.6, per_class=NO_CAP, keep_per_class=100, keep=10, activation="sigmoid"
        ),
    },
    matching="index",
    decay=WeightDecay(4e-5, "convolutions", note="a term of the loss"),
    offsets=Offsets(order="y x h w", note="scales 10 10 5 5 in place of variances"),
    sources={
        "priors": "anchor_generators/multiple_grid_anchor_generator.py, create_ssd_anchors",
        "input": "models/ssd_*_feature_extractor.py, preprocess",
        "detection": "samples/configs/ssd_mobilenet_v1_coco.config; core/post_processing.py; "
        "tensorflow/lite/kernels/detection_postprocess.cc; export_tflite_ssd_graph.py",
        "decay": "samples/configs/ssd_mobilenet_v1_coco.config, l2_regularizer",
    },
)

# The network of a chapter of Dive into Deep Learning, which many courses have taken over. Pixels stay 0..255; a prior
# speaks for its likeliest class, and NMS goes across classes (multibox_detection).
D2L = Convention(
    project="d2l-ai/d2l-en (TinySSD)",
    priors={"tinyssd256": "tinyssd256"},
    inputs={"tinyssd256": InputSpec(256, mean=(0.0,) * 3)},
    detection={
        "d2l": Thresholds(
            score_min=0.01,
            nms_iou=0.5,
            per_class=NO_CAP,
            keep=NO_CAP,
            class_agnostic=True,
            best_class=True,
            background_competes=False,
        )
    },
    sources={
        "priors": "chapter_computer-vision/anchor.md, multibox_prior; ssd.md, sizes and ratios",
        "input": "chapter_computer-vision/ssd.md; object-detection-dataset.md",
        "detection": "chapter_computer-vision/anchor.md, multibox_detection",
    },
)

CONVENTIONS: dict[str, Convention] = {
    "caffe": CAFFE,
    "chuanqi305": CHUANQI305,
    "amdegroot": AMDEGROOT,
    "lufficc": LUFFICC,
    "bubbliiiing": BUBBLIIIING,
    "qfgaohao": QFGAOHAO,
    "sgrvinod": SGRVINOD,
    "ssd_keras": SSD_KERAS,
    "balancap": BALANCAP,
    "ljanyst": LJANYST,
    "torchvision": TORCHVISION,
    "mmdet": MMDET,
    "nvidia": NVIDIA,
    "d2l": D2L,
    "tf-object-detection": TF_OBJECT_DETECTION,
    **FACES,
}
# Every detection rule by the name that `--rule` takes.
DETECTION: dict[str, Thresholds] = {
    name: thresholds for convention in CONVENTIONS.values() for name, thresholds in convention.detection.items()
}


def detection_rule(name: str) -> Thresholds:
    """The detection rule of that name. Raises ConfigError that lists the names."""
    return _named(DETECTION, name, "detection rule")


def convention(name: str) -> Convention:
    """The codebase of that name. Raises ConfigError that lists the names."""
    return _named(CONVENTIONS, name, "convention")


def _named(known: Mapping[str, _Entry], name: str, what: str) -> _Entry:
    if name not in known:
        raise ConfigError(f"{what} {printable(name)!r}: want one of {', '.join(known)}{did_you_mean(name, known)}")
    return known[name]

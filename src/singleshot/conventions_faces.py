"""What the public face detectors of SSD's kind do: a part of conventions.py. No torch here."""

from __future__ import annotations

from dataclasses import replace

from singleshot.convention_records import Convention, Offsets, WeightDecay
from singleshot.inputs import CAFFE_MEAN, InputSpec
from singleshot.thresholds import NO_CAP, Thresholds

FACE = ("face",)
MASKED = ("mask", "no mask")  # AIZOO's id2class: Mask, NoMask

# Their cfg of 128 to 1280 pixels wide: only these two were published.
ULTRAFACE = Convention(
    project="Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB",
    priors={"ultraface320": "ultraface320", "ultraface640": "ultraface640"},
    inputs={
        f"ultraface{width}": InputSpec(height=width * 3 // 4, width=width, mean=(127.0,) * 3, std=(128.0,) * 3)
        for width in (320, 640)
    },
    # candidate_size 1500 enters NMS, top_k of half of it leaves; shown from 0.6.
    detection={
        "ultraface": Thresholds(
            score_min=0.01, nms_iou=0.3, per_class=1500, keep_per_class=750, keep=NO_CAP, show_min=0.6
        )
    },
    matching="forced",
    loss="caffe",
    decay=WeightDecay(5e-4, "everything"),
    sources={
        "priors": "vision/ssd/config/fd_config.py; vision/utils/box_utils.py, generate_priors",
        "input": "vision/ssd/config/fd_config.py",
        "detection": "detect_imgs.py; vision/ssd/predictor.py",
        "decay": "train.py",
    },
)
# Input of any size in its tests; here the side that it trains at, and letterboxed, for its crops keep the proportions.
_CROPPED = {side: InputSpec(side, "letterbox", "bgr", CAFFE_MEAN) for side in (320, 640, 840, 1024)}
FACEBOXES = Convention(
    project="zisianw/FaceBoxes.PyTorch",
    priors={"faceboxes1024": "faceboxes1024"},
    inputs={"faceboxes1024": _CROPPED[1024]},
    detection={"faceboxes": Thresholds(score_min=0.05, nms_iou=0.3, per_class=5000, keep=750, show_min=0.5)},
    loss="caffe",
    decay=WeightDecay(5e-4, "everything"),
    sources={
        "priors": "data/config.py; layers/functions/prior_box.py",
        "input": "test.py; train.py, img_dim",
        "detection": "test.py",
        "decay": "train.py",
    },
)
# Another training, of the same network but for its layers' order: OpenCV's colours as they are, 0..1, stretched.
FACEBOXES_LXG = Convention(
    project="lxg2015/faceboxes",
    priors={"faceboxes1024": "faceboxes1024-lxg2015"},
    inputs={"faceboxes1024": InputSpec(1024, "stretch", "bgr", (0.0,) * 3, (255.0,) * 3)},
    # decode() puts .4 in place of the background's score, so that a face of less is none.
    detection={"faceboxes-lxg2015": Thresholds(score_min=0.4, nms_iou=0.5, per_class=NO_CAP, keep=NO_CAP)},
    matching="forced",
    loss="caffe",
    sources={
        "priors": "encoderl.py, DataEncoder",
        "input": "predict.py, detect",
        "detection": "encoderl.py, decode and nms",
    },
)
# Another one of TensorFlow: images of any size, filled up with black to whole cells of 128 pixels.
FACEBOXES_TF = Convention(
    project="TropComplique/FaceBoxes-tensorflow",
    priors={"faceboxes1024": "faceboxes1024-tensorflow"},
    inputs={"faceboxes1024": InputSpec(1024, "letterbox", "rgb", (127.5,) * 3, (127.5,) * 3)},
    detection={
        "faceboxes-tensorflow": Thresholds(score_min=0.05, nms_iou=0.3, per_class=NO_CAP, keep=200, show_min=0.5)
    },
    sources={
        "priors": "src/anchor_generator.py",
        "input": "src/network.py, preprocess; src/detector.py; config.json, image_size",
        "detection": "config.json; face_detector.py",
    },
)
RETINAFACE = Convention(
    project="biubug6/Pytorch_Retinaface",
    priors={"retinaface640": "retinaface640", "retinaface840": "retinaface840"},
    inputs={"retinaface640": _CROPPED[640], "retinaface840": _CROPPED[840]},
    detection={"retinaface": Thresholds(score_min=0.02, nms_iou=0.4, per_class=5000, keep=750, show_min=0.6)},
    loss="caffe",
    decay=WeightDecay(5e-4, "everything"),
    sources={
        "priors": "data/config.py; layers/functions/prior_box.py",
        "input": "detect.py; data/config.py, image_size",
        "detection": "detect.py",
        "decay": "train.py",
    },
)
# Every network of it is trained at 640.
RETINAFACE_YAKHYO = replace(
    RETINAFACE,
    project="yakhyo/retinaface-pytorch",
    priors={"retinaface640": "retinaface640"},
    inputs={"retinaface640": _CROPPED[640]},
    detection={"retinaface-yakhyo": RETINAFACE.detection["retinaface"]},
    sources={
        "priors": "config.py; layers/functions/prior_box.py",
        "input": "detect.py; config.py, image_size",
        "detection": "detect.py",
        "decay": "train.py",
    },
)
# Keras' own means; images of any side in its code, 1280 in its examples, trained at 832.
RETINAFACE_KERAS = replace(
    RETINAFACE,
    project="bubbliiiing/retinaface-keras",
    priors={"retinaface640": "retinaface640"},
    inputs={"retinaface640": InputSpec(640, "letterbox", "bgr", (123.68, 116.779, 103.939))},
    detection={"keras-retinaface": Thresholds(score_min=0.01, nms_iou=0.45, per_class=NO_CAP, keep=300, show_min=0.5)},
    decay=None,
    sources={
        "priors": "utils/config.py; utils/anchors.py",
        "input": "retinaface.py; keras.applications.imagenet_utils",
        "detection": "evaluation.py; retinaface.py; utils/utils_bbox.py, detection_out",
    },
)
# Trained at crops of 300, measured at 320 and 640 on the long side: RFB and slim at the smaller here.
FACE_1MB = replace(
    RETINAFACE,
    project="biubug6/Face-Detector-1MB-with-landmark",
    priors={"face1mb320": "face1mb320", "face1mb-mobilenet640": "face1mb-mobilenet640"},
    inputs={"face1mb320": _CROPPED[320], "face1mb-mobilenet640": _CROPPED[640]},
    detection={"face1mb": RETINAFACE.detection["retinaface"]},
    sources={**RETINAFACE.sources, "input": "detect.py; README.md"},
)
# Its default boxes were fitted to faces in images of 640 pixels, and are used at 320 as well, from which on it trains.
BLAZE_ZINEOS = replace(
    RETINAFACE,
    project="zineos/blazeface",
    priors={"blazeface320": "blazeface320-zineos"},
    inputs={"blazeface320": _CROPPED[320]},
    detection={"blazeface-zineos": Thresholds(score_min=0.3, nms_iou=0.1, per_class=2000, keep=1000, show_min=0.3)},
    sources={
        "priors": "config/config.py, cfg_blaze; blazeface/models/module/prior_box.py",
        "input": "tools/test.py; config/config.py, image_size",
        "detection": "tools/test.py",
        "decay": "tools/train.py",
    },
)
S3FD = Convention(
    project="yxlijun/S3FD.pytorch",
    priors={"s3fd640": "s3fd640"},
    # Colours turn twice on the way, to BGR and back, with the mean taken off in between.
    inputs={"s3fd640": InputSpec(640, "letterbox", mean=CAFFE_MEAN)},
    detection={"s3fd": Thresholds(score_min=0.05, nms_iou=0.3, per_class=5000, keep=750, show_min=0.6)},
    loss="caffe",
    decay=WeightDecay(5e-4, "everything"),
    sources={
        "priors": "data/config.py; layers/functions/prior_box.py",
        "input": "demo.py",
        "detection": "data/config.py; layers/functions/detection.py; demo.py",
        "decay": "train.py",
    },
)

# Its scores are two sigmoids, without background. NMS goes across both, and adds .001 to the sides of boxes of 0..1.
AIZOO = Convention(
    project="AIZOOTech/FaceMaskDetection",
    priors={f"ssd{side}": f"ssd{side}-aizoo" for side in (260, 360)},
    inputs={f"ssd{side}": InputSpec(side, mean=(0.0,) * 3, std=(255.0,) * 3) for side in (260, 360)},
    detection={
        "aizoo": Thresholds(
            score_min=0.5,
            nms_iou=0.4,
            per_class=NO_CAP,
            keep=NO_CAP,
            class_agnostic=True,
            activation="sigmoid",
            show_min=0.5,
            background_competes=False,
        )
    },
    offsets=Offsets(background="none", note="sigmoids"),
    sources={
        "priors": "keras_infer.py; pytorch_infer.py; utils/anchor_generator.py",
        "input": "keras_infer.py, inference",
        "detection": "keras_infer.py, inference; utils/nms.py",
    },
)
FACES = {
    "ultraface": ULTRAFACE,
    "faceboxes": FACEBOXES,
    "faceboxes-lxg2015": FACEBOXES_LXG,
    "faceboxes-tensorflow": FACEBOXES_TF,
    "retinaface": RETINAFACE,
    "retinaface-yakhyo": RETINAFACE_YAKHYO,
    "keras-retinaface": RETINAFACE_KERAS,
    "face1mb": FACE_1MB,
    "blazeface-zineos": BLAZE_ZINEOS,
    "s3fd": S3FD,
    "aizoo": AIZOO,
}

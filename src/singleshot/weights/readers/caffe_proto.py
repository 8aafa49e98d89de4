"""The part of Caffe's messages that an SSD needs: names, numbers and defaults of src/caffe/proto/caffe.proto.

From the ssd branch of weiliu89/caffe; `round_mode` from BVLC's newer one, `raw_data` (half floats) from NVIDIA's, which
OpenCV's face detector is also given out in.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from singleshot.weights.readers.protobuf import Field, Table, messages

# The fields that both kinds of layer have, under numbers of their own: (name, type, LayerParameter, V1LayerParameter).
_PARAMETERS = (
    ("transform_param", "TransformationParameter", 100, 36),
    ("concat_param", "ConcatParameter", 104, 9),
    ("convolution_param", "ConvolutionParameter", 106, 10),
    ("eltwise_param", "EltwiseParameter", 110, 24),
    ("pooling_param", "PoolingParameter", 121, 19),
    ("power_param", "PowerParameter", 122, 21),
    ("relu_param", "ReLUParameter", 123, 30),
    ("softmax_param", "SoftmaxParameter", 125, 39),
)


def _optional(*fields: tuple[Any, ...]) -> list[Field]:
    """(name, number, type), or with a default -> rows of the table."""
    return [(f[0], f[1], f[2], "optional", *f[3:]) for f in fields]


def _repeated(kind: str, **numbers: int) -> list[Field]:
    return [(name, number, kind, "repeated") for name, number in numbers.items()]


def _two(kind: str, **numbers: int) -> list[Field]:
    return [(name, number, kind, "optional") for name, number in numbers.items()]


_TABLE: Table = {
    "Phase": {"TRAIN": 0, "TEST": 1},
    "RawType": {"DOUBLE": 0, "FLOAT": 1, "FLOAT16": 2, "INT": 3, "UINT": 4},
    "BlobShape": [("dim", 1, "int64", "packed")],
    "BlobProto": [
        *_two("int32", num=1, channels=2, height=3, width=4),
        ("data", 5, "float", "packed"),
        ("shape", 7, "BlobShape", "optional"),
        ("double_data", 8, "double", "packed"),
        ("raw_data_type", 10, "RawType", "optional"),
        ("raw_data", 12, "bytes", "optional"),
    ],
    "NetParameter": [
        ("name", 1, "string", "optional"),
        ("layers", 2, "V1LayerParameter", "repeated"),
        ("input", 3, "string", "repeated"),
        ("input_dim", 4, "int32", "repeated"),
        ("input_shape", 8, "BlobShape", "repeated"),
        ("layer", 100, "LayerParameter", "repeated"),
    ],
    "NetStateRule": [
        ("phase", 1, "Phase", "optional"),
        *_two("int32", min_level=2, max_level=3),
        *_repeated("string", stage=4, not_stage=5),
    ],
    "LayerParameter": [
        *_two("string", name=1, type=2),
        *_repeated("string", bottom=3, top=4),
        ("blobs", 7, "BlobProto", "repeated"),
        *_repeated("NetStateRule", include=8, exclude=9),
        *((name, number, kind, "optional") for name, kind, number, _ in _PARAMETERS),
        ("prelu_param", 131, "PReLUParameter", "optional"),
        ("reshape_param", 133, "ReshapeParameter", "optional"),
        ("flatten_param", 135, "FlattenParameter", "optional"),
        ("batch_norm_param", 139, "BatchNormParameter", "optional"),
        ("scale_param", 142, "ScaleParameter", "optional"),
        ("input_param", 143, "InputParameter", "optional"),
        ("multibox_loss_param", 201, "MultiBoxLossParameter", "optional"),
        ("permute_param", 202, "PermuteParameter", "optional"),
        ("prior_box_param", 203, "PriorBoxParameter", "optional"),
        ("detection_output_param", 204, "DetectionOutputParameter", "optional"),
        ("norm_param", 206, "NormalizeParameter", "optional"),
    ],
    "V1Type": {
        "NONE": 0, "ACCURACY": 1, "BNLL": 2, "CONCAT": 3, "CONVOLUTION": 4, "DATA": 5, "DROPOUT": 6,
        "EUCLIDEAN_LOSS": 7, "FLATTEN": 8, "HDF5_DATA": 9, "HDF5_OUTPUT": 10, "IM2COL": 11, "IMAGE_DATA": 12,
        "INFOGAIN_LOSS": 13, "INNER_PRODUCT": 14, "LRN": 15, "MULTINOMIAL_LOGISTIC_LOSS": 16, "POOLING": 17,
        "RELU": 18, "SIGMOID": 19, "SOFTMAX": 20, "SOFTMAX_LOSS": 21, "SPLIT": 22, "TANH": 23, "WINDOW_DATA": 24,
        "ELTWISE": 25, "POWER": 26, "SIGMOID_CROSS_ENTROPY_LOSS": 27, "HINGE_LOSS": 28, "MEMORY_DATA": 29,
        "ARGMAX": 30, "THRESHOLD": 31, "DUMMY_DATA": 32, "SLICE": 33, "MVN": 34, "ABSVAL": 35, "SILENCE": 36,
        "CONTRASTIVE_LOSS": 37, "EXP": 38, "DECONVOLUTION": 39,
    },
    "V1LayerParameter": [
        # The kind of layer before that one, which nobody wrote an SSD in: seen only to be refused.
        ("layer", 1, "V0LayerParameter", "optional"),
        *_repeated("string", bottom=2, top=3),
        ("name", 4, "string", "optional"),
        ("type", 5, "V1Type", "optional"),
        ("blobs", 6, "BlobProto", "repeated"),
        *_repeated("NetStateRule", include=32, exclude=33),
        *((name, number, kind, "optional") for name, kind, _, number in _PARAMETERS),
    ],
    "V0LayerParameter": [("name", 1, "string", "optional")],
    "TransformationParameter": _optional(
        ("scale", 1, "float", 1), ("crop_size", 3, "uint32"), ("mean_file", 4, "string"), ("crop_h", 11, "uint32"),
        ("crop_w", 12, "uint32"), ("resize_param", 8, "ResizeParameter"),
    ) + _repeated("float", mean_value=5),
    "ResizeMode": {"WARP": 1, "FIT_SMALL_SIZE": 2, "FIT_LARGE_SIZE_AND_PAD": 3},
    "ResizeParameter": _optional(
        ("resize_mode", 2, "ResizeMode", "WARP"), ("height", 3, "uint32"), ("width", 4, "uint32")
    ),
    "BatchNormParameter": _optional(("eps", 3, "float", 1e-5)),
    "ConcatParameter": _optional(("concat_dim", 1, "uint32", 1), ("axis", 2, "int32", 1)),
    "ConvolutionParameter": [
        *_optional(("num_output", 1, "uint32"), ("bias_term", 2, "bool", True), ("group", 5, "uint32", 1)),
        *_repeated("uint32", pad=3, kernel_size=4, stride=6, dilation=18),
        *_two("uint32", pad_h=9, pad_w=10, kernel_h=11, kernel_w=12, stride_h=13, stride_w=14),
    ],
    "PoolMethod": {"MAX": 0, "AVE": 1, "STOCHASTIC": 2},
    "RoundMode": {"CEIL": 0, "FLOOR": 1},
    "PoolingParameter": [
        *_optional(("pool", 1, "PoolMethod", "MAX"), ("stride", 3, "uint32", 1), ("global_pooling", 12, "bool")),
        *_two("uint32", kernel_size=2, pad=4, kernel_h=5, kernel_w=6, stride_h=7, stride_w=8, pad_h=9, pad_w=10),
        # Intel's and OpenCV's name for the same, in text alone: its number in binary files is round_mode's.
        *_optional(("round_mode", 13, "RoundMode", "CEIL"), ("ceil_mode", 19_013, "bool", True)),
    ],
    "EltwiseOp": {"PROD": 0, "SUM": 1, "MAX": 2},
    "EltwiseParameter": [("operation", 1, "EltwiseOp", "optional", "SUM"), ("coeff", 2, "float", "repeated")],
    "PowerParameter": _optional(("power", 1, "float", 1), ("scale", 2, "float", 1), ("shift", 3, "float")),
    "ReLUParameter": _optional(("negative_slope", 1, "float")),
    "PReLUParameter": _optional(("channel_shared", 2, "bool")),
    "ScaleParameter": _optional(("axis", 1, "int32", 1), ("num_axes", 2, "int32", 1), ("bias_term", 4, "bool")),
    "NormalizeParameter": _optional(
        ("across_spatial", 1, "bool", True), ("channel_shared", 3, "bool", True), ("eps", 4, "float", 1e-10)
    ),
    "SoftmaxParameter": _optional(("axis", 2, "int32", 1)),
    "ReshapeParameter": _optional(("shape", 1, "BlobShape"), ("axis", 2, "int32"), ("num_axes", 3, "int32", -1)),
    "FlattenParameter": _optional(("axis", 1, "int32", 1), ("end_axis", 2, "int32", -1)),
    "PermuteParameter": [("order", 1, "uint32", "repeated")],
    "InputParameter": [("shape", 1, "BlobShape", "repeated")],
    "CodeType": {"CORNER": 1, "CENTER_SIZE": 2, "CORNER_SIZE": 3},
    "PriorBoxParameter": [
        *_repeated("float", min_size=1, max_size=2, aspect_ratio=3, variance=6),
        *_optional(("flip", 4, "bool", True), ("clip", 5, "bool"), ("offset", 13, "float", 0.5)),
        *_two("uint32", img_size=7, img_h=8, img_w=9),
        *_two("float", step=10, step_h=11, step_w=12),
    ],
    "NonMaximumSuppressionParameter": _optional(
        ("nms_threshold", 1, "float", 0.3), ("top_k", 2, "int32"), ("eta", 3, "float", 1)
    ),
    "DetectionOutputParameter": _optional(
        ("num_classes", 1, "uint32"), ("share_location", 2, "bool", True), ("background_label_id", 3, "int32"),
        ("nms_param", 4, "NonMaximumSuppressionParameter"), ("code_type", 6, "CodeType", "CORNER"),
        ("keep_top_k", 7, "int32", -1), ("variance_encoded_in_target", 8, "bool"),
        # OpenCV's own, in text alone: cuts boxes to the picture before NMS.
        ("confidence_threshold", 9, "float"), ("clip", 19_010, "bool"),
    ),
    "ConfLossType": {"SOFTMAX": 0, "LOGISTIC": 1},
    "MultiBoxLossParameter": _optional(
        ("conf_loss_type", 2, "ConfLossType", "SOFTMAX"), ("num_classes", 4, "uint32"),
        ("share_location", 5, "bool", True), ("background_label_id", 9, "uint32"),
        ("code_type", 14, "CodeType", "CORNER"), ("encode_variance_in_target", 16, "bool"),
    ),
}  # fmt: skip

# Types of V1LayerParameter that are not simply the same word in capitals.
_V1_NAMES = {
    "RELU": "ReLU", "LRN": "LRN", "INNER_PRODUCT": "InnerProduct", "DATA": "Data", "IMAGE_DATA": "ImageData",
    "WINDOW_DATA": "WindowData", "MEMORY_DATA": "MemoryData", "HDF5_DATA": "HDF5Data", "DUMMY_DATA": "DummyData",
}  # fmt: skip


@cache
def caffe_messages() -> dict[str, Any]:
    """The message classes by name. Raises MissingExtraError without protobuf."""
    return messages("singleshot.caffe", _TABLE)


def upgraded(old: Any) -> Any:
    """A V1LayerParameter as LayerParameter, blobs left out."""
    new = caffe_messages()["LayerParameter"](name=old.name, type=v1_type(old))
    for part in ("bottom", "top", "include", "exclude"):
        getattr(new, part).extend(getattr(old, part))
    for name, *_ in _PARAMETERS:
        if old.HasField(name):
            getattr(new, name).CopyFrom(getattr(old, name))
    return new


def v1_type(old: Any) -> str:
    """The type of a V1LayerParameter as newer files call it: CONVOLUTION -> Convolution."""
    values = old.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number
    word = values[old.type].name
    return _V1_NAMES.get(word, word.title().replace("_", ""))

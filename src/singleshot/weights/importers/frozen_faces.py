"""Face detectors as frozen graphs, read node by node: OpenCV's ResNet-10 (opencv_face_detector_uint8.pb, whose weights
are of 8 bits) and TropComplique/FaceBoxes-tensorflow. Neither graph has its default boxes as numbers; those are its
project's."""

from __future__ import annotations

from dataclasses import replace

from singleshot.conventions import CAFFE
from singleshot.conventions_faces import FACEBOXES_TF
from singleshot.errors import CheckpointError
from singleshot.inputs import InputSpec
from singleshot.models import SSD
from singleshot.prior_boxes import PriorSpec
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.faces import face_model
from singleshot.weights.importers.graphdef_network import heads_of
from singleshot.weights.importers.tflite_heads import paired_heads, run_heads
from singleshot.weights.importers.vgg import count_classes
from singleshot.weights.readers.tf_companions import Companions

# OpenCV, samples/dnn/face_detector/deploy.prototxt: the maps by what their heads are called.
_OPENCV_MAPS = ("conv4_3_norm", "fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2")
_OPENCV_CELLS = (38, 19, 10, 5, 5, 5)  # its last convolutions are padded, so that the maps stay as they are
_OPENCV_NOTE = "the graph does not say how images are prepared: BGR minus 104, 117, 123 is assumed (--mean, --std)"
_FACEBOXES_MAPS = 3
_FIXED = ("size", "priors")


def _model(
    tensors: ForeignState,
    heads: list[tuple[str, str]],
    priors: PriorSpec,
    spec: InputSpec,
    image: str = "",
    turned: bool = False,
) -> SSD:
    """heads: names of the layers of boxes and of scores; image: see `heads_of`; turned: boxes are ty tx th tw."""
    graph = tensors.structure.graph if isinstance(tensors.structure, Companions) else None
    if graph is None:
        raise CheckpointError(f"{tensors.where}: want the frozen graph (.pb), which says how its layers follow")
    num_classes = count_classes(tensors, f"{heads[-1][1]}/weights", priors.per_cell[-1], axis=-1)
    found = heads_of(graph, spec.size, [f"{name}/Conv2D" for pair in heads for name in pair], image)
    paired = paired_heads(found.graph, found.operations, num_classes + 1)
    scales = dict.fromkeys("yxhw", 1.0) if turned else None
    run_heads(found.graph, paired, num_classes, num_classes + 1, scales)
    tensors.ignore(*tensors)
    return found.graph.assembly.build(num_classes, priors, spec, "custom")


def _convert_opencv(tensors: ForeignState) -> ImportedModel:
    heads = [(f"{name}_mbox_loc", f"{name}_mbox_conf") for name in _OPENCV_MAPS]
    priors = replace(CAFFE.prior_spec("ssd300-voc"), maps=_OPENCV_CELLS)
    model = _model(tensors, heads, priors, CAFFE.inputs["ssd300"], image="data")
    source = "OpenCV's ResNet-10 face detector, frozen graph"
    return face_model(model, source, CAFFE.detection["caffe"], (_OPENCV_NOTE,))._replace(fixed=_FIXED)


def _convert_faceboxes(tensors: ForeignState) -> ImportedModel:
    scope, project = "prediction_layers", FACEBOXES_TF
    heads = [(f"{scope}/box_encoding_predictor_{i}", f"{scope}/class_predictor_{i}") for i in range(_FACEBOXES_MAPS)]
    priors, spec = project.prior_spec("faceboxes1024"), project.inputs["faceboxes1024"]
    model = _model(tensors, heads, priors, spec, turned=True)
    return face_model(model, project.project, project.detection["faceboxes-tensorflow"])._replace(fixed=_FIXED)


IMPORTERS = (
    Importer("opencv-face", _convert_opencv, "graphdef"),
    Importer("faceboxes-tensorflow", _convert_faceboxes, "graphdef"),
)

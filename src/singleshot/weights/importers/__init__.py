"""Other projects' layouts -> our models: one module per project."""

from singleshot.weights.importers import (
    amdegroot,
    balancap,
    bubbliiiing,
    caffe,
    keras,
    lufficc,
    mmdet,
    nvidia,
    openvino,
    qfgaohao,
    tf_object_detection,
    tflite,
    torchvision,
)

IMPORTERS = (
    *amdegroot.IMPORTERS,
    *balancap.IMPORTERS,
    *caffe.IMPORTERS,
    *bubbliiiing.IMPORTERS,
    *keras.IMPORTERS,
    *lufficc.IMPORTERS,
    *mmdet.IMPORTERS,
    *nvidia.IMPORTERS,
    *openvino.IMPORTERS,
    *qfgaohao.IMPORTERS,
    *tflite.IMPORTERS,
    *torchvision.IMPORTERS,
    *tf_object_detection.IMPORTERS,
)

"""What `singleshot import` recognises: importers by name, each with a line for people. No torch here.

The importers themselves are in `singleshot.weights.importers`, in the same order; what they are about, they read here.
"""

from __future__ import annotations

IMPORTABLE = {
    "amdegroot": "amdegroot/ssd.pytorch, SSD300 on VGG16",
    "balancap": "balancap/SSD-Tensorflow, SSD300 and SSD512 on VGG16",
    "caffe": "Caffe's .caffemodel with or without its prototxt: SSD300, SSD512, MobileNet-SSD, any other",
    "bubbliiiing-vgg": "bubbliiiing/ssd-pytorch, SSD300 on VGG16",
    "bubbliiiing-mobilenetv2": "bubbliiiing/ssd-pytorch, SSD300 on MobileNetV2",
    "bubbliiiing-resnet50": "bubbliiiing/ssd-pytorch, SSD300 on ResNet50",
    "keras": "pierluigiferrari/ssd_keras, SSD300 and SSD512 on VGG16",
    "lufficc-vgg": "lufficc/SSD, SSD300 and SSD512 on VGG16",
    "lufficc-mobilenetv2": "lufficc/SSD, SSDLite320 on MobileNetV2",
    "lufficc-mobilenetv3": "lufficc/SSD, SSDLite320 on MobileNetV3",
    "mmdet-vgg": "open-mmlab/mmdetection 2.14 to 3.x, SSD300 and SSD512 on VGG16",
    "mmdet-vgg-old": "open-mmlab/mmdetection before 2.14, SSD300 and SSD512 on VGG16",
    "mmdet-ssdlite": "open-mmlab/mmdetection, SSDLite320 on MobileNetV2",
    "nvidia": "NVIDIA DeepLearningExamples, SSD300 on ResNet18 to ResNet152",
    "mlperf": "MLPerf training ssd-v1, SSD300 on ResNet34",
    "qfgaohao-vgg": "qfgaohao/pytorch-ssd, vgg16-ssd",
    "qfgaohao-mb1": "qfgaohao/pytorch-ssd, mb1-ssd and mb1-ssd-lite",
    "qfgaohao-mb2": "qfgaohao/pytorch-ssd, mb2-ssd-lite",
    "qfgaohao-sq": "qfgaohao/pytorch-ssd, sq-ssd-lite",
    "tflite": "TensorFlow Lite, SSD detectors of the Object Detection API",
    "torchvision-ssd300": "torchvision ssd300_vgg16",
    "torchvision-ssdlite320": "torchvision ssdlite320_mobilenet_v3_large",
    "tf-object-detection": "TensorFlow Object Detection API, SSD and SSDLite on MobileNet v1, v2 and Inception v2",
}

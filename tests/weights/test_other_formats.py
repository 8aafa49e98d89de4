"""Files that are not imported: named as what they are, with what to do."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch

from singleshot.errors import CheckpointError
from singleshot.weights.readers.sniff import read_foreign

NOISE = np.random.default_rng(0).integers(0, 256, 500, np.uint8).tobytes()


def line_of(path):
    with pytest.raises(CheckpointError) as caught:
        read_foreign(path)
    line = str(caught.value)
    assert "\n" not in line
    assert "starts with" not in line
    assert len(line) < 500
    return line.partition(": ")[2]


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("ssd.param", b"7767517\n83 100\nInput data 0 1 data\n", "an ncnn network"),
        ("ssd.param.bin", b"\xdd\x85\x76\x00" + NOISE, "an ncnn network"),
        ("ssd.txt", b"7767517\n83 100\n", "an ncnn network"),
        ("ssd-0000.params", b"\x12\x01" + bytes(6) + NOISE, "an MXNet parameter file"),
        ("renamed.dat", b"\x12\x01" + bytes(6) + NOISE, "an MXNet parameter file"),
        ("ssd-symbol.json", b'{"nodes": [{"op": "null"}], "arg_nodes": [0]}', "an MXNet network"),
        ("model.pdmodel", b"\x0a\x80\x02\x08\x00\x10" + NOISE, "a PaddlePaddle network"),
        ("model.pdiparams", bytes(16) + NOISE, "a PaddlePaddle parameter file"),
        ("model.pdparams", b"\x80\x04\x95" + NOISE, "a PaddlePaddle parameter file"),
        ("ssd.mnn", b"\x18\x00\x00\x00" + NOISE, "an MNN model"),
        ("ssd.engine", NOISE, "a TensorRT engine"),
        ("ssd.plan", b"ftrt" + NOISE, "a TensorRT engine"),
        ("model.dat", b"ftrt" + NOISE, "a TensorRT engine"),
        ("ssd.mlmodel", b"\x08\x01\x12\x05abcde" + NOISE, "a Core ML model"),
        ("ssd.rknn", b"RKNN" + bytes(4) + NOISE, "a Rockchip model"),
        ("ssd.hef", b"\x01HEF" + NOISE, "a Hailo executable"),
        ("ssd.blob", NOISE, "an OpenVINO blob"),
        ("yolo.weights", bytes([0, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0]) + NOISE, "Darknet weights"),
        ("yolo.cfg", b"[net]\nwidth=416\n", "a Darknet network"),
        ("array.npy", b"\x93NUMPY\x01\x00" + NOISE, "a single NumPy array"),
        ("ssd.tar.gz", b"\x1f\x8b\x08\x00" + NOISE, "an archive; unpack it"),
        ("ssd.tar", bytes(257) + b"ustar" + NOISE, "an archive; unpack it"),
        ("ssd.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        ("ssd.caffe", b"<!DOCTYPE html><html><body>Google Drive", "an HTML page"),
        (
            "ssd.xml",
            b'<?xml version="1.0"?>\n<!DOCTYPE net>\n<net name="ssd">',
            "an OpenVINO network that is not plain XML",
        ),
        ("000001.xml", b"<annotation><object/></annotation>", "an XML file"),
        ("model.json", b'{"format": "graph-model", "modelTopology": {}}', "a TensorFlow.js model"),
        ("checkpoint", b'model_checkpoint_path: "model.ckpt-9"\n', "only says which checkpoint is the last"),
        ("pipeline.config", b"model {\n  ssd {\n", "a pipeline.config"),
        ("map.pbtxt", b"item {\n  id: 1\n", "a label map; name the checkpoint"),
        ("graph.pbtxt", b'node {\n  name: "x"\n', "a TensorFlow graph in text form"),
        ("notes.txt", b"hello\n", "a text file"),
        ("photo.pth", b"\x89PNG\r\n\x1a\n" + NOISE, "is an image"),
        ("empty.pth", b"", "an empty file"),
        ("noise.dat", b"\xff" + NOISE, "not a checkpoint that is known"),
    ],
)
def test_each_is_named(tmp_path, name, data, what):
    (tmp_path / name).write_bytes(data)
    line = line_of(tmp_path / name)
    assert line.startswith(what)
    assert ";" in line or "not a model" in line  # and what to do


def test_weights_next_to_their_network_are_named_by_it(tmp_path):
    for other, what in (("ssd.xml", "the weights of an OpenVINO model, which ssd.xml describes"),
                        ("ssd.param", "weights of an ncnn network")):  # fmt: skip
        (tmp_path / other).write_text("x")
        for data in (NOISE, bytes(64), b"\x0a\x03abc" + NOISE):
            (tmp_path / "ssd.bin").write_bytes(data)
            assert line_of(tmp_path / "ssd.bin").startswith(what)


def test_a_checkpoint_may_be_called_anything(tmp_path):
    for name in ("ssd.engine", "ssd.params", "ssd.bin", "ssd.onnx"):
        for legacy in (False, True):
            torch.save({"a": torch.zeros(2)}, tmp_path / name, _use_new_zipfile_serialization=not legacy)
            assert list(read_foreign(tmp_path / name)) == ["a"]


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["config.json", "metadata.json", "model.weights.h5"], "a Keras 3 model"),
        (["coco/detect.tflite", "coco/labelmap.txt"], "a zip archive; unpack it and name .*: coco/detect.tflite"),
        (["m.mlpackage/Manifest.json"], "a Core ML model"),
        (["m/archive_format", "m/models/model.json"], "a program of torch.export"),
        (["m/data.pkl", "m/constants.pkl", "m/code/x.py"], r"TorchScript, .*torch\.jit\.load"),
        (["readme.md"], "a zip archive, but neither PyTorch's"),
    ],
)
def test_zip_archives_are_named_by_what_they_hold(tmp_path, names, what):
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    (tmp_path / "model.zip").write_bytes(stored.getvalue())
    with pytest.raises(CheckpointError, match=what):
        read_foreign(tmp_path / "model.zip")


def test_folders_say_what_to_name(tmp_path):
    for files, what in (
        (["saved/saved_model.pb"], r"a SavedModel; name .*saved/saved_model\.pb"),
        (["saved/variables/variables.index"], r"a SavedModel; name .*saved/variables/variables"),
        (["core.mlpackage/Manifest.json"], "a Core ML model"),
        (["js/model.json", "js/group1-shard1of2.bin"], r"a TensorFlow\.js model"),
        (
            ["some/a.pth", "some/notes.md", "some/b.pth"],
            r"is a folder; name the checkpoint file in it: a\.pth, b\.pth$",
        ),
        (["none/notes.md"], "is a folder; name the checkpoint file in it$"),
    ):
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text("x")
        with pytest.raises(CheckpointError, match=what):
            read_foreign(tmp_path / files[0].partition("/")[0])

"""Model files of other formats, and files that are no model: named as what they are, with what to give in their place.

Nothing here is read beyond its first bytes, the names in a zip archive and in a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from singleshot.errors import printable

_ORIGIN = "import the checkpoint that it was made from (.pth, .caffemodel, .pb, .tflite, ...)"
_SAVE = "save its arrays by name with numpy.savez and import the .npz"
# Names of files that may be named in an archive's or a folder's place.
_CHECKPOINTS = (
    ".pth", ".pt", ".ckpt", ".pth.tar", ".safetensors", ".npz", ".h5", ".hdf5", ".caffemodel", ".pb", ".tflite",
    ".index",
)  # fmt: skip
_SHOWN = 3


class _Format(NamedTuple):
    """what: its name with an article; advice: what to do; suffixes, magics: how it is recognised, by either."""

    what: str
    advice: str
    suffixes: tuple[str, ...] = ()
    magics: tuple[bytes, ...] = ()


# Sources of the magics: each runtime's loader; ncnn src/net.cpp, mxnet src/ndarray/ndarray.cc kMXAPINDArrayListMagic.
_FORMATS = (
    _Format("an ncnn network", _ORIGIN, (".param", ".param.bin"), (b"7767517\n", b"7767517\r", b"\xdd\x85\x76\x00")),
    _Format("an MXNet parameter file", _SAVE, (".params",), (b"\x12\x01" + bytes(6),)),
    _Format("a PaddlePaddle network", _ORIGIN, (".pdmodel",)),
    _Format("a PaddlePaddle parameter file", _SAVE, (".pdiparams", ".pdparams", ".pdiparams.info", ".pdopt")),
    _Format("a Paddle Lite model", _ORIGIN, (".nb",)),
    _Format("an MNN model", _ORIGIN, (".mnn",)),
    _Format("a TensorRT engine, built for one kind of GPU", _ORIGIN, (".engine", ".plan", ".trt"), (b"ftrt",)),
    _Format("a TensorRT UFF graph", _ORIGIN, (".uff",)),
    _Format("a Core ML model", _ORIGIN, (".mlmodel",)),
    _Format("a Rockchip model (RKNN)", _ORIGIN, (".rknn",), (b"RKNN", b"CYPTRKNN")),
    _Format("a Hailo executable (HEF)", _ORIGIN, (".hef",), (b"\x01HEF",)),
    _Format("a Kendryte model", _ORIGIN, (".kmodel",), (b"LDMK",)),
    _Format("an Ascend model", _ORIGIN, (".om",), (b"IMOD",)),
    _Format("a Qualcomm SNPE model (DLC)", _ORIGIN, (".dlc",)),
    _Format("a Tengine model", _ORIGIN, (".tmfile",)),
    _Format("an OpenVINO blob, compiled for one device", _ORIGIN, (".blob",)),
    _Format("Darknet weights (YOLO), not an SSD", "singleshot import --list names what is read", (".weights",)),
    _Format("a single NumPy array", "want an .npz of arrays by name", (".npy",), (b"\x93NUMPY",)),
    _Format("a GGUF file of a language model", "want an SSD", (".gguf",), (b"GGUF",)),
)
_ARCHIVES = (b"\x1f\x8b", b"\xfd7zXZ", b"BZh", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")


def other_format(path: Path, first: bytes) -> str:
    """What the file is, and what to do, where its first bytes or its name say that it is of a format that is not read;
    "" where they do not."""
    if first.startswith((b"PK", b"\x89HDF")) or first[4:8] == b"TFL3":
        return ""
    name = path.name.lower()
    if first.startswith(b"\x80") and not name.endswith((".pdparams", ".pdopt")):
        return ""  # a pickle may be called anything
    if name.endswith(".bin"):
        if path.with_suffix(".param").is_file():
            return f"weights of an ncnn network; {_ORIGIN}"
        if path.with_suffix(".xml").is_file():
            xml = printable(path.with_suffix(".xml").name, 80)
            return f"the weights of an OpenVINO model, which {xml} describes; name that, or {_ORIGIN}"
    for row in _FORMATS:
        if name.endswith(row.suffixes or ("\0",)) or first.startswith(row.magics or (b"\0" * 4096,)):
            return f"{row.what}, which is not read; {row.advice}"
    return ""


def looks_like_onnx(path: Path, first: bytes) -> bool:
    """Whether it is an ONNX file: by its name, or by its first fields, the version and what follows it. All public ones
    are of version 3 or later; TensorFlow's SavedModel begins alike with a 1."""
    starts = len(first) > 3 and first[0] == 8 and 0 < first[1] < 32
    return starts and (path.suffix.lower() == ".onnx" or (first[1] > 2 and first[2] in b"\x12\x1a\x22\x3a"))


def not_a_model(path: Path, first: bytes) -> str:
    """The same for a file that nothing else recognises; never ""."""
    if not first:
        return "an empty file; want a model file"
    if first.startswith(_IMAGES):
        return "is an image; want a model file, and after it the images or the data"
    if first.startswith(_ARCHIVES) or first[257:262] == b"ustar":
        return "an archive; unpack it and name the checkpoint in it"
    if b"\0" in first or sum(byte < 9 for byte in first):
        return "not a checkpoint that is known, by its first bytes; singleshot import --list names what is read"
    return _text(path, first.decode("utf-8", "replace").lstrip("\ufeff \n\r\t"))


def _text(path: Path, text: str) -> str:
    """What a text is; text: its beginning."""
    start = text[:200].lower()
    if start.startswith("version https://git-lfs"):
        return "a Git LFS pointer in place of the file; fetch it with `git lfs pull`"
    if start.startswith(("<!doctype html", "<html")):
        return "an HTML page, not a model; download the file itself"
    if start.startswith("<"):
        network = re.search(r"<net\b", text) is not None
        return f"an OpenVINO network that is not plain XML; {_ORIGIN}" if network else "an XML file, not a model"
    if start.startswith("{") and '"nodes"' in text and ('"arg_nodes"' in text or '"op"' in text):
        return f"an MXNet network without its weights; {_ORIGIN}"
    if start.startswith("{") and ('"modelTopology"' in text or '"weightsManifest"' in text or '"format"' in text):
        return f"a TensorFlow.js model, which is not read; {_ORIGIN}"
    if start.startswith("[net]"):
        return "a Darknet network (YOLO), not an SSD; singleshot import --list names what is read"
    pointed = re.match(r'model_checkpoint_path:\s*"([^"\n]{1,200})"', text)
    if pointed is not None:
        return f"only says which checkpoint is the last; name that: {printable(path.parent / pointed[1])}"
    if re.match(r"model\s*:?\s*[{<]", text):
        return "a pipeline.config, which describes a model; name the checkpoint that it lies next to"
    if re.match(r"item\s*:?\s*[{<]", text):
        return "a label map; name the checkpoint, and this file with --classes"
    if re.match(r"node\s*:?\s*[{<]", text):
        return "a TensorFlow graph in text form; want the frozen one in binary (frozen_inference_graph.pb)"
    return "a text file, not a checkpoint that is known; singleshot import --list names what is read"


def zip_contents(names: Iterable[str]) -> str:
    """What a zip archive is that is neither PyTorch's nor NumPy's, and what to do; "" where its names do not say."""
    names = list(names)
    last = {name.rpartition("/")[2] for name in names}
    if "model.weights.h5" in last and "config.json" in last:
        return 'a Keras 3 model; load it and save its weights: model.save_weights("weights.h5")'
    if any(name.endswith(("archive_format", ".pt2")) for name in names):
        return 'a program of torch.export; save its state dict: torch.save(program.state_dict, "weights.pth")'
    if any(".mlpackage/" in name or ".mlmodelc/" in name for name in names):
        return f"a Core ML model, which is not read; {_ORIGIN}"
    inside = _checkpoints(names)
    return f"a zip archive; unpack it and name the checkpoint in it: {inside}" if inside else ""


def folder_contents(folder: Path) -> str:
    """What a folder is, and what to name in it."""
    where = printable(folder)
    if folder.suffix.lower() in (".mlpackage", ".mlmodelc"):
        return f"a Core ML model, which is not read; {_ORIGIN}"
    if (folder / "saved_model.pb").is_file():
        variables = (folder / "variables" / "variables.index").is_file()
        return f"a SavedModel; name {where}/{'variables/variables' if variables else 'saved_model.pb'}"
    if (folder / "model.json").is_file() and any(folder.glob("group*-shard*")):
        return f"a TensorFlow.js model, which is not read; {_ORIGIN}"
    try:
        inside = _checkpoints(sorted(file.name for file in folder.iterdir()))
    except OSError:
        inside = ""  # a folder that cannot be listed
    return f"is a folder; name the checkpoint file in it{': ' if inside else ''}{inside}"


def _checkpoints(names: Iterable[str]) -> str:
    found = [name for name in names if name.lower().endswith(_CHECKPOINTS)]
    return printable(", ".join(found[:_SHOWN]), 160) + (" ..." if len(found) > _SHOWN else "")

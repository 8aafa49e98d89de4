"""What `bench` measures: a model as the files that each engine takes, and the pictures to detect in."""

from __future__ import annotations

import copy
import difflib
import importlib.util
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from singleshot.errors import CheckpointError, ConfigError, DataError, MissingExtraError, printable
from singleshot.inputs import InputSpec, to_square

EXPORTED = (".onnx", ".xml")
EXTRAS = {
    "torch": "pip install 'singleshot[train]'",
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install openvino",
}
# Network outputs inside a file that singleshot exported, before decoding and NMS.
_RAW = ("offsets", "logits")
_MOST_PICTURES = 64
_DRAWN, _WIDTH, _HEIGHT = 24, 640, 480


@dataclass(frozen=True)
class ModelFile:
    """An exported file and, where it could be cut out, the same network with raw outputs."""

    path: Path
    network: Path | None


@dataclass(frozen=True)
class Model:
    """A model in every form that is at hand. plain: exported without quantisation; about: one line for people."""

    name: str
    input_spec: InputSpec
    classes: int
    checkpoint: Path | None = None
    plain: ModelFile | None = None
    int8: ModelFile | None = None
    about: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Pictures:
    """Image files to detect in; skipped: how many could not be read."""

    paths: tuple[str, ...]
    about: str
    skipped: int = 0


# ------------------------------------------------------------------------------------------------ pictures


def find_pictures(source: str | None, folder: Path) -> Pictures:
    """Up to 64 images of a folder, or drawn scenes of 640x480 as JPEG files in `folder`. Raises DataError."""
    if source is None:
        return Pictures(_draw(folder), f"{_DRAWN} drawn scenes of {_WIDTH}x{_HEIGHT} as JPEG")
    from singleshot.runtime.sources import open_sources

    paths: list[str] = []
    sizes: list[tuple[int, int]] = []
    skipped = 0
    for frame in open_sources([source]):
        if frame.kind != "image":
            raise DataError(f"{printable(source)}: {frame.kind}, want a folder with images")
        if frame.image is None:
            skipped += 1
            continue
        paths.append(frame.source)
        sizes.append(frame.image.shape[:2])
        if len(paths) == _MOST_PICTURES:
            break
    if not paths:
        raise DataError(f"{printable(source)}: none of its {skipped} images can be read")
    height, width = np.median(np.array(sizes), axis=0).astype(int).tolist()
    return Pictures(tuple(paths), f"{len(paths)} images of {printable(source)}, median {width}x{height}", skipped)


def _draw(folder: Path) -> tuple[str, ...]:
    from singleshot.scenes.scenes import render_scene

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(_DRAWN):
        image, _ = render_scene(np.random.default_rng(number), _WIDTH, _HEIGHT)
        path = folder / f"{number:02}.jpg"
        cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        paths.append(str(path))
    return tuple(paths)


# ------------------------------------------------------------------------------------------------ the model


def find_model(
    name: str,
    folder: Path,
    pictures: Pictures,
    classes: int = 20,
    int8: str | None = None,
    quantised: bool = False,
) -> Model:
    """A checkpoint, an exported file, or a preset's name, which gets random weights; files that are needed besides are
    written into `folder`.

    classes: of a preset; int8: a file with the same model quantised; quantised: a preset is to be quantised.
    Raises CheckpointError, ConfigError, MissingExtraError.
    """
    if Path(name).suffix.lower() in EXPORTED:
        if int8 is not None:
            raise ConfigError("--int8 is for checkpoints; bench the int8 file itself, or the checkpoint with --int8")
        return _exported(Path(name), folder)
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError(f"{printable(name)}: a checkpoint needs PyTorch: {EXTRAS['torch']}")
    if int8 is None:
        return _from_torch(name, folder, pictures, classes, quantised)
    file, spec, count = _read(Path(int8))
    if not _is_int8(file):
        raise ConfigError(f"--int8 {printable(int8)}: is not quantised; make it with `singleshot export --int8 DATA`")
    model = _from_torch(name, folder, pictures, classes, False)
    if (spec.size, count) != (model.input_spec.size, model.classes):
        raise ConfigError(
            f"--int8 {printable(int8)}: {count} classes at {spec.size} px, but {printable(name)} has {model.classes} at"
            f" {model.input_spec.size} px; export it from the same model"
        )
    return _with_int8(model, ModelFile(file, cut_network(file, folder, model.notes)))


def _with_int8(model: Model, int8: ModelFile) -> Model:
    return Model(**{**vars(model), "int8": int8})


def _exported(path: Path, folder: Path) -> Model:
    file, spec, count = _read(path)
    notes = ["PyTorch is left out: it runs checkpoints, not exported files"]
    made = ModelFile(file, cut_network(file, folder, notes))
    quantised = _is_int8(file)
    about = f"{spec.size} px, {count} classes{', int8' if quantised else ''}"
    return Model(
        path.name, spec, count, plain=None if quantised else made, int8=made if quantised else None, about=about,
        notes=notes,
    )  # fmt: skip


def _read(path: Path) -> tuple[Path, InputSpec, int]:
    """An exported file's input and number of classes. Raises CheckpointError."""
    if path.suffix.lower() == ".onnx":
        from singleshot.runtime.model_file import read_onnx_info

        info = read_onnx_info(path)
        return path, info.input_spec, len(info.class_names)
    if path.suffix.lower() != ".xml":
        raise ConfigError(f"{printable(path)}: want an exported file, .onnx or .xml")
    from singleshot.runtime.load import open_detector

    detector = open_detector(path, "openvino")
    return path, detector.input_spec, len(detector.class_names)


def _is_int8(path: Path) -> bool:
    """By the operators inside: a file that somebody else quantised says nothing of it."""
    word = b"QuantizeLinear" if path.suffix.lower() == ".onnx" else b"FakeQuantize"
    return word in path.read_bytes()


def _from_torch(name: str, folder: Path, pictures: Pictures, classes: int, quantised: bool) -> Model:
    """A checkpoint's or a preset's model as both halves take it."""
    from singleshot.presets import MODELS

    notes: list[str] = []
    rounded: ModelFile | None = None
    preset = name in MODELS and not Path(name).exists()
    if preset:
        model, info = random_model(name, classes, pictures)
        notes.append(
            "random weights: figures of speed hold, boxes mean nothing; about 50 candidates an image enter NMS"
        )
    else:
        from singleshot.weights.open_model import open_model

        if not Path(name).exists() and not Path(name).suffix:
            near = difflib.get_close_matches(name, MODELS, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; presets are {', '.join(MODELS)}"
            raise CheckpointError(f"{printable(name)}: no such file and no preset{hint}")
        model, info = open_model(name)
    files = write_files(model, info, folder)
    if preset and quantised:
        rounded = write_int8(model, info, folder, pictures)
    words = [] if preset else [info.model]
    words += [f"{info.input_spec.size} px", f"{model.num_classes} classes", f"{model.prior_spec.count} priors"]
    return Model(name, info.input_spec, model.num_classes, files[0], files[1], rounded, ", ".join(words), notes)


def random_model(name: str, classes: int, pictures: Pictures, candidates: int | None = None) -> tuple[Any, Any]:
    """A preset with random weights that behaves as a trained one does (see bench_torch.settle): SSD and ModelInfo."""
    import torch

    from singleshot.bench.torch_candidates import CANDIDATES, settle
    from singleshot.images.decode import read_image
    from singleshot.models import build
    from singleshot.weights.checkpoint import ModelInfo

    torch.manual_seed(0)
    model = build(name, classes)
    info = ModelInfo.of(model, tuple(f"class {i + 1}" for i in range(classes)))
    images = [to_square(read_image(path), model.input_spec)[0] for path in islice(pictures.paths, 8)]
    images = (images * 2)[:8] if len(images) < 2 else images  # a normalisation needs two values at a map of one cell
    settle(model, np.stack(images), info.thresholds.score_min, CANDIDATES if candidates is None else candidates)
    return model.eval(), info


def write_files(model: Any, info: Any, folder: Path) -> tuple[Path, ModelFile]:
    """The model as a checkpoint and as ONNX, with and without decoding."""
    from singleshot.deploy.export import need_onnx
    from singleshot.deploy.onnx_network import network_model
    from singleshot.weights.checkpoint import save_checkpoint

    need_onnx("bench with a checkpoint")
    checkpoint = folder / f"{info.model}.safetensors"
    save_checkpoint(checkpoint, model.state_dict(), info)
    return checkpoint, _write_pair(network_model(model), model, info, folder / info.model, "float32")


def write_int8(model: Any, info: Any, folder: Path, pictures: Pictures, most: int = 16) -> ModelFile:
    """The model quantised on the pictures, without a look at what that does to its boxes: for its speed only."""
    from singleshot.deploy.export import need_onnx
    from singleshot.deploy.int8 import quantise_network
    from singleshot.deploy.onnx_network import network_model
    from singleshot.images.decode import read_image

    need_onnx("int8")
    if importlib.util.find_spec("nncf") is None:
        raise MissingExtraError("int8 needs nncf: pip install 'singleshot[export]'")
    feed: Any = [(to_square(read_image(path), model.input_spec)[0],) for path in pictures.paths[:most]]
    rounded = quantise_network(network_model(model), feed)
    return _write_pair(rounded, model, info, folder / f"{info.model}-int8", "int8")


def _write_pair(network: Any, model: Any, info: Any, stem: Path, precision: str) -> ModelFile:
    from singleshot.deploy.onnx_file import attach_postprocess

    whole, raw = Path(f"{stem}.onnx"), Path(f"{stem}-network.onnx")
    raw.write_bytes(
        attach_postprocess(copy.deepcopy(network), model, info, raw=True, precision=precision).SerializeToString()
    )
    whole.write_bytes(attach_postprocess(network, model, info, precision=precision).SerializeToString())
    return ModelFile(whole, raw)


def cut_network(path: Path, folder: Path, notes: list[str]) -> Path | None:
    """A file in `folder` with the network of an exported file and nothing behind it; the file itself where its outputs
    are raw, None, with a note, where it cannot be cut."""
    out = folder / f"{path.stem}-network{path.suffix.lower()}"
    try:
        cut = _cut_onnx if path.suffix.lower() == ".onnx" else _cut_openvino
        return out if cut(path, out) else path
    except ImportError:
        notes.append("the network alone is not measured: cutting it out of the file needs onnx")
    except Exception as error:  # somebody else's file may be anything; what it can do besides is still measured
        notes.append(f"the network alone is not measured: it cannot be cut out of the file ({printable(error, 80)})")
    return None


def _cut_onnx(path: Path, out: Path) -> bool:
    """False where there is nothing to cut off."""
    import onnx

    model = onnx.load(path)
    if set(_RAW) <= {output.name for output in model.graph.output}:
        return False
    made = {name for node in model.graph.node for name in node.output}
    if not set(_RAW) <= made:
        raise ValueError(f"nothing in it is called {' or '.join(sorted(set(_RAW) - made))}")
    inputs = [value.name for value in model.graph.input]
    cut = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(inputs, list(_RAW))
    out.write_bytes(cut.SerializeToString())
    return True


def _cut_openvino(path: Path, out: Path) -> bool:
    import openvino

    from singleshot.runtime.engines.openvino import shared_core

    model = shared_core().read_model(str(path))
    if all(set(_RAW) & set(output.get_names()) for output in model.outputs):
        return False
    ports: dict[str, Any] = {name: port for op in model.get_ops() for port in op.outputs() for name in port.get_names()}
    cut = openvino.Model([ports[name] for name in _RAW], model.get_parameters(), "network")
    openvino.save_model(cut, str(out), compress_to_fp16=False)
    return True

"""What `bench` measures: a model as the files that each engine takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from singleshot.bench.images import BenchImages
from singleshot.bench.options import BenchOptions
from singleshot.deploy.engines import EXPORTED
from singleshot.errors import CheckpointError, ConfigError, did_you_mean, printable
from singleshot.extras import require
from singleshot.inputs import InputSpec
from singleshot.presets import MODELS

if TYPE_CHECKING:
    from singleshot.models import SSD
    from singleshot.weights.checkpoint import ModelInfo

# Network outputs inside a file that singleshot exported, before decoding and NMS.
_RAW = ("offsets", "logits")
_CALIBRATION = 16  # images


@dataclass(frozen=True)
class ModelFile:
    """An exported file and, where it could be cut out, the same network with raw outputs."""

    path: Path
    network: Path | None


@dataclass(frozen=True)
class Model:
    """A model in every form that is at hand. floating: exported without quantisation; about: one line for people;
    notes: what the user should know of it."""

    name: str
    input_spec: InputSpec
    classes: int
    checkpoint: Path | None = None
    floating: ModelFile | None = None
    int8: ModelFile | None = None
    about: str = ""
    notes: list[str] = field(default_factory=list)


def refuse_absent(name: str) -> None:
    """Refuse a name that is neither a file nor a preset, before anything is drawn or loaded.

    Raises:
        CheckpointError: It is neither.
        MissingExtraError: It is no exported file, and PyTorch is missing.
    """
    if Path(name).suffix.lower() not in EXPORTED:
        require("train", f"{printable(name)}: a checkpoint", "torch")
    if Path(name).exists() or name in MODELS:
        return
    if Path(name).suffix:
        raise CheckpointError(f"{printable(name)}: no such file")
    hint = did_you_mean(name, MODELS) or f"; presets are {', '.join(MODELS)}"
    raise CheckpointError(f"{printable(name)}: no such file and no preset{hint}")


def find_model(name: str, folder: Path, images: BenchImages, options: BenchOptions) -> Model:
    """A checkpoint, an exported file, or a preset, which gets random weights, as the files that engines take.

    Args:
        name: A path, or a preset's name.
        folder: Where files that are needed besides are written.
        images: What a preset's normalisations take their statistics from, and what it is quantised on.
        options: Of these `classes`, `int8`, and whether `precisions` ask for a preset in int8.

    Raises:
        CheckpointError: It is not there or cannot be read.
        ConfigError: The int8 file is not of the same model.
        MissingExtraError: A package is missing.
    """
    refuse_absent(name)
    int8 = options.int8
    if Path(name).suffix.lower() in EXPORTED:
        if int8 is not None:
            raise ConfigError("--int8 is for checkpoints; bench the int8 file itself, or the checkpoint with --int8")
        return _exported(Path(name), folder)
    if int8 is None:
        return _from_torch(name, folder, images, options)
    spec, count = _read(Path(int8))
    if not _is_int8(Path(int8)):
        raise ConfigError(f"--int8 {printable(int8)}: is not quantised; make it with `singleshot export --int8 DATA`")
    model = _from_torch(name, folder, images, replace(options, precisions=None))
    if (spec.shape, count) != (model.input_spec.shape, model.classes):
        raise ConfigError(
            f"--int8 {printable(int8)}: {count} classes at {spec.size_text}, but {printable(name)} has {model.classes}"
            f" at {model.input_spec.size_text}; export it from the same model"
        )
    return replace(model, int8=with_network(Path(int8), folder, model.notes))


def _exported(path: Path, folder: Path) -> Model:
    spec, count = _read(path)
    notes = ["PyTorch is left out: it runs checkpoints, not exported files"]
    made = with_network(path, folder, notes)
    model = Model(path.name, spec, count, about=f"{spec.size_text}, {count} classes", notes=notes)
    if _is_int8(path):
        return replace(model, int8=made, about=f"{model.about}, int8")
    return replace(model, floating=made)


def _read(path: Path) -> tuple[InputSpec, int]:
    """An exported file's input and number of classes. Raises CheckpointError."""
    if path.suffix.lower() == ".onnx":
        from singleshot.runtime.model_file import read_onnx_info

        info = read_onnx_info(path)
        return info.input_spec, len(info.class_names)
    if path.suffix.lower() not in EXPORTED:
        raise ConfigError(f"{printable(path)}: want an exported file, {' or '.join(EXPORTED)}")
    from singleshot.runtime.load import open_detector

    detector = open_detector(path, "openvino")
    return detector.input_spec, len(detector.class_names)


def _is_int8(path: Path) -> bool:
    """By the operators inside: a file that somebody else quantised does not name its precision."""
    word = b"QuantizeLinear" if path.suffix.lower() == ".onnx" else b"FakeQuantize"
    return word in path.read_bytes()


# ------------------------------------------------------------------------------------------------ from PyTorch


def _from_torch(name: str, folder: Path, images: BenchImages, options: BenchOptions) -> Model:
    """A checkpoint's or a preset's model as both halves take it."""
    from singleshot.weights.open_model import open_model

    notes: list[str] = []
    preset = name in MODELS and not Path(name).exists()
    if preset:
        model, info = random_model(name, options.classes, images)
        notes.append(
            "random weights: figures of speed hold, boxes mean nothing; about 50 candidates an image enter NMS"
        )
    else:
        model, info = open_model(name)
    checkpoint, floating = write_files(model, info, folder, notes)
    int8 = None
    if preset and any(precision.startswith("int8") for precision in options.precisions or ()):
        int8 = write_int8(model, info, folder, images, notes)
    words = [] if preset else [info.model]
    words += [info.input_spec.size_text, f"{model.num_classes} classes", f"{model.prior_spec.count} priors"]
    return Model(name, info.input_spec, model.num_classes, checkpoint, floating, int8, ", ".join(words), notes)


def random_model(name: str, classes: int, images: BenchImages) -> tuple[SSD, ModelInfo]:
    """A preset with random weights that behaves as a trained one does (see random_weights.settle)."""
    import numpy as np
    import torch

    from singleshot.bench.random_weights import settle
    from singleshot.deploy.check_images import preprocess
    from singleshot.models import build
    from singleshot.weights.checkpoint import ModelInfo

    torch.manual_seed(0)
    model = build(name, classes)
    info = ModelInfo.of(model, tuple(f"class {i + 1}" for i in range(classes)))
    squares = [preprocess(path, model.input_spec).square for path in images.paths[:8]]
    squares = squares * 8 if len(squares) < 2 else squares  # a normalisation needs two values at a map of one cell
    settle(model, np.stack(squares), info.thresholds.score_min)
    return model.eval(), info


def write_files(model: SSD, info: ModelInfo, folder: Path, notes: list[str]) -> tuple[Path, ModelFile]:
    """The model as a checkpoint and as ONNX. Raises MissingExtraError."""
    from singleshot.deploy.export import need_onnx
    from singleshot.deploy.onnx_file import detector_model
    from singleshot.weights.checkpoint import save_checkpoint

    need_onnx("bench with a checkpoint")
    checkpoint, exported = folder / f"{info.model}.safetensors", folder / f"{info.model}.onnx"
    save_checkpoint(checkpoint, model.state_dict(), info)
    exported.write_bytes(detector_model(model, info).SerializeToString())
    return checkpoint, with_network(exported, folder, notes)


def write_int8(model: SSD, info: ModelInfo, folder: Path, images: BenchImages, notes: list[str]) -> ModelFile:
    """The model quantised on the images, without a look at what that does to its boxes: for its speed only."""
    from singleshot.deploy.check_images import preprocess
    from singleshot.deploy.export import need_onnx
    from singleshot.deploy.int8 import quantise_network
    from singleshot.deploy.onnx_file import attach_postprocess
    from singleshot.deploy.onnx_network import network_model

    need_onnx("int8")
    require("export", "int8", "nncf")
    feed = [preprocess(path, model.input_spec) for path in images.paths[:_CALIBRATION]]
    rounded = quantise_network(network_model(model), feed)
    path = folder / f"{info.model}-int8.onnx"
    path.write_bytes(attach_postprocess(rounded, model, info, precision="int8").SerializeToString())
    return with_network(path, folder, notes)


# ------------------------------------------------------------------------------------------------ the network alone


def with_network(path: Path, folder: Path, notes: list[str]) -> ModelFile:
    """An exported file and its network with nothing behind it, which is cut out into `folder`; the file itself where
    its outputs are raw; None, with a note, where it cannot be cut."""
    out = folder / f"{path.stem}-network{path.suffix.lower()}"
    try:
        cut = _cut_onnx if path.suffix.lower() == ".onnx" else _cut_openvino
        return ModelFile(path, out if cut(path, out) else path)
    except ImportError:
        notes.append("the network alone is not measured: cutting it out of the file needs onnx")
    except Exception as error:  # somebody else's file may be anything; what it can do besides is still measured
        notes.append(f"the network alone is not measured: it cannot be cut out of the file ({printable(error, 80)})")
    return ModelFile(path, None)


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
    ports = {name: port for op in model.get_ops() for port in op.outputs() for name in port.get_names()}
    cut = openvino.Model([ports[name] for name in _RAW], model.get_parameters(), "network")
    openvino.save_model(cut, str(out), compress_to_fp16=False)
    return True

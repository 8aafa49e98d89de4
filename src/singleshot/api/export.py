"""Writing a model as one file for engines that need no PyTorch, or as another project's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from singleshot.api.options import Options, check_range, refuse_place
from singleshot.deploy.engines import FORMATS as ENGINE_FORMATS
from singleshot.errors import ConfigError, printable
from singleshot.extras import needs
from singleshot.hub import local_model

if TYPE_CHECKING:
    from singleshot.deploy.export import Exported, Quantised
    from singleshot.deploy.int8 import Report
    from singleshot.deploy.tflite_file import QuantisedTFLite
    from singleshot.models import SSD
    from singleshot.pretrained import PretrainedWeights
    from singleshot.weights.checkpoint import ModelInfo

# Other projects' weights, and how their code reads the file, for people.
WEIGHT_FORMATS = {
    "torchvision": "ssd300_vgg16(weights=None, weights_backbone=None, num_classes={columns})",
    "amdegroot": 'build_ssd("test", 300, {columns})',
    "amdegroot-unclipped": "build_ssd(\"test\", 300, {columns}), with 'clip': False in data/config.py",
}
FORMATS = (*ENGINE_FORMATS, *WEIGHT_FORMATS)
_UNCLIPPED = "is for a copy whose data/config.py says 'clip': False"
_LITE = "ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes={columns})"


@dataclass(frozen=True)
class ExportOptions(Options):
    """What is exported and how; see `export`."""

    model: str
    out: str | None = None
    to: str = "onnx"
    raw: bool = False
    tensorrt: bool = False
    half: bool = False
    int8: str | None = None
    split: str = "val"
    images: str | None = None
    batch: int | None = None
    opset: int | None = None

    def __post_init__(self) -> None:
        from singleshot.deploy.onnx_opset import INT8_FROM

        if self.to not in FORMATS:
            raise ConfigError(f"--to {printable(self.to, 60)}: want one of {', '.join(FORMATS)}")
        if self.batch is not None:
            check_range("--batch", self.batch, 1, 256)
        given = [f"--{name}" for name, on in self._switches if on]
        given += [f"--{name}" for name in ("int8", "opset", "batch") if getattr(self, name) is not None]
        if self.to in WEIGHT_FORMATS and (given or self.images is not None):
            raise ConfigError(f"--to {self.to}: writes the weights alone, so {[*given, '--images'][0]} has no meaning")
        if self.to == "torch" and (wrong := [name for name in given if name not in ("--raw", "--batch")]):
            raise ConfigError(f"--to torch: writes the network in float with raw outputs, so {wrong[0]} has no meaning")
        if self.half and self.to != "openvino":
            raise ConfigError("--half: goes with --to openvino; other engines take the precision when they run")
        if self.tensorrt and self.to != "onnx":
            raise ConfigError("--tensorrt: goes with --to onnx")
        if self.opset is not None and self.int8 is not None and self.opset < INT8_FROM:
            raise ConfigError(f"--opset {self.opset}: weights in int8 by channel want {INT8_FROM} or more")
        if self.int8 is not None and self.half:
            raise ConfigError("--int8, --half: want one of them")
        if self.int8 is not None and self.tensorrt:
            raise ConfigError("--int8, --tensorrt: TensorRT wants its own quantisation; export with --tensorrt alone")

    @property
    def _switches(self) -> tuple[tuple[str, bool], ...]:
        return ("raw", self.raw), ("tensorrt", self.tensorrt), ("half", self.half)

    @property
    def path(self) -> Path:
        """The main file: `out`, or a name by the model's and the options, in this folder."""
        if self.out is not None:
            return Path(self.out)
        name = "-".join([Path(self.model).stem, *(name for name, on in self._switches if on)])
        if self.to in WEIGHT_FORMATS:
            return Path(f"{name}-{self.to}.pth")
        return Path(f"{name}{'-int8' if self.int8 is not None else ''}{ENGINE_FORMATS[self.to]}")


class EngineExport(NamedTuple):
    """A model written for engines. pictures: how many it was checked on; report: on quantisation, if it was asked."""

    options: ExportOptions
    info: ModelInfo
    exported: Exported
    pictures: int
    report: Report | None

    @property
    def files(self) -> tuple[Path, ...]:
        """What was written, the main file first."""
        return self.exported.files

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        options, report = self.options, self.report
        rows = [
            {
                "engine": row.speed.engine,
                "ms_per_image": round(row.speed.milliseconds, 3),
                "bytes": row.size,
                "agreement": None if row.agreement is None else row.agreement._asdict(),
            }
            for row in self.exported.rows
        ]
        return {
            "model": options.model,
            "to": options.to,
            "out": str(self.files[0]),
            "files": [str(file) for file in self.files],
            "bytes": sum(file.stat().st_size for file in self.files),
            "outputs": "raw" if options.raw or options.to == "torch" else "detections",
            "precision": "int8" if report is not None else "float16" if options.half else "float32",
            "classes": list(self.info.class_names),
            "pretrained": _plain(self.info.pretrained),
            "engines": rows,
            **({} if report is None else {"quantisation": report.to_dict()}),
        }


class WeightsExport(NamedTuple):
    """A state dict of another project. loaded_by: how its code makes the network that takes it, for people."""

    options: ExportOptions
    info: ModelInfo
    path: Path
    tensors: int
    loaded_by: str

    @property
    def files(self) -> tuple[Path, ...]:
        """What was written."""
        return (self.path,)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.options.model,
            "to": self.options.to,
            "out": str(self.path),
            "tensors": self.tensors,
            "bytes": self.path.stat().st_size,
            "classes": list(self.info.class_names),
            "pretrained": _plain(self.info.pretrained),
            "loaded_by": self.loaded_by,
        }


def _plain(pretrained: PretrainedWeights | None) -> dict[str, Any] | None:
    return None if pretrained is None else pretrained.to_dict()


def export(
    model: str | Path,
    *,
    out: str | Path | None = None,
    to: str = "onnx",
    raw: bool = False,
    tensorrt: bool = False,
    half: bool = False,
    int8: str | Path | None = None,
    split: str = "val",
    images: str | Path | None = None,
    batch: int | None = None,
    opset: int | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Path:
    """Write a model as one file that OpenVINO, ONNX Runtime and others run without PyTorch, and check it first.

    Args:
        model: A checkpoint of singleshot's, or one of another project that `import_checkpoint` knows; here or on the
            hub.
        out: The file to write; None for the model's name with .onnx, in this folder.
        to: "onnx", "openvino", "tflite", "torch" (a torch.export archive); or the weights for another project's code:
            "torchvision", "amdegroot", "amdegroot-unclipped".
        raw: Stop at offsets and logits: no decoding, no NMS.
        tensorrt: ONNX without branches, for TensorRT 10.
        half: Keep weights in 16 bits (openvino).
        int8: Labelled images of the same classes, to quantise on.
        split: With int8, the split on which mAP50 is measured.
        images: Pictures to check with, an image, a folder or a data set; None for drawn scenes.
        batch: Images that the file takes at a time, 1 to 256; None for any number.
        opset: With "onnx", the version of its operators, 11 to 18; None for 18. Below 12 with `raw` alone, below 13 not
            with `int8`.
        on_line: Takes lines about the course of a quantisation.

    Returns:
        The main file.

    Raises:
        ConfigError: Options do not go together, the place is taken, or the file would give other results than the
            model; then nothing is written.
        CheckpointError, DataError: The model or the images cannot be used.
        MissingExtraError: A package is not installed; the message names the extra.
    """
    return run_export(ExportOptions.of(locals()), on_line).files[0]


def run_export(options: ExportOptions, on_line: Callable[[str], None] | None = None) -> EngineExport | WeightsExport:
    """As `export`, with everything that is known of what was written."""
    options = replace(options, model=str(local_model(options.model)))
    path = options.path
    others = {f"--to {to}": suffix for to, suffix in ENGINE_FORMATS.items()}
    if options.to in WEIGHT_FORMATS:
        refuse_place(path, ".pth", ".pt", others=others)
        return _export_weights(options, path)
    refuse_place(path, ENGINE_FORMATS[options.to], others={**others, "--to torchvision": ".pth"})
    return _export_for_engines(options, path, on_line or (lambda line: None))


def _export_for_engines(options: ExportOptions, path: Path, on_line: Callable[[str], None]) -> EngineExport:
    with needs("train,export", "exporting"):
        from singleshot.deploy.check_images import check_pictures
        from singleshot.deploy.export import Form, export_model
        from singleshot.deploy.int8 import open_calibration, quantise
        from singleshot.deploy.tflite_file import check_thresholds
        from singleshot.weights.open_model import open_model

    form = Form(options.to, options.raw, options.tensorrt, options.half, options.opset, options.batch)
    form.check()
    network, info = open_model(options.model)
    data = None if options.int8 is None else open_calibration(options.int8, info, options.split)
    pictures = check_pictures(options.images or options.int8, network)
    quantised: Quantised | QuantisedTFLite | None = None
    report: Report | None = None
    if form.to == "tflite" and not form.raw:
        check_thresholds(info.thresholds)
        if info.thresholds.box_voting is not None:
            on_line(
                "boxes come as they are, without box voting, which TFLite's operator cannot; a --raw file has it when"
                " singleshot runs it"
            )
            info = replace(info, thresholds=replace(info.thresholds, box_voting=None))
    if data is not None:
        if form.to == "tflite":
            from singleshot.deploy.tflite_int8 import quantise_tflite

            quantised, report = quantise_tflite(network, info, *data, options.split, form.raw, on_line)
        else:
            quantised, report = quantise(network, info, *data, options.split, form.tensorrt_compatible, on_line)
    exported = export_model(network, info, path, pictures, form, quantised)
    return EngineExport(options, info, exported, len(pictures), report)


def _export_weights(options: ExportOptions, path: Path) -> WeightsExport:
    with needs("train", "exporting"):
        from singleshot.deploy.state_dicts import save_state_dict
        from singleshot.weights.open_model import open_model

    network, info = open_model(options.model)
    state = _state_dict(network, info, options)
    save_state_dict(path, state)
    lite = "backbone.features.0.0.0.weight" in state
    code = (_LITE if lite else WEIGHT_FORMATS[options.to]).format(columns=network.num_classes + 1)
    return WeightsExport(options, info, path, len(state), code)


def _state_dict(network: SSD, info: ModelInfo, options: ExportOptions) -> dict[str, Any]:
    from singleshot.deploy.state_dicts import TARGETS

    where, to = printable(options.model), options.to
    if info.thresholds.activation != "softmax":
        raise ConfigError(f"{where}: its scores are by {info.thresholds.activation}, those of {to} by softmax")
    try:
        return TARGETS[to](network)
    except ConfigError as error:
        hint = f"; --to amdegroot-unclipped {_UNCLIPPED}" if to == "amdegroot" and "centres" in str(error) else ""
        raise ConfigError(f"{where}: {error}{hint}") from error

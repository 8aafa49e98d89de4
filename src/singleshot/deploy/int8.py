"""A network in int8, with layers kept in float where average precision needs them.

nncf places the quantisers and measures their ranges on calibration images. Then mAP50 on a validation set decides: if
it falls too far, the layers whose rounding moves the raw outputs most go back to float, as few of them as will do.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from singleshot.datasets import open_dataset
from singleshot.datasets.dataset import Dataset
from singleshot.deploy.check_images import PreprocessedImages, spread
from singleshot.deploy.engines import engines_for
from singleshot.deploy.export import Quantised, need_onnx
from singleshot.deploy.int8_layers import l2norm_nodes, quantised_layers, rank_layers, with_float
from singleshot.deploy.onnx_file import attach_postprocess
from singleshot.deploy.onnx_network import network_model, silent
from singleshot.errors import ConfigError, DataError, printable
from singleshot.evaluation.engine_loop import PlacedSquare, evaluate_engine, in_batches
from singleshot.extras import require
from singleshot.models import SSD
from singleshot.records import ImageDetections
from singleshot.weights.checkpoint import ModelInfo

if TYPE_CHECKING:
    import onnx

    from singleshot.runtime.engines.table import FileEngine

MOST_FALL = 0.005  # of mAP50
CALIBRATION, VALIDATION, RANKING = 300, 500, 8  # images at most
_BATCH = 8

Say = Callable[[str], None]


class Outcome(NamedTuple):
    """before, after: mAP50; float_layers: those that stayed in float, the most sensitive first; tries: measurements."""

    before: float
    after: float
    float_layers: tuple[str, ...]
    tries: int


class Report(NamedTuple):
    """An Outcome with what it was measured on. layers: all that could be in int8."""

    outcome: Outcome
    layers: int
    calibration_images: int
    validation_images: int
    validation_of: int
    split: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON and the file's description."""
        outcome = self.outcome
        return {
            "map50_before": round(outcome.before, 5),
            "map50_after": round(outcome.after, 5),
            "most_fall": MOST_FALL,
            "float_layers": list(outcome.float_layers),
            "layers": self.layers,
            "measurements": outcome.tries,
            "calibration_images": self.calibration_images,
            "validation_images": self.validation_images,
            "validation_of": self.validation_of,
            "split": self.split,
        }


# ----------------------------------------------------------------------------------------------- accuracy control


def choose_float_layers(
    measure: Callable[[tuple[str, ...]], float],
    rank: Callable[[], Sequence[str]],
    before: float,
    layers: int,
    most_fall: float = MOST_FALL,
    say: Say = lambda line: None,
) -> Outcome:
    """The fewest layers, in the order of `rank`, whose return to float keeps mAP50 within `most_fall` of `before`.

    Args:
        measure: Layers in float -> mAP50.
        rank: Layers, the most sensitive first, asked for only when they are needed.
        before: mAP50 of the network in float.
        layers: How many there are.
        most_fall: By how much mAP50 may fall.
        say: Gets a line for each measurement.

    Raises:
        ConfigError: Half of the layers in float would not be enough, since then int8 has lost its purpose.
    """
    seen: dict[int, float] = {}
    ranked: list[str] = []

    def good(count: int) -> bool:
        if count not in seen:
            seen[count] = measure(tuple(ranked[:count]))
            say(f"mAP50 {seen[count]:.4f} with {count} of {layers} layers in float, {before:.4f} before")
        return bool(seen[count] >= before - most_fall)  # a NaN is not

    if good(0):
        return Outcome(before, seen[0], (), len(seen))
    ranked = list(rank())
    most = min(len(ranked), layers // 2)
    bad, count = 0, 1
    while not good(min(count, most)):
        if count >= most:
            raise ConfigError(
                f"int8: mAP50 falls from {before:.4f} to {seen[min(count, most)]:.4f} with {min(count, most)} of"
                f" {layers} layers in float, more than {most_fall:g}; nothing was written; export without --int8"
            )
        bad, count = count, 2 * count
    enough = min(count, most)
    while enough - bad > 1:
        middle = (bad + enough) // 2
        if good(middle):
            enough = middle
        else:
            bad = middle
    return Outcome(before, seen[enough], tuple(ranked[:enough]), len(seen))


def keep_precision(
    before: float,
    measure: Callable[[tuple[str, ...], float], float],
    rank: Callable[[np.ndarray], Sequence[str]],
    layers: int,
    images: tuple[PreprocessedImages, PreprocessedImages],
    say: Say,
) -> Outcome:
    """`choose_float_layers` for a network.

    Args:
        before: mAP50 of the network in float.
        measure: Layers in float, and the mAP50 that is enough -> mAP50.
        rank: Images uint8 [N, H, W, C] -> layers, those first whose rounding changes most what is computed of them.
        layers: How many there are.
        images: For calibration, and those that mAP50 is measured on.
        say: Gets lines of progress.

    Raises:
        ConfigError: As `choose_float_layers`, and where the model finds nothing to begin with.
    """
    feed, judged = images
    if not before > 0:
        raise ConfigError(
            f"int8: the model finds nothing on {printable(judged.dataset.source)} (mAP50 {before:.4f}), so what"
            " rounding costs cannot be measured"
        )

    def ranked() -> Sequence[str]:
        say(f"ranking {layers} layers by what their rounding does")
        return rank(np.stack([feed[i].square for i in spread(len(feed), RANKING)]))

    return choose_float_layers(lambda names: measure(names, before - MOST_FALL), ranked, before, layers, say=say)


# -------------------------------------------------------------------------------------------------------- measuring


def open_calibration(data: str, info: ModelInfo, split: str = "val") -> tuple[Dataset, Dataset]:
    """The train split to calibrate on, CALIBRATION images of it at most, and the one to measure on.

    Raises:
        DataError: They cannot be read, are empty, or do not have the model's classes.
    """
    sets = []
    for name, most in (("train", CALIBRATION), (split, None)):
        dataset = open_dataset(data, name, class_names=info.class_names, selection=info.selection)
        if not len(dataset):
            raise DataError(f"{printable(data)}: split {printable(name, 40)} has no images")
        sets.append(dataset if most is None else dataset.subset(spread(len(dataset), most)))
    if (sets[1].difficult | sets[1].crowd).all():  # those do not count
        raise DataError(f"{printable(data)}: split {printable(split, 40)} has no objects to measure mAP50 on")
    return sets[0], sets[1]


def map50(engine: Callable[[np.ndarray], list[ImageDetections]], images: PreprocessedImages) -> float:
    """mAP at IoU .5 (area under the curve, as `eval` computes it) of an engine on a data set."""
    batches = in_batches((images[i] for i in range(len(images))), _BATCH)
    done = evaluate_engine(
        lambda batch: engine(batch.images), batches, images.dataset, images.spec.sides, tiles=images.tiles
    )
    return done.evaluation.mean_ap


def quantise_network(network: onnx.ModelProto, images: PreprocessedImages | Sequence[PlacedSquare]) -> onnx.ModelProto:
    """A network in int8, its ranges measured on those images; nncf's standard post-training way."""
    import nncf

    feed = nncf.Dataset(range(len(images)), lambda i: {"images": images[i].square[None]})
    with silent():
        # Weights symmetric, maps not: hardswish and raw images waste half of a symmetric range.
        quantised: onnx.ModelProto = nncf.quantize(
            copy.deepcopy(network),
            feed,
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            ignored_scope=nncf.IgnoredScope(names=l2norm_nodes(network)),
        )
        return quantised


class _Judge:
    """What networks give, by the engines that are installed here.

    Args:
        folder: Where their files are written on the way.
        finish: Puts decoding and selection behind a copy of a network.
        images: What mAP50 is measured on.
    """

    def __init__(self, folder: str, finish: Callable[[onnx.ModelProto], onnx.ModelProto], images: PreprocessedImages):
        self._folder, self._finish, self._images = Path(folder), finish, images
        self._numbers = itertools.count()

    def _engines(self, proto: onnx.ModelProto, first: bool = False) -> list[FileEngine]:
        path = self._folder / f"{next(self._numbers)}.onnx"  # a new name: an engine may still have the last one mapped
        path.write_bytes(proto.SerializeToString())
        made = engines_for(path, first=first)
        path.unlink()
        return list(made.values())

    def map50(self, network: onnx.ModelProto, floor: float = -1.0) -> float:
        """Of the engines the lowest, those after the first one under `floor` not asked."""
        lowest = float("inf")
        for engine in self._engines(self._finish(network)):
            lowest = min(lowest, map50(engine, self._images))
            if not lowest >= floor:
                break
        return lowest

    def outputs(self, network: onnx.ModelProto, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offsets and logits by the first engine. squares: uint8 [N, H, W, C]."""
        found = self._engines(network, first=True)[0].outputs(squares)
        return found["offsets"], found["logits"]


def quantise(
    model: SSD,
    info: ModelInfo,
    calibration: Dataset,
    validation: Dataset,
    split: str = "val",
    tensorrt_compatible: bool = False,
    say: Say = lambda line: None,
) -> tuple[Quantised, Report]:
    """The model's network in int8 and how it fares; of all engines that are installed here the lowest mAP50 counts.

    Args:
        model, info: What to quantise.
        calibration: Images that the ranges are measured on.
        validation: Labelled images that mAP50 is measured on, up to VALIDATION of them.
        split: What the report calls the validation set.
        tensorrt_compatible: As the file will be exported.
        say: Gets a line of progress now and then.

    Raises:
        ConfigError: mAP50 cannot be kept, or the model finds nothing to begin with.
        MissingExtraError: A package is missing.
    """
    need_onnx("int8")
    require("export", "int8", "nncf")
    network = network_model(model)
    feed = PreprocessedImages(calibration, model, tiling=info.tiling, most=CALIBRATION)
    judged = PreprocessedImages(validation.subset(spread(len(validation), VALIDATION)), model, tiling=info.tiling)
    say(f"calibrating on {len(feed)} {'images' if info.tiling is None else 'tiles'}")
    rounded = quantise_network(network, feed)
    layers = quantised_layers(rounded, network)

    def back_in_float(names: Sequence[str]) -> onnx.ModelProto:
        return with_float(rounded, network, [layers[name] for name in names])

    def finish(proto: onnx.ModelProto) -> onnx.ModelProto:
        return attach_postprocess(copy.deepcopy(proto), model, info, tensorrt_compatible=tensorrt_compatible)

    with tempfile.TemporaryDirectory(prefix="singleshot-") as folder:
        judge = _Judge(folder, finish, judged)
        outcome = keep_precision(
            judge.map50(network),
            lambda names, floor: judge.map50(back_in_float(names), floor),
            lambda some: rank_layers(
                rounded, network, layers, lambda proto: judge.outputs(proto, some), info.thresholds.activation
            ),
            len(layers),
            (feed, judged),
            say,
        )
    report = Report(outcome, len(layers), len(feed), len(judged.dataset), len(validation), split)
    return Quantised(back_in_float(outcome.float_layers), {"quantisation": report.to_dict()}), report

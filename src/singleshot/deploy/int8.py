"""A network in int8, with layers kept in float where average precision needs them.

nncf places the quantisers and measures their ranges on calibration images. Then mAP50 on a validation set decides: if
it falls too far, the layers whose rounding moves the raw outputs most go back to float, as few of them as will do.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from singleshot.datasets import open_dataset
from singleshot.datasets.dataset import Dataset
from singleshot.deploy.check_images import PreprocessedImages, spread
from singleshot.deploy.export import Quantised, engines_for, need_onnx
from singleshot.deploy.onnx_file import attach_postprocess
from singleshot.deploy.onnx_network import consumers_of, network_model, silent
from singleshot.errors import ConfigError, DataError, MissingExtraError, printable
from singleshot.evaluation.engine_loop import PlacedSquare, evaluate_engine, in_batches
from singleshot.models import SSD
from singleshot.records import ImageDetections
from singleshot.weights.checkpoint import ModelInfo

MOST_FALL = 0.005  # of mAP50
CALIBRATION, VALIDATION, RANKING = 300, 500, 8  # images at most
_BATCH = 8
_PASSES = ("MaxPool", "Relu", "Clip", "Concat", "Reshape", "Transpose", "Identity")  # compute nothing of their own
_LITTLE = 0.02  # score under which a prior says nothing that matters

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
        o = self.outcome
        return {
            "map50_before": round(o.before, 5), "map50_after": round(o.after, 5), "most_fall": MOST_FALL,
            "float_layers": list(o.float_layers), "layers": self.layers, "measurements": o.tries,
            "calibration_images": self.calibration_images, "validation_images": self.validation_images,
            "validation_of": self.validation_of, "split": self.split,
        }  # fmt: skip


# ----------------------------------------------------------------------------------------------- accuracy control


def choose_float_layers(
    measure: Callable[[tuple[str, ...]], float], rank: Callable[[], Sequence[str]], before: float, layers: int,
    most_fall: float = MOST_FALL, say: Say = lambda line: None,
) -> Outcome:  # fmt: skip
    """The fewest layers, in the order of `rank`, whose return to float keeps mAP50 within `most_fall` of `before`.

    measure: layers in float -> mAP50; rank: layers, the most sensitive first, asked for only when it is needed.
    Raises ConfigError when half of the layers in float would not be enough, since then int8 has lost its purpose.
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


# ----------------------------------------------------------------------------------------------------------- layers


def quantised_layers(quantised: Any, floating: Any) -> dict[str, str]:
    """What can go back to float, in the order of the network: a name that says where it is -> name of its node."""
    rounded = {output for node in quantised.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    weights = {tensor.name for tensor in floating.graph.initializer}
    originals = {node.name: node for node in floating.graph.node}
    layers: dict[str, str] = {}
    for node in quantised.graph.node:
        if node.name not in originals or node.op_type in _PASSES or not rounded & set(node.input):
            continue
        name = next((i for i in originals[node.name].input[1:] if i in weights and i.endswith(".weight")), None)
        if name is None:
            name = f"{node.op_type.lower()} {originals[node.name].output[0]}"
        layers[name.removeprefix("model.").removesuffix(".weight")] = node.name
    return layers


def with_float(quantised: Any, floating: Any, nodes: Sequence[str]) -> Any:
    """A copy of the quantised network in which those nodes take what they take in the floating one."""
    proto = copy.deepcopy(quantised)
    originals = {node.name: node for node in floating.graph.node}
    tensors = {tensor.name: tensor for tensor in floating.graph.initializer}
    own = {tensor.name: tensor for tensor in proto.graph.initializer}
    added: dict[str, Any] = {}
    for node in proto.graph.node:
        if node.name not in nodes:
            continue
        del node.input[:]
        for name in originals[node.name].input:
            taken = name
            if name in tensors and name in own and own[name].SerializeToString() != tensors[name].SerializeToString():
                taken = f"{name}/float"  # a bias that was corrected for the rounding; others may share it
            if taken in tensors or taken != name:
                added.setdefault(taken, tensors[name])
            node.input.append(taken)
    for name, tensor in added.items():
        if name not in own:
            own_copy = proto.graph.initializer.add()
            own_copy.CopyFrom(tensor)
            own_copy.name = name
    _prune(proto)
    return proto


def _prune(proto: Any) -> None:
    """Drop nodes and tensors that nothing takes any more."""
    wanted = {value.name for value in proto.graph.output}
    kept = []
    for node in reversed(proto.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    tensors = [tensor for tensor in proto.graph.initializer if tensor.name in wanted]
    values = [value for value in proto.graph.value_info if value.name in wanted]
    del proto.graph.node[:], proto.graph.initializer[:], proto.graph.value_info[:]
    proto.graph.node.extend(reversed(kept))
    proto.graph.initializer.extend(tensors)
    proto.graph.value_info.extend(values)


def rank_layers(
    quantised: Any, floating: Any, layers: Mapping[str, str], outputs: Callable[[Any], tuple[np.ndarray, np.ndarray]]
) -> list[str]:
    """Layer names, first the one whose return to float brings the raw outputs nearest to the floating network's.

    outputs: runs a network (onnx.ModelProto) on some images -> offsets [N, P, 4], logits [N, P, C + 1].
    """
    offsets, logits = outputs(floating)
    scores = _softmax(logits)[..., 1:]
    speaks = scores.max(axis=-1) > _LITTLE
    if not speaks.any():
        speaks = np.ones_like(speaks)

    def error(network: Any) -> float:
        """Mean squared differences of scores, and of offsets in units of a prior's size, where objects may be."""
        found_offsets, found_logits = outputs(network)
        moved = np.square(found_offsets - offsets)[speaks].mean() * 0.01  # Caffe's variance of a centre, squared
        return float(moved + np.square(_softmax(found_logits)[..., 1:] - scores)[speaks].mean())

    errors = {name: error(with_float(quantised, floating, [node])) for name, node in layers.items()}
    return sorted(errors, key=lambda name: errors[name])


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


# -------------------------------------------------------------------------------------------------------- measuring


def open_calibration(data: str, info: ModelInfo, split: str = "val") -> tuple[Dataset, Dataset]:
    """The train split to calibrate on and the one to measure on; DataError where they do not fit the model."""
    sets = []
    for name, most in (("train", CALIBRATION), (split, None)):
        dataset = open_dataset(data, name, class_names=info.class_names)
        if not len(dataset):
            raise DataError(f"{printable(data)}: split {printable(name, 40)} has no images")
        sets.append(dataset if most is None else dataset.subset(spread(len(dataset), most)))
    if not len(sets[1].labels):
        raise DataError(f"{printable(data)}: split {printable(split, 40)} has no objects to measure mAP50 on")
    return sets[0], sets[1]


def map50(engine: Callable[[np.ndarray], list[ImageDetections]], squares: PreprocessedImages, size: int) -> float:
    """mAP at IoU .5 (area under the curve, as `eval` computes it) of an engine on a data set."""
    images = (squares[i] for i in range(len(squares)))
    placed = (PlacedSquare(square, place, width, height) for square, place, height, width in images)
    batches = in_batches(placed, _BATCH)
    return evaluate_engine(lambda batch: engine(batch.images), batches, squares.dataset, size).evaluation.mean_ap


def quantise_network(network: Any, squares: PreprocessedImages) -> Any:
    """A network (onnx.ModelProto) in int8, its ranges measured on those images; nncf's standard post-training way."""
    import nncf

    with silent():
        # Weights symmetric, maps not: hardswish and raw images waste half of a symmetric range.
        return nncf.quantize(
            copy.deepcopy(network), nncf.Dataset(_Feed(squares)), subset_size=len(squares),
            preset=nncf.QuantizationPreset.MIXED, target_device=nncf.TargetDevice.CPU,
            ignored_scope=nncf.IgnoredScope(names=l2norm_nodes(network)),
        )  # fmt: skip


def l2norm_nodes(network: Any) -> list[str]:
    """Names of the nodes that scale channel vectors to a length: squares and their root need more than 8 bits."""
    takers = consumers_of(network.graph)
    makers = {output: node for node in network.graph.node for output in node.output}
    names: list[str] = []
    for root in network.graph.node:
        if root.op_type != "Sqrt":
            continue
        chain = [root]
        while chain[-1].input[0] in makers and chain[-1].op_type in ("Sqrt", "Add", "ReduceSum"):
            chain.append(makers[chain[-1].input[0]])
        divisions = takers.get(root.output[0], [])
        scales = [node for one in divisions for node in takers.get(one.output[0], []) if node.op_type == "Mul"]
        names.extend(node.name for node in (*chain, *divisions, *scales))
    return names


class _Feed:
    """The images as the network takes them, as often as they are asked for."""

    def __init__(self, squares: PreprocessedImages) -> None:
        self.squares = squares

    def __len__(self) -> int:
        return len(self.squares)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {"images": self.squares[i][0][None]}


def quantise(
    model: SSD, info: ModelInfo, calibration: Dataset, validation: Dataset, split: str = "val",
    plain: bool = False, say: Say = lambda line: None,
) -> tuple[Quantised, Report]:  # fmt: skip
    """The model's network in int8 and how it fares. Raises ConfigError where mAP50 cannot be kept, MissingExtraError.

    Of all engines that are installed here the one with the lowest mAP50 counts.
    """
    need_onnx("int8")
    if importlib.util.find_spec("nncf") is None:
        raise MissingExtraError("int8 needs nncf: pip install 'singleshot[export]'")
    network = network_model(model)
    feed, judged = PreprocessedImages(calibration, model), validation.subset(spread(len(validation), VALIDATION))
    judges = PreprocessedImages(judged, model)
    say(f"calibrating on {len(feed)} images")
    rounded = quantise_network(network, feed)
    layers = quantised_layers(rounded, network)
    with tempfile.TemporaryDirectory(prefix="singleshot-") as folder:
        numbers = itertools.count()

        def engines(proto: Any, first: bool = False) -> dict[str, Any]:
            path = Path(folder) / f"{next(numbers)}.onnx"  # a new name: an engine may still have the last one mapped
            path.write_bytes(proto.SerializeToString())
            made = engines_for(path, first=first)
            path.unlink()
            return made

        def score(proto: Any, floor: float = -1.0) -> float:
            """Of the engines the lowest, those after the first one under `floor` not asked."""
            lowest = float("inf")
            for engine in engines(attach_postprocess(copy.deepcopy(proto), model, info, plain=plain)).values():
                lowest = min(lowest, map50(engine, judges, model.input_spec.size))
                if not lowest >= floor:
                    break
            return lowest

        before = score(network)
        if not before > 0:
            raise ConfigError(f"int8: the model finds nothing on {printable(judged.source)} (mAP50 {before:.4f}), so"
                              " what rounding costs cannot be measured")  # fmt: skip
        some = np.stack([feed[i][0] for i in spread(len(feed), RANKING)])

        def outputs(proto: Any) -> tuple[np.ndarray, np.ndarray]:
            found = next(iter(engines(proto, first=True).values())).outputs(some)
            return found["offsets"], found["logits"]

        def measure(names: tuple[str, ...]) -> float:
            return score(with_float(rounded, network, [layers[name] for name in names]), before - MOST_FALL)

        def rank() -> list[str]:
            say(f"ranking {len(layers)} layers by what their rounding does")
            return rank_layers(rounded, network, layers, outputs)

        outcome = choose_float_layers(measure, rank, before, len(layers), say=say)
    report = Report(outcome, len(layers), len(feed), len(judged), len(validation), split)
    final = with_float(rounded, network, [layers[name] for name in outcome.float_layers])
    return Quantised(final, {"quantisation": report.to_dict()}), report

"""The weights that a training starts from: a backbone's, another checkpoint's, or none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.inputs import InputSpec
from singleshot.models import SSD
from singleshot.models.dry_run import priors_on
from singleshot.models.prior_probability import set_class_bias
from singleshot.prior_boxes import PriorSpec, cell_shapes
from singleshot.weights.backbone_tensors import adapted
from singleshot.weights.backbones import has_imagenet_weights, load_backbone
from singleshot.weights.checkpoint import build_model
from singleshot.weights.class_rows import boxes_by_class_tensor, describe_match, match_classes, take_over
from singleshot.weights.open_model import open_model

log = logging.getLogger(__name__)


def start_model(model: SSD, backbone_weights: str, fresh: bool = True) -> tuple[str, bool]:
    """Fill the backbone of a new model.

    Args:
        model: changed in place.
        backbone_weights: "none", "imagenet", a file, or "auto" (ImageNet if it can be had).
        fresh: False when a resume will overwrite every weight anyway.

    Returns:
        Words about the start, and whether the backbone is pretrained.

    Raises:
        CheckpointError: weights that were asked for by name cannot be had.
        ConfigError: there are none for this backbone.
    """
    scratch = "from scratch", False
    if backbone_weights == "none":
        return scratch
    if not fresh:
        return "resumed", True
    if backbone_weights != "auto":
        return f"backbone: {load_backbone(model, backbone_weights)}", True
    if not has_imagenet_weights(model):
        return scratch
    try:
        return f"backbone: {load_backbone(model, 'imagenet')}", True
    except CheckpointError as error:
        log.warning("%s; training from scratch", str(error).split(";")[0])
        return scratch


def start_from_checkpoint(
    path: str,
    class_names: tuple[str, ...] | Mapping[str, Sequence[str]],
    name: str | None = None,
    resize: str | None = None,
    sixteen_bit: str | None = None,
    choose_input: Callable[[InputSpec, Callable[[], SSD]], InputSpec] | None = None,
    choose_priors: Callable[[PriorSpec, InputSpec], PriorSpec] | None = None,
    class_bias: float | None = None,
) -> tuple[SSD, str, int]:
    """A checkpoint's network, ours or another project's, for the classes that are wanted, words about it, and how many
    of them it knows.

    Args:
        path: The checkpoint.
        class_names: Those wanted, or each with what it is called in the data, where some have other names there. The
            confidence outputs of a class go by its name; a name that the checkpoint does not know starts fresh, which
            the log says.
        name: What the preset must be; None for any.
        resize: "stretch" or "letterbox" in place of the checkpoint's own rule.
        sixteen_bit: "scale" or "stretch", likewise.
        choose_input: Gives the input for that of the checkpoint and its network. Default boxes are scaled to another
            size; in one channel the first layer has the sum of its weights over the colours.
        choose_priors: Gives the default boxes for those of the checkpoint and its input; None keeps them. The
            outputs of a map that gets others start fresh, which the log says: they are relative to its boxes.
        class_bias: The bias of each new class, where it is not to be the network's own initial one.

    Raises:
        CheckpointError: It cannot be read.
        ConfigError: It is another preset than `name`, there is no such rule, or its network cannot have that input.
    """
    old, info = open_model(path)
    where = printable(path)
    if name is not None and name != info.model:
        raise ConfigError(f"--model {printable(name, 60)}: {where} is a {printable(info.model, 60)}; leave --model out")
    members = class_names if isinstance(class_names, Mapping) else {}
    match = match_classes(info.class_names, tuple(class_names), members)
    spec = info.input_spec
    spec = replace(spec, resize=resize or spec.resize, sixteen_bit=sixteen_bit or spec.sixteen_bit)
    if choose_input is not None:
        spec = choose_input(spec, lambda: old)
    if info.graph is not None and spec.channels != old.input_spec.channels:
        raise ConfigError(f"--grey: {where} is another project's network, which takes colours; leave --grey out")
    own = priors_on(old, spec.sides, where)
    priors = own if choose_priors is None else choose_priors(own, spec)
    model, state = build_model(replace(info, input_spec=spec, prior_spec=priors), len(class_names)), old.state_dict()
    if spec.channels != old.input_spec.channels:
        first = f"backbone.{next(iter(old.backbone.state_dict()))}"
        state[first] = adapted(state[first], old.input_spec, spec)
    activation = info.thresholds.activation
    if class_bias is not None:
        set_class_bias(model, class_bias)
        activation = "softmax"  # the background's output means nothing to sigmoids, which is what follows
    fresh, changed = model.state_dict(), changed_maps(own, priors)
    kept = {key: v for key, v in fresh.items() if not key.startswith(tuple(f"heads.{i}." for i in changed))}
    model.load_state_dict(
        fresh | take_over(state, kept, boxes_by_class_tensor(info), match, activation, class_bias is None)
    )
    if changed:
        maps = ", ".join(map(str, (priors.maps[i] for i in changed)))
        log.info("%s: has other default boxes; the outputs of its maps of %s cells start fresh", where, maps)
    log.info("%s: its classes by name: %s", where, describe_match(match))
    total = len(class_names)
    words = f"from {where}" + (f", {len(match.new)} of {total} classes new" if match.new else "")
    return model, words, len(match.kept) if len(changed) < len(priors.maps) else 0


def changed_maps(old: PriorSpec, new: PriorSpec) -> list[int]:
    """The maps of which offsets mean something else: boxes, places or variances are others."""

    def of(spec: PriorSpec, i: int) -> tuple[object, ...]:
        places = spec.offset if spec.centres is None else spec.centres[i]
        return tuple(cell_shapes(spec, i)), places, spec.step(i), spec.variances

    return [i for i in range(len(new.maps)) if of(old, i) != of(new, i)]

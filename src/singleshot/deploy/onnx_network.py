"""A network as ONNX or as a torch.export archive: uint8 images in, raw outputs out."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import itertools
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from singleshot.deploy.onnx_builder import IR_VERSION, OPSET
from singleshot.models import SSD
from singleshot.models.blocks import DepthwiseConv2d, HalvingConv2d
from singleshot.models.heads import Head
from singleshot.models.ssd import as_list

if TYPE_CHECKING:
    import onnx

MAX_BATCH = 4096
OUTPUTS = ("offsets", "logits")
_CONVOLUTIONS = (nn.Conv2d, DepthwiseConv2d, HalvingConv2d)  # others may make something else of their weights
_L2_EPSILON = 1e-10  # models.blocks.L2Norm's, which is Caffe's


class RawNetwork(nn.Module):
    """uint8 RGB [N, H, W, C] -> offsets [N, P, 4], logits [N, P, C + 1]; normalisation is inside.

    Heads of one convolution each for offsets and logits become one for both, where all heads are such: the map is read
    once, and fewer channels are added to fill a vector (6 % of the time of ssd300-mobilenetv2 in int8).
    """

    def __init__(self, model: SSD) -> None:
        super().__init__()
        self.model = model
        joined = [_joined(head) for head in model.heads]
        convs = [conv for conv in joined if conv is not None]
        self.heads = nn.ModuleList(convs) if len(convs) == len(joined) else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As the class says."""
        images = images.permute(0, 3, 1, 2)
        if self.heads is None:
            raw = self.model(images)
            return raw.offsets, raw.logits
        columns = 4 + self.model.num_classes + 1
        maps = [conv(x) for conv, x in zip(self.heads, self.model.feature_maps(images), strict=True)]
        rows = torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, columns) for x in maps], dim=1)
        return rows[..., :4], rows[..., 4:]


def _joined(head: nn.Module) -> nn.Conv2d | None:
    """A head's two convolutions as one whose channels are, box by box, 4 offsets and C + 1 logits; None where the head
    is not made of two alike."""
    if not isinstance(head, Head):
        return None
    parts = (head.location, head.confidence)
    if not all(type(part) is nn.Conv2d and part.groups == 1 and part.bias is not None for part in parts):
        return None
    first = parts[0]
    assert isinstance(first, nn.Conv2d)
    boxes = first.out_channels // 4
    weight, bias = (
        torch.cat([getattr(part, name).detach().unflatten(0, (boxes, -1)) for part in parts], dim=1).flatten(0, 1)
        for name in ("weight", "bias")
    )
    joined = nn.Conv2d(first.in_channels, len(bias), first.kernel_size, first.stride, first.padding)  # type: ignore[arg-type]
    joined.weight, joined.bias = nn.Parameter(weight), nn.Parameter(bias)
    return joined


class _Tail(nn.Module):
    """What comes behind normalisation: float [1, C, H, W] -> offsets and logits, heads as they are."""

    def __init__(self, model: SSD) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.model.predict(self.model.neck(as_list(self.model.backbone(image))))
        return raw.offsets, raw.logits


def network_model(model: SSD) -> onnx.ModelProto:
    """The network as ONNX: images uint8 [N, H, W, C], any N -> offsets [N, P, 4], logits [N, P, C + 1]."""
    door, example, shapes = _door(model)
    return _exported(door, example, "images", shapes)


def tail_model(model: SSD) -> onnx.ModelProto:
    """What comes behind normalisation, as ONNX: "image" float32 [1, C, H, W], in the order of colours that the network
    wants -> offsets [1, P, 4], logits [1, P, C + 1]."""
    height, width, channels = model.input_spec.shape
    example = torch.zeros(1, channels, height, width, device=model.priors.device)
    return _exported(_Tail(model).eval(), example, "image", None)


def _exported(door: nn.Module, example: Tensor, name: str, shapes: Any) -> onnx.ModelProto:
    door = _folded(door)
    with silent(), _means(door), torch.no_grad():
        program = torch.onnx.export(
            door,
            (example,),
            dynamo=True,
            input_names=[name],
            output_names=list(OUTPUTS),
            dynamic_shapes=shapes,
            opset_version=OPSET,
        )
    assert program is not None
    proto = program.model_proto
    proto.ir_version = IR_VERSION
    _restore_epsilon(proto)
    _drop_traces(proto)
    return proto


def _folded(door: nn.Module) -> nn.Module:
    """A copy whose batch norms are in the convolutions before them. The exporter would do so too, after it has taken
    each apart in Python: a third of its time."""
    door = copy.deepcopy(door)
    uses = Counter(id(one) for _, one in door.named_modules(remove_duplicate=False))
    for part in list(door.modules()):
        if not isinstance(part, nn.Sequential) or type(part).forward is not nn.Sequential.forward:
            continue  # its layers need not follow one another
        names = list(part._modules)
        for name, following in itertools.pairwise(names):
            conv, norm = part._modules[name], part._modules[following]
            if type(conv) in _CONVOLUTIONS and type(norm) is nn.BatchNorm2d and uses[id(conv)] == uses[id(norm)] == 1:
                assert isinstance(conv, nn.Conv2d)
                part._modules[name] = fuse_conv_bn_eval(conv, norm)
                part._modules[following] = nn.Identity()
    return door


def network_program(model: SSD, batch: int | None = None) -> torch.export.ExportedProgram:
    """The network as PyTorch's own export keeps it. batch: how many images it takes, None for any number."""
    door, example, shapes = _door(model, batch or 2)
    with silent(), _means(model), torch.no_grad():
        return torch.export.export(door, (example,), dynamic_shapes=shapes if batch is None else None)


def _door(model: SSD, images: int = 2) -> tuple[RawNetwork, Tensor, dict[str, Any]]:
    example = torch.zeros(images, *model.input_spec.shape, dtype=torch.uint8, device=model.priors.device)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    return RawNetwork(model).eval(), example, {"images": {0: batch}}


@contextlib.contextmanager
def _means(model: nn.Module) -> Iterator[None]:
    """Let average pooling to a single cell, as in squeeze-and-excitation, be a mean: the exporter makes an index into
    memory of it, which few readers take and none runs fast."""
    pools = [one for one in model.modules() if type(one) is nn.AdaptiveAvgPool2d and one.output_size in (1, (1, 1))]
    for pool in pools:
        setattr(pool, "forward", functools.partial(torch.mean, dim=(-2, -1), keepdim=True))  # noqa: B010 - a method
    try:
        yield
    finally:
        for pool in pools:
            del pool.forward


def consumers_of(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that take each tensor of an ONNX graph, by its name."""
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    return takers


def _restore_epsilon(proto: onnx.ModelProto) -> None:
    """Put back the addend inside L2Norm's root, in place: the exporter takes one as small for zero and drops it, and a
    position whose channels are all zero is then 0 / 0."""
    from onnx import helper, numpy_helper

    made_by = {output: node.op_type for node in proto.graph.node for output in node.output}
    nodes = list(proto.graph.node)
    roots = [n for n in nodes if n.op_type == "Sqrt" and made_by.get(n.input[0]) == "ReduceSum"]
    if not roots:
        return
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(_L2_EPSILON, np.float32), "l2norm_epsilon"))
    for root in roots:
        total = f"{root.input[0]}_epsilon"
        add = helper.make_node("Add", [root.input[0], "l2norm_epsilon"], [total], name=f"{root.name}_epsilon")
        root.input[0] = total
        nodes.insert(nodes.index(root), add)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _drop_traces(proto: onnx.ModelProto) -> None:
    """Drop where in our code each node comes from, in place: paths of this machine."""
    graph = proto.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, graph):
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
        part.doc_string = ""
    del proto.metadata_props[:]


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep quiet what exporters and quantisers print, log and warn of, which does not concern the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

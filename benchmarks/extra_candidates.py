"""Candidates that only benchmarks race: Faster R-CNN and torchvision as built, CUDA graphs, torch.compile."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from singleshot.bench.candidates import candidates_of, torchvision_candidates
from singleshot.bench.model_files import Model
from singleshot.bench.options import BenchOptions
from singleshot.bench.records import Candidate, Job
from singleshot.bench.runners import Runner
from singleshot.bench.torch_runners import TorchvisionRunner, build_torchvision, checkpoint_runner
from singleshot.models import SSD
from singleshot.records import RawOutput

RCNN_BUILDERS = ("fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn")
# Variants of our checkpoints on CUDA: precisions, and the function below.
_ON_CUDA = {"graphs": (("float16", "bfloat16"), "graphed"), "compile": (("float16",), "compiled")}
AS_BUILT = f"{__file__}:as_built"


def extra_candidates(model: Model, options: BenchOptions) -> list[Candidate]:
    """Faster R-CNN everywhere; where CUDA is, our checkpoint by graphs and compiled."""
    made = []
    for builder in RCNN_BUILDERS:
        made += torchvision_candidates(builder, model.classes, options, AS_BUILT)
    if model.checkpoint is None or not torch.cuda.is_available():
        return made
    for name, (precisions, function) in _ON_CUDA.items():
        found, _ = candidates_of(model, replace(options, engines=("torch",), precisions=precisions, device="cuda"))
        made += [replace(one, name=f"{one.name} {name}", runner=f"{__file__}:{function}") for one in found]
    return made


def as_built(job: Job) -> Runner:
    """One of torchvision's detectors as its builder gives it: of an SSD every prior is a candidate for NMS; of Faster
    R-CNN hardly any box passes its limit, so its last NMS is nearly free."""
    return TorchvisionRunner(job, build_torchvision(job))


def compiled(job: Job) -> Runner:
    """A checkpoint by torch.compile."""

    def change(model: SSD) -> SSD:
        model.forward = torch.compile(model.forward, dynamic=False)  # type: ignore[method-assign]
        return model

    return checkpoint_runner(job, change)


def graphed(job: Job) -> Runner:
    """A checkpoint by CUDA graphs."""
    return checkpoint_runner(job, Graphed)


class Graphed(nn.Module):
    """A model on CUDA whose kernels are launched at once, recorded for each shape of its input."""

    def __init__(self, model: SSD) -> None:
        super().__init__()
        self.model = model
        self.priors, self.prior_spec = model.priors, model.prior_spec
        self._graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, RawOutput]] = {}

    def forward(self, images: Tensor) -> RawOutput:
        key = tuple(images.shape)
        if key not in self._graphs:
            self._graphs[key] = self._record(images)
        graph, place, raw = self._graphs[key]
        place.copy_(images)
        graph.replay()
        return raw

    def _record(self, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, RawOutput]:
        place = images.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        # Weights that autocast has cast outside the recording must not be used inside it.
        kind = torch.get_autocast_dtype("cuda")
        casting = torch.autocast("cuda", kind, enabled=torch.is_autocast_enabled("cuda"), cache_enabled=False)
        with casting:
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.model(place)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                raw = self.model(place)
        return graph, place, raw

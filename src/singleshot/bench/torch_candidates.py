"""Contenders that need PyTorch: checkpoints, and torchvision's own detectors; networks with random weights that behave
like trained ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from singleshot.bench.worker import DetectorRunner, Runner
from singleshot.devices import autocast
from singleshot.evaluation.torch_engine import TorchEngine, load_detector
from singleshot.models import SSD
from singleshot.records import RawOutput

# Pairs of prior and class whose score passes the limit in an image: what a trained SSD has on a street or a table.
CANDIDATES = 50
_LOGIT_STD, _OFFSET_STD = 2.0, 1.0
SSD_BUILDERS = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
RCNN_BUILDERS = ("fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn")


# ------------------------------------------------------------------------------------------------ ours


def torch_runner(job: dict[str, Any]) -> Runner:
    """A checkpoint by PyTorch."""
    detector = load_detector(job["file"], device=job["device"], threads=job["threads"], precision=job["precision"])
    engine = detector.engine
    assert isinstance(engine, TorchEngine)
    if job["variant"] == "graphs":
        engine.model = _Graphed(engine.model)  # type: ignore[assignment]
    elif job["variant"] == "compile":
        engine.model.forward = torch.compile(engine.model.forward, dynamic=False)  # type: ignore[method-assign]
    elif job["variant"]:
        raise ValueError(f"variant {job['variant']}")

    def network(squares: np.ndarray) -> None:
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(squares)).to(engine.device).permute(0, 3, 1, 2)
            with autocast(engine.device, engine.dtype):
                engine.model(batch)
        _wait(engine.device)

    return DetectorRunner(detector, network)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Graphed(nn.Module):
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


def settle(model: SSD, squares: np.ndarray, score_min: float, candidates: int = CANDIDATES) -> None:
    """Give a network with random weights the behaviour of a trained one, in place.

    Its normalisations take their statistics from the images, uint8 [N, S, S, 3]; scores spread, and nearly all priors
    are background: `candidates` pairs of prior and class an image pass score_min. Without that every prior passes for
    every class, and NMS is what is measured.
    """
    images = torch.from_numpy(np.ascontiguousarray(squares)).permute(0, 3, 1, 2)
    confidence = [_last_conv(head.confidence) for head in model.heads]  # type: ignore[arg-type]
    location = [_last_conv(head.location) for head in model.heads]  # type: ignore[arg-type]
    _calm(model, lambda: model(images), confidence, location)
    with torch.inference_mode():
        logits = model(images).logits
    _lift_background(confidence, model.num_classes + 1, logits, score_min, candidates)


def _last_conv(module: nn.Module) -> nn.Conv2d:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)][-1]


def _calm(
    model: nn.Module, run: Callable[[], object], confidence: Iterable[nn.Conv2d], location: Iterable[nn.Conv2d]
) -> None:
    """Batch norms get the statistics of what `run` sends through, then the heads' outputs a usual spread."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        with torch.no_grad():
            run()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    wanted = {**dict.fromkeys(confidence, _LOGIT_STD), **dict.fromkeys(location, _OFFSET_STD)}
    spread: dict[nn.Conv2d, float] = {}

    def hook(layer: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        spread[layer] = float(output.std())

    handles = [layer.register_forward_hook(hook) for layer in wanted]
    with torch.no_grad():
        run()
        for handle in handles:
            handle.remove()
        for layer, std in wanted.items():
            layer.weight *= std / max(spread[layer], 1e-12)
            if layer.bias is not None:
                layer.bias.zero_()


def _lift_background(
    confidence: Sequence[nn.Conv2d], columns: int, logits: Tensor, score_min: float, candidates: int
) -> None:
    """Add to the background's biases what leaves about `candidates` scores of an image over score_min."""
    low, high = -50.0, 50.0
    for _ in range(40):
        bias = (low + high) / 2
        raised = logits.clone()
        raised[..., 0] += bias
        passing = int((raised.softmax(-1)[..., 1:] > score_min).sum()) / len(logits)
        low, high = (bias, high) if passing > candidates else (low, bias)
    _lift(confidence, columns, (low + high) / 2)


def _lift(confidence: Sequence[nn.Conv2d], columns: int, bias: float) -> None:
    with torch.no_grad():
        for layer in confidence:
            assert layer.bias is not None
            layer.bias.view(-1, columns)[:, 0] += bias


# ------------------------------------------------------------------------------------------------ torchvision


class _TorchvisionRunner:
    """A detector of torchvision's as its documentation uses it: list of float images in, boxes in pixels out."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self._model, self._device, self._dtype = model, device, dtype

    def squares(self, images: Sequence[Any]) -> Any:
        raise NotImplementedError("torchvision is measured end to end")

    network = detect = squares

    def memory(self, images: Sequence[Any]) -> None:
        self._run([torch.from_numpy(image).permute(2, 0, 1) for image in images])

    def files(self, paths: Sequence[str], batch: int) -> None:
        from torchvision.io import ImageReadMode, decode_image

        for start in range(0, len(paths), batch):
            self._run([decode_image(path, ImageReadMode.RGB) for path in paths[start : start + batch]])

    def _run(self, images: list[Tensor]) -> None:
        with torch.inference_mode(), autocast(self._device, self._dtype):
            found = self._model([image.to(self._device).float().div_(255) for image in images])
            for image in found:
                for values in image.values():
                    values.cpu()


def torchvision_runner(job: dict[str, Any]) -> Runner:
    """file: the builder's name; random weights, so that nothing is downloaded; settled as ours is, unless the variant
    is "untrained"."""
    from torchvision.models import detection

    from singleshot.images.decode import read_image

    if job["threads"] is not None:
        torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    build = getattr(detection, job["file"])
    # As many classes as the model that it is measured against: more would cost it more.
    model = build(weights=None, weights_backbone=None, num_classes=job["classes"] + 1).eval()
    if job["file"] not in SSD_BUILDERS or job["variant"] == "untrained":
        pass
    elif job["only_first"]:  # settling takes longer than starting
        _lift(_confidence(model), job["classes"] + 1, 10.0)
    else:
        images = [torch.from_numpy(read_image(path)).permute(2, 0, 1).float().div_(255) for path in job["pictures"][:2]]
        _settle_torchvision(model, images)
    device = torch.device(job["device"])
    return _TorchvisionRunner(model.to(device), device, getattr(torch, job["precision"]))


def _confidence(model: Any) -> list[nn.Conv2d]:
    return [_last_conv(part) for part in model.head.classification_head.module_list]


def _settle_torchvision(model: Any, images: list[Tensor]) -> None:
    """As `settle`, for torchvision's SSDs, by their own limit of scores."""
    squares = model.transform(images)[0].tensors

    def run() -> dict[str, Tensor]:
        return model.head(list(model.backbone(squares).values()))

    confidence = _confidence(model)
    location = [_last_conv(part) for part in model.head.regression_head.module_list]
    _calm(model, run, confidence, location)
    with torch.inference_mode():
        logits = run()["cls_logits"]
    _lift_background(confidence, logits.shape[-1], logits, model.score_thresh, CANDIDATES)

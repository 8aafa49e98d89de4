"""A detector whose answers are known: it finds the bright rectangle of an image by thresholding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from singleshot.cli.detect import detect
from singleshot.inputs import InputSpec
from singleshot.records import ImageDetections
from singleshot.runtime import Detections, Detector

CLASSES = ("ball", "box", "cone")


class BrightEngine:
    """Class 0 at .9 around everything brighter than 128, and a weak class 1 at .2 around the same."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> list[ImageDetections]:
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert images.shape[3] == 3
        self.batches.append(len(images))
        size = images.shape[1]
        results = []
        for image in images:
            ys, xs = np.nonzero(image.min(axis=2) > 128)
            if len(xs) == 0:
                boxes = np.zeros((0, 4), np.float32)
            else:
                box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                boxes = np.array([box, box], np.float32) / size
            scores = np.array([0.9, 0.2], np.float32)[: len(boxes)]
            results.append(ImageDetections(boxes, scores, np.arange(len(boxes))))
        return results


@pytest.fixture
def engine() -> BrightEngine:
    return BrightEngine()


@pytest.fixture
def detector(engine: BrightEngine) -> Detector:
    return Detector(engine, InputSpec(size=300, mean=(0.0, 0.0, 0.0)), ("bright thing", "weak thing"))


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """Makes a black uint8 RGB image with one white rectangle."""

    def make(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
        image = np.zeros((height, width, 3), np.uint8)
        image[box[1] : box[3], box[0] : box[2]] = 255
        return image

    return make


@pytest.fixture
def save(picture: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """Writes such an image (160 x 120, rectangle 40 30 100 90) to a path, bytes and not imwrite: any name works."""

    def write(path: Path, suffix: str = ".png") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        good, data = cv2.imencode(suffix, picture(160, 120, (40, 30, 100, 90)))
        assert good
        path.write_bytes(data.tobytes())
        return path

    return write


@pytest.fixture
def clip(picture: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """Writes a video of a rectangle that moves right by 5 pixels a frame, 160 x 120 at 10 frames a second."""

    def write(path: Path, frames: int = 12) -> Path:
        codec = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
        writer = cv2.VideoWriter(str(path), codec, 10.0, (160, 120))
        assert writer.isOpened()
        for i in range(frames):
            writer.write(picture(160, 120, (20 + 5 * i, 30, 60 + 5 * i, 90)))
        writer.release()
        return path

    return write


@pytest.fixture
def found() -> Callable[..., Detections]:
    """Makes the detections of a 200 x 100 image: a big dog, then a small cat."""

    def make(image: str = "photos/000012.jpg") -> Detections:
        return Detections(
            np.array([[10.25, 20.5, 110.25, 80.5], [0, 0, 8, 4]], np.float32),
            np.array([0.875, 0.5], np.float32),
            np.array([1, 0]),
            ("dog", "cat"),
            image,
            200,
            100,
        )

    return make


@pytest.fixture(scope="session")
def tiny():
    """A ssd320-mini of 160 px and random weights with 3 classes, its info."""
    torch = pytest.importorskip("torch")
    from singleshot.inputs import InputSpec
    from singleshot.models import build
    from singleshot.thresholds import Thresholds
    from singleshot.weights.checkpoint import ModelInfo

    torch.manual_seed(0)
    model = build("ssd320-mini", 3, input_spec=InputSpec(size=160)).eval()
    for head in model.heads:
        head.confidence.weight.data.mul_(0.01)  # scores differ
        head.location.weight.data.mul_(0.01)  # boxes near their default boxes
    return model, ModelInfo.of(model, CLASSES, thresholds=Thresholds(score_min=0.3, keep=50, show_min=0.35))


@pytest.fixture(scope="session")
def exported(tiny, tmp_path_factory) -> Callable[[str], Path]:
    """Paths by name: model.onnx, raw.onnx, model.xml (OpenVINO), raw.xml, model.safetensors."""
    pytest.importorskip("onnx")
    openvino = pytest.importorskip("openvino")
    from singleshot.deploy.onnx_file import attach_postprocess, description
    from singleshot.deploy.onnx_network import network_model
    from singleshot.weights.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("exported")
    model, info = tiny
    raw_network = network_model(model)
    for name, raw in (("model", False), ("raw", True)):
        proto = attach_postprocess(copy.deepcopy(raw_network), model, info, raw)
        (folder / f"{name}.onnx").write_bytes(proto.SerializeToString())
        network = openvino.Core().read_model(str(folder / f"{name}.onnx"))
        network.set_rt_info(description(info, raw), ["singleshot"])
        openvino.save_model(network, str(folder / f"{name}.xml"), compress_to_fp16=False)
    save_checkpoint(folder / "model.safetensors", model.state_dict(), info)

    def path(name: str) -> Path:
        assert (folder / name).is_file()
        return folder / name

    return path


@pytest.fixture(scope="session")
def scene() -> Callable[..., np.ndarray]:
    """Makes a picture with something in it: smooth noise in colours."""

    def make(seed: int = 0, width: int = 200, height: int = 150) -> np.ndarray:
        small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)

    return make


@pytest.fixture
def run(detector, tmp_path, monkeypatch):
    """Runs the command in an empty folder; its own errors come as exceptions, as the command line's main gets them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("singleshot.api.load.load", lambda path, device=None, **options: detector)
    app = typer.Typer()
    app.command()(detect)

    def invoke(*arguments: str, stdin: bytes | None = None):
        result = CliRunner().invoke(app, ["m.onnx", *arguments], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke

"""A service without processes, whose detector finds the bright rectangle of an image; and real ones."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from singleshot.inputs import InputSpec
from singleshot.records import ImageDetections
from singleshot.runtime import Detector
from singleshot.serve.app import create_app
from singleshot.serve.connections import server_for
from singleshot.serve.options import ServeOptions
from singleshot.serve.server import address_of, listen
from singleshot.serve.service import Service
from singleshot.serve.worker import Limits, Models

CLASSES = ("bright", "weak")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    f"--{flag}"
    for flag in (
        "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "use-fake-ui-for-media-stream", "use-fake-device-for-media-stream",
    )
]  # fmt: skip


class BrightEngine:
    """Class 0 at .9 around everything brighter than 128, the same a little smaller at .8, class 1 at .2."""

    def __call__(self, images: np.ndarray) -> list[ImageDetections]:
        results = []
        for image in images:
            ys, xs = np.nonzero(image.min(axis=2) > 128)
            boxes = np.zeros((0, 4), np.float32)
            if len(xs):
                box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32) / len(image)
                boxes = np.stack([box, box * np.float32(0.75), box])
            results.append(ImageDetections(boxes, np.array([0.9, 0.8, 0.2], np.float32)[: len(boxes)],
                                           np.array([0, 0, 1])[: len(boxes)]))  # fmt: skip
        return results


class InlineWorker:
    """What a pool wants of a worker, in threads of this process."""

    pid = 0

    def __init__(self, models: Models) -> None:
        self._models = models
        self.models = models.describe()
        self.ended, self.idle = asyncio.Event(), asyncio.Event()
        self.idle.set()
        self.hold: Callable[[], None] = lambda: None

    async def run(self, jobs, seconds: float):
        def answers():
            self.hold()
            return self._models.run([job.header() for job in jobs], [job.data for job in jobs])

        found = await asyncio.to_thread(answers)
        return [head for head, _ in found], [blob for _, blob in found]

    async def stop(self) -> None:
        pass


class Served(NamedTuple):
    """A client of a service, and its parts."""

    client: TestClient
    service: Service
    worker: InlineWorker
    detector: Detector


@pytest.fixture
def detector() -> Detector:
    return Detector(BrightEngine(), InputSpec(size=300, mean=(0.0, 0.0, 0.0)), CLASSES, score_min=0.1)


@pytest.fixture(scope="session")
def explainable() -> Detector:
    """A network of random weights that is sure of something here and there: explained by its checkpoint's engine."""
    import torch

    from singleshot.evaluation.torch_engine import TorchEngine
    from singleshot.model_info import ModelInfo
    from singleshot.models import build
    from singleshot.thresholds import Thresholds

    torch.manual_seed(0)
    network = build("ssd320-mini", 2, input_spec=InputSpec(size=160))
    for head in network.heads:
        head.confidence.weight.data.mul_(0.002)  # scores not all 1
        head.location.weight.data.mul_(0.01)  # boxes near their default boxes
    rules = Thresholds(show_min=0.4, keep=20)
    detector = Detector(TorchEngine(network.eval(), rules, torch.device("cpu")), network.input_spec, CLASSES, 0.4)
    detector.info = ModelInfo.of(network, CLASSES, rules)
    return detector


@pytest.fixture
def noise() -> bytes:
    """A picture in which that network finds something, as the bytes of a file."""
    dots = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    return cv2.imencode(".png", cv2.resize(dots, (200, 120), interpolation=cv2.INTER_CUBIC))[1].tobytes()


def application(detectors: dict[str, Detector], **options: Any) -> tuple[FastAPI, Service, InlineWorker]:
    """A service of these, by name; its pool is filled when the application starts."""
    given = ServeOptions(tuple(f"{name}.onnx" for name in detectors), **options)
    service = Service(given, dict.fromkeys(detectors, ""))
    worker = InlineWorker(Models(detectors, Limits(given.max_pixels, given.max_mb << 20, given.max_tiles)))
    app = create_app(service)

    @contextlib.asynccontextmanager
    async def lifespan(_: object):
        service.pool.fill([worker])
        yield
        await service.pool.stop()

    app.router.lifespan_context = lifespan
    return app, service, worker


@pytest.fixture
def served(detector: Detector) -> Iterator[Callable[..., Served]]:
    """served(queue=2, ...): a service of two models, bright and other. others: more, by name."""
    with contextlib.ExitStack() as stack:

        def start(others: dict[str, Detector] | None = None, **options: Any) -> Served:
            detectors = {"bright": detector, "other": detector, **(others or {})}
            app, service, worker = application(detectors, allow_hosts=("testserver",), **options)
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            return Served(client, service, worker, detector)

        yield start


class Listening(NamedTuple):
    """A service on a socket of its own, in a thread."""

    url: str
    worker: InlineWorker
    detector: Detector
    models: Callable[[], list[dict[str, Any]]]


@pytest.fixture
def listening(detector: Detector) -> Iterator[Callable[..., Listening]]:
    """listening(queue=2, ...): as `served`, over connections. other_classes: of the other model; first: more models."""
    with contextlib.ExitStack() as stack:

        def start(
            other_classes: tuple[str, ...] = CLASSES, first: dict[str, Detector] | None = None, **options: Any
        ) -> Listening:
            other = Detector(BrightEngine(), detector.input_spec, other_classes, score_min=0.85)
            app, service, worker = application({**(first or {}), "bright": detector, "other": other}, **options)
            server = server_for(service.options, app)
            server.config.lifespan = "on"
            listener = stack.enter_context(listen("127.0.0.1", 0))
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.stop)
            return Listening(address_of(listener), worker, detector, service.models)

        yield start


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """picture(".jpg", width, height): a black image with a white rectangle, as the bytes of a file."""

    def make(suffix: str = ".jpg", width: int = 160, height: int = 120) -> bytes:
        image = np.zeros((height, width, 3), np.uint8)
        image[height // 4 : height // 2, width // 4 : width // 2] = 255
        return cv2.imencode(suffix, image)[1].tobytes()

    return make


@pytest.fixture
def three_images(tmp_path: Path, picture) -> Callable[[str, str], Path]:
    """three_images(rows, classes): a YOLO set of a.png, b.png and c.png, the first of them labelled."""

    def make(rows: str, classes: str) -> Path:
        root = tmp_path / "set"
        for name in ("images", "labels"):
            (root / name).mkdir(parents=True)
        for name in "abc":
            (root / "images" / f"{name}.png").write_bytes(picture(".png"))
        (root / "labels" / "a.txt").write_text(rows)
        (root / "classes.txt").write_text(classes)
        return root

    return make


@pytest.fixture(scope="session")
def as_json() -> Callable[..., str]:
    """as_json(data, ...): the body of a request with these images."""
    return lambda *images: json.dumps({"images": [base64.b64encode(one).decode() for one in images]})


def export(path: Path, classes: tuple[str, ...]) -> Path:
    """An ONNX file of a network that starts at once: one box for each of three colours, its score the colour's mean."""
    from onnx import TensorProto, checker, helper, numpy_helper

    from singleshot.model_info import KEY, ModelInfo
    from singleshot.thresholds import Thresholds

    boxes = np.array([[[0.1, 0.1, 0.5, 0.5], [0.2, 0.3, 0.9, 0.7], [0.0, 0.5, 1.0, 1.0]]], np.float32)
    constants = {"scale": np.array([1 / 255], np.float32), "zero": np.array([0], np.float32), "corners": boxes,
                 "classes": np.array([[min(i, len(classes) - 1) for i in range(3)]]), "three": np.array(3),
                 "shape": np.array([-1, 3]), "last": np.array([2]), "first": np.array(0)}  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2]),
        helper.make_node("Reshape", ["means", "shape"], ["rows"]),
        helper.make_node("Mul", ["rows", "scale"], ["scores"]),
        helper.make_node("Mul", ["scores", "zero"], ["zeros"]),
        helper.make_node("Unsqueeze", ["zeros", "last"], ["zero_boxes"]),
        helper.make_node("Add", ["zero_boxes", "corners"], ["boxes"]),
        helper.make_node("Cast", ["zeros"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "classes"], ["labels"]),
        helper.make_node("Gather", ["whole", "first"], ["one"], axis=1),
        helper.make_node("Add", ["one", "three"], ["counts"]),
    ]
    outputs = [("boxes", 1, ["n", 3, 4]), ("scores", 1, ["n", 3]), ("labels", 7, ["n", 3]), ("counts", 7, ["n"])]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 64, 64, 3])],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    info = ModelInfo(classes, InputSpec(size=64), thresholds=Thresholds(show_min=0.01), outputs="detections")
    helper.set_model_props(model, {KEY: info.to_json()})
    checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """An ONNX file with the classes ball, box and cone."""
    return export(tmp_path_factory.mktemp("exported") / "model.onnx", ("ball", "box", "cone"))


@pytest.fixture(scope="session")
def other(tmp_path_factory) -> Path:
    """Another one, with the classes ant and bee."""
    return export(tmp_path_factory.mktemp("other") / "model.onnx", ("ant", "bee"))


class Running(NamedTuple):
    """A service as a user starts it. url: where; process: its main one; log: what it writes on standard error."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def memory_mb(self) -> float:
        """Of the process and its workers, without mapped files."""
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in (self.process.pid, *self.workers)]
        return sum(int(line.split()[1]) for text in rollups for line in text.splitlines() if "Pss_Anon" in line) / 1024

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def start_service(tmp_path_factory) -> Iterator[Callable[..., Running]]:
    """start_service(model, "--workers", 2): `singleshot serve` in a process of its own."""
    started: list[Running] = []

    def start(*words: object) -> Running:
        log = tmp_path_factory.mktemp("service") / "log"
        command = [sys.executable, "-m", "singleshot", "serve", *map(str, words), "--port", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("w") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)
        assert process.stdout is not None
        line = process.stdout.readline()
        running = Running(line.rpartition(" ")[2].strip(), process, log)
        started.append(running)
        assert running.url.startswith("http://127.0.0.1:"), log.read_text()
        return running

    yield start
    for one in started:
        one.stop()
        assert one.process.stdout is not None
        one.process.stdout.close()


@pytest.fixture(scope="module")  # its event loop runs until it ends, and other files have loops of their own
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        pytest.skip("no Chromium with Playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium with Playwright")
    expect.set_options(timeout=10_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Any]]:
    """open_page(url, width=390, ...): the page in a window of its own; a test fails where the page has an error."""
    contexts, errors = [], []

    def start(url: str, width: int = 1280, height: int = 800, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
        page.goto(url)
        return page

    yield start
    for context in contexts:
        context.close()
    assert errors == []

"""Fixtures that every test folder uses: golden vectors, and small data sets on disk, written by hand."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import json
import logging
import os
import shutil
import signal
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import settings

from singleshot import remote_file
from singleshot.errors import DataError
from singleshot.memory import free_memory

NO_SHARED = "../shared is absent"
# Why a test may skip. A test that skips for any other reason fails the run: a check that silently stops running is
# worse than one that is missing.
MAY_SKIP = (
    NO_SHARED,
    "slow: make test-slow",
    "no index of packages is reached",
    "signals",  # not on Windows
    "glibc only",
    "no posix_fallocate",  # not on macOS
    "no CUDA device",
    "no /proc/cpuinfo here",
    "counts processes by /proc",
    "OpenCV before 5 has ASCII letters only",
    "no Chromium with Playwright",  # CONTRIBUTING.md says how to have them
    "supervision is not installed: it brings parts under the GPL",
    "OpenCV 5 reads no Caffe files; 4 does",
    "s3fs and moto are not installed",  # moto brings 30 packages: pip install 'singleshot[s3]' 'moto[server]'
    "no network namespaces here",  # root and iproute2
    "ray is not installed",  # pip install 'singleshot[ray]'
)

# A shell that starts this in the background has it ignore Ctrl-C, and so would every command that a test stops.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # nohup: likewise
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Deadlines measure the machine, not the code; fixed examples make a red test red again.
settings.register_profile("singleshot", deadline=None, derandomize=True)
settings.load_profile("singleshot")


MEMORY_DISK, ROOM = Path("/dev/shm"), 8 * 2**30


def pytest_configure(config: pytest.Config) -> None:
    """Put the tests' folders into memory where that has room (they take up to 3 GB): some 100,000 files are written and
    removed, and a disk takes longer over that than the tests over the rest. PYTEST_DEBUG_TEMPROOT names another place.
    """
    if "PYTEST_DEBUG_TEMPROOT" in os.environ or not os.access(MEMORY_DISK, os.W_OK | os.X_OK):
        return
    if min(shutil.disk_usage(MEMORY_DISK).free, free_memory()) > ROOM:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY_DISK)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # PyTorch refuses a backward pass in the fork of a process that has made one.
    items.sort(key=lambda item: item.get_closest_marker("first") is None)
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: make test-slow"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is there by now stays: collecting garbage need not look at it again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many tests skipped for which reason, and which of them may not."""
    for reason, count in sorted(_skipped.items()):
        terminalreporter.write_line(f"skipped: {count}, {reason}{'' if _may_skip(reason) else ' (MAY NOT SKIP)'}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped[str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)] += 1


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped[str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and not all(map(_may_skip, _skipped)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_skipped: Counter[str] = Counter()


def _may_skip(reason: str) -> bool:
    return reason.removeprefix("Skipped: ") in MAY_SKIP


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Tests stop processes, not machines: what was written is there, whether or not the disk has it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def operators_of_onnx_are_read_once() -> None:
    """Each export to ONNX reads the source of onnxscript's 500 operators anew, a sixth of its time, and finds the same.
    Other releases of PyTorch may do so elsewhere."""
    with contextlib.suppress(ImportError):
        if "torch" in sys.modules:
            from torch.onnx._internal._lazy_import import onnxscript_apis

            @functools.cache
            def operators() -> Any:
                return type(onnxscript_apis).__getattr__(onnxscript_apis, "get_torchlib_ops")()

            vars(onnxscript_apis)["get_torchlib_ops"] = operators


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """A test that gives PyTorch's process another number of threads gives it to all that follow, which then wait for
    each other: with two busy processes on two cores a network takes ten times as long."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    torch = sys.modules.get("torch")
    if torch and before is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A command that ran in this process leaves later tests their view of the log."""
    ours = logging.getLogger("singleshot")
    before = ours.handlers, ours.propagate, ours.level
    yield
    ours.handlers, ours.propagate = before[:2]
    ours.setLevel(before[2])


@pytest.fixture(autouse=True)
def quick_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further tries of a remote file follow at once."""
    monkeypatch.setattr(remote_file, "_PAUSE", 0.001)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with data sets and weights that are not ours to redistribute; tests skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(NO_SHARED)
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The vectors computed by public implementations: tests/golden, whose README says by which."""
    return Path(__file__).resolve().parent / "golden"


@pytest.fixture(scope="session")
def golden_inputs(golden: Path) -> ModuleType:
    """The module that regenerates the inputs of the golden vectors."""
    spec = importlib.util.spec_from_file_location("golden_inputs", golden / "golden_inputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Write = Callable[..., Path]


@pytest.fixture(scope="session")
def one_line() -> Callable[..., str]:
    """one_line(call, ...): the message of the DataError that the call must end in, which must be a single line."""

    def check(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
        with pytest.raises(DataError) as caught:
            call(*args, **kwargs)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return check


def _image(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.arange(height * width * 3, dtype=np.uint32).reshape(height, width, 3) // 7 % 256
    assert cv2.imwrite(str(path), ramp.astype(np.uint8))


@pytest.fixture(scope="session")
def write_image() -> Callable[[Path, int, int], None]:
    """write_image(path, width, height): a picture in the format of the suffix."""
    return _image


def _object(name: str | None, box: Iterable[object] | None, difficult: object = None) -> str:
    parts = ["<object>"]
    if name is not None:
        parts.append(f"<name>{name}</name>")
    if difficult is not None:
        parts.append(f"<difficult>{difficult}</difficult>")
    if box is not None:
        sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        parts.append("<bndbox>" + "".join(f"<{s}>{v}</{s}>" for s, v in sides) + "</bndbox>")
    return "".join([*parts, "</object>"])


@pytest.fixture(scope="session")
def voc_xml() -> Callable[..., str]:
    """voc_xml(objects, size=(w, h) or None, filename): objects are (name, box[, difficult]) or ready XML."""

    def make(objects: Iterable[Any] = (), size: Any = (64, 48), filename: str = "a.png") -> str:
        told = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
        body = "".join(o if isinstance(o, str) else _object(*o) for o in objects)
        return f"<annotation><filename>{filename}</filename>{told}{body}</annotation>"

    return make


@pytest.fixture(scope="session")
def write_voc() -> Write:
    """write_voc(root, {stem: xml}, {split: stems}): a VOC folder whose images are 64 x 48 pixels."""

    def write(root: Path, xmls: dict[str, str], splits: dict[str, list[str]] | None = None) -> Path:
        for stem, xml in xmls.items():
            (root / "Annotations").mkdir(parents=True, exist_ok=True)
            (root / "Annotations" / f"{stem}.xml").write_text(xml, encoding="utf-8")
            _image(root / "JPEGImages" / f"{stem}.png", 64, 48)
        for split, lines in (splits or {}).items():
            (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return root

    return write


@pytest.fixture(scope="session")
def coco() -> Callable[..., dict[str, Any]]:
    """coco(annotations, **changes): a COCO dict with images a.png, b.png (64 x 48) and categories 7 cat, 3 dog."""

    def make(annotations: Iterable[dict[str, Any]] = (), **changes: Any) -> dict[str, Any]:
        images = [
            {"id": 20, "file_name": "a.png", "width": 64, "height": 48},
            {"id": 10, "file_name": "b.png", "width": 64, "height": 48},
        ]
        categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
        return {"images": images, "annotations": list(annotations), "categories": categories, **changes}

    return make


@pytest.fixture(scope="session")
def write_coco() -> Write:
    """write_coco(json_path, content, images_folder): the JSON file and its images; returns the JSON's path."""

    def write(path: Path, content: Any, images: Path | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        for name in ("a.png", "b.png"):
            _image((images or path.parent) / name, 64, 48)
        return path

    return write


@pytest.fixture
def serve():
    """serve(handler): the address of a server that runs until the test ends."""
    servers = []

    def start(handler) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def tiff() -> Callable[..., bytes]:
    """Makes an uncompressed TIFF of any kind of samples, which no library here writes."""
    kinds = {"u": 1, "i": 2, "f": 3, "c": 6}

    def make(samples: np.ndarray, order: str = "<", bits: int = 0, packed: bytes = b"") -> bytes:
        """samples: [H, W] or [H, W, C]; order: of bytes; bits, packed: of samples that numpy has no type for."""
        rows = samples.reshape(*samples.shape[:2], -1)
        height, width, channels = rows.shape
        data = packed or rows.astype(rows.dtype.newbyteorder(order)).tobytes()
        bits, kind = bits or 8 * rows.dtype.itemsize, kinds[rows.dtype.kind]
        colours = 3 if channels >= 3 else 1
        short, long = "H", "I"
        fields = [(256, long, [width]), (257, long, [height]), (258, short, [bits] * channels), (259, short, [1]),
                  (262, short, [2 if colours == 3 else 1]), (273, long, [0]), (277, short, [channels]),
                  (278, long, [height]), (279, long, [len(data)]), (338, short, [0] * (channels - colours)),
                  (339, short, [kind] * channels)]  # fmt: skip
        fields = [field for field in fields if field[2]]
        start = 8 + 2 + 12 * len(fields) + 4
        pixels = start + sum(2 * len(values) for _, form, values in fields if form == short and len(values) > 2)
        entries = further = b""
        for tag, form, values in fields:
            field = struct.pack(f"{order}{len(values)}{form}", *([pixels] if tag == 273 else values))
            if len(field) > 4:
                field, further = struct.pack(f"{order}I", start + len(further)), further + field
            entries += struct.pack(f"{order}HHI", tag, 3 if form == short else 4, len(values)) + field.ljust(4, b"\0")
        head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(fields))
        return head + entries + bytes(4) + further + data

    return make

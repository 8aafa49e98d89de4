"""Runs commands for the tests: imports what they need once, then forks for each line of JSON on standard input.

Packages that are named as arguments are not to be found in it: an environment without them.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import signal
import sys
import threading
import time
import traceback
import weakref
from typing import Any

# What commands import when they need it, and what takes long; all of singleshot is loaded too. No engine: theirs start
# threads, which a fork loses.
HEAVY = ("torch", "torchvision", "matplotlib.figure", "matplotlib.backends.backend_agg", "onnx", "onnxscript",
         "rich.live", "torch.export", "torch.onnx._internal.exporter._core", "torch._export.non_strict_utils",
         "torch._functorch.aot_autograd", "onnxscript.function_libs.torch_lib.ops", "torch.utils.tensorboard",
         "absl.logging", "jinja2", "faster_coco_eval", "PIL.JpegImagePlugin", "rich.progress", "typer._adapters",
         "multiprocessing.pool", "multiprocessing.popen_fork", "numpy.ctypeslib", "xml.dom.minidom")  # fmt: skip


def become(job: dict[str, Any]) -> None:
    """Take the job's streams, folder and environment, as a process that a shell starts has them."""
    for number, (path, flags) in enumerate(
        zip(job["streams"], (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_TRUNC] * 2), strict=True)
    ):
        handle = os.open(path, flags, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    sys.argv = job["command"]


def wait_for(child: int, seconds: float) -> int:
    """Its exit code as subprocess gives it; it is killed when time is over."""
    end = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def run() -> int:
    """The command or the code, and what Python does at an end that others see; returns its exit code.

    Python would then also take apart every module: 1.6 s, since each page of them is first copied from the parent.
    """
    code: int | str | None = 0
    try:
        if sys.argv[0] == "-c":  # python -c CODE
            exec(compile(sys.argv.pop(1), "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.modules["singleshot.cli"].main()
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    gc.collect()  # what an error still held, such as a file that is removed when its writer is
    threading._shutdown()  # waits for threads that are not daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return {None: 0}.get(code, code if isinstance(code, int) else 1)


class Without:
    """A finder of modules that does not find some packages."""

    def __init__(self, finder: Any, absent: list[str]) -> None:
        self.finder, self.absent = finder, absent

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self.absent else self.finder.find_spec(name, path, target)


def load(absent: list[str]) -> None:
    """Import what commands need, or what they need in an environment without these packages."""
    if absent:
        sys.meta_path[:] = [Without(finder, absent) for finder in sys.meta_path]
        names: list[str] = ["numpy", "cv2"]
    else:
        ours = (
            module.name
            for module in pkgutil.walk_packages(importlib.import_module("singleshot").__path__, "singleshot.")
        )
        names = [*HEAVY, *(name for name in ours if not name.endswith("__main__"))]
    for name in (*names, "singleshot.cli"):
        importlib.import_module(name)
    work_out(absent)


def work_out(absent: list[str]) -> None:
    """What each command would work out anew: options of all commands, ONNX's operators (see tests/conftest.py), and
    default boxes of the inputs that tests train on."""
    from typer.testing import CliRunner

    CliRunner().invoke(sys.modules["singleshot.cli"].app, ["--help"])
    if absent:
        return
    from singleshot.models.zoo import usual_priors

    with contextlib.suppress(ImportError):
        from torch.onnx._internal._lazy_import import onnxscript_apis

        onnxscript_apis.get_torchlib_ops = functools.cache(onnxscript_apis.get_torchlib_ops)
        onnxscript_apis.get_torchlib_ops()
    for name in ("ssd320-mini", "ssd320-lite0"):
        for sides in ((128, 128), (160, 160), (96, 160)):
            usual_priors(name, sides)


def keep_what_is_loaded() -> None:
    """Modules take down at a process's end what they set up: 50 MB of memory that a fork would first have to copy. What
    a command itself sets up is taken down as ever."""
    for one in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        one.atexit = False
    if dynamo := sys.modules.get("torch._dynamo.utils"):
        atexit.unregister(dynamo.dump_compile_times)  # which imports what lays out an empty table


def main() -> None:
    load(sys.argv[1:])
    keep_what_is_loaded()
    os.fsync = lambda handle: None  # tests stop processes, not machines
    gc.collect()
    gc.freeze()  # a child that collects garbage copies no pages of these modules
    print("ready", flush=True)
    while line := sys.stdin.readline():
        job = json.loads(line)
        child = os.fork()
        if not child:
            become(job)
            os._exit(run())
        print(wait_for(child, job["timeout"]), flush=True)


if __name__ == "__main__":
    main()

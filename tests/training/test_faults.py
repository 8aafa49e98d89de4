"""Faults from outside, each injected: workers, memory, images, disks, clocks. Nothing is lost, and one line says it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from singleshot.errors import DataError
from singleshot.loading import workers
from singleshot.records import Batch
from singleshot.training import checkpoints, loop
from singleshot.training.failures import TrainingStoppedError
from singleshot.training.recipes import Recipe
from singleshot.training.reports import Reporter
from singleshot.training.state import read_about
from singleshot.training.step import Stepper

Make = Callable[..., loop.Trainer]
CPU = torch.device("cpu")
needs_signals = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals")


@pytest.fixture(scope="module")
def make(trainer_of) -> Make:
    return trainer_of


@pytest.fixture(scope="module")
def straight(make: Make, tmp_path_factory) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    make(folder).run()
    return folder


def assert_equal_runs(a: Path, b: Path) -> None:
    for name in (loop.BEST, loop.LAST, loop.STATE):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


class AtFirst(Reporter):
    """Does something to the worker that loads images, after the first step."""

    def __init__(self, trainer: loop.Trainer, what: Callable[[int], None]) -> None:
        self.trainer, self.what, self.done = trainer, what, False

    def on_step(self, values) -> None:
        if not self.done:
            (worker,) = self.trainer.loader._pool._loader._iterator._workers
            self.what(worker.pid)
            self.done = True


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(workers, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(workers, "HANG_SECONDS", 1.0)


@needs_signals
@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, "it is replaced, and nothing is lost"),
        (signal.SIGSTOP, "worker gave nothing for 1 s; it is replaced"),
        (signal.SIGBUS, "it is replaced, and nothing is lost"),
    ],
    ids=["dies", "hangs", "bus error"],
)
def test_a_worker_that_dies_or_hangs_is_replaced(
    make: Make, straight: Path, tmp_path: Path, impatient, caplog, number: int, says: str
) -> None:
    trainer = make(tmp_path / "run", workers=1, report_seconds=0.0)
    trainer.reporters.append(AtFirst(trainer, lambda pid: os.kill(pid, number)))
    trainer.run()
    assert says in caplog.text
    assert_equal_runs(tmp_path / "run", straight)


@needs_signals
def test_where_shared_memory_is_full_images_are_loaded_here(
    make: Make, straight: Path, tmp_path: Path, impatient, caplog, monkeypatch
) -> None:
    trainer = make(tmp_path / "run", workers=1, report_seconds=0.0)
    full: list[int] = []
    monkeypatch.setattr(workers.WorkerPool, "_is_full", lambda self: bool(full))  # before a run binds it

    def fill(pid: int) -> None:
        full.append(pid)
        os.kill(pid, signal.SIGSTOP)  # its result found no room and is lost: none comes

    trainer.reporters.append(AtFirst(trainer, fill))
    trainer.run()
    assert "shared memory (/dev/shm) is full: images are loaded in this process" in caplog.text
    assert_equal_runs(tmp_path / "run", straight)


class Dies:
    def __call__(self, job: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return job


@needs_signals
def test_workers_that_die_again_and_again_end_it(impatient, monkeypatch, caplog) -> None:
    monkeypatch.setattr(workers, "_MOST_REPLACED", 1)
    pool = workers.WorkerPool(Dies(), 1, False)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(pool.run([1, 2, 3]))
    assert caplog.text.count("is replaced") == 1


class Fails:
    def __call__(self, job: int) -> int:
        raise RuntimeError(f"job {job}")


def test_what_a_job_raises_is_no_fault_of_its_worker(caplog) -> None:
    pool = workers.WorkerPool(Fails(), 1, False)
    with pytest.raises(RuntimeError, match="job 1"):
        list(pool.run([1, 2]))
    pool.close()
    assert caplog.text == ""


class SlowThird:
    """Gives (job, its process); the third job of all never ends in a first process."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __call__(self, job: int) -> tuple[int, int]:
        if job == 2 and not self.flag.exists():
            self.flag.touch()
            time.sleep(60)
        return job, os.getpid()


def test_jobs_stay_with_their_worker_where_one_is_replaced(impatient, tmp_path: Path) -> None:
    pool = workers.WorkerPool(SlowThird(tmp_path / "flag"), 2, False)
    found = list(pool.run([0, 1, 2, None, 4, 5, 6]))
    pool.close()
    assert [job for job, _ in found] == [0, 1, 2, 4, 5, 6]
    assert len({pid for job, pid in found if job % 2 == 0 and job >= 2}) == 1  # of one stream, as shards have them
    assert {pid for job, pid in found if job == 5}.isdisjoint({pid for job, pid in found if job in (2, 4, 6)})


# ---------------------------------------------------------------------------------------------------------- memory


def batch_of(images: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (images, 3, 96, 96), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.4, 0.3, 0.9, 0.8]]).repeat(images, 1, 1)
    labels = torch.tensor([[0, 2]]).repeat(images, 1)
    labels[1::2, 1] = -1  # not all images have as many
    return Batch(pixels, boxes, labels, torch.arange(images), tuple(map(str, range(images))))


def out_of_memory(stepper: Stepper, most: int) -> None:
    """Fail for more images than `most`, as torch's allocator for processors does."""
    forward = stepper.forward

    def limited(images: torch.Tensor):
        if len(images) > most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you")
        return forward(images)

    stepper.forward = limited


@pytest.mark.parametrize("rule", ["caffe", "per-image"])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(tiny_ssd, rule: str, caplog) -> None:
    """Where images compete for negatives, or normalisation goes by the batch, they cannot be the same."""
    recipe = Recipe(loss=rule)
    whole, parts = (Stepper(tiny_ssd().eval(), recipe, 8, CPU, torch.float32) for _ in "12")
    out_of_memory(parts, 2)
    expected, found = whole(batch_of(8), 1.0), parts(batch_of(8), 1.0)
    assert (whole.parts, parts.parts) == (1, 4)
    assert "a batch of 8 is trained in 4 parts from now on" in caplog.text
    for a, b in zip(expected, found, strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-4)
    for (name, a), (_, b) in zip(whole.model.named_parameters(), parts.model.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5), name


def test_memory_that_runs_out_is_said_and_kept_to(make: Make, tmp_path: Path, caplog) -> None:
    trainer = make(tmp_path / "run", epochs=1)
    out_of_memory(trainer.stepper, 4)
    trainer.run()
    assert caplog.text.count("out of memory") == 1
    assert make(tmp_path / "run").stepper.parts == 2  # a run that goes on has the bits of one that was not stopped


def test_memory_that_has_no_room_for_an_image_names_the_batch(make: Make, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run")
    out_of_memory(trainer.stepper, 0)
    with pytest.raises(TrainingStoppedError, match="out of memory; give a smaller --batch"):
        trainer.run()
    assert trainer.saved_step == 0


# ---------------------------------------------------------------------------------------------------------- images


def break_image(data: Path, split: str, how: str) -> Path:
    stem = (data / "ImageSets" / "Main" / f"{split}.txt").read_text().split()[0]
    image = next((data / "JPEGImages").glob(f"{stem}.*"))
    if how == "vanishes":
        image.unlink()
    else:
        image.write_bytes(image.read_bytes()[:2000])
    return image


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("how", ["vanishes", "breaks"])
def test_an_image_that_breaks_in_the_middle_of_a_run(
    make: Make, scenes: Path, tmp_path: Path, caplog, split: str, how: str
) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    trainer, skipping = make(tmp_path / "a", data), make(tmp_path / "b", data, skip_broken=True)
    image = break_image(data, split, how)
    with pytest.raises(DataError, match=image.name):
        trainer.run()
    assert trainer.saved_step == trainer.progress.step
    result = skipping.run()
    assert (result.steps, skipping.model.training) == (6, True)
    assert len(skipping.progress.skipped) == 1
    assert image.name in skipping.progress.skipped[0]
    assert caplog.text.count("skipped: ") == 1
    assert (result.best_map is not None) and ("7 of 8 images" in caplog.text) == (split == "val")
    assert read_about(tmp_path / "b" / loop.STATE).progress.skipped == skipping.progress.skipped


def test_what_takes_the_place_of_a_broken_image_depends_on_nothing_else(
    make: Make, scenes: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    trainers = [make(tmp_path / f"run{n}", data, skip_broken=True, workers=n) for n in (0, 1)]
    break_image(data, "train", "breaks")
    for trainer in trainers:
        trainer.run()
    assert_equal_runs(tmp_path / "run0", tmp_path / "run1")


# ----------------------------------------------------------------------------------------------------------- disks


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="signals")
def test_a_log_that_the_disk_has_no_room_for(make: Make, straight: Path, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run")
    log = trainer.reporters[0]
    os.dup2(os.open("/dev/full", os.O_WRONLY), log._file.fileno())
    with pytest.raises(TrainingStoppedError, match="the disk is full"):
        trainer.run()
    assert trainer.saved_step == 3
    make(tmp_path / "run").run()
    assert_equal_runs(tmp_path / "run", straight)
    assert len((tmp_path / "run" / loop.LOG).read_text().splitlines()) == 3


@pytest.mark.parametrize("call", [0, 2])
@pytest.mark.parametrize("name", ["save_state", "save_checkpoint", "write_seconds"])
def test_a_disk_that_fills_in_any_write(
    make: Make, straight: Path, tmp_path: Path, monkeypatch, name: str, call: int
) -> None:
    trainer = make(tmp_path / "run")
    real, calls = getattr(checkpoints, name), iter(range(10**6))

    def failing(*args):
        if next(calls) >= call:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(checkpoints, name, failing)
    with pytest.raises(TrainingStoppedError, match="the disk is full"):
        trainer.run()
    monkeypatch.undo()
    make(tmp_path / "run").run()
    assert_equal_runs(tmp_path / "run", straight)


# ---------------------------------------------------------------------------------------------------------- clocks


def test_a_clock_that_jumps_moves_no_training(make: Make, tmp_path: Path, monkeypatch) -> None:
    trainer = make(tmp_path / "run", seconds=1.0)
    jumps = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: (-1) ** next(jumps) * 1e9)
    result = trainer.run()
    assert 0 < result.seconds < 60
    assert result.steps >= 1


_PAUSED = """
import os, signal, sys, time
from singleshot.training import clock
clock._PAUSE_SECONDS, clock._LOOK_SECONDS = 0.3, 0.02
run = clock.RunClock()
with run:
    started, real = run.now(), time.monotonic()
    time.sleep(0.1)
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.1)
    print(run.now() - started, time.monotonic() - real, flush=True)
"""


@needs_signals
def test_a_paused_process_spends_no_time() -> None:
    process = subprocess.Popen([sys.executable, "-c", _PAUSED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.waitpid(process.pid, os.WUNTRACED)
    time.sleep(0.8)
    os.kill(process.pid, signal.SIGCONT)
    counted, real = map(float, process.stdout.readline().split())
    process.wait()
    assert real - 0.7 > counted > 0

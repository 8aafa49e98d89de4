"""Several processes train as one does, and end together."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from singleshot.datasets import open_source
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.datasets.writing import write_dataset
from singleshot.devices import Launch, pick_device, read_launch
from singleshot.errors import ConfigError, DataError
from singleshot.loading.shard_stream import open_stream
from singleshot.training import checkpoints, loop
from singleshot.training.recipes import load_recipe
from singleshot.training.reports import Reporter
from singleshot.training.state import read_about

sys.path.insert(0, str(Path(__file__).parent))  # a helper, which pytest imports by no name of its own
from together import run_together

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="signals"), pytest.mark.first]
FILES = (loop.BEST, loop.LAST, loop.STATE)


class Steps(Reporter):
    """Losses of each step, where reports come that often."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step(self, values) -> None:
        self.losses.append(values["loss"])


@pytest.fixture(scope="module")
def make(trainer_of):
    """As trainer_of, of two epochs of three steps at a rate at which rounding does not grow."""
    recipe = load_recipe("scratch").model_copy(update={"lr": 1e-4})
    return functools.partial(trainer_of, recipe=recipe, report_seconds=0.0)


@pytest.fixture(scope="module")
def straight(make, tmp_path_factory) -> Path:
    """A run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    run_together(folder / "results", 2, lambda world: make(folder / "run", world=world).run().steps)
    return folder / "run"


def curve(make, out: Path, world=None) -> tuple[list[float], dict[str, np.ndarray]]:
    trainer = make(out, world=world)
    trainer.reporters.append(steps := Steps())
    trainer.run()
    return steps.losses, {key: value.numpy() for key, value in trainer.model.state_dict().items()}


def test_two_processes_have_the_losses_of_one(make, tmp_path: Path) -> None:
    alone, _ = curve(make, tmp_path / "one")
    (both, first), (_, second) = run_together(tmp_path, 2, lambda world: curve(make, tmp_path / "two", world))
    assert len(alone) >= 5
    np.testing.assert_allclose(both, alone, rtol=1e-5)
    for key, value in first.items():  # weights and running statistics never part
        np.testing.assert_array_equal(value, second[key], err_msg=key)


def test_two_processes_ignore_the_regions_of_one(make, scenes: Path, tmp_path: Path) -> None:
    """Few images have any, so that often one process alone has."""
    raw = open_source(scenes).read()
    images = [
        image._replace(objects=[obj._replace(crowd=i % 8 == 0 and k == 0) for k, obj in enumerate(image.objects)])
        for i, image in enumerate(raw.images)
    ]
    write_dataset(raw._replace(images=images), tmp_path / "crowds", "coco")
    crowded = functools.partial(make, data=tmp_path / "crowds")
    shown = [batch.ignored for batch in crowded(tmp_path / "shown").loader.epoch(0)]
    assert any(one is not None for one in shown)
    alone, _ = curve(crowded, tmp_path / "one")
    (both, first), (_, second) = run_together(tmp_path, 2, lambda world: curve(crowded, tmp_path / "two", world))
    np.testing.assert_allclose(both, alone, rtol=1e-5)
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


def test_a_validation_is_that_of_one_process_to_the_bit(make, tmp_path: Path) -> None:
    def validated(world) -> tuple:
        trainer = make(tmp_path / ("one" if world is None else "two"), world=world, batch=6, seed=3)
        trainer.evaluator._stepper.model.eval()
        found = trainer.evaluator().validation
        return found.location, found.confidence, found.evaluation.mean_ap, found.detections

    alone, both = validated(None), run_together(tmp_path, 2, validated)
    for one in both:  # of 8 images in batches of 6 the first process has 6
        assert one[:2] == alone[:2]
        np.testing.assert_equal(one[2:], alone[2:])


def test_a_signal_to_one_process_stops_all_and_the_run_goes_on_exactly(
    make, straight: Path, tmp_path: Path, before_step
) -> None:
    out = tmp_path / "run"

    def stopped(world) -> tuple[bool, int]:
        trainer = make(out, world=world)
        if not world.leads:
            before_step(trainer, 3, lambda: signal.raise_signal(signal.SIGTERM))
        result = trainer.run()
        return result.interrupted, result.steps

    assert run_together(tmp_path / "a", 2, stopped) == [(True, 4), (True, 4)]
    assert read_about(out / loop.STATE).progress.step == 4
    assert run_together(tmp_path / "b", 2, lambda world: make(out, seed=9, world=world).run().steps) == [6, 6]
    for name in FILES:
        assert (out / name).read_bytes() == (straight / name).read_bytes(), name


def test_an_error_in_one_process_ends_all_after_the_same_step(make, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def failed(world) -> None:
        trainer = make(out, world=world)
        if not world.leads:
            epoch = trainer.loader.epoch

            def broken(*where):
                for i, batch in enumerate(epoch(*where)):
                    if i == 2:
                        raise DataError("7.jpg: damaged")
                    yield batch

            trainer.loader.epoch = broken
        trainer.run()

    assert run_together(tmp_path, 2, failed) == [
        ("DataError", "process 1 of 2: 7.jpg: damaged"),
        ("OtherProcessError", "7.jpg: damaged"),
    ]
    assert read_about(out / loop.STATE).progress.step == 2


def test_a_process_that_dies_ends_the_others_and_the_run_goes_on_in_one(make, tmp_path: Path, before_step) -> None:
    out = tmp_path / "run"

    def died(world) -> None:
        trainer = make(out, world=world)
        if not world.leads:
            before_step(trainer, 4, lambda: os._exit(9))
        trainer.run()

    (kind, text), code = run_together(tmp_path, 2, died)
    assert code == 9
    assert kind == "LostProcessError"
    assert text.startswith("process 0 of 2")
    assert "\n" not in text
    assert read_about(out / loop.STATE).progress.step == 3  # nothing of a step that was not whole
    assert make(out).run().steps == 6


def test_time_and_seconds_are_those_of_the_first_process(make, tmp_path: Path) -> None:
    def timed(world) -> int:
        trainer = make(tmp_path / "run", world=world, seconds=50.0, val=False)
        steps = iter(range(10**6))
        world.now = lambda: 9.0 * next(steps) if world.leads else 1e6  # seconds that a step takes
        return trainer.run().steps

    first, second = run_together(tmp_path, 2, timed)
    assert first == second
    assert 3 <= first <= 7


def test_a_loss_that_is_not_finite_names_the_files_of_the_process_that_has_them(make, tmp_path: Path) -> None:
    def infinite(world) -> None:
        trainer = make(tmp_path / "run", world=world)
        if not world.leads:
            loss = trainer.stepper.objective.loss

            def infinite_loss(*args, **options):
                losses = loss(*args, **options)
                return losses._replace(total=losses.total * torch.inf)

            trainer.stepper.objective.loss = infinite_loss
        trainer.run()

    (kind, text), (other, _) = run_together(tmp_path, 2, infinite)
    assert (kind, other) == ("TrainingStoppedError", "OtherProcessError")
    assert "process 1 of 2: the loss became inf on a batch of these files" in text


def test_a_batch_that_does_not_divide_is_refused(make, tmp_path: Path) -> None:
    def uneven(world) -> None:
        make(tmp_path / "run", world=world, batch=9)

    for kind, text in run_together(tmp_path, 2, uneven):
        assert kind == "ConfigError"
        assert "9 images does not divide among 2 processes; want a multiple of 2: --batch 10" in text


def test_images_that_cannot_be_read_are_left_out_alike(make, scenes: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    for split in ("train", "val"):
        name = (data / "ImageSets" / "Main" / f"{split}.txt").read_text().split()[5]
        (broken,) = (data / "JPEGImages").glob(f"{name}.*")
        broken.write_bytes(b"x")

    def skipping(world) -> tuple:
        trainer = make(
            tmp_path / ("one" if world is None else "two"), data, world=world, skip_broken=True, epochs=1, val_every=1
        )
        trainer.run()
        return sorted(trainer.progress.skipped), len(trainer.evaluator.dataset), trainer.progress.last_map is not None

    alone = skipping(None)
    assert (len(alone[0]), alone[1]) == (2, 7)
    assert run_together(tmp_path, 2, skipping) == [alone, alone]


@pytest.mark.parametrize("changed", [{"device": "cuda"}, {"seed": 1}])
def test_processes_that_differ_are_refused(tmp_path: Path, changed: dict) -> None:
    about = {"device": "cpu", "seed": 0}
    results = run_together(tmp_path, 2, lambda world: world.same({**about, **(changed if world.rank else {})}))
    ((name, value),) = changed.items()
    assert results[0][0] == "ConfigError"
    assert f"process 1 is not as process 0: {name}: {value} there, {about[name]} here" in results[0][1]
    assert results[1][0] == "OtherProcessError"


def test_shards_go_on_exactly_and_by_another_number_of_processes_between_epochs_alone(
    scenes: Path, tiny_ssd, tmp_path: Path, before_step
) -> None:
    shards = tmp_path / "shards"
    write_shards(read_contents(open_source(scenes)), shards, per_shard=6)

    def make(out: Path, world=None) -> loop.Trainer:
        out.mkdir(exist_ok=True)
        stream = open_stream(shards)
        settings = loop.Settings(out, 2, 8, precision="float32", workers=0, world=world)
        trainer = loop.Trainer(tiny_ssd(len(stream.class_names)), stream, None, load_recipe("scratch"), settings)
        if checkpoints.has_state(out):
            trainer.resume()
        return trainer

    def stopped(world) -> None:
        trainer = make(tmp_path / "run", world)
        if world.rank == 1:
            before_step(trainer, 1, lambda: signal.raise_signal(signal.SIGINT))
        assert trainer.run().interrupted

    run_together(tmp_path / "a", 2, lambda world: make(tmp_path / "straight", world).run().steps)
    assert run_together(tmp_path / "b", 2, stopped) == [None, None]
    with pytest.raises(ConfigError, match="2 processes then, 1 now, in the middle of an epoch of shards"):
        make(tmp_path / "run")
    assert run_together(tmp_path / "c", 2, lambda world: make(tmp_path / "run", world).run().steps) == [6, 6]
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name


LAUNCH = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
}


@pytest.mark.parametrize(
    ("changed", "want"),
    [
        ({}, Launch(1, 4, 1, 2)),
        ({"WORLD_SIZE": "1"}, Launch()),
        ({"WORLD_SIZE": ""}, Launch()),
        ({"LOCAL_RANK": "", "LOCAL_WORLD_SIZE": ""}, Launch(1, 4, 0, 1)),
        ({"RANK": "4"}, "RANK=4 in the environment: want a whole number from 0 to 3"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two in the environment: want a whole number from 1"),
        (
            {"RANK": "", "MASTER_PORT": ""},
            "WORLD_SIZE=4 is set, but not RANK and MASTER_PORT: start the processes with",
        ),
    ],
)
def test_the_environment_says_which_process_this_is(monkeypatch, changed: dict[str, str], want: Launch | str) -> None:
    for name, value in {**LAUNCH, **changed}.items():
        monkeypatch.setenv(name, value)
    if isinstance(want, Launch):
        assert read_launch() == want
    else:
        with pytest.raises(ConfigError, match=want):
            read_launch()


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="process 1: 2 processes on a machine with 1 GPUs"):
        pick_device("cuda", Launch(1, 2, 1, 2))
    with pytest.raises(ConfigError, match="--device cuda:0: each of several processes has a GPU of its own"):
        pick_device("cuda:0", Launch(1, 2, 1, 2))
    assert pick_device("cpu", Launch(1, 2, 1, 2)) == torch.device("cpu")


@pytest.mark.slow
def test_four_processes_go_on_exactly_and_a_kill_of_any_ends_all(make, tmp_path: Path, before_step) -> None:
    run_together(tmp_path / "a", 4, lambda world: make(tmp_path / "straight", world=world).run().steps)
    out = tmp_path / "run"
    for rank in range(4):

        def killed(world, rank=rank) -> None:
            trainer = make(out, world=world)
            if world.rank == rank:
                before_step(trainer, 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
            trainer.run()

        results = run_together(tmp_path / f"b{rank}", 4, killed)
        assert results[rank] == -9
        assert all(one[0] == "LostProcessError" for k, one in enumerate(results) if k != rank)
    run_together(tmp_path / "c", 4, lambda world: make(out, seed=9, world=world).run().steps)
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name

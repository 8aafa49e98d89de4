"""A saved state brings everything back bit for bit, and what is no state is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from singleshot.devices import place_model
from singleshot.errors import CheckpointError
from singleshot.records import Batch
from singleshot.training.recipes import Recipe
from singleshot.training.state import KEY, Progress, load_state, save_state
from singleshot.training.step import Stepper

CPU = torch.device("cpu")


def make_batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    boxes = torch.tensor([[[0.1, 0.1, 0.6, 0.7]], [[0.4, 0.3, 0.9, 0.8]]])
    return Batch(images, boxes, torch.tensor([[0], [2]]), torch.arange(2), ("a", "b"))


def trained(tiny_ssd, recipe: Recipe, steps: int, seed: int = 0) -> Stepper:
    model = tiny_ssd(seed=seed)
    place_model(model, CPU)
    stepper = Stepper(model, recipe, 2, CPU, torch.float32)
    for k in range(steps):
        stepper(make_batch(k), 0.5)
    return stepper


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(optimizer="adamw", ema=0.9), Recipe(momentum=0.0)])
def test_a_state_goes_there_and_back_bit_for_bit(tiny_ssd, tmp_path: Path, recipe: Recipe) -> None:
    first, second = trained(tiny_ssd, recipe, 3), trained(tiny_ssd, recipe, 1, seed=9)
    history, losses = [{"epoch": 0, "step": 3}], [0.1 + 0.2, 1e-7, 3.0]
    progress = Progress(2, 1, 3, seconds=1.5, best=0.25, last_map=0.125, history=history, losses=losses, counted=1)
    save_state(tmp_path / "state", first, progress)
    assert load_state(tmp_path / "state", second) == replace(progress, seconds=0.0)  # see clock
    for stepper in (first, second):
        stepper(make_batch(7), 0.5)  # what comes after must be the same too
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key
    if first.average is not None:
        assert second.average.updates == first.average.updates == 4
        assert all(torch.equal(v, second.average.state[k]) for k, v in first.average.state.items())
    mine, other = (stepper.optimizer.state_dict()["state"] for stepper in (first, second))
    assert mine.keys() == other.keys()
    for index, slots in mine.items():
        for name, value in slots.items():
            assert value is other[index][name] is None or torch.equal(value, other[index][name]), (index, name)


def test_moments_lie_in_memory_as_their_parameters_do(tiny_ssd, tmp_path: Path) -> None:
    recipe = Recipe(optimizer="adamw")
    save_state(tmp_path / "state", trained(tiny_ssd, recipe, 2), Progress())
    second = trained(tiny_ssd, recipe, 1, seed=9)
    load_state(tmp_path / "state", second)
    for parameter, slots in second.optimizer.state.items():
        assert slots["exp_avg"].stride() == parameter.stride()


def test_the_file_holds_tensors_and_json(tiny_ssd, tmp_path: Path) -> None:
    save_state(tmp_path / "state", trained(tiny_ssd, Recipe(ema=0.9), 1), Progress(step=1))
    with safe_open(tmp_path / "state", "pt") as file:
        about, keys = json.loads(file.metadata()[KEY]), set(file.keys())
    assert about["progress"]["step"] == about["updates"] == 1
    assert {key.split(".")[0] for key in keys} == {"model", "average", "optimizer", "random"}


def test_what_is_no_state_is_refused(tiny_ssd, tmp_path: Path) -> None:
    stepper = trained(tiny_ssd, Recipe(), 0)
    save_file({"model.x": torch.zeros(1)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="not the state of a training"):
        load_state(tmp_path / "weights", stepper)
    with pytest.raises(CheckpointError, match="no such file"):
        load_state(tmp_path / "nothing", stepper)
    for about in ("{", "[]", "{}", '{"progress": {"step": 1, "no": 2}, "updates": 0, "scaler": {}}', "[" * 10**5):
        save_file({"model.x": torch.zeros(1)}, tmp_path / "odd", metadata={KEY: about})
        with pytest.raises(CheckpointError, match="its description cannot be read"):
            load_state(tmp_path / "odd", stepper)
    (tmp_path / "cut").write_bytes(b"12345")
    with pytest.raises(CheckpointError):
        load_state(tmp_path / "cut", stepper)


def test_a_flipped_bit_is_noticed(tiny_ssd, tmp_path: Path) -> None:
    stepper = trained(tiny_ssd, Recipe(), 1)
    save_state(tmp_path / "state", stepper, Progress(step=1))
    whole = (tmp_path / "state").read_bytes()
    for place in (
        len(whole) - 1,
        len(whole) // 2,
        whole.index(b"momentum_buffer") + 400,
        whole.index(b'step\\": 1') + 8,
    ):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "state").write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_state(tmp_path / "state", stepper)


def test_what_the_clock_says_is_no_part_of_the_state(tiny_ssd, tmp_path: Path) -> None:
    stepper = trained(tiny_ssd, Recipe(), 1)
    row = {"epoch": 0, "step": 1, "loss": 0.5}
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        timed = {**row, "seconds": seconds, "images_per_second": 1 / seconds}
        save_state(tmp_path / name, stepper, Progress(seconds=seconds, history=[timed], pending=timed))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_state_of_other_classes_is_refused(tiny_ssd, tmp_path: Path) -> None:
    save_state(tmp_path / "state", trained(tiny_ssd, Recipe(), 1), Progress())
    other = Stepper(tiny_ssd(5), Recipe(), 2, CPU, torch.float32)
    before = {k: v.clone() for k, v in other.model.state_dict().items()}
    with pytest.raises(CheckpointError, match="state"):
        load_state(tmp_path / "state", other)
    assert all(torch.equal(v, before[k]) for k, v in other.model.state_dict().items())

"""A run goes on with what it had, or says what is another: data, recipe, seed, versions, the best, positions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from singleshot.datasets import open_dataset
from singleshot.errors import CheckpointError, ConfigError, DataError
from singleshot.loading.cache import PixelCache
from singleshot.training import checkpoints, fingerprint, loop
from singleshot.training.data_files import DataFiles
from singleshot.training.recipes import Recipe, load_recipe
from singleshot.training.state import Progress, read_about, read_state, save_state
from singleshot.weights.checkpoint import read_info

Make = Callable[..., loop.Trainer]


@pytest.fixture(scope="module")
def make(tiny_ssd) -> Make:
    """make(data, out): a trainer of three steps an epoch."""

    def make(data: Path, out: Path, recipe: Recipe | None = None, names=None, **options) -> loop.Trainer:
        out.mkdir(exist_ok=True)
        sets = open_dataset(data, "train", names), open_dataset(data, "val", names)
        settings = loop.Settings(out=out, epochs=2, batch=8, precision="float32", workers=0, pictures=0)
        return loop.Trainer(tiny_ssd(4), *sets, recipe or load_recipe("scratch"), replace(settings, **options))

    return make


@pytest.fixture(scope="module")
def stopped(make: Make, scenes: Path, tmp_path_factory) -> Path:
    """The folder of a run that was stopped in its second epoch: every image was read."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    trainer = make(scenes, folder)
    add, steps = trainer._meter.add, iter(range(10**6))

    def stop(losses) -> None:
        add(losses)
        if next(steps) == 0:
            trainer._stop.asked = True

    finish = trainer._finish_epoch

    def then_stop() -> None:
        finish()
        trainer._meter.add = stop

    trainer._finish_epoch = then_stop
    assert trainer.run().interrupted
    assert trainer.progress.best > 0
    return folder


@pytest.fixture
def copied(scenes: Path, stopped: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of the data, times of change and all, and of the run."""
    return Path(shutil.copytree(scenes, tmp_path / "data")), Path(shutil.copytree(stopped, tmp_path / "run"))


def refused(trainer: loop.Trainer) -> str:
    with pytest.raises(ConfigError) as caught:
        trainer.resume()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def image_of(data: Path, split: str) -> Path:
    stem = (data / "ImageSets" / "Main" / f"{split}.txt").read_text().split()[0]
    return next((data / "JPEGImages").glob(f"{stem}.*"))


def test_data_that_was_moved_is_the_same(make: Make, copied, caplog) -> None:
    data, out = copied
    for path in (data / "JPEGImages").iterdir():  # a copy without the times: the bytes say it
        os.utime(path)
    make(data, out).resume()
    assert caplog.text == ""


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("how", ["flipped", "longer"])
def test_a_changed_image_is_refused_or_accepted(make: Make, copied, caplog, split: str, how: str) -> None:
    data, out = copied
    image = image_of(data, split)
    whole = bytearray(image.read_bytes())
    if how == "flipped":
        whole[-12] ^= 1
    image.write_bytes(whole if how == "flipped" else whole + b"\0\0")
    line = refused(make(data, out))
    assert str(image) in line
    assert f"{split}: " in line
    words = "other bytes: checksum " if how == "flipped" else f"{len(whole)} bytes then, {len(whole) + 2} bytes now"
    assert words in line
    assert "--accept-changes" in line
    trainer = make(data, out)
    trainer.resume(accept_changes=True)
    assert "going on with changes" in caplog.text
    assert str(image) in caplog.text
    assert (trainer.progress.best < 0) == (split == "val")
    trainer.run()
    make(data, out).resume()  # it is what the run has now


def test_a_change_behind_the_back_of_size_and_time_is_found_when_it_is_read(make: Make, copied) -> None:
    data, out = copied
    image = image_of(data, "train")
    found, whole = image.stat(), bytearray(image.read_bytes())
    trainer = make(data, out, epochs=3)
    trainer.resume()
    whole[-12] ^= 1
    image.write_bytes(whole)
    os.utime(image, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(DataError, match=f"{image.name}: changed while the run went on"):
        trainer.run()
    assert trainer.saved_step == trainer.progress.step


def test_images_that_were_not_read_are_said(make: Make, scenes: Path, tmp_path: Path, caplog) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    trainer = make(data, tmp_path / "run")
    trainer._stop.asked = True
    trainer.run()
    os.utime(image_of(data, "train"))
    make(data, tmp_path / "run").resume()
    assert "train: 1 files have another time of change, the same size, and were not read yet" in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seed": 3}, "seed: 0 then, 3 now"),
        ({"precision": "bfloat16"}, "precision: float32 then, bfloat16 now"),
        ({"batch": 4}, "batch: 8 then, 4 now"),
        ({"split": "other"}, "split: train then, other now"),
    ],
)
def test_other_settings(make: Make, scenes: Path, stopped: Path, tmp_path: Path, options, says: str) -> None:
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    assert says in refused(make(scenes, out, **options))
    trainer = make(scenes, out, **options)
    trainer.resume(accept_changes=True)
    assert trainer.progress.batch == (2 if options.get("batch") == 4 else 1)  # as many images into the epoch
    trainer.run()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lr": 0.1}, "recipe lr: 0.002 then, 0.1 now"),
        ({"optimizer": "sgd"}, "recipe optimizer: adamw then, sgd now"),
        ({"ema": 0.0}, "recipe ema: 0.998 then, 0.0 now"),
        ({"decay_only": "everything"}, "recipe decay_only: convolutions then, everything now"),
        ({"augment": {"preset": "light", "shift": 0.5}}, "recipe augment.shift: 0.15 then, 0.5 now"),
    ],
)
def test_another_recipe(make: Make, scenes: Path, stopped: Path, tmp_path: Path, changes, says: str) -> None:
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    recipe = Recipe.model_validate({**load_recipe("scratch").to_dict(), **changes})
    assert says in refused(make(scenes, out, recipe))
    trainer = make(scenes, out, recipe)
    trainer.resume(accept_changes=True)
    trainer.run()
    make(scenes, out, recipe).resume()
    if "optimizer" in changes:  # moments of another kind are none
        kept = {key.rpartition(".")[2] for key in read_state(out / loop.STATE).tensors if key.startswith("optimizer.")}
        assert kept == {"momentum_buffer"}
    if "ema" in changes:  # and back: an average that there was not starts with the weights
        again = make(scenes, out, epochs=3)
        again.resume(accept_changes=True)
        assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in again.stepper.average.state.items())


def test_other_versions(make: Make, scenes: Path, stopped: Path, monkeypatch) -> None:
    monkeypatch.setattr(fingerprint, "__version__", "9.9")
    assert "version of singleshot: 0.1.0 then, 9.9 now" in refused(make(scenes, stopped))


def test_other_boxes_names_and_counts(make: Make, copied) -> None:
    data, out = copied
    xml = data / "Annotations" / f"{image_of(data, 'train').stem}.xml"
    text = xml.read_text()
    start = text.index("<xmax>") + 6
    xml.write_text(text[:start] + str(int(text[start : text.index("</xmax>")]) - 1) + text[text.index("</xmax>") :])
    line = refused(make(data, out))
    assert "train: other boxes or labels (digest " in line
    names = data / "ImageSets" / "Main" / "val.txt"
    names.write_text("\n".join(names.read_text().split()[1:]))
    assert "val: 8 images then, 7 now" in refused(make(data, out))


def test_swapped_classes_are_refused_always(make: Make, scenes: Path, stopped: Path) -> None:
    swapped = ("leaf", "cross", "ring", "star")
    for accept in (False, True):
        with pytest.raises(ConfigError, match=r"a run cannot change its classes: .* the same in another order"):
            make(scenes, stopped, names=swapped).resume(accept)


@pytest.mark.parametrize("damage", ["missing", "tensors", "score", "cut"])
def test_a_best_that_is_missing_or_damaged_is_said_and_found_anew(
    make: Make, scenes: Path, stopped: Path, tmp_path: Path, caplog, damage: str
) -> None:
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    best = out / checkpoints.BEST
    whole = best.read_bytes()
    place = whole.index(b'val_map50\\": 0.') + 15 if damage == "score" else len(whole) - 9
    if damage == "missing":
        best.unlink()
    else:
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        best.write_bytes(whole[:-9] if damage == "cut" else flipped)
    trainer = make(scenes, out)
    trainer.resume()
    lines = [one for one in caplog.messages if "starts anew" in one]
    says = {"missing": "no such file", "cut": "not a safetensors file"}.get(damage, "damaged, its checksum is another")
    assert [str(best) in line and says in line for line in lines] == [True], caplog.text
    trainer.run()
    assert read_info(best).metrics["val_map50"] == pytest.approx(trainer.progress.best, abs=1e-6)
    assert (out / checkpoints.BEST_BEFORE).exists() == (damage != "missing")  # nothing is thrown away


def test_the_best_is_never_replaced_by_a_worse_one(make: Make, scenes: Path, stopped: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    before = (out / checkpoints.BEST).read_bytes()
    trainer = make(scenes, out)
    trainer.resume()
    trainer.progress.best = 0.99
    trainer.run()
    assert 0 <= trainer.progress.last_map < 0.99
    assert (out / checkpoints.BEST).read_bytes() == before


@pytest.mark.parametrize("name", ["epoch", "batch", "step", "counted"])
def test_positions_below_zero_are_refused(make: Make, scenes: Path, tmp_path: Path, name: str) -> None:
    trainer = make(scenes, tmp_path / "run")
    for value in (-1, 1.5, True, 10**400):
        save_state(tmp_path / "run" / loop.STATE, trainer.stepper, replace(Progress(), **{name: value}))
        with pytest.raises(CheckpointError, match=f"description cannot be read .*{name} .*want a whole number from 0"):
            trainer.resume()


@pytest.mark.parametrize(
    "change", [{"best": float("nan")}, {"losses": ["a"]}, {"history": [1]}, {"pending": {}}, {"finished": 3},
               {"parts": 0}, {"history": [{"epoch": 0}]}]
)  # fmt: skip
def test_other_values_that_no_training_writes_are_refused(make: Make, scenes: Path, tmp_path: Path, change) -> None:
    trainer = make(scenes, tmp_path / "run")
    progress = Progress()
    progress.to_dict = lambda: {**Progress().to_dict(), **change}
    save_state(tmp_path / "run" / loop.STATE, trainer.stepper, progress)
    with pytest.raises(CheckpointError, match="description cannot be read"):
        trainer.resume()


def test_the_state_holds_what_was_read(stopped: Path, scenes: Path) -> None:
    saved = read_state(stopped / loop.STATE)
    for split in ("train", "val"):
        data = open_dataset(scenes, split)
        files = DataFiles.from_tensors(data.names, {
            key.removeprefix(f"files.{split}."): value for key, value in saved.tensors.items()
        })  # fmt: skip
        assert (files.checksums == [data.picture(i).checksum for i in range(len(data))]).all()
        assert (files.checksums >= 0).all()
        assert files.sizes.tolist() == [Path(name).stat().st_size for name in data.names]
    assert read_about(stopped / loop.STATE).fingerprint.values["recipe optimizer"] == "adamw"


def test_the_cache_keeps_the_checksums(scenes: Path, tmp_path: Path) -> None:
    data = open_dataset(scenes, "train")
    for folder in (None, tmp_path):
        cache = PixelCache(data, 96, 1 << 30, folder)
        for _ in range(2):
            pictures = [cache.picture(i) for i in range(len(data))]
            assert [one.checksum for one in pictures] == [data.picture(i).checksum for i in range(len(data))]
            assert all(np.any(one.pixels(one.reductions[0])) for one in pictures)
        assert cache.filled == len(data)


def test_a_best_that_is_newer_than_the_state_is_the_runs_own(
    make: Make, scenes: Path, stopped: Path, tmp_path: Path, caplog
) -> None:
    """Killed after a best was written, before the state that knows of it."""
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    trainer = make(scenes, out)
    trainer.resume()
    trainer.progress.step += 1
    trainer.checkpoints._save_weights(loop.BEST, trainer.progress, 0.9)
    again = make(scenes, out)
    again.resume()
    assert again.progress.best == pytest.approx(read_about(out / loop.STATE).progress.best)
    assert caplog.text == ""

"""Every option that is given with --resume or --start is used or refused."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import singleshot
from singleshot.api.train import TrainOptions, prepare, resolve
from singleshot.devices import has_bfloat16
from singleshot.errors import CheckpointError, ConfigError
from singleshot.prior_files import write_priors
from singleshot.prior_tables import PRIORS

OTHER_PRECISION = "float32" if has_bfloat16() else "bfloat16"  # than "auto" is on this processor
REFUSED = object()
# By option: a value that differs from the run's, and what shows that it is used: a path of attributes of the trainer
# (or "options") and what is there then. REFUSED: an error that names the option.
SAME_FOR_BOTH: dict[str, Any] = {
    "data": ("OTHER", "train_set.source", lambda found: "other" in found),
    "epochs": (7, "settings.epochs", 7),
    "time": ("1h", "settings.seconds", 3600),
    "split": ("test", "train_set.source", lambda found: found.endswith("(test)")),
    "val_split": ("none", "val_set", None),
    "val_every": (3, "settings.val_every", 3),
    "device": ("cpu", "settings.device.type", "cpu"),
    "precision": (OTHER_PRECISION, "settings.precision", OTHER_PRECISION),
    "compile": (True, "settings.compiled", True),
    "workers": (2, "loader.workers", 2),
    "tensorboard": (False, "options.tensorboard", False),
    "log": (("none-such",), REFUSED, None),
    "update_ratios": (True, "settings.update_ratios", True),
    "clip_boxes": (True, "train_set.clip_boxes", True),
    "follow_links": (True, "options.follow_links", True),
    "score_min": (0.5, REFUSED, None),
    "cache": ("none", "settings.cache", "none"),
    "cache_size": ("2G", "settings.cache_bytes", 2 << 30),
    "skip_broken": (True, "settings.skip_broken", True),
}
RESUME = {
    **SAME_FOR_BOTH,
    "out": ("RUN", "settings.out", lambda found: found.name == "run"),
    "accept_changes": (True, "options.accept_changes", True),
    "model": ("ssd300-vgg16", REFUSED, None),
    "recipe": ("paper", REFUSED, None),
    "batch": (2, REFUSED, None),
    "lr": (0.5, REFUSED, None),
    "freeze": (2, REFUSED, None),
    "backbone_weights": ("imagenet", REFUSED, None),
    "start": ("x.safetensors", REFUSED, None),
    "size": ("256", REFUSED, None),
    "grey": (True, REFUSED, None),
    "resize": ("letterbox", REFUSED, None),
    "sixteen_bit": ("stretch", REFUSED, None),
    "tile": ("200", REFUSED, None),
    "seed": (3, REFUSED, None),
    "classes": ("ring,star", REFUSED, None),
    "priors": ("ssdlite320-fine", REFUSED, None),
    "fit_priors": (True, REFUSED, None),
}
START = {
    **SAME_FOR_BOTH,
    "out": ("NEW", "settings.out", lambda found: found.name == "new"),
    "model": ("ssd300-vgg16", REFUSED, None),
    "recipe": ("paper", "recipe.schedule", "step"),
    "batch": (2, "settings.batch", 2),
    "lr": (0.5, "recipe.lr", 0.5),
    "freeze": (2, "recipe.freeze", 2),
    "backbone_weights": ("none", REFUSED, None),
    "size": ("256", "model.input_spec.height", 256),
    "grey": (True, "model.input_spec.channels", 1),
    "resize": ("letterbox", "model.input_spec.resize", "letterbox"),
    "sixteen_bit": ("stretch", "model.input_spec.sixteen_bit", "stretch"),
    "tile": ("200", "settings.tiling.side", 200),
    "seed": (3, "settings.seed", 3),
    "classes": ("star,ring", "train_set.class_names", ("star", "ring")),
    "resume": (True, REFUSED, None),
    "priors": ("PRIORS", "model.prior_spec.clip", "center"),
    "fit_priors": (True, "model.prior_spec.shapes", lambda found: found is not None),
    "accept_changes": (True, REFUSED, None),
}


@pytest.fixture(scope="module")
def other(scenes: Path, tmp_path_factory) -> Path:
    return Path(shutil.copytree(scenes, tmp_path_factory.mktemp("data") / "other"))


def link_weights(source: str, to: str) -> None:
    """Copy a file; of one with tensors, which is only ever replaced as a whole, make a link."""
    (os.link if source.endswith(".safetensors") else shutil.copy2)(source, to)


@pytest.fixture
def folder(run: singleshot.Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.folder, tmp_path / "run", copy_function=link_weights))


def used_or_refused(name: str, table: dict[str, Any], options: dict[str, Any]) -> None:
    value, where, expected = table[name]
    options = TrainOptions.of({**options, name: options.get(f"_{value}", value)})
    if where is REFUSED:
        with pytest.raises((ConfigError, CheckpointError), match=f"--{name.replace('_', '-')}"):
            prepare(resolve(options))
        return
    trainer, decided, _ = prepare(resolve(options))
    found: Any = {"options": decided}.get(where.partition(".")[0], trainer)
    for part in where.removeprefix("options.").split("."):
        found = getattr(found, part)
    assert expected(found) if callable(expected) else found == expected, (name, found)


def test_the_tables_hold_every_option() -> None:
    names = {field.name for field in fields(TrainOptions)}
    assert RESUME.keys() == names - {"resume"}
    assert START.keys() == names - {"start"}


@pytest.mark.parametrize("name", RESUME)
def test_with_resume(name: str, folder: Path, other: Path) -> None:
    options: dict[str, Any] = {"out": folder, "resume": True, "workers": 0, "_RUN": folder, "_OTHER": other}
    if name not in ("epochs", "time"):
        options["epochs"] = 5  # the run itself is over
    if name in ("split", "val_split", "precision"):
        with pytest.raises(ConfigError, match=f"{name.replace('_', ' ')}: .* then, .* now.*--accept-changes"):
            prepare(resolve(TrainOptions.of({**options, name: RESUME[name][0]})))
        options["accept_changes"] = True
    used_or_refused(name, RESUME, options)


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [("recipe", "paper", "recipe.optimizer"), ("batch", 2, "settings.batch"), ("lr", 0.5, "recipe.lr"),
     ("seed", 3, "settings.seed")],
)  # fmt: skip
def test_what_may_change_where_changes_are_accepted(folder: Path, caplog, name: str, value: Any, where: str) -> None:
    options: dict[str, Any] = {"out": folder, "resume": True, "workers": 0, "epochs": 5, "accept_changes": True}
    trainer, _, _ = prepare(resolve(TrainOptions.of({**options, name: value})))
    found: Any = trainer
    for part in where.split("."):
        found = getattr(found, part)
    assert found == ("sgd" if name == "recipe" else value)
    assert "going on with changes: " in caplog.text


def test_a_run_file_of_another_version(folder: Path, caplog) -> None:
    path = folder / "run.json"
    content = json.loads(path.read_text())
    assert Path(content["options"]["data"]).is_absolute()
    content["options"] |= {"new_option": 3}
    content["recipe"] |= {"new_rule": 3}
    content["recipe"]["augment"] |= {"new_drawing": 1}
    for part, key in ((content["options"], "cache_size"), (content["recipe"], "label_smoothing")):
        del part[key]
    path.write_text(json.dumps(content | {"more": {}}))
    trainer, _, _ = prepare(resolve(TrainOptions(out=str(folder), resume=True, epochs=5, workers=0)))
    assert trainer.progress.step == 4
    assert "the run's recipe: new_rule, augment.new_drawing: not known to this version, left out" in caplog.text


@pytest.mark.parametrize("change", [{"data": 3}, {"batch": "4"}, {"data": ""}, {"seed": -1}, {"clip_boxes": None}])
def test_a_run_file_that_says_anything_else_is_refused(folder: Path, change: dict[str, Any]) -> None:
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**content, "options": content["options"] | change}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        resolve(TrainOptions(out=str(folder), resume=True))


def test_resume_auto(scenes: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", logger="singleshot")
    start = {"batch": 4, "epochs": 1, "size": 128, "backbone_weights": "none", "workers": 0, "tensorboard": False,
             "resume": "auto"}  # fmt: skip
    out = tmp_path / "new"
    assert singleshot.train(scenes, out=out, **start).steps == 2
    files = {path: path.read_bytes() for path in out.iterdir()}
    assert singleshot.train(scenes, out=out, **start).steps == 2  # over: it is left as it is
    assert {path: path.read_bytes() for path in out.iterdir()} == files
    assert "is over, nothing is left to do" in caplog.text
    assert singleshot.train(scenes, out=out, **{**start, "epochs": 2}).steps == 4
    for wrong in ({"resume": "always", "out": out}, {"resume": "auto"}, {"resume": "auto", "out": tmp_path / "none"}):
        with pytest.raises(ConfigError, match=r"want auto after it|Give its folder|which data"):
            singleshot.train(**wrong)


@pytest.mark.parametrize("name", START)
def test_with_start(name: str, run: singleshot.Run, scenes: Path, other: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": scenes, "start": run.last, "workers": 0, "_OTHER": other}
    options |= {"out": tmp_path / "new", "_NEW": tmp_path / "new", "_PRIORS": tmp_path / "priors.json"}
    write_priors(tmp_path / "priors.json", replace(PRIORS["ssdlite320-fine"], clip="center"), "mine", "a test")
    if name == "resume":
        shutil.copytree(run.folder, tmp_path / "new", copy_function=link_weights)
    used_or_refused(name, START, options)


def test_what_a_run_has_may_be_given_again(folder: Path) -> None:
    same = {"model": "singleshot-n", "recipe": "scratch", "batch": 4, "backbone_weights": "none", "resize": "stretch",
            "seed": 0, "lr": 2e-3}  # fmt: skip
    assert resolve(TrainOptions(out=str(folder), resume=True, **same)).batch == 4


def test_a_run_keeps_its_recipe_and_its_network_whatever_happens_to_their_files(
    run: singleshot.Run, scenes: Path, tmp_path: Path
) -> None:
    recipe, start, out = tmp_path / "mine.toml", tmp_path / "start.safetensors", tmp_path / "out"
    recipe.write_text('optimizer = "sgd"\nlr = 1e-3\nepochs = 1\nbatch = 4\n')
    shutil.copy(run.last, start)
    plain = {"workers": 0, "tensorboard": False}
    singleshot.train(scenes, out=out, recipe=recipe, start=start, size=128, **plain)
    start.unlink()
    recipe.write_text('optimizer = "adamw"\nlr = 1e-3\nepochs = 1\nbatch = 4\n')
    for given in ({}, {"recipe": recipe}):  # known by its file, whether it is given again or not
        with pytest.raises(ConfigError, match="recipe optimizer: sgd then, adamw now"):
            singleshot.train(out=out, resume=True, epochs=2, **given, **plain)
    recipe.unlink()
    again = singleshot.train(out=out, resume=True, epochs=2, **plain)
    assert again.epochs == 2
    assert json.loads((out / "run.json").read_text())["recipe"]["optimizer"] == "sgd"
    recipe.write_text('optimizer = "adamw"\nlr = 1e-3\nepochs = 1\nbatch = 4\n')
    assert singleshot.train(out=out, resume=True, epochs=3, accept_changes=True, **plain).epochs == 3
    assert json.loads((out / "run.json").read_text())["recipe"]["optimizer"] == "adamw"


def test_a_run_of_time_that_has_ended_is_over_though_validation_left_some_of_it(folder: Path, scenes: Path) -> None:
    shutil.rmtree(folder)
    options: dict[str, Any] = {"out": folder, "time": "1s", "workers": 0, "tensorboard": False}
    singleshot.train(scenes, batch=4, size=128, backbone_weights="none", **options)
    with pytest.raises(ConfigError, match=r"has trained for \d+ s already"):
        singleshot.train(out=folder, resume=True)


@pytest.mark.parametrize("wrong", [{"time": "soon"}, {"time": "0s"}, {"cache_size": "much"}], ids=str)
def test_a_wrong_value_is_said_before_anything_is_read(wrong: dict[str, str]) -> None:
    (option,) = wrong
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} .*: want "):
        resolve(TrainOptions(data="/no/such/folder", **wrong))

"""What to say of an option or a command that does not exist, for people who come from other detectors."""

from __future__ import annotations

import re
from typing import Any

# Words of other projects' command lines -> ours, the first that the command has.
_COMMANDS = {
    "detect": ("predict", "infer", "inference", "run", "track", "test-image"),
    "eval": ("val", "validate", "validation", "test", "evaluate", "map"),
    "train": ("fit", "finetune", "fine-tune", "tune"),
    "import": ("convert", "load"),
    "export": ("deploy", "save"),
    "push": ("upload", "publish", "hub", "push-to-hub"),
    "bench": ("benchmark", "speed", "profile"),
    "serve": ("server", "api", "http", "start-server"),
    "label": ("annotate", "annotator", "labels", "labelling", "labeling"),
    "data check": ("check", "verify", "lint"),
    "data info": ("info", "stats", "analyze", "analyse"),
    "data fetch": ("fetch", "download"),
    "data shard": ("shard", "webdataset"),
    "--help": ("help",),
}
_OPTIONS = {
    "--score-min": (
        "--conf",
        "--confidence",
        "--conf-thres",
        "--conf-threshold",
        "--score",
        "--score-thr",
        "--threshold",
    ),
    "--nms-iou": ("--iou", "--iou-thres", "--nms", "--nms-threshold", "--iou-threshold"),
    "--batch": ("--batch-size", "--bs", "--samples-per-gpu"),
    "--out": (
        "-o",
        "--output",
        "--project",
        "--name",
        "--save-dir",
        "--work-dir",
        "--outdir",
        "--output-dir",
        "--save",
    ),
    "--to": ("--format", "--include"),
    "--lr": ("--lr0", "--learning-rate"),
    "--start": ("--weights", "--checkpoint", "--ckpt", "--pretrained", "--load-from"),
    "--size": ("--imgsz", "--img", "--img-size", "--input-size", "--image-size"),
    "--model": ("--imgsz", "--img", "--img-size", "--size", "--cfg", "--config", "--arch", "--backbone"),
    "--threads": ("--workers", "--num-threads"),
    "--workers": ("--num-workers", "-j"),
    "--limit": ("--max-images",),
    "--device": ("--gpu", "--gpus", "--cuda", "--accelerator"),
    "--split": ("--task", "--subset", "--set"),
    "--fix": ("--repair", "--autofix"),
}
_FIRST = ("--data", "--source", "--input", "--image", "--images", "--weights", "--model", "--checkpoint")
# Options of others that no option of ours replaces: what the command must have for the hint to be right, and the hint.
_ELSEWHERE = {
    **dict.fromkeys(
        ("--optimizer", "--momentum", "--weight-decay", "--warmup", "--scheduler", "--augment"),
        ("--recipe", "a recipe decides that, see --recipe"),
    ),
    "--patience": ("--time", "best.safetensors is the best; --time or --epochs end a training"),
    **dict.fromkeys(
        ("--num-classes", "--nc"), ("--classes", "the labels say the classes; --classes takes some of them")
    ),
    **dict.fromkeys(
        ("--save-txt", "--save-json", "--save-csv"), ("--format", "results are always written, see --format")
    ),
    **dict.fromkeys(
        ("--show", "--view-img", "--save-img"), ("--draw", "pictures are always written, see --out and --draw")
    ),
    **dict.fromkeys(("--nms-iou", "--iou", "--iou-thres", "--nms"), ("--rule", "a rule decides that, see --rule")),
    **dict.fromkeys(("--opset", "--dynamic", "--simplify"), ("--to", "leave it out: the file takes any batch")),
}
_TYPES = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}


def say_usage(error: Any) -> str:
    """One line for a usage error of the command line's parser: what came, and what is meant instead."""
    message: str = error.format_message()
    command = error.ctx.command if error.ctx is not None else None
    if found := re.match(r"No such option: (\S+)", message):
        hint = _option(found[1].partition("=")[0], command)
        if hint:
            return f"{found[1]}: no such option; {hint}."
    if found := re.match(r"No such command '([^']*)'", message):
        group = "" if error.ctx is None or error.ctx.parent is None else f"{error.ctx.info_name} "
        there = (ours for ours, theirs in _COMMANDS.items() if found[1].lower() in theirs and ours.startswith(group))
        ours = next(there, None)
        if ours is not None:
            return f"{found[1]}: no such command; singleshot {ours} does that."
        if "Did you mean" not in message:
            return f"{found[1]}: no such command; {_has_commands(command)}."
    if not message.strip() and command is not None:
        return f"which command? {_has_commands(command)}."
    if found := re.match(r"Invalid value for '([^']*)': (?:Value error, |Input should be )(.*)", message):
        return f"Invalid value for '{found[1].split(' / ')[0]}': {_wanted(found[2])}."
    if found := re.match(r"Option '([^']*)' requires an argument", message):
        return f"{found[1]}: want a value after it."
    if found := re.match(r"Got unexpected extra arguments? ?\(?s?\)? ?\((.*)\)$", message):
        return f"{found[1]}: one word too many; {_one_too_many(found[1], command)}."
    return message


def _has_commands(command: Any) -> str:
    names = ", ".join(getattr(command, "commands", ()))
    return f"want one of {names}" if names else "see its help"


def _wanted(said: str) -> str:
    """What pydantic says that a value should be, in plain words."""
    said = said.strip().rstrip(".")
    if found := re.match(r"(greater|less) than or equal to (\S+?),?( |$)", said):
        return f"want {'at least' if found[1] == 'greater' else 'at most'} {found[2]}"
    if found := re.match(r"(.*) is not one of (.*)", said):
        return f"{found[1]}: want one of {found[2]}"
    if found := re.match(r"a valid ([a-z]+)", said):
        return f"want {_TYPES.get(found[1], 'a ' + found[1])}"
    return f"want {said}"


def _one_too_many(word: str, command: Any) -> str:
    """What to do with an argument that the command does not take."""
    from singleshot.presets import MODELS

    own = _own_options(command)
    if word in MODELS and "--model" in own:
        return f"a model is named by --model {word}"
    if word.endswith((".safetensors", ".pth", ".pt")) and "--start" in own:
        return f"a checkpoint to start from is named by --start {word}"
    return f"want {' '.join(_arguments(command)) or 'options alone'}, and what has spaces in it in quotes"


def _option(name: str, command: Any) -> str:
    """What a command has in place of an option; "" where that is not known."""
    own = _own_options(command)
    ours = next((ours for ours, theirs in _OPTIONS.items() if name in theirs and ours in own), None)
    if ours == "--model" and name in ("--imgsz", "--img", "--img-size", "--size"):
        return "the input's size belongs to the model, see --model"
    if ours is not None:
        return f"use {ours}"
    if name in _ELSEWHERE and _ELSEWHERE[name][0] in ("", *own):
        return _ELSEWHERE[name][1]
    if name in _FIRST and (arguments := _arguments(command)):
        return f"give it without an option: {' '.join(arguments)}"
    return ""


def _own_options(command: Any) -> list[str]:
    return [] if command is None else [opt for one in command.params for opt in one.opts if opt.startswith("--")]


def _arguments(command: Any) -> list[str]:
    arguments = [] if command is None else [one for one in command.params if one.param_type_name == "argument"]
    return [one.name.upper() for one in arguments]

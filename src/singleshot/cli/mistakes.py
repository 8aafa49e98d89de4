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
    "bench": ("benchmark", "speed", "profile"),
    "data check": ("check", "verify", "lint"),
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
    "--out": ("--output", "--project", "--save-dir", "--work-dir", "--outdir", "--output-dir", "--save"),
    "--to": ("--format", "--include"),
    "--lr": ("--lr0", "--learning-rate"),
    "--start": ("--weights", "--checkpoint", "--ckpt", "--pretrained", "--load-from"),
    "--model": ("--imgsz", "--img", "--img-size", "--size", "--cfg", "--config", "--arch", "--backbone"),
    "--threads": ("--workers", "--num-threads"),
    "--workers": ("--num-workers", "-j"),
    "--limit": ("--max-images",),
}
_FIRST = ("--data", "--source", "--input", "--images", "--weights", "--model", "--checkpoint")


def say_usage(error: Any) -> str:
    """One line for a usage error of the command line's parser: what came, and what is meant instead."""
    message: str = error.format_message()
    command = error.ctx.command if error.ctx is not None else None
    if found := re.match(r"No such option: (\S+)", message):
        hint = _option(found[1].partition("=")[0], command)
        if hint:
            return f"{found[1]}: no such option; {hint}."
    if found := re.match(r"No such command '([^']*)'", message):
        ours = next((ours for ours, theirs in _COMMANDS.items() if found[1].lower() in theirs), None)
        if ours is not None:
            return f"{found[1]}: no such command; singleshot {ours} does that."
    if found := re.match(r"Invalid value for '([^']*)': Input should be (?:a valid |)([a-z ]+)", message):
        wanted = {"integer": "a whole number", "number": "a number"}.get(found[2].strip(), f"a {found[2].strip()}")
        return f"Invalid value for '{found[1].split(' / ')[0]}': want {wanted}."
    return message


def _option(name: str, command: Any) -> str:
    """What a command has in place of an option; "" where that is not known."""
    if command is None:
        return ""
    own = [opt for parameter in command.params for opt in parameter.opts if opt.startswith("--")]
    ours = next((ours for ours, theirs in _OPTIONS.items() if name in theirs and ours in own), None)
    if ours == "--model" and name in ("--imgsz", "--img", "--img-size", "--size"):
        return "the input's size belongs to the model, see --model"
    if ours is not None:
        return f"use {ours}"
    arguments = [parameter.name.upper() for parameter in command.params if parameter.param_type_name == "argument"]
    if name in _FIRST and arguments:
        return f"give it without an option: {' '.join(arguments)}"
    return ""

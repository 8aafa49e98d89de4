"""`singleshot push`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from singleshot.api.push import PushOptions, run_push
from singleshot.cli.common import JsonOption, QuietOption
from singleshot.errors import printable


def push_command(
    model: Annotated[str, typer.Argument(help="A checkpoint, an exported file, or the folder of a run: its best.")],
    to: Annotated[str, typer.Argument(help="hf://OWNER/NAME, or hf://OWNER/NAME@BRANCH.")],
    licence: Annotated[
        str | None,
        typer.Option("--licence", "--license", help="Of the model, as the hub spells it: mit, apache-2.0, ..."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    replace_card: Annotated[
        bool, typer.Option("--replace-card", help="Write README.md anew where the repository has one.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring a model to the Hugging Face Hub, with a card of its data, classes, recipe, seed and measured mAP.

    Example: singleshot push runs/train-1 hf://me/fruit --licence apache-2.0

    What is not known stays out of the card. The token is the hub's own: HF_TOKEN, or `hf auth login`.

    What is there is used by its address: singleshot detect hf://me/fruit photos/, also hf://me/fruit/best.onnx@v1.
    """
    done = run_push(PushOptions.of(locals()), progress=sys.stderr.isatty() and not quiet)
    if as_json:
        print(json.dumps(done.to_dict()))
        return
    print(f"pushed: {printable(done.address)}")
    if quiet:
        return
    if not done.card:
        print("its README.md is there already and stays; --replace-card writes it anew", file=sys.stderr)
    elif licence is None:
        print("its card states no licence; --licence names one", file=sys.stderr)

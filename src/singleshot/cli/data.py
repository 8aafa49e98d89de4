"""`singleshot data`: the group; each of its commands has a file of its own."""

from __future__ import annotations

import typer

from singleshot.cli.data_check import check_command
from singleshot.cli.data_convert import convert
from singleshot.cli.data_fetch import fetch
from singleshot.cli.data_info import info
from singleshot.cli.data_shard import shard

data_app = typer.Typer(help="Data sets: check, describe, convert, download, pack.", no_args_is_help=True)


@data_app.callback()
def _group() -> None:
    """Data sets: check, describe, convert, download, pack."""


data_app.command(name="check")(check_command)
data_app.command()(info)
data_app.command()(fetch)
data_app.command()(convert)
data_app.command()(shard)

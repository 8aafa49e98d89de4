"""`singleshot data`: the group; each of its commands has a file of its own."""

from __future__ import annotations

import typer

data_app = typer.Typer(help="Data sets: check, describe, convert, download, pack.", no_args_is_help=True)


@data_app.callback()
def _group() -> None:
    """Data sets: check, describe, convert, download, pack."""

"""What `singleshot import` recognises: importers by name, as importable.toml has them. No torch here.

The importers themselves are in `singleshot.weights.importers`, in the same order.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import NamedTuple


class Importable(NamedTuple):
    """about: a line for people; signature: names of tensors that are there in every such checkpoint and, together, in
    no other; () for an importer that looks at the file itself."""

    about: str
    signature: tuple[str, ...]


@cache
def importable() -> dict[str, Importable]:
    """The importers by name."""
    tables = tomllib.loads((resources.files("singleshot") / "importable.toml").read_text(encoding="utf-8"))
    return {name: Importable(row["about"], tuple(row.get("signature", ()))) for name, row in tables.items()}

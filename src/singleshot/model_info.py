"""What the descriptions in our model files have in common, a checkpoint's and an exported file's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from singleshot._version import __version__
from singleshot.errors import CheckpointError, printable

KEY = "singleshot"  # in the file's metadata
FORMAT = 1


def refuse_newer(values: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError for a description of a later format, KeyError or TypeError where it does not say which."""
    if values["format"] > FORMAT:
        raise CheckpointError(
            f"{where}: made by singleshot {printable(values.get('version'))}, which is newer than this one"
            f" ({__version__}); upgrade with: pip install -U singleshot"
        )


def are_names(names: object) -> bool:
    """Whether it is a list of class names, one at least."""
    return isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)

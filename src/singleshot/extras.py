"""What is missing in an environment without the packages of an extra, in one line that names the extra."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from singleshot.errors import MissingExtraError


def require(extra: str, what: str, *packages: str) -> None:
    """Raise MissingExtraError, which names the extra, where one of the packages is not installed; imports none."""
    for package in packages:
        with needs(extra, what):
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(name=package)


@contextlib.contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """For the imports of a use case: a package that is not installed raises MissingExtraError.

    Args:
        extra: The extra that brings the package, such as "train".
        what: What needs it, for the message, such as "training".
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "singleshot"):
            raise  # our own mistake
        raise MissingExtraError(f"{what} needs {package}: pip install 'singleshot[{extra}]'") from error

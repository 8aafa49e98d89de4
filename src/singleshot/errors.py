"""What a user's mistake raises.

Every one of these ends a command with a single line on standard error and its exit code. Anything else that
is raised is our own mistake and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


class SingleshotError(Exception):
    """The user's input is wrong: the message says where, what came and what to do.

    exit_code: of a command that it ends.
    """

    exit_code = 2


class DataError(SingleshotError):
    """A data set, an annotation or an image cannot be used."""


class TooFewImagesError(DataError):
    """A data set without splits has too few images for the one to be made that was asked for."""


class CheckpointError(SingleshotError):
    """A model file cannot be used."""


class ConfigError(SingleshotError):
    """An option, a recipe or a name is wrong."""


class MissingExtraError(SingleshotError):
    """An optional package is not installed; the message names the extra that brings it."""


class OtherProcessError(SingleshotError):
    """Of several processes that train together another one says what ended it: nothing is to be printed here."""


class SingleshotWarning(UserWarning):
    """Something was tolerated that the user should know of."""


def printable(text: object, limit: int = 200) -> str:
    """The text on one line: control characters escaped, cut in the middle past `limit` characters."""
    line = str(text)
    if not line.isprintable():
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    return line if len(line) <= limit else f"{line[: limit // 2]}...{line[-limit // 2 :]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean NEAREST?", to end a message with; "" where none is near."""
    import difflib  # not for every start

    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    if not near:  # it minds capitals
        lower = {one.lower(): one for one in known}
        near = [lower[one] for one in difflib.get_close_matches(name.lower(), lower, n=1)]
    return f"; did you mean {printable(near[0], 60)}?" if near else ""

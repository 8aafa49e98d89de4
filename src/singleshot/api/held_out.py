"""The part of the training images that `--val-split 10%` holds out to validate on."""

from __future__ import annotations

import re

from singleshot.errors import ConfigError, printable

_MOST = 0.5
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", re.ASCII)
# What names no split, but is meant for a share: 0.1, 10%%, 1e1%, 10,5%.
_MEANT = re.compile(r"0?\.\d+|[-+\d.,eE\s%]*%")


def val_split_text(val_split: str | None) -> str | None:
    """A split's name as it is, a share in the form in which run.json keeps it: "10%" for "10.0 %". Raises ConfigError
    for what is neither, and for a share that is nothing or leaves too little."""
    if val_split is None:
        return None
    share = _SHARE.fullmatch(val_split.strip()) if isinstance(val_split, str) else None
    if share is None:
        if not isinstance(val_split, str) or _MEANT.fullmatch(val_split.strip()):
            raise ConfigError(
                f"--val-split {printable(val_split, 60)}: want the name of a split, or a share of the training images"
                " such as 10%"
            )
        return val_split
    percent = f"{float(share[1]):.6f}".rstrip("0").rstrip(".")
    if not 0 < float(percent) <= 100 * _MOST:
        raise ConfigError(
            f"--val-split {printable(val_split, 60)}: want more than 0% and at most {_MOST:.0%} of the training images"
        )
    return f"{percent}%"


def held_out_share(val_split: str | None) -> float | None:
    """The part of the training images that "10%" holds out; None where a split is named. Raises as above."""
    text = val_split_text(val_split)
    share = None if text is None else _SHARE.fullmatch(text)
    return None if share is None else float(share[1]) / 100

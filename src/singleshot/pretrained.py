"""Where a network's pretrained weights came from, and under which licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights that were trained elsewhere.

    Attributes:
        name: What they are.
        source: The package, release or file that they were read from.
        licence: Under which they were given; None where that is not known.
    """

    name: str
    source: str
    licence: str | None = None

    @property
    def in_words(self) -> str:
        """On one line."""
        return f"{self.name} of {self.source} ({self.licence or 'licence not known'})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PretrainedWeights:
        """Inverse of `to_dict`; KeyError, TypeError or ValueError where it is none."""
        licence = values.get("licence")
        known = values["name"], values["source"]
        if not all(isinstance(one, str) for one in (*known, licence or "")):
            raise ValueError("pretrained: want its name, source and licence as text")
        return cls(*known, licence)

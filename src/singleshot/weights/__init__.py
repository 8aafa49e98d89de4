"""Model files: our own checkpoint, and those of other projects."""

from singleshot.weights.importing import import_checkpoint

__all__ = ["import_checkpoint"]

"""Model files: our own checkpoint, and those of other projects."""

from singleshot.weights.foreign import import_checkpoint

__all__ = ["import_checkpoint"]

"""Running and exporting models."""

"""Export: one file, int8, proof of its boxes, state dicts for other projects."""

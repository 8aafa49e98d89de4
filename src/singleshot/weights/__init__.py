"""Model files: our own checkpoint, and backbone weights from elsewhere."""

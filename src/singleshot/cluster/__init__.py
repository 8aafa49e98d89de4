"""Bulk detection on several machines, by Ray Data: images in, parts of results out, each once."""

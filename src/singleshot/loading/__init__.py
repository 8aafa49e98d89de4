"""Batches for training and evaluation: augmentation, caches, worker processes, streams of shards."""

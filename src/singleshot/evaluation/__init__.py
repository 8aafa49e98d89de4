"""The metrics of a model on data, whatever engine runs it: one loop, in engine_loop.py, which needs no torch."""

"""The use cases: train, evaluate, detect, export, import a checkpoint, load; Python and the command line call these."""

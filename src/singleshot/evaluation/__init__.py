"""The metrics of a model on data, whatever engine runs it."""

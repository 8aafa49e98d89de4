"""What runs a model: one module for each engine of exported files, and table.py with a row for every engine."""

"""Files of other projects -> ForeignState: one module per file format, nothing in a file executed."""

"""Files of other projects -> Tensors: one module per file format, nothing in a file executed."""

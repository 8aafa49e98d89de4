"""Writing label files, a module for each form; `singleshot.datasets.formats` has the table."""

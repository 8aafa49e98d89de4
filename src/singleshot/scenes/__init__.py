"""The pictures that the demo and the tests draw for themselves."""

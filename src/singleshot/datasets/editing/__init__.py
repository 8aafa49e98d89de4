"""Changing single objects of label files in place: what is not changed stays byte for byte."""

"""Bytes of an image file -> pixels, with limits that hold before anything is decoded."""

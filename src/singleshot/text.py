"""Bytes of a text file -> text: UTF-8, with its mark or without, or UTF-16 by its mark; nothing is guessed."""

from __future__ import annotations

import codecs

from singleshot.errors import DataError, printable

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode_text(data: bytes, name: str, paths: bool = False) -> str:
    """The text of a file; `name` is what messages call it.

    With `paths` bytes that are not UTF-8 are kept (as "surrogateescape" does), since names of files may hold any. Lines
    that end with a carriage return alone, as on old Macs, end with a line feed instead. Raises DataError for text in
    another encoding.
    """
    text = _decoded(data, name, paths)
    return text if "\n" in text else text.replace("\r", "\n")


def _decoded(data: bytes, name: str, paths: bool) -> str:
    if data.startswith(_UTF16):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise DataError(f"{printable(name)}: its mark says UTF-16, but it is not; save it as UTF-8") from error
    try:
        return data.decode("utf-8-sig", "surrogateescape" if paths else "strict")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{printable(name)}:{line}: is not UTF-8 (byte 0x{data[error.start]:02X}); save it as UTF-8"
        ) from error


def utf8_head(head: bytes) -> bytes:
    """The first bytes of a text file without a mark, those of UTF-16 as UTF-8, to look at what the file is."""
    if head.startswith(_UTF16):
        return head.decode("utf-16", "replace").encode(errors="replace")
    return head.removeprefix(codecs.BOM_UTF8)


def encoding_of(head: bytes) -> tuple[str, str]:
    """Encoding and way with errors for reading a text file of these first bytes piece by piece. Bytes that are not
    UTF-8 are kept, as with the `paths` of `decode_text`."""
    return ("utf-16", "replace") if head.startswith(_UTF16) else ("utf-8-sig", "surrogateescape")

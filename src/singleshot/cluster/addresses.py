"""Which images a bulk detection reads: folders, patterns, lists and tables, on a disk or behind addresses."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from singleshot.datasets.tree import open_tree
from singleshot.errors import ConfigError, DataError, printable
from singleshot.extras import needs
from singleshot.images.suffixes import IMAGE_SUFFIXES, is_image
from singleshot.remote_file import filesystem, is_remote, is_web, without_secrets
from singleshot.runtime.sources import open_sources
from singleshot.storage import open_limited

# Of a table without --column, the first of these that it has.
COLUMNS = ("address", "url", "uri", "path", "image", "file", "file_name", "filename")
_MAX_TABLE_BYTES = 64 * 2**30
_LONGEST_ROW = 2**20


class Input(NamedTuple):
    """An image to detect in. path: what opens it, "" where a table's row has none; name: what results call it, without
    secrets."""

    path: str
    name: str


def list_inputs(sources: tuple[str, ...], column: str | None = None) -> Iterator[Input]:
    """The images of all sources, in order, as they are listed.

    Raises DataError for a source that is not there or holds no image, ConfigError for one that is not of files (video,
    camera, stream, standard input) or a table without the column.
    """
    for source in sources:
        yield from _list(source, column)


def _list(source: str, column: str | None) -> Iterator[Input]:
    table = _TABLES.get(PurePosixPath(urlsplit(source).path if is_web(source) else source).suffix.lower())
    if table is not None:
        return _of_table(source, table, column)
    if column is not None:
        raise ConfigError(
            f"--column {printable(column, 60)}: {printable(source)} is no table (want .csv, .jsonl, .parquet)"
        )
    if is_remote(source) and not source.lower().startswith("file:"):
        return _of_storage(source)
    if source == "-":
        raise ConfigError("-: standard input is read by one process alone; give a list of addresses as a .txt file")
    return _of_disk(source)


def _of_disk(source: str) -> Iterator[Input]:
    for frame in open_sources([source], decode=False):
        if frame.error is not None:
            yield Input("", str(frame.error))
        elif frame.path is None:
            raise ConfigError(f"{printable(frame.source)}: not an image file; detect in it without --cluster")
        else:
            path = frame.path if is_remote(frame.path) else str(Path(frame.path).absolute())
            yield Input(path, frame.name)


def _of_storage(source: str) -> Iterator[Input]:
    if is_image(urlsplit(source).path) and "*" not in source:
        yield Input(source, _shown(source))
        return
    if any(mark in source for mark in "*["):
        if is_web(source):
            raise ConfigError(f"{printable(source)}: a server of web pages has no patterns; give a folder or a table")
        system, path = filesystem(source)
        scheme = source.partition("://")[0]
        try:
            names = sorted(system.glob(path))
        except Exception as error:  # each kind of storage has errors of its own
            raise DataError(
                f"{printable(source)}: cannot be listed ({printable(without_secrets(error), 120)})"
            ) from error
        addresses = (f"{scheme}://{name.lstrip('/')}" for name in names if is_image(name))
    else:
        tree = open_tree(source)
        addresses = (tree.path(name) for name in tree.files("", IMAGE_SUFFIXES))
    is_empty = True
    for address in addresses:
        is_empty = False
        yield Input(address, address)
    if is_empty:
        raise DataError(
            f"{printable(source)}: no image there (want .jpg, .png, .webp, ...; subfolders are not entered)"
        )


def _of_table(
    source: str, rows: Callable[[IO[bytes], str, str | None], Iterator[Any]], column: str | None
) -> Iterator[Input]:
    """Addresses of a table. A relative path is of the working folder, or else of the table's."""
    with open_limited(source, _MAX_TABLE_BYTES, "table") as file:
        for number, value in enumerate(rows(file, source, column), 1):
            if not isinstance(value, str) or not value.strip():
                yield Input("", f"{printable(source)}: row {number} has no address")
            elif is_remote(value):
                yield Input(value, _shown(value))
            else:
                here = Path(value)
                near = Path(source).parent / value
                place = near if not is_remote(source) and not here.exists() and near.exists() else here
                yield Input(str(place.absolute()), str(place))


def _shown(address: str) -> str:
    return without_secrets(address).removesuffix("?...")


def _text_rows(file: IO[bytes], source: str, column: str | None) -> Iterator[Any]:
    if column is not None:
        raise ConfigError(f"--column {printable(column, 60)}: {printable(source)} has none, only lines")
    while line := file.readline(_LONGEST_ROW):
        if line.strip():
            yield line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")


def _csv_rows(file: IO[bytes], source: str, column: str | None) -> Iterator[Any]:
    reader = csv.DictReader(io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline=""))
    name = _pick(tuple(reader.fieldnames or ()), source, column)
    try:
        for row in reader:
            yield row.get(name)
    except csv.Error as error:
        raise DataError(f"{printable(source)}:{reader.line_num}: not a CSV ({error})") from error


def _json_rows(file: IO[bytes], source: str, column: str | None) -> Iterator[Any]:
    number = 0
    name = ""
    while line := file.readline(_LONGEST_ROW):
        number += 1
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{printable(source)}:{number}: not JSON ({printable(error, 80)})") from error
        if isinstance(row, Mapping):
            name = name or _pick(tuple(row), source, column)
            yield row.get(name)
        else:
            yield row


def _parquet_rows(file: IO[bytes], source: str, column: str | None) -> Iterator[Any]:
    with needs("ray", f"{printable(source)}: a Parquet table"):
        import pyarrow
        from pyarrow import parquet
    try:
        table = parquet.ParquetFile(file)
        name = _pick(tuple(table.schema_arrow.names), source, column)
        for batch in table.iter_batches(batch_size=10_000, columns=[name]):
            yield from batch.column(0).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{printable(source)}: not Parquet that can be read ({printable(error, 120)})") from error


_TABLES = {
    ".txt": _text_rows,
    ".csv": _csv_rows,
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".parquet": _parquet_rows,
}


def _pick(names: tuple[str, ...], source: str, column: str | None) -> str:
    """The column of addresses. Raises ConfigError."""
    shown = printable(", ".join(map(str, names)), 120) or "none"
    if column is not None:
        if column not in names:
            raise ConfigError(f"--column {printable(column, 60)}: {printable(source)} has {shown}")
        return column
    lower = {str(name).strip().lower(): name for name in reversed(names)}
    found = next((lower[name] for name in COLUMNS if name in lower), names[0] if len(names) == 1 else None)
    if found is None:
        raise ConfigError(f"{printable(source)}: which column has the addresses? Name one of {shown} with --column")
    return found

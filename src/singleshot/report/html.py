"""Pieces of the page: sections, tables, lists of facts. Names of classes and files are escaped wherever they stand."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from singleshot.images.headers import header_size

NOT_MEASURED = "not measured"
NONE = "\N{EN DASH}"  # in a table


class Section(NamedTuple):
    """anchor: its id in the page; note: what it shows and how to read it."""

    anchor: str
    title: str
    body: Markup
    note: str = ""


class Picture(NamedTuple):
    """jpeg: its bytes, None where the image could not be read; lines: below it."""

    jpeg: bytes | None
    lines: tuple[str, ...]


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or that there is none."""
    return NOT_MEASURED if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def cell(value: float | None, digits: int = 3) -> str:
    """A figure of a table, a dash where there is none."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], foot: Sequence[object] | None = None, texts: bool = False
) -> Markup:
    """The first column holds names, the others figures; with `texts` the second holds words."""
    top = Markup("<tr>{}</tr>").format(Markup("").join(Markup('<th scope="col">{}</th>').format(one) for one in head))
    body = Markup("").join(map(_row, rows))
    end = Markup("<tfoot>{}</tfoot>").format(_row(foot)) if foot is not None else ""
    form = '<div class="wide"><table{}><thead>{}</thead><tbody>{}</tbody>{}</table></div>'
    return Markup(form).format(Markup(' class="texts"') if texts else "", top, body, end)


def _row(values: Sequence[object]) -> Markup:
    first = Markup('<th scope="row">{}</th>').format(values[0])
    return Markup("<tr>{}{}</tr>").format(first, Markup("").join(Markup("<td>{}</td>").format(v) for v in values[1:]))


def facts(pairs: Iterable[tuple[str, object]]) -> Markup:
    """Names and values in two columns."""
    entry = Markup("<div><dt>{}</dt><dd>{}</dd></div>")
    return Markup("<dl>{}</dl>").format(Markup("").join(entry.format(*pair) for pair in pairs))


def charts(parts: Iterable[tuple[str, Markup]]) -> Markup:
    """Charts with a title each, as many in a row as there is room for."""
    entry = Markup("<div><h3>{}</h3>{}</div>")
    return Markup('<div class="charts">{}</div>').format(Markup("").join(entry.format(*part) for part in parts))


def gallery(pictures: Iterable[Picture]) -> Markup:
    """Pictures with words below them."""
    return Markup('<div class="gallery">{}</div>').format(Markup("").join(map(_figure, pictures)))


def details(title: str, body: Markup) -> Markup:
    """What is shown on a click."""
    return Markup("<details><summary>{}</summary>{}</details>").format(title, body)


def paragraph(text: str) -> Markup:
    """Text."""
    return Markup("<p>{}</p>").format(text)


def _figure(picture: Picture) -> Markup:
    image = Markup('<p class="none">the image could not be read</p>')
    if picture.jpeg is not None:
        data = base64.b64encode(picture.jpeg).decode()
        width, height = header_size(picture.jpeg) or ("", "")  # its place is there before it is decoded: links arrive
        image = Markup('<img width="{}" height="{}" decoding="async" alt="{}" src="data:image/jpeg;base64,{}">').format(
            width, height, picture.lines[0] if picture.lines else "", data
        )
    words = Markup("<br>").join(picture.lines)
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(image, words)


def words_of(value: Any) -> str:
    """A setting as text."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(words_of, value)) if isinstance(value, list | tuple) else str(value)

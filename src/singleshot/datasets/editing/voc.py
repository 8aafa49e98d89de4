"""VOC annotations: the texts of single elements are replaced, whole <object> elements removed and added."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat

from singleshot.datasets.editing.edits import Change, Edit, LabelObject, Rewrite, Splice, splice
from singleshot.datasets.raw import Box, RawImage
from singleshot.datasets.readers import voc
from singleshot.datasets.readers.voc_layout import find_layout
from singleshot.datasets.tree import Tree, join
from singleshot.datasets.writers.common import escape_xml, fits_xml, stem_of
from singleshot.datasets.writers.voc import annotation
from singleshot.errors import DataError, printable

_TAG = re.compile(rb"<(?:[^>\"']|\"[^\"]*\"|'[^']*')*>")
_SAME_PX = 1e-6
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class _Element:
    """start, end: of the whole element in the bytes; text: start and end of what is between its tags."""

    tag: str
    start: int
    end: int = 0
    text: tuple[int, int] = (0, 0)
    children: list[_Element] = field(default_factory=list)

    def first(self, tag: str) -> _Element | None:
        return next((child for child in self.children if child.tag == tag), None)


class VocEditor:
    """An Editor of the annotations in a tree."""

    def __init__(self, tree: Tree) -> None:
        self._base = find_layout(tree).base

    def objects(self, data: bytes, image: RawImage) -> list[LabelObject]:
        """See Editor."""
        found = voc.parse_annotation(data, image.file)
        elements = _objects(data, image.file) if found is not None and found.objects else []
        return [
            LabelObject(obj.number, obj.name, obj.box, obj.difficult, obj.crowd, _fixed(elements[obj.number]))
            for obj in (found.objects if found is not None else ())
        ]

    def add_class(self, name: str, rewrite: Rewrite) -> None:
        """See Editor: objects say their class themselves."""

    def own(self, data: bytes, image: RawImage) -> bytes:
        """See Editor."""
        return data

    def apply(self, data: bytes, image: RawImage, edit: Edit) -> bytes:
        """See Editor."""
        elements, splices = _objects(data, image.file), list[Splice]()
        now = {obj.number: obj for obj in self.objects(data, image)}
        for number in edit.deleted:
            element = elements[number]
            splices.append(Splice(_before(data, element.start), element.end, ""))
        for number, change in edit.changed.items():
            splices += _changed(data, elements[number], now[number], change)
        if edit.added:
            splices.append(_added(data, elements, edit, image))
        # Latin-1 gives each byte its own character, so that places in bytes are places in the text.
        return splice(data.decode("latin-1"), splices).encode("latin-1")

    def blank(self, image: RawImage) -> bytes:
        """See Editor."""
        folder, _, name = image.path.replace("\\", "/").rpartition("/")
        return annotation(name, image._replace(objects=[]), folder.rpartition("/")[2]).encode()

    def place(self, name: str) -> str:
        """See Editor."""
        folder = self._base or name.rpartition("/")[0]
        return join(folder, f"{stem_of(name.rpartition('/')[2])}.xml")


def _fixed(element: _Element) -> str:
    box = element.first("bndbox")
    if box is None or any((side := box.first(key)) is None or side.children for key in _SIDES):
        return "its outline is a polygon or a turned box"
    return ""


def _root(data: bytes, path: str) -> _Element:
    """The elements of a file that `voc.parse_annotation` has read: it has no entities of its own."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise DataError(f"{printable(path)}: is UTF-16, which is not changed in place; save it as UTF-8")
    parser = expat.ParserCreate()
    top = _Element("", 0)
    above = [top]

    def start(tag: str, _: dict[str, str]) -> None:
        here = parser.CurrentByteIndex
        match = _TAG.match(data, here)
        element = _Element(tag, here, text=(match.end() if match else here, 0))
        above[-1].children.append(element)
        above.append(element)

    def end(_: str) -> None:
        element, here = above.pop(), parser.CurrentByteIndex
        opened = element.text[0]
        # <name/>: both its tags are one
        closes = here >= opened
        element.text = (opened, here if closes else opened)
        element.end = data.index(b">", here) + 1 if closes else opened

    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise DataError(f"{printable(path)}: is not XML ({error}); write the annotation again") from error
    encoding = re.match(rb"(?:\xef\xbb\xbf)?<\?xml[^>]*encoding=[\"']([\w.-]+)", data)
    if encoding and encoding[1].lower() not in (b"utf-8", b"ascii", b"us-ascii"):
        raise DataError(f"{printable(path)}: is not UTF-8, and not changed in place; save it as UTF-8")
    return top.children[0]


def _objects(data: bytes, path: str) -> list[_Element]:
    return [element for element in _root(data, path).children if element.tag == "object"]


def _before(data: bytes, at: int) -> int:
    """Where the blanks before a place begin: after the last element there."""
    return len(data[:at].rstrip(b" \t\r\n"))


def _bytes(text: str) -> str:
    """The bytes of a text, each as one character."""
    return text.encode().decode("latin-1")


def _changed(data: bytes, element: _Element, now: LabelObject, change: Change) -> list[Splice]:
    splices = []
    if change.name is not None:
        name = element.first("name")
        assert name is not None
        splices.append(_text(data, name, _class_text(change.name)))
    if change.box is not None:
        box = element.first("bndbox")
        assert box is not None
        for key, old, new, written in zip(_SIDES, now.box, change.box, _written(change.box), strict=True):
            side = box.first(key)
            assert side is not None
            if abs(old - new) > _SAME_PX:
                splices.append(_text(data, side, written))
    return splices


def _text(data: bytes, element: _Element, text: str) -> Splice:
    """The text of an element replaced; blanks around it stay."""
    start, end = element.text
    inner = data[start:end]
    left = len(inner) - len(inner.lstrip())
    return Splice(start + left, start + max(len(inner.rstrip()), left), _bytes(text))


def _class_text(name: str) -> str:
    if not fits_xml(name):
        raise DataError(f"class {printable(name)!r} cannot be written as VOC's XML; choose another")
    return escape_xml(name)


def _written(box: Box) -> tuple[str, str, str, str]:
    """A box as VOC writes it: pixels counted from 1, the last one included; whole, and one pixel at least."""
    x0, y0, x1, y1 = (round(value) for value in box)
    return str(x0 + 1), str(y0 + 1), str(max(x1, x0 + 1)), str(max(y1, y0 + 1))


def _added(data: bytes, elements: list[_Element], edit: Edit, image: RawImage) -> Splice:
    """New objects after the last one, indented as it is."""
    root = _root(data, image.file)
    last = elements[-1] if elements else (root.children or [None])[-1]  # type: ignore[list-item]
    at = last.end if last is not None else root.text[0]
    blank = data[_before(data, last.start) : last.start].decode("latin-1") if last is not None else "\n\t"
    step = blank.rpartition("\n")[2] if "\n" in blank else ""
    new_line = "\r\n" if "\r\n" in blank else "\n"
    line, deeper = (blank, f"{new_line}{step}{step}") if "\n" in blank else ("", "")
    text = ""
    for name, box in edit.added:
        sides = "".join(
            f"{deeper}{step}<{key}>{value}</{key}>" for key, value in zip(_SIDES, _written(box), strict=True)
        )
        text += (
            f"{line}<object>{deeper}<name>{_bytes(_class_text(name))}</name>{deeper}<difficult>0</difficult>"
            f"{deeper}<bndbox>{sides}{deeper}</bndbox>{line}</object>"
        )
    return Splice(at, at, text)

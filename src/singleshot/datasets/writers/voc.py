"""Pascal VOC folders: Annotations/*.xml, JPEGImages/*, ImageSets/Main/*.txt.

VOC counts pixels from 1 and includes the last one: 1 is added to xmin and ymin only, as the reader takes it away.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from xml.sax.saxutils import escape

from singleshot.datasets.packed_strings import is_text
from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.datasets.readers.voc import CLASS_LIST, DEVKIT_CLASSES
from singleshot.datasets.writers.common import WritePlan, make_write_plan, refuse_texts, stem_of

# What XML 1.0 cannot hold at all (its section 2.2), even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_IMAGES = "JPEGImages"


def plan(raw: RawSet) -> WritePlan:
    """Raises DataError as `make_write_plan`, and for a class whose name XML cannot hold."""
    found = make_write_plan(raw, by_stem=True, tidy=_tidy_stem, tidy_split=_tidy_split)
    refuse_texts(found, lambda name: is_text(name) and not _NOT_XML.search(name), "VOC's XML")
    return found


def _tidy_stem(stem: str) -> str:
    """Lists may hold "name 1": a name that ends so itself would be cut by many readers."""
    return re.sub(r"\s+(?=(1|-1|0)$)", "_", stem)


def _tidy_split(name: str) -> str:
    """ "aeroplane_train" would be the devkit's list of one class."""
    return name.replace("_", "-", 1) if name.partition("_")[0] in DEVKIT_CLASSES else name


def place(plan: WritePlan, i: int) -> str:
    """Where image file i goes, relative to the folder."""
    return f"{_IMAGES}/{plan.names[i]}"


def write(plan: WritePlan, folder: Path) -> None:
    """Annotations, lists, and the list of classes where the annotations alone would not tell it."""
    labels, lists = folder / "Annotations", folder / "ImageSets" / "Main"
    labels.mkdir()
    lists.mkdir(parents=True)
    for name, image in zip(plan.names, plan.images, strict=True):
        (labels / f"{stem_of(name)}.xml").write_bytes(annotation(name, image).encode())
    for split, members in plan.splits.items():
        text = "".join(f"{stem_of(plan.names[i])}\n" for i in members)
        (lists / f"{split}.txt").write_bytes(text.encode())
    if plan.says_classes:
        (folder / CLASS_LIST).write_text(json.dumps(plan.class_names, indent=1) + "\n", encoding="utf-8")


def annotation(name: str, image: RawImage) -> str:
    """The XML of one image whose file is called `name`."""
    objects = "".join(_object(obj) for obj in image.objects)
    return (
        f"<annotation>\n\t<folder>{_IMAGES}</folder>\n\t<filename>{_escape(name)}</filename>\n"
        f"\t<size>\n\t\t<width>{image.width}</width>\n\t\t<height>{image.height}</height>\n\t\t<depth>3</depth>\n"
        f"\t</size>\n{objects}</annotation>\n"
    )


def _object(obj: RawObject) -> str:
    x0, y0, x1, y1 = obj.box
    sides = zip(("xmin", "ymin", "xmax", "ymax"), (_text(x0, 1), _text(y0, 1), _text(x1), _text(y1)), strict=True)
    box = "".join(f"\t\t\t<{side}>{value}</{side}>\n" for side, value in sides)
    crowd = "\t\t<crowd>1</crowd>\n" * bool(obj.crowd)
    return (
        f"\t<object>\n\t\t<name>{_escape(obj.name)}</name>\n\t\t<difficult>{int(obj.difficult)}</difficult>\n"
        f"{crowd}\t\t<bndbox>\n{box}\t\t</bndbox>\n\t</object>\n"
    )


def _text(value: float, more: int = 0) -> str:
    """The number plus `more`, exact in decimals: 0.1 + 1 is 1.1, and the reader finds 0.1 again."""
    if value == int(value):
        return str(int(value) + more)
    return format(Decimal(repr(float(value))) + more, "f")


def _escape(text: str) -> str:
    return escape(text, {"\r": "&#13;"})  # a bare one would be read as \n

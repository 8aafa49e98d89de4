"""Pascal VOC folders: Annotations/*.xml, JPEGImages/*, ImageSets/Main/*.txt.

VOC counts pixels from 1 and includes the last one: 1 is added to xmin and ymin only, as the reader takes it away.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.datasets.readers.voc import DEVKIT_CLASSES
from singleshot.datasets.writers.common import (
    WritePlan,
    escape_xml,
    fits_xml,
    make_write_plan,
    refuse_texts,
    stem_of,
    write_class_list,
)

_IMAGES = "JPEGImages"


def plan(raw: RawSet) -> WritePlan:
    """Raises DataError as `make_write_plan`, and for a class whose name XML cannot hold."""
    found = make_write_plan(raw, by_stem=True, tidy=_tidy_stem, tidy_split=_tidy_split)
    refuse_texts(found, fits_xml, "VOC's XML")
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
    write_class_list(plan, folder)


def annotation(name: str, image: RawImage, folder: str = _IMAGES) -> str:
    """The XML of one image whose file is called `name`, in a folder of that name."""
    objects = "".join(_object(obj) for obj in image.objects)
    return (
        f"<annotation>\n\t<folder>{escape_xml(folder)}</folder>\n\t<filename>{escape_xml(name)}</filename>\n"
        f"\t<size>\n\t\t<width>{image.width}</width>\n\t\t<height>{image.height}</height>\n\t\t<depth>3</depth>\n"
        f"\t</size>\n{objects}</annotation>\n"
    )


def _object(obj: RawObject) -> str:
    x0, y0, x1, y1 = obj.box
    sides = zip(("xmin", "ymin", "xmax", "ymax"), (_text(x0, 1), _text(y0, 1), _text(x1), _text(y1)), strict=True)
    box = "".join(f"\t\t\t<{side}>{value}</{side}>\n" for side, value in sides)
    crowd = "\t\t<crowd>1</crowd>\n" * bool(obj.crowd)
    return (
        f"\t<object>\n\t\t<name>{escape_xml(obj.name)}</name>\n\t\t<difficult>{int(obj.difficult)}</difficult>\n"
        f"{crowd}\t\t<bndbox>\n{box}\t\t</bndbox>\n\t</object>\n"
    )


def _text(value: float, more: int = 0) -> str:
    """The number plus `more`, exact in decimals: 0.1 + 1 is 1.1, and the reader finds 0.1 again."""
    if value == int(value):
        return str(int(value) + more)
    return format(Decimal(repr(float(value))) + more, "f")

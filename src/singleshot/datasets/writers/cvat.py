"""CVAT for images 1.1: one annotations.xml, and images/. Splits are the images' subsets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import quoteattr

from singleshot.datasets.raw import RawObject, RawSet
from singleshot.datasets.writers.common import (
    WritePlan,
    escape_xml,
    fits_xml,
    make_write_plan,
    number_text,
    refuse_texts,
)
from singleshot.datasets.writers.split_folders import splits_are_usual, write_split_list

# Its reader takes no longer names.
_MAX_TEXT = 10_000
_FLAG = (
    "<attribute><name>{}</name><mutable>False</mutable><input_type>checkbox</input_type>"
    "<default_value>false</default_value><values>false</values></attribute>"
)


def plan(raw: RawSet) -> WritePlan:
    """Raises DataError as `make_write_plan`, and for a class whose name XML cannot hold."""
    found = make_write_plan(raw)
    refuse_texts(found, lambda name: fits_xml(name) and len(name) <= _MAX_TEXT, "CVAT's XML")
    return found


def place(plan: WritePlan, i: int) -> str:
    """Where image file i goes, relative to the folder."""
    return f"images/{plan.names[i]}"


def write(plan: WritePlan, folder: Path) -> None:
    """The labels with the flags that objects have as attributes, then the images in the order of their subsets."""
    objects = [obj for image in plan.images for obj in image.objects]
    flags = [key for key in ("difficult", "crowd") if any(getattr(obj, key) for obj in objects)]
    attributes = f"<attributes>{''.join(map(_FLAG.format, flags))}</attributes>"
    with (folder / "annotations.xml").open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
        file.write(f"  <meta>\n    <task>\n      <size>{len(plan.images)}</size>\n      <labels>\n")
        for name in plan.class_names:
            file.write(f"        <label><name>{escape_xml(name)}</name><type>rectangle</type>{attributes}</label>\n")
        file.write("      </labels>\n    </task>\n  </meta>\n")
        for number, (i, subset) in enumerate(_subsets(plan)):
            image = plan.images[i]
            file.write(f'  <image id="{number}" name={quoteattr(plan.names[i])}{subset}')
            file.write(f' width="{image.width}" height="{image.height}">\n')
            file.writelines(_box(obj, flags) for obj in image.objects)
            file.write("  </image>\n")
        file.write("</annotations>\n")
    write_split_list(plan, folder, place)


def _subsets(plan: WritePlan) -> Iterator[tuple[int, str]]:
    """Each image, and its split as an attribute."""
    if not splits_are_usual(plan):
        yield from ((i, "") for i in range(len(plan.images)))
        return
    for split, members in plan.splits.items():
        yield from ((i, f' subset="{split}"') for i in members)


def _box(obj: RawObject, flags: list[str]) -> str:
    sides = zip(("xtl", "ytl", "xbr", "ybr"), map(number_text, obj.box), strict=True)
    box = " ".join(f'{side}="{value}"' for side, value in sides)
    marks = (f'<attribute name="{key}">{str(bool(getattr(obj, key))).lower()}</attribute>' for key in flags)
    return (
        f'    <box label={quoteattr(obj.name)} source="manual" occluded="0" {box} z_order="0">{"".join(marks)}</box>\n'
    )

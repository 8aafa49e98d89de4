"""A project of VIA 3 as the images and regions of VIA 2, which `via` reads.

Source: gitlab.com/vgg/via, via-3.x.y/CodeDoc.md: `_VIA_RSHAPE`, `_via_metadata` and `_via_file`.
"""

from __future__ import annotations

import logging
from typing import Any

from singleshot.errors import printable

logger = logging.getLogger(__name__)

_IMAGE = 2  # _VIA_FILE_TYPE
# Shape ids -> VIA 2's name, and the keys of the numbers after the id. The rest is a list of points: lines, polylines
# and the four outermost points of a rectangle are taken by what surrounds them.
_NUMBERED: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
}
_POINTS = {5: "polyline", 6: "polyline", 7: "polygon", 8: "polyline"}


def is_project(content: object) -> bool:
    """Whether the content of a JSON is a project of VIA 3."""
    keys = ("project", "file", "view", "metadata")
    return isinstance(content, dict) and all(isinstance(content.get(key), dict) for key in keys)


def to_via2(content: dict[str, Any], path: str) -> list[dict[str, Any]]:
    """The images of a project with their regions, as VIA 2 writes them; what is wrong is left for its reader to find.
    Marks of whole files and of parts of videos are no regions."""
    attributes = content.get("attribute")
    attributes = attributes if isinstance(attributes, dict) else {}
    images: dict[str, dict[str, Any]] = {}
    for ident, view in content["view"].items():
        file = _file_of(view, content["file"])
        if file is not None and file.get("type", _IMAGE) == _IMAGE:
            images[ident] = {"filename": file.get("fname") or file.get("src"), "regions": []}
    passed = 0
    for item in content["metadata"].values():
        ident = item.get("vid") if isinstance(item, dict) else None
        xy = item.get("xy") if isinstance(item, dict) else None
        if not isinstance(ident, str) or ident not in images or xy == [] or item.get("z"):
            passed += 1
            continue
        region = {"shape_attributes": _shape(xy), "region_attributes": _attributes(item.get("av"), attributes)}
        images[ident]["regions"].append(region)
    if passed:
        logger.warning("%s: marks that are no region of an image are passed over: %d", printable(path), passed)
    return list(images.values())


def _file_of(view: Any, files: dict[str, Any]) -> dict[str, Any] | None:
    """The first file of a view."""
    listed = view.get("fid_list") if isinstance(view, dict) else None
    first = listed[0] if isinstance(listed, list) and listed else None
    file = files.get(str(first)) if isinstance(first, str | int) else None
    return file if isinstance(file, dict) else None


def _shape(xy: Any) -> Any:
    """The shape of [id, numbers...]; the value itself where it is none, which is refused as such."""
    kind = xy[0] if isinstance(xy, list) and xy else None
    if not isinstance(kind, int):
        return xy
    if kind in _POINTS:
        return {"name": _POINTS[kind], "all_points_x": xy[1::2], "all_points_y": xy[2::2]}
    if kind not in _NUMBERED:
        return {"name": f"shape {kind}" if 0 <= kind < 100 else "an unknown shape"}
    name, keys = _NUMBERED[kind]
    return {"name": name, **dict(zip(keys, xy[1:], strict=False))}


def _attributes(values: Any, attributes: dict[str, Any]) -> dict[str, Any]:
    """Names and values of a region's attributes; of a choice its text."""
    found: dict[str, Any] = {}
    for ident, value in values.items() if isinstance(values, dict) else ():
        about = attributes.get(ident)
        name = about.get("aname") if isinstance(about, dict) else None
        options = about.get("options") if isinstance(about, dict) else None
        chosen = options.get(value, value) if isinstance(options, dict) and isinstance(value, str) else value
        found[name if isinstance(name, str) and name.strip() else ident] = chosen
    return found

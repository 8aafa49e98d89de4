"""What --classes says: a subset, an order, a mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from singleshot.api.class_names import read_classes, read_groups
from singleshot.class_selection import ClassSelection, select_classes
from singleshot.errors import ConfigError, DataError

KNOWN = ("car", "truck", "person", "traffic light", "red, round", "a=b")
CASES: list[tuple[Any, dict[str, list[str]]]] = [
    ("person,car", {"person": ["person"], "car": ["car"]}),
    (" person , traffic light ", {"person": ["person"], "traffic light": ["traffic light"]}),
    ("car,truck=vehicle", {"vehicle": ["car", "truck"]}),
    (["person", "truck, car = vehicle"], {"person": ["person"], "vehicle": ["truck", "car"]}),
    (["car=vehicle", "truck=vehicle"], {"vehicle": ["car", "truck"]}),
    ("red, round", {"red, round": ["red, round"]}),
    ("red, round=ball", {"ball": ["red, round"]}),
    ("a=b", {"a=b": ["a=b"]}),
    ("a=b=c", {"c": ["a=b"]}),
    ("truck=car", {"car": ["truck", "car"]}),  # what is called so already belongs to it
    (["truck=car", "car=truck"], {"car": ["truck"], "truck": ["car"]}),
    (["car", "truck=car"], {"car": ["car", "truck"]}),
    ({"vehicle": ["car", "truck"], "who": ["person"]}, {"vehicle": ["car", "truck"], "who": ["person"]}),
]


@pytest.mark.parametrize(("wanted", "groups"), CASES, ids=lambda value: str(value)[:40])
def test_what_is_selected(wanted: Any, groups: dict[str, list[str]]) -> None:
    selection = select_classes(read_groups(wanted), KNOWN, "data")
    assert list(selection.to_dict().items()) == list(groups.items())
    assert ClassSelection.from_dict(selection.to_dict()) == selection
    assert select_classes(selection.to_dict(), KNOWN, "data") == selection


MISTAKES = [
    ("cra", "no class of data, which has car, truck, .*did you mean car?"),
    ("CAR", "did you mean car?"),
    ("lists/mine.txt", "no such file, and no class of data"),
    ("car,,person", "an empty name"),
    ("car,", "an empty name"),
    ("=vehicle", "want OLD,OLD=NEW"),
    ("car=", "want OLD,OLD=NEW"),
    ("car=vehicle=thing", "want OLD,OLD=NEW"),
    ("car=vehicle,person", "other classes in a --classes of their own"),
    ("car,car", "names 'car' twice"),
    (["car=vehicle", "car"], "names 'car' twice"),
    ("", "names no class"),
    (" , ", "names no class"),
    ([], "names no class"),
    ([3], "want texts"),
    (3, "want texts"),
    ({}, "want new names"),
    ({"vehicle": []}, "want a list of old names"),
    ({"vehicle": "car"}, "want a list of old names"),
    ({"vehicle": ["bus"]}, "no class of data"),
]


@pytest.mark.parametrize(("wanted", "says"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_are_one_line(wanted: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        select_classes(read_groups(wanted), KNOWN, "data")
    assert "\n" not in str(caught.value)


def test_a_file_has_a_group_in_each_line(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("person\n\ncar, truck = vehicle\nred, round\n", encoding="utf-16")
    groups = {"person": ["person"], "vehicle": ["car", "truck"], "red, round": ["red, round"]}
    assert select_classes(read_groups(str(path)), KNOWN, "data").to_dict() == groups
    assert read_groups(path) == read_groups([path]) == read_groups(str(path))
    both = select_classes(read_groups([str(path), "a=b"]), KNOWN, "data")
    assert both.names == (*groups, "a=b")
    new: list[str] = []
    assert read_classes(str(path), new_names=new) == ("person", "car", "truck", "red, round")
    assert new == ["vehicle"]
    assert read_classes(str(path)) == ("person", "car, truck = vehicle", "red, round")
    path.write_bytes("größe".encode("cp1252"))
    with pytest.raises(DataError, match="is not UTF-8"):
        read_groups(str(path))
    path.write_bytes(b"\n\n")
    with pytest.raises(ConfigError, match="names no class"):
        read_groups(str(path))


def test_long_lists_are_no_paths() -> None:
    names = [f"class number {i}" for i in range(500)]
    assert select_classes(read_groups(",".join(names)), names, "data").names == tuple(names)

"""Which classes are wanted, in which order, and which of them count as one: what --classes says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from singleshot.errors import ConfigError, did_you_mean, printable

# As texts ("a,b", "car,truck=vehicle"), or new name -> the names that become it.
Classes = str | os.PathLike[str] | Sequence[str] | Mapping[str, Sequence[str]]

OPTION = "--classes"
_SHOWN = 20  # names in a message


class ClassGroup(NamedTuple):
    """A class, and what it is called in the data or the model that it is taken from; several names become one class."""

    name: str
    members: tuple[str, ...]


class ClassSelection(NamedTuple):
    """The classes that are wanted, in their new order; each old name is in one group at most."""

    groups: tuple[ClassGroup, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes by their new label."""
        return tuple(group.name for group in self.groups)

    @property
    def members(self) -> tuple[str, ...]:
        """All old names."""
        return tuple(member for group in self.groups for member in group.members)

    @property
    def renames(self) -> bool:
        """Whether a class has another name than before."""
        return any(group.members != (group.name,) for group in self.groups)

    def labels(self) -> dict[str, int]:
        """Old name -> new label. What is called by a new name already belongs to it, unless it is to become another."""
        new = {name: label for label, name in enumerate(self.names)}
        return new | {member: label for label, group in enumerate(self.groups) for member in group.members}

    def labels_of(self, known: Sequence[str]) -> tuple[int, ...]:
        """The new label of each of these old classes, -1 for those that are left out."""
        labels = self.labels()
        return tuple(labels.get(name, -1) for name in known)

    def to_dict(self) -> dict[str, list[str]]:
        """Plain values: new name -> old names, in order."""
        return {group.name: list(group.members) for group in self.groups}

    @classmethod
    def from_dict(cls, values: object) -> ClassSelection:
        """Inverse of `to_dict`. Raises ConfigError for anything else."""
        if not isinstance(values, Mapping) or not values:
            raise ConfigError(f"classes {printable(values, 60)}: want new names, each with a list of old ones")
        groups = []
        for name, members in values.items():
            listed = isinstance(members, list | tuple) and all(isinstance(one, str) and one for one in members)
            if not isinstance(name, str) or not name or not members or not listed:
                raise ConfigError(f"classes: {printable(name, 60)!r}: want a list of old names for each new one")
            groups.append(ClassGroup(name, tuple(members)))
        _refuse_doubled([member for group in groups for member in group.members])
        return cls(tuple(groups))

    def summary(self) -> str:
        """ "person, vehicle (car, truck)"."""
        return list_names(
            [
                group.name if group.members == (group.name,) else f"{group.name} ({', '.join(group.members)})"
                for group in self.groups
            ]
        )


def select_classes(wanted: Classes, known: Sequence[str], where: str) -> ClassSelection:
    """What is asked for, as the classes that are there fulfil it.

    A text is the name of a class that is there, or some of them ("a,b,c"), or some that become one
    ("car,truck=vehicle"). What has the new name already belongs to it, unless it becomes another.

    Args:
        wanted: See Classes. What comes twice as a new name is one class.
        known: The classes that are there.
        where: What has them, for messages.

    Raises:
        ConfigError: A name is not known, empty or there twice.
    """
    there = set(known)
    if isinstance(wanted, Mapping):
        groups = list(ClassSelection.from_dict(wanted).groups)
    else:
        groups = [group for text in class_texts(wanted) for group in _groups_of(text, there)]
    if not groups:
        raise ConfigError(f"{OPTION}: names no class; want some of {list_names(known)}")
    _refuse_doubled([member for group in groups for member in group.members])
    taken = {member for group in groups for member in group.members}
    joined: dict[str, list[str]] = {}
    for name, members in groups:
        for member in members:
            if member not in there:
                raise ConfigError(_unknown(member, known, where))
        joined.setdefault(name, []).extend(members)
    return ClassSelection(
        tuple(
            ClassGroup(name, (*members, name) if name in there and name not in taken else tuple(members))
            for name, members in joined.items()
        )
    )


def class_texts(given: Classes) -> tuple[str, ...]:
    """The texts that were given, a path as text. Raises ConfigError for anything else."""
    one = isinstance(given, str | os.PathLike)
    texts: list[Any] = [given] if one else list(given) if isinstance(given, Iterable) else [None]
    if not all(isinstance(text, str | os.PathLike) for text in texts):
        raise ConfigError(f"classes {printable(given, 60)}: want texts such as 'a,b' or 'car,truck=vehicle'")
    return tuple(os.fspath(text) for text in texts)


def list_names(names: Sequence[str]) -> str:
    """ "a, b and 3 more", for messages."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name, 60) for name in names[:_SHOWN]) + more if names else "none"


def _groups_of(text: str, there: set[str]) -> list[ClassGroup]:
    text = text.strip()
    if text in there:  # a name may hold commas and more
        return [ClassGroup(text, (text,))]
    old, equals, new = (part.strip() for part in text.rpartition("="))
    if not equals:
        return [ClassGroup(name, (name,)) for name in _split(text, text)]
    if not old or not new or "," in new or ("=" in old and old not in there):
        raise ConfigError(f"{OPTION} {printable(text)!r}: want OLD,OLD=NEW; other classes in a {OPTION} of their own")
    return [ClassGroup(new, (old,) if old in there else _split(old, text))]


def _split(text: str, whole: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        what = "names no class" if not any(parts) else "an empty name between commas"
        raise ConfigError(f"{OPTION} {printable(whole)!r}: {what} (want a,b,c or OLD,OLD=NEW)")
    return parts


def _refuse_doubled(members: Sequence[str]) -> None:
    seen: set[str] = set()
    for member in members:
        if member in seen:
            raise ConfigError(f"{OPTION}: names {printable(member, 60)!r} twice; name each class once")
        seen.add(member)


def _unknown(name: str, known: Sequence[str], where: str) -> str:
    file = "no such file, and " if "/" in name or name.lower().endswith(".txt") else ""
    hint = did_you_mean(name, known)
    return f"{OPTION} {printable(name, 60)!r}: {file}no class of {where}, which has {list_names(known)}{hint}"

"""CSV files with one row for each box: TensorFlow's, keras-retinanet's, Roboflow's, OpenImages' and what is like them.

Columns are known by their header in any order, or, without one, are keras-retinanet's `path,x1,y1,x2,y2,class`. Pixels
are continuous and in corner form: nothing is subtracted. Empty coordinates and class say an image without objects.
OpenImages' boxes are parts of the image, its images are named without their endings.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import compress
from typing import NamedTuple

from singleshot.datasets.findings import CollectErrors, RaiseErrors
from singleshot.datasets.raw import RawImage, RawSet
from singleshot.datasets.readers.common import (
    MADE_SPLITS,
    ONLY_CLASS,
    UniqueImages,
    divide,
    find_images,
    images_by_stem,
    say_parts,
    shorten_idents,
    without_repeated,
)
from singleshot.datasets.readers.csv_columns import PLAIN, sniff_columns
from singleshot.datasets.readers.csv_layout import HEAD_BYTES, CsvFile, csv_files, files_of, set_apart
from singleshot.datasets.readers.csv_rows import (
    CsvImage,
    CsvTable,
    open_rows,
    read_table,
    scan_column,
    split_name,
    without_gc,
)
from singleshot.datasets.readers.image_finder import NamedImages, last_parts
from singleshot.datasets.readers.several_sets import NamedFile, refuse_several
from singleshot.datasets.splits import (
    KNOWN_SPLITS,
    SPLIT_ALIASES,
    are_parts,
    left_for_train,
    resolve_split,
    say_held_back,
    usual_split,
)
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import is_image
from singleshot.text import decode_text

logger = logging.getLogger(__name__)

MAX_LIST_BYTES = 16 * 2**20

_DESCRIPTIONS = "class-descriptions"  # in the name of OpenImages' file of codes and names


class _Group(NamedTuple):
    """The images of one split in one file; own: the split that the file itself is, "" where a column says it."""

    split: str
    own: str
    file: CsvFile
    images: list[tuple[str, CsvImage]]
    relative: bool


# ---------------------------------------------------------------------------------------------- files


def sniff(tree: Tree) -> bool:
    """Whether it is a folder with such CSV files."""
    return bool(csv_files(tree))


def splits(tree: Tree, file: str = "") -> tuple[str, ...]:
    """Names of the splits: those of a split column, of the files, or made; a named file is one without a column."""
    files = set_apart(tree, files_of(tree, file))[0]
    columns = [dict.fromkeys(scan_column(tree, one.name, one.columns, one.columns.split)) for one in files]
    if _is_undivided(files, file, any(any(t) for t in columns)):
        return MADE_SPLITS
    names: list[str] = []
    for one, values in zip(files, columns, strict=True):
        names += [split_name(v) for v in values if v.strip()] or [_own_split(one, names)]
    return tuple(dict.fromkeys(names))


def line_of(data: bytes, number: int) -> int | None:
    """The line on which data row `number` stands."""
    columns = sniff_columns(data[:HEAD_BYTES])
    if columns is None:
        return None
    lines = data.decode(*columns.encoding).splitlines(keepends=True)
    try:
        reader, before, rows = csv.reader(lines, delimiter=columns.delimiter), 0, -int(columns.header)
        for row in reader:
            if row and rows == number:
                return before + 1
            rows, before = rows + bool(row), reader.line_num
    except csv.Error:
        return None
    return None


def _own_split(file: CsvFile, taken: Iterable[str]) -> str:
    """What the images of a file without a split column are called; files of one split by their whole names."""
    name = file.split or file.tag
    return name if name not in taken else file.name[:-4]


def _is_undivided(files: list[CsvFile], named: str, has_column: bool, wanted: str | None = None) -> bool:
    """Whether one file, or parts of one set of which none is wanted, say no split."""
    is_one = len(files) == 1 or (are_parts([file.name for file in files]) and wanted not in [f.tag for f in files])
    return not named and is_one and not any(file.split for file in files) and not has_column


# ---------------------------------------------------------------------------------------------- reading


def read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
    """Read a folder's CSV files, or the one `file` of it: the split `wanted`, or all of them.

    A named file without a split column is one split, whatever is wanted. Class names are those of classes.txt or
    classes.csv, else the sorted names over all splits, so that train and val agree.
    """
    with without_gc():
        return _read(tree, file, wanted, problems)


def _read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
    files, whole = set_apart(tree, files_of(tree, file))
    for one in whole:
        why = "its images are those of the files of splits"
        if not any(file.split for file in files):
            why = f"its rows are all in {printable(files[0].name, 80)}"
        message = f"says no split, and {why}: it is not read; name it to read it"
        problems.add("labels-unread", tree.path(one.name), message)
    declared = _declared(tree, files, problems)
    tables = [
        read_table(tree, one.name, one.columns, _descriptions(tree, one, problems), declared, problems) for one in files
    ]
    tables = _name_alike(files, tables)
    for i, one in enumerate(files):
        if one.is_rest:
            tables[i] = _left_for_train(tree, one, tables[i], [t for t in tables if t is not tables[i]], problems)
    refuse_several(
        tree.root,
        "CSV",
        [
            NamedFile(one.name, "" if table.has_splits else one.split, set(table.images), set(table.names))
            for one, table in zip(files, tables, strict=True)
        ],
    )
    _say_assumed(tree, files, tables, problems)
    divided = any(table.has_splits for table in tables)
    made = _is_undivided(files, file, divided, wanted)
    if made:
        say_parts(tree, [one.name for one in files], problems)
    groups = _groups(files, tables)
    if file and not divided and wanted is not None:
        groups = [groups[0]._replace(split=wanted)]
    elif wanted is not None and not made:
        groups = _choose(tree, groups, wanted)
    used = cache(lambda: last_parts(name for table in tables for name in table.images))
    images, splits_of = _gather(tree, groups, used, problems, made)
    again = {group.split: group.file.split for group in groups if group.own and group.own != group.split}
    splits_of = without_repeated(splits_of, again, tree.root, problems)
    if made:
        splits_of = divide(tree, [image.path for image in images], wanted)
    names = declared or tuple(sorted({name for table in tables for name in table.names}))
    source = tree.path(files[0].name) if len(files) == 1 else tree.root
    return RawSet("csv", source, names, images, splits_of, made=made, declared=bool(declared))


def _name_alike(files: list[CsvFile], tables: list[CsvTable]) -> list[CsvTable]:
    """With the class of the other files for objects of those without a column of classes, where it is only one."""
    alike = [one.columns.name < 0 and not one.columns.only for one in files]
    named = {name for table, yes in zip(tables, alike, strict=True) if not yes for name in table.names}
    if len(named) != 1:
        return tables
    for image in (image for table in compress(tables, alike) for image in table.images.values()):
        image.objects[:] = [obj._replace(name=min(named)) for obj in image.objects]
    return [table._replace(names=[*named]) if yes else table for table, yes in zip(tables, alike, strict=True)]


def _left_for_train(
    tree: Tree, file: CsvFile, table: CsvTable, others: list[CsvTable], problems: RaiseErrors
) -> CsvTable:
    names = list(table.images)
    left = [names[at] for at in left_for_train(names, [name for other in others for name in other.images])]
    if len(left) < len(names):
        problems.add("labels-unread", tree.path(file.name), say_held_back(len(names) - len(left)))
    return table._replace(images={name: table.images[name] for name in left})


def _say_assumed(tree: Tree, files: list[CsvFile], tables: list[CsvTable], problems: RaiseErrors) -> None:
    for file, table in zip(files, tables, strict=True):
        path = tree.path(file.name)
        if not file.columns.header:
            taken = f"image, xmin, ymin, xmax, ymax, class{', width, height' * (file.columns.width >= 0)}"
            if file.columns.sized:
                taken = "class, left upper corner, width and height of the box, image, its width and height"
            message = f"has no header: its columns are taken for {taken}; add it as line 1"
            problems.add("columns-assumed", path, message, line=1)
        elif file.columns.name < 0:
            name = printable(next(iter(table.names), ONLY_CLASS), 80)
            why = ", after which the columns of its boxes are called" if file.columns.only else ""
            message = f"has no column of classes: all objects are of the class {name!r}{why}; add a column 'class'"
            problems.add("columns-assumed", path, message, line=1)
        codes = [name for name in table.names if name.startswith("/")] if file.columns.coded else []
        if codes:
            message = (
                f"names of classes are codes ({printable(codes[0], 40)}{', ...' * (len(codes) > 1)}); put OpenImages' "
                f"{_DESCRIPTIONS}-boxable.csv beside the file for their names"
            )
            problems.add("columns-assumed", path, message)


def _groups(files: list[CsvFile], tables: list[CsvTable]) -> list[_Group]:
    groups: list[_Group] = []
    for file, table in zip(files, tables, strict=True):
        if not table.has_splits:
            split = _own_split(file, [group.split for group in groups])
            groups.append(_Group(split, file.split or file.tag, file, list(table.images.items()), table.relative))
            continue
        parts: dict[str, list[tuple[str, CsvImage]]] = {}
        for key, image in table.images.items():
            if image.split:  # an image without was reported
                parts.setdefault(image.split, []).append((key, image))
        groups += [_Group(split, "", file, images, table.relative) for split, images in parts.items()]
    return groups


def _choose(tree: Tree, groups: list[_Group], wanted: str) -> list[_Group]:
    name = resolve_split(wanted, {group.split for group in groups}, tree.root)
    rivals = [group for group in groups if group.own == name]
    if len(rivals) > 1:
        rivals = [group for group in rivals if group.file.tag in (wanted, name)] or rivals
    if len(rivals) > 1:
        there = ", ".join(printable(group.file.name) for group in rivals[:8])
        raise DataError(f"{printable(tree.root)}: several files for split {printable(wanted)!r} ({there}); name one")
    return rivals or [group for group in groups if group.split == name]


def _gather(
    tree: Tree, groups: list[_Group], used: NamedImages, problems: RaiseErrors, as_one: bool
) -> tuple[list[RawImage], dict[str, list[int]]]:
    """The images that are there, each once, and which of them each split has; as_one: the groups are one split, ""."""
    unique = UniqueImages()
    splits_of: dict[str, list[int]] = {}
    for group, found in _found_images(tree, groups, used, problems):
        label = tree.path(group.file.name)
        mine: dict[str, RawImage] = {}
        for (_, image), name in zip(group.images, found, strict=True):
            if name in mine:  # another spelling of the same file
                mine[name].objects.extend(image.objects)
            elif name:
                # All of the name for now; its last part if that is enough.
                ident = name.rpartition(".")[0]
                mine[name] = RawImage(tree.path(name), ident, *image.size, image.objects, label, group.relative)
        split = "" if as_one else group.split
        splits_of.setdefault(split, []).extend(unique.place(split, mine.values()))
    unique.report(problems)
    idents = shorten_idents([image.ident for image in unique.images])
    images = [image._replace(ident=ident) for image, ident in zip(unique.images, idents, strict=True)]
    return images, splits_of


# ---------------------------------------------------------------------------------------------- classes


def _above(files: Sequence[CsvFile]) -> list[str]:
    """The folders of the files and those above them, up to the root."""
    found: list[str] = []
    for file in files:
        folder = file.name.rpartition("/")[0]
        while folder:
            found.append(folder)
            folder = folder.rpartition("/")[0]
    return list(dict.fromkeys([*found, ""]))


def _declared(tree: Tree, files: list[CsvFile], problems: RaiseErrors) -> tuple[str, ...]:
    """Names of classes.txt (one a line) or classes.csv (name,id as keras-retinanet has it); () where neither is."""
    coded = all(file.columns.coded for file in files)
    for folder in _above(files):
        for name in ("classes.txt", "classes.csv")[: 1 if coded else 2]:  # of codes it is no list, see `_descriptions`
            if tree.names(folder).get(name) is not False:
                continue
            path = join(folder, name)
            where = tree.path(path)
            try:
                text = decode_text(tree.read(path, MAX_LIST_BYTES, "class list"), where)
                names = _listed(text.splitlines(), name.endswith(".csv"))
                if not text.strip():  # an empty list says nothing
                    continue
                if len(set(names)) < len(names) or not names:
                    raise ValueError("want each name once")
            except DataError as error:
                problems.add_unreadable(where, error)
                continue
            except (ValueError, csv.Error) as error:
                message = f"is no list of classes ({printable(error, 120)}); correct or remove it"
                problems.add("annotation-unreadable", where, message)
                continue
            return tuple(names)
    return ()


def _listed(lines: list[str], numbered: bool) -> list[str]:
    if not numbered:
        return [line.strip() for line in lines if line.strip()]
    rows = [row for row in csv.reader(lines, strict=True) if row]
    if rows and not rows[0][-1].strip().isdecimal():  # a header
        rows = rows[1:]
    numbers: dict[int, str] = {}
    for row in rows:
        if len(row) != 2 or not row[1].strip().isdecimal() or int(row[1][:9]) in numbers or not row[0].strip():
            raise ValueError(f"row {','.join(row)!r}; want name,id with each id once")
        numbers[int(row[1][:9])] = row[0].strip()
    return [numbers[number] for number in sorted(numbers)]


def _descriptions(tree: Tree, file: CsvFile, problems: RaiseErrors) -> dict[str, str]:
    """OpenImages' code of a class -> its name, of a class-descriptions*.csv beside or above, or as FiftyOne has it."""
    places = [place for folder in _above([file]) for place in (folder, join(folder, "metadata"))]
    for place in places if file.columns.coded else ():
        for name in tree.files(place, (".csv",)):
            if _DESCRIPTIONS not in name.lower() and name.lower() != "classes.csv":
                continue
            path = join(place, name)
            with open_rows(tree, path, ",", PLAIN, problems) as rows:
                found = {row[0].strip(): row[1].strip() for _, row in rows if len(row) >= 2 and row[1].strip()}
            if any(code.startswith("/") for code in found):
                logger.info("%s: names of classes are those of %s", printable(tree.path(file.name)), printable(path))
                return found
    return {}


# ---------------------------------------------------------------------------------------------- images


def _found_images(
    tree: Tree, groups: list[_Group], used: NamedImages, problems: RaiseErrors
) -> Iterator[tuple[_Group, list[str]]]:
    """Each group with its images' names in the tree, "" where missing; used: see `other_endings`.

    A further file none of whose images is there, next to one of a usual split whose images are, is left out with a
    note: of another time, as a.bmp for a.jpg."""
    found = []
    for group in groups:
        missing = CollectErrors(most=10**9)
        found.append((group, _find_images(tree, group, missing), missing))
    usual = any(usual_split(group.split) and any(names) for group, names, _ in found)
    for group, names, missing in found:
        if usual and not usual_split(group.split) and not any(names):
            message = f"none of its {len(names)} images is there, it is not read; add them, or remove the file"
            problems.add("labels-unread", tree.path(group.file.name), message)
            continue
        yield group, _find_images(tree, group, problems, used) if missing.findings else names


def _find_images(tree: Tree, group: _Group, problems: RaiseErrors, used: NamedImages | None = None) -> list[str]:
    """Names in the tree of the files, "" where missing; those with another ending where it is known which are used."""
    parent, split, bare = group.file.name.rpartition("/")[0], group.split, group.file.columns.bare
    tags = dict.fromkeys((split, *SPLIT_ALIASES.get(split, ()), split.lower()))
    places = [parent, "images", *(f"images/{tag}" for tag in tags), *tags, "JPEGImages", "data", ""]
    if bare:
        places += [*KNOWN_SPLITS, *(f"images/{known}" for known in KNOWN_SPLITS)]

    def find(place: str, name: str) -> str | None:
        if bare:
            name = min(images_by_stem(tree, place).get(name, [name]))
        # As written; with Windows' separators; with blanks around it.
        for spelling in dict.fromkeys((name, name.replace("\\", "/"), name.strip())):
            there = tree.find(place, spelling)
            if there is not None:
                return there if is_image(there) else None
        return None

    wanted = [(name, image.line) for name, image in group.images]
    return find_images(tree, group.file.name, wanted, places, find, problems, used is not None, used)

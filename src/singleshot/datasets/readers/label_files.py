"""What forms have in common whose label files each hold many images: which files those are, their splits, their images.

A form is a `LabelForm`: how its files are recognised and parsed. The files lie in the root, in annotations/ or labels/,
or in the folders of the splits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import NamedTuple

from singleshot.datasets.findings import CollectErrors, RaiseErrors
from singleshot.datasets.raw import Notation, RawImage, RawObject, RawSet, show_corners
from singleshot.datasets.readers.common import (
    MADE_SPLITS,
    ONLY_CLASS,
    UniqueImages,
    divide,
    images_by_stem,
    parse_json,
    shorten_idents,
)
from singleshot.datasets.readers.image_finder import ImageFinder, NamedImages, last_parts, other_endings, say_ending
from singleshot.datasets.readers.own_lists import listed_splits, read_class_list, read_split_lists
from singleshot.datasets.readers.several_sets import NamedFile, refuse_several
from singleshot.datasets.splits import (
    left_for_train,
    name_train,
    resolve_split,
    say_held_back,
    usual_split,
    with_numbered,
    word_split,
)
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import is_image

logger = logging.getLogger(__name__)

# The first bytes of a file, by which it is recognised.
PEEK_BYTES = 1 << 16
MAX_LABEL_BYTES = 2 * 2**30
_FEW, _FOLDERS, _FEW_IMAGES = 20, 200, 10_000
_LABEL_FOLDERS = ("annotations", "labels")
_WITHOUT_SPLIT = "default"  # CVAT's name for what is in no subset


class ListedImage(NamedTuple):
    """One image as a label file lists it. names: what it may be called, the likeliest first; item: what messages call
    it; split: as written, "" where the file says none; line: in that file, from 1, where it is known; embedded: the
    path of an image that lies in the label file itself; relative: boxes are parts of the image."""

    names: tuple[str, ...]
    item: str
    objects: list[RawObject]
    width: int = 0
    height: int = 0
    split: str = ""
    line: int | None = None
    embedded: str = ""
    relative: bool = False


class ParsedFile(NamedTuple):
    """A label file: its images, and its own list of classes, () where it has none; is_unnamed: it names the class of
    no object."""

    images: list[ListedImage]
    classes: tuple[str, ...] = ()
    is_unnamed: bool = False


class LabelFile(NamedTuple):
    """One label file: its name, the split that its folder or name says ("" for none), what that is called there;
    is_rest: train is what of it the other files do not have."""

    name: str
    split: str
    tag: str
    is_rest: bool = False


class UnreadableFileError(DataError):
    """A label file of which nothing can be used; an entry that cannot be is reported, and the others are read."""


class _Group(NamedTuple):
    """Images of one split in one file."""

    split: str
    file: LabelFile
    images: list[ListedImage]


def show_tagged(obj: RawObject) -> str:
    """An object by its tag, which says image and place, and its class."""
    return f"{obj.tag} ({obj.name})"


TAGGED = Notation(show_tagged, show_corners)


@dataclass(frozen=True)
class LabelForm:
    """A form of label files that hold many images each.

    form, about: its names in `FORMATS` and for people; suffixes: of its files; is_one(first bytes): whether a file is
    of it; parse(data, path, problems): what it holds, UnreadableFileError where the whole cannot be read;
    has_subsets: images say their splits themselves; notation: for messages.
    """

    form: str
    about: str
    suffixes: tuple[str, ...]
    is_one: Callable[[bytes], bool]
    parse: Callable[[bytes, str, RaiseErrors], ParsedFile]
    has_subsets: bool = False
    notation: Notation = TAGGED

    def sniff(self, tree: Tree) -> bool:
        """Whether such files lie here, or in the only folder below that has them, whose images lie elsewhere."""
        if self._own_files(tree, strict=False):
            return True
        below = [folder for folder, _ in self._files_below(tree)]
        return len(below) == 1 and not any(map(is_image, islice(tree.walk(below[0], lenient=True), _FEW_IMAGES)))

    def splits(self, tree: Tree, file: str = "") -> tuple[str, ...]:
        """Names of the splits: those that images or folders say, or made; a named file without any is one split."""
        ignored = CollectErrors(0)  # the reading that follows reports
        if lists := read_split_lists(tree, ignored):
            return tuple(lists)
        files = self._files(tree, file)
        said: list[list[str]] = [[] for _ in files]
        if self.has_subsets:
            parsed = [self._parse(tree, one, ignored) for one in files]
            said = [_split_names(one, found.images if found else []) for one, found in zip(files, parsed, strict=True)]
        if _is_undivided(files, file, said):
            return MADE_SPLITS
        named = [names or [_own_split(one)] for one, names in zip(files, said, strict=True)]
        return tuple(dict.fromkeys(name for names in named for name in names))

    def read(self, tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
        """Read a folder, or the one `file` of it: the split `wanted`, or all of them.

        A named file that says no splits is one, whatever is wanted. Class names are the files' own, then all others
        sorted, over all splits, so that train and val agree.
        """
        files, lists = self._files(tree, file), read_split_lists(tree, problems)
        parsed = [self._parse(tree, one, problems) or ParsedFile([]) for one in files]
        parsed = _name_alike(tree, files, parsed, problems)
        said = [_split_names(one, found.images) for one, found in zip(files, parsed, strict=True)]
        if not lists and not any(said):
            parsed = _left_for_train(tree, files, parsed, problems)
            refuse_several(tree.root, self.about, [*map(_named, files, parsed)])
        made = not lists and _is_undivided(files, file, said)
        groups = [
            _Group(wanted if file and not names and wanted is not None else split, one, listed)
            for one, found, names in zip(files, parsed, said, strict=True)
            for split, listed in _by_split(one, found.images, names).items()
        ]
        if wanted is not None and not made and not lists:
            chosen = resolve_split(wanted, {group.split for group in groups}, tree.root)
            groups = [group for group in groups if group.split == chosen]
        finder, unique = ImageFinder(tree), UniqueImages()
        splits_of: dict[str, list[int]] = {}
        listed = [image for one in parsed for image in one.images if not image.embedded]
        used = cache(lambda: last_parts(image.names[0] for image in listed))
        for group in groups:
            there = _find_images(tree, group, finder, used, problems)
            key = "" if made else group.split
            splits_of.setdefault(group.split, []).extend(unique.place(key, there))
        unique.report(problems)
        idents = shorten_idents([image.ident.rpartition(".")[0] for image in unique.images])
        images = [image._replace(ident=ident) for image, ident in zip(unique.images, idents, strict=True)]
        if lists:
            splits_of = listed_splits(tree, lists, images, wanted, problems)
        elif made:
            splits_of = divide(tree, [image.path for image in images], wanted)
        if wanted is not None and not any(splits_of.values()):
            raise DataError(
                f"{printable(tree.root)}: split {printable(wanted)!r} has no labelled images; label some more"
            )
        own = [name for found in parsed for name in found.classes]
        classes = tuple(dict.fromkeys((*read_class_list(tree, problems), *own)))
        others = {obj.name for found in parsed for image in found.images for obj in image.objects} - set(classes)
        source = tree.path(files[0].name) if len(files) == 1 else tree.root
        order = (*classes, *sorted(others))
        return RawSet(self.form, source, order, images, splits_of, made, bool(classes), self.notation)

    def parse_file(self, tree: Tree, file: LabelFile, problems: RaiseErrors) -> ParsedFile:
        """What a file holds. Raises UnreadableFileError."""
        try:
            data = tree.read(file.name, MAX_LABEL_BYTES, "annotation")
        except DataError as error:
            raise UnreadableFileError(str(error)) from error
        return self.parse(data, tree.path(file.name), problems)

    def named(self, tree: Tree, folder: str) -> list[str]:
        """Names of the files in a folder that may be of this form."""
        return [name for name in tree.files(folder, self.suffixes) if not name.startswith(".")]

    def _parse(self, tree: Tree, file: LabelFile, problems: RaiseErrors) -> ParsedFile | None:
        try:
            return self.parse_file(tree, file, problems)
        except UnreadableFileError as error:
            problems.add_unreadable(tree.path(file.name), error)
            return None

    def _files(self, tree: Tree, file: str) -> list[LabelFile]:
        if file:
            return [_label_file(file)]
        own = self._own_files(tree, strict=True)
        at = name_train([(one.split, one.name) for one in own])
        if at is not None:
            own[at] = own[at]._replace(split="train", is_rest=True)
        return own or [one for _, files in self._files_below(tree) for one in files]

    def _own_files(self, tree: Tree, strict: bool) -> list[LabelFile]:
        """Those that belong to the folder itself: in it, in its folders of labels, in those of its splits. strict:
        DataError for one of these folders that is a link out of the tree; it tells no form otherwise."""
        special = [name for name in tree.folders() if name.lower() in _LABEL_FOLDERS or usual_split(name)]
        files = [file for folder in ("", *special) for file in self._files_in(tree, folder, strict)]
        splits = {file.name.rpartition("/")[0]: file.split for file in files if usual_split(file.tag)}
        numbered = with_numbered(splits, tree.folders(), lambda name: bool(self._files_in(tree, name, strict)))
        for folder in numbered.keys() - splits.keys():
            files += [LabelFile(file.name, numbered[folder], folder) for file in self._files_in(tree, folder, strict)]
        return files

    def _files_below(self, tree: Tree) -> list[tuple[str, list[LabelFile]]]:
        found = [(name, self._files_in(tree, name, strict=False)) for name in islice(tree.folders(), _FOLDERS)]
        return [(name, files) for name, files in found if files]

    def _files_in(self, tree: Tree, folder: str, strict: bool) -> list[LabelFile]:
        try:
            names = self.named(tree, folder)
        except DataError:
            if strict:
                raise
            return []
        # A file beside an image of its name is that image's own label, in another form.
        own = images_by_stem(tree, folder) if names else {}
        names = [name for name in names if name.rpartition(".")[0] not in own]
        first = [name for name in names[:_FEW] if self._looks_right(tree, join(folder, name))]
        if first:  # of thousands of other files only the first are looked at
            first += [name for name in names[_FEW:] if self._looks_right(tree, join(folder, name))]
        return [_label_file(join(folder, name)) for name in first]

    def _looks_right(self, tree: Tree, name: str) -> bool:
        try:
            return self.is_one(tree.read(name, PEEK_BYTES, "annotation", most=PEEK_BYTES))
        except DataError:
            return False  # whatever it is, it tells no form; what else lies there may


def load_json(data: bytes, path: str) -> object:
    """What a JSON label file holds. Raises UnreadableFileError."""
    try:
        return parse_json(data, printable(path))
    except DataError as error:
        raise UnreadableFileError(str(error)) from error


# ---------------------------------------------------------------------------------------------- splits


def _label_file(name: str) -> LabelFile:
    """The split of its folder, "train/labels.json", or the only one that its name says, "labels-train.json"."""
    folder, _, last = name.rpartition("/")
    stem = last.rpartition(".")[0] or last
    split = usual_split(folder) or word_split(stem)
    return LabelFile(name, split, folder if usual_split(folder) else stem)


def _own_split(file: LabelFile) -> str:
    return file.split or file.tag or _WITHOUT_SPLIT


def _split_names(file: LabelFile, images: Sequence[ListedImage]) -> list[str]:
    """The splits that the images of a file say; [] where none of them is a usual one."""
    said = dict.fromkeys(image.split for image in images)
    if not any(map(usual_split, said)):
        return []
    return list(dict.fromkeys(_said(image, file) for image in images))


def _said(image: ListedImage, file: LabelFile) -> str:
    return usual_split(image.split) or image.split.strip() or file.split or _WITHOUT_SPLIT


def _by_split(file: LabelFile, images: list[ListedImage], said: list[str]) -> dict[str, list[ListedImage]]:
    if not said:
        return {_own_split(file): images}
    parts: dict[str, list[ListedImage]] = {name: [] for name in said}
    for image in images:
        parts[_said(image, file)].append(image)
    return parts


def _name_alike(
    tree: Tree, files: Sequence[LabelFile], parsed: list[ParsedFile], problems: RaiseErrors
) -> list[ParsedFile]:
    """With the class of the other files for objects of those that name none, where it is only one."""
    named = {obj.name for one in parsed if not one.is_unnamed for image in one.images for obj in image.objects}
    alike = list(parsed)
    for at, (file, one) in enumerate(zip(files, parsed, strict=True)):
        path = tree.path(file.name)
        if not one.is_unnamed or not any(image.objects for image in one.images):
            continue
        if len(named) != 1:
            logger.warning("%s: names no class, all its objects are of the class %r", printable(path), ONLY_CLASS)
            continue
        (name,) = named
        images = [image._replace(objects=[obj._replace(name=name) for obj in image.objects]) for image in one.images]
        alike[at] = one._replace(images=images)
        message = f"names no class: its objects are of the class {printable(name, 80)!r}, the only one of the others"
        problems.add("columns-assumed", path, message)
    return alike


def _left_for_train(
    tree: Tree, files: Sequence[LabelFile], parsed: list[ParsedFile], problems: RaiseErrors
) -> list[ParsedFile]:
    """Without the images that files of other splits have, in the file of train that says no split."""
    at = next((at for at, file in enumerate(files) if file.is_rest), None)
    if at is None:
        return parsed
    others = [image.names[0] for one in parsed if one is not parsed[at] for image in one.images]
    images = parsed[at].images
    left = left_for_train([image.names[0] for image in images], others)
    if len(left) < len(images):
        problems.add("labels-unread", tree.path(files[at].name), say_held_back(len(images) - len(left)))
    mine = parsed[at]._replace(images=[images[i] for i in left])
    return [*parsed[:at], mine, *parsed[at + 1 :]]


def _named(file: LabelFile, found: ParsedFile) -> NamedFile:
    images = {image.embedded or image.names[0] for image in found.images}
    return NamedFile(file.name, file.split, images, {obj.name for image in found.images for obj in image.objects})


def _is_undivided(files: Sequence[LabelFile], named: str, said: Iterable[list[str]]) -> bool:
    return not named and not any(file.split for file in files) and not any(said)


# ---------------------------------------------------------------------------------------------- images


def _find_images(
    tree: Tree, group: _Group, finder: ImageFinder, used: NamedImages, problems: RaiseErrors
) -> list[RawImage]:
    """The images that are there, each once; what is labelled twice in a file has the objects of both. used: see
    `other_endings`."""
    path = tree.path(group.file.name)
    found: dict[str, RawImage] = {}
    listed = [image for image in group.images if not image.embedded]
    places, why = _look_up(tree, group.file, listed, finder)
    if "" in places and (meant := other_endings(finder, names := [image.names[0] for image in listed], places, used)):
        places = [meant.get(at, there) for at, there in enumerate(places)]
        problems.add("ending-differs", path, say_ending(meant, names))
    for image in group.images:
        if image.embedded:
            ident = f"{group.file.name}/{image.names[0]}"
            found[image.embedded] = RawImage(
                image.embedded, ident, image.width, image.height, image.objects, path, image.relative
            )
    for at, (image, there) in enumerate(zip(listed, places, strict=True)):
        if not there:
            problems.add("image-missing", path, why[at], image.item, line=image.line)
        elif there in found:
            found[there].objects.extend(image.objects)
        else:
            found[there] = RawImage(
                tree.path(there), there, image.width, image.height, image.objects, path, image.relative
            )
    return list(found.values())


def _look_up(
    tree: Tree, file: LabelFile, images: list[ListedImage], finder: ImageFinder
) -> tuple[list[str], list[str]]:
    """Where the images are, "" where missing; and what to say of each then."""
    folder = file.name.rpartition("/")[0]
    found, why = [], []
    for image in images:
        tags = dict.fromkeys(filter(None, (image.split, file.split)))
        places = [folder, join(folder, "images"), *(f"images/{tag}" for tag in tags), "images", *tags, ""]
        there, message = (
            "",
            f"image {printable(image.names[0])!r} is missing; add the file below {printable(tree.root)}",
        )
        try:
            there = next(filter(None, (finder.find(name, places) for name in image.names)), "")
        except DataError as error:
            message = f"image {error}"
        found.append(there)
        why.append(message)
    return found, why

"""Where a YOLO data set has its images, labels and class names: data.yaml, the usual folders, Darknet's lists.

Nothing is taken from outside the folder, whatever a path in a yaml or a list says: exporters write absolute paths and
"../train/images" for what lies beside the yaml, so what such a path ends in is looked for inside.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from singleshot.datasets.findings import CollectErrors, RaiseErrors
from singleshot.datasets.readers.common import images_by_stem, spread
from singleshot.datasets.readers.unread_forms import is_unread_text
from singleshot.datasets.readers.yolo_darknet import all_entries
from singleshot.datasets.readers.yolo_pairs import (
    MAX_NAMES_BYTES,
    NAME_FILES,
    pair_of,
    paired_label,
    splits_of_pairs,
    starts_with_numbers,
)
from singleshot.datasets.readers.yolo_places import MAX_PARTS, Place, split_path
from singleshot.datasets.readers.yolo_yaml import (
    check_names,
)
from singleshot.datasets.splits import KNOWN_SPLITS, role, split_of, with_numbered
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import is_image
from singleshot.text import decode_text

MAX_LIST_BYTES = 256 * 2**20
_LISTS = ("train.txt", "val.txt", "valid.txt", "test.txt")
_IMAGES, _LABELS = "images", "labels"
_IMAGE_FOLDERS = (_IMAGES, "image", "imgs", "img")
_DATA = ("data", "dataset", "obj")
_LABEL_FOLDERS = (_LABELS, "label", "annotations", "annotation")
_MAX_PATH = 4096  # more than any path has; ends the search through a hostile one
_FEW, _PEEKED = 100, 5
_DEEP = 5  # folders below that of a split
_OUTNUMBERED = 10  # so many times as many labels of other forms: those of this one are not what the set is


class Layout(NamedTuple):
    """splits: name -> places, {"": places} where there are none; broken: split -> what is wrong with its places;
    class_names: the declared ones, None if there are none; declared_in: the file that has them; yaml: its name or "";
    keypoints: numbers that follow the box in each row; first: the number of the first class, None where unsaid;
    notes: kind and message of what is not as the yaml says, or as usual."""

    splits: dict[str, list[Place]]
    broken: dict[str, str]
    class_names: tuple[str, ...] | None
    declared_in: str
    yaml: str
    keypoints: int
    first: int | None
    notes: tuple[tuple[str, str], ...] = ()


class Lists(NamedTuple):
    """What Darknet's description says: split -> list of images, {} for none; the list of names, "" for none; whether
    it gives train's list for another split too, which is none."""

    splits: dict[str, str]
    names: str = ""
    repeats: bool = False


# ---------------------------------------------------------------------------------------------- folders and lists


def plain_splits(tree: Tree, darknet: Lists | None = None) -> dict[str, list[Place]]:
    """Splits by lists or folders alone; {"": ...} for images without splits; {} where nothing is labelled. darknet:
    what `described_lists` says, where that is known already."""
    lists = (darknet or described_lists(tree)).splits or {
        name[:-4]: name for name in _LISTS if _is_image_list(tree, name)
    }
    if lists:
        return {split: [Place(name, listed=True)] for split, name in lists.items()}
    if images := labelled(tree, ""):
        folders = _split_folders(tree, images)
        pairs = {} if folders else splits_of_pairs(tree, besides=images)
        return folders or ({"train": [Place(images)], **pairs} if pairs else {"": [Place(images)]})
    inside = _split_folders(tree, _IMAGES)
    beside = {split: places for split, places in inside.items() if has_labels_beside(tree, places[0].name)}
    if beside:
        return beside
    if has_labels_beside(tree, _IMAGES):
        return {"": [Place(_IMAGES)]}
    splits = {}
    for split, (place,) in _split_folders(tree, "").items():
        if images := labelled(tree, place.name):
            splits[split] = [Place(images)]
        elif has_labels_beside(tree, place.name):
            splits[split] = [Place(place.name, deep=False)]
        elif parts := _labelled_parts(tree, place.name):
            splits[split] = [Place(part, deep=False) for part in parts]
    if splits:
        return splits
    if has_labels_beside(tree, ""):
        return {"": [Place("", deep=False)]}
    # Darknet's: obj.names, and images with their labels in data/ or obj/.
    named = any(name in NAME_FILES for name in tree.files())
    beside_each = [Place(name) for name in islice(tree.open_folders(), _FEW) if named and has_labels_beside(tree, name)]
    if beside_each:
        return {"": beside_each}
    # Label Studio's: classes.txt, and the splits in data/.
    for name in tree.open_folders() if named else ():
        below = plain_splits(tree.below(name)) if name.lower() in _DATA else {}
        if below:
            return {
                split: [place._replace(name=join(name, place.name)) for place in places]
                for split, places in below.items()
            }
    return splits_of_pairs(tree)


def _labelled_parts(tree: Tree, folder: str) -> list[str]:
    """The folders below one whose images have labels next to them: "train/0" and "train/1"."""
    return [part for part in tree.with_below(folder, _DEEP) if part != folder and has_labels_beside(tree, part)]


def _split_folders(tree: Tree, folder: str) -> dict[str, list[Place]]:
    """Sub-folders that are splits by their names, with a year or without."""
    found: dict[str, list[Place]] = {}
    for name in tree.folders(folder):
        split = split_of(name)
        if split in KNOWN_SPLITS and split != "unlabeled":
            found.setdefault(split, []).append(Place(join(folder, name)))
    if any(len(places) > 1 for places in found.values()):  # train2014 and train2017
        return {place.name.rpartition("/")[2]: [place] for places in found.values() for place in places}
    named = {place.name.rpartition("/")[2]: split for split, (place,) in found.items()}
    numbered = with_numbered(
        named, tree.folders(folder), lambda name: any(map(is_image, tree.walk(join(folder, name))))
    )
    return {split: [Place(join(folder, name))] for name, split in numbered.items()}


def labelled(tree: Tree, folder: str) -> str:
    """The folder images/ (image/, imgs/, img/) of a folder where it has an image in it or below, and labels/ or
    annotations/ has a .txt (of numbers, where it is not called labels); "" otherwise. Letter case does not matter."""
    images = next((name for name in tree.folders(folder) if name.lower() in _IMAGE_FOLDERS), "")
    labels = label_folders(tree, folder) if images else []
    if not labels or not any(is_image(name) for name in tree.walk(join(folder, images))):
        return ""
    for place in labels:
        texts = [name for name in tree.walk(place) if name.lower().endswith(".txt")]
        own = [name for name in spread(texts, _FEW) if name.rpartition("/")[2] not in NAME_FILES]
        if any(starts_with_numbers(tree, name) for name in own):
            return join(folder, images)
        if own and place.endswith(_LABELS) and not any(is_unread_text(tree, name) for name in own[:_PEEKED]):
            return join(folder, images)
    return ""


def label_folders(tree: Tree, folder: str) -> list[str]:
    """Folders of labels beside images/, labels/ itself first."""
    names = [name for name in tree.folders(folder) if name.lower() in _LABEL_FOLDERS]
    return [join(folder, name) for name in sorted(names, key=lambda name: (name != _LABELS, name))]


def has_labels_beside(tree: Tree, folder: str) -> bool:
    """Whether an image in the folder has a .txt next to it whose first line is five numbers or more; not where that
    is one of few among labels in XML or JSON."""
    texts = tree.files(folder, (".txt",))
    images = images_by_stem(tree, folder) if texts else {}
    own = [name for name in texts if name[:-4] in images]
    others = {name.rpartition(".")[0] for name in tree.files(folder, (".xml", ".json"))} if own else set()
    if _OUTNUMBERED * len(own) < len(others & images.keys()):
        return False
    return any(starts_with_numbers(tree, join(folder, name)) for name in spread(own, _FEW))


def described_lists(tree: Tree) -> Lists:
    """Of a description whose train is there, with lists of other splits that it does not mention and that lie next to
    it. Of descriptions that say different things none counts."""
    found = []
    for folder, entries, names in all_entries(tree):
        there = {split: find_listed(tree, folder, value) for split, value in entries.items()}
        lists = {split: file for split, file in there.items() if file and _is_image_list(tree, file)}
        if "train" in lists:
            own = {split: file for split, file in lists.items() if split == "train" or file != lists["train"]}
            found.append(Lists(own, find_listed(tree, folder, names) or "", len(own) < len(lists)))
    if not found or any(one != found[0] for one in found[1:]):
        return Lists({})
    lists = found[0].splits
    for name in (join(lists["train"].rpartition("/")[0], last) for last in _LISTS):
        split = role(name.rpartition("/")[2][:-4])
        if split not in lists and name not in lists.values() and _is_image_list(tree, name):
            lists[split] = name
    return found[0]


def _is_image_list(tree: Tree, name: str) -> bool:
    """Whether it is there and one of its first lines names an image of this folder that has a label file."""
    folder, _, last = name.rpartition("/")
    if last not in tree.files(folder) or last.rpartition(".")[0] in images_by_stem(tree, folder):
        return False
    first = islice((line for _, line in _lines(tree, name) if line), _FEW)
    darknet = _darknet_folders(tree)
    found = (find_listed(tree, folder, line, darknet) for line in first if is_image(line))
    return any(image is not None and label_of(tree, image) is not None for image in found)


def _lines(tree: Tree, name: str) -> Iterator[tuple[int, str]]:
    text = decode_text(tree.read(name, MAX_LIST_BYTES, "list of images"), tree.path(name), paths=True)
    for number, line in enumerate(io.StringIO(text), 1):
        yield number, line.strip()


def images_of(tree: Tree, split: str, places: list[Place], problems: RaiseErrors) -> list[str]:
    """Names of the images of a split, relative to the root, each once: in a list's order, and sorted in folders."""
    found: dict[str, None] = {}
    for place in places:
        if place.listed:
            found.update(dict.fromkeys(_listed_images(tree, place.name, problems)))
            continue
        try:
            inside = tree.walk(place.name) if place.deep else (join(place.name, n) for n in tree.files(place.name))
            names = sorted(name for name in inside if is_image(name) and not name.rpartition("/")[2].startswith("."))
        except DataError as error:
            problems.add("split-unusable", tree.root, f"split {printable(split or 'all')!r}: {error}")
            continue
        for name in names:
            try:  # links that lead out are told here
                tree.find("", name)
                found[name] = None
            except DataError as error:
                problems.add("image-missing", tree.root, f"image {error}")
    return list(found)


def is_labelled(tree: Tree, place: Place) -> bool:
    """Whether one of the images of a place has a label file; True where that cannot be seen, which reading says."""
    folder = place.name.rpartition("/")[0]
    try:
        if place.listed:
            lines = (line for _, line in _lines(tree, place.name) if line and is_image(line))
            darknet = _darknet_folders(tree)
            names: Iterable[str | None] = (find_listed(tree, folder, line, darknet) for line in lines)
        elif place.deep:
            names = tree.walk(place.name)
        else:
            names = (join(place.name, name) for name in tree.files(place.name))
        return any(name is not None and is_image(name) and label_of(tree, name) is not None for name in names)
    except DataError:
        return True


def _listed_images(tree: Tree, file: str, problems: RaiseErrors) -> list[str]:
    found: dict[str, None] = {}
    path, folder, darknet = tree.path(file), file.rpartition("/")[0], _darknet_folders(tree)
    for number, line in _lines(tree, file):
        if not line:
            continue
        try:
            name = find_listed(tree, folder, line, darknet) if is_image(line) else None
        except DataError as error:
            problems.add("image-missing", path, f"image {error}", line=number)
            continue
        if name is None:
            message = (
                f"{printable(line, 120)!r} is no image in {printable(tree.root)}; add it there, or remove the line"
            )
            problems.add("image-missing", path, message, line=number)
        elif name in found:
            message = f"lists {printable(line, 120)!r} again: it counts once; remove one of them"
            problems.add("list-repeats", path, message, line=number)
        else:
            found[name] = None
    return list(found)


def _darknet_folders(tree: Tree) -> list[str]:
    return [name for name in tree.folders() if name.lower() in _DATA]


def find_listed(tree: Tree, folder: str, line: str, darknet: Sequence[str] = ()) -> str | None:
    """The image that a line of a list in `folder` means: from that folder, else the longest end that is in the tree; in
    place of none, or of one without a label and elsewhere than the line says, that of its name in one of Darknet's
    folders of images and labels."""
    if len(line) > _MAX_PATH or "\0" in line:
        return None
    parts = split_path(line)[0]
    if not 0 < len(parts) <= MAX_PARTS:
        return None
    found = tree.find(folder, "/".join(parts))
    if found is not None and not line.startswith(("/", "\\")):
        return found
    for i in range(len(parts)):
        found = found or tree.find("", "/".join(parts[i:]))
    if not darknet or (found is not None and label_of(tree, found) is not None):
        return found
    named = [image for place in darknet if (image := tree.find(place, parts[-1])) and label_of(tree, image) is not None]
    return named[0] if len(named) == 1 else found


def label_of(tree: Tree, image: str) -> str | None:
    """The label file of an image: the last folder "images" replaced by "labels", else beside it; None if neither."""
    stem = image.rpartition(".")[0]
    folder, _, last = stem.rpartition("/")
    for place in dict.fromkeys((_labels_folder(folder), folder)):
        if f"{last}.txt" in tree.names(place):
            return tree.find(place, f"{last}.txt")
    parts = folder.split("/")
    at = _last_images(parts)
    if at is None:
        return paired_label(tree, folder, f"{last}.txt")
    for labels in label_folders(tree, "/".join(parts[:at])):
        place = "/".join([labels, *parts[at + 1 :]])
        if f"{last}.txt" in tree.names(place):
            return tree.find(place, f"{last}.txt")
    return paired_label(tree, folder, f"{last}.txt")


def new_label_of(tree: Tree, image: str) -> str:
    """Where the label file of an image that has none belongs: where `label_of` looks, in a folder that is there."""
    folder, _, last = image.rpartition(".")[0].rpartition("/")
    parts = folder.split("/")
    at = _last_images(parts)
    if at is not None and not has_labels_beside(tree, folder):
        there = label_folders(tree, "/".join(parts[:at]))
        return "/".join([*(there[:1] or ["/".join([*parts[:at], _LABELS])]), *parts[at + 1 :], f"{last}.txt"])
    pair = None if at is not None else pair_of(tree, folder)
    return join(folder if pair is None else pair, f"{last}.txt")


def labels_without_image(tree: Tree, folder: str, most: int) -> list[str]:
    """The label files for a folder of images whose image is not in it; at most so many are looked at."""
    images = images_by_stem(tree, folder)
    others = (*NAME_FILES, *_LISTS)
    alone = (
        join(place, name)
        for place in dict.fromkeys((_labels_folder(folder), folder))
        for name in tree.files(place, (".txt",))
        if name[:-4] not in images and name not in others
    )
    return [name for name in islice(alone, most) if starts_with_numbers(tree, name)]


def _labels_folder(folder: str) -> str:
    """The folder with its last part "images" replaced by "labels"."""
    parts = folder.split("/")
    at = _last_images(parts)
    return folder if at is None else "/".join([*parts[:at], _LABELS, *parts[at + 1 :]])


def _last_images(parts: list[str]) -> int | None:
    return next((i for i in reversed(range(len(parts))) if parts[i].lower() in _IMAGE_FOLDERS), None)


def ident_of(image: str, splits: Collection[str] = ()) -> str:
    """Name without its ending below the last folder "images" and the folder of one of the splits in it."""
    *folders, last = image.rpartition(".")[0].split("/")
    at = _last_images(folders)
    folders = folders if at is None else folders[at + 1 :]
    if folders and (folders[0] in splits or split_of(folders[0]) in KNOWN_SPLITS):
        folders = folders[1:]
    return "/".join([*folders, last])


# ---------------------------------------------------------------------------------------------- class names


def names_in_files(tree: Tree, splits: dict[str, list[Place]]) -> tuple[tuple[str, ...] | None, str]:
    """The names of classes.txt or its like at the root, else beside the labels; (None, "") without such a file.

    Raises DataError when those of several folders differ; one may have more at its end, as labelImg appends.
    """
    places = list(chain.from_iterable(splits.values()))
    found = _names_in(tree, ["", _LABELS, *_folders_of(place.name for place in places if not place.listed)])
    if found[0] is not None or not any(place.listed for place in places):
        return found
    ignored = CollectErrors(0)  # the reading that follows reports
    listed = (_listed_images(tree, place.name, ignored) for place in places if place.listed)
    return _names_in(tree, _folders_of({image.rpartition("/")[0] for images in listed for image in images}))


def _folders_of(image_folders: Iterable[str]) -> list[str]:
    """Where a list of classes may lie: the folders of labels with those above them, then the images'."""
    folders: list[str] = []
    for folder in sorted(image_folders):
        for place in dict.fromkeys((_labels_folder(folder), folder)):
            parts = place.split("/")
            folders += ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    return folders


def _names_in(tree: Tree, folders: Iterable[str]) -> tuple[tuple[str, ...] | None, str]:
    best: tuple[str, ...] | None = None
    source = ""
    for folder in dict.fromkeys(folders):
        images = images_by_stem(tree, folder)
        there = tree.files(folder)
        name = next((n for n in NAME_FILES if n in there and n.rpartition(".")[0] not in images), None)
        if name is None:
            continue
        names = read_names(tree, join(folder, name))
        if not names:  # an empty list says nothing
            continue
        if best is not None and names[: len(best)] != best[: len(names)]:
            raise DataError(
                f"{printable(tree.path(join(folder, name)))}: other classes than in {printable(source)}; a class "
                "must have the same number in all labels: put one data.yaml with names at the root"
            )
        if best is None or len(names) > len(best):
            best, source = names, join(folder, name)
        if not folder:  # the root's speaks for all
            break
    return best, source


def read_names(tree: Tree, name: str) -> tuple[str, ...]:
    """The names in a file, one a line; () where it is empty. Raises DataError for what is no list of them."""
    text = decode_text(tree.read(name, MAX_NAMES_BYTES, "class names"), tree.path(name)).rstrip()
    return check_names([line.strip() for line in text.split("\n")], printable(tree.path(name))) if text else ()

"""Correcting a data set's labels: opening it for that, with a model's proposals or without."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from singleshot.api.class_names import read_classes
from singleshot.api.options import Options, check_results_folder
from singleshot.class_selection import list_names
from singleshot.errors import ConfigError, DataError, printable
from singleshot.storage import is_remote, read_limited
from singleshot.text import utf8_head

if TYPE_CHECKING:
    from singleshot.api.label_orders import ModelViews
    from singleshot.api.label_store import LabelStore
    from singleshot.datasets import Source
    from singleshot.datasets.editing.edits import Editor
    from singleshot.datasets.raw import RawImage, RawSet
    from singleshot.datasets.tree import Tree
    from singleshot.runtime.detector import Detector

NEW_FORMS = ("voc", "yolo")
YOLO_LIST = "classes.txt"  # of a new set


@dataclass(frozen=True)
class LabelOptions(Options):
    """What is labelled and with which model; see `open_labels`."""

    data: str
    model: str | None = None
    form: str | None = None
    classes: tuple[str, ...] = ()
    out: str | None = None
    device: str | None = None
    engine: str | None = None
    threads: int | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.form not in (None, *NEW_FORMS):
            raise ConfigError(f"--format {printable(self.form)}: want one of {', '.join(NEW_FORMS)}")
        if self.model is None:
            given = {"--device": self.device, "--engine": self.engine, "--precision": self.precision}
            for name in [name for name, value in {**given, "--threads": self.threads}.items() if value is not None]:
                raise ConfigError(f"{name}: of what? It goes with --model FILE")


class Labels(NamedTuple):
    """A data set that is open for correcting. form: its name for people; views: None without a model."""

    form: str
    store: LabelStore
    views: ModelViews | None


def open_labels(options: LabelOptions) -> Labels:
    """Open a data set for correcting its labels in place.

    Args:
        options: data: a folder, or a file of one, in VOC, COCO or YOLO form. model: a checkpoint or an exported file,
            which proposes. form: "voc" or "yolo" for a folder of images that starts as a new set of that form. classes:
            of a new set; of one that is there, also such as it does not have. out: a new folder, into which the set is
            copied and labelled there. device, engine, threads, precision: as for `load`.

    Raises:
        ConfigError: An option does not fit.
        DataError: No data set, or one whose form is not written in place.
        CheckpointError: The model cannot be used.
    """
    from singleshot.api.label_orders import ModelViews
    from singleshot.api.label_store import LabelStore, RefusedError
    from singleshot.datasets.archives import is_archive

    if is_remote(options.data):
        raise DataError(f"{printable(options.data)}: an address; labels are changed in place on this machine alone")
    if is_archive(options.data):
        raise DataError(f"{printable(options.data)}: an archive; unpack it, and give the folder")
    detector = None if options.model is None else _detector(options)
    wanted = read_classes(*options.classes) if options.classes else ()
    opened = _open_set(options.data, options.form, wanted, detector)
    if options.out is not None:  # only what can be labelled is copied
        copy = _copy(options.data, options.out)
        opened = _open_copy(opened, copy) or _open_set(copy, options.form, wanted, detector)
    form, new, tree, images, editor, classes, _ = opened
    store = LabelStore(tree, sorted(images, key=lambda image: image.path), editor, classes)
    more = [name for name in wanted if name not in store.classes]
    if new or more:
        with store.held():  # what another process is labelling stays as it is
            if new:
                _write_list(tree, form, classes)
            for name in more:
                try:
                    store.add_class(name)
                except RefusedError as error:
                    raise ConfigError(f"--classes: {error}") from error
    return Labels({"voc": "Pascal VOC", "coco": "COCO", "yolo": "YOLO"}[form], store,
                  None if detector is None else ModelViews(store, detector))  # fmt: skip


class _OpenedSet(NamedTuple):
    """form: voc, coco or yolo; new: whether its list of classes is still to be written; raw: its labels, None where
    there are none yet."""

    form: str
    new: bool
    tree: Tree
    images: list[RawImage]
    editor: Editor
    classes: tuple[str, ...]
    raw: RawSet | None = None


def _open_set(data: str, form: str | None, wanted: Sequence[str], detector: Detector | None) -> _OpenedSet:
    """A data set, or a folder of images as a new one; nothing is written."""
    from singleshot.datasets.joined_splits import made_splits_unsaid

    if form is not None and not _is_set(data):
        opened = _OpenedSet(form, True, *_new_set(data, form, wanted, detector))
    else:
        source = _open(data, form)
        with made_splits_unsaid():
            raw = _read(source)
            opened = _OpenedSet(source.form, False, source.tree, *_opened(source, raw), raw)
    if not opened.images:
        raise DataError(f"{printable(data)}: no images; add some")
    return opened


def _open_copy(first: _OpenedSet, data: str) -> _OpenedSet | None:
    """The same set in a copy of its folder, whose labels were read there; None for a new set, and for one of which a
    file lies elsewhere."""
    if first.raw is None:
        return None
    source = _open(data, first.form)
    here, there = first.tree.path("x")[:-1], source.tree.path("x")[:-1]
    paths = {path for image in first.raw.images for path in (image.path, image.file)}
    if not all(path.startswith(here) for path in paths):
        return None
    moved = {path: there + path.removeprefix(here) for path in paths}
    images = [image._replace(path=moved[image.path], file=moved[image.file]) for image in first.raw.images]
    raw = first.raw._replace(source=data, images=images)
    return _OpenedSet(source.form, False, source.tree, *_opened(source, raw), raw)


def _detector(options: LabelOptions) -> Detector:
    from singleshot.api.load import load

    assert options.model is not None
    how = {"engine": options.engine, "threads": options.threads, "precision": options.precision}
    return load(options.model, options.device, **how)  # type: ignore[arg-type]


def _is_set(data: str) -> bool:
    """Whether a folder holds a data set of any form already."""
    from singleshot.datasets import open_source

    try:
        open_source(data)
    except DataError:
        return False
    return True


def _open(data: str, form: str | None) -> Source:
    """The data set of a form that is written in place. Raises DataError, ConfigError."""
    from singleshot.datasets import open_source
    from singleshot.datasets.formats import FORMATS

    source = open_source(data)
    where = printable(data)
    if form not in (None, source.form):
        raise ConfigError(f"--format {form}: {where} holds {source.format.about} labels already; leave it out")
    if source.form not in ("voc", "coco", "yolo") or source.tree.root.count("::"):
        raise DataError(
            f"{where}: {source.format.about} labels are not changed in place (VOC, COCO and YOLO are); "
            f"take singleshot data convert {where} DIR --to voc, and label DIR"
        )
    if source.format is not FORMATS[source.form] and not source.format.is_divided:
        raise DataError(f"{where}: holds a data set in each of several folders; give one of them")
    return source


def _read(source: Source) -> RawSet:
    """All splits as they are written; what is wrong with single objects stays in the files as it is."""
    from singleshot.datasets.findings import RAISE_ERRORS, CollectErrors

    raw = source.read_as_written(None, CollectErrors(100))
    return raw if raw.images else source.read_as_written(None, RAISE_ERRORS)


def _opened(source: Source, raw: RawSet) -> tuple[list[RawImage], Editor, tuple[str, ...]]:
    from singleshot.datasets.editing.coco import CocoEditor
    from singleshot.datasets.editing.voc import VocEditor
    from singleshot.datasets.editing.yolo import YoloEditor
    from singleshot.datasets.readers import coco, yolo
    from singleshot.datasets.readers.yolo_rows import YOLO_ROWS

    images = list({image.path: image for image in raw.images}.values())
    classes = raw.class_names
    if source.form == "voc":
        return images + _unlabelled_voc(source.tree, images), VocEditor(source.tree), classes
    if source.form == "coco":
        _refuse_doubtful(raw, images)
        return images, CocoEditor({file: coco.read_ids(file)[0] for file in {image.file for image in images}}), classes
    found = yolo.find_classes(source.tree, source.file)
    if found.rows != YOLO_ROWS:
        where = printable(source.tree.root)
        raise DataError(
            f"{where}: rows in pixels or with commas are not changed in place; "
            f"take singleshot data convert {where} DIR --to yolo, and label DIR"
        )
    numbers = {name: k + (found.first or 0) for k, name in enumerate(classes)}
    return images, YoloEditor(source.tree, found, numbers), classes


def _refuse_doubtful(raw: RawSet, images: list[RawImage]) -> None:
    """COCO files that are too large or mere lists of results, or in which an image cannot be known by its id."""
    from singleshot.datasets.editing.coco import MOST_BYTES

    way_out = f"take singleshot data convert {printable(raw.source)} DIR --to voc, and label DIR"
    for file in {image.file for image in images}:
        if Path(file).stat().st_size > MOST_BYTES:
            raise DataError(f"{printable(file)}: more than {MOST_BYTES // 2**20} MB is not changed in place; {way_out}")
        if not utf8_head(read_limited(file, 64, "annotation", 64)).lstrip().startswith(b"{"):
            raise DataError(f"{printable(file)}: a list of results, which is not changed in place; {way_out}")
    if len({(image.file, image.ident) for image in images}) < len(images) or len(images) < len(raw.images):
        raise DataError(
            f"{printable(raw.source)}: lists images twice, or in several files; give one of the files, or {way_out}"
        )


def _unlabelled_voc(tree: Tree, images: list[RawImage]) -> list[RawImage]:
    """Images of the folder without an annotation of their name."""
    from singleshot.datasets.readers.voc_layout import find_layout

    stems = {name.rpartition("/")[2] for name in find_layout(tree).xmls}
    there = {image.path for image in images}
    found = []
    for name in tree.images():
        stem = name.rpartition("/")[2].rpartition(".")[0]
        if tree.path(name) not in there and stem not in stems:
            stems.add(stem)  # of two images of one name the second could have no label of its own
            found.append(_unlabelled(tree, name))
    return found


def _unlabelled(tree: Tree, name: str, relative: bool = False) -> RawImage:
    from singleshot.datasets.raw import RawImage

    path = tree.path(name)
    return RawImage(path, name.rpartition(".")[0], 0, 0, [], path, relative)


def _new_set(
    data: str, form: str, wanted: Sequence[str], detector: Detector | None
) -> tuple[Tree, list[RawImage], Editor, tuple[str, ...]]:
    """A folder of images as a new set, whose list of classes is to be written."""
    from singleshot.datasets.editing.voc import VocEditor
    from singleshot.datasets.editing.yolo import YoloEditor
    from singleshot.datasets.readers.yolo_classes import Classes
    from singleshot.datasets.tree import open_tree

    if not Path(data).is_dir():
        raise DataError(f"{printable(data)}: no folder of images")
    tree = open_tree(data)
    is_yolo = form == "yolo"
    classes = _class_list(tree, is_yolo, wanted) or (() if detector is None else tuple(detector.class_names))
    if not classes:
        raise ConfigError("--classes: a new set needs its classes, such as --classes cat,dog or a file with one a line")
    images = [_unlabelled(tree, name, is_yolo) for name in tree.images() if not is_yolo or _is_read(name)]
    if not images:
        where = "in it or in its folder images/" if is_yolo else "in it"
        raise DataError(f"{printable(data)}: no images {where}; add some")
    numbers = {one: k for k, one in enumerate(classes)}
    editor = YoloEditor(tree, Classes(classes, YOLO_LIST, 0, 0), numbers) if is_yolo else VocEditor(tree)
    return tree, images, editor, classes


def _write_list(tree: Tree, form: str, classes: Sequence[str]) -> None:
    """The classes of a new set, unless it was started earlier."""
    from singleshot.datasets.readers.own_lists import CLASS_LIST
    from singleshot.files import atomic_write

    is_yolo = form == "yolo"
    name = YOLO_LIST if is_yolo else CLASS_LIST
    text = "".join(f"{one}\n" for one in classes) if is_yolo else json.dumps(classes, indent=1) + "\n"
    if name not in tree.names():
        with atomic_write(tree.path(name)) as place:
            place.write_text(text, encoding="utf-8")


def _class_list(tree: Tree, is_yolo: bool, wanted: Sequence[str]) -> tuple[str, ...]:
    """The classes of a set that was started earlier, or those that are wanted."""
    from singleshot.datasets.findings import RAISE_ERRORS
    from singleshot.datasets.readers.own_lists import CLASS_LIST, read_class_list
    from singleshot.datasets.readers.yolo_layout import read_names

    name = YOLO_LIST if is_yolo else CLASS_LIST
    if name not in tree.names():
        return tuple(wanted)
    there = read_names(tree, name) if is_yolo else read_class_list(tree, RAISE_ERRORS)
    if wanted and tuple(wanted) != there:
        path = printable(tree.path(name))
        raise ConfigError(f"--classes: {path} has {list_names(there)}; leave it out, or correct that file")
    return there


def _is_read(name: str) -> bool:
    """Whether an image of a new YOLO set lies where readers look without a data.yaml."""
    return "/" not in name or name.startswith("images/")


def _copy(data: str, out: str) -> str:
    """A copy of a data set's folder, links resolved; where the same file lies in it."""
    import shutil

    from singleshot.datasets import open_source
    from singleshot.datasets.tree import open_tree
    from singleshot.files import atomic_folder

    check_results_folder("--out", out)
    source = Path(data)
    folder = source if source.is_dir() else Path(open_source(data).tree.root)
    if Path(out).resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"--out {printable(out)}: lies in {printable(folder)}; give a folder outside")
    tree = open_tree(str(folder))
    with atomic_folder(out) as place:
        for name in tree.walk():
            if tree.find("", name) is not None:  # raises for a link that leads out
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(tree.path(name), place / name)
    return out if source.is_dir() else str(Path(out) / source.relative_to(folder))

"""Results to files, image by image: JSON, COCO, VOC, YOLO, CSV. Memory does not grow with the number of images."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import IO, Any, NamedTuple
from xml.etree import ElementTree

from singleshot.errors import ConfigError, printable
from singleshot.files import IMAGE_INFO, RowFile, abandon, atomic_write
from singleshot.runtime.detections import Detections, coco_image_id
from singleshot.runtime.names import Begun, OutputNames


class Writer:
    """Takes the detections of one image after the other.

    `close` makes the file appear, whole; `discard` leaves none. As a context manager it closes at the end
    and on Ctrl-C (what was finished is kept, as valid a file as ever), and discards on any other exception.
    """

    def add(self, detections: Detections) -> None:
        """Write the detections of the next image. Raises ConfigError where it cannot be written."""
        raise NotImplementedError

    def replay(self, detections: Detections) -> None:
        """Take the detections of an image that an earlier run, which was stopped, had finished."""
        self.add(detections)

    def close(self, complete: bool = True) -> None:
        """Finish. complete: whether every input was reached. Closing twice does nothing."""

    def discard(self) -> None:
        """Drop what is not closed yet."""

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, KeyboardInterrupt):
            self.close(complete=error is None)
        else:
            self.discard()


class _FileWriter(Writer):
    """One text file, either a path that appears at the end or an open stream that is written as it goes."""

    encoding_errors = "strict"

    def __init__(self, target: Path | IO[str], head: str) -> None:
        self._stack = contextlib.ExitStack()
        self._closed = False
        self._between = "\n"  # before the next item of a JSON list
        self._rows: RowFile | None = None
        if isinstance(target, Path):
            temporary = self._stack.enter_context(atomic_write(target))
            self._rows = RowFile(self._stack.enter_context(temporary.open("wb", buffering=0)))
        else:
            self._stream = target
        self._write(head)

    def _write(self, text: str) -> None:
        if self._rows is not None:
            self._rows.write(text.encode("utf-8", self.encoding_errors))
        else:
            self._stream.write(text)
            self._stream.flush()  # a program reads along

    def add(self, detections: Detections) -> None:
        self._write(self._text(detections))

    def _text(self, detections: Detections) -> str:
        """All that is written for an image: of one nothing but the whole is kept."""
        raise NotImplementedError

    def _next_item(self, text: str) -> str:
        """One more of a JSON list, on a line of its own."""
        before, self._between = self._between, ",\n"
        return before + text

    def _tail(self, complete: bool) -> str:
        """What comes after the last image."""
        return ""

    def _end(self, complete: bool) -> Iterator[str]:
        """The same in parts, where it is long."""
        yield self._tail(complete)

    def close(self, complete: bool = True) -> None:
        if self._closed:
            return
        self._closed = True
        with self._stack:
            for text in self._end(complete):
                self._write(text)
            if self._rows is not None:
                self._rows.finish()

    def discard(self) -> None:
        if not self._closed:
            self._closed = True
            abandon(self._stack)


class JsonWriter(_FileWriter):
    """{"model", "classes", "images": [one object per image, see Detections.to_dict], "complete"}.

    target: a path or an open text stream. "complete" is false when the run was interrupted.
    """

    def __init__(self, target: Path | IO[str], model: str, class_names: tuple[str, ...]) -> None:
        head = json.dumps({"model": model, "classes": list(class_names)})
        super().__init__(target, head[:-1] + ', "images": [')

    def _text(self, detections: Detections) -> str:
        return self._next_item(json.dumps(detections.to_dict()))

    def _tail(self, complete: bool) -> str:
        return f'\n], "complete": {json.dumps(complete)}}}\n'


class CocoIds(NamedTuple):
    """The ids of COCO's form. categories: class name -> id; image_of: an image's path -> id, None for one that is left
    out because it, or a single one of its name, is not among those that ids are asked for."""

    categories: Mapping[str, int]
    image_of: Callable[[str], int | str | None]

    @classmethod
    def by_name_end(cls, categories: Mapping[str, int], images: Mapping[str, int | str]) -> CocoIds:
        """Images by what their path and a file_name have in common at the end, as far as it goes."""
        by_last: dict[str, list[tuple[str, int | str]]] = {}
        for name, ident in images.items():
            plain = name.replace("\\", "/")
            by_last.setdefault(plain.rpartition("/")[2], []).append((plain, ident))

        def image_of(path: str) -> int | str | None:
            parts = path.replace("\\", "/").split("/")
            found = by_last.get(parts[-1], [])
            for length in range(len(parts), 0, -1):
                fits = {ident for name, ident in found if name.split("/")[-length:] == parts[-length:]}
                if fits:
                    return fits.pop() if len(fits) == 1 else None
            return None

        return cls(categories, image_of)

    @classmethod
    def by_path(cls, categories: Mapping[str, int], images: Mapping[str, int | str]) -> CocoIds:
        """Images by their absolute path; others by the number or name of their file, as in `coco_image_id`."""
        return cls(categories, lambda path: images.get(os.path.realpath(path), coco_image_id(path)))


class CocoWriter(_FileWriter):
    """COCO's results form: one array of {image_id, category_id, bbox, score} over all images.

    Without `ids` image_id is the number that the file is named by, as in COCO itself, else the name, and category_id
    is label + 1; two images whose names are the same number in two folders therefore share one. Beside a file (not a
    stream) goes image_info.json: the images and the categories, without which the numbers say nothing.
    """

    def __init__(self, target: Path | IO[str], class_names: Sequence[str] = (), ids: CocoIds | None = None) -> None:
        self._info: _ImageInfo | None = None
        self._ids = ids or CocoIds.by_path({name: label for label, name in enumerate(class_names, 1)}, {})
        if isinstance(target, Path) and class_names:
            categories = [{"id": self._ids.categories[name], "name": name} for name in class_names]
            self._info = _ImageInfo(target.with_name(IMAGE_INFO), categories, self._ids.image_of)
        super().__init__(target, "[")

    def _text(self, detections: Detections) -> str:
        categories = self._ids.categories or None
        rows = [json.dumps(row) for row in detections.to_coco(self._ids.image_of(detections.image), categories)]
        if self._info is not None:
            self._info.add(detections)
        return self._next_item(",\n".join(rows)) if rows else ""

    def _tail(self, complete: bool) -> str:
        return "\n]\n"

    def close(self, complete: bool = True) -> None:
        """As of every writer; the names of images and classes next to it too."""
        super().close(complete)
        if self._info is not None:
            self._info.close(complete)

    def discard(self) -> None:
        """As of every writer; the names of images and classes next to it too."""
        super().discard()
        if self._info is not None:
            self._info.discard()


class _ImageInfo(_FileWriter):
    """COCO's file of images and categories without annotations."""

    def __init__(
        self, path: Path, categories: list[dict[str, Any]], image_of: Callable[[str], int | str | None]
    ) -> None:
        self._image_of = image_of
        super().__init__(path, f'{{"categories": {json.dumps(categories)}, "annotations": [], "images": [')

    def _text(self, detections: Detections) -> str:
        size = {"width": detections.width, "height": detections.height}
        row = {"id": self._image_of(detections.image), "file_name": detections.image, **size}
        return self._next_item(json.dumps(row))

    def _tail(self, complete: bool) -> str:
        return "\n]}\n"


class CocoLabelsWriter(_FileWriter):
    """COCO's labels, for annotation programs: {"categories", "annotations", "images"}, each annotation with its score,
    and of tracked objects the track_id.

    Categories, annotations and images count from 1; file_name is the image's path as it was given. Rows of images wait
    in a file of their own until the last annotation is written.
    """

    def __init__(self, target: Path | IO[str], class_names: Sequence[str]) -> None:
        self._images = tempfile.SpooledTemporaryFile(2**20, "w+", encoding="ascii", newline="\n")  # noqa: SIM115
        self._count = [0, 0]  # images, annotations
        categories = [{"id": number, "name": name} for number, name in enumerate(class_names, 1)]
        super().__init__(target, f'{{"categories": {json.dumps(categories)}, "annotations": [')

    def _text(self, detections: Detections) -> str:
        self._count[0] += 1
        size = {"width": detections.width, "height": detections.height}
        image = {"id": self._count[0], "file_name": detections.image, **size}
        self._images.write(f"{',' * (self._count[0] > 1)}\n{json.dumps(image)}")
        rows = []
        for row in detections.to_coco(self._count[0]):
            self._count[1] += 1
            area = round(row["bbox"][2] * row["bbox"][3], 3)
            rows.append(json.dumps({"id": self._count[1], **row, "area": area, "iscrowd": 0}))
        return self._next_item(",\n".join(rows)) if rows else ""

    def _end(self, complete: bool) -> Iterator[str]:
        with self._images:
            yield '\n], "images": ['
            self._images.seek(0)
            while text := self._images.read(2**16):
                yield text
        yield "\n]}\n"

    def discard(self) -> None:
        """As of every writer; the list of images that is kept aside goes too."""
        super().discard()
        self._images.close()


class CsvWriter(_FileWriter):
    """One row per object: image, width, height, label, name, score, x0, y0, x1, y1 (pixels), and track_id of `tracked`
    ones."""

    COLUMNS = ("image", "width", "height", "label", "name", "score", "x0", "y0", "x1", "y1")

    encoding_errors = "backslashreplace"  # a file name that is not valid UTF-8 must not end the run

    def __init__(self, target: Path | IO[str], tracked: bool = False) -> None:
        super().__init__(target, self._lines([(*self.COLUMNS, "track_id") if tracked else self.COLUMNS]))

    def _text(self, detections: Detections) -> str:
        values = detections.to_dict()
        head = [values["image"], values["width"], values["height"]]
        return self._lines(
            [
                *head,
                one["label"],
                one["name"],
                one["score"],
                *one["box"],
                *([one["track_id"]] if "track_id" in one else []),
            ]
            for one in values["detections"]
        )

    @staticmethod
    def _lines(rows: Iterable[Iterable[object]]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()


class _FolderWriter(Writer):
    """One small file per image; each appears whole, so that there is nothing left to do at the end."""

    suffix = ""

    def __init__(self, folder: Path, begun: Begun = lambda _: None) -> None:
        self._names = OutputNames(folder, begun)

    def replay(self, detections: Detections) -> None:
        """Its file is there."""

    def add(self, detections: Detections) -> None:
        path = self._names.free(detections.image, self.suffix)
        with atomic_write(path) as temporary:
            temporary.write_bytes(self._content(detections))

    def _content(self, detections: Detections) -> bytes:
        raise NotImplementedError


class VocWriter(_FolderWriter):
    """PASCAL VOC annotation XML per image, as labelling tools read it, with a <score> in each object.

    Boxes become VOC's 1-based inclusive whole pixels.
    """

    suffix = ".xml"

    def _content(self, detections: Detections) -> bytes:
        root = ElementTree.Element("annotation")
        folder, name = os.path.split(detections.image)
        _leaf(root, "folder", PurePath(folder).name)
        _leaf(root, "filename", name)
        size = ElementTree.SubElement(root, "size")
        for tag, value in (("width", detections.width), ("height", detections.height), ("depth", 3)):
            _leaf(size, tag, value)
        for box, score, label in zip(detections.boxes, detections.scores, detections.names, strict=True):
            entry = ElementTree.SubElement(root, "object")
            for tag, text in (("name", label), ("pose", "Unspecified"), ("truncated", 0), ("difficult", 0)):
                _leaf(entry, tag, text)
            _leaf(entry, "score", f"{float(score):.6f}")
            bounds = ElementTree.SubElement(entry, "bndbox")
            # The pixels x0..x1 - 1, counted from 1, at least one of them (VOC2007 devkit, section 3.3).
            x0 = min(round(float(box[0])), detections.width - 1)
            y0 = min(round(float(box[1])), detections.height - 1)
            _leaf(bounds, "xmin", x0 + 1)
            _leaf(bounds, "ymin", y0 + 1)
            _leaf(bounds, "xmax", max(round(float(box[2])), x0 + 1))
            _leaf(bounds, "ymax", max(round(float(box[3])), y0 + 1))
        ElementTree.indent(root)
        xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
        return xml


def _leaf(parent: ElementTree.Element, tag: str, value: object) -> None:
    # XML 1.0 has no way to write most control characters, and UTF-8 none for half a surrogate pair.
    text = str(value)
    ElementTree.SubElement(parent, tag).text = printable(text, limit=max(200, 12 * len(text)))


class YoloWriter(_FolderWriter):
    """YOLO text per image: "label centre-x centre-y width height score", lengths as a share of the image's."""

    suffix = ".txt"

    def _content(self, detections: Detections) -> bytes:
        lines = []
        for box, score, label in zip(detections.boxes, detections.scores, detections.labels, strict=True):
            x0, y0, x1, y1 = (float(v) for v in box)
            centre = ((x0 + x1) / 2 / detections.width, (y0 + y1) / 2 / detections.height)
            sides = ((x1 - x0) / detections.width, (y1 - y0) / detections.height)
            values = " ".join(f"{value:.6f}" for value in (*centre, *sides, float(score)))
            lines.append(f"{int(label)} {values}\n")
        return "".join(lines).encode()


FORMATS = ("json", "coco", "coco-labels", "voc", "yolo", "csv")


def open_writer(
    form: str,
    folder: Path,
    model: str,
    class_names: tuple[str, ...],
    ids: CocoIds | None = None,
    begun: Begun = lambda _: None,
    tracked: bool = False,
) -> tuple[Writer, Path]:
    """The writer of a format inside a results folder, and the file or folder that it fills.

    Args:
        form: "json" (results.json), "coco" (that and image_info.json), "coco-labels" (in annotations/), "csv"
            (results.csv), "voc" (annotations/*.xml) or "yolo" (labels/*.txt, with the class names, one per line, in
            classes.txt next to that folder).
        folder: Where the results go.
        model: What to call the model in the file.
        class_names: By label.
        ids: Of form "coco".
        begun: Called with the path of each image's file, of forms that have such, before it is written.
        tracked: Whether objects have numbers.

    Raises:
        ConfigError: Another format.
    """
    if form == "json":
        path = folder / "results.json"
        return JsonWriter(path, model, class_names), path
    if form == "coco":
        path = folder / "results.json"
        return CocoWriter(path, class_names, ids), path
    if form == "coco-labels":
        path = folder / "annotations" / "instances_default.json"
        return CocoLabelsWriter(path, class_names), path
    if form == "csv":
        path = folder / "results.csv"
        return CsvWriter(path, tracked), path
    if form == "voc":
        path = folder / "annotations"
        return VocWriter(path, begun), path
    if form == "yolo":
        path = folder / "labels"
        with atomic_write(folder / "classes.txt") as temporary:
            text = "".join(f"{printable(name)}\n" for name in class_names)
            temporary.write_text(text, encoding="utf-8")
        return YoloWriter(path, begun), path
    raise ConfigError(f"format {form!r}: want one of {', '.join(FORMATS)}")

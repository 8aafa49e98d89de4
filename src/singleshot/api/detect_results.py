"""The files of a run of detection: results, pictures and crops, and the journal by which it can be resumed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from singleshot.errors import ConfigError, printable

if TYPE_CHECKING:
    from singleshot.api.detect import DetectOptions
    from singleshot.runtime.detections import Detections
    from singleshot.runtime.detector import Found
    from singleshot.runtime.journal import Journal
    from singleshot.runtime.picture_writer import CropWriter, PictureWriter
    from singleshot.runtime.result_files import CocoIds, Writer
    from singleshot.runtime.sources import Frame

log = logging.getLogger(__name__)


class Results:
    """All that is written, opened with the first image: a run without any leaves nothing behind.

    As a context manager it discards what is neither closed nor kept. broken: the reader of the stream went away.

    Args:
        options: Of detection; those about results count.
        class_names: By label.
        stream: Takes JSON as it is made.
        ids: Of form coco.
        head: Of the journal, see runtime.journal.
    """

    def __init__(
        self,
        options: DetectOptions,
        class_names: tuple[str, ...],
        stream: TextIO | None = None,
        ids: CocoIds | None = None,
        head: Mapping[str, Any] | None = None,
    ) -> None:
        self.options, self.class_names, self.stream, self.ids = options, class_names, stream, ids
        self.folder = None if options.out is None else Path(options.out)
        self.results_at: Path | None = None
        self.pictures_at: Path | None = None
        self.broken: BrokenPipeError | None = None
        self._head = head or {}
        self._stack = contextlib.ExitStack()
        self._writers: list[Writer] = []
        self._journal: Journal | None = None
        self._skipped: list[Frame] = []  # before the first image
        self._pictures: PictureWriter | None = None
        self._crops: CropWriter | None = None

    @property
    def codecs(self) -> tuple[str, ...]:
        """What drawn videos were written in."""
        return () if self._pictures is None else tuple(sorted(self._pictures.codecs))

    def add(self, found: Found) -> None:
        """Write an image's. Raises ConfigError."""
        frame, detections = found
        assert detections is not None
        with self._named_errors():
            self._open()
            if self._pictures is not None:
                self._pictures.add(frame, detections)
            if self._crops is not None:
                self._crops.add(frame, detections)
            for writer in self._writers:
                writer.add(detections)
            if self._journal is not None:
                self._journal.done(frame, detections)

    def replay(self, detections: Detections) -> None:
        """Write what an earlier run had: its pictures are there. Raises ConfigError."""
        with self._named_errors():
            self._open()
            for writer in self._writers:
                writer.replay(detections)

    def skip(self, frame: Frame) -> None:
        """Note an input without a result. Raises ConfigError."""
        with self._named_errors():
            if self._journal is not None:
                self._journal.done(frame, None)
            elif not self._writers:
                self._skipped.append(frame)

    def _open(self) -> None:
        from singleshot.images.drawn_mark import CROPS, PICTURES
        from singleshot.runtime.drawing import DrawOptions
        from singleshot.runtime.journal import Journal
        from singleshot.runtime.picture_writer import CropWriter, PictureWriter
        from singleshot.runtime.result_files import CocoWriter, JsonWriter, open_writer

        if self._writers:
            return
        options, enter = self.options, self._stack.enter_context
        if self.folder is not None:
            self._journal = journal = Journal(self.folder, self._head)
            self._stack.callback(journal.close, complete=False)
            for frame in self._skipped:
                journal.done(frame, None)
            ids, names = self.ids, self.class_names
            writer, self.results_at = open_writer(
                options.form, self.folder, options.model, names, ids, journal.begun, options.track
            )
            self._writers.append(enter(writer))
            if options.draw:
                self.pictures_at = self.folder / PICTURES
                how = DrawOptions(options.line_width, options.labels, options.scores)
                self._pictures = PictureWriter(self.pictures_at, how, journal.begun)
                self._stack.callback(self._pictures.close)
            if options.crop:
                self._crops = CropWriter(self.folder / CROPS, journal.begun)
        if self.stream is not None:
            as_coco = options.form == "coco"
            on_stream = CocoWriter(self.stream, self.class_names, self.ids) if as_coco else None
            self._writers.append(enter(on_stream or JsonWriter(self.stream, options.model, self.class_names)))

    def close(self, complete: bool) -> None:
        """Close everything; a reader that left before the last words is noted only. Raises ConfigError."""
        with self._named_errors(), contextlib.ExitStack() as stack:  # all of it, whatever one of them raises
            for writer in self._writers:
                stack.callback(self._close_writer, writer, complete)
            if self._pictures is not None:
                stack.callback(self._pictures.close)
        if self._journal is not None:
            self._journal.close(complete and self.broken is None)

    def _close_writer(self, writer: Writer, complete: bool) -> None:
        try:
            writer.close(complete=complete and self.broken is None)
        except BrokenPipeError as error:
            self.broken = error

    def keep(self) -> None:
        """After a failure: close what is finished. Where that fails too, the journal alone has it all."""
        try:
            self.close(complete=False)
        except ConfigError as error:
            log.warning("%s", error)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """A full disk in one line; a reader that leaves stays a BrokenPipeError."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            where = "standard output" if self.folder is None else f"--out {printable(self.folder)}"
            kept = "; what is finished is kept, --resume goes on" if self._journal is not None else ""
            why = printable(error.strerror or error, 100)
            raise ConfigError(f"{where}: cannot write there ({why}){kept}") from error

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

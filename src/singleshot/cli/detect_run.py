"""One run of `singleshot detect`: results are written and pictures drawn, counted and told."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from singleshot.cli.common import hush_stdout
from singleshot.errors import ConfigError, DataError, printable

if TYPE_CHECKING:
    from rich.status import Status

    from singleshot.runtime.background_worker import BackgroundWorker
    from singleshot.runtime.detector import Found
    from singleshot.runtime.picture_writer import PictureWriter
    from singleshot.runtime.result_files import Writer

EXIT_SKIPPED = 3
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell counts
EXIT_PIPE = 141  # 128 + SIGPIPE
_FEW = 20  # images that get a line each
_PLAIN_EVERY = 100  # images between two lines of progress when there is no terminal


class DetectionRun:
    """One run of the command: where results go, what was counted and what is said about it."""

    def __init__(
        self,
        *,
        model: str,
        class_names: tuple[str, ...],
        folder: Path | None,
        form: str,
        draw: bool,
        to_stdout: bool,
        quiet: bool,
    ) -> None:
        self.model = model
        self.class_names = class_names
        self.folder = folder
        self.form = form
        self.draw = draw
        self.to_stdout = to_stdout
        self.quiet = quiet
        self.done = self.objects = self.skipped = 0
        self._unsaid: DataError | None = None
        self.results_at: Path | None = None
        self._writers: list[Writer] = []
        self._pictures: PictureWriter | None = None
        self._status: Status | None = None

    def all(self, stream: Iterator[Found]) -> int:
        """Work through the stream; returns the exit code."""
        started = time.perf_counter()
        code = 0
        with ExitStack() as stack:
            code = self._finish(self._work(stream, stack))
        if code in (EXIT_INTERRUPTED, EXIT_PIPE) or self.done:
            self._say_end(time.perf_counter() - started, code)
            return code or (EXIT_SKIPPED if self.skipped else 0)
        if self.skipped == 1 and self._unsaid is not None:
            raise self._unsaid
        self._warn()
        if self.skipped:
            raise DataError(f"none of the {self.skipped} inputs could be read, see above")
        raise DataError("the sources gave no image at all")

    def _work(self, stream: Iterator[Found], stack: ExitStack) -> int:
        """Results are written and pictures drawn by a thread of their own while the network goes on."""
        from singleshot.runtime.background_worker import BackgroundWorker

        writing: BackgroundWorker[Found] = BackgroundWorker(lambda found: self._one(found, stack), weigh=_bytes_of)
        try:
            return self._feed(writing, stream)
        except BrokenPipeError:
            hush_stdout()
            return EXIT_PIPE
        finally:
            writing.stop()

    def _feed(self, writing: BackgroundWorker[Found], stream: Iterator[Found]) -> int:
        try:
            try:
                for found in stream:
                    writing.put(found)
                    del found  # or its image would be held while the next one is made
            finally:
                close = getattr(stream, "close", None)
                if close is not None:
                    close()
            writing.finish()
        except KeyboardInterrupt:
            writing.finish()  # what was found is kept
            return EXIT_INTERRUPTED
        return 0

    def _one(self, found: Found, stack: ExitStack) -> None:
        if found.detections is None:
            self._skip(found.frame.error or DataError(f"{printable(found.frame.name)}: no image"))
            return
        self._warn()
        with self._saying_what_failed():
            if not self._writers:
                self._open(stack)
            for writer in self._writers:
                writer.add(found.detections)
            if self._pictures is not None:
                self._pictures.add(found.frame, found.detections)
        self.done += 1
        self.objects += len(found.detections)
        self._say_progress(found)

    @contextmanager
    def _saying_what_failed(self) -> Iterator[None]:
        """A full disk in one line; a reader of standard output that leaves stays a BrokenPipeError."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            where = "standard output" if self.folder is None else f"--out {printable(self.folder)}"
            raise ConfigError(f"{where}: cannot write there ({printable(error.strerror or error, 100)})") from error

    def _open(self, stack: ExitStack) -> None:
        """Open the results with the first image: a run without any leaves nothing behind.

        Left by an exception of ours, the stack discards what is unfinished.
        """
        from singleshot.runtime.picture_writer import PictureWriter
        from singleshot.runtime.result_files import JsonWriter, open_writer

        if self.to_stdout:
            self._writers.append(stack.enter_context(JsonWriter(sys.stdout, self.model, self.class_names)))
        if self.folder is not None:
            writer, self.results_at = open_writer(self.form, self.folder, self.model, self.class_names)
            self._writers.append(stack.enter_context(writer))
            if self.draw:
                self._pictures = PictureWriter(self.folder / "pictures")
                stack.callback(self._pictures.close)

    def _finish(self, code: int) -> int:
        """Close everything; a reader that left before the last words changes the exit code only."""
        for writer in reversed(self._writers):
            try:
                with self._saying_what_failed():
                    writer.close(complete=code == 0)
            except BrokenPipeError:
                hush_stdout()
                code = EXIT_PIPE
        if self._pictures is not None:
            self._pictures.close()
        if self._status is not None:
            self._status.stop()
        return code

    def _skip(self, error: DataError) -> None:
        self._warn()
        self.skipped += 1
        self._unsaid = error

    def _warn(self) -> None:
        """Name the last skipped input. It waits for the next frame: alone, it is the command's own message."""
        if self._unsaid is not None:
            text = f"skipped: {printable(self._unsaid, limit=500)}"
            if self._status is not None:  # above the moving line, and not broken at the terminal's width
                self._status.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)
            self._unsaid = None

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr if self.to_stdout else sys.stdout, flush=True)

    def _say_progress(self, found: Found) -> None:
        assert found.detections is not None
        if self.quiet:
            return
        if self.done <= _FEW:
            name = printable(found.frame.name)
            self._say(f"{name}: {printable(found.detections.summary(), limit=400)}")
        elif sys.stderr.isatty():
            if self._status is None:
                from rich.console import Console
                from rich.status import Status

                self._status = Status("", console=Console(stderr=True))
                self._status.start()
            self._status.update(f"{self.done} images, {self.objects} objects, {self.skipped} skipped")
        elif self.done % _PLAIN_EVERY == 0:
            self._say(f"{self.done} images, {self.objects} objects, {self.skipped} skipped")

    def _say_end(self, seconds: float, code: int) -> None:
        self._warn()
        if code == EXIT_PIPE:
            return
        rate = self.done / max(seconds, 1e-9)
        text = f"{'stopped after ' if code else ''}{self.done} images, {self.objects} objects, {rate:.1f} images/s"
        if self.skipped:
            text += f", {self.skipped} skipped"
        self._say(text)
        if self.results_at is not None:
            self._say(f"results: {printable(self.results_at)}")
        if self._pictures is not None and self.folder is not None:
            self._say(f"pictures: {printable(self.folder / 'pictures')}")


def _bytes_of(found: Found) -> int:
    """Of what waits to be written: the pixels that will be drawn on."""
    return 0 if found.frame.image is None else found.frame.image.nbytes

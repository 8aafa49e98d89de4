"""Another project's checkpoint as one file of ours, read back and tried on a picture before it stays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from singleshot.api.class_names import read_classes
from singleshot.api.options import Options, refuse_place
from singleshot.errors import ConfigError, printable
from singleshot.extras import needs
from singleshot.files import atomic_write

if TYPE_CHECKING:
    import numpy as np

    from singleshot.runtime.detections import Detections
    from singleshot.runtime.detector import Detector
    from singleshot.weights.checkpoint import ModelInfo
    from singleshot.weights.imported_model import ImportedModel

NUMBERED = "numbered"  # as class_names: class 1, class 2, ...
_MOST_DIFFERENCE = 1e-4  # between raw outputs of what was read and what was written, of those over 1 by their share

AskNames = Callable[[int], str]


@dataclass(frozen=True)
class ImportOptions(Options):
    """What is imported and how; see `import_checkpoint`. class_names: of them all, or one text: the names separated by
    commas, a file of them, or "numbered". mean, std: also as text, "123,117,104"."""

    checkpoint: str
    out: str | None = None
    source: str = "auto"
    companion: str | None = None
    class_names: tuple[str, ...] | str | None = None
    image: str | None = None
    picture: str | None = None
    size: int | None = None
    priors: str | None = None
    mean: tuple[float, ...] | float | str | None = None
    std: tuple[float, ...] | float | str | None = None
    colour_order: str | None = None

    @property
    def path(self) -> Path:
        """The file to write: `out`, or the checkpoint's name with .safetensors, in this folder."""
        if self.out is not None:
            return Path(self.out)
        # The name of a folder such as "." is empty; that it is a folder is found where it is opened.
        return Path(Path(self.checkpoint).name or "model").with_suffix(".safetensors")


class Imported(NamedTuple):
    """An imported model.

    path: the file that was written; source: what it was, in words; notes: what a user should know of the conversion;
    info: what the file says of itself; found: what it finds on the picture that it was tried on; difference: the most
    by which raw outputs of what was read and of what was written differ, those over 1 by their share; picture: where
    that picture with the detections lies, None where none was written.
    """

    checkpoint: str
    path: Path
    source: str
    notes: tuple[str, ...]
    info: ModelInfo
    found: Detections
    difference: float
    picture: Path | None

    def load(self, device: str | None = None, **options: Any) -> Detector:
        """A detector of the file; options: as `singleshot.load`."""
        from singleshot.api.load import load

        return load(self.path, device, **options)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        info, found = self.info, self.found
        return {
            "checkpoint": self.checkpoint,
            "source": self.source,
            "notes": list(self.notes),
            "out": str(self.path),
            "model": info.model,
            "classes": list(info.class_names),
            "pretrained": None if info.pretrained is None else info.pretrained.to_dict(),
            "input": info.input_spec.to_dict(),
            "priors": {"count": info.priors.count, **info.priors.to_dict()},
            "thresholds": vars(info.thresholds),
            "detections": [
                {"name": name, "score": float(score), "box": [float(v) for v in box]}
                for name, score, box in zip(found.names, found.scores, found.boxes, strict=True)
            ],
            "picture": None if self.picture is None else str(self.picture),
        }


def import_checkpoint(
    checkpoint: str | Path,
    *,
    out: str | Path | None = None,
    source: str = "auto",
    companion: str | Path | None = None,
    class_names: Sequence[str] | str | Path | None = None,
    image: str | Path | None = None,
    picture: str | Path | None = None,
    size: int | None = None,
    priors: str | Path | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    colour_order: str | None = None,
) -> Imported:
    """Convert an SSD checkpoint of another project to one file of ours, and try it on a picture.

    `singleshot.weights.import_checkpoint` gives the model alone and writes nothing.

    Args:
        checkpoint: Another project's model file; a TensorFlow checkpoint also by its prefix. No code in it is run.
        out: The file to write; None for the checkpoint's name with .safetensors, in this folder.
        source: Whose it is, instead of recognising it: a name that `singleshot import --list` shows.
        companion: Caffe's prototxt, OpenVINO's .bin, or a label map, where it is not found by its name.
        class_names: In the order of the outputs, or a text file with one a line; "numbered" for class 1, class 2, ...;
            None for the checkpoint's own, or those of the class list next to it.
        image: A photo to try the model on; None for a drawn scene.
        picture: Where the photo with its detections goes; None for the model's name with .jpg, with `image` only.
        size: Side of its input in pixels, where the file does not say; None for the source's own.
        priors: Its default boxes, likewise: a table of `singleshot priors show`, or a JSON file of one.
        mean: Of values 0..255, in place of the source's: one number, or R, G, B.
        std: Likewise.
        colour_order: What the network's first layer takes, in place of the source's: "rgb" or "bgr".

    Raises:
        CheckpointError: The file is not a checkpoint that is known, or does not fit.
        ConfigError: An option is wrong, the place is taken, or the classes have no names.
        DataError: The photo cannot be used.
        MissingExtraError: PyTorch is not installed.
    """
    return run_import(ImportOptions.of(locals()))


def run_import(options: ImportOptions, ask_names: AskNames | None = None) -> Imported:
    """As `import_checkpoint`; ask_names: the names of so many classes from the user, as class_names takes them."""
    path = options.path
    refuse_place(path, ".safetensors")
    photo = _photo(options.image)
    with needs("train", "importing"):
        from singleshot.weights.import_settings import ImportSettings
        from singleshot.weights.importing import import_foreign
        from singleshot.weights.open_model import info_of

    mean, std = _numbers("mean", options.mean), _numbers("std", options.std)
    settings = ImportSettings(options.size, options.priors, mean, std, options.colour_order)
    foreign = import_foreign(options.checkpoint, options.source, companion=options.companion, settings=settings)
    if foreign.names_given and options.class_names is not None:
        raise ConfigError(
            f"--beside {printable(options.companion, 80)} names the classes, and so does --classes: give one"
        )
    names = _class_names(foreign, options, ask_names)
    if options.class_names is None and foreign.names_note:
        foreign = foreign._replace(notes=(*foreign.notes, foreign.names_note))
    info = info_of(foreign, names)
    found, difference = _write_and_try(foreign, info, path, photo)
    picture = Path(options.picture) if options.picture is not None else None
    if picture is None and options.image is not None:
        picture = path.with_suffix(".jpg")
    if picture is not None:
        _draw(found, photo, picture)
    return Imported(options.checkpoint, path, foreign.source, foreign.notes, info, found, difference, picture)


def _numbers(name: str, value: Sequence[float] | float | str | None) -> Sequence[float] | float | None:
    """Those of a text, "127.5" or "123,117,104". Raises ConfigError."""
    if not isinstance(value, str):
        return value
    try:
        return [float(part) for part in value.split(",")]
    except ValueError as error:
        raise ConfigError(f"--{name} {printable(value, 60)}: want a number, or three as in 123,117,104") from error


def _photo(image: str | None) -> np.ndarray:
    """uint8 RGB [H, W, 3] of the photo, or of a drawn scene."""
    if image is not None:
        from singleshot.images.decode import read_image

        return read_image(image)
    from singleshot.scenes.scenes import make_scene

    return make_scene(0, "test", 0)[0]


def _class_names(foreign: ImportedModel, options: ImportOptions, ask: AskNames | None) -> tuple[str, ...]:
    """Those that were given, that the file or habit tells, or that the user gives now."""
    from singleshot.weights.class_lists import read_class_list
    from singleshot.weights.class_names import numbered_names, without_background

    count, given = foreign.model.num_classes, options.class_names
    if given is None:
        if foreign.class_names is not None:
            return foreign.class_names
        if ask is None:
            where, why = printable(options.checkpoint), f" ({foreign.names_note})" if foreign.names_note else ""
            wanted = f"give --classes a,b,... or a file, or --classes {NUMBERED} for class 1, class 2, ..."
            raise ConfigError(f"{where}: does not name its {count} classes{why}; {wanted}")
        given = ask(count)
    if given == NUMBERED:
        return numbered_names(count)
    if isinstance(given, str) and os.path.isfile(given):  # noqa: PTH113 (Path.is_file raises for a text too long)
        return read_class_list(given, count, "--classes")
    names = without_background(read_classes(given) if isinstance(given, str) else given, count)
    if len(names) != count or not all(names):
        shown = printable(given if isinstance(given, str) else ",".join(names), 60)
        raise ConfigError(f"--classes {shown}: {len(names)} names, but the model has {count} classes")
    return names


def _write_and_try(foreign: ImportedModel, info: ModelInfo, out: Path, photo: np.ndarray) -> tuple[Detections, float]:
    """Save, read back, run both; the file stays only if they agree. Returns what the one that was read finds."""
    import torch

    from singleshot.evaluation.torch_engine import TorchEngine
    from singleshot.inputs import to_square
    from singleshot.runtime.detector import Detector
    from singleshot.weights.checkpoint import load_checkpoint, save_checkpoint

    square, _ = to_square(photo, info.input_spec)
    batch = torch.from_numpy(square).permute(2, 0, 1).unsqueeze(0)
    with atomic_write(out) as temporary:
        save_checkpoint(temporary, foreign.model.state_dict(), info)
        again, read = load_checkpoint(temporary)
        with torch.inference_mode():
            pairs = list(zip(foreign.model.eval()(batch), again(batch), strict=True))
        difference = max(float(((a - b).abs() / a.abs().clamp(min=1.0)).max()) for a, b in pairs)
        if not difference < _MOST_DIFFERENCE:
            raise RuntimeError(f"{out}: what was written gives other outputs than what was read, by {difference}")
    engine = TorchEngine(again, read.thresholds, torch.device("cpu"))
    detector = Detector(engine, read.input_spec, read.class_names, score_min=read.thresholds.show_min)
    return detector.detect(photo), difference


def _draw(found: Detections, photo: np.ndarray, place: Path) -> None:
    import cv2

    drawn = found.draw(photo)
    with atomic_write(place) as temporary:
        if not cv2.imwrite(str(temporary), drawn[:, :, ::-1]):
            raise ConfigError(f"--picture {printable(place)}: cannot be written; want a name such as found.jpg")

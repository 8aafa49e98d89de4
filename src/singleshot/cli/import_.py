"""`singleshot import`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleshot.cli.common import JsonOption, QuietOption
from singleshot.errors import ConfigError, printable

if TYPE_CHECKING:
    from singleshot.runtime.detections import Detections
    from singleshot.weights.checkpoint import ModelInfo
    from singleshot.weights.imported_model import ImportedModel

_SHOWN = 20  # detections that are listed


def import_command(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Another project's model file; a TensorFlow checkpoint also by its prefix.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: its name, with .safetensors, in this folder.")
    ] = None,
    source: Annotated[str, typer.Option(help="Whose it is, instead of recognising it: a name of --list.")] = "auto",
    show_list: Annotated[bool, typer.Option("--list", help="List what is recognised, and stop.")] = False,
    beside: Annotated[
        Path | None, typer.Option(help="Caffe's prototxt, or a label map, where it is not found by its name.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names, separated by commas, or a text file with one a line. Default: its own.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="A photo to try the converted model on. Default: a drawn scene.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Where the photo with its detections goes. Default: beside the model.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert an SSD checkpoint of another project to one file of ours, and try it on a picture.

    Example: singleshot import ssd300_mAP_77.43.pth --image photo.jpg

    Caffe, Keras, TensorFlow, TensorFlow Lite and PyTorch files are recognised by what they hold; of these only PyTorch
    needs to be installed, and no code in a file is run.
    """
    from singleshot.weights.importers import IMPORTERS
    from singleshot.weights.importing import import_foreign
    from singleshot.weights.open_model import info_of

    if show_list:
        rows = [{"name": i.name, "about": i.about} for i in IMPORTERS]
        print(json.dumps(rows) if as_json else "\n".join(f"{row['name']:<24} {row['about']}" for row in rows))
        return
    if checkpoint is None:
        raise ConfigError("import: want a checkpoint file; singleshot import --list says which are known")
    # The name of a folder such as "." is empty; that it is a folder is said where it is opened.
    out = out or Path(Path(checkpoint).name or "model").with_suffix(".safetensors")
    _refuse_place(checkpoint, out)
    photo = _picture(image)
    foreign = import_foreign(checkpoint, source, companion=beside)
    info = info_of(foreign, _class_names(foreign, classes, checkpoint))
    found, difference = _write_and_try(foreign, info, out, photo)
    shown = picture or (out.with_suffix(".jpg") if image is not None else None)
    if shown is not None:
        _draw(found, photo, shown)
    if as_json:
        print(json.dumps(_report(checkpoint, foreign, info, out, found, shown)))
        return
    _say(checkpoint, foreign, info, found, image, quiet)
    print(f"written: {printable(out)}" + (f", {printable(shown)}" if shown is not None else ""))
    if not quiet:
        print(f"read back: raw outputs differ by {difference:g} at most", file=sys.stderr)


def _refuse_place(checkpoint: str, out: Path) -> None:
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {printable(out)}: want a name that ends in .safetensors")
    if out.exists():
        raise ConfigError(f"{printable(out)}: is there already; give another --out, or remove it")


def _picture(image: Path | None) -> Any:
    """uint8 RGB [H, W, 3] of the photo, or of a drawn scene."""
    if image is not None:
        from singleshot.images.decode import read_image

        return read_image(image)
    from singleshot.scenes.scenes import make_scene

    return make_scene(0, "test", 0)[0]


def _class_names(foreign: ImportedModel, classes: str | None, where: str) -> tuple[str, ...]:
    """Those that were given, that the file or habit tells, or that the user types now."""
    count = foreign.model.num_classes
    if classes is None:
        if foreign.class_names is not None:
            return foreign.class_names
        if not sys.stdin.isatty():
            said = f"{printable(where)}: does not name its {count} classes; give --classes a,b,... or a file"
            raise ConfigError(said)
        classes = str(typer.prompt(f"Names of its {count} classes, in the order of its outputs, separated by commas"))
    path = Path(classes)
    if "," not in classes and path.is_file():
        from singleshot.storage import read_limited

        text = read_limited(path, 1 << 20, "class list").decode("utf-8", "replace")
        names = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        names = [name.strip() for name in classes.split(",")]
    if len(names) != count or not all(names):
        raise ConfigError(f"--classes {printable(classes, 60)}: {len(names)} names, but the model has {count} classes")
    return tuple(names)


def _write_and_try(foreign: ImportedModel, info: ModelInfo, out: Path, photo: Any) -> tuple[Detections, float]:
    """Save, read back, run both; the file stays only if they agree. Returns what the one that was read finds."""
    import torch

    from singleshot.evaluation.torch_engine import TorchEngine
    from singleshot.files import atomic_write
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
        difference = max(float((a - b).abs().max()) for a, b in pairs)
        if not difference < 1e-4:
            raise RuntimeError(f"{out}: what was written gives other outputs than what was read, by {difference}")
    engine = TorchEngine(again, read.thresholds, torch.device("cpu"))
    detector = Detector(engine, read.input_spec, read.class_names, score_min=read.thresholds.show_min)
    return detector.detect(photo), difference


def _draw(found: Detections, photo: Any, place: Path) -> None:
    import cv2

    from singleshot.files import atomic_write

    drawn = found.draw(photo)
    with atomic_write(place) as temporary:
        if not cv2.imwrite(str(temporary), drawn[:, :, ::-1]):
            raise ConfigError(f"--picture {printable(place)}: cannot be written; want a name such as found.jpg")


def _report(
    checkpoint: str, foreign: ImportedModel, info: ModelInfo, out: Path, found: Detections, shown: Path | None
) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint, "source": foreign.source, "notes": list(foreign.notes), "out": str(out),
        "model": info.model, "classes": list(info.class_names), "input": info.input_spec.to_dict(),
        "priors": {"count": info.priors.count, **info.priors.to_dict()}, "thresholds": vars(info.thresholds),
        "detections": [
            {"name": n, "score": float(s), "box": [float(v) for v in b]}
            for n, s, b in zip(found.names, found.scores, found.boxes, strict=True)
        ],
        "picture": None if shown is None else str(shown),
    }  # fmt: skip


def _say(
    checkpoint: str, foreign: ImportedModel, info: ModelInfo, found: Detections, image: Path | None, quiet: bool
) -> None:
    """What it was, what it became, and what it sees."""
    if not quiet:
        spec, priors, rule = info.input_spec, info.priors, info.thresholds
        print(f"{printable(checkpoint)}: {printable(foreign.source)}")
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (spec.mean, spec.std))
        order = spec.colour_order.upper()
        print(f"  input   {spec.size} x {spec.size}, {spec.resize}, {order}, mean {mean}, std {std}")
        print(f"  priors  {priors.count} on maps of {' '.join(map(str, priors.maps))}, clip {priors.clip},"
              f" variances {priors.variances[0]:g} {priors.variances[1]:g}")  # fmt: skip
        print(f"  detect  {rule.summary()}")
        few = ", ".join(info.class_names[:6]) + (", ..." if len(info.class_names) > 6 else "")
        print(f"  classes {len(info.class_names)}: {printable(few)}")
        for note in foreign.notes:
            print(f"  note    {printable(note, 300)}")
    what = printable(image) if image is not None else "a drawn scene"
    print(f"on {what}: {len(found)} objects of score {info.thresholds.show_min:g} and more")
    rows = list(zip(found.names, found.scores, found.boxes, strict=True))
    for name, score, box in rows[:_SHOWN]:
        print(f"  {score:.3f}  {printable(name, 40):<20} {' '.join(f'{v:.0f}' for v in box)}")
    if len(rows) > _SHOWN:
        print(f"  and {len(rows) - _SHOWN} more")

"""`singleshot data info`."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from singleshot.api.options import DEFAULT_MODEL
from singleshot.cli.common import FollowLinksOption, JsonOption, LabelScoreOption, QuietOption, count_of, progress_bar
from singleshot.errors import ConfigError, DataError, printable
from singleshot.extras import require
from singleshot.files import atomic_write
from singleshot.text_table import align_columns

if TYPE_CHECKING:
    from singleshot.datasets.statistics import BoxTable, Cover, DataInfo, Part

_PICTURE, _NUMBERS = "data-info.png", "data-info.json"
_OTHER_FILES = (".jpg", ".jpeg", ".pdf", ".svg", ".json", ".txt", ".html", ".csv", ".webp")
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR = 24
# Classes that are listed; of more the most common and the rarest.
_MOST_CLASSES, _MOST, _RAREST = 24, 16, 4
# Presets within half a point of the best match as much as it does.
_ALIKE = 0.005
# Advice is given from this share of objects that no prior matches, for the reasons of this share of those.
_WORTH, _COMMON = 0.01, 0.25
_COLUMNS = 100


def info(
    data: Annotated[str, typer.Argument(help="Folder or file of a data set.")],
    model: Annotated[str, typer.Option(help="Whose default boxes to look at. See: priors show.")] = DEFAULT_MODEL,
    split: Annotated[str | None, typer.Option(help="This split only. Default: all images.")] = None,
    out: Annotated[
        Path | None, typer.Option(help=f"FILE.png for a picture, or a folder for {_PICTURE} and {_NUMBERS}.")
    ] = None,
    score_min: LabelScoreOption = None,
    follow_links: FollowLinksOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """What a data set holds: classes, box and image sizes, and how many objects each model's priors match.

    Example: singleshot data info path/to/VOC2007 --model ssd300-vgg16 --out voc.png
    """
    if out is not None and out.suffix.lower() in _OTHER_FILES and not out.is_dir():
        raise ConfigError(f"--out {printable(out)}: want a name that ends in .png, or a folder")
    if out is not None:
        require("report", "--out: the picture", "matplotlib")
    found, table = collect(data, model, split, quiet, score_min, follow_links)
    written = write_files(found, table, out) if out is not None else []
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        print(_encodable(format_info(found, data), sys.stdout.encoding or "utf-8"))
    if written and not quiet:
        print(f"written: {', '.join(map(printable, written))}", file=sys.stderr)


def collect(
    data: str,
    model: str,
    split: str | None,
    quiet: bool,
    score_min: float | None = None,
    follow_links: bool = False,
) -> tuple[DataInfo, BoxTable]:
    """Read a data set, whatever is wrong with its labels, and count it. Raises DataError where there is nothing."""
    from singleshot.datasets import open_source
    from singleshot.datasets.findings import CollectErrors
    from singleshot.datasets.statistics import describe, presets, tabulate, to_measure

    source = open_source(data, score_min=score_min, follow_links=follow_links)
    if model not in (known := presets()):
        raise ConfigError(f"--model {printable(model)}: want one of {', '.join(known)}")
    problems = CollectErrors(most=0)
    raw = source.read(split, problems)
    with progress_bar(to_measure(raw), "measuring images", quiet) as advance:
        table = tabulate(raw, advance)
    found = describe(raw, table, model, problems.counts)
    if not found.total.objects:
        of = f"{printable(raw.source)}{'' if split is None else f', split {printable(split, 60)}'}"
        there = "no image" if not raw.images else f"no object in {count_of(found.total.images, 'image')}"
        wrong = sum(found.problems.values())
        data = printable(source.tree.path(source.file))
        why = f" that can be used ({count_of(wrong, 'problem')}; list them: singleshot data check {data})"
        raise DataError(f"{of}: {there}{why if wrong else ''}; there is nothing to describe")
    return found, table


def write_files(found: DataInfo, table: BoxTable, out: Path) -> list[Path]:
    """The picture, and into a folder the numbers too; returns what was written."""
    from singleshot.report.data_picture import draw_info

    if out.suffix.lower() == ".png" and not out.is_dir():
        draw_info(found, table, out)
        return [out]
    draw_info(found, table, out / _PICTURE)
    with atomic_write(out / _NUMBERS) as temporary:
        temporary.write_text(json.dumps(found.to_dict(), indent=1), encoding="utf-8")
    return [out / _PICTURE, out / _NUMBERS]


# ---------------------------------------------------------------------------------------------- text


def format_info(found: DataInfo, data: str) -> str:
    """The report as text of at most 100 columns; data: what the user gave, for the commands that it names."""
    from singleshot.datasets.formats import FORMATS

    form = FORMATS[found.form].about if found.form in FORMATS else found.form
    title = (
        f"{printable(found.source)}: {form}, {count_of(found.total.images, 'image')}, "
        f"{count_of(found.total.objects, 'object')}, {count_of(len(found.classes), 'class', 'classes')}"
    )
    parts = [
        [*_wrap([title]), *_problems(found, data)],
        _splits(found),
        _classes(found),
        _sizes(found),
    ]
    if found.chosen.all.objects or found.chosen.difficult.objects:
        parts += [_cover(found), _presets(found), _meaning(found)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _problems(found: DataInfo, data: str) -> list[str]:
    lines = []
    total = sum(found.problems.values())
    if total:
        from singleshot.datasets.findings import KINDS

        kinds = sorted(found.problems.items(), key=lambda kind: -kind[1])
        words = ", ".join(f"{count} of {KINDS[kind].about}" for kind, count in kinds[:2])
        more = f", {len(kinds) - 2} kinds more" if len(kinds) > 2 else ""
        lines += [f"{count_of(total, 'problem')}: {words}{more}", f"list them: singleshot data check {printable(data)}"]
    if found.unmeasured:
        lines.append(f"{count_of(found.unmeasured, 'image')} could not be measured: left out of all sizes and priors")
    return _wrap(lines)


def _splits(found: DataInfo) -> list[str]:
    # One split needs no line that repeats it; a sum over all would count the images that two splits share twice.
    rows = [["split", "images", "without objects", "objects", "difficult", "crowd"]]
    for one in (*found.splits, *([found.total] if len(found.splits) > 1 else [])):
        name = printable(one.name, 24) if one is not found.total else "all, each once"
        rows.append([name, *map(str, (one.images, one.empty, one.objects, one.difficult, one.crowd))])
    note = ["(no splits in the data: made here by a hash of the names)"] if found.made else []
    return [*align_columns(rows), *note]


def _classes(found: DataInfo) -> list[str]:
    matched = {part.name: part for part in found.chosen.classes}
    most = max((one.share or 0.0 for one in found.classes), default=0) or 1
    rows = [["class", "priors match", "images", "objects", "share", ""]]
    for one in found.classes:
        name, part = printable(one.name, 24), one.share or 0.0
        figures = [str(one.images), str(one.objects), f"{part:.1%}", _bar(part / most)]
        rows.append([name, _percent(matched[one.name]), *figures])
    if len(rows) > _MOST_CLASSES + 1:
        left = len(rows) - 1 - _MOST - _RAREST
        rows[1 + _MOST : -_RAREST] = [[f"... {left} more (--json)", "", "", "", "", ""]]
    lines = []
    if found.imbalance is not None and len(found.classes) > 1:
        lines.append(f"The most common class has {found.imbalance:.3g} times the objects of the rarest.")
    empty = [printable(one.name, 24) for one in found.classes if not one.objects]
    if empty:
        lines.append(f"Without objects here: {', '.join(empty[:3])}{f' and {len(empty) - 3} more' * (len(empty) > 3)}.")
    return [*align_columns(rows), *_wrap(lines)]


def _sizes(found: DataInfo) -> list[str]:
    from singleshot.datasets.statistics import POINTS

    ends = {0.0: "min", 0.5: "median", 1.0: "max"}
    rows = [["", *(ends.get(point, f"{point:.0%}") for point in POINTS)]]
    names = {
        "image_width": "image width, px",
        "image_height": "image height",
        "objects_per_image": "objects per image",
        "width": "box width, px of the image",
        "height": "box height",
        "side": "sqrt(width x height)",
        "aspect": "width / height",
        "square_width": f"box width, px of the {found.input_px} px square",
        "square_height": "box height",
        "square_side": "sqrt(width x height)",
        "square_aspect": "width / height",
    }
    for key, name in names.items():
        if key in found.quantiles:
            rows.append([name, *(_short(value) for value in found.quantiles[key])])
    lines = []
    if found.image_sizes:
        known = max(found.total.images - found.unmeasured, 1)
        shown = ", ".join(f"{w} x {h} ({n / known:.0%})" for w, h, n in found.image_sizes)
        lines.append(f"{count_of(found.distinct_sizes, 'image size')}, most often {shown}")
    if found.coco:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in found.coco.items())
        lines.append(f"COCO's sizes: {shares} (bounds: 32 x 32 and 96 x 96 px of the image)")
    return [*align_columns(rows), *_wrap(lines)]


def _cover(found: DataInfo) -> list[str]:
    cover = found.chosen
    sample = f" (a sample of {found.comparable})" if found.compared < found.comparable else ""
    lines = [
        f"{found.model}: {cover.count} priors, sides {cover.smallest_px:.0f} to {cover.largest_px:.0f} px "
        f"in its square of {cover.input_px} px",
        f"A prior matches (IoU >= 0.5) {_percent(cover.all)} of {cover.all.objects} objects{sample}; "
        f"mean best IoU {_mean(cover.all)}",
    ]
    if cover.difficult.objects:
        lines.append(f"and {_percent(cover.difficult)} of {cover.difficult.objects} difficult ones, not counted here.")
    rows = [["side in the square, px", "objects", "matched", "mean IoU", ""]]
    for part in cover.sides:
        if part.objects:
            rows.append([part.name, str(part.objects), _percent(part), _mean(part), _bar(part.matched or 0)])
    return [*_wrap(lines), *align_columns(rows)]


def _presets(found: DataInfo) -> list[str]:
    rows = [["models by priors", "input", "priors", "matched", "small", "medium", "large", "mean IoU"]]
    for cover in found.covers:
        figures = [_percent(cover.all), *map(_percent, cover.sizes), _mean(cover.all)]
        for k, name in enumerate(cover.models):
            rest = [str(cover.input_px), str(cover.count), *figures] if k == 0 else [""] * 7
            rows.append([f"{name}{' *' if name == found.model else ''}", *rest])
    return align_columns(rows)


def _meaning(found: DataInfo) -> list[str]:
    """Which preset would match more, what those that are not matched have in common, and what to do about it."""
    from singleshot.prior_coverage import REASONS

    chosen = found.chosen
    lines = [verdict(found.model, chosen, found.covers)]
    missed = sum(chosen.unmatched.values())
    if missed:
        reasons = sorted(chosen.unmatched.items(), key=lambda reason: -reason[1])
        words = ", ".join(f"{REASONS[key]} {count} ({count / missed:.0%})" for key, count in reasons)
        lines.append(
            f"No prior of {found.model} matches {count_of(missed, 'object')}: {words}. Training gives each of "
            "them its one best prior all the same."
        )
        if missed >= _WORTH * chosen.all.objects:
            better = better_preset(chosen, found.covers) is not chosen
            common = [key for key, count in reasons if count >= _COMMON * missed]
            lines += [_advice(key, chosen, better, found.shape) for key in common]
    return _wrap([*lines, *_for_small_objects(found)])


def _for_small_objects(found: DataInfo) -> list[str]:
    """Sentences for data whose median object is small; none for other data."""
    from singleshot.api.small_objects import Extents, small_objects, ways
    from singleshot.datasets.statistics import POINTS
    from singleshot.prior_coverage import FITTED_FROM, MATCHED_ENOUGH

    if not {"square_side", "side", "image_width", "image_height"} <= found.quantiles.keys():
        return []
    half, most = POINTS.index(0.5), POINTS.index(0.95)
    width, height = (found.quantiles[name][half] for name in ("image_width", "image_height"))
    sides = found.quantiles["side"]
    extents = Extents(
        found.quantiles["square_side"][half] / found.input_px, sides[half], sides[most], width, height, found.shape
    )
    sentence = small_objects(extents, found.input_px)
    if sentence is None:
        return []
    options = [f"train {way}" for way in ways(extents, found.input_px)]
    if (found.chosen.all.matched or 0.0) < MATCHED_ENOUGH:
        options.append(f"default boxes fitted to them, as train does by itself from {FITTED_FROM} objects on")
    return [sentence, f"Try: {'; '.join(options)}."] if options else [sentence]


def better_preset(chosen: Cover, covers: Sequence[Cover]) -> Cover:
    """The cheapest of those that match the most objects; the chosen one where none matches clearly more."""
    top = max(cover.all.matched or 0.0 for cover in covers)
    alike = [cover for cover in covers if top - (cover.all.matched or 0.0) <= _ALIKE]
    return chosen if chosen in alike else min(alike, key=lambda cover: (cover.input_px, cover.count))


def verdict(model: str, chosen: Cover, covers: Sequence[Cover]) -> str:
    """One sentence: which preset would match more than the chosen one, and by how much."""
    best = better_preset(chosen, covers)
    if best is chosen:
        return f"No preset matches clearly more objects than {model}."
    gain = 100 * ((best.all.matched or 0.0) - (chosen.all.matched or 0.0))
    pixels = (best.input_px / chosen.input_px) ** 2
    cost = f", from {pixels:.1f} times the pixels" if best.input_px > chosen.input_px else ""
    return (
        f"{best.models[0]} would match {gain:.1f} points more "
        f"({_percent(best.all)} instead of {_percent(chosen.all)}){cost}."
    )


def _advice(reason: str, cover: Cover, better: bool, shape: float) -> str:
    """What to do about objects that are not matched for a reason; better: there is a preset that matches more; shape:
    of an input that suits the images."""
    own = "(singleshot priors fit finds them)"
    preset = "Take the preset named above, or" if better else "No preset does better:"
    if reason == "small":
        return (
            f"Too small: its smallest prior has {cover.smallest_px:.0f} px. {preset} train on tiles, which objects "
            f"fill more of (train --tile N), or give the model smaller priors {own}."
        )
    if reason == "large":
        return f"Too large: its largest prior has {cover.largest_px:.0f} px. {preset} make larger priors {own}."
    if reason in ("wide", "tall"):
        other = " or an input of the images' own shape (train --size auto)" if shape != 1.0 else ""
        return f"Too {reason}, once stretched to the square: priors with longer ratios {own}{other} would match them."
    return (
        "Between the priors' places: shape and size are near those of a prior, but none lies near enough. "
        f"{preset} give the model more sizes and ratios {own}."
    )


# ---------------------------------------------------------------------------------------------- cells


def _wrap(lines: Sequence[str]) -> list[str]:
    """Sentences, each in as many lines as it needs."""
    fill = textwrap.TextWrapper(_COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [part for line in lines for part in fill.wrap(line)]


def _bar(share: float) -> str:
    eighths = round(min(max(share, 0.0), 1.0) * _BAR * 8)
    bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
    return bar or ("▏" if share > 0 else "")


def _encodable(text: str, encoding: str) -> str:
    """The text with what the terminal cannot show replaced: whole blocks by "#"."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        text = text.translate({ord(block): "#" if block == "█" else "" for block in _EIGHTHS.strip()})
        return text.encode("ascii", "replace").decode()
    return text


def _percent(part: Part) -> str:
    return "-" if part.matched is None else f"{part.matched:.1%}"


def _mean(part: Part) -> str:
    return "-" if part.mean_iou is None else f"{part.mean_iou:.2f}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"

"""Draws the pictures of docs/variants.md and writes its tables of names: python docs/variants.py

Goes over whatever the package's dicts hold (CONVENTIONS, PRIORS, RULES, LOSS_RULES, DETECTION, IMPORTERS), so that a
new variant shows up by running it again. `--check` draws nothing and fails where the page's tables are not those of the
package.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Ellipse, Polygon, Rectangle
from PIL import Image

from singleshot.boxes import encode, iou, to_corners
from singleshot.conventions import CONVENTIONS, DETECTION
from singleshot.losses import LOSS_RULES
from singleshot.matching import RULES, match
from singleshot.postprocess import to_detections
from singleshot.priors import CLIPS, PRIORS, SOURCES, PriorSpec, cell_shapes, make_priors
from singleshot.records import RawOutput
from singleshot.thresholds import NO_CAP
from singleshot.weights.importers import IMPORTERS

HERE = Path(__file__).resolve().parent
PAGE = HERE / "variants.md"
COLOURS = ("#d1495b", "#00798c", "#7b4fa3", "#c77d00", "#2e7d32")
INK, PALE = "#222222", "#c9ced6"


def main() -> None:
    torch.set_num_threads(1)
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9, "text.color": INK})
    page = PAGE.read_text()
    new = with_tables(page)
    if "--check" in sys.argv:
        sys.exit(0 if new == page else f"{PAGE.name}: its tables are old; run python docs/variants.py")
    PAGE.write_text(new)
    drawn = {
        "priors": draw_priors,
        "clip": draw_clips,
        "matching": draw_matching,
        "mining": draw_mining,
        "detection": draw_detection,
    }
    for name, draw in drawn.items():
        path = HERE / f"variants-{name}.png"
        figure = draw()
        figure.savefig(path, dpi=100, facecolor="white")
        plt.close(figure)
        Image.open(path).convert("RGB").save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


# ---------------------------------------------------------------------------------------------- the page's tables


def with_tables(page: str) -> str:
    """The page with every block between `<!-- name -->` and `<!-- end -->` written anew."""
    tables = {
        "priors": prior_rows,
        "losses": loss_rows,
        "detection": detection_rows,
        "inputs": input_rows,
        "offsets": offset_rows,
        "decay": decay_rows,
        "layouts": layout_rows,
    }
    for name, make in tables.items():
        rows = make()
        start, rest = page.split(f"<!-- {name} -->\n", 1)
        _, end = rest.split("<!-- end -->", 1)
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|" + "---|" * len(rows[0]))
        page = f"{start}<!-- {name} -->\n" + "\n".join(lines) + f"\n<!-- end -->{end}"
    return page


def prior_rows() -> list[list[str]]:
    rows = [["name", "boxes", "smaller side of the first box per map, pixels", "steps", "clip", "order", "source"]]
    for name, spec in PRIORS.items():
        sizes = [min(cell_shapes(spec, i)[0]) for i in range(len(spec.maps))]
        own = spec.steps is None or all(
            math.isclose(spec.step(i)[0], spec.image[0] / rows) for i, (rows, _) in enumerate(spec.grids)
        )
        steps = "the maps'" if own else " ".join(f"{spec.step(i)[0]:g}" for i in range(len(spec.maps)))
        shown = " ".join(f"{size:.4g}" for size in sizes)
        rows.append([f"`{name}`", str(spec.count), shown, steps, spec.clip, spec.order, SOURCES[name]])
    return rows


def loss_rows() -> list[list[str]]:
    """What each rule does to the toy batch of the picture."""
    rows = [["rule", "source", "negatives of the toy batch per image", "an image's sums are multiplied by"]]
    for name, rule in LOSS_RULES.items():
        mined, weight = mine(rule)
        counts, factors = " ".join(map(str, mined.sum(dim=1).tolist())), " ".join(f"{w:.3g}" for w in weight.tolist())
        rows.append([f"`{name}`", rule.source, counts, factors])
    return rows


def detection_rows() -> list[list[str]]:
    rows = [["name", "score over", "into NMS", "NMS IoU", "out of NMS", "clipped before", "else"]]
    for name, rule in DETECTION.items():
        into = [f"{rule.per_class} of a class"] if rule.per_class < NO_CAP and not rule.one_class_per_prior else []
        into += [f"{rule.candidates} in all"] if rule.candidates else []
        out = [f"{rule.keep_per_class} of a class"] if rule.keep_per_class else []
        out += [f"{rule.keep} in all"] if rule.keep < NO_CAP else []
        rest = ["best class of each box only"] if rule.best_class else []
        if rule.class_agnostic:
            rest.append(f"best class{' or background' * rule.background_competes}, NMS over classes")
        rest += [rule.activation] if rule.activation != "softmax" else []
        into_text, out_text = ", ".join(into) or "all", ", ".join(out) or "all"
        clip = "yes" if rule.clip else "no"
        rows.append(
            [f"`{name}`", f"{rule.score_min:g}", into_text, f"{rule.nms_iou:g}", out_text, clip, ", ".join(rest)]
        )
    return rows


def numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def input_rows() -> list[list[str]]:
    """One for all networks of a codebase that take the same, whatever the size."""
    rows = [["codebase", "networks", "order", "mean (RGB order, of 0 to 255)", "std", "resize"]]
    for name, convention in CONVENTIONS.items():
        sharing: dict[tuple[str, ...], list[str]] = {}
        for network, spec in convention.inputs.items():
            values = (spec.colour_order.upper(), numbers(spec.mean), numbers(spec.std), spec.resize)
            sharing.setdefault(values, []).append(network)
        rows += [[f"`{name}`", ", ".join(networks), *values] for values, networks in sharing.items()]
    return rows


def offset_rows() -> list[list[str]]:
    rows = [["codebases", "variances", "order", "background", "else"]]
    sharing: dict[tuple[str, ...], list[str]] = {}
    for name, convention in CONVENTIONS.items():
        offsets = convention.offsets
        values = (numbers(offsets.variances), offsets.order, offsets.background, offsets.note)
        sharing.setdefault(values, []).append(f"`{name}`")
    return rows + [[", ".join(names), *values] for values, names in sharing.items()]


def decay_rows() -> list[list[str]]:
    rows = [["codebase", "`decay_only`", "`weight_decay`", "`bias_lr_factor`", "else", "source"]]
    for name, convention in CONVENTIONS.items():
        decay = convention.decay
        if decay is not None:
            value = "" if decay.value is None else f"{decay.value:g}"
            source = f"{convention.project.split(',')[0]} {convention.sources['decay']}"
            rows.append([f"`{name}`", decay.pulls_on, value, f"{decay.bias_lr_factor:g}", decay.note, source])
    return rows


def layout_rows() -> list[list[str]]:
    rows = [["source", "project and network", "recognised by"]]
    for importer in {(one.name, one.about): one for one in IMPORTERS}.values():
        shown = [f"`{name}`" for name in importer.signature[:2]]
        names = ", ".join(shown) + (f" and {len(importer.signature) - 2} more" if len(importer.signature) > 2 else "")
        rows.append([f"`{importer.name}`", importer.about, names or "its description of the network"])
    return rows


# ---------------------------------------------------------------------------------------------- default boxes


def cell_boxes(spec: PriorSpec, i: int, at: tuple[int, int]) -> torch.Tensor:
    """Boxes of map i's cell in that row and column, cx cy w h, whatever the table's order."""
    (rows, columns), boxes = spec.grids[i], spec.per_cell[i]
    start = sum(spec.per_map[:i])
    level = make_priors(spec)[start : start + spec.per_map[i]]
    if spec.order == "box":
        return level.view(boxes, rows, columns, 4)[:, at[0], at[1]]
    return level.view(rows, columns, boxes, 4)[at]


def middle(spec: PriorSpec, i: int) -> tuple[int, int]:
    """Row and column of map i's middle cell."""
    rows, columns = spec.grids[i]
    return rows // 2, columns // 2


def draw_priors() -> Any:
    """The boxes of a middle cell of the first two maps, one panel for all tables that agree there."""
    panels: dict[tuple, list[str]] = {}
    for name, spec in PRIORS.items():
        cells = (cell_boxes(spec, i, middle(spec, i)).mul(500).round().tolist() for i in (0, 1))
        key = tuple(tuple(sorted(map(tuple, cell))) for cell in cells)
        panels.setdefault(key, []).append(name)
    columns = 5
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 2.85 * rows), squeeze=False, layout="constrained")
    for axis, names in zip(axes.flat, panels.values(), strict=False):
        spec = PRIORS[names[0]]
        scenery(axis, margin=-0.08)
        for i, colour in ((1, COLOURS[1]), (0, COLOURS[0])):
            for box in cell_boxes(spec, i, middle(spec, i)):
                outline(axis, to_corners(box), colour, 1.6)
        maps = " and ".join(f"{high}x{wide}" for high, wide in spec.grids[:2])
        title(axis, names, f"maps {maps} of {'x'.join(map(str, dict.fromkeys(spec.image)))}")
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.suptitle("Default boxes of a middle cell: first map (red) and second map (blue)", fontsize=12)
    return figure


def draw_clips() -> Any:
    """What each way of clipping makes of the boxes of a corner cell."""
    from dataclasses import replace

    plain = PRIORS["ssd300-voc"]
    figure, axes = plt.subplots(2, len(CLIPS), figsize=(11, 6.4), layout="constrained")
    for row, level in ((0, 3), (1, 5)):
        for axis, clip in zip(axes[row], CLIPS, strict=True):
            scenery(axis, margin=0.42 if level == 3 else 0.2)
            boxes, cut = cell_boxes(plain, level, (0, 0)), cell_boxes(replace(plain, clip=clip), level, (0, 0))
            for colour, before, after in zip(cycle(COLOURS), boxes, cut, strict=False):
                outline(axis, to_corners(before), "#8a929c", 0.9, dashes=True)
                outline(axis, to_corners(after), colour, 1.8)
            users = [name for name, spec in PRIORS.items() if spec.clip == clip]
            shown = ", ".join(users[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")
            axis.set_title(f'clip = "{clip}"\n{fold(shown, 36)}' if row == 0 else "", fontsize=8)
        axes[row][0].set_ylabel(f"corner cell of map {level + 1}" if row == 0 else "the cell of map 6")
    figure.suptitle("What clipping makes of ssd300-voc; dashed: not clipped", fontsize=12)
    return figure


# ---------------------------------------------------------------------------------------------- matching

# Two poles, one before the other, that share their best default box; a plank; all three under IoU .5. A ball and a
# ring around it, where the best box of the ring fits the ball better.
OBJECTS = (
    ("pole", (0.094, 0.290, 0.144, 0.620)),
    ("pole", (0.122, 0.280, 0.166, 0.625)),
    ("plank", (0.300, 0.120, 0.800, 0.175)),
    ("ball", (0.501, 0.432, 0.814, 0.800)),
    ("ring", (0.536, 0.439, 0.771, 0.844)),
)


def draw_matching() -> Any:
    priors = make_priors(PRIORS["ssd300-voc"])
    boxes = torch.tensor([box for _, box in OBJECTS])
    overlaps = iou(boxes, to_corners(priors))
    columns = 4
    by_overlap = [name for name, rule in RULES.items() if rule.by_iou_min]  # the others go by more than is drawn
    rows = math.ceil((len(by_overlap) + 1) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 3.3 * rows), layout="constrained")
    first, *others = axes.flat
    objects(first)
    for colour, best in zip(COLOURS, overlaps.argmax(dim=1).tolist(), strict=True):
        outline(first, to_corners(priors[best]), colour, 1.6, dashes=True)
    values = ", ".join(f"{v:.2f}" for v in overlaps.amax(dim=1).tolist())
    first.set_title(f"the objects; dashed: best box of each\nits IoU: {values}", fontsize=8)
    for axis, name in zip(others, by_overlap, strict=False):
        owner = match(priors, boxes, torch.arange(len(boxes)), rule=name).labels - 1
        objects(axis, faint=True)
        counts = []
        for i, colour in enumerate(COLOURS):
            mine = (owner == i).nonzero()[:, 0].tolist()
            counts.append(len(mine))
            for p in mine:
                weak = overlaps[i, p] < 0.5
                outline(axis, to_corners(priors[p]), colour, 2.4 if weak else 0.9)
        axis.set_title(f"{name}\nboxes of each: {', '.join(map(str, counts))}", fontsize=9)
    for axis in others[len(by_overlap) :]:
        axis.axis("off")
    figure.suptitle("Which default boxes each matching rule gives to whom; thick: IoU under .5", fontsize=12)
    return figure


def objects(axis: Axes, faint: bool = False) -> None:
    """The drawn objects on an empty picture."""
    scenery(axis, plain=True)
    alpha = 0.28 if faint else 0.75
    for (kind, (x0, y0, x1, y1)), colour in zip(OBJECTS, COLOURS, strict=True):
        middle, size = ((x0 + x1) / 2, (y0 + y1) / 2), (x1 - x0, y1 - y0)
        if kind in ("ball", "ring"):
            axis.add_patch(Ellipse(middle, *size, color=colour, alpha=alpha, fill=kind == "ball", linewidth=7))
        else:
            axis.add_patch(Rectangle((x0, y0), *size, color=colour, alpha=alpha, linewidth=0))


# ---------------------------------------------------------------------------------------------- mining


def toy() -> tuple[torch.Tensor, torch.Tensor]:
    """-log p(background) [3, 24] of a network with one class, and labels.

    An image with three matches, one with one, one without objects.
    """
    g = torch.Generator().manual_seed(11)
    hardness = torch.rand(3, 24, generator=g).pow(3) * torch.tensor([[1.6], [1.1], [3.2]]) + 0.05
    labels = torch.zeros(3, 24, dtype=torch.long)
    labels[0, [3, 11, 17]] = 1
    labels[1, 8] = 1
    labels[0, 12] = -1
    hardness[labels != 0] += 1.2
    return hardness, labels


def mine(rule: Any) -> tuple[torch.Tensor, torch.Tensor]:
    hardness, labels = toy()
    matches = (labels > 0).sum(dim=1)
    return rule.mine(hardness, labels == 0, matches * 3.0, 0), rule.weigh(matches.float(), matches.sum())


def draw_mining() -> Any:
    hardness, labels = toy()
    figure, axes = plt.subplots(
        len(hardness), len(LOSS_RULES), figsize=(11, 5.2), sharex=True, sharey=True, layout="constrained"
    )
    for column, (name, rule) in enumerate(LOSS_RULES.items()):
        mined, weight = mine(rule)
        for row, axis in enumerate(axes[:, column]):
            colours = np.array([PALE] * hardness.shape[1], dtype=object)
            colours[labels[row].numpy() > 0] = COLOURS[4]
            colours[mined[row].numpy()] = COLOURS[0]
            bars = axis.bar(range(hardness.shape[1]), hardness[row], color=colours, width=0.85)
            for index in (labels[row] < 0).nonzero()[:, 0].tolist():
                bars[index].set(hatch="////", edgecolor="#888888", facecolor="white", linewidth=0.5)
            told = f"{int(mined[row].sum())} negatives, times {weight[row]:.3g}"
            axis.text(0.98, 0.93, told, transform=axis.transAxes, ha="right", va="top", fontsize=8)
            axis.set(xticks=[], yticks=[0, 1, 2, 3], ylim=(0, 3.6))
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
            if column == 0:
                count = int((labels[row] > 0).sum())
                axis.set_ylabel(f"image {row + 1}: {count or 'no'} match{'es' * (count != 1)}", fontsize=8)
        axes[0, column].set_title(name)
    figure.suptitle(
        "Negatives that each loss rule mines (red), by -log p(background) of 24 default boxes and one class;"
        "\ngreen: matched, hatched: ignored, grey: left out. 3 negatives for a match.",
        fontsize=11,
    )
    return figure


# ---------------------------------------------------------------------------------------------- detection


def toy_output() -> tuple[RawOutput, torch.Tensor]:
    """What a network might say of three objects: around each, boxes that agree more or less; doubts elsewhere."""
    g = torch.Generator().manual_seed(5)
    truth = torch.tensor([[0.08, 0.30, 0.40, 0.72], [0.30, 0.34, 0.62, 0.78], [0.66, 0.10, 1.06, 0.52]])
    kinds, votes = [1, 1, 2], 14
    boxes = torch.cat([box + torch.randn(votes, 4, generator=g) * 0.035 for box in truth])
    strength = torch.rand(3, votes, generator=g) * 5 - 1.5
    logits = torch.zeros(3 * votes + 30, 3)
    for i, kind in enumerate(kinds):
        rows = slice(i * votes, (i + 1) * votes)
        logits[rows, kind] = strength[i]
        logits[rows, 3 - kind] = strength[i] - 2.2
    corner = torch.rand(30, 2, generator=g) * 0.8
    doubts = torch.cat([corner, corner + 0.08 + torch.rand(30, 2, generator=g) * 0.2], dim=1)
    logits[3 * votes :, 1:] = torch.randn(30, 2, generator=g) * 0.8 - 3.2
    priors = torch.tensor([[0.5, 0.5, 0.4, 0.4]]).expand(len(logits), 4)
    return RawOutput(encode(torch.cat([boxes, doubts]), priors)[None], logits[None]), priors


def draw_detection() -> Any:
    raw, priors = toy_output()
    panels: dict[tuple, list[str]] = {}
    results = {}
    for name, rule in DETECTION.items():
        (found,) = to_detections(raw, priors, **rule.for_postprocess())
        key = tuple(found.scores.mul(1e4).round().tolist()), tuple(found.boxes.flatten().mul(1e3).round().tolist())
        panels.setdefault(key, []).append(name)
        results[name] = found
    columns = 5
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 2.95 * rows), squeeze=False, layout="constrained")
    for axis, names in zip(axes.flat, panels.values(), strict=False):
        found = results[names[0]]
        scenery(axis, plain=True, margin=0.1)
        for box, score, label in reversed(list(zip(*found, strict=True))):
            outline(axis, box, COLOURS[int(label)], 0.5 + 2.2 * float(score), alpha=max(0.25, float(score)))
        title(axis, names, f"{len(found.scores)} boxes")
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.suptitle(
        "One output of 72 boxes and two classes under each detection preset; thin: a low score", fontsize=12
    )
    return figure


# ---------------------------------------------------------------------------------------------- drawing


def scenery(axis: Axes, margin: float = 0.0, plain: bool = False) -> None:
    """The same small landscape under everything, in 0..1 with y downwards."""
    axis.add_patch(Rectangle((0, 0), 1, 1, color="#f4f6f8" if plain else "#e4eef5", linewidth=0))
    if not plain:
        hills = Polygon([(0, 1), (0, 0.7), (0.2, 0.58), (0.45, 0.72), (0.75, 0.55), (1, 0.68), (1, 1)])
        hills.set(color="#dfe9d5", linewidth=0)
        axis.add_patch(hills)
        axis.add_patch(Circle((0.83, 0.17), 0.07, color="#f7e6b5", linewidth=0))
        axis.add_patch(Rectangle((0.43, 0.46), 0.15, 0.14, color="#e3d3c4", linewidth=0))
        axis.add_patch(Polygon([(0.40, 0.46), (0.505, 0.36), (0.61, 0.46)], color="#d9b8ae", linewidth=0))
    axis.set(xlim=(-margin, 1 + margin), ylim=(1 + margin, -margin), xticks=[], yticks=[], aspect="equal")
    for spine in axis.spines.values():
        spine.set(color=PALE)
    if margin:
        axis.add_patch(Rectangle((0, 0), 1, 1, fill=False, color="#8a929c", linewidth=0.8))


def outline(axis: Axes, box: Any, colour: str, width: float, dashes: bool = False, alpha: float = 1.0) -> None:
    x0, y0, x1, y1 = (float(v) for v in box)
    style = (0, (4, 3)) if dashes else "solid"
    axis.add_patch(
        Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=colour, linewidth=width, linestyle=style, alpha=alpha)
    )


def title(axis: Axes, names: list[str], below: str) -> None:
    shown = [*names[:3], *([f"and {len(names) - 3} more"] if len(names) > 3 else [])]
    axis.set_title("\n".join([*shown, below]), fontsize=7.5, linespacing=1.15)


def fold(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))


if __name__ == "__main__":
    main()

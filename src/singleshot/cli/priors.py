"""`singleshot priors`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from singleshot.cli.common import JsonOption

priors_app = typer.Typer(help="Default boxes: what the models look for.", no_args_is_help=True)


@priors_app.callback()
def _group() -> None:
    """Default boxes: what the models look for."""


@priors_app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="A table of default boxes; without it, all models and tables.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the models with their default boxes, or one table in full.

    Example: singleshot priors show ssd300-voc
    """
    from singleshot.prior_boxes import cell_shapes
    from singleshot.prior_tables import PRIORS, SOURCES, prior_spec

    if name is None:
        from singleshot.presets import MODELS

        rows = {
            key: {"about": m.about, "priors": m.priors, "count": PRIORS[m.priors].count, "input": m.input_spec.size}
            for key, m in MODELS.items()
        }
        if as_json:
            print(json.dumps({"models": rows, "tables": list(PRIORS), "sources": SOURCES}))
            return
        print("models")
        for key, row in rows.items():
            print(f"{key:<28} {row['input']} px  {row['count']:>6} priors ({row['priors']})  {row['about']}")
        print("\ntables")
        for key, source in SOURCES.items():
            print(f"{key:<28} {PRIORS[key].image_size} px  {PRIORS[key].count:>6} priors  {source}")
        return
    spec = prior_spec(name)
    if as_json:
        print(json.dumps({"name": name, "source": SOURCES[name], "count": spec.count, **spec.to_dict()}))
        return
    print(f"{name}: {spec.count} priors on an input of {spec.image_size} px, clip {spec.clip}, order {spec.order}")
    print(f"  from {SOURCES[name]}")
    for i, ((high, wide), boxes) in enumerate(zip(spec.grids, spec.per_cell, strict=True)):
        shapes = ", ".join(f"{w:.1f}x{h:.1f}" for w, h in cell_shapes(spec, i))
        print(f"  {high:>3} x {wide:<3} cells, step {spec.step(i)[0]:.4g} px, {boxes} a cell: {shapes}")

"""Rows of text as aligned columns."""

from __future__ import annotations

from collections.abc import Sequence


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table by its rows, the head first: names and columns without a head to the left, others to the right.

    East Asian wide characters take two columns of a terminal.
    """
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for k, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell_len(cell))
            cells.append(cell + space if k == 0 or not rows[0][k] else space + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def format_rate(rate: float) -> str:
    """A number per second with a decimal, one under 1 with two digits that count: "12.3", "0.021"."""
    return f"{rate:.1f}" if rate >= 1 or rate <= 0 else f"{rate:.2g}"

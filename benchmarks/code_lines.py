"""How much code there is: lines that hold code, without docstrings, comments and blank lines.

    python benchmarks/code_lines.py [FOLDER]

Prints a line for each room of src/singleshot (or of FOLDER) and the sum.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(text: str) -> int:
    """Lines of a Python file that hold code."""
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "src" / "singleshot"
    counts: Counter[str] = Counter()
    for path in sorted(folder.rglob("*.py")):
        counts[path.relative_to(folder).parts[0].removesuffix(".py")] += code_lines(path.read_text())
    for room, count in counts.most_common():
        print(f"{count:7d}  {room}")
    print(f"{sum(counts.values()):7d}  in total")


if __name__ == "__main__":
    main()

"""Public functions without a docstring, and functions of many parameters.

    python benchmarks/interfaces.py [--most 8]

Public: no part of the name starts with an underscore; special methods, overloads and functions inside functions are
left out.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "singleshot"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """(name, definition) of the functions and methods of a module or class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if not any(getattr(d, "id", getattr(d, "attr", "")) == "overload" for d in child.decorator_list):
                yield f"{prefix}{child.name}", child
        elif isinstance(child, (ast.If, ast.Try)):
            yield from functions(child, prefix)


def parameters(function: Function) -> int:
    """How many it has, self and cls left out."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([one for one in every if one.arg not in ("self", "cls")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=8)
    most = parser.parse_args().most
    public, bare, wide = 0, [], []
    for path in sorted(SOURCE.rglob("*.py")):
        for name, function in functions(ast.parse(path.read_text())):
            where = f"{path.relative_to(SOURCE)}:{function.lineno} {name}"
            if parameters(function) > most:
                wide.append(f"{parameters(function):3d}  {where}")
            if not any(part.startswith("_") for part in name.split(".")):
                public += 1
                if not ast.get_docstring(function):
                    bare.append(where)
    print(f"{len(bare)} of {public} public functions have no docstring", *bare, sep="\n  ")
    print(f"{len(wide)} functions have more than {most} parameters", *sorted(wide, reverse=True), sep="\n  ")


if __name__ == "__main__":
    main()

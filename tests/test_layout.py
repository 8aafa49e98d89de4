"""The import law, the layout of the tree, and that importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "singleshot"

# Upper rows first: a room may import those at or above its own number.
ROWS = {
    "errors": 0, "records": 0, "thresholds": 1, "description": 1, "inputs": 1, "boxes": 1, "prior_boxes": 1,
    "priors": 1, "files": 1, "memory": 1,
    "matching": 2, "losses": 2, "postprocess": 2,
    "metrics": 3, "models": 3,
    "data": 4, "runtime": 5, "report": 5, "weights": 5, "training": 6, "deploy": 6, "serve": 7, "cli": 8,
}  # fmt: skip
PURE = ["errors", "records", "thresholds", "description", "inputs", "boxes", "prior_boxes", "priors", "matching",
        "losses", "postprocess", "metrics", "models"]  # fmt: skip
TORCH = {"torch", "torchvision", "timm", "jaxtyping"}


def imports_of(path: Path, typing_too: bool = False) -> set[tuple[str, bool]]:
    """(module, at import time) of every import in a file; those under TYPE_CHECKING only when asked for."""
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not typing_too:
            skipped |= {id(child) for part in node.body for child in ast.walk(part)}
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {(alias.name, id(node) not in inside) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "", id(node) not in inside))
            if node.module == "singleshot":
                found |= {(f"singleshot.{alias.name}", id(node) not in inside) for alias in node.names}
    return found


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "singleshot" and len(parts) > 1 else None


FILES = sorted(p for p in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_lower_row_imports_an_upper_row_never_the_reverse(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    assert own in ROWS, f"{own}: a new room; say in which row it is"
    for module, _ in imports_of(path):
        other = room(module)
        if other is not None and other in ROWS and other != own:
            assert ROWS[other] <= ROWS[own], f"{path.name} imports {module}, which is below it"


@pytest.mark.parametrize("name", PURE)
def test_pure_rooms_touch_no_files_network_clock_or_settings(name: str) -> None:
    banned = {"os", "pathlib", "socket", "urllib", "requests", "time", "logging", "random", "typer", "pydantic"}
    place = PACKAGE / name
    for path in [*place.rglob("*.py")] if place.is_dir() else [place.with_suffix(".py")]:
        used = {module.split(".")[0] for module, _ in imports_of(path)}
        assert not used & banned, f"{path}: {used & banned}"


def test_the_runtime_never_imports_torch_not_even_through_others() -> None:
    seen: set[str] = set()
    queue = [f"singleshot.{p.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')}"
             for p in (PACKAGE / "runtime").rglob("*.py")]  # fmt: skip
    assert queue
    while queue:
        module = queue.pop().removesuffix(".__init__")
        if module in seen:
            continue
        seen.add(module)
        place = PACKAGE / "/".join(module.split(".")[1:])
        path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if not path.exists() or path == PACKAGE / "__init__.py":
            continue
        for other, _ in imports_of(path):  # those inside functions too
            assert other.split(".")[0] not in TORCH, f"{module} imports {other}"
            if other.startswith("singleshot"):
                queue.append(other)


def test_importing_does_nothing_and_is_light() -> None:
    code = (
        "import sys, singleshot, singleshot.cli, singleshot.runtime.detector, singleshot.metrics;"
        "heavy = {'torch', 'matplotlib', 'pydantic', 'tensorboard', 'faster_coco_eval'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


def test_files_stay_short() -> None:
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 420}
    assert not long


def test_the_tree_in_the_readme_is_the_tree() -> None:
    readme = (ROOT / "README.md").read_text()
    names = {p.name for p in PACKAGE.iterdir() if not p.name.startswith("__") and p.suffix in ("", ".py")}
    missing = [n for n in sorted(names) if f"  {n}" not in readme]
    assert not missing, f"the README's picture of the tree lacks {missing}"

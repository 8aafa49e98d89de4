"""The import law, the layout of the tree, and that importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "singleshot"

# Who may import whom, room by room: the groups of the README's picture, upper groups first. A room may import every
# room of the groups above its own ("*" stands for them), and of its own group those named here.
GROUPS: dict[str, dict[str, set[str]]] = {
    "ground": {
        "_version": set(), "text_table": set(), "errors": set(), "text": {"errors"}, "records": set(),
        "class_selection": {"errors"},
        "extras": {"errors"}, "files": {"errors"}, "hub": {"errors", "extras"}, "remote_file": {"errors", "extras"},
        "storage": {"errors", "extras", "remote_file"}, "devices": {"errors"},
        "memory": set(), "timing": set(), "pretrained": set(),
    },
    "SSD itself": {
        "boxes": set(), "prior_boxes": set(), "inputs": set(), "thresholds": set(), "presets": {"inputs"},
        "prior_tables": {"prior_boxes"},
        "convention_records": {"prior_boxes", "prior_tables", "inputs", "thresholds"},
        "conventions_faces": {"convention_records", "inputs", "thresholds"},
        "conventions": {"convention_records", "conventions_faces", "inputs", "thresholds"},
        "input_shape": {"inputs", "prior_boxes"}, "tiling": {"inputs"},
        "priors": {"prior_boxes", "prior_tables"},
        "prior_coverage": {"prior_boxes"},
        "prior_fitting": {"prior_boxes", "prior_coverage"},
        "assigners": {"boxes", "prior_boxes"}, "matching": {"boxes", "prior_boxes", "assigners"},
        "explaining": {"boxes", "postprocess", "prior_boxes", "thresholds"},
        "survivors": {"boxes", "explaining", "postprocess", "thresholds"},
        "counterfactuals": {"explaining", "thresholds"},
        "missed": {"boxes", "counterfactuals", "explaining", "postprocess", "survivors", "thresholds"},
        "losses": {"boxes"}, "sigmoid_losses": {"boxes", "losses"},
        "box_voting": {"boxes", "thresholds"}, "postprocess": {"box_voting", "boxes", "thresholds"},
        "metrics": set(),
        "models": {"priors", "prior_boxes", "prior_tables", "inputs", "input_shape", "presets", "conventions"},
    },
    "without torch": {
        "model_info": set(),
        "importable": set(),
        "prior_files": set(),
        "images": set(),
        "datasets": {"images"},
        "scenes": {"datasets"},
        "runtime": {"images", "model_info"},
    },
    "with torch": {
        "loading": set(),
        "weights": set(),
        "evaluation": {"loading", "weights"},
        "training": {"loading", "weights", "evaluation"},
        "deploy": {"weights", "evaluation", "loading"},
        "bench": {"weights", "evaluation", "deploy"},
        "report": set(),
    },
    "use cases": {"api": set()},
    "doors": {"client": set(), "serve": set(), "cluster": set(), "cli": {"serve", "cluster"}},
}  # fmt: skip
# The pure rooms touch none of these; the ground is there for whoever does.
PURE_GROUP = "SSD itself"
NOT_PURE = {"os", "pathlib", "socket", "urllib", "requests", "time", "logging", "random", "typer", "pydantic"}
NOT_PURE |= {f"singleshot.{room}" for room in ("files", "hub", "storage", "devices", "memory", "timing")}
# The runtime half and what it may reach. `devices` speaks of PyTorch's devices in functions that import it themselves.
TORCH_FREE = (
    "images",
    "scenes",
    "datasets",
    "runtime",
    "serve",
    "client",
    "model_info",
    "importable",
    "presets",
    "prior_files",
)
TORCH_FREE_FILES = (
    "singleshot.evaluation.engine_loop",
    "singleshot.evaluation.measured_classes",
    *(
        f"singleshot.report.{path.stem}"
        for path in sorted((PACKAGE / "report").glob("[a-z]*.py"))
        if path.stem not in ("explain_image", "explanation")  # which are about a network
    ),
)
# What a user of the runtime half imports too: they may reach torch in functions, where they say which extra is missing.
TORCH_FREE_WHEN_IMPORTED = ("__init__", "__main__", "api", "cli")
TORCH = {"torch", "torchvision", "timm", "jaxtyping"}
FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def modules() -> dict[str, Path]:
    names = {}
    for path in FILES:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(("singleshot", *(p for p in parts if p != "__init__")))] = path
    return names


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports_of(path: Path) -> frozenset[tuple[str, bool]]:
    """(module, at import time) of every import in a file, those inside functions too, those under TYPE_CHECKING not."""
    tree = parsed(path)
    skipped: set[int] = set()
    lazy: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped |= {id(child) for part in node.body for child in ast.walk(part)}
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lazy |= {id(child) for child in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules() else node.module or "" for name in whole]
        found |= {(name, id(node) not in lazy) for name in names}
    return frozenset(found)


def own(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def allowed(room: str) -> set[str]:
    above: set[str] = set()
    for rooms in GROUPS.values():
        if room in rooms:
            return above | rooms[room] | {room}
        above |= rooms.keys()
    raise AssertionError(f"{room}: a new room; say in which group it is, and whom it may import")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_whom_it_may(path: Path) -> None:
    room = own(path)
    if room in ("__init__", "__main__"):
        return
    for module, _ in imports_of(path):
        parts = module.split(".")
        if parts[0] == "singleshot":
            other = parts[1] if len(parts) > 1 else "the package itself"
            assert other in allowed(room), f"{path.relative_to(PACKAGE)} imports {module}"


def test_no_module_reaches_itself_lazy_imports_counted() -> None:
    edges = {name: {m for m, _ in imports_of(path) if m in modules()} for name, path in modules().items()}
    left = dict(edges)
    while free := [name for name, others in left.items() if not others & left.keys() - {name}]:
        for name in free:
            del left[name]
    # What is left is in a cycle or leads to one; those that nothing left imports only lead to it.
    while ends := [name for name in left if not any(name in left[other] for other in left if other != name)]:
        for name in ends:
            del left[name]
    assert not left, f"modules that import each other: {sorted(left)}"


@pytest.mark.parametrize("name", GROUPS[PURE_GROUP])
def test_pure_rooms_touch_no_files_network_clock_or_settings(name: str) -> None:
    place = PACKAGE / name
    for path in [*place.rglob("*.py")] if place.is_dir() else [place.with_suffix(".py")]:
        used = {module for module, _ in imports_of(path)} if path.exists() else set()
        used |= {module.split(".")[0] for module in used}
        assert not used & NOT_PURE, f"{path}: {used & NOT_PURE}"


def test_the_runtime_half_never_imports_torch_not_even_through_others() -> None:
    start = [name for name, path in modules().items() if own(path) in TORCH_FREE] + [*TORCH_FREE_FILES]
    assert_no_torch(start, lazy=True)


def test_importing_the_use_cases_and_commands_never_imports_torch() -> None:
    assert_no_torch([name for name, path in modules().items() if own(path) in TORCH_FREE_WHEN_IMPORTED], lazy=False)


def assert_no_torch(start: list[str], lazy: bool) -> None:
    """None of the modules reaches torch, through others neither; lazy: nor by imports inside functions."""
    assert start
    queue, seen = list(start), set(start)
    while queue:
        module = queue.pop()
        for other, at_import in imports_of(modules()[module]):
            if not at_import and (module == "singleshot.devices" or not lazy):
                continue
            assert other.split(".")[0] not in TORCH, f"{module} imports {other}"
            if other in modules() and other not in seen and other != "singleshot":
                seen.add(other)
                queue.append(other)


# The stages of an image's way through the runtime, in order (engines come after tiles). detector.py strings them
# together; prefetch.py and batching.py are its mechanics.
STAGES = ("sources", "decoding", "preparing", "tiles", "pixels", "merging", "detections")


def test_a_stage_of_the_runtime_knows_only_the_stages_before_it() -> None:
    for number, stage in enumerate(STAGES):
        later = {f"singleshot.runtime.{name}" for name in (*STAGES[number + 1 :], "detector", "prefetch", "batching")}
        used = {module for module, _ in imports_of(PACKAGE / "runtime" / f"{stage}.py")}
        assert not used & later, f"runtime/{stage}.py imports {used & later}"


# Who may import a module by a name in a string, which the tests above cannot follow: the table of engines, one row of
# which is PyTorch's, opened only when a checkpoint is; the service's explanations, which PyTorch makes,
# where it is installed and a model allows them; the zoo and bench's worker, by rows of their tables; and rooms that
# import their own public names late.
BY_STRING = {
    "runtime/engines/table.py",
    "serve/explaining.py",
    "models/zoo.py",
    "bench/worker.py",
    "runtime/__init__.py",
    "__init__.py",
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_are_imported_by_a_string_in_few_places(path: Path) -> None:
    calls = [node.func for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    names = {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}
    assert not names & {"import_module", "__import__"} or str(path.relative_to(PACKAGE)) in BY_STRING


def test_engines_of_exported_files_are_in_the_half_without_torch() -> None:
    from singleshot.runtime.engines.table import ENGINES

    for name, row in ENGINES.items():
        module = row.opener.partition(":")[0]
        assert module in modules()
        assert (module.split(".")[1] in TORCH_FREE) == (row.package not in TORCH), name
    code = "import sys, singleshot.runtime.engines.table; assert not {'numpy', 'cv2', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_does_nothing_and_is_light() -> None:
    code = (
        "import sys, singleshot.cli; assert not {'numpy', 'cv2'} & set(sys.modules);"
        "import singleshot.api.train, singleshot.runtime.detector, singleshot.metrics;"
        "heavy = {'torch', 'matplotlib', 'pydantic', 'tensorboard', 'faster_coco_eval'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


def test_files_stay_short() -> None:
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 420}
    assert not long


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_functions_have_a_docstring(path: Path) -> None:
    def bare(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and child.name[0] != "_":
                is_overload = any(ast.unparse(one).endswith("overload") for one in child.decorator_list)
                if not isinstance(child, ast.ClassDef) and not ast.get_docstring(child) and not is_overload:
                    yield child.name
                if isinstance(child, ast.ClassDef):
                    yield from bare(child)

    assert not list(bare(parsed(path)))


def test_the_tree_in_the_docs_is_the_tree() -> None:
    page = (ROOT / "docs/layout.md").read_text()
    names = {p.name for p in PACKAGE.iterdir() if not p.name.startswith("__") and p.suffix in ("", ".py")}
    missing = [n for n in sorted(names) if f"  {n} " not in page]
    assert not missing, f"docs/layout.md lacks {missing}"

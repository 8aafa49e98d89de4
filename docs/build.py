"""Builds the site: docs/ and an API reference made from the docstrings, each page as HTML and Markdown, and llms.txt.

python docs/build.py [--out site]      # what `make docs` runs; needs no network
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parents[1]
STAGE = ROOT / "build" / "docs"
# Pages that lie outside docs/, and what links in docs/ call them.
ELSEWHERE = {
    "index.md": ROOT / "README.md",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "changelog.md": ROOT / "CHANGELOG.md",
    "benchmarks.md": ROOT / "benchmarks" / "README.md",
}
LINKS = (
    (r"\]\((?:\.\./)?docs/", "]("),
    (r"\]\((?:\.\./)?benchmarks/README\.md", "](benchmarks.md"),
    (r"\]\((?:\.\./)?CONTRIBUTING\.md", "](contributing.md"),
    (r"\]\((?:\.\./)?CHANGELOG\.md", "](changelog.md"),
    (r"\]\((?:\.\./)?README\.md", "](index.md"),
)
# The rooms whose public names make the reference, in its order.
ROOMS = (
    "singleshot", "singleshot.runtime", "singleshot.datasets", "singleshot.models", "singleshot.weights",
    "singleshot.priors", "singleshot.boxes", "singleshot.matching", "singleshot.assigners",
    "singleshot.losses", "singleshot.sigmoid_losses", "singleshot.postprocess",
    "singleshot.thresholds", "singleshot.inputs", "singleshot.metrics", "singleshot.records", "singleshot.errors",
    "singleshot.client",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "site")
    out = parser.parse_args().out
    shutil.rmtree(STAGE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", STAGE, ignore=shutil.ignore_patterns("*.py"))
    for name, source in ELSEWHERE.items():
        (STAGE / name).write_text(source.read_text())
    (STAGE / "reference.md").write_text("\n".join(reference()))
    for page in STAGE.glob("*.md"):
        text = page.read_text()
        for link, target in LINKS:
            text = re.sub(link, target, text)
        page.write_text(text)
    zensical = Path(sys.executable).with_name("zensical")
    subprocess.run([zensical, "build", "--clean", "--config-file", ROOT / "zensical.toml"], check=True, cwd=ROOT)
    built = ROOT / "site"
    for page in STAGE.glob("*.md"):
        shutil.copy(page, built / page.name)
    (built / "llms.txt").write_text("\n".join(summary()))
    if out.resolve() != built:
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(built, out)
    print(f"written: {out}")


def reference() -> Iterator[str]:
    """The API reference as lines of Markdown: every public name of the rooms, its signature and its docstring."""
    package = griffe.load("singleshot", search_paths=[ROOT / "src"], resolve_aliases=True)
    yield "# API reference\n"
    for room in ROOMS:
        module = package if room == "singleshot" else package[room.removeprefix("singleshot.")]
        yield f"## {room}\n"
        yield _text(module)
        for name in module.exports or sorted(n for n in module.members if not n.startswith("_")):
            member = module.members.get(str(name))
            if member is None or (
                member.is_alias and not (module.exports and member.target_path.startswith("singleshot."))
            ):
                continue
            target = member.final_target if member.is_alias else member
            if target.is_function or target.is_class:
                yield from _member(room, str(name), target)


def _member(room: str, name: str, target: griffe.Object) -> Iterator[str]:
    yield f"### {room}.{name}\n"
    if target.is_function:
        yield f"```python\n{_signature(target, name)}\n```\n"
    yield _text(target)
    if target.is_class:
        for key, method in target.members.items():
            if not key.startswith("_") and not method.is_alias and method.is_function and method.docstring:
                yield f"#### {name}.{key}\n"
                yield f"```python\n{_signature(method, key)}\n```\n"
                yield _text(method)


def _signature(function: griffe.Function, name: str) -> str:
    parts = []
    starred = False
    for p in function.parameters:
        kind = str(p.kind.value if p.kind else "")
        if kind == "keyword-only" and not starred:
            parts, starred = [*parts, "*"], True
        starred = starred or kind == "variadic positional"
        star = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        note = f": {p.annotation}" if p.annotation else ""
        default = f" = {p.default}" if p.default is not None and not star else ""
        parts.append(f"{star}{p.name}{note}{default}")
    line = f"def {name}({', '.join(parts)}) -> {function.returns}"
    return line if len(line) <= 100 else f"def {name}(\n    " + ",\n    ".join(parts) + f",\n) -> {function.returns}"


def _text(target: griffe.Object) -> str:
    return (target.docstring.value.strip() if target.docstring else "") + "\n"


def summary() -> Iterator[str]:
    """llms.txt: the pages, each with its first sentence."""
    yield "# singleshot\n\n> An SSD (Single Shot MultiBox Detector) toolkit: train, evaluate, detect, import.\n"
    for page in sorted(STAGE.glob("*.md")):
        title, _, body = page.read_text().removeprefix("# ").partition("\n")
        prose = [part for part in body.split("\n\n") if part.strip() and part.lstrip()[0] not in "`<|#!-"]
        first = re.split(r"(?<=[.:])\s", " ".join(prose[0].split()))[0] if prose else ""
        yield f"- [{title}]({page.name}): {first.rstrip(':.')}"


if __name__ == "__main__":
    main()

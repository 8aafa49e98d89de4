"""Every code block of the README, CONTRIBUTING.md and docs runs, in a folder that holds what the pages name.

A block runs after those above it on its page; the command by which a fixture exported the trained model is not run
again for another name of the file. One that cannot run here has a comment above its fence, `<!-- not run: REASON -->`,
with one of the reasons below; its commands must still be ones that the command line takes.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import pytest
import typer

from singleshot.cli import app
from singleshot.scenes.scenes import write_scenes

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("CONTRIBUTING.md")), *sorted((ROOT / "docs").glob("*.md"))]
PAGES.append(ROOT / "models" / "README.md")
NOT_RUN = {
    "sets up an environment",
    "a network",
    "another project's file",
    "a camera",
    "a GPU",
    "several machines",
    "minutes",
    "minutes, a network and other projects' files",
    "a part of a file",
    "waits for a person",
}
# Pages speak of trainings as a user has them; here they are short, and the model is small.
SHORTER = {
    "--time 20m": "--epochs 1",
    "--time 40m": "--epochs 2",
    "--epochs 100": "--epochs 1",
    'time="20m"': "epochs=1, size=160",
    "--size 288x512": "--size 96x160",
    "--tile 200 --fit-priors": "--tile 200 --fit-priors --size 160",
    "path/to/data/JPEGImages --no-draw": "photos --no-draw",
    "(320, 320))  # the sides of the model's input": "(160, 160))",
    "epochs=100": "epochs=1, size=160",
}


class Block(NamedTuple):
    language: str
    text: str
    line: int
    reason: str | None


def blocks_of(page: Path) -> Iterator[Block]:
    lines = page.read_text().splitlines()
    i = 0
    while i < len(lines):
        if lines[i].lstrip().startswith("```"):
            start, language = i + 1, lines[i].strip(" `")
            end = next(k for k in range(start, len(lines)) if lines[k].lstrip().startswith("```"))
            marked = re.fullmatch(r"<!-- not run: (.*) -->", lines[i - 1].strip()) if i else None
            text = textwrap.dedent("\n".join(lines[start:end]))
            yield Block(language, text, start, marked[1] if marked else None)
            i = end
        i += 1


def commands(text: str) -> Iterator[list[str]]:
    """The words of each line; a backslash at its end joins the next."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def refuse_unknown(words: list[str]) -> None:
    """The command, its sub-command and its options must exist."""
    command = typer.main.get_command(app)
    context = command.make_context("singleshot", [], resilient_parsing=True)
    rest = words[1:]
    while hasattr(command, "commands"):
        assert rest, words
        assert rest[0] in command.commands, f"no command {rest[0]!r} in: {shlex.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {name for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if word.startswith("-") and word != "-":
            assert word.split("=")[0] in known, f"no option {word} in: {shlex.join(words)}"


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "small"
    write_scenes(folder, train=6, test=2, val=2)
    return folder


@pytest.fixture
def stage(tmp_path: Path, small: Path, trained: Path) -> Path:
    """What the pages name: a data set, photos, a trained model, its exported file."""
    photos = sorted((small / "JPEGImages").iterdir())
    (tmp_path / "path/to").mkdir(parents=True)
    (tmp_path / "path/to/data").symlink_to(small)
    (tmp_path / "models").symlink_to(ROOT / "models")
    for folder in ("photos", "panels", "more"):
        (tmp_path / folder).mkdir()
        shutil.copy(photos[0], tmp_path / folder / f"a{photos[0].suffix}")
    for name in ("photo.jpg", "panel.jpg", "photos/b.jpg", "more/c.png"):
        assert cv2.imwrite(str(tmp_path / name), cv2.imread(str(photos[1])))
    shutil.copy(ROOT / "tests/cli/clip.mp4", tmp_path / "clip.mp4")
    shutil.copytree(trained, tmp_path / "runs/mine")
    return tmp_path


def shorter(text: str) -> str:
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return text


def smaller(words: list[str]) -> list[str]:
    """A training's input, where the page leaves it to the model: a quarter of the pixels."""
    own = {"--size", "--start", "--resume", "--tile", "--priors"} & set(words)
    return [*words, "--size", "160"] if words[0] == "train" and not own else words


def exported_by_the_fixture(words: list[str]) -> bool:
    """Whether the command is the one that `exported` ran already, but for the name of the file."""
    return words[1:-1] == ["export", "runs/mine/best.safetensors", "--out"] and Path(words[-1]).suffix == ".onnx"


def page_id(page: Path) -> str:
    """Two of them are called README.md."""
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_block_of_the_page_runs(page: Path, stage: Path, exported: Path, run) -> None:
    if "--out mine.onnx" not in page.read_text():
        shutil.copy(exported, stage / "mine.onnx")
    for block in blocks_of(page):
        where = f"{page_id(page)}:{block.line}"
        if block.reason is not None:
            assert block.reason in NOT_RUN, f"{where}: {block.reason}"
        if block.language == "bash":
            for words in commands(shorter(block.text)):
                if words[0] == "singleshot":
                    refuse_unknown(words)
                if block.reason is None:
                    assert words[0] == "singleshot", f"{where}: {words[0]} is not run by this test"
                    if exported_by_the_fixture(words):
                        shutil.copy(exported, stage / words[-1])
                        continue
                    done = run(*smaller(words[1:]), cwd=stage)
                    assert done.returncode == 0, f"{where}: {shlex.join(words)}\n{done.stdout}{done.stderr}"
        elif block.language == "python":
            if block.reason != "a part of a file":
                compile(block.text, where, "exec")
            if block.reason is None:
                done = run("-c", shorter(block.text), cwd=stage)
                assert done.returncode == 0, f"{where}:\n{done.stdout}{done.stderr}"
        elif block.language == "toml":
            tomllib.loads(block.text)
            if "recipe" in block.text.splitlines()[0]:
                from singleshot.training.recipes import load_recipe

                (stage / "page.toml").write_text(block.text)
                load_recipe(str(stage / "page.toml"))
        elif block.language == "json":
            json.loads(block.text)
        else:
            assert block.language == "text", f"{where}: say what language the block is in ({block.language!r})"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_code_hides_in_an_indented_block(page: Path) -> None:
    outside = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.S | re.M)
    hidden = [line for line in outside.splitlines() if re.match(r"    (singleshot|python|pip|import|from|make) ", line)]
    assert not hidden, f"{page.name}: want fenced blocks, which run: {hidden}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "benchmarks/README.md", ROOT / "CHANGELOG.md"], ids=page_id)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    if not page.exists():
        return
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"

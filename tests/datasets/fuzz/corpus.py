"""The corpus: case number -> a small data set with something wrong in it. The same number is the same case anywhere."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import NamedTuple

from bases import FORMS, Files, make_base
from mutations import IMAGES, NAMES, OUTSIDE, mangle, mutate_structure, recode, rename_everywhere

SEED = 20240607


class Special(NamedTuple):
    """An entry on the disk that is no file. kind: link, pipe, folder or gone; target: of a link."""

    kind: str
    target: str = ""


class Case(NamedTuple):
    """about: what was done; files: name -> bytes or a special entry; named: the file to give in place of the folder."""

    number: int
    form: str
    about: str
    files: dict[str, bytes | Special]
    named: str

    @property
    def turn(self) -> int:
        """Which case of its form it is: what is done with some cases only is done with each form."""
        return self.number // len(FORMS)


def make_case(number: int, seed: int = SEED) -> Case:
    """Build a case; nothing is written."""
    rng = Random(f"{seed} {number}")
    form = list(FORMS)[number % len(FORMS)]
    base = make_base(rng, form)
    files: dict[str, bytes | Special] = dict(base)
    told = []
    for _ in range(rng.choice((1, 1, 1, 1, 2))):
        about, files = _spoil(rng, base, files)
        told.append(about)
    labels = [name for name in files if "/" not in name and name.endswith((".json", ".yaml", ".csv"))]
    named = rng.choice(labels) if labels and rng.random() < 0.2 else ""
    return Case(number, form, "; ".join(told), files, named)


def _spoil(rng: Random, base: Files, files: dict[str, bytes | Special]) -> tuple[str, dict[str, bytes | Special]]:
    plain = {name: data for name, data in files.items() if isinstance(data, bytes)}
    images = sorted(name for name in plain if name.endswith(IMAGES))
    labels = sorted(set(plain) - set(images))
    dice = rng.random()
    if dice < 0.06:
        changed, about = rename_everywhere(rng, plain)
        return about, {**changed, **{name: obj for name, obj in files.items() if isinstance(obj, Special)}}
    if dice < 0.22 or not plain:
        return _replace(rng, files)
    name = rng.choice(images if images and (dice < 0.45 or not labels) else labels)
    data = plain[name]
    if name in images or dice < 0.60:
        about, data = "bytes", mangle(rng, data)
    elif dice < 0.65:
        about, data = "coding", recode(rng, data)
    else:
        try:
            about, data = "structure", mutate_structure(rng, name, data)
        except Exception:  # spoilt once already, so that its format is no longer there
            about, data = "bytes", mangle(rng, data)
    return f"{about} of {name}", {**files, name: data}


def _replace(rng: Random, files: dict[str, bytes | Special]) -> tuple[str, dict[str, bytes | Special]]:
    """A file or folder that is gone, or something else than it was."""
    name = rng.choice(sorted(files))
    folders = sorted({"/".join(parts[:k]) for n in files for parts in [n.split("/")] for k in range(1, len(parts))})
    if folders and rng.random() < 0.25:
        folder = rng.choice(folders)
        obj = rng.choice((
            Special("link", OUTSIDE), Special("link", "."), Special("link", ".."), Special("link", "../.."), b"a file",
            Special("pipe"), Special("folder"), Special("link", folder.rpartition("/")[2]),
        ))  # fmt: skip
        kept = {n: held for n, held in files.items() if not n.startswith(folder + "/")}
        return f"folder {folder} is {obj}", {**kept, folder: obj}
    ending = name.rpartition(".")[2]
    how = rng.randrange(6)
    if how == 0:
        other = rng.choice(sorted(files))
        return f"{name} and {other} are swapped", {**files, name: files[other], other: files[name]}
    if how == 1:
        folder, slash, last = name.rpartition("/")
        odd = rng.choice((
            last.upper(), last + ".bak", last.rpartition(".")[0], f"{rng.choice(NAMES)[:60]}.{ending}", f".{last}",
            f"{last.rpartition('.')[0]}.{rng.choice(('jpg', 'png', 'txt', 'json', 'xml', 'csv', 'tar', 'yaml'))}",
        )).replace("/", "_").replace("\0", "")  # fmt: skip
        kept = {n: held for n, held in files.items() if n != name}
        return f"{name} is called {odd!r}", {**kept, f"{folder}{slash}{odd or 'x'}": files[name]}
    obj = rng.choice((
        Special("gone"), b"", Special("folder"), Special("pipe"), Special("link", f"{OUTSIDE}/secret.{ending}"),
        Special("link", f"{OUTSIDE}/secret.txt"), Special("link", name.rpartition("/")[2]), Special("link", "nowhere"),
        Special("link", "/dev/zero"), Special("link", "/dev/tty"), Special("link", "/proc/self/maps"),
        Special("link", OUTSIDE), Special("link", "../" * (name.count("/") + 1) + f"outside/secret.{ending}"),
    ))  # fmt: skip
    return f"{name} is {obj}", {**files, name: obj}


def write_case(case: Case, folder: Path, outside: Path) -> None:
    """Lay it out on the disk."""
    folder.mkdir()
    here = str(outside)
    for name, obj in case.files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(obj, bytes):
                path.write_bytes(obj.replace(OUTSIDE.encode(), here.encode()))
            elif obj.kind == "link":
                path.symlink_to(obj.target.replace(OUTSIDE, here))
            elif obj.kind == "pipe":
                os.mkfifo(path)
            elif obj.kind == "folder":
                path.mkdir()
        except (OSError, ValueError):  # no name on this system, or in the place of another
            continue

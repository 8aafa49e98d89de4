"""The steps of the Dockerfile, without Docker: what they copy is there, what they run works and writes nothing."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE_MB = 130  # python:3.12-slim, unpacked
MOST_MB = 600


class Step(NamedTuple):
    word: str
    rest: str


def steps() -> list[Step]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [Step(*line.split(None, 1)) for line in lines]


def last(word: str) -> str:
    return [step.rest for step in steps() if step.word == word][-1]


def test_the_image_has_no_rights_and_no_surprises() -> None:
    user, _, group = last("USER").partition(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    words = [step.word for step in steps()]
    assert "ADD" not in words  # it fetches and unpacks
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))
    assert not re.search(r"KEY|SECRET|TOKEN|PASSWORD", (ROOT / "Dockerfile").read_text())
    assert "--read-only" in (ROOT / "Dockerfile").read_text()


def test_what_is_copied_is_there_and_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    let_in = [line[1:] for line in lines if line.startswith("!")]
    sources = [one for step in steps() if step.word == "COPY" and "--from" not in step.rest
               for one in step.rest.split()[:-1]]  # fmt: skip
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in), source


def test_the_command_and_the_check_are_ones_that_exist(served) -> None:
    from singleshot.serve.options import ServeOptions

    words = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD"))]
    assert words[:2] == ["singleshot", "serve"]
    done = subprocess.run([sys.executable, "-m", *words[:2], "--help"], capture_output=True, text=True, check=True)
    assert all(word in done.stdout for word in words if word.startswith("--"))
    assert int(last("EXPOSE")) == ServeOptions(("m",)).port == int(words[words.index("--port") + 1])
    check = last("HEALTHCHECK").partition("CMD ")[2]
    assert f":{last('EXPOSE')}/readyz" in check
    assert served().client.get("/readyz").status_code == 200


def in_place(text: str, root: Path) -> str:
    """A step's words with the container's folders under `root`."""
    return re.sub(r"(?<![\w.])/(?=opt/|build\b)", f"{root}/", text)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_steps_make_a_service_that_writes_nothing(exported: Path, tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp("image")
    (root / "build").mkdir()
    root.chmod(0o755)
    root.parent.chmod(0o755)
    for step in steps():
        if step.word == "COPY" and "--from" not in step.rest:
            *sources, target = step.rest.split()
            for source in sources:
                to = root / "build" / (source if target == "./" else target)
                to.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
                else:
                    shutil.copy(ROOT / source, to)
        elif step.word == "RUN":
            command = in_place(step.rest, root).replace("python -m", f"{sys.executable} -m", 1)
            environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
            how = {"env": environment, "capture_output": True, "text": True, "timeout": 800}
            done = subprocess.run(command, shell=True, cwd=root / "build", check=False, **how)
            if "pip" in command and done.returncode and re.search(r"Connection|No matching distribution", done.stderr):
                pytest.skip("no index of packages is reached")
            assert done.returncode == 0, done.stderr
    venv = root / "opt/venv"
    size = sum(path.lstat().st_size for path in venv.rglob("*") if path.is_file()) / 2**20
    assert size + BASE_MB < MOST_MB, size
    shutil.rmtree(root / "build")
    (root / "models").mkdir()
    shutil.copy(exported, root / "models/model.onnx")
    serve_in(root, venv)


def serve_in(root: Path, venv: Path) -> None:
    """Run ENTRYPOINT and CMD there with one folder to write in, and ask for what HEALTHCHECK asks."""
    writable = root / "tmp"
    writable.mkdir()
    writable.chmod(0o777)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    words = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD"))]
    words = [port if word == last("EXPOSE") else word for word in words]
    rights = dict(zip(("user", "group"), map(int, last("USER").split(":")), strict=True)) if may_drop(venv) else {}
    before = {path for path in root.rglob("*") if writable not in path.parents}
    environment = {"PATH": f"{venv}/bin", "TMPDIR": str(writable), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen([f"{venv}/bin/{words[0]}", *words[1:]], cwd=root / "models", env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **rights)  # fmt: skip
    try:
        check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
        check[0], check[2] = f"{venv}/bin/python", check[2].replace(last("EXPOSE"), port)
        end = time.monotonic() + 60
        while subprocess.run(check, capture_output=True, check=False, env=environment).returncode:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.2)
        assert {path for path in root.rglob("*") if writable not in path.parents} == before
    finally:
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert f"http://0.0.0.0:{port}" in out
    assert "no API key is set" in err
    assert not list(writable.iterdir())


def may_drop(venv: Path) -> bool:
    """Whether another user can be taken, and can run this Python at all."""
    python = Path(os.path.realpath(venv / "bin/python"))
    return os.getuid() == 0 and all(path.stat().st_mode & 0o001 for path in (*venv.parents, python, *python.parents))

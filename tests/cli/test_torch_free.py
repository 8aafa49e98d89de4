"""The runtime half: commands in an environment that has OpenVINO, and nothing that only training needs."""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What `pip install singleshot[openvino]` does not bring.
ABSENT = (
    "torch", "torchvision", "jaxtyping", "google", "flatbuffers", "tensorboard", "matplotlib", "jinja2", "markupsafe",
    "aiohttp", "onnx", "onnxscript", "onnxruntime", "nncf", "timm", "beartype", "PIL", "fastapi", "prometheus_client",
)  # fmt: skip
# Words of a command, and what it prints; DATA and MODEL stand for the scenes and the exported file.
WORK = [
    (["eval", "MODEL", "DATA", "--split", "test", "--json"], '"mean_ap"'),
    (["eval", "MODEL", "DATA", "--split", "test", "--metric", "coco"], "AP50"),
    (["detect", "MODEL", "DATA/JPEGImages", "--json", "--limit", "2"], '"complete": true'),
    (["data", "check", "DATA"], "64 images"),
    (["data", "info", "DATA"], "A prior matches"),
    (["data", "fetch", "--list"], "licence"),
    (["priors", "show"], "ssd300-vgg16"),
    (["priors", "fit", "DATA", "--split", "val"], "matched before"),
    (["priors", "show", "ssd300-voc"], "42.4x21.2"),
    (["import", "--list"], "amdegroot"),
    (["bench", "MODEL", "--rounds", "1", "--batch", "1", "--precisions", "float32", "--json"], '"openvino float32"'),
]
REFUSED = [
    (["train", "DATA"], "train"),
    (["train", "--resume", "--out", "run"], "train"),
    (["demo"], "train"),
    (["export", "best.safetensors"], "train,export"),
    (["import", "foreign.pth"], "train"),
    (["eval", "best.safetensors", "DATA"], "train"),
    (["detect", "best.safetensors", "DATA/JPEGImages"], "train"),
    (["bench", "best.safetensors"], "train"),
    (["explain", "MODEL", "photo.jpg"], "train"),
    (["serve", "MODEL"], "serve"),
    (["eval", "MODEL", "DATA", "--split", "test", "--out", "report"], "report"),
    (["eval", "MODEL", "DATA", "--split", "test", "--errors", "errors"], "report"),
    (["report", "run"], "report"),
    (["data", "info", "DATA", "--out", "info.png"], "report"),
    (["priors", "fit", "DATA", "--out", "priors.json"], "report"),
]


def filled(words: list[str], exported: Path, scenes: Path) -> list[str]:
    return [word.replace("MODEL", str(exported)).replace("DATA", str(scenes)) for word in words]


@pytest.fixture(scope="module")
def blocked(run_without) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command where nothing of the training half is installed."""
    return run_without(*ABSENT)


@pytest.mark.parametrize(("words", "says"), WORK, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_works_without_torch(
    words: list[str], says: str, exported: Path, scenes: Path, blocked, tmp_path: Path
) -> None:
    done = blocked(*filled(words, exported, scenes), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


@pytest.mark.parametrize(("words", "extra"), REFUSED, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_names_the_extra_in_one_line(
    words: list[str], extra: str, exported: Path, scenes: Path, blocked, tmp_path: Path
) -> None:
    done = blocked(*filled(words, exported, scenes), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("singleshot: ")
    assert f"pip install 'singleshot[{extra}]'" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_in_an_environment_of_its_own(exported: Path, scenes: Path, tmp_path_factory) -> None:
    """What pip installs is enough, and no more than what is said is missing."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{ROOT}[openvino]"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if made.returncode:
        pytest.skip("no index of packages is reached")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(words: list[str]) -> subprocess.CompletedProcess[str]:
        call = [python, "-m", "singleshot", *filled(words, exported, scenes)]
        return subprocess.run(
            call, capture_output=True, text=True, cwd=place, env=environment, timeout=200, check=False
        )

    for words, says in WORK:
        done = run(words)
        assert done.returncode == 0, (words, done.stderr)
        assert says in done.stdout
    for words, extra in REFUSED:
        done = run(words)
        assert done.returncode == 2, (words, done.stderr)
        assert f"pip install 'singleshot[{extra}]'" in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr

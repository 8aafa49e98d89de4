"""Commands as a user starts them, a new Python each time, and what all of them have."""

from __future__ import annotations

import subprocess
import sys

import pytest


def start(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "singleshot", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize(
    "command", ["train", "eval", "detect", "export", "import", "bench", "demo", "data check", "priors show"]
)
def test_help_has_an_example(command, run):
    help_with_an_example(command, run(*command.split(), "--help"))


def test_help_needs_no_process_that_has_everything():
    help_with_an_example("data check", start("data", "check", "--help"))


def help_with_an_example(command: str, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0
    assert f"Example: singleshot {command}" in done.stdout or f"singleshot {command} " in done.stdout
    assert done.stderr == ""


def test_a_mistake_is_one_line_and_code_2():
    done = start("data", "check", "/no/such/folder")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_the_version_needs_no_torch():
    done = start("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "singleshot")


def test_only_our_own_log_is_shown():
    """Other packages' notes, such as matplotlib's on its font cache, are no messages of a command. Notes on a data set,
    which is read once for each split, are shown once."""
    code = (
        "import logging, sys\n"
        "from singleshot.cli import main\n"
        "sys.argv = ['singleshot', '--version']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "logging.getLogger('matplotlib.font_manager').info('generated new fontManager')\n"
        "logging.getLogger('singleshot.training').info('ours')\n"
        "for _ in 'ab':\n    logging.getLogger('singleshot.datasets.readers').info('a %s', 'note')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "singleshot: ours\nsingleshot: a note\n")

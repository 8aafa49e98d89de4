"""Fixtures that every test folder uses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

# Deadlines measure the machine, not the code; fixed examples make a red test red again.
settings.register_profile("singleshot", deadline=None, derandomize=True)
settings.load_profile("singleshot")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout with golden vectors, data and weights; tests skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """The vectors computed by public implementations."""
    return shared / "golden"


@pytest.fixture(scope="session")
def golden_inputs(golden: Path) -> ModuleType:
    """The module that regenerates the inputs of the golden vectors."""
    spec = importlib.util.spec_from_file_location("golden_inputs", golden / "golden_inputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

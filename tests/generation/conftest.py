from __future__ import annotations

from pathlib import Path

import pytest

import momafuse
from momafuse.interface import Model
from tests.training.conftest import Train, run, small_corpus

__all__ = ["run", "small_corpus"]


@pytest.fixture(scope="module")
def runs() -> dict[str, Path]:
    return {}


@pytest.fixture
def folder(run: Train, runs: dict[str, Path]) -> Path:
    """A run of mot of a few steps, once."""
    if "mot" not in runs:
        runs["mot"] = run("trainer.max_steps=3", experiment="mot")
    return runs["mot"]


@pytest.fixture
def model(folder: Path) -> Model:
    return momafuse.load(folder, "cpu")

"""momafuse: sparse early-fusion pretraining on one stream of text and image tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from momafuse.interface import Model

__version__ = "0.1.0"


def load(run: str | Path, device: Literal["auto", "cpu", "cuda"] = "auto") -> Model:
    """A trained run (its folder, or one of its checkpoints) to generate with, to score, to look into: interface.py."""
    from momafuse.interface import Model  # torch is imported when a model is wanted, not when the package is

    return Model.load(run, device)

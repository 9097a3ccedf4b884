from __future__ import annotations

from tests.training.conftest import run, small_corpus

__all__ = ["run", "small_corpus"]

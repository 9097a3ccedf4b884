from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_corpus import make_small_corpus
from tests.training.conftest import run, small_corpus

__all__ = ["corpus_without", "run", "small_corpus"]


@pytest.fixture(scope="session")
def corpus_without(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The small corpus without one of its sources, made once."""
    made: dict[str, Path] = {}

    def make(source: str) -> Path:
        if source not in made:
            with pytest.MonkeyPatch.context() as patch:
                folder = tmp_path_factory.mktemp("corpus") / f"without_{source}"
                made[source] = make_small_corpus(folder, patch, f"~data.sources.{source}")
        return made[source]

    return make

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from momafuse.config.schema import SourceConfig
from tests.data import corpora


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, SourceConfig]:
    """Forty captioned pictures in two versions each, and sixty texts."""
    corpora.write_pictures(tmp_path / "pictures", 40)
    corpora.write_texts(tmp_path / "texts.jsonl", 60)
    return {
        "pictures": corpora.source("captioned_folder", tmp_path / "pictures", 2),
        "texts": corpora.source("text_files", tmp_path / "texts.jsonl"),
    }


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local files that leave something in the user's cache of `datasets` fail their test."""
    home = tmp_path / "home"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", home)
    yield
    assert not home.exists()

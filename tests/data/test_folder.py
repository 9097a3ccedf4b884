"""data=folder: one folder as people have it becomes a corpus that training finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from momafuse.config.compose import compose_jobs
from momafuse.config.schema import Config
from momafuse.data.prepare import open_or_prepare
from momafuse.prepare import main
from tests.data import corpora


def test_a_folder_as_people_have_it_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Captions beside pictures, a story among them, one picture without anything; the corpus is train's, too."""
    told = corpora.write_pictures(tmp_path / "own", 60)
    (tmp_path / "own" / "metadata.csv").unlink()
    for key, text in list(told.items())[:-1]:
        (tmp_path / "own" / key).with_suffix(".txt").write_text(text)
    (tmp_path / "own" / "story.md").write_text("a bird sees a tree\n" * 5000)
    monkeypatch.chdir(tmp_path)
    image = corpora.write_image_tokenizer(tmp_path / "vq.safetensors")
    words = ["data=folder", "data.path=own", f"tokenizer.image={image}", "~data.sources.glosses"]
    main(words)
    out, err = capsys.readouterr()
    assert "data.sources.pictures: 1 of 60 pictures are left out" in err
    first = out.splitlines()[0]
    assert re.fullmatch(r"corpora/folder-[0-9a-f]{8} is made", first)
    (job,) = compose_jobs(words, "train", Config)
    corpus = open_or_prepare(job.config)
    assert f"{corpus.path} is made" == first
    (job,) = compose_jobs([*words, f"data.path={corpus.path}"], "train", Config)
    assert open_or_prepare(job.config).path == corpus.path
    documents = {s.name: s.documents for s in corpus.train.sources}
    held = {s.name: s.documents for s in corpus.validation.sources}
    assert documents["pictures"] + held["pictures"] == 59
    assert held["texts"] >= 1
    assert sum(s.tokens[0] for s in corpus.validation.sources if s.name == "texts") < 0.025 * len(corpus.train.tokens)

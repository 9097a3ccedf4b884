"""The experiments with speech, from a folder of sounds to the end of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from momafuse.config.compose import SPOKEN, compose
from momafuse.data.prepare import prepare_corpus
from momafuse.train import main as train
from tests.data.corpora import write_image_tokenizer, write_pictures, write_texts
from tests.speech.test_corpus import write_sounds


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, speech_weights: Path) -> list[str]:
    """The command line of a run, its corpus prepared."""
    root = tmp_path_factory.mktemp("spoken")
    write_sounds(root / "sounds", 60, {})
    write_pictures(root / "pictures", 300)
    write_texts(root / "texts.jsonl", 300)
    words = [
        "data=spoken_folder", "size=micro", f"tokenizer.speech={speech_weights}",
        f"tokenizer.image={write_image_tokenizer(root / 'vq.safetensors')}", f"data.path={root / 'corpus'}",
        f"data.sources.spoken.path={root / 'sounds'}", f"data.sources.pictures.path={root / 'pictures'}",
        f"data.sources.texts.path={root / 'texts.jsonl'}", "data.sequence_length=64", "data.image_share=0.0625",
        "data.share.speech=0.25", f"run.root={root / 'runs'}", "logger.wandb=disabled",
        "trainer.micro_batch=4", "trainer.global_batch=4", "trainer.max_steps=2", "trainer.eval_sequences=4",
    ]  # fmt: skip
    prepare_corpus(compose(["+experiment=mot_speech", *words]).config, root / "corpus")
    return words


@pytest.mark.parametrize("experiment", SPOKEN)
def test_a_run_goes_to_its_end(experiment: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    train([f"+experiment={experiment}", f"run.name={experiment}", *words])
    root = Path(compose([f"+experiment={experiment}", *words]).config.run.root)
    report = json.loads((root / experiment / "report.json").read_text())
    for modality in ("text", "image", "speech"):
        assert 0 < report[f"eval/loss_{modality}"] < 20
        assert report[f"unigram/{modality}"] > 0
    assert (root / experiment / "samples" / "reconstruction_speech.png").stat().st_size > 1000
    other = "moma_4t4i2s" if experiment == "dense_speech" else "dense_speech"
    assert f"python -m momafuse.train +experiment={other} " in capsys.readouterr().out

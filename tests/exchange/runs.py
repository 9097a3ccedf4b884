"""Runs of the zoo without training: random weights of micro size, and auxiliary routers where they are needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from momafuse.checkpoint.streaming import Promised, save_promised
from momafuse.config.compose import compose
from momafuse.data.codecs import load_codecs, vocabulary_of
from momafuse.models.initialise import initialise
from momafuse.models.transformer import Transformer
from momafuse.tokens.text import TextTokenizer

STATE = {"step": 3, "tokens": 768, "flops": 1e9}


def make_run(root: Path, experiment: str, *overrides: str, auxiliary: bool = True) -> Path:
    words = [f"+experiment={experiment}", "size=micro", "trainer.precision=fp32", f"run.root={root}", f"run.name={experiment}"]
    job = compose([*words, *overrides])
    config = job.config
    auxiliary = auxiliary and config.needs_auxiliary
    yaml = job.yaml.replace("auxiliary: false", f"auxiliary: {str(auxiliary).lower()}")
    vocabulary = vocabulary_of(TextTokenizer.load(config.tokenizer["text"]), load_codecs(config.tokenizer))
    router = replace(config.router, auxiliary=auxiliary)
    model = Transformer(config.model, router, vocabulary_size=vocabulary.size, modality_names=vocabulary.names)
    initialise(model, 0)
    tensors = {path: Promised(tuple(x.shape), x.dtype, lambda x=x: x) for path, x in model.state_dict().items()}
    folder = root / experiment
    save_promised(folder / "checkpoints", tensors, STATE, yaml)
    (folder / "config.yaml").write_text(yaml)
    return folder

"""Tokenizers that train in a second, on pictures of one square, and on voices that are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from momafuse.config.compose import Job, compose_jobs
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.tokenizers.runs import train

SMALL = """tokenizer=starter_vq tokenizer.name=tiny tokenizer.architecture.image_size=16 tokenizer.architecture.codes=32
tokenizer.architecture.code_dim=4 tokenizer.architecture.encoder_channels=[8,32] tokenizer.architecture.encoder_blocks=[1,1]
tokenizer.architecture.decoder_channels=[32,8,8] tokenizer.architecture.decoder_blocks=[1,1,1] tokenizer.max_shift=2
tokenizer.plain_steps=4 tokenizer.weight_ema=0.9 tokenizer.quantizer.code_decay=0.5 tokenizer.quantizer.restart_below=0.5
optim.warmup_steps=2 trainer.max_steps=12
trainer.global_batch=8 trainer.eval_every=0 trainer.precision=fp32 trainer.dry_step=false logger.wandb=disabled
data=picture_folder""".split()
JUDGED = "tokenizer.discriminator={start: 7, weight: 0.5, lr: 1.0e-3, channels: 8, layers: 1}"

Run = Callable[..., Path]


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 pictures of one coloured square on white; every tenth is held out."""
    folder, generator = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for number in range(80):
        pixels = np.full((16, 16, 3), 255, np.uint8)
        y, x = generator.integers(0, 8, 2)
        pixels[y : y + 8, x : x + 8] = generator.integers(0, 200, 3)
        path = folder / ("validation" if number % 10 == 0 else "train") / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def words(squares: Path, out: Path, *more: str) -> list[str]:
    return [*SMALL, f"data.sources.pictures.path={squares}", f"run.root={out}", f"out={out / 'out'}", *more]


def composed(squares: Path, out: Path, *more: str) -> Job[TokenizerTraining]:
    return compose_jobs(words(squares, out, *more), "train_tokenizer", TokenizerTraining)[0]


@pytest.fixture
def run(squares: Path, tmp_path: Path) -> Run:
    """Trains in this process; `name` is the run's and the folder of its weights. Returns the run folder."""

    def run_in_process(name: str, *more: str, said: list[str] | None = None) -> Path:
        job = composed(squares, tmp_path, f"run.name={name}", f"out={tmp_path / f'{name}-out'}", *more)
        train(job, say=(said if said is not None else []).append)
        return tmp_path / name

    return run_in_process

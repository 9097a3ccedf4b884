"""The door: which stage a config of train_tokenizer is, and its run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from momafuse.config.compose import Job
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.speech.config import SpeechVQConfig
from momafuse.tokenizers.pictures import PictureTask
from momafuse.tokenizers.speech import SpeechTask
from momafuse.tokenizers.stage import TokenizerStage
from momafuse.tokenizers.task import Task
from momafuse.training.loop import run
from momafuse.vision.config import VQConfig
from momafuse.world import World


def train(job: Job[TokenizerTraining], say: Callable[[str], None] = print) -> None:
    """Run or go on with `run.root/run.name` until `trainer.max_steps`. Raises UserError for what a user can mend."""
    run(job, made, say)


def made(world: World, config: TokenizerTraining) -> TokenizerStage:
    return TokenizerStage(config, task_of(config, main=world.main), world)


def task_of(config: TokenizerTraining, *, main: bool = True) -> Task[Any]:
    """Reads all items; `main`: of the process that writes lists of what cannot be used."""
    tokenizer = config.tokenizer
    if isinstance(tokenizer, SpeechVQConfig):
        return SpeechTask(tokenizer, config)
    assert isinstance(tokenizer, VQConfig)
    return PictureTask(tokenizer, config, main=main)

"""The door: which stage a config of train_tokenizer is, and its run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from momafuse.config.compose import Job
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.errors import UserError
from momafuse.speech.config import SpeechVQConfig
from momafuse.tokenizers.pictures import PictureTask
from momafuse.tokenizers.speech import SpeechTask
from momafuse.tokenizers.stage import TokenizerStage
from momafuse.tokenizers.task import Task
from momafuse.tokens.config import BPEConfig
from momafuse.training.folder import RunFolder
from momafuse.training.loop import run
from momafuse.vision.config import VQConfig
from momafuse.vq.quantizer import build_quantizer
from momafuse.world import World


def train(job: Job[TokenizerTraining], say: Callable[[str], None] = print) -> None:
    """Run or go on with `run.root/run.name` until `trainer.max_steps`. Raises UserError for what a user can mend."""
    run(job, made, say)


def made(world: World, config: TokenizerTraining, _: RunFolder) -> TokenizerStage:
    """Every rank reads all items. Raises UserError where they find different ones."""
    assert not isinstance(config.tokenizer, BPEConfig)
    build_quantizer(config.tokenizer.architecture, config.tokenizer.quantizer)  # what cannot be is said before all is read
    task = task_of(config)
    if len(set(world.on_all(lambda: task.data))) > 1:
        raise UserError(f"{task.reads}: ranks find different items there; give all of them the same files")
    if task.rejects:
        task.summary += world.on_main(lambda: f"; {len(task.rejects)} cannot be used: {listed(task, config)}")
    return TokenizerStage(config, task, world)


def listed(task: Task[Any], config: TokenizerTraining) -> Path:
    """OUT/NAME_rejects.txt: what cannot be used, each with the reason."""
    path = Path(config.out) / f"{task.config.name}_rejects.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key}\t{reason}\n" for key, reason in task.rejects), "utf-8", "replace")
    return path


def task_of(config: TokenizerTraining) -> Task[Any]:
    """Reads all items."""
    tokenizer = config.tokenizer
    if isinstance(tokenizer, SpeechVQConfig):
        return SpeechTask(tokenizer, config)
    assert isinstance(tokenizer, VQConfig)
    return PictureTask(tokenizer, config)

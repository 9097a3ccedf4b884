"""A forward and a backward before the first step, so that what cannot work fails at once and in one line.

Gradients are dropped; weights, optimizer, data and the random state stay as they were. Also names the remedy where memory
runs out or a compiler is missing, whenever that happens: the optimizer's state is made in the first step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from momafuse.config.schema import Config
from momafuse.errors import UserError
from momafuse.training.stage import Stage

NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "CUDA out of memory")
NO_COMPILER = ("InvalidCxxCompiler", "No working C++ compiler", "CppCompileError")  # inductor's
NO_C_COMPILER = ("Failed to find C compiler",)  # triton's, which starts kernels through a little C


def dry_step(stage: Stage[Any, Any]) -> None:
    """One micro-batch forth and back; all ranks must call it. Raises UserError as `explained` does."""
    gpus = [stage.world.device] if stage.world.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), stage.working():
        stage.rehearse()
    for optimizer in stage.optimizers:
        optimizer.zero_grad(set_to_none=True)


@contextmanager
def explained(stage: Stage[Any, Any]) -> Iterator[None]:
    """Turns a lack of memory, or of a compiler, into a UserError that names the keys."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # OutOfMemoryError is a RuntimeError
        chain = list(_chain(error))
        texts = [f"{type(e).__name__}: {e}" for e in chain]
        if any(isinstance(e, torch.OutOfMemoryError | MemoryError) for e in chain) or _found(NO_MEMORY, texts):
            raise UserError(out_of_memory(stage, str(chain[-1]))) from error
        if isinstance(stage.config, Config):
            _compilers(stage.config, texts, error)
        raise


def _compilers(config: Config, texts: list[str], error: Exception) -> None:
    """Raises UserError where one is missing."""
    if config.trainer.compile and _found(NO_COMPILER, texts):
        asked = str(config.trainer.compile).lower()
        problem = f"trainer.compile={asked}: torch.compile finds no C++ compiler that works"
        raise UserError(f"{problem}; install one, name it in CXX, or write false") from error
    if _found(NO_C_COMPILER, texts):
        problem = f"trainer.backend={config.trainer.backend}: the kernels of a GPU need a C compiler, and Triton finds none"
        raise UserError(f"{problem}; install one (gcc), or name it in CC") from error


def out_of_memory(stage: Stage[Any, Any], said: str) -> str:
    """One line: what did not fit, and what would make it smaller."""
    rows, remedies = stage.smaller()
    world = stage.world
    smaller = "a smaller size=..." if isinstance(stage.config, Config) else "smaller networks (tokenizer.architecture)"
    remedies = remedies or ["more ranks (torchrun)" if world.device.type == "cuda" else smaller]
    sizes = f"{stage.size() / 1e6:.1f}M parameters on {world.size} ranks, {rows}"
    first = said.strip().partition("\n")[0].partition("] ")
    detail = (first[2] or first[0])[:200].rstrip(". ")
    micro_batch = stage.config.trainer.micro_batch
    return f"trainer.micro_batch={micro_batch}: out of memory with {sizes} ({detail}); try {' or '.join(remedies)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _found(words: tuple[str, ...], texts: list[str]) -> bool:
    return any(word in text for word in words for text in texts)

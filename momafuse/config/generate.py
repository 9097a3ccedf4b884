"""What `python -m momafuse.generate` reads: a run, prompts, what to make of them, and how to choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from momafuse.errors import UserError


@dataclass(frozen=True)
class GenerateConfig:
    run: str  # a run folder or one of its checkpoints
    prompt: str | None
    prompts: str | None  # a file, one prompt a line
    make: str  # text, a modality of the run (one item of it), mixed
    samples: int  # of each prompt
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    guidance: float
    seed: int
    max_tokens: int | None  # None: as many as a sequence takes
    batch: int  # sequences at a time
    out: str | None  # folder; None: RUN/generated
    device: Literal["auto", "cpu", "cuda"]
    plugins: list[str]


def check(c: GenerateConfig) -> None:
    """Raises UserError."""
    if (c.prompt is None) == (c.prompts is None):
        raise UserError("prompt=... or prompts=FILE: give one of them, e.g. prompt='a red apple:'")
    wrong = {
        "samples": c.samples < 1 and "1 or more",
        "temperature": c.temperature < 0 and "0 or more",
        "top_k": c.top_k < 0 and "0 (cuts nothing) or more",
        "top_p": not 0 < c.top_p <= 1 and "above 0, at most 1",
        "min_p": not 0 <= c.min_p < 1 and "0 or more, below 1",
        "max_tokens": c.max_tokens is not None and c.max_tokens < 1 and "1 or more",
        "batch": c.batch < 1 and "1 or more",
    }
    for key, right in wrong.items():
        if right:
            raise UserError(f"{key}={getattr(c, key)}: must be {right}")

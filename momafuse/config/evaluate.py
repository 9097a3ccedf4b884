"""What `python -m momafuse.evaluate` reads: a run, who chooses rows, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from momafuse.config.schema import LoggerConfig


@dataclass(frozen=True)
class EvaluationData:
    path: str | None  # a prepared corpus; None: the run's


@dataclass(frozen=True)
class EvaluateConfig:
    run: str  # a run folder or one of its checkpoints
    routing: Literal["training", "causal", "both"]
    data: EvaluationData
    sequences: int | None  # held-out sequences; None: the run's trainer.eval_sequences
    device: Literal["auto", "cpu", "cuda"]
    logger: LoggerConfig
    plugins: list[str]

"""What `python -m momafuse.train_tokenizer` reads: one tokenizer and how it is trained, on what, and where the result goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from momafuse.config.schema import RunnableConfig, ScheduleConfig, SourceConfig
from momafuse.speech.config import SpeechVQConfig
from momafuse.tokens.config import BPEConfig
from momafuse.vision.config import VQConfig


@dataclass(frozen=True)
class TokenizerOptim(ScheduleConfig):
    """`lr` is that of Adam (biases, narrow kernels, codes); all rates follow one schedule."""

    muon_lr: float  # of Muon: all other kernels
    weight_decay: float  # of Muon's kernels, times muon_lr


@dataclass(frozen=True)
class Sources:
    """Of a file of the group `data`, the sources alone: a tokenizer is trained on items, not on sequences. A source's `weight`
    is how often its items are taken, beside those of the others; `variants` play no part."""

    unused: ClassVar[tuple[str, ...]] = (
        "path",
        "stages",
        "sequence_length",
        "image_share",
        "share",
        "window",
        "max_rejects",
        "duplicates",
    )

    name: str
    sources: dict[str, SourceConfig]


@dataclass(frozen=True)
class TokenizerTraining(RunnableConfig):
    """`tokenizer` is a file of the group of that name; which of the classes it is follows from its keys. Text (BPE) reads
    `tokenizer`, `data` and `out` alone."""

    optim: TokenizerOptim
    data: Sources
    tokenizer: VQConfig | SpeechVQConfig | BPEConfig
    out: str  # folder of the weights, the report and the sheet

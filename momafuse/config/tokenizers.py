"""What `python -m momafuse.train_tokenizer` reads: one tokenizer and how it is trained, and where the result goes."""

from __future__ import annotations

from dataclasses import dataclass

from momafuse.speech.config import SpeechVQConfig
from momafuse.tokens.config import BPEConfig
from momafuse.vision.config import VQConfig


@dataclass(frozen=True)
class TokenizerTraining:
    """`tokenizer` is a file of the group of that name; which of the classes it is follows from its keys."""

    tokenizer: VQConfig | SpeechVQConfig | BPEConfig
    out: str  # folder of the weights, the report and the sheet

"""What `python -m momafuse.import_` and `momafuse.export` read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from momafuse.config.broken import fail


@dataclass(frozen=True)
class ImportConfig:
    from_: str  # the folder of a foreign model
    name: str | None  # of the run; None: the folder's
    root: str
    seed: int  # of rows that the model has none of
    text_tokenizer: str | None  # a tokenizer.json; None: that of the folder
    image_tokenizer: str | None  # None: that of the checkpoint, or the shipped one for a text model


@dataclass(frozen=True)
class ExportConfig:
    run: str  # a run folder or one of its checkpoints
    to: str  # a folder that is not there yet
    format: Literal["auto", "chameleon", "momafuse"]
    text_only: bool
    dtype: Literal["stored", "fp32", "bf16", "fp16"]
    shard_gb: float  # of one file, and of memory, at most; 10^9 bytes


def check_export(c: ExportConfig) -> None:
    """Raises UserError."""
    if c.shard_gb <= 0:
        fail("shard_gb", c.shard_gb, "must be above 0")
    if c.text_only and c.format == "chameleon":
        fail("text_only", c.text_only, "a Chameleon is one of text and images; write format=momafuse")

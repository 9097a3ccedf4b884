"""What `python -m momafuse.import_` and `momafuse.export` read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from momafuse.config.broken import fail
from momafuse.config.validate import NAME, folder


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


def check_import(c: ImportConfig) -> None:
    """Raises UserError."""
    if c.name is not None and not re.fullmatch(NAME, c.name):
        fail("name", c.name, "must be fit for a folder: 1 to 200 characters, no slash, not starting with . or -")
    folder("root", c.root)
    if c.seed < 0:
        fail("seed", c.seed, "must not be negative")


def check_export(c: ExportConfig) -> None:
    """Raises UserError."""
    if c.shard_gb <= 0:
        fail("shard_gb", c.shard_gb, "must be above 0")
    if c.text_only and c.format == "chameleon":
        fail("text_only", c.text_only, "a Chameleon is one of text and images; write format=momafuse")
    refuse_existing(c)
    folder("to", str(Path(c.to).expanduser().parent))


def refuse_existing(c: ExportConfig) -> None:
    """Raises UserError where the folder is there: hours may lie between the checks and its writing."""
    if Path(c.to).expanduser().exists():
        fail("to", c.to, "is there already; name a folder that is not")

"""What `python -m momafuse.prepare` reads: all that train reads, so that both find the same corpus, and what to show of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from momafuse.config.schema import Config


@dataclass(frozen=True)
class PrepareConfig(Config):
    writes_run: ClassVar[bool] = False

    show: Literal["none", "plan", "sample"]  # plan: what a run takes of each source; sample: a page of its sequences

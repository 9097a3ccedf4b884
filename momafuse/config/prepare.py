"""What `python -m momafuse.prepare` reads: all that train reads, so that both find the same corpus, how the work is shared
out, and what to show of the result."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from momafuse.config.schema import Config
from momafuse.errors import UserError


@dataclass(frozen=True)
class Preparation:
    workers: int | None  # processes; None: one a core
    shard: str | None  # NUMBER/COUNT: this machine's share of the work; None: all of it

    @property
    def share(self) -> tuple[int, int]:
        """Number, from 0, and count of the shares. Raises UserError for what is no share."""
        if self.shard is None:
            return 0, 1
        found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", self.shard)
        if not found or int(found[1]) > int(found[2]):
            raise UserError(f"prepare.shard={self.shard}: no such share; write e.g. prepare.shard=3/16 for the third of 16")
        return int(found[1]) - 1, int(found[2])


ALONE = Preparation(workers=None, shard=None)


@dataclass(frozen=True)
class PrepareConfig(Config):
    writes_run: ClassVar[bool] = False

    show: Literal["none", "plan", "sample"]  # plan: what a run takes of each source; sample: a page of its sequences
    prepare: Preparation


def check_preparation(config: PrepareConfig) -> None:
    """Raises UserError for what cannot be."""
    if config.prepare.workers is not None and config.prepare.workers < 1:
        raise UserError(f"prepare.workers={config.prepare.workers}: must be at least 1, or null for one a core")
    _ = config.prepare.share

"""What `python -m momafuse.compare` reads: runs, which of them is the baseline, and where to write."""

from __future__ import annotations

from dataclasses import dataclass

from momafuse.config.schema import LoggerConfig


@dataclass(frozen=True)
class CompareConfig:
    runs: list[str]  # run folders, those of their auxiliary routers, folders of such
    baseline: str  # the name or path of one of them, or a model's name: all its sizes
    incomplete: bool  # True: runs that are not at their end are marked; False: refused
    out: str | None  # a folder; None: comparison/ROWS-against-BASELINE beside the baseline
    logger: LoggerConfig

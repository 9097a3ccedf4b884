"""What `python -m momafuse.describe` reads: all that train reads, so that it describes what train would run, on how many GPUs
of which kind, and a format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from momafuse.config.schema import Config


@dataclass(frozen=True)
class Nodes:
    nodes: int | None  # None: no plan for many GPUs
    gpus_per_node: int


@dataclass(frozen=True)
class Hardware:
    gpu: str | None  # a name of reports/gpus.py; None: no seconds
    efficiency: float  # share of its peak that products reach where nothing is waited for


@dataclass(frozen=True)
class DescribeConfig(Config):
    writes_run: ClassVar[bool] = False

    format: Literal["table", "json"]
    launch: Nodes
    describe: Hardware

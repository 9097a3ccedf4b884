"""What `python -m momafuse.describe` reads: all that train reads, so that it describes what train would run, and a format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from momafuse.config.schema import Config


@dataclass(frozen=True)
class DescribeConfig(Config):
    writes_run: ClassVar[bool] = False

    format: Literal["table", "json"]

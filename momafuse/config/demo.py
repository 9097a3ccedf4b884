"""What `python -m momafuse.demo` reads: a run, and where its page is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from momafuse.errors import UserError


@dataclass(frozen=True)
class DemoConfig:
    run: str  # a run folder or one of its checkpoints
    host: str  # the address that the server listens on; 127.0.0.1: this machine alone
    port: int
    device: Literal["auto", "cpu", "cuda"]
    plugins: list[str]


def check(c: DemoConfig) -> None:
    """Raises UserError."""
    if not 0 < c.port < 65536:
        raise UserError(f"port={c.port}: must be 1 to 65535")

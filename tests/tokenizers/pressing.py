"""A plugin that presses Ctrl-C when step PRESS of a tokenizer has been made, of the environment."""

from __future__ import annotations

import os
from typing import Any

from momafuse.tokenizers.stage import TokenizerStage
from tests.launch.phases import warn

real = TokenizerStage.count


def count(self: TokenizerStage, state: dict[str, Any], step: int) -> None:
    real(self, state, step)
    if str(step) == os.environ.get("PRESS"):
        warn("SIGINT")


TokenizerStage.count = count  # type: ignore[method-assign]

"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(step: int, *, peak: float, end: float, warmup: int, total: int, shape: Literal["linear", "cosine"]) -> float:
    """The rate of optimizer step `step` (the first is 1): linear warm-up to `peak`, then down to `end` at `total`, then flat.

    linear: MoMa's schedule (arXiv 2407.21770, Table 5); cosine: half a period.
    """
    if step <= warmup:
        return peak * step / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    fall = done if shape == "linear" else 0.5 * (1 - math.cos(math.pi * done))
    return peak + (end - peak) * fall

"""How fast a run is: the `perf/*` values of a step's row, of the main process where they are of one.

tokens_per_second, tokens_per_second_per_device    or whatever the stage counts
mfu               FLOPs of the step (active ones, reports/flops.py; nothing recomputed) / seconds / peak of all devices;
                  only where products are in bf16 and the GPU is known (reports/gpus.py)
data_wait         seconds waited for data, by the rank that waited longest (data_wait.py)
checkpoint_wait   seconds that the run has waited for saves since the row before
memory_peak_gb    10^9 bytes: of a GPU's allocator, on a CPU of the process, since the start
straggler         with many ranks: how much longer than the mean the slowest one worked before it met the others
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from typing import Any

import torch

from momafuse.checkpoint.saving import Saver
from momafuse.reports.gpus import peak_flops
from momafuse.training.stage import Stage

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of getrusage


class Speed:
    def __init__(self, stage: Stage[Any, Any], saver: Saver) -> None:
        self._stage, self._world, self._saver, self._waited = stage, stage.world, saver, saver.waited
        self._peak: float | None = None
        if stage.world.device.type == "cuda" and stage.dtype == torch.bfloat16:
            self._peak = peak_flops(torch.cuda.get_device_name(stage.world.device))

    def row(self, step: int, seconds: float, waited: float, worked: Sequence[float]) -> dict[str, float]:
        """Of a step of `seconds`; `waited` for data at most; `worked`: what each rank took before it met the others."""
        speed, name = self._stage.of_step() / seconds, f"{self._stage.unit}_per_second"
        row = {name: speed, f"{name}_per_device": speed / self._world.size, "data_wait": waited}
        row |= {} if self._peak is None else {"mfu": self._stage.flops(step) / (seconds * self._peak * self._world.size)}
        row["checkpoint_wait"], self._waited = self._saver.waited - self._waited, self._saver.waited
        row["memory_peak_gb"] = self._memory_peak() / 1e9
        row |= {"straggler": straggler(worked)} if self._world.mesh is not None else {}
        return {f"perf/{name}": value for name, value in row.items()}

    def _memory_peak(self) -> int:
        if self._world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._world.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def straggler(seconds: Sequence[float]) -> float:
    """How much longer than the mean the slowest rank worked before it met the others."""
    return max(seconds) * len(seconds) / sum(seconds) - 1

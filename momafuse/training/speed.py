"""How fast a run is: the `perf/*` values of a step's row, of the main process where they are of one.

tokens_per_second, tokens_per_second_per_device
mfu               FLOPs of the model (active ones, reports/flops.py; nothing recomputed) / seconds / peak of all devices;
                  only where products are in bf16 and the GPU is known (reports/gpus.py)
data_wait         seconds waited for data
checkpoint_wait   seconds that the run has waited for saves since the row before
memory_peak_gb    10^9 bytes: of a GPU's allocator, on a CPU of the process, since the start
straggler         with many ranks: how much longer than the mean the slowest one worked before it met the others
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import torch

from momafuse.checkpoint.saving import Saver
from momafuse.config.schema import Config
from momafuse.reports.flops import TRAINING, forward_flops
from momafuse.reports.gpus import peak_flops
from momafuse.reports.work import model_work
from momafuse.training.setup import Setup

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of getrusage


class Speed:
    def __init__(self, config: Config, setup: Setup, saver: Saver) -> None:
        self._world, self._saver, self._waited = setup.world, saver, saver.waited
        self.tokens = config.trainer.global_batch * config.data.sequence_length  # of a step
        peak = None
        if setup.world.device.type == "cuda" and setup.dtype == torch.bfloat16:
            peak = peak_flops(torch.cuda.get_device_name(setup.world.device))
        work = model_work(config.model, config.router, setup.model.modality_names, setup.plan.budget)
        flops = TRAINING * sum(forward_flops(config.model, work, setup.model.head.weight.shape[0]).values())
        self._mfu = None if peak is None else flops / (peak * setup.world.size)  # of one token a second

    def row(self, seconds: float, waited: float, worked: Sequence[float]) -> dict[str, float]:
        """Of a step of `seconds`; `waited` for data; `worked`: what each rank took before it met the others."""
        speed = self.tokens / seconds
        row = {"tokens_per_second": speed, "tokens_per_second_per_device": speed / self._world.size, "data_wait": waited}
        row |= {} if self._mfu is None else {"mfu": speed * self._mfu}
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
